"""The figure of a network's evolution: one row per map, one column per checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.patches import Rectangle
from torch import Tensor

from ..engine.pictures import patches, with_contrast
from ..experiments.evolution import Evolution
from .figures import new_figure, save

__all__ = ["draw_evolution"]

_JUMP = "#cc3311"
_SILENT = "0.93"
_GAP = 0.12
_WORDS = 0.24


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
        to_rgb: turns projections (U, 3, h, w) from the network's input into RGB.
        pixels: gives images by number as uint8 RGB, (k, 3, H, W).

    Source: Zeiler & Fergus 2013, Fig 4.
    """
    caption += (
        "\nEach row one map, each column one checkpoint: the projection of the map's strongest activation over all "
        "images at that checkpoint.\nContrast is normalised per projection: zero is grey. Below, the activation and "
        "the image's number; red where another image than before became the strongest.\nAt the right the patch behind "
        "the last projection. Silent: the map responds to no image, so that nothing can be projected."
    )
    stages, maps = evolution.stages[layer], evolution.maps[layer]
    jumps, responds = evolution.jumps(layer), evolution.responds(layer)
    columns = len(stages) + 1
    tiles = [with_contrast(to_rgb(stage.windows)) for stage in stages]
    last = stages[-1]
    causes = patches(pixels(last.units.image.tolist()), range(len(maps)), last.boxes.tolist())

    inch = min(1.9, max(1.1, 14.0 / columns))
    height = len(maps) * (1 + _WORDS + _GAP) + _WORDS
    figure, area = new_figure(title, caption, max(9.0, inch * (columns * (1 + _GAP) + 0.5)), inch * height)
    axes = area.subplots(1, 1)
    axes.set_axis_off()
    for column, name in enumerate((*evolution.checkpoints, "patch")):
        size = min(9.0, 9.0 * 22 / len(name))
        axes.text(column * (1 + _GAP) + 0.5, _WORDS * 0.5, name, ha="center", va="center", fontsize=size)
    for row, map_ in enumerate(maps):
        top = _WORDS + row * (1 + _WORDS + _GAP)
        axes.text(-0.08, top + 0.5, f"map {map_}", ha="right", va="center", fontsize=9)
        for column in range(columns):
            left = column * (1 + _GAP)
            stage = min(column, len(stages) - 1)
            if not responds[row, stage]:
                axes.add_patch(Rectangle((left, top), 1, 1, facecolor=_SILENT, edgecolor="none"))
                words = "silent" if column < len(stages) else "no patch"
                axes.text(left + 0.5, top + 0.5, words, ha="center", va="center", fontsize=8, color="0.4")
                continue
            picture = causes[row] if column == len(stages) else tiles[column][row]
            axes.imshow(picture, extent=(left, left + 1, top + 1, top), interpolation="nearest", aspect="equal")
            if column == len(stages):
                continue
            jump = bool(jumps[row, column])
            if jump:
                axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=_JUMP, linewidth=2))
            unit = stages[column].units[row]
            assert unit.activation is not None
            words = f"{unit.activation.item():.3g}, image {unit.image.item()}"
            axes.text(
                left + 0.5, top + 1.1, words, ha="center", va="center", fontsize=7, color=_JUMP if jump else "0.3"
            )
    axes.set_xlim(-0.5, columns * (1 + _GAP))
    axes.set_ylim(height, 0)
    save(figure, path)
