"""The launches of Triton's kernels that are kept between calls, for tests that change what they are made from."""

from __future__ import annotations

import importlib

MODULES = [
    importlib.import_module(f"deconv_kernels.ops.triton.{name}")
    for name in ("backproject", "backproject_col2im", "max_pool", "max_unpool", "switches")
]


def forget_launches() -> None:
    """Lets every launch be made anew."""
    for module in MODULES:
        if hasattr(module, "_launch"):
            module._launch.cache_clear()
