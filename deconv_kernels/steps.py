"""What a network is made of: every step knows how to run forward and how to send windows of signal backwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .constants import Expression, Weights
from .ops import Backprojection, max_pool2d, max_unpool2d_window, send_back
from .rules import UnsupportedModule
from .windows import Shape, Window, Windows, as_map

Pair = tuple[int, int]
Kept = Tensor | tuple[Tensor, ...] | None
Function = Callable[..., Tensor] | Expression
RULES = ("deconvnet", "guided", "gradient")
KERNELS = ("auto", "sparse", "dense")


@dataclass(frozen=True)
class Options:
    """What the user chose for the way back.

    Attributes:
        overlap: "sum" or "last", for overlapping pooling windows.
        kernel: "sparse", "dense" or "auto", for convolutions.
    """

    overlap: str = "sum"
    kernel: str = "auto"


class Step:
    """One operation of a network between one map and the next; the signal passes unchanged unless it says otherwise.

    A step that reads one map defines `forward`, `reach` and `backward`. Those that read several define `run`, `reaches`
    and `send` (in joins.py), which is what the engine calls.

    What a step needs of the network's tensors it is given as expressions. It can be run when it is `bound`: then these
    have become tensors, numbers and functions.

    Attributes:
        name: the name of the layer, for its users.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._last: tuple[dict[str, Any], Step] | None = None

    def bound(self, weights: Weights) -> Step:
        """The step with the tensors of one moment; the same object again as long as these are the same."""
        held = {name: value for name, value in vars(self).items() if isinstance(value, Expression)}
        if not held:
            return self
        found = {name: expression.bound(weights) for name, expression in held.items()}
        last = self._last
        if last is None or any(found[name] is not value for name, value in last[0].items()):
            step = copy.copy(self)
            vars(step).update(found, _last=None)
            self._last = last = found, step
        return last[1]

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        """Runs the step as the module does in eval mode.

        Args:
            inputs: each (N, ...).
            owned: whether the first may be overwritten.

        Returns:
            The output, and what the way back needs of this batch (first dimension N) or None.
        """
        return self.forward(inputs[0], owned)

    def reaches(self, window: Window, shapes: Sequence[Sequence[int]]) -> tuple[Window | None, ...]:
        """The windows on the inputs, of these shapes for one image, of a window on the output.

        None stands for an input to which no signal goes.
        """
        return (self.reach(window, as_map(shapes[0])),)

    def send(
        self,
        windows: Windows,
        kept: Kept,
        below: Sequence[Window | None],
        shapes: Sequence[Sequence[int]],
        options: Options,
    ) -> Sequence[Windows | None]:
        """Sends windows on the output back to the inputs.

        Args:
            windows: the signal on the output; may be overwritten.
            kept: what `run` returned beside the output, of all images.
            below: `reaches` of the windows.
            shapes: of the inputs, for one image.
            options: of this projection.
        """
        assert below[0] is not None and not isinstance(kept, tuple)
        return (self.backward(windows, kept, below[0], options),)

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        """`run` of the only input."""
        raise NotImplementedError

    def reach(self, window: Window, shape: Shape) -> Window:
        """The window on the input, of shape (C, H, W), of a window on the output."""
        return window

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        """`send` to the only input."""
        return windows


def require_maps(name: str, x: Tensor) -> Tensor:
    """The same, if it is (N, C, H, W).

    Raises:
        ValueError: it is not.
    """
    if x.dim() != 4:
        raise ValueError(f"{name} needs maps (N, C, H, W), got {tuple(x.shape)}")
    return x


class Identity(Step):
    """Dropout and the like: nothing, in eval mode."""

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return x, None


class Rectifier(Step):
    """relu, or relu with a ceiling (ReLU6), in any spelling.

    Backwards, with the signal g of its output: "deconvnet" relu(g), "guided" relu(g) where the output was positive,
    "gradient" g where the input was positive and below the ceiling.
    """

    def __init__(self, name: str, rule: str, ceiling: float = math.inf) -> None:
        super().__init__(name)
        self.rule, self.ceiling = rule, ceiling

    @property
    def fuses(self) -> bool:
        """Whether a max pool above can do the rectifying, because nothing has to be kept of it."""
        return self.rule == "deconvnet" and self.ceiling == math.inf

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        gate = None
        if self.rule != "deconvnet":
            gate = x > 0
            if self.rule == "gradient" and self.ceiling < math.inf:
                gate &= x < self.ceiling
            gate = _maps(gate)
        if self.ceiling < math.inf:
            return (F.hardtanh_ if owned else F.hardtanh)(x, 0.0, self.ceiling), gate
        return (torch.relu_ if owned else torch.relu)(x), gate

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        if self.rule != "gradient":
            windows = windows.rectified()
        if kept is not None:
            windows = windows.settled()
            windows.values.mul_(windows.crop(kept))
        return windows


