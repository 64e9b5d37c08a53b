"""What a traced network calls: its nodes, what they read and overwrite, and how they are run by themselves."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch.fx
from torch import nn
from torch.nn.utils import parametrize

from .constants import FRESH, Constants, Expression, asks_for_shape, describe, name_of
from .constants import UnsupportedModule as UnsupportedModule
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
NEEDED = (
    "say what to do with it, as in Deconvnet(..., rules={{{key}: 'gradient'}}) "
    "(or 'identity', or 'rectifier'), or use rule='gradient'"
)


class Call:
    """One node of a traced network that computes something from the values of others.

    Args:
        node: of the graph.
        model: the network it belongs to.
        constants: what the network computes without its images, up to this call.
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
        self,
        node: Node,
        model: nn.Module,
        constants: Constants,
        name: str,
        rule: str,
        exact: bool,
        rules: Mapping[object, str],
    ) -> None:
        self.node, self.model, self.constants = node, model, constants
        self.name, self.rule, self.exact, self.rules = name, rule, exact, rules
        self.signals = [n for n in node.all_input_nodes if n not in constants]
        self.looked_at = [n for n in self.function().looks_at if n not in self.signals]
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

    def is_constant(self, value: Any) -> bool:
        """Whether an argument is computed, but not from what is in the images."""
        return isinstance(value, Node) and value in self.constants

    def value(self, argument: Any) -> Expression:
        """An argument that is computed from nothing in the images."""
        return self.constants.expression(argument)

    def function(self) -> Expression:
        """What the node does, as a function of the tensors of `signals` and `looked_at`; it changes none of them."""
        return self.constants.expression(self.node, self.signals)

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


def is_batch_size(value: Any) -> bool:
    """Whether a value in a graph is `x.size(0)` or `x.shape[0]`."""
    if not isinstance(value, Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return bool(value.args[1:] == (0,) or value.kwargs.get("dim") == 0)
    source = value.args[0] if value.target is operator.getitem else None
    return isinstance(source, Node) and asks_for_shape(source) and value.args[1:] == (0,)


_ALLOCATING_STEPS = (
    *(AdaptiveAveragePool, AveragePool, BatchNormalization, Concatenate, Convolution, Linear, MaxPool, MaxUnpool),
    *(Product, Rectifier, Scale, Sum, TransposedConvolution, ZeroPad),
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
        own_memory = name_of(node) in FRESH or canonical(node.target) in POINTWISE
    return None if own_memory else "view"
