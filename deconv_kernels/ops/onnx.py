"""How `torch.onnx.export` writes the ops: MaxPool is ONNX's own, the rest are PyTorch's operators, which ONNX knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import reference
from .arguments import taking_flat
from .dispatch import DispatchKeySet
from .geometry import Pooling
from .layout import spatial_size
from .library import without_rank


def plain_in_onnx(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """What runs for an op under the dispatch key Autograd: `kernel`, or in an ONNX export PyTorch's own operators.

    torch.onnx takes whatever it is given, a module or a `torch.export` program, through this key, also where nothing
    is differentiated.
    """
    kind = without_rank(name)
    plain = taking_flat(name, max_pool if kind == "max_pool" else getattr(reference, kind))

    def choose(keys: DispatchKeySet, *arguments: Any) -> Any:
        if is_compiling() and torch.onnx.is_in_onnx_export():
            return plain(*arguments)
        return kernel(keys, *arguments)

    return choose


def max_pool(
    input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    """ONNX's own pooling, with its indices as switches."""
    rank = pooling.rank
    if bias is not None:
        input = input + bias[(..., *[None] * rank)]
    if relu:
        input = torch.relu(input)
    batched = input.dim() == rank + 2
    images = input if batched else input[None]
    size = spatial_size(images, rank)
    shape = (*images.shape[:-rank], *pooling.pooled_size(size, ceil_mode))
    kernel, stride, padding, dilation = pooling
    window = {"kernel_shape": kernel, "strides": stride, "pads": (*padding, *padding), "dilations": dilation}
    values, indices = torch.onnx.ops.symbolic_multi_out(
        "MaxPool",
        (images,),
        {**window, "ceil_mode": int(ceil_mode)},
        dtypes=(input.dtype, torch.int64),
        shapes=(shape, shape),
    )
    # They count through the maps of all channels and images.
    indices = indices - indices // math.prod(size) * math.prod(size)
    switches = reference.indices_to_switches(indices, size, pooling)
    return (values, switches) if batched else (values[0], switches[0])
