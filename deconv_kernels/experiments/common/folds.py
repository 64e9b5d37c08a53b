"""Training and test images of a data set: drawn by class, without leaks, and without copies.

Source: Zeiler & Fergus 2013, section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...checks import at_least
from ...terminal import Progress
from .features import class_numbers

__all__ = ["Fold", "check_threshold", "find_overlap", "make_folds", "without_copies"]

_CORRELATIONS = 1 << 24
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Fold:
    """One way to part a data set, as places in it.

    Attributes:
        train: (classes, n) int64, the training images of every class in the order in which fewer of them are taken.
        test: (T,) int64.
    """

    train: Tensor
    test: Tensor


def make_folds(
    labels: Tensor | Sequence[int],
    per_class: int,
    folds: int = 5,
    test_per_class: int = 50,
    groups: Tensor | Sequence[int] | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Draws training and test images at random, class by class, several times.

    In every class whole groups are taken in random order until they hold `per_class` images, of which that many are
    drawn for training; from the other groups up to `test_per_class` are drawn for testing. Without groups every image
    is one by itself. The same arguments always give the same folds; each fold is drawn anew from all images.

    Args:
        labels: (N,) integers.
        per_class: training images of every class.
        folds: how many.
        test_per_class: test images of every class at most.
        groups: (N,) integers, each of one class: images that must not be on both sides, for instance because they show
            the same scene or region.
        seed: chooses the folds.

    Raises:
        ValueError: numbers below 1, fewer than two classes, a group of several classes, or a class that has no image
            left to test; the message says which and how many it has.

    Source: Zeiler & Fergus 2013, section 5.2 (Caltech-101: 15 or 30 images per class for training, up to 50 for
    testing, 5 folds).
    """
    for name, number in (("per_class", per_class), ("folds", folds), ("test_per_class", test_per_class)):
        at_least(name, number, 1)
    labels = class_numbers(labels)
    groups = torch.arange(len(labels)) if groups is None else class_numbers(groups, "groups")
    if len(groups) != len(labels):
        raise ValueError(f"groups must hold one number for each of {len(labels)} images, got {len(groups)}")
    classes = labels.unique().tolist()
    if len(classes) < 2:
        raise ValueError(f"at least two classes are needed, got {len(classes)}")
    mixed = torch.stack((groups, labels)).unique(dim=1)[0].unique(return_counts=True)
    if bool((mixed[1] > 1).any()):
        raise ValueError(
            f"group {int(mixed[0][mixed[1] > 1][0])} holds images of several classes; it may hold only one"
        )
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(folds):
        sides = [_draw(labels, groups, label, per_class, test_per_class, generator) for label in classes]
        drawn.append(Fold(torch.stack([train for train, _ in sides]), torch.cat([test for _, test in sides])))
    return drawn


def _draw(
    labels: Tensor, groups: Tensor, label: int, per_class: int, test_per_class: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Training and test images of one class."""
    members = torch.nonzero(labels == label).flatten().numpy()
    names, group, sizes = np.unique(groups[members].numpy(), return_inverse=True, return_counts=True)
    order = generator.permutation(len(names))
    taken = int(np.searchsorted(np.cumsum(sizes[order]), per_class)) + 1
    if taken >= len(names):
        inside = "" if len(names) == len(members) else f" in {len(names)} groups"
        raise ValueError(
            f"class {label} has {len(members)} images{inside}: too few for {per_class} training images and one for "
            "testing"
        )
    for_training = np.isin(group, order[:taken])
    train, test = (generator.permutation(members[side]) for side in (for_training, ~for_training))
    return torch.from_numpy(train[:per_class].copy()), torch.from_numpy(test[:test_per_class].copy())


def find_overlap(
    images_a: Tensor, images_b: Tensor, threshold: float = 0.99, *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Finds images of one set that are copies of images of another, by normalised correlation.

    Of every image the mean of all its values is subtracted and it is scaled to length one; the correlation of two is
    their product, 1 for images that differ in brightness and contrast only. An image of one value correlates with none.

    Args:
        images_a: (N, ...), for instance (N, C, H, W), any real dtype.
        images_b: (M, ...) of the same shape; sets of other sizes are scaled to one size first, which should be small
            (32x32) to be quick and to overlook compression. May be `images_a`: an image is no copy of itself then.
        threshold: correlation from which on two images count as copies, above 0 up to 1.
        progress: show a progress bar.

    Returns:
        (P, 2) int64, the places of the copies in both sets in row-major order, and (P,) float64 their correlations.

    Raises:
        ValueError: images of different shapes, none, values that are not finite, or a threshold out of range.

    Source: Zeiler & Fergus 2013, section 5.2, who found 44 images of Caltech-101 and 243 of Caltech-256 in ImageNet.
    """
    check_threshold(threshold)
    if images_a.dim() < 2 or images_a.shape[1:] != images_b.shape[1:] or not len(images_a) or not len(images_b):
        raise ValueError(
            f"both sets must hold images of one shape, got {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    same = images_a is images_b
    a, b = _normalised(images_a), _normalised(images_b)
    pairs, correlations = [], []
    rows = max(1, _CORRELATIONS // len(b))
    for start in Progress(range(0, len(a), rows), "overlap", disable=not progress):
        correlation = a[start : start + rows] @ b.T
        if same:
            correlation[torch.arange(len(correlation)), torch.arange(start, start + len(correlation))] = 0
        found = torch.nonzero(correlation >= threshold - _ROUNDING)
        correlations.append(correlation[found[:, 0], found[:, 1]].clamp(max=1))
        pairs.append(found + torch.tensor([start, 0], device=found.device))
    return torch.cat(pairs).cpu(), torch.cat(correlations).cpu()


def check_threshold(threshold: float) -> None:
    """Raises ValueError if `threshold` is no correlation above 0."""
    if not 0 < threshold <= 1:
        raise ValueError(f"the overlap threshold must be above 0 and at most 1, got {threshold}")


def _normalised(images: Tensor) -> Tensor:
    rows = images.flatten(1).to(torch.float64)
    if not bool(rows.isfinite().all()):
        raise ValueError("images hold values that are not finite")
    centred = rows - rows.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    constant = length <= 1e-12 * rows.norm(dim=1, keepdim=True)
    return torch.where(constant, 0, centred / length.where(~constant, 1))


def without_copies(fold: Fold, copies: Tensor, labels: Tensor) -> Fold:
    """The fold without the test images that are copies of its training images.

    Args:
        fold: of the data set.
        copies: (P, 2), as `find_overlap` finds them in the data set and itself.
        labels: (N,) of the data set.

    Raises:
        ValueError: a class would be left without a test image.
    """
    test = fold.test[~torch.isin(fold.test, copies[torch.isin(copies[:, 0], fold.train), 1])]
    missing = sorted(set(labels[fold.train[:, 0]].tolist()) - set(labels[test].tolist()))
    if missing:
        raise ValueError(
            f"all test images of class {missing[0]} are copies of training images (correlation above the threshold)"
        )
    return Fold(fold.train, test)
