"""What the ops and a projection mean, in plain PyTorch; the ops take the positional arguments of their schemas."""

from .engine.definition import project
from .ops import reference
from .ops.arguments import taking_flat

max_pool2d = taking_flat("max_pool2d", reference.max_pool)
max_pool3d = taking_flat("max_pool3d", reference.max_pool)
max_unpool2d = taking_flat("max_unpool2d", reference.max_unpool)
max_unpool2d_window = taking_flat("max_unpool2d_window", reference.max_unpool_window)
max_unpool3d = taking_flat("max_unpool3d", reference.max_unpool)
max_unpool3d_window = taking_flat("max_unpool3d_window", reference.max_unpool_window)
backproject2d = taking_flat("backproject2d", reference.backproject)
backproject3d = taking_flat("backproject3d", reference.backproject)
pack_weight = taking_flat("pack_weight", reference.pack_weight)
switches_to_indices = taking_flat("switches_to_indices", reference.switches_to_indices)
indices_to_switches = taking_flat("indices_to_switches", reference.indices_to_switches)

__all__ = [
    "backproject2d",
    "backproject3d",
    "indices_to_switches",
    "max_pool2d",
    "max_pool3d",
    "max_unpool2d",
    "max_unpool2d_window",
    "max_unpool3d",
    "max_unpool3d_window",
    "pack_weight",
    "project",
    "switches_to_indices",
]
