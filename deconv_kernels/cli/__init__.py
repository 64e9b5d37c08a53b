"""The command line, one file per command."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import click

from .. import __version__
from .._interrupt import NOTHING_YET, STATUS
from .options import OUTPUT

__all__ = ["main"]

_COMMANDS = (
    *("bench", "correspondence", "evolution", "explore", "filters", "gallery", "info", "invariance", "mine"),
    *("occlusion", "plan", "repair", "report", "transfer", "unsupervised"),
)


class _Interrupted(click.ClickException):
    """Ctrl-C: one line on stderr that says what is kept and how to go on."""

    exit_code = STATUS

    def show(self, file: Any = None) -> None:
        click.echo(f"\n{self.message}", err=True)


class _Commands(click.Group):
    """Commands that can be interrupted at any time."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(_kept(ctx.meta.get(OUTPUT), ctx.invoked_subcommand)) from error


def _kept(output: str | None, command: str | None) -> str:
    """What an interrupted command has left behind, and how it goes on."""
    if output is None:
        return NOTHING_YET
    parts = Path(output) / f".parts-{command}"
    if any(parts.rglob("[!.]*.pt")):
        return (
            f"Interrupted. What was finished is kept in {str(parts)!r}: the same command goes on from there. "
            f"Nothing else was written to {output!r}."
        )
    return f"Interrupted. Nothing was written to {output!r} and nothing is kept: the same command starts anew."


@contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Inside, a warning is one line on stderr, for people, without the place in the code that it comes from."""

    def show(message: Warning | str, *more: Any, **named: Any) -> None:
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="deconv_kernels", message="%(package)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """See what a convolutional network has learned, by deconvnet projections.

    \b
    Example:
        deconv-kernels gallery --weights vgg16.pth --images photos/ --layers conv5_3 -o out/

    \b
    Exit codes:
        0    done
        1    a result differs from its definition, or an error of this package
        2    something you can put right; the last line of stderr says what
        130  interrupted by Ctrl-C; stderr says what is kept
        143  ended by SIGTERM; what was begun is removed

    \b
    Completion, for bash (zsh and fish likewise), in ~/.bashrc:
        eval "$(_DECONV_KERNELS_COMPLETE=bash_source deconv-kernels)"
    """
    ctx.with_resource(_warnings_of_one_line())
    # What a command has begun to write vanishes when it is asked to end, as it does when it is interrupted.
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


for _name in _COMMANDS:
    main.add_command(import_module(f".{_name}", __name__).command)
