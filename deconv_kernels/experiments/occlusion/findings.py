"""What became of images under an occluder: the result, and its tables and lines for people."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.units import AXES

__all__ = ["Occlusion", "Raise", "describe_raises", "stacked", "summary", "table"]

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


def _edges(places: Tensor, size: int) -> Tensor:
    middles = places.double() + size / 2
    if len(middles) == 1:
        return torch.cat((middles - size / 2, middles + size / 2))
    between = (middles[1:] + middles[:-1]) / 2
    return torch.cat((2 * middles[:1] - between[:1], between, 2 * middles[-1:] - between[-1:]))


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


def describe_raises(found: Occlusion, name: str, classes: Sequence[str]) -> list[str]:
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
