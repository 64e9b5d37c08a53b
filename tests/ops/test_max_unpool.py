"""max_unpool: bit for bit the gradient of the pooling ("sum") and ATen's unpooling on one CPU thread ("last")."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import (
    ATEN_POOL,
    DTYPES,
    GEOMETRIES,
    LAYOUTS,
    OTHER_GEOMETRIES,
    POOL,
    UNPOOL,
    Geometry,
    Pair,
    assert_dense,
    assert_same_bits,
    geometries,
    keeps_channels_last,
    pooled_shape,
    random_geometry,
    random_switches,
    random_values,
    switches_of,
    unpool_by_hand,
)
from torch import Tensor

import deconv_kernels as dk

OVERLAPS = ("sum", "last")


def random_indices(shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Indices as ATen's pooling makes them for a map full of ties."""
    map = torch.randint(-2, 3, (*shape[: -geometry.rank], *geometry.size)).float()
    return ATEN_POOL[geometry.rank](map, *geometry.window, geometry.ceil_mode, return_indices=True)[1]


def aten_unpool(input: Tensor, indices: Tensor, geometry: Geometry, overlap: str, relu: bool) -> Tensor:
    """ATen's gradient of the pooling or its unpooling, summed in float32 (float64) and rounded once."""
    if geometry.rank == 1:
        row = Geometry(
            (1, *geometry.size), *((n, *given) for n, given in zip((1, 1, 0, 1), geometry.window, strict=True))
        )
        row = dataclasses.replace(row, ceil_mode=geometry.ceil_mode)
        return aten_unpool(input.unsqueeze(-2), indices.unsqueeze(-2), row, overlap, relu).squeeze(-2)
    input = input.detach().cpu().contiguous()
    wide = input if input.dtype == torch.float64 else input.float()
    window, size = [list(numbers) for numbers in geometry.window], list(geometry.size)
    if overlap == "sum":
        like = wide.new_zeros(*input.shape[: -geometry.rank], *size)
        backward = getattr(torch.ops.aten, f"max_pool{geometry.rank}d_with_indices_backward")
        out = backward(wide, like, *window, geometry.ceil_mode, indices)
    elif geometry.rank == 2:
        out = torch.ops.aten.max_unpool2d(wide, indices, size)
    else:
        out = torch.ops.aten.max_unpool3d(wide, indices, size, window[1], window[2])
    return (torch.relu(out) if relu else out).to(input.dtype)


