"""Steps that work on every position alone: rectifiers, activation functions, scales, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModule
from ..expressions import Expression
from ..fields import Window
from ..signal import Windows
from .base import Function, Kept, Options, Step


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
