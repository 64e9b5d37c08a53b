"""The ops as Triton kernels: on CUDA tensors, or on CPU tensors in Triton's interpreter (`TRITON_INTERPRET=1`).

The functions have the names of the ops and take their tensors and objects, already checked by `deconv_kernels.ops`.
"""

from __future__ import annotations

import torch

try:
    import triton
except ImportError as error:
    _import_error: ImportError | None = error
else:
    _import_error = None
    from deconv_kernels.ops.triton.backproject import backproject, pack_weight
    from deconv_kernels.ops.triton.max_pool import max_pool
    from deconv_kernels.ops.triton.max_unpool import max_unpool
    from deconv_kernels.ops.triton.max_unpool_window import max_unpool_window
    from deconv_kernels.ops.triton.switches import indices_to_switches, switches_to_indices

__all__ = [
    "backproject",
    "indices_to_switches",
    "max_pool",
    "max_unpool",
    "max_unpool_window",
    "pack_weight",
    "switches_to_indices",
    "why_not",
]


def why_not() -> str | None:
    """Why the kernels cannot run here, or None where they can."""
    if _import_error is not None:
        return f"Triton cannot be imported: {_import_error}"
    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        return None
    return "torch finds no CUDA device, and TRITON_INTERPRET=1 was not set when Triton was imported"
