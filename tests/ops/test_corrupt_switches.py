"""Switches that name no position, planted among good ones: they send nothing, and all others send what they did."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import (
    DTYPES,
    LAYOUTS,
    Geometry,
    Pair,
    assert_same_bits,
    corrupt_switches,
    random_geometry,
    unpool_by_hand,
    unpool_windows_by_hand,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import deconv_kernels as dk

OVERLAPS = ("sum", "last")
GEOMETRIES = {
    "2x2/2": Geometry((12, 70), (2, 2), (2, 2)),
    "2x2/2 odd": Geometry((13, 37), (2, 2), (2, 2), ceil_mode=True),
    "2x2/2 padded": Geometry((11, 41), (2, 2), (2, 2), (1, 1)),
    "3x3/2": Geometry((13, 75), (3, 3), (2, 2)),
    "3x3/2 padded": Geometry((12, 40), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    "2x2/1": Geometry((6, 9), (2, 2), (1, 1)),
    "2x3/3 dilated": Geometry((17, 18), (2, 3), (3, 1), (1, 0), (2, 3), ceil_mode=True),
    "15x17": Geometry((17, 19), (15, 17), (2, 1), (7, 8)),
    "17x17/9": Geometry((33, 35), (17, 17), (8, 9), (8, 8)),
    "181x181": Geometry((190, 185), (181, 181), (9, 4)),
}


def poolings(backend: str) -> list[Geometry]:
    """Those in question and a random one; fewer for the slow reference."""
    fixed = list(GEOMETRIES.values())
    return [*(random.sample(fixed[:-1], 4) if backend == "reference" else fixed), random_geometry()]


def plant(shape: tuple[int, ...], geometry: Geometry, maps: bool) -> tuple[Tensor, Tensor]:
    """Switches of which some name nothing, and the same as int64 with -1 in the place of those.

    Of whole `maps` also such name nothing as lead into the padding or past the border; a window has no border.
    """
    pooled = shape[-2:]
    good = dk.max_pool2d(
        torch.randint(-2, 3, (*shape[:-2], *geometry.size)).double(), *geometry.window, geometry.ceil_mode
    )
    switches = good[1]
    assert switches.shape[-2:] == pooled
    planted = torch.rand(shape) < random.choice((0.05, 0.3, 0.9))
    switches = torch.where(planted, corrupt_switches(shape, geometry), switches)
    if maps:
        anywhere = torch.randint(0, geometry.kernel[0] * geometry.kernel[1], shape).to(switches.dtype)
        switches = torch.where(torch.rand(shape) < 0.1, anywhere, switches)
    codes = switches.long()
    named = (codes >= 0) & (codes < geometry.kernel[0] * geometry.kernel[1])
    for axis in (0, 1):
        tap = codes // geometry.kernel[1] if axis == 0 else codes % geometry.kernel[1]
        window = torch.arange(pooled[axis]).view((-1, 1) if axis == 0 else (-1,))
        position = window * geometry.stride[axis] - geometry.padding[axis] + tap * geometry.dilation[axis]
        if maps:
            named &= (position >= 0) & (position < geometry.size[axis])
    return switches, torch.where(named, codes, -1)


def values_for(codes: Tensor, dtype: torch.dtype, layout: str) -> Tensor:
    """Small integers, whose sums are exact; where nothing is sent, mostly what would show if it were."""
    values = torch.randint(-3, 4, codes.shape).to(dtype)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 7.0], dtype=dtype)[torch.randint(0, 4, codes.shape)]
    return LAYOUTS[layout](torch.where(codes < 0, odd, values))


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced_channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpooling(backend: str, device: torch.device, dtype: torch.dtype, layout: str, overlap: str) -> None:
    for geometry in poolings(backend):
        channels = 2 if geometry.size[0] > 100 else random.choice((1, 3, 17, 33))
        switches, codes = plant((2, channels, *geometry.pooled), geometry, maps=True)
        input, relu = values_for(codes, dtype, layout), random.random() < 0.5
        given = input.to(device), LAYOUTS[random.choice(list(LAYOUTS)[:4])](switches).to(device)
        out = dk.max_unpool2d(*given, *geometry.window, geometry.size, overlap=overlap, relu=relu)
        expected = unpool_by_hand(input, codes, geometry, overlap, relu)
        assert_same_bits(out, expected, f"{geometry} {overlap} relu {relu} {tuple(input.shape)}")


def places(units: int, images: int, pooled: Pair, size: Pair) -> tuple[Tensor, Tensor]:
    """Images of windows, and origins such that every window lies on its map or overhangs it."""
    ends = torch.tensor(pooled), torch.tensor(size)
    origin = (torch.rand(units, 2) * (ends[0] + ends[1] - 1)).floor().long() - ends[1] + 1
    return torch.randint(0, images, (units,)), origin


def windows_of(codes: Tensor, image: Tensor, origin: Tensor, size: Pair) -> Tensor:
    """The codes under windows, -1 beyond the map."""
    framed = F.pad(codes, (size[1], size[1], size[0], size[0]), value=-1)
    return torch.stack(
        [
            framed[n, :, y + size[0] : y + 2 * size[0], x + size[1] : x + 2 * size[1]]
            for n, (y, x) in zip(image.tolist(), origin.tolist(), strict=True)
        ]
    )


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced_channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_windows(backend: str, device: torch.device, dtype: torch.dtype, layout: str, overlap: str) -> None:
    for geometry in poolings(backend):
        small = geometry.size[0] > 100
        channels, size = 1 if small else random.choice((1, 3, 17, 33)), (2, random.choice((1, 2) if small else (3, 20)))
        switches, codes = plant((2, channels, *geometry.pooled), geometry, maps=False)
        image, origin = places(3, 2, geometry.pooled, size)
        input, relu = values_for(windows_of(codes, image, origin, size), dtype, layout), random.random() < 0.5
        given = (tensor.to(device) for tensor in (input, switches, image, origin))
        out, _ = dk.max_unpool2d_window(*given, *geometry.window, overlap=overlap, relu=relu)
        expected = unpool_windows_by_hand(input, codes, image, origin, geometry, overlap, relu)
        assert_same_bits(out, expected, f"{geometry} {overlap} relu {relu} {tuple(input.shape)}")


# Taps, stride, padding and dilation of a convolution, and its channels: those that the kernels treat each in its way.
CONVOLUTIONS: dict[str, tuple[Pair, dict[str, int], Pair]] = {
    "3x3 to many": ((3, 3), {"padding": 1}, (17, 64)),
    "3x3 to images": ((3, 3), {"padding": 1}, (16, 3)),
    "3x3 strided": ((3, 3), {"padding": 1, "stride": 2}, (5, 7)),
    "1x1": ((1, 1), {}, (65, 16)),
    "2x4 dilated": ((2, 4), {"dilation": 2}, (3, 2)),
}


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_projections(backend: str, device: torch.device, layout: str, convolution: str) -> None:
    taps, arguments, channels = CONVOLUTIONS[convolution]
    for geometry in poolings(backend):
        if geometry.size[0] > 100:
            continue
        dtype, overlap, relu = random.choice(DTYPES), random.choice(OVERLAPS), random.random() < 0.5
        size = (2, 3)
        switches, codes = plant((2, channels[0], *geometry.pooled), geometry, maps=False)
        image, origin = places(3, 2, geometry.pooled, size)
        input = values_for(windows_of(codes, image, origin, size), dtype, layout)
        weight = torch.randint(-1, 2, (*channels, *taps)).to(dtype)
        kernel, stride, padding, dilation = geometry.window
        given = (tensor.to(device) for tensor in (input, weight, image, origin))
        out, _ = dk.backproject2d(
            *given,
            **arguments,
            switches=switches.to(device),
            pool_kernel_size=kernel,
            pool_stride=stride,
            pool_padding=padding,
            pool_dilation=dilation,
            overlap=overlap,
            relu=relu,
        )
        signal = unpool_windows_by_hand(input, codes, image, origin, geometry, overlap, relu).double()
        whole: dict[str, Any] = arguments | {"padding": 0}
        expected = F.conv_transpose2d(signal, weight.double(), **whole).to(dtype)
        assert_same_bits(out + 0, expected + 0, f"{geometry} {overlap} relu {relu} {convolution} {dtype}")


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((5, 6), (3, 3), (2, 2), (1, 1), ceil_mode=True),
        Geometry((7, 8), (2, 3), (1, 2), (1, 1), (2, 1)),
        Geometry((1, 515), (1, 257), (1, 200), ceil_mode=True),
    ],
    ids=["3x3", "dilated", "int16"],
)
def test_gradients(backend: str, device: torch.device, geometry: Geometry, overlap: str) -> None:
    """First and second ones are those of what the op does; that is what the other tests say."""
    switches, codes = plant((2, 2, *geometry.pooled), geometry, maps=True)
    switches = switches.to(device)
    input = torch.randn(2, 2, *geometry.pooled, dtype=torch.float64, device=device, requires_grad=True)

    def unpool(values: Tensor) -> Tensor:
        return dk.max_unpool2d(values, switches, *geometry.window, geometry.size, overlap=overlap)

    gradient = torch.autograd.grad(unpool(input).sum(), input)[0]
    assert not bool(gradient[codes.to(device) < 0].any())
    fast = geometry.switch_dtype == torch.int16
    assert gradcheck(unpool, (input,), check_forward_ad=True, fast_mode=fast)
    assert gradgradcheck(lambda values: unpool(values) ** 2, (input,), fast_mode=True)

    size = (2, 2)
    image, origin = (place.to(device) for place in places(2, 2, geometry.pooled, size))
    windows = torch.randn(2, 2, *size, dtype=torch.float64, device=device, requires_grad=True)
    weight = torch.randn(2, 2, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    kernel, stride, padding, dilation = geometry.window
    pooled: dict[str, Any] = {"switches": switches, "pool_kernel_size": kernel, "pool_stride": stride}
    pooled |= {"pool_padding": padding, "pool_dilation": dilation, "overlap": overlap}

    def unpool_windows(values: Tensor) -> Tensor:
        return dk.max_unpool2d_window(values, switches, image, origin, *geometry.window, overlap=overlap)[0]

    def project(values: Tensor, weight: Tensor) -> Tensor:
        return dk.backproject2d(values, weight, image, origin, **pooled)[0]

    assert gradcheck(unpool_windows, (windows,), check_forward_ad=True, fast_mode=fast)
    assert gradgradcheck(lambda values: unpool_windows(values) ** 2, (windows,), fast_mode=True)
    assert gradcheck(project, (windows, weight), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(project, (windows, weight), fast_mode=True)
