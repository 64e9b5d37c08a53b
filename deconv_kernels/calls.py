"""What a traced network calls: its nodes, what they read and overwrite, and how they are run by themselves."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .convolution import Convolution
from .joins import AdaptiveAveragePool, Concatenate, MaxUnpool, Product, Sum, TransposedConvolution, Whole, ZeroPad
from .rules import POINTWISE, canonical
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
# Where a node keeps a tensor that is not the model's, and what `mark` notes.
CONSTANT, _SIZE, _FIXED = "deconv_kernels.constant", "deconv_kernels.size", "deconv_kernels.fixed"
NEEDED = (
    "say what to do with it, as in Deconvnet(..., rules={{{key}: 'gradient'}}) "
    "(or 'identity', or 'rectifier'), or use rule='gradient'"
)


class UnsupportedModule(ValueError):  # noqa: N818
    """The network has a part for which there is no exact rule."""


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
        signals: the nodes whose values it computes with.
        looked_at: the nodes of which it only wants to know the shape.
        reads: the nodes that its first step reads, in the order of that step's inputs; `steps` may change it.
    """

    def __init__(
        self, node: Node, model: nn.Module, name: str, rule: str, exact: bool, rules: Mapping[object, str]
    ) -> None:
        self.node, self.model, self.name, self.rule, self.exact, self.rules = node, model, name, rule, exact, rules
        self.signals = [n for n in node.all_input_nodes if not is_size(n) and not is_constant(n)]
        below = chain.from_iterable(_sized_by(n) for n in node.all_input_nodes if is_size(n))
        self.looked_at = [n for n in dict.fromkeys(below) if n not in self.signals]
        self.reads = self.signals[:1]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of a function or method, given by position or by name."""
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def refused(self, needed: str) -> UnsupportedModule:
        """The error that says what would be needed."""
        return UnsupportedModule(f"{describe(self.node, self.model)} has no exact backward rule: {needed}")

    def undecided(self, why: str = "") -> UnsupportedModule:
        """The error for what has no rule that people agree on."""
        target = self.kind()
        return self.refused(why + NEEDED.format(key=repr(target) if isinstance(target, str) else target.__name__))

    def drops_branches(self) -> bool:
        """Whether the node is torchvision's `stochastic_depth` in eval mode, which does nothing then."""
        kind = self.kind()
        of_torchvision = str(getattr(kind, "__module__", "")).startswith("torchvision.ops")
        return of_torchvision and kind.__name__ == "stochastic_depth" and not self.argument(3, "training", True)

    def kind(self) -> Any:
        """The type of a module, the function, or the name of the method."""
        if self.node.op == "call_module":
            return parametrize.type_before_parametrizations(self.model.get_submodule(str(self.node.target)))
        return self.node.target

    def function(self) -> Callable[..., Tensor]:
        """What the node does, as a function of the tensors of `signals` and `looked_at`; it changes none of them."""
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
        pointwise = len(self.signals) == 1 and not self.looked_at
        if decided == "gradient" and not (pointwise and kind in POINTWISE):
            return self.whole(linear=False, alone=kind not in POINTWISE)
        if not pointwise:
            raise self.refused(f"rules={decided!r} is for what reads one map")
        if decided == "identity":
            return [Shift(self.name, self.function())]
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
        return (model.get_submodule(str(node.target)) if module is None else module)(*arguments, **named)
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
        node.meta[_SIZE] = asks or (bool(below) and all(map(is_size, below)))
        node.meta[_FIXED] = node.op == "get_attr" or (bool(below) and all(map(is_constant, below)))


def is_size(node: Node) -> bool:
    """Whether a node is about the shape of a tensor, and not about what is in it."""
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


def is_in_place(node: Node, model: nn.Module) -> bool:
    """Whether a node overwrites its input, so that later readers of the input see its output."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.target in IN_PLACE_OPERATORS:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace", False))


_ALLOCATING_STEPS = (
    *(AdaptiveAveragePool, AveragePool, BatchNormalization, Concatenate, Convolution, Linear, MaxPool, MaxUnpool),
    *(Product, Rectifier, Scale, Sum, TransposedConvolution, ZeroPad),
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
        own_memory = name in _ALLOCATING_FUNCTIONS or canonical(node.target) in POINTWISE
    return None if own_memory else "view"
