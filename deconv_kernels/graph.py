"""From an `nn.Module` to a tape: the steps of a network and what each reads, found by tracing it with torch.fx."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import operator
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.fx
from torch import nn

from . import nn as own
from .calls import (
    CONSTANT,
    IN_PLACE_OPERATORS,
    Call,
    UnsupportedModule,
    aliases,
    copy_in_eval,
    describe,
    is_constant,
    is_in_place,
    is_size,
    makes_parts,
    mark,
    traceable,
)
from .joins import Switches
from .layers import known_type, mark_parts, returns_indices, steps_of, switches_of, unpooling
from .rules import decisions
from .steps import BatchNormalization, Identity, MaxPool, Rectifier, Scale, Shift, Step

Node = torch.fx.Node
_TORCH = Path(torch.__file__).parent
_TRACING = threading.RLock()


class UnknownLayer(ValueError):  # noqa: N818
    """The network has no layer of that name."""


class ValuesOfCall(NamedTuple):
    """What a call of a module was given and returned: the numbers of values, None for what is none."""

    given: tuple[int | None, ...]
    returned: tuple[int | None, ...]


class Tape:
    """A network as its steps, in the order in which they run. Each makes one value; the first values are the inputs.

    Attributes:
        inputs: how many tensors the network takes.
        steps: from the images to the output.
        sources: for every step, the numbers of the values that it reads.
        layers: the names of all layers, in order: those of `named_modules()`; for a function, or a module called more
            than once, the name of its torch.fx node. A container stands for what it returns.
        output: the name of the layer whose output is the network's; None if it returns several tensors.
        calls: for every module, by its name, what each of its calls was given and returned: the numbers of values, None
            for what is none.
    """

    def __init__(
        self,
        inputs: int,
        steps: Sequence[Step],
        sources: Sequence[tuple[int, ...]],
        containers: Mapping[str, int],
        output: int | None,
        calls: Mapping[str, Sequence[ValuesOfCall]],
    ) -> None:
        self.inputs, self.steps, self.sources = inputs, list(steps), list(sources)
        self.calls = calls
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

    def rectified(self, value: int) -> int:
        """The value in which a convolution's output is rectified: that of the rectifier that alone reads it.

        Between them may stand steps that keep each map to itself, such as batch normalisation. Where the way forks or
        another step follows first, the value before that.
        """
        while True:
            readers = [index for index, sources in enumerate(self.sources) if value in sources]
            if len(readers) != 1:
                return value
            step, reached = self.steps[readers[0]], self.inputs + readers[0]
            if isinstance(step, Rectifier):
                return reached
            if not isinstance(step, BatchNormalization | Scale | Shift | Identity | MaxPool):
                return value
            value = reached

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
    inputs: Collection[str] = (),
) -> Tape:
    """Finds the steps of a network.

    Args:
        model: any module that torch.fx can trace. It is not changed, and read as in eval mode and without its hooks.
        rule: "deconvnet", "guided" or "gradient", for its rectifiers.
        normalization: "identity" or "gradient", for response and contrast normalisation. A module with an attribute
            `deconvnet_identity = True` counts as such; it must map (N, C, H, W) to the same shape and mix no positions.
        rules: what to do with what has no rule of its own; see `deconv_kernels.rules.decisions`.
        arguments: values for parameters of the model's forward that are not tensors. Parameters with neither a value
            nor a default are the inputs.
        inputs: parameters that are inputs although they have a default.

    Raises:
        UnsupportedModule: it has a part without an exact rule, or cannot be traced.
    """
    return _Builder(model, rule, normalization, decisions(rules), arguments or {}, inputs).tape()


def graph_module(model: nn.Module, leaves: Collection[type] = ()) -> torch.fx.GraphModule:
    """The traced graph of a model in eval mode, as `trace` sees it.

    Args:
        model: any module that torch.fx can trace. It is not changed.
        leaves: types of modules that are not looked into.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    root, _, graph = _apart(model, leaves, {})
    return torch.fx.GraphModule(root, graph)


