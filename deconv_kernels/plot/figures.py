"""What the figures of all experiments share: a page with a title and a caption, maps of numbers, and the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from ..writing import being_written

__all__ = ["heat", "new_figure", "picture", "plain_text", "save"]

_DPI = 150
_POINT = 1 / 72
_CAPTION_POINTS = 9.5


def new_figure(title: str, caption: str, width: float, height: float) -> tuple[Figure, SubFigure]:
    """A figure with a title and a caption at its top.

    Args:
        title: one line.
        caption: what is drawn and how it was scaled; lines longer than the page are broken.
        width, height: of the drawing below the caption, in inches.

    Returns:
        The figure, for `save`, and its area below the caption, laid out by Matplotlib: `area.subplots(...)`.
    """
    columns = max(20, int((width - 0.4) / (0.54 * _CAPTION_POINTS * _POINT)))
    lines = [part for line in caption.splitlines() for part in wrap(line, columns) or [""]]
    head = (42 + 14 * len(lines)) * _POINT
    figure = Figure(figsize=(width, head + height), layout="constrained")
    FigureCanvasAgg(figure)
    top, area = figure.subfigures(2, 1, height_ratios=[head, height], squeeze=False)[:, 0]
    left = 0.2 / width
    top.text(left, 1 - 12 * _POINT / head, title, fontsize=15, fontweight="bold", va="top")
    text = "\n".join(lines)
    top.text(left, 1 - 36 * _POINT / head, text, fontsize=_CAPTION_POINTS, va="top", color="0.25", linespacing=1.35)
    return figure, area


def picture(axes: Axes, pixels: NDArray[np.uint8], title: str = "") -> None:
    """Shows an image, (h, w, 3) or (h, w) uint8, without axes."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def heat(
    axes: Axes,
    values: ArrayLike,
    title: str = "",
    *,
    limits: tuple[float, float] | None = None,
    extent: Sequence[float] | None = None,
    label: str = "",
) -> AxesImage:
    """Shows a map of numbers in colour, with a colour bar.

    Args:
        axes: where.
        values: (h, w).
        title: above it.
        limits: what the ends of the colours stand for; the values' own extremes by default.
        extent: left, right, bottom, top in pixels, for a map that is laid over an image.
        label: what the colours mean, beside the bar.
    """
    low, high = limits or (None, None)
    drawn = axes.imshow(
        np.asarray(values),
        cmap="viridis",
        vmin=low,
        vmax=high,
        extent=None if extent is None else (extent[0], extent[1], extent[2], extent[3]),
        interpolation="nearest",
    )
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)
    return drawn


def plain_text(figure: Figure) -> None:
    """Has all words of a figure drawn as they are: names of files and layers may hold what Matplotlib takes for TeX.

    The numbers at the ticks are written when the figure is drawn, and are not among them.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text():
            text.set_parse_math(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    plain_text(figure)
    with being_written(path):
        figure.savefig(path, dpi=_DPI, facecolor="white")
