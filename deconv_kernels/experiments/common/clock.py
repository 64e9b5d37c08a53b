"""The time that work on a device takes."""

from __future__ import annotations

import time

import torch

__all__ = ["now"]


def now(device: torch.device) -> float:
    """Seconds, when everything begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
