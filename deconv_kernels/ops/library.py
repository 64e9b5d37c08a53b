"""Loads the compiled parts, keeping the reason where one does not load, and defines the ops that they would define."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

NAMESPACE = "deconv_kernels"
TRITON_NAMESPACE = "deconv_kernels_triton"
REFERENCE_NAMESPACE = "deconv_kernels_reference"

_WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation"

# The same text as in csrc/ops.cpp, for the namespaces that are defined from Python; a test holds the two together.
SCHEMAS = {
    "max_pool2d": f"(Tensor input, Tensor? bias, {_WINDOW}, bool ceil_mode, bool relu) -> (Tensor, Tensor)",
    "max_unpool2d": (
        f"(Tensor input, Tensor switches, {_WINDOW}, SymInt[2] output_size, str overlap, bool relu) -> Tensor"
    ),
    "max_unpool2d_window": (
        "(Tensor input, Tensor switches, Tensor image, Tensor origin, int[2] kernel_size, int[2] stride, "
        "int[2] dilation, str overlap, bool relu) -> Tensor"
    ),
    "backproject2d": (
        "(Tensor input, Tensor weight, Tensor image, Tensor origin, Tensor? switches, Tensor? packed, "
        "int[2] pool_kernel_size, int[2] pool_stride, int[2] pool_dilation, str overlap, bool relu, int[2] stride, "
        "int[2] dilation, int groups, SymInt[2] begin, SymInt[2] size, SymInt[2] base, SymInt[2] map_size) -> Tensor"
    ),
    "pack_weight": "(Tensor weight, int[2] stride, int[2] dilation, int groups) -> Tensor",
    "switches_to_indices": f"(Tensor switches, SymInt[2] input_size, {_WINDOW}) -> Tensor",
    "indices_to_switches": f"(Tensor indices, SymInt[2] input_size, {_WINDOW}) -> Tensor",
}

_HERE = Path(__file__).parent.parent


def _load(file_name: str) -> str | None:
    """Loads one compiled part; returns why it could not be loaded, or None."""
    path = _HERE / file_name
    if not path.exists():
        return f"not built: {file_name} is not in the package"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{file_name} does not load: {error}"
    return None


def _define(namespace: str) -> torch.library.Library:
    library = torch.library.Library(namespace, "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
    return library


cpu_error = _load("_cpu.abi3.so")

if cpu_error is not None:
    warnings.warn(
        f"deconv_kernels runs on its slow reference implementation, because the C++ kernels are missing ({cpu_error}). "
        "Reinstall it from source with a C++ compiler and cmake at hand, as docs/install.md says.",
        stacklevel=3,
    )

LIBRARIES = {
    NAMESPACE: torch.library.Library(NAMESPACE, "FRAGMENT") if cpu_error is None else _define(NAMESPACE),
    TRITON_NAMESPACE: _define(TRITON_NAMESPACE),
    REFERENCE_NAMESPACE: _define(REFERENCE_NAMESPACE),
}

cuda_error = _load("_cuda.abi3.so")
