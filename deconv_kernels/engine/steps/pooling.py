"""Max and average pooling."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.geometry import PerAxis
from ...ops.layout import empty
from ..fields import Window
from ..ranks import MAX_POOL, MAX_UNPOOL, MAX_UNPOOL_WINDOW
from ..signal import Windows, along, channels_innermost
from .base import Function, Kept, Options, PlannedStep, Shapes, Signals, Step, are_maps, on_whole, require_maps
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

    def __init__(
        self, name: str, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis, ceil_mode: bool
    ) -> None:
        super().__init__(name, kernel, stride, padding, dilation)
        self.padding, self.ceil_mode, self.relu = padding, ceil_mode, False

    def rectifying(self) -> Step | None:
        pool = copy.copy(self)
        pool.relu = True
        return pool

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x = require_maps(self.name, inputs[0], self.rank)
        values, switches = MAX_POOL[self.rank](x, *self.geometry, self.ceil_mode, relu=self.relu)
        # The way back reads all channels of a position together.
        return values, (channels_innermost(switches),)

    def on_patches(self, patches: Tensor, origin: Tensor, length: PerAxis) -> Tensor:
        return MAX_POOL[self.rank](patches, self.kernel, self.stride, 0, self.dilation, relu=self.relu)[0]

    def bytes(self, above: Window, below: Sequence[Window], itemsize: int) -> int:
        """The step below reads pooled values and their switches."""
        return above.elements * (itemsize + 1)

    def kept_bytes(self, above: Window) -> int:
        return above.elements  # a switch is a byte

    def _neighbours(self, window: Window) -> PerAxis:
        """How many pooling windows beside a window overlap it; where the last one wins, their zeros can."""
        reach = [d * (k - 1) // s for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)]
        return tuple(0 if axis.is_full else count for axis, count in zip(window.axes, reach, strict=True))

    def source(self, above: Window, options: Options) -> Window:
        """With the neighbours that come later: after it along the first axis, on both sides along the others."""
        if options.overlap != "last" or above.rank != self.rank:
            return above
        beside = self._neighbours(above)
        axes = zip(above.axes, (0, *beside[1:]), beside, strict=True)
        grown = (a._replace(size=a.size + first + last, offset=a.offset - first) for a, first, last in axes)
        return Window(above.channels, tuple(grown))

    def send_windows(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Windows:
        values, source = windows.dense(), planned.source
        if source is not planned.above:
            values = windows.move(values, windows.window, source).values
        pooled = PooledSignal(self, source, kept[0], planned.options.overlap)
        return replace(windows, values=values, window=planned.reached, channel=None, unpooling=pooled)

    def send_whole(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shape, overlap = planned.shapes[0], planned.options.overlap
        switches = kept[0].index_select(0, windows.positions.image)
        signal = windows.whole().reshape(switches.shape)
        unpooled = MAX_UNPOOL[self.rank](signal, switches, *self.geometry, shape[1:], overlap=overlap)
        return (on_whole(unpooled, shape, windows, windows.nonnegative),)


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
        values, _ = MAX_UNPOOL_WINDOW[pool.rank](
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
        kernel: PerAxis,
        stride: PerAxis,
        padding: PerAxis,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> None:
        super().__init__(name, kernel, stride, padding, (1,) * len(kernel))
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor = count_include_pad, divisor
        self._made: dict[Any, Tensor] = {}

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self._mean(require_maps(self.name, inputs[0], self.rank)), ()

    def _mean(self, x: Tensor) -> Tensor:
        return self._pool(x, self.padding, self.ceil_mode, self.count_include_pad, self.divisor)

    def _pool(self, x: Tensor, *how: Any) -> Tensor:
        if self.rank == 1:  # torch's takes no divisor
            padding, *rest = how
            row = F.avg_pool2d(x[..., None, :], (1, *self.kernel), (1, *self.stride), (0, *padding), *rest)
            return row.squeeze(-2)
        return (F.avg_pool2d if self.rank == 2 else F.avg_pool3d)(x, self.kernel, self.stride, *how)

    def on_patches(self, patches: Tensor, origin: Tensor, length: PerAxis) -> Tensor:
        """Sums by the share that each element has in its mean, which differs at the borders of the map."""
        sums = self._pool(patches, (0,) * self.rank, False, True, 1)
        ones = patches.new_ones((1, 1, *length))
        elements = self._pool(ones, self.padding, self.ceil_mode, True, 1)
        share = (self._mean(ones) / elements)[0, 0]
        places = (
            along((origin[:, axis, None] + torch.arange(count)).to(patches.device), axis, self.rank)
            for axis, count in enumerate(sums.shape[2:])
        )
        return sums.mul_(share[tuple(places)])

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

    def send_windows(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Windows:
        source, below, nonnegative = windows.window, planned.reached, windows.nonnegative
        share: Tensor | float = 1.0
        if self.divisor is not None:
            share = 1 / self.divisor
        else:
            share = windows.under(self._share(source, below, windows.values))
        values = windows.multiply_(share).dense()
        reached = self.slid(source, below.shape)
        shape = (len(values), reached.channels, *reached.size)
        spread = empty(shape, values.dtype, values.device, True, self.rank)
        result = windows.move(self._spread(values, spread), reached, below).clear_overhang()
        result.nonnegative = nonnegative
        return result

    def _share(self, above: Window, below: Window, like: Tensor) -> Tensor:
        """For maps of these shapes, what of each value every element of its window gets, (1, C, ...), made once."""
        key = above.shape, below.shape, like.dtype, like.device
        if key not in self._made:
            share = like.new_ones(())
            for number, (axis, inputs) in enumerate(zip(above.axes, below.axes, strict=True)):
                share = share[..., None] * like.new_tensor(self._shares(number, axis.length, inputs.length))
            self._made[key] = share.expand(1, above.channels, *share.shape)
        return self._made[key]

    def _spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Every value in all of its pooling window, added up where windows overlap, in a map of some shape."""
        kernel, stride, whole = self.kernel, self.stride, (0,) * self.rank
        if self.rank == 3:
            return torch.ops.aten.avg_pool3d_backward(values, like, kernel, stride, whole, False, True, 1)
        if self.rank == 2:
            return torch.ops.aten.avg_pool2d_backward(values, like, kernel, stride, whole, False, True, 1)
        rows = (values[..., None, :], like[..., None, :], (1, *kernel), (1, *stride), (0, 0))
        return torch.ops.aten.avg_pool2d_backward(*rows, False, True, 1).squeeze(-2)


class AdaptiveAveragePool(Passing):
    """Adaptive average pooling; the identity where the map already has the size asked for."""

    memory = "own"

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True, apart=True)

    def passes(self, window: Window, shapes: Shapes) -> bool:
        return len(shapes[0]) == window.rank + 1 and super().passes(window, shapes)

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return Identity(self.name) if are_maps(rank, made) and read[0].shape == made.shape else None
