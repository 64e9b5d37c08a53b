"""`deconv-kernels info`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from . import options


@dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


@options.command("info", Settings)
def command(settings: Settings) -> None:
    """Print the version, PyTorch, and which backends of each op can run here, or why they cannot."""
    import torch

    from .. import __version__
    from ..ops import backends

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
