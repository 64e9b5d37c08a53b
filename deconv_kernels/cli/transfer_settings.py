"""What `deconv-kernels transfer` is asked to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import click

from . import options
from .options import Network, group, option
from .words import Words

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
        "Your own instead: a folder with one subfolder for each class, of photographs, or of volumes, signals or "
        "images as the network reads them (.npy, .npz, .pt, .wav); or several photographs, crops of "
        "which are told apart as with --data photographs. May be repeated. Hidden files are left out, transparent "
        "parts are shown on white, and images smaller than what the network sees are enlarged.",
        multiple=True,
        type=Words("photographs", files="file"),
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
        type=click.Choice(("layer", "feature")),
    )
    grid: int = option(4, "Larger maps are pooled to this many positions along each axis; 0 for none.")
    pooling: str = option("max", "How they are pooled.", type=click.Choice(("max", "average")))
    untrained: bool = option(True, "The same network with random weights.", "--untrained/--no-untrained")
    pixels: bool = option(
        True, "The images themselves, averaged to at most 32 along each axis.", "--pixels/--no-pixels"
    )
    overlap: float = option(0.99, "Correlation from which a test image is a copy and left out.")
    batch_size: int = options.batch_size(default=32, help="Images per forward pass.")
    seed: int = options.seed(help="Chooses the folds and the random weights.")
    output: str = options.output()
