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
    size: int = options.size(default=96)
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
    batch_size: int = options.batch_size(default=32, help="Images per forward pass.")
    seed: int = options.seed(help="Chooses the folds and the random weights.")
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

    model, size, output = settings.network.model, settings.size, Path(settings.output)
    options.check_seed(settings.seed)
    numbers = options.numbers("--per-class", settings.per_class, int)
    subject = load(settings.network, size)
    weights = subject.weights
    chosen = layers_of(subject.model, settings.layers) if settings.layers else ()
    images = settings.images + settings.more_images
    if (settings.data is None) == (not images):
        raise ValueError(f"give either --data ({', '.join(DATA)}) or --images")
    dataset = load_labelled(settings.data or images, size)
    dataset.check_counts(max(numbers, default=0))

    def preprocess(batch: Tensor) -> Tensor:
        return weights.preprocess(batch).contiguous(memory_format=channels_last)

    networks = {"given" if settings.network.weights in (None, "random") else "trained": subject.model}
    if settings.untrained:
        try:
            networks["untrained"] = untrained(subject.model, settings.seed)
        except ValueError as error:
            raise ValueError(f"{error}: leave that out with --no-untrained") from error
    parts = Parts(output / ".parts-transfer", "transfer")
    how: dict[str, Any] = {"per_class": numbers, "folds": settings.folds, "test_per_class": settings.test}
    how |= {"C": settings.loss_weight, "scaling": settings.scaling, "grid": settings.grid or None}
    how |= options.values(settings, "pooling", "overlap", "seed")
    of_what = {"model": model, "weights": weights.source, "data": dataset.source, "classes": dataset.classes}
    told = {**of_what, "size": size, **how}
    with written_at_once(output) as draft:
        result = transfer(
            networks,
            dataset.images,
            dataset.labels,
            chosen,
            groups=dataset.groups,
            classifiers=options.names(settings.classifiers),
            preprocess=preprocess,
            parts=parts,
            **options.values(settings, "pixels", "batch_size"),
            **how,
        )
        write_json(draft / "transfer.json", {"settings": told, **result.as_dict()})
        write_csv(draft / "transfer.csv", *result.rows())
        draw_transfer(draft / "transfer.png", result, told)
    parts.remove()
    options.tell([*aligned(result.table()), *result.remarks()])
    click.echo(f"figure and numbers: {output / 'transfer.png'}, transfer.csv, transfer.json")
