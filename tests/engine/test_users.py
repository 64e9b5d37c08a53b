"""What users do with networks and records: hooks and kept maps, pickles, modules as layers, rules that are missing."""

from __future__ import annotations

import collections
import copy
import io
import logging
import operator
import pickle
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_same, assert_untouched, held, sent_back
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.integrations.captum import Deconvolution, GuidedBackprop, NeuronDeconvolution, NeuronGuidedBackprop


def small() -> nn.Sequential:
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers).double().eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 10, 10, dtype=torch.float64)


def assert_as_itself(model: nn.Module, x: Tensor, clean: nn.Module, rule: str = "gradient") -> None:
    """Asserts that the engine gives what a network gives.

    Args:
        model: has run, and holds what a user left on it.
        x: images.
        clean: the same without all that.
    """
    net = dk.Deconvnet(model, rule)
    record = net.record(x, net.output, activations=True)
    with torch.no_grad():
        output = clean(x)
    signal = torch.randn_like(output)
    assert_same(record.activations[net.output], output, "activations")
    (arrived,) = net.project_signal(record, net.output, signal, torch.arange(len(x)))
    assert_same(arrived, sent_back(clean, x, signal, rule, copied=False), "a signal")


class Keeper:
    """The usual catcher of activations; some hold what cannot be copied."""

    def __init__(self, *more: object) -> None:
        self.outputs: list[Any] = []
        self.last: Any = None
        self.more = more

    def hook(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.last = output
        self.outputs.append(output)

    def hook_with_names(self, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        self.last = output

    def before(self, module: nn.Module, arguments: Any) -> None:
        self.last = arguments

    def backward(self, module: nn.Module, into: Any, out_of: Any) -> None:
        self.last = out_of

    def on_gradient(self, gradient: Tensor) -> None:
        self.last = gradient

    def on_state(self, *arguments: Any) -> None:
        self.last = None


def uncopyable() -> tuple[object, ...]:
    return threading.Lock(), (number for number in range(3)), io.TextIOWrapper(io.BytesIO()), logging.getLogger("x")


HOOKS: dict[str, Callable[[Any, Keeper], object]] = {
    "forward": lambda model, keeper: model[1].register_forward_hook(keeper.hook),
    "forward, of a convolution": lambda model, keeper: model[0].register_forward_hook(keeper.hook),
    "forward, of the whole": lambda model, keeper: model.register_forward_hook(keeper.hook),
    "forward, with names": lambda model, keeper: model[1].register_forward_hook(
        keeper.hook_with_names, with_kwargs=True, always_call=True
    ),
    "a function that closes over it": lambda model, keeper: model[1].register_forward_hook(
        lambda module, arguments, output: keeper.outputs.append(output)
    ),
    "before forward": lambda model, keeper: model[3].register_forward_pre_hook(keeper.before),
    "backward": lambda model, keeper: model[3].register_full_backward_hook(keeper.backward),
    "before backward": lambda model, keeper: model[3].register_full_backward_pre_hook(keeper.before),
    "of a parameter": lambda model, keeper: model[3].weight.register_hook(keeper.on_gradient),
    "of a gathered gradient": lambda model, keeper: model[3].weight.register_post_accumulate_grad_hook(
        keeper.on_gradient
    ),
    "of the state": lambda model, keeper: model[3].register_state_dict_pre_hook(keeper.on_state),
    "of loading": lambda model, keeper: model[3].register_load_state_dict_post_hook(keeper.on_state),
}


@pytest.mark.parametrize("trained", [False, True], ids=["run", "trained"])
@pytest.mark.parametrize("holds", ["nothing else", "what cannot be copied"])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_do_not_matter(kind: str, holds: str, trained: bool) -> None:
    model, x = small(), images()
    clean, keeper = copy.deepcopy(model), Keeper(*(uncopyable() if holds != "nothing else" else ()))
    HOOKS[kind](model, keeper)
    output = model(x)
    if trained:
        output.square().sum().backward()
    last, count, before = keeper.last, len(keeper.outputs), held(model)
    for rule in ("gradient", "deconvnet"):
        assert_as_itself(model, x, clean, rule)
    assert keeper.last is last and len(keeper.outputs) == count, "a hook was called"
    assert_untouched(model, before)
    model(x)
    if "forward" in kind or "closes" in kind:
        assert keeper.last is not last or len(keeper.outputs) > count, "the hook is gone"


class Keeps(nn.Module):
    """Keeps its maps as it runs, and reads some of them again."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.inner, self.way = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3), way
        self.maps: Any = {"dict": {}, "ordered": collections.OrderedDict(), "nested": {"maps": {}}}.get(way, [])
        if way == "deque":
            self.maps = collections.deque(maxlen=3)
        if way == "namespace":
            self.maps = type("Maps", (), {})()
        if way == "defaultdict":
            self.maps = collections.defaultdict(list)
        if way == "lock":
            self.lock = threading.Lock()
        if way == "generator":
            self.numbers = (number for number in range(3))
        self.last: Any = None
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.way in ("dict", "ordered"):
            self.maps["conv"] = y
            y = F.relu(self.maps["conv"])
        elif self.way == "nested":
            self.maps["maps"]["conv"] = [y, (y,)]
        elif self.way == "defaultdict":
            self.maps["conv"].append(y)
        elif self.way == "namespace":
            self.maps.conv = y
        elif self.way == "attribute":
            self.last = y
            y = F.relu(self.last)
        elif self.way == "attribute of a part":
            self.inner.input = y
        elif self.way == "tuple":
            self.last = (y, {"x": x})
        else:
            self.maps.append(y)
            y = self.maps[-1]
        return F.relu(self.inner(F.relu(y)))


class Plain(nn.Module):
    def __init__(self, like: Keeps) -> None:
        super().__init__()
        self.conv, self.inner = like.conv, like.inner

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(F.relu(self.conv(x)), self.inner.weight, self.inner.bias))


WAYS_TO_KEEP = ["dict", "ordered", "nested", "list", "deque", "defaultdict", "namespace", "attribute"]
WAYS_TO_KEEP += ["attribute of a part", "tuple", "lock", "generator"]


@pytest.mark.parametrize("trained", [False, True], ids=["run", "trained"])
@pytest.mark.parametrize("way", WAYS_TO_KEEP)
def test_maps_that_a_network_keeps_do_not_matter(way: str, trained: bool) -> None:
    model, x = Keeps(way), images()
    output = model(x)
    if trained:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model.train()
        model(x).square().sum().backward()
        optimizer.step()
        model.eval()
        output = model(x)
    before = held(model)
    for rule in ("gradient", "deconvnet"):
        assert_as_itself(model, x, Plain(model), rule)
    assert_untouched(model, before)
    assert output.requires_grad


def test_maps_kept_by_one_part_are_read_by_another() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up, self.skips = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), {}

        def forward(self, x: Tensor) -> Tensor:
            self.skips["down"] = F.relu(self.down(x))
            return self.up(F.avg_pool2d(self.skips["down"], 2)).repeat_interleave(2, 3).repeat_interleave(2, 2) + (
                self.skips.pop("down")
            )

    model, x = Skips().double().eval(), images()
    model(x).sum().backward()
    assert_as_itself(model, x, model)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES["torch.save"] = saved_and_loaded


def everything(net: dk.Deconvnet, record: dk.Record, layer: str) -> list[Tensor]:
    units = record.strongest(layer, k=2)
    maps = record.activations[layer]
    return [
        *(units.table(), units.activation, maps, net.project(record, units).full()),
        *(net.project(record, units, "one", kernel="dense").windows, net.project(record, units[:3]).boxes),
        *net.project_signal(record, layer, maps, torch.arange(len(maps))),
        record.at_quantile(layer, 0.5).table(),
    ]


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("way", COPIES)
def test_a_copied_record_is_as_good_as_the_record(way: str, rule: str) -> None:
    model, x = small(), images()
    net = dk.Deconvnet(model, rule)
    record = net.record(x, ["2", "4"], activations=True)
    expected = [everything(net, record, layer) for layer in ("2", "4")]
    copied = COPIES[way](record)
    assert (len(copied), copied.image_shape) == (len(record), record.image_shape)
    for of_equal in (net, dk.Deconvnet(copy.deepcopy(model), rule), pickle.loads(pickle.dumps(net))):
        for layer, parts in zip(("2", "4"), expected, strict=True):
            for was, now in zip(parts, everything(of_equal, copied, layer), strict=True):
                assert torch.equal(now, was)
    assert all(map(torch.equal, everything(net, record, "4"), expected[1])), "the record itself has changed"


def test_a_net_and_its_record_are_pickled_together() -> None:
    net = dk.Deconvnet(small())
    record = net.record(images(), "4", activations=True)
    expected = everything(net, record, "4")
    both = pickle.loads(pickle.dumps((net, record)))
    assert all(map(torch.equal, everything(*both, "4"), expected))


def test_a_pickled_record_does_not_hold_the_images_or_more_than_it_needs() -> None:
    net = dk.Deconvnet(small())
    x = torch.randn(40, 3, 40, 40, dtype=torch.float64)
    record = net.record(x, "4")
    weights = sum(parameter.nbytes for parameter in net.model.parameters())
    assert len(pickle.dumps(record)) < record.nbytes + 8 * weights + 100_000 < x.nbytes


@pytest.mark.parametrize("way", [way for way in COPIES if way != "copy"])
def test_a_copied_record_is_never_projected_by_other_weights(way: str) -> None:
    model, x = small(), images()
    net = dk.Deconvnet(model)
    record = net.record(x, "4")
    units = record.strongest("4", k=1)
    own = net.project(record, units).full()
    copied, other = COPIES[way](record), copy.deepcopy(model)
    other[3].weight.data[0, 0, 0, 0] += 1
    try:
        found = dk.Deconvnet(other).project(copied, units).full()
    except ValueError as error:
        assert "weights" in str(error) or "another" in str(error)
    else:
        assert torch.equal(found, own)
    others = {
        "another rule": dk.Deconvnet(model, "guided"),
        "another stride": dk.Deconvnet(nn.Sequential(*model[:3], nn.Conv2d(6, 4, 3, 2, 1), nn.ReLU()).double()),
        "another pool": dk.Deconvnet(nn.Sequential(*model[:2], nn.MaxPool2d(2, ceil_mode=True), *model[3:])),
        "one layer more": dk.Deconvnet(nn.Sequential(*model, nn.ReLU())),
    }
    for net in others.values():
        for given in (copied, record):
            with pytest.raises(ValueError, match=r"record"):
                net.project(given, units)


def assert_short(error: BaseException) -> None:
    """Asserts that a message does not hold the text of a module."""
    text = str(error)
    assert "\n" not in text and "(0): " not in text and "kernel_size=" not in text, f"a module's text: {text}"


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.tail, self.unused = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.tail(self.features(x)))


def test_modules_are_accepted_as_layers() -> None:
    model, x = Named(), images()
    net = dk.Deconvnet(model)
    for name, module in (("features.0", model.features[0]), ("features", model.features), ("tail", model.tail)):
        record, named = net.record(x, module, activations=True), net.record(x, name, activations=True)
        units = named.strongest(name, k=1)
        expected = net.project(named, units).full()
        for layer in (name, module):
            assert torch.equal(record.strongest(layer, k=1).table(), units.table())
            assert torch.equal(record.weakest(layer, k=1).table(), named.weakest(name, k=1).table())
            assert torch.equal(record.at_quantile(layer, 0.5).table(), named.at_quantile(name, 0.5).table())
            assert record.shape(layer) == named.shape(name)
            assert torch.equal(net.project(record, dk.Units(layer, *units.table(), units.activation)).full(), expected)
            signal = named.activations[name]
            (arrived,) = net.project_signal(record, layer, signal, torch.arange(2))
            assert torch.equal(arrived, net.project_signal(named, name, signal, torch.arange(2))[0])
            assert len(net.plan(record, layer).steps) == len(net.plan(named, name).steps)
            for given in (net, model):
                found = dk.project(given, x, layer, [[0, 1], [1, 2]])
                assert torch.equal(found, dk.project(net, x, name, [[0, 1], [1, 2]]))
    several = net.record(x, [model.features[0], "tail"])
    assert torch.equal(
        several.strongest("features.0").table(), net.record(x, "features.0").strongest("features.0").table()
    )
    assert several.strongest(model.tail).layer in ("tail", model.tail)


def test_modules_that_are_no_layers_are_named_and_not_printed() -> None:
    model, x = Named(), images()
    net = dk.Deconvnet(model)
    record = net.record(x, "tail", activations=True)
    units = dk.Units("tail", 0, 1, 2, 2)
    for stranger, name in ((nn.Sequential(nn.Conv2d(3, 6, 3)), "Sequential"), (model.unused, "Conv2d|unused")):
        for call in (
            lambda layer: net.record(x, layer),
            lambda layer: net.record(x, ["tail", layer]),
            lambda layer: record.strongest(layer),
            lambda layer: record.shape(layer),
            lambda layer: net.plan(record, layer),
            lambda layer: net.project_signal(record, layer, record.activations["tail"], torch.arange(2)),
            lambda layer: net.project(record, dk.Units(layer, 0, 1, 2, 2)),
            lambda layer: dk.project(net, x, layer, [[0, 1]]),
        ):
            with pytest.raises(ValueError, match=name) as error:
                call(stranger)
            assert_short(error.value)
    assert "(0): " not in repr(dk.Units(model.features, 0, 1, 2, 2))
    with pytest.raises(TypeError) as wrong:
        dk.Deconvnet(model, rules={model.features: "gradient"})
    assert_short(wrong.value)
    assert len(net.project(record, units, "one").full()) == 1


class WithAge(nn.Module):
    """Images and a number for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(7, 4)
        self.double().eval()

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.head(torch.cat([self.relu(self.conv(x)).mean((2, 3)), age[:, None]], 1))


class Scales(WithAge):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        y = self.relu(self.conv(x) + age.view(-1, 1, 1, 1)).mean((2, 3))
        return self.head(torch.cat([y, age.unsqueeze(1)], 1))


def of_both(model: nn.Module, x: Tensor, age: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The gradient of one output of every image."""
    leaves = x.clone().requires_grad_(), age.clone().requires_grad_()
    return torch.autograd.grad(model(*leaves)[:, number].sum(), leaves)


@pytest.mark.parametrize("kind", [WithAge, Scales])
def test_a_number_for_every_image_is_an_input(kind: type[nn.Module]) -> None:
    model, x, age = kind(), images(3), torch.randn(3, dtype=torch.float64)
    net = dk.Deconvnet(model, "gradient")
    record = net.record([x, age], net.output, activations=True)
    with torch.no_grad():
        assert_same(record.activations[net.output], model(x, age), "activations")
    one_by_one = net.record([x, age], net.output, activations=True, batch_size=1)
    assert_same(one_by_one.activations[net.output], record.activations[net.output], "one by one")
    expected, units = of_both(model, x, age, 2), dk.Units(net.output, [0, 1, 2], 2, 0, 0)
    for number, exact in enumerate(expected):
        found = net.project(record, units, "one", input=number).full()
        assert_same(found.reshape(exact.shape), exact, f"input {number}")
    signal = torch.zeros(3, 4, dtype=torch.float64)
    signal[:, 2] = 1
    for found, exact in zip(net.project_signal(record, net.output, signal, torch.arange(3)), expected, strict=True):
        assert_same(found.reshape(exact.shape), exact, "a signal")
    with pytest.raises(ValueError, match="3 images"):
        net.record([x, age[:2]], net.output)


@pytest.mark.parametrize("classes", [(Deconvolution, NeuronDeconvolution), (GuidedBackprop, NeuronGuidedBackprop)])
def test_a_number_for_every_image_in_the_captum_classes(classes: Any) -> None:
    model, x, age = WithAge(), images(3), torch.randn(3, dtype=torch.float64)
    of_output, of_neurons = classes
    for method, selection in ((of_output(model), 2), (of_neurons(model, model.head), 2)):
        alone = method.attribute(x, selection, additional_forward_args=age)
        both = method.attribute((x, age), selection)
        assert alone.shape == both[0].shape == x.shape and both[1].shape == age.shape
        assert torch.equal(alone, both[0])
        assert_same(both[1], model.head.weight[2, 6].detach().expand(3), "what arrives at the number")
    signal = torch.zeros(3, 4, dtype=torch.float64)
    signal[:, 2] = 1

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, age)

    rule = "guided" if of_output is GuidedBackprop else "deconvnet"
    expected = sent_back(Fixed(), x, signal, rule, copied=False)
    assert_same(of_output(model).attribute(x, 2, additional_forward_args=age), expected, "what arrives at the images")


class Undecided(nn.Module):
    """Much of what has no rule, in modules, functions, methods and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.silu, self.gelu, self.head = nn.Conv2d(3, 4, 3), nn.SiLU(), nn.GELU(), nn.Linear(4, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.silu(self.conv(x)))
        x = x * torch.sigmoid(x)
        x = x.tanh().mean((2, 3))
        return F.softmax(self.head(F.mish(x)), 1)


def advised(message: str) -> dict[Any, str]:
    """The rules that a message advises, pasted after the imports that everybody has."""
    found = re.findall(r"rules=(\{[^}]*\})", message)
    assert len(found) == 1, f"one text to paste is wanted: {message}"
    return dict(eval(found[0], {"torch": torch, "nn": nn, "F": F, "operator": operator}))


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_all_missing_rules_are_listed_at_once_and_can_be_pasted(rule: str) -> None:
    model, x = Undecided(), images()
    with pytest.raises(dk.UnsupportedModule) as error:
        dk.Deconvnet(model, rule)
    message = str(error.value)
    for name in ("silu", "gelu", "mul", "sigmoid", "tanh", "mish", "softmax"):
        assert name in message.lower(), f"{name} is not in: {message}"
    rules = advised(message)
    assert len(rules) == 7 and set(rules.values()) == {"gradient"}
    net = dk.Deconvnet(model, rule, rules=rules)
    record = net.record(x, net.output, activations=True)
    with torch.no_grad():
        assert_same(record.activations[net.output], model(x), "activations")
    signal = torch.randn(2, 4, dtype=torch.float64)
    (arrived,) = net.project_signal(record, net.output, signal, torch.arange(2))
    assert_same(arrived, sent_back(model, x, signal), "a signal")  # there is no rectifier


def test_only_what_is_still_missing_is_listed() -> None:
    with pytest.raises(dk.UnsupportedModule) as error:
        dk.Deconvnet(Undecided(), rules={nn.SiLU: "gradient", nn.GELU: "rectifier", operator.mul: "gradient"})
    rules = advised(str(error.value))
    assert len(rules) == 4
    assert not {nn.SiLU, nn.GELU, operator.mul} & set(rules)
    dk.Deconvnet(Undecided(), rules={nn.SiLU: "gradient", nn.GELU: "rectifier", operator.mul: "gradient", **rules})


@pytest.mark.parametrize("kind", [nn.SiLU, nn.GELU, nn.Softmax, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.Bilinear])
def test_the_same_kind_twice_is_advised_once(kind: type[nn.Module]) -> None:
    arguments = {nn.Softmax: (1,), nn.LayerNorm: (8,), nn.GroupNorm: (2, 4), nn.Bilinear: (8, 8, 8)}.get(kind, ())

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), kind(*arguments), kind(*arguments)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.second(
                *[self.first(*[x] * (2 if kind is nn.Bilinear else 1))] * (2 if kind is nn.Bilinear else 1)
            )

    model, x = Twice().double().eval(), images()
    with pytest.raises(dk.UnsupportedModule) as error:
        dk.Deconvnet(model)
    assert "first" in str(error.value) and "second" in str(error.value)
    rules = advised(str(error.value))
    assert list(rules) == [kind]
    net = dk.Deconvnet(model, rules=rules)
    with torch.no_grad():
        assert_same(net.record(x, net.output, activations=True).activations[net.output], model(x), "activations")


@pytest.mark.parametrize("key", [nn.SiLU, F.gelu, torch.sigmoid, operator.mul, "tanh", "no_such_method"])
def test_rules_that_match_nothing_are_said(key: Any) -> None:
    name = key if isinstance(key, str) else key.__name__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dk.Deconvnet(small(), rules={key: "gradient"})
            said = [str(warning.message) for warning in caught]
        except ValueError as error:
            said = [str(error)]
    assert any(name.lower() in text.lower() for text in said), f"nothing was said of {name}"


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_rules_that_match_are_not_spoken_of(rule: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.ReLU()), rule, rules={F.silu: "gradient"})
        GuidedBackprop(small()).attribute(images(), (1, 2, 2))
        Deconvolution(nn.Sequential(*small(), nn.Softmax(1))).attribute(images(), (1, 2, 2))


@pytest.mark.parametrize("given", [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Conv2d(3, 4, 3), nn.ReLU])
def test_no_message_prints_a_module(given: Any) -> None:
    net, x = dk.Deconvnet(small()), images()
    for call in (
        lambda: dk.Deconvnet(small(), rule=given),
        lambda: dk.Deconvnet(small(), rules={nn.ReLU: given}),
        lambda: net.record(given, "4"),
        lambda: net.record(x, [given]),
        lambda: dk.project(net, x, given, [[0, 0]]),
        lambda: dk.project(net, x, "4", given),
        lambda: net.project(net.record(x, "4"), dk.Units("4", 0, 1, 2, 2), seed=given),
        lambda: net.project(net.record(x, "4"), dk.Units("4", 0, 1, 2, 2), "one", overlap=given),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert_short(error.value)
