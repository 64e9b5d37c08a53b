"""Unpooling inside a network, by the switches or indices of one of its max pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops import switches_to_indices
from ..errors import UnsupportedModule
from ..expressions import Expression
from ..fields import Window, as_map
from ..ranks import MAX_POOL, MAX_UNPOOL, UNPOOL_BY_INDICES
from ..signal import Windows
from .base import Kept, PlannedStep, Shapes, Signals, Step, on_whole, require_maps
from .pooling import MaxPool


class Switches(Step):
    """Where the maxima of a max pool lie, as a value for the unpooling that reads it; no signal passes.

    Args:
        pool: the pool.
        flat: as torch's pools say it, by indices into the pool's input, and not as ours do.
    """

    is_layer = False

    def __init__(self, name: str, pool: MaxPool, flat: bool) -> None:
        super().__init__(name)
        self.pool, self.flat = pool, flat

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        pool, (x,) = self.pool, inputs
        _, switches = MAX_POOL[pool.rank](x, *pool.geometry, pool.ceil_mode)
        return switches_to_indices(switches, x.shape[2:], *pool.geometry) if self.flat else switches, ()

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (None,)


class Unpool(Step):
    """Unpooling by the switches or indices of a max pool in the network, its second input.

    Args:
        pool: whose they are.
        output_size: ([[D,] H,] W) or what else the unpooling takes for it; a function of maps, if it depends on their
            shapes.
        looks_at: which inputs, not counting the switches, these maps are.
    """

    memory = "own"

    def __init__(self, name: str, pool: MaxPool, output_size: Expression, looks_at: Sequence[int]) -> None:
        super().__init__(name)
        self.pool, self.looks_at = pool, tuple(looks_at)
        self.output_size: Any = output_size

    def _size(self, maps: Sequence[Tensor]) -> Any:
        size = self.output_size
        return size(*(maps[number] for number in self.looks_at)) if callable(size) else size

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if window.rank != self.pool.rank:
            raise UnsupportedModule(
                f"{self.name} unpools maps of {self.pool.rank} axes in a network whose images have {window.rank}; give "
                "the images as many, with a length of 1"
            )
        return (Window.full(as_map(shapes[0], window.rank)), *[None] * (len(shapes) - 1))

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        shapes, switches = planned.shapes, kept[0].index_select(0, windows.positions.image)
        taken = self._taken(windows.whole(), switches)
        return [on_whole(taken, shapes[0], windows, windows.nonnegative), *[None] * (len(shapes) - 1)]

    def _taken(self, signal: Tensor, switches: Tensor) -> Tensor:
        """What lies at the switches or indices of each unit in whole maps of signal, (U, C, windows)."""
        raise NotImplementedError


class IndexUnpool(Unpool):
    """Torch's unpooling by the indices of a max pool in the network; backwards what lies at the indices.

    Indices count along the rows of the pool's input. In an output with longer or shorter rows they name other places,
    and some may name none.
    """

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x, indices, *others = inputs
        pool, size = self.pool, self._size((x, *others))
        window = (pool.kernel, pool.stride, pool.padding, size)
        require_maps(self.name, x, pool.rank)
        try:
            made = UNPOOL_BY_INDICES[pool.rank](x.to("meta"), indices.to("meta"), *window).shape
        except (RuntimeError, TypeError, ValueError) as error:
            asked = "" if size is None else f" to output_size={tuple(size)}"
            raise ValueError(
                f"{self.name} cannot unpool {_size(x.shape)}{asked} with the window of {pool.name!r}: {error}"
            ) from error
        highest = int(indices.max()) if indices.numel() else 0
        if highest >= math.prod(made[2:]):
            raise ValueError(
                f"{self.name} unpools {_size(x.shape)} to {_size(made)}, which has no position "
                f"{highest}: the indices of {pool.name!r} belong to a larger map; give its size as output_size"
            )
        if any(d * (k - 1) >= s for d, k, s in zip(pool.dilation, pool.kernel, pool.stride, strict=True)):
            x = _last_of_shared(x, indices, highest + 1)
        unpooled = x.new_zeros((*made[:2], math.prod(made[2:]))).scatter_(2, indices.flatten(2), x.flatten(2))
        return unpooled.view(made), (indices.int(),)

    def _taken(self, signal: Tensor, switches: Tensor) -> Tensor:
        return signal.flatten(2).gather(2, switches.long().flatten(2))


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[2:]))


def _last_of_shared(x: Tensor, indices: Tensor, positions: int) -> Tensor:
    """(N, C, PH, PW) in which the windows that share a position have the value of the last of them."""
    flat = indices.flatten(2)
    order = torch.arange(flat.shape[2], device=x.device).expand_as(flat)
    last = order.new_zeros((*flat.shape[:2], positions)).scatter_reduce_(2, flat, order, "amax").gather(2, flat)
    return x.flatten(2).gather(2, last).view(x.shape)


class MaxUnpool(Unpool):
    """Our unpooling by the switches of a max pool of ours in the network; backwards what lies at the switches.

    Args:
        overlap: "sum" or "last".
        pool, output_size, looks_at: as for `Unpool`; None for the smallest size.
    """

    def __init__(
        self, name: str, pool: MaxPool, overlap: str, output_size: Expression, looks_at: Sequence[int]
    ) -> None:
        super().__init__(name, pool, output_size, looks_at)
        self.overlap = overlap

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        x, switches, *others = inputs
        size = self._size((x, *others))
        size = None if size is None else tuple(size[-self.pool.rank :])
        unpooled = MAX_UNPOOL[self.pool.rank](x, switches, *self.pool.geometry, size, overlap=self.overlap)
        return unpooled, (switches,)

    def _taken(self, signal: Tensor, switches: Tensor) -> Tensor:
        window, size = self.pool.geometry, signal.shape[2:]
        places = switches_to_indices(switches, size, *window).flatten(2)
        values = signal.flatten(2).gather(2, places)
        if self.overlap == "last":
            order = torch.arange(1, places.shape[2] + 1, dtype=torch.float64, device=signal.device)
            numbers = order.view(switches.shape[2:]).expand(switches.shape).contiguous()
            last = MAX_UNPOOL[self.pool.rank](numbers, switches, *window, size, overlap="last")
            values.masked_fill_(last.flatten(2).gather(2, places) != order, 0)
        return values
