"""Max and average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import max_pool2d, max_unpool2d_window
from ..fields import Shape, Window
from ..signal import Windows
from .base import Function, Kept, Options, Pair, Step, require_maps
from .whole import Shapes, Signals, Whole


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


class AdaptiveAveragePool(Whole):
    """Adaptive average pooling; the identity where the map already has the size asked for."""

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True, apart=True)

    @staticmethod
    def _changes_nothing(window: Window, shapes: Shapes) -> bool:
        return (window.y.length, window.x.length) == tuple(shapes[0][1:])

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (window,) if self._changes_nothing(window, shapes) else super().reaches(window, shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if self._changes_nothing(windows.window, shapes):
            return (windows,)
        return super().send(windows, kept, below, shapes, options)