class MaxPool(Step):
    """Max-pooling; backwards unpooling by the recorded switches, left to the step below to do with its own work."""

    def __init__(self, name: str, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> None:
        super().__init__(name)
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor, owned: bool, relu: bool = False) -> tuple[Tensor, Tensor | None]:
        values, switches = max_pool2d(
            require_maps(self.name, x), self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, relu=relu
        )
        # The way back reads all channels of a position together.
        return values, switches.contiguous(memory_format=torch.channels_last)

    def slid(self, window: Window, shape: Shape) -> Window:
        """The window on the input, of shape (C, H, W), wherever it reaches; padding included."""
        axes = [
            axis.slid(shape[i + 1], self.kernel[i], self.stride[i], self.padding[i], self.dilation[i])
            for i, axis in enumerate(window.axes)
        ]
        return Window(shape[0], axes[0], axes[1])

    def reach(self, window: Window, shape: Shape) -> Window:
        slid = self.slid(window, shape)
        return Window(shape[0], slid.y.clipped(), slid.x.clipped())

    def _neighbours(self, window: Window) -> Pair:
        """How many pooling windows below and beside a window overlap it; where the last one wins, their zeros can."""
        rows, columns = (
            0 if axis.is_full else self.dilation[i] * (self.kernel[i] - 1) // self.stride[i]
            for i, axis in enumerate(window.axes)
        )
        return rows, columns

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        assert kept is not None
        values, source = windows.dense(), windows.window
        rows, columns = self._neighbours(source) if options.overlap == "last" else (0, 0)
        if rows or columns:
            values = F.pad(values, (columns, columns, 0, rows))
            y, x = source.axes
            y = replace(y, size=y.size + rows)
            x = replace(x, size=x.size + 2 * columns, offset=x.offset - columns)
            source = Window(source.channels, y, x)
        pooled = PooledSignal(self, source, kept, options.overlap)
        return Windows(values, below, windows.positions, nonnegative=windows.nonnegative, unpooling=pooled)


@dataclass(frozen=True)
class PooledSignal:
    """An unpooling that has not been done yet.

    Attributes:
        pool: the pooling.
        window: the geometry of the values before it.
        switches: of all images.
        overlap: "sum" or "last".
    """

    pool: MaxPool
    window: Window
    switches: Tensor
    overlap: str

    def unpooled(self, windows: Windows) -> Tensor:
        """The values of `windows` unpooled, and rectified if they are to be."""
        pool, below = self.pool, windows.window
        values, _ = max_unpool2d_window(
            windows.values,
            self.switches,
            windows.positions.image,
            windows.positions.origins(self.window),
            pool.kernel,
            pool.stride,
            pool.padding,
            pool.dilation,
            overlap=self.overlap,
            relu=windows.rectify,
        )
        reached = pool.slid(self.window, (below.channels, below.y.length, below.x.length))
        return windows.move(values, reached, below).values


class Activation(Step):
    """An activation function that works on every value alone, treated as a rectifier.

    Backwards, with the signal g of its output: "deconvnet" relu(g), "guided" relu(g) where the output was positive,
    "gradient" its derivative times g.

    Args:
        function: maps a tensor to one of the same shape.
        rule: one of these.
    """

    function: Callable[[Tensor], Tensor]

    def __init__(self, name: str, function: Function, rule: str) -> None:
        super().__init__(name)
        self.function, self.rule = function, rule  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        y = self.function(x)
        if self.rule == "deconvnet":
            return y, None
        if self.rule == "guided":
            return y, _maps(y > 0)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (derivative,) = torch.autograd.grad(self.function(leaf).sum(), leaf)
        return y, _maps(derivative)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        if self.rule != "gradient":
            windows = windows.rectified()
        if kept is not None:
            windows = windows.settled()
            windows.values.mul_(windows.crop(kept))
            windows.nonnegative = windows.nonnegative and self.rule != "gradient"
        return windows


def _maps(x: Tensor) -> Tensor:
    """(N, ...) as (N, C, H, W), in the way `as_map` counts."""
    return x if x.dim() == 4 else x.reshape(len(x), -1, 1, 1)


