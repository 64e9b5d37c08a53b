"""The figure of an occlusion experiment, as Fig 7 of the paper has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ..engine.pictures import Pixels, with_contrast
from ..experiments.occlusion import Occlusion
from .figures import heat, new_figure, picture, save
from .text import class_name, layer_name, shortened

__all__ = [
    "Drawn",
    "OccludedImage",
    "draw_occluded_signals",
    "draw_occlusion",
    "draw_occlusions",
    "of_plane",
    "planes_shown",
]

_COLOURS = 9
_PANEL = 2.75
_LEGEND_ROWS = 5
_CUT = 24
_NAME = 30
_PLANES = 5  # of a volume at most, and
_ROWS = 20  # of all volumes, but one of each


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


@dataclass(frozen=True)
class Drawn:
    """What the figure says, and how images are drawn.

    Attributes:
        told: what `deconv-kernels occlusion` writes of its settings.
        classes: their names, from class 0 on.
        filled: what is in the occluder, in words.
        one: what an image is called, such as "crop".
        covered: makes of the number of an image, and the origin and the size of a part, uint8 RGB (3, [D,] H, W) with
            that part hidden; of a signal (C, L) as the network reads it.
        to_rgb: makes RGB of projections, zero into zero.
        remark: a sentence about how images are drawn, or nothing.
    """

    told: Mapping[str, Any]
    classes: Sequence[str]
    filled: str
    one: str
    covered: Callable[[int, Sequence[int], Sequence[int]], Tensor]
    to_rgb: Callable[[Tensor], Tensor]
    remark: str = ""


def draw_occlusions(path: Path, found: Sequence[Occlusion], drawn: Drawn) -> None:
    """Draws the experiment: a row for each image, some planes of volumes, and curves of signals.

    The occluder is drawn on each a quarter of the way down and to the right.

    Args:
        path: the PNG to write.
        found: what became of each image.
        drawn: its words and colours.
    """
    told, first = drawn.told, found[0]
    rank = len(first.size)
    asked, layer = told["asked"], told["layer"]
    what = f"layer {layer} and the answer owe" if told["logits"] else f"layer {layer} owes"
    rectifies = f" Layer {layer} rectifies {asked}." if layer != asked else ""
    remark = f" {drawn.remark}" if drawn.remark else ""
    grid = "x".join(str(len(along)) for along in first.places)
    occluder = {1: "span", 2: "square", 3: "cube"}[rank]
    where = (
        f"over central squares of photographs at {told['size']}x{told['size']}"
        if drawn.one == "crop"
        else (f"{'along' if rank == 1 else 'through'} {drawn.one}s")
    )
    title = f"{told['model']}: what {what} to each part of the {'image' if rank == 2 else drawn.one}"
    unit, cell = ("samples", "point of a curve") if rank == 1 else ("pixels", "cell of a map")
    caption = (
        f"A {occluder} of {'x'.join(map(str, first.size))} {unit}, filled with {drawn.filled}, drawn in (a) at one of "
        f"its {grid} positions, slides {where}{_steps(first, told['stride'], unit)}. "
        f"Every {cell} lies at the middle of the {occluder} it stands for.{rectifies}{remark} "
        f"Weights: {told['weights']}."
    )
    if rank == 1:
        return draw_occluded_signals(path, title, caption, found, drawn)
    rows = [row for number, each in enumerate(found) for row in _rows(each, number, drawn)]
    draw_occlusion(path, title, caption, rows)


def _rows(found: Occlusion, number: int, drawn: Drawn) -> list[OccludedImage]:
    """One row for an image; of a volume one for each of some planes of positions."""
    name = drawn.told["images"][number]
    corner = [int(along[len(along) // 4]) for along in found.places]
    projected = None if found.projection is None else with_contrast(drawn.to_rgb(found.projection[None]))[0]
    if found.planes is None:
        shown = drawn.covered(number, corner, found.size).permute(1, 2, 0).numpy()
        return [OccludedImage(name, shown, found, projected, drawn.classes)]
    rows = []
    for place in planes_shown(found, len(drawn.told["images"])):
        begin = int(found.planes[place])
        plane = begin + found.size[0] // 2
        shown = drawn.covered(number, [begin, *corner[1:]], found.size)[:, plane].permute(1, 2, 0).numpy()
        projection = None if projected is None else projected[plane]
        rows.append(OccludedImage(f"{name}, plane {plane}", shown, of_plane(found, place), projection, drawn.classes))
    return rows


def planes_shown(found: Occlusion, images: int) -> list[int]:
    """Which planes of positions of a volume are drawn, evenly spaced; of many volumes fewer of each."""
    assert found.planes is not None
    count = min(len(found.planes), _PLANES, max(1, _ROWS // images))
    return [int((number + 0.5) * len(found.planes) / count) for number in range(count)]


def of_plane(found: Occlusion, place: int) -> Occlusion:
    """What became of a volume with the occluder at one of its planes, as of an image."""
    by_position = ("activation", "probability", "most_probable", "highest_probability")
    kept: dict[str, Any] = {name: None if (of := getattr(found, name)) is None else of[place] for name in by_position}
    return replace(found, size=found.size[1:], planes=None, **kept)


def _steps(found: Occlusion, stride: int | Sequence[int], unit: str) -> str:
    """How the occluder moves, which of images is the same for rows and columns."""
    if not isinstance(stride, int):
        return f" in steps of {'x'.join(map(str, stride))} {unit}"
    steps = found.places[0].diff().tolist()
    if not steps:
        return ""
    if steps[-1] == stride or len(found.size) == 3:
        return f" in steps of {stride} {unit}"
    return f" in steps of {stride} {unit}, the last of {steps[-1]}" if len(steps) > 1 else f" in a step of {steps[0]}"


def draw_occluded_signals(path: Path, title: str, caption: str, found: Sequence[Occlusion], drawn: Drawn) -> None:
    """Draws the experiment on signals: for each (a) the signal, and by the middle of the span (b) the total activation
    of its strongest map and (d) the probability of the true class; in (c) that map projected back.

    Args:
        path: the PNG to write.
        title, caption: the words above.
        found: what became of each signal.
        drawn: its words and colours.
    """
    panels: list[Callable[[Axes, int], None]] = [lambda axes, number: _draw_signal(axes, found[number], number, drawn)]
    if any(each.activation is not None for each in found):
        panels.append(lambda axes, number: _draw_activations(axes, found[number]))
    if any(each.projection is not None for each in found):
        panels.append(lambda axes, number: _draw_projected(axes, found[number]))
    if any(each.probability is not None for each in found):
        panels.append(lambda axes, number: _draw_probabilities(axes, found[number], drawn.classes))
    caption += " Dashed lines are the clean signal's."
    figure, area = new_figure(title, caption, 9.0, len(found) * len(panels) * 1.1)
    grid = area.subplots(len(found) * len(panels), 1, squeeze=False)[:, 0]
    length = drawn.covered(0, [0], found[0].size).shape[1]
    for place, axes in enumerate(grid):
        number, panel = divmod(place, len(panels))
        panels[panel](axes, number)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, length - 1)
    save(figure, path)


def _draw_signal(axes: Axes, found: Occlusion, number: int, drawn: Drawn) -> None:
    begin, (size,) = int(found.columns[len(found.columns) // 4]), found.size
    axes.plot(drawn.covered(number, [begin], found.size).T.numpy(), color="0.3", linewidth=1)
    axes.axvspan(begin, begin + size - 1, color="0.85", zorder=0)
    axes.set_title(f"(a) {shortened(drawn.told['images'][number], _NAME)}", fontsize=9)


def _draw_activations(axes: Axes, found: Occlusion) -> None:
    layer = shortened(layer_name(found.layer or ""), _CUT)
    _draw_curve(axes, found, found.activation, found.clean_activation)
    axes.set_title(f"(b) {layer}, map {found.map}: total activation", fontsize=9)


def _draw_probabilities(axes: Axes, found: Occlusion, classes: Sequence[str]) -> None:
    _draw_curve(axes, found, found.probability, found.clean_probability)
    if found.label is not None:
        axes.set_title(f"(d) probability of {shortened(class_name(found.label, classes), _CUT)}", fontsize=9)


def _draw_curve(axes: Axes, found: Occlusion, values: Tensor | None, clean: float | None) -> None:
    """Values by the middle of the span, over the whole signal."""
    if values is None or clean is None:
        axes.set_axis_off()
        return
    middles = found.columns + (found.size[0] - 1) / 2
    axes.plot(middles.numpy(), values.numpy(), marker=".", markersize=3, linewidth=1.2)
    axes.axhline(clean, color="0.5", linestyle="--", linewidth=0.8)


def _draw_projected(axes: Axes, found: Occlusion) -> None:
    if found.projection is None:
        axes.set_axis_off()
        return
    axes.plot(found.projection.T.numpy(), linewidth=1)
    count = 0 if found.units is None else len(found.units)
    units = "strongest unit" if count == 1 else f"{count} strongest units"
    axes.set_title(f"(c) its {units} projected", fontsize=9)


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
