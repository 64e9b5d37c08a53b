"""Unpooling inside a network, by the switches or indices of one of its max pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import max_pool2d, max_unpool2d, switches_to_indices
from ..expressions import Expression
from ..fields import Window, as_map
from ..signal import Windows
from .base import Kept, Options, Step, require_maps
from .pooling import MaxPool
from .whole import Shapes, Signals, on_whole


class Switches(Step):
    """Where the maxima of a max pool lie, as a value for the unpooling that reads it; no signal passes.

    Args:
        pool: the pool.
        flat: as torch's pools say it, by indices into the pool's input, and not as ours do.
    """

    def __init__(self, name: str, pool: MaxPool, flat: bool) -> None:
        super().__init__(name)
        self.pool, self.flat = pool, flat

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        pool, (x,) = self.pool, inputs
        window = (pool.kernel, pool.stride, pool.padding, pool.dilation)
        _, switches = max_pool2d(x, *window, pool.ceil_mode)
        size = (x.shape[2], x.shape[3])
        return switches_to_indices(switches, size, *window) if self.flat else switches, None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (None,)


class IndexUnpool(Step):
    """`F.max_unpool2d` by the indices of a max pool in the network; backwards what lies at the indices.

    Indices count along the rows of the pool's input. In an output with longer or shorter rows they name other places,
    and some may name none.

    Args:
        pool: whose indices they are.
        output_size: what torch's unpooling takes for it; a function of maps, if it depends on their shapes.
        looks_at: which inputs, not counting the indices, these maps are.
    """

    def __init__(self, name: str, pool: MaxPool, output_size: Expression, looks_at: Sequence[int]) -> None:
        super().__init__(name)
        self.pool, self.looks_at = pool, tuple(looks_at)
        self.output_size: Any = output_size

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x, indices, *others = inputs
        pool, size = self.pool, self.output_size
        if callable(size):
            size = size(*((x, *others)[number] for number in self.looks_at))
        window = (pool.kernel, pool.stride, pool.padding, size)
        require_maps(self.name, x)
        try:
            made = F.max_unpool2d(x.to("meta"), indices.to("meta"), *window).shape
        except (RuntimeError, TypeError, ValueError) as error:
            asked = "" if size is None else f" to output_size={tuple(size)}"
            raise ValueError(
                f"{self.name} cannot unpool {x.shape[2]}x{x.shape[3]}{asked} with the window of {pool.name!r}: {error}"
            ) from error
        highest = int(indices.max()) if indices.numel() else 0
        if highest >= made[2] * made[3]:
            raise ValueError(
                f"{self.name} unpools {x.shape[2]}x{x.shape[3]} to {made[2]}x{made[3]}, which has no position "
                f"{highest}: the indices of {pool.name!r} belong to a larger map; give its size as output_size"
            )
        if any(d * (k - 1) >= s for d, k, s in zip(pool.dilation, pool.kernel, pool.stride, strict=True)):
            x = _last_of_shared(x, indices, highest + 1)
        unpooled = x.new_zeros((*made[:2], made[2] * made[3])).scatter_(2, indices.flatten(2), x.flatten(2))
        return unpooled.view(made), indices.int()

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (Window.full(as_map(shapes[0])), *[None] * (len(shapes) - 1))

    def send(
        self, windows: Windows, kept: Kept, below: Sequence[Window | None], shapes: Shapes, options: Options
    ) -> Signals:
        assert isinstance(kept, Tensor)
        indices = kept.index_select(0, windows.positions.image).long().flatten(2)
        result = on_whole(windows.whole().flatten(2).gather(2, indices), shapes[0], windows)
        result.nonnegative = windows.nonnegative
        return [result, *[None] * (len(shapes) - 1)]


def _last_of_shared(x: Tensor, indices: Tensor, positions: int) -> Tensor:
    """(N, C, PH, PW) in which the windows that share a position have the value of the last of them."""
    flat = indices.flatten(2)
    order = torch.arange(flat.shape[2], device=x.device).expand_as(flat)
    last = order.new_zeros((*flat.shape[:2], positions)).scatter_reduce_(2, flat, order, "amax").gather(2, flat)
    return x.flatten(2).gather(2, last).view(x.shape)


class MaxUnpool(Step):
    """Our unpooling by the switches of a max pool of ours in the network; backwards what lies at the switches.

    Args:
        pool: whose switches they are.
        overlap: "sum" or "last".
        output_size: (H, W), or None for the smallest; a function of maps, if it depends on their shapes.
        looks_at: which inputs, not counting the switches, these maps are.
    """

    def __init__(
        self, name: str, pool: MaxPool, overlap: str, output_size: Expression, looks_at: Sequence[int]
    ) -> None:
        super().__init__(name)
        self.pool, self.overlap, self.looks_at = pool, overlap, tuple(looks_at)
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
        if self.overlap == "last":
            order = torch.arange(1, places.shape[2] + 1, dtype=torch.float64, device=signal.device)
            numbers = order.view(switches.shape[2:]).expand(switches.shape).contiguous()
            last = max_unpool2d(numbers, switches, *window, size, overlap="last")
            values.masked_fill_(last.flatten(2).gather(2, places) != order, 0)
        values = values.reshape(switches.shape)
        result = on_whole(values, shapes[0], windows)
        result.nonnegative = windows.nonnegative
        return [result, *[None] * (len(shapes) - 1)]
