"""What a traced network calls: its nodes, what they read and overwrite, and how they are run by themselves."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from ..errors import NeedsSizes, Undecided, UnsupportedModule
from ..nodes import Applied, Node, Region, describe
from ..steps.base import Step
from ..steps.joins import Product
from ..steps.pointwise import Activation, Shift
from ..steps.whole import Whole
from .constants import Constants, asks_for_shape
from .linearity import has_own_memory
from .rules import POINTWISE, canonical, spelled

_PARTS = "deconv_kernels.parts"  # what `note_parts` notes


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
        module: that is called, if it is one.
        parts: the nodes among its arguments that make several results, or are some of these; they have no step of their
            own and are run with it.
        signals: the nodes whose values it computes with.
        function: what the node does, of the tensors of `signals` and `looked_at`; it changes none of them.
        looked_at: the nodes of which it only wants to know the shape, beside those of `signals`.
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
        self.module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        read = _with_parts(node, constants)
        self.parts = [n for n in read if makes_parts(n) and n not in constants]
        self.signals = [n for n in read if not makes_parts(n) and n not in constants]
        self.function = constants.expression(node, self.signals, self.parts)
        self.looked_at = [n for n in self.function.looks_at if n not in self.signals]
        self.reads = self.signals[:1]

    def has_signal(self, value: Any) -> bool:
        """Whether an argument is a node whose value it computes with."""
        return isinstance(value, Node) and value in self.signals

    def of(self, node: Node) -> Call:
        """Another node under the same name and choices."""
        return Call(node, self.model, self.constants, self.name, self.rule, self.exact, self.rules)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of a function or method, given by position or by name."""
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def setting(self, position: int | None, name: str, default: Any = None) -> Any:
        """How to do it: an argument of a function or method, given by position or by name, or a module's attribute."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.node.kwargs.get(name, default) if position is None else self.argument(position, name, default)

    def refused(self, needed: str) -> UnsupportedModule:
        """The error that says what would be needed."""
        return UnsupportedModule(self._without_rule(needed))

    def refused_unsized(self, needed: str) -> NeedsSizes:
        """The error that says what would be needed, where it may be enough to know the sizes of maps."""
        return NeedsSizes(self._without_rule(needed), surely=False)

    def _without_rule(self, needed: str) -> str:
        return f"{describe(self.node, self.model)} has no exact backward rule: {needed}"

    def undecided(self, why: str = "", kinds: Collection[Any] = ()) -> Undecided:
        """The error for what has no rule that people agree on.

        Args:
            why: more about it, a sentence that goes on.
            kinds: what in it has none; by default all of it.
        """
        others = ""
        if not kinds and self._reads_one() and not makes_parts(self.node):
            keeps_shape = canonical(self.kind()) in POINTWISE
            others = f" (or 'identity', or 'rectifier'{'' if keeps_shape else ', if it keeps the shape'})"
        return Undecided(
            [describe(self.node, self.model)], [spelled(kind) for kind in kinds or (self.kind(),)], why, others
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
        """As `kind_of` its node."""
        return kind_of(self.node, self.model)

    def decided(self) -> str | None:
        """What the user decided about it: about its kind, or about one from which a module has its forward."""
        return next((self.rules[kind] for kind in kinds_of(self.node, self.model) if kind in self.rules), None)

    def whole(self, linear: bool, alone: bool = False, apart: bool = False) -> list[Step]:
        """The node as a step on whole maps; for `alone` and `apart` see `Whole`."""
        self.reads = [*self.signals, *self.looked_at]
        return [Whole(self.name, self.function, len(self.signals), linear, alone, apart)]

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
            return [Shift(self.name, self.function)]
        if self.rule == "gradient" and kind not in POINTWISE:
            return self.whole(linear=False, alone=True)
        return [Activation(self.name, self.function, decided if decided == "gradient" else self.rule)]


def kind_of(node: Node, model: nn.Module) -> Any:
    """The type of a module, the function, or the name of the method; a class of `torch.autograd.Function`."""
    if node.op == "call_module":
        return parametrize.type_before_parametrizations(model.get_submodule(str(node.target)))
    return node.target.function if isinstance(node.target, Applied) else node.target


def kinds_of(node: Node, model: nn.Module) -> list[Any]:
    """What a rule for a node may name, by canonical spelling."""
    kind = kind_of(node, model)
    if node.op != "call_module":
        return [canonical(kind)]
    return [canonical(base) for base in kind.__mro__ if getattr(base, "forward", None) is kind.forward]


def kinds_within(node: Node, model: nn.Module) -> set[Any]:
    """What rules for a node, or for what is in it where it is a region, may name."""
    inside = node.target.graph.nodes if isinstance(node.target, Region) else ()
    return {*kinds_of(node, model), *(canonical(kind_of(n, model)) for n in inside)}


def makes_parts(node: Node) -> bool:
    """Whether a node makes several results, of which others take one; see `layers.mark_parts`."""
    return bool(node.meta.get(_PARTS, False))


def note_parts(node: Node) -> None:
    """Notes that a node makes several results."""
    node.meta[_PARTS] = True


def _with_parts(node: Node, constants: Constants) -> list[Node]:
    """The nodes that a node reads, and before them those that such as make several results read."""
    found: dict[Node, None] = {}
    for n in node.all_input_nodes:
        if makes_parts(n) and n not in constants:
            found.update(dict.fromkeys(_with_parts(n, constants)))
        found[n] = None
    return list(found)


def is_batch_size(value: Any) -> bool:
    """Whether a value in a graph is `x.size(0)` or `x.shape[0]`."""
    if not isinstance(value, Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return bool(value.args[1:] == (0,) or value.kwargs.get("dim") == 0)
    source = value.args[0] if value.target is operator.getitem else None
    return isinstance(source, Node) and asks_for_shape(source) and value.args[1:] == (0,)


def aliases(node: Node, step: Step, model: nn.Module) -> str | None:
    """Whether the output of a step may share memory with its input.

    Returns:
        "same" for the same tensor, "view" if it may be another view of the memory, None where that cannot be.
    """
    if step.memory != "unknown":
        return None if step.memory == "own" else step.memory
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target)))
        own_memory = kind.__module__.startswith("torch.nn.modules") and kind not in (nn.Flatten, nn.Unflatten)
    else:
        own_memory = canonical(node.target) in POINTWISE or has_own_memory(node.target)
    return None if own_memory else "view"
