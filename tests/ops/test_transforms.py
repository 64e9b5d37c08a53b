"""Gradients, vmap, torch.func and autocast."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import DTYPES, Geometry, assert_same_bits, random_geometry, random_switches, unpool_by_hand
from torch import Tensor, func, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._pytree import tree_leaves

import deconv_kernels as dk
from deconv_kernels import backends
from deconv_kernels.ops import reference
from deconv_kernels.ops.geometry import Pooling

GEOMETRIES = {
    "2x2": Geometry((4, 6), (2, 2), (2, 2)),
    "overlapping": Geometry((5, 6), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    "dilated": Geometry((6, 5), (2, 2), (1, 2), (1, 0), (2, 3)),
}

IN_BOTH_MODES = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}


def distinct(*shape: int) -> Tensor:
    """float64 values at least 0.1 apart, of which no few sum to 0, so that small steps change no maximum or sign."""
    count = torch.Size(shape).numel()
    return ((torch.randperm(count).double() - count // 2 + 0.5) / 10 + 0.013).view(shape)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_pooling(device: torch.device, geometry: Geometry, relu: bool) -> None:
    def pool(map: Tensor, bias: Tensor) -> Tensor:
        return dk.max_pool2d(map, *geometry.window, geometry.ceil_mode, bias=bias, relu=relu)[0]

    map = distinct(2, 2, *geometry.size).to(device).requires_grad_()
    bias = torch.tensor([0.01, -0.02], dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(pool, (map, bias), **IN_BOTH_MODES)
    assert gradgradcheck(lambda m, b: pool(m, b) ** 2, (map, bias), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_unpooling(device: torch.device, geometry: Geometry, overlap: str, relu: bool) -> None:
    switches = random_switches((2, 2, *geometry.pooled), geometry).to(device)

    def unpool(input: Tensor) -> Tensor:
        return dk.max_unpool2d(input, switches, *geometry.window, geometry.size, overlap=overlap, relu=relu)

    input = distinct(2, 2, *geometry.pooled).to(device).requires_grad_()
    assert gradcheck(unpool, (input,), **IN_BOTH_MODES)
    assert gradgradcheck(lambda x: unpool(x) ** 2, (input,), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_unpooling_windows(device: torch.device, geometry: Geometry, overlap: str, relu: bool) -> None:
    switches = random_switches((2, 2, *geometry.pooled), geometry).to(device)
    image = torch.tensor([1, 0, 1], device=device)
    origin = torch.tensor([[0, 0], [-1, 1], [50, 0]], device=device)

    def unpool(input: Tensor) -> Tensor:
        return dk.max_unpool2d_window(input, switches, image, origin, *geometry.window, overlap=overlap, relu=relu)[0]

    input = distinct(3, 2, 2, 3).to(device).requires_grad_()
    assert gradcheck(unpool, (input,), **IN_BOTH_MODES)
    assert gradgradcheck(lambda x: unpool(x) ** 2, (input,), check_fwd_over_rev=True, fast_mode=True)


# Stride, padding, dilation and groups of a convolution, and its taps.
CONVOLUTIONS = {
    "3x3": (((1, 1), (1, 1), (1, 1), 1), (3, 3)),
    "strided": (((2, 1), (0, 1), (1, 2), 1), (2, 3)),
    "grouped": (((1, 2), (1, 0), (1, 1), 2), (3, 2)),
}
# What of the result is computed: all, a part, one that begins inside and ends beyond it, and one all beyond it.
PARTS = {
    "whole": {},
    "on a map": {"output_size": (5, 7)},
    "part": {"crop": ((1, 2), (3, 2))},
    "part on a map": {"crop": ((2, 0), (4, 3)), "output_size": (4, 6)},
    "overhanging": {"crop": ((2, 1), (19, 23)), "output_size": (9, 9)},
    "beyond": {"crop": ((40, 1), (2, 3))},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("pooling", ["not pooled", *GEOMETRIES])
def test_gradients_of_projections(device: torch.device, pooling: str, relu: bool, part: dict[str, Any]) -> None:
    """Of the windows and of the weight, which the result is linear in each, and their gradients' own gradients."""
    convolution, taps = random.choice(list(CONVOLUTIONS.values()))
    image = torch.tensor([1, 0], device=device)
    origin = torch.tensor([[0, 0], [-1, 1]], device=device)
    pooled: dict[str, Any] = {}
    if pooling != "not pooled":
        geometry = GEOMETRIES[pooling]
        kernel, stride, padding, dilation = geometry.window
        pooled = {"switches": random_switches((2, 2, *geometry.pooled), geometry).to(device)}
        pooled |= {"pool_kernel_size": kernel, "pool_stride": stride, "pool_padding": padding}
        pooled |= {"pool_dilation": dilation, "overlap": random.choice(["sum", "last"])}

    factors: Tensor | None = None

    def project(input: Tensor, weight: Tensor) -> Tensor:
        """Some sums over the result, linear and square, so that there are few gradients to take."""
        nonlocal factors
        out, _ = dk.backproject2d(input, weight, image, origin, *convolution, relu=relu, **pooled, **part)
        if factors is None:
            factors = torch.randn(3, *out.shape, dtype=torch.float64, device=device)
        return (torch.stack([out, out, out**2]) * factors).flatten(1).sum(1)

    input = distinct(2, 2, 2, 2).to(device).requires_grad_()
    weight = distinct(2, 2, *taps).to(device).requires_grad_()
    what = f"{convolution} {pooled.get('overlap')}"
    assert gradcheck(project, (input, weight), check_forward_ad=True, fast_mode=True), what
    assert gradgradcheck(project, (input, weight), check_fwd_over_rev=True, fast_mode=True), what


