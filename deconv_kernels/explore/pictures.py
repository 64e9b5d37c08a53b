"""Maps as pictures, and pictures as what a browser shows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.pictures import Pixels, address_of, as_file

__all__ = ["as_png", "colours_of", "contact_sheet", "embedded"]

_LEVELS = 255
_BEND = 0.6  # so that weak activations are seen beside strong ones
# From nothing to the strongest activation, and, for what is below zero, to the weakest.
_POSITIVE = ((13, 15, 20), (74, 45, 36), (178, 87, 38), (246, 165, 66), (255, 241, 205))
_NEGATIVE = ((13, 15, 20), (26, 45, 74), (42, 96, 150), (104, 164, 214), (222, 240, 252))


def colours_of(values: Tensor, most: float) -> Pixels:
    """Activations as colours: nothing is dark, what is above zero glows warm and what is below zero cold.

    Args:
        values: (...), any float dtype.
        most: the magnitude that is drawn brightest.

    Returns:
        uint8 (..., 3). What is not a number is drawn as zero.
    """
    shares = values.to("cpu", torch.float32).nan_to_num(0.0).div(most or 1.0).clamp(-1, 1)
    levels = (shares.abs().pow(_BEND).copysign(shares) * _LEVELS).round().to(torch.int64)
    return _TABLE[levels.numpy() + _LEVELS]


def contact_sheet(maps: Tensor, longest: int, columns: int) -> tuple[Pixels, tuple[int, int]]:
    """All maps of a layer, small and row by row on one picture, with one scale of colours for all.

    Args:
        maps: (C, H, W).
        longest: maps with more rows or columns are made smaller; of what becomes one pixel, the strongest counts.
        columns: how many stand side by side.

    Returns:
        uint8 (rows * h, columns * w, 3), and h and w.
    """
    count, height, width = maps.shape
    size = min(height, longest), min(width, longest)
    small = maps if size == (height, width) else F.adaptive_max_pool2d(maps[None].float(), size)[0]
    most = float(maps.float().nan_to_num(0.0, 0.0, 0.0).abs().max())
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, *size, 3), dtype=np.uint8)
    sheet[:count] = colours_of(small, most)
    tiled = sheet.reshape(rows, columns, *size, 3).transpose(0, 2, 1, 3, 4)
    return tiled.reshape(rows * size[0], columns * size[1], 3), size


def as_png(picture: Pixels) -> bytes:
    """A picture as a file, compressed quickly."""
    return as_file(picture, compress_level=1)


def embedded(picture: Pixels) -> str:
    """A picture as an address that holds it."""
    return address_of(as_png(picture))


def _table() -> Pixels:
    """The colours from -1 to 1."""
    share = np.linspace(0, 1, _LEVELS + 1)
    halves = []
    for stops in (_NEGATIVE, _POSITIVE):
        places = np.linspace(0, 1, len(stops))
        halves.append(np.stack([np.interp(share, places, channel) for channel in np.array(stops).T], axis=1))
    return np.concatenate([halves[0][:0:-1], halves[1]]).round().astype(np.uint8)


_TABLE = _table()
