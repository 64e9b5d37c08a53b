"""The Triton kernels in Triton's interpreter, against the reference and ATen; run by test_triton_interpreter.py.

The interpreter does bfloat16 arithmetic wrongly, so bfloat16 appears only where values are moved and compared. It does
not notice writes outside a tensor either: every output lies between canaries here. It is slow, so tensors are small.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import (
    GEOMETRIES,
    LAYOUTS,
    Geometry,
    assert_dense,
    assert_same_bits,
    aten_pool,
    keeps_channels_last,
    random_geometry,
    random_switches,
    random_values,
    switches_of,
    unpool_by_hand,
)
from torch import Tensor

from deconv_kernels import reference

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs only with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl

from deconv_kernels import triton as kernels

CANARY = 0x5A
MARGIN = 4096  # bytes on each side of an output
COMMON = importlib.import_module("deconv_kernels.triton._common")
MODULES = [
    importlib.import_module(f"deconv_kernels.triton.{name}") for name in ("max_pool2d", "max_unpool2d", "switches")
]
UNROLLED = [g for g in GEOMETRIES if g.kernel[0] * g.kernel[1] <= COMMON.LARGEST_UNROLLED_WINDOW]
STEPS_OVER_THE_MAP = Geometry((1, 17), (2, 6), (2, 4), (1, 2), (2, 1))  # no window has a tap inside the map
LARGE = [
    Geometry((32, 33), (16, 16), (16, 16)),
    Geometry((14, 13), (9, 9), (3, 4), (4, 4), ceil_mode=True),
    Geometry((20, 21), (7, 8), (5, 4), (3, 4), (2, 1)),
    Geometry((21, 19), (17, 16), (7, 6), (8, 8)),
    Geometry((110, 100), (110, 100), (110, 100)),
]


class Canaries:
    """Hands out outputs, filled with what no op writes, that lie between bytes no kernel may touch."""

    def __init__(self) -> None:
        self.memories: list[Tensor] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool) -> Tensor:
        *batch, channels, height, width = shape
        stored = (*batch, height, width, channels) if channels_last else tuple(shape)
        size = torch.Size(stored).numel() * dtype.itemsize
        memory = torch.full((2 * MARGIN + size,), CANARY, dtype=torch.uint8)
        self.memories.append(memory)
        out = memory[MARGIN : MARGIN + size].view(dtype).view(stored)
        return out.movedim(-1, -3) if channels_last else out

    def check(self) -> None:
        assert self.memories, "the kernel's outputs did not come from here"
        for memory in self.memories:
            assert bool((memory[:MARGIN] == CANARY).all()), "written before the start of an output"
            assert bool((memory[-MARGIN:] == CANARY).all()), "written past the end of an output"


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch, poisoned_memory: None) -> Iterator[None]:
    guard = Canaries()
    for module in MODULES:
        monkeypatch.setattr(module, "empty", guard.empty)
    yield
    guard.check()


def small_shape(geometry: Geometry, batched: bool = True) -> tuple[int, ...]:
    pooled = geometry.pooled[0] * geometry.pooled[1]
    work = geometry.size[0] * geometry.size[1] + (100 * pooled if geometry not in UNROLLED else 0)
    channels = random.choice([c for c in (1, 2, 3, 5, 8, 19) if c * work <= 2500] or [1])
    return ((random.randint(1, 2),) if batched else ()) + (channels, *geometry.size)


def check_pool(input: Tensor, geometry: Geometry, bias: Tensor | None, relu: bool) -> None:
    what = f"{geometry}, input {tuple(input.shape)} strides {input.stride()}, bias {bias is not None}, relu {relu}"
    arguments = (input, bias, *geometry.window, geometry.ceil_mode, relu)
    results = kernels.max_pool2d(*arguments)
    values, indices = aten_pool(input, geometry, bias, relu)
    assert_same_bits(results[0], values, f"values of {what}")
    assert_same_bits(results[1], switches_of(indices, geometry), f"switches of {what}")
    for result, expected in zip(results, reference.max_pool2d(*arguments), strict=True):
        assert_same_bits(result, expected, f"{what}, against the reference")
        assert_dense(result, keeps_channels_last(input), what)


def check_unpool(values: Tensor, switches: Tensor, geometry: Geometry, overlap: str, relu: bool) -> None:
    what = f"{geometry}, input {tuple(values.shape)} strides {values.stride()}, overlap {overlap}, relu {relu}"
    arguments = (values, switches, *geometry.window, geometry.size, overlap, relu)
    result = kernels.max_unpool2d(*arguments)
    assert_same_bits(result, reference.max_unpool2d(*arguments), f"{what}, against the reference")
    assert_same_bits(result, unpool_by_hand(values, switches, geometry, overlap, relu), what)
    assert_dense(result, keeps_channels_last(values), what)


def sampled(count: int) -> list[Geometry]:
    """Some of the fixed geometries with small windows and a random one."""
    geometry = random_geometry()
    while geometry.kernel[0] * geometry.kernel[1] > COMMON.LARGEST_UNROLLED_WINDOW:
        geometry = random_geometry()
    return [*random.sample(UNROLLED, count), geometry]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16], ids=str)
def test_max_pool2d(dtype: torch.dtype, layout: str) -> None:
    for geometry in [*UNROLLED, STEPS_OVER_THE_MAP] if dtype == torch.float32 else sampled(8):
        shape = small_shape(geometry)
        input = LAYOUTS[layout](random_values(shape, dtype))
        has_bias = dtype != torch.bfloat16 and random.random() < 0.5
        bias = random_values((shape[1],), dtype, "ties") if has_bias else None
        check_pool(input, geometry, bias, random.random() < 0.5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_pool2d_of_large_windows(layout: str) -> None:
    for geometry, dtype in itertools.product(LARGE, [torch.float32, random.choice([torch.float16, torch.float64])]):
        shape = small_shape(geometry)
        bias = random_values((shape[1],), dtype, "normal") if random.random() < 0.5 else None
        check_pool(LAYOUTS[layout](random_values(shape, dtype)), geometry, bias, random.random() < 0.5)
    geometry = random.choice(LARGE[:4])
    check_pool(
        LAYOUTS[layout](random_values(small_shape(geometry), torch.float32, "minus infinity")), geometry, None, False
    )
    two_nan = torch.full((1, 2, 12, 12), 3.0)
    two_nan[:, :, [2, 9], [7, 1]] = torch.nan
    check_pool(LAYOUTS[layout](two_nan), Geometry((12, 12), (12, 12), (12, 12)), None, relu=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_single_images(layout: str) -> None:
    for batched in (True, False):
        geometry = random.choice([*GEOMETRIES[:12], Geometry((9, 8), (3, 3), (2, 2), (1, 1))])
        check_pool(LAYOUTS[layout](random_values(small_shape(geometry, batched), torch.float32)), geometry, None, True)
        shape = (*small_shape(geometry, batched)[:-2], *geometry.pooled)
        values = LAYOUTS[layout](random_values(shape, torch.float32, "special"))
        check_unpool(values, random_switches(shape, geometry), geometry, "sum", False)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["minus infinity", "special", "ties"])
def test_values_that_tie(layout: str, kind: str) -> None:
    for geometry in sampled(6):
        for relu in (False, True):
            check_pool(LAYOUTS[layout](random_values(small_shape(geometry), torch.float32, kind)), geometry, None, relu)


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_max_unpool2d(dtype: torch.dtype, layout: str, overlap: str) -> None:
    for geometry in sampled(6 if dtype == torch.float32 else 3):
        shape = (*small_shape(geometry)[:-2], *geometry.pooled)
        values = LAYOUTS[layout](random_values(shape, dtype))
        check_unpool(values, random_switches(shape, geometry), geometry, overlap, random.random() < 0.5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_bfloat16_is_moved_exactly_where_windows_do_not_overlap(layout: str) -> None:
    for geometry in (Geometry((8, 10), (2, 2), (2, 2)), Geometry((7, 9), (2, 3), (2, 3), (1, 1)), LARGE[0]):
        shape = (2, 3, *geometry.pooled)
        values = LAYOUTS[layout](random_values(shape, torch.bfloat16))
        check_unpool(values, random_switches(shape, geometry), geometry, "sum", False)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_unpool2d_of_large_windows(layout: str) -> None:
    for geometry, overlap in zip(LARGE, ["sum", "last", "sum", "sum", "last"], strict=True):
        shape = (1, 1 if geometry is LARGE[4] else 2, *geometry.pooled)
        values = LAYOUTS[layout](random_values(shape, torch.float32))
        check_unpool(values, random_switches(shape, geometry), geometry, overlap, random.random() < 0.5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_unpool2d_equals_aten(layout: str) -> None:
    for geometry in (Geometry((13, 11), (3, 3), (2, 2)), Geometry((12, 10), (3, 3), (2, 2), (1, 1)), GEOMETRIES[0]):
        input = torch.randn(2, 3, *geometry.size)
        values, indices = aten_pool(input, geometry, None, relu=False)
        gradient = torch.randn_like(values)
        arguments = (LAYOUTS[layout](gradient), switches_of(indices, geometry), *geometry.window, geometry.size)
        expected = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, input, *geometry.window, geometry.ceil_mode, indices
        )
        assert_same_bits(kernels.max_unpool2d(*arguments, "sum", False) + 0.0, expected + 0.0, f"sum, {geometry}")
        expected = F.max_unpool2d(gradient, indices, *geometry.window[:3], geometry.size)
        assert_same_bits(kernels.max_unpool2d(*arguments, "last", False), expected, f"last, {geometry}")


def window_arguments(geometry: Geometry, dtype: torch.dtype, layout: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows of up to 5 x 5 that lie inside, across the border of and far outside the maps of two images."""
    images, units, channels = 2, 6, random.choice([1, 3, 4])
    shape = (images, channels, *geometry.pooled)
    switches = random_switches(shape, geometry)
    values = random_values((units, channels, random.randint(1, 5), random.randint(1, 5)), dtype)
    origin = torch.stack([torch.randint(-4, size + 2, (units,)) for size in geometry.pooled], dim=1)
    origin[0] = torch.tensor([1 << 40, -(1 << 40)])
    return LAYOUTS[layout](values), LAYOUTS[layout](switches), torch.randint(0, images, (units,)), origin


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_unpool2d_window(layout: str, overlap: str) -> None:
    for geometry in [*random.sample(GEOMETRIES[:9], 2), *sampled(3), random.choice([LARGE[1], LARGE[3]])]:
        tensors = window_arguments(geometry, random.choice([torch.float32, torch.float16, torch.float64]), layout)
        arguments = (*tensors, geometry.kernel, geometry.stride, geometry.dilation, overlap, random.random() < 0.5)
        result = kernels.max_unpool2d_window(*arguments)
        what = f"{geometry}, windows {tuple(tensors[0].shape)}, overlap {overlap}"
        assert_same_bits(result, reference.max_unpool2d_window(*arguments), what)
        assert_dense(result, keeps_channels_last(tensors[0]), what)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_windows_of_images_that_do_not_exist_are_zero(layout: str) -> None:
    for geometry in (GEOMETRIES[0], LARGE[1]):
        values, switches, image, origin = window_arguments(geometry, torch.float32, layout)
        image[1], image[2] = -1, switches.size(0)
        rest = (geometry.kernel, geometry.stride, geometry.dilation, "sum", False)
        result = kernels.max_unpool2d_window(values, switches, image, origin, *rest)
        assert not result[1:3].any()
        expected = reference.max_unpool2d_window(values[3:], switches, image[3:], origin[3:], *rest)
        assert_same_bits(result[3:], expected, "the other windows")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_switches_and_indices(layout: str) -> None:
    for geometry in [*sampled(10), LARGE[3], LARGE[4]]:
        if bool(geometry.windows_off_the_map.any()):
            continue
        _, indices = aten_pool(torch.randn(small_shape(geometry)), geometry, None, relu=False)
        switches = switches_of(indices, geometry)
        rest = (geometry.size, *geometry.window)
        for name, source, expected in (
            ("switches_to_indices", switches, indices),
            ("indices_to_switches", indices, switches),
        ):
            source = LAYOUTS[layout](source)
            result = getattr(kernels, name)(source, *rest)
            assert_same_bits(result, expected, f"{name}, {geometry}")
            assert_dense(result, keeps_channels_last(source), f"{name}, {geometry}")