@pytest.mark.parametrize("pooling", ["not pooled", "overlapping"])
def test_gradients_of_projections_are_those_of_separate_ops(device: torch.device, pooling: str) -> None:
    """With the weight packed, in float32, either gradient alone or both at once."""
    geometry = GEOMETRIES["overlapping"]
    input, weight = torch.randn(3, 5, 4, 3, device=device), torch.randn(5, 17, 3, 3, device=device)
    image, origin = torch.tensor([1, 0, 1], device=device), torch.tensor([[0, 0], [-1, 1], [2, 9]], device=device)
    switches = random_switches((2, 5, *geometry.pooled), geometry).to(device)
    kernel, stride, padding, dilation = geometry.window

    def whole(x: Tensor, w: Tensor) -> Tensor:
        pooled = {"switches": switches, "pool_kernel_size": kernel, "pool_stride": stride, "pool_padding": padding}
        packed = dk.pack_weight(w.detach())
        options = pooled if pooling == "overlapping" else {}
        return dk.backproject2d(x, w, image, origin, relu=True, packed=packed, **options)[0]

    def separate(x: Tensor, w: Tensor) -> Tensor:
        if pooling == "overlapping":
            x = dk.max_unpool2d_window(x, switches, image, origin, *geometry.window)[0]
        return F.conv_transpose2d(F.relu(x), w)

    for wanted in ((True, False), (False, True), (True, True)):
        gradients = []
        for function in (whole, separate):
            given = [t.clone().requires_grad_(r) for t, r in zip((input, weight), wanted, strict=True)]
            out = function(*given)
            factors = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)
            gradients.append(torch.autograd.grad((out * factors).sum(), [t for t in given if t.requires_grad]))
        for ours, expected in zip(*gradients, strict=True):
            assert expected.any()
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_packed_weights_have_no_gradient(device: torch.device) -> None:
    weight = torch.randn(4, 16, 3, 3, device=device, requires_grad=True)
    packed = dk.pack_weight(weight)
    assert not packed.requires_grad, "the weight itself is what the gradient goes to"
    input, numbers = torch.randn(1, 4, 2, 2, device=device), torch.zeros(1, 2, dtype=torch.int64, device=device)
    out, _ = dk.backproject2d(input, weight, numbers[:, 0], numbers, packed=packed)
    (gradient,) = torch.autograd.grad(out.sum(), weight)
    assert gradient.shape == weight.shape
    torch.testing.assert_close(gradient, input.sum((0, 2, 3))[:, None, None, None].expand(weight.shape))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradient_of_pooling_is_that_of_aten(device: torch.device, layout: torch.memory_format) -> None:
    for geometry in [random_geometry() for _ in range(6)]:
        if geometry.windows_off_the_map.any():
            continue  # ATen's gradient reads outside its memory for them
        map = torch.randint(-3, 4, (2, 5, *geometry.size)).float()
        gradients = []
        for ours in (True, False):
            given = map.to(device if ours else "cpu", memory_format=layout).requires_grad_()
            if ours:
                values = dk.max_pool2d(given, *geometry.window, geometry.ceil_mode, relu=True)[0]
            else:
                values = F.max_pool2d(F.relu(given), *geometry.window, geometry.ceil_mode)
            weight = torch.arange(values.numel(), dtype=torch.float32).view(values.shape) - 40
            gradients += torch.autograd.grad((values * weight.to(values.device)).sum(), given)
        # A window of zeros passes its gradient to the rectifier in both; there it ends.
        assert_same_bits(gradients[0] + 0.0, gradients[1] + 0.0, str(geometry))


