"""The ops, and functions of torch, for maps of one, two and three axes, by that number."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from .. import ops

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
UNPOOL_BY_INDICES = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
MAX_POOL = {1: ops.max_pool1d, 2: ops.max_pool2d, 3: ops.max_pool3d}
MAX_UNPOOL = {1: ops.max_unpool1d, 2: ops.max_unpool2d, 3: ops.max_unpool3d}
MAX_UNPOOL_WINDOW = {1: ops.max_unpool1d_window, 2: ops.max_unpool2d_window, 3: ops.max_unpool3d_window}


def each_rank(name: str, *rooms: Any) -> dict[Any, int]:
    """The modules or functions of a name, in which {} stands for the number of axes of their maps, with that number."""
    return {getattr(room, name.format(rank)): rank for room in rooms for rank in (1, 2, 3)}
