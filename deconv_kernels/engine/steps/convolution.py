"""Convolutions run backwards, alone or in one op with the rectifier and the max pool above; transposed ones."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import Backprojection, send_back
from ...ops.geometry import PerAxis
from ...ops.layout import empty
from ..expressions import Expression
from ..fields import Axis, Window, as_map
from ..ranks import CONVOLVE, CONVOLVE_TRANSPOSED
from ..signal import Windows, channels_innermost, zeros
from .base import Function, FunctionStep, Kept, PlannedStep, Shapes, Signals, on_whole, require_maps
from .packing import Packing
from .pooling import PooledSignal
from .sliding import Sliding
from .whole import Whole

_log = logging.getLogger(__name__)
# A signal of which more than this is not zero is convolved faster by a dense convolution, where there is much to do.
# Rectified signals, and unpooled ones still more, stay well below; measured on two cores with AVX-512. Winograd's
# F(2x2, 3x3) does not come near on VGG16's layers: its matrix products alone take as long as all of the sparse kernel.
# Those of F(4x4, 3x3) take two thirds of it, its transforms more than the rest, and it is ten times less exact.
DENSE_FROM = 0.7
DENSE_WORK = 20_000_000  # multiply-adds of one unit


class Convolution(Sliding, Packing):
    """A convolution; backwards a transposed convolution with the same weight, without the bias.

    Args:
        weight, bias: (K, C / groups, [[kd,] kh,] kw) and (K,), or None.
        kernel, stride, padding, dilation, groups: its own; `padding` may be "same" or "valid".
    """

    memory = "own"
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        weight: Expression,
        bias: Expression | None,
        kernel: PerAxis,
        stride: PerAxis,
        padding: PerAxis | str,
        dilation: PerAxis,
        groups: int,
    ) -> None:
        before = padding
        if padding == "same":
            before = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        elif padding == "valid":
            before = (0,) * len(kernel)
        assert not isinstance(before, str)
        super().__init__(name, kernel, stride, before, dilation)
        self.weight, self.bias = weight, bias  # type: ignore[assignment]
        self.padding, self.groups = padding, groups
        self._channels_first = (0, len(kernel) + 1, *range(1, len(kernel) + 1))
        self._routes: dict[Any, Route] = {}

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x, convolve = require_maps(self.name, inputs[0], self.rank), CONVOLVE[self.rank]
        return convolve(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups), ()

    def on_patches(self, patches: Tensor, origin: Tensor, length: PerAxis) -> Tensor:
        return CONVOLVE[self.rank](patches, self._filters, self.bias, self.stride, 0, self.dilation, self.groups)

    @functools.cached_property
    def _filters(self) -> Tensor:
        """The weight, channels innermost in memory."""
        return self._filters_of_units.permute(self._channels_first)

    @functools.cached_property
    def _filters_of_units(self) -> Tensor:
        """The weight as (K, [[kd,] kh,] kw, C / groups)."""
        return channels_innermost(self.weight).movedim(1, -1)

    def multiply_adds(self, above: Window, read: Sequence[int]) -> int:
        return self.weights_read(above, read) * math.prod(above.size)

    def weights_read(self, above: Window, read: Sequence[int]) -> int:
        return above.channels * (read[0] // self.groups) * math.prod(self.kernel)

    def slices_weights(self, read: Sequence[int]) -> bool:
        return True

    def kernel_of(self, planned: PlannedStep) -> str:
        chosen = planned.options.kernel
        if planned.seeded:
            return "slice of the weights"
        if chosen == "dense":
            return "torch"
        by_density = chosen == "auto" and planned.settled and planned.multiply_adds >= DENSE_WORK
        sparse = f"backproject{self.rank}d"
        return f"{sparse} or torch" if by_density else sparse

    def send_windows(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Windows:
        below = planned.reached
        if windows.channel is not None:
            values = self._seeded(windows.settle_().values, windows.channel)
            return windows.move(values, self.slid(windows.window, below.shape), below).clear_overhang()
        if planned.options.kernel == "dense":
            return self._dense(windows, below)
        dense = self._dense_units(windows, below.channels, planned.options.kernel)
        if dense is None:
            return self._sparse(windows, below)
        if bool(dense.all()):
            return self._dense(windows, below)
        shape = (len(windows), below.channels, *below.size)
        values = empty(shape, windows.values.dtype, windows.values.device, True, self.rank)
        for units, send in ((dense, self._dense), (~dense, self._sparse)):
            values[units] = send(windows.of_units(units), below).values
        return Windows(values, below, windows.positions)

    def _dense_units(self, windows: Windows, channels: int, kernel: str) -> Tensor | None:
        """Which units a dense convolution serves better, (U,); None where that is none.

        Each unit's own density decides, so that its result does not depend on the company it is in.
        """
        settled = windows.unpooling is None and not windows.rectify
        large = self.multiply_adds(windows.window, (channels,)) >= DENSE_WORK
        if kernel == "sparse" or not settled or not large or windows.values.device.type != "cpu":
            _log.debug("%s: sparse", self.name)
            return None
        density = windows.values.flatten(1).count_nonzero(1) / windows.values[0].numel()
        _log.debug("%s: density %.2f to %.2f, dense from %.2f", self.name, density.min(), density.max(), DENSE_FROM)
        dense = density > DENSE_FROM
        return dense if bool(dense.any()) else None

    def _seeded(self, seed: Tensor, channel: Tensor) -> Tensor:
        """A single value sends back its filter."""
        values = self._filters_of_units.index_select(0, channel).mul_(seed).permute(self._channels_first)
        units, channels = values.shape[:2]
        if any(d > 1 for d in self.dilation):
            spread = zeros(values, channels, self.extent)
            taps: Any = (..., *(slice(None, None, d) for d in self.dilation))
            spread[taps] = values
            values = spread
        if self.groups == 1:
            return values
        grouped = zeros(values, self.groups * channels, values.shape[2:])
        group = channel // (len(self.weight) // self.groups)
        grouped.unflatten(1, (self.groups, channels))[torch.arange(units, device=channel.device), group] = values
        return grouped

    def _sparse(self, windows: Windows, below: Window) -> Windows:
        """Unpooling, rectification and transposed convolution in one op that skips what is zero."""
        pooled = windows.unpooling
        assert pooled is None or isinstance(pooled, PooledSignal)
        key = (windows.window, below, windows.rectify, pooled and (pooled.pool, pooled.window, pooled.overlap))
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = self._route(windows.window, below, windows.rectify, pooled)
        values = send_back(
            windows.values,
            self.weight,
            windows.positions.image,
            windows.positions.origins(route.source),
            None if pooled is None else pooled.switches,
            self.packed(self.weight, self.stride, self.dilation, self.groups),
            route.geometry,
        )
        return windows.move(values, route.reached, below)

    def _route(self, window: Window, below: Window, relu: bool, pooled: PooledSignal | None) -> Route:
        shape = below.shape
        source = window if pooled is None else pooled.window
        full = self.slid(source if pooled is None else pooled.pool.slid(source, shape), shape)
        begin, axes = [], []
        for axis, target in zip(full.axes, below.axes, strict=True):
            # Where windows move with their units but the whole map is wanted, they are placed in it afterwards.
            axes.append(axis if axis.stride != target.stride else target)
            begin.append(axes[-1].offset - axis.offset)
        ones = (1,) * self.rank
        pool: Any = (ones, ones, ones, "sum")
        step = self.stride
        if pooled is not None:
            pool = (pooled.pool.kernel, pooled.pool.stride, pooled.pool.dilation, pooled.overlap)
            step = tuple(s * p for s, p in zip(step, pooled.pool.stride, strict=True))
        base = [axis.offset - origin.offset * s for axis, origin, s in zip(axes, source.axes, step, strict=True)]
        reached = Window(below.channels, tuple(axes))
        place = (tuple(begin), reached.size, tuple(base), shape[1:])
        arguments: Any = (*pool, relu, self.stride, self.dilation, self.groups, *place)
        return Route(source, Backprojection(*arguments), reached)

    def _dense(self, windows: Windows, below: Window) -> Windows:
        """Torch's convolution. In an axis where the window is the whole map, what falls on padding is not computed.

        On the CPU it takes one unit at a time, because its bits depend on how many there are.
        """
        windows.settle_()
        reached = self.slid(windows.window, below.shape)
        padding, extra = [0] * self.rank, [0] * self.rank
        axes: list[Axis] = list(reached.axes)
        for i, (axis, target) in enumerate(zip(windows.window.axes, below.axes, strict=True)):
            if axis.is_full:
                padding[i] = self.before[i]
                size = axes[i].size - 2 * padding[i]
                extra[i] = min(max(0, target.length - size), max(self.stride[i], self.dilation[i]) - 1)
                axes[i] = Axis(target.length, size + extra[i], 0, 0)
        at_once = 1 if windows.values.device.type == "cpu" else len(windows)
        transposed = CONVOLVE_TRANSPOSED[self.rank]
        values = torch.cat(
            [
                transposed(part, self._filters, None, self.stride, padding, extra, self.groups, self.dilation)
                for part in windows.values.split(at_once)
            ]
        )
        return windows.move(values, Window(reached.channels, tuple(axes)), below).clear_overhang()


class Route(NamedTuple):
    """From windows of one geometry to those below them.

    Attributes:
        source: where the values lie that are sent.
        geometry: for the op.
        reached: where its result lies.
    """

    source: Window
    geometry: Backprojection
    reached: Window


class TransposedConvolution(FunctionStep):
    """A transposed convolution; backwards the convolution with the same weight, on the whole map.

    Args:
        function: runs it forward.
        weight: (C, K / groups, [[kd,] kh,] kw).
        kernel, stride, padding, dilation, groups: its own.
    """

    memory = "own"
    rank: int
    weight: Tensor

    def __init__(
        self,
        name: str,
        function: Function,
        weight: Expression,
        kernel: PerAxis,
        stride: PerAxis,
        padding: PerAxis,
        dilation: PerAxis,
        groups: int,
    ) -> None:
        super().__init__(name, function)
        self.weight = weight  # type: ignore[assignment]
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.dilation, self.groups = dilation, groups
        self.rank = len(stride)

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self.function(require_maps(self.name, inputs[0], self.rank)), ()

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (Window.full(as_map(shapes[0], window.rank)),)

    def multiply_adds(self, above: Window, read: Sequence[int]) -> int:
        return self.weights_read(above, read) * math.prod(read[1:])

    def weights_read(self, above: Window, read: Sequence[int]) -> int:
        return read[0] * (above.channels // self.groups) * math.prod(self.kernel)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        signal, shape = windows.whole(), planned.shapes[0]
        if windows.window.rank != self.rank:
            adjoint = Whole(self.name, self.function, signals=1, linear=True, alone=True)
            return adjoint.send(windows, (), planned)
        # What torch's convolution rounds depends on how many units there are.
        at_once = 1 if signal.device.type == "cpu" else len(signal)
        values = signal.new_empty((len(signal), *shape))
        for rows, result in zip(signal.split(at_once), values.split(at_once), strict=True):
            window = (self.stride, self.padding, self.dilation, self.groups)
            sent = CONVOLVE[self.rank](rows, self.weight, None, *window)
            result.copy_(sent[(slice(None), slice(None), *(slice(length) for length in shape[1:]))])
        return (on_whole(values, shape, windows),)
