"""Never a stale weight: however a network's weights change, new records see it and earlier records do not."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import sent_back
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import deconv_kernels as dk
from deconv_kernels.experiments.occlusion import occlude, occluded
from deconv_kernels.integrations.captum import Deconvolution, GuidedBackprop, NeuronDeconvolution, NeuronGuidedBackprop

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
OF_RULE = {"deconvnet": (Deconvolution, NeuronDeconvolution), "guided": (GuidedBackprop, NeuronGuidedBackprop)}


def chain() -> nn.Sequential:
    """A convolution on images, one on rectified pools, one on rectified maps, a transposed one, a linear layer."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 6, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that signals do not fade and few maps are dead
            parameter.mul_(2.5) if name.endswith("weight") else parameter.uniform_(0.2, 0.8)
    return model


class Scaled(nn.Module):
    """A residual network with parameters of its own beside its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.tail = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.gamma, self.kernel = nn.Parameter(torch.rand(6, 1, 1) + 0.5), nn.Parameter(torch.randn(6, 6, 3, 3) / 4)
        self.register_buffer("grid", torch.rand(1, 6, 10, 10) + 0.5)
        self.plain = torch.rand(6, 1, 1) + 0.5

    def _apply(self, fn: Any, recurse: bool = True) -> Scaled:
        self.plain = fn(self.plain)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.relu(F.conv2d(x * self.gamma, self.kernel, padding=1)) + x
        return self.tail(F.max_pool2d(x * self.grid * self.plain, 2))


class Smooth(nn.Module):
    """What only the gradient rule takes, each with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.prelu, self.group = nn.Conv2d(3, 6, 3, 2), nn.PReLU(6), nn.GroupNorm(2, 6)
        self.layer, self.query, self.projection = nn.LayerNorm(6), nn.Linear(6, 6), nn.Parameter(torch.randn(6, 6))
        self.bilinear, self.head = nn.Bilinear(6, 6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group(self.prelu(self.conv(x))).flatten(2).transpose(1, 2)
        x = self.layer(x)
        x = x + torch.softmax(self.query(x) @ x.transpose(1, 2), 2) @ F.linear(x, self.projection)
        x = x.mean(1)
        return self.head(F.silu(self.bilinear(x, x)))


class Attending(nn.Module):
    """A module that returns several values, of which one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 6, 3, 2), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(x, x, x, need_weights=False)[0]


@dataclass(frozen=True)
class Way:
    """A way in which weights change.

    Attributes:
        change: what is done to a network made before.
        build: makes the network.
        may_refuse: whether the next record may refuse the changed network, in words.
    """

    change: Callable[[Any], object]
    build: Callable[[], nn.Module] = chain
    may_refuse: bool = False


@torch.no_grad()
def copied_without_gradient(model: Any) -> None:
    model[3].weight.copy_(torch.randn_like(model[3].weight))


def through_numpy(model: Any) -> None:
    model[3].weight.detach().cpu().numpy()[2, 1, 1, 1] += 3
    if model[3].weight.device.type != "cpu":
        model[3].weight.data[2, 1, 1, 1] += 3


def through_storage(model: Any) -> None:
    storage = model[3].weight.untyped_storage()
    storage.copy_(torch.randn_like(model[3].weight).untyped_storage())


def through_set(model: Any) -> None:
    model[3].weight.data.set_(torch.randn_like(model[3].weight))


def through_a_view_made_before(model: Any) -> None:
    model.view.mul_(-2)


def with_a_view() -> nn.Sequential:
    model = chain().double()
    model.view = model[3].weight.data[:, 1]
    return model


def stepped(kind: type[torch.optim.Optimizer], **options: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        optimizer = kind(model.parameters(), lr=0.1, **options)
        parameter = next(model.parameters())
        images = torch.randn(2, 3, 10, 10, dtype=parameter.dtype, device=parameter.device)
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return change


def state_loaded(assign: bool) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.load_state_dict({name: 1.3 * x + 0.1 for name, x in model.state_dict().items()}, assign=assign)

    return change


def parameter_swapped(model: Any) -> None:
    model[3].weight = nn.Parameter(torch.randn_like(model[3].weight))


def bias_taken_away(model: Any) -> None:
    model[3].bias = None


def there_and_back(model: Any) -> None:
    model.half().double()


def tied_and_changed(model: Any) -> None:
    model.tail.weight = model.kernel
    model.kernel.data[:, 1] *= 3


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 0.1


def parametrized_and_changed(model: Any) -> None:
    parametrize.register_parametrization(model[3], "weight", Twice())
    model[3].parametrizations.weight.original.data.mul_(1.7)


def original_of_a_parametrization(model: Any) -> None:
    model[3].parametrizations.weight[0].factor.data.add_(1)
    model[3].parametrizations.weight.original.data[:, 0] = 0


def parametrized() -> nn.Sequential:
    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    model = chain()
    parametrize.register_parametrization(model[3], "weight", Times())
    return model


def pruned_and_changed(model: Any) -> None:
    prune.random_unstructured(model[3], "weight", 0.5)
    model[3].weight_orig.data.mul_(3)


def pruned_and_made_permanent(model: Any) -> None:
    prune.random_unstructured(model[3], "weight", 0.5)
    prune.remove(model[3], "weight")


def weight_normed(model: Any) -> None:
    parametrizations.weight_norm(model[3])
    model[3].parametrizations.weight.original0.data.mul_(2)


def spectrally_normed(model: Any) -> None:
    parametrizations.spectral_norm(model[3]).eval()
    model[3].parametrizations.weight.original.data[:, 0] *= 5


def weight_normed_by_a_hook(model: Any) -> None:
    nn.utils.weight_norm(model[3])
    model[3].weight_g.data.mul_(2)


def made_in_inference_mode() -> nn.Sequential:
    with torch.inference_mode():
        return chain().double().requires_grad_(False)


@torch.inference_mode()
def written_in_inference_mode(model: Any) -> None:
    model[3].weight[:, 1] = 0
    model[5].weight.mul_(2)
    model[10].bias.add_(1)


def averages_swapped(model: Any) -> None:
    average = torch.optim.swa_utils.AveragedModel(model)
    stepped(torch.optim.SGD)(model)
    average.update_parameters(model)
    for mine, its in zip(model.parameters(), average.module.parameters(), strict=True):
        mine.data, its.data = its.data, mine.data


def from_a_vector(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector * 1.2 + 0.05, model.parameters())


def module_replaced(model: Any) -> None:
    new = nn.Conv2d(8, 16, 3)
    model[3] = new.to(model[0].weight)


def module_replaced_by_another_kind(model: Any) -> None:
    model[4] = nn.Identity()


def data_of(path: str, change: Callable[[Tensor], object]) -> Callable[[Any], None]:
    """A write to a parameter, buffer or tensor of a network, through its `.data`."""

    def write(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        change(getattr(model.get_submodule(owner), name).data)

    return write


def numpy_of(path: str) -> Callable[[Any], None]:
    def write(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        tensor = getattr(model.get_submodule(owner), name).detach()
        if tensor.device.type == "cpu":
            tensor.numpy()[...] += 0.7
        else:
            tensor.add_(0.7)

    return write


def zero_second(x: Tensor) -> None:
    x[:, 1] = 0


WAYS = {
    "data, all of it": Way(data_of("3.weight", lambda x: x.mul_(1.5))),
    "data, one element": Way(data_of("3.weight", lambda x: x[2, 1, 1, 1].add_(3))),
    "data, one input map": Way(data_of("3.weight", zero_second)),
    "data, of the first convolution": Way(data_of("0.weight", zero_second)),
    "data, of a convolution by one": Way(data_of("5.weight", zero_second)),
    "data, of a transposed convolution": Way(data_of("7.weight", zero_second)),
    "data, of a linear layer": Way(data_of("10.weight", zero_second)),
    "data, of a bias": Way(data_of("3.bias", lambda x: x.add_(2))),
    "data, swapped signs": Way(data_of("3.weight", lambda x: x.neg_())),
    "data, two values exchanged": Way(data_of("3.weight", lambda x: x.copy_(x.flip(1)))),
    "data, the last bit": Way(data_of("3.weight", lambda x: x.copy_(torch.nextafter(x, x + 1)))),
    "numpy": Way(through_numpy),
    "view": Way(through_a_view_made_before, with_a_view),
    "storage": Way(through_storage),
    "set_": Way(through_set),
    "copy_ without gradient": Way(copied_without_gradient),
    "SGD": Way(stepped(torch.optim.SGD, momentum=0.9)),
    "Adam, foreach": Way(stepped(torch.optim.Adam, foreach=True)),
    "Adam, fused": Way(stepped(torch.optim.Adam, fused=True)),
    "load_state_dict": Way(state_loaded(assign=False)),
    "load_state_dict, assigned": Way(state_loaded(assign=True)),
    "parameter swapped": Way(parameter_swapped),
    "bias taken away": Way(bias_taken_away),
    "half and back": Way(there_and_back),
    "tied": Way(tied_and_changed, Scaled),
    "parametrized after tracing": Way(parametrized_and_changed),
    "original of a parametrization": Way(original_of_a_parametrization, parametrized),
    "pruned after tracing": Way(pruned_and_changed, may_refuse=True),
    "pruned for good": Way(pruned_and_made_permanent),
    "weight norm after tracing": Way(weight_normed),
    "spectral norm after tracing": Way(spectrally_normed),
    "weight norm by a hook after tracing": Way(weight_normed_by_a_hook, may_refuse=True),
    "inference mode": Way(written_in_inference_mode, made_in_inference_mode),
    "averages swapped": Way(averages_swapped),
    "vector_to_parameters": Way(from_a_vector),
    "module replaced": Way(module_replaced),
    "module replaced by another kind": Way(module_replaced_by_another_kind),
    "running statistics by data": Way(data_of("norm.running_mean", lambda x: x.add_(0.5)), Scaled),
    "running statistics by numpy": Way(numpy_of("norm.running_var"), Scaled),
    "affine weight of a normalisation": Way(data_of("norm.weight", lambda x: x.mul_(-1)), Scaled),
    "parameter that scales": Way(data_of("gamma", lambda x: x.mul_(3)), Scaled),
    "kernel of a functional convolution": Way(data_of("kernel", zero_second), Scaled),
    "buffer": Way(numpy_of("grid"), Scaled),
    "tensor that is no buffer": Way(data_of("plain", lambda x: x.mul_(3)), Scaled),
}
SMOOTH = {
    "PReLU": "prelu.weight",
    "GroupNorm": "group.weight",
    "bias of a GroupNorm": "group.bias",
    "LayerNorm": "layer.weight",
    "query of attention": "query.weight",
    "projection of attention": "projection",
    "bilinear": "bilinear.weight",
    "linear after a smooth function": "head.weight",
}
ATTENDING = {"module of attention": "attention.in_proj_weight", "its output": "attention.out_proj.weight"}
ALL = {
    **WAYS,
    **{name: Way(data_of(path, lambda x: x.mul_(-1.5).add_(0.2)), Smooth) for name, path in SMOOTH.items()},
    **{name: Way(data_of(path, lambda x: x.mul_(-1.5)), Attending) for name, path in ATTENDING.items()},
}


def moved(model: nn.Module, device: str) -> nn.Module:
    """In float64 and eval mode on a device, which may not be there."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return model.to(device).eval() if next(model.parameters()).is_inference() else model.double().to(device).eval()


def everything(net: dk.Deconvnet, record: dk.Record, units: dk.Units, signal: Tensor) -> list[Tensor]:
    """All that a record is for, of one layer: projections of units by every kernel, and of a signal."""
    whole = net.project_signal(record, units.layer, signal, torch.arange(len(signal)))
    kernels = [net.project(record, units, "one", kernel=kernel).full() for kernel in ("sparse", "dense")]
    return [*kernels, net.project(record, units).full(), *whole]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["gradient", "deconvnet"])
