"""Max and average pooling."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import max_pool2d, max_unpool2d_window
from ..fields import Window
from ..signal import Windows
from .base import Function, Kept, Pair, PlannedStep, Shapes, Signals, Step, are_maps, require_maps
from .pointwise import Identity
from .sliding import Sliding
from .whole import Passing


class MaxPool(Sliding):
    """Max-pooling; backwards unpooling by the recorded switches, left to the step below to do with its own work.

    Attributes:
        relu: whether it rectifies too, in the place of the rectifier below.
    """

    memory = "own"
    waits = keeps_maps = keeps_responses = True
    around = -math.inf

    def __init__(self, name: str, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> None:
        super().__init__(name, kernel, stride, padding, dilation)
        self.padding, self.ceil_mode, self.relu = padding, ceil_mode, False

    def rectifying(self) -> Step | None:
        pool = copy.copy(self)
        pool.relu = True
        return pool

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x = require_maps(self.name, inputs[0])
        values, switches = max_pool2d(x, *self.geometry, self.ceil_mode, relu=self.relu)
        # The way back reads all channels of a position together.
        return values, (switches.contiguous(memory_format=torch.channels_last),)

    def on_patches(self, patches: Tensor, origin: Tensor, length: Pair) -> Tensor:
        return max_pool2d(patches, self.kernel, self.stride, 0, self.dilation, relu=self.relu)[0]

    def bytes(self, above: Window, below: Sequence[Window], itemsize: int) -> int:
        """The step below reads pooled values and their switches."""
        return above.elements * (itemsize + 1)

    def _neighbours(self, window: Window) -> Pair:
        """How many pooling windows below and beside a window overlap it; where the last one wins, their zeros can."""
        rows, columns = (
            0 if axis.is_full else self.dilation[i] * (self.kernel[i] - 1) // self.stride[i]
            for i, axis in enumerate(window.axes)
        )
        return rows, columns

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        values, source, overlap = windows.dense(), windows.window, planned.options.overlap
        rows, columns = self._neighbours(source) if overlap == "last" else (0, 0)
        if rows or columns:
            values = F.pad(values, (columns, columns, 0, rows))
            y, x = source.axes
            y = y._replace(size=y.size + rows)
            x = x._replace(size=x.size + 2 * columns, offset=x.offset - columns)
            source = Window(source.channels, y, x)
        pooled = PooledSignal(self, source, kept[0], overlap)
        nonnegative = windows.nonnegative
        return (Windows(values, planned.reached, windows.positions, nonnegative=nonnegative, unpooling=pooled),)


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
            *pool.geometry,
            overlap=self.overlap,
            relu=windows.rectify,
        )
        reached = pool.slid(self.window, below.shape)
        return windows.move(values, reached, below).values


class AveragePool(Sliding):
    """Average pooling; backwards every value is spread over its pooling window in equal parts."""

    memory = "own"
    keeps_responses = True

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
        super().__init__(name, kernel, stride, padding, (1, 1))
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor = count_include_pad, divisor

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self._mean(require_maps(self.name, inputs[0])), ()

    def _mean(self, x: Tensor) -> Tensor:
        window = (self.kernel, self.stride, self.padding, self.ceil_mode)
        return F.avg_pool2d(x, *window, self.count_include_pad, self.divisor)

    def on_patches(self, patches: Tensor, origin: Tensor, length: Pair) -> Tensor:
        """Sums by the share that each element has in its mean, which differs at the borders of the map."""
        sums = F.avg_pool2d(patches, self.kernel, self.stride, divisor_override=1)
        ones = patches.new_ones((1, 1, *length))
        elements = F.avg_pool2d(ones, self.kernel, self.stride, self.padding, self.ceil_mode, divisor_override=1)
        share = (self._mean(ones) / elements)[0, 0]
        rows, columns = (
            (origin[:, axis, None] + torch.arange(sums.shape[axis + 2])).to(patches.device) for axis in (0, 1)
        )
        return sums.mul_(share[rows[:, :, None], columns[:, None]][:, None])

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

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        source, below, nonnegative = windows.window, planned.reached, windows.nonnegative
        share: Tensor | float = 1.0
        if self.divisor is not None:
            share = 1 / self.divisor
        else:
            rows, columns = (
                windows.values.new_tensor(self._shares(number, axis.length, inputs.length))
                for number, (axis, inputs) in enumerate(zip(source.axes, below.axes, strict=True))
            )
            share = windows.under((rows[:, None] * columns).expand(1, source.channels, -1, -1))
        values = windows.multiply_(share).dense()
        reached = self.slid(source, below.shape)
        spread = values.new_empty((len(values), reached.channels, *reached.size))
        spread = torch.ops.aten.avg_pool2d_backward(values, spread, self.kernel, self.stride, (0, 0), False, True, 1)
        result = windows.move(spread, reached, below).clear_overhang()
        result.nonnegative = nonnegative
        return (result,)


class AdaptiveAveragePool(Passing):
    """Adaptive average pooling; the identity where the map already has the size asked for."""

    memory = "own"

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True, apart=True)

    def passes(self, window: Window, shapes: Shapes) -> bool:
        return len(shapes[0]) == 3 and super().passes(window, shapes)

    def in_windows(self, read: Sequence[Tensor], made: Tensor) -> Step | None:
        return Identity(self.name) if are_maps(made) and read[0].shape == made.shape else None
