"""The Triton kernels in Triton's interpreter, against the reference and ATen; run by test_triton_interpreter.py.

The interpreter does bfloat16 arithmetic wrongly, so bfloat16 appears only where values are moved and compared. It does
not notice writes outside a tensor either: every output lies between canaries here. It is slow, so tensors are small.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import os
import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kept_launches import forget_launches
from pooling_cases import (
    GEOMETRIES,
    LAYOUTS,
    OTHER_GEOMETRIES,
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
    unpool_windows_by_hand,
)
from tolerances import assert_rounded_once
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs only with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from triton.runtime import interpreter

from deconv_kernels import backends
from deconv_kernels.ops import layout as layouts
from deconv_kernels.ops import reference
from deconv_kernels.ops import triton as kernels
from deconv_kernels.ops.arguments import taking_flat
from deconv_kernels.ops.library import without_rank

CANARY = 0x5A
MARGIN = 4096  # bytes on each side of an output
COMMON = importlib.import_module("deconv_kernels.ops.triton._common")
BACKPROJECT = importlib.import_module("deconv_kernels.ops.triton.backproject")
COL2IM = importlib.import_module("deconv_kernels.ops.triton.backproject_col2im")
# Called with the arguments of the schemas.
kernels, reference = (  # type: ignore[assignment]
    SimpleNamespace(**{name: taking_flat(name, getattr(module, without_rank(name))) for name in backends.OPS})
    for module in (kernels, reference)
)
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

    def empty(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool, rank: int
    ) -> Tensor:
        batch, channels, size = shape[: -1 - rank], shape[-1 - rank], shape[-rank:]
        stored = (*batch, *size, channels) if channels_last else tuple(shape)
        bytes_of_it = torch.Size(stored).numel() * dtype.itemsize
        memory = torch.full((2 * MARGIN + bytes_of_it,), CANARY, dtype=torch.uint8)
        self.memories.append(memory)
        out = memory[MARGIN : MARGIN + bytes_of_it].view(dtype).view(stored)
        return out.movedim(-1, -1 - rank) if channels_last else out

    def check(self) -> None:
        assert self.memories, "the kernel's outputs did not come from here"
        for memory in self.memories:
            assert bool((memory[:MARGIN] == CANARY).all()), "written before the start of an output"
            assert bool((memory[-MARGIN:] == CANARY).all()), "written past the end of an output"


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch, poisoned_memory: None) -> Iterator[None]:
    guard = Canaries()
    for module in (layouts, BACKPROJECT):
        monkeypatch.setattr(module, "empty", guard.empty)
    yield
    guard.check()


@pytest.fixture(autouse=True)
def launches_are_made_anew() -> None:
    forget_launches()


@pytest.fixture(autouse=True)
def scalars_become_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As later Tritons have it: the interpreter of 3.6 cannot use a scalar as a bound of a loop with numpy from 2.4."""
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: int(scalar.handle.data.squeeze()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


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


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_volumes(layout: str) -> None:
    """Every pooling op on maps of three dimensions, with small and large windows."""
    volumes = [g for g in OTHER_GEOMETRIES if g.rank == 3 and not g.windows_off_the_map.any()]
    for geometry in random.sample(volumes, 2):
        shape = (2, 3, *geometry.size)
        bias, relu, overlap = torch.randn(3), random.random() < 0.5, random.choice(("sum", "last"))
        input = LAYOUTS[layout](random_values(shape, torch.float32), 3)
        pooled = kernels.max_pool3d(input, bias, *geometry.window, geometry.ceil_mode, relu)
        values, indices = aten_pool(input, geometry, bias, relu)
        assert_same_bits(pooled[0], values, f"values of {geometry}")
        assert_same_bits(pooled[1], switches_of(indices, geometry), f"switches of {geometry}")
        converted = kernels.switches_to_indices(pooled[1], geometry.size, *geometry.window)
        assert_same_bits(converted, indices, f"indices of {geometry}")
        back = kernels.indices_to_switches(converted, geometry.size, *geometry.window)
        assert_same_bits(back, pooled[1], f"switches again of {geometry}")
        codes = random_switches(tuple(values.shape), geometry)
        out = kernels.max_unpool3d(values, codes, *geometry.window, geometry.size, overlap, relu)
        assert_same_bits(out, unpool_by_hand(values, codes, geometry, overlap, relu), f"unpooling of {geometry}")
        image, origin = torch.tensor([1, 0, 1]), torch.randint(-2, 3, (3, 3))
        windows = LAYOUTS[layout](random_values((3, 3, 2, 3, 2), torch.float32), 3)
        kernel, stride, _, dilation = geometry.window
        out = kernels.max_unpool3d_window(windows, codes, image, origin, kernel, stride, dilation, overlap, relu)
        expected = unpool_windows_by_hand(windows, codes, image, origin, geometry, overlap, relu)
        assert_same_bits(out, expected, f"windows of {geometry}")


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
def test_max_unpool2d_equals_aten(layout: str, threads: None) -> None:
    torch.set_num_threads(1)  # where windows overlap, ATen's unpooling is deterministic only so
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


def window_arguments(
    geometry: Geometry, dtype: torch.dtype, layout: str, channels: int | None = None, kind: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows of up to 5 x 5 that lie inside, across the border of and far outside the maps of two images."""
    images, units, channels = 2, 6, channels or random.choice([1, 3, 4])
    shape = (images, channels, *geometry.pooled)
    switches = random_switches(shape, geometry)
    values = random_values((units, channels, random.randint(1, 5), random.randint(1, 5)), dtype, kind)
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


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A forward convolution from `features` to `channels` channels."""

    kernel: tuple[int, int]
    channels: int
    features: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.channels, self.features // self.groups, *self.kernel


def random_convolution() -> Convolution:
    groups = random.choice([1, 1, 2])
    kernel, stride, dilation = ((random.randint(1, most), random.randint(1, most)) for most in (3, 2, 3))
    return Convolution(kernel, groups * random.randint(1, 6), groups * random.randint(1, 6), stride, dilation, groups)


def backproject_arguments(
    convolution: Convolution, pool: Geometry | None, dtype: torch.dtype, layout: str, cropped: bool
) -> dict[str, Any]:
    """Windows to send back through a pooling and a convolution: the whole result, or some of it within some map."""
    geometry = pool or Geometry((7, 6), (1, 1), (1, 1))
    values, switches, image, origin = window_arguments(geometry, dtype, layout, convolution.channels, "normal")
    first, units = random.choice([0, 1, 1]), 3  # the first of all lies far away
    image, origin = image[first : first + units], origin[first : first + units]
    origin[1:] = torch.stack([torch.randint(-1, size, (units - 1,)) for size in geometry.pooled], dim=1)
    rows, columns = (max(1, 6 // (s * c)) for s, c in zip(geometry.stride, convolution.stride, strict=True))
    values = values[:units, :, :rows, :columns]
    spread = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(values.shape[2:], geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    ]
    full = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(spread, convolution.kernel, convolution.stride, convolution.dilation, strict=True)
    ]
    begin = [random.randint(0, n // 2) if cropped else 0 for n in full]
    size = [random.randint(1, min(n - b + 2, 9)) if cropped else n for n, b in zip(full, begin, strict=True)]
    base = [random.randint(-3, 2) if cropped else 0 for _ in full]
    step = [s * (t if pool else 1) for s, t in zip(convolution.stride, geometry.stride, strict=True)]
    starts = [o * s + b for o, s, b in zip(origin[-1].tolist(), step, base, strict=True)]
    map_size = [max(1, start + random.randint(1, n)) for start, n in zip(starts, size, strict=True)]
    return {
        "input": LAYOUTS[layout](values),
        "weight": random_values(convolution.weight_shape, dtype, "normal"),
        "image": image,
        "origin": origin,
        "switches": None if pool is None else switches,
        "packed": None,
        "pool_kernel_size": geometry.kernel,
        "pool_stride": geometry.stride,
        "pool_dilation": geometry.dilation,
        "overlap": random.choice(["sum", "last"]),
        "relu": random.random() < 0.7,
        "stride": convolution.stride,
        "dilation": convolution.dilation,
        "groups": convolution.groups,
        "begin": tuple(begin),
        "size": tuple(size),
        "base": tuple(base),
        "map_size": tuple(map_size) if cropped else (-1, -1),
    }


def exact(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """In float64: the result, and the sums of its terms' magnitudes. The signal is unpooled in its own dtype."""
    signal, weight, origin = arguments["input"], arguments["weight"].double(), arguments["origin"]
    if arguments["switches"] is not None:
        window = (arguments[f"pool_{name}"] for name in ("kernel_size", "stride", "dilation"))
        where = arguments["switches"], arguments["image"], origin
        signal = reference.max_unpool2d_window(signal, *where, *window, arguments["overlap"], arguments["relu"])
        origin = origin * torch.tensor(arguments["pool_stride"])
    elif arguments["relu"]:
        signal = F.relu(signal)
    signal = signal.double()
    convolved = arguments | {"switches": None, "relu": False, "origin": origin}
    result, magnitude = (
        reference.backproject2d(*(convolved | {"input": x, "weight": w}).values())
        for x, w in ((signal, weight), (signal.abs(), weight.abs()))
    )
    return result, magnitude


def check_backproject(convolution: Convolution, pool: Geometry | None, dtype: torch.dtype) -> None:
    for cropped in (True,) if pool is POOLS[-1] else (False, True):  # the interpreter is slow
        layout = random.choice(["contiguous", "channels_last"])  # the kernel itself knows only one
        arguments = backproject_arguments(convolution, pool, dtype, layout, cropped)
        shown = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        what = f"{convolution}, windows {tuple(arguments['input'].shape)}, {shown}"
        result = kernels.backproject2d(*arguments.values())
        assert result.dtype == dtype
        assert_rounded_once(result, *exact(arguments), what)
        assert_dense(result, keeps_channels_last(arguments["input"]), what)


CONVOLUTIONS = [
    Convolution((1, 2), 70, 66),  # more channels than one block, more features than one tile
    Convolution((1, 1), 3, 18),
    Convolution((3, 3), 7, 3),
    Convolution((11, 11), 6, 3, (4, 4)),
    Convolution((7, 7), 5, 3, (2, 2)),
    Convolution((3, 2), 5, 4, (2, 3), (4, 2)),  # phases 1 of the rows meet no tap
    Convolution((1, 2), 4, 5, (3, 4), (1, 3)),  # nor do two of three here
    Convolution((3, 3), 6, 9, groups=3),
    Convolution((3, 3), 5, 5, (2, 1), groups=5),
    Convolution((5, 5), 8, 4, (1, 1), (2, 3), groups=2),
]
POOLS = [
    Geometry((14, 12), (2, 2), (2, 2)),
    Geometry((15, 13), (3, 3), (2, 2)),
    Geometry((9, 8), (3, 3), (1, 1)),  # nine windows see a position, so it is unpooled before
    Geometry((30, 17), (2, 3), (4, 2), (0, 0), (2, 1)),
    Geometry((17, 14), (3, 2), (2, 2), (0, 0), (2, 1)),
    Geometry((34, 48), (17, 16), (17, 16)),  # with switches of 16 bits
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_backproject2d_without_switches(dtype: torch.dtype) -> None:
    chosen = CONVOLUTIONS if dtype == torch.float32 else random.sample(CONVOLUTIONS, 2)
    for convolution in [*chosen, random_convolution()]:
        check_backproject(convolution, None, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_backproject2d_with_switches(dtype: torch.dtype) -> None:
    for pool in POOLS if dtype == torch.float32 else random.sample(POOLS[:5], 2):
        check_backproject(random_convolution(), pool, dtype)
    check_backproject(random.choice(CONVOLUTIONS), POOLS[0], dtype)


@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_backproject2d_of_values_that_are_not_numbers(overlap: str) -> None:
    """They go where switches send them and nowhere else, whatever padding of blocks they are multiplied with."""
    for pool, features in itertools.product((None, POOLS[0], POOLS[1]), (3, 4)):
        arguments = backproject_arguments(Convolution((3, 3), 5, features), pool, torch.float32, "channels_last", True)
        arguments |= {"overlap": overlap, "relu": random.random() < 0.5}
        arguments["input"][torch.rand(arguments["input"].shape) < 0.1] = torch.nan
        result, (expected, magnitude) = kernels.backproject2d(*arguments.values()), exact(arguments)
        assert torch.equal(result.isnan(), expected.isnan())
        assert_rounded_once(result.nan_to_num(0), expected.nan_to_num(0), magnitude.nan_to_num(0))


def test_backproject2d_of_images_that_do_not_exist_is_zero() -> None:
    for pool in POOLS[:2]:
        arguments = backproject_arguments(Convolution((3, 3), 5, 4), pool, torch.float32, "contiguous", True)
        expected, magnitude = exact(arguments)
        arguments["image"][0], arguments["image"][1] = -1, len(arguments["switches"])
        result = kernels.backproject2d(*arguments.values())
        assert not result[:2].any()
        assert_rounded_once(result[2:], expected[2:], magnitude[2:])
        arguments["image"][:] = 0
        arguments["origin"][0] = torch.tensor([-(2**63), 2**63 - 1])
        arguments["origin"][1] = torch.tensor([-(2**63) + 2, -(2**63) + 1])
        assert not kernels.backproject2d(*arguments.values())[:2].any()


def test_backproject2d_with_a_packed_weight() -> None:
    arguments = backproject_arguments(Convolution((3, 2), 6, 8, groups=2), POOLS[0], torch.float32, "contiguous", True)
    packed = kernels.pack_weight(arguments["weight"], (1, 1), (1, 1), 2)
    assert_same_bits(packed, arguments["weight"].permute(2, 3, 0, 1), "packed")
    assert packed.transpose(-1, -2).is_contiguous()
    assert kernels.pack_weight(arguments["weight"].half(), (1, 1), (1, 1), 2).is_contiguous()
    expected = kernels.backproject2d(*arguments.values())
    arguments |= {"weight": torch.full_like(arguments["weight"], torch.nan)}
    for order in (packed.contiguous(), packed.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1), packed):
        arguments |= {"packed": order}
        assert_same_bits(kernels.backproject2d(*arguments.values()), expected, f"packed with strides {order.stride()}")
    lists = {name: list(value) for name, value in arguments.items() if isinstance(value, tuple)}
    assert_same_bits(
        kernels.backproject2d(*(arguments | lists).values()), expected, "with lists, as torch's dispatcher has them"
    )


@pytest.mark.parametrize("window", [None, ((2, 2, 2), (2, 2, 2), (1, 1, 1)), ((3, 1, 2), (2, 1, 2), (1, 1, 1))])
def test_backproject3d(window: tuple[tuple[int, ...], ...] | None) -> None:
    """Small whole numbers, whose sums are exact in any order."""
    input, switches = torch.randint(-3, 4, (2, 10, 2, 1, 2)).float(), None
    if window is not None:
        switches = torch.randint(0, math.prod(window[0]) + 1, (2, 10, 3, 2, 2)).to(torch.uint8)
    kernel, *convolution = random.choice((((3, 3, 3), (1, 1, 1), (1, 1, 1)), ((2, 1, 3), (2, 1, 3), (3, 2, 1))))
    weight = torch.randint(-3, 4, (10, 3, *kernel)).float()
    tensors = (input, weight, torch.tensor([1, 0]), torch.randint(-1, 2, (2, 3)), switches, None)
    placement = ((1, 0, 0), (5, 4, 5), (-1, 0, 1), random.choice(((-1, -1, -1), (5, 4, 6))))
    rest = (*(window or ((1, 1, 1),) * 3), random.choice(("sum", "last")), random.random() < 0.5)
    arguments = (*tensors, *rest, *convolution, 2, *placement)
    assert_same_bits(kernels.backproject3d(*arguments) + 0, reference.backproject3d(*arguments) + 0, str(rest))


def test_backproject2d_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(COMMON, "index_type", lambda *tensors: tl.int64)
    for pool in (None, *POOLS[:2]):
        check_backproject(random_convolution(), pool, torch.float32)


def test_backproject2d_with_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    to_try = BACKPROJECT.tiles_to_try
    for features, dtype, precision in ((70, torch.float16, ""), (9, torch.float16, ""), (70, torch.float32, "ieee")):
        convolution = Convolution((2, 2), 6, features)
        for tile in to_try(features, dtype, precision, hopper=True):
            monkeypatch.setattr(BACKPROJECT, "tiles_to_try", lambda *_, tile=tile: [tile])
            forget_launches()
            check_backproject(convolution, random.choice([None, POOLS[0]]), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_backproject2d_to_few_channels(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """As one product: results of several tiles, several units in a tile, and columns that are all taken or not."""
    launch, launched = COL2IM.launch, []
    monkeypatch.setattr(COL2IM, "launch", lambda *about: launched.append(about) or launch(*about))
    convolutions = [((3, 3), 7, 3), ((5, 5), 4, 1), ((2, 2), 34, 8), ((1, 16), 3, 2), ((10, 3), 3, 1)]
    for convolution in convolutions if dtype == torch.float32 else random.sample(convolutions, 2):
        for pool in (None, POOLS[0], Geometry((38, 44), (2, 2), (2, 2))):
            check_backproject(Convolution(*convolution), pool, dtype)
    assert launched


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
    arguments = backproject_arguments(Convolution((3, 3), 3, 4), POOLS[0], torch.float32, "contiguous", False)
    for name in ("input", "image", "origin"):
        arguments[name] = arguments[name][:0]
    assert kernels.backproject2d(*arguments.values()).shape == (0, 4, *arguments["size"])
