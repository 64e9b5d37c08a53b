"""What `deconv-kernels unsupervised` is asked to learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from . import options
from .options import Machine, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to learn, from what, and what to show."""

    photographs: PhotographSources = group(PhotographSources)
    maps: str = option("32,64", "Feature maps of each layer, from the bottom.")
    fidelity: str | None = option(
        None,
        "Weight of the reconstruction error against the l1 norm (lambda), of each layer; smaller is sparser. By "
        "default 0.4 for the first layer and 0.2 for those above.",
    )
    kernel: str = option("7", "Rows and columns of the filters, of each layer.")
    pool: str = option("2", "Rows and columns of the pooling windows, of each layer.")
    epochs: int = option(6, "Passes through the crops, per layer.")
    steps: int = option(15, "Steps of inference.")
    method: str = option("fista", "Of inference.", type=click.Choice(("fista", "ista")))
    pooling: str = option(
        "within",
        "within: every step pools and unpools, as in the 2011 paper; after: once at the end.",
        type=click.Choice(("within", "after")),
    )
    crops: int = option(128, "Crops to learn from, at most.")
    size: int = options.size(default=64, help="Rows and columns of the crops.")
    batch_size: int = options.batch_size(default=16, help="Crops per update of the filters.")
    grey: bool = option(False, "Learn from grey images.", is_flag=True)
    seed: int = options.seed(help="Of the filters to begin with and the order of the crops.")
    filters: Path | None = option(
        None,
        "A filters.npz of an earlier run, computed with in float32: nothing is learned, and options about layers do "
        "not count.",
        type=click.Path(path_type=Path),
    )
    shown: int = option(6, "Photographs to reconstruct, at most, in colour or grey.")
    shown_size: int = option(160, "Rows and columns at which they are reconstructed.")
    shown_maps: int = option(16, "Maps of each upper layer to draw.")
    machine: Machine = group(Machine)
    output: str = options.output()
