"""`deconv-kernels transfer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .common import layers_of, layers_option, load, names, network_options, output_option, size_option, user_errors

if TYPE_CHECKING:
    from ..data.datasets import LabelledImages

_DATA = ("digits", "faces", "photographs")


@click.command("transfer")
@network_options
@click.option(
    "--data",
    type=click.Choice(_DATA),
    help="Images that installed packages ship: handwritten digits, faces against no faces, or crops of photographs by "
    "photograph, with training and test crops from separate quarters.",
)
@click.option(
    "--images",
    multiple=True,
    help="Your own instead: a folder with one subfolder of images for each class; or several photographs, crops of "
    "which are told apart as with --data photographs. May be repeated. Hidden files are left out, transparent parts "
    "are shown on white, and images smaller than what the network sees are enlarged.",
)
@click.argument("more_images", nargs=-1)
@size_option(96)
@layers_option("Separated by commas; by default the last one of every size of maps.")
@click.option("--per-class", default="1,3,10,30", show_default=True, help="Training images per class, by commas.")
@click.option("--folds", default=5, show_default=True, help="How often other training and test images are drawn.")
@click.option("--test", default=50, show_default=True, help="Test images per class, at most.")
@click.option("--classifiers", default="svm,softmax", show_default=True, help="svm, softmax or both.")
@click.option("-C", "loss_weight", default=10.0, show_default=True, help="Weight of the loss against the L2 penalty.")
@click.option(
    "--scaling",
    default="layer",
    show_default=True,
    help="Divide all features by one number (layer), or each by its deviation over the training images (feature).",
)
@click.option(
    "--grid", default=4, show_default=True, help="Larger maps are pooled to this many rows and columns; 0 for none."
)
@click.option("--pooling", default="max", show_default=True, help="How they are pooled: max or average.")
@click.option(
    "--untrained/--no-untrained", "with_untrained", default=True, help="The same network with random weights."
)
@click.option("--pixels/--no-pixels", default=True, help="The images themselves, averaged to at most 32x32.")
@click.option(
    "--overlap", default=0.99, show_default=True, help="Correlation from which a test image is a copy and left out."
)
@click.option("--batch-size", default=32, show_default=True, help="Images per forward pass.")
@click.option("--seed", default=0, show_default=True, help="Chooses the folds and the random weights.")
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    device: str,
    threads: int | None,
    data: str | None,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    size: int,
    layers: str,
    per_class: str,
    folds: int,
    test: int,
    classifiers: str,
    loss_weight: float,
    scaling: str,
    grid: int,
    pooling: str,
    with_untrained: bool,
    pixels: bool,
    overlap: float,
    batch_size: int,
    seed: int,
    output: str,
) -> None:
    """Train linear classifiers on the frozen features of layers, with few images per class of a new data set.

    Prints and writes the accuracy of every layer, and draws it by layer and by number of training images. An
    interrupted run goes on where it stopped. Needs scikit-learn.
    """
    import json
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..data.tables import aligned, write_csv
    from ..data.writing import write_text
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.transfer import transfer, untrained
    from ..plot.transfer import draw_transfer

    with user_errors(ValueError, OSError):
        if not 0 <= seed < 2**63:
            raise ValueError(f"--seed must be from 0 to 2**63 - 1, got {seed}")
        numbers = _numbers(per_class)
        subject = load(model, weights, size, mean, std, device, threads)
        chosen = layers_of(subject.model, layers) if layers else ()
        dataset = _load_data(data, images + more_images, size)
        for name, count in zip(dataset.classes, dataset.labels.bincount().tolist(), strict=True):
            if count <= max(numbers, default=0):
                raise ValueError(
                    f"class {name!r} has {count} images: too few to train on {max(numbers)} and test on others"
                )

        def preprocess(batch: Tensor) -> Tensor:
            return subject.weights.preprocess(batch).contiguous(memory_format=torch.channels_last)

        networks = {"given" if weights in (None, "random") else "trained": subject.model}
        if with_untrained:
            try:
                networks["untrained"] = untrained(subject.model, seed)
            except ValueError as error:
                raise ValueError(f"{error}: leave that out with --no-untrained") from error
        parts = Parts(Path(output) / ".parts-transfer", "transfer")
        with written_at_once(Path(output)) as draft:
            result = transfer(
                networks,
                dataset.images,
                dataset.labels,
                chosen,
                groups=dataset.groups,
                per_class=numbers,
                folds=folds,
                test_per_class=test,
                classifiers=names(classifiers),
                C=loss_weight,
                scaling=scaling,
                grid=grid or None,
                pooling=pooling,
                pixels=pixels,
                overlap=overlap,
                preprocess=preprocess,
                batch_size=batch_size,
                seed=seed,
                parts=parts,
            )
            settings = {
                "model": model,
                "weights": subject.weights.source,
                "data": dataset.source,
                "classes": dataset.classes,
                "size": size,
                "per_class": numbers,
                "folds": folds,
                "test_per_class": test,
                "C": loss_weight,
                "scaling": scaling,
                "grid": grid or None,
                "pooling": pooling,
                "overlap": overlap,
                "seed": seed,
            }
            content = {"settings": settings, **result.as_dict()}
            write_text(draft / "transfer.json", json.dumps(content, indent=2) + "\n")
            write_csv(
                draft / "transfer.csv",
                [
                    "network",
                    "layer",
                    "classifier",
                    "per_class",
                    "mean",
                    "deviation",
                    *(f"fold_{i + 1}" for i in range(folds)),
                ],
                [
                    [
                        each.network,
                        each.layer,
                        each.classifier,
                        each.per_class,
                        each.mean,
                        each.deviation,
                        *each.accuracies,
                    ]
                    for each in result.scores
                ],
            )
            tested = " to ".join(map(str, sorted({min(result.tested), max(result.tested)})))
            beside = "\nUntrained is the same network with random weights, frozen too." if with_untrained else ""
            pooled = f"maps larger than {grid}x{grid} pooled to it ({pooling})" if grid else "whole maps"
            draw_transfer(
                draft / "transfer.png",
                result,
                f"Linear classifiers on the frozen features of {model}: {dataset.source}",
                f"{result.classes} classes, images of {size}x{size}; {folds} folds, mean and standard deviation over "
                f"them, {tested} test images each. Features: {pooled}. Weights: {subject.weights.source}. "
                f"Dotted: what guessing gives.{beside}",
            )
        parts.remove()
    for line in aligned(result.table()):
        click.echo(line)
    click.echo(
        f"accuracy in %, mean over {result.classes} classes and deviation over {folds} folds, "
        f"{result.most_per_class} training images per class"
    )
    if any(result.overlapping):
        copies = ", ".join(map(str, result.overlapping))
        click.echo(f"test images left out as copies of training images, by fold: {copies}")
    click.echo(f"figure and numbers: {Path(output) / 'transfer.png'}, transfer.csv, transfer.json")


def _numbers(separated: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in names(separated))
    except ValueError as error:
        raise ValueError(f"--per-class must be numbers separated by commas, got {separated!r}") from error


def _load_data(data: str | None, images: tuple[str, ...], size: int) -> LabelledImages:
    """What --data or --images name."""
    from pathlib import Path

    from ..data.datasets import class_folders, crops_by_photograph, load_class_folders, load_digits, load_faces
    from ..data.photographs import load_photographs

    if (data is None) == (not images):
        raise ValueError(f"give either --data ({', '.join(_DATA)}) or --images")
    if data == "digits":
        return load_digits(size)
    if data == "faces":
        return load_faces(size)
    if len(images) == 1 and Path(images[0]).is_dir() and class_folders(Path(images[0])):
        return load_class_folders(images[0], size)
    return crops_by_photograph(load_photographs("samples" if data else images), size)
