"""What a traced network calls: its nodes, what they read and overwrite, and how they are run by themselves."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .convolution import Convolution
from .joins import (
    AdaptiveAveragePool,
    Concatenate,
    IndexUnpool,
    MaxUnpool,
    Product,
    Sum,
    TransposedConvolution,
    Whole,
    ZeroPad,
)
from .linear import has_own_memory, may_be_view, name_of
from .rules import POINTWISE, canonical, spelled
from .rules import UnsupportedModule as UnsupportedModule
from .steps import (
    Activation,
    AveragePool,
    BatchNormalization,
    Identity,
    Linear,
    MaxPool,
    Rectifier,
    Scale,
    Shift,
    Step,
)

Node = torch.fx.Node
# Where a node keeps a tensor that is not the model's, and what `mark` and `mark_parts` note.
CONSTANT, _SIZE, _FIXED = "deconv_kernels.constant", "deconv_kernels.size", "deconv_kernels.fixed"
_PARTS = "deconv_kernels.parts"


class Applied:
    """What `function.apply` is in a traced graph, where `function` is a `torch.autograd.Function` of the user's."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = self.__self__ = function
        self.__name__ = self.__qualname__ = function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)


def _proxy_in(*arguments: Any) -> torch.fx.Proxy | None:
    """The first proxy in some arguments."""
    found: list[torch.fx.Proxy] = []
    torch.fx.node.map_aggregate(arguments, lambda x: found.append(x) if isinstance(x, torch.fx.Proxy) else x)
    return found[0] if found else None