def check(
    input: Tensor, switches: Tensor, geometry: Geometry, overlap: str, relu: bool, expected: Tensor, what: str
) -> None:
    what = f"{what} {overlap} relu {relu} {geometry}, input {tuple(input.shape)} strides {input.stride()}"
    before = input.clone(), switches.clone()
    out = UNPOOL[geometry.rank](input, switches, *geometry.window, geometry.size, overlap=overlap, relu=relu)
    assert_same_bits(out, expected, what)
    assert_same_bits(input, before[0], f"the input after {what}")
    assert_same_bits(switches, before[1], f"the switches after {what}")
    assert out.device == input.device
    assert_dense(out, keeps_channels_last(input, geometry.rank), what, geometry.rank)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_aten(backend: str, device: torch.device, dtype: torch.dtype, layout: str, threads: None) -> None:
    torch.set_num_threads(1)  # where windows overlap, ATen's unpooling is deterministic only so
    for geometry in geometries(backend):
        if geometry.windows_off_the_map.any():
            continue  # ATen refuses the indices it made for them
        shape = pooled_shape(geometry)
        input = LAYOUTS[layout](random_values(shape, dtype).to(device), geometry.rank)
        indices = random_indices(shape, geometry)
        if layout == "expanded":
            indices = indices.narrow(-1 - geometry.rank, 0, 1).expand(shape)
        switches = switches_of(indices, geometry).to(device)
        switches = LAYOUTS[random.choice([layout, "contiguous"])](switches, geometry.rank)
        overlap, relu = random.choice(OVERLAPS), random.random() < 0.5
        expected = aten_unpool(input, indices, geometry, overlap, relu)
        check(input, switches, geometry, overlap, relu, expected, "ATen")


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_switches(backend: str, device: torch.device, dtype: torch.dtype, layout: str, overlap: str) -> None:
    """Switches into the padding, past the border and outside their window contribute nothing."""
    for geometry in geometries(backend):
        shape = pooled_shape(geometry)
        input = LAYOUTS[layout](random_values(shape, dtype).to(device), geometry.rank)
        switches = LAYOUTS[random.choice(list(LAYOUTS))](random_switches(shape, geometry).to(device), geometry.rank)
        relu = random.random() < 0.5
        expected = unpool_by_hand(input, switches, geometry, overlap, relu)
        check(input, switches, geometry, overlap, relu, expected, "by hand")


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_image(device: torch.device, dtype: torch.dtype, overlap: str) -> None:
    for geometry, layout in itertools.product(
        [random.choice(GEOMETRIES[:30]), random.choice(OTHER_GEOMETRIES)], LAYOUTS
    ):
        shape = pooled_shape(geometry, batched=False)
        input = LAYOUTS[layout](random_values(shape, dtype).to(device), geometry.rank)
        switches = random_switches(shape, geometry).to(device)
        expected = unpool_by_hand(input, switches, geometry, overlap, relu=False)
        check(input, switches, geometry, overlap, False, expected, "single")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_too_large_for_the_caches(device: torch.device, dtype: torch.dtype, threads: None) -> None:
    torch.set_num_threads(1)
    for channels in (64, 104, 99):
        size = (random.randint(210, 230), random.randint(210, 230))
        geometry = random.choice((Geometry(size, (2, 2), (2, 2)), Geometry(size, (3, 3), (2, 2))))
        _, indices = F.max_pool2d(torch.randn(1, channels, *size), *geometry.window, return_indices=True)
        input = random_values(indices.shape, dtype).to(device, memory_format=torch.channels_last)
        switches = switches_of(indices, geometry).to(device, memory_format=torch.channels_last)
        overlap, relu = random.choice(OVERLAPS), random.random() < 0.5
        assert channels * size[0] * size[1] * dtype.itemsize > 2**23
        expected = aten_unpool(input, indices, geometry, overlap, relu)
        torch.set_num_threads(2)
        check(input, switches, geometry, overlap, relu, expected, "ATen")
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_contiguous_results_too_large_for_the_caches(device: torch.device, dtype: torch.dtype, threads: None) -> None:
    for _ in range(2):
        size = (random.randint(50, 90), random.randint(33, 90))
        channels = 2**23 // (size[0] * size[1] * dtype.itemsize) + random.randint(1, 9)
        geometry = Geometry(size, (2, 2), (2, 2), ceil_mode=random.random() < 0.5)
        torch.set_num_threads(1)
        maps = torch.randn(1, channels, *size)
        _, indices = F.max_pool2d(maps, *geometry.window, ceil_mode=geometry.ceil_mode, return_indices=True)
        input = random_values(indices.shape, dtype).to(device)
        switches = switches_of(indices, geometry).to(device)
        overlap, relu = random.choice(OVERLAPS), random.random() < 0.5
        expected = aten_unpool(input, indices, geometry, overlap, relu)
        torch.set_num_threads(random.choice([2, 3]))
        check(input, switches, geometry, overlap, relu, expected, "ATen")


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 32, 33, 63, 64, 65, 129])
def test_channel_counts(backend: str, device: torch.device, channels: int) -> None:
    combinations = list(itertools.product(DTYPES, ("contiguous", "channels_last")))
    for dtype, layout in random.sample(combinations, 1 if backend == "reference" else len(combinations)):
        for geometry in (
            Geometry((6, 7), (2, 2), (2, 2)),
            Geometry((7, 7), (3, 3), (2, 2)),
            random_geometry(random.choice((2, 3))),
        ):
            shape = (2, channels, *geometry.pooled)
            input = LAYOUTS[layout](random_values(shape, dtype).to(device), geometry.rank)
            switches = LAYOUTS[layout](random_switches(shape, geometry).to(device), geometry.rank)
            overlap, relu = random.choice(OVERLAPS), random.random() < 0.5
            expected = unpool_by_hand(input, switches, geometry, overlap, relu)
            check(input, switches, geometry, overlap, relu, expected, "channels")