@pytest.mark.parametrize("name", ALL)
def test_weights_are_never_stale(name: str, rule: str, device: str) -> None:
    way = ALL[name]
    if way.build in (Smooth, Attending) and rule != "gradient":
        pytest.skip("has no rule")
    model = moved(way.build(), device)
    images = torch.randn(2, 3, 10, 10, dtype=torch.float64, device=device)
    net = dk.Deconvnet(model, rule)
    layer = net.output
    first = net.record(images, layer, activations=True)
    units, signal = first.strongest(layer, k=1)[:3], torch.randn_like(first.activations[layer])
    before, activations = everything(net, first, units, signal), first.activations[layer].clone()

    way.change(model)
    for was, now in zip(before, everything(net, first, units, signal), strict=True):
        assert torch.equal(now, was), "an earlier record's projection has changed with the weights"

    try:
        second = net.record(images, layer, activations=True)
        (arrived,) = net.project_signal(second, layer, signal, torch.arange(2))
        ones = net.project(second, units, "one").full()
    except (dk.UnsupportedModule, ValueError) as error:
        assert way.may_refuse, f"refused after the change: {error}"
        assert "model" in str(error) or "module" in str(error), f"says nothing: {error}"
    else:
        itself = model
        if next(model.parameters()).is_inference():  # which autograd does not take
            itself = chain().double().to(device)
            itself.load_state_dict(model.state_dict())
        with torch.no_grad():
            output = itself(images)
        assert_close(second.activations[layer], output, "activations after the change")
        assert_close(arrived, sent_back(itself, images, signal, rule, copied=False), "a signal after the change")
        of_one = torch.zeros(len(units), *output.shape[1:], dtype=output.dtype, device=output.device)
        for number, (_, *place) in enumerate(units.table().T.tolist()):
            if output.dim() == 4:
                of_one[(number, *place)] = 1
            else:  # its values count as channels
                of_one[number].view(-1)[place[0]] = 1
        expected = [
            sent_back(itself, images[[image]], part[None], rule, copied=False)[0]
            for image, part in zip(units.image.tolist(), of_one, strict=True)
        ]
        assert_close(ones, torch.stack(expected), "units after the change")

    for was, now in zip(before, everything(net, first, units, signal), strict=True):
        assert torch.equal(now, was), "an earlier record's projection has changed with a later record"
    assert torch.equal(first.activations[layer], activations)


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_every_write_is_seen_and_every_record_keeps_its_own(rule: str) -> None:
    """Twelve writes to one network in a row; all records are projected at the end."""
    model, images = moved(chain(), "cpu"), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    net, made = dk.Deconvnet(model, rule), []
    for number in range(12):
        layer = model[(0, 3, 5, 7, 10)[number % 5]]
        layer.weight.data.view(-1)[torch.randint(layer.weight.numel(), (3,))] += 2
        record = net.record(images, "8")
        signal = torch.randn(2, 4, 6, 6, dtype=torch.float64)
        expected = sent_back(model[:9], images, signal, rule)
        made.append((record, signal, expected))
    for record, signal, expected in reversed(made):
        assert_close(net.project_signal(record, "8", signal, torch.arange(2))[0], expected, "a record among twelve")