@contextmanager
def traceable() -> Iterator[None]:
    """While torch.fx traces: makes nodes of what it looks through, and of what it stumbles over.

    A `torch.autograd.Function` that is applied to a proxy becomes one node, an `Applied`; torch.fx alone traces through
    its forward, and its backward is lost. `torch.zeros` and its kin take sizes that are proxies one by one, and so do
    methods and indices of tensors that are none.
    """
    # Users keep copies of `Function.apply`, which calls that of its base.
    base: Any = torch.autograd.Function.__bases__[0]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        proxy = _proxy_in(args, kwargs)
        if proxy is None:
            return super(base, cls).apply(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", Applied(cls), args, kwargs)

    def of_sizes(make: Callable[..., Tensor]) -> Callable[..., Any]:
        def made(*sizes: Any, **kwargs: Any) -> Any:
            return make(sizes, **kwargs) if len(sizes) > 1 and _proxy_in(sizes) is not None else make(*sizes, **kwargs)

        return made

    def to_sizes(method: Callable[..., Tensor]) -> Callable[..., Any]:
        def made(tensor: Tensor, *sizes: Any, **kwargs: Any) -> Any:
            proxy = _proxy_in(sizes)
            if proxy is None:
                return method(tensor, *sizes, **kwargs)
            return proxy.tracer.create_proxy("call_method", method.__name__, (tensor, *sizes), kwargs)

        return made

    def item(method: Callable[..., Tensor]) -> Callable[..., Any]:
        def taken(tensor: Tensor, index: Any) -> Any:
            proxy = _proxy_in(index)
            if proxy is None:
                return method(tensor, index)
            return proxy.tracer.create_proxy("call_function", operator.getitem, (tensor, index), {})

        return taken

    with ExitStack() as patches:
        patches.enter_context(patch.object(base, "apply", classmethod(apply)))
        for name in ("empty", "ones", "rand", "randn", "zeros"):
            patches.enter_context(patch.object(torch, name, of_sizes(getattr(torch, name))))
        for name in ("expand", "new_ones", "new_zeros", "repeat", "reshape", "tile", "view"):
            patches.enter_context(patch.object(Tensor, name, to_sizes(getattr(Tensor, name))))
        patches.enter_context(patch.object(Tensor, "__getitem__", item(Tensor.__getitem__)))
        yield


class Call:
    """One node of a traced network that computes something from the values of others.

    Args:
        node: of the graph.
        model: the network it belongs to.
        name: what its step will be called.
        rule: "deconvnet", "guided" or "gradient", for a rectifier.
        exact: whether a normalisation runs backwards by its gradient.
        rules: what the user decided: from canonical spelling to "gradient", "identity" or "rectifier".

    Attributes:
        parts: the nodes among its arguments that make several results, or are some of these; they have no step of their
            own and are run with it.
        signals: the nodes whose values it computes with.
        looked_at: the nodes of which it only wants to know the shape, beside those of `signals`.
        is_sized: whether an argument depends on the shape of a node.
        reads: the nodes that its first step reads, in the order of that step's inputs; `steps` may change it.
    """

    def __init__(
        self, node: Node, model: nn.Module, name: str, rule: str, exact: bool, rules: Mapping[object, str]
    ) -> None:
        self.node, self.model, self.name, self.rule, self.exact, self.rules = node, model, name, rule, exact, rules
        self.parts = [n for n in _with_parts(node) if makes_parts(n)]
        read = [n for n in _with_parts(node) if not makes_parts(n)]
        self.signals = [n for n in read if not is_size(n) and not is_constant(n)]
        below = chain.from_iterable(_sized_by(n) for n in read if is_size(n))
        self.looked_at = [n for n in dict.fromkeys(below) if n not in self.signals]
        self.is_sized = any(map(is_size, read))
        self.reads = self.signals[:1]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of a function or method, given by position or by name."""
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def refused(self, needed: str) -> UnsupportedModule:
        """The error that says what would be needed."""
        return UnsupportedModule(f"{describe(self.node, self.model)} has no exact backward rule: {needed}")

    def undecided(self, why: str = "") -> UnsupportedModule:
        """The error for what has no rule that people agree on."""
        others = ""
        if self._reads_one() and not makes_parts(self.node):
            keeps_shape = canonical(self.kind()) in POINTWISE
            others = f" (or 'identity', or 'rectifier'{'' if keeps_shape else ', if it keeps the shape'})"
        return self.refused(
            f"{why}say what to do with it, as in Deconvnet(..., rules={{{spelled(self.kind())}: 'gradient'}}){others}, "
            "or use rule='gradient'"
        )

    def _reads_one(self) -> bool:
        """Whether it computes with one map and nothing else that comes from the images."""
        return len(self.signals) == 1 and not self.looked_at and not self.parts

    def drops_branches(self) -> bool:
        """Whether the node is torchvision's `stochastic_depth` in eval mode, which does nothing then."""
        kind = self.kind()
        of_torchvision = str(getattr(kind, "__module__", "")).startswith("torchvision.ops")
        return of_torchvision and kind.__name__ == "stochastic_depth" and not self.argument(3, "training", True)

    def kind(self) -> Any:
        """The type of a module, the function, or the name of the method; a class of `torch.autograd.Function`."""
        if self.node.op == "call_module":
            return parametrize.type_before_parametrizations(self.model.get_submodule(str(self.node.target)))
        return self.node.target.function if isinstance(self.node.target, Applied) else self.node.target

    def decided(self) -> str | None:
        """What the user decided about it: about its kind, or about one from which a module has its forward."""
        kind = self.kind()
        kinds = [kind]
        if self.node.op == "call_module":
            kinds = [base for base in kind.__mro__ if getattr(base, "forward", None) is kind.forward]
        return next((self.rules[canonical(k)] for k in kinds if canonical(k) in self.rules), None)

    def function(self) -> Callable[..., Tensor]:
        """What the node does, as a function of the tensors of `signals` and `looked_at`; it changes none of them."""
        if any(isinstance(n.target, Applied) for n in (self.node, *self.parts)):
            return self._on_copies()
        return self._function()

    def _on_copies(self) -> Callable[..., Tensor]:
        """What the node does, for one that may write into what it is given."""
        function, what = self._function(), describe(self.node, self.model)

        def run(*tensors: Tensor) -> Any:
            copies = [tensor.clone() for tensor in tensors]
            result = function(*copies)
            if not all(torch.equal(*pair) for pair in zip(tensors, copies, strict=True)):
                raise UnsupportedModule(f"{what} writes into what it is given; make it return a new tensor")
            return result

        return run

    def _function(self) -> Callable[..., Tensor]:
        node, nodes = self.node, [*self.signals, *self.looked_at]
        model, overwrites = self.model, is_in_place(node, self.model)
        module = in_eval(model.get_submodule(str(node.target))) if node.op == "call_module" else None

        def run(*tensors: Tensor) -> Any:
            known = dict(zip(nodes, tensors, strict=True))
            if overwrites:
                known[nodes[0]] = tensors[0].clone()
            return _execute(node, known, model, module)

        return run

    def whole(self, linear: bool, alone: bool = False) -> list[Step]:
        """The node as a step on whole maps."""
        self.reads = [*self.signals, *self.looked_at]
        return [Whole(self.name, self.function(), len(self.signals), linear, alone)]

    def as_decided(self, decided: str) -> list[Step]:
        """What the user, or the rule, decided the call to be: "gradient", "identity" or "rectifier".

        Raises:
            UnsupportedModule: it cannot be that.
        """
        kind = canonical(self.kind())
        if decided == "gradient" and kind == operator.mul and len(self.signals) == 2:
            self.reads = self.signals
            return [Product(self.name)]
        if decided == "gradient" and not (self._reads_one() and kind in POINTWISE):
            return self.whole(linear=False, alone=kind not in POINTWISE)
        if not self._reads_one():
            raise self.refused(f"the rule {decided!r} is for what reads one map")
        if decided == "identity":
            return [Shift(self.name, self.function())]
        if self.rule == "gradient" and kind not in POINTWISE:
            return self.whole(linear=False, alone=True)
        return [Activation(self.name, self.function(), decided if decided == "gradient" else self.rule)]


def evaluated(value: Any, known: Mapping[Node, Any], model: nn.Module) -> Any:
    """An argument of a node, with the values of the nodes in it."""
    if isinstance(value, Node):
        return known[value] if value in known else _execute(value, known, model, None)
    if isinstance(value, slice):
        return slice(*(evaluated(part, known, model) for part in (value.start, value.stop, value.step)))
    if isinstance(value, tuple | list):
        return type(value)(evaluated(part, known, model) for part in value)
    if isinstance(value, dict):
        return {key: evaluated(part, known, model) for key, part in value.items()}
    return value


def _execute(node: Node, known: Mapping[Node, Any], model: nn.Module, module: nn.Module | None) -> Any:
    if node.op == "get_attr":
        return node.meta[CONSTANT] if CONSTANT in node.meta else operator.attrgetter(str(node.target))(model)
    arguments = [evaluated(value, known, model) for value in node.args]
    named = {key: evaluated(value, known, model) for key, value in node.kwargs.items()}
    if node.op == "call_module":
        return (in_eval(model.get_submodule(str(node.target))) if module is None else module)(*arguments, **named)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
    return node.target(*arguments, **named)  # type: ignore[operator]


def in_eval(module: nn.Module) -> nn.Module:
    """The module, or a copy in eval mode that shares its tensors."""
    return copy_in_eval(module) if any(part.training for part in module.modules()) else module


def copy_in_eval(module: nn.Module, share_buffers: bool = True) -> nn.Module:
    """A copy of a module in eval mode that shares its tensors, of the buffers only if asked to."""
    held = chain.from_iterable(
        chain(part._parameters.values(), vars(part).values(), part._buffers.values() if share_buffers else ())
        for part in module.modules()
    )
    return copy.deepcopy(module, {id(value): value for value in held if isinstance(value, Tensor)}).eval()


def describe(node: Node, model: nn.Module) -> str:
    """What a node is, for an error message."""
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target))).__name__
        return f"module {node.target!r} ({kind}, node {node.name!r})"
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))
    return f"{'method' if node.op == 'call_method' else 'function'} {target} (node {node.name!r})"


