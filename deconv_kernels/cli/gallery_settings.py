"""What `deconv-kernels gallery` is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass

import click

from . import options
from .options import OVERLAPS, ImageSources, Network, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to draw."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    layers: str = options.layers("Layers to draw, separated by commas, such as conv3_3,conv5_3.", required=True)
    maps: int = options.maps()
    k: int = options.k()
    output: str = options.output()
    size: int = options.size()
    crops: int = options.crops()
    batch_size: int = options.batch_size(help="Crops recorded at a time.")
    seed: int = options.seed()
    rule: str = options.rule()
    overlap: str = option(
        OVERLAPS[0],
        "What pooling windows that share a maximum do: add up, or let the last window win.",
        type=click.Choice(OVERLAPS),
    )
    distinct: bool = option(False, "Show a place that several overlapping crops hold only once a map.", is_flag=True)
    sample: int = option(4, "Units per layer to compare with their definition and with the baselines; 0 for none.")
