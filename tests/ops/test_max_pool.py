"""max_pool: bit for bit what ATen's relu and pooling give, and switches that say what ATen's indices say."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import (
    DTYPES,
    GEOMETRIES,
    LAYOUTS,
    OTHER_GEOMETRIES,
    POOL,
    Geometry,
    assert_dense,
    assert_same_bits,
    aten_pool,
    geometries,
    keeps_channels_last,
    random_geometry,
    random_shape,
    random_values,
    random_view,
    switches_of,
)
from torch import Tensor

import deconv_kernels as dk


def check_against_aten(input: Tensor, geometry: Geometry, bias: Tensor | None, relu: bool) -> None:
    """Pools `input`, wherever it is, and compares everything about the result with ATen on the CPU."""
    what = f"{geometry}, input {tuple(input.shape)} strides {input.stride()}, bias {bias is not None}, relu {relu}"
    before = input.clone()
    values, switches = POOL[geometry.rank](input, *geometry.window, geometry.ceil_mode, bias=bias, relu=relu)
    assert_same_bits(input, before, f"the input after {what}")
    expected, indices = aten_pool(input, geometry, bias, relu)
    assert_same_bits(values, expected, f"values of {what}")
    assert_same_bits(switches, switches_of(indices, geometry), f"switches of {what}")
    for result in (values, switches):
        assert result.device == input.device
        assert_dense(result, keeps_channels_last(input, geometry.rank), what, geometry.rank)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_aten(backend: str, device: torch.device, dtype: torch.dtype, layout: str) -> None:
    for geometry in geometries(backend):
        shape = random_shape(geometry)
        input = LAYOUTS[layout](random_values(shape, dtype).to(device), geometry.rank)
        bias = random_values((shape[1],), dtype, "normal").to(device) if random.random() < 0.5 else None
        check_against_aten(input, geometry, bias, random.random() < 0.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_image(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    for geometry in [*random.sample(GEOMETRIES, 3), *random.sample(OTHER_GEOMETRIES, 2)]:
        values = random_values(random_shape(geometry, batched=False), dtype).to(device)
        input = LAYOUTS[layout](values, geometry.rank)
        check_against_aten(input, geometry, None, random.random() < 0.5)


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 32, 33, 63, 64, 65, 129])
def test_channel_counts(backend: str, device: torch.device, channels: int) -> None:
    combinations = list(itertools.product(DTYPES, ("contiguous", "channels_last")))
    for dtype, layout in random.sample(combinations, 1 if backend == "reference" else len(combinations)):
        for geometry in (
            Geometry((6, 7), (2, 2), (2, 2)),
            Geometry((7, 7), (3, 3), (2, 2)),
            random_geometry(random.choice((2, 3))),
        ):
            input = LAYOUTS[layout](random_values((2, channels, *geometry.size), dtype).to(device), geometry.rank)
            bias = random_values((channels,), dtype, "ties").to(device)
            check_against_aten(input, geometry, random.choice([None, bias]), random.random() < 0.5)


@pytest.mark.parametrize("kernel", [2, 3])
def test_map_widths(device: torch.device, kernel: int) -> None:
    for width in [*range(kernel, 40), 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 224]:
        geometry = Geometry((kernel + random.randint(0, 3), width), (kernel, kernel), (2, 2), ceil_mode=width % 3 == 0)
        for dtype in random.sample(DTYPES, 1):
            check_against_aten(random_values((2, *geometry.size), dtype).to(device), geometry, None, width % 2 == 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_windows_of_minus_infinity_choose_their_first_tap_in_the_map(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    for geometry, layout in itertools.product(geometries(backend), ("contiguous", "channels_last")):
        values = random_values(random_shape(geometry), dtype, "minus infinity").to(device)
        input = LAYOUTS[layout](values, geometry.rank)
        check_against_aten(input, geometry, None, relu=False)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_nan_and_zeros(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    nan, inf = math.nan, math.inf
    rows = [
        ((1.0, 1.0, 1.0, 1.0), 0),
        ((0.0, 2.0, 2.0, 1.0), 1),
        ((nan, 5.0, 6.0, 7.0), 0),
        ((nan, 5.0, nan, inf), 2),
        ((9.0, nan, nan, nan), 3),
        ((inf, inf, 1.0, inf), 0),
        ((-inf, -inf, -inf, -inf), 0),
        ((-inf, -inf, -5.0, -inf), 2),
        ((-0.0, 0.0, 0.0, -0.0), 0),
        ((0.0, -0.0, -0.0, 0.0), 0),
    ]
    windows = torch.tensor([taps for taps, _ in rows], dtype=dtype).view(1, len(rows), 2, 2).repeat(2, 3, 1, 1)
    input = LAYOUTS[layout](windows.to(device))
    values, switches = dk.max_pool2d(input, 2)
    expected = torch.tensor([switch for _, switch in rows], dtype=torch.uint8).repeat(2, 3)
    assert torch.equal(switches[..., 0, 0].cpu(), expected)
    chosen = windows.flatten(-2).gather(-1, expected.long()[..., None])[..., None]
    assert_same_bits(values, chosen, "values")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_relu_keeps_nan_and_minus_zero(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    rows = [(-1.0, -0.0, 0.0, -2.0), (-0.0, -1.0, 0.0, -3.0), (-1.0, math.nan, 2.0, 0.0), (-1.0, -2.0, -3.0, 4.0)]
    input = LAYOUTS[layout](torch.tensor(rows, dtype=dtype).view(1, 4, 2, 2).repeat(1, 9, 1, 1).to(device))
    values, switches = dk.max_pool2d(input, 2, relu=True)
    expected = torch.tensor([0.0, -0.0, math.nan, 4.0], dtype=dtype).repeat(9).view(1, 36, 1, 1)
    assert_same_bits(values, expected, "values")
    assert switches.flatten().tolist() == [0, 0, 1, 3] * 9
    check_against_aten(input, Geometry((2, 2), (2, 2), (2, 2)), None, relu=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_bias_is_rounded_before_values_are_compared(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    """Taps that differ tie once the bias is added and rounded; then the first has to win."""
    step = torch.finfo(dtype).eps
    rows = torch.tensor([[1.0, 1.0 + step, 1.0 + 2 * step, 1.0], [1.0 + step, 1.0, 1.0, 1.0 + 3 * step]]).to(dtype)
    input = LAYOUTS[layout](rows.view(1, 2, 2, 2).repeat(1, 20, 1, 1).to(device))
    bias = torch.full((40,), 64.0, dtype=dtype, device=device)
    check_against_aten(input, Geometry((2, 2), (2, 2), (2, 2)), bias, relu=False)
    _, switches = dk.max_pool2d(input, 2, bias=bias)
    assert switches.flatten().tolist() == [0] * 40


def test_equals_a_loop_over_every_window(device: torch.device) -> None:
    """The definition, spelt out in Python numbers, without ATen."""
    for rank in (1, 2, 2, 2, 2, 2, 3, 3, 3, 3):
        geometry = random_geometry(rank)
        input = random_values((2, *geometry.size), torch.float64)
        values, switches = POOL[rank](input.to(device), *geometry.window, geometry.ceil_mode)
        for c, *window in itertools.product(*(range(n) for n in values.shape)):
            best, code = None, 0
            for number, taps in enumerate(itertools.product(*(range(k) for k in geometry.kernel))):
                axes = zip(window, geometry.stride, geometry.padding, taps, geometry.dilation, strict=True)
                place = [at * stride - padding + tap * dilation for at, stride, padding, tap, dilation in axes]
                if all(0 <= at < length for at, length in zip(place, geometry.size, strict=True)):
                    tap = input[(c, *place)].item()
                    if best is None or tap > best or math.isnan(tap):
                        best, code = tap, number
            best = -math.inf if best is None else best
            value = values[(c, *window)].item()
            assert switches[(c, *window)].item() == code, geometry
            assert value == best or (math.isnan(value) and math.isnan(best)), geometry


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_windows_without_a_tap_in_the_map(device: torch.device, relu: bool) -> None:
    """Dilation can make a window step over the whole map: the maximum of nothing is -inf, its switch is 0."""
    geometry = Geometry((7, 2), (2, 2), (1, 1), (1, 1), (1, 3))
    assert geometry.windows_off_the_map.any()
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        input = LAYOUTS[layout](random_values((2, 19, *geometry.size), dtype).to(device))
        check_against_aten(input, geometry, None, relu)
        values, _ = dk.max_pool2d(input, *geometry.window, relu=relu)
        assert bool((values[..., geometry.windows_off_the_map.to(device)] == -math.inf).all())


@pytest.mark.parametrize(
    "window", [(16, 16), (17, 17), (1, 256), (257, 1), (128, 256), (4, 8, 8), (6, 6, 8), (300,)], ids=str
)
def test_switch_dtype_of_large_windows(backend: str, device: torch.device, window: tuple[int, ...]) -> None:
    if backend == "reference" and window == (128, 256):
        pytest.skip("32,768 taps one by one take the reference minutes")
    geometry = Geometry(tuple(taps + 1 for taps in window), window, (1,) * len(window))
    for layout in ("contiguous", "channels_last"):
        input = LAYOUTS[layout](
            random_values((2, 2, *geometry.size), torch.float32, "normal").to(device), geometry.rank
        )
        check_against_aten(input, geometry, None, relu=False)
    _, switches = POOL[geometry.rank](input, window, 1)
    assert switches.dtype == (torch.uint8 if geometry.taps <= 256 else torch.int16)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_batch(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    input = LAYOUTS[layout](torch.empty(0, 3, 6, 7, dtype=dtype, device=device))
    values, switches = dk.max_pool2d(input, 3, 2, bias=torch.ones(3, dtype=dtype, device=device), relu=True)
    assert values.shape == switches.shape == (0, 3, 2, 3)
    assert (values.dtype, switches.dtype) == (dtype, torch.uint8)
    assert values.device == switches.device == input.device


def test_arguments_as_functional_takes_them(device: torch.device) -> None:
    input = torch.randn(2, 3, 12, 13, device=device)
    for arguments in [(2,), ([3],), ((3, 2), None), (3, []), (3, 2), (3, (2, 1), 1), ([3, 3], [2, 1], [1, 0], [1, 2])]:
        values, _ = dk.max_pool2d(input, *arguments)
        assert torch.equal(values.cpu(), F.max_pool2d(input.cpu(), *arguments)), arguments
    values, _ = dk.max_pool2d(input, kernel_size=3, stride=2, padding=1, dilation=2, ceil_mode=True)
    assert torch.equal(values.cpu(), F.max_pool2d(input.cpu(), 3, 2, 1, 2, True))


def test_lazily_negated_input_and_bias(device: torch.device) -> None:
    """Tensors with a pending minus sign, as the imaginary part of a conjugate is one."""
    geometry = Geometry((6, 8), (2, 2), (2, 2))
    input, bias = torch.randn(2, 4, *geometry.size, device=device), torch.randn(4, device=device)
    for negated, added in [(torch._neg_view(input), None), (input, torch._neg_view(bias))]:
        assert negated.is_neg() or added.is_neg()
        check_against_aten(negated, geometry, added, relu=False)
        check_against_aten(negated, geometry, added, relu=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_for_every_thread_count_and_call(device: torch.device, layout: str, threads: None) -> None:
    for geometry in (
        Geometry((57, 61), (3, 3), (2, 2), (1, 1)),
        Geometry((8, 20, 21), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ):
        input = LAYOUTS[layout](random_values((3, 40, *geometry.size), torch.float32).to(device), geometry.rank)
        bias = torch.randn(40, device=device)
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(POOL[geometry.rank](input, *geometry.window, bias=bias, relu=True))
        for values, switches in results[1:]:
            assert_same_bits(values, results[0][0], "values")
            assert_same_bits(switches, results[0][1], "switches")


def test_memory_format_is_that_of_aten(backend: str, device: torch.device) -> None:
    """Of both results for slices, permutations and expansions of maps, to the stride."""
    for _ in range(100):
        input = random_view(device)
        kernel = tuple(random.randint(1, min(2, size)) for size in input.shape[-2:])
        values, switches = dk.max_pool2d(input, kernel, 1)
        expected = F.max_pool2d(input, kernel, 1)
        what = f"{tuple(input.shape)} strides {input.stride()} kernel {kernel}"
        assert_same_bits(values, expected, what)
        assert values.stride() == switches.stride() == expected.stride(), what
        unpooled = dk.max_unpool2d(values, switches, kernel, 1)
        assert_dense(unpooled, keeps_channels_last(values), f"unpooling for {what}")
        indices = dk.switches_to_indices(switches, input.shape[-2:], kernel, 1)
        assert_dense(indices, keeps_channels_last(switches), f"indices for {what}")
