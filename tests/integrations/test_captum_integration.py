"""Captum's signatures on this engine: against Captum where Captum is right, else against the definition."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule
from deconv_kernels.engine.trace.builder import graph_module
from deconv_kernels.integrations import captum as ours

OF_OUTPUTS = ["Deconvolution", "GuidedBackprop"]
OF_NEURONS = ["NeuronDeconvolution", "NeuronGuidedBackprop"]
RULES = dict(zip((*OF_OUTPUTS, *OF_NEURONS), ("deconvnet", "guided") * 2, strict=True))


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("captum.attr", reason="captum is not installed")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Captum warns of what it does to the inputs and hooks; everything else is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Input Tensor|Setting (forward, )?backward hooks")
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For networks as small as these more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Classifier(nn.Module):
    """A network on which Captum is right, with inputs and arguments of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.norm = nn.LocalResponseNorm(3, alpha=0.3)
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool2 = nn.AdaptiveAvgPool2d(2)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(32, 5)

    def forward(
        self,
        x: Tensor,
        other: Tensor | None = None,
        scale: float = 1.0,
        where: str = "below",
        *,
        shift: float = 0.0,
    ) -> Tensor:
        if other is not None and where == "below":
            x = x + scale * other
        x = self.pool1(self.norm(self.relu1(self.conv1(x))))
        x = self.pool2(self.block(x)) + shift
        if other is not None and where == "above":
            x = x + other.mean((2, 3), keepdim=True)[:, :1] * scale
        return self.fc(self.drop(x.flatten(1)))


class Dense(nn.Module):
    """Returns maps, so that targets have several dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.conv2 = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x)))


def ready(model: nn.Module) -> nn.Module:
    """In float64, where no rounding decides a maximum; with statistics and biases of its own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -1, 1)
    return model.double().eval()


def images(count: int = 3, channels: int = 3, size: tuple[int, int] = (17, 14)) -> Tensor:
    return torch.randn(count, channels, *size, dtype=torch.float64)


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """The same values, kind, shape, dtype, device and need of gradients."""
    assert isinstance(actual, tuple) == isinstance(expected, tuple), what
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    for one, other in pairs:
        assert (one.dtype, one.device, one.requires_grad) == (other.dtype, other.device, other.requires_grad), what
        assert_close(one, other, what)


def state_of(model: nn.Module, *inputs: Tensor) -> list[Any]:
    """All that a call must leave alone."""
    return [
        *((name, vars(module).keys(), module.training) for name, module in model.named_modules()),
        *((len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()),
        *((id(p), p.requires_grad, p.grad) for p in model.parameters()),
        *((name, tensor.tolist()) for name, tensor in model.state_dict().items()),
        *((x.requires_grad, x.grad, x.is_leaf, x.tolist()) for x in inputs),
    ]


@pytest.mark.parametrize("method", [*OF_OUTPUTS, *OF_NEURONS])
def test_signatures_are_captums(theirs: Any, method: str) -> None:
    for function in ("__init__", "attribute"):
        expected = inspect.signature(getattr(getattr(theirs, method), function)).parameters
        actual = inspect.signature(getattr(getattr(ours, method), function)).parameters
        assert list(actual)[: len(expected)] == list(expected)
        assert all(actual[name].default == parameter.default for name, parameter in expected.items())
        more = list(actual.values())[len(expected) :]
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in more)