def test_switches_and_indices_that_are_none() -> None:
    small, large = Geometry((8, 8), (3, 3), (2, 2), (1, 1)), Geometry((40, 40), (20, 20), (20, 20))
    for geometry, wrong_switches, marker in ((small, [9, 255, 0], 255), (large, [400, -1, -32768], -1)):
        rest = (geometry.size, *geometry.window)
        switches = torch.full((1, 3, *geometry.pooled), 4, dtype=geometry.switch_dtype)
        switches[0, :, 0, 0] = torch.tensor(wrong_switches, dtype=geometry.switch_dtype)
        indices = kernels.switches_to_indices(switches, *rest)
        assert indices[0, :, 0, 0].tolist() == [0, 0, 0]
        assert int((indices == 0).sum()) == 3
        size = geometry.size[0] * geometry.size[1]
        indices[0, :, 0, 0] = torch.tensor([size - 1, -1, size])
        found = kernels.indices_to_switches(indices, *rest)
        assert found[0, :, 0, 0].tolist() == [marker] * 3
        assert int((found == 4).sum()) == found.numel() - 3


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_offsets_of_64_bits_give_the_same(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(COMMON, "index_type", lambda *tensors: tl.int64)
    for geometry in [random.choice(GEOMETRIES[:5]), LARGE[1]]:
        check_pool(LAYOUTS[layout](random_values(small_shape(geometry), torch.float32)), geometry, None, True)
        shape = (2, 3, *geometry.pooled)
        values = LAYOUTS[layout](random_values(shape, torch.float32))
        check_unpool(values, random_switches(shape, geometry), geometry, "sum", True)
        arguments = (*window_arguments(geometry, torch.float32, layout), geometry.kernel, geometry.stride)
        arguments = (*arguments, geometry.dilation, "sum", True)
        result = kernels.max_unpool2d_window(*arguments)
        assert_same_bits(result, reference.max_unpool2d_window(*arguments), f"windows, {geometry}")


def test_empty_batch() -> None:
    values, switches = kernels.max_pool2d(torch.empty(0, 3, 8, 8), None, (2, 2), (2, 2), (0, 0), (1, 1), False, True)
    assert values.shape == switches.shape == (0, 3, 4, 4)
    out = kernels.max_unpool2d(values, switches, (2, 2), (2, 2), (0, 0), (1, 1), (8, 8), "sum", True)
    assert out.shape == (0, 3, 8, 8)
