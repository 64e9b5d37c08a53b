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
    """Print the version, PyTorch, and which backends of each op can run here, or why they cannot.

    \b
    Example:
        deconv-kernels info --json
    """
    import torch

    from .. import __version__
    from ..ops import backends

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    threads, ops = torch.get_num_threads(), backends.available()
    capability = backends.cpu_capability() if backends.why_not("cpu") is None else None
    lines = [f"deconv_kernels {__version__}", f"torch {torch.__version__}, {threads} CPU threads, {cuda}"]
    lines += [f"CPU kernels for {capability}"] if capability else []
    for op, reasons in ops.items():
        lines.append(f"{op}: {', '.join(backend for backend, reason in reasons.items() if reason is None)}")
        lines += [f"  not {backend}: {reason}" for backend, reason in reasons.items() if reason is not None]
    found = {"version": __version__, "torch": torch.__version__, "threads": threads, "device": cuda}
    return Answer(lines, found={**found, "capability": capability, "ops": ops})
