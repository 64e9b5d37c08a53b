"""Occlusion: what a network's activations and its answer owe to each part of an image.

A square of one colour slides over the image, a cube through a volume, a span along a signal; at each of its positions
the network sees the image with that part hidden. Only what it can have changed is computed again.

Source: Zeiler & Fergus 2013, section 4.2 and Fig 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import whole_number
from ...engine.deconvnet import Deconvnet
from ...engine.errors import UnsupportedModule
from ...engine.recompute import Recomputation
from ...terminal import Progress
from ..common.classes import class_count, ends_in_sigmoid
from ..common.files import Parts
from ..common.layers import chosen_layers, classes_of
from ..common.responses import rectifier_of
from ..common.tracing import forward_only, with_way_back
from .findings import Occlusion, Raise, describe_raises, stacked, summary, table
from .occluder import Occluder, colour_of, occluded, positions
from .watched import Classes, WatchedMap, in_windows

__all__ = [
    "Occlusion",
    "Raise",
    "Watch",
    "colour_of",
    "occlude",
    "occluded",
    "positions",
    "stacked",
    "summary",
    "table",
    "watch",
]

_AXES = ("planes", "rows", "columns")


@dataclass(frozen=True)
class Watch:
    """What is watched of a network while its images are occluded.

    Attributes:
        net: the network.
        shapes: of the outputs of all its layers.
        asked: the layer that was named.
        layer: whose strongest map is watched: the rectifier that follows the one named, or that one itself.
        logits: the layer with one value for each class, or None.
        units: how many of the map's strongest units are projected back.
        refusal: why none can be.
    """

    net: Deconvnet
    shapes: Mapping[str, tuple[int, ...]]
    asked: str
    layer: str
    logits: str | None
    units: int
    refusal: UnsupportedModule | None

    def check_labels(self, labels: Sequence[int] | str, probabilities: bool = False) -> None:
        """Refuses classes that the network does not have; ValueError."""
        if self.logits is None and (labels != "predicted" or probabilities):
            raise ValueError("the network does not end in one value for each class, so no class has a probability")
        if not isinstance(labels, str) and self.logits is not None and self.logits in self.shapes:
            classes = class_count(self.shapes[self.logits][0])
            if max(labels) >= classes:
                raise ValueError(f"label must be from 0 to {classes - 1}, got {max(labels)}")

    def remarks(
        self, found: Sequence[Occlusion], names: Sequence[str], classes: Sequence[str], model: str
    ) -> Iterator[str]:
        """For people: what could not be done, and the positions that raise the true class's probability most."""
        if self.refusal is not None:
            yield f"No projection: {self.refusal}"
        if self.logits is None:
            yield f"No probabilities: the output of {model} is not one value for each class."
        for each, name in zip(found, names, strict=True):
            yield from describe_raises(each, name, classes)

    def occlude_each(
        self, images: Tensor, names: Sequence[str], labels: Sequence[int] | None, parts: Parts, **how: Any
    ) -> list[Occlusion]:
        """Slides an occluder over every image.

        Args:
            images: (N, C, H, W) as the network takes them.
            names: what to call them.
            labels: the true classes; by default the most probable ones.
            parts: keeps what is finished, image by image.
            how: as for `occlude`.
        """

        def one(place: int) -> dict[str, Any]:
            label = None if labels is None else labels[place]
            more = {"units": self.units, "label": label, "title": names[place], **how}
            return asdict(occlude(self.net, images[place], self.layer, self.logits, **more))

        return [Occlusion(**parts.get(f"photograph {place}", partial(one, place))) for place in range(len(names))]


