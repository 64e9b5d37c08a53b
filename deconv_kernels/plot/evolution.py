"""The figure of a network's evolution: one row per map, one column per checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..engine.figures import beneath, trace
from ..engine.pictures import patches, planes_inside, slices, with_contrast
from ..experiments.evolution import Evolution
from .figures import new_figure, save

__all__ = ["draw_evolution"]

_JUMP = "#cc3311"
_SILENT = "0.93"
_GAP = 0.12
_WORDS = 0.24
_PLANES = 3
_SIGNAL = 2.0  # times as wide as high

Frame = tuple[float, float, float, float]
"""Left, bottom, width and height of a place in the drawing, whose y goes down."""


def draw_evolution(
    path: Path,
    evolution: Evolution,
    layer: str,
    title: str,
    caption: str,
    to_rgb: Callable[[Tensor], Tensor],
    pixels: Callable[[list[int]], Tensor],
) -> None:
    """Draws the projections of a layer's maps, checkpoint by checkpoint, and at the end the patch behind the last one.

    Args:
        path: the PNG to write.
        evolution: from `evolve`.
        layer: one of its layers.
        title, caption: the words above; what the page shows is added to the caption.
        to_rgb: turns projections (U, C, [d,] h, w) from the network's input into RGB.
        pixels: gives images by number as uint8 RGB, (k, 3, [D,] H, W); signals (k, C, L) as the network reads them.

    Source: Zeiler & Fergus 2013, Fig 4.
    """
    stages, maps = evolution.stages[layer], evolution.maps[layer]
    rank = stages[-1].windows.dim() - 2
    scaled = (
        "Every line has a height of its own" if rank == 1 else "Contrast is normalised per projection: zero is grey"
    )
    caption += (
        "\nEach row one map, each column one checkpoint: the projection of the map's strongest activation over all "
        f"images at that checkpoint.\n{scaled}. Below, the activation and "
        "the image's number; red where another image than before became the strongest.\nAt the right the patch behind "
        "the last projection. Silent: the map responds to no image, so that nothing can be projected."
        + (" Of volumes some planes are shown, evenly spaced." if rank == 3 else "")
    )
    jumps, responds = evolution.jumps(layer), evolution.responds(layer)
    columns = len(stages) + 1
    across, draw = _drawing(evolution, layer, to_rgb, pixels)

    step = across + _GAP
    inch = min(1.9, max(1.1, 14.0 / columns)) / (across**0.5)
    height = len(maps) * (1 + _WORDS + _GAP) + _WORDS
    figure, area = new_figure(title, caption, max(9.0, inch * (columns * step + 0.5)), inch * height)
    axes = area.subplots(1, 1)
    axes.set_axis_off()
    for column, name in enumerate((*evolution.checkpoints, "patch")):
        size = min(9.0, 9.0 * 22 / len(name))
        axes.text(column * step + across / 2, _WORDS * 0.5, name, ha="center", va="center", fontsize=size)
    for row, map_ in enumerate(maps):
        top = _WORDS + row * (1 + _WORDS + _GAP)
        axes.text(-0.08, top + 0.5, f"map {map_}", ha="right", va="center", fontsize=9)
        for column in range(columns):
            left = column * step
            middle = left + across / 2
            if not responds[row, min(column, len(stages) - 1)]:
                axes.add_patch(Rectangle((left, top), across, 1, facecolor=_SILENT, edgecolor="none"))
                words = "silent" if column < len(stages) else "no patch"
                axes.text(middle, top + 0.5, words, ha="center", va="center", fontsize=8, color="0.4")
                continue
            draw(axes, row, column, (left, top + 1, across, -1))
            if column == len(stages):
                continue
            jump = bool(jumps[row, column])
            if jump:
                axes.add_patch(Rectangle((left, top), across, 1, fill=False, edgecolor=_JUMP, linewidth=2))
            unit = stages[column].units[row]
            assert unit.activation is not None
            words = f"{unit.activation.item():.3g}, image {unit.image.item()}"
            axes.text(middle, top + 1.1, words, ha="center", va="center", fontsize=7, color=_JUMP if jump else "0.3")
    axes.set_xlim(-0.5, columns * step)
    axes.set_ylim(height, 0)
    save(figure, path)


def _drawing(
    evolution: Evolution, layer: str, to_rgb: Callable[[Tensor], Tensor], pixels: Callable[[list[int]], Tensor]
) -> tuple[float, Callable[[Axes, int, int, Frame], None]]:
    """How many times as wide as high projections are, and what draws that of a map at a checkpoint, or after the last
    of these the patch behind it, into a frame."""
    stages = evolution.stages[layer]
    last = stages[-1]
    images, boxes = pixels(last.units.image.tolist()), last.boxes.tolist()
    numbers = range(len(images))
    if last.windows.dim() == 3:
        signals = [*(stage.windows for stage in stages), beneath(images, numbers, boxes)]

        def line(axes: Axes, row: int, column: int, frame: Frame) -> None:
            style: dict[str, Any] = {"color": "0.45"} if column == len(stages) else {}
            trace(axes, signals[column][row], frame, **style)

        return _SIGNAL, line
    tiles = [*(with_contrast(to_rgb(stage.windows)) for stage in stages), patches(images, numbers, boxes)]
    if last.windows.dim() == 5:
        within = [planes_inside(stage.boxes.tolist(), images.shape[2]) for stage in (*stages, last)]
        tiles = [slices(each, _PLANES, inside) for each, inside in zip(tiles, within, strict=True)]
    rows, columns = tiles[0].shape[1:3]

    def picture(axes: Axes, row: int, column: int, frame: Frame) -> None:
        left, bottom, width, height = frame
        extent = (left, left + width, bottom, bottom + height)
        axes.imshow(tiles[column][row], extent=extent, interpolation="nearest", aspect="equal")

    return columns / rows, picture
