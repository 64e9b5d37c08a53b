"""Max pools that return where their maxima lie, and the unpoolings that read it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from ... import nn as own
from ... import ops
from ...ops.geometry import PerAxis, per_axis
from ..nodes import Node
from ..steps.base import Step
from ..steps.pointwise import Rectifier
from ..steps.pooling import MaxPool
from ..steps.unpooling import IndexUnpool, MaxUnpool
from .calls import Call

# Max pools and unpoolings, torch's and ours, and of how many axes their maps have.
_POOLS = {getattr(room, f"MaxPool{rank}d"): rank for room in (nn, own) for rank in (1, 2, 3)}
_OWN_POOLS = tuple(getattr(own, f"MaxPool{rank}d") for rank in (1, 2, 3))
_UNPOOLS = {getattr(room, f"MaxUnpool{rank}d"): rank for room in (nn, own) for rank in (1, 2, 3)}
_OWN_UNPOOLS = tuple(getattr(own, f"MaxUnpool{rank}d") for rank in (1, 2, 3))
_POOL_FUNCTIONS = {getattr(F, f"max_pool{rank}d"): rank for rank in (1, 2, 3)}
_POOLS_WITH_INDICES = {getattr(F, f"max_pool{rank}d_with_indices"): rank for rank in (1, 2, 3)}
_OWN_POOL_FUNCTIONS = {getattr(ops, f"max_pool{rank}d"): rank for rank in (1, 2, 3)}
_UNPOOL_FUNCTIONS = {getattr(F, f"max_unpool{rank}d"): rank for rank in (1, 2, 3)}
_OWN_UNPOOL_FUNCTIONS = {getattr(ops, f"max_unpool{rank}d"): rank for rank in (1, 2, 3)}


def window_of(rank: int, kernel: Any, stride: Any) -> tuple[PerAxis, PerAxis]:
    """A pool's window and its steps along each of some axes."""
    size = per_axis(kernel, rank, "kernel_size")
    return size, size if stride is None or stride == [] else per_axis(stride, rank, "stride")


def returns_indices(node: Node, model: nn.Module) -> bool:
    """Whether a node is a max pool that returns where its maxima lie beside them."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, tuple(_POOLS)) and bool(
            getattr(module, "return_indices", False) or getattr(module, "return_switches", False)
        )
    if node.target in _POOLS_WITH_INDICES or node.target in _OWN_POOL_FUNCTIONS:
        return True
    return node.target in _POOL_FUNCTIONS and bool(
        node.args[6] if len(node.args) > 6 else node.kwargs.get("return_indices", False)
    )


def is_our_pool(node: Node, model: nn.Module) -> bool:
    """Whether such a pool is one of `deconv_kernels`."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), _OWN_POOLS)
    return node.target in _OWN_POOL_FUNCTIONS


def unpooling(call: Call, pool: MaxPool) -> tuple[list[Step], list[Node]] | None:
    """The steps of an unpooling by the switches of a max pool, and the nodes that it reads beside the switches.

    Returns None for a node that is none.

    Raises:
        UnsupportedModule: it does not fit the pool.
    """
    node, name = call.node, call.name
    source, given = call.argument(0, "input"), call.argument(1, "indices", node.kwargs.get("switches"))
    ours, relu = node.target in _OWN_UNPOOL_FUNCTIONS, node.kwargs.get("relu")
    overlap: Any = node.kwargs.get("overlap", "sum")
    if node.op == "call_module":
        module: Any = call.model.get_submodule(str(node.target))
        if type(module) not in _UNPOOLS:
            return None
        if ours := isinstance(module, _OWN_UNPOOLS):
            overlap, relu = module.overlap, module.relu
        rank = _UNPOOLS[type(module)]
        window = (module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1))
        wanted = call.argument(2, "output_size")
    elif ours or node.target in _UNPOOL_FUNCTIONS:
        rank = {**_UNPOOL_FUNCTIONS, **_OWN_UNPOOL_FUNCTIONS}[node.target]
        spread = call.argument(5, "dilation", 1) if ours else 1
        window = (call.argument(2, "kernel_size"), call.argument(3, "stride"), call.argument(4, "padding", 0), spread)
        wanted = call.argument(6 if ours else 5, "output_size")
    else:
        return None
    size, step = window_of(rank, *window[:2])
    padding, dilation = per_axis(window[2], rank, "padding"), per_axis(window[3], rank, "dilation")
    if (size, step, padding, dilation) != pool.geometry:
        raise call.refused(f"it must have the window of {pool.name!r}, whose switches it reads")
    if not (call.has_signal(source) and isinstance(given, Node)):
        raise call.refused("it must unpool something that is computed from the images, by the indices of a max pool")
    if ours != is_our_pool(given.args[0], call.model):  # type: ignore[arg-type]
        raise call.refused("switches are for the unpooling of deconv_kernels, and indices are for torch's")
    output_size = call.constants.expression(wanted)
    nodes = [source, *(node for node in output_size.looks_at if node is not source)]
    looks_at = [nodes.index(node) for node in output_size.looks_at]
    if not ours:
        return [IndexUnpool(name, pool, output_size, looks_at)], nodes
    unpool = MaxUnpool(f"{name}.unpool" if relu else name, pool, overlap, output_size, looks_at)
    return [unpool, Rectifier(name, call.rule)] if relu else [unpool], nodes
