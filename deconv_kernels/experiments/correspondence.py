"""Whether a network relates the same part in different images (Zeiler & Fergus 2013, section 4.3, Fig 8 and Table 1).

A square hides a part, such as the left eye, in every image i. The features of a layer change by e_i = x_i - x~_i, and
where the network knows what a part is, hiding it should change them alike: the Hamming distance between sign(e_i) and
sign(e_j) is compared with that for squares at random places, which hide nothing in common.

The paper's formula is a sum over all pairs of images; its table, "mean feature sign change", has values such as
0.067 +- 0.007. They can only be shares of the layer's features, averaged over the pairs, and only with three values of
the sign: most features do not change at all, so that sign(0) = 0 agrees with itself (two values drawn at random would
differ at one half of the features). So it is computed here: a distance is the share of the layer's features whose signs
(-1, 0 or +1) differ, given as mean and standard deviation over the pairs.

Thus a square that changes little, such as one on an even background, has a small distance whatever it hides. This is
why random squares stay near the parts, as the paper's are "random parts of the object", and why every distance is also
given relative to the features that change in at least one image of the pair. And in images that are aligned the same
part is at the same place, where squares change the same positions of a map: to compare with random squares that have
this advantage too, they can be shared, at one random place in all images.

In volumes the squares are boxes, and in signals spans.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import isfinite, isinf, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checks import at_least, whole_numbers
from ..data.crops import Crop, plan_centres
from ..data.photographs import Photograph
from ..engine.deconvnet import Deconvnet
from ..engine.units import AXES
from ..terminal import Progress
from .common.files import Parts
from .common.tracing import forward_only

__all__ = [
    "Correspondence",
    "Point",
    "Score",
    "SignChanges",
    "correspondence",
    "hide_squares",
    "part_squares",
    "place_points",
    "places_of",
    "points_in_crops",
    "random_squares",
    "read_points",
    "squares_around",
]

EVERY_IMAGE = "*"
RANDOM = "random"

_CHUNK = 1 << 22

Side = int | Sequence[int]
"""Of squares: one number, or one for each axis."""


@dataclass(frozen=True)
class Point:
    """Where a part is in a photograph, a volume or a signal.

    Args:
        image: its name, or "*" for every image without a point of its own for the part.
        part: what is there, such as "nose".
        y, x: in the image's pixels, from its top left pixel (0, 0); of signals y is None.
        source: where this is written, for errors.
        z: in volumes the plane.
    """

    image: str
    part: str
    y: float | None
    x: float
    source: str = "point"
    z: float | None = None

    @property
    def place(self) -> tuple[float, ...]:
        """[[z,] y,] x."""
        return tuple(value for value in (self.z, self.y, self.x) if value is not None)


@dataclass(frozen=True)
class SignChanges:
    """How signs of feature changes at one layer differ between N images, for P parts (or random draws).

    Pairs of images are (0, 1), (0, 2), ..., (1, 2), ...

    Attributes:
        features: how many the layer has.
        differing: (P, N (N - 1) / 2) int64, for each pair at how many features the signs of the changes differ.
        either: of the same shape, how many features change in at least one of the two images.
        changed: (P, N) int64, how many features change in an image.
    """

    features: int
    differing: Tensor
    either: Tensor
    changed: Tensor

    def __getitem__(self, index: int | slice) -> SignChanges:
        return SignChanges(self.features, self.differing[index], self.either[index], self.changed[index])

    @property
    def distance(self) -> Tensor:
        """The normalised Hamming distance of each pair, (P, N (N - 1) / 2) float64."""
        return self.differing.double() / self.features


@dataclass(frozen=True)
class Score:
    """A cell of the table.

    Attributes:
        layer, part: which; the part is "random" for all random squares together.
        mean, deviation: of the distance over the pairs of images (for random squares over those of all draws); the
            deviation is the sample's, nan for a single pair.
        of_changed: mean over the pairs of the distance as a share of the features that change in either image; without
            pairs in which none does.
        changed: mean over the images of the share of features that change.
        draws_as_low: share of the random draws whose mean distance is at most this; nan for the draws themselves.
    """

    layer: str
    part: str
    mean: float
    deviation: float
    of_changed: float
    changed: float
    draws_as_low: float


@dataclass(frozen=True)
class Correspondence:
    """The outcome for N images, P parts and D draws of one random square per image.

    Attributes:
        parts: their names.
        layers: the layers looked at.
        squares, random_squares: (N, P, 4) and (N, D, 4) int64, y0, x0, y1, x1 of what was hidden, half open, in pixels;
            (N, P, 6) and (N, D, 6) in volumes, (N, P, 2) and (N, D, 2) in signals.
        named, random: by layer, what hiding the parts and the random squares did.
    """

    parts: tuple[str, ...]
    layers: tuple[str, ...]
    squares: Tensor
    random_squares: Tensor
    named: Mapping[str, SignChanges]
    random: Mapping[str, SignChanges]

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The squares and the numbers of every pair of images, by name."""
        arrays = {"squares": self.squares.numpy(), "random_squares": self.random_squares.numpy()}
        for layer in self.layers:
            for kind, changes in (("named", self.named[layer]), ("random", self.random[layer])):
                for what in ("differing", "either", "changed"):
                    arrays[f"{layer}.{kind}.{what}"] = getattr(changes, what).numpy()
        return arrays

    def scores(self) -> list[Score]:
        """The paper's Table 1: for each layer its parts, then the random squares if any were drawn."""
        scores = []
        for layer in self.layers:
            named, random = self.named[layer], self.random[layer]
            draws = random.differing.sum(dim=1)
            scores += [_score(layer, part, named[place], draws) for place, part in enumerate(self.parts)]
            if len(draws):
                scores.append(_score(layer, RANDOM, random, draws[:0]))
        return scores


