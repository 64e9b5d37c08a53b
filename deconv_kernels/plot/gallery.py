"""The figures of a gallery: what maps respond to, beside the patches that cause it, and the first layer's filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ..engine.pictures import patches, with_contrast
from ..engine.trace.tape import Tape
from ..experiments.common.files import file_name
from ..experiments.common.responses import describe_field, describe_rectification
from ..experiments.gallery import Gallery, LayerGallery
from ..models import Weights
from ..terminal import watched
from .tiles import MapTiles, draw_filters, draw_maps

__all__ = ["draw_first_filters", "draw_gallery"]


def draw_gallery(
    folder: Path, found: Gallery, tape: Tape, images: Tensor, weights: Weights, model: str, shown: str, chosen: str
) -> None:
    """Draws a figure of every layer.

    Args:
        folder: where to write the PNGs, called by the layers.
        found: what to draw.
        tape: of the network.
        images: uint8 RGB (N, 3, H, W), those of the gallery.
        weights: the network's.
        model: its name.
        shown: what the projections are of, in words.
        chosen: how the maps were.
    """
    for layer in watched(found.layers, "drawing", "figure", None):
        units, boxes = layer.projections.units, layer.projections.boxes.tolist()
        assert units.activation is not None
        activation = units.activation.tolist()
        pictures = with_contrast(weights.preprocessing.to_rgb(layer.projections.windows))
        causes = patches(images, units.image.tolist(), boxes)
        tiles = [
            MapTiles(f"map {channel}", _note(activation[place], found.k), pictures[place], causes[place])
            for channel, place in layer.places.items()
        ]
        lines = [
            f"In each pair, left: {shown}. Right: the patches that caused them.",
            describe_rectification(tape, layer.layer),
            _few_or_dead(layer, found.k),
            f"Receptive field {describe_field(layer.field, layer.window)}. Contrast is normalised per projection: zero "
            "is grey, the largest 2 % of its values saturate. Patches are left light where they leave the crop.",
            f"{chosen} Weights: {weights.source}.",
        ]
        draw_maps(
            folder / f"{file_name(layer.layer)}.png",
            f"{model}, layer {layer.layer}: what {len(tiles)} of its {layer.channels} maps respond to",
            "\n".join(line for line in lines if line),
            tiles,
        )


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


def _note(activations: Sequence[float], k: int) -> str:
    """What stands above a map: the range of its activations, or how few there are."""
    if not activations:
        return "dead: responds in no crop"
    span = f"{_short(activations[0])} to {_short(activations[-1])}"
    if len(activations) == k:
        return f"activations {span}"
    return f"responds in {len(activations)} crop{'s' * (len(activations) > 1)} only: {span}"


def _few_or_dead(layer: LayerGallery, k: int) -> str:
    """For captions: how many maps have fewer units than were asked for, and why; nothing where none has."""
    said = []
    if fewer := layer.fewer(k):
        said.append(f"{_counted(len(fewer))} in fewer than {k} crops")
    if dead := layer.dead():
        said.append(f"{_counted(len(dead))} in none (dead)")
    return f"Shown are responses, activations above zero: {', '.join(said)}." if said else ""


def _counted(maps: int) -> str:
    return "1 map responds" if maps == 1 else f"{maps} maps respond"


def _short(activation: float) -> str:
    return f"{activation:,.0f}" if abs(activation) >= 100 else f"{activation:.3g}"