class Shift(Step):
    """Something constant is added; backwards the identity.

    Args:
        function: maps a tensor to one of the same shape.
    """

    function: Callable[[Tensor], Tensor]

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name)
        self.function = function  # type: ignore[assignment]
        self._apart = False

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        if not self._apart:
            of_one = self.function(x[:1])
            if len(of_one) != 1:
                raise UnsupportedModule(
                    f"{self.name} makes {tuple(of_one.shape)} of {tuple(x[:1].shape)}: its constant is one for each "
                    "image of a batch of one size, for which there is no exact backward rule"
                )
            self._apart = True
        y = self.function(x)
        if y.shape != x.shape:
            raise ValueError(f"{self.name} makes {tuple(y.shape)} of {tuple(x.shape)}; it must keep the shape")
        return y, None


class Scale(Shift):
    """Something constant is multiplied by; backwards too.

    Args:
        function: multiplies a tensor by the factor, or divides by its inverse, and keeps its shape.
        factor: a number, or what can be broadcast to the maps; a function of the maps, if it depends on their shape.
        inverse: divide by the factor.
    """

    def __init__(self, name: str, function: Function, factor: Expression | float, inverse: bool = False) -> None:
        super().__init__(name, function)
        self.factor: Any = factor
        self.inverse = inverse

    def send(
        self,
        windows: Windows,
        kept: Kept,
        below: Sequence[Window | None],
        shapes: Sequence[Sequence[int]],
        options: Options,
    ) -> Sequence[Windows | None]:
        factor = self.factor
        if callable(factor):
            factor = factor(windows.values.new_zeros(()).expand(1, *shapes[0]))
        factor = 1 / factor if self.inverse else factor
        if isinstance(factor, Tensor):
            factor = _maps(factor.detach().broadcast_to((1, *shapes[0])))
        return (windows.scaled(factor),)


