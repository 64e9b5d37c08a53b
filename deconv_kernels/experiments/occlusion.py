"""Occlusion: what a network's activations and its answer owe to each part of an image.

A square of one colour slides over the image, a cube through a volume, a span along a signal; at each of its positions
the network sees the image with that part hidden. Only what it can have changed is computed again.

Source: Zeiler & Fergus 2013, section 4.2 and Fig 7.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import whole_number
from ..engine.deconvnet import Deconvnet
from ..engine.errors import UnsupportedModule
from ..engine.recompute import Recomputation
from ..engine.units import AXES, Units
from ..terminal import Progress
from .common.classes import class_count, class_to_follow, ends_in_sigmoid, log_odds, probabilities
from .common.files import Parts
from .common.layers import chosen_layers, classes_of
from .common.responses import rectifier_of
from .common.tracing import forward_only, with_way_back

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

# Rounding is measured at so many positions, at which the clean image is computed again in windows. What is found counts
# so many times, for it is a sample.
_MEASURED = 9
_TIMES = 8
_LISTED = 10


@dataclass(frozen=True)
class Raise:
    """A position at which hiding a part of the image makes the true class more probable, by more than rounding may.

    Attributes:
        y, x: of the square's first pixel; no y in a signal.
        probability: of the class there.
        gain: by how much that is more than for the clean image.
        z: of the cube's first pixel in a volume.
    """

    y: int | None
    x: int
    probability: float
    gain: float
    z: int | None = None

    @property
    def place(self) -> tuple[int, ...]:
        """[[z,] y,] x."""
        return tuple(at for at in (self.z, self.y, self.x) if at is not None)


@dataclass(frozen=True)
class Occlusion:
    """What became of one image under an occluder at R x K positions. Parts that were not asked for are None.

    In a volume it is at Z x R x K positions, in a signal at K, and tensors by position have these shapes.

    Attributes:
        size: rows and columns of the occluder, with the planes of one in a volume; the length of one in a signal.
        rows, columns: (R,) and (K,) int64, where its first pixel was; no rows in a signal.
        layer: whose strongest map was watched.
        map: the number of that map.
        activation: (R, K) float64, its total activation.
        clean_activation: that of the clean image.
        units: (U, rank) int64, [[z,] y,] x of the map's strongest units.
        projection: of the image's shape, these units projected back to the image and added up.
        label: the true class.
        probability: (R, K) float64, that of the true class.
        clean_probability: that of the clean image.
        most_probable: (R, K) int64, the most probable class.
        highest_probability: (R, K) float64, that of the most probable class.
        clean_most_probable: the most probable class of the clean image.
        rounding: by how much rounding alone may raise the probability of the true class above that of the clean image;
            see `occlude`.
        unprojected: why there is no projection although one was to be made.
        planes: (Z,) int64, where its first pixel was in a volume.
    """

    size: tuple[int, ...]
    rows: Tensor | None
    columns: Tensor
    layer: str | None = None
    map: int | None = None
    activation: Tensor | None = None
    clean_activation: float | None = None
    units: Tensor | None = None
    projection: Tensor | None = None
    label: int | None = None
    probability: Tensor | None = None
    clean_probability: float | None = None
    most_probable: Tensor | None = None
    highest_probability: Tensor | None = None
    clean_most_probable: int | None = None
    rounding: float = torch.finfo(torch.float32).eps
    unprojected: str | None = None
    planes: Tensor | None = None

    @property
    def places(self) -> tuple[Tensor, ...]:
        """Where its first pixel was along every axis, [[planes,] rows,] columns."""
        return tuple(each for each in (self.planes, self.rows, self.columns) if each is not None)

    @property
    def edges(self) -> tuple[Tensor, ...]:
        """Where the cells of a map by position begin and end, (R + 1,) and (K + 1,) float64 in pixels of the image.

        They meet halfway between the middles of neighbouring squares, and the outermost reach as far to the other side.
        A row or column of one position has the square's own extent.
        """
        return tuple(_edges(places, size) for places, size in zip(self.places, self.size, strict=True))

    def place_of(self, position: Sequence[int]) -> tuple[int, ...]:
        """Where the occluder's first pixel was at a position by its numbers along every axis."""
        return tuple(int(places[number]) for places, number in zip(self.places, position, strict=True))

    def raises(self, by: float = 0.0) -> list[Raise]:
        """The positions at which the true class is more probable than in the clean image, the greatest gain first.

        Args:
            by: what the probability has to gain at least; more than `rounding` in any case.

        Raises:
            ValueError: no probabilities were computed.
        """
        if self.probability is None or self.clean_probability is None:
            raise ValueError("no probabilities were computed: name the layer of the logits")
        gain = self.probability - self.clean_probability
        found = []
        for position in map(tuple, ((gain > self.rounding) & (gain >= by)).nonzero().tolist()):
            place: dict[str, Any] = {
                "y": None,
                **dict(zip(AXES[-len(position) :], self.place_of(position), strict=True)),
            }
            found.append(Raise(probability=float(self.probability[position]), gain=float(gain[position]), **place))
        return sorted(found, key=lambda position: -position.gain)

    def numbers(self) -> dict[str, Any]:
        """All that is no tensor, and the positions that raise the probability, as JSON takes them."""
        scalars = {key: value for key, value in asdict(self).items() if not isinstance(value, Tensor | None)}
        if self.probability is None:
            return scalars
        raises = [{key: value for key, value in asdict(each).items() if value is not None} for each in self.raises()]
        return scalars | {"raises": raises}


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
            yield from _describe_raises(each, name, classes)

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