def watch(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str] | None = None,
    logits: str | None = None,
    units: int | None = None,
) -> Watch:
    """Chooses what to watch of a network.

    Args:
        model: the network.
        images: (N, C, H, W) as it takes them.
        layers: the one to watch; by default the last that has maps.
        logits: the layer with one value for each class; by default the network's output if it is such a row.
        units: how many units to project back; by default one, or none if the network can only be run forward.

    Raises:
        ValueError: more layers than one, units of a network that can only be run forward, or images that it does not
            take.
    """
    net, refusal = with_way_back(model, images)
    if units is None:
        units = 1 if refusal is None else 0
    elif units > 0 and refusal is not None:
        raise ValueError(f"no projection, leave --units out: {refusal}")
    shapes = net.shapes(images, net.layers)
    asked, *others = (_last_maps(shapes, images.dim() - 2),) if layers is None else chosen_layers(net, layers)
    if others:
        raise ValueError(f"one layer is watched, got {len(others) + 1}: {','.join([asked, *others])}")
    logits = classes_of(net, shapes) if logits is None else logits
    return Watch(net, shapes, asked, rectifier_of(net.tape, asked), logits, units, refusal)


def _last_maps(shapes: Mapping[str, tuple[int, ...]], rank: int) -> str:
    """The last layer whose output is maps of more than one position, or where none is, the last but the output."""
    found = [layer for layer, shape in shapes.items() if len(shape) == rank + 1 and math.prod(shape[1:]) > 1]
    return found[-1] if found else list(shapes)[:-1][-1] if len(shapes) > 1 else next(iter(shapes))