@pytest.mark.parametrize("kernel", [2, 3])
def test_map_widths(device: torch.device, kernel: int) -> None:
    for width in [*range(kernel, 40), 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 224]:
        geometry = Geometry((kernel + random.randint(0, 3), width), (kernel, kernel), (2, 2), ceil_mode=width % 3 == 0)
        for dtype in random.sample(DTYPES, 1):
            shape = (2, *geometry.pooled)
            input = random_values(shape, dtype).to(device)
            switches = random_switches(shape, geometry).to(device)
            overlap, relu = random.choice(OVERLAPS), random.random() < 0.5
            expected = unpool_by_hand(input, switches, geometry, overlap, relu)
            check(input, switches, geometry, overlap, relu, expected, "widths")


@pytest.mark.parametrize("window", [2, (2, 3), 3], ids=str)
def test_every_valid_output_size(device: torch.device, window: int | Pair) -> None:
    """All maps that pool to one size, with or without ceil_mode, can be had back."""
    kernel = window if isinstance(window, tuple) else (window, window)
    for height, width in itertools.product(range(1, 12), range(7, 10)):
        for ceil_mode, padding in itertools.product((False, True), (0, 1)):
            geometry = Geometry((height, width), kernel, (2, 3), (padding, padding), ceil_mode=ceil_mode)
            if height + 2 * padding + (1 if ceil_mode else 0) < kernel[0]:
                continue  # no window fits
            input = random_values((3, *geometry.pooled), torch.float32).to(device)
            switches = random_switches((3, *geometry.pooled), geometry).to(device)
            expected = unpool_by_hand(input, switches, geometry, "sum", relu=False)
            check(input, switches, geometry, "sum", False, expected, "sizes")


def test_output_size_of_full_windows_by_default(device: torch.device) -> None:
    for rank in (1, 2, 3) * 13:
        geometry = random_geometry(rank)
        pooled = tuple(random.randint(1, 9 - 2 * rank) for _ in range(rank))
        axes = zip(pooled, geometry.stride, geometry.extent, geometry.padding, strict=True)
        full = tuple((count - 1) * stride + extent - 2 * padding for count, stride, extent, padding in axes)
        if min(full) < 1:
            continue
        geometry = Geometry(full, *geometry.window)
        assert geometry.pooled == pooled
        input = random_values((2, *pooled), torch.float32).to(device)
        switches = random_switches(tuple(input.shape), geometry).to(device)
        expected = unpool_by_hand(input, switches, geometry, "last", relu=False)
        out = UNPOOL[rank](input, switches, *geometry.window, overlap="last")
        assert_same_bits(out, expected, str(geometry))


