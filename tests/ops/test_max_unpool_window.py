"""max_unpool_window: every window is what unpooling its part of the map would give."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from pooling_cases import (
    DTYPES,
    GEOMETRIES,
    LAYOUTS,
    OTHER_GEOMETRIES,
    UNPOOL,
    UNPOOL_WINDOW,
    Geometry,
    assert_dense,
    assert_same_bits,
    keeps_channels_last,
    random_geometry,
    random_switches,
    random_values,
    unpool_windows_by_hand,
)
from torch import Tensor

import deconv_kernels as dk

OVERLAPS = ("sum", "last")


def check(
    input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, geometry: Geometry, overlap: str, relu: bool
) -> None:
    what = f"{overlap} relu {relu} {geometry} windows {tuple(input.shape)} of maps {tuple(switches.shape)}"
    unpool = UNPOOL_WINDOW[geometry.rank]
    out, origins = unpool(input, switches, image, origin, *geometry.window, overlap=overlap, relu=relu)
    expected = unpool_windows_by_hand(input, switches, image, origin, geometry, overlap, relu)
    assert_same_bits(out, expected, what)
    assert_dense(out, keeps_channels_last(input, geometry.rank), what, geometry.rank)
    assert out.device == origins.device == input.device
    moved = origin.cpu() * torch.tensor(geometry.stride) - torch.tensor(geometry.padding)
    assert_same_bits(origins, moved, f"origins of {what}")


def chosen(fixed: int, other: int) -> list[Geometry]:
    """Some of the fixed geometries, of those of other ranks, and a random one."""
    some = random.sample(GEOMETRIES[:30], fixed) + random.sample(OTHER_GEOMETRIES, other)
    return [*some, random_geometry(random.choice((1, 2, 3)))]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_windows(backend: str, device: torch.device, dtype: torch.dtype, layout: str, overlap: str) -> None:
    for geometry in chosen(*((2, 1) if backend == "reference" else (14, 4))):
        images, channels = random.randint(1, 3), random.choice([1, 3, 16, 19, 33])
        maps = (images, channels, *geometry.pooled)
        size = tuple(random.randint(1, 6 if geometry.rank < 3 else 4) for _ in range(geometry.rank))
        units = random.randint(1, 6)
        input = LAYOUTS[layout](random_values((units, channels, *size), dtype).to(device), geometry.rank)
        switches = LAYOUTS[random.choice(list(LAYOUTS))](random_switches(maps, geometry).to(device), geometry.rank)
        image = torch.randint(0, images, (units,)).to(device)
        ends = torch.tensor(geometry.pooled)
        origin = (torch.rand(units, geometry.rank) * (ends + 10) - 6).floor().long().to(device)
        check(input, switches, image, origin, geometry, overlap, random.random() < 0.5)


def test_window_of_a_whole_map_is_its_unpooling(device: torch.device) -> None:
    """The window covers the map, padding included; cut to the map it is the unpooled map."""
    for overlap, layout in itertools.product(OVERLAPS, ("contiguous", "channels_last")):
        for geometry in chosen(2, 2):
            shape = (3, 5, *geometry.pooled)
            input = LAYOUTS[layout](random_values(shape, torch.float32).to(device), geometry.rank)
            switches = random_switches(shape, geometry).to(device)
            image = torch.tensor([2, 0, 1], device=device)
            origin = torch.zeros(3, geometry.rank, dtype=torch.int64, device=device)
            places = (image, origin, *geometry.window)
            windows, origins = UNPOOL_WINDOW[geometry.rank](input, switches, *places, overlap=overlap)
            whole = UNPOOL[geometry.rank](input, switches[image], *geometry.window, geometry.size, overlap=overlap)
            first = (-origins[0]).tolist()
            cut = windows[(..., *(slice(at, at + length) for at, length in zip(first, geometry.size, strict=True)))]
            seen = whole[(..., *(slice(length) for length in cut.shape[2:]))]
            assert_same_bits(seen, cut, f"{geometry} {overlap}")


def test_windows_of_a_map_that_is_zero_elsewhere(device: torch.device) -> None:
    """What the engine does: a unit's window is the unpooling of the whole map, seen through the window."""
    for geometry in (Geometry((56, 56), (2, 2), (2, 2)), Geometry((27, 27), (3, 3), (2, 2), (1, 1))):
        whole = torch.zeros(2, 8, *geometry.pooled)
        window = random_values((2, 8, 4, 5), torch.float32, "normal")
        origin = torch.tensor([[3, 6], [9, 0]])
        for unit, (y, x) in enumerate(origin.tolist()):
            whole[unit, :, y : y + 4, x : x + 5] = window[unit]
        _, switches = dk.max_pool2d(torch.randn(2, 8, *geometry.size, device=device), *geometry.window)
        image = torch.arange(2, device=device)
        out, origins = dk.max_unpool2d_window(
            window.to(device), switches, image, origin.to(device), *geometry.window, overlap="sum"
        )
        full = dk.max_unpool2d(whole.to(device), switches, *geometry.window, geometry.size, overlap="sum")
        for unit, (y, x) in enumerate(origins.tolist()):
            top, left = max(y, 0), max(x, 0)
            bottom, right = y + out.shape[2], x + out.shape[3]
            seen = full[unit, :, top:bottom, left:right].clone()
            assert_same_bits(out[unit, :, top - y :, left - x :], seen, str(geometry))
            full[unit, :, top:bottom, left:right] = 0
        assert not full.any(), "the window misses a part of the unpooled map"


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_origins_far_outside_give_zeros(device: torch.device, layout: str) -> None:
    """No arithmetic on an origin overflows into the map."""
    far = [2**63 - 1, -(2**63), 2**62, -(2**62), 2**32, -(2**32), 2**31 - 1, -(2**31), 10**6, -(10**6)]
    for rank in (2, 3):
        places = [place for place in itertools.product([*far, 0], repeat=rank) if any(place)]
        origin = torch.tensor(random.sample(places, 120), device=device)
        units = len(origin)
        switches = torch.zeros(1, 17, *[9] * rank, dtype=torch.uint8, device=device)
        input = LAYOUTS[layout](torch.ones(units, 17, *[3] * rank, device=device), rank)
        image = torch.zeros(units, dtype=torch.int64, device=device)
        for overlap, window in itertools.product(OVERLAPS, ((2, 2), (3, 2))):
            out, _ = UNPOOL_WINDOW[rank](input, switches, image, origin, *window, overlap=overlap)
            assert_same_bits(out, torch.zeros_like(out), f"{overlap} {window}")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_no_windows_and_no_images(device: torch.device, layout: str) -> None:
    switches = torch.zeros(2, 3, 9, 9, dtype=torch.uint8, device=device)
    nothing = LAYOUTS[layout](torch.empty(0, 3, 4, 5, device=device))
    image = torch.empty(0, dtype=torch.int64, device=device)
    origin = torch.empty(0, 2, dtype=torch.int64, device=device)
    for codes in (switches, switches[:0]):
        out, origins = dk.max_unpool2d_window(nothing, codes, image, origin, 3, 2, 1)
        assert (out.shape, out.dtype, origins.shape) == ((0, 3, 9, 11), torch.float32, (0, 2))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_for_every_thread_count_and_call(device: torch.device, layout: str, threads: None) -> None:
    geometry = Geometry((55, 55), (3, 3), (2, 2))
    shape = (4, 48, *geometry.pooled)
    switches = random_switches(shape, geometry).to(device)
    input = LAYOUTS[layout](torch.randn(9, 48, 11, 13).to(device))
    image, origin = torch.randint(0, 4, (9,)).to(device), torch.randint(-4, 20, (9, 2)).to(device)
    results = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(dk.max_unpool2d_window(input, switches, image, origin, *geometry.window)[0])
    for result in results[1:]:
        assert_same_bits(result, results[0], layout)
