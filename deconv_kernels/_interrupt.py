"""Ctrl-C while torch is still being imported for the command, which takes seconds: one line, no traceback.

Importing this module answers interrupts so, if the process is the command line, until the command takes over.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

__all__ = ["NOTHING_YET", "STATUS", "is_command", "take_over"]

STATUS = 128 + signal.SIGINT
NOTHING_YET = "Interrupted before the work began: nothing was written."


def take_over() -> None:
    """Has interrupts raise KeyboardInterrupt again: the command has begun."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_command() -> bool:
    """Whether the process was started as `deconv-kernels` or `python -m deconv_kernels`."""
    started = sys.orig_argv
    as_module = any(started[place : place + 2] == ["-m", "deconv_kernels"] for place in range(1, len(started)))
    name = (getattr(sys, "argv", None) or [""])[0]  # where Python is embedded, there may be none
    return Path(name).name == "deconv-kernels" or (as_module and name == "-m")


def _end(number: int, frame: FrameType | None) -> None:
    # Nothing has been begun, so nothing has to be cleaned up; an exception could be caught by what is being imported.
    os.write(2, f"{NOTHING_YET}\n".encode())
    os._exit(STATUS)


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
