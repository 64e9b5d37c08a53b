"""Figures: what maps respond to, and a first layer's filters.

Tiles are composed into one page of pixels in NumPy, every pixel of a tile drawn as a whole number of pixels of the
figure, and Matplotlib only adds the words and writes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..data.writing import being_written
from ..engine.pictures import Pixels, mosaic, side_by_side, with_contrast
from .figures import plain_text

__all__ = ["MapTiles", "draw_filters", "draw_maps"]

_WHITE = 255
_WIDTH_INCHES = 15.0
_LEAST_WIDTH = 2250


@dataclass(frozen=True)
class MapTiles:
    """One map of a figure.

    Args:
        label, note: the words above it, at the left and at the right.
        projections, patches: what stands side by side, uint8 (n, h, w, 3); n may be 0.
    """

    label: str
    note: str
    projections: Pixels
    patches: Pixels


def draw_maps(
    path: Path,
    title: str,
    caption: str,
    maps: Sequence[MapTiles],
    columns: int = 4,
    tiles_abreast: int | None = None,
) -> None:
    """Draws maps in a grid, each as a grid of projections beside the same grid of patches.

    A map with fewer tiles than another leaves the places of the others white.

    Args:
        path: the PNG to write.
        title, caption: the words above the maps; the caption may have several lines.
        maps: tiles of one size.
        columns: how many maps stand side by side at most.
        tiles_abreast: how many tiles of a map do; by default as many as make a square of them.
    """
    side = max(maps[0].projections.shape[1:3])
    factor = max(1, round((112 if tiles_abreast is None else 448) / side))
    gap = max(2, maps[0].projections.shape[1] * factor // 48)
    shape = (max(1, *(len(entry.projections) for entry in maps)), *maps[0].projections.shape[1:])
    blocks = [
        side_by_side(
            [
                mosaic(_enlarge(_filled(tiles, shape), factor), gap, tiles_abreast)
                for tiles in (entry.projections, entry.patches)
            ],
            4 * gap,
        )
        for entry in maps
    ]
    labels = [(entry.label, entry.note) for entry in maps]
    _draw_page(path, title, caption, blocks, labels, min(columns, len(blocks)))


def draw_filters(path: Path, title: str, caption: str, filters: Tensor) -> None:
    """Draws a first layer's filters, contrast per filter, numbered row by row.

    Args:
        path: the PNG to write.
        title, caption: the words above the filters.
        filters: (maps, 3, kernel, kernel), RGB.
    """
    tiles = with_contrast(filters, saturated=0)
    enlarged = _enlarge(tiles, max(1, round(128 / tiles.shape[1])))
    columns = 16 if len(tiles) >= 32 else 8
    labels = [(str(number), "") for number in range(len(tiles))]
    _draw_page(path, title, caption, list(enlarged), labels, min(columns, len(tiles)))


def _filled(tiles: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Tiles of this shape, white after those that there are."""
    filled = np.full(shape, _WHITE, dtype=np.uint8)
    if len(tiles):
        filled[: len(tiles)] = tiles
    return filled


def _enlarge(tiles: Pixels, factor: int) -> Pixels:
    return tiles.repeat(factor, axis=1).repeat(factor, axis=2)


def _draw_page(
    path: Path,
    title: str,
    caption: str,
    blocks: Sequence[Pixels],
    labels: Sequence[tuple[str, str]],
    columns: int,
) -> None:
    """Lays equal blocks out in a grid under a title, with a label at the left and a note at the right above each."""
    height, width, _ = blocks[0].shape
    rows = ceil(len(blocks) / columns)
    gap = max(8, round(0.013 * columns * width))
    page_width = max(columns * (width + gap) + gap, _LEAST_WIDTH)
    inch = page_width / _WIDTH_INCHES
    point = inch / 72
    label_height = round(15 * point)
    longest = int((page_width - 2 * gap) / (0.54 * 9.5 * point))
    caption = "\n".join(part for line in caption.splitlines() for part in wrap(line, longest) or [""])
    head = round((46 + 14 * len(caption.splitlines())) * point)
    page_height = head + rows * (height + label_height + gap)

    figure = Figure(figsize=(page_width / inch, page_height / inch), dpi=inch)
    canvas = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / page_width, 1 - y / page_height, text, **style)

    write(gap, 14 * point, title, fontsize=15, fontweight="bold", va="top")
    write(gap, 38 * point, caption, fontsize=9.5, va="top", color="0.25", linespacing=1.35)
    corners = []
    for place, (label, note) in enumerate(labels):
        y = head + (place // columns) * (height + label_height + gap) + label_height
        x = gap + (place % columns) * (width + gap)
        corners.append((y, x))
        write(x, y - 4 * point, label, fontsize=8.5, va="baseline")
        if note:
            write(x + width, y - 4 * point, note, fontsize=7.5, va="baseline", ha="right", color="0.4")
    plain_text(figure)
    canvas.draw()
    page = np.array(np.asarray(canvas.buffer_rgba())[..., :3])
    for block, (y, x) in zip(blocks, corners, strict=True):
        page[y : y + height, x : x + width] = block
    with being_written(path):
        Image.fromarray(page).save(path, compress_level=2, dpi=(inch, inch))
