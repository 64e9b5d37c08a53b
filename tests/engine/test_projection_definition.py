"""The dense definition of a projection against what can be computed without it: hooks on modules, the gradients of the
model itself, twins without in-place operations, and single parts by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Trace, Written, conv, inputs_of, later, randomise, some_units
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference

RULES = ("deconvnet", "guided", "gradient")


def clip_by_hooks(model: nn.Module, rule: str) -> nn.Module:
    """A copy of a model whose only rectifiers are `nn.ReLU` modules, with the gradients of a rule by hooks on these."""

    def clip(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = inputs
        output = F.relu(x) if rule == "guided" else x + (F.relu(x) - x).detach()
        output.register_hook(lambda signal: signal.clamp(min=0))
        return output

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
            if rule != "gradient":
                module.register_forward_hook(clip)
    return model


WITH_MODULES = (
    *("AlexNet", "VGG16", "VGG11 with batch norm", "SqueezeNet 1.1", "ResNet-18", "ResNet-50", "ShuffleNet v2"),
    *("SegNet", "U-Net with transposed convolution", "shared relu in parallel branches", "called twice"),
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WITH_MODULES)
def test_the_definition_is_what_hooks_on_modules_compute(name: str, rule: str) -> None:
    model, images = NETWORKS[name].build(), NETWORKS[name].images()
    images = images.requires_grad_()
    values = clip_by_hooks(model, rule)(images)
    units = some_units(values.detach(), 6)
    trace = Trace(model)
    found, activations = reference.project(trace.module, images, trace.output, units, rule)
    frame = values.detach().clone()
    places = tuple(units.T[: values.dim()])
    # A single activation may be a difference of almost equal terms: it is held to the scale of all.
    frame[places] = activations
    assert_close(frame, values.detach())
    for number, unit in enumerate(units.tolist()):
        value = values[tuple(unit[: values.dim()])]
        (signal,) = torch.autograd.grad(value, images, retain_graph=True)
        assert_close(found[number], signal[unit[0]], f"{name}, {rule}")


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if name not in ("in place everywhere", "rectifier spellings")]
)
def test_the_definition_of_the_gradient_is_the_gradient(name: str) -> None:
    network = NETWORKS[name]
    model, images = network.build(), network.images()
    inputs = tuple(x.requires_grad_() for x in inputs_of(images))
    values = model(*(x.clone() for x in inputs))
    values = values if isinstance(values, Tensor) else values["out"]
    units = some_units(values.detach(), 6)
    trace = Trace(model)
    everything = dict.fromkeys(network.rules, "gradient")
    found, _ = reference.project(trace.module, images, trace.output, units, "gradient", "gradient", rules=everything)
    for number, unit in enumerate(units.tolist()):
        signals = torch.autograd.grad(values[tuple(unit[: values.dim()])], inputs, retain_graph=True)
        for signal, projection in zip(signals, inputs_of(found), strict=True):
            assert_close(projection[number], signal[unit[0]], name)


def in_place(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    same = x
    y = torch.relu(net.b(F.relu(x, inplace=True)))
    y += same
    z = net.c(y)
    y.clamp_(0, 1)
    F.leaky_relu_(z, 0.2)
    z.mul_(y)
    return net.d(z) + same


def out_of_place(net: Any, x: Tensor) -> Tensor:
    same = F.relu(net.a(x))
    y = torch.relu(net.b(same)) + same
    z = F.leaky_relu(net.c(y), 0.2) * y.clamp(0, 1)
    return net.d(z) + same


@pytest.mark.parametrize("rule", RULES)
def test_the_definition_in_place_is_that_out_of_place(rule: str) -> None:
    modules = {"a": conv(3, 4), **later("bcd")}
    images = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    overwriting, plain = (Written(forward, **modules).double().eval() for forward in (in_place, out_of_place))
    randomise(plain, images)
    assert torch.equal(overwriting(images), plain(images))
    units = some_units(plain(images).detach(), 9)
    traces = [Trace(model) for model in (overwriting, plain)]
    for nodes in (("d", "d"), [trace.output for trace in traces]):
        one, two = (
            reference.project(trace.module, images, node, units, rule)
            for trace, node in zip(traces, nodes, strict=True)
        )
        assert_close(one[1], two[1])
        assert_close(one[0], two[0])


# Functions, the slope of each below 0, and its ceiling.
RECTIFIERS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "nn.ReLU": (nn.ReLU(), 0, math.inf),
    "nn.ReLU, in place": (nn.ReLU(inplace=True), 0, math.inf),
    "F.relu": (F.relu, 0, math.inf),
    "F.relu, in place": (lambda x: F.relu(x, inplace=True), 0, math.inf),
    "torch.relu_": (torch.relu_, 0, math.inf),
    "x.relu": (lambda x: x.relu(), 0, math.inf),
    "x.relu_": (lambda x: x.relu_(), 0, math.inf),
    "x.clamp": (lambda x: x.clamp(min=0), 0, math.inf),
    "x.clamp_ to 1": (lambda x: x.clamp_(0, 1), 0, 1),
    "x.clip to 1": (lambda x: x.clip(0, 1), 0, 1),
    "x.clamp_min": (lambda x: x.clamp_min(0), 0, math.inf),
    "torch.clamp to 1": (lambda x: torch.clamp(x, 0, max=1.0), 0, 1),
    "torch.clamp_min_": (lambda x: torch.clamp_min_(x, 0), 0, math.inf),
    "F.threshold": (lambda x: F.threshold(x, 0, 0), 0, math.inf),
    "nn.Threshold": (nn.Threshold(0, 0, inplace=True), 0, math.inf),
    "F.hardtanh": (lambda x: F.hardtanh(x, 0, 2), 0, 2),
    "F.hardtanh_": (lambda x: F.hardtanh_(x, 0, 2), 0, 2),
    "nn.Hardtanh": (nn.Hardtanh(0, 2, inplace=True), 0, 2),
    "F.relu6": (F.relu6, 0, 6),
    "nn.ReLU6": (nn.ReLU6(), 0, 6),
    "nn.ReLU6, in place": (nn.ReLU6(inplace=True), 0, 6),
    "F.leaky_relu": (F.leaky_relu, 0.01, math.inf),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.3), 0.3, math.inf),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2), 0.2, math.inf),
    "nn.LeakyReLU, in place": (nn.LeakyReLU(0.2, inplace=True), 0.2, math.inf),
}


class Weighted(nn.Module):
    """Weighted sums of a function of rows: the weights are the signals that come to the function."""

    def __init__(self, function: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.function, self.fc = function, nn.Linear(features, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(x + 0))


def weighted(function: Callable[[Tensor], Tensor], x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """What `Weighted` sends to the function (U, F), and what that passes on, for every unit of one row."""
    model = Weighted(function, x.shape[1])
    projections, _ = reference.project(Trace(model).module, x, "fc", [(0, unit) for unit in range(5)], **options)
    return model.fc.weight.detach(), projections


@pytest.mark.parametrize("spelling", RECTIFIERS)
def test_what_a_rectifier_passes_on(spelling: str) -> None:
    function, slope, ceiling = RECTIFIERS[spelling]
    x = 4 * torch.randn(1, 40, dtype=torch.float64)
    signal, found = weighted(function, x, rule="deconvnet")
    assert torch.equal(found, signal.clamp(min=0))
    signal, found = weighted(function, x, rule="guided")
    assert torch.equal(found, signal.clamp(min=0) * (x > 0))
    signal, found = weighted(function, x, rule="gradient")
    assert_close(found, signal * (x < ceiling) * torch.where(x > 0, torch.ones_like(x), slope))


@pytest.mark.parametrize("function", [F.silu, nn.GELU(), torch.tanh, nn.Softplus(), lambda x: F.silu(x, inplace=True)])
def test_what_rules_say_is_passed_on(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 40, dtype=torch.float64).requires_grad_()
    y = function(x + 0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    key = type(function) if isinstance(function, nn.Module) else getattr(torch, function.__name__, F.silu)
    for rule in RULES:
        signal, found = weighted(function, x.detach(), rule=rule, rules={key: "gradient"})
        assert_close(found, signal * slope)
        signal, found = weighted(function, x.detach(), rule=rule, rules={key: "identity"})
        assert torch.equal(found, signal)
        signal, found = weighted(function, x.detach(), rule=rule, rules={key: "rectifier"})
        expected = {
            "deconvnet": signal.clamp(min=0),
            "guided": signal.clamp(min=0) * (y > 0),
            "gradient": signal * slope,
        }
        assert_close(found, expected[rule].detach())


def test_what_normalisations_pass_on() -> None:
    x = torch.randn(1, 40, dtype=torch.float64).requires_grad_()

    def response(x: Tensor) -> Tensor:
        return F.local_response_norm(x[:, :, None], 5, alpha=0.5)[:, :, 0]

    for function in (response, Centring()):
        signal, found = weighted(function, x.detach())
        assert torch.equal(found, signal)
        signal, found = weighted(function, x.detach(), normalization="gradient")
        exact = torch.stack([torch.autograd.grad(function(x) @ row, x)[0][0] for row in signal])
        assert_close(found, exact)


class Centring(nn.Module):
    """Passes on its signal as it is, by the package's convention."""

    deconvnet_identity = True

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - x.mean(1, keepdim=True))


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x.reshape(-1, 1, 7, 9), (3, 2), (2, 1), (1, 0)).flatten(1)


