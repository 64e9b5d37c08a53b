"""`deconv-kernels transfer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from . import options
from .options import Network, group, option

DATA = ("digits", "faces", "photographs")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to classify, by which features, and how."""

    network: Network = group(Network)
    data: str | None = option(
        None,
        "Images that installed packages ship: handwritten digits, faces against no faces, or crops of photographs by "
        "photograph, with training and test crops from separate quarters.",
        type=click.Choice(DATA),
    )
    images: tuple[str, ...] = option(
        (),
        "Your own instead: a folder with one subfolder of images for each class; or several photographs, crops of "
        "which are told apart as with --data photographs. May be repeated. Hidden files are left out, transparent "
        "parts are shown on white, and images smaller than what the network sees are enlarged.",
        multiple=True,
    )
    more_images: tuple[str, ...] = options.more_images()
    size: int = options.size(96)
    layers: str = options.layers("Separated by commas; by default the last one of every size of maps.")
    per_class: str = option("1,3,10,30", "Training images per class, by commas.")
    folds: int = option(5, "How often other training and test images are drawn.")
    test: int = option(50, "Test images per class, at most.")
    classifiers: str = option("svm,softmax", "svm, softmax or both.")
    loss_weight: float = option(10.0, "Weight of the loss against the L2 penalty.", "-C")
    scaling: str = option(
        "layer",
        "Divide all features by one number (layer), or each by its deviation over the training images (feature).",
    )
    grid: int = option(4, "Larger maps are pooled to this many rows and columns; 0 for none.")
    pooling: str = option("max", "How they are pooled: max or average.")
    untrained: bool = option(True, "The same network with random weights.", "--untrained/--no-untrained")
    pixels: bool = option(True, "The images themselves, averaged to at most 32x32.", "--pixels/--no-pixels")
    overlap: float = option(0.99, "Correlation from which a test image is a copy and left out.")
    batch_size: int = options.batch_size(32, "Images per forward pass.")
    seed: int = options.seed("Chooses the folds and the random weights.")
    output: str = options.output()


@options.command("transfer", Settings)
def command(settings: Settings) -> None:
    """Train linear classifiers on the frozen features of layers, with few images per class of a new data set.

    Prints and writes the accuracy of every layer, and draws it by layer and by number of training images. An
    interrupted run goes on where it stopped. Needs scikit-learn.
    """
    from torch import Tensor, channels_last

    from ..data.datasets import load_labelled
    from ..data.tables import aligned, write_csv
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.transfer import transfer, untrained
    from ..plot.transfer import draw_transfer
    from .subject import layers_of, load

    model, size, folds, output = settings.network.model, settings.size, settings.folds, Path(settings.output)
    options.check_seed(settings.seed)
    numbers = options.numbers("--per-class", settings.per_class, int)
    subject = load(settings.network, size)
    weights = subject.weights
    chosen = layers_of(subject.model, settings.layers) if settings.layers else ()
    images = settings.images + settings.more_images
    if (settings.data is None) == (not images):
        raise ValueError(f"give either --data ({', '.join(DATA)}) or --images")
    dataset = load_labelled(settings.data or images, size)
    for name, count in zip(dataset.classes, dataset.labels.bincount().tolist(), strict=True):
        if count <= max(numbers, default=0):
            raise ValueError(
                f"class {name!r} has {count} images: too few to train on {max(numbers)} and test on others"
            )

    def preprocess(batch: Tensor) -> Tensor:
        return weights.preprocess(batch).contiguous(memory_format=channels_last)

    networks = {"given" if settings.network.weights in (None, "random") else "trained": subject.model}
    if settings.untrained:
        try:
            networks["untrained"] = untrained(subject.model, settings.seed)
        except ValueError as error:
            raise ValueError(f"{error}: leave that out with --no-untrained") from error
    parts = Parts(output / ".parts-transfer", "transfer")
    how: dict[str, Any] = {
        "per_class": numbers,
        "folds": folds,
        "test_per_class": settings.test,
        "C": settings.loss_weight,
        "scaling": settings.scaling,
        "grid": settings.grid or None,
        "pooling": settings.pooling,
        "overlap": settings.overlap,
        "seed": settings.seed,
    }
    with written_at_once(output) as draft:
        result = transfer(
            networks,
            dataset.images,
            dataset.labels,
            chosen,
            groups=dataset.groups,
            classifiers=options.names(settings.classifiers),
            pixels=settings.pixels,
            preprocess=preprocess,
            batch_size=settings.batch_size,
            parts=parts,
            **how,
        )
        told = {"model": model, "weights": weights.source, "data": dataset.source, "classes": dataset.classes}
        write_json(draft / "transfer.json", {"settings": {**told, "size": size, **how}, **result.as_dict()})
        write_csv(draft / "transfer.csv", *result.rows())
        tested = " to ".join(map(str, sorted({min(result.tested), max(result.tested)})))
        beside = "\nUntrained is the same network with random weights, frozen too." if settings.untrained else ""
        grid = f"{settings.grid}x{settings.grid}"
        pooled = f"maps larger than {grid} pooled to it ({settings.pooling})" if settings.grid else "whole maps"
        draw_transfer(
            draft / "transfer.png",
            result,
            f"Linear classifiers on the frozen features of {model}: {dataset.source}",
            f"{result.classes} classes, images of {size}x{size}; {folds} folds, mean and standard deviation over them, "
            f"{tested} test images each. Features: {pooled}. Weights: {weights.source}. Dotted: what guessing gives."
            f"{beside}",
        )
    parts.remove()
    for line in aligned(result.table()):
        click.echo(line)
    for line in result.remarks():
        click.echo(line)
    click.echo(f"figure and numbers: {output / 'transfer.png'}, transfer.csv, transfer.json")
