"""`torch.onnx.export` of networks with the ops, held against them by ONNX's reference evaluator and its runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deconv_kernels as dk

pytest.importorskip("onnxscript", reason="the package onnxscript, which torch.onnx needs, is not installed")
evaluator = pytest.importorskip("onnx.reference", reason="the package onnx is not installed")

# kernel, stride, padding, dilation, ceil_mode. ONNX's evaluator gives no indices where the stride is 1.
POOLS: list[tuple[Any, ...]] = [
    (2, 2, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (2, 3, 1, 1, True),
    ((3, 2), (2, 3), 1, (2, 1), False),
    ((17, 3), 3, (8, 1), 1, False),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def runtimes(program: Any) -> dict[str, Callable[[list[Any]], list[Any]]]:
    """What runs the exported model: arrays in, arrays out."""
    model = program.model_proto
    assert all(node.domain == "" for node in model.graph.node)
    found = {"evaluator": evaluator.ReferenceEvaluator(model)}
    try:
        import onnxruntime
    except ImportError:
        pass
    else:
        found["runtime"] = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in model.graph.input]
    return {
        name: lambda arrays, session=session: session.run(None, dict(zip(names, arrays, strict=True)))
        for name, session in found.items()
    }


def assert_reproduced(network: nn.Module, program: Any, batches: list[tuple[Tensor, ...]]) -> None:
    """Same dtypes and bits; integers in small numbers make every sum exact."""
    for name, run in runtimes(program).items():
        for batch in batches:
            for number, (actual, expected) in enumerate(
                zip(run([tensor.numpy() for tensor in batch]), network(*batch), strict=True)
            ):
                actual = torch.from_numpy(actual)
                assert actual.dtype == expected.dtype, (name, number)
                assert torch.equal(actual, expected), (name, number)


class Pools(nn.Module):
    """Poolings, with a bias and a rectifier as well, their indices, and unpoolings of both kinds."""

    def __init__(self, pools: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.pools = pools
        self.bias = nn.Parameter(torch.randint(-3, 4, (2,)).float())

    def forward(self, maps: Tensor) -> list[Tensor]:
        results: list[Tensor] = []
        for number, (*window, ceil_mode) in enumerate(self.pools):
            values, switches = dk.max_pool2d(maps, *window, ceil_mode, bias=self.bias, relu=number % 2 == 1)
            indices = dk.switches_to_indices(switches, maps.shape[-2:], *window)
            results += [values, switches, indices, dk.indices_to_switches(indices, maps.shape[-2:], *window)]
            if number < 2:
                results.append(dk.max_unpool2d(values, switches, *window, maps.shape[-2:], overlap="last"))
                results.append(dk.max_unpool2d(values, switches, *window, relu=True))
        return results


def integers(*shape: int) -> Tensor:
    return torch.randint(-4, 5, shape).float()


def test_pools_and_unpools_of_any_size() -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    network, maps = Pools(POOLS[1:2]).eval(), integers(2, 2, 9, 10)
    program = torch.export.export(network, (maps,), dynamic_shapes=(dynamic,))
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert_reproduced(network, exported, [(maps,), (integers(3, 2, 12, 7),)])


def test_every_kind_of_pool() -> None:
    network, maps = Pools(POOLS).eval(), integers(1, 2, 9, 10)
    exported = torch.onnx.export(network, (maps,), dynamo=True, verbose=False)
    assert sum(node.op_type == "MaxPool" for node in exported.model_proto.graph.node) == len(POOLS)
    assert_reproduced(network, exported, [(maps,)])


class Plain(nn.Module):
    """A network of layers of which only the values are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), dk.nn.MaxPool2d(2), dk.nn.MaxPool2d(3, 1, 1, relu=True))

    def forward(self, maps: Tensor) -> tuple[Tensor]:
        return (self.layers(maps),)


def test_unused_switches_cost_nothing() -> None:
    network, maps = Plain().eval(), integers(2, 3, 9, 8)
    exported = torch.onnx.export(network, (maps,), dynamo=True, verbose=False)
    assert [node.op_type for node in exported.model_proto.graph.node] == ["Relu", "MaxPool", "Relu", "MaxPool"]
    assert_reproduced(network, exported, [(maps,)])


def test_one_image_of_other_dtypes() -> None:
    class Both(nn.Module):
        def forward(self, double: Tensor, half: Tensor) -> list[Tensor]:
            results: list[Tensor] = []
            for map in (double, half):
                values, switches = dk.max_pool2d(map, 2)
                results += [values, switches, dk.max_unpool2d(values, switches, 2)]
            return results

    network, given = Both(), (integers(3, 9, 8).double(), integers(3, 9, 8).half())
    assert_reproduced(network, torch.onnx.export(network, given, dynamo=True, verbose=False), [given])


class Projector(nn.Module):
    """Windows of images unpooled, and sent back through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(integers(3, 4, 3, 3))
        self.register_buffer("packed", dk.pack_weight(self.weight.detach()))

    def forward(self, maps: Tensor, windows: Tensor, image: Tensor, origin: Tensor) -> tuple[Tensor, ...]:
        _, switches = dk.max_pool2d(maps, 2)
        options = {"switches": switches, "pool_kernel_size": 2, "relu": True, "output_size": (8, 8)}
        return *dk.max_unpool2d_window(windows, switches, image, origin, 2), *dk.backproject2d(
            windows, self.weight, image, origin, padding=1, packed=self.packed, **options
        )


def test_projections() -> None:
    network = Projector().eval()
    given = integers(2, 3, 8, 8), integers(5, 3, 2, 3), torch.arange(5) % 2, torch.randint(-2, 4, (5, 2))
    exported = torch.onnx.export(network, given, dynamo=True, verbose=False)
    other = integers(2, 3, 8, 8), integers(5, 3, 2, 3), (torch.arange(5) + 1) % 2, torch.randint(-2, 4, (5, 2))
    assert_reproduced(network, exported, [given, other])
