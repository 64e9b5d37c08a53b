"""Units of one layer: which scalars of its output are meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

LayerLike = str | nn.Module
Indices = Tensor | np.ndarray | Sequence[int] | int


class Units:
    """Units of one layer: single scalars of its output.

    Args:
        layer: its name, as in `named_modules()`, or the module itself.
        image, channel, y, x: which image of the record, which map and where in it; tensors, arrays, lists, or one
            number for all. Units of a linear layer have y = x = 0.
        activation: their activations, if known.

    Attributes:
        layer: its name; the module, of units that were made by hand with it.
        image, channel, y, x: (U,) int64 on the host.
        activation: (U,) floating point on the host, or None.

    Indexing with a number, slice, mask or tensor, and `Units.concatenate`, give units again.

    Raises:
        TypeError: indices that are not integers.
        ValueError: indices that are negative or of different lengths.

    Example:
        >>> units = dk.Units("conv5", image=[0, 0, 1], channel=[3, 9, 9], y=6, x=[6, 2, 2])
        >>> units[units.channel == 9].table().tolist()  # image, channel, y, x
        [[0, 1], [9, 9], [6, 6], [2, 2]]
    """

    def __init__(
        self,
        layer: LayerLike,
        image: Indices,
        channel: Indices,
        y: Indices,
        x: Indices,
        activation: Tensor | np.ndarray | Sequence[float] | float | None = None,
    ) -> None:
        columns = {"image": image, "channel": channel, "y": y, "x": x}
        tensors = {name: as_index(name, column) for name, column in columns.items()}
        lengths = {name: len(tensor) for name, tensor in tensors.items() if tensor.dim()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"image, channel, y and x must have one length, got {lengths}")
        length = next(iter(lengths.values()), 1)
        self.layer: str = layer  # type: ignore[assignment]
        self._table = torch.stack([tensor.expand(length) for tensor in tensors.values()])
        self.image, self.channel, self.y, self.x = self._table
        self.activation = None if activation is None else _activations(activation, length)

    def __repr__(self) -> str:
        return f"Units(layer={_shown(self.layer)}, {len(self)} units)"

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Units:
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"unit {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        activation = None if self.activation is None else self.activation[index]
        return Units(self.layer, self.image[index], self.channel[index], self.y[index], self.x[index], activation)

    def table(self) -> Tensor:
        """image, channel, y and x as the rows of one tensor, (4, U) int64."""
        return self._table

    @classmethod
    def of_table(cls, layer: LayerLike, table: Tensor, activation: Tensor | None = None) -> Units:
        """The units of a table as `table` makes it, (4, U) of integers."""
        image, channel, y, x = table
        return cls(layer, image, channel, y, x, activation)

    @classmethod
    def concatenate(cls, parts: Iterable[Units]) -> Units:
        """The units of all parts, in order; their activations too if all have them.

        Raises:
            ValueError: no part, or parts of different layers.
        """
        parts = list(parts)
        layers = {part.layer for part in parts}
        if len(layers) != 1:
            raise ValueError(f"units of one layer are needed, got {', '.join(sorted(map(_shown, layers)))}")
        known = [part.activation for part in parts if part.activation is not None]
        image, channel, y, x = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("image", "channel", "y", "x")
        )
        activation = torch.cat(known) if len(known) == len(parts) else None
        return cls(parts[0].layer, image, channel, y, x, activation)


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
