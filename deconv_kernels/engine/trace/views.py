"""Views of maps, and what a network writes into them, which changes the maps too."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx
from torch import nn

from ..nodes import NO_GRAD, VALUE, Node, SetPart, describe, function_name, overwritten
from .constants import computes_with
from .linearity import is_view, name_of

SEVERAL_VIEWS = frozenset(("chunk", "dsplit", "hsplit", "split", "tensor_split", "unbind", "vsplit"))
"""What returns several views of its first argument, whatever the strides of that are."""

# What gives a tensor another shape or memory, which its views do not see.
_RESHAPED = frozenset(
    ("as_strided_", "resize_", "set_", "set_data", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_")
).union(("unsqueeze_",))


def write_back(graph: torch.fx.Graph, model: nn.Module) -> dict[Node | None, Node]:
    """Lets what reads a map, or a view of it, see what has been written into another view of it before.

    What was written into a view is written into a copy of it, with which a `SetPart` then overwrites that part of the
    map; views that are read later are taken anew. Views of the network's own tensors stay as they are, and so does what
    may be a view or a copy.

    Args:
        graph: of the network.
        model: the network.

    Returns:
        What was added behind nodes that write into views.
    """
    views = _Views(graph, model)
    for node in list(graph.nodes):
        views.follow(node)
    return views.added


class _Views:
    """What every node of a graph is a view of, and what has become of that.

    Attributes:
        added: what was added behind nodes that write into views.
    """

    def __init__(self, graph: torch.fx.Graph, model: nn.Module) -> None:
        self.graph, self.model = graph, model
        self.added: dict[Node | None, Node] = {}
        self._signals: set[Node] = set()
        self._chains: dict[Node, tuple[Node, ...]] = {}  # of a view: the map, and the nodes that took it, at first
        self._now: dict[Node, Node] = {}  # what has become of a map
        self._taken: dict[tuple[Node, Node], Node] = {}  # by the node that took it at first and the map: a view

    def follow(self, node: Node) -> None:
        """Takes the next node."""
        for read in node.all_input_nodes:
            node.replace_input_with(read, self._current(self._chain(read), node) if read in self._chains else read)
        if node.op == "placeholder" or any(read in self._signals for read in computes_with(node)):
            self._signals.add(node)
        written = overwritten(node, self.model)
        if len(written) == 1 and node in self._signals and NO_GRAD not in node.meta:
            self._write(node, written[0])
        elif not written:
            source = node.all_input_nodes[0] if node.all_input_nodes else node
            is_view = _is_view(node) and self._chain(source)[0].op != "get_attr"
            self._chains[node] = (*self._chain(source), node) if is_view else (node,)

    def _chain(self, node: Node) -> tuple[Node, ...]:
        return self._chains.get(node, (node,))

    def _current(self, chain: tuple[Node, ...], reader: Node) -> Node:
        """What has become of a map, or the view of it that a reader sees."""
        source, *views = chain
        if source not in self._now:
            return chain[-1]
        if not views:
            return self._now[source]
        key = views[-1], self._now[source]
        if key not in self._taken:
            above = self._current(chain[:-1], reader)
            with self.graph.inserting_before(reader):
                first = views[-1].all_input_nodes[0]
                copied = self.graph.node_copy(views[-1], lambda read: above if read is first else read)
            self._taken[key], self._chains[copied] = copied, chain
            if views[-1] in self._signals or above in self._signals:
                self._signals.add(copied)
        return self._taken[key]

    def _write(self, node: Node, target: Node) -> None:
        chain = self._chain(target)
        source, *views = chain
        self._chains[node] = chain
        if not views:
            self._now[source] = node
            if function_name(node) in _RESHAPED:
                self._chains = {n: chain for n, chain in self._chains.items() if chain[0] is not source or n is node}
            return
        with self.graph.inserting_before(node):
            copied = self.graph.call_function(torch.clone, (target,))
        copied.meta = dict(target.meta)
        node.replace_input_with(target, copied)
        put = SetPart(views, describe(node, self.model))
        with self.graph.inserting_after(node):
            whole = self.graph.call_function(put, (self._now.get(source, source), node, *put.read))
        whole.meta = {**node.meta, **{key: value for key, value in source.meta.items() if key == VALUE}}
        self._chains[whole], self._now[source] = (source,), whole
        self._signals.update((whole, copied) if target in self._signals else (whole,))
        self.added[node] = whole


def _is_view(node: Node) -> bool:
    source = node.args[0] if node.args else None
    if node.op not in ("call_function", "call_method") or not isinstance(source, Node):
        return False
    if node.target is getattr:
        return node.args[1] in ("T", "mT")
    if node.target is operator.getitem:
        index: Any = node.args[1]
        if source.op != "placeholder" and name_of(source.target) in SEVERAL_VIEWS:
            return type(index) is int
        parts = index if isinstance(index, tuple) else (index,)
        return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)
    takes = is_view(node.target) or name_of(node.target) in SEVERAL_VIEWS
    return takes and not function_name(node).endswith("_")
