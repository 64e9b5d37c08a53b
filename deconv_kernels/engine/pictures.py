"""Projections as pictures: one contrast for all that is shown, sheets of them, and a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["Pixels", "Sheet", "embedded", "mosaic", "patches", "sheet", "side_by_side", "with_contrast"]

Pixels = NDArray[np.uint8]

_GREY = 128
_OUTSIDE = 236
_WHITE = 255
_INCHES = 2.4  # of a picture in a sheet
_TITLE = 0.3


def with_contrast(values: Tensor, saturated: float = 0.02) -> Pixels:
    """Turns signed RGB values into pictures, each with a contrast of its own; zero is mid-grey.

    Args:
        values: (U, 3, h, w), any float dtype.
        saturated: the share of each picture's values other than zero, the largest in magnitude, drawn at full contrast.

    Returns:
        uint8 (U, h, w, 3). A picture of zeros is grey.
    """
    pictures = np.empty((len(values), *values.shape[2:], 3), dtype=np.uint8)
    for picture, value in zip(pictures, values.to("cpu", torch.float32).numpy(), strict=True):
        magnitudes = np.abs(value[value != 0])
        rank = max(0, len(magnitudes) - 1 - int(saturated * len(magnitudes)))
        full = np.partition(magnitudes, rank)[rank] if len(magnitudes) else 1.0
        levels = np.rint(value * ((255 - _GREY) / full) + _GREY)
        picture[:] = np.clip(levels, 0, 255).transpose(1, 2, 0)
    return pictures


def patches(images: Tensor, image: Sequence[int], boxes: Sequence[Sequence[int]]) -> Pixels:
    """Cuts receptive fields out of images.

    Args:
        images: uint8 RGB, (N, 3, H, W).
        image: (U,) which image each patch comes from.
        boxes: (U, 4) y0, x0, y1, x1, half open, all of one size; they may overhang the image.

    Returns:
        uint8 (U, h, w, 3), what lies outside the image light.
    """
    if not len(boxes):
        return np.empty((0, 0, 0, 3), dtype=np.uint8)
    height, width = images.shape[2:]
    y0, x0, y1, x1 = boxes[0]
    pictures = np.full((len(boxes), y1 - y0, x1 - x0, 3), _OUTSIDE, dtype=np.uint8)
    for picture, number, (y0, x0, y1, x1) in zip(pictures, image, boxes, strict=True):
        rows, columns = slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width))
        inside = picture[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        inside[:] = images[number, :, rows, columns].permute(1, 2, 0).numpy()
    return pictures


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


class Sheet(Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def sheet(pictures: Sequence[Pixels], titles: Sequence[str], columns: int, title: str = "") -> Sheet:
    """Pictures in a grid, each under a title of its own.

    Args:
        pictures: (h, w, 3) each; at least one.
        titles: one for each.
        columns: how many stand side by side at most.
        title: above all of them.
    """
    columns = min(columns, len(pictures))
    rows = ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    across = _INCHES * max(1.0, width / height)
    figure = Sheet(figsize=(columns * across, rows * (across * height / width + _TITLE) + _TITLE), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11).set_parse_math(False)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if place < len(pictures):
            axes.imshow(pictures[place], interpolation="antialiased")
            axes.set_title(titles[place], fontsize=8).set_parse_math(False)
    return figure


def embedded(picture: Pixels) -> str:
    """A picture (h, w, 3) as an HTML element that holds all of it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
