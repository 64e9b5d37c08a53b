"""torch.compile without graph breaks, with static and dynamic shapes, and torch.export."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

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


@pytest.mark.parametrize("transform", ["grad", "vmap of grad", "jvp", "hessian"])
def test_transforms_inside_compiled_code(device: torch.device, transform: str) -> None:
    switches = torch.randint(0, 9, (1, 2, 3, 3), device=device).to(torch.uint8)
    zeros = torch.zeros(1, 2, dtype=torch.int64, device=device)

    def loss(map: Tensor, weight: Tensor) -> Tensor:
        values, _ = dk.max_pool2d(map, 3, 2, 1, relu=True)
        unpooled = dk.max_unpool2d(values, switches[0], 3, 2, 1, output_size=map.shape[-2:])
        out, _ = dk.backproject2d(
            values[None], weight, zeros[:, 0], zeros, switches=switches, pool_kernel_size=3, pool_stride=2, relu=True
        )
        return (unpooled**3).sum() + (out**3).sum()

    map = torch.randn(3, 2, 6, 5, dtype=torch.float64, device=device)
    weight = torch.randn(2, 1, 2, 2, dtype=torch.float64, device=device)
    both = (0, 1)
    function, given = {
        "grad": (torch.func.grad(loss, both), (map[0], weight)),
        "vmap of grad": (torch.func.vmap(torch.func.grad(loss, both), (0, None)), (map, weight)),
        "jvp": (lambda m, w: torch.func.jvp(loss, (m, w), (m + 1, w + 2)), (map[0], weight)),
        "hessian": (torch.func.hessian(loss, both), (map[0], weight)),
    }[transform]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(tree_leaves(compiled(*given)), tree_leaves(function(*given)), strict=True):
        assert expected.any()
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


class Network(torch.nn.Module):
    """Down twice and up again, as SegNet; the second pooling keeps partial windows."""

    def __init__(self, window: tuple[int, int, int]) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.first = dk.nn.MaxPool2d(*window, return_switches=True, relu=True)
        self.second = dk.nn.MaxPool2d(*window, return_switches=True, ceil_mode=True)
        self.unpool = dk.nn.MaxUnpool2d(*window)

    def forward(self, map: Tensor) -> Tensor:
        once, switches = self.first(self.convolution(map))
        twice, second = self.second(once)
        return self.unpool(self.unpool(twice, second, once.shape[-2:]), switches, map.shape[-2:])


DYNAMIC = torch.export.Dim.DYNAMIC
N, H, W = (torch.export.Dim(name, min=least, max=512) for name, least in (("n", 1), ("h", 8), ("w", 8)))
DIMENSIONS = {"static": None, "inferred": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}, "named": {0: N, 2: H, 3: W}}
DIMENSIONS |= {"batch": {0: N}, "height": {2: H}}


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1)], ids=str)
def test_export(backend: str, device: torch.device, window: tuple[int, int, int], dimensions: str) -> None:
    """Any size within the bounds, odd or even, runs in the one program, in either memory format, also decomposed."""
    if backend == "reference" and dimensions != "named":
        pytest.skip("to export one opaque op is like another; the reference runs with named dimensions")
    network = Network(window).to(device)
    shape = (2, 3, 12, 14)
    dynamic = DIMENSIONS[dimensions]
    example = torch.randn(shape, device=device)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic and {"map": dynamic})
    decomposed = program.run_decompositions()
    for exported in (program, decomposed):
        targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert sum("max_pool2d" in target for target in targets) == 2
        assert sum("max_unpool2d" in target for target in targets) == 2
    modules = program.module(), decomposed.module()
    for other in (shape, (5, 3, 31, 17), (4, 3, 9, 40)):
        size = [
            new if axis in (dynamic or ()) else old for axis, (old, new) in enumerate(zip(shape, other, strict=True))
        ]
        for layout in (torch.contiguous_format, torch.channels_last):
            map = torch.randn(size, device=device).to(memory_format=layout)
            expected = network(map)
            assert all(torch.equal(module(map), expected) for module in modules), size


def test_exported_programs_can_be_kept(device: torch.device) -> None:
    network, map = Network((3, 2, 1)).to(device), torch.randn(2, 3, 12, 14, device=device)
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, (map,), dynamic_shapes=({0: N, 2: H, 3: W},)), file)
    file.seek(0)
    other = torch.randn(3, 3, 21, 10, device=device)
    assert torch.equal(torch.export.load(file).module()(other), network(other))


def test_exported_programs_learn(device: torch.device) -> None:
    """Their gradients are the network's."""
    network, map = Network((3, 2, 1)).to(device), torch.randn(2, 3, 13, 10, device=device)
    program = torch.export.export(network, (map,)).module()
    gradients = []
    for module in (network, program):
        (module(map) ** 2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
        module.zero_grad()
    for ours, expected in zip(*gradients, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected)


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
        units, rows, columns = (torch.export.Dim(name, min=1, max=64) for name in ("units", "rows", "columns"))
        shapes = {"input": {0: units, 2: rows, 3: columns}, "switches": None, "image": {0: units}, "origin": {0: units}}
        program = torch.export.export(projector, given(2, 3, 4), dynamic_shapes=shapes if dynamic else None)
        program = program.run_decompositions()
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert sum("backproject2d" in target for target in targets) == 1
        for sizes in [(2, 3, 4)] + ([(7, 5, 2), (3, 2, 9)] if dynamic else []):
            inputs = given(*sizes)
            same(program.module()(*inputs), projector(*inputs))
