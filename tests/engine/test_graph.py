"""From module to tape: names, spellings, and refusals by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import deconv_kernels as dk
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnknownLayer, UnsupportedModule
from deconv_kernels.engine.steps.linear import Flatten
from deconv_kernels.engine.steps.pointwise import Activation, Identity, Rectifier
from deconv_kernels.engine.steps.pooling import MaxPool
from deconv_kernels.engine.trace.builder import trace
from deconv_kernels.engine.trace.tape import Tape


class Functional(nn.Module):
    """A convolution followed by any function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def run(tape: Tape, x: Tensor) -> Tensor:
    values = [x]
    steps, _ = tape.bound(range(len(tape.steps)))
    for step, sources in zip(steps.values(), tape.sources, strict=True):
        values.append(step.run([values[source] for source in sources], False)[0])
    return values[-1]


RECTIFIERS = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method relu": lambda x: x.relu(),
    "method relu_": lambda x: x.relu_(),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp(0)": lambda x: x.clamp(0),
    "clamp_(min=0)": lambda x: x.clamp_(min=0),
    "clip(min=0)": lambda x: x.clip(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0.0),
    "torch.clamp": lambda x: torch.clamp(x, min=0),
    "torch.clamp(0)": lambda x: torch.clamp(x, 0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU inplace": nn.ReLU(inplace=True),
    "nn.Threshold": nn.Threshold(0, 0),
}
RECTIFIERS_TO_6 = {
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
    "clamp(min=0, max=6)": lambda x: x.clamp(min=0, max=6),
    "torch.clamp": lambda x: torch.clamp(x, 0, 6),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 inplace": nn.ReLU6(inplace=True),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("spelling", [*RECTIFIERS, *(f"{name} of 6" for name in RECTIFIERS_TO_6)])
def test_rectifiers_are_found_in_every_spelling(spelling: str) -> None:
    of_six = spelling.endswith(" of 6")
    function = RECTIFIERS_TO_6[spelling.removesuffix(" of 6")] if of_six else RECTIFIERS[spelling]
    model = Functional(function)
    tape = trace(model)
    assert isinstance(tape.steps[-1], Rectifier)
    assert tape.steps[-1].ceiling == (6 if of_six else math.inf)
    x = 10 * torch.randn(2, 3, 7, 7)
    assert torch.equal(run(tape, x), model(x))


FLATTENINGS = {
    "nn.Flatten": nn.Flatten(),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "flatten": lambda x: x.flatten(1),
    "flatten start_dim": lambda x: x.flatten(start_dim=1),
    "view size": lambda x: x.view(x.size(0), -1),
    "view shape": lambda x: x.view(x.shape[0], -1),
    "view features": lambda x: x.view(-1, 4 * 25),
    "reshape": lambda x: x.reshape(x.size(0), 4 * 25),
    "reshape of a tuple": lambda x: x.reshape((x.size(0), -1)),
    "torch.reshape": lambda x: torch.reshape(x, (x.size(0), -1)),
}


@pytest.mark.parametrize("spelling", FLATTENINGS)
def test_flattening_is_found_in_every_spelling(spelling: str) -> None:
    model = Functional(FLATTENINGS[spelling])
    tape = trace(model)
    assert isinstance(tape.steps[-1], Flatten)
    x = torch.randn(2, 3, 7, 7)
    assert torch.equal(run(tape, x), model(x))


def test_a_view_to_other_rows_is_an_error() -> None:
    tape = trace(Functional(lambda x: x.view(-1, 50)))
    with pytest.raises(ValueError, match=r"rows of 50, but its input of shape .* has 100 values"):
        run(tape, torch.randn(2, 3, 7, 7))


POOLS = {
    "nn.MaxPool2d": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "F.max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "F.max_pool2d of names": lambda x: F.max_pool2d(x, kernel_size=(3, 3), stride=2, padding=1, ceil_mode=True),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 3, 2, 1, 1, True),
    "dk.nn.MaxPool2d": dk.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
}


@pytest.mark.parametrize("spelling", POOLS)
def test_max_pools_are_found_in_every_spelling(spelling: str) -> None:
    model = Functional(POOLS[spelling])
    tape = trace(model)
    step = tape.steps[-1]
    assert isinstance(step, MaxPool)
    assert (step.kernel, step.stride, step.padding, step.ceil_mode) == ((3, 3), (2, 2), (1, 1), True)
    x = torch.randn(2, 3, 8, 9)
    assert torch.equal(run(tape, x), model(x))


def test_stride_of_a_pool_is_its_kernel_by_default() -> None:
    for function in (lambda x: F.max_pool2d(x, 2), lambda x: torch.max_pool2d(x, 2), nn.MaxPool2d(2)):
        assert trace(Functional(function)).steps[-1].stride == (2, 2)


def test_our_rectifying_pool_is_two_steps() -> None:
    model = Functional(dk.nn.MaxPool2d(2, relu=True))
    tape = trace(model)
    assert tape.layers == ["conv", "function.relu", "function"]
    x = torch.randn(2, 3, 8, 9)
    assert torch.equal(run(tape, x), model(x))


class Mixed(nn.Module):
    """Containers, a module called twice, functions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.more = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
        self.relu = nn.ReLU()
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.more(self.features(x)))
        x = F.relu(x)
        x = self.relu(x)
        return self.fc(F.dropout(self.drop(torch.flatten(x, 1)), training=self.training))


def test_layers_have_their_module_names_and_functions_their_node_names() -> None:
    tape = trace(Mixed())
    features = ["features.0", "features.1", "features.2"]
    assert tape.layers == [*features, "more.0", "relu", "relu_1", "relu_2", "flatten", "drop", "dropout", "fc"]
    assert tape.layer("features").step == "features.2"
    assert tape.layer("more").step == "more.0"
    assert [tape.layer(layer).step for layer in tape.layers] == [step.name for step in tape.steps] == tape.layers
    assert isinstance(tape.maker(tape.layer("dropout").value).step, Identity)


def test_unknown_layer_lists_the_layers() -> None:
    with pytest.raises(
        UnknownLayer, match=r"no layer 'features.4' \(did you mean 'features.\d'\?\).*features.0, .*, fc"
    ):
        trace(Mixed()).layer("features.4")


def test_a_training_model_is_read_in_eval_mode_and_left_alone() -> None:
    model = Mixed().train()
    model.features.eval()
    flags = [module.training for module in model.modules()]
    tape = trace(model)
    assert [module.training for module in model.modules()] == flags
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(run(tape, x), model.eval()(x))
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert torch.equal(run(tape, x), model(x)), "the tape must use the live parameters"


def test_an_in_place_function_whose_result_is_not_used() -> None:
    class Discards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x.relu_()
            F.relu(x, inplace=True)
            return self.next(x)

    model = Discards()
    tape = trace(model)
    assert tape.layers == ["conv", "relu_", "relu", "next"]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(run(tape, x), model(x))


def test_functional_layers_with_parameters_of_the_model() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 3, 3, 2))
            self.inner = nn.Linear(4 * 9, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(F.conv2d(x, self.kernel, stride=2, padding=(1, 0)), 2, 1, ceil_mode=True)
            x = F.adaptive_avg_pool2d(F.local_response_norm(x, 3), 3)
            return F.linear(x.flatten(1), self.inner.weight, self.inner.bias)

    model = Own()
    x = torch.randn(2, 3, 11, 12)
    assert torch.equal(run(trace(model), x), model(x))
    subclass = type("Subclass", (nn.Conv2d,), {})(3, 4, 3, padding=1)
    model = nn.Sequential(subclass)
    tape = trace(model)
    assert torch.equal(run(tape, x), model(x))
    assert tape.layers == ["0"]


def test_parametrized_and_pruned_weights_are_computed_anew_and_others_of_hooks_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    tape = trace(model)
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(run(tape, x), model(x))
    pruned = nn.Sequential(nn.Conv2d(3, 4, 3))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    tape = trace(pruned)
    with torch.no_grad():
        pruned[0].weight_orig.mul_(2)
    assert torch.equal(run(tape, x), pruned(x))
    prune.remove(pruned[0], "weight")
    assert torch.equal(run(trace(pruned), x), pruned(x))
    computed = nn.Sequential(nn.Conv2d(3, 4, 3))
    del computed[0].weight
    computed[0].register_forward_pre_hook(lambda module, _: setattr(module, "weight", torch.ones(4, 3, 3, 3)))
    with pytest.raises(UnsupportedModule, match="a hook computes its weight"):
        trace(computed)


UNSUPPORTED = {
    "GELU": nn.GELU(),
    "Sigmoid": nn.Sigmoid(),
    "GroupNorm": nn.GroupNorm(2, 4),
    "PReLU": nn.PReLU(),
    "Softmax": nn.Softmax(1),
    "Hardtanh": nn.Hardtanh(-1, 1),
    "BatchNorm2d": nn.BatchNorm2d(4, track_running_stats=False),
    "Flatten": nn.Flatten(0),
    "LPPool2d": nn.LPPool2d(2, 2),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_modules_without_a_rule_are_refused_by_name(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(UNSUPPORTED[kind]))
    with pytest.raises(UnsupportedModule, match=rf"module '1.0' \({kind}, node '_1_0'\) has no exact backward rule: "):
        Deconvnet(model)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.silu, "silu"),
        (lambda x: x.clamp(min=0.1), "clamp"),
        (lambda x: x.clamp(max=0), "clamp"),
        (lambda x: x * x, "mul"),
        (lambda x: x * x.mean((2, 3), keepdim=True), "mul"),
        (lambda x: 1 / x, "truediv"),
        (lambda x: x.mean(0, keepdim=True), "mean"),
        (lambda x: x.mean(), "mean"),
        (lambda x: x.permute(1, 0, 2, 3), "permute"),
        (lambda x: x.transpose(0, 1), "transpose"),
        (lambda x: x.squeeze(), "squeeze"),
        (lambda x: x.unsqueeze(0), "unsqueeze"),
        (lambda x: x[0], "getitem"),
        (lambda x: x.view(1, -1), "view"),
        (lambda x: x.flatten(0, 1), "flatten"),
        (lambda x: torch.cat([x, x]), "cat"),
        (lambda x: x.chunk(2)[0], "chunk"),
        (lambda x: F.dropout(x), "dropout"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1].relu(), "relu"),
        (lambda x: F.conv2d(x, x), "conv2d"),
        (lambda x: torch.add(x, 1, out=x), "add"),
    ],
)
def test_functions_without_a_rule_are_refused_by_name(function: Callable[[Tensor], Tensor], name: str) -> None:
    with pytest.raises(UnsupportedModule, match=rf"(function|method) \w*{name}\w* \(node"):
        Deconvnet(Functional(function))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)


class Residual(Pair):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(x) + x


class TwoOutputs(Pair):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        return x, self.second(x)


class Masked(Pair):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.first(x) * mask


class DataDependent(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum() > 0 else self.second(x)


class HalfOverwritten(Pair):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.flatten(2)[:, :1].relu_()
        return self.second(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Masked, r"function mul \(node 'mul'\) has no exact backward rule: .*rules=\{operator\.mul: 'gradient'\}"),
        (
            DataDependent,
            r"cannot trace DataDependent at .*test_graph\.py:\d+ \(return self\.first\(x\) if .*control flow",
        ),
        (
            HalfOverwritten,
            r"module 'second' .* reads 'first', a part of which method relu_ .* has overwritten in place",
        ),
    ],
)
def test_networks_that_cannot_be_treated_are_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(UnsupportedModule, match=message):
        Deconvnet(kind())


def test_a_network_with_two_outputs_has_no_output_but_layers() -> None:
    net = Deconvnet(TwoOutputs())
    assert net.layers == ["first", "second"]
    with pytest.raises(ValueError, match="TwoOutputs returns several tensors"):
        _ = net.output


class Outputs(Pair):
    """Returns what a function makes of its images, of maps, and of a buffer."""

    def __init__(self, returned: Callable[..., object]) -> None:
        super().__init__()
        self.returned = returned
        self.register_buffer("grid", torch.ones(4))

    def forward(self, x: Tensor) -> object:
        return self.returned(x, F.relu(self.first(x)), self.grid)


CONSTANT_OUTPUTS: dict[str, Callable[..., object]] = {
    "a size": lambda x, y, grid: x.shape[1] + 1,
    "a buffer": lambda x, y, grid: grid,
    "computed from a buffer": lambda x, y, grid: {"grid": grid * 2},
    "None": lambda x, y, grid: None,
    "numbers": lambda x, y, grid: (1, 2.0, None),
    "arange": lambda x, y, grid: torch.arange(x.shape[0]),
    "full": lambda x, y, grid: torch.full((y.shape[0], 3), 1.0),
    "zeros": lambda x, y, grid: torch.zeros(y.shape[0], 2),
    "zeros_like": lambda x, y, grid: [torch.zeros_like(y), y.new_ones(3)],
}
MIXED_OUTPUTS: dict[str, Callable[..., object]] = {
    "a size": lambda x, y, grid: (y, x.shape[2]),
    "zeros": lambda x, y, grid: (torch.zeros(y.shape[0], 2), y),
    "a dictionary": lambda x, y, grid: {"out": y, "size": y.shape[-2:], "grid": grid},
    "None and a number": lambda x, y, grid: (y, None, 3),
    "a buffer": lambda x, y, grid: [grid * 2, y],
    "one in a tuple": lambda x, y, grid: (y,),
    "nested": lambda x, y, grid: ({"a": [y]}, (None, grid)),
    "twice": lambda x, y, grid: (y, y),
}


@pytest.mark.parametrize("name", CONSTANT_OUTPUTS)
def test_a_network_whose_outputs_are_constants_is_refused(name: str) -> None:
    for rule in ("deconvnet", "gradient"):
        with pytest.raises(UnsupportedModule, match="Outputs returns nothing that is computed from the images"):
            Deconvnet(Outputs(CONSTANT_OUTPUTS[name]), rule)


@pytest.mark.parametrize("name", MIXED_OUTPUTS)
def test_constants_among_outputs_are_left_out(name: str) -> None:
    net, images = Deconvnet(Outputs(MIXED_OUTPUTS[name])), torch.randn(2, 3, 5, 5)
    assert net.output == "relu"
    record = net.record(images, net.output, activations=True)
    assert torch.equal(record.activations["relu"], F.relu(net.model.first(images)))


def test_outputs_that_several_results_are_have_no_layer() -> None:
    for returned in (
        lambda x, y, grid: y.chunk(3, 1),
        lambda x, y, grid: (y, y * 2),
        lambda x, y, grid: F.max_pool2d(y, 2, return_indices=True)[1],
        lambda x, y, grid: y.max(1),
    ):
        net = Deconvnet(Outputs(returned), "gradient")
        with pytest.raises(ValueError, match="returns several tensors; choose one of net"):
            _ = net.output
    with pytest.raises(UnsupportedModule, match="has no layers"):
        Deconvnet(Outputs(lambda x, y, grid: x))


def test_what_is_written_into_constants_of_the_size_of_maps_is_seen() -> None:
    def added(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total += F.relu(x)
        total.add_(x)
        return total * torch.ones_like(x).mul_(2)

    def part(x: Tensor) -> Tensor:
        mask = torch.ones_like(x)
        mask[:, :1].zero_()
        return x * mask

    def sized(x: Tensor) -> Tensor:
        total = torch.zeros(x.shape)
        total += F.relu(x)
        return total

    for function in (added, part, sized):
        model, x = Functional(function), torch.randn(2, 3, 7, 7)
        for rule in ("deconvnet", "gradient"):
            tape = trace(model, rule)
            for _ in range(2):
                torch.testing.assert_close(run(tape, x), model(x))


def test_what_branches_reads_its_sources() -> None:
    tape = trace(Residual())
    assert tape.layers == ["first", "relu", "second", "add"]
    assert tape.sources == [(0,), (1,), (2,), (3, 2)]
    assert tape.output == "add"
    assert tape.needed([tape.layer("second").value]) == [0, 1, 2]


def test_rules_are_for_every_spelling_and_are_checked() -> None:
    for function in (nn.SiLU(), F.silu, lambda x: F.silu(x, inplace=True)):
        tape = trace(Functional(function), rules={nn.SiLU: "gradient"})
        assert isinstance(tape.steps[-1], Activation)
    with pytest.raises(ValueError, match="a rule must be one of 'gradient', 'identity', 'rectifier', got 'relu'"):
        trace(Functional(F.silu), rules={nn.SiLU: "relu"})
    with pytest.raises(TypeError, match="rules are for module types, functions and names of tensor methods, got SiLU"):
        trace(Functional(F.silu), rules={nn.SiLU(): "gradient"})


WRITTEN_BACK = {
    "narrow": lambda x: x.narrow(1, 0, 3),
    "select": lambda x: x.select(1, 0),
    "swapaxes": lambda x: x.swapaxes(2, 3),
    "movedim": lambda x: x.movedim(2, 3),
}
REFUSED = {
    "detach": lambda x: x.detach(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "flatten": lambda x: x.flatten(2),
    "nn.Flatten": nn.Flatten(2),
    "to": lambda x: x.to(torch.float32),
}


@pytest.mark.parametrize("view", [*WRITTEN_BACK, *REFUSED])
def test_what_is_overwritten_through_a_view_is_never_read_as_it_was(view: str) -> None:
    class Overwrites(Functional):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            part = self.function(x)
            part *= 2
            return F.relu(x)

    model, x = Overwrites({**WRITTEN_BACK, **REFUSED}[view]), torch.randn(2, 3, 7, 7)
    if view in REFUSED:
        with pytest.raises(UnsupportedModule, match="has overwritten in place through another view"):
            trace(model, "gradient")
    else:
        assert torch.equal(run(trace(model, "gradient"), x), model(x))


def test_in_place_operators_are_seen_through_other_names() -> None:
    def power(x: Tensor) -> Tensor:
        other = x
        x **= 2
        return x + other

    model, x = Functional(power), torch.randn(2, 3, 7, 7)
    assert torch.equal(run(trace(model, "gradient"), x), model(x))


GLOBAL_POOLS = {
    "avg_pool2d of the size": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "avg_pool2d of the width": lambda x: F.avg_pool2d(x, x.size(3)),
    "max_pool2d of the shape": lambda x: F.max_pool2d(x, kernel_size=x.shape[2:]),
    "mean": lambda x: x.mean(axis=(2, 3)),
    "sum": lambda x: x.sum((2, 3), keepdim=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
}


@pytest.mark.parametrize("spelling", [*GLOBAL_POOLS, "flip", "clone", "linear over channels", "subclass"])
def test_spellings_that_come_out_as_autograd_has_them(spelling: str) -> None:
    batch_norm = type("Subclass", (nn.BatchNorm2d,), {})(4).eval()
    linear = nn.Linear(4, 5)
    others = {
        "flip": lambda x: x.flip(3),
        "clone": lambda x: x.clone(),
        "linear over channels": lambda x: linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        "subclass": batch_norm,
    }
    model = Functional({**GLOBAL_POOLS, **others}[spelling])
    model.linear, model.batch_norm = linear, batch_norm
    model = model.double().eval()
    images = torch.randn(2, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    net = Deconvnet(model)
    record = net.record(images, net.output)
    unit = dk.Units(net.output, 1, 2, *(size // 2 for size in record.shape(net.output)[1:]))
    output = model(images)[1].reshape(record.shape(net.output))
    (gradient,) = torch.autograd.grad(output[2, unit.y[0], unit.x[0]], images)
    torch.testing.assert_close(net.project(record, unit, seed="one").full()[0], gradient[1])


def test_a_container_keeps_its_name_where_a_function_has_it_too() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) * 2 - 0.3

    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 3))
    model.add_module("relu", Shifted())
    net, images = Deconvnet(model), torch.randn(2, 3, 7, 7)
    assert net.layers == ["conv", "relu_", "mul", "sub"]
    assert torch.equal(net.record(images, "relu", activations=True).activations["relu"], model(images))


def test_a_refusal_ends_with_the_page_that_explains_it() -> None:
    with pytest.raises(UnsupportedModule) as refused:
        Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()))
    (note,) = refused.value.__notes__
    page = note.removeprefix("Explained in ").removesuffix(".")
    assert (Path(__file__).parents[2] / page).is_file() and page not in str(refused.value)


def test_wrapped_networks_are_unwrapped_and_scripted_ones_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        net = Deconvnet(wrapped)
        assert net.model is model
        assert net.layers == ["0", "1"]
    with pytest.raises(UnsupportedModule, match="is a TorchScript module"):
        Deconvnet(torch.jit.script(model))
    held = Functional(lambda x: model[1](model[0](x)))
    held.model = model
    with pytest.raises(UnsupportedModule, match=r"call model\.eval\(\) first"):
        Deconvnet(held)
    with pytest.raises(UnsupportedModule, match="random in eval mode"):
        Deconvnet(nn.Sequential(nn.FractionalMaxPool2d(2, output_size=3)), "gradient")


def test_arguments_of_the_deconvnet_are_checked() -> None:
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        Deconvnet(F.relu)
    with pytest.raises(ValueError, match="rule must be one of 'deconvnet', 'guided', 'gradient', got 'relu'"):
        Deconvnet(Mixed(), rule="relu")
    with pytest.raises(ValueError, match="normalization must be one of"):
        Deconvnet(Mixed(), normalization="none")
