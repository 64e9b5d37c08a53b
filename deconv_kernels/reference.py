"""What every op and every projection means, in plain PyTorch."""

from .engine.definition import project
from .ops.reference import (
    backproject2d,
    indices_to_switches,
    max_pool2d,
    max_unpool2d,
    max_unpool2d_window,
    pack_weight,
    switches_to_indices,
)

__all__ = [
    "backproject2d",
    "indices_to_switches",
    "max_pool2d",
    "max_unpool2d",
    "max_unpool2d_window",
    "pack_weight",
    "project",
    "switches_to_indices",
]
