"""Where the units of a walk are, and the one buffer from which their device reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .fields import Axis, Window

Bounds = tuple[tuple[int, ...], tuple[int, ...]]


class Origins:
    """Where some windows begin, for any units.

    Args:
        places: how many a unit may have along each axis, from 0.
        windows: whose origins are asked for.

    Attributes:
        rank: how many axes there are.
        numbers: of the windows, from 1; the places of the units themselves have the number 0.
    """

    def __init__(self, places: Sequence[int], windows: Iterable[Window]) -> None:
        self.rank, self._places = len(places), places
        rank = self.rank
        self.numbers = {window: number for number, window in enumerate(dict.fromkeys(windows), 1)}
        axes = [window.axes for window in self.numbers]
        self._stride = np.array([[(1,) * rank], *([[axis.stride for axis in of]] for of in axes)], np.int64)
        self._size = [np.ones(rank, np.int64), *(np.array(window.size) for window in self.numbers)]
        self._offset = np.array([[(0,) * rank], *([[axis.offset for axis in of]] for of in axes)], np.int64)
        self._outside: dict[tuple[int, Axis, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self._stride)

    def table(self, place: np.ndarray, out: np.ndarray) -> None:
        """Writes the first position of every unit's windows into (W, U, rank), for units at `place`, (U, rank)."""
        np.multiply(self._stride, place, out=out)
        out += self._offset

    def boxes(self, table: np.ndarray, window: Window) -> Tensor:
        """Where one of the windows begins for every unit and where it ends, half open, (U, 2 * rank) int64."""
        number = self.numbers[window]
        first = table[number]
        boxes = np.empty((len(first), 2 * self.rank), np.int64)
        boxes[:, : self.rank] = first
        np.add(first, self._size[number], out=boxes[:, self.rank :])
        return torch.from_numpy(boxes)

    def outside(self, number: int, axis: Axis, device: torch.device) -> Tensor:
        """Which positions of a window lie outside the map, for a unit at each of its places along an axis.

        Args:
            number: of the axis.
            axis: of the window, whose origin need not have been foreseen.
            device: of the result.

        Returns:
            (places, size) bool, made once and kept, so that a captured graph may read it.
        """
        key = (number, axis, device)
        if key not in self._outside:
            places = self._places[number]
            index = torch.arange((places - 1) * axis.stride + axis.size, device=device) + axis.offset
            beyond = (index < 0) | (index >= axis.length)
            # Windows of neighbouring places overlap, and so do they in memory.
            self._outside[key] = beyond.as_strided((places, axis.size), (axis.stride, 1))
        return self._outside[key]


@dataclass(frozen=True)
class Positions:
    """Where the units of one walk are.

    Attributes:
        image: (U,) int64, on the device of the walk.
        table: (W, U, rank) int64, there too: for every window, where it begins for every unit.
        foreseen: the windows in it.
        bounds: the least and the greatest of the units' places along every axis, known on the host.
    """

    image: Tensor
    table: Tensor
    foreseen: Origins
    bounds: Bounds

    @property
    def place(self) -> Tensor:
        """Where the units are in their own maps, (U, rank) int64: [[z,] y,] x."""
        return self.table[0]

    def origins(self, window: Window) -> Tensor:
        """The first position of every unit's window, (U, rank) int64, of one that the plan has foreseen."""
        return self.table[self.foreseen.numbers[window]]

    def outside(self, number: int, axis: Axis) -> Tensor:
        """Which positions of every unit's window lie outside the map along an axis of some number, (U, size) bool."""
        return self.foreseen.outside(number, axis, self.table.device)[self.place[:, number]]

    def of_units(self, units: slice | Tensor) -> Positions:
        """Those of some of the units; the bounds stay those of all."""
        return Positions(self.image[units], self.table[:, units], self.foreseen, self.bounds)


class UnitBuffer:
    """What a walk reads of its units, in memory of its device that one copy from the host fills.

    Args:
        origins: of the windows that the walk asks for.
        units: how many there are.
        dtype: of what projections are multiplied by.
        device: of the walk.

    Attributes:
        image, channel: (U,) int64.
        scale: (U,), what the projections are multiplied by.
        table: (W, U, rank) int64, as `Positions` has it.
    """

    def __init__(self, origins: Origins, units: int, dtype: torch.dtype, device: torch.device) -> None:
        self.origins, self.units, self.dtype = origins, units, dtype
        self._of_table = units * len(origins) * origins.rank
        self._memory = torch.zeros(3 * units + self._of_table, dtype=torch.int64, device=device)
        self.image, self.channel, scale, table = self._memory.split_with_sizes([units, units, units, self._of_table])
        self.scale = scale.view(dtype)[:units]
        self.table = table.view(len(origins), units, origins.rank)

    def fill(self, units: np.ndarray, scale: Tensor | None) -> np.ndarray:
        """Writes units into the buffer, without waiting for the device.

        Args:
            units: (2 + rank, U) int64: image, channel, [[z,] y,] x.
            scale: (U,) on the host, if it is known there.

        Returns:
            The table on the host; on the CPU it is the buffer's own.
        """
        count, host, there = self.units, self._memory, self.scale
        if not host.is_cpu:
            # Each time another piece of pinned memory: the copy out of the last one may still be under way.
            host = torch.empty(3 * count + self._of_table, dtype=torch.int64, pin_memory=host.is_cuda)
            there = host[2 * count : 3 * count].view(self.dtype)[:count]
        numbers = host.numpy()
        numbers[: 2 * count].reshape(2, count)[:] = units[:2]
        if scale is not None:
            there.copy_(scale)
        table = numbers[3 * count :].reshape(len(self.origins), count, self.origins.rank)
        if count:  # without any, they may have another rank
            self.origins.table(units[2:].T, table)
        if host is not self._memory:
            self._memory.copy_(host, non_blocking=True)
        return table

    def positions(self, bounds: Bounds) -> Positions:
        """Where the units are that the buffer holds when this is read."""
        return Positions(self.image, self.table, self.origins, bounds)
