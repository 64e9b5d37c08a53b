"""What `deconv-kernels invariance` is asked to transform."""

from __future__ import annotations

from dataclasses import dataclass

import click

from . import options
from .options import ImageSources, Network, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to transform, how, and what to look at."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    layers: str = options.layers("A low and a high layer, or any others, separated by commas.", required=True)
    labels: str | None = option(
        None,
        "The true classes, to follow their probabilities: one per image, separated by commas or one a line of a "
        "file; numbers, or names from --classes. 'predicted' takes the class given to the original image.",
    )
    classes: str | None = options.classes()
    probabilities: bool = option(False, "The network ends in probabilities, not in logits.", is_flag=True)
    translation: str | None = option(
        None,
        "FROM,TO,STEP in pixels, down is positive; along every axis of volumes. By default the paper's, -60 to 60 of "
        "224.",
    )
    scale: str | None = option(None, "FROM,TO,STEP of the ratio. By default 1,1.8,0.05.")
    rotation: str | None = option(None, "FROM,TO,STEP in degrees, counter-clockwise. By default 0,350,10.")
    fill: str = option(
        "mean",
        "What fills the uncovered border: mean (zero in the network's input), a grey level 0..255, R,G,B, edge (the "
        "border's pixels repeated) or reflect; in tensors a number, or one for each channel.",
    )
    interpolation: str = option(
        "bilinear", "How pixels between pixels are made.", type=click.Choice(("bilinear", "bicubic", "nearest"))
    )
    raw: bool = option(
        False, "Draw distances as in the paper, not divided by the original features' norm.", is_flag=True
    )
    size: int = options.size()
    batch_size: int = options.batch_size(help="Images per pass.")
    output: str = options.output()