@pytest.mark.parametrize("method", OF_OUTPUTS)
class TestOutputs:
    def test_targets_of_classes(self, theirs: Any, method: str) -> None:
        model, x = ready(Classifier()), images()
        one, other = getattr(ours, method)(model), getattr(theirs, method)(model)
        each = [random.randrange(5) for _ in x]
        targets = [
            *(random.randrange(5), -2, (random.randrange(5),), torch.tensor(1), torch.tensor([3])),
            *(each, torch.tensor(each), [(target,) for target in each]),
        ]
        for target in targets:
            expected = other.attribute(x, target)
            assert_same(one.attribute(x, target), expected, f"{target}")
            assert_same(one.attribute((x,), target=target), (expected,), f"{target}, a tuple")
        at_once = one.attribute(x, targets=targets)
        assert_same(at_once, torch.stack([other.attribute(x, target) for target in targets]))

    def test_targets_of_maps(self, theirs: Any, method: str) -> None:
        model, x = ready(Dense()), images(2, 3, (9, 8))
        one, other = getattr(ours, method)(model), getattr(theirs, method)(model)
        for target in ((1, 2, 3), (-1, 0, -1), [(0, 4, 3), (3, 0, 0)], [(2, 1, 1), (2, 1, 1)]):
            assert_same(one.attribute(x, target), other.attribute(x, target), f"{target}")

    def test_no_target(self, theirs: Any, method: str) -> None:
        for head in ([nn.Linear(24, 1)], [nn.Linear(24, 4), nn.ReLU(), nn.Linear(4, 1), nn.Flatten()]):
            model = ready(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *head))
            x = images(3, 3, (6, 8))
            assert_same(getattr(ours, method)(model).attribute(x), getattr(theirs, method)(model).attribute(x))

    def test_inputs_and_further_arguments(self, theirs: Any, method: str) -> None:
        model, x, other = ready(Classifier()), images(), images()
        one, reference_ = getattr(ours, method)(model), getattr(theirs, method)(model)
        calls: list[tuple[Any, ...]] = [
            *(((x, other), 1), ((x, other), [0, 4, 2], 0.3), ((x, other), 2, (2, "above"))),
            *((x, 1, other), (x, 1, (other, 0.7)), (x, 3, (other, 2.0, "above")), ((x,), 0, (None, 3.0))),
            *(
                (x, 1, (None, True)),
                (x, 1, (other, 1)),
                (x, 1, (other, True)),
                (x, 1, (other, 1.0)),
                (x, 1, (other, -1)),
            ),
        ]
        for _ in range(2):  # the second time what was traced is there
            random.shuffle(calls)
            for call in calls:
                assert_same(one.attribute(*call), reference_.attribute(*call), f"{call[1:]}")
        assert_same(
            one.attribute((x, other), additional_forward_args=0.5, targets=[1, 2]),
            tuple(map(torch.stack, zip(*(reference_.attribute((x, other), t, 0.5) for t in (1, 2)), strict=True))),
        )

    def test_inputs_that_are_rows(self, theirs: Any, method: str) -> None:
        class Joined(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.relu1, self.fc1 = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(7, 4)
                self.relu2, self.fc2 = nn.ReLU(), nn.Linear(4, 6)

            def forward(self, x: Tensor, row: Tensor) -> Tensor:
                return self.fc2(self.relu2(self.relu1(self.conv(x)).mean((2, 3)) + self.fc1(row)))

        model, x, row = ready(Joined()), images(), torch.randn(3, 7, dtype=torch.float64)
        one, other = getattr(ours, method)(model), getattr(theirs, method)(model)
        assert_same(one.attribute((x, row), 2), other.attribute((x, row), 2))
        assert_same(one.attribute(x, [1, 5, 0], row), other.attribute(x, [1, 5, 0], row))

    def test_arguments_of_any_kind(self, method: str) -> None:
        class Configured(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, x: Tensor, config: Any, factors: Any = (1.0, 1.0)) -> Tensor:
                return F.relu(self.conv(x) * config["gain"]).mean((2, 3)) * factors[0] + factors[1]

        model, x = ready(Configured()), images()
        attribution = getattr(ours, method)(model)
        once = attribution.attribute(x, 1, ({"gain": 1.0},))
        config, odd = {"gain": -2.0, "by": object()}, [3.0, 0.0]
        for gain in (-2.0, 0.5):
            config["gain"] = gain
            found = attribution.attribute(x, 1, (config, odd))
            alone = getattr(ours, method)(model).attribute(x, 1, ({"gain": gain}, (3.0, 0.0)))
            assert_same(found, alone)
        assert_same(attribution.attribute(x, 1, {"gain": 1.0}), once)

    def test_softmax_and_what_is_given_a_rule_go_by_their_gradient(self, theirs: Any, method: str) -> None:
        x = images()
        model = ready(nn.Sequential(*ready(Dense()).children(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)))
        assert_same(getattr(ours, method)(model).attribute(x, 2), getattr(theirs, method)(model).attribute(x, 2))
        model.insert(3, nn.SiLU())
        with pytest.raises(UnsupportedModule, match="SiLU"):
            getattr(ours, method)(model).attribute(x, 2)
        found = getattr(ours, method)(model, rules={nn.SiLU: "gradient"}).attribute(x, 2)
        assert_same(found, getattr(theirs, method)(model).attribute(x, 2))

    def test_an_unused_input_gets_zeros(self, method: str) -> None:
        class Half(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 2, 3)

            def forward(self, x: Tensor, unused: Tensor) -> Tensor:
                return self.conv(x).mean((2, 3))

        x, unused = images(), images(3, 2, (5, 4))
        first, second = getattr(ours, method)(ready(Half())).attribute((x, unused), 1)
        assert bool(first.any()) and second.shape == unused.shape and not bool(second.any())

    def test_targets_that_do_not_fit(self, method: str) -> None:
        x = images()
        attribution = getattr(ours, method)(ready(Classifier()))
        wrong: list[Any] = [
            None,
            (1, 1),
            (0,) * 20,
            [0, 1],
            torch.tensor([1, 2]),
            torch.rand(3),
            "cat",
            [0.5, 1.0, 2.0],
            1.5,
        ]
        for target in wrong:
            with pytest.raises(AssertionError) as caught:
                attribution.attribute(x, target)
            assert isinstance(caught.value, ValueError), target
        for target in (5, -6, (7,), [(0,), (5,), (1,)]):
            with pytest.raises(IndexError):
                attribution.attribute(x, target)
        for target in ([0, 5, 1], torch.tensor([0, 1, -1])):
            with pytest.raises(RuntimeError, match="out of bounds"):
                attribution.attribute(x, target)
        with pytest.raises(ValueError, match="either target or targets"):
            attribution.attribute(x, 1, targets=[1])
        with pytest.raises(ours.InvalidSelection, match="at least one"):
            attribution.attribute(x, targets=[])


LAYERS = ["conv1", "relu1", "norm", "pool1", "block", "block.0", "block.1", "block.2", "pool2", "drop", "fc", ""]


@pytest.mark.parametrize("method", OF_NEURONS)
class TestNeurons:
    @pytest.mark.parametrize("given", [False, True])
    @pytest.mark.parametrize("layer", LAYERS)
    def test_selectors(self, theirs: Any, method: str, layer: str, given: bool) -> None:
        model, x = ready(Classifier()), images(2)
        module = model.get_submodule(layer)
        one, other = getattr(ours, method)(model, module), getattr(theirs, method)(model, module)
        flat = layer in ("drop", "fc") or (layer == "" and not given)
        selectors: list[Any] = [lambda maps: maps.flatten(1).amax(1), lambda maps: maps.square().sum()]
        if flat:
            selectors += [random.randrange(5), (random.randrange(5),), (-1,), (slice(1, 4),)]
        else:
            selectors += [(1, 1, 1), (0, -1, -2), (slice(0, 2), 1, slice(None)), (2, 0, slice(0, 2))]
        expected = [other.attribute(x, selector, attribute_to_neuron_input=given) for selector in selectors]
        for selector, exact in zip(selectors, expected, strict=True):
            assert_same(one.attribute(x, selector, None, given), exact, f"{selector}")
        assert_same(one.attribute(x, selectors, None, given), torch.stack(expected))
        units = slice(2, 5 if flat else 4)
        assert_same(one.attribute((x,), selectors[units], None, given), (torch.stack(expected[units]),))

    @pytest.mark.parametrize("given", [False, True])
    def test_several_inputs(self, theirs: Any, method: str, given: bool) -> None:
        model, x, other = ready(Classifier()), images(2), images(2)
        for layer, selector in ((model.conv1, (1, 2, 3)), (model.pool2, (slice(0, 3), 0, 1)), (model.fc, 2)):
            one, captums = getattr(ours, method)(model, layer), getattr(theirs, method)(model, layer)
            for call in (
                ((x, other), selector, 0.4),
                ((x, other), selector, (2.0, "below")),
                (x, selector, (other, 3.0)),
            ):
                assert_same(one.attribute(*call, given), captums.attribute(*call, given), f"{call[1:]}")

    def test_layers_called_twice_count_at_their_last_call(self, theirs: Any, method: str) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1, self.conv2 = (
                    nn.Conv2d(3, 3, 3, padding=1),
                    nn.Sequential(nn.Conv2d(3, 3, 3), nn.Tanhshrink()),
                )
                self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv2(self.relu1(self.conv1(x)))
                return self.conv2(self.relu2(self.conv1(x)))

        model, x = ready(Twice()), images(2)
        for layer in (model.conv1, model.conv2, model.conv2[0], model.conv2[1]):
            one = getattr(ours, method)(model, layer, rules={nn.Tanhshrink: "gradient"})
            other = getattr(theirs, method)(model, layer)
            for given in (False, True):
                for selector in ((1, 3, 2), lambda maps: maps[:, :2].sum((1, 2, 3))):
                    assert_same(one.attribute(x, selector, None, given), other.attribute(x, selector, None, given))

    def test_what_a_layer_is_given_is_what_is_there_at_its_call(self, method: str) -> None:
        """Captum's hooks let an in-place ReLU overwrite a copy, so that the rest of the network sees its input."""

        class Overwritten(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 2, 1))
                self.relu = nn.ReLU(inplace=True)

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv1(x)
                self.relu(x)
                return self.conv2(x)

        model, x, selector = ready(Overwritten()), images(2), (1, 3, 2)
        written = nn.Sequential(model.conv1, nn.ReLU(), model.conv2)
        for layer, given, same in (
            (model.conv1, False, (written[0], False)),
            (model.relu, True, (written[0], False)),
            (model.relu, False, (written[1], False)),
            (model.conv2, True, (written[1], False)),
            (model.conv2[0], True, (written[2], True)),
            (model.conv2, False, (written[2], False)),
        ):
            expected = getattr(ours, method)(written, same[0]).attribute(x, selector, None, same[1])
            assert_same(getattr(ours, method)(model, layer).attribute(x, selector, None, given), expected)

    def test_selectors_that_do_not_fit(self, method: str) -> None:
        model, x = ready(Classifier()), images()
        attribution = getattr(ours, method)(model, model.conv1)
        wrong: list[Any] = [None, "1", 1.5, torch.tensor(1), (0,) * 20, [(1, 1, 1), None], []]
        for selector in wrong:
            with pytest.raises(AssertionError) as caught:
                attribution.attribute(x, selector)
            assert isinstance(caught.value, ValueError), selector
        for selector in ((6, 0, 0), (0, 17, 0), (0, 0, -15), [(0, 0, 0), (0, 0, 99)]):
            with pytest.raises(IndexError):
                attribution.attribute(x, selector)
        for selector in ((1, 1), 1, lambda maps: maps, lambda maps: torch.ones(3)):
            with pytest.raises(RuntimeError, match="scalar|does not require grad"):
                attribution.attribute(x, selector)
        with pytest.raises(ours.InvalidSelection, match="not a module of the model"):
            getattr(ours, method)(model, nn.ReLU()).attribute(x, (0, 0, 0))
        model.idle = nn.Conv2d(3, 3, 3)
        with pytest.raises(ours.InvalidSelection, match="'idle'"):
            getattr(ours, method)(model, model.idle).attribute(x, (0, 0, 0))
        with pytest.raises(TypeError, match="layer"):
            getattr(ours, method)(model, "conv1")

    def test_several_tensors_are_no_neurons(self, method: str) -> None:
        class Pair(nn.Module):
            def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
                return F.relu(x), F.relu(y)

        class Paired(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.pair = nn.Conv2d(3, 4, 3), Pair()

            def forward(self, x: Tensor) -> Tensor:
                x = self.conv(x)
                return sum(self.pair(x, 2 * x))

        model, x = ready(Paired()), images()
        for given in (False, True):
            with pytest.raises(UnsupportedModule, match="'pair'.*than one tensor"):
                getattr(ours, method)(model, model.pair).attribute(x, (0, 0, 0), None, given)


class Ranked(nn.Module):
    """A residual network of signals or volumes on which Captum is right."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
        self.stem, self.relu = convolution(2, 4, 3, padding=1), nn.ReLU()
        self.pool = {1: nn.MaxPool1d(3, 2), 3: nn.MaxPool3d((1, 3, 2), (1, 2, 2))}[rank]
        self.conv, self.norm = convolution(4, 4, 3, padding=1), {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank](4)
        self.last, self.fc = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.stem(x)))
        return self.fc(self.last(x + self.norm(self.conv(x))).flatten(2).mean(2))


@pytest.mark.parametrize("method", [*OF_OUTPUTS, *OF_NEURONS])
@pytest.mark.parametrize("rank", [1, 3])
def test_signals_and_volumes(theirs: Any, rank: int, method: str) -> None:
    model = ready(Ranked(rank))
    inputs = torch.randn(2, 2, *(5, 9, 8)[3 - rank :], dtype=torch.float64)
    if method in OF_OUTPUTS:
        for target in (1, [2, 0]):
            expected = getattr(theirs, method)(model).attribute(inputs.clone().requires_grad_(), target)
            assert_close(getattr(ours, method)(model).attribute(inputs, target), expected.detach())
        return
    maps = Deconvnet(model).record(inputs, "conv", activations=True).activations["conv"]
    for unit in ((0, *(0,) * rank), tuple(int(n) - 1 for n in maps.shape[1:])):
        expected = getattr(theirs, method)(model, model.conv).attribute(inputs.clone().requires_grad_(), unit)
        assert_close(getattr(ours, method)(model, model.conv).attribute(inputs, unit), expected.detach())


class Trap(nn.Module):
    """A network on which Captum is wrong without a word."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 3, 3),
        )
        self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def shared_relu(net: Any, x: Tensor) -> Tensor:
    x = net.conv1(x)
    return net.conv3(net.relu(net.conv2(x)) + net.relu(x))


