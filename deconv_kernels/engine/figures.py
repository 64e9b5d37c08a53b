"""Figures of projections, for whoever wants one without more ado: pictures in a grid, signals as lines.

Loaded where a figure is asked for: `import deconv_kernels` needs torch and NumPy alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .pictures import Pixels

__all__ = ["Sheet", "beneath", "lines", "sheet", "trace", "traces"]

_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")  # of channels, without grey
_INCHES = 2.4  # of a picture
_TITLE = 0.3


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


def traces(maps: Sequence[tuple[Tensor, Tensor | None]], titles: Sequence[str], columns: int, title: str = "") -> Sheet:
    """Signals as lines, those of a map one above the other, under a title of its own.

    Args:
        maps: of each, projections (U, C, w) and what they were seen in, in grey, (U, C, w) or None.
        titles: one for each.
        columns: how many maps stand side by side at most.
        title: above all of them.
    """
    columns = min(columns, len(maps))
    rows = ceil(len(maps) / columns)
    most = max(len(projected) for projected, _ in maps)
    size = (1.6 * _INCHES * columns, rows * (0.3 * most + _TITLE) + _TITLE)
    figure = Sheet(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11).set_parse_math(False)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if place < len(maps):
            lines(axes, *maps[place])
            axes.set_title(titles[place], fontsize=8).set_parse_math(False)
    return figure


def lines(axes: Axes, projected: Tensor, seen: Tensor | None) -> None:
    """Draws signals one above the other, each as high as the gap between two, every channel in a colour of its own.

    Args:
        axes: where.
        projected: (U, C, w).
        seen: what they were seen in, in grey, (U, C, w) or None.
    """
    for number in range(len(projected)):
        if seen is not None:
            centred = seen[number] - seen[number].mean(1, keepdim=True)
            axes.plot(_at_height(centred, -number), color="0.6", linewidth=1)
        for channel, line in enumerate(_at_height(projected[number], -number).T):
            axes.plot(line, color=_COLOURS[channel % len(_COLOURS)], linewidth=1)


def trace(
    axes: Axes, signal: Tensor, frame: tuple[float, float, float, float], scale: Tensor | None = None, **style: Any
) -> None:
    """Draws a signal into a frame of a drawing.

    Args:
        axes: where.
        signal: (C, w), a line for each channel.
        frame: x and y where its first and lowest values lie, and how far it reaches from there, which may be downwards.
        scale: signals (..., w) whose lowest and highest value touch the frame; by default this one's.
        style: of the lines, as `Axes.plot` takes it.
    """
    x, y, width, height = frame
    low, high = (float(end) for end in (signal if scale is None else scale).aminmax())
    values = (signal.detach().double().cpu() - low) / (high - low or 1)
    places = np.linspace(x, x + width, signal.shape[1])
    for channel, line in enumerate((y + height * values).numpy()):
        axes.plot(places, line, **{"color": _COLOURS[channel % len(_COLOURS)], "linewidth": 0.8, **style})


def beneath(signals: Tensor, image: Sequence[int], boxes: Sequence[Sequence[int]]) -> Tensor:
    """What signals (N, C, L) hold in boxes x0, x1, the nearest element outside: (U, C, w), on the host."""
    windows = [
        signals[number][:, torch.arange(start, stop).clamp_(0, signals.shape[2] - 1)]
        for number, (start, stop) in zip(image, boxes, strict=True)
    ]
    return torch.stack(windows).detach().cpu() if windows else signals.new_empty(0, signals.shape[1], 1).cpu()


def _at_height(signal: Tensor, height: float) -> NDArray[np.float64]:
    """The lines of a signal (C, w), as high as the gap between two signals, around a height: (w, C)."""
    values = signal.detach().double().cpu()
    largest = float(values.abs().max())
    return (values / (2 * largest or 1) + height).T.numpy()
