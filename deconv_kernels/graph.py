"""From an `nn.Module` to a tape: the steps of a network and what each reads, found by tracing it with torch.fx."""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import inspect
import operator
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch.fx
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from . import nn as own
from .calls import Call, aliases, makes_parts
from .constants import (
    CONSTANT,
    IN_PLACE_OPERATORS,
    NO_GRAD,
    Applied,
    Constants,
    Expression,
    Weights,
    assume,
    computes_with,
    copy_in_eval,
    describe,
    function_name,
    is_random,
    overwritten,
    set_data,
    set_item,
)
from .joins import Switches
from .layers import known_type, mark_parts, returns_indices, steps_of, switches_of, unpooling
from .rules import Undecided, UnsupportedModule, decisions
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


class Tensors:
    """Where the tensors come from that the steps of a network read.

    Args:
        model: the network.
        held: tensors that are not the model's, by the names under which tracing found them.
        called: the paths of the modules that tracing saw called.
        assumed: what must not change, because the control flow of the network depends on it.
    """

    def __init__(
        self, model: nn.Module, held: Mapping[str, Tensor], called: Collection[str], assumed: Sequence[Expression]
    ) -> None:
        self.model, self.held, self.assumed = model, held, assumed
        self._modules = {path: model.get_submodule(path) for path in called}
        self._taken: dict[str, Tensor] = {}

    def now(self) -> Weights:
        """Those of this moment, each the same object as before where its bits are the same.

        Raises:
            ValueError: a module was replaced, or what is assumed has changed.
        """
        for path, module in self._modules.items():
            if self.model.get_submodule(path) is not module:
                raise ValueError(f"module {path!r} was replaced after the network was traced; make a new Deconvnet")
        weights = Weights(self.model, self.held, self._taken)
        for expression in self.assumed:
            expression.bound(weights)
        return weights