@torch.no_grad()
def occlude(
    model: Deconvnet | nn.Module,
    image: Tensor,
    layer: str | None = None,
    logits: str | None = None,
    *,
    size: int | Sequence[int] = 32,
    stride: int | Sequence[int] = 8,
    fill: float | str | Sequence[float] | Tensor = 0.0,
    cover: bool = True,
    map: int | None = None,
    units: int | None = None,
    label: int | None = None,
    softmax: bool = True,
    max_bytes: int | None = None,
    progress: bool = True,
    title: str = "occluding",
) -> Occlusion:
    """Slides an occluder over an image and watches a map of a layer, the classes, or both.

    What is watched is computed in windows (see `Recomputation`), whose sums are rounded otherwise than those of the
    clean image. `Occlusion.rounding` says what that may do to the probability of the true class. It is measured, not
    proven: the largest change of the log odds where the clean image itself is computed in windows, at up to 9
    positions, counts eight times; added are 16 units in the last place of the largest score (4 where products are
    rounded to fewer than 24 bits).

    Args:
        model: the network, of one input; a `Deconvnet` where several images are looked at, so that it is traced once.
            Only a projection needs rules for the way back.
        image: (C, H, W) as the network takes it; a volume (C, D, H, W), a signal (C, L).
        layer: whose map is watched (the paper: layer 5, rectified; see `rectifier_of`), or whose unit where it has no
            positions; none by default.
        logits: the layer that has one value for each class, usually `net.output`; by default no probabilities. A single
            value tells class 1 from class 0: its sigmoid is the probability of class 1.
        size: of the occluder in pixels, one number, or one for each axis of the image. The paper does not say; 32 is a
            seventh of 224.
        stride: from one position to the next, likewise.
        fill: what the occluder holds: a number, one number for each channel, or "mean", the image's mean in each
            channel. For networks whose input has its mean subtracted, 0 is the grey square of the paper.
        cover: whether positions have to reach the far borders; see `positions`.
        map: the map to watch; by default the one with the greatest total activation in the clean image.
        units: how many of the map's strongest units to project back; 0 for no projection. By default one, or if a part
            of the network has no rule for the way back none, and `Occlusion.unprojected` says why.
        label: the true class; by default the most probable class of the clean image, and class 1 of a single logit.
        softmax: take the softmax of the logits, or the sigmoid of a single one. False for a network whose output is
            probabilities.
        max_bytes: working memory; see `Recomputation`.
        progress: show a progress bar.
        title: what it says.

    Raises:
        TypeError: an image that is not a tensor of the model's dtype; numbers that are not whole.
        ValueError: neither layer nor logits; what does not fit the image or the network; logits that are
            probabilities already; an image, or values of the watched layers, that are not finite.
        UnknownLayer: a layer the network does not have.
        UnsupportedModule: the network cannot be traced, or units are to be projected and a part of it has no rule.

    Source: Zeiler & Fergus 2013, section 4.2 and Fig 7.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 10))
        >>> found = occlude(model, torch.randn(3, 32, 32), "1", "3", size=8, stride=8, progress=False)
        >>> found.probability.shape  # of the true class, by place of the occluder
        torch.Size([4, 4])
    """
    if not isinstance(image, Tensor) or image.dim() not in (2, 3, 4):
        given = tuple(getattr(image, "shape", ()))
        raise ValueError(f"image must be a tensor (C, H, W), (C, D, H, W) or (C, L), got {given}")
    if layer is None and logits is None:
        raise ValueError("nothing to watch: name a layer, or the layer of the logits")
    wanted_units = None if units is None else whole_number("units", units, 0)
    if layer is None or wanted_units == 0:
        net, refusal = forward_only(model, image[None]), None
    else:
        net, refusal = with_way_back(model, image[None])
    if refusal is not None and wanted_units is not None:
        raise refusal
    try:
        net.check_images([image[None]])
    except ValueError as error:
        raise ValueError(f"image must be (C, H, W), or as the network takes images: {error}") from error
    if not bool(image.isfinite().all()):
        raise ValueError("the image holds values that are not finite")
    map = None if map is None else whole_number("map", map)
    label = None if label is None else whole_number("label", label)
    occluder = Occluder(image, size, stride, fill, cover)
    wanted = [name for name in (layer, logits) if name is not None]
    recomputation = Recomputation(net, image, wanted, max_bytes=max_bytes)
    for name in wanted:
        if not bool(recomputation.clean[name].isfinite().all()):
            raise ValueError(f"the values of {name!r} are not finite")
    watched = None if layer is None else WatchedMap(recomputation.clean[layer], layer, map, image.dim() - 1)
    classes = None
    if logits is not None:
        scores = recomputation.clean[logits]
        classes = Classes(scores, logits, softmax, label, already=ends_in_sigmoid(net, logits, scores))
    with Progress(total=len(occluder.origins), desc=title, unit="position", disable=not progress) as bar:
        more: dict[str, object] = _slide(recomputation, occluder, watched, classes, bar)
    if watched is not None:
        more |= {"layer": layer, "map": watched.map, "clean_activation": watched.clean}
        count = 1 if wanted_units is None else wanted_units
        if refusal is not None:
            more["unprojected"] = str(refusal)
        elif count:
            more["units"], more["projection"] = watched.projected(net, image, count)
    if classes is not None:
        more |= {"label": classes.label, "clean_probability": classes.clean}
        more["clean_most_probable"] = classes.most_probable
        again = in_windows(recomputation, image, occluder)
        more["rounding"] = classes.rounding(again[classes.layer])
    more |= dict(zip(_AXES[-len(occluder.axes) :], occluder.axes, strict=True))
    return Occlusion(**{"size": occluder.size, "rows": None, **more})  # type: ignore[arg-type]


def _slide(
    recomputation: Recomputation, occluder: Occluder, watched: WatchedMap | None, classes: Classes | None, bar: Progress
) -> dict[str, object]:
    """What is watched, by the names of `Occlusion`, at all positions of the occluder."""
    found: dict[str, Tensor] = {}
    for places, outputs in recomputation.chunks(occluder.origins, occluder.content):
        values: dict[str, Tensor] = {}
        if watched is not None:
            values["activation"] = watched.totals(outputs[watched.layer])
        if classes is not None:
            values |= classes.answers(outputs[classes.layer])
        for name, value in values.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"under the occluder the {name} is not finite")
            found.setdefault(name, value.new_empty(len(occluder.origins)))[places] = value
        bar.update(len(places))
    return {name: values.view([len(places) for places in occluder.axes]) for name, values in found.items()}
