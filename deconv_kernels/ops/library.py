"""Loads the compiled parts, keeping the reason where one does not load, and defines the ops that they would define."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

NAMESPACE = "deconv_kernels"
TRITON_NAMESPACE = "deconv_kernels_triton"
REFERENCE_NAMESPACE = "deconv_kernels_reference"


def _pooling_schemas(rank: int) -> dict[str, str]:
    """Those of the pooling ops for maps of `rank` dimensions."""
    ints, sizes = f"int[{rank}]", f"SymInt[{rank}]"
    window = f"{ints} kernel_size, {ints} stride, {ints} padding, {ints} dilation"
    return {
        f"max_pool{rank}d": f"(Tensor input, Tensor? bias, {window}, bool ceil_mode, bool relu) -> (Tensor, Tensor)",
        f"max_unpool{rank}d": (
            f"(Tensor input, Tensor switches, {window}, {sizes} output_size, str overlap, bool relu) -> Tensor"
        ),
        f"max_unpool{rank}d_window": (
            f"(Tensor input, Tensor switches, Tensor image, Tensor origin, {ints} kernel_size, {ints} stride, "
            f"{ints} dilation, str overlap, bool relu) -> Tensor"
        ),
    }


def _backproject_schema(rank: int) -> str:
    ints, sizes = f"int[{rank}]", f"SymInt[{rank}]"
    return (
        "(Tensor input, Tensor weight, Tensor image, Tensor origin, Tensor? switches, Tensor? packed, "
        f"{ints} pool_kernel_size, {ints} pool_stride, {ints} pool_dilation, str overlap, bool relu, {ints} stride, "
        f"{ints} dilation, int groups, {sizes} begin, {sizes} size, {sizes} base, {sizes} map_size) -> Tensor"
    )


_WINDOW = "int[] kernel_size, int[] stride, int[] padding, int[] dilation"

# The same text as in csrc/ops.cpp, for the namespaces that are defined from Python; a test holds the two together.
SCHEMAS = {
    **_pooling_schemas(2),
    **_pooling_schemas(3),
    "backproject2d": _backproject_schema(2),
    "backproject3d": _backproject_schema(3),
    "pack_weight": "(Tensor weight, int[] stride, int[] dilation, int groups) -> Tensor",
    "switches_to_indices": f"(Tensor switches, SymInt[] input_size, {_WINDOW}) -> Tensor",
    "indices_to_switches": f"(Tensor indices, SymInt[] input_size, {_WINDOW}) -> Tensor",
}


def without_rank(name: str) -> str:
    """What an op does, for maps of whatever rank: `max_pool` of `max_pool2d` and of `max_pool3d`."""
    return re.sub("[23]d", "", name)


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
