"""Transposed convolution to few channels as one product, whose columns are then put where they belong (col2im).

The first convolution of a network goes from many channels back to three. A product for each of its taps would fill 3 of
the 16 columns that matrix units have at the least, and read the signal anew each time. Here a column is a tap and a
channel of the result: a row of the product is what one signal position sends through all taps, and a result is the sum
of what neighbouring rows of its tile have for it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from deconv_kernels.ops.geometry import Backprojection, PerAxis
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import on_three_axes as deep
from deconv_kernels.ops.triton._common import positive, tap_of_window, windows_on_map

# Columns of the product, which are taps by channels of the result.
MOST_COLUMNS = 32
FEWEST_COLUMNS = 16
# Signal positions of a tile, the warps that share it, and the blocks of channels that are being loaded at once.
ROWS, WARPS, STAGES = 256, 8, 3
# Channels of a step; with more, AMD's compiler runs out of registers.
MOST_CHANNELS = 32
# How high a tile of a large map is, in positions; it is as wide.
SIDE = 16


def takes(geometry: Backprojection, kernel: PerAxis, features: int, windows: PerAxis) -> bool:
    """Whether a backprojection to so many channels is one product; `windows` may name a position, along each axis."""
    plain = set(geometry.stride) == set(geometry.dilation) == set(windows) == {1}
    return geometry.rank == 2 and plain and geometry.groups == 1 and 1 < math.prod(kernel) <= MOST_COLUMNS // features


def tile_of(size: PerAxis, kernel: PerAxis) -> tuple[int, int, int]:
    """Units of a tile, and its rows and columns of signal positions, for results of `size`.

    Its first results lie as far inside as taps reach back. Nothing but the geometry decides on it, and with it on the
    order of sums.
    """
    needed = [triton.next_power_of_2(length + taps - 1) for length, taps in zip(size, kernel, strict=True)]
    least = [triton.next_power_of_2(2 * taps - 1) for taps in kernel]
    height = min(needed[0], max(least[0], min(SIDE, ROWS // least[1])))
    width = min(needed[1], ROWS // height)
    return ROWS // (height * width), height, width


def launch(
    arguments: dict[str, Any], device: torch.device, units: int, size: PerAxis, kernel: PerAxis, features: int
) -> _common.Launch:
    """The launch for a geometry that this kernel takes, given the arguments that both kernels of the op have."""
    tile = tile_of(size, kernel)
    tiles = [triton.cdiv(length, side - taps + 1) for length, side, taps in zip(size, tile[1:], kernel, strict=True)]
    own = {
        "units": units,
        "tiles": deep(tiles),
        "FEATURES": features,
        "COLUMNS": max(FEWEST_COLUMNS, triton.next_power_of_2(math.prod(kernel) * features)),
        "UNITS": tile[0],
        "HEIGHT": tile[1],
        "WIDTH": tile[2],
        "BLOCK_K": min(arguments["BLOCK_K"], MOST_CHANNELS),
    }
    programs = triton.cdiv(units, tile[0]) * math.prod(tiles)
    kernel_of_op = backproject_col2im_kernel
    return _common.Launch(kernel_of_op, programs, device, arguments | own, WARPS, num_stages=STAGES)


@triton.jit
def backproject_col2im_kernel(
    input,
    weight,
    image,
    origin,
    switches,
    output,
    units,
    channels,
    tap_step,
    channel_step,
    feature_step,
    images,
    pooled_size,
    switches_size,
    output_size,
    map_size,
    tiles,
    begin,
    base,
    POOLING: tl.constexpr,
    RELU: tl.constexpr,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    BOUNDED: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNITS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile is UNITS x HEIGHT x WIDTH signal positions, and the results at the same places of the whole result."""
    program = tl.program_id(0)
    line_of_tiles = program // tiles[2]
    block = line_of_tiles // tiles[1]
    first_y = (line_of_tiles - block * tiles[1]) * (HEIGHT - KERNEL[1] + 1)
    first_x = (program - line_of_tiles * tiles[2]) * (WIDTH - KERNEL[2] + 1)
    row = tl.arange(0, UNITS * HEIGHT * WIDTH)
    unit = block.to(INDEX) * UNITS + row // (HEIGHT * WIDTH)
    y = first_y - (KERNEL[1] - 1) + row // WIDTH % HEIGHT
    x = first_x - (KERNEL[2] - 1) + row % WIDTH
    exists = unit < units
    origin_y = tl.load(origin + 2 * unit, mask=exists, other=0)
    origin_x = tl.load(origin + 2 * unit + 1, mask=exists, other=0)

    # Unsigned, so that what lies before the map lies far behind its end.
    position_y = (begin[1] + y).to(tl.uint32)
    position_x = (begin[2] + x).to(tl.uint32)
    window_y = position_y // POOLING.stride[1]
    window_x = position_x // POOLING.stride[2]
    if switches is None:
        first_window_y, count_y = windows_on_map(tl.zeros_like(y), exists, pooled_size[1], pooled_size[1])
        first_window_x, count_x = windows_on_map(tl.zeros_like(x), exists, pooled_size[2], pooled_size[2])
    else:
        source = tl.load(image + unit, mask=exists, other=-1)
        recorded = exists & (source >= 0) & (source < images)
        first_window_y, count_y = windows_on_map(origin_y, recorded, pooled_size[1], switches_size[1])
        first_window_x, count_x = windows_on_map(origin_x, recorded, pooled_size[2], switches_size[2])
        source = (source * switches_size[1] + origin_y) * switches_size[2] + origin_x
        offset = window_y.to(INDEX) * switches_size[2] + window_x
        switch_position = (source * channels).to(INDEX) + offset * channels
    tap_y, sees_y = tap_of_window(window_y, position_y, first_window_y, count_y, POOLING, 1)
    tap_x, sees_x = tap_of_window(window_x, position_x, first_window_x, count_x, POOLING, 2)
    code = (tap_y * POOLING.kernel_size[2] + tap_x).to(tl.int32)
    offset = (unit * pooled_size[1] + window_y.to(INDEX)) * pooled_size[2] + window_x
    position = offset * channels

    column = tl.arange(0, COLUMNS)
    tap = column // FEATURES
    feature = column % FEATURES
    has_tap = tap < KERNEL[1] * KERNEL[2]
    factor_column = tap * tap_step + feature * feature_step
    dtype: tl.constexpr = input.dtype.element_ty
    total = tl.zeros((UNITS * HEIGHT * WIDTH, COLUMNS), tl.float64 if dtype == tl.float64 else tl.float32)
    for step in range(tl.cdiv(channels, BLOCK_K)):
        channel = step * BLOCK_K + tl.arange(0, BLOCK_K)
        in_channels = channel < channels
        sees = (sees_y & sees_x)[:, None] & in_channels[None, :]
        signal = tl.load(input + position[:, None] + channel[None, :], mask=sees, other=0.0)
        if switches is not None:
            switch = tl.load(switches + switch_position[:, None] + channel[None, :], mask=sees, other=0)
            signal = tl.where(switch.to(tl.int32) == code[:, None], signal, tl.zeros_like(signal))
        if RELU:
            signal = positive(signal)
        factor_offset = factor_column[None, :] + channel[:, None] * channel_step
        factor = tl.load(weight + factor_offset, mask=in_channels[:, None] & has_tap[None, :], other=0.0)
        total = tl.dot(signal.to(dtype), factor, total, input_precision=PRECISION, out_dtype=total.dtype)

    # What a result gets through a tap was sent by the row that lies so far back.
    back = tap // KERNEL[2] * WIDTH + tap % KERNEL[2]
    sent = tl.gather(total, tl.maximum(row[:, None] - back[None, :], 0), axis=0)
    written = exists & (y >= first_y) & (y < output_size[1]) & (x >= first_x) & (x < output_size[2])
    inside = written
    if BOUNDED:
        map_y = origin_y * STEP[1] + base[1] + y
        map_x = origin_x * STEP[2] + base[2] + x
        inside = inside & (map_y >= 0) & (map_y < map_size[1]) & (map_x >= 0) & (map_x < map_size[2])
    offset = ((unit * output_size[1] + y) * output_size[2] + x) * FEATURES
    for number in tl.static_range(FEATURES):
        of_feature = (has_tap & (feature == number))[None, :] & inside[:, None]
        result = tl.sum(tl.where(of_feature, sent, 0.0), axis=1)
        tl.store(output + offset + number, result.to(dtype), mask=written)
