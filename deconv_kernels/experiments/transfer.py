"""Transfer: how far the frozen features of every layer carry on a new data set (Zeiler & Fergus 2013, section 5.2).

The images of a data set go through a network once; on what each layer makes of them a linear classifier is trained with
a few images per class and tested on others, several times over with other images:

    result = transfer({"trained": model, "untrained": untrained(model)}, images, labels, layers=["pool1", "pool5"])
    for score in result.scores:
        print(score.network, score.layer, score.classifier, score.per_class, score.mean, score.deviation)

Nothing of a test image is ever used in training, not even for scaling. What two images share beyond their class, such
as being cut from one region of a photograph, is told by `groups`, which no fold parts; copies are found by
`find_overlap` and are no test images.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import inf, nan
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ..checks import one_of
from ..terminal import Progress
from .common.batches import check_data
from .common.features import (
    Batches,
    Features,
    check_finite,
    class_numbers,
    extract_features,
    last_layers,
    untrained,
)
from .common.files import Parts, fingerprint
from .common.folds import Fold, check_threshold, find_overlap, make_folds, without_copies

__all__ = [
    "CLASSIFIERS",
    "PIXELS",
    "SCALINGS",
    "Score",
    "Transfer",
    "classify",
    "extract_features",
    "find_overlap",
    "last_layers",
    "make_folds",
    "transfer",
    "untrained",
]

CLASSIFIERS = ("svm", "softmax")
SCALINGS = ("layer", "feature")
PIXELS = "raw pixels"
"""The layer that stands for the images themselves in results, and the network that it belongs to."""

_ROUNDING = 1e-12
_TOLERANCE = 1e-8  # at scikit-learn's own, 1e-4, predictions still change for C of some hundreds and more


@dataclass(frozen=True)
class Score:
    """How well a classifier on the features of a layer did.

    Attributes:
        network, layer, classifier: which.
        per_class: training images per class.
        accuracies: one for every fold: the share of the test images recognised, of every class alone, and of that the
            mean over the classes (as for Caltech-101), from 0 to 1.
    """

    network: str
    layer: str
    classifier: str
    per_class: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the folds; not a number for one fold."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else nan


@dataclass(frozen=True)
class Transfer:
    """What `transfer` found.

    Attributes:
        scores: by network, layer, classifier and number of training images.
        classes: how many there are.
        features: how many numbers stand for an image, by layer; of maps, after pooling.
        overlapping: test images left out of each fold because they are copies of training images.
        tested: test images of each fold.
    """

    scores: tuple[Score, ...]
    classes: int
    features: dict[str, int]
    overlapping: tuple[int, ...]
    tested: tuple[int, ...]

    @property
    def most_per_class(self) -> int:
        """The largest number of training images per class."""
        return max(score.per_class for score in self.scores)

    def score(self, network: str, layer: str, classifier: str, per_class: int) -> Score:
        """One of the scores.

        Raises:
            KeyError: there is none such.
        """
        wanted = (network, layer, classifier, per_class)
        for score in self.scores:
            if (score.network, score.layer, score.classifier, score.per_class) == wanted:
                return score
        raise KeyError(wanted)

    def names(self, of: str) -> list[str]:
        """The networks, layers or classifiers of the scores, in order; `of` is the field's name."""
        return list(dict.fromkeys(getattr(score, of) for score in self.scores))

    def as_dict(self) -> dict[str, Any]:
        """Everything as what JSON can write; no deviation is null."""
        scores = [
            {**asdict(score), "mean": score.mean, "deviation": None if len(score.accuracies) < 2 else score.deviation}
            for score in self.scores
        ]
        return {**asdict(self), "scores": scores}

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Every score under a head."""
        folds = len(self.tested)
        head = ["network", "layer", "classifier", "per_class", "mean", "deviation"]
        return [*head, *(f"fold_{number + 1}" for number in range(folds))], [
            [*(getattr(score, name) for name in head), *score.accuracies] for score in self.scores
        ]

    def remarks(self) -> list[str]:
        """For people, what the table says, and what was left out."""
        lines = [
            f"accuracy in %, mean over {self.classes} classes and deviation over {len(self.tested)} folds, "
            f"{self.most_per_class} training images per class"
        ]
        if any(self.overlapping):
            copies = ", ".join(map(str, self.overlapping))
            lines.append(f"test images left out as copies of training images, by fold: {copies}")
        return lines

    def table(self) -> list[list[str]]:
        """The accuracies in percent with the most training images, by network and layer as the paper's Table 7."""
        classifiers = self.names("classifier")
        rows = [["network", "layer", "features", *classifiers]]
        for network, layer in dict.fromkeys((score.network, score.layer) for score in self.scores):
            scores = [self.score(network, layer, classifier, self.most_per_class) for classifier in classifiers]
            rows.append([network, layer, f"{self.features[layer]:,}", *map(_percent, scores)])
        return rows