@pytest.mark.parametrize("kind", ["float", "half precision and back to single"])
def test_a_record_outlives_the_dtype_of_its_network(kind: str) -> None:
    model, images = moved(chain(), "cpu"), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    net = dk.Deconvnet(model)
    record = net.record(images, "8", activations=True)
    units = record.strongest("8", k=1)
    before = net.project(record, units).full()
    model.float() if kind == "float" else model.bfloat16().float()
    later = net.record(images.float(), "8", activations=True)
    assert_close(later.activations["8"], copy.deepcopy(model).double()[:9](images), "in float32")
    signal = torch.randn(2, 4, 6, 6)
    (arrived,) = net.project_signal(later, "8", signal, torch.arange(2))
    expected = sent_back(copy.deepcopy(model).double()[:9], images.float().double(), signal.double(), "deconvnet")
    assert_close(arrived, expected, "in float32")
    assert torch.equal(net.project(record, units).full(), before)


@pytest.mark.gpu
def test_a_record_outlives_the_move_of_its_network() -> None:
    model, images = moved(chain(), "cuda").cpu(), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    net = dk.Deconvnet(model)
    record = net.record(images, "8")
    units = record.strongest("8", k=1)
    before = net.project(record, units).full()
    model.cuda()[3].weight.data[:, 1] = 0
    later = net.record(images, "8")
    signal = torch.randn(2, 4, 6, 6, dtype=torch.float64, device="cuda")
    (arrived,) = net.project_signal(later, "8", signal, torch.arange(2))
    assert_close(arrived, sent_back(model[:9], images.cuda(), signal, "deconvnet"), "on the device")
    assert torch.equal(net.project(record, units).full(), before)