def table(found: Sequence[Occlusion], names: Sequence[str]) -> tuple[list[str], Iterator[list[Any]]]:
    """Every position of every image under a head; `names` of the images."""
    columns = ("activation", "probability", "most_probable", "highest_probability")
    measured = [name for name in columns if getattr(found[0], name) is not None]
    rows = (
        [name, *each.place_of(position), *(getattr(each, column)[position].item() for column in measured)]
        for each, name in zip(found, names, strict=True)
        for position in itertools.product(*(range(len(places)) for places in each.places))
    )
    return ["image", *AXES[-len(found[0].places) :], *measured], rows


def stacked(found: Sequence[Occlusion]) -> dict[str, Any]:
    """The tensors of all images, by the names of `Occlusion`."""
    kept = [field.name for field in fields(found[0]) if isinstance(getattr(found[0], field.name), Tensor)]
    return {name: np.stack([getattr(each, name).numpy() for each in found]) for name in kept}


def summary(found: Sequence[Occlusion], names: Sequence[str], classes: Sequence[str]) -> list[tuple[object, ...]]:
    """For people, one line for each image: where the map and the true class suffer most."""
    where = f"at {','.join(AXES[-len(found[0].places) :])}"
    head = ("photograph", "map", "activation", "lowest", where)
    with_classes = found[0].probability is not None
    rows: list[tuple[object, ...]] = [(*head, "class", "probability", "lowest", where) if with_classes else head]
    for each, name in zip(found, names, strict=True):
        assert each.activation is not None
        row: tuple[object, ...] = (name, each.map, f"{each.clean_activation:.4g}", *_lowest(each, each.activation))
        if each.probability is not None and each.label is not None:
            lowest = _lowest(each, each.probability)
            row += (_class_name(each.label, classes), f"{each.clean_probability:.4g}", *lowest)
        rows.append(row)
    return rows


def _lowest(found: Occlusion, values: Tensor) -> tuple[str, str]:
    """The lowest value and its position."""
    position = [int(number) for number in torch.unravel_index(values.argmin(), values.shape)]
    return f"{values.min():.4g}", ",".join(map(str, found.place_of(position)))


def _class_name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)


