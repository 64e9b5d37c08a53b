"""From an `nn.Module` to a tape: the steps of a network and what each reads, found by tracing it with torch.fx."""

from __future__ import annotations

import difflib
import inspect
import operator
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.fx
from torch import nn

from . import nn as own
from .joins import Switches
from .layers import (
    Call,
    UnsupportedModule,
    aliases,
    copy_in_eval,
    describe,
    is_constant,
    is_in_place,
    is_size,
    is_split,
    returns_indices,
    switches_of,
    unpooling,
)
from .rules import decisions
from .steps import MaxPool, Step

Node = torch.fx.Node
_TORCH = Path(torch.__file__).parent


class UnknownLayer(ValueError):  # noqa: N818
    """The network has no layer of that name."""


class Tape:
    """A network as its steps, in the order in which they run. Each makes one value; the first values are the inputs.

    Attributes:
        inputs: how many tensors the network takes.
        steps: from the images to the output.
        sources: for every step, the numbers of the values that it reads.
        layers: the names of all layers, in order: those of `named_modules()`; for a function, or a module called more
            than once, the name of its torch.fx node. A container stands for what it returns.
        output: the name of the layer whose output is the network's; None if it returns several tensors.
    """

    def __init__(
        self,
        inputs: int,
        steps: Sequence[Step],
        sources: Sequence[tuple[int, ...]],
        containers: Mapping[str, int],
        output: int | None,
    ) -> None:
        self.inputs, self.steps, self.sources = inputs, list(steps), list(sources)
        named = {step.name: index for index, step in enumerate(steps) if not isinstance(step, Switches)}
        self.layers = list(named)
        self.output = None if output is None else self.steps[output].name
        self._index = {**containers, **named}

    def index(self, layer: str) -> int:
        """Which step's output `layer` is.

        Raises:
            UnknownLayer: no such layer; the message lists them.
        """
        if layer not in self._index:
            close = difflib.get_close_matches(str(layer), self._index, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownLayer(f"no layer {layer!r}{hint}; the layers are: {', '.join(self.layers)}")
        return self._index[layer]

    def value(self, layer: str) -> int:
        """The number of the value that is the output of `layer`.

        Raises:
            UnknownLayer: no such layer; the message lists them.
        """
        return self.inputs + self.index(layer)

    def needed(self, values: Collection[int]) -> list[int]:
        """The steps that have to run to compute some values, in order."""
        wanted, steps = set(values), []
        for index in reversed(range(len(self.steps))):
            if self.inputs + index in wanted:
                steps.append(index)
                wanted.update(self.sources[index])
        return steps[::-1]


def trace(
    model: nn.Module,
    rule: str = "deconvnet",
    normalization: str = "identity",
    rules: Mapping[Any, str] | None = None,
    arguments: Mapping[str, object] | None = None,
) -> Tape:
    """Finds the steps of a network.

    Args:
        model: any module that torch.fx can trace. It is not changed, and read as in eval mode.
        rule: "deconvnet", "guided" or "gradient", for its rectifiers.
        normalization: "identity" or "gradient", for response and contrast normalisation. A module with an attribute
            `deconvnet_identity = True` counts as such; it must map (N, C, H, W) to the same shape and mix no positions.
        rules: what to do with what has no rule of its own; see `deconv_kernels.rules.decisions`.
        arguments: values for parameters of the model's forward that are not tensors. Parameters with neither a value
            nor a default are the inputs.

    Raises:
        UnsupportedModule: it has a part without an exact rule, or cannot be traced.
    """
    return _Builder(model, rule, normalization, decisions(rules), arguments or {}).tape()


def graph_module(model: nn.Module, leaves: Collection[type] = ()) -> torch.fx.GraphModule:
    """The traced graph of a model in eval mode, as `trace` sees it.

    Args:
        model: any module that torch.fx can trace. It is not changed.
        leaves: types of modules that are not looked into.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    tracer, root = _Tracer(leaves), _in_eval(model)
    return torch.fx.GraphModule(root, _traced(tracer, root, {}))


class _Proxy(torch.fx.Proxy):
    """Records `x += y` as what it is; torch.fx makes it x = x + y, whose result other names of x would not see."""

    def __iadd__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(torch.fx.Tracer):
    """Knows which modules are steps, and which node every container returns."""

    def __init__(self, leaves: Collection[Any]) -> None:
        super().__init__()
        self.leaves = tuple(kind for kind in leaves if isinstance(kind, type))
        self.returned: dict[str, Node | None] = {}

    def proxy(self, node: Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (own.MaxPool2d, own.MaxUnpool2d, *self.leaves))
            or getattr(m, "deconvnet_identity", False)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        known = path not in self.returned and isinstance(result, torch.fx.Proxy)
        self.returned[path] = result.node if known else None
        return result


def _in_eval(model: nn.Module) -> nn.Module:
    """The model, or where it is in training mode a copy in eval mode that shares its tensors."""
    try:
        return copy_in_eval(model) if any(module.training for module in model.modules()) else model
    except Exception as error:
        raise UnsupportedModule(
            f"{type(model).__name__} is in training mode and cannot be copied to be read in eval mode: {error}"
        ) from error


def _traced(tracer: _Tracer, model: nn.Module, arguments: Mapping[str, object]) -> torch.fx.Graph:
    """The graph of a model in eval mode.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    kind = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    unknown = [name for name in arguments if name not in parameters]
    if unknown:
        raise ValueError(f"{kind}.forward has no parameter {unknown[0]!r}; it has {', '.join(parameters)}")
    fixed = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    try:
        graph = tracer.trace(model, {**fixed, **arguments})
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        frames = traceback.extract_tb(error.__traceback__)
        of_user = [frame for frame in frames if _TORCH not in Path(frame.filename).parents and frame.name != "_traced"]
        where = f" at {of_user[-1].filename}:{of_user[-1].lineno} ({of_user[-1].line})" if of_user else ""
        raise UnsupportedModule(
            f"torch.fx cannot trace {kind}{where}: {reason}; its forward must take tensors and be free of control flow "
            "that depends on them"
        ) from error
    given = {**fixed, **arguments}
    for node in reversed(graph.nodes):
        if not node.users and _checks_argument(node, given):
            graph.erase_node(node)
    return graph


def _checks_argument(node: Node, given: Collection[str]) -> bool:
    """Whether a node that nothing reads is what tracing adds to make sure of the value of an argument."""
    if node.op == "placeholder":
        return node.name.rsplit("_", 1)[0] in given
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and (name in ("_assert", "_assert_is_none") or node.target is operator.eq)


class _Builder:
    """Walks the nodes of a graph and links their steps."""

    def __init__(
        self,
        model: nn.Module,
        rule: str,
        normalization: str,
        rules: Mapping[Any, str],
        arguments: Mapping[str, object],
    ) -> None:
        self.model, self.rule, self.exact, self.rules = model, rule, normalization == "gradient", rules
        tracer = _Tracer(rules)
        self.graph = _traced(tracer, _in_eval(model), arguments)
        self.returned = tracer.returned
        calls = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        self.called_once = {path for path in calls if calls.count(path) == 1}
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
        for number, node in enumerate(inputs):
            self._new_value(node, number, None)
        self.inputs = len(inputs)
        for node in self.graph.nodes:
            if node.op == "output":
                returned = node.args[0]
                output = self._read(returned, node) - self.inputs if isinstance(returned, Node) else None
            elif node.op not in ("placeholder", "get_attr") and not is_size(node) and not is_constant(node):
                self._append(node)
        if not self.steps or (output is not None and output < 0):
            raise UnsupportedModule(f"{kind} has no layers")
        containers = {
            path: self.made[node] - self.inputs
            for path, node in self.returned.items()
            if node is not None and self.made.get(node, -1) >= self.inputs
        }
        return Tape(self.inputs, self.steps, self.sources, containers, output)

    def _append(self, node: Node) -> None:
        if is_split(node) or (node.target is operator.getitem and self._takes_from_pool(node)):
            return
        name = self._name(node)
        switches = next((n for n in node.all_input_nodes if n in self.pools), None)
        if switches is not None:
            found = unpooling(node, self.model, name, self.rule, self.pools[switches])
            if found is None:
                raise UnsupportedModule(
                    f"{describe(node, self.model)} reads the indices of a max pool; only unpooling can"
                )
            steps, reads = found
            self._link(node, steps, [reads[0], switches, *reads[1:]])
            return
        call = Call(node, self.model, name, self.rule, self.exact, self.rules)
        if not call.signals:
            raise UnsupportedModule(f"{describe(node, self.model)} computes nothing from the images")
        steps = call.steps()
        self._link(node, steps, call.reads)
        if returns_indices(node, self.model):
            pool = steps[-1]
            assert isinstance(pool, MaxPool)
            self._indices_of(node, pool)

    def _indices_of(self, node: Node, pool: MaxPool) -> None:
        """Gives the switches of a pool a value, if an unpooling reads them."""
        taken = [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]
        if any(user.users for user in taken):
            source = self.sources[-1]
            self.steps.append(switches_of(node, self.model, f"{pool.name}.switches"))
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
        overwritten = sources[0]
        for step in steps:
            self.steps.append(step)
            self.sources.append(sources)
            sources = (self.inputs + len(self.steps) - 1,)
        if is_in_place(node, self.model):
            self._overwrite(overwritten, sources[0], describe(node, self.model))
            self._new_value(node, sources[0], ("same", overwritten))
        else:
            shared = aliases(node, steps[-1])
            self._new_value(node, sources[0], None if shared is None else (shared, overwritten))

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
        if node.op == "call_module" and node.target in self.called_once:
            return str(node.target)
        name, taken = node.name, self.called_once.union(step.name for step in self.steps)
        while name in taken:
            name += "_"
        return name
