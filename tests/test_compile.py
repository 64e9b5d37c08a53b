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


def everything(map: Tensor, bias: Tensor, image: Tensor, origin: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """All ops in a chain."""
    values, switches = dk.max_pool2d(map, 3, 2, 1, bias=bias, relu=True)
    size = map.shape[-2:]
    summed = dk.max_unpool2d(values, switches, 3, 2, 1, output_size=size, relu=True)
    last = dk.max_unpool2d(values * 2, switches, 3, 2, 1, output_size=size, overlap="last")
    signal = values[:, :, :2, :3]
    windows, origins = dk.max_unpool2d_window(signal, switches, image, origin, 3, 2, 1)
    packed = dk.pack_weight(weight)
    pooling = {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1, "relu": True, "output_size": size}
    pooled = dk.backproject2d(signal, weight, image, origin, padding=1, switches=switches, packed=packed, **pooling)
    plain = dk.backproject2d(windows, weight, image, origins, stride=2, dilation=(1, 3), crop=((2, 0), (9, 17)))
    indices = dk.switches_to_indices(switches, size, 3, 2, 1)
    back = dk.indices_to_switches(indices, size, 3, 2, 1)
    return summed + last, windows, origins, *pooled, *plain, packed, indices, back


def inputs(device: torch.device, images: int = 2, height: int = 12, width: int = 13) -> tuple[Tensor, ...]:
    map = torch.randn(images, 4, height, width, device=device)
    origin = torch.randint(-1, 5, (images, 2), device=device)
    weight = torch.randint(-3, 4, (4, 12, 3, 3), device=device).float()
    return map, torch.randn(4, device=device), torch.arange(images, device=device), origin, weight


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
        for tensor in (given[0], given[2], given[3]):  # the weight keeps its shape
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


@pytest.mark.parametrize("pooled", [False, True], ids=["not pooled", "pooled"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_gradients_of_compiled_projections(device: torch.device, dynamic: bool, pooled: bool) -> None:
    def loss(input: Tensor, weight: Tensor, image: Tensor, origin: Tensor, switches: Tensor) -> Tensor:
        options = {"switches": switches, "pool_kernel_size": 2} if pooled else {}
        size = (input.shape[2] * 2, input.shape[3] * 3)
        crop = ((1, 0), (input.shape[2] + 3, 9))
        packed = dk.pack_weight(weight.detach())
        out, origins = dk.backproject2d(
            input, weight, image, origin, relu=True, output_size=size, crop=crop, packed=packed, **options
        )
        return (out * torch.linspace(0, 1, out.shape[-1], device=out.device)).sum() + origins.sum()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=dynamic)
    weight = torch.randn(3, 12, 3, 3, device=device)
    for units, height, width in [(4, 5, 7), (5, 8, 6), (3, 6, 8)] if dynamic else [(4, 5, 7)]:
        input = torch.randn(units, 3, height, width, device=device)
        image, origin = torch.arange(units, device=device) % 2, torch.randint(-2, 4, (units, 2), device=device)
        switches = torch.randint(0, 4, (2, 3, 9, 9), device=device).to(torch.uint8)
        gradients: list[list[Tensor]] = []
        for function in (loss, compiled):
            given = [input.clone().requires_grad_(), weight.clone().requires_grad_()]
            gradients.append(list(torch.autograd.grad(function(*given, image, origin, switches), given)))
        for a, b in zip(*gradients, strict=True):
            assert a.any()
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


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


class Projector(torch.nn.Module):
    """A convolution's weight, packed once, and the windows sent back through it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randint(-3, 4, (4, 12, 3, 3)).float())
        self.register_buffer("packed", dk.pack_weight(self.weight.detach()))

    def forward(self, input: Tensor, switches: Tensor, image: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        pooled = {"switches": switches, "pool_kernel_size": 2, "relu": True, "output_size": (20, 21)}
        return dk.backproject2d(input, self.weight, image, origin, padding=1, packed=self.packed, **pooled)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_export_of_a_projection(device: torch.device, dynamic: bool) -> None:
    def given(units: int, height: int, width: int) -> tuple[Tensor, ...]:
        codes = torch.randint(0, 4, (2, 4, 10, 10), device=device).to(torch.uint8)
        place = torch.arange(units, device=device) % 2, torch.randint(-2, 9, (units, 2), device=device)
        return torch.randn(units, 4, height, width, device=device), codes, *place

    with torch.no_grad():
        projector = Projector().to(device)
        units = {0: torch.export.Dim.DYNAMIC}
        shapes = {"input": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC), "switches": None}
        shapes |= {"image": units, "origin": units}
        program = torch.export.export(projector, given(2, 3, 4), dynamic_shapes=shapes if dynamic else None)
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert sum("backproject2d" in target for target in targets) == 1
        for sizes in [(2, 3, 4)] + ([(7, 5, 2), (3, 2, 9)] if dynamic else []):
            inputs = given(*sizes)
            same(program.module()(*inputs), projector(*inputs))
