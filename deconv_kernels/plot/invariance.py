"""The figure of curves: transformed images, and how far their features move (Zeiler & Fergus 2013, Fig 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from ..engine.figures import trace
from ..engine.pictures import Pixels
from ..experiments.invariance import Invariance, Transformation
from .figures import new_figure, save
from .text import class_name, layer_name, shortened

__all__ = ["Examples", "draw_invariance", "examples_of"]


_GAP = 6
_LONGEST = 15
_LAYER = 24
_INCHES = 5.0
_CURVE_INCHES = 2.3
_SHOWN = 5
_NAMED = 8


@dataclass(frozen=True)
class Examples:
    """Transformed images to show.

    Args:
        parameters: K values of the parameter.
        pictures: uint8 (M, K, H, W, 3), the first M images under each, of volumes their middle plane; or of signals
            (M, K, C, L) as the network reads them.
    """

    parameters: Sequence[float]
    pictures: Pixels | Tensor


def examples_of(transformation: Transformation, inputs: Tensor, drawn: Callable[[Tensor], Tensor]) -> Examples:
    """The first images under five of the parameters.

    Args:
        transformation: of images.
        inputs: (N, C, [[D,] H,] W) as the network takes them.
        drawn: makes of them uint8 RGB (N, 3, [D,] H, W), and leaves signals as they are.
    """
    ordered = sorted(transformation.parameters)
    count = min(_SHOWN, len(ordered))
    shown = [ordered[round(place * (len(ordered) - 1) / max(1, count - 1))] for place in range(count)]
    changed = [transformation.apply(inputs[:_SHOWN], parameter).cpu() for parameter in shown]
    if inputs.dim() == 3:
        return Examples(shown, torch.stack(changed, dim=1))
    if inputs.dim() == 5:
        changed = [each[:, :, each.shape[2] // 2] for each in changed]
    # Side by side while they are drawn, so that all of an image have one contrast.
    together = drawn(torch.cat(changed, dim=3)).unflatten(3, (count, -1))
    return Examples(shown, together.permute(0, 3, 2, 4, 1).numpy())


def draw_invariance(
    path: Path,
    title: str,
    caption: str,
    result: Invariance,
    names: Sequence[str],
    examples: Sequence[Examples],
    classes: Sequence[str] = (),
    relative: bool = True,
) -> None:
    """Draws one column per transformation: examples, a row of curves for each layer, and one of probabilities.

    Args:
        path: the PNG to write.
        title, caption: the words above; the meaning of the vertical axes is added to the caption.
        result: of N images.
        names: (N,) what to call the images.
        examples: one for each transformation, all of the same images.
        classes: their names, from class 0 on; numbers stand for those beyond.
        relative: divide distances by the norm of the original image's features.
    """
    measure = (
        "Distances are Euclidean, between the features of the transformed and of the original image, "
        + ("divided by the norm of the original image's features." if relative else "not normalised, as in the paper.")
        + f" One curve per image{'' if len(names) == len(examples[0].pictures) else '; the first images are shown'}."
    )
    with_probability = result.labels is not None
    colours = [colormaps["tab10" if len(names) <= 10 else "turbo"](_place(n, len(names))) for n in range(len(names))]
    shown, columns = examples[0].pictures.shape[:2]
    height, width = _sides(examples[0])
    tiles = _INCHES * (shown * height) / (columns * width)
    curves = len(result.layers) + with_probability
    figure, area = new_figure(
        title, f"{caption}\n{measure}", len(examples) * _INCHES + 1, tiles + 0.3 + curves * _CURVE_INCHES
    )
    axes = area.subplots(
        1 + curves, len(examples), squeeze=False, height_ratios=[tiles + 0.3] + [_CURVE_INCHES] * curves
    )
    for column, (found, example) in enumerate(zip(result.curves, examples, strict=True)):
        transformation = found.transformation
        _draw_examples(axes[0, column], example, names, colours, column == 0)
        axes[0, column].set_title(transformation.name, fontsize=11, pad=16)
        for row, layer in enumerate(result.layers, start=1):
            values = result.relative(found, layer) if relative else found.distances[layer]
            _draw_curves(axes[row, column], transformation.parameters, values, colours)
            axes[row, column].set_ylim(bottom=0)
            if column == 0:
                name = shortened(layer_name(layer), _LAYER)
                label = f"distance / norm, {name}" if relative else f"distance, {name}"
                axes[row, column].set_ylabel(label, fontsize=9)
        if found.probabilities is not None:
            _draw_curves(axes[-1, column], transformation.parameters, found.probabilities, colours)
            axes[-1, column].set_ylim(-0.02, 1.02)
            if column == 0:
                axes[-1, column].set_ylabel("probability of the class", fontsize=9)
        axes[-1, column].set_xlabel(f"{transformation.name} ({transformation.unit})", fontsize=9)
    if result.labels is not None:
        labels = [shortened(class_name(label, classes), _LAYER) for label in result.labels[:_NAMED]]
        axes[-1, -1].legend(axes[-1, -1].lines[:_NAMED], labels, loc="best", fontsize=6.5, framealpha=0.6)
    if len(names) > shown:
        lines = [axes[1, 0].lines[n] for n in range(len(names))]
        area.legend(
            lines, [shortened(name, _LONGEST) for name in names], loc="outside lower center", ncols=6, fontsize=7
        )
    save(figure, path)


def _sides(examples: Examples) -> tuple[int, int]:
    """Rows and columns of a picture; signals are drawn half as high as wide."""
    pictures = examples.pictures
    return (120, 240) if isinstance(pictures, Tensor) else pictures.shape[2:4]


def _place(number: int, count: int) -> float | int:
    return number if count <= 10 else number / (count - 1)


def _draw_curves(axes: Axes, parameters: Sequence[float], values: Tensor, colours: Sequence[object]) -> None:
    """One curve per row of values, in the order of the parameters' size."""
    order = np.argsort(parameters)
    for curve, colour in zip(values.numpy(), colours, strict=True):
        axes.plot(np.asarray(parameters)[order], curve[order], color=colour, linewidth=1.4, marker=".", markersize=3)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_examples(
    axes: Axes, examples: Examples, names: Sequence[str], colours: Sequence[object], named: bool
) -> None:
    """Images in rows, under their parameters; a bar in the colour of the image's curve begins each row."""
    pictures = examples.pictures
    shown, columns = pictures.shape[:2]
    height, width = _sides(examples)
    gap = max(1, width * _GAP // 224)
    page = np.full((shown * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    places = [(place, place[0] * (height + gap), place[1] * (width + gap)) for place in np.ndindex(shown, columns)]
    if not isinstance(pictures, Tensor):
        for place, y, x in places:
            page[y : y + height, x : x + width] = pictures[place]
    axes.imshow(page, interpolation="antialiased")
    if isinstance(pictures, Tensor):
        for place, y, x in places:
            trace(axes, pictures[place], (x, y + height, width, -height), pictures[place[0]])
    for row, (name, colour) in enumerate(zip(names, colours, strict=False)):
        if row == shown:
            break
        top = row * (height + gap)
        axes.plot([-2 * gap, -2 * gap], [top, top + height - 1], color=colour, linewidth=4, solid_capstyle="butt")
        if named:
            axes.text(
                -4 * gap,
                top + height / 2,
                shortened(name, _LONGEST),
                fontsize=8,
                rotation=0 if isinstance(pictures, Tensor) else 90,
                ha="right",
                va="center",
                color=colour,
            )
    for column, parameter in enumerate(examples.parameters):
        middle = column * (width + gap) + width / 2
        axes.text(middle, -2 * gap, f"{parameter:g}", fontsize=8, ha="center", va="bottom", color="0.35")
    axes.set_xlim(-5 * gap, page.shape[1])
    axes.set_axis_off()
