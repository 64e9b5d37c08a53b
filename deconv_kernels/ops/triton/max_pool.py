"""Max pooling that records window-local switches."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import Pooling
from deconv_kernels.ops.layout import dense, empty_like, is_channels_last, spatial_size
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import comparable, known_multiple, map_position, rectified, tile_position

# Elements of a large window that one program looks at in one step.
LARGE_WINDOW_STEP = 1024


def max_pool(
    input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    """Pooled values and switches of `relu(input + bias)`; see `deconv_kernels.max_pool2d`."""
    rank = pooling.rank
    channels_last = is_channels_last(input, rank)
    channels, size = input.shape[-1 - rank], spatial_size(input, rank)
    width = size[-1]
    pooled = pooling.pooled_size(size, ceil_mode)
    output, switches = empty_like(input, pooled), empty_like(input, pooled, pooling.switch_dtype())
    input = dense(input, channels_last, rank)
    channels_last = channels_last and channels > 1  # both layouts of one channel are the same memory

    arguments = {
        "input": input,
        "bias": None if bias is None else bias.contiguous(),
        "output": output,
        "switches": switches,
        "channels": channels,
        **_common.size_arguments(map=size, pooled=pooled),
        **_common.window_arguments(pooling),
        "RELU": relu,
        "HAS_BIAS": bias is not None,
        "CHANNELS_LAST": channels_last,
        "INDEX": _common.index_type(input, output),
    }
    taps = pooling.taps()
    if taps > _common.LARGEST_UNROLLED_WINDOW:
        columns = channels if channels_last else 1
        block = min(triton.next_power_of_2(columns), _common.NARROWEST_TILE)
        step = min(triton.next_power_of_2(taps), LARGE_WINDOW_STEP // block)
        programs = output.numel() // columns * triton.cdiv(columns, block)
        arguments |= {"columns": columns, "TAPS": step, "COLUMNS": block}
        warps = max(1, min(_common.WARPS, step * block // 256))
        _common.launch(max_pool_large_kernel, programs, input.device, arguments, warps)
        return output, switches

    # Taps of wider windows in contiguous maps are read one by one: they are adjacent from thread to thread, and vectors
    # would have to be exchanged between threads.
    adjacent = tuple(numbers[-1] for numbers in pooling) == (2, 2, 0, 1)
    paired = adjacent and width % 2 == 0 and not channels_last
    columns = channels if channels_last else pooled[-1]
    vectors = channels_last or paired
    row_alignment = _common.alignment(channels if channels_last else width) if vectors else 1
    outputs = min(_common.vector_elements(input.dtype), row_alignment) // (2 if paired else 1)
    if row_alignment == 1:
        outputs = _common.UNALIGNED_ELEMENTS
    rows = output.numel() // columns
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
    _common.launch(max_pool_kernel, programs, input.device, arguments)
    return output, switches


@triton.jit
def biased(value, bias, HAS_BIAS: tl.constexpr):
    """`value + bias`, rounded to the type of `value`, as float32 (float64 for float64)."""
    return comparable((comparable(value) + comparable(bias)).to(value.dtype)) if HAS_BIAS else comparable(value)


@triton.jit
def max_pool_kernel(
    input,
    bias,
    output,
    switches,
    rows,
    columns,
    channels,
    map_depth,
    map_height,
    map_width,
    pooled_depth,
    pooled_height,
    pooled_width,
    KERNEL_Z: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    STRIDE_Z: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Z: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Z: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
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
    plane, pooled_z, pooled_y, pooled_x = map_position(
        row, column, pooled_depth, pooled_height, pooled_width, CHANNELS_LAST
    )
    if CHANNELS_LAST:
        columns = known_multiple(columns, OUTPUT_ALIGNMENT)
        pixel = columns
        base = plane * map_depth * map_height * map_width * pixel + column
        channel = column
    else:
        columns = known_multiple(columns, OUTPUT_ALIGNMENT)
        map_width = known_multiple(map_width, INPUT_ALIGNMENT)
        pixel = 1
        base = plane * map_depth * map_height * map_width
        channel = (plane % channels).to(tl.int32)

    inside = (row < rows) & (column < columns)
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=(row < rows) & (channel < channels), other=0.0)
    start_z = pooled_z * STRIDE_Z - PADDING_Z
    start_y = pooled_y * STRIDE_Y - PADDING_Y
    start_x = pooled_x * STRIDE_X - PADDING_X
    # The first tap inside the map along each axis; tap 0 wherever a window does not start in the padding.
    first_z = tl.where(start_z < 0, (DILATION_Z - 1 - start_z) // DILATION_Z, 0)
    first_y = tl.where(start_y < 0, (DILATION_Y - 1 - start_y) // DILATION_Y, 0)
    first_x = tl.where(start_x < 0, (DILATION_X - 1 - start_x) // DILATION_X, 0)

    for tap_zy in tl.static_range(KERNEL_Z * KERNEL_Y):
        tap_z = tap_zy // KERNEL_Y
        tap_y = tap_zy % KERNEL_Y
        z = start_z + tap_z * DILATION_Z
        y = start_y + tap_y * DILATION_Y
        row_inside = (z >= 0) & (z < map_depth) & (y >= 0) & (y < map_height)
        line = input + (base + (z.to(INDEX) * map_height + y) * map_width * pixel)
        if PAIRED:
            pair_column = 2 * first_column + tl.arange(0, 2 * COLUMNS)[None, :]
            pair_inside = (row < rows) & (pair_column < map_width)
            if OVERHANGS:
                pair_inside = pair_inside & row_inside
            pair = tl.load(line + pair_column, mask=pair_inside, other=0.0)
            even, odd = tl.split(tl.reshape(pair, (ROWS, COLUMNS, 2)))
        for tap_x in tl.static_range(KERNEL_X):
            x = start_x + tap_x * DILATION_X
            valid = inside
            if OVERHANGS:
                valid = inside & row_inside & (x >= 0) & (x < map_width)
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
                may_be_first = (
                    tap_z * DILATION_Z < PADDING_Z + DILATION_Z
                    and tap_y * DILATION_Y < PADDING_Y + DILATION_Y
                    and tap_x * DILATION_X < PADDING_X + DILATION_X
                )
                if may_be_first:
                    first = valid & (first_z == tap_z) & (first_y == tap_y) & (first_x == tap_x)
                    maximum = tl.where(first, first_value, tl.where(larger, value, maximum))
                    switch = tl.where(first | larger, tap_zy * KERNEL_X + tap_x, switch)
                else:
                    maximum = tl.where(larger, value, maximum)
                    switch = tl.where(larger, tap_zy * KERNEL_X + tap_x, switch)

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
    map_depth,
    map_height,
    map_width,
    pooled_depth,
    pooled_height,
    pooled_width,
    KERNEL_Z: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    STRIDE_Z: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Z: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Z: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    RELU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INDEX: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per window (and block of channels in channels_last), TAPS of its taps at a time."""
    PLANE: tl.constexpr = KERNEL_Y * KERNEL_X
    WINDOW: tl.constexpr = KERNEL_Z * PLANE
    column_tiles = tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    row = (program // column_tiles).to(INDEX)
    column = program % column_tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    line = row // pooled_width
    plane = line // pooled_height
    map = plane // pooled_depth
    start_x = (row - line * pooled_width).to(tl.int32) * STRIDE_X - PADDING_X
    start_y = (line - plane * pooled_height).to(tl.int32) * STRIDE_Y - PADDING_Y
    start_z = (plane - map * pooled_depth).to(tl.int32) * STRIDE_Z - PADDING_Z
    channel = column if CHANNELS_LAST else column + (map % channels).to(tl.int32)
    base = input + (map * map_depth * map_height * map_width * columns + column)
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=column < columns, other=0.0)
    first_z = tl.where(start_z < 0, (DILATION_Z - 1 - start_z) // DILATION_Z, 0)
    first_y = tl.where(start_y < 0, (DILATION_Y - 1 - start_y) // DILATION_Y, 0)
    first_x = tl.where(start_x < 0, (DILATION_X - 1 - start_x) // DILATION_X, 0)

    # Each lane keeps the maximum of its own taps; a tap of WINDOW says that it has met none inside the map.
    maximum = tl.full(
        (TAPS, COLUMNS), float("-inf"), tl.float64 if input.dtype.element_ty == tl.float64 else tl.float32
    )
    chosen = tl.full((TAPS, COLUMNS), WINDOW, tl.int32)
    for first_tap in range(0, WINDOW, TAPS):
        tap = first_tap + tl.arange(0, TAPS)[:, None]
        z = start_z + tap // PLANE * DILATION_Z
        y = start_y + tap // KERNEL_X % KERNEL_Y * DILATION_Y
        x = start_x + tap % KERNEL_X * DILATION_X
        valid = (tap < WINDOW) & (z >= 0) & (z < map_depth) & (y >= 0) & (y < map_height) & (x >= 0) & (x < map_width)
        valid = valid & (column < columns)
        raw = tl.load(base + ((z.to(INDEX) * map_height + y) * map_width + x) * columns, mask=valid, other=0.0)
        value = biased(raw, shift, HAS_BIAS)
        if RELU:
            value = tl.where(tap == (first_z * KERNEL_Y + first_y) * KERNEL_X + first_x, rectified(value), value)
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
    z = start_z + tap // PLANE * DILATION_Z
    y = start_y + tap // KERNEL_X % KERNEL_Y * DILATION_Y
    x = start_x + tap % KERNEL_X * DILATION_X
    raw = tl.load(base + ((z.to(INDEX) * map_height + y) * map_width + x) * columns, mask=found, other=0.0)
    value = biased(raw, shift, HAS_BIAS)
    if RELU:
        value = rectified(value)
    value = tl.where(found, value, float("-inf"))
    switch = tl.where(found, tap, 0)
    out = row * columns + column
    tl.store(output + out, value.to(output.dtype.element_ty), mask=column < columns)
    tl.store(switches + out, switch.to(switches.dtype.element_ty), mask=column < columns)
