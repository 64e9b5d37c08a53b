"""See what a convolutional network has learned: exact deconvnet projections, computed by compiled kernels.

Max-pooling with switches, switch-guided unpooling and windowed backprojection as torch ops, and built on them the
deconvnet of Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2013).
"""

from . import _interrupt as _interrupt  # first: it answers interrupts while the others are being imported
from . import backends, nn
from .engine.deconvnet import Deconvnet, Projections
from .engine.errors import UnknownLayer, UnsupportedModule
from .engine.record import Record
from .engine.units import Units
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

__version__ = "0.1.0"

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
