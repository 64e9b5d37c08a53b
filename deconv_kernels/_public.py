"""The public names of the package; importing them registers the ops with torch."""

from . import backends, nn
from . import reference as reference
from .engine.deconvnet import Deconvnet
from .engine.errors import UnknownLayer, UnsupportedModule
from .engine.projections import Projections
from .engine.record import Record
from .engine.units import Units
from .one_call import project
from .ops import (
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
    switches_to_indices,
)
from .show import show

__all__ = [
    "Deconvnet",
    "Projections",
    "Record",
    "Units",
    "UnknownLayer",
    "UnsupportedModule",
    "backends",
    "backproject1d",
    "backproject2d",
    "backproject3d",
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
    "nn",
    "pack_weight",
    "project",
    "show",
    "switches_to_indices",
]
