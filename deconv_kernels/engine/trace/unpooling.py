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


def window_of(kernel: Any, stride: Any) -> tuple[PerAxis, PerAxis]:
    """Rows and columns of a pool's window and of its steps."""
    size = per_axis(kernel, 2, "kernel_size")
    return size, size if stride is None or stride == [] else per_axis(stride, 2, "stride")


def returns_indices(node: Node, model: nn.Module) -> bool:
    """Whether a node is a max pool that returns where its maxima lie beside them."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, nn.MaxPool2d | own.MaxPool2d) and bool(
            getattr(module, "return_indices", False) or getattr(module, "return_switches", False)
        )
    if node.target in (F.max_pool2d_with_indices, ops.max_pool2d):
        return True
    position = 6 if node.target is F.max_pool2d else None
    return position is not None and bool(
        node.args[position] if len(node.args) > position else node.kwargs.get("return_indices", False)
    )


def is_our_pool(node: Node, model: nn.Module) -> bool:
    """Whether such a pool is one of `deconv_kernels`."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), own.MaxPool2d)
    return node.target is ops.max_pool2d


def unpooling(call: Call, pool: MaxPool) -> tuple[list[Step], list[Node]] | None:
    """The steps of an unpooling by the switches of a max pool, and the nodes that it reads beside the switches.

    Returns None for a node that is none.

    Raises:
        UnsupportedModule: it does not fit the pool.
    """
    node, name = call.node, call.name
    source, given = call.argument(0, "input"), call.argument(1, "indices", node.kwargs.get("switches"))
    ours, relu = node.target is ops.max_unpool2d, node.kwargs.get("relu")
    overlap: Any = node.kwargs.get("overlap", "sum")
    if node.op == "call_module":
        module: Any = call.model.get_submodule(str(node.target))
        if type(module) not in (nn.MaxUnpool2d, own.MaxUnpool2d):
            return None
        if ours := isinstance(module, own.MaxUnpool2d):
            overlap, relu = module.overlap, module.relu
        size, step = window_of(module.kernel_size, module.stride)
        padding = per_axis(module.padding, 2, "padding")
        dilation = per_axis(getattr(module, "dilation", 1), 2, "dilation")
        wanted = call.argument(2, "output_size")
    elif node.target is F.max_unpool2d:
        size, step = window_of(call.argument(2, "kernel_size"), call.argument(3, "stride"))
        padding, dilation = per_axis(call.argument(4, "padding", 0), 2, "padding"), (1, 1)
        wanted = call.argument(5, "output_size")
    elif ours:
        size, step = window_of(call.argument(2, "kernel_size"), call.argument(3, "stride"))
        padding, dilation = (
            per_axis(call.argument(4, "padding", 0), 2, "padding"),
            per_axis(call.argument(5, "dilation", 1), 2, "dilation"),
        )
        wanted = call.argument(6, "output_size")
    else:
        return None
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
