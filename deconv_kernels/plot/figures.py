"""What the figures of all experiments share: a page with a title and a caption, maps of numbers, and the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.table import Table
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from numpy.typing import ArrayLike, NDArray

from ..data.writing import being_written
from ..terminal import working
from .text import drawable, fallback_families

__all__ = ["heat", "new_figure", "picture", "plain_text", "save"]

_DPI = 150
_POINT = 1 / 72
_TITLE_POINTS = 15
_CAPTION_POINTS = 9.5


def new_figure(title: str, caption: str, width: float, height: float) -> tuple[Figure, SubFigure]:
    """A figure with a title and a caption at its top.

    Args:
        title: what is drawn.
        caption: how, and how it was scaled. Lines of both that are longer than the page are broken.
        width, height: of the drawing below the caption, in inches.

    Returns:
        The figure, for `save`, and its area below the caption, laid out by Matplotlib: `area.subplots(...)`.
    """
    titles, lines = _broken(title, width, 0.62 * _TITLE_POINTS), _broken(caption, width, 0.54 * _CAPTION_POINTS)
    below = 16 + 20 * len(titles)
    head = (below + 6 + 14 * len(lines)) * _POINT
    figure = Figure(figsize=(width, head + height), layout="constrained")
    FigureCanvasAgg(figure)
    top, area = figure.subfigures(2, 1, height_ratios=[head, height], squeeze=False)[:, 0]
    left = 0.2 / width
    top.text(left, 1 - 12 * _POINT / head, "\n".join(titles), fontsize=_TITLE_POINTS, fontweight="bold", va="top")
    style = {"fontsize": _CAPTION_POINTS, "color": "0.25", "linespacing": 1.35}
    top.text(left, 1 - below * _POINT / head, "\n".join(lines), va="top", **style)
    return figure, area


def _broken(text: str, width: float, points: float) -> list[str]:
    """The lines of a text on a page of some width in inches, of characters of some width in points."""
    columns = max(20, int((width - 0.4) / (points * _POINT)))
    return [part for line in drawable(text).splitlines() for part in wrap(line, columns) or [""]]


def picture(axes: Axes, pixels: NDArray[np.uint8], title: str = "") -> None:
    """Shows an image, (h, w, 3) or (h, w) uint8, without axes."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def heat(
    axes: Axes,
    values: ArrayLike,
    edges: Sequence[ArrayLike],
    title: str,
    *,
    limits: tuple[float, float],
    mark: float | None = None,
) -> None:
    """Shows a map of numbers in colour, with a colour bar.

    Args:
        axes: where; the caller sets its limits.
        values: (h, w).
        edges: (h + 1,) and (w + 1,), where rows and columns begin and end.
        title: above it.
        limits: what the ends of the colours stand for.
        mark: a value to point at on the colour bar.
    """
    low, high = limits
    room = 0.0 if high > low else max(abs(low) * 1e-3, 1e-12)
    rows, columns = map(np.asarray, edges)
    drawn = axes.pcolormesh(columns, rows, np.asarray(values), cmap="viridis", vmin=low - room, vmax=high + room)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.04)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_offset_text().set_fontsize(7)
    if mark is not None:
        bar.ax.axhline(mark, color="white", linewidth=2.5)
        bar.ax.axhline(mark, color="black", linewidth=1)
        place = bar.ax.get_yaxis_transform()
        bar.ax.plot(-0.25, mark, ">", color="black", markersize=4, transform=place, clip_on=False)


def plain_text(figure: Figure) -> None:
    """Has all words of a figure drawn as they are.

    Names of files and layers may hold what Matplotlib takes for TeX, and characters that its own font lacks: another
    installed font draws them, or escapes stand for them.

    The numbers at the ticks are written when the figure is drawn, and are not among them.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            named = [label.get_text() for label in axis.get_majorticklabels()]
            if isinstance(axis.get_major_locator(), FixedLocator) and named != [drawable(name) for name in named]:
                axis.set_ticklabels([drawable(name) for name in named])
    tables = [table for table in figure.findobj(Table) if isinstance(table, Table)]
    cells = [cell.get_text() for table in tables for cell in table.get_celld().values()]
    for text in (*figure.findobj(Text), *cells):
        assert isinstance(text, Text)
        words = text.get_text()
        if not words:
            continue
        text.set_parse_math(False)
        if words != drawable(words):
            text.set_text(drawable(words))
        if more := fallback_families(words):
            text.set_fontfamily([*text.get_fontfamily(), *more])


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    plain_text(figure)
    with working("drawing"), being_written(path):
        figure.savefig(path, dpi=_DPI, facecolor="white")