class LayerNames:
    """The names of a network's layers.

    Args:
        inputs: how many tensors the network takes.
        steps: name and kind of every step, in order.
        hidden: the numbers of those that are no layers.
        containers: names that stand for a step's output too.

    Attributes:
        all: those of the layers, in order.
    """

    def __init__(
        self,
        inputs: int,
        steps: Sequence[tuple[str, str]],
        hidden: Collection[int],
        containers: Mapping[str, int],
    ) -> None:
        self.inputs, self.steps = inputs, steps
        named = {name: index for index, (name, _) in enumerate(steps) if index not in hidden}
        self.all = list(named)
        self._index = {**containers, **named}

    def index(self, layer: str) -> int:
        """Which step's output `layer` is.

        Raises:
            UnknownLayer: no such layer; the message lists them.
        """
        if layer not in self._index:
            close = difflib.get_close_matches(str(layer), self._index, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownLayer(f"no layer {layer!r}{hint}; the layers are: {', '.join(self.all)}")
        return self._index[layer]

    def of(self, kind: str) -> dict[int, str]:
        """The names of the steps of a kind, by their numbers."""
        return {index: name for index, (name, of_kind) in enumerate(self.steps) if of_kind == kind}


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
        tensors: where those come from that the steps read.
        key: a hash of all that the steps depend on but the tensors.
        names: of the layers.
        unused: the keys of `rules` that the network does not call.
    """

    unused: frozenset[Any] = frozenset()

    def __init__(
        self,
        inputs: int,
        steps: Sequence[Step],
        sources: Sequence[tuple[int, ...]],
        containers: Mapping[str, int],
        output: int | None,
        calls: Mapping[str, Sequence[ValuesOfCall]],
        tensors: Tensors,
        key: str,
    ) -> None:
        self.inputs, self.steps, self.sources = inputs, list(steps), list(sources)
        self.calls, self.tensors, self.key = calls, tensors, key
        hidden = {index for index, step in enumerate(steps) if isinstance(step, Switches)}
        kinds = [(step.name, type(step).__name__) for step in steps]
        self.names = LayerNames(inputs, kinds, hidden, containers)
        self.layers = self.names.all
        self.output = None if output is None else self.steps[output].name

    def name(self, layer: str | nn.Module) -> str:
        """The name of a layer that may be given as a module of the network.

        Raises:
            TypeError: it is neither a name nor a module.
            UnknownLayer: a module of another network.
        """
        if isinstance(layer, str):
            return layer
        if not isinstance(layer, nn.Module):
            raise TypeError(f"a layer is a name or a module of the network, got {type(layer).__name__}")
        for name, module in self.tensors.model.named_modules():
            if module is layer:
                return name
        raise UnknownLayer(f"the {type(layer).__name__} given as a layer is no module of the network")

    def index(self, layer: str | nn.Module) -> int:
        """Which step's output `layer` is.

        Raises:
            TypeError, UnknownLayer: no such layer; the message lists them.
        """
        return self.names.index(self.name(layer))

    def value(self, layer: str | nn.Module) -> int:
        """The number of the value that is the output of `layer`.

        Raises:
            TypeError, UnknownLayer: no such layer; the message lists them.
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

    def bound(self, steps: Collection[int]) -> tuple[dict[int, Step], dict[str, Tensor]]:
        """Steps with the tensors that the network has now, by their numbers, and these tensors by their paths.

        Raises:
            ValueError: a module of the network was replaced, or what its control flow depends on has changed.
        """
        weights = self.tensors.now()
        return {index: self.steps[index].bound(weights) for index in steps}, weights.taken

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


class _Recorded:
    """Records in-place operations as what they are, and knows the values of what is not computed from the images.

    Of `x += y` torch.fx makes x = x + y, whose result other names of x would not see.
    """

    tracer: Any
    node: Node

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)  # type: ignore[arg-type]

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, torch.fx.Proxy):
            _undo_item_assignment(self.node, self.tracer.create_arg(index), value.node)
        self.tracer.create_proxy("call_function", set_item, (self, index, value), {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            self.tracer.create_proxy("call_function", set_data, (self, value), {})
        else:
            super().__setattr__(name, value)

    def __len__(self) -> int:
        return int(self.tracer.constant(self, len))

    def __int__(self) -> int:
        return int(self.tracer.constant(self, int))

    def __index__(self) -> int:
        return int(self.tracer.constant(self, operator.index))

    def __float__(self) -> float:
        return float(self.tracer.constant(self, float))


def _in_place(operation: Any) -> Any:
    def method(self: _Recorded, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


for _operation in IN_PLACE_OPERATORS:
    setattr(_Recorded, f"__{_operation.__name__}__", _in_place(_operation))


class _Proxy(_Recorded, torch.fx.Proxy):
    """What a forward computes while it is traced."""


class _Attribute(_Recorded, torch.fx.proxy.Attribute):
    """Of a proxy: a tensor such as `x.data`, into which a network may write, a shape, or a method."""


def _undo_item_assignment(base: Node, index: Any, value: Node) -> None:
    """Of `x[i] += y`, which is x[i] = (x[i] += y), makes x[i] = x[i] + y."""
    taken = value.args[0] if value.target in IN_PLACE_OPERATORS else None
    if isinstance(taken, Node) and taken.target is operator.getitem and taken.args == (base, index):
        value.target = getattr(operator, value.target.__name__[1:])  # type: ignore[union-attr]


class _Recording(TorchFunctionMode):
    """Inside it, what is computed from real tensors, or from none, becomes nodes of the graph too."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__setitem__:
            return self.tracer.create_proxy("call_function", set_item, args, {}) and None
        if _proxy_in(args, kwargs) is not None:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        writes = (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None
        if not writes and not is_random(name):
            result = func(*args, **kwargs)
            if not any(isinstance(part, Tensor) for part in tree_leaves(result)):
                return result
        try:
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        except NotImplementedError:  # an argument that a graph cannot hold, such as an array
            return func(*args, **kwargs)


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

    proxy_buffer_attributes = True

    def __init__(self, leaves: Collection[Any]) -> None:
        super().__init__()
        self.leaves = tuple(kind for kind in leaves if isinstance(kind, type))
        self.calls: list[_Call] = []
        self.thread = threading.get_ident()
        self.evaluating = False

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
        if not self._is_traced():
            return forward(*args, **kwargs)
        before = self._newest()
        result = super().call_module(m, forward, args, kwargs)
        given, returned = _nodes(args), _nodes(result)
        self.calls.append(_Call(self.path_of_module(m), given, returned, before, self._newest()))
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return super().getattr(attr, attr_val, parameter_proxy_cache) if self._is_traced() else attr_val

    def _is_traced(self) -> bool:
        return threading.get_ident() == self.thread and not self.evaluating

    def constant(self, proxy: _Recorded, take: Any) -> Any:
        """What Python takes of a value that is not computed from the images; the network must not change it later.

        Raises:
            TraceError: it is computed from the images, or depends on their size.
        """
        value = self._evaluated(proxy.node, take)
        found = self.create_proxy("call_function", take, (proxy,), {})
        self.create_proxy("call_function", assume, (found, value), {})
        return value

    def _evaluated(self, wanted: Node, take: Any) -> Any:
        self.evaluating = True
        try:
            with torch._C.DisableTorchFunction():
                constants = Constants(self.root, {})
                for node in self.graph.nodes:
                    if node.op != "placeholder" and all(read in constants for read in node.all_input_nodes):
                        constants.add(node)
                if wanted not in constants:
                    raise TraceError("symbolically traced variables cannot be used as inputs to control flow")
                return take(constants.expression(wanted).now())
        finally:
            self.evaluating = False

    def to_bool(self, obj: Any) -> bool:
        return bool(self.constant(obj, bool))

    def iter(self, obj: Any) -> Iterator[torch.fx.Proxy]:
        return iter([obj[number] for number in range(self.constant(obj, len))])

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(*args, **kwargs)
        if not torch.is_grad_enabled():
            node.meta[NO_GRAD] = True
        return node

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
    """A copy of a model in eval mode, on which its forward may leave traces. It shares its tensors, and has no hooks.

    Tensors that are plain attributes are buffers of the copy, so that reading them becomes part of the graph.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return model
    copied = copy_in_eval(model)
    for module in copied.modules():
        for name in [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
            module._buffers[name] = vars(module).pop(name)
    return copied


@contextmanager
def traceable() -> Iterator[None]:
    """While torch.fx traces: makes nodes of what it looks through, and of what it stumbles over.

    A `torch.autograd.Function` that is applied to a proxy becomes one node, an `Applied`; torch.fx alone traces through
    its forward, and its backward is lost. Functions that make tensors, and methods and indices of tensors that are no
    proxies, take proxies as sizes. Modules take proxies in the place of their parameters and buffers, as attributes.
    """
    # Users keep copies of `Function.apply`, which calls that of its base.
    base: Any = torch.autograd.Function.__bases__[0]
    assign, item = nn.Module.__setattr__, Tensor.__getitem__

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        proxy = _proxy_in(args, kwargs)
        if proxy is None:
            return super(base, cls).apply(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", Applied(cls), args, kwargs)

    def recorded(function: Any, kind: str) -> Any:
        @functools.wraps(function)
        def record(*args: Any, **kwargs: Any) -> Any:
            proxy = _proxy_in(args, kwargs)
            if proxy is None:
                return function(*args, **kwargs)
            target = function if kind == "call_function" else function.__name__
            return proxy.tracer.create_proxy(kind, target, args, kwargs)

        return record

    def taken(tensor: Tensor, index: Any) -> Any:
        proxy = _proxy_in(index)
        if proxy is None:
            return item(tensor, index)
        return proxy.tracer.create_proxy("call_function", operator.getitem, (tensor, index), {})

    def set_attribute(module: nn.Module, name: str, value: Any) -> None:
        if not isinstance(value, torch.fx.Proxy):
            assign(module, name, value)
            return
        for held in (module._parameters, module._buffers):
            held.pop(name, None)
        vars(module)[name] = value

    with ExitStack() as patches:
        patches.enter_context(patch.object(base, "apply", classmethod(apply)))
        for name in ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tensor", "rand", "randn"):
            patches.enter_context(patch.object(torch, name, recorded(getattr(torch, name), "call_function")))
        for name in ("expand", "new_ones", "new_zeros", "repeat", "reshape", "tile", "view"):
            patches.enter_context(patch.object(Tensor, name, recorded(getattr(Tensor, name), "call_method")))
        patches.enter_context(patch.object(Tensor, "__getitem__", taken))
        patches.enter_context(patch.object(nn.Module, "__setattr__", set_attribute))
        yield


def _proxy_in(*arguments: Any) -> torch.fx.Proxy | None:
    """The first proxy in some arguments."""
    found: list[torch.fx.Proxy] = []
    torch.fx.node.map_aggregate(arguments, lambda x: found.append(x) if isinstance(x, torch.fx.Proxy) else x)
    return found[0] if found else None


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
        with (
            _TRACING,
            torch.inference_mode(False),
            torch.enable_grad(),
            traceable(),
            _Recording(tracer),
        ):
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
    return graph


def _hold_constants(graph: torch.fx.Graph, model: nn.Module, root: nn.Module) -> dict[str, Tensor]:
    """The tensors that tracing put on `root`, by their paths, also kept with their nodes; `model` has none of them."""
    held = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            read = operator.attrgetter(str(node.target))
            try:
                read(model)
            except AttributeError:
                held[str(node.target)] = node.meta[CONSTANT] = read(root)
    return held


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
        self.held = _hold_constants(self.graph, model, root)
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
        opened: dict[Node | None, list[_Call]] = {}
        closed: dict[Node | None, list[_Call]] = {}
        for call in self.called:
            opened.setdefault(call.before, []).append(call)
            closed.setdefault(call.last, []).append(call)
        given: dict[_Call, tuple[int | None, ...]] = {}
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
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}.union(calls)
        tensors = Tensors(self.model, self.held, called, self.assumed)
        tape = Tape(self.inputs, self.steps, self.sources, containers, output, calls, tensors, self._key())
        tape.unused = frozenset(self.unused)
        return tape

    def _key(self) -> str:
        """A hash of the network's code and modules and of the user's choices."""
        called = [self.model.get_submodule(str(n.target)) for n in self.graph.nodes if n.op == "call_module"]
        text = f"{self.graph} {called!r} {self.rule} {self.exact} {self.rules!r}"
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
        mark_parts(node, self.model, self.constants)
        if makes_parts(node):
            call = Call(node, self.model, self.constants, node.name, self.rule, self.exact, self.rules)
            self.unused.difference_update(call.kinds())
        if makes_parts(node) or (node.target is operator.getitem and self._takes_from_pool(node)):
            return
        name = self._name(node)
        switches = next((n for n in node.all_input_nodes if n in self.pools), None)
        if switches is not None:
            found = unpooling(node, self.model, self.constants, name, self.rule, self.pools[switches])
            if found is None:
                raise UnsupportedModule(
                    f"{describe(node, self.model)} reads the indices of a max pool; only unpooling can"
                )
            steps, reads = found
            self._link(node, steps, [reads[0], switches, *reads[1:]])
            return
        call = Call(node, self.model, self.constants, name, self.rule, self.exact, self.rules)
        self.unused.difference_update(call.kinds())
        try:
            steps = steps_of(call)
        except Undecided as error:  # all of them are named at once, when the others are found
            self.undecided.append(error)
            steps = [Identity(name)]
        self._link(node, steps, call.reads)
        if returns_indices(node, self.model) and isinstance(pool := steps[-1], MaxPool):
            self._indices_of(node, pool)

    def _indices_of(self, node: Node, pool: MaxPool) -> None:
        """Gives the switches of a pool a value, if an unpooling reads them."""
        taken = [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]
        if any(user.users for user in taken):
            source = self.sources[-1]
            self.steps.append(switches_of(node, self.model, self.constants, f"{pool.name}.switches"))
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
        if node.op == "call_module" and node.target in self.called_once:
            return str(node.target)
        taken = self.called_once.union((step.name for step in self.steps), self.containers)
        name = node.name
        while name in taken:
            name += "_"
        return name
