"""Receptive-field arithmetic: the part of every map that one unit can reach, a span along each of its axes.

Walking down a tape, the window of a unit grows step by step, and where paths meet it covers all of theirs. It has one
size for all units of a layer and an origin that is affine in the unit's position; once it would be as large as the map,
or paths of different strides meet, it becomes the whole map.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ..ops.geometry import PerAxis

Shape = tuple[int, ...]


def as_map(shape: Sequence[int], rank: int) -> Shape:
    """The (C, [[D,] H,] W) as which a value of one image counts, in a network whose images have `rank` axes.

    A value with another number of axes is so many channels of one position.
    """
    return tuple(shape) if len(shape) == rank + 1 else (math.prod(shape), *(1,) * rank)


def rank_of(shape: Sequence[int]) -> int:
    """How many axes an image of some shape has, (C, [[D,] H,] W); a row (F,) counts as a map of one position."""
    return len(shape) - 1 if len(shape) > 1 else 2


class Axis(NamedTuple):
    """One axis of a window: the unit at position p covers [p * stride + offset, ... + size) of a map of `length`."""

    length: int
    size: int
    stride: int
    offset: int

    @classmethod
    def unit(cls, length: int) -> Axis:
        """The window of a unit on its own map."""
        return cls(length, 1, 1, 0)

    @classmethod
    def full(cls, length: int) -> Axis:
        """The whole map, for every unit."""
        return cls(length, length, 0, 0)

    @property
    def is_full(self) -> bool:
        """Whether the window is the whole map, for every unit."""
        return self == Axis.full(self.length)

    def slid(self, length: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
        """The window on the input, of `length`, of a sliding step, wherever it reaches; padding included."""
        size = (self.size - 1) * stride + dilation * (kernel - 1) + 1
        return Axis(length, size, self.stride * stride, self.offset * stride - padding)

    def clipped(self) -> Axis:
        """The same window, or the whole map where it is at least as large."""
        return Axis.full(self.length) if self.stride == 0 or self.size >= self.length else self

    def joined(self, other: Axis) -> Axis:
        """The smallest window that covers this one and another on the same map."""
        if self.stride != other.stride:
            return Axis.full(self.length)
        begin = min(self.offset, other.offset)
        end = max(self.offset + self.size, other.offset + other.size)
        return Axis(self.length, end - begin, self.stride, begin).clipped()

    def origin(self, position: Tensor) -> Tensor:
        """Where the windows of units at `position` begin."""
        return position * self.stride + self.offset

    def overhangs(self, first: int, last: int) -> bool:
        """Whether the window of some unit between positions `first` and `last` leaves the map."""
        return first * self.stride + self.offset < 0 or last * self.stride + self.offset + self.size > self.length


class Window(NamedTuple):
    """The window of a layer's units on one map.

    Attributes:
        channels: of the map.
        axes: of the window, in the order z, y, x.
    """

    channels: int
    axes: tuple[Axis, ...]

    @classmethod
    def unit(cls, shape: Shape) -> Window:
        """The window of a unit on its own map of shape (C, [[D,] H,] W)."""
        return cls(shape[0], tuple(map(Axis.unit, shape[1:])))

    @classmethod
    def full(cls, shape: Shape) -> Window:
        """The whole map of shape (C, [[D,] H,] W)."""
        return cls(shape[0], tuple(map(Axis.full, shape[1:])))

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.axes)

    @property
    def shape(self) -> Shape:
        """(C, [[D,] H,] W) of the map."""
        return self.channels, *(axis.length for axis in self.axes)

    @property
    def is_full(self) -> bool:
        """Whether the window is the whole map, for every unit."""
        return all(axis.is_full for axis in self.axes)

    def clipped(self) -> Window:
        """The same window, or the whole map along an axis where it is at least as large."""
        return Window(self.channels, tuple(axis.clipped() for axis in self.axes))

    def joined(self, other: Window) -> Window:
        """The smallest window that covers this one and another on the same map."""
        axes = zip(self.axes, other.axes, strict=True)
        return Window(self.channels, tuple(axis.joined(its) for axis, its in axes))

    @functools.lru_cache(maxsize=1024)  # noqa: B019, a window is a value
    def slid(self, shape: Shape, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis) -> Window:
        """The window on the input, of shape (C, [[D,] H,] W), of a sliding step, wherever it reaches."""
        axes = zip(self.axes, shape[1:], kernel, stride, padding, dilation, strict=True)
        return Window(shape[0], tuple(axis.slid(*along) for axis, *along in axes))

    @property
    def size(self) -> tuple[int, ...]:
        """How many positions the window has along each axis."""
        return tuple([axis.size for axis in self.axes])

    @property
    def elements(self) -> int:
        """How many values one unit's window holds."""
        return self.channels * math.prod(self.size)


class Reaching(Protocol):
    """A step of a tape, as far as receptive fields go."""

    def reaches(self, window: Window, shapes: Sequence[Sequence[int]]) -> tuple[Window | None, ...]:
        """The windows on its inputs, of these shapes, of a window on the output; None where no signal comes."""


def receptive_fields(
    steps: Sequence[Reaching],
    sources: Sequence[Sequence[int]],
    shapes: Sequence[Sequence[int] | None],
    value: int,
    window: Window,
) -> list[Window | None]:
    """The windows on every value below that one window on one value reaches.

    Args:
        steps: of a tape, in order; each makes one value. The first values are the inputs of the tape.
        sources: the numbers of the values that each step reads.
        shapes: of every value, for one image; None where it is not known and not needed.
        value: the number of that value.
        window: on it; that of a unit, or all of it.

    Returns:
        One window for each value up to `value`, which covers all the paths; None where no path leads.
    """
    fields: list[Window | None] = [None] * (value + 1)
    fields[value] = window
    made = zip(range(len(shapes) - len(steps), value + 1), steps, sources, strict=False)
    for number, step, read in reversed(list(made)):
        above = fields[number]
        if above is None:
            continue
        below = [shapes[source] for source in read]
        for source, reached in zip(read, step.reaches(above, below), strict=True):  # type: ignore[arg-type]
            if reached is not None:
                held = fields[source]
                fields[source] = reached if held is None else held.joined(reached)
    return fields
