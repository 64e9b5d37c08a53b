"""Units of one layer: which scalars of its output are meant."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..terminal import counted

LayerLike = str | nn.Module
_ROWS = 10  # of the table in a notebook
Indices = Tensor | np.ndarray | Sequence[int] | int


AXES = ("z", "y", "x")


class Units:
    """Units of one layer: single scalars of its output.

    Args:
        layer: its name, as in `named_modules()`, or the module itself.
        image, channel: which image of the record, and which map; tensors, arrays, lists, or one number for all.
        y, x: where in the map; without y where images are signals (N, C, L). Units of a linear layer have zeros.
        activation: their activations, if known.
        z: where in depth, where images are volumes (N, C, D, H, W).

    Attributes:
        layer: its name; the module, of units that were made by hand with it.
        image, channel: (U,) int64 on the host.
        z, y, x: the same; units have those that their images have.
        activation: (U,) floating point on the host, or None.

    Indexing with a number, slice, mask or tensor, and `Units.concatenate`, give units again.

    Raises:
        TypeError: indices that are not integers, or no x.
        ValueError: indices that are negative or of different lengths, or z without y.

    Example:
        >>> units = dk.Units("conv5", image=[0, 0, 1], channel=[3, 9, 9], y=6, x=[6, 2, 2])
        >>> units[units.channel == 9].table().tolist()  # image, channel, y, x
        [[0, 1], [9, 9], [6, 6], [2, 2]]
        >>> dk.Units("conv5", image=0, channel=3, z=1, y=6, x=[6, 2]).columns
        ('image', 'channel', 'z', 'y', 'x')
    """

    image: Tensor
    channel: Tensor
    z: Tensor
    y: Tensor
    x: Tensor

    def __init__(
        self,
        layer: LayerLike,
        image: Indices,
        channel: Indices,
        y: Indices | None = None,
        x: Indices | None = None,
        activation: Tensor | np.ndarray | Sequence[float] | float | None = None,
        *,
        z: Indices | None = None,
    ) -> None:
        if x is None:
            raise TypeError("units need x, where in their maps they are; of a linear layer it is 0")
        if z is not None and y is None:
            raise ValueError("units with z need y too")
        given = {"image": image, "channel": channel, "z": z, "y": y, "x": x}
        tensors = {name: as_index(name, column) for name, column in given.items() if column is not None}
        lengths = {name: len(tensor) for name, tensor in tensors.items() if tensor.dim()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{', '.join(tensors)} must have one length, got {lengths}")
        length = next(iter(lengths.values()), 1)
        self.layer: str = layer  # type: ignore[assignment]
        self._table = torch.stack([tensor.expand(length) for tensor in tensors.values()])
        vars(self).update(zip(tensors, self._table, strict=True))
        self.activation = None if activation is None else _activations(activation, length)

    def __getattr__(self, name: str) -> Tensor:
        if name in AXES:
            raise AttributeError(f"these units have no {name}: they are named by {', '.join(self.columns)}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"Units(layer={_shown(self.layer)}, {counted(len(self), 'units')})"

    def _repr_html_(self) -> str:
        names = [*self.columns, *([] if self.activation is None else ["activation"])]
        columns = [getattr(self, name)[:_ROWS].tolist() for name in names]
        lines = [names, *([f"{value:.4g}" for value in row] for row in zip(*columns, strict=True))]
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
        more = f"<p>and {len(self) - _ROWS} more</p>" if len(self) > _ROWS else ""
        return f"<p>{counted(len(self), 'units')} of {escape(_shown(self.layer))}</p><table>{rows}</table>{more}"

    def labels(self) -> list[str]:
        """A line about each, for figures: its map and its image, and its activation if known."""
        known = [""] * len(self) if self.activation is None else [f": {a:.4g}" for a in self.activation.tolist()]
        numbers = zip(self.channel.tolist(), self.image.tolist(), known, strict=True)
        return [f"map {channel}, image {image}{activation}" for channel, image, activation in numbers]

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Units:
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"unit {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        activation = None if self.activation is None else self.activation[index]
        return Units.of_table(self.layer, self._table[:, index], activation)

    @property
    def rank(self) -> int:
        """How many axes the images have in which they are units."""
        return len(self._table) - 2

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the rows of `table`."""
        return columns_of(self.rank)

    def table(self) -> Tensor:
        """image, channel, [[z,] y,] x as the rows of one tensor, (2 + rank, U) int64."""
        return self._table

    @classmethod
    def of_table(cls, layer: LayerLike, table: Tensor, activation: Tensor | None = None) -> Units:
        """The units of a table as `table` makes it, (2 + rank, U) of integers."""
        named: dict[str, Any] = dict(zip(columns_of(len(table) - 2), table, strict=True))
        return cls(layer, activation=activation, **named)

    def of_images(self, image: Indices) -> Units:
        """The same places in other images, (U,)."""
        table = self._table.clone()
        table[0] = as_index("image", image)
        return Units.of_table(self.layer, table, self.activation)

    @classmethod
    def concatenate(cls, parts: Iterable[Units]) -> Units:
        """The units of all parts, in order; their activations too if all have them.

        Raises:
            ValueError: no part, or parts of different layers or of images with different axes.
        """
        parts = list(parts)
        layers = {part.layer for part in parts}
        if len(layers) != 1:
            raise ValueError(f"units of one layer are needed, got {', '.join(sorted(map(_shown, layers)))}")
        columns = {part.columns for part in parts}
        if len(columns) != 1:
            raise ValueError(f"units with the same columns are needed, got {', '.join(map(str, sorted(columns)))}")
        known = [part.activation for part in parts if part.activation is not None]
        activation = torch.cat(known) if len(known) == len(parts) else None
        return cls.of_table(parts[0].layer, torch.cat([part.table() for part in parts], 1), activation)


@functools.cache
def columns_of(rank: int) -> tuple[str, ...]:
    """What a unit is named by in a network whose images have `rank` axes."""
    return ("image", "channel", *AXES[-rank:])


def _shown(layer: LayerLike) -> str:
    return repr(layer) if isinstance(layer, str) else f"{type(layer).__name__}(...)"


def _activations(value: Tensor | np.ndarray | Sequence[float] | float, length: int) -> Tensor:
    tensor = torch.as_tensor(value).detach().cpu()
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if tensor.dim() > 1 or (tensor.dim() == 1 and len(tensor) != length):
        raise ValueError(f"activation must have shape ({length},), got {tuple(tensor.shape)}")
    return tensor.expand(length)


def as_index(name: str, value: Indices) -> Tensor:
    """Indices as an int64 tensor on the host, of one dimension or none."""
    tensor = torch.as_tensor(value)
    if tensor.numel() == 0:
        tensor = tensor.to(torch.int64)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {tensor.dtype}")
    if tensor.dim() > 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(tensor.shape)}")
    tensor = tensor.detach().to("cpu", torch.int64)
    if tensor.numel() and int(tensor.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(tensor.min())}")
    return tensor