class _Indexable(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


def transfer(
    networks: nn.Module | Mapping[str, nn.Module],
    images: Tensor | _Indexable | Batches,
    labels: Tensor | Sequence[int] | None = None,
    layers: Sequence[str] = (),
    *,
    per_class: int | Sequence[int] = (15, 30),
    folds: int = 5,
    test_per_class: int = 50,
    groups: Tensor | Sequence[int] | None = None,
    classifiers: Sequence[str] = CLASSIFIERS,
    C: float = 10.0,
    scaling: str = "layer",
    grid: int | None = 4,
    pooling: str = "max",
    pixels: bool = True,
    overlap: float | None = 0.99,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    parts: Parts | None = None,
    progress: bool = True,
) -> Transfer:
    """Trains linear classifiers on the frozen features of layers, with few images per class, and tests them.

    All networks, layers and classifiers see the same folds, and within a fold the training images of a smaller number
    per class are among those of a larger one and the test images are the same.

    Args:
        networks: one, or several by name, that have the same layers.
        images: (N, C, H, W), (N, C, D, H, W) of volumes or (N, C, L) of signals, or anything with a length and images
            (C, ...) by place (a `Dataset`), of which only those are read that some fold needs; or with `labels` None a
            DataLoader of (images, labels) in batches, the same every time.
        labels: (N,) the class of each image, any integers.
        layers: names as `Deconvnet(network).layers` has them; by default `last_layers`.
        per_class: training images per class, one or several numbers.
        folds: how often to draw other training and test images.
        test_per_class: test images per class at most.
        groups: (N,) integers; images of one group are never on both sides of a fold. See `make_folds`.
        classifiers: "svm" and "softmax". See `classify`, also for `C` and `scaling`.
        grid, pooling: how large maps are pooled. See `extract_features`, also for `preprocess`.
        pixels: beside the layers, the images themselves.
        overlap: test images that correlate with a training image of the fold by as much are left out (`find_overlap` on
            `Features.pixels`), as copies; None keeps them.
        batch_size: images per forward pass, if `images` is not a DataLoader.
        seed: of the folds.
        parts: keeps features by batch, and accuracies by layer, fold, classifier and number of training images. They
            are known by what they came from: those of other images, weights or settings are never taken for these.
        progress: show progress bars.

    Returns:
        The accuracies.

    Raises:
        ValueError: arguments that cannot be, classes with too few images, features that are not finite, or
            scikit-learn is missing; the message says which.
        UnknownLayer: a layer that the network does not have.

    Source: Zeiler & Fergus 2013, section 5.2, Tables 4, 5 and 7, Fig 9.

    Example:
        >>> model, labels = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), torch.arange(20) % 2
        >>> images = torch.randn(20, 3, 16, 16) + labels[:, None, None, None]
        >>> found = transfer(model, images, labels, ["1"], per_class=4, folds=2, overlap=None, progress=False)
        >>> found.classes, found.features["1"]
        (2, 64)
    """
    named = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    if not named or PIXELS in named:
        raise ValueError(f"networks must hold at least one, none of them called {PIXELS!r}, got {list(named)}")
    per_class = _numbers(per_class)
    _check_classification(classifiers, C, scaling)
    _require_scikit_learn()
    if overlap is not None:
        check_threshold(overlap)

    def drawn(labels: Tensor) -> list[Fold]:
        return make_folds(labels, max(per_class), folds, test_per_class, groups, seed)

    planned, batches = None, images
    if labels is not None:
        labels = class_numbers(labels)
        if len(images) != len(labels):  # type: ignore[arg-type]
            raise ValueError(f"labels must hold one class for each of {len(images)} images, got {len(labels)}")  # type: ignore[arg-type]
        planned = drawn(labels)
        used = torch.cat([places for fold in planned for places in (fold.train.flatten(), fold.test)]).unique()
        planned = [Fold(*(torch.searchsorted(used, places) for places in (f.train, f.test))) for f in planned]
        labels = labels[used]
        source: Any = TensorDataset(images) if isinstance(images, Tensor) else images
        batches = DataLoader(Subset(source, used.tolist()), batch_size)
    elif isinstance(images, Tensor | Dataset):
        raise ValueError("labels are needed, unless images is a DataLoader of (images, labels)")
    else:
        check_data(images, "several networks" if len(named) > 1 else None)  # type: ignore[arg-type]

    found: dict[str, Features] = {}
    for name, network in named.items():
        found[name] = extract_features(
            network,
            batches,  # type: ignore[arg-type]
            layers,
            grid=grid,
            pooling=pooling,
            preprocess=preprocess,
            parts=parts,
            progress=progress,
        )
    first = next(iter(found.values()))
    if not all(_same_images(features, first) for features in found.values()):
        raise ValueError("the DataLoader must give the same images each time that it is gone through")
    if labels is None:
        if first.labels is None:
            raise ValueError("labels are needed: the DataLoader gives images alone")
        labels = first.labels
    if planned is None:
        planned = drawn(labels)

    kept = planned
    if overlap is not None:
        copies, _ = find_overlap(first.pixels, first.pixels, overlap)
        kept = [without_copies(fold, copies, labels) for fold in planned]
    if pixels:
        found[PIXELS] = Features({PIXELS: first.pixels}, first.pixels, labels)
    scores = [
        score
        for name, features in found.items()
        for score in classify(
            features.layers,
            labels,
            kept,
            per_class,
            classifiers,
            C=C,
            scaling=scaling,
            network=name,
            parts=parts,
            progress=progress,
        )
    ]
    return Transfer(
        tuple(scores),
        len(labels.unique()),
        {layer: values.shape[1] for features in found.values() for layer, values in features.layers.items()},
        tuple(len(before.test) - len(after.test) for before, after in zip(planned, kept, strict=True)),
        tuple(len(fold.test) for fold in kept),
    )


def classify(
    features: Mapping[str, Tensor],
    labels: Tensor | Sequence[int],
    folds: Sequence[Fold],
    per_class: int | Sequence[int],
    classifiers: Sequence[str] = CLASSIFIERS,
    *,
    C: float = 10.0,
    scaling: str = "layer",
    network: str = "network",
    parts: Parts | None = None,
    progress: bool = True,
) -> list[Score]:
    """Trains and tests linear classifiers on features.

    The features are centred on the mean of the training images; those that do not vary among these are left out. With
    `scaling="feature"` each is divided by its standard deviation over the training images. Then all are divided by one
    number, with which the mean squared length of a training image is one, so that `C` means the same for every layer.
    Test images are moved and scaled by the same numbers.

    "svm" is scikit-learn's `LinearSVC` (squared hinge loss, one class against the rest), "softmax" its
    `LogisticRegression` (multinomial), both with an L2 penalty and trained until they converge; one that does not is
    warned about. The weights of either lie in the span of the training images, so both are trained on the coordinates
    of the images in an orthonormal basis of that span: the same classifier, with as many numbers per image as there are
    training images, however many features there are.

    Args:
        features: for every layer (N, F).
        labels: (N,) integers.
        folds: as `make_folds` draws them for these labels.
        per_class: training images per class, one or several numbers, each at most as many as the folds hold.
        classifiers: "svm", "softmax".
        C: weight of the loss against the penalty.
        scaling: "layer" for one scale of the whole layer, as the network has it, or "feature".
        network: a name for the scores.
        parts: keeps every finished (layer, fold, number, classifier), known by the features and labels it came from.
        progress: show a progress bar.

    Returns:
        A score for every layer, classifier and number, in this order.

    Raises:
        ValueError: arguments that cannot be, features that are not finite, or scikit-learn is missing.

    Source: Zeiler & Fergus 2013, section 5.2 and Table 7.
    """
    per_class = _numbers(per_class)
    _check_classification(classifiers, C, scaling)
    _require_scikit_learn()
    parts = parts or Parts.nowhere()
    labels = class_numbers(labels)
    if not folds:
        raise ValueError("folds must hold at least one fold")
    most = min(fold.train.shape[1] for fold in folds)
    if max(per_class) > most:
        raise ValueError(f"the folds hold {most} training images per class, fewer than {max(per_class)}")
    for layer, values in features.items():
        if values.dim() != 2 or len(values) != len(labels):
            raise ValueError(
                f"features of {layer!r} must have shape ({len(labels)}, F), one row per label, "
                f"got {tuple(values.shape)}"
            )
        check_finite(values, layer)
    classifiers, numbers = list(dict.fromkeys(classifiers)), sorted(set(per_class))
    total = len(features) * len(folds) * len(numbers) * len(classifiers)
    scores = []
    with Progress(desc="classifiers", total=total, disable=not progress) as bar:
        for layer, values in features.items():
            source = fingerprint(values, labels)
            accuracies: dict[tuple[str, int], list[float]] = {}
            for fold in folds:
                for n in numbers:
                    problem = _Problem(values, labels, fold.train[:, :n].flatten(), fold.test, scaling)
                    setting = f"{fingerprint(problem.train, problem.test)} {C} {scaling}"
                    for classifier in classifiers:
                        name = f"accuracy {source} {setting} {classifier}"
                        accuracy = parts.get(name, partial(problem.accuracy, classifier, C))
                        accuracies.setdefault((classifier, n), []).append(accuracy)
                        bar.update()
            scores += [
                Score(network, layer, classifier, n, tuple(accuracies[classifier, n]))
                for classifier in classifiers
                for n in numbers
            ]
    return scores


@dataclass
class _Problem:
    """Features of one layer, and which images to train and to test on."""

    features: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor
    scaling: str

    @cached_property
    def coordinates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Training and test images, scaled, in an orthonormal basis of the span of the training images."""
        train, test = (self.features[side].to(torch.float64) for side in (self.train, self.test))
        mean, size = train.mean(dim=0), train.square().mean(dim=0).sqrt()
        train, test = train - mean, test - mean
        deviation = train.square().mean(dim=0).sqrt()
        varies = deviation > _ROUNDING * size
        train, test, deviation = train[:, varies], test[:, varies], deviation[varies]
        if not len(deviation):  # the classifiers are left with their intercepts
            return np.zeros((len(train), 1)), np.zeros((len(test), 1))
        if self.scaling == "feature":
            train, test = train / deviation, test / deviation
        length = train.square().sum(dim=1).mean().sqrt()
        train, test = train / length, test / length
        if train.shape[1] > len(train):
            basis, triangle = torch.linalg.qr(train.T)
            train, test = triangle.T, test @ basis
        return train.numpy(), test.numpy()

    def accuracy(self, classifier: str, C: float) -> float:
        """Mean over the classes of the share of their test images that are recognised."""
        train, test = self.coordinates
        fitted = _fitted(_classifier(classifier, C), f"{classifier} with C={C:g}", train, self.labels[self.train])
        truth = self.labels[self.test].numpy()
        right = fitted.predict(test) == truth
        return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _classifier(name: str, C: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if name == "svm":
        return LinearSVC(C=C, dual=False, tol=_TOLERANCE, max_iter=10000)
    return LogisticRegression(C=C, tol=_TOLERANCE, max_iter=10000)


def _fitted(classifier: Any, described: str, train: NDArray[np.float64], labels: Tensor) -> Any:
    """The classifier, trained; a warning of our own, which says which one it was, if it has not converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = classifier.fit(train, labels.numpy())
    for warning in caught:
        message = str(warning.message)
        if issubclass(warning.category, ConvergenceWarning):
            message = f"{described} has not converged, so its accuracy is not final: choose a smaller C"
        warnings.warn(message, warning.category, stacklevel=3)
    return fitted


def _require_scikit_learn() -> None:
    try:
        import sklearn.linear_model
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"transfer needs scikit-learn, which cannot be imported here ({error}): pip install scikit-learn"
        ) from error