@pytest.mark.parametrize(
    "name", ["data, one input map", "numpy", "storage", "bias taken away", "parametrized after tracing"]
)
@pytest.mark.parametrize("rule", OF_RULE)
def test_captum_classes_made_before_see_the_change(rule: str, name: str) -> None:
    model, images = moved(chain(), "cpu"), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    (of_output, of_neurons) = OF_RULE[rule]
    output, neurons = of_output(model), of_neurons(model, model[8])
    output.attribute(images, 1)
    neurons.attribute(images, (2, 1, 1))
    ALL[name].change(model)
    signal = torch.zeros(2, 5, dtype=torch.float64)
    signal[:, 1] = 1
    assert_close(output.attribute(images, 1), sent_back(model, images, signal, rule), "of a class")
    signal = torch.zeros(2, 4, 6, 6, dtype=torch.float64)
    signal[:, 2, 1, 1] = 1
    assert_close(neurons.attribute(images, (2, 1, 1)), sent_back(model[:9], images, signal, rule), "of a neuron")


@pytest.mark.parametrize("name", ["data, one input map", "numpy", "SGD", "load_state_dict, assigned"])
def test_one_call_with_a_net_made_before_sees_the_change(name: str) -> None:
    model, images = moved(chain(), "cpu"), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    net, units = dk.Deconvnet(model), [[0, 1, 2, 3], [1, 3, 5, 0]]
    dk.project(net, images, "8", units, seed="one")
    ALL[name].change(model)
    expected = []
    for image, *place in units:
        signal = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
        signal[(0, *place)] = 1
        expected.append(sent_back(model[:9], images[[image]], signal, "deconvnet")[0])
    for given in (net, model):
        assert_close(dk.project(given, images, "8", units, seed="one"), torch.stack(expected), "in one call")