def read_points(path: str | Path, rank: int = 2) -> list[Point]:
    """Reads a table of points.

    Args:
        path: a CSV file with the columns image, part, y, x, named in its first line; see `Point`. Empty lines and those
            that begin with # are left out.
        rank: how many axes images have: of volumes there is a column z too, and of signals there is x alone.

    Returns:
        The points, in the order of the file.

    Raises:
        ValueError: the file is missing, or a line is not such a point; the message has its number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ValueError(f"points {str(path)!r} cannot be read: {reason}") from error
    numbered = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line.lstrip()[0] != "#"]
    rows = [(n, [cell.strip() for cell in next(csv.reader([line]))]) for n, line in numbered]
    header = rows[0][1] if rows else []
    axes = AXES[-rank:]
    columns = ("image", "part", *axes)
    if absent := [column for column in columns if header.count(column) != 1]:
        raise ValueError(
            f"points {str(path)!r}: the first line must name the columns {', '.join(columns)}, each once; "
            f"{absent[0]!r} is not"
        )
    points: list[Point] = []
    for number, row in rows[1:]:
        source = f"points {str(path)!r}, line {number}"
        if len(row) != len(header):
            raise ValueError(f"{source}: {len(header)} values are needed, got {len(row)}")
        values = dict(zip(header, row, strict=True))
        if not values["image"] or not values["part"]:
            raise ValueError(f"{source}: the image or the part has no name")
        try:
            at = {axis: float(values[axis]) for axis in axes}
        except ValueError:
            got = " and ".join(repr(values[axis]) for axis in axes)
            raise ValueError(f"{source}: {' and '.join(axes)} must be numbers, got {got}") from None
        point = Point(values["image"], values["part"], at.get("y"), at["x"], source, at.get("z"))
        if any((other.image, other.part) == (point.image, point.part) for other in points):
            raise ValueError(f"{source}: {point.part!r} of {point.image} is there twice")
        points.append(point)
    if not points:
        raise ValueError(f"points {str(path)!r} holds no points")
    return points


def place_points(
    points: Sequence[Point], photographs: Sequence[Photograph]
) -> tuple[list[Photograph], dict[str, Tensor]]:
    """Finds the points of photographs.

    Args:
        points: of some or all of them.
        photographs: with different names.

    Returns:
        The N photographs that have points, in their order; and for every part (N, 2) float64, its y and x in each.

    Raises:
        ValueError: as `places_of`.
    """
    names = [photograph.name for photograph in photographs]
    found, places = places_of(points, names, [photograph.pixels.shape[:2] for photograph in photographs])
    return [photographs[number] for number in found], places


def places_of(
    points: Sequence[Point], names: Sequence[str], sizes: Sequence[Sequence[int]], one: str = "photograph"
) -> tuple[list[int], dict[str, Tensor]]:
    """Finds the points of images.

    Args:
        points: of some or all of them.
        names: of the images, all different.
        sizes: of each image, along each axis.
        one: what to call an image.

    Returns:
        The numbers of the N images that have points; and for every part (N, rank) float64, its [[z,] y,] x in each.

    Raises:
        ValueError: a point of no image or outside it, an image with some but not all of the parts, or fewer than two
            images with points.
    """
    parts = list(dict.fromkeys(point.part for point in points))
    everywhere = {point.part: point for point in points if point.image == EVERY_IMAGE}
    own = {(point.image, point.part): point for point in points if point.image != EVERY_IMAGE}
    for point in own.values():
        if names.count(point.image) != 1:
            count = names.count(point.image) or "no"
            raise ValueError(f"{point.source}: {count} {one}s are called {point.image!r}, one is needed")
    chosen, rows = [], []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        found = {part: own.get((name, part), everywhere.get(part)) for part in parts}
        here = [place for place in found.values() if place is not None]
        if not here:
            continue
        if len(here) < len(parts):
            absent = next(part for part, place in found.items() if place is None)
            raise ValueError(f"{name} has points, but none for {absent!r}")
        for point in here:
            if not all(0 <= at < length for at, length in zip(point.place, size, strict=True)):
                raise ValueError(f"{point.source}: {_named(point.place)} lies outside {name}, which has {_sides(size)}")
        chosen.append(number)
        rows.append([point.place for point in here])
    if len(chosen) < 2:
        raise ValueError(f"at least two {one}s with points are needed to compare, got {len(chosen)}")
    table = torch.tensor(rows, dtype=torch.float64)
    return chosen, {part: table[:, place] for place, part in enumerate(parts)}


def squares_around(
    photographs: Sequence[Photograph],
    points: Mapping[str, Tensor],
    extent: float | None = None,
    size: int | None = None,
) -> list[Crop]:
    """Chooses the square of each photograph that the network sees.

    Args:
        photographs: N of them.
        points: for every part (N, 2), as `place_points` gives them.
        extent: the side of the square, as a multiple of the largest distance between two points of the photograph. Its
            middle is theirs, unless the photograph ends too near; it is no larger than the photograph. None takes the
            largest square in the middle of the photograph.
        size: side at which the squares will be shown, in pixels, as for `plan_centres`.

    Returns:
        One square for each photograph.

    Raises:
        ValueError: an extent that is not above 0, or photographs with one point only and an extent.
    """
    if extent is None:
        return plan_centres(photographs, size)
    if not (isfinite(extent) and extent > 0):
        raise ValueError(f"extent must be a number above 0, got {extent}")
    crops = []
    for index, (photograph, places) in enumerate(zip(photographs, _table(points), strict=True)):
        span = _span(places)
        if span == 0:
            raise ValueError(f"{photograph.name}: an extent needs two parts at different places")
        lengths = photograph.pixels.shape[:2]
        side = max(1, min(round(extent * span), *lengths))
        corner = [
            min(max(0, round(float(middle) - (side - 1) / 2)), length - side)
            for middle, length in zip(places.mean(0), lengths, strict=True)
        ]
        crops.append(Crop(index, corner[0], corner[1], side))
    return crops


def points_in_crops(
    points: Mapping[str, Tensor], crops: Sequence[Crop], photographs: Sequence[Photograph], size: int
) -> dict[str, Tensor]:
    """Where points of photographs come to lie in squares that `photographs.cut` takes out and scales.

    Args:
        points: for every part (N, 2), y and x in the photographs' pixels.
        crops: the N squares.
        photographs: N, for their names.
        size: to which the squares are scaled.

    Returns:
        For every part (N, 2) float64, y and x in the scaled squares' pixels.

    Raises:
        ValueError: a point outside its square.
    """
    corners = torch.tensor([(crop.y, crop.x) for crop in crops], dtype=torch.float64)
    factor = size / torch.tensor([[crop.side] for crop in crops], dtype=torch.float64)
    # Pixels have their middle at whole numbers, and their edges half a pixel away.
    inside = {part: (places - corners + 0.5) * factor - 0.5 for part, places in points.items()}
    for part, places in inside.items():
        for place, photograph, crop in zip(places, photographs, crops, strict=True):
            if bool(((place < -0.5) | (place >= size - 0.5)).any()):
                raise ValueError(
                    f"{part!r} of {photograph.name} lies outside the square that the network sees, {crop.side} pixels "
                    f"from row {crop.y}, column {crop.x}"
                )
    return inside


def part_squares(points: Mapping[str, Tensor], side: Side, size: Sequence[int]) -> Tensor:
    """Squares around points.

    Args:
        points: for P parts (N, 2), y and x in the images' pixels; (N, 3) in volumes, (N, 1) in signals.
        side: of the squares, in pixels; the middle of a square of an even side is half a pixel before the point. One
            number, or one for each axis.
        size: (H, W) of the images, (D, H, W) of volumes, (L,) of signals.

    Returns:
        (N, P, 4) int64, y0, x0, y1, x1, half open; they end where the image ends. (N, P, 6) in volumes, (N, P, 2) in
        signals.

    Raises:
        ValueError: no parts, a point outside the image, or a side below 1.
    """
    lengths = torch.tensor(whole_numbers("side", side, len(size)))
    at_least("side", int(lengths.min()), 1)
    places, limits = _table(points), torch.tensor(list(size))
    outside = ~((places >= -0.5) & (places < limits - 0.5)).all(2)
    if bool(outside.any()):
        image, part = outside.nonzero()[0].tolist()
        where = _named(places[image, part].tolist())
        sides = "x".join(map(str, size))
        raise ValueError(f"{list(points)[part]!r} of image {image} is at {where}, outside {sides} pixels")
    corner = torch.floor(places - (lengths - 1) / 2 + 0.5).to(torch.int64)
    return torch.cat([corner.clamp(min=0), torch.minimum(corner + lengths, limits)], dim=2)


def random_squares(
    points: Mapping[str, Tensor],
    side: Side,
    size: Sequence[int],
    draws: int,
    reach: float = 1.5,
    seed: int = 0,
    *,
    shared: bool = False,
) -> Tensor:
    """Squares at random places near the points of each image that cover nothing of the squares around the points.

    All places that this allows are equally probable.

    Args:
        points, size: as for `part_squares`.
        side: of the squares, in pixels; they lie within the image. One number, or one for each axis.
        draws: D, how many squares for each image.
        reach: how far their middle may be from that of the points, as a multiple of the largest distance between two of
            them; `math.inf` for anywhere in the image.
        seed: chooses. Unless they are shared, an image's squares do not depend on the other images.
        shared: a draw has the same place in all images, one that is allowed in each.

    Returns:
        (N, D, 4) int64, y0, x0, y1, x1, half open; (N, D, 6) in volumes, (N, D, 2) in signals.

    Raises:
        ValueError: as `part_squares`, or there is no such place.
    """
    at_least("draws", draws, 0)
    if not reach > 0:
        raise ValueError(f"reach must be above 0, got {reach}")
    named, rank = part_squares(points, side, size).numpy(), len(size)
    lengths = np.array(whole_numbers("side", side, rank))
    begins = [np.arange(max(0, length - of_square + 1)) for length, of_square in zip(size, lengths, strict=True)]
    allowed = np.ones((len(named), *map(len, begins)), dtype=bool)
    for mask, places, squares in zip(allowed, _table(points), named, strict=True):
        for square in squares:
            bounds = zip(begins, lengths, square[:rank], square[rank:], strict=True)
            covers = [(begin < stop) & (begin + length > start) for begin, length, start, stop in bounds]
            mask &= ~reduce(np.logical_and.outer, covers)
        if not isinf(reach):
            middle = places.mean(0).numpy() - (lengths - 1) / 2
            offsets = np.meshgrid(*(begin - at for begin, at in zip(begins, middle, strict=True)), indexing="ij")
            mask &= np.abs(reduce(np.hypot, offsets)) <= reach * _span(places)
    if shared:
        allowed[:] = allowed.all(axis=0)
    drawn = np.empty((len(named), draws, 2 * rank), dtype=np.int64)
    for number, mask in enumerate(allowed):
        free = np.flatnonzero(mask)
        if draws and not len(free):
            where = "no place common to all images" if shared else f"no room in image {number}"
            raise ValueError(
                f"there is {where} for random squares of {'x'.join(map(str, lengths))} pixels that cover none of the "
                "parts: choose smaller squares or a larger reach"
            )
        generator = np.random.default_rng([seed] if shared else [seed, number])
        shape = [max(1, length) for length in mask.shape]
        corner = np.stack(np.unravel_index(generator.choice(free, draws), shape), axis=1)
        drawn[number] = np.concatenate([corner, corner + lengths], axis=1)
    return torch.from_numpy(drawn)


def hide_squares(image: Tensor, squares: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Hides squares of an image, one at a time.

    Args:
        image: (C, [[D,] H,] W).
        squares: (V, 4) y0, x0, y1, x1, half open; (V, 6) in volumes, (V, 2) in signals.
        fill: what is put there: a number, or one for each channel (C,).

    Returns:
        (V, C, [[D,] H,] W).

    Raises:
        ValueError: a fill of another number of channels.
    """
    colour = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    if colour.shape not in ((), image.shape[:1]):
        raise ValueError(f"fill must be a number or one for each of {len(image)} channels, got {tuple(colour.shape)}")
    rank = image.dim() - 1
    hidden = image.repeat(len(squares), *[1] * image.dim())
    for copy, square in zip(hidden, squares.tolist(), strict=True):
        part = tuple(slice(start, stop) for start, stop in zip(square[:rank], square[rank:], strict=True))
        copy[(slice(None), *part)] = colour.reshape(-1, *[1] * rank)
    return hidden