def mark(graph: torch.fx.Graph) -> None:
    """Notes on every node what `is_size` and `is_constant` say."""
    for node in graph.nodes:
        below = node.all_input_nodes if node.op in ("call_function", "call_method") else []
        asks = (node.op == "call_method" and node.target in ("size", "dim", "ndimension", "numel")) or (
            node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
        )
        makes = node.op in ("call_function", "call_method") and name_of(node.target) in _SIZED_LIKE
        fixed = bool(below) and all(map(is_constant, below))
        if below and name_of(node.target) in _AS_ANOTHER:
            below = below[:1]
        about_sizes = bool(below) and all(is_size(n) or is_constant(n) for n in below) and not fixed
        node.meta[_SIZE] = asks or about_sizes or (makes and not fixed and not _is_written_to(node))
        node.meta[_FIXED] = node.op == "get_attr" or fixed


# What looks at the shape and the type of its second argument.
_AS_ANOTHER = frozenset(("expand_as", "reshape_as", "to", "type_as", "view_as"))
# What makes a tensor of the size of another, in which nothing is computed from that.
_SIZED_LIKE = frozenset(
    (
        *("zeros_like", "ones_like", "full_like", "empty_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    )
)


def _is_written_to(node: Node) -> bool:
    """Whether an in-place operation changes what a node made, or a view of it."""
    return any(
        user.op in ("call_function", "call_method")
        and user.args[:1] == (node,)
        and (is_in_place(user, None) or (may_be_view(user.target) and _is_written_to(user)))
        for user in node.users
    )


def makes_parts(node: Node) -> bool:
    """Whether a node makes several results, of which others take one; see `layers.mark_parts`."""
    return bool(node.meta.get(_PARTS, False))


def note_parts(node: Node) -> None:
    """Notes that a node makes several results."""
    node.meta[_PARTS] = True


def _with_parts(node: Node) -> list[Node]:
    """The nodes that a node reads, and those that such as make several results read."""
    found: dict[Node, None] = {}
    for n in node.all_input_nodes:
        found[n] = None
        if makes_parts(n):
            found.update(dict.fromkeys(_with_parts(n)))
    return list(found)


def is_size(node: Node) -> bool:
    """Whether a node depends on nothing but the shapes of tensors, and on what is constant."""
    return bool(node.meta[_SIZE])


def is_constant(node: Node) -> bool:
    """Whether a node depends on nothing but the parameters and buffers of the model."""
    return bool(node.meta[_FIXED])


def _sized_by(node: Node) -> list[Node]:
    """The nodes whose shape a size comes from."""
    return [
        source
        for n in node.all_input_nodes
        for source in (_sized_by(n) if is_size(n) else [n])
        if not is_constant(source)
    ]


def is_batch_size(value: Any) -> bool:
    """Whether a value in a graph is `x.size(0)` or `x.shape[0]`."""
    if not isinstance(value, Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return bool(value.args[1:] == (0,) or value.kwargs.get("dim") == 0)
    return bool(value.target is operator.getitem and is_size(value) and value.args[1:] == (0,))


IN_PLACE_OPERATORS = tuple(
    getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
)


def is_in_place(node: Node, model: nn.Module | None) -> bool:
    """Whether a node overwrites its input, so that later readers of the input see its output."""
    if isinstance(node.target, Applied):
        return False
    if node.op == "call_module":
        assert model is not None
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.target in IN_PLACE_OPERATORS:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace", False))


_ALLOCATING_STEPS = (
    *(AdaptiveAveragePool, AveragePool, BatchNormalization, Concatenate, Convolution, IndexUnpool, Linear, MaxPool),
    *(MaxUnpool, Product, Rectifier, Scale, Sum, TransposedConvolution, ZeroPad),
)
_ALLOCATING_FUNCTIONS = frozenset(
    (
        "add",
        "sub",
        "mean",
        "sum",
        "clone",
        "interpolate",
        "upsample",
        "pad",
        "adaptive_max_pool2d",
        "local_response_norm",
    )
)


def aliases(node: Node, step: Step, model: nn.Module) -> str | None:
    """Whether the output of a step may share memory with its input.

    Returns:
        "same" for the same tensor, "view" if it may be another view of the memory, None where that cannot be.
    """
    if isinstance(step, Identity):
        return "same"
    if isinstance(step, _ALLOCATING_STEPS):
        return None
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target)))
        own_memory = kind.__module__.startswith("torch.nn.modules") and kind not in (nn.Flatten, nn.Unflatten)
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        own_memory = name in _ALLOCATING_FUNCTIONS or canonical(node.target) in POINTWISE or has_own_memory(node.target)
    return None if own_memory else "view"
