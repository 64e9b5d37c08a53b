"""Max pooling that records window-local switches."""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import dense, empty_like, spatial_size
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import (
    comparable,
    known_multiple,
    map_position,
    offset_in,
    on_map,
    rectified,
    tap_position,
    tile_position,
    window_start,
)

# Elements of a large window that one program looks at in one step.
LARGE_WINDOW_STEP = 1024


def max_pool(
    input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    """Pooled values and switches of `relu(input + bias)`; see `deconv_kernels.max_pool2d`."""
    rank = pooling.rank
    channels_last = _common.channels_innermost(input, rank)
    pooled = pooling.pooled_size(spatial_size(input, rank), ceil_mode)
    output, switches = empty_like(input, pooled), empty_like(input, pooled, pooling.switch_dtype())
    input = dense(input, channels_last, rank)
    bias = None if bias is None else bias.contiguous()
    launch = _launch(input.shape, input.dtype, input.device, pooled, channels_last, bias is not None, pooling, relu)
    launch(input, bias, output, switches)
    return output, switches


@functools.lru_cache(_common.LAUNCHES_KEPT)
def _launch(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    pooled: PerAxis,
    channels_last: bool,
    has_bias: bool,
    pooling: Pooling,
    relu: bool,
) -> _common.Launch:
    """The launch for a map of some shape."""
    rank = pooling.rank
    channels, size = shape[-1 - rank], shape[-rank:]
    width = size[-1]
    elements = math.prod(shape[:-rank]) * math.prod(pooled)
    arguments = {
        "channels": channels,
        "map_size": _common.on_three_axes(size),
        "pooled_size": _common.on_three_axes(pooled),
        "POOLING": _common.of_three_axes(pooling),
        "RELU": relu,
        "HAS_BIAS": has_bias,
        "CHANNELS_LAST": channels_last,
        "INDEX": _common.index_type(shape, (elements,)),
    }
    taps = pooling.taps()
    if taps > _common.LARGEST_UNROLLED_WINDOW:
        columns = channels if channels_last else 1
        block = min(triton.next_power_of_2(columns), _common.NARROWEST_TILE)
        step = min(triton.next_power_of_2(taps), LARGE_WINDOW_STEP // block)
        programs = elements // columns * triton.cdiv(columns, block)
        arguments |= {"columns": columns, "TAPS": step, "COLUMNS": block}
        warps = max(1, min(_common.WARPS, step * block // 256))
        return _common.Launch(max_pool_large_kernel, programs, device, arguments, warps)

    # Taps of wider windows in contiguous maps are read one by one: they are adjacent from thread to thread, and vectors
    # would have to be exchanged between threads.
    adjacent = tuple(numbers[-1] for numbers in pooling) == (2, 2, 0, 1)
    paired = adjacent and width % 2 == 0 and not channels_last
    columns = channels if channels_last else pooled[-1]
    vectors = channels_last or paired
    row_alignment = _common.alignment(channels if channels_last else width) if vectors else 1
    outputs = min(_common.vector_elements(dtype), row_alignment) // (2 if paired else 1)
    if row_alignment == 1:
        outputs = _common.UNALIGNED_ELEMENTS
    rows = elements // columns
    tile = _common.tile_shape(columns, _common.THREADS * outputs)
    seen = pooling.unpooled_size(pooled)
    arguments |= {
        "rows": rows,
        "columns": columns,
        "OVERHANGS": max(pooling.padding) > 0 or any(reach > length for reach, length in zip(seen, size, strict=True)),
        "PAIRED": paired,
        "INPUT_ALIGNMENT": row_alignment,
        "OUTPUT_ALIGNMENT": _common.alignment(columns) if vectors else 1,
        "ROWS": tile[0],
        "COLUMNS": tile[1],
    }
    programs = triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1])
    return _common.Launch(max_pool_kernel, programs, device, arguments)


@triton.jit
def biased(value, bias, HAS_BIAS: tl.constexpr):
    """`value + bias`, rounded to the type of `value`, as float32 (float64 for float64)."""
    return comparable((comparable(value) + comparable(bias)).to(value.dtype)) if HAS_BIAS else comparable(value)


@triton.jit
def taps_before_map(start, DILATION: tl.constexpr):
    """How many taps of a window lie before the map, along one axis."""
    return tl.where(start < 0, (DILATION - 1 - start) // DILATION, 0)


@triton.jit
def first_tap_inside(start_z, start_y, start_x, POOLING: tl.constexpr):
    """The first tap inside the map; tap 0 wherever a window does not start in the padding."""
    z = taps_before_map(start_z, POOLING.dilation[0])
    y = taps_before_map(start_y, POOLING.dilation[1])
    x = taps_before_map(start_x, POOLING.dilation[2])
    return (z * POOLING.kernel_size[1] + y) * POOLING.kernel_size[2] + x


@triton.jit
def max_pool_kernel(
    input,
    bias,
    output,
    switches,
    rows,
    columns,
    channels,
    map_size,
    pooled_size,
    POOLING: tl.constexpr,
    RELU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    OVERHANGS: tl.constexpr,
    PAIRED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INPUT_ALIGNMENT: tl.constexpr,
    OUTPUT_ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Unrolls the taps of small windows; a tile is [ROWS, COLUMNS] pooled elements.

    OVERHANGS: some window reaches outside the map. PAIRED: contiguous maps, and the taps of a window row are two
    adjacent positions that no other window has, so that one vector load brings them for several windows.
    """
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    map, pooled_z, pooled_y, pooled_x = map_position(row, column, pooled_size, CHANNELS_LAST)
    columns = known_multiple(columns, OUTPUT_ALIGNMENT)
    depth, height, width = map_size
    if CHANNELS_LAST:
        pixel = columns
        base = map * depth * height * width * pixel + column
        channel = column
    else:
        width = known_multiple(width, INPUT_ALIGNMENT)
        pixel = 1
        base = map * depth * height * width
        channel = (map % channels).to(tl.int32)

    inside = (row < rows) & (column < columns)
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=(row < rows) & (channel < channels), other=0.0)
    start_z, start_y, start_x = window_start(pooled_z, pooled_y, pooled_x, POOLING)
    first = first_tap_inside(start_z, start_y, start_x, POOLING)
    TAPS_OF_ROW: tl.constexpr = POOLING.kernel_size[2]

    for tap_zy in tl.static_range(POOLING.kernel_size[0] * POOLING.kernel_size[1]):
        tap_z = tap_zy // POOLING.kernel_size[1]
        tap_y = tap_zy % POOLING.kernel_size[1]
        z = start_z + tap_z * POOLING.dilation[0]
        y = start_y + tap_y * POOLING.dilation[1]
        row_inside = (z >= 0) & (z < depth) & (y >= 0) & (y < height)
        line = input + (base + (z.to(INDEX) * height + y) * width * pixel)
        if PAIRED:
            pair_column = 2 * first_column + tl.arange(0, 2 * COLUMNS)[None, :]
            pair_inside = (row < rows) & (pair_column < width)
            if OVERHANGS:
                pair_inside = pair_inside & row_inside
            pair = tl.load(line + pair_column, mask=pair_inside, other=0.0)
            even, odd = tl.split(tl.reshape(pair, (ROWS, COLUMNS, 2)))
        for tap_x in tl.static_range(TAPS_OF_ROW):
            x = start_x + tap_x * POOLING.dilation[2]
            valid = inside
            if OVERHANGS:
                valid = inside & row_inside & (x >= 0) & (x < width)
            if not PAIRED:
                raw = tl.load(line + x * pixel, mask=valid, other=0.0)
            elif tap_x == 0:
                raw = even
            else:
                raw = odd
            value = biased(raw, shift, HAS_BIAS)
            # Rectifying the first tap is enough: no negative value of a later one exceeds it.
            first_value = rectified(value) if RELU else value
            if OVERHANGS:
                value = tl.where(valid, value, float("-inf"))
                first_value = tl.where(valid, first_value, float("-inf"))
            if tap_zy == 0 and tap_x == 0:
                maximum = first_value
                switch = tl.zeros_like(value).to(tl.int32)
            else:
                larger = (value > maximum) | (value != value)
                tap = tap_zy * POOLING.kernel_size[2] + tap_x
                may_be_first = (
                    tap_z * POOLING.dilation[0] < POOLING.padding[0] + POOLING.dilation[0]
                    and tap_y * POOLING.dilation[1] < POOLING.padding[1] + POOLING.dilation[1]
                    and tap_x * POOLING.dilation[2] < POOLING.padding[2] + POOLING.dilation[2]
                )
                if may_be_first:
                    is_first = valid & (first == tap)
                    maximum = tl.where(is_first, first_value, tl.where(larger, value, maximum))
                    switch = tl.where(is_first | larger, tap, switch)
                else:
                    maximum = tl.where(larger, value, maximum)
                    switch = tl.where(larger, tap, switch)

    out = row * columns + column
    tl.store(output + out, maximum.to(output.dtype.element_ty), mask=inside)
    tl.store(switches + out, switch.to(switches.dtype.element_ty), mask=inside)


@triton.jit
def max_pool_large_kernel(
    input,
    bias,
    output,
    switches,
    columns,
    channels,
    map_size,
    pooled_size,
    POOLING: tl.constexpr,
    RELU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INDEX: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per window (and block of channels in channels_last), TAPS of its taps at a time."""
    WINDOW: tl.constexpr = POOLING.kernel_size[0] * POOLING.kernel_size[1] * POOLING.kernel_size[2]
    column_tiles = tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    row = (program // column_tiles).to(INDEX)
    column = program % column_tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    line = row // pooled_size[2]
    map, pooled_z, pooled_y, pooled_x = map_position(line, row - line * pooled_size[2], pooled_size, False)
    start_z, start_y, start_x = window_start(pooled_z, pooled_y, pooled_x.to(tl.int32), POOLING)
    channel = column if CHANNELS_LAST else column + (map % channels).to(tl.int32)
    base = input + (offset_in(map, 0, 0, 0, map_size) * columns + column)
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=column < columns, other=0.0)
    first = first_tap_inside(start_z, start_y, start_x, POOLING)

    # Each lane keeps the maximum of its own taps; a tap of WINDOW says that it has met none inside the map.
    maximum = tl.full(
        (TAPS, COLUMNS), float("-inf"), tl.float64 if input.dtype.element_ty == tl.float64 else tl.float32
    )
    chosen = tl.full((TAPS, COLUMNS), WINDOW, tl.int32)
    for first_tap in range(0, WINDOW, TAPS):
        tap = first_tap + tl.arange(0, TAPS)[:, None]
        z, y, x = tap_position(start_z, start_y, start_x, tap, POOLING)
        valid = (tap < WINDOW) & on_map(z, y, x, map_size) & (column < columns)
        offset = offset_in(0, z.to(INDEX), y, x, map_size)
        value = biased(tl.load(base + offset * columns, mask=valid, other=0.0), shift, HAS_BIAS)
        if RELU:
            value = tl.where(tap == first, rectified(value), value)
        larger = valid & ((value > maximum) | (value != value) | (chosen == WINDOW))
        maximum = tl.where(larger, value, maximum)
        chosen = tl.where(larger, tap, chosen)

    # Over the lanes: the last NaN, else the first of the largest.
    is_nan = maximum != maximum
    last_nan = tl.max(tl.where(is_nan, chosen, -1), axis=0)
    numbers = tl.where(is_nan, float("-inf"), maximum)
    largest = tl.max(numbers, axis=0)
    first_largest = tl.min(tl.where((numbers == largest[None, :]) & (is_nan == 0), chosen, WINDOW), axis=0)
    tap = tl.where(last_nan >= 0, last_nan, first_largest)[None, :]
    found = (tap < WINDOW) & (column < columns)
    z, y, x = tap_position(start_z, start_y, start_x, tap, POOLING)
    offset = offset_in(0, z.to(INDEX), y, x, map_size)
    value = biased(tl.load(base + offset * columns, mask=found, other=0.0), shift, HAS_BIAS)
    if RELU:
        value = rectified(value)
    value = tl.where(found, value, float("-inf"))
    switch = tl.where(found, tap, 0)
    out = row * columns + column
    tl.store(output + out, value.to(output.dtype.element_ty), mask=column < columns)
    tl.store(switches + out, switch.to(switches.dtype.element_ty), mask=column < columns)