def test_output_size_as_a_whole_shape(device: torch.device) -> None:
    input = torch.randn(2, 3, 4, 4, device=device)
    switches = torch.randint(0, 4, input.shape, device=device).to(torch.uint8)
    expected = dk.max_unpool2d(input, switches, 2, output_size=(9, 8))
    for size in ([9, 8], torch.Size([2, 3, 9, 8]), (2, 3, 9, 8), [2, 3, 9, 8]):
        assert torch.equal(dk.max_unpool2d(input, switches, 2, output_size=size), expected)
    assert torch.equal(dk.max_unpool2d(input[0], switches[0], 2, output_size=(3, 9, 8)), expected[0])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_sums_are_formed_in_row_major_order(device: torch.device, layout: str) -> None:
    """Nine overlapping windows name one position; in float32 the order of the additions shows in the sum."""
    geometry = Geometry((5, 5), (3, 3), (1, 1))
    switches = torch.tensor([[8, 7, 6], [5, 4, 3], [2, 1, 0]], dtype=torch.uint8).expand(1, 33, 3, 3)
    for dtype in DTYPES:
        values = torch.randn(1, 33, 3, 3, dtype=torch.float64) * 10.0 ** torch.randint(-2, 3, (1, 33, 3, 3))
        values = values.to(dtype)
        total = torch.zeros(1, 33, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        for row, column in itertools.product(range(3), range(3)):
            total = total + values[..., row, column].to(total.dtype)
        input, codes = LAYOUTS[layout](values.to(device)), LAYOUTS[layout](switches.to(device))
        out = dk.max_unpool2d(input, codes, *geometry.window)
        assert_same_bits(out[..., 2, 2], total.to(dtype), f"sums of {dtype}")
        last = dk.max_unpool2d(input, codes, *geometry.window, overlap="last")
        assert_same_bits(last[..., 2, 2], values[..., 2, 2], f"last of {dtype}")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_nan_and_infinities(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    """A sum begins at +0, "last" keeps the bits, relu keeps NaN."""
    row = torch.tensor([-0.0, 0.0, math.nan, -math.inf, math.inf, -3.0], dtype=dtype)
    input = LAYOUTS[layout](row.view(1, 1, 1, 6).repeat(1, 20, 1, 1).to(device))
    switches = torch.zeros(1, 20, 1, 6, dtype=torch.uint8, device=device)
    expected = {
        ("sum", False): [0.0, 0.0, math.nan, -math.inf, math.inf, -3.0],
        ("sum", True): [0.0, 0.0, math.nan, 0.0, math.inf, 0.0],
        ("last", False): [-0.0, 0.0, math.nan, -math.inf, math.inf, -3.0],
        ("last", True): [-0.0, 0.0, math.nan, 0.0, math.inf, 0.0],
    }
    for (overlap, relu), numbers in expected.items():
        out = dk.max_unpool2d(input, switches, 1, overlap=overlap, relu=relu)
        wanted = torch.tensor(numbers, dtype=dtype).view(1, 1, 1, 6).repeat(1, 20, 1, 1)
        assert_same_bits(out, wanted, f"{overlap} relu {relu}")
        wide = dk.max_unpool2d(input, switches, 2, overlap=overlap, relu=relu)
        assert_same_bits(wide[..., ::2, ::2], wanted, f"2x2 {overlap} relu {relu}")
        rest = wide.clone()
        rest[..., ::2, ::2] = 0
        assert_same_bits(rest, torch.zeros_like(rest), f"positions that no switch names, {overlap} relu {relu}")


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_empty_batch(device: torch.device, layout: str, overlap: str) -> None:
    input = LAYOUTS[layout](torch.empty(0, 3, 4, 5, dtype=torch.float16, device=device))
    switches = torch.empty(0, 3, 4, 5, dtype=torch.uint8, device=device)
    out = dk.max_unpool2d(input, switches, 3, 2, 1, output_size=(7, 10), overlap=overlap, relu=True)
    assert (out.shape, out.dtype, out.device) == ((0, 3, 7, 10), torch.float16, input.device)


def test_pool_and_unpool_bring_the_maxima_back(device: torch.device) -> None:
    for dtype, layout, size in itertools.product(DTYPES, LAYOUTS, ((22,), (12, 10), (4, 6, 10))):
        rank = len(size)
        input = LAYOUTS[layout](random_values((2, 7, *size), dtype, "normal").to(device), rank)
        values, switches = POOL[rank](input, 2)
        out = UNPOOL[rank](values, switches, 2)
        assert torch.equal(out[out != 0], input[out != 0])
        assert torch.equal(POOL[rank](out.abs(), 2)[0], values.abs())
        assert out.count_nonzero() == values.count_nonzero()


def test_lazily_negated_input(device: torch.device) -> None:
    """A tensor with a pending minus sign, as the imaginary part of a conjugate is one."""
    input = torch._neg_view(torch.randn(2, 4, 6, 8, device=device))
    assert input.is_neg()
    switches = torch.randint(0, 4, input.shape, device=device).to(torch.uint8)
    assert torch.equal(dk.max_unpool2d(input, switches, 2), dk.max_unpool2d(input.clone(), switches, 2))


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_for_every_thread_count_and_call(
    device: torch.device, layout: str, overlap: str, threads: None
) -> None:
    """In three dimensions too, where windows overlap and PyTorch's own unpooling writes in an order of its threads."""
    for geometry in (
        Geometry((57, 61), (3, 3), (2, 2), (1, 1)),
        Geometry((9, 20, 21), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ):
        shape = (3, 48, *geometry.pooled)
        input = LAYOUTS[layout](torch.randn(shape).to(device), geometry.rank)
        switches = random_switches(shape, geometry).to(device)
        unpool = functools.partial(UNPOOL[geometry.rank], input, switches, *geometry.window, geometry.size)
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(unpool(overlap=overlap, relu=True))
        for result in results[1:]:
            assert_same_bits(result, results[0], overlap)
