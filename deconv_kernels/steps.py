"""What a network is made of: every step knows how to run forward and how to send windows of signal backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import Backprojection, max_pool2d, max_unpool2d_window, send_back
from .windows import Shape, Window, Windows

Pair = tuple[int, int]
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
    """One operation of a network between one map and the next. As it stands: the identity.

    Attributes:
        name: the name of the layer, for its users.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        """Runs the step as the module does in eval mode.

        Args:
            x: (N, C, H, W) or (N, F).
            owned: whether `x` may be overwritten.

        Returns:
            The output, and what the way back needs of this batch (first dimension N) or None.
        """
        return x, None

    def reach(self, window: Window, shape: Shape) -> Window:
        """The window on the input, of shape (C, H, W), of a window on the output."""
        return window

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        """Sends windows on the output back to the input.

        Args:
            windows: the signal on the output; may be overwritten.
            kept: what `forward` returned beside the output, of all images.
            below: `reach` of the windows.
            options: of this projection.
        """
        return windows


class Identity(Step):
    """Dropout and the like: nothing, in eval mode."""


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
            gate = gate if gate.dim() == 4 else gate[:, :, None, None]
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
            x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, relu=relu
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


class AveragePool(Step):
    """Average pooling, adaptive or not, backwards on the whole map by its exact adjoint.

    Args:
        function: (N, C, H, W) -> (N, C, PH, PW).
        adjoint: (signal, anything of the input's shape) -> signal on the input.
    """

    def __init__(
        self, name: str, function: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__(name)
        self.function, self.adjoint = function, adjoint

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(x), None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        whole = Window.full((windows.window.channels, windows.window.y.length, windows.window.x.length))
        values = windows.move(windows.dense(), windows.window, whole).values
        shape = (len(values), below.channels, *below.size)
        result = Windows(self.adjoint(values, values.new_empty(shape)), below, windows.positions)
        result.nonnegative = windows.nonnegative
        return result


class AdaptiveAveragePool(AveragePool):
    """Adaptive average pooling; the identity where the map already has the size asked for."""

    def __init__(self, name: str, output_size: tuple[int | None, int | None]) -> None:
        super().__init__(
            name,
            lambda x: F.adaptive_avg_pool2d(x, output_size),
            torch.ops.aten._adaptive_avg_pool2d_backward,
        )

    def reach(self, window: Window, shape: Shape) -> Window:
        return window if (window.y.length, window.x.length) == shape[1:] else Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        return windows if windows.window == below else super().backward(windows, kept, below, options)


class BatchNormalization(Step):
    """Batch normalisation with its running statistics: backwards a scale per channel."""

    def __init__(self, name: str, module: torch.nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(name)
        self.module = module

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        m = self.module
        return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps), None

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        assert self.module.running_var is not None
        scale = torch.rsqrt(self.module.running_var + self.module.eps)
        if self.module.weight is not None:
            scale = scale * self.module.weight
        windows = windows.settled()
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

    def __init__(self, name: str, function: Callable[[Tensor], Tensor], exact: bool) -> None:
        super().__init__(name)
        self.function, self.exact = function, exact

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(x), x if self.exact else None

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        if kept is None:
            return windows
        result = Windows(windows.dense(), below, windows.positions)
        with torch.enable_grad():
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
    """A fully connected layer; backwards its transposed weight."""

    def __init__(self, name: str, parameters: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__(name)
        self.parameters = parameters

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        if x.dim() != 2:
            raise ValueError(f"{self.name} is a linear layer and needs a flat input (N, F), got {tuple(x.shape)}")
        return F.linear(x, *self.parameters()), None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        weight, _ = self.parameters()
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
