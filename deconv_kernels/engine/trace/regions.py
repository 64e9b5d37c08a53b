"""Parts of a graph that become one node each: modules that are steps, and what lies between maps."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedModule
from ..nodes import LAYER, VALUE, Node, Region, describe, overwritten
from .operations import normalizes
from .rules import is_spelling
from .tracer import ModuleCall

BATCH = 1_000_003  # images in a graph that torch.export makes
STACK = "nn_module_stack"


def regions(graph: torch.fx.Graph, root: nn.Module, leaves: Collection[Any]) -> Iterator[tuple[str, list[Node]]]:
    """The nodes of the modules that are to be one node each, with the modules' paths."""
    types = [
        kind for kind in leaves if isinstance(kind, type) and issubclass(kind, nn.Module) and not is_spelling(kind)
    ]
    paths = [
        path
        for path, module in root.named_modules(remove_duplicate=False)
        if path and (normalizes(module) or any(_is_a(module, kind) for kind in types))
    ]
    for path in paths:
        calls: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for key, (of, _) in node.meta.get(STACK, {}).items():
                if of == path:
                    calls.setdefault(key, []).append(node)
        for nodes in calls.values():
            if len(nodes) > 1 or not isinstance(nodes[0].target, Region):
                yield path, nodes


def _is_a(module: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(module, kind) and type(module).forward is kind.forward


def innermost(nodes: Sequence[Node]) -> str:
    """The path of the innermost module to which some nodes all belong."""
    stacks = [[path for path, _ in node.meta.get(STACK, {}).values()] for node in nodes]
    common = [path for path in stacks[0] if all(path in stack for stack in stacks)]
    return common[-1] if common else ""


def collapse(graph: torch.fx.Graph, nodes: Sequence[Node], root: nn.Module, path: str) -> None:
    """Makes one node of several, which belong to the module at a path."""
    nodes = _with_sizes(graph, nodes)
    members = set(nodes)
    read = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in members)
    for node in nodes:
        if any(target in read for target in overwritten(node, root)):
            raise UnsupportedModule(f"{describe(node, root)} writes into what {path!r} is given; make it out of place")
    returned = [node for node in nodes if any(user not in members for user in node.users)]
    inside = torch.fx.Graph()
    copies = {n: inside.placeholder(n.name) for n in read}
    for node in nodes:
        copies[node] = inside.node_copy(node, copies.__getitem__)
    inside.output(copies[returned[0]] if len(returned) == 1 else tuple(copies[n] for n in returned))
    module = root.get_submodule(path)
    with graph.inserting_after(nodes[-1]):
        made = graph.call_function(Region(module, inside), tuple(read))
    inner = {key: of for key, of in nodes[-1].meta.get(STACK, {}).items() if of[0] == path or path.startswith(of[0])}
    made.meta.update(
        {
            STACK: inner,
            VALUE: returned[0].meta[VALUE] if len(returned) == 1 else tuple(n.meta[VALUE] for n in returned),
        }
    )
    last = made
    for number, node in enumerate(returned):
        result = made
        if len(returned) > 1:
            with graph.inserting_after(last):
                result = last = graph.call_function(operator.getitem, (made, number))
            result.meta.update({STACK: inner, VALUE: node.meta[VALUE]})
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user not in members)
    for node in reversed(nodes):
        graph.erase_node(node)
    _put_in_order(graph)


def _with_sizes(graph: torch.fx.Graph, nodes: Sequence[Node]) -> list[Node]:
    """Nodes together with what they ask for the number of images of one another's values, theirs alone from now on."""
    members, own = set(nodes), dict[Node, Node]()
    for node in list(graph.nodes):
        asks = node.op == "call_method" and node.target == "size" and node.args[0] in members
        if asks or (STACK not in node.meta and node.target is operator.mul and node.args[0] in own):
            with graph.inserting_after(node):
                own[node] = graph.node_copy(node, lambda n: own.get(n, n))
    for node, copied in reversed(own.items()):
        node.replace_all_uses_with(copied, delete_user_cb=members.union(own.values()).__contains__)
        if copied.users:
            members.add(copied)
        else:
            graph.erase_node(copied)
        if not node.users:
            graph.erase_node(node)
    return [node for node in graph.nodes if node in members]