def test_switches_have_no_gradient(device: torch.device) -> None:
    map = torch.randn(1, 2, 4, 4, device=device, requires_grad=True)
    values, switches = dk.max_pool2d(map, 2)
    assert values.requires_grad
    assert not switches.requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            plain, _ = dk.max_pool2d(map, 2)
        assert not plain.requires_grad
        assert torch.equal(plain, values)
    with torch.inference_mode():
        assert dk.max_pool2d(map, 2)[0].is_inference()


def test_a_bias_alone_gets_its_gradient(device: torch.device) -> None:
    map, bias = torch.randn(2, 3, 6, 6, device=device), torch.zeros(3, device=device, requires_grad=True)
    values, _ = dk.max_pool2d(map, 2, bias=bias)
    (gradient,) = torch.autograd.grad(values.sum(), bias)
    assert gradient.tolist() == [18.0, 18.0, 18.0]


@pytest.mark.parametrize("batched", [True, False], ids=["4-d", "3-d"])
@pytest.mark.parametrize("bias_dim", [None, 0, 1])
@pytest.mark.parametrize("map_dim", [None, 0, 1, -1])
def test_vmap_of_pooling(device: torch.device, map_dim: int | None, bias_dim: int | None, batched: bool) -> None:
    for dtype in random.sample(DTYPES, 2):
        shape = [2, 3, 6, 7] if batched else [3, 6, 7]
        map = torch.randn(shape if map_dim is None else [4, *shape]).to(device, dtype)
        map = map if map_dim is None else map.movedim(0, map_dim)
        bias = torch.randn([3] if bias_dim is None else [4, 3]).to(device, dtype)
        bias = bias if bias_dim is None else bias.movedim(0, bias_dim)

        def pool(m: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return dk.max_pool2d(m, 3, 2, 1, bias=b, relu=True)

        if map_dim is None and bias_dim is None:
            with pytest.raises(ValueError, match="vmap"):
                torch.vmap(pool, in_dims=(None, None))(map, bias)
            continue
        together = torch.vmap(pool, in_dims=(map_dim, bias_dim))(map, bias)
        for index in range(4):
            one = map if map_dim is None else map.select(map_dim, index)
            expected = pool(one, bias if bias_dim is None else bias.select(bias_dim, index))
            for result, alone in zip(together, expected, strict=True):
                assert_same_bits(result[index], alone, f"{map_dim} {bias_dim} {dtype}")


@pytest.mark.parametrize("batched", [True, False], ids=["4-d", "3-d"])
@pytest.mark.parametrize(
    "dims", [d for d in itertools.product([None, 0, 2], [None, 0, -1]) if d != (None, None)], ids=str
)
def test_vmap_of_unpooling(device: torch.device, dims: tuple[int | None, int | None], batched: bool) -> None:
    geometry = GEOMETRIES["overlapping"]
    shape = ([2] if batched else []) + [3, *geometry.pooled]
    input = torch.randn([4, *shape] if dims[0] is not None else shape, device=device)
    switches = random_switches(tuple([4, *shape] if dims[1] is not None else shape), geometry).to(device)
    input = input if dims[0] is None else input.movedim(0, dims[0])
    switches = switches if dims[1] is None else switches.movedim(0, dims[1])
    for overlap in ("sum", "last"):

        def unpool(x: Tensor, s: Tensor, overlap: str = overlap) -> Tensor:
            return dk.max_unpool2d(x, s, *geometry.window, geometry.size, overlap=overlap)

        together = torch.vmap(unpool, in_dims=dims)(input, switches)
        for index in range(4):
            x = input if dims[0] is None else input.select(dims[0], index)
            s = switches if dims[1] is None else switches.select(dims[1], index)
            assert_same_bits(together[index], unpool(x, s), f"{dims} {overlap}")


@pytest.mark.parametrize("dims", [d for d in itertools.product([None, 0], repeat=4) if any(x == 0 for x in d)], ids=str)
def test_vmap_of_unpooling_windows(device: torch.device, dims: tuple[int | None, ...]) -> None:
    geometry = GEOMETRIES["overlapping"]

    def many(tensor: Tensor, dim: int | None) -> Tensor:
        return tensor[0] if dim is None else tensor

    given = [
        many(torch.randn(4, 5, 3, 2, 2), dims[0]),
        many(random_switches((4, 2, 3, *geometry.pooled), geometry), dims[1]),
        many(torch.randint(0, 2, (4, 5)), dims[2]),
        many(torch.randint(-2, 4, (4, 5, 2)), dims[3]),
    ]
    given = [tensor.to(device) for tensor in given]

    def unpool(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return dk.max_unpool2d_window(*tensors, *geometry.window)

    together = torch.vmap(unpool, in_dims=dims, out_dims=(0, 0 if dims[3] == 0 else None))(*given)
    for index in range(4):
        alone = unpool(*(t if d is None else t[index] for t, d in zip(given, dims, strict=True)))
        assert_same_bits(together[0][index], alone[0], f"windows {dims}")
        assert_same_bits(together[1][index] if dims[3] == 0 else together[1], alone[1], f"origins {dims}")


@pytest.mark.parametrize("pooling", ["not pooled", "2x2", "overlapping"])
@pytest.mark.parametrize("dims", [d for d in itertools.product([None, 0], repeat=4) if any(x == 0 for x in d)], ids=str)
def test_vmap_of_projections(device: torch.device, dims: tuple[int | None, ...], pooling: str) -> None:
    """Over each of the tensors and all of them; with small integers, whose sums do not depend on their order."""
    place = random.choice([None, 0])
    names = ("input", "weight", "image", "origin", "switches", "packed")
    dimension = dict(zip(names, (*dims[:2], place, place, *dims[2:]), strict=True))
    geometry = GEOMETRIES.get(pooling)
    given = {
        "input": torch.randint(-3, 4, (3, 5, 4, 2, 3)).float().to(device),
        "weight": torch.randint(-3, 4, (3, 4, 12, 3, 3)).float().to(device),
        "image": torch.randint(0, 2, (3, 5), device=device),
        "origin": torch.randint(-2, 4, (3, 5, 2), device=device),
    }
    pooled: dict[str, Any] = {}
    if geometry is not None:
        given["switches"] = random_switches((3, 2, 4, *geometry.pooled), geometry).to(device)
        pooled = {"pool_kernel_size": geometry.kernel, "pool_stride": geometry.stride}
        pooled |= {"pool_padding": geometry.padding, "pool_dilation": geometry.dilation}
    if dimension["packed"] == 0 or random.random() < 0.5:
        if dimension["weight"] is None:  # then every one is what was made of the one weight
            given["weight"] = given["weight"][:1].expand(3, 4, 12, 3, 3)
        else:
            dimension["packed"] = 0
        given["packed"] = torch.stack([dk.pack_weight(weight) for weight in given["weight"]])
    tensors = {name: t if dimension[name] == 0 else t[0] for name, t in given.items()}
    in_dims = tuple(dimension[name] for name in tensors)
    if all(dim is None for dim in in_dims):
        pytest.skip("only switches are mapped, and there are none")

    def project(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(tensors, arguments, strict=True))
        return dk.backproject2d(padding=1, relu=True, output_size=(9, 10), **named, **pooled)

    together = torch.vmap(project, in_dims=in_dims, out_dims=(0, place))(*tensors.values())
    for index in range(3):
        alone = project(*(t[index] if dimension[name] == 0 else t for name, t in tensors.items()))
        assert_same_bits(together[0][index], alone[0], f"windows {dimension}")
        assert_same_bits(together[1][index] if place == 0 else together[1], alone[1], f"origins {dimension}")


def test_vmap_of_packing(device: torch.device) -> None:
    for shape in ((4, 12, 3, 3), (4, 3, 5, 5)):
        weights = torch.randn(shape[0], 3, *shape[1:], device=device)
        together = torch.vmap(dk.pack_weight, in_dims=1)(weights)
        assert_same_bits(together, torch.stack([dk.pack_weight(w) for w in weights.unbind(1)]), str(shape))


def test_vmap_of_conversions(device: torch.device) -> None:
    geometry = GEOMETRIES["2x2"]
    for batched in (True, False):
        shape = (4, *([2] if batched else []), 3, *geometry.pooled)
        switches = random_switches(shape, geometry, outside=False).to(device)
        indices = torch.vmap(lambda s: dk.switches_to_indices(s, geometry.size, *geometry.window), 1)(
            switches.movedim(0, 1)
        )
        back = torch.vmap(lambda i: dk.indices_to_switches(i, geometry.size, *geometry.window))(indices)
        assert_same_bits(back, switches, "back")
        alone = dk.switches_to_indices(switches[2], geometry.size, *geometry.window)
        assert_same_bits(indices[2], alone, "indices")


def test_vmap_within_vmap(device: torch.device) -> None:
    map = torch.randn(2, 3, 4, 6, 6, device=device)
    twice = torch.vmap(torch.vmap(lambda m: dk.max_pool2d(m, 2)))(map)
    for result, alone in zip(twice, dk.max_pool2d(map.flatten(0, 1), 2), strict=True):
        assert_same_bits(result.flatten(0, 1), alone, "nested")


Function = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]


def pooling_twice(device: torch.device, as_op: bool) -> tuple[Function, Function, Tensors]:
    """An op, what it is in torch's own ops, and arguments; so do the next three."""
    geometry = GEOMETRIES["overlapping"]

    def ours(map: Tensor, bias: Tensor) -> Tensor:
        if as_op:
            return backends.operator("max_pool2d", map)(map, bias, *geometry.window, geometry.ceil_mode, True)[0]
        return dk.max_pool2d(map, *geometry.window, geometry.ceil_mode, bias=bias, relu=True)[0]

    def plain(map: Tensor, bias: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(map + bias[:, None, None]), *geometry.window, geometry.ceil_mode)

    bias = torch.tensor([0.01, -0.02], dtype=torch.float64)
    return ours, plain, (distinct(2, *geometry.size).to(device), bias.to(device))


def linear(function: Function, input: Tensor) -> Function:
    """`function` as a product with a matrix."""
    units = torch.eye(input.numel(), dtype=input.dtype, device=input.device).view(-1, *input.shape)
    results = torch.stack([function(unit) for unit in units])
    return lambda input: (input.flatten() @ results.flatten(1)).view(results.shape[1:])


def unpooling_twice(device: torch.device, as_op: bool) -> tuple[Function, Function, Tensors]:
    geometry, overlap = GEOMETRIES["overlapping"], random.choice(["sum", "last"])
    switches = random_switches((2, *geometry.pooled), geometry, outside=False).to(device)

    def ours(input: Tensor) -> Tensor:
        if as_op:
            unpool = backends.operator("max_unpool2d", input)
            return unpool(input, switches, *geometry.window, geometry.size, overlap, True)
        return dk.max_unpool2d(input, switches, *geometry.window, geometry.size, overlap=overlap, relu=True)

    input = distinct(2, *geometry.pooled).to(device) + 0.5
    by_hand = linear(lambda unit: unpool_by_hand(unit, switches, geometry, overlap, False).to(device), input)
    return ours, lambda input: F.relu(by_hand(input)), (input,)


def unpooling_windows_twice(device: torch.device, as_op: bool) -> tuple[Function, Function, Tensors]:
    geometry, overlap = GEOMETRIES["overlapping"], random.choice(["sum", "last"])
    switches = random_switches((2, 1, *geometry.pooled), geometry, outside=False).to(device)
    places = torch.tensor([1, 0, 1], device=device), torch.tensor([[0, 0], [-1, 1], [1, 1]], device=device)
    kernel, stride, _, dilation = geometry.window

    def ours(input: Tensor) -> Tensor:
        if as_op:
            unpool = backends.operator("max_unpool2d_window", input)
            return unpool(input, switches, *places, kernel, stride, dilation, overlap, True)
        return dk.max_unpool2d_window(input, switches, *places, *geometry.window, overlap=overlap, relu=True)[0]

    def unpooled(unit: Tensor) -> Tensor:
        pooling = Pooling(kernel, stride, (0, 0), dilation)
        return reference.max_unpool_window(unit, switches, *places, pooling, overlap, False)

    input = distinct(3, 1, 2, 3).to(device) + 0.5
    matrix = linear(unpooled, input)
    return ours, lambda input: F.relu(matrix(input)), (input,)


def projecting_twice(device: torch.device, as_op: bool) -> tuple[Function, Function, Tensors]:
    geometry, overlap = GEOMETRIES["overlapping"], random.choice(["sum", "last"])
    switches = random_switches((2, 2, *geometry.pooled), geometry, outside=False).to(device)
    places = torch.tensor([1, 0], device=device), torch.tensor([[0, 0], [-1, 1]], device=device)
    kernel, stride, _, dilation = geometry.window
    pooling = {"pool_kernel_size": kernel, "pool_stride": stride, "switches": switches, "overlap": overlap}
    size, map_size = (5, 6), (6, 5)

    def ours(input: Tensor, weight: Tensor) -> Tensor:
        if as_op:
            send = backends.operator("backproject2d", input)
            pooled = (switches, None, kernel, stride, dilation, overlap, True)
            return send(input, weight, *places, *pooled, (1, 2), (1, 1), 1, (1, 0), size, (1, 0), map_size)
        crop = {"crop": ((1, 0), size), "output_size": map_size, "packed": dk.pack_weight(weight, (1, 2))}
        return dk.backproject2d(input, weight, *places, (1, 2), relu=True, **pooling, **crop)[0]

    def unpooled(unit: Tensor) -> Tensor:
        pooling = Pooling(kernel, stride, (0, 0), dilation)
        return reference.max_unpool_window(unit, switches, *places, pooling, overlap, False)

    input, weight = distinct(2, 2, 2, 1).to(device) + 0.3, distinct(2, 1, 2, 3).to(device)
    matrix = linear(unpooled, input)
    y = places[1][:, :1] * stride[0] + 1 + torch.arange(size[0], device=device)
    x = places[1][:, 1:] * stride[1] * 2 + torch.arange(size[1], device=device)
    inside = ((y >= 0) & (y < map_size[0]))[:, None, :, None] & ((x >= 0) & (x < map_size[1]))[:, None, None]

    def plain(input: Tensor, weight: Tensor) -> Tensor:
        whole = F.conv_transpose2d(F.relu(matrix(input)), weight, stride=(1, 2))
        part = whole[..., 1 : size[0] + 1, : size[1]]
        return torch.where(inside, F.pad(part, (0, size[1] - part.shape[3], 0, size[0] - part.shape[2])), 0)

    return ours, plain, (input, weight)


def every(tensors: Tensors) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


def total(function: Function) -> Function:
    return lambda *tensors: (function(*tensors) ** 3).sum()


def batch(tensors: Tensors) -> Tensors:
    return tuple(torch.stack([t, 1.5 * t, t.flip(-1)]) for t in tensors)


def squared_gradients(function: Function) -> Function:
    return lambda *tensors: sum((g**2).sum() for g in func.grad(total(function), every(tensors))(*tensors))


def without_part(function: Function) -> Function:
    """One of two factors is a constant to the transform."""

    def constant(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            factor = function(*tensors)
        return (factor * function(*tensors)).sum()

    return constant


def recorded(function: Callable[..., Any], tensors: Tensors) -> Tensors:
    """Gradients by autograd of what `function` makes, a transform inside."""
    given = tuple(t.clone().requires_grad_() for t in tensors)
    return torch.autograd.grad(sum((made**2).sum() for made in function(*given)), given)


def dual(function: Callable[..., Tensors], tensors: Tensors, tangents: Tensors) -> list[tuple[Tensor, Tensor]]:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, tangent) for t, tangent in zip(tensors, tangents, strict=True)]
        return [tuple(forward_ad.unpack_dual(made)) for made in function(*duals)]


