"""The ops, on every backend: checked, differentiable, compilable, with rules for vmap and autocast."""

from .functional import (
    Backprojection,
    backproject2d,
    check_overlap,
    indices_to_switches,
    max_pool2d,
    max_unpool2d,
    max_unpool2d_window,
    pack_weight,
    send_back,
    switches_to_indices,
)
from .register import register_all

register_all()

__all__ = [
    "Backprojection",
    "backproject2d",
    "check_overlap",
    "indices_to_switches",
    "max_pool2d",
    "max_unpool2d",
    "max_unpool2d_window",
    "pack_weight",
    "send_back",
    "switches_to_indices",
]
