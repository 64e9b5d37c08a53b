"""Projections as pictures: one contrast for all that is shown, and how pictures are laid side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Pixels",
    "address_of",
    "as_colours",
    "as_file",
    "describe_channels",
    "mosaic",
    "patches",
    "planes_inside",
    "side_by_side",
    "slices",
    "visible",
    "with_contrast",
]

Pixels = NDArray[np.uint8]

_GREY = 128
_OUTSIDE = 236
_WHITE = 255


def with_contrast(values: Tensor, saturated: float = 0.02) -> Pixels:
    """Turns signed RGB values into pictures, each with a contrast of its own; zero is mid-grey.

    Args:
        values: (U, 3, h, w), or (U, 3, d, h, w) of volumes; any float dtype.
        saturated: the share of each picture's values other than zero, the largest in magnitude, drawn at full contrast.

    Returns:
        uint8 (U, h, w, 3) or (U, d, h, w, 3). A picture of zeros is grey.
    """
    pictures = np.empty((len(values), *values.shape[2:], 3), dtype=np.uint8)
    for picture, value in zip(pictures, values.to("cpu", torch.float32).numpy(), strict=True):
        magnitudes = np.abs(value[value != 0])
        rank = max(0, len(magnitudes) - 1 - int(saturated * len(magnitudes)))
        full = np.partition(magnitudes, rank)[rank] if len(magnitudes) else 1.0
        levels = np.rint(value * ((255 - _GREY) / full) + _GREY)
        picture[:] = np.moveaxis(np.clip(levels, 0, 255), 0, -1)
    return pictures


def visible(inputs: Tensor) -> Tensor:
    """Images or volumes as a network takes them, to look at, each from its lowest to its highest value.

    Args:
        inputs: (N, C, [D,] H, W): three channels are red, green and blue, and else their mean is grey; signals and
            rows are returned as they are.

    Returns:
        uint8 RGB (N, 3, [D,] H, W), on the host.
    """
    if inputs.dim() not in (4, 5):
        return inputs
    values = inputs.detach().float().cpu()
    values = values if values.shape[1] == 3 else values.mean(1, keepdim=True).expand(-1, 3, *values.shape[2:])
    low, high = (end(values.flatten(1), 1) for end in (torch.amin, torch.amax))
    spread = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    ones = (1,) * (inputs.dim() - 1)
    return ((values - low.view(-1, *ones)) / spread.view(-1, *ones) * 255).round().to(torch.uint8)


def as_colours(values: Tensor) -> Tensor:
    """Projections (N, C, [D,] H, W) as red, green and blue, zero into zero.

    Three channels are these, and one is grey. Of other numbers of channels the norm over them is, so that what one
    adds and another takes away is seen.
    """
    if values.shape[1] not in (1, 3):
        values = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return values.expand(-1, 3, *values.shape[2:])


def describe_channels(channels: int) -> str:
    """For captions: how as many channels are drawn, a sentence; nothing where that goes without saying."""
    if channels in (1, 3):
        return ""
    return f"Of {channels} channels, what the network sees is drawn as their mean, and projections as their norm."


def patches(images: Tensor, image: Sequence[int], boxes: Sequence[Sequence[int]]) -> Pixels:
    """Cuts receptive fields out of images.

    Args:
        images: uint8 RGB, (N, 3, H, W), or (N, 3, D, H, W) of volumes.
        image: (U,) which image each patch comes from.
        boxes: (U, 2 * rank) [z0,] y0, x0, [z1,] y1, x1, half open, all of one size; they may overhang the image.

    Returns:
        uint8 (U, [d,] h, w, 3), what lies outside the image light.
    """
    rank = images.dim() - 2
    if not len(boxes):
        return np.empty((0, *(0,) * rank, 3), dtype=np.uint8)
    size = [stop - start for start, stop in zip(boxes[0][:rank], boxes[0][rank:], strict=True)]
    pictures = np.full((len(boxes), *size, 3), _OUTSIDE, dtype=np.uint8)
    for picture, number, box in zip(pictures, image, boxes, strict=True):
        axes = list(zip(box[:rank], box[rank:], images.shape[2:], strict=True))
        seen = tuple(slice(max(start, 0), min(stop, length)) for start, stop, length in axes)
        within = tuple(
            slice(part.start - start, part.stop - start) for part, (start, _, _) in zip(seen, axes, strict=True)
        )
        picture[within] = images[number][(slice(None), *seen)].movedim(0, -1).numpy()
    return pictures


def slices(pictures: Pixels, most: int = 5, inside: Sequence[tuple[int, int]] | None = None) -> Pixels:
    """Volumes (U, d, h, w, 3) as pictures (U, H, W, 3): some of their planes, evenly spaced, one beside the other.

    Args:
        pictures: of one size.
        most: planes of each.
        inside: the first plane to show of each, and the one behind the last; by default all.
    """
    _, depth, height, width, _ = pictures.shape
    count = min(depth, most)
    bounds = [(0, depth)] * len(pictures) if inside is None else inside
    rows = np.empty((len(pictures), height, max(0, count * (width + 1) - 1), 3), dtype=np.uint8)
    for row, picture, (start, stop) in zip(rows, pictures, bounds, strict=True):
        row[:] = side_by_side(list(picture[np.linspace(start, stop - 1, count).round().astype(int)]), 1)
    return rows


def planes_inside(boxes: Sequence[Sequence[int]], depth: int) -> list[tuple[int, int]]:
    """Which planes of boxes z0, y0, x0, z1, y1, x1 lie in volumes as deep: the first, and the one behind the last.

    All of a box that lies outside.
    """
    bounds = [(max(0, -box[0]), min(box[3], depth) - box[0], box[3] - box[0]) for box in boxes]
    return [(start, stop) if start < stop else (0, length) for start, stop, length in bounds]


def mosaic(tiles: Pixels, gap: int = 1, columns: int | None = None) -> Pixels:
    """Lays tiles out row by row with light gaps between them.

    Args:
        tiles: uint8 (k, h, w) or (k, h, w, 3).
        gap: pixels between neighbours.
        columns: by default as many as make the page about square.
    """
    count, height, width = tiles.shape[:3]
    columns = columns or ceil(sqrt(count))
    rows = ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles.shape[3:])
    page = np.full(shape, _WHITE, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // columns * (height + gap), place % columns * (width + gap)
        page[y : y + height, x : x + width] = tile
    return page


def side_by_side(pictures: Sequence[Pixels], gap: int) -> Pixels:
    """Pictures (h, w, 3) of one height in a row, so many white pixels apart."""
    spacer = np.full((pictures[0].shape[0], gap, 3), _WHITE, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (spacer, picture)][1:], axis=1)


def as_file(picture: Pixels, kind: str = "png", **options: Any) -> bytes:
    """A picture (h, w, 3) as a file of a format that Pillow knows, with options of its `save`."""
    from PIL import Image  # `import deconv_kernels` needs torch and NumPy alone

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def address_of(file: bytes, kind: str = "png") -> str:
    """The file of a picture as an address that holds it, for pages."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