def correspondence(
    model: Deconvnet | nn.Module,
    images: Tensor,
    points: Mapping[str, Tensor],
    layers: Sequence[str],
    *,
    side: Side = 32,
    draws: int = 20,
    reach: float = 1.5,
    seed: int = 0,
    shared: bool = False,
    fill: float | Tensor = 0.0,
    tolerance: float = 0.0,
    batch_size: int = 16,
    parts: Parts | None = None,
    progress: bool = True,
) -> Correspondence:
    """Measures whether hiding the same part changes the features of different images alike.

    An image goes through the network together with its occluded versions, so that features out of a square's reach come
    out the same to the last bit. The signs of all changes are kept at a quarter of a byte for each feature and square.

    Args:
        model: any network that `Deconvnet` can trace, whatever its activations, or one that was traced already.
        images: (N, C, H, W), (N, C, D, H, W) of volumes or (N, C, L) of signals as the model takes them, at least two.
        points: for every part (N, 2), its y and x in each image, in pixels; (N, 3) in volumes, (N, 1) in signals.
        layers: whose features to look at.
        side: of the squares, in pixels, or one for each axis.
        draws: D, how many random squares to compare with in each image.
        reach, seed, shared: where these lie, see `random_squares`.
        fill: what the squares are filled with: a number in the network's input, or one for each channel.
        tolerance: changes of at most this multiple of the layer's largest magnitude in the original image count as
            none. For devices on which features out of reach do change by rounding.
        batch_size: squares per pass.
        parts: where to keep what is finished, image by image.
        progress: show a progress bar.

    Returns:
        Distances by layer, part and pair of images, on the host.

    Raises:
        TypeError: images that are no tensor of the model's type.
        ValueError: fewer than two images, no layer, points that do not fit the images, features that are not finite.
        UnknownLayer: a layer the model does not have.

    Source: Zeiler & Fergus 2013, section 4.3, Fig 8 and Table 1.

    Example:
        >>> model, images = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), torch.randn(2, 3, 64, 64)
        >>> points = {"left eye": torch.tensor([[20, 20], [24, 22]]), "nose": torch.tensor([[40, 30], [42, 34]])}
        >>> found = correspondence(model, images, points, ["1"], side=8, draws=3, progress=False)
        >>> [score.part for score in found.scores()]
        ['left eye', 'nose', 'random']
    """
    if not isinstance(images, Tensor) or images.dim() not in (3, 4, 5) or 0 in images.shape or len(images) < 2:
        raise ValueError(
            "images must have shape (N, C, H, W), (N, C, D, H, W) or (N, C, L) with N of at least 2, "
            f"got {getattr(images, 'shape', type(images).__name__)}"
        )
    names = tuple(dict.fromkeys(layers))
    if not names:
        raise ValueError("layers must name at least one layer")
    at_least("batch_size", batch_size, 1)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    for part, places in points.items():
        wanted = (len(images), images.dim() - 2)
        if tuple(places.shape) != wanted:
            raise ValueError(f"points of {part!r} must have shape {wanted}, got {tuple(places.shape)}")
    size = images.shape[2:]
    named = part_squares(points, side, size)
    random = random_squares(points, side, size, draws, reach, seed, shared=shared)
    squares = torch.cat([named, random], dim=1)
    net = forward_only(model)
    parts = parts or Parts.nowhere()

    planes, features = [], [0] * len(names)
    total = squares.shape[0] * squares.shape[1]
    with Progress(total=total, desc="occluding", unit="square", disable=not progress) as bar:
        for number, of_image in enumerate(squares):
            look = partial(_signs, net, images[number], of_image, names, fill, tolerance, batch_size, bar)
            features, found = parts.get(f"image {number}", look)
            planes.append(found)
            bar.n = squares.shape[1] * (number + 1)
            bar.refresh()
    changes = {name: _compared([found[place] for found in planes], features[place]) for place, name in enumerate(names)}
    count = len(points)
    return Correspondence(
        tuple(points),
        names,
        named,
        random,
        {name: of[:count] for name, of in changes.items()},
        {name: of[count:] for name, of in changes.items()},
    )


