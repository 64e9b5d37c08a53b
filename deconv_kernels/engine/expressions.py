"""Arguments and calls of a network as functions of its tensors and maps.

Steps do not hold tensors of a network but expressions of them, which get their values when a record is made: those of
that moment, computed in the order of the network with everything that it writes in place. So a projection belongs to
the weights that its record was made with, and no run depends on another.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from .errors import UnsupportedModule
from .nodes import Applied, Node, describe, execute, overwritten
from .weights import Weights, set_tensor, tensor_names, with_tensors


class Expression:
    """Arguments of a call, or the call itself, as a function of the network's tensors and of maps.

    Args:
        order: the constant nodes that have to run for it, in their order.
        looks_at: the maps of which these want to know the shape.
        result: nodes, nested as arguments of calls are; or the call.
        model: the network.
        held: tensors that are not the model's.
        given: where `result` is a call, the maps that it computes with; None for arguments.
        parts: calls in between, which make several results, in their order.
        replaced: of the called module, the tensors that the network has overwritten, and the nodes that hold them.
    """

    def __init__(
        self,
        order: Sequence[Node],
        looks_at: Sequence[Node],
        result: Any,
        model: nn.Module,
        held: Mapping[str, Tensor],
        given: Sequence[Node] | None = None,
        parts: Sequence[Node] = (),
        replaced: Mapping[str, Node] | None = None,
    ) -> None:
        self.order, self.looks_at, self.result, self.model, self.held = order, looks_at, result, model, held
        self.given, self.parts, self.replaced = given, parts, replaced or {}
        called = (*order, *parts) if given is None else (*order, *parts, result)
        self.called = [node for node in called if node.op == "call_module"]
        self.applies = any(isinstance(node.target, Applied) for node in called)
        self.written = () if given is None else overwritten(result, model)
        self.writes = any(overwritten(node, model) for node in order) or any(node in order for node in self.written)
        self._last: tuple[tuple[Any, ...], Any] | None = None

    @property
    def is_sized(self) -> bool:
        """Whether it depends on the shapes of maps."""
        return bool(self.looks_at)

    def now(self) -> Any:
        """Its value with the tensors that the network has now."""
        return self._made(Weights(self.model, self.held))

    def bound(self, weights: Weights) -> Any:
        """Its value with tensors of one moment, or a function of its maps where it has any.

        As long as the tensors are the same objects the value is the same object.
        """
        tensors = tuple(weights[path] for path in self._paths())
        last = self._last
        if last is None or len(last[0]) != len(tensors) or any(map(operator.is_not, last[0], tensors)):
            self._last = last = tensors, self._made(weights)
        return last[1]

    def _paths(self) -> list[str]:
        paths = [str(node.target) for node in self.order if node.op == "get_attr"]
        for node in self.called:
            paths += [f"{node.target}.{name}" for name in tensor_names(self.model.get_submodule(str(node.target)))]
        return paths

    def _made(self, weights: Weights) -> Any:
        modules = {node: with_tensors(self.model, str(node.target), weights) for node in self.called}
        held = {node: weights[str(node.target)] for node in self.order if node.op == "get_attr"}
        constants = functools.partial(_constants, self.order, held, modules, self.writes)
        given, result, parts, written = self.given, self.result, self.parts, self.written
        maps = [*(given or ()), *(node for node in self.looks_at if node not in (given or ()))]
        fixed: dict[Node, Any] | None = None
        if not self.looks_at and not any(node in self.order for node in written):
            fixed = constants({})
            for path, node in self.replaced.items():
                set_tensor(modules[result], path, fixed[node])
        if given is None and not maps:
            return torch.fx.map_arg(result, (fixed or {}).__getitem__)

        # It is kept with the expression: it holds neither that nor the weights, whose memory would not be free again.
        def run(*tensors: Tensor) -> Any:
            of_maps = dict(zip(maps, tensors, strict=True))
            known = {**fixed, **of_maps} if fixed is not None else constants(of_maps)
            if given is None:
                return torch.fx.map_arg(result, known.__getitem__)
            known.update({node: known[node].clone() for node in written if node in of_maps})
            for node in parts:
                known[node] = execute(node, known, modules)
            return execute(result, known, modules)

        return _on_copies(run, describe(result, self.model)) if self.applies else run


def _on_copies(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """A function that may write into what it is given, of which nobody could know; `what` it is, for an error."""

    def run(*tensors: Tensor) -> Any:
        copies = [tensor.clone() for tensor in tensors]
        result = function(*copies)
        if not all(torch.equal(*pair) for pair in zip(tensors, copies, strict=True)):
            raise UnsupportedModule(f"{what} writes into what it is given; make it return a new tensor")
        return result

    return run


def _constants(
    order: Sequence[Node],
    held: Mapping[Node, Any],
    modules: Mapping[Node, nn.Module],
    writes: bool,
    maps: Mapping[Node, Tensor],
) -> dict[Node, Any]:
    """The values of constant nodes in their order; what they overwrite of the tensors that are held are copies."""
    known: dict[Node, Any] = dict(maps)
    copies: dict[int, Any] = {}
    for node in order:
        if node.op != "get_attr":
            known[node] = execute(node, known, modules)
            continue
        value = held[node]
        if writes and isinstance(value, Tensor):
            value = copies.setdefault(id(value), value.clone())
        known[node] = value
    return known
