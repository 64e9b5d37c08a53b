"""Traces a network with torch.fx, with what torch.fx alone looks through or stumbles over."""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import operator
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch.fx
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.fx.proxy import TraceError
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ... import nn as own
from ...ops.dispatch import DisableTorchFunction
from ..errors import NeedsSizes, UnsupportedModule
from ..nodes import CONSTANT, IN_PLACE_OPERATORS, NO_GRAD, Applied, Node, set_data, set_item
from ..ranks import each_rank
from ..weights import copy_in_eval
from .constants import Constants, assume, computes_with, is_random
from .operations import known_type

_TORCH = Path(torch.__file__).parent
TRACING = threading.RLock()
_OWN_LAYERS = (*each_rank("MaxPool{}d", own), *each_rank("MaxUnpool{}d", own))


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


def _in_place(operation: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


def _taking(take: Any) -> Any:
    return lambda self: self.tracer.constant(self, take)


for _operation in IN_PLACE_OPERATORS:
    setattr(_Recorded, f"__{_operation.__name__}__", _in_place(_operation))
for _name, _take in {"len": len, "int": int, "index": operator.index, "float": float}.items():
    setattr(_Recorded, f"__{_name}__", _taking(_take))


_SEE_PROXIES = ("torch", __name__.partition(".")[0])


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
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            self.tracer.differentiates = args[0]
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


class ModuleCall(NamedTuple):
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
        self.calls: list[ModuleCall] = []
        self.thread = threading.get_ident()
        self.evaluating = False
        self.asked_for_sizes = False
        self.differentiates = True  # as the network says: a Function's forward runs without

    def proxy(self, node: Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if "forward" in vars(m) or self._has_other_tensors(m, module_qualified_name):
            return False
        return (
            isinstance(m, _OWN_LAYERS)
            or any(isinstance(m, kind) and type(m).forward is getattr(kind, "forward", None) for kind in self.leaves)
            or getattr(m, "deconvnet_identity", False)
            or known_type(type(m)) is not None
            or super().is_leaf_module(m, module_qualified_name)
        )

    def _has_other_tensors(self, module: nn.Module, path: str) -> bool:
        """Whether the network has put other tensors in the place of some of a module's."""
        held = {f"{path}.{name}": value for name, value in vars(module).items() if isinstance(value, torch.fx.Proxy)}
        return any(value.node.op != "get_attr" or value.node.target != name for name, value in held.items())

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if not self._is_traced():
            return forward(*args, **kwargs)
        before = self._newest()
        result = super().call_module(m, forward, args, kwargs)
        given, returned = _nodes(args), _nodes(result)
        self.calls.append(ModuleCall(self.path_of_module(m), given, returned, before, self._newest()))
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
            with DisableTorchFunction():
                constants = Constants(self.root, {})
                for node in self.graph.nodes:
                    if node.op != "placeholder" and all(read in constants for read in node.all_input_nodes):
                        constants.add(node)
                if wanted not in constants:
                    self.asked_for_sizes = take is len or self._is_sized(wanted)
                    raise TraceError(
                        "it asks for the sizes of its maps"
                        if self.asked_for_sizes
                        else "symbolically traced variables cannot be used as inputs to control flow"
                    )
                return take(constants.expression(wanted).now())
        finally:
            self.evaluating = False

    def is_tensor(self, node: Node) -> bool:
        """Whether a value is a parameter, or computed from the images and not from their sizes alone."""
        return node.op == "get_attr" or not self._is_sized(node)

    def _is_sized(self, wanted: Node) -> bool:
        """Whether a value depends on nothing that is in the images but their sizes."""
        known: set[Node] = set()
        for node in self.graph.nodes:
            if node.op != "placeholder" and known.issuperset(computes_with(node)):
                known.add(node)
        return wanted in known

    def to_bool(self, obj: Any) -> bool:
        return bool(self.constant(obj, bool))

    def iter(self, obj: Any) -> Iterator[torch.fx.Proxy]:
        return iter([obj[number] for number in range(self.constant(obj, len))])

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(*args, **kwargs)
        if not self.differentiates or torch.is_inference_mode_enabled():
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
        return functools.partial(self.root.forward, *positional, **named), []

    def _newest(self) -> Node | None:
        return next(iter(reversed(self.graph.nodes)), None)


def _nodes(value: Any) -> tuple[Node | None, ...]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return tuple(part.node if isinstance(part, torch.fx.Proxy) else None for part in parts)


def to_trace(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, on which its forward may leave traces. It shares its tensors, and has no hooks.

    Tensors that are plain attributes are buffers of the copy, so that reading them becomes part of the graph.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return model
    copied = copy_in_eval(model)
    for module in copied.modules():
        # transformers puts its own hooks on again where it does not remember that they are there.
        vars(module).pop("_output_capturing_hooks_installed", None)
        for name in [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
            module._buffers[name] = vars(module).pop(name)
    return copied


@contextmanager
def functions_apply(decide: Callable[[type[torch.autograd.Function], Any, Any], Any]) -> Iterator[None]:
    """While it lasts, what a `torch.autograd.Function` returns is decided here, unless that is NotImplemented.

    Users keep copies of `apply`, which some releases of torch bind for good: of these the call of `forward` is seen.

    Args:
        decide: of the function, its arguments and its named arguments.
    """
    apply_itself = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        decided = decide(cls, args, kwargs)
        return apply_itself.__get__(None, cls)(*args, **kwargs) if decided is NotImplemented else decided

    def deciding(cls: type[torch.autograd.Function], itself: Any) -> Any:
        @functools.wraps(itself)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = args[1:] if args and isinstance(args[0], FunctionCtx) else args
            decided = decide(cls, given, kwargs)
            return itself(*args, **kwargs) if decided is NotImplemented else decided

        return staticmethod(run)

    with ExitStack() as patches:
        patches.enter_context(patch.object(torch.autograd.Function, "apply", classmethod(apply)))
        for cls in _derived(torch.autograd.Function):
            if not cls.__module__.startswith("torch."):
                patches.enter_context(patch.object(cls, "forward", deciding(cls, cls.forward)))
        yield


def _derived(cls: Any) -> Iterator[Any]:
    for other in cls.__subclasses__():
        yield other
        yield from _derived(other)


@contextmanager
def traceable() -> Iterator[None]:
    """While torch.fx traces: makes nodes of what it looks through, and of what it stumbles over.

    A `torch.autograd.Function` that is applied to a proxy becomes one node, an `Applied`; torch.fx alone traces through
    its forward, and its backward is lost. Functions that make tensors, and methods and indices of tensors that are no
    proxies, take proxies as sizes. Modules take proxies in the place of their parameters and buffers, as attributes.
    A network that asks `isinstance` whether a map is a tensor is told that it is; torch and this package see a proxy.
    """
    assign, item, is_one = nn.Module.__setattr__, Tensor.__getitem__, torch.jit.isinstance
    is_instance = isinstance
    some_map = torch.empty(0)

    def applied(cls: type[torch.autograd.Function], args: Any, kwargs: Any) -> Any:
        proxy = _proxy_in(args, kwargs)
        if proxy is None:
            return NotImplemented
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

    def is_one_to_torchscript(value: object, kind: Any) -> bool:
        return is_one(some_map if isinstance(value, torch.fx.Proxy) else value, kind)

    def is_instance_to_network(value: object, kind: Any) -> bool:
        asker = str(sys._getframe(1).f_globals.get("__name__"))
        if type(value) is not _Proxy or asker.partition(".")[0] in _SEE_PROXIES:
            return is_instance(value, kind)
        return is_instance(some_map if value.tracer.is_tensor(value.node) else value, kind)

    with ExitStack() as patches:
        patches.enter_context(functions_apply(applied))
        patches.enter_context(patch.object(torch.jit, "isinstance", is_one_to_torchscript))
        patches.enter_context(patch.object(builtins, "isinstance", is_instance_to_network))
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


def traced_apart(
    model: nn.Module, leaves: Collection[Any], arguments: Mapping[str, object], inputs: Collection[str] = ()
) -> tuple[nn.Module, list[ModuleCall], torch.fx.Graph]:
    """Traces a copy of a model: the copy, the calls of its modules, and the graph.

    Raises:
        UnsupportedModule: torch.fx cannot trace it.
    """
    root, tracer = to_trace(model), _Tracer(leaves)
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
    return Path(__file__).parent in file.parents or _TORCH in file.parents


def input_names(
    model: nn.Module, arguments: Mapping[str, object] | None = None, inputs: Collection[str] = ()
) -> list[str]:
    """The parameters of a model's forward that are its inputs: those with neither a value nor a default, or named so.

    Where all have a default it is the one that the model calls its `main_input_name`, or the first.

    Raises:
        ValueError: an argument or input that is no parameter.
    """
    arguments = arguments or {}
    parameters = inspect.signature(model.forward).parameters
    unknown = [name for name in (*arguments, *inputs) if name not in parameters]
    if unknown:
        raise ValueError(
            f"{type(model).__name__}.forward has no parameter {unknown[0]!r}; it has {', '.join(parameters)}"
        )
    free = [
        name
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name not in arguments
    ]
    needed = [name for name in free if parameters[name].default is inspect.Parameter.empty or name in inputs]
    main = getattr(model, "main_input_name", None)
    return needed or ([main] if main in free else free[:1])


def untraceable(tool: str, model: nn.Module, error: Exception) -> UnsupportedModule:
    """The error that says why, and where, a tool cannot trace a model."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if not _is_ours(Path(frame.filename))]
    where = f" at {of_user[-1].filename}:{of_user[-1].lineno} ({of_user[-1].line})" if of_user else ""
    return UnsupportedModule(
        f"{tool} cannot trace {type(model).__name__}{where}: {reason}; its forward must take tensors and be free of "
        "control flow that depends on them"
    )


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
    fixed = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not parameter.empty and name not in input_names(model, arguments, inputs)
    }
    try:
        with (
            TRACING,
            torch.inference_mode(False),
            torch.enable_grad(),
            traceable(),
            _Recording(tracer),
        ):
            graph = tracer.trace(model, {**fixed, **arguments})
    except Exception as error:
        refused = untraceable("torch.fx", model, error)
        raise (NeedsSizes(str(refused)) if tracer.asked_for_sizes else refused) from error
    return graph


def hold_constants(graph: torch.fx.Graph, model: nn.Module, root: nn.Module) -> dict[str, Tensor]:
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
