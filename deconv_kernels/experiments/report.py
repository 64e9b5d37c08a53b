"""Everything about one network on one set of photographs, for a page: galleries, occlusion, invariance, filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.deconvnet import Deconvnet
from ..engine.projections import Projections
from ..engine.record import Record
from ..engine.units import Units
from .common.files import Parts
from .common.layers import classes_of
from .common.responses import describe_rectification, receptive_field, rectifier_of, strongest_responses
from .filters import Diagnosis, convolutions, diagnose
from .gallery import choose_maps
from .invariance import Invariance, invariance
from .occlusion import Occlusion, occlude

__all__ = ["Report", "make_report"]

_BATCH = 16


@dataclass(frozen=True)
class Report:
    """What was found out about a network.

    Attributes:
        layers: those shown.
        galleries: for each layer the projections of the strongest units of some of its maps that respond, at most k for
            each map, by falling activation. Where a rectifier follows the layer, the units are the rectifier's.
        k: units per map.
        maps: how many maps each layer has.
        chosen: the maps of each layer that are shown. One without units is dead: it responds in no crop.
        fields: the receptive field of each layer, [planes,] [rows,] columns, however large images are; None for all.
        rectification: of each layer, whose activations stand for its, in words; empty where they are its own.
        occlusions: of each image.
        invariance: of all images, at the first and the last of the layers.
        diagnosis: of the first convolution's filters; None of a network without convolutions.
    """

    layers: tuple[str, ...]
    galleries: tuple[Projections, ...]
    k: int
    maps: Mapping[str, int]
    chosen: Mapping[str, tuple[int, ...]]
    fields: Mapping[str, tuple[int, ...] | None]
    rectification: Mapping[str, str]
    occlusions: tuple[Occlusion, ...]
    invariance: Invariance
    diagnosis: Diagnosis | None


@torch.no_grad()
def make_report(
    model: nn.Module,
    crops: Tensor,
    images: Tensor,
    layers: Sequence[str],
    *,
    maps: int = 16,
    k: int = 9,
    seed: int = 0,
    occluder: int | Sequence[int] = 32,
    stride: int | Sequence[int] = 8,
    parts: Parts | None = None,
    progress: bool = True,
) -> Report:
    """Looks at a network in all the ways that one page can show.

    Args:
        model: any network that `Deconvnet` can trace.
        crops: (N, C, [[D,] H,] W) as the model takes them, what the maps' strongest units are looked for in.
        images: (M, C, [[D,] H,] W) as the model takes them, to occlude and to transform.
        layers: whose maps to show, from low to high. The last one's strongest map, rectified if a rectifier follows,
            is watched under the occluder.
        maps: maps per layer, chosen at random.
        k: units per map, at most one per crop; fewer where a map responds in fewer crops, and none if it is dead.
        seed: chooses the maps.
        occluder, stride: side of the square and its step, in pixels, or one for each axis.
        parts: where to keep what is finished, so that an interrupted run goes on.
        progress: show progress bars.

    Raises:
        ValueError: fewer crops than k, no layer, or what does not fit the network.
        UnknownLayer: a layer the model does not have.

    Example:
        >>> layers = (nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        >>> crops = torch.randn(4, 3, 32, 32)
        >>> report = make_report(nn.Sequential(*layers), crops, crops[:1], ["0"], k=2, progress=False)
        >>> report.maps
        {'0': 4}
    """
    if not layers:
        raise ValueError("no layers were given")
    if maps < 1 or k < 1:
        raise ValueError(f"maps and k must be at least 1, got {maps} and {k}")
    if len(crops) < k:
        raise ValueError(f"{len(crops)} crops are too few for the {k} strongest activations, one per crop")
    parts = parts or Parts.nowhere()
    net = Deconvnet(model)
    rectified = {layer: rectifier_of(net.tape, layer) for layer in layers}

    @cache
    def record() -> Record:
        return net.record(crops, list(dict.fromkeys(rectified.values())), batch_size=_BATCH, progress=progress)

    galleries = []
    counts, chosen, fields = {}, {}, {}
    for layer in layers:
        rectifier = rectified[layer]
        looking = partial(_gallery, net, record, layer, rectifier, maps, k, seed, progress)
        plain = parts.get(f"responses of {layer}", looking)
        units = Units.of_table(rectifier, torch.stack(plain["units"]), plain["activation"])
        galleries.append(Projections(units, plain["windows"], plain["boxes"], tuple(plain["shape"])))
        counts[layer], chosen[layer] = plain["maps"], tuple(plain["chosen"])
        fields[layer] = None if plain["field"] is None else tuple(plain["field"])

    logits = None if net.tape.output is None else classes_of(net, net.shapes(images, [net.output]))
    watched = rectifier_of(net.tape, layers[-1])
    occlusions = []
    for number, image in enumerate(images):
        occluding = partial(_occlusion, net, image, watched, logits, occluder, stride, progress)
        occlusions.append(Occlusion(**parts.get(f"occlusion {number}", occluding)))

    moved = invariance(
        net,
        images,
        list(dict.fromkeys((layers[0], layers[-1]))),
        labels=None if logits is None else "predicted",
        parts=parts,
        progress=progress,
    )
    batches = crops.split(_BATCH)
    diagnosed = diagnose(model, batches=batches, progress=progress) if convolutions(model) else ()
    diagnosis = next(iter(diagnosed), None)
    words = {layer: describe_rectification(net.tape, layer) for layer in layers}
    return Report(
        tuple(layers), tuple(galleries), k, counts, chosen, fields, words, tuple(occlusions), moved, diagnosis
    )


def _gallery(
    net: Deconvnet, record: Any, layer: str, rectifier: str, maps: int, k: int, seed: int, progress: bool
) -> dict[str, Any]:
    """Projections of a layer's strongest units that respond, as plain tensors and numbers."""
    kept = record()
    channels = kept.shape(rectifier)[0]
    chosen = choose_maps(layer, channels, maps, seed)
    units = strongest_responses(kept, rectifier, k, chosen)
    found = net.project(kept, units, progress=progress)
    return {
        "units": list(units.table()),
        "activation": units.activation,
        "windows": found.windows.cpu(),
        "boxes": found.boxes.cpu(),
        "shape": list(found.shape),
        "maps": channels,
        "chosen": chosen,
        "field": receptive_field(net.tape, kept, rectifier),
    }


def _occlusion(
    net: Deconvnet,
    image: Tensor,
    layer: str,
    logits: str | None,
    size: int | Sequence[int],
    stride: int | Sequence[int],
    progress: bool,
) -> dict[str, Any]:
    return asdict(occlude(net, image, layer, logits, size=size, stride=stride, progress=progress))