def pooled_in_torch(x: Tensor) -> Tensor:
    return torch.max_pool2d(x.reshape(-1, 1, 7, 9), (3, 2), (2, 1), (1, 0)).flatten(1)


@pytest.mark.parametrize("function", [pooled, pooled_in_torch])
def test_what_a_pool_with_shared_maxima_passes_on(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 63, dtype=torch.float64)
    model = Weighted(function, 32)
    signal = model.fc.weight.detach()
    _, indices = F.max_pool2d(x.view(1, 1, 7, 9), (3, 2), (2, 1), (1, 0), return_indices=True)
    added, last = (torch.zeros(5, 63, dtype=torch.float64) for _ in range(2))
    for window, index in enumerate(indices.flatten().tolist()):
        added[:, index] += signal[:, window]
        last[:, index] = signal[:, window]
    units = [(0, unit) for unit in range(5)]
    for overlap, expected in (("sum", added), ("last", last)):
        found, _ = reference.project(Trace(model).module, x, "fc", units, overlap=overlap)
        assert_close(found, expected, overlap)


def test_the_definition_names_the_nodes_it_has() -> None:
    model = Weighted(F.relu, 3)
    with pytest.raises(ValueError, match="no node 'conv'; the nodes are: x, add, relu, fc, output"):
        reference.project(Trace(model).module, torch.zeros(1, 3, dtype=torch.float64), "conv", [(0, 0)])
