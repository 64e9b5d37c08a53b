"""The figures of a gallery: what maps respond to, beside the patches that cause it, and the first layer's filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from torch import Tensor, nn

from ..engine.figures import beneath
from ..engine.figures import lines as draw_lines
from ..engine.pictures import patches, planes_inside, slices, with_contrast
from ..engine.trace.tape import Tape
from ..experiments.common.files import file_name
from ..experiments.common.responses import describe_field, describe_rectification
from ..experiments.gallery import Gallery, LayerGallery
from ..models import Weights
from ..terminal import watched
from .figures import new_figure, save
from .tiles import MapTiles, draw_filters, draw_maps

__all__ = ["Drawn", "draw_first_filters", "draw_gallery"]

_SIGNALS_ABREAST = 4
_SIGNAL_INCHES = 3.6


@dataclass(frozen=True)
class Drawn:
    """What the figures of a gallery say, and their colours.

    Attributes:
        model: the network's name.
        weights: where its weights come from.
        one: what an image is called, such as "crop".
        projected: what the projections are of.
        chosen: how the maps were.
        to_rgb: makes RGB of projections, zero into zero.
    """

    model: str
    weights: str
    one: str
    projected: str
    chosen: str
    to_rgb: Callable[[Tensor], Tensor]


def draw_gallery(folder: Path, found: Gallery, tape: Tape, images: Tensor, drawn: Drawn) -> None:
    """Draws a figure of every layer: of images squares, of volumes rows of slices, of signals lines.

    Args:
        folder: where to write the PNGs, called by the layers.
        found: what to draw.
        tape: of the network.
        images: those of the gallery, uint8 RGB (N, 3, [D,] H, W); signals (N, C, L) as the network reads them.
        drawn: its words and colours.
    """
    for layer in watched(found.layers, "drawing", "figure", None):
        path = folder / f"{file_name(layer.layer)}.png"
        title = f"{drawn.model}, layer {layer.layer}: what {len(layer.maps)} of its {layer.channels} maps respond to"
        draw = _draw_lines if images.dim() == 3 else _draw_pictures
        draw(path, title, layer, found.k, _of_layer(layer, tape, found.k, drawn), images, drawn)


def _of_layer(layer: LayerGallery, tape: Tape, k: int, drawn: Drawn) -> list[str]:
    """For captions: whose activations are shown, and what a unit sees."""
    lines = [describe_rectification(tape, layer.layer), _few_or_dead(layer, k, drawn.one)]
    return [*filter(None, lines), f"Receptive field {describe_field(layer.field, layer.window)}."]


def _draw_pictures(
    path: Path, title: str, layer: LayerGallery, k: int, lines: list[str], images: Tensor, drawn: Drawn
) -> None:
    units, boxes = layer.projections.units, layer.projections.boxes.tolist()
    assert units.activation is not None
    activation = units.activation.tolist()
    pictures = with_contrast(drawn.to_rgb(layer.projections.windows))
    causes = patches(images, units.image.tolist(), boxes)
    volumes = images.dim() == 5
    if volumes:
        inside = planes_inside(boxes, images.shape[2])
        pictures, causes = (slices(each, inside=inside) for each in (pictures, causes))
    tiles = [
        MapTiles(f"map {channel}", _note(activation[place], k, drawn.one), pictures[place], causes[place])
        for channel, place in layer.places.items()
    ]
    sliced = " Of volumes some planes are shown, evenly spaced, a row for each." if volumes else ""
    caption = [
        f"In each pair, left: {drawn.projected}. Right: the patches that caused them.{sliced}",
        *lines[:-1],
        f"{lines[-1]} Contrast is normalised per projection: zero is grey, the largest 2 % of its values saturate. "
        f"Patches are left light where they leave the {drawn.one}.",
        f"{drawn.chosen} Weights: {drawn.weights}.",
    ]
    draw_maps(path, title, "\n".join(caption), tiles, *((2, 1) if volumes else ()))


def _draw_lines(
    path: Path, title: str, layer: LayerGallery, k: int, lines: list[str], images: Tensor, drawn: Drawn
) -> None:
    units, boxes, windows = layer.projections.units, layer.projections.boxes.tolist(), layer.projections.windows
    assert units.activation is not None
    activation = units.activation.tolist()
    seen = beneath(images, units.image.tolist(), boxes)
    caption = [
        f"In colour: {drawn.projected}. In grey: what caused them. Every line has a height of its own.",
        *lines,
        f"{drawn.chosen} Weights: {drawn.weights}.",
    ]
    abreast = min(_SIGNALS_ABREAST, len(layer.maps))
    rows = ceil(len(layer.maps) / abreast)
    figure, area = new_figure(title, "\n".join(caption), _SIGNAL_INCHES * abreast, rows * (0.3 * k + 0.4))
    grid = list(area.subplots(rows, abreast, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, (channel, place) in zip(grid, layer.places.items(), strict=False):
        draw_lines(axes, windows[place].cpu(), seen[place])
        axes.set_title(f"map {channel}: {_note(activation[place], k, drawn.one)}", fontsize=8.5)
    save(figure, path)


def draw_first_filters(folder: Path, model: nn.Module, weights: Weights) -> None:
    """Draws the filters of the first convolution, if it reads the photographs' channels together.

    Args:
        folder: where to write the PNG, called by the convolution.
        model, weights: the network, and what belongs to it.
    """
    convolutions = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    first, convolution = next(convolutions, ("", None))
    preprocessing = weights.preprocessing
    if convolution is None or convolution.weight.shape[1] != len(preprocessing.mean):
        return
    maps, _, height, width = convolution.weight.shape
    draw_filters(
        folder / f"{file_name(first)}_filters.png",
        f"{type(model).__name__}, layer {first}: its {maps} filters",
        f"{width}x{height} pixels, drawn as RGB (the network reads {preprocessing.channels}). "
        f"Contrast is normalised per filter: zero is grey. Weights: {weights.source}.",
        preprocessing.to_rgb(convolution.weight),
    )


def _note(activations: Sequence[float], k: int, one: str) -> str:
    """What stands above a map: the range of its activations, or how few there are."""
    if not activations:
        return f"dead: responds in no {one}"
    span = f"{_short(activations[0])} to {_short(activations[-1])}"
    if len(activations) == k:
        return f"activations {span}"
    return f"responds in {len(activations)} {one}{'s' * (len(activations) > 1)} only: {span}"


def _few_or_dead(layer: LayerGallery, k: int, one: str) -> str:
    """For captions: how many maps have fewer units than were asked for, and why; nothing where none has."""
    said = []
    if fewer := layer.fewer(k):
        said.append(f"{_counted(len(fewer))} in fewer than {k} {one}s")
    if dead := layer.dead():
        said.append(f"{_counted(len(dead))} in none (dead)")
    return f"Shown are responses, activations above zero: {', '.join(said)}." if said else ""


def _counted(maps: int) -> str:
    return "1 map responds" if maps == 1 else f"{maps} maps respond"


def _short(activation: float) -> str:
    return f"{activation:,.0f}" if abs(activation) >= 100 else f"{activation:.3g}"
