"""Where a network branches: steps that read several maps, and those that go backwards on whole maps by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .constants import Expression
from .ops import max_pool2d, max_unpool2d, switches_to_indices
from .steps import Function, Kept, MaxPool, Options, Pair, Step, require_maps
from .windows import Window, Windows, as_map

Shapes = Sequence[Sequence[int]]
Signals = Sequence[Windows | None]


class Sum(Step):
    """The sum of several maps, each with a factor; backwards each gets the signal, times its factor.

    Where maps are broadcast, their signal is summed over what they were broadcast to.
    """

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
        return total, None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if _are_equal(shapes):
            return (window,) * len(shapes)
        return tuple(Window.full(as_map(shape)) for shape in shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if not _are_equal(shapes):
            size = torch.broadcast_shapes(*shapes)
            signal = windows.whole().reshape(-1, *size)
            return [
                _on_whole(signal.sum_to_size((len(signal), *shape)) * factor, shape, windows)
                for shape, factor in zip(shapes, self.factors, strict=True)
            ]
        parts = [windows, *(windows.copy() for _ in self.factors[1:])]
        for part, factor in zip(parts, self.factors, strict=True):
            if factor != 1:
                part.settled().values.mul_(factor)
                part.nonnegative = False
        return parts


class Concatenate(Step):
    """Maps one after the other along a dimension; backwards each gets its part of the signal."""

    def __init__(self, name: str, dimension: int) -> None:
        super().__init__(name)
        self.dimension = dimension

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        if self.dimension % inputs[0].dim() == 0:
            raise ValueError(f"{self.name} concatenates along the batch dimension, which mixes images")
        return torch.cat(list(inputs), self.dimension), None

    def _along(self, shapes: Shapes) -> int:
        """The dimension of the values of one image."""
        return self.dimension % (len(shapes[0]) + 1) - 1

    def _stacks_maps(self, shapes: Shapes) -> bool:
        return self._along(shapes) == 0 and len(shapes[0]) in (1, 3)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if self._stacks_maps(shapes):
            return tuple(replace(window, channels=shape[0]) for shape in shapes)
        return tuple(Window.full(as_map(shape)) for shape in shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if self._stacks_maps(shapes):
            return _split(windows.settled(), [shape[0] for shape in shapes])
        along = self._along(shapes)
        size = list(shapes[0])
        size[along] = sum(shape[along] for shape in shapes)
        parts = windows.whole().reshape(-1, *size).split([shape[along] for shape in shapes], along + 1)
        return [_on_whole(part, shape, windows) for part, shape in zip(parts, shapes, strict=True)]


def _split(windows: Windows, channels: Sequence[int]) -> list[Windows]:
    """Windows on maps that are stacked as windows on each of them."""
    parts: list[Windows] = []
    start = 0
    for count in channels:
        window = replace(windows.window, channels=count)
        if windows.channel is None:
            part = replace(windows, values=windows.values[:, start : start + count], window=window)
        else:
            channel = windows.channel - start
            inside = (channel >= 0) & (channel < count)
            values = windows.values * inside[:, None, None, None]
            part = replace(windows, values=values, window=window, channel=channel.clamp(0, count - 1))
        parts.append(part)
        start += count
    return parts


class Whole(Step):
    """Anything that is run backwards on whole maps by its gradient, as autograd has it.

    Args:
        function: of the inputs, (N, ...) each, to (N, ...). Every image must stay by itself, to the last bit.
        signals: how many of the inputs get a signal, from the first on; of the others only the shape matters.
        linear: whether the gradient depends on nothing but the shapes, so that no input has to be kept.
        alone: take one image at a time, because it is not known whether others would change what becomes of it.
    """

    function: Callable[..., Tensor]

    def __init__(self, name: str, function: Function, signals: int, linear: bool, alone: bool = False) -> None:
        super().__init__(name)
        self.function, self.signals = function, signals  # type: ignore[assignment]
        self.linear, self.alone = linear, alone

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        images = len(inputs[0])
        if self.alone:
            rows = [self.function(*(x[image : image + 1] for x in inputs)) for image in range(images)]
            output = torch.cat([self._checked(row, 1) for row in rows])
        else:
            output = self._checked(self.function(*inputs), images)
        return output, None if self.linear else tuple(inputs)

    def _checked(self, output: object, images: int) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != images:
            made = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{self.name} makes {made} of {images} images; what it makes of each needs a dimension of its own, "
                "(N, ...), which for instance keepdim=True keeps"
            )
        return output

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return tuple(Window.full(as_map(shape)) if index < self.signals else None for index, shape in enumerate(shapes))

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        signal, image = windows.whole(), windows.positions.image
        at_once = 1 if self.alone else max(1, len(signal))
        parts = [
            self._gradients(rows, kept, of, shapes)
            for rows, of in zip(signal.split(at_once), image.split(at_once), strict=True)
        ]
        if not parts:
            parts = [tuple(signal.new_zeros((0, *shape)) for shape in shapes[: self.signals])]
        results: list[Windows | None] = [
            _on_whole(torch.cat(gradients), shape, windows)
            for gradients, shape in zip(zip(*parts, strict=True), shapes, strict=False)
        ]
        return results + [None] * (len(shapes) - self.signals)

    def _gradients(self, signal: Tensor, kept: Kept, image: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            if kept is None:
                inputs = [signal.new_zeros((len(signal), *shape)) for shape in shapes]
            else:
                inputs = [x.index_select(0, image) for x in kept]
            inputs = [x.requires_grad_(x.is_floating_point()) for x in inputs]
            sources = [x for x in inputs[: self.signals] if x.requires_grad]
            output = self.function(*inputs)
            found: Sequence[Tensor | None] = [None] * len(sources)
            if output.requires_grad:
                found = torch.autograd.grad(output, sources, signal.reshape(output.shape), allow_unused=True)
        gradients = iter(found)
        return tuple(
            signal.new_zeros(x.shape) if not x.requires_grad or (gradient := next(gradients)) is None else gradient
            for x in inputs[: self.signals]
        )


class TransposedConvolution(Step):
    """A transposed 2-d convolution; backwards the convolution with the same weight, on the whole map.

    Args:
        function: runs it forward.
        weight: (C, K / groups, kh, kw).
        stride, padding, dilation, groups: its own.
    """

    function: Callable[[Tensor], Tensor]
    weight: Tensor

    def __init__(
        self,
        name: str,
        function: Function,
        weight: Expression,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> None:
        super().__init__(name)
        self.function, self.weight = function, weight  # type: ignore[assignment]
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(require_maps(self.name, x)), None

    def reach(self, window: Window, shape: tuple[int, int, int]) -> Window:
        return Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        signal, weight = windows.whole(), self.weight
        # What torch's convolution rounds depends on how many units there are.
        at_once = 1 if signal.device.type == "cpu" else len(signal)
        values = signal.new_empty((len(signal), below.channels, *below.size))
        for rows, result in zip(signal.split(at_once), values.split(at_once), strict=True):
            sent = F.conv2d(rows, weight, None, self.stride, self.padding, self.dilation, self.groups)
            result.copy_(sent[:, :, : below.y.length, : below.x.length])
        return Windows(values, below, windows.positions)


class AdaptiveAveragePool(Whole):
    """Adaptive average pooling; the identity where the map already has the size asked for."""

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True)

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


class Added(Whole):
    """A map is added, image by image, to something constant; the signal passes unchanged where none is broadcast."""

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True, alone=True)

    @staticmethod
    def _broadcasts_nothing(window: Window, shapes: Shapes) -> bool:
        return (window.channels, window.y.length, window.x.length) == tuple(as_map(shapes[0]))

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (window,) if self._broadcasts_nothing(window, shapes) else super().reaches(window, shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if self._broadcasts_nothing(windows.window, shapes):
            return (windows,)
        return super().send(windows, kept, below, shapes, options)


class Product(Whole):
    """The product of two maps by its gradient; inside the window where both have one shape."""

    def __init__(self, name: str) -> None:
        super().__init__(name, torch.mul, signals=2, linear=False)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (window, window) if _are_equal(shapes) else super().reaches(window, shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if not _are_equal(shapes) or len(shapes[0]) not in (1, 3):
            return super().send(windows, kept, below, shapes, options)
        assert isinstance(kept, tuple)
        parts = (windows, windows.copy())
        for part, other in zip(parts, reversed(kept), strict=True):
            part.values.mul_(part.crop(other if other.dim() == 4 else other[:, :, None, None]))
            part.nonnegative = False
        return parts


class ChannelSlice(Whole):
    """Some of the channels; backwards the others get nothing.

    Args:
        function: takes them.
        bounds: from how many there are to the first and the one after the last.
    """

    def __init__(self, name: str, function: Function, bounds: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(name, function, signals=1, linear=True)
        self.bounds = bounds

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if len(shapes[0]) in (1, 3):
            return (replace(window, channels=shapes[0][0]),)
        return super().reaches(window, shapes)

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        if len(shapes[0]) not in (1, 3):
            return super().send(windows, kept, below, shapes, options)
        channels = shapes[0][0]
        first, stop = self.bounds(channels)
        window = replace(windows.settled().window, channels=channels)
        if windows.channel is not None:
            return (replace(windows, window=window, channel=windows.channel + first),)
        values = windows.values.new_zeros((len(windows), channels, *window.size))
        values[:, first:stop] = windows.values
        return (replace(windows, values=values, window=window),)


class ZeroPad(Step):
    """Padding with a constant, or cropping; backwards the middle.

    Args:
        function: pads.
        before: rows above and columns to the left; negative where they are cut off.
    """

    function: Callable[[Tensor], Tensor]

    def __init__(self, name: str, function: Function, before: Pair) -> None:
        super().__init__(name)
        self.function, self.before = function, before  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(require_maps(self.name, x)), None

    def _moved(self, window: Window, shape: Sequence[int]) -> Window:
        axes = [
            replace(axis, length=shape[number + 1], offset=axis.offset - self.before[number])
            for number, axis in enumerate(window.axes)
        ]
        return Window(shape[0], axes[0], axes[1])

    def reach(self, window: Window, shape: tuple[int, int, int]) -> Window:
        moved = self._moved(window, shape)
        return Window(shape[0], moved.y.clipped(), moved.x.clipped())

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        moved = self._moved(windows.window, (below.channels, below.y.length, below.x.length))
        nonnegative = windows.nonnegative
        result = windows.move(windows.dense(), moved, below).clear_overhang()
        result.nonnegative = nonnegative
        return result


class Switches(Step):
    """The switches of a max pool as a value, for the unpooling that reads them; no signal passes."""

    def __init__(self, name: str, pool: MaxPool) -> None:
        super().__init__(name)
        self.pool = pool

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        pool = self.pool
        _, switches = max_pool2d(inputs[0], pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        return switches, None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (None,)


class MaxUnpool(Step):
    """Unpooling by the switches of a max pool in the network; backwards what lies at the switches.

    Args:
        pool: whose switches they are.
        overlap: "sum" or "last".
        losers: whether windows whose value is not the last also get what lies at their switches, as torch has it.
        output_size: (H, W), or None for the smallest; a function of maps, if it depends on their shapes.
        looks_at: which inputs, not counting the switches, these maps are.
    """

    def __init__(
        self, name: str, pool: MaxPool, overlap: str, losers: bool, output_size: Expression, looks_at: Sequence[int]
    ) -> None:
        super().__init__(name)
        self.pool, self.overlap, self.losers, self.looks_at = pool, overlap, losers, tuple(looks_at)
        self.output_size: Any = output_size

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x, switches, *others = inputs
        pool, size = self.pool, self.output_size
        if callable(size):
            size = size(*((x, *others)[number] for number in self.looks_at))
        window = (pool.kernel, pool.stride, pool.padding, pool.dilation)
        unpooled = max_unpool2d(x, switches, *window, None if size is None else tuple(size[-2:]), overlap=self.overlap)
        return unpooled, switches

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (Window.full(as_map(shapes[0])), *[None] * (len(shapes) - 1))

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        assert isinstance(kept, Tensor)
        signal, pool = windows.whole(), self.pool
        window = (pool.kernel, pool.stride, pool.padding, pool.dilation)
        switches = kept.index_select(0, windows.positions.image)
        size = (signal.shape[2], signal.shape[3])
        places = switches_to_indices(switches, size, *window).flatten(2)
        values = signal.flatten(2).gather(2, places)
        if self.overlap == "last" and not self.losers:
            order = torch.arange(1, places.shape[2] + 1, dtype=torch.float64, device=signal.device)
            numbers = order.view(switches.shape[2:]).expand(switches.shape).contiguous()
            last = max_unpool2d(numbers, switches, *window, size, overlap="last")
            values.masked_fill_(last.flatten(2).gather(2, places) != order, 0)
        values = values.reshape(switches.shape)
        result = _on_whole(values, shapes[0], windows)
        result.nonnegative = windows.nonnegative
        return [result, *[None] * (len(shapes) - 1)]


def _are_equal(shapes: Shapes) -> bool:
    return all(tuple(shape) == tuple(shapes[0]) for shape in shapes)


def _on_whole(signal: Tensor, shape: Sequence[int], windows: Windows) -> Windows:
    """Signal (U, *shape) on a whole value, for the units of `windows`."""
    window = Window.full(as_map(shape))
    return Windows(signal.reshape(len(signal), window.channels, *window.size), window, windows.positions)