def _numbers(per_class: int | Sequence[int]) -> list[int]:
    """Numbers of training images per class."""
    given: list[Any] = list(per_class) if isinstance(per_class, Iterable) else [per_class]
    if not given or not all(isinstance(number, Integral) and int(number) >= 1 for number in given):
        raise ValueError(f"per_class must be whole numbers from 1 up, got {per_class!r}")
    return [int(number) for number in given]


def _check_classification(classifiers: Sequence[str], C: float, scaling: str) -> None:
    if not classifiers or (unknown := [name for name in classifiers if name not in CLASSIFIERS]):
        raise ValueError(f"classifiers must be of {', '.join(CLASSIFIERS)}, got {unknown if classifiers else 'none'}")
    if not 0 < C < inf:
        raise ValueError(f"C must be above 0, got {C}")
    one_of("scaling", scaling, SCALINGS)


def _same_images(a: Features, b: Features) -> bool:
    labels = (a.labels, b.labels)
    return torch.equal(a.pixels, b.pixels) and (labels == (None, None) or torch.equal(*labels))  # type: ignore[arg-type]


def _percent(score: Score) -> str:
    if len(score.accuracies) < 2:
        return f"{100 * score.mean:.1f}"
    return f"{100 * score.mean:.1f} ± {100 * score.deviation:.1f}"
