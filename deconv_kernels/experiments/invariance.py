"""How features change when an image is moved, enlarged or turned (Zeiler & Fergus 2013, section 4.1 and Fig 5).

The paper does not say what fills the part of the image that a transformation uncovers, about which point images are
enlarged and turned, or how they are interpolated. Here images turn and grow about their middle, interpolation is
bilinear, and what is uncovered becomes zero in the network's input, which is the mean colour for networks that subtract
it and what their own padding is made of; all but the point can be chosen.

Volumes are moved along each of their axes, enlarged along all of them, and turned in the plane of their rows and
columns; signals are moved and stretched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, radians, sin
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import at_least, one_of
from ..engine.deconvnet import Deconvnet
from ..engine.units import AXES
from ..terminal import Progress
from .common.classes import class_count, class_to_follow, ends_in_sigmoid, probabilities
from .common.files import Parts
from .common.tracing import forward_only

__all__ = ["Curves", "Invariance", "Transformation", "figure_5", "invariance", "rotate", "scale", "translate"]

BORDERS = {"edge": "border", "reflect": "reflection"}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
OUTPUTS = ("logits", "probabilities")
PREDICTED = "predicted"

_LARGEST = 1e6
_SHAPES = "(N, C, H, W), (N, C, D, H, W) of volumes or (N, C, L) of signals"
_TRANSLATIONS = {
    "z": ("depth translation", "planes"),
    "y": ("vertical translation", "pixels down"),
    "x": ("horizontal translation", "pixels to the right"),
}

Fill = str | float | Tensor


@dataclass(frozen=True)
class Transformation:
    """A change of images with one parameter.

    Args:
        name: of the transformation, such as "rotation".
        unit: of the parameter, such as "degrees".
        parameters: the values to try.
        apply: makes of images (N, C, [[D,] H,] W) and a parameter images of the same shape.
    """

    name: str
    unit: str
    parameters: tuple[float, ...]
    apply: Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Curves:
    """What one transformation does to N images.

    Attributes:
        transformation: which.
        distances: for each layer (N, P) float64, the Euclidean distance between the features of the transformed and of
            the original image, by image and parameter.
        probabilities: (N, P) float64 of the images' labels; None without labels.
    """

    transformation: Transformation
    distances: Mapping[str, Tensor]
    probabilities: Tensor | None


@dataclass(frozen=True)
class Invariance:
    """What transformations do to the features of N images.

    Attributes:
        layers: the layers looked at.
        norms: for each layer (N,) float64, the Euclidean norm of the original image's features.
        labels: the class of every image whose probability was followed, or None.
        curves: one for each transformation.
    """

    layers: tuple[str, ...]
    norms: Mapping[str, Tensor]
    labels: tuple[int, ...] | None
    curves: tuple[Curves, ...]

    def relative(self, curves: Curves, layer: str) -> Tensor:
        """Distances divided by the norm of the original image's features, (N, P); nan where that is zero."""
        return curves.distances[layer] / self.norms[layer][:, None]

    def table(self, names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
        """Every number under a head, one row for each transformation, parameter and image; `names` of the images."""
        head = ["transformation", "parameter", "image"]
        for layer in self.layers:
            head += [f"distance {layer}", f"relative distance {layer}"]
        if self.labels is not None:
            head += ["label", "probability"]
        rows: list[list[Any]] = []
        for curves in self.curves:
            relative = {layer: self.relative(curves, layer) for layer in self.layers}
            for place, parameter in enumerate(curves.transformation.parameters):
                for number, name in enumerate(names):
                    row: list[Any] = [curves.transformation.name, parameter, name]
                    for layer in self.layers:
                        row += [float(curves.distances[layer][number, place]), float(relative[layer][number, place])]
                    if self.labels is not None and curves.probabilities is not None:
                        row += [self.labels[number], float(curves.probabilities[number, place])]
                    rows.append(row)
        return head, rows

    def summary(self) -> list[list[str]]:
        """For people: per transformation the means over the images and the parameters that change anything."""
        rows = [["", *self.layers, *(["probability"] if self.labels is not None else [])]]
        for curves in self.curves:
            changed = sum(curves.distances.values(), start=curves.distances[self.layers[0]] * 0).sum(0) > 0
            means = [self.relative(curves, layer)[:, changed].nanmean() for layer in self.layers]
            if curves.probabilities is not None:
                means.append(curves.probabilities[:, changed].mean())
            rows.append([curves.transformation.name, *(f"{float(mean):.3f}" for mean in means)])
        return rows


def translate(
    images: Tensor, pixels: float, fill: Fill = 0.0, interpolation: str = "bilinear", axis: str | None = None
) -> Tensor:
    """Moves images along an axis, by default down, and signals to the right.

    Args:
        images: (N, C, H, W), (N, C, D, H, W) of volumes or (N, C, L) of signals, floating point.
        pixels: how far, in pixels; negative is up, or to the left. A whole number of pixels moves every value as it is.
        fill: what comes in at the border: a number, or one for each channel (C,); "edge" repeats the border's pixels,
            "reflect" mirrors the image at its edge, border pixels included.
        interpolation: "bilinear", which in volumes is trilinear, "nearest", or "bicubic", which volumes are not.
        axis: "z", "y" or "x".

    Returns:
        Images of the same shape and type; for 0 pixels the same to the last bit.

    Raises:
        TypeError, ValueError: images, a parameter or an option that cannot be.

    Source: Zeiler & Fergus 2013, Fig 5 column a.
    """
    rank = _check(images, "pixels", pixels, fill, interpolation)
    names = AXES[-rank:]
    axis = names[max(0, rank - 2)] if axis is None else axis
    one_of("axis", axis, names)
    place = names.index(axis)
    if pixels != round(pixels):
        offset = [-pixels * (number == place) for number in range(rank)]
        return _resample(images, _diagonal(rank, 1.0), offset, fill, interpolation)
    length = images.shape[2 + place]
    places = torch.arange(length, device=images.device) - int(pixels)
    if fill == "reflect":
        places = places % (2 * length)
        places = torch.where(places < length, places, 2 * length - 1 - places)
    moved = images.index_select(2 + place, places.clamp(0, length - 1))
    if not isinstance(fill, str):
        moved.movedim(2 + place, 2)[:, :, (places < 0) | (places >= length)] = _colour(images, fill).to(images.dtype)
    return moved


def scale(images: Tensor, ratio: float, fill: Fill = 0.0, interpolation: str = "bilinear") -> Tensor:
    """Enlarges images about their middle.

    Args:
        images: as for `translate`; along all of their axes.
        ratio: by how much; what it pushes over the border is lost. Below 1 images shrink and the border comes in; below
            a half pixels are left out, not averaged.
        fill, interpolation: as for `translate`.

    Returns:
        Images of the same shape and type; for a ratio of 1 the same to the last bit.

    Raises:
        TypeError, ValueError: images, a parameter or an option that cannot be.

    Source: Zeiler & Fergus 2013, Fig 5 column b.
    """
    rank = _check(images, "ratio", ratio, fill, interpolation)
    if ratio <= 0:
        raise ValueError(f"ratio must be above 0, got {ratio:g}")
    if ratio == 1:
        return images.clone()
    return _resample(images, _diagonal(rank, 1 / ratio), (0.0,) * rank, fill, interpolation)


def rotate(images: Tensor, degrees: float, fill: Fill = 0.0, interpolation: str = "bilinear") -> Tensor:
    """Turns images about their middle, every plane of volumes in itself.

    Args:
        images: (N, C, H, W), or (N, C, D, H, W) of volumes, floating point.
        degrees: how far, counter-clockwise as the image is seen, with row 0 at the top. Half turns, and quarter turns
            of square images, move every value as it is.
        fill, interpolation: as for `translate`.

    Returns:
        Images of the same shape and type; for full turns the same to the last bit.

    Raises:
        TypeError, ValueError: images, a parameter or an option that cannot be.

    Source: Zeiler & Fergus 2013, Fig 5 column c.
    """
    rank = _check(images, "degrees", degrees, fill, interpolation)
    if rank == 1:
        raise ValueError("signals cannot be turned: translate and scale them")
    degrees = degrees % 360
    if degrees % 180 == 0 or (degrees % 90 == 0 and images.shape[-2] == images.shape[-1]):
        return torch.rot90(images, int(degrees // 90), (-2, -1)).clone()
    cosine, sine = cos(radians(degrees)), sin(radians(degrees))
    matrix = _diagonal(rank, 1.0)
    matrix[-2][-2:], matrix[-1][-2:] = [cosine, sine], [-sine, cosine]
    return _resample(images, matrix, (0.0,) * rank, fill, interpolation)


def figure_5(
    height: int | Sequence[int], fill: Fill = 0.0, interpolation: str = "bilinear"
) -> tuple[Transformation, ...]:
    """The paper's three transformations, over the ranges of its figure.

    Args:
        height: of the images, in pixels; or the size of images (H, W), of volumes (D, H, W) or of signals (L,).
            Translations reach as far as the paper's 60 pixels of 224 in both directions.
        fill, interpolation: as for `translate`.

    Returns:
        Vertical translation in 24 steps, scale from 1 to 1.8 in steps of 0.05, rotation from 0 to 350 degrees in steps
        of 10. Of volumes translation along every axis; of signals horizontal translation and scale.

    Source: Zeiler & Fergus 2013, Fig 5.

    Example:
        >>> [(kind.name, len(kind.parameters)) for kind in figure_5(height=224)]
        [('vertical translation', 25), ('scale', 17), ('rotation', 36)]
    """
    options: dict[str, Any] = {"fill": fill, "interpolation": interpolation}
    size = (height, height) if isinstance(height, int) else tuple(height)
    if not 1 <= len(size) <= 3:
        raise ValueError(f"height must be a number of pixels, or the size along one to three axes, got {height!r}")
    along = [(axis, length, _TRANSLATIONS[axis]) for axis, length in zip(AXES[-len(size) :], size, strict=True)]
    if len(size) == 1:
        along = [("x", size[0], ("translation", "samples to the right"))]
    found = [
        Transformation(*named, _reaches(length), partial(translate, axis=axis, **options))
        for axis, length, named in along
        if len(size) != 2 or axis == "y"
    ]
    ratios = tuple(1 + step / 20 for step in range(17))
    found.append(Transformation("scale", "ratio", ratios, partial(scale, **options)))
    if len(size) > 1:
        angles = tuple(10.0 * step for step in range(36))
        found.append(Transformation("rotation", "degrees counter-clockwise", angles, partial(rotate, **options)))
    return tuple(found)


def _reaches(length: int) -> tuple[float, ...]:
    """How far to translate images that are as long, in pixels."""
    return tuple(dict.fromkeys(float(round(length * 60 / 224 * step / 12)) for step in range(-12, 13)))


def invariance(
    model: Deconvnet | nn.Module,
    images: Tensor,
    layers: str | Sequence[str],
    transformations: Sequence[Transformation] | None = None,
    labels: Sequence[int] | Tensor | str | None = None,
    *,
    outputs: str = "logits",
    batch_size: int = 16,
    parts: Parts | None = None,
    progress: bool = True,
) -> Invariance:
    """Measures how far features move when images are transformed.

    At most the activations of these layers for one batch are in memory. A transformation that leaves an image as it is
    has distance zero, exactly.

    Args:
        model: any network that `Deconvnet` can trace, whatever its activations, or one that was traced already.
        images: (N, C, H, W), (N, C, D, H, W) of volumes or (N, C, L) of signals as the model takes them; every one is
            looked at alone.
        layers: whose features to compare, such as a low and a high one.
        transformations: what to do to the images; `figure_5` by default.
        labels: the true class of each image, to follow its probability, or "predicted" for the class that the model
            gives the original image (of a single output class 1, for which it stands).
        outputs: whether the model ends in "logits", which go through a softmax, or in "probabilities". A single output
            stands for class 1 against class 0; as a logit it goes through a sigmoid.
        batch_size: images per pass.
        parts: where to keep what is finished, image by image.
        progress: show a progress bar.

    Returns:
        Distances and probabilities by image and parameter, on the host.

    Raises:
        TypeError: images that are no tensor of the model's type.
        ValueError: no image, layer or parameter; a number of labels that does not fit; a model whose output is not one
            row of classes.
        UnknownLayer: a layer the model does not have.

    Source: Zeiler & Fergus 2013, section 4.1 and Fig 5.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 10))
        >>> shifts = Transformation("translation", "pixels", (-2.0, 0.0, 2.0), translate)
        >>> found = invariance(model, torch.randn(2, 3, 32, 32), ["1", "3"], [shifts], progress=False)
        >>> found.layers
        ('1', '3')
    """
    if not isinstance(images, Tensor) or images.dim() not in (3, 4, 5) or 0 in images.shape:
        raise ValueError(f"images must have shape {_SHAPES}, got {getattr(images, 'shape', type(images).__name__)}")
    chosen = figure_5(images.shape[2:]) if transformations is None else tuple(transformations)
    if not chosen or not all(each.parameters for each in chosen):
        raise ValueError("transformations must hold at least one, each with at least one parameter")
    names = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise ValueError("layers must name at least one layer")
    one_of("outputs", outputs, OUTPUTS)
    at_least("batch_size", batch_size, 1)
    wanted = _labels(labels, len(images))
    net = forward_only(model)
    if wanted is not None:
        if net.tape.output is None:
            raise ValueError(
                f"labels need a network that ends in one value per class; {type(net.model).__name__} returns several "
                "tensors: leave the labels out"
            )
        _, classes = _features(net, images[:1], names[:1], classified=True)
        assert classes is not None
        if outputs == "logits" and ends_in_sigmoid(net, net.output, classes[0]):
            raise ValueError(f"{net.output!r} gives probabilities already: outputs='probabilities' (--probabilities)")
        most = class_count(classes.shape[1]) - 1
        if outside := [label for label in wanted if isinstance(label, int) and not 0 <= label <= most]:
            raise ValueError(f"labels must be from 0 to {most}, got {outside[0]}")
    parts = parts or Parts.nowhere()

    found = []
    total = len(images) * sum(len(each.parameters) for each in chosen)
    with Progress(total=total, desc="transforming", unit="image", disable=not progress) as bar:
        for number in range(len(images)):
            label = None if wanted is None else wanted[number]
            look = partial(_of_image, net, images[number : number + 1], names, chosen, label, outputs, batch_size, bar)
            found.append(parts.get(f"image {number}", look))
            bar.n = total * (number + 1) // len(images)
            bar.refresh()
    norms = torch.stack([norms for norms, _, _ in found])
    stacked = [torch.stack(rows) for rows in zip(*(rows for _, _, rows in found), strict=True)]
    return Invariance(
        names,
        {name: norms[:, place] for place, name in enumerate(names)},
        None if wanted is None else tuple(label for _, label, _ in found),
        tuple(
            Curves(
                transformation,
                {name: rows[:, place] for place, name in enumerate(names)},
                None if wanted is None else rows[:, len(names)],
            )
            for transformation, rows in zip(chosen, stacked, strict=True)
        ),
    )


def _of_image(
    net: Deconvnet,
    image: Tensor,
    layers: tuple[str, ...],
    transformations: Sequence[Transformation],
    label: int | str | None,
    outputs: str,
    batch_size: int,
    bar: Progress,
) -> tuple[Tensor, int, list[Tensor]]:
    """What transformations do to one image (1, C, [[D,] H,] W).

    Returns:
        The norms of its features by layer, its label (-1 if there is none), and for each transformation the distances
        by layer and parameter, with a label below them a row of its probabilities.
    """
    look = partial(_features, net, layers=layers, classified=label is not None)
    of_classes = partial(probabilities, logits=outputs == "logits")
    original, classes = look(image)
    norms = torch.stack([torch.linalg.vector_norm(of.double()).cpu() for of in original])
    followed = -1
    if classes is not None:
        followed = label if isinstance(label, int) else class_to_follow(classes[0])
    found = []
    for transformation in transformations:
        rows = []
        for start in range(0, len(transformation.parameters), batch_size):
            chosen = transformation.parameters[start : start + batch_size]
            changed = torch.cat([transformation.apply(image, parameter) for parameter in chosen])
            moved = torch.tensor([not torch.equal(each, image[0]) for each in changed])
            block = torch.zeros(len(layers) + (classes is not None), len(chosen), dtype=torch.float64)
            if classes is not None:
                block[-1] = of_classes(classes)[0, followed]
            if moved.any():
                features, others = look(changed[moved.to(changed.device)])
                for row, of, reference in zip(block, features, original, strict=False):
                    row[moved] = _distances(of, reference[0])
                if others is not None:
                    block[-1, moved] = of_classes(others)[:, followed]
            rows.append(block)
            bar.update(len(chosen))
        found.append(torch.cat(rows, dim=1))
    return norms, followed, found


def _features(
    net: Deconvnet, images: Tensor, layers: Sequence[str], classified: bool
) -> tuple[list[Tensor], Tensor | None]:
    """The features of images by layer, and the network's outputs (N, classes) if they are to be classified."""
    asked = [*layers, net.output] if classified else layers
    found = net.record(images, asked, activations=True, batch_size=len(images), progress=False).activations
    features = [found[name] for name in layers]
    for name in asked:
        if not bool(found[name].isfinite().all()):
            raise ValueError(f"the features of {name!r} are not finite")
    if not classified:
        return features, None
    out = found[net.output]
    if out.numel() != out.shape[0] * out.shape[1]:
        raise ValueError(
            f"labels need a network that ends in one value per class; {net.output!r} gives {tuple(out.shape[1:])} for "
            "an image: leave the labels out, or add a classifier"
        )
    return features, out.flatten(1)


def _distances(features: Tensor, original: Tensor) -> Tensor:
    """Euclidean distances in float64 of each row of features from the original, one at a time to bound the memory."""
    original = original.double()
    return torch.stack([torch.linalg.vector_norm(each.double() - original) for each in features]).cpu()


def _labels(labels: Sequence[int] | Tensor | str | None, count: int) -> list[int] | list[str] | None:
    if labels is None:
        return None
    if isinstance(labels, str):
        if labels != PREDICTED:
            raise ValueError(f"labels must be one class per image or {PREDICTED!r}, got {labels!r}")
        return [PREDICTED] * count
    classes = torch.as_tensor(labels)
    if classes.shape != (count,):
        raise ValueError(f"labels must be one class for each of {count} images, got {tuple(classes.shape)}")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {classes.dtype}")
    return [int(label) for label in classes]


def _check(images: Tensor, name: str, parameter: float, fill: Fill, interpolation: str) -> int:
    """How many axes images have, once all arguments are known to be possible."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor {_SHAPES}, got {type(images).__name__}")
    if images.dim() not in (3, 4, 5) or not images.is_floating_point():
        raise TypeError(f"images must be floating point of shape {_SHAPES}, got {images.dtype} {tuple(images.shape)}")
    if not isfinite(parameter) or abs(parameter) > _LARGEST:
        raise ValueError(f"{name} must be a number of at most {_LARGEST:g}, got {parameter}")
    one_of("interpolation", interpolation, INTERPOLATIONS)
    if interpolation == "bicubic" and images.dim() == 5:
        raise ValueError("interpolation of volumes must be bilinear or nearest, got 'bicubic'")
    if isinstance(fill, str) and fill not in BORDERS:
        raise ValueError(f"fill must be a number, one number per channel, or one of {', '.join(BORDERS)}, got {fill!r}")
    if not isinstance(fill, str) and torch.as_tensor(fill).shape not in ((), (images.shape[1],)):
        raise ValueError(f"fill must hold one number for each of {images.shape[1]} channels, got {fill!r}")
    return images.dim() - 2


def _colour(images: Tensor, fill: float | Tensor) -> Tensor:
    colour = torch.as_tensor(fill, dtype=torch.float64, device=images.device)
    return colour.reshape(-1, *[1] * (images.dim() - 2))


def _diagonal(rank: int, value: float) -> list[list[float]]:
    return [[value * (row == column) for column in range(rank)] for row in range(rank)]


def _resample(
    images: Tensor,
    matrix: Sequence[Sequence[float]],
    offset: Sequence[float],
    fill: Fill,
    interpolation: str,
) -> Tensor:
    """Reads images at other positions.

    Computed in float64 and rounded once. Around the image lies the border: interpolation runs from its outermost pixels
    into it.

    Args:
        images: (N, C, [[D,] H,] W).
        matrix: takes a pixel's [[z,] y,] x from the middle of the result to where it is read, from the middle of the
            image.
        offset: [[z,] y,] x, added to that.
        fill, interpolation: as for `translate`.
    """
    if images.dim() == 3:  # as images of one row
        row = [[1.0, 0.0], [0.0, *matrix[0]]]
        return _resample(images[:, :, None], row, (0.0, *offset), fill, interpolation)[:, :, 0]
    size = images.shape[2:]
    axes = range(len(size) - 1, -1, -1)
    # affine_grid has x first, and measures from the middle in halves of the size along each axis.
    theta = [
        [*(matrix[a][b] if a == b else matrix[a][b] * size[b] / size[a] for b in axes), 2 * offset[a] / size[a]]
        for a in axes
    ]
    exact_theta = torch.tensor(theta, dtype=torch.float64, device=images.device)
    grid = F.affine_grid(exact_theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    exact = images.double()
    if isinstance(fill, str):
        result = F.grid_sample(exact, grid, interpolation, BORDERS[fill], align_corners=False)
    else:
        colour = _colour(images, fill)
        result = F.grid_sample(exact - colour, grid, interpolation, "zeros", align_corners=False) + colour
    return result.to(images.dtype)
