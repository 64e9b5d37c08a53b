"""The nodes of a graph that compute nothing from what is in the images, and what the network writes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..errors import UnsupportedModule
from ..expressions import Expression
from ..nodes import Node, describe, function_name, nodes_in, overwritten
from ..weights import tensor_at, tensor_names
from .linearity import has_own_memory


class Constants:
    """The nodes of a graph that compute nothing from what is in the images, in their order, and what they overwrite.

    Args:
        model: the network.
        held: tensors that are not the model's.
    """

    def __init__(self, model: nn.Module, held: Mapping[str, Tensor]) -> None:
        self.model, self.held = model, held
        self.order: dict[Node, None] = {}
        self._memory: dict[Node, Node] = {}  # towards one node for all that may share memory
        self._tensor: dict[Node, Node] = {}  # the first node that stood for the same tensor
        self._writers: dict[Node, list[Node]] = {}  # by the one node for their memory
        self._read: dict[Node, Tensor] = {}  # the network's tensors, by the first nodes that read them
        self._lost: dict[Node, Node] = {}  # tensors to which maps were written, and what has become of them

    def __contains__(self, node: Node) -> bool:
        return node in self.order

    def add(self, node: Node) -> None:
        """Takes the next constant node."""
        self.order[node] = None
        self._memory[node] = self._tensor[node] = node
        if node.op == "get_attr":
            tensor = self._at(str(node.target))
            if isinstance(tensor, Tensor):
                for first, held in self._read.items():
                    if _share_memory(tensor, held):
                        self._join(node, first, tensor is held)
                if self._tensor[node] is node:
                    self._read[node] = tensor
            return
        written = overwritten(node, self.model)
        if not written and has_own_memory(node.target):
            return
        for other in node.all_input_nodes:
            if other in self.order:
                self._join(node, other, written == (other,) or _is_all_of(node, other))
        for other in written:
            self._writers.setdefault(self._root(other), []).append(node)

    def expression(self, result: Any, given: Sequence[Node] | None = None, parts: Sequence[Node] = ()) -> Expression:
        """Arguments of a call, or the call itself, as they are at this moment.

        Args:
            result: nodes, nested as arguments are; or a call.
            given: where it is a call, the maps that it computes with.
            parts: calls in between, which make several results.

        Raises:
            UnsupportedModule: the network has written to a part of the memory of a tensor that the called module reads.
        """
        left, replaced = nodes_in(result), {}
        if given is not None:
            own = {*given, *parts}
            left = [read for node in (result, *parts) for read in node.all_input_nodes if read not in own]
            if result.op == "call_module":
                replaced = self._replaced(str(result.target))
                left += replaced.values()
        chosen: set[Node] = set()
        looks_at: dict[Node, None] = {}
        while left:
            node = left.pop()
            if node not in self.order:
                looks_at[node] = None
            elif node not in chosen:
                chosen.add(node)
                left += [*node.all_input_nodes, *self._writers.get(self._root(node), ())]
        order = [node for node in self.order if node in chosen]
        if replaced and looks_at:
            raise UnsupportedModule(
                f"{describe(result, self.model)} has tensors to which the network writes what depends on sizes of maps"
            )
        return Expression(order, list(looks_at), result, self.model, self.held, given, parts, replaced)

    def tensor(self, path: str) -> Expression:
        """A tensor of a module that reads it itself, with what the network has written to it before.

        Raises:
            UnsupportedModule: as `expression`.
        """
        owner, _, name = path.rpartition(".")
        node = self._replaced(owner).get(name)
        if node is not None:
            return self.expression(node)
        node = torch.fx.Graph().get_attr(path)
        return Expression([node], [], node, self.model, self.held)

    def overwrite(self, target: Node, by: Node) -> None:
        """Lets maps be written to a constant tensor, which is none from then on."""
        self._lost[self._tensor[target]] = by

    def successor(self, node: Node) -> Node:
        """The node that holds what a constant has become: itself, or a map that was written to it.

        Raises:
            UnsupportedModule: a map was written to a part of its memory.
        """
        for tensor, by in reversed(self._lost.items()):
            if self._tensor[node] is tensor:
                return by
            if self._root(node) is self._root(tensor):
                raise UnsupportedModule(
                    f"{node.name!r} is read after {describe(by, self.model)} has written to a part of its memory; make "
                    "that operation out of place"
                )
        return node

    def tensor_now(self, node: Node) -> Node:
        """The node that holds what has become of the same tensor."""
        return self._lost.get(self._tensor.get(node, node), node)

    def _replaced(self, path: str) -> dict[str, Node]:
        """Of the tensors of a module those to which the network has written before: by their names, what holds them."""
        written = [node for node in self._read if self._root(node) in self._writers]
        written += [node for node in self._lost if node in self._read]
        found: dict[str, Node] = {}
        for name in tensor_names(self.model.get_submodule(path)) if written else ():
            tensor = self._at(f"{path}.{name}")
            for node in written:
                if tensor is self._read[node] and node not in self._lost:
                    found[name] = node
                elif _share_memory(tensor, self._read[node]):
                    raise UnsupportedModule(
                        f"module {path!r} reads its {name!r}, to which the network writes maps, or only to a part of "
                        "its memory; make that operation out of place"
                    )
        return found

    def _at(self, path: str) -> Any:
        return self.held[path] if path in self.held else tensor_at(self.model, path)

    def _root(self, node: Node) -> Node:
        while self._memory[node] is not node:
            node = self._memory[node]
        return node

    def _join(self, node: Node, other: Node, same: bool) -> None:
        """Notes that two nodes may share memory, or that the first stands for the same tensor."""
        below, above = self._root(node), self._root(other)
        if below is not above:
            self._memory[below] = above
            self._writers.setdefault(above, []).extend(self._writers.pop(below, ()))
            if not self._writers[above]:
                del self._writers[above]
        if same:
            self._tensor[node] = self._tensor[other]


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    address = a.untyped_storage().data_ptr()
    return address != 0 and address == b.untyped_storage().data_ptr()


def _is_all_of(node: Node, argument: Node) -> bool:
    """Whether a node is a view of all of its first argument."""
    names_it = function_name(node) == "detach" or (node.target is getattr and node.args[1] == "data")
    return names_it and node.args[0] is argument


def assume(value: Any, expected: Any) -> None:
    """Control flow that a network takes because of a tensor of its own.

    Raises:
        ValueError: the tensor has changed so that it would go another way.
    """
    if value != expected:
        raise ValueError(
            f"the network's control flow depends on a tensor that was {expected} when the network was traced and is "
            f"{value} now; make a new Deconvnet"
        )


_RANDOM = frozenset(
    (
        *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
        *("multinomial", "poisson", "gumbel_softmax", "fractional_max_pool2d", "fractional_max_pool3d"),
        *("uniform_", "normal_", "bernoulli_", "random_", "exponential_", "cauchy_", "geometric_", "log_normal_"),
    )
)


def is_random(name: str) -> bool:
    """Whether a function or method of some name gives something else every time."""
    return name in _RANDOM


_SHAPES = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "is_floating_point", "zeros_like", "ones_like", "full_like"),
        *("empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    )
)
_ABOUT = frozenset(("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad"))
# What looks at the shape and the type of its second argument.
_AS_ANOTHER = frozenset(("expand_as", "reshape_as", "to", "type_as", "view_as"))


def computes_with(node: Node) -> list[Node]:
    """The nodes that a call reads for more than their shape."""
    if asks_for_shape(node):
        return []
    read = node.all_input_nodes
    return read[:1] if function_name(node) in _AS_ANOTHER and node.args and read[0] is node.args[0] else read


def asks_for_shape(node: Node) -> bool:
    """Whether a node looks at the shape of a tensor, or at its type, and not at what is in it."""
    if node.target is getattr:
        return node.args[1] in _ABOUT
    return node.op in ("call_function", "call_method") and function_name(node) in _SHAPES
