"""The command line, one file per command."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from .. import __version__
from . import (
    bench,
    correspondence,
    evolution,
    filters,
    gallery,
    info,
    invariance,
    mine,
    occlusion,
    plan,
    repair,
    report,
    transfer,
    unsupervised,
)

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="deconv_kernels", message="%(package)s %(version)s")
def main() -> None:
    """See what a convolutional network has learned, by deconvnet projections."""
    # What a command has begun to write vanishes when it is asked to end, as it does when it is interrupted.
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


for _module in (
    gallery,
    mine,
    occlusion,
    invariance,
    correspondence,
    filters,
    repair,
    evolution,
    transfer,
    unsupervised,
    report,
    bench,
    plan,
    info,
):
    main.add_command(_module.command)