def functional(net: Any, x: Tensor) -> Tensor:
    return net.conv3(net.conv2(F.relu(net.conv1(x))).relu())


def capped(net: Any, x: Tensor) -> Tensor:
    return net.conv3(net.relu6(4 * net.conv2(net.relu6(8 * net.conv1(x)))))


def skip_before_relu(net: Any, x: Tensor) -> Tensor:
    x = net.conv1(x)
    return net.conv3(net.conv2(net.relu(x)) + x)


@pytest.mark.parametrize("method", [*OF_OUTPUTS, *OF_NEURONS])
@pytest.mark.parametrize("trap", [shared_relu, functional, capped, skip_before_relu])
def test_where_captum_is_wrong_the_definition_holds(method: str, trap: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = ready(Trap(trap)), images(2, 3, (9, 10))
    target = (random.randrange(3), random.randrange(7), random.randrange(8))
    if method in OF_NEURONS:
        found = getattr(ours, method)(model, model.conv3).attribute(x, target)
    else:
        found = getattr(ours, method)(model).attribute(x, target)
    exact, _ = reference.project(
        graph_module(model), x, "conv3", [[image, *target] for image in range(len(x))], RULES[method]
    )
    assert_same(found, exact)
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    arguments = (model, model.conv3) if method in OF_NEURONS else (model,)
    wrong = getattr(captum, method)(*arguments).attribute(x, target)
    assert float((wrong - exact).abs().max()) > 1e-3 * float(exact.abs().max()), "Captum is right here now"


def test_the_last_of_overlapping_windows_wins_if_asked() -> None:
    model, x = ready(Classifier()), images(2)
    exact, _ = reference.project(
        graph_module(model), x, "fc", [[0, 3, 0, 0], [1, 3, 0, 0]], "deconvnet", "identity", "last"
    )
    found = ours.Deconvolution(model, overlap="last", normalization="identity").attribute(x, 3)
    assert_same(found, exact)
    with pytest.raises(ValueError, match="overlap"):
        ours.Deconvolution(model, overlap="first")


class Counted:
    """How often the engine is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in ("__init__", "record", "project", "project_signal"):
            monkeypatch.setattr(Deconvnet, name, self._counting(name, getattr(Deconvnet, name)))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return function(*args, **kwargs)

        return counting

    def __call__(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


def test_a_call_is_one_record_and_one_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, counted = ready(Classifier()), images(5), Counted(monkeypatch)
    neurons, outputs = ours.NeuronDeconvolution(model, model.conv1), ours.GuidedBackprop(model)
    neurons.attribute(x, (1, 2, 3))
    assert counted() == ["__init__", "record", "project"]
    neurons.attribute(x, [(1, 2, 3), (0, 0, 0), (5, 16, 13)])
    assert counted() == ["record", "project"]
    neurons.attribute(x, [(1, 2, 3), (slice(None), 0, 0), lambda maps: maps.sum((1, 2, 3))])
    assert counted() == ["record", "project_signal"]
    outputs.attribute(x, 2)
    assert counted() == ["__init__", "record", "project"]
    outputs.attribute(x, targets=[0, 1, [0, 1, 2, 3, 4], torch.tensor([4, 3, 2, 1, 0])])
    assert counted() == ["record", "project"]
    outputs.attribute((x, x), targets=range(5))
    assert counted() == ["__init__", "record", "project_signal"]
    outputs.attribute((x, x), 1)
    assert counted() == ["record", "project_signal"]


def test_changes_of_the_model_are_noticed() -> None:
    model, x = ready(Classifier()), images(2)
    attributions = [ours.Deconvolution(model), ours.NeuronGuidedBackprop(model, model.fc)]

    def check() -> None:
        fresh = copy.deepcopy(model)
        exact = [ours.Deconvolution(fresh), ours.NeuronGuidedBackprop(fresh, fresh.fc)]
        for one, other in zip(attributions, exact, strict=True):
            assert_same(one.attribute(x, 2), other.attribute(x, 2))

    check()
    with torch.no_grad():
        model.conv1.weight.mul_(-1)
    check()
    model.block[0].weight = nn.Parameter(torch.randn(8, 6, 3, 3, dtype=torch.float64))
    check()
    model.block[1].running_var.mul_(3)
    check()
    model.block[0] = nn.Conv2d(6, 8, 5, padding=2).double()
    check()
    model.relu1 = nn.Identity()
    check()
    model.train()
    check()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("needs_gradients", [False, True])
def test_model_and_inputs_are_left_alone(training: bool, needs_gradients: bool) -> None:
    model, x, other = ready(Classifier()), images(), images()
    exact = ours.Deconvolution(model).attribute((x, other), 1, 0.5)
    model.train(training)
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    if needs_gradients:
        x.requires_grad_().grad = torch.full_like(x, 2.0)
    before = state_of(model, x, other)
    attributions = [getattr(ours, name)(model) for name in OF_OUTPUTS]
    attributions += [getattr(ours, name)(model, model.block) for name in OF_NEURONS]
    assert_same(attributions[0].attribute((x, other), 1, 0.5), exact, "as in eval mode")
    for attribution in attributions:
        target = 1 if attribution in attributions[:2] else lambda maps: maps.sum()
        attribution.attribute((x, other), target, 0.5)
        for wrong in ((0,) * 20, (99, 99, 99)):
            with pytest.raises((AssertionError, IndexError)):
                attribution.attribute((x, other), wrong, 0.5)
        with pytest.raises(ValueError, match="inputs must hold 3 images"):
            attribution.attribute((x, other[:1]), target, 0.5)
    model.silu = nn.SiLU()
    model.fc.register_forward_hook(hook := lambda module, args, output: model.silu(output))
    with pytest.raises(ZeroDivisionError):
        attributions[2].attribute(x, lambda maps: 1 / 0)
    del model.silu
    assert hook in model.fc._forward_hooks.values()
    model.fc._forward_hooks.clear()
    assert torch.is_grad_enabled()
    after = state_of(model, x, other)
    assert str(before) == str(after)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_autograd(mode: Any) -> None:
    model, x = ready(Classifier()), images(2)

    def both() -> list[Tensor]:
        neurons = ours.NeuronDeconvolution(model, model.block)
        return [ours.GuidedBackprop(model).attribute(x, 1), neurons.attribute(x, lambda maps: maps.square().sum())]

    expected = both()
    with mode():
        found = both()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with mode():
        x = images(2)
        both()


def test_dtypes() -> None:
    model, x = ready(Classifier()), images(2)
    for dtype in (torch.float32, torch.float64):
        attribution = ours.Deconvolution(model.to(dtype))
        assert attribution.attribute(x.to(dtype), 1).dtype == dtype
    with pytest.raises(TypeError, match="dtype"):
        attribution.attribute(x.float(), 1)
    with pytest.raises(TypeError, match="floating point"):
        attribution.attribute(x.long(), 1)
    with pytest.raises(TypeError, match="floating point"):
        attribution.attribute((x, x.long()), 1)
    with pytest.raises(TypeError, match="inputs must be a Tensor"):
        attribution.attribute([x], 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nn\.Module"):
        ours.Deconvolution(model.forward)  # type: ignore[arg-type]


def test_forwards_that_cannot_be_followed() -> None:
    class Several(nn.Module):
        def forward(self, *maps: Tensor) -> Tensor:
            return sum(F.relu(x) for x in maps)

    class Listed(nn.Module):
        def forward(self, x: Tensor, others: list[Tensor]) -> Tensor:
            return F.relu(x) + others[0]

    class Checked(nn.Module):
        def forward(self, x: Tensor, size: int) -> Tensor:
            assert size == 4, "the size must be 4"
            return F.relu(x)

    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) if x.sum() > 0 else x

    x = images()
    with pytest.raises(UnsupportedModule, match="'maps'; give each its own parameter"):
        ours.Deconvolution(Several()).attribute((x, x), (0, 0, 0))
    with pytest.raises(UnsupportedModule, match="'others'; give each its own parameter"):
        ours.Deconvolution(Listed()).attribute(x, (0, 0, 0), ([x],))
    with pytest.raises(AssertionError, match="the size must be 4"):
        ours.Deconvolution(Checked()).attribute(x, (0, 0, 0), 3)
    with pytest.raises(UnsupportedModule, match=r"test_captum_integration.py:\d+ .*x.sum\(\) > 0"):
        ours.Deconvolution(Dynamic()).attribute(x, (0, 0, 0))
    with pytest.raises(TypeError, match="too many positional arguments"):
        ours.Deconvolution(Dynamic()).attribute(x, (0, 0, 0), 3)


def test_data_parallel_models_are_taken_out_of_it() -> None:
    model, x = ready(Classifier()), images(2)
    wrapped = nn.DataParallel(model)
    assert_same(ours.Deconvolution(wrapped).attribute(x, 1), ours.Deconvolution(model).attribute(x, 1))
    one = ours.NeuronDeconvolution(wrapped, model.pool1, device_ids=[0])
    assert one.forward_func is wrapped
    assert_same(one.attribute(x, (1, 1, 1)), ours.NeuronDeconvolution(model, model.pool1).attribute(x, (1, 1, 1)))


def test_threads_do_not_disturb_each_other() -> None:
    model, x = ready(Classifier()), images(2)
    expected, output = ours.NeuronDeconvolution(model, model.block).attribute(x, (1, 2, 2)), model(x)
    shared = ours.NeuronDeconvolution(model, model.block)

    def attribute(number: int) -> tuple[Tensor, Tensor]:
        own = shared if number % 2 else ours.NeuronDeconvolution(model, model.block)
        return own.attribute(x, (1, 2, 2)), model(x)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as threads:
            results = list(threads.map(attribute, range(24)))
    finally:
        sys.setswitchinterval(interval)
    for found, same in results:
        assert_same(found, expected)
        assert_close(same, output)
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl", "torch.fx has left its own behind"


def test_copies_have_a_model_of_their_own() -> None:
    model, x = ready(Classifier()), images(2)
    attribution = ours.NeuronDeconvolution(model, model.fc)
    expected = attribution.attribute(x, 1)
    duplicate = copy.deepcopy(attribution)
    with torch.no_grad():
        model.fc.weight.mul_(2)
    assert_same(duplicate.attribute(x, 1), expected)
    assert_same(attribution.attribute(x, 1), 2 * expected)
    assert_same(pickle.loads(pickle.dumps(duplicate)).attribute(x, 1), expected)


@pytest.mark.parametrize("method", OF_OUTPUTS)
def test_tools_of_captum_take_ours(theirs: Any, method: str) -> None:
    metrics = pytest.importorskip("captum.metrics", reason="captum is not installed")
    model, x = ready(Classifier()), images(2)
    one, other = getattr(ours, method)(model), getattr(theirs, method)(model)
    assert (one.multiplies_by_inputs, one.has_convergence_delta()) == (False, False)
    found, expected = (
        theirs.NoiseTunnel(method).attribute(x, nt_samples=3, stdevs=0.0, target=[1, 2]) for method in (one, other)
    )
    assert_same(found, expected)

    def moved(inputs: Tensor, radius: float) -> Tensor:
        return inputs + radius

    found, expected = (
        metrics.sensitivity_max(method.attribute, x, moved, 0.1, n_perturb_samples=2, target=1)
        for method in (one, other)
    )
    assert_close(found, expected)


def test_captum_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    spec = importlib.util.spec_from_file_location("deconv_kernels.integrations.again", ours.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, x = ready(Dense()), images(2, 3, (7, 8))
    assert_same(module.Deconvolution(model).attribute(x, (1, 2, 2)), ours.Deconvolution(model).attribute(x, (1, 2, 2)))