def _put_in_order(graph: torch.fx.Graph) -> None:
    """Moves nodes behind what they read."""
    order: dict[Node, None] = {}
    waiting = list(graph.nodes)
    while waiting:
        left = []
        for node in waiting:
            if all(read in order for read in node.all_input_nodes):
                order[node] = None
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise UnsupportedModule(f"{left[0].name!r} is computed together with what it reads")
        waiting = left
    for before, node in itertools.pairwise(order):
        if before.next is not node:
            before.append(node)


def _signals(graph: torch.fx.Graph) -> set[Node]:
    """The nodes whose values are computed from what is in the images."""
    found: set[Node] = set()
    for node in graph.nodes:
        sizes = node.op == "call_method" and node.target == "size"
        if node.op == "placeholder" or (not sizes and any(read in found for read in node.all_input_nodes)):
            found.add(node)
    return found


def keeps_batch(node: Node, batch: int = BATCH) -> bool:
    """Whether the first dimension of a value is that of the batch."""
    value = node.meta.get(VALUE)
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(not isinstance(x, Tensor) or (x.dim() > 0 and x.shape[0] == batch) for x in parts)


def is_complex(node: Node) -> bool:
    return any(isinstance(x, Tensor) and x.is_complex() for x in tree_leaves(node.meta.get(VALUE)))


def between_maps(graph: torch.fx.Graph) -> list[list[Node]]:
    """Groups of nodes between which there are no maps: where images have no dimension of their own, or numbers are
    complex. Each comes with the nodes that make maps again."""
    signals = _signals(graph)
    lost = {node for node in signals if node.op != "output" and (not keeps_batch(node) or is_complex(node))}
    groups: list[set[Node]] = []
    for node in graph.nodes:
        if node not in signals or node.op == "output":
            continue
        near = {read for read in node.all_input_nodes if read in lost}
        if node in lost or near:
            joined = {node} | near
            for group in [group for group in groups if group & joined]:
                joined |= group
                groups.remove(group)
            groups.append(joined)
    order = {node: number for number, node in enumerate(graph.nodes)}
    return [sorted(_convex(group, graph), key=order.__getitem__) for group in groups]


def _convex(group: set[Node], graph: torch.fx.Graph) -> set[Node]:
    """A group with the nodes between its members."""
    after: set[Node] = set()
    for node in graph.nodes:
        if node in group or any(read in after for read in node.all_input_nodes):
            after.add(node)
    before: set[Node] = set()
    for node in reversed(graph.nodes):
        if node in group or any(user in before for user in node.users):
            before.add(node)
    return {node for node in after & before if node.op != "output"}


def module_calls(graph: torch.fx.Graph, root: nn.Module) -> list[ModuleCall]:
    """The calls of modules, and with a node that is all that a module computes the name of that module."""
    own_path = {module: path for path, module in root.named_modules()}
    signals, order = _signals(graph), list(graph.nodes)
    calls: dict[str, tuple[str, list[Node]]] = {}
    for node in order:
        for key, (path, _) in node.meta.get(STACK, {}).items():
            if path:
                calls.setdefault(key, (own_path[root.get_submodule(path)], []))[1].append(node)
    paths = [path for path, _ in calls.values()]
    found = []
    for path, nodes in calls.values():
        members = set(nodes)
        given = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n in signals - members)
        returned = [n for n in nodes if n in signals and any(user not in members for user in n.users)]
        computed = [n for n in nodes if n in signals]
        if len(computed) == 1 and paths.count(path) == 1 and not any(p.startswith(f"{path}.") for p in paths):
            computed[0].meta[LAYER] = path
        before = order[order.index(nodes[0]) - 1]
        found.append(ModuleCall(path, tuple(given), tuple(returned), before, nodes[-1]))
    return found
