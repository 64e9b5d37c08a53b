"""The ops, on every backend: checked, differentiable, compilable, with rules for vmap and autocast."""

from .checks import check_overlap
from .functional import (
    backproject1d,
    backproject2d,
    backproject3d,
    indices_to_switches,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool1d_window,
    max_unpool2d,
    max_unpool2d_window,
    max_unpool3d,
    max_unpool3d_window,
    pack_weight,
    send_back,
    switches_to_indices,
)
from .geometry import Backprojection, Convolution, Placement, Pooling
from .register import register_all

register_all()

__all__ = [
    "Backprojection",
    "Convolution",
    "Placement",
    "Pooling",
    "backproject1d",
    "backproject2d",
    "backproject3d",
    "check_overlap",
    "indices_to_switches",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool1d_window",
    "max_unpool2d",
    "max_unpool2d_window",
    "max_unpool3d",
    "max_unpool3d_window",
    "pack_weight",
    "send_back",
    "switches_to_indices",
]