def _describe_raises(found: Occlusion, name: str, classes: Sequence[str]) -> list[str]:
    if found.probability is None or found.label is None:
        return []
    raises = found.raises()
    lines = [
        f"{name}: {len(raises)} of {found.probability.numel()} positions make class "
        f"{_class_name(found.label, classes)} more probable (by more than {found.rounding:.1g}, which may be rounding)"
    ]
    lines += [
        f"  at {','.join(map(str, each.place))} by {each.gain:.3g}, to {each.probability:.4g}"
        for each in raises[:_LISTED]
    ]
    return lines


def positions(length: int, size: int, stride: int, cover: bool = True) -> Tensor:
    """Where the occluder begins along one axis.

    Args:
        length: of the image.
        size: of the occluder.
        stride: from one position to the next, in pixels.
        cover: end with a position that touches the far border, however near to the one before, so that every pixel is
            hidden at some position if the stride is not above the size. Else all positions are multiples of the stride.

    Returns:
        (R,) int64, rising; the occluder is wholly inside the image at each.

    Raises:
        ValueError: a size or stride below 1, or an occluder larger than the image.
    """
    if size < 1 or stride < 1:
        raise ValueError(f"size and stride of the occluder must be at least 1, got {size} and {stride}")
    if size > length:
        raise ValueError(f"the occluder of {size} pixels is larger than the image of {length}")
    places = list(range(0, length - size + 1, stride))
    if cover and places[-1] != length - size:
        places.append(length - size)
    return torch.tensor(places)


def occluded(image: Tensor, origins: Tensor, content: Tensor) -> Tensor:
    """Copies of an image, each with one rectangle replaced.

    Args:
        image: (C, [[D,] H,] W).
        origins: (P, rank) integers, [[z,] y,] x of the rectangles' first pixels; they may overhang the image.
        content: (C, [[d,] h,] w).

    Returns:
        (P, C, [[D,] H,] W).
    """
    images = image.repeat(len(origins), *[1] * image.dim())
    for copy, origin in zip(images, origins.tolist(), strict=True):
        axes = zip(origin, content.shape[1:], image.shape[1:], strict=True)
        bounds = [(begin, max(begin, 0), min(begin + size, length)) for begin, size, length in axes]
        if all(first < stop for _, first, stop in bounds):
            inside = (slice(None), *(slice(first - begin, stop - begin) for begin, first, stop in bounds))
            copy[(slice(None), *(slice(first, stop) for _, first, stop in bounds))] = content[inside]
    return images


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
    net, refusal = (forward_only(model), None) if layer is None or wanted_units == 0 else with_way_back(model)
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
    rank = image.dim() - 1
    sizes, strides = _per_axis("size", size, rank), _per_axis("stride", stride, rank)
    axes = [positions(*along, cover) for along in zip(image.shape[1:], sizes, strides, strict=True)]
    content = colour_of(image, fill).view(-1, *[1] * rank).expand(-1, *sizes)
    wanted = [name for name in (layer, logits) if name is not None]
    recomputation = Recomputation(net, image, wanted, max_bytes=max_bytes)
    for name in wanted:
        if not bool(recomputation.clean[name].isfinite().all()):
            raise ValueError(f"the values of {name!r} are not finite")
    grid = tuple(len(each) for each in axes)
    found: dict[str, Tensor] = {}
    watched = None if layer is None else _Watched(recomputation.clean[layer], layer, map, rank)
    classes = None
    if logits is not None:
        scores = recomputation.clean[logits]
        classes = _Classes(scores, logits, softmax, label, already=ends_in_sigmoid(net, logits, scores))
    origins = torch.stack(torch.meshgrid(axes, indexing="ij"), -1).view(-1, rank)
    with Progress(total=len(origins), desc=title, unit="position", disable=not progress) as bar:
        for places, outputs in recomputation.chunks(origins, content):
            values: dict[str, Tensor] = {}
            if watched is not None:
                values["activation"] = watched.totals(outputs[watched.layer])
            if classes is not None:
                values |= classes.answers(outputs[classes.layer])
            for name, value in values.items():
                if not bool(value.isfinite().all()):
                    raise ValueError(f"under the occluder the {name} is not finite")
                found.setdefault(name, value.new_empty(len(origins)))[places] = value
            bar.update(len(places))
    more: dict[str, object] = {name: values.view(grid) for name, values in found.items()}
    if watched is not None:
        more |= {"layer": layer, "map": watched.map, "clean_activation": watched.clean}
        count = 1 if wanted_units is None else wanted_units
        if refusal is not None:
            more["unprojected"] = str(refusal)
        elif count:
            more["units"], more["projection"] = _projected(net, image, watched, count)
    if classes is not None:
        more |= {"label": classes.label, "clean_probability": classes.clean}
        more["clean_most_probable"] = classes.most_probable
        again = _in_windows(recomputation, image, origins, sizes)
        more["rounding"] = classes.rounding(again[classes.layer])
    more |= dict(zip(_AXES[-rank:], axes, strict=True))
    return Occlusion(**{"size": sizes, "rows": None, **more})  # type: ignore[arg-type]