def _signs(
    net: Deconvnet,
    image: Tensor,
    squares: Tensor,
    layers: Sequence[str],
    fill: float | Tensor,
    tolerance: float,
    batch_size: int,
    bar: Progress,
) -> tuple[list[int], list[Tensor]]:
    """How hiding squares of an image changes its features.

    Returns:
        By layer the number of its features, and (V, 2, bytes) uint8: for each square one bit per feature that says
        whether it changes, and one that says whether it falls.
    """
    counts = [0] * len(layers)
    planes: list[list[NDArray[np.uint8]]] = [[] for _ in layers]
    for start in range(0, len(squares), batch_size):
        hidden = hide_squares(image, squares[start : start + batch_size], fill)
        batch = torch.cat([image[None], hidden])
        found = net.record(batch, layers, activations=True, batch_size=len(batch), progress=False).activations
        for place, name in enumerate(layers):
            original, *others = found[name].flatten(1)
            counts[place] = len(original)
            if not bool(torch.isfinite(found[name]).all()):
                raise ValueError(f"features of {name!r} are not all finite")
            least = tolerance * original.abs().max()
            for other in others:
                # By comparison and not by subtraction, which may round to zero.
                falls, rises = original > other, original < other
                if tolerance:
                    beyond = (original - other).abs() > least
                    falls, rises = falls & beyond, rises & beyond
                planes[place].append(np.packbits(torch.stack([falls | rises, falls]).cpu().numpy(), axis=1))
        bar.update(len(hidden))
    return counts, [torch.from_numpy(np.stack(of_layer)) for of_layer in planes]


