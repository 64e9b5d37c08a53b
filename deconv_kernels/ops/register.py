"""Everything torch asks of an op beside its kernel: fake tensors, gradients, vmap and autocast, for every namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import fakes, reference, vmap
from .arguments import taking_flat
from .autograd import autograd_kernel, differentials
from .dispatch import OpOverload, triton_kernel
from .library import (
    LIBRARIES,
    NAMESPACE,
    REFERENCE_NAMESPACE,
    SCHEMAS,
    TRITON_NAMESPACE,
    cpu_error,
    cuda_error,
    without_rank,
)
from .onnx import plain_in_onnx


def register_all() -> None:
    """Gives every op of every namespace its kernels and its registrations."""
    for name in SCHEMAS:
        plain, triton = (
            taking_flat(name, getattr(reference, without_rank(name))),
            taking_flat(name, _triton_kernel(name)),
        )
        LIBRARIES[REFERENCE_NAMESPACE].impl(name, plain, "CompositeExplicitAutograd")
        for key in ("CPU", "CUDA"):
            LIBRARIES[TRITON_NAMESPACE].impl(name, triton, key)
        if cpu_error is not None:
            LIBRARIES[NAMESPACE].impl(name, plain, "CPU")
        if cuda_error is not None:
            LIBRARIES[NAMESPACE].impl(name, triton, "CUDA")
    for namespace, library in LIBRARIES.items():
        ops = getattr(torch.ops, namespace)
        differentiated, batched = differentials(ops), vmap.rules(ops)
        for name in SCHEMAS:
            fake = getattr(fakes, without_rank(name))
            if name == "pack_weight":
                fake = functools.partial(fake, namespace)
            torch.library.register_fake(f"{namespace}::{name}", taking_flat(name, fake))
            kernel = autograd_kernel(name, getattr(ops, name).default, differentiated.get(without_rank(name)))
            library.impl(name, plain_in_onnx(name, kernel), "Autograd", with_keyset=True)
            torch.library.register_vmap(f"{namespace}::{name}", batched[without_rank(name)])
        for device in ("CPU", "CUDA"):
            for name in ("max_pool2d", "max_pool3d"):
                pool = functools.partial(_autocast_max_pool, getattr(ops, name).default, device.lower())
                library.impl(name, pool, f"Autocast{device}")
            for name in ("backproject2d", "backproject3d"):
                send = functools.partial(_autocast_backproject, getattr(ops, name).default, device.lower())
                library.impl(name, send, f"Autocast{device}")


def _triton_kernel(name: str) -> Callable[..., Any]:
    return lambda *arguments: triton_kernel(name)(*arguments)


def _autocast_max_pool(
    operator: OpOverload, device: str, input: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Pooling keeps the input's dtype; a bias kept in another dtype follows it."""
    with torch.autocast(device, enabled=False):
        return operator(input, None if bias is None else bias.to(input.dtype), *rest)


def _autocast_backproject(operator: OpOverload, device: str, input: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """Runs in autocast's dtype, as every convolution; a weight packed in another dtype is packed again."""
    image, origin, switches, packed, *geometry = rest
    dtype = torch.float64 if input.dtype == torch.float64 else torch.get_autocast_dtype(device)
    kept = packed if weight.dtype == dtype != torch.float64 else None
    with torch.autocast(device, enabled=False):
        return operator(input.to(dtype), weight.to(dtype), image, origin, switches, kept, *geometry)
