"""`deconv-kernels gallery`."""

from __future__ import annotations

from pathlib import Path

import click

from ..engine.steps.base import RULES
from .common import (
    layers_option,
    names,
    network_options,
    numbers,
    output_option,
    photograph_options,
    set_threads,
    size_option,
    user_errors,
)


@click.command("gallery")
@network_options
@photograph_options
@layers_option("Layers to draw, separated by commas, such as conv3_3,conv5_3.", required=True)
@click.option("--maps", default=16, show_default=True, help="Maps per layer, chosen at random.")
@click.option("-k", default=9, show_default=True, help="Strongest activations per map.")
@output_option
@size_option()
@click.option("--crops", default=256, show_default=True, help="Crops to cut from the photographs, at most.")
@click.option("--batch-size", default=16, show_default=True, help="Crops recorded at a time.")
@click.option("--seed", default=0, show_default=True, help="Chooses the maps.")
@click.option(
    "--rule", default=RULES[0], show_default=True, help=f"What a rectifier does backwards: {', '.join(RULES)}."
)
@click.option(
    "--overlap",
    default="sum",
    show_default=True,
    help="What pooling windows that share a maximum do: sum, or last (the last window wins).",
)
@click.option("--distinct", is_flag=True, help="Show a place that several overlapping crops hold only once a map.")
@click.option(
    "--sample",
    default=4,
    show_default=True,
    help="Units per layer to compare with their definition and with the baselines; 0 for none.",
)
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    maps: int,
    k: int,
    output: str,
    size: int,
    crops: int,
    batch_size: int,
    seed: int,
    device: str,
    threads: int | None,
    rule: str,
    overlap: str,
    distinct: bool,
    sample: int,
) -> None:
    """Draw what maps respond to in photographs: their strongest activations, projected back to pixels.

    Writes per layer one figure, the first layer's filters, the units as a table and the projections as arrays. Further
    photographs may follow the options, as in --images *.jpg.
    """
    from ..experiments.gallery import Gallery, Settings
    from ..measure.baselines import WrongResult

    with user_errors(ValueError):
        constants = numbers("mean", mean), numbers("std", std)
    settings = Settings(
        model=model,
        weights=weights,
        images=images + more_images,
        layers=names(layers),
        maps=maps,
        k=k,
        crops=crops,
        batch_size=batch_size,
        seed=seed,
        device=device,
        rule=rule,
        overlap=overlap,
        distinct=distinct,
        sample=sample,
        size=size,
        mean=constants[0],
        std=constants[1],
    )
    with user_errors(ValueError):
        set_threads(threads)
        job = Gallery(settings)
    try:
        with user_errors(OSError):
            summary = job.run(Path(output))
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    for line in summary.lines():
        click.echo(line)
