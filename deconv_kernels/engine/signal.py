"""Signal on its way back: the windows of many units on one map, with their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.layout import empty, is_channels_last
from .fields import Window
from .positions import Positions


class Unpooling(Protocol):
    """An unpooling that has not been done yet."""

    def unpooled(self, windows: Windows) -> Tensor:
        """The values of `windows` unpooled, and rectified if they are to be."""


@dataclass
class Windows:
    """The signal of many units on one map.

    Attributes:
        values: (U, C, [[d,] h,] w), zero outside the map; (U, 1, [[1,] 1,] 1) with `channel`.
        window: the geometry they share.
        positions: the units they belong to.
        channel: (U,) int64, the only channel that is not zero, as long as each unit has only one value.
        nonnegative: whether the signal is known to have no negative element.
        rectify: whether `values` still have to be rectified.
        unpooling: what still has to be done to `values`, before that, to make them the signal on `window`.
    """

    values: Tensor
    window: Window
    positions: Positions
    channel: Tensor | None = None
    nonnegative: bool = False
    rectify: bool = False
    unpooling: Unpooling | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @classmethod
    def seeds(cls, channel: Tensor, positions: Positions, window: Window, dtype: torch.dtype) -> Windows:
        """A one at every unit, with the window of a unit on its own map."""
        values = torch.ones((len(channel), 1, *window.size), dtype=dtype, device=channel.device)
        return cls(values, window, positions, channel, nonnegative=True)

    def of_units(self, units: slice | Tensor) -> Windows:
        """Those of some of the units."""
        return replace(
            self,
            values=self.values[units],
            positions=self.positions.of_units(units),
            channel=None if self.channel is None else self.channel[units],
        )

    def rectify_(self) -> None:
        """Lets the signal be rectified, here or by the step below."""
        if not self.nonnegative:
            self.rectify = self.nonnegative = True

    def settle_(self) -> Windows:
        """Does to the values what is left to be done; `channel` stays as it is."""
        if self.unpooling is not None:
            self.values = self.unpooling.unpooled(self)
        elif self.rectify:
            self.values.relu_()
        self.unpooling, self.rectify = None, False
        return self

    def dense(self) -> Tensor:
        """The signal with all its channels, (U, C, [[d,] h,] w)."""
        values = self.settle_().values
        if self.channel is None:
            return values
        return zeros(values, self.window.channels, values.shape[2:]).scatter_(
            1, self.channel.view(values.shape), values
        )

    def move(self, values: Tensor, reached: Window, below: Window) -> Windows:
        """The windows one map down.

        Args:
            values: (U, C, [[d',] h',] w') as a step computed them.
            reached: where they lie.
            below: where they shall lie: the same but for a crop, or the whole map in an axis.
        """
        if reached != below:
            for axis, (source, target) in enumerate(zip(reached.axes, below.axes, strict=True)):
                if source.stride == target.stride:
                    values = _shift(values, source.offset - target.offset, target.size, axis + 2)
                else:
                    origin = source.origin(self.positions.place[:, axis])
                    values = place(values, origin, target.length, axis + 2)
        return Windows(values, below, self.positions)

    def clear_overhang(self) -> Windows:
        """Zeroes, in place, what lies outside the map."""
        first, last = self.positions.bounds
        for number, axis in enumerate(self.window.axes):
            if axis.overhangs(first[number], last[number]):
                outside = self.positions.outside(number, axis)
                self.values.masked_fill_(along(outside, number, self.window.rank), 0)
        return self

    def copy(self) -> Windows:
        """The same windows in memory of their own."""
        return replace(self.settle_(), values=self.values.clone())

    def multiply_(self, factor: float | Tensor, nonnegative: bool = False) -> Windows:
        """Multiplies by what can be broadcast to the values, and may be known to have no negative element."""
        self.settle_().values.mul_(factor)
        self.nonnegative = self.nonnegative and nonnegative
        return self

    @classmethod
    def sum(cls, parts: Sequence[Windows], window: Window) -> Windows:
        """What several parts of the signal on one map add up to; may overwrite them.

        Args:
            parts: of the same units.
            window: covers all of theirs.
        """
        first = next((part for part in parts if part.window == window and part.channel is None), None)
        total = zeros(parts[0].values, window.channels, window.size) if first is None else first.dense()
        result = Windows(total, window, parts[0].positions, nonnegative=all(part.nonnegative for part in parts))
        for part in parts:
            if part is not first:
                result._add(part)
        return result

    def _add(self, part: Windows) -> None:
        source, values = part.window, part.dense()
        for number, (axis, target) in enumerate(zip(source.axes, self.window.axes, strict=True)):
            if axis.stride != target.stride:  # the target is the whole map
                values = place(values, axis.origin(self.positions.place[:, number]), target.length, number + 2)
        here = self.values
        for number, (axis, target) in enumerate(zip(source.axes, self.window.axes, strict=True)):
            if axis.stride == target.stride:
                here = here.narrow(number + 2, axis.offset - target.offset, axis.size)
        here.add_(values)

    def whole(self) -> Tensor:
        """The signal on the whole map, (U, C, [[D,] H,] W)."""
        values = self.dense()
        if self.window.is_full:
            return values
        return self.move(values, self.window, Window.full(self.window.shape)).values

    def under(self, map: Tensor) -> Tensor:
        """What one map (1, C, [[D,] H,] W) holds under each window, which can be broadcast to the values."""
        if self.channel is None and self.window.is_full:
            return map
        return self.crop(map, torch.zeros_like(self.positions.image))

    def crop(self, maps: Tensor, image: Tensor | None = None) -> Tensor:
        """What maps hold under each window; the nearest element outside the map.

        Args:
            maps: (N, C, [[D,] H,] W).
            image: (U,) int64, which of them is meant for each unit; by default that of its image.
        """
        image = self.positions.image if image is None else image
        if self.channel is None and self.window.is_full:
            return maps.index_select(0, image)
        rank, origins = self.window.rank, self.positions.origins(self.window)
        places = [
            (origins[:, number, None] + torch.arange(axis.size, device=origins.device)).clamp_(0, axis.length - 1)
            for number, axis in enumerate(self.window.axes)
        ]
        channels = (
            torch.arange(maps.shape[1], device=maps.device)[None] if self.channel is None else self.channel[:, None]
        )
        ones = (1,) * rank
        index = [image.view(-1, 1, *ones), channels.view(*channels.shape, *ones)]
        return maps[(*index, *(along(place, number, rank) for number, place in enumerate(places)))]


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """(U, length) as (U, 1, ...) of `rank` axes, of which one has that length."""
    shape = [len(values), 1, *(1,) * rank]
    shape[axis + 2] = values.shape[1]
    return values.view(shape)


def channels_innermost(maps: Tensor) -> Tensor:
    """(N, C, ...) with all channels of a position together in memory, by its strides also where there is only one."""
    moved = maps.movedim(1, -1).contiguous()
    return moved.view(moved.shape).movedim(-1, 1)


def zeros(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Windows (U, C, *size) of zeros for the units of others, all channels of a position together in memory."""
    return empty((len(like), channels, *size), like.dtype, like.device, True, len(size)).zero_()


def place(values: Tensor, origin: Tensor, length: int, dimension: int) -> Tensor:
    """Puts windows into zero frames along one axis; what does not fit is cut off.

    Args:
        values: (U, C, [[d,] h,] w).
        origin: (U,) int64, where each window begins.
        length: of the frame.
        dimension: that of the axis, from 2.

    Returns:
        `values` with `length` elements along `dimension`, in their memory format.
    """
    index = torch.arange(length, device=origin.device) - origin[:, None]
    outside = (index < 0) | (index >= values.shape[dimension])
    axis, rank = dimension - 2, values.dim() - 2
    size = list(values.shape)
    size[dimension] = length
    index = along(index.clamp_(0, values.shape[dimension] - 1), axis, rank).expand(size)
    if is_channels_last(values, rank):
        placed = values.movedim(1, -1).gather(dimension - 1, index.movedim(1, -1)).movedim(-1, 1)
    else:
        placed = values.gather(dimension, index)
    return placed.masked_fill_(along(outside, axis, rank), 0)


def _shift(values: Tensor, offset: int, length: int, dimension: int) -> Tensor:
    """`place` for windows that all begin at `offset`."""
    start, stop = max(0, -offset), min(values.shape[dimension], length - offset)
    values = values.narrow(dimension, start, stop - start)
    before, after = offset + start, length - (offset + stop)
    if before == 0 and after == 0:
        return values
    return F.pad(values, (*(0, 0) * (values.dim() - 1 - dimension), before, after))