# Each from a function f, its arguments x and tangents t of these.
TRANSFORMS: dict[str, Callable[[Function, Tensors, Tensors], Any]] = {
    "grad": lambda f, x, t: func.grad(total(f), every(x))(*x),
    "vjp": lambda f, x, t: func.vjp(f, *x)[1](torch.ones_like(f(*x))),
    "jvp": lambda f, x, t: func.jvp(f, x, t),
    "jacrev": lambda f, x, t: func.jacrev(f, every(x))(*x),
    "jacfwd": lambda f, x, t: func.jacfwd(f, every(x))(*x),
    "linearize": lambda f, x, t: func.linearize(f, *x)[1](*t),
    "grad of grad": lambda f, x, t: func.grad(squared_gradients(f), every(x))(*x),
    "jvp of jvp": lambda f, x, t: func.jvp(lambda *y: func.jvp(f, y, t)[1], x, t),
    "jvp of grad": lambda f, x, t: func.jvp(func.grad(total(f), every(x)), x, t),
    "grad of jvp": lambda f, x, t: func.grad(lambda *y: total(lambda *z: func.jvp(f, z, t)[1])(*y), every(x))(*x),
    "jacrev of jacrev": lambda f, x, t: func.jacrev(func.jacrev(total(f), every(x)), every(x))(*x),
    "jacfwd of jacrev": lambda f, x, t: func.hessian(total(f), every(x))(*x),
    "jacrev of jacfwd": lambda f, x, t: func.jacrev(func.jacfwd(total(f), every(x)), every(x))(*x),
    "jacfwd of jacfwd": lambda f, x, t: func.jacfwd(func.jacfwd(total(f), every(x)), every(x))(*x),
    "vmap of grad": lambda f, x, t: func.vmap(func.grad(total(f), every(x)))(*batch(x)),
    "vmap of jvp": lambda f, x, t: func.vmap(lambda *y: func.jvp(f, y[: len(x)], y[len(x) :]))(*batch(x), *batch(t)),
    "vmap of hessian": lambda f, x, t: func.vmap(func.hessian(total(f), every(x)))(*batch(x)),
    "grad of vmap": lambda f, x, t: func.grad(total(func.vmap(f)), every(x))(*batch(x)),
    "jvp of vmap": lambda f, x, t: func.jvp(func.vmap(f), batch(x), batch(t)),
    "grad under no_grad": lambda f, x, t: torch.no_grad()(func.grad(total(f), every(x)))(*x),
    "grad with a constant": lambda f, x, t: func.grad(without_part(f), every(x))(*x),
    "autograd of grad": lambda f, x, t: recorded(func.grad(total(f), every(x)), x),
    "autograd of jvp": lambda f, x, t: recorded(lambda *y: func.jvp(f, y, t), x),
    "autograd of vmap": lambda f, x, t: recorded(func.vmap(f), batch(x)),
    "dual numbers in grad": lambda f, x, t: dual(func.grad(total(f), every(x)), x, t),
}


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # linearize
@pytest.mark.parametrize("as_op", [False, True], ids=["function", "op"])
@pytest.mark.parametrize("twice", [pooling_twice, unpooling_twice, unpooling_windows_twice, projecting_twice])
def test_transforms(
    device: torch.device, twice: Callable[..., tuple[Function, Function, Tensors]], as_op: bool
) -> None:
    ours, plain, tensors = twice(device, as_op)
    tangents = tuple(torch.randn_like(t) for t in tensors)
    for name, transform in TRANSFORMS.items():
        results = [tree_leaves(transform(square(f), tensors, tangents)) for f in (ours, plain)]
        assert len(results[0]) == len(results[1]) > 0, name
        assert any(expected.any() for expected in results[1]), name
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(
                actual, expected, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
            )