class _Watched:
    """The map of a layer whose total activation is recorded.

    Args:
        maps: of the clean image.
        layer: their name.
        map: which of them, or None for the strongest.
        rank: how many axes the image has.
    """

    def __init__(self, maps: Tensor, layer: str, map: int | None, rank: int) -> None:
        if maps.dim() not in (1, rank + 1):
            raise ValueError(f"a layer of maps is needed, but {layer!r} has values of shape {tuple(maps.shape)}")
        maps = maps.reshape(len(maps), *(maps.shape[1:] or (1,) * rank))  # a row counts as maps of one position
        if map is not None and not 0 <= map < len(maps):
            raise ValueError(f"map of {layer!r} must be from 0 to {len(maps) - 1}, got {map}")
        self.rank = rank
        totals = self._sums(maps)
        self.layer, self.map = layer, int(totals.argmax()) if map is None else map
        self.clean, self.maps = float(totals[self.map]), maps

    def _sums(self, maps: Tensor) -> Tensor:
        return maps.double().flatten(-self.rank).sum(-1).cpu()

    def totals(self, maps: Tensor) -> Tensor:
        """Of maps (n, C, H, W), or rows (n, C): (n,)."""
        return self._sums(maps.reshape(-1, *self.maps.shape)[:, self.map])

    def strongest(self, count: int) -> Units:
        """The map's strongest units, at most as many as it has."""
        values = self.maps[self.map].flatten()
        strength, place = values.sort(descending=True, stable=True)
        strength, place = strength[:count], place[:count]
        places = torch.unravel_index(place, self.maps.shape[1:])
        image, channel = torch.zeros_like(place), torch.full_like(place, self.map)
        return Units.of_table(self.layer, torch.stack([image, channel, *places]), strength)


