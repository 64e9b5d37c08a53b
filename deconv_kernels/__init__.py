"""See what a convolutional network has learned: exact deconvnet projections, computed by compiled kernels.

Max-pooling with switches, switch-guided unpooling and windowed backprojection as torch ops, and built on them the
deconvnet of Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2013).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _interrupt

__version__ = "0.1.0"

if TYPE_CHECKING or not _interrupt.is_command():
    from ._public import *  # noqa: F403
    from ._public import __all__ as __all__
else:
    # The command answers --help and mistyped options without torch, which takes seconds.
    def __getattr__(name: str) -> Any:
        return getattr(import_module("._public", __name__), name)
