"""Gradients, vmap, torch.func and autocast."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import DTYPES, Geometry, assert_same_bits, random_geometry, random_switches
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import deconv_kernels as dk

GEOMETRIES = {
    "2x2": Geometry((4, 6), (2, 2), (2, 2)),
    "overlapping": Geometry((5, 6), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    "dilated": Geometry((6, 5), (2, 2), (1, 2), (1, 0), (2, 3)),
}


def distinct(*shape: int) -> Tensor:
    """float64 values that differ by at least 0.1 and stay away from 0, so that small steps change no maximum."""
    count = torch.Size(shape).numel()
    return ((torch.randperm(count).double() - count // 2 + 0.5) / 10).view(shape)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_pooling(device: torch.device, geometry: Geometry, relu: bool) -> None:
    def pool(map: Tensor, bias: Tensor) -> Tensor:
        return dk.max_pool2d(map, *geometry.window, geometry.ceil_mode, bias=bias, relu=relu)[0]

    map = distinct(2, 2, *geometry.size).to(device).requires_grad_()
    bias = torch.tensor([0.01, -0.02], dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(pool, (map, bias))
    assert gradgradcheck(lambda m, b: pool(m, b) ** 2, (map, bias))


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_unpooling(device: torch.device, geometry: Geometry, overlap: str, relu: bool) -> None:
    switches = random_switches((2, 2, *geometry.pooled), geometry).to(device)

    def unpool(input: Tensor) -> Tensor:
        return dk.max_unpool2d(input, switches, *geometry.window, geometry.size, overlap=overlap, relu=relu)

    input = distinct(2, 2, *geometry.pooled).to(device).requires_grad_()
    assert gradcheck(unpool, (input,))
    assert gradgradcheck(lambda x: unpool(x) ** 2, (input,))


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
    assert gradcheck(unpool, (input,))
    assert gradgradcheck(lambda x: unpool(x) ** 2, (input,))


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


@pytest.mark.xfail(
    raises=RuntimeError, reason="torch.library.register_autograd does not serve torch.func.grad; autograd.grad works"
)
def test_functional_gradients(device: torch.device) -> None:
    map = distinct(2, 6, 6).to(device)
    bias = torch.tensor([0.01, -0.03], dtype=torch.float64, device=device)

    def pool(m: Tensor, b: Tensor) -> Tensor:
        return dk.max_pool2d(m, 2, bias=b, relu=True)[0]

    def plain(m: Tensor, b: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(m + b[:, None, None]), 2)

    for argument in (0, 1):
        ours = torch.func.jacrev(pool, argument)(map, bias)
        torch.testing.assert_close(ours, torch.func.jacrev(plain, argument)(map, bias), rtol=0, atol=0)
    gradient = torch.func.grad(lambda m: (pool(m, bias) ** 3).sum())(map)
    expected = torch.func.grad(lambda m: (plain(m, bias) ** 3).sum())(map)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    switches = dk.max_pool2d(map, 2)[1]
    jacobian = torch.func.jacrev(lambda v: dk.max_unpool2d(v, switches, 2))(torch.ones(2, 3, 3, device=device))
    assert jacobian.sum() == 18
    assert ((jacobian == 0) | (jacobian == 1)).all()


def test_batched_gradients(device: torch.device) -> None:
    map = torch.randn(2, 3, 6, 6, device=device, requires_grad=True)
    values, _ = dk.max_pool2d(map, 3, 2)
    weights = torch.randn(5, *values.shape, device=device)
    (together,) = torch.autograd.grad(values, map, weights, is_grads_batched=True, retain_graph=True)
    for index in range(5):
        (alone,) = torch.autograd.grad(values, map, weights[index], retain_graph=True)
        assert_same_bits(together[index], alone, "batched gradient")


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
