"""`deconv-kernels info`."""

from __future__ import annotations

from dataclasses import dataclass

from . import options
from .answer import Answer


@dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


@options.command("info", Settings)
def command(settings: Settings) -> Answer:
    """Print the version, PyTorch, what the CPU kernels chose for this processor and why, and which backends of each op
    can run here, or why they cannot.

    \b
    Example:
        deconv-kernels info --json
    """
    import torch

    from .. import __version__
    from ..engine.steps.convolution import DENSE_FROM, DENSE_WORK
    from ..ops import backends

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    threads, ops = torch.get_num_threads(), backends.available()
    capability, choices = None, []
    if backends.why_not("cpu") is None:
        capability, choices = backends.cpu_capability(), backends.cpu_choices()
        choices.append(
            f"Signals of which over {DENSE_FROM:.0%} are not zero are left to torch's convolution, from "
            f"{DENSE_WORK / 1e6:g} M multiply-adds a unit on: it was faster where both were measured."
        )
    lines = [f"deconv_kernels {__version__}", f"torch {torch.__version__}, {threads} CPU threads, {cuda}"]
    lines += [f"CPU kernels: {choice}" for choice in choices]
    for op, reasons in ops.items():
        lines.append(f"{op}: {', '.join(backend for backend, reason in reasons.items() if reason is None)}")
        lines += [f"  not {backend}: {reason}" for backend, reason in reasons.items() if reason is not None]
    found = {"version": __version__, "torch": torch.__version__, "threads": threads, "device": cuda}
    return Answer(lines, found={**found, "capability": capability, "choices": choices, "ops": ops})
