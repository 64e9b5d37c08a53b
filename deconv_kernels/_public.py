"""The public names of the package; importing them registers the ops with torch."""

from . import _register, backends, nn
from .calls import UnsupportedModule
from .deconvnet import Deconvnet, Projections
from .graph import UnknownLayer
from .one_call import project
from .ops import (
    backproject2d,
    indices_to_switches,
    max_pool2d,
    max_unpool2d,
    max_unpool2d_window,
    pack_weight,
    switches_to_indices,
)
from .record import Record, Units

_register.register_all()

__all__ = [
    "Deconvnet",
    "Projections",
    "Record",
    "Units",
    "UnknownLayer",
    "UnsupportedModule",
    "backends",
    "backproject2d",
    "indices_to_switches",
    "max_pool2d",
    "max_unpool2d",
    "max_unpool2d_window",
    "nn",
    "pack_weight",
    "project",
    "switches_to_indices",
]
