"""Where the units of a walk are, and the one buffer from which their device reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .fields import Window

Bounds = tuple[tuple[int, ...], tuple[int, ...]]


class Origins:
    """Where some windows begin, for any units.

    Args:
        rank: how many axes they have.
        windows: whose origins are asked for.

    Attributes:
        numbers: of the windows, from 1; the places of the units themselves have the number 0.
    """

    def __init__(self, rank: int, windows: Iterable[Window]) -> None:
        self.rank = rank
        self.numbers = {window: number for number, window in enumerate(dict.fromkeys(windows), 1)}
        axes = [window.axes for window in self.numbers]
        self._stride = np.array([[(1,) * rank], *([[axis.stride for axis in of]] for of in axes)], np.int64)
        self._size = [np.ones(rank, np.int64), *(np.array(window.size) for window in self.numbers)]
        self._offset = np.array([[(0,) * rank], *([[axis.offset for axis in of]] for of in axes)], np.int64)

    def __len__(self) -> int:
        return len(self._stride)

    def table(self, place: np.ndarray, out: np.ndarray) -> None:
        """Writes the first position of every unit's windows into (W, U, rank), for units at `place`, (U, rank)."""
        np.multiply(self._stride, place, out=out)
        out += self._offset

    def boxes(self, table: np.ndarray, window: Window) -> Tensor:
        """Where one of the windows begins for every unit and where it ends, half open, (U, 2 * rank) int64."""
        number = self.numbers[window]
        return torch.from_numpy(np.concatenate((table[number], table[number] + self._size[number]), axis=1))


@dataclass(frozen=True)
class Positions:
    """Where the units of one walk are.

    Attributes:
        image: (U,) int64, on the device of the walk.
        table: (W, U, rank) int64, there too: for every window, where it begins for every unit.
        numbers: of the windows in it.
        bounds: the least and the greatest of the units' places along every axis, known on the host.
    """

    image: Tensor
    table: Tensor
    numbers: Mapping[Window, int]
    bounds: Bounds

    @property
    def place(self) -> Tensor:
        """Where the units are in their own maps, (U, rank) int64: [[z,] y,] x."""
        return self.table[0]

    def origins(self, window: Window) -> Tensor:
        """The first position of every unit's window, (U, rank) int64, of one that the plan has foreseen."""
        return self.table[self.numbers[window]]

    def of_units(self, units: slice | Tensor) -> Positions:
        """Those of some of the units; the bounds stay those of all."""
        return Positions(self.image[units], self.table[:, units], self.numbers, self.bounds)


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
        return Positions(self.image, self.table, self.origins.numbers, bounds)