def square(function: Function) -> Function:
    """So that derivatives of second order are not zero."""
    return lambda *tensors: function(*tensors) ** 2


def test_gradients_per_sample_of_a_network(device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), dk.nn.MaxPool2d(2, relu=True), nn.Conv2d(3, 1, 2)).to(device).double()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    maps = torch.randn(4, 2, 9, 8, dtype=torch.float64, device=device)

    def loss(parameters: dict[str, Tensor], map: Tensor) -> Tensor:
        return (func.functional_call(network, parameters, map) ** 2).sum()

    together = func.vmap(func.grad(loss), in_dims=(None, 0))(parameters, maps)
    for index, map in enumerate(maps):
        alone = torch.autograd.grad((network(map) ** 2).sum(), tuple(network.parameters()))
        for name, expected in zip(parameters, alone, strict=True):
            assert expected.any()
            torch.testing.assert_close(together[name][index], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_of_transforms(device: torch.device, kept: torch.dtype) -> None:
    """As without transforms, in both modes."""
    map, bias = torch.randn(2, 6, 6, device=device), torch.randn(2, device=device)
    input, weight = torch.randn(1, 4, 3, 3, device=device), torch.randn(4, 3, 2, 2, device=device)
    zeros = torch.zeros(1, 2, dtype=torch.int64, device=device)

    def pool(map: Tensor, bias: Tensor) -> Tensor:
        return dk.max_pool2d(map.to(kept), 2, bias=bias, relu=True)[0]

    def project(input: Tensor, weight: Tensor) -> Tensor:
        return dk.backproject2d(input, weight, zeros[:, 0], zeros)[0]

    for function, given in ((pool, (map, bias)), (project, (input, weight))):
        with torch.autocast(device.type, kept):
            out, pull = func.vjp(function, *given)
            gradients = pull(torch.ones_like(out))
            pushed, tangent = func.jvp(function, given, given)
            recorded = [t.clone().requires_grad_() for t in given]
            expected = function(*recorded)
        assert tangent.dtype == pushed.dtype == out.dtype == kept
        assert_same_bits(out, expected, "vjp")
        assert_same_bits(pushed, expected, "jvp")
        for ours, wanted in zip(gradients, torch.autograd.grad(expected.sum(), recorded), strict=True):
            assert_same_bits(ours, wanted, "gradient")
        if function is pool:
            torch.testing.assert_close(tangent, expected, msg="a tangent of its own map is the rectified map")
        else:
            torch.testing.assert_close(tangent, 2 * expected, rtol=0.05, atol=0.05, msg="twice, for two factors")


def test_batched_gradients(device: torch.device) -> None:
    map = torch.randn(2, 3, 6, 6, device=device, requires_grad=True)
    values, _ = dk.max_pool2d(map, 3, 2)
    weights = torch.randn(5, *values.shape, device=device)
    (together,) = torch.autograd.grad(values, map, weights, is_grads_batched=True, retain_graph=True)
    for index in range(5):
        (alone,) = torch.autograd.grad(values, map, weights[index], retain_graph=True)
        assert_same_bits(together[index], alone, "batched gradient")


def test_batched_gradients_of_projections(device: torch.device) -> None:
    geometry = GEOMETRIES["overlapping"]
    switches = random_switches((2, 4, *geometry.pooled), geometry).to(device)
    input = distinct(3, 4, 2, 3).to(device).requires_grad_()
    weight = torch.randn(4, 12, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    image, origin = torch.tensor([1, 0, 1], device=device), torch.tensor([[0, 0], [-1, 1], [2, 1]], device=device)
    out, _ = dk.backproject2d(
        input,
        weight,
        image,
        origin,
        switches=switches,
        pool_kernel_size=geometry.kernel,
        pool_stride=geometry.stride,
        relu=True,
        output_size=(9, 9),
    )
    factors = torch.randn(5, *out.shape, dtype=torch.float64, device=device)
    together = torch.autograd.grad(out, (input, weight), factors, is_grads_batched=True, retain_graph=True)
    for index in range(5):
        alone = torch.autograd.grad(out, (input, weight), factors[index], retain_graph=True)
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[index], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("pooled", [False, True], ids=["not pooled", "pooled"])
def test_autocast_of_projections_is_that_of_convolutions(device: torch.device, kept: torch.dtype, pooled: bool) -> None:
    """float32 and the other 16-bit type run in autocast's, float64 stays, and a weight packed before does no harm."""
    input, weight = torch.randn(3, 4, 3, 3, device=device), torch.randn(4, 16, 3, 3, device=device)
    numbers = torch.zeros(3, 2, dtype=torch.int64, device=device)
    options: dict[str, Any] = {"relu": True}
    if pooled:
        codes = torch.randint(0, 4, (1, 4, 5, 5), device=device).to(torch.uint8)
        options |= {"switches": codes, "pool_kernel_size": 2}

    def project(x: Tensor, w: Tensor, packed: Tensor | None = None) -> Tensor:
        return dk.backproject2d(x, w, numbers[:, 0], numbers, packed=packed, **options)[0]

    expected = project(input.to(kept), weight.to(kept))
    other = torch.float16 if kept == torch.bfloat16 else torch.bfloat16
    packs = None, dk.pack_weight(weight), dk.pack_weight(weight.to(kept))
    double = project(input.double(), weight.double())
    with torch.autocast(device.type, kept):
        assert F.conv_transpose2d(input, weight).dtype == kept
        for differentiates in (False, True):
            x, w = (t.clone().requires_grad_(differentiates) for t in (input, weight))
            for packed in packs[:2]:
                assert_same_bits(project(x, w, packed), expected, f"requires_grad {differentiates}")
            assert_same_bits(project(x, w.to(kept), packs[2]), expected, "a weight cast and packed before")
            assert_same_bits(project(x.to(kept), w), expected, "an input cast before")
            assert project(x.to(other), w.to(other)).dtype == kept
            assert_same_bits(project(x.double(), w.double()), double, "float64")
            assert_same_bits(project(x.double(), w), project(x.double(), w.double()), "float64 and a float32 weight")
        weights = torch.stack([weight, weight * 2])
        together = torch.vmap(lambda w: project(input, w))(weights)
        assert_same_bits(together, torch.stack([expected, project(input, weight * 2)]), "vmap over weights")
    given = [input.clone().requires_grad_(), weight.clone().requires_grad_()]
    with torch.autocast(device.type, kept):
        out = project(*given)
    out.float().sum().backward()
    assert [t.grad.dtype for t in given] == [torch.float32, torch.float32]
    assert all(t.grad.any() for t in given)


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_dtype_and_the_bias_follows(device: torch.device, kept: torch.dtype) -> None:
    map, bias = torch.randn(2, 3, 6, 6, device=device), torch.randn(3, device=device)
    with torch.autocast(device.type, kept):
        values, switches = dk.max_pool2d(map.to(kept), 2, bias=bias, relu=True)
        assert_same_bits(values, dk.max_pool2d(map.to(kept), 2, bias=bias.to(kept), relu=True)[0], "values")
        assert dk.max_pool2d(map, 2, bias=bias.to(kept))[0].dtype == torch.float32
        assert dk.max_unpool2d(values, switches, 2).dtype == kept
        assert dk.max_unpool2d(values.float(), switches, 2).dtype == torch.float32
        biases = torch.randn(4, 3, device=device)
        together, _ = torch.vmap(lambda b: dk.max_pool2d(map.to(kept), 2, bias=b))(biases)
        expected = torch.stack([dk.max_pool2d(map.to(kept), 2, bias=b)[0] for b in biases])
        assert_same_bits(together, expected, "vmap over biases")


def test_autocast_gradients(device: torch.device) -> None:
    map = torch.randn(2, 3, 6, 6, device=device, requires_grad=True)
    bias = torch.randn(3, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        values, _ = dk.max_pool2d(map.bfloat16(), 2, bias=bias)
    values.float().sum().backward()
    assert (map.grad.dtype, bias.grad.dtype) == (torch.float32, torch.float32)
    assert bias.grad.tolist() == [18.0] * 3
    assert map.grad.sum() == 54