class AveragePool(Step):
    """Average pooling; backwards every value is spread over its pooling window in equal parts."""

    def __init__(
        self,
        name: str,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> None:
        super().__init__(name)
        self.kernel, self.stride, self.padding, self.ceil_mode = kernel, stride, padding, ceil_mode
        self.count_include_pad, self.divisor = count_include_pad, divisor

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        window = (self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor)
        return F.avg_pool2d(require_maps(self.name, x), *window), None

    def slid(self, window: Window, shape: Shape) -> Window:
        """The window on the input, of shape (C, H, W), wherever it reaches; padding included."""
        axes = [
            axis.slid(shape[i + 1], self.kernel[i], self.stride[i], self.padding[i], 1)
            for i, axis in enumerate(window.axes)
        ]
        return Window(shape[0], axes[0], axes[1])

    def reach(self, window: Window, shape: Shape) -> Window:
        slid = self.slid(window, shape)
        return Window(shape[0], slid.y.clipped(), slid.x.clipped())

    def _shares(self, axis: int, outputs: int, inputs: int) -> list[float]:
        """One over the number of elements along an axis that each output is the mean of."""
        shares = []
        for position in range(outputs):
            first = position * self.stride[axis] - self.padding[axis]
            last = min(first + self.kernel[axis], inputs + self.padding[axis])
            if not self.count_include_pad:
                first, last = max(first, 0), min(last, inputs)
            shares.append(1 / (last - first))
        return shares

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        source, nonnegative = windows.window, windows.nonnegative
        share: Tensor | float = 1.0
        if self.divisor is not None:
            share = 1 / self.divisor
        else:
            rows, columns = (
                windows.values.new_tensor(self._shares(number, axis.length, inputs.length))
                for number, (axis, inputs) in enumerate(zip(source.axes, below.axes, strict=True))
            )
            share = (rows[:, None] * columns).expand(1, source.channels, -1, -1)
        values = windows.scaled(share).dense()
        reached = self.slid(source, (below.channels, below.y.length, below.x.length))
        spread = values.new_empty((len(values), reached.channels, *reached.size))
        spread = torch.ops.aten.avg_pool2d_backward(values, spread, self.kernel, self.stride, (0, 0), False, True, 1)
        result = windows.move(spread, reached, below).clear_overhang()
        result.nonnegative = nonnegative
        return result


class BatchNormalization(Step):
    """Batch normalisation with its running statistics: backwards a scale per channel.

    Args:
        mean, variance: running statistics.
        weight, bias: may be None.
        epsilon: added to the variance.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        mean: Expression,
        variance: Expression,
        weight: Expression | None,
        bias: Expression | None,
        epsilon: float,
    ) -> None:
        super().__init__(name)
        self.mean, self.variance, self.weight, self.bias = mean, variance, weight, bias  # type: ignore[assignment]
        self.epsilon = epsilon

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        if x.dim() not in (2, 4):
            raise ValueError(f"{self.name} needs maps (N, C, H, W) or rows (N, F), got {tuple(x.shape)}")
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.epsilon), None

    def scale(self) -> Tensor:
        """What every channel is multiplied by, (C,)."""
        scale = torch.rsqrt(self.variance + self.epsilon)
        return scale if self.weight is None else scale * self.weight

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        scale, windows = self.scale(), windows.settled()
        windows.values.mul_(
            scale[:, None, None] if windows.channel is None else scale[windows.channel][:, None, None, None]
        )
        windows.nonnegative = False
        return windows


class Normalization(Step):
    """Response or contrast normalisation, which mixes no positions.

    Args:
        function: (N, C, H, W) -> (N, C, H, W).
        exact: backwards by its gradient at the recorded input instead of as the identity.
    """

    function: Callable[[Tensor], Tensor]

    def __init__(self, name: str, function: Function, exact: bool) -> None:
        super().__init__(name)
        self.function, self.exact = function, exact  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(x), x if self.exact else None

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        if kept is None:
            return windows
        result = Windows(windows.dense(), below, windows.positions)
        with torch.inference_mode(False), torch.enable_grad():
            x = result.crop(kept).requires_grad_()
            (result.values,) = torch.autograd.grad(self.function(x), x, result.values)
        return result


class Flatten(Step):
    """(N, C, H, W) -> (N, C * H * W). A flat map counts as C * H * W channels of one position.

    Args:
        features: how many there have to be, where the network says so.
    """

    def __init__(self, name: str, features: int | None = None) -> None:
        super().__init__(name)
        self.features = features

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        flat = x.flatten(1)
        if self.features is not None and flat.shape[1] != self.features:
            raise ValueError(
                f"{self.name} makes rows of {self.features}, but its input of shape {tuple(x.shape)} has "
                f"{flat.shape[1]} values an image: use images of the size the network was made for"
            )
        return flat, None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        values = windows.dense().reshape(-1, below.channels, *below.size)
        return Windows(values, below, windows.positions, nonnegative=windows.nonnegative)


class Linear(Step):
    """A fully connected layer over the last dimension; backwards its transposed weight.

    Args:
        weight, bias: (K, F) and (K,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: Expression, bias: Expression | None) -> None:
        super().__init__(name)
        self.weight, self.bias = weight, bias  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight, self.bias
        if x.dim() < 2 or x.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"{self.name} is a linear layer over {weight.shape[1]} features and cannot take {tuple(x.shape)}; "
                "flatten maps first, and use images of the size the network was made for"
            )
        return F.linear(x, weight, bias), None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def send(
        self,
        windows: Windows,
        kept: Kept,
        below: Sequence[Window | None],
        shapes: Sequence[Sequence[int]],
        options: Options,
    ) -> Sequence[Windows | None]:
        if len(shapes[0]) == 1:
            return super().send(windows, kept, below, shapes, options)
        weight = self.weight
        signal = windows.whole().reshape(-1, *shapes[0][:-1], len(weight))
        # A matrix product would not promise the same bits whatever the number of rows.
        values = [unit @ weight for unit in signal] or [signal @ weight]
        window = Window.full(as_map(shapes[0]))
        return (Windows(torch.stack(values).reshape(-1, window.channels, *window.size), window, windows.positions),)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        weight = self.weight
        if windows.channel is not None:
            values = (weight[windows.channel] * windows.settled().values[:, 0, 0])[:, :, None, None]
            return Windows(values, below, windows.positions)
        positions = windows.positions
        if windows.unpooling is not None:
            windows = windows.settled()
        # A matrix product would not promise the same bits whatever the number of rows.
        values = send_back(
            windows.values,
            weight[:, :, None, None],
            positions.image,
            positions.origins(windows.window),
            None,
            None,
            _ONE_POSITION._replace(relu=windows.rectify),
        )
        return Windows(values, below, positions)


_ONE_POSITION = Backprojection(
    (1, 1), (1, 1), (1, 1), "sum", False, (1, 1), (1, 1), 1, (0, 0), (1, 1), (0, 0), (-1, -1)
)
