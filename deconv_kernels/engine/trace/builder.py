"""From a traced graph to a tape: the steps that its nodes stand for, and which values they read and overwrite."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch.fx
from torch import Tensor, nn

from ..errors import Undecided, UnsupportedModule
from ..expressions import Expression
from ..nodes import LAYER, Node, describe, function_name, overwritten, scoped_names, text_of
from ..steps.base import Step
from ..steps.pointwise import Identity
from ..steps.pooling import MaxPool
from ..steps.unpooling import Switches
from .calls import Call, aliases, kinds_within, makes_parts
from .constants import Constants, assume, computes_with, is_random
from .exported import exported_apart, hold
from .layers import mark_parts, steps_of
from .rules import decisions
from .tape import Tape, Tensors, ValuesOfCall
from .tracer import ModuleCall, hold_constants, to_trace, traced_apart
from .unpooling import is_our_pool, returns_indices, unpooling
from .views import write_back


def trace(
    model: nn.Module,
    rule: str = "deconvnet",
    normalization: str = "identity",
    rules: Mapping[Any, str] | None = None,
    arguments: Mapping[str, object] | None = None,
    inputs: Collection[str] = (),
    like: Sequence[Tensor] | None = None,
) -> Tape:
    """Finds the steps of a network.

    Args:
        model: any module that torch.fx can trace. It is not changed, and read as in eval mode and without its hooks.
        rule: "deconvnet", "guided" or "gradient", for its rectifiers.
        normalization: "identity" or "gradient", for response and contrast normalisation. A module with an attribute
            `deconvnet_identity = True` counts as such; it must map (N, C, H, W) to the same shape and mix no positions.
        rules: what to do with what has no rule of its own; see `decisions`.
        arguments: values for parameters of the model's forward that are not tensors. Parameters with neither a value
            nor a default are the inputs.
        inputs: parameters that are inputs although they have a default.
        like: tensors of the shapes that its inputs are to have; needed if it asks for their sizes.

    Raises:
        NeedsSizes: it does, and they are not given.
        UnsupportedModule: it has a part without an exact rule, or cannot be traced.
    """
    return _Builder(model, rule, normalization, decisions(rules), arguments or {}, inputs, like).tape()


def graph_module(
    model: nn.Module, leaves: Collection[type] = (), like: Sequence[Tensor] | None = None
) -> torch.fx.GraphModule:
    """The traced graph of a model in eval mode, as `trace` sees it.

    Args:
        model: any module that can be traced. It is not changed.
        leaves: types of modules that are not looked into.
        like: tensors of the shapes that its inputs are to have; needed if it asks for their sizes.

    Raises:
        NeedsSizes: it does, and they are not given.
        UnsupportedModule: it cannot be traced.
    """
    root, _, graph = _traced(model, leaves, {}, (), like)
    return torch.fx.GraphModule(root, graph)


def graph_of(tape: Tape) -> torch.fx.GraphModule:
    """The graph of which a tape is made, on a copy of the network in eval mode as it is now."""
    root = to_trace(tape.tensors.model)
    for path, tensor in tape.tensors.held.items():
        hold(root, path, tensor)
    return torch.fx.GraphModule(root, tape.graph)


def _traced(
    model: nn.Module,
    leaves: Collection[Any],
    arguments: Mapping[str, object],
    inputs: Collection[str],
    like: Sequence[Tensor] | None,
) -> tuple[nn.Module, list[ModuleCall], torch.fx.Graph]:
    if like is None:
        root, calls, graph = traced_apart(model, leaves, arguments, inputs)
        added = write_back(graph, root)
        calls = [c._replace(before=added.get(c.before, c.before), last=added.get(c.last, c.last)) for c in calls]
        return root, calls, graph
    return exported_apart(model, leaves, arguments, inputs, like)


class _Builder:
    """Walks the nodes of a graph and links their steps."""

    def __init__(
        self,
        model: nn.Module,
        rule: str,
        normalization: str,
        rules: Mapping[Any, str],
        arguments: Mapping[str, object],
        inputs: Collection[str],
        like: Sequence[Tensor] | None,
    ) -> None:
        self.model, self.rule, self.exact, self.rules = model, rule, normalization == "gradient", rules
        root, self.called, self.graph = _traced(model, rules, arguments, inputs, like)
        self.held = hold_constants(self.graph, model, root)
        self.constants = Constants(model, self.held)
        self.assumed: list[Expression] = []
        self.undecided: list[Undecided] = []
        self.unused = set(rules)
        calls = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        self.called_once = {path for path in calls if calls.count(path) == 1}
        paths = [call.path for call in self.called]
        self.containers = {path for path in paths if paths.count(path) == 1}
        self.steps: list[Step] = []
        self.sources: list[tuple[int, ...]] = []
        self.values: dict[Node, int] = {}  # what a reader of the node sees now
        self.made: dict[Node, int] = {}  # what the node computed
        self.same: dict[int, int] = {}  # values in one tensor, by the first of them
        self.memory: dict[int, int] = {}  # values that may share memory, by the first of them
        self.stale: dict[int, str] = {}  # values that are no longer what they were, and what has overwritten them
        self.pools: dict[Node, MaxPool] = {}  # nodes that stand for the switches of a pool

    def tape(self) -> Tape:
        kind = type(self.model).__name__
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if not inputs:
            raise UnsupportedModule(f"{kind} takes no tensor")
        for number, node in enumerate(inputs):
            self._new_value(node, number, None)
        self.inputs = len(inputs)
        opened: dict[Node | None, list[ModuleCall]] = {}
        closed: dict[Node | None, list[ModuleCall]] = {}
        for call in self.called:
            opened.setdefault(call.before, []).append(call)
            closed.setdefault(call.last, []).append(call)
        given: dict[ModuleCall, tuple[int | None, ...]] = {}
        calls: dict[str, list[ValuesOfCall]] = {}
        for node in self.graph.nodes:
            self._follow_writes(node)
            if node.op == "output":
                output = self._output(node)
            elif node.op == "get_attr" or self._is_constant(node):
                self._add_constant(node)
            elif node.op != "placeholder":
                self._append(node)
            given.update((call, self._numbers(call.given)) for call in opened.get(node, ()))
            for call in closed.get(node, ()):
                calls.setdefault(call.path, []).append(ValuesOfCall(given[call], self._numbers(call.returned)))
        if self.undecided:
            raise Undecided.of_all(self.undecided)
        if not self.steps or (output is not None and output < 0):
            raise UnsupportedModule(f"{kind} has no layers")
        containers = {
            path: value - self.inputs
            for path, times in calls.items()
            for value in times[0].returned
            if len(times) == len(times[0].returned) == 1 and value is not None and value >= self.inputs
        }
        scoped = {
            name: self.made[node] - self.inputs
            for node, name in scoped_names(self.graph).items()
            if self.made.get(node, -1) >= self.inputs
        }
        tensors = Tensors(self.model, self.held, self.assumed)
        named = {**scoped, **containers}
        graph, key = self.graph, self._key()
        tape = Tape(self.inputs, self.steps, self.sources, named, output, calls, tensors, graph, key)
        tape.unused = frozenset(self.unused)
        return tape

    def _key(self) -> str:
        """A hash of the network's code and modules and of the user's choices."""
        called = [self.model.get_submodule(str(n.target)) for n in self.graph.nodes if n.op == "call_module"]
        text = f"{text_of(self.graph)} {called!r} {self.rule} {self.exact} {self.rules!r}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _is_constant(self, node: Node) -> bool:
        """Whether a node depends on nothing that is in the images."""
        if node.op == "placeholder":
            return False
        return all(read in self.constants for read in computes_with(node))

    def _add_constant(self, node: Node) -> None:
        if node.op != "call_module" and is_random(function_name(node)):
            raise UnsupportedModule(f"{describe(node, self.model)} is random in eval mode too")
        self.constants.add(node)
        if node.target is assume:
            self.assumed.append(self.constants.expression((node,)))

    def _follow_writes(self, node: Node) -> None:
        """Lets a node read what has become of the constants that it reads."""
        for read in node.all_input_nodes:
            if read in self.constants and (now := self.constants.successor(read)) is not read:
                node.replace_input_with(read, now)

    def _numbers(self, nodes: Sequence[Node | None]) -> tuple[int | None, ...]:
        """The values that nodes stand for now."""
        values = [None if node is None else self.values.get(self.constants.tensor_now(node)) for node in nodes]
        return tuple(None if value in self.stale else value for value in values)

    def _output(self, node: Node) -> int | None:
        """The step whose output is the network's; None where it returns several tensors computed from the images.

        Raises:
            UnsupportedModule: nothing that it returns is computed from them.
        """
        returned = [n for n in node.all_input_nodes if n not in self.constants]
        if not returned:
            raise UnsupportedModule(f"{type(self.model).__name__} returns nothing that is computed from the images")
        if len(returned) > 1 or returned[0] not in self.values or returned[0] in self.pools:
            return None
        return self._read(returned[0], node) - self.inputs

    def _append(self, node: Node) -> None:
        mark_parts(node, self.model)
        if makes_parts(node):
            self.unused.difference_update(kinds_within(node, self.model))
        if makes_parts(node) or (node.target is operator.getitem and self._takes_from_pool(node)):
            return
        call = Call(node, self.model, self.constants, self._name(node), self.rule, self.exact, self.rules)
        switches = next((n for n in node.all_input_nodes if n in self.pools), None)
        if switches is not None:
            found = unpooling(call, self.pools[switches])
            if found is None:
                raise UnsupportedModule(
                    f"{describe(node, self.model)} reads the indices of a max pool; only unpooling can"
                )
            steps, reads = found
            self._link(node, steps, [reads[0], switches, *reads[1:]])
            return
        self.unused.difference_update(kinds_within(node, self.model))
        try:
            steps = steps_of(call)
        except Undecided as error:  # all of them are named at once, when the others are found
            self.undecided.append(error)
            steps = [Identity(call.name)]
        self._link(node, steps, call.reads)
        if returns_indices(node, self.model) and isinstance(pool := steps[-1], MaxPool):
            self._indices_of(node, pool)

    def _indices_of(self, node: Node, pool: MaxPool) -> None:
        """Gives the switches of a pool a value, if an unpooling reads them."""
        taken = [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]
        if any(user.users for user in taken):
            source = self.sources[-1]
            self.steps.append(Switches(f"{pool.name}.switches", pool, flat=not is_our_pool(node, self.model)))
            self.sources.append(source)
            for user in taken:
                self.pools[user] = pool
                self.values[user] = self.inputs + len(self.steps) - 1
                self.same[self.values[user]] = self.memory[self.values[user]] = self.values[user]

    def _takes_from_pool(self, node: Node) -> bool:
        source = node.args[0]
        if not isinstance(source, Node) or source.op == "placeholder" or not returns_indices(source, self.model):
            return False
        if node.args[1] == 0:
            self.values[node], self.made[node] = self.values[source], self.made[source]
        return True

    def _link(self, node: Node, steps: Sequence[Step], reads: Sequence[Node]) -> None:
        sources = tuple(self._read(source, node) for source in reads)
        first, written = sources[0], overwritten(node, self.model)
        if len(written) > 1:
            raise UnsupportedModule(f"{describe(node, self.model)} writes in place to several tensors at once")
        for step in steps:
            self.steps.append(step)
            self.sources.append(sources)
            sources = (self.inputs + len(self.steps) - 1,)
        if not written:
            shared = aliases(node, steps[-1], self.model)
            self._new_value(node, sources[0], None if shared is None else (shared, first))
        elif written[0] in self.constants:
            self.constants.overwrite(written[0], node)
            self._new_value(node, sources[0], None)
        else:
            value = self.values[written[0]]
            self._overwrite(value, sources[0], describe(node, self.model))
            self._new_value(node, sources[0], ("same", value))

    def _read(self, source: Node, reader: Node) -> int:
        value = self.values[source]
        if value in self.stale:
            raise UnsupportedModule(
                f"{describe(reader, self.model)} reads {source.name!r}, a part of which {self.stale[value]} has "
                "overwritten in place through another view; make that operation out of place"
            )
        return value

    def _new_value(self, node: Node, value: int, shared: tuple[str, int] | None) -> None:
        self.values[node] = self.made[node] = value
        kind, source = shared or (None, value)
        self.same[value] = self.same[source] if kind == "same" and source != value else value
        self.memory[value] = self.memory[source] if kind is not None and source != value else value

    def _overwrite(self, value: int, result: int, by: str) -> None:
        """Lets later readers of a tensor see what an in-place operation has made of it."""
        for node, held in self.values.items():
            if self.same[held] == self.same[value]:
                self.values[node] = result
            elif self.memory[held] == self.memory[value]:
                self.stale[held] = by

    def _name(self, node: Node) -> str:
        if LAYER in node.meta:
            return str(node.meta[LAYER])
        if node.op == "call_module" and node.target in self.called_once:
            return str(node.target)
        taken = self.called_once.union((step.name for step in self.steps), self.containers)
        name = node.name
        while name in taken:
            name += "_"
        return name
