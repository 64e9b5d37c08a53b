"""torch.compile without graph breaks, with static and dynamic shapes, and torch.export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import deconv_kernels as dk
from deconv_kernels import backends


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def everything(map: Tensor, bias: Tensor, image: Tensor, origin: Tensor) -> tuple[Tensor, ...]:
    """All five ops in a chain."""
    values, switches = dk.max_pool2d(map, 3, 2, 1, bias=bias, relu=True)
    size = map.shape[-2:]
    summed = dk.max_unpool2d(values, switches, 3, 2, 1, output_size=size, relu=True)
    last = dk.max_unpool2d(values * 2, switches, 3, 2, 1, output_size=size, overlap="last")
    windows, origins = dk.max_unpool2d_window(values[:, :, :2, :3], switches, image, origin, 3, 2, 1)
    indices = dk.switches_to_indices(switches, size, 3, 2, 1)
    back = dk.indices_to_switches(indices, size, 3, 2, 1)
    return summed + last, windows, origins, indices, back


def inputs(device: torch.device, images: int = 2, height: int = 12, width: int = 13) -> tuple[Tensor, ...]:
    map = torch.randn(images, 4, height, width, device=device)
    origin = torch.randint(-1, 5, (images, 2), device=device)
    return map, torch.randn(4, device=device), torch.arange(images, device=device), origin


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_one_graph(device: torch.device, compiler: str, layout: torch.memory_format) -> None:
    compiled = torch.compile(everything, backend=compiler, fullgraph=True)
    map, *rest = inputs(device)
    map = map.to(memory_format=layout)
    same(compiled(map, *rest), everything(map, *rest))


def test_inductor(backend: str, device: torch.device) -> None:
    if backend == "reference":
        pytest.skip("to inductor one opaque op is like another; the reference runs under aot_eager")
    compiled = torch.compile(everything, fullgraph=True)
    given = inputs(device)
    same(compiled(*given), everything(*given))


def test_dynamic_shapes_compile_once(device: torch.device) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(everything, backend=counter, fullgraph=True, dynamic=True)
    for images, height, width in [(2, 12, 13), (5, 27, 31), (3, 56, 14)]:
        given = inputs(device, images, height, width)
        for tensor in (given[0], given[2], given[3]):
            torch._dynamo.mark_dynamic(tensor, 0)
        torch._dynamo.mark_dynamic(given[0], 2)
        torch._dynamo.mark_dynamic(given[0], 3)
        same(compiled(*given), everything(*given))
    assert counter.frame_count == 1


@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_gradients_through_compiled_code(device: torch.device, overlap: str) -> None:
    def loss(map: Tensor, bias: Tensor) -> Tensor:
        values, switches = dk.max_pool2d(map, 3, 2, bias=bias, relu=True)
        out = dk.max_unpool2d(values**2, switches, 3, 2, output_size=map.shape[-2:], overlap=overlap)
        return (out * torch.linspace(0, 1, out.shape[-1], device=out.device)).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    map, bias = torch.randn(2, 3, 9, 11, device=device), torch.randn(3, device=device)
    gradients: list[list[Tensor]] = []
    for function in (loss, compiled):
        given = [map.clone().requires_grad_(), bias.clone().requires_grad_()]
        gradients.append(list(torch.autograd.grad(function(*given), given)))
    for a, b in zip(*gradients, strict=True):
        assert a.any()
        torch.testing.assert_close(a, b)


def test_changing_the_backend_is_seen_by_compiled_code() -> None:
    seen: list[str] = []

    def spy(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes if "max_pool2d" in str(node.target))
        return graph.forward

    compiled = torch.compile(lambda x: dk.max_pool2d(x, 2), backend=spy, fullgraph=True)
    map = torch.randn(1, 2, 4, 4)
    compiled(map)
    with backends.use("reference"):
        compiled(map)
    assert seen == ["deconv_kernels.max_pool2d.default", "deconv_kernels_reference.max_pool2d.default"]


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = dk.nn.MaxPool2d(3, 2, 1, return_switches=True, relu=True)
        self.unpool = dk.nn.MaxUnpool2d(3, 2, 1)

    def forward(self, map: Tensor) -> Tensor:
        values, switches = self.pool(map)
        return self.unpool(values, switches, map.shape[-2:])


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_export(device: torch.device, dynamic: bool) -> None:
    network = Network()
    shapes = {"map": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    example = torch.randn(2, 3, 12, 14, device=device)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes if dynamic else None)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("max_pool2d" in target for target in targets) == 1
    assert sum("max_unpool2d" in target for target in targets) == 1
    for shape in [(2, 3, 12, 14)] + ([(5, 3, 31, 17), (2, 3, 8, 8)] if dynamic else []):
        map = torch.randn(shape, device=device)
        assert torch.equal(program.module()(map), network(map))