@pytest.mark.parametrize(
    "name", ["data, one input map", "data, of the first convolution", "data, of a linear layer", "numpy", "storage"]
)
def test_occlusion_with_a_net_made_before_sees_the_change(name: str) -> None:
    model, image = moved(chain(), "cpu"), torch.randn(3, 10, 10, dtype=torch.float64)
    net = dk.Deconvnet(model)
    occlude(net, image, "6", net.output, size=3, stride=3, progress=False)
    ALL[name].change(model)
    found = occlude(net, image, "6", net.output, size=3, stride=3, map=2, label=1, progress=False)
    origins = torch.cartesian_prod(found.rows, found.columns)
    with torch.no_grad():
        hidden = occluded(image, origins, torch.zeros(3, 3, 3, dtype=torch.float64))
        probability = model(hidden).softmax(1)[:, 1].reshape(found.probability.shape)
        activation = model[:7](hidden)[:, 2].sum((1, 2)).reshape(found.activation.shape)
    assert_close(found.probability, probability, "probabilities")
    assert_close(found.activation, activation, "activations")


class Numbered(nn.Module):
    """A residual network with numbers and a function of its own, which may ask for the size of its maps."""

    def __init__(self, sized: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.leaky = nn.BatchNorm2d(6), nn.LeakyReLU(0.2)
        self.factor, self.shares, self.named = 0.5, [1.0, 2.0], {"shift": 0.1}
        self.rectify, self.sized = F.relu, sized

    def forward(self, x: Tensor) -> Tensor:
        y = self.leaky(self.norm(self.a(x)))
        if self.sized and y.shape[-1] > 4:
            y = y + len(y[0]) / 6
        return self.rectify(self.b(y) * self.factor + self.shares[1] * y + self.named["shift"])


NUMBERS: dict[str, Callable[[Numbered], Any]] = {
    "factor": lambda model: setattr(model, "factor", -1.5),
    "number in a list": lambda model: model.shares.__setitem__(1, -0.7),
    "number in a dict": lambda model: model.named.__setitem__("shift", 2.0),
    "new attribute": lambda model: setattr(model, "shares", [0.0, 3.0, 1.0]),
    "epsilon": lambda model: setattr(model.norm, "eps", 2.0),
    "slope": lambda model: setattr(model.leaky, "negative_slope", 0.9),
    "padding mode": lambda model: (
        setattr(model.b, "padding_mode", "circular")
        or setattr(model.b, "_reversed_padding_repeated_twice", [1, 1, 1, 1])
    ),
    "function": lambda model: setattr(model, "rectify", F.relu6),
    "forward": lambda model: setattr(model, "forward", lambda x: F.relu(model.a(x))),
    "method as forward": lambda model: setattr(
        model, "forward", types.MethodType(lambda own, x: own.leaky(own.a(x)), model)
    ),
    "forward of a part": lambda model: setattr(model.leaky, "forward", lambda x: F.relu(x) - 0.1 * x),
}


@pytest.mark.parametrize("sized", [False, True], ids=["fx", "sized"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_modules_are_never_stale(name: str, sized: bool) -> None:
    """What is no tensor may change too: new records see it, and earlier ones are projected as they were made."""
    model, images = Numbered(sized).double().eval(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    model.norm.running_var.uniform_(0.5, 2)
    net = dk.Deconvnet(model, "gradient")
    first = net.record(images, "b", activations=True)
    units, signal = first.strongest("b", k=1)[:3], torch.randn(2, 6, 9, 8, dtype=torch.float64)
    before = net.project(first, units).full()
    NUMBERS[name](model)
    second = net.record(images, net.output, activations=True)
    with torch.no_grad():
        assert_close(second.activations[net.output], model(images), "activations after the change")
    (arrived,) = net.project_signal(second, net.output, signal, torch.arange(2))
    assert_close(arrived, sent_back(model, images, signal, copied=False), "a signal after the change")
    assert torch.equal(net.project(first, units).full(), before), "an earlier record's projection has changed"
    assert len(net._tapes) == 1, "traced no more than it must be"