class _Proxy(torch.fx.Proxy):
    """Records `x += y` as what it is; torch.fx makes it x = x + y, whose result other names of x would not see."""


def _in_place(operation: Any) -> Any:
    def method(self: torch.fx.Proxy, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


for _operation in IN_PLACE_OPERATORS:
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class _Call(NamedTuple):
    """A call of a module: the nodes it was given and returned, None for what is none, and the last nodes before it was
    called and before it returned."""

    path: str
    given: tuple[Node | None, ...]
    returned: tuple[Node | None, ...]
    before: Node | None
    last: Node | None


class _Tracer(torch.fx.Tracer):
    """Knows which modules are steps, and what every module was given and returned.

    While torch.fx traces, all threads' modules are called and read through the tracer; those of others pass unchanged.
    """

    def __init__(self, leaves: Collection[Any]) -> None:
        super().__init__()
        self.leaves = tuple(kind for kind in leaves if isinstance(kind, type))
        self.calls: list[_Call] = []
        self.thread = threading.get_ident()

    def proxy(self, node: Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, (own.MaxPool2d, own.MaxUnpool2d))
            or any(isinstance(m, kind) and type(m).forward is getattr(kind, "forward", None) for kind in self.leaves)
            or getattr(m, "deconvnet_identity", False)
            or known_type(type(m)) is not None
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        before = self._newest()
        result = super().call_module(m, forward, args, kwargs)
        given, returned = _nodes(args), _nodes(result)
        self.calls.append(_Call(self.path_of_module(m), given, returned, before, self._newest()))
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        mine = threading.get_ident() == self.thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if mine else attr_val

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """What to call: the model's forward, in which parameters have their value or are inputs."""
        assert isinstance(concrete_args, dict)
        values, positional, named = concrete_args, [], {}
        for name, parameter in inspect.signature(self.root.forward).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            value = values[name] if name in values else self.create_proxy("placeholder", name, (), {})
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[name] = value
            else:
                positional.append(value)
        return functools.partial(root_fn, self.root, *positional, **named), []

    def _newest(self) -> Node | None:
        return next(iter(reversed(self.graph.nodes)), None)


def _nodes(value: Any) -> tuple[Node | None, ...]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return tuple(part.node if isinstance(part, torch.fx.Proxy) else None for part in parts)


def _to_trace(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, on which its forward may leave traces. It has the model's parameters and copies
    of its buffers, and no hooks."""
    if isinstance(model, torch.jit.ScriptModule):
        return model
    try:
        copied = copy_in_eval(model, share_buffers=False)
    except Exception as error:
        raise UnsupportedModule(
            f"{type(model).__name__} cannot be copied, to be traced on the copy: {error}"
        ) from error
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copied


def _apart(
    model: nn.Module, leaves: Collection[Any], arguments: Mapping[str, object], inputs: Collection[str] = ()
) -> tuple[nn.Module, list[_Call], torch.fx.Graph]:
    """Traces a copy of a model: the copy, the calls of its modules, and the graph.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    root, tracer = _to_trace(model), _Tracer(leaves)
    try:
        return root, tracer.calls, _traced(tracer, root, arguments, inputs)
    except UnsupportedModule as error:
        if not isinstance(error.__cause__, NameError):
            raise
        if any(module.training for module in model.modules()):
            raise UnsupportedModule(
                f"{type(model).__name__} is in training mode, and a function that it holds calls modules of its own, "
                "so that no copy can be read in eval mode; call model.eval() first"
            ) from error
    # A function that the model holds calls the model's own modules and not those of the copy.
    root, tracer = copy.copy(model), _Tracer(leaves)
    return root, tracer.calls, _traced(tracer, root, arguments, inputs)


def _is_ours(file: Path) -> bool:
    """Whether a line of a traceback belongs to the tracing and not to the model."""
    return file == Path(__file__) or _TORCH in file.parents


def _traced(
    tracer: _Tracer, model: nn.Module, arguments: Mapping[str, object], inputs: Collection[str] = ()
) -> torch.fx.Graph:
    """The graph of a model in eval mode.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModule(
            f"{kind} is a TorchScript module, which torch.fx cannot trace; pass the original module"
        )
    parameters = inspect.signature(model.forward).parameters
    unknown = [name for name in (*arguments, *inputs) if name not in parameters]
    if unknown:
        raise ValueError(f"{kind}.forward has no parameter {unknown[0]!r}; it has {', '.join(parameters)}")
    fixed = {
        name: p.default
        for name, p in parameters.items()
        if p.default is not inspect.Parameter.empty and name not in inputs
    }
    try:
        with _TRACING, traceable():
            graph = tracer.trace(model, {**fixed, **arguments})
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        frames = traceback.extract_tb(error.__traceback__)
        of_user = [frame for frame in frames if not _is_ours(Path(frame.filename))]
        where = f" at {of_user[-1].filename}:{of_user[-1].lineno} ({of_user[-1].line})" if of_user else ""
        raise UnsupportedModule(
            f"torch.fx cannot trace {kind}{where}: {reason}; its forward must take tensors and be free of control flow "
            "that depends on them"
        ) from error
    mark(graph)
    return graph


def _hold_constants(graph: torch.fx.Graph, model: nn.Module, root: nn.Module) -> None:
    """Keeps with their nodes the tensors that tracing put on `root`; `model` has none of them."""
    for node in graph.nodes:
        if node.op == "get_attr":
            read = operator.attrgetter(str(node.target))
            try:
                read(model)
            except AttributeError:
                node.meta[CONSTANT] = read(root)


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
    ) -> None:
        self.model, self.rule, self.exact, self.rules = model, rule, normalization == "gradient", rules
        root, self.called, self.graph = _apart(model, rules, arguments, inputs)
        _hold_constants(self.graph, model, root)
        mark_parts(self.graph, model)
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
        opened: dict[Node | None, list[_Call]] = {}
        closed: dict[Node | None, list[_Call]] = {}
        for call in self.called:
            opened.setdefault(call.before, []).append(call)
            closed.setdefault(call.last, []).append(call)
        given: dict[_Call, tuple[int | None, ...]] = {}
        calls: dict[str, list[ValuesOfCall]] = {}
        for node in self.graph.nodes:
            if node.op == "output":
                output = self._output(node)
            elif node.op not in ("placeholder", "get_attr") and not is_size(node) and not is_constant(node):
                self._append(node)
            given.update((call, self._numbers(call.given)) for call in opened.get(node, ()))
            for call in closed.get(node, ()):
                calls.setdefault(call.path, []).append(ValuesOfCall(given[call], self._numbers(call.returned)))
        if not self.steps or (output is not None and output < 0):
            raise UnsupportedModule(f"{kind} has no layers")
        containers = {
            path: value - self.inputs
            for path, times in calls.items()
            for value in times[0].returned
            if len(times) == len(times[0].returned) == 1 and value is not None and value >= self.inputs
        }
        return Tape(self.inputs, self.steps, self.sources, containers, output, calls)

    def _numbers(self, nodes: Sequence[Node | None]) -> tuple[int | None, ...]:
        """The values that nodes stand for now."""
        values = [None if node is None else self.values.get(node) for node in nodes]
        return tuple(None if value in self.stale else value for value in values)

    def _output(self, node: Node) -> int | None:
        """The step whose output is the network's; None where it returns several tensors computed from the images.

        Raises:
            UnsupportedModule: nothing that it returns is computed from them.
        """
        returned = [n for n in node.all_input_nodes if not is_size(n) and not is_constant(n)]
        if not returned:
            raise UnsupportedModule(f"{type(self.model).__name__} returns nothing that is computed from the images")
        if len(returned) > 1 or returned[0] not in self.values or returned[0] in self.pools:
            return None
        return self._read(returned[0], node) - self.inputs

    def _append(self, node: Node) -> None:
        if makes_parts(node) or (node.target is operator.getitem and self._takes_from_pool(node)):
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
        steps = steps_of(call)
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
            shared = aliases(node, steps[-1], self.model)
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
        taken = self.called_once.union((step.name for step in self.steps), self.containers)
        name = node.name
        while name in taken:
            name += "_"
        return name
