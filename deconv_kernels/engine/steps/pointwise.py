"""Steps that work on every position alone: rectifiers, activation functions, scales, normalisation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModule
from ..expressions import Expression
from ..fields import Window
from ..signal import Windows
from .base import Function, FunctionStep, Kept, PlannedStep, Signals, Step, are_maps, batched_maps


class Pointwise(Step):
    """A step that takes every position alone, and all in the same way."""

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if are_maps(rank, *read, made) else None


class Identity(Pointwise):
    """Dropout and the like: nothing, in eval mode."""

    memory = "same"
    keeps_maps = keeps_responses = True

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return inputs[0], ()


class Rectifier(Pointwise):
    """relu, or relu with a ceiling (ReLU6), in any spelling.

    Backwards, with the signal g of its output: "deconvnet" relu(g), "guided" relu(g) where the output was positive,
    "gradient" g where the input was positive and below the ceiling.
    """

    memory = "own"
    rectifies = True

    def __init__(self, name: str, rule: str, ceiling: float = math.inf) -> None:
        super().__init__(name)
        self.rule, self.ceiling = rule, ceiling
        self.waits = rule == "deconvnet"

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        if self.rule == "deconvnet":
            return self.output(inputs, owned), ()
        gate = inputs[0] > 0
        if self.rule == "gradient" and self.ceiling < math.inf:
            gate &= inputs[0] < self.ceiling
        return self.output(inputs, owned), (gate,)

    def output(self, inputs: Sequence[Tensor], owned: bool) -> Tensor:
        if self.ceiling < math.inf:
            return (F.hardtanh_ if owned else F.hardtanh)(inputs[0], 0.0, self.ceiling)
        return (torch.relu_ if owned else torch.relu)(inputs[0])

    def kept_bytes(self, above: Window) -> int:
        return 0 if self.rule == "deconvnet" else above.elements

    def fuses(self, keeps: bool) -> bool:
        return self.ceiling == math.inf and (self.rule == "deconvnet" or not keeps)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        return (_rectified(windows, kept, self.rule, nonnegative=True),)


class Activation(FunctionStep):
    """An activation function that works on every value alone, treated as a rectifier.

    Backwards, with the signal g of its output: "deconvnet" relu(g), "guided" relu(g) where the output was positive,
    "gradient" its derivative times g.

    Args:
        function: maps a tensor to one of the same shape.
        rule: one of these.
    """

    def __init__(self, name: str, function: Function, rule: str) -> None:
        super().__init__(name, function)
        self.rule = rule
        self.waits = rule == "deconvnet"

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        (x,) = inputs
        y = self.function(x)
        if self.rule == "deconvnet":
            return y, ()
        if self.rule == "guided":
            return y, (y > 0,)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (derivative,) = torch.autograd.grad(self.function(leaf).sum(), leaf)
        return y, (derivative,)

    def output(self, inputs: Sequence[Tensor], owned: bool) -> Tensor:
        return self.function(*inputs)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        return (_rectified(windows, kept, self.rule, nonnegative=self.rule != "gradient"),)


def _rectified(windows: Windows, kept: Kept, rule: str, nonnegative: bool) -> Windows:
    """The signal below a rectifier, times what is kept of it, which may be known to have no negative element."""
    if rule != "gradient":
        windows.rectify_()
    for gate in kept:
        windows.multiply_(windows.crop(batched_maps(gate, windows.window.rank)), nonnegative)
    return windows


class Shift(FunctionStep):
    """Something constant is added; backwards the identity.

    Args:
        function: maps a tensor to one of the same shape.
    """

    keeps_maps = True

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function)
        self._apart = False

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        (x,) = inputs
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
        return y, ()


class Scale(Shift):
    """Something constant is multiplied by; backwards too.

    Args:
        function: multiplies a tensor by the factor, or divides by its inverse, and keeps its shape.
        factor: a number, or what can be broadcast to the maps; a function of the maps, if it depends on their shape.
        inverse: divide by the factor.
    """

    memory = "own"

    def __init__(self, name: str, function: Function, factor: Expression | float, inverse: bool = False) -> None:
        super().__init__(name, function)
        self.factor: Any = factor
        self.inverse = inverse

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shape, factor = planned.shapes[0], self.factor
        if callable(factor):
            factor = factor(windows.values.new_zeros(()).expand(1, *shape))
        factor = 1 / factor if self.inverse else factor
        if isinstance(factor, Tensor):
            factor = windows.under(batched_maps(factor.detach().broadcast_to((1, *shape)), windows.window.rank))
        return (windows.multiply_(factor),)


class BatchNormalization(Pointwise):
    """Batch normalisation with its running statistics: backwards a scale per channel.

    Args:
        mean, variance: running statistics.
        weight, bias: may be None.
        epsilon: added to the variance.
    """

    memory = "own"
    keeps_maps = True

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

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return F.batch_norm(inputs[0], self.mean, self.variance, self.weight, self.bias, False, 0.0, self.epsilon), ()

    @functools.cached_property
    def scale(self) -> Tensor:
        """What every channel is multiplied by, (C,)."""
        scale = torch.rsqrt(self.variance + self.epsilon)
        return scale if self.weight is None else scale * self.weight

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        scale, channel, shape, rank = self.scale, windows.channel, planned.shapes[0], windows.window.rank
        if len(shape) not in (1, rank + 1):  # its channels are not those of the window
            scale = scale.view(-1, *(1,) * (len(shape) - 1)).expand(shape).flatten()
        of_units = scale[None] if channel is None else scale[channel][:, None]
        return (windows.multiply_(of_units.view(*of_units.shape, *(1,) * rank)),)


class Normalization(FunctionStep, Pointwise):
    """Response or contrast normalisation, which mixes no positions.

    Args:
        function: of maps (N, C, ...) to maps of the same shape.
        exact: backwards by its gradient at the recorded input instead of as the identity.
    """

    def __init__(self, name: str, function: Function, exact: bool) -> None:
        super().__init__(name, function)
        self.exact = exact

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self.function(*inputs), tuple(inputs) if self.exact else ()

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        if not kept:
            return (windows,)
        result = Windows(windows.dense(), planned.reached, windows.positions)
        with torch.inference_mode(False), torch.enable_grad():
            x = result.crop(kept[0]).requires_grad_()
            (result.values,) = torch.autograd.grad(self.function(x), x, result.values)
        return (result,)
