"""Max pools that return where their maxima lie, and the unpoolings that read it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from ... import nn as own
from ... import ops
from ...ops.geometry import PerAxis, per_axis
from ..nodes import Node
from ..ranks import each_rank
from ..steps.base import Step
from ..steps.pointwise import Rectifier
from ..steps.pooling import MaxPool
from ..steps.unpooling import IndexUnpool, MaxUnpool
from .calls import Call

# Those of torch that return indices only if they are told to, those that do anyhow, and those of this package.
_POOLS = each_rank("MaxPool{}d", nn) | each_rank("max_pool{}d", F)
_POOLS_WITH_INDICES = each_rank("max_pool{}d_with_indices", F)
_OWN_POOLS = each_rank("MaxPool{}d", own) | each_rank("max_pool{}d", ops)
_OWN_UNPOOLS = each_rank("MaxUnpool{}d", own) | each_rank("max_unpool{}d", ops)
_UNPOOLS = each_rank("MaxUnpool{}d", nn) | each_rank("max_unpool{}d", F) | _OWN_UNPOOLS


def window_of(rank: int, kernel: Any, stride: Any) -> tuple[PerAxis, PerAxis]:
    """A pool's window and its steps along each of some axes."""
    size = per_axis(kernel, rank, "kernel_size")
    return size, size if stride is None or stride == [] else per_axis(stride, rank, "stride")


def returns_indices(node: Node, model: nn.Module) -> bool:
    """Whether a node is a max pool that returns where its maxima lie beside them."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        told = getattr(module, "return_indices", False) or getattr(module, "return_switches", False)
        return bool(told) and any(base in _POOLS or base in _OWN_POOLS for base in type(module).__mro__)
    if node.target in _POOLS_WITH_INDICES or node.target in _OWN_POOLS:
        return True
    told = node.args[6] if len(node.args) > 6 else node.kwargs.get("return_indices", False)
    return node.target in _POOLS and bool(told)


def is_our_pool(node: Node, model: nn.Module) -> bool:
    """Whether such a pool is one of `deconv_kernels`."""
    kinds = type(model.get_submodule(str(node.target))).__mro__ if node.op == "call_module" else (node.target,)
    return any(kind in _OWN_POOLS for kind in kinds)


def unpooling(call: Call, pool: MaxPool) -> tuple[list[Step], list[Node]] | None:
    """The steps of an unpooling by the switches of a max pool, and the nodes that it reads beside the switches.

    Returns None for a node that is none.

    Raises:
        UnsupportedModule: it does not fit the pool.
    """
    kind = call.node.target if call.module is None else type(call.module)
    if kind not in _UNPOOLS:
        return None
    rank, ours = _UNPOOLS[kind], kind in _OWN_UNPOOLS
    source, given = call.argument(0, "input"), call.argument(1, "indices", call.node.kwargs.get("switches"))
    size, step = window_of(rank, call.setting(2, "kernel_size"), call.setting(3, "stride"))
    padding = per_axis(call.setting(4, "padding", 0), rank, "padding")
    dilation = per_axis(call.setting(5, "dilation", 1) if ours else 1, rank, "dilation")
    if (size, step, padding, dilation) != pool.geometry:
        raise call.refused(f"it must have the window of {pool.name!r}, whose switches it reads")
    if not (call.has_signal(source) and isinstance(given, Node)):
        raise call.refused("it must unpool something that is computed from the images, by the indices of a max pool")
    if ours != is_our_pool(given.args[0], call.model):  # type: ignore[arg-type]
        raise call.refused("switches are for the unpooling of deconv_kernels, and indices are for torch's")
    output_size = call.constants.expression(call.argument(2 if call.module else 6 if ours else 5, "output_size"))
    nodes = [source, *(node for node in output_size.looks_at if node is not source)]
    looks_at = [nodes.index(node) for node in output_size.looks_at]
    if not ours:
        return [IndexUnpool(call.name, pool, output_size, looks_at)], nodes
    relu, overlap = call.setting(None, "relu", False), call.setting(None, "overlap", "sum")
    unpool = MaxUnpool(f"{call.name}.unpool" if relu else call.name, pool, overlap, output_size, looks_at)
    return [unpool, Rectifier(call.name, call.rule)] if relu else [unpool], nodes