def _compared(planes: Sequence[Tensor], features: int) -> SignChanges:
    """Compares the images of every pair.

    Args:
        planes: for every image (V, 2, bytes), as from `_signs`.
        features: how many the layer has.
    """
    count = len(planes)
    first, second = torch.triu_indices(count, count, offset=1)
    differing, either, changed_by = [], [], []
    for of_square in torch.stack(list(planes), dim=1):
        agree = torch.zeros(count, count, dtype=torch.float64)
        neither = torch.zeros(count, count, dtype=torch.float64)
        # Every sum is a whole number below 2^24 and thus exact. The last byte's spare bits are features that agree.
        for chunk in of_square.split(max(1, _CHUNK // 8 // count), dim=2):
            bits = torch.from_numpy(np.unpackbits(chunk.numpy(), axis=2)).to(torch.float32)
            changed, falls = bits.unbind(1)
            still, rises = 1 - changed, changed - falls
            unchanged = still @ still.T
            neither += unchanged
            agree += unchanged + falls @ falls.T + rises @ rises.T
        total = 8 * of_square.shape[2]
        differing.append((total - agree)[first, second])
        either.append((total - neither)[first, second])
        changed_by.append(total - neither.diagonal())
    counts = (torch.stack(rows).to(torch.int64) for rows in (differing, either, changed_by))
    return SignChanges(features, *counts)


def _score(layer: str, part: str, changes: SignChanges, draws: Tensor) -> Score:
    """The score of one part, or of all draws together, beside the numbers of differing features of other draws."""
    distance = changes.distance
    return Score(
        layer,
        part,
        mean=float(distance.mean()),
        deviation=float(distance.std()) if distance.numel() > 1 else nan,
        of_changed=float((changes.differing.double() / changes.either).nanmean()),
        changed=float(changes.changed.double().mean()) / changes.features,
        draws_as_low=float((draws <= changes.differing.sum()).double().mean()),
    )


def _table(points: Mapping[str, Tensor]) -> Tensor:
    """The points of N images as (N, P, rank) float64."""
    if not points:
        raise ValueError("points must hold at least one part")
    return torch.stack([torch.as_tensor(places, dtype=torch.float64) for places in points.values()], dim=1)


def _span(places: Tensor) -> float:
    """The largest distance between two of an image's points (P, rank)."""
    return float(torch.linalg.vector_norm(places[:, None] - places, dim=2).max())


def _named(place: Sequence[float]) -> str:
    """A place in words, such as y=3, x=4."""
    return ", ".join(f"{axis}={value:g}" for axis, value in zip(AXES[-len(place) :], place, strict=True))


def _sides(size: Sequence[int]) -> str:
    """How large something is, in words: of images rows and columns."""
    if len(size) == 2:
        return f"{size[0]} rows and {size[1]} columns"
    return f"{'x'.join(map(str, size))} pixels"