class _Classes:
    """The classes whose probabilities are recorded.

    Args:
        scores: of the clean image.
        layer: their name.
        logits: whether they are, or are probabilities.
        label: the true class, or None for the one to follow.
        already: whether they are known to be probabilities.
    """

    def __init__(self, scores: Tensor, layer: str, logits: bool, label: int | None, already: bool) -> None:
        self.layer, self.logits, self.scores = layer, logits, scores[None].flatten(1)
        if scores.numel() != len(scores):
            raise ValueError(f"one value for each class is needed, but {layer!r} has the shape {tuple(scores.shape)}")
        one = len(scores) == 1
        adds_up = bool((scores >= 0).all()) and abs(float(scores.double().sum()) - 1) < 1e-4
        if logits and (already or (adds_up and not one)):
            raise ValueError(f"the values of {layer!r} are probabilities already; pass softmax=False (--probabilities)")
        if not logits and not (0 <= float(scores.sum()) <= 1 if one else adds_up):
            needed = "be from 0 to 1" if one else "be at least 0 and add up to 1"
            raise ValueError(f"the values of {layer!r} are no probabilities: they must {needed}")
        count = class_count(len(scores))
        if label is not None and not 0 <= label < count:
            raise ValueError(f"label must be from 0 to {count - 1}, got {label}")
        clean = probabilities(self.scores, logits)[0]
        self.most_probable = int(clean.argmax())
        self.label = class_to_follow(self.scores[0]) if label is None else label
        self.clean = float(clean[self.label])
        self.largest = float(scores.abs().max())

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Of scores (n, classes), what becomes of them: (n,) each."""
        self.largest = max(self.largest, float(scores.abs().max()))
        found = probabilities(scores.flatten(1), self.logits)
        highest, most_probable = found.max(1)
        return {"probability": found[:, self.label], "most_probable": most_probable, "highest_probability": highest}

    def rounding(self, again: Tensor) -> float:
        """By how much rounding alone may raise the label's probability above the clean one.

        Args:
            again: scores (n, classes) of the clean image as they come out of windows.
        """
        clean = log_odds(self.scores, self.label, self.logits)
        spread = (log_odds(again.flatten(1), self.label, self.logits) - clean).abs().max()
        largest = self.largest if self.logits else float(clean.abs())
        reached = torch.sigmoid(clean + _TIMES * spread + _resolution(again) * largest)
        return float((reached - torch.sigmoid(clean)).clamp(min=torch.finfo(torch.float64).eps))


def _resolution(scores: Tensor) -> float:
    """What rounding may do to a network's scores whatever windows they come from, as a share of the largest."""
    exact = scores.dtype in (torch.float32, torch.float64)
    if scores.is_cuda and scores.dtype == torch.float32:
        convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        if "tf32" in (convolutions, torch.backends.cuda.matmul.fp32_precision):
            return 4 * 2.0**-10
    return (16 if exact else 4) * torch.finfo(scores.dtype).eps


def _in_windows(recomputation: Recomputation, image: Tensor, origins: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
    """The outputs of the clean image, computed in windows around squares that hide nothing, at some positions."""
    places = torch.linspace(0, len(origins) - 1, min(len(origins), _MEASURED)).round().long()
    chosen = origins[places]
    parts = ([slice(at, at + length) for at, length in zip(place, size, strict=True)] for place in chosen.tolist())
    return recomputation(chosen, torch.stack([image[(slice(None), *part)] for part in parts]))


def _projected(net: Deconvnet, image: Tensor, watched: _Watched, count: int) -> tuple[Tensor, Tensor]:
    """The places of a map's strongest units, and the sum of their projections."""
    units = watched.strongest(count)
    record = net.record(image[None], watched.layer, progress=False)
    projections = net.project(record, units, progress=False)
    return units.table()[2:].T.contiguous(), projections.full().sum(0).cpu()


def _edges(places: Tensor, size: int) -> Tensor:
    middles = places.double() + size / 2
    if len(middles) == 1:
        return torch.cat((middles - size / 2, middles + size / 2))
    between = (middles[1:] + middles[:-1]) / 2
    return torch.cat((2 * middles[:1] - between[:1], between, 2 * middles[-1:] - between[-1:]))


def _per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    try:
        numbers = tuple(map(operator.index, value if isinstance(value, Sequence) else (value,) * rank))
    except TypeError:
        numbers = ()
    if len(numbers) != rank:
        each = ("two", "three")[rank - 2] if rank > 1 else "one in a list"
        raise ValueError(f"{name} must be a whole number or {each}, got {value!r}")
    return numbers


def colour_of(image: Tensor, fill: float | str | Sequence[float] | Tensor) -> Tensor:
    """What an occluder of an image (C, ...) holds, (C,); `fill` as for `occlude`.

    Raises:
        ValueError: no finite number, or not one for each channel.
    """
    channels = len(image)
    if isinstance(fill, str):
        if fill != "mean":
            raise ValueError(f"fill must be numbers or 'mean', got {fill!r}")
        return image.flatten(1).mean(1)
    colour = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    if colour.dim() > 1 or (colour.dim() == 1 and len(colour) != channels) or not bool(colour.isfinite().all()):
        raise ValueError(f"fill must be one finite number, or one for each of {channels} channels, got {fill}")
    return colour.expand(channels)
