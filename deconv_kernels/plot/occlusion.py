"""The figure of an occlusion experiment, as Fig 7 of the paper has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ..engine.pictures import Pixels, with_contrast
from ..experiments.occlusion import Occlusion, colour_of, occluded
from ..models import Weights
from .figures import heat, new_figure, picture, save
from .text import class_name, layer_name, shortened

__all__ = ["OccludedImage", "draw_occlusion", "draw_occlusions"]

_COLOURS = 9
_PANEL = 2.75
_LEGEND_ROWS = 5
_CUT = 24
_NAME = 30


@dataclass(frozen=True)
class OccludedImage:
    """One row of the figure.

    Attributes:
        name: of the image.
        pixels: (H, W, 3), the image with the occluder at one position.
        found: what became of it.
        projection: (H, W, 3), that of the strongest units of the map; None for none.
        classes: the names of the classes, from class 0 on; numbers stand for those beyond.
    """

    name: str
    pixels: Pixels
    found: Occlusion
    projection: Pixels | None = None
    classes: Sequence[str] = ()

    def class_name(self, number: int) -> str:
        """What a class is called."""
        return shortened(class_name(number, self.classes), _CUT)


def draw_occlusions(
    path: Path,
    told: Mapping[str, Any],
    found: Sequence[Occlusion],
    pixels: Tensor,
    classes: Sequence[str],
    weights: Weights,
    colour: float | str | Tensor,
    filled: str,
) -> None:
    """Draws the experiment on photographs, with the square on each a quarter of the way down and to the right.

    Args:
        path: the PNG to write.
        told: what `deconv-kernels occlusion` writes of its settings.
        found: what became of each photograph.
        pixels: uint8 RGB (N, 3, H, W), the photographs.
        classes: their names, from class 0 on.
        weights: the network's.
        colour: of the square, as `occlude` takes it.
        filled: the same in words.
    """
    rows = []
    for each, name, image in zip(found, told["images"], pixels, strict=True):
        paint = weights.deprocess(colour_of(weights.preprocess(image), colour)[:, None, None])
        square = paint.round().clamp(0, 255).to(torch.uint8).expand(-1, *each.size)
        corner = torch.stack([along[len(along) // 4] for along in each.places])
        shown = occluded(image, corner[None], square)[0].permute(1, 2, 0).numpy()
        projection = None
        if each.projection is not None:
            projection = with_contrast(weights.preprocessing.to_rgb(each.projection)[None])[0]
        rows.append(OccludedImage(name, shown, each, projection, classes))
    asked, layer, size, first = told["asked"], told["layer"], told["size"], found[0]
    what = f"layer {layer} and the answer owe" if told["logits"] else f"layer {layer} owes"
    rectifies = f" Layer {layer} rectifies {asked}." if layer != asked else ""
    grid = "x".join(str(len(along)) for along in first.places)
    draw_occlusion(
        path,
        f"{told['model']}: what {what} to each part of the image",
        f"A square of {first.size[0]}x{first.size[1]} pixels, filled with {filled}, drawn in (a) at one of its "
        f"{grid} positions, slides over central squares of photographs at {size}x{size}"
        f"{_steps(first, told['stride'])}. Every cell of a map lies at the middle of the square it stands for."
        f"{rectifies} Weights: {told['weights']}.",
        rows,
    )


def _steps(found: Occlusion, stride: int) -> str:
    """How the square moves, which is the same for rows and columns."""
    steps = found.places[0].diff().tolist()
    if not steps:
        return ""
    if steps[-1] == stride:
        return f" in steps of {stride} pixels"
    return f" in steps of {stride} pixels, the last of {steps[-1]}" if len(steps) > 1 else f" in a step of {steps[0]}"


def draw_occlusion(path: Path, title: str, caption: str, images: Sequence[OccludedImage]) -> None:
    """Draws the experiment on several images, one row for each.

    From left to right: (a) the image; (b) the total activation of its strongest map by position of the occluder; (c)
    that map projected back; (d) the probability of the true class, with the square framed that raises it most if
    hidden; (e) the most probable class. What was not computed
    for any image has no column.

    Args:
        path: the PNG to write.
        title, caption: the words above; how the colours are scaled is added to the caption.
        images: at least one.

    Source: Zeiler & Fergus 2013, Fig 7.
    """
    columns: list[Callable[[Axes, OccludedImage], None]] = [_draw_image]
    scales = []
    if any(image.found.activation is not None for image in images):
        columns.append(_draw_activation)
        scales.append("(b) has a scale of its own in every row" if len(images) > 1 else "")
    if any(image.projection is not None for image in images):
        columns.append(_draw_projection)
    legend = 0.0
    if any(image.found.probability is not None for image in images):
        columns += [
            partial(_draw_probability, limits=_range(images)),
            partial(_draw_classes, coloured=_coloured(images)),
        ]
        legend = 0.19 * _LEGEND_ROWS
        scales.append("(d) has one scale in all rows" if len(images) > 1 else "")
    if scales:
        said = ", ".join(filter(None, scales))
        caption += f" The triangle at a colour bar marks the clean image{f'; {said}' if said else ''}."
    width, height = len(columns) * (_PANEL + 0.5), len(images) * (_PANEL + 0.25 + legend)
    figure, area = new_figure(title, caption, max(width, 7.0), height)
    grid = area.subplots(len(images), len(columns), squeeze=False)
    for row, image in zip(grid, images, strict=True):
        for axes, draw in zip(row, columns, strict=True):
            draw(axes, image)
    save(figure, path)


def _draw_image(axes: Axes, image: OccludedImage) -> None:
    picture(axes, image.pixels, f"(a) {shortened(image.name, _NAME)}")


def _draw_projection(axes: Axes, image: OccludedImage) -> None:
    if image.projection is None:
        axes.set_axis_off()
        return
    count = 0 if image.found.units is None else len(image.found.units)
    units = "its strongest unit" if count == 1 else f"its {count} strongest units"
    picture(axes, image.projection, f"(c) {units} projected")


def _draw_activation(axes: Axes, image: OccludedImage) -> None:
    found = image.found
    if found.activation is None or found.clean_activation is None or found.layer is None:
        axes.set_axis_off()
        return
    layer = shortened(layer_name(found.layer), _CUT)
    title = f"(b) {layer}, map {found.map}: total activation\nclean image {found.clean_activation:.4g}"
    values = found.activation
    limits = (min(float(values.min()), found.clean_activation), max(float(values.max()), found.clean_activation))
    heat(axes, values, found.edges, title, limits=limits, mark=found.clean_activation)
    _in_frame(axes, image)


def _range(images: Sequence[OccludedImage]) -> tuple[float, float]:
    """The lowest and the highest probability of the true classes, of clean and of occluded images."""
    known = [image.found for image in images if image.found.probability is not None]
    values = [float(end) for found in known if found.probability is not None for end in found.probability.aminmax()]
    values += [found.clean_probability for found in known if found.clean_probability is not None]
    return min(values), max(values)


def _draw_probability(axes: Axes, image: OccludedImage, limits: tuple[float, float]) -> None:
    found = image.found
    if found.probability is None or found.label is None:
        axes.set_axis_off()
        return
    title = f"(d) probability of {image.class_name(found.label)}\nclean image {found.clean_probability:.3g}"
    raised = found.raises()[:1]
    if raised:
        title += f", without the framed square {raised[0].probability:.3g}"
    heat(axes, found.probability, found.edges, title, limits=limits, mark=found.clean_probability)
    _in_frame(axes, image)
    for raise_ in raised:
        (y, x), (height, width) = raise_.place, found.size
        axes.add_patch(Rectangle((x, y), width, height, fill=False, linewidth=1.6, edgecolor="#ff3b30"))


def _coloured(images: Sequence[OccludedImage]) -> dict[int, int]:
    """The classes that get a colour of their own in the whole figure: those most probable most often."""
    counts: Counter[int] = Counter()
    for image in images:
        if image.found.most_probable is not None:
            counts.update(image.found.most_probable.flatten().tolist())
    return {number: place for place, (number, _) in enumerate(counts.most_common(_COLOURS))}


def _draw_classes(axes: Axes, image: OccludedImage, coloured: dict[int, int]) -> None:
    found = image.found
    if found.most_probable is None:
        axes.set_axis_off()
        return
    places = [[coloured.get(number, _COLOURS) for number in row] for row in found.most_probable.tolist()]
    colours = ListedColormap([colormaps["tab10"](place) for place in range(_COLOURS + 1)])
    rows, columns = (edges.numpy() for edges in found.edges)
    axes.pcolormesh(columns, rows, np.array(places), cmap=colours, vmin=-0.5, vmax=_COLOURS + 0.5)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    _in_frame(axes, image)
    axes.set_title("(e) most probable class: positions", fontsize=9)
    counts = Counter(found.most_probable.flatten().tolist())
    others = {number: count for number, count in counts.items() if number not in coloured}
    named = [
        (coloured[number], image.class_name(number), count)
        for number, count in counts.most_common()
        if number in coloured
    ]
    if others:
        named.append((_COLOURS, f"{len(others)} others", sum(others.values())))
    handles = [Patch(color=colours(place), label=f"{name}: {count}") for place, name, count in named]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=6.5, ncols=2, frameon=False)


def _in_frame(axes: Axes, image: OccludedImage) -> None:
    """Lays a map by position over the frame of the image."""
    height, width = image.pixels.shape[:2]
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_facecolor("0.9")
