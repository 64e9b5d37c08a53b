"""torch.library.opcheck for every op of every namespace, and fakes that describe exactly what the kernels return."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from pooling_cases import DTYPES, LAYOUTS, POOL, Geometry, random_geometry, random_switches, random_values
from torch._subclasses import FakeTensorMode

import deconv_kernels as dk
from deconv_kernels import backends
from deconv_kernels.ops.library import without_rank

NAMESPACES = {
    "cpu": "deconv_kernels",
    "cuda": "deconv_kernels",
    "triton": "deconv_kernels_triton",
    "reference": "deconv_kernels_reference",
}
GEOMETRIES = {
    "2x2": Geometry((8, 10), (2, 2), (2, 2)),
    "overlapping": Geometry((9, 8), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    "dilated": Geometry((11, 12), (2, 3), (1, 2), (1, 1), (2, 1)),
}
VOLUMES = {
    "2x2x2": Geometry((4, 6, 8), (2, 2, 2), (2, 2, 2)),
    "overlapping": Geometry((5, 6, 7), (3, 2, 3), (2, 2, 2), (1, 0, 1), ceil_mode=True),
    "dilated": Geometry((5, 9, 8), (1, 2, 3), (1, 1, 2), (0, 1, 1), (1, 2, 1)),
}


def rank_of(name: str) -> int:
    """Of the maps that an op is tried on; those that serve every rank are tried on both."""
    return 3 if "3d" in name or ("2d" not in name and random.random() < 0.5) else 2


def geometries_of(rank: int) -> dict[str, Geometry]:
    return GEOMETRIES if rank == 2 else VOLUMES


def operator(backend: str, name: str) -> Any:
    return getattr(getattr(torch.ops, NAMESPACES[backend]), name).default


def arguments(name: str, geometry: Geometry, device: torch.device, layout: str, dtype: torch.dtype) -> list[Any]:
    """Good arguments of an op on maps of two images of three channels."""

    rank, kind = geometry.rank, without_rank(name)

    def laid_out(tensor: torch.Tensor, rank: int = rank) -> torch.Tensor:
        return LAYOUTS[layout](tensor, rank).to(device)

    map = laid_out(random_values((2, 3, *geometry.size), dtype, "normal"))
    pooled = laid_out(random_values((2, 3, *geometry.pooled), dtype, "normal"))
    bias = torch.randn(3).to(device, dtype)
    window = [list(numbers) for numbers in geometry.window]
    _, switches = POOL[rank](map.detach(), *geometry.window, geometry.ceil_mode)
    size = list(geometry.size)
    if kind == "max_pool":
        return [map, bias, *window, geometry.ceil_mode, True]
    if kind == "max_unpool":
        return [pooled, switches, *window, size, "sum", True]
    if kind in ("max_unpool_window", "backproject"):
        windows = laid_out(random_values((3, 3, 3, 2, 4)[: rank + 2], dtype, "normal"))
        image = torch.tensor([1, 0, 1], device=device)
        origin = torch.tensor([[0, 0, 0], [1, -1, 0], [9, 2, 1]], device=device)[:, :rank].contiguous()
    if kind == "max_unpool_window":
        return [windows, switches, image, origin, window[0], window[1], window[3], "last", False]
    if kind in ("backproject", "pack_weight"):
        kernel = random.choice([(3, 3, 3), (1, 1, 1), (2, 4, 1)])[:rank]
        weight = laid_out(random_values((3, 13, *kernel), dtype, "normal"))
        convolution = random.choice([([1, 1, 1], [1, 1, 1]), ([2, 1, 1], [1, 3, 2])])
        convolution = [numbers[:rank] for numbers in convolution]
        if kind == "pack_weight":
            return [weight, *convolution, 1]
        pooled_by = [switches, None, window[0], window[1], window[3], "sum", True]
        placement = [numbers[:rank] for numbers in ([1, 0, 1], [9, 5, 7], [-1, 0, 1], [9, 17, 8])]
        return [windows, weight, image, origin, *pooled_by, *convolution, 1, *placement]
    if name == "switches_to_indices":
        return [switches, size, *window]
    return [dk.switches_to_indices(switches, size, *geometry.window), size, *window]


@pytest.mark.parametrize("differentiates", [False, True], ids=["plain", "requires_grad"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", backends.OPS)
def test_opcheck(backend: str, device: torch.device, name: str, layout: str, differentiates: bool) -> None:
    geometry = random.choice(list(geometries_of(rank_of(name)).values()))
    given = arguments(name, geometry, device, layout, torch.float32)
    if differentiates and not given[0].is_floating_point():
        pytest.skip(f"{name} has no gradient: its input holds integers")
    for tensor in given[: 2 if without_rank(name) in ("max_pool", "backproject") else 1]:
        tensor.requires_grad_(differentiates)
    torch.library.opcheck(operator(backend, name), tuple(given))


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("name", ["max_unpool2d", "max_unpool3d", "max_unpool2d_window", "max_unpool3d_window"])
def test_opcheck_of_overlaps(backend: str, device: torch.device, name: str, overlap: str) -> None:
    given = arguments(name, geometries_of(rank_of(name))["overlapping"], device, "contiguous", torch.float64)
    given[given.index("sum" if "sum" in given else "last")] = overlap
    given[0].requires_grad_()
    torch.library.opcheck(operator(backend, name), tuple(given))


@pytest.mark.parametrize("differentiates", [(True, False), (False, True)], ids=["input", "weight"])
@pytest.mark.parametrize("packs", [False, True], ids=["weight as it is", "packed"])
@pytest.mark.parametrize("pools", [False, True], ids=["not pooled", "pooled"])
def test_opcheck_of_projections(
    backend: str, device: torch.device, pools: bool, packs: bool, differentiates: tuple[bool, bool]
) -> None:
    """With and without the optional tensors, either gradient alone, and a crop that goes on beyond the result."""
    geometry = random.choice(list(GEOMETRIES.values()))
    given = arguments("backproject2d", geometry, device, random.choice(["contiguous", "channels_last"]), torch.float64)
    weight, stride, dilation, groups = given[1], *given[11:14]
    if packs:
        given[5] = operator(backend, "pack_weight")(weight, stride, dilation, groups)
    if not pools:
        given[4], given[6], given[7], given[8] = None, [1, 1], [1, 1], [1, 1]
        given[15], given[17] = [30, 30], [-1, -1]
    for tensor, requires_grad in zip(given[:2], differentiates, strict=True):
        tensor.requires_grad_(requires_grad)
    torch.library.opcheck(operator(backend, "backproject2d"), tuple(given))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fake_packed_weights_are_like_the_real_ones(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Over all that decides how a weight is packed: taps, stride, dilation, groups and channels of a group."""
    kernels, channels = [(3, 3), (1, 1), (1, 3), (5, 5), (2, 4), (11, 11)], [1, 2, 5, 6, 11, 12, 16, 17, 64, 65, 130]
    for kernel, layout in itertools.product(kernels, LAYOUTS):
        groups = random.choice([1, 1, 2, 5])
        shape = (groups * random.choice([1, 3, 13]), random.choice(channels), *kernel)
        weight = LAYOUTS[layout](torch.randn(shape).to(dtype)).to(device)
        for stride, dilation in [([1, 1], [1, 1]), ([1, 2], [1, 1]), ([1, 1], [2, 1])]:
            real = operator(backend, "pack_weight")(weight, stride, dilation, groups)
            with FakeTensorMode() as mode:
                fake = operator(backend, "pack_weight")(mode.from_tensor(weight), stride, dilation, groups)
            described = [(t.shape, t.dtype, t.device, t.stride()) for t in (real, fake)]
            assert described[0] == described[1], f"{layout} {shape} groups {groups} stride {stride} dilation {dilation}"
            assert real.data_ptr() != weight.data_ptr(), "packing has to copy"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", backends.OPS)
def test_fake_results_are_like_the_real_ones(backend: str, device: torch.device, name: str, dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        geometry = random_geometry(rank_of(name))
        if geometry.windows_off_the_map.any():
            geometry = geometries_of(geometry.rank)["dilated"]
        given = arguments(name, geometry, device, layout, dtype)
        if name.startswith("max_unpool"):
            given[1] = random_switches(tuple(given[1].shape), geometry).to(device)
        if name == "backproject2d" and random.random() < 0.5:
            given[4], given[6], given[7], given[8] = None, [1, 1], [1, 1], [1, 1]
        for batched in (True, False):
            if not batched:
                if without_rank(name) in ("max_unpool_window", "backproject", "pack_weight"):
                    continue
                given[0] = given[0][0]
                if without_rank(name) == "max_unpool":
                    given[1] = given[1][0]
            real = operator(backend, name)(*given)
            with FakeTensorMode() as mode:
                copies = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in given]
                fake = operator(backend, name)(*copies)
            pairs = zip(real, fake, strict=True) if isinstance(real, tuple) else [(real, fake)]
            for a, b in pairs:
                described = [(t.shape, t.dtype, t.device, t.stride()) for t in (a, b)]
                assert described[0] == described[1], f"{layout} {geometry} batched {batched}"
