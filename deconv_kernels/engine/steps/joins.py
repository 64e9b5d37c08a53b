"""Steps that join maps or take them apart: sums, products, concatenation and slices of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..fields import Window, as_map
from ..signal import Windows, zeros
from .base import Function, Kept, PlannedStep, Shapes, Signals, Step, are_equal, are_maps, batched_maps, on_whole
from .whole import Whole


class Sum(Step):
    """The sum of several maps, each with a factor; backwards each gets the signal, times its factor.

    Where maps are broadcast, their signal is summed over what they were broadcast to.
    """

    memory = "own"

    def __init__(self, name: str, factors: Sequence[float]) -> None:
        super().__init__(name)
        self.factors = tuple(factors)

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        if len({x.dim() for x in inputs}) > 1 or len({len(x) for x in inputs}) > 1:
            shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(f"{self.name} adds maps of shapes {shapes}; they must have one rank and one batch size")
        total = inputs[0] if self.factors[0] == 1 else inputs[0] * self.factors[0]
        owned = owned or total is not inputs[0]
        for x, factor in zip(inputs[1:], self.factors[1:], strict=True):
            in_place = owned and torch.broadcast_shapes(total.shape, x.shape) == total.shape
            total = total.add_(x, alpha=factor) if in_place else torch.add(total, x, alpha=factor)
            owned = True
        return total, ()

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if are_maps(rank, *read) and are_equal([made.shape, *(x.shape for x in read)]) else None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if are_equal(shapes):
            return (window,) * len(shapes)
        return tuple(Window.full(as_map(shape, window.rank)) for shape in shapes)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shapes = planned.shapes
        if not are_equal(shapes):
            size = torch.broadcast_shapes(*shapes)
            signal = windows.whole().reshape(-1, *size)
            return [
                on_whole(signal.sum_to_size((len(signal), *shape)) * factor, shape, windows)
                for shape, factor in zip(shapes, self.factors, strict=True)
            ]
        parts = [windows, *(windows.copy() for _ in self.factors[1:])]
        for part, factor in zip(parts, self.factors, strict=True):
            if factor != 1:
                part.multiply_(factor)
        return parts


class Concatenate(Step):
    """Maps one after the other along a dimension; backwards each gets its part of the signal."""

    memory = "own"

    def __init__(self, name: str, dimension: int) -> None:
        super().__init__(name)
        self.dimension = dimension

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        if self.dimension % inputs[0].dim() == 0:
            raise ValueError(f"{self.name} concatenates along the batch dimension, which mixes images")
        return torch.cat(list(inputs), self.dimension), ()

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if are_maps(rank, *read) and self.dimension % (rank + 2) == 1 else None

    def _along(self, shapes: Shapes) -> int:
        """The dimension of the values of one image."""
        return self.dimension % (len(shapes[0]) + 1) - 1

    def _stacks_maps(self, window: Window, shapes: Shapes) -> bool:
        return self._along(shapes) == 0 and _has_channels(shapes[0], window)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if self._stacks_maps(window, shapes):
            return tuple(window._replace(channels=shape[0]) for shape in shapes)
        return tuple(Window.full(as_map(shape, window.rank)) for shape in shapes)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shapes = planned.shapes
        if self._stacks_maps(windows.window, shapes):
            return _split(windows.settle_(), [shape[0] for shape in shapes])
        along = self._along(shapes)
        size = list(shapes[0])
        size[along] = sum(shape[along] for shape in shapes)
        parts = windows.whole().reshape(-1, *size).split([shape[along] for shape in shapes], along + 1)
        return [on_whole(part, shape, windows) for part, shape in zip(parts, shapes, strict=True)]


def _split(windows: Windows, channels: Sequence[int]) -> list[Windows]:
    """Windows on maps that are stacked as windows on each of them."""
    parts: list[Windows] = []
    start = 0
    for count in channels:
        window = windows.window._replace(channels=count)
        if windows.channel is None:
            part = replace(windows, values=windows.values[:, start : start + count], window=window)
        else:
            channel = windows.channel - start
            inside = (channel >= 0) & (channel < count)
            values = windows.values * inside.view(windows.values.shape)
            part = replace(windows, values=values, window=window, channel=channel.clamp(0, count - 1))
        parts.append(part)
        start += count
    return parts


def _has_channels(shape: Sequence[int], window: Window) -> bool:
    """Whether the channels of a value are those of its window: those of a map, or the features of a row."""
    return len(shape) in (1, window.rank + 1)


class Product(Whole):
    """The product of two maps by its gradient; inside the window where both have one shape."""

    memory = "own"

    def __init__(self, name: str) -> None:
        super().__init__(name, torch.mul, signals=2, linear=False)

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if are_maps(rank, *read) and are_equal([x.shape for x in read]) else None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (window, window) if are_equal(shapes) else super().reaches(window, shapes)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shapes = planned.shapes
        if not are_equal(shapes) or not _has_channels(shapes[0], windows.window):
            return super().send(windows, kept, planned)
        parts = (windows, windows.copy())
        for part, other in zip(parts, reversed(kept), strict=True):
            part.multiply_(part.crop(batched_maps(other, part.window.rank)))
        return parts


class ChannelSlice(Whole):
    """Some of the channels; backwards the others get nothing.

    Args:
        function: takes them.
        bounds: from how many there are to the first and the one after the last.
    """

    def __init__(self, name: str, function: Function, bounds: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(name, function, signals=1, linear=True, apart=True)
        self.bounds = bounds

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if _has_channels(shapes[0], window):
            return (window._replace(channels=shapes[0][0]),)
        return super().reaches(window, shapes)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        if not _has_channels(planned.shapes[0], windows.window):
            return super().send(windows, kept, planned)
        channels = planned.shapes[0][0]
        first, stop = self.bounds(channels)
        window = windows.settle_().window._replace(channels=channels)
        if windows.channel is not None:
            return (replace(windows, window=window, channel=windows.channel + first),)
        values = zeros(windows.values, channels, window.size)
        values[:, first:stop] = windows.values
        return (replace(windows, values=values, window=window),)
