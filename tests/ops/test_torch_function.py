"""The ops as functions that others override: torch.fx, modes, tensor subclasses; and what TorchScript is told."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import deconv_kernels as dk

OPS = (
    dk.max_pool2d,
    dk.max_unpool2d,
    dk.max_unpool2d_window,
    dk.backproject2d,
    dk.pack_weight,
    dk.switches_to_indices,
    dk.indices_to_switches,
)


class SegNet(nn.Module):
    """Down twice and up again, by layers and by functions, with arguments by position and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = dk.nn.MaxPool2d(2, return_switches=True, relu=True)
        self.unpool = dk.nn.MaxUnpool2d(2)
        self.last = dk.nn.MaxPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        once, first = self.pool(maps)
        twice, second = dk.max_pool2d(input=F.relu(once), kernel_size=3, stride=2, bias=self.convolution.bias)
        up = dk.max_unpool2d(twice, second, 3, 2, output_size=once.shape[-2:], overlap="last")
        return self.last(self.unpool(up, first, output_size=maps.size()))


class Every(nn.Module):
    """All ops in a chain, on windows that come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, 3, 3))

    def forward(self, maps: Tensor, windows: Tensor, image: Tensor, origin: Tensor) -> tuple[Any, ...]:
        values, switches = dk.max_pool2d(maps, 2, relu=True)
        indices = dk.switches_to_indices(switches, maps.shape[-2:], 2)
        again = dk.indices_to_switches(indices, input_size=maps.shape[-2:], kernel_size=2)
        unpooled = dk.max_unpool2d(values, again, 2)
        signal, origins = dk.max_unpool2d_window(windows, switches, image, origin, 2, relu=True)
        options = {"switches": switches, "pool_kernel_size": 2, "relu": True, "output_size": (9, 9)}
        packed = dk.pack_weight(self.weight)
        sent, places = dk.backproject2d(windows, self.weight, image, origin, padding=1, packed=packed, **options)
        return unpooled, signal, origins, sent, places


def given() -> tuple[Tensor, ...]:
    windows = torch.randn(5, 3, 2, 2)
    return torch.randn(2, 3, 8, 8), windows, torch.arange(5) % 2, torch.randint(-1, 4, (5, 2))


def assert_equal(actual: Any, expected: Any) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(torch.as_tensor(a), b)


def test_symbolic_trace_has_the_ops_as_nodes() -> None:
    network = SegNet()
    graph = torch.fx.symbolic_trace(network)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert [target for target in targets if target in OPS] == [
        *(dk.max_pool2d, dk.max_pool2d, dk.max_unpool2d, dk.max_unpool2d, dk.max_pool2d)
    ]
    for height, width in ((12, 12), (13, 18)):
        images = torch.randn(2, 3, height, width)
        assert torch.equal(graph(images), network(images))


def test_graphs_can_be_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), dk.nn.MaxPool2d(2))
    graph = torch.fx.symbolic_trace(network)
    images = torch.randn(2, 3, 9, 8)
    for kept in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert torch.equal(kept(images), network(images))


def test_symbolic_trace_of_every_op() -> None:
    network = Every()
    graph = torch.fx.symbolic_trace(network)
    assert {node.target for node in graph.graph.nodes if node.target in OPS} == set(OPS)
    arguments = given()
    assert_equal(graph(*arguments), network(*arguments))


def test_layers_may_be_leaves_of_a_graph() -> None:
    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, dk.nn.MaxPool2d | dk.nn.MaxUnpool2d) or super().is_leaf_module(
                m, module_qualified_name
            )

    network = SegNet()
    graph = torch.fx.GraphModule(network, Leaves().trace(network))
    assert {"pool", "unpool", "last"} <= {node.target for node in graph.graph.nodes if node.op == "call_module"}
    images = torch.randn(2, 3, 12, 13)
    assert torch.equal(graph(images), network(images))


def test_torchvision_extracts_features_of_a_pooling() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), dk.nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 3, 9, 9)
    found = extraction.create_feature_extractor(network, ["1", "2"])(images)
    assert_equal((found["1"], found["2"]), (network[:2](images), network(images)))


class Seen(TorchFunctionMode):
    """Notes the functions of this package that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Callable[..., Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OPS:
            self.functions.append(func)
        return func(*args, **(kwargs or {}))


def test_modes_see_every_function_once() -> None:
    network, arguments = Every(), given()
    expected = network(*arguments)
    with Seen() as outer, Seen() as inner:
        actual = network(*arguments)
    assert_equal(actual, expected)
    assert len(inner.functions) == len(OPS)
    assert set(inner.functions) == set(OPS)
    assert outer.functions == inner.functions


class Logged(Tensor):
    """A tensor that notes the functions of this package that it meets."""

    functions: list[Callable[..., Any]] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OPS:
            cls.functions.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_see_every_function() -> None:
    network, arguments = Every(), given()
    expected = network(*arguments)
    Logged.functions.clear()
    network.weight = nn.Parameter(network.weight.detach().as_subclass(Logged))
    actual = network(*(argument.as_subclass(Logged) for argument in arguments))
    assert set(Logged.functions) == set(OPS)
    assert all(type(result) is Logged for result in actual)
    assert_equal([result.as_subclass(Tensor) for result in actual], expected)


@pytest.mark.parametrize("position", range(5))
def test_one_argument_of_another_type_is_enough(position: int) -> None:
    """Whoever is among the arguments decides, also one that is no tensor."""

    class Other:
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func, args, kwargs

    maps, windows, image, origin = given()
    switches = dk.max_pool2d(maps, 2)[1]
    arguments = [windows, torch.randn(3, 2, 3, 3), image, origin, switches]
    arguments[position] = Other()
    *tensors, switches = arguments
    func, args, kwargs = dk.backproject2d(*tensors, switches=switches, pool_kernel_size=2)
    assert func is dk.backproject2d
    assert args[:4] == tuple(tensors)
    assert kwargs["switches"] is switches
    assert kwargs["pool_kernel_size"] == 2


def test_default_device_changes_nothing() -> None:
    network, arguments = Every(), given()
    with torch.device("meta"):
        actual = network(*arguments)
    assert_equal(actual[:1], network(*arguments)[:1])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*is deprecated")
def test_torchscript_is_refused_in_words() -> None:
    maps, windows, image, origin = given()
    refused: dict[str, Callable[..., Any]] = {
        "size of the input": lambda x: dk.max_unpool2d(*dk.max_pool2d(x, 2), 2, output_size=x.shape[-2:]),
        "size by default": lambda x: dk.max_unpool2d(*dk.max_pool2d(x, 2), 2),
        "indices": lambda x: dk.switches_to_indices(dk.max_pool2d(x, 2)[1], x.shape[-2:], 2),
        "window": lambda x: dk.max_pool2d(x, x.shape[-2:])[0],
        "projection": lambda x: dk.backproject2d(x, torch.ones(3, 2, 3, 3), image[:2], origin[:2])[0],
    }
    for function in refused.values():
        with pytest.raises(NotImplementedError, match="TorchScript is not supported; use torch.export.export"):
            torch.jit.trace(function, maps)
    for layer in (dk.nn.MaxPool2d(2), nn.Sequential(dk.nn.MaxUnpool2d(2))):
        with pytest.raises(NotImplementedError, match="TorchScript is not supported; use torch.export.export"):
            torch.jit.script(layer)
    pool = torch.jit.trace(nn.Sequential(nn.ReLU(), dk.nn.MaxPool2d(2)), maps)
    other = torch.randn(3, 3, 5, 7)
    assert torch.equal(pool(other), F.max_pool2d(other.relu(), 2))


def test_results_of_modes_may_be_anything() -> None:
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            return tree_map(lambda t: t * 2, result) if func is dk.max_pool2d else result

    maps = torch.randn(2, 3, 8, 8)
    with Doubled():
        doubled = dk.nn.MaxPool2d(2)(maps)
    assert torch.equal(doubled, F.max_pool2d(maps, 2) * 2)
