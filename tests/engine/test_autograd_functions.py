"""Functions of the user's with a backward of their own: their gradient, what `rules` decides, or a refusal by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from idioms import RULES, Between, compare, small
from networks import randomise
from torch import Tensor, nn
from torch.autograd import Function

from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule
from deconv_kernels.engine.trace.builder import graph_module


class StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return signal


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * signal, None


class OwnRectifier(Function):
    @staticmethod
    def forward(x: Tensor, slope: float = 0.1) -> Tensor:
        return torch.where(x > 0.5, x, slope * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0.5, signal, 2 * ctx.slope * signal), None


class ClippedSignal(Function):
    """Its backward is not linear in the signal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return signal.clamp(-0.1, 0.1)


class Gate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, Tensor]:
        (gate,) = ctx.saved_tensors
        return signal * gate, 0.5 * signal


class Two(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :2] * 2, x[:, 2:].clone()

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat((3 * first, second), 1)


class Overwriting(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return 2 * signal


class Quantised(nn.Module):
    """Keeps the function that it applies."""

    def __init__(self) -> None:
        super().__init__()
        self.apply_function = StraightThrough.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_function(x) + 0.1


straight_through = StraightThrough.apply

FUNCTIONS: dict[str, tuple[type[Function], Callable[[Any, Tensor, Tensor], Tensor]]] = {
    "straight through": (StraightThrough, lambda net, y, z: StraightThrough.apply(y) + z),
    "of a module": (StraightThrough, lambda net, y, z: net.quantised(y) * 2 + net.quantised(z)),
    "kept by a name": (StraightThrough, lambda net, y, z: straight_through(y).mean(2)),
    "reversal": (Reversal, lambda net, y, z: Reversal.apply(y, 0.3) + z),
    "with a context of its own": (OwnRectifier, lambda net, y, z: OwnRectifier.apply(y - 0.2, 0.2)),
    "with a default": (OwnRectifier, lambda net, y, z: OwnRectifier.apply(y - 0.2)),
    "clipped": (ClippedSignal, lambda net, y, z: ClippedSignal.apply(y)),
    "of two inputs": (Gate, lambda net, y, z: Gate.apply(y, z)),
    "of a parameter": (Gate, lambda net, y, z: Gate.apply(y, net.slope)),
    "two results": (Two, lambda net, y, z: two_results(y) + z[:, :2]),
}


def two_results(y: Tensor) -> Tensor:
    first, second = Two.apply(y)
    return first - 0.3 * second


def network(function: Callable[[Any, Tensor, Tensor], Tensor], images: Tensor) -> nn.Module:
    model = Between(function)
    model.quantised = Quantised()
    return randomise(model.double().eval(), images)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_gradient_that_they_say(name: str) -> None:
    kind, function = FUNCTIONS[name]
    images = small(3)
    model = network(function, images)
    compare(model, images.detach(), "gradient", what=name)
    advice = f"{kind.__module__}.{kind.__qualname__}"
    for rule in ("deconvnet", "guided"):
        with pytest.raises(UnsupportedModule, match=rf"{kind.__name__}.*rules=\{{{advice}: 'gradient'\}}"):
            Deconvnet(model, rule)
        compare(model, images.detach(), rule, {kind: "gradient"}, what=name)


@pytest.mark.parametrize("decision", ["identity", "rectifier"])
@pytest.mark.parametrize(
    "name", ["straight through", "of a module", "reversal", "with a context of its own", "clipped"]
)
def test_rules_decide_about_functions(name: str, decision: str) -> None:
    kind, function = FUNCTIONS[name]
    images = small(3)
    model = network(function, images)
    for rule in RULES:
        if rule != "gradient" or decision == "rectifier":
            compare(model, images.detach(), rule, {kind: decision}, what=name)
    Deconvnet(model, rules={kind.apply: decision})


def test_functions_of_constants_are_constants() -> None:
    images = small(3)
    model = network(
        lambda net, y, z: y * StraightThrough.apply(net.slope) + Reversal.apply(torch.ones(4, 6, 7), 2.0), images
    )
    for rule in RULES:
        compare(model, images.detach(), rule)


def test_functions_that_overwrite_what_they_are_given_are_refused() -> None:
    images = small(2)
    net = Deconvnet(network(lambda net, y, z: Overwriting.apply(y + 1), images), "gradient")
    with pytest.raises(
        UnsupportedModule, match="Overwriting.*writes into what it is given; make it return a new tensor"
    ):
        net.record(images, net.output)


def test_tracing_leaves_functions_as_they_are() -> None:
    x, model = torch.randn(2, 3, requires_grad=True), nn.Sequential(Quantised())
    graph = graph_module(model)
    for module in (graph, copy.deepcopy(graph), model):
        value = module(x)
        assert torch.equal(value, (4 * x).round() / 4 + 0.1)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert torch.equal(gradient, torch.ones_like(x))
    assert "apply" not in vars(Function.__bases__[0])
    assert not {"__getitem__", "expand"} & vars(Tensor).keys()
    assert torch.zeros(2, 3)[:1].expand(3, 3).shape == (3, 3)
