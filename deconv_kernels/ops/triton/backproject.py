"""Unpooling, rectification and transposed convolution of windows as one matrix product.

A row of the product is an output position of some unit, a column an output channel, and the sum runs over the taps of
the convolution and its input channels. The left factor, the unpooled and rectified signal, is formed in registers from
pooled values and switches and never lies in memory.

With a stride, output positions fall into phases, which differ in the taps that reach them: a program computes positions
of one phase with the taps of that phase.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops import backends
from deconv_kernels.ops.geometry import Backprojection, Convolution, PerAxis, Pooling
from deconv_kernels.ops.layout import dense, dense_copy, empty, is_channels_last, taps_first
from deconv_kernels.ops.triton import _common, backproject_col2im
from deconv_kernels.ops.triton._common import Tile, comparable, positive, tap_of_window, windows_on_map
from deconv_kernels.ops.triton._common import on_three_axes as deep
from deconv_kernels.ops.triton.max_unpool_window import max_unpool_window

# Where more windows than this may name a position, unpooling once costs less than asking them all for every tap.
MOST_WINDOWS = 4
# Triton 3.6 cannot compile a product in float64 whose factor is chosen by switches.
FUSES_FLOAT64 = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
# Matrix units multiply blocks of no fewer rows, columns and channels.
SMALLEST_BLOCK = 16


def backproject(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    geometry: Backprojection,
) -> Tensor:
    """Unpooling, rectification and transposed convolution of windows; see `deconv_kernels.backproject2d`.

    A window whose `image` is not one of the images of `switches` sends nothing. Factors of float32 are rounded to TF32
    where torch's setting for convolutions allows it. The first call of its kind on a device measures which tiles are
    fastest there, unless a CUDA graph is being captured; the result does not depend on them.
    """
    rank = geometry.rank
    channels_last = is_channels_last(input, rank)
    pooling = geometry.pooling()
    if switches is not None and not fuses(pooling, input.dtype):
        input = max_unpool_window(input, switches, image, origin, pooling, geometry.overlap, geometry.relu)
        switches, geometry = None, geometry._replace(relu=False)
    input = dense(input, True, rank)
    if switches is not None:
        switches = dense(switches, True, rank)
    if packed is None:
        packed = pack_weight(weight, geometry.convolution())
    elif packed.shape != weight.shape[2:] + weight.shape[:2] or packed.dtype != weight.dtype:
        raise ValueError("packed must be what pack_weight makes of weight")
    packed = packed.flatten(0, -3)
    shape = (input.shape[0], geometry.groups * weight.shape[1], *geometry.size)
    output = empty(shape, input.dtype, input.device, True, rank)
    launch = _launch(
        input.shape,
        input.dtype,
        input.device,
        weight.shape,
        packed.stride(),
        None if switches is None else switches.shape,
        output.shape,
        geometry,
        float32_precision(),
    )
    launch(input, packed, image.contiguous(), origin.contiguous(), switches, output)
    return output if channels_last else dense_copy(output, False, rank)


@functools.lru_cache(_common.LAUNCHES_KEPT)
def _launch(
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    weight_shape: tuple[int, ...],
    weight_steps: tuple[int, int, int],
    switches_shape: tuple[int, ...] | None,
    output_shape: tuple[int, ...],
    geometry: Backprojection,
    precision: str,
) -> _common.Launch | _common.FastestLaunch:
    """The launch for a geometry and tensors of these shapes; `weight_steps` lie between taps, channels and features."""
    rank, pooling = geometry.rank, geometry.pooling()
    if switches_shape is None:  # as after a pooling with windows of one element
        pooling = Pooling.one_position(rank)
    windows = windows_of(pooling)
    stride, dilation, groups = geometry.convolution()
    begin, size, base, map_size = geometry.placement()
    channels, features = input_shape[1] // groups, weight_shape[1]
    arguments = {
        "channels": channels,
        "tap_step": weight_steps[0],
        "channel_step": weight_steps[1],
        "feature_step": weight_steps[2],
        "images": 0 if switches_shape is None else switches_shape[0],
        "pooled_size": deep(input_shape[-rank:]),
        "switches_size": deep((1,) * rank if switches_shape is None else switches_shape[-rank:]),
        "output_size": deep(size),
        "map_size": deep(map_size),
        "begin": deep([min(place, _common.FARTHEST_BEGIN) for place in begin], 0),
        "base": deep(base, 0),
        "POOLING": _common.of_three_axes(pooling),
        "KERNEL": deep(weight_shape[2:]),
        "STEP": deep(geometry.step(pooled=switches_shape is not None)),
        "RELU": geometry.relu,
        "BOUNDED": geometry.placement().bounded(),
        "PRECISION": precision,
        "INDEX": _common.index_type(input_shape, weight_shape, switches_shape or (), output_shape),
        "BLOCK_K": block_of_channels(channels, dtype, precision, windows),
    }
    if backproject_col2im.takes(geometry, weight_shape[2:], features, windows):
        return backproject_col2im.launch(arguments, device, input_shape[0], size, weight_shape[2:], features)
    phases = [min(axis) for axis in zip(stride, size, strict=True)]
    cells = tuple(triton.cdiv(length, apart) for length, apart in zip(size, stride, strict=True))
    rows = input_shape[0] * math.prod(cells)
    axes = list(zip(stride, dilation, strict=True))
    arguments |= {
        "rows": rows,
        "features": features,
        "groups": groups,
        "cells": deep(cells),
        "phases": deep(phases),
        "WINDOWS": deep(windows),
        "STRIDE": deep(stride),
        "DILATION": deep(dilation),
        "COMMON": deep([math.gcd(*axis) for axis in axes]),
        "INVERSE": deep([inverse(*axis) for axis in axes], 0),
        "RANK": rank,
        "LAST": geometry.overlap == "last",
    }

    def programs(tile: Tile) -> int:
        tiles = triton.cdiv(rows, tile.BLOCK_M) * triton.cdiv(features, tile.BLOCK_N)
        return tiles * math.prod(phases) * groups

    # Calls that agree in these use the same tiles; `rows` counts in steps of a factor of four.
    alike = (dtype, precision, windows, switches_shape is None, weight_shape, *stride, groups, rows.bit_length() // 2)
    tiles = tiles_to_try(features, dtype, precision, _common.is_hopper_or_later(device))
    return _common.FastestLaunch(backproject_kernel, programs, device, arguments, tiles, alike)


def pack_weight(weight: Tensor, convolution: Convolution) -> Tensor:
    """The weight as ([kd, ]kh, kw, K, C / groups), in the order in which the kernel copies 16 bytes at a time.

    With C / groups innermost, products in TF32 would copy four. The kernel takes any order.
    """
    return taps_first(weight, for_tf32=True)


def fuses(pooling: Pooling, dtype: torch.dtype) -> bool:
    """Whether the kernel unpools by itself."""
    return math.prod(windows_of(pooling)) <= MOST_WINDOWS and (dtype != torch.float64 or FUSES_FLOAT64)


def windows_of(pooling: Pooling) -> PerAxis:
    """How many windows may name a position, along each axis."""
    return tuple((reach - 1) // step + 1 for reach, step in zip(pooling.extent(), pooling.stride, strict=True))


def float32_precision() -> str:
    """How factors of float32 are rounded, from what torch allows for convolutions (by either of its two settings)."""
    return "tf32" if backends.allows_tf32() and not torch.version.hip else "ieee"


def inverse(stride: int, dilation: int) -> int:
    """With both divided by their common divisor: what `dilation` is multiplied by to give 1, modulo `stride`."""
    common = math.gcd(stride, dilation)
    return pow(dilation // common, -1, stride // common)


def block_of_channels(channels: int, dtype: torch.dtype, precision: str, windows: PerAxis) -> int:
    """Channels that one product sums over: up to 128 bytes of a pixel, half of it where several windows are read."""
    most = (128 if set(windows) == {1} else 64) // dtype.itemsize
    if not on_matrix_units(dtype, precision):
        most = SMALLEST_BLOCK
    return max(SMALLEST_BLOCK, min(triton.next_power_of_2(channels), most))


def on_matrix_units(dtype: torch.dtype, precision: str) -> bool:
    """Whether factors of `dtype` are multiplied by the fast units, which know 16-bit types and TF32."""
    return dtype.itemsize == 2 or (dtype == torch.float32 and precision == "tf32")


def tiles_to_try(features: int, dtype: torch.dtype, precision: str, hopper: bool) -> list[Tile]:
    """Tiles of output positions and channels, a modest one that fits every card first.

    All give the same bits, so a unit's result does not depend on the batch it is in. An element is one sum over blocks
    of channels and over taps, whose size and order the tile does not change. And no tile is so small that a compiler
    would take other instructions for it: Hopper's multiply 64 rows at a time, AMD's 32 rows by 32 columns.
    """
    if on_matrix_units(dtype, precision):
        shapes = [(64, 64, 4, 3), (128, 64, 4, 3), (128, 128, 8, 3)]
        if hopper:  # elsewhere these do not fit in registers
            shapes += [(64, 128, 4, 3), (128, 256, 8, 3)]
    else:
        shapes = [(64, 32, 4, 2), (128, 64, 8, 2)]
    widest = max(SMALLEST_BLOCK, triton.next_power_of_2(features))
    return list(dict.fromkeys(Tile(rows, min(columns, widest), *rest) for rows, columns, *rest in shapes))


@triton.jit
def taps_of_phase(
    phase,
    begin,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    COMMON: tl.constexpr,
    INVERSE: tl.constexpr,
    AXIS: tl.constexpr,
):
    """Whether taps reach a phase, the first that does, how many do, and the signal that the first brings to cell 0.

    Tap `t` reaches the positions that are `t * DILATION` modulo STRIDE. So if any tap reaches a phase, then every
    `STRIDE // COMMON`-th does. Where none does, tap 0 stands for it.
    """
    APART: tl.constexpr = STRIDE[AXIS] // COMMON[AXIS]
    position = begin[AXIS] + phase
    remainder = position % STRIDE[AXIS]
    first = remainder // COMMON[AXIS] * INVERSE[AXIS] % APART
    reached = (remainder % COMMON[AXIS] == 0) & (first < KERNEL[AXIS])
    first = tl.where(reached, first, 0)
    count = tl.where(reached, tl.cdiv(KERNEL[AXIS] - first, APART), 1)
    return reached, first, count, (position - first * DILATION[AXIS]) // STRIDE[AXIS]


@triton.jit
def backproject_kernel(
    input,
    weight,
    image,
    origin,
    switches,
    output,
    rows,
    channels,
    features,
    groups,
    tap_step,
    channel_step,
    feature_step,
    images,
    pooled_size,
    switches_size,
    output_size,
    cells,
    map_size,
    phases,
    begin,
    base,
    POOLING: tl.constexpr,
    WINDOWS: tl.constexpr,
    LAST: tl.constexpr,
    RELU: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    STEP: tl.constexpr,
    COMMON: tl.constexpr,
    INVERSE: tl.constexpr,
    RANK: tl.constexpr,
    BOUNDED: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile is [BLOCK_M, BLOCK_N]: output positions of one phase by `features`, output channels of one group."""
    feature_tiles = tl.cdiv(features, BLOCK_N)
    program = tl.program_id(0)
    rest = program // feature_tiles
    feature = (program - rest * feature_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    all_phases = phases[0] * phases[1] * phases[2]
    phase = rest % all_phases
    rest = rest // all_phases
    group = rest % groups
    row = (rest // groups).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)

    line = row // cells[2]
    plane = line // cells[1]
    unit = plane // cells[0] if RANK == 3 else plane
    cell_z = (plane - unit * cells[0]).to(tl.int32)
    cell_y = (line - plane * cells[1]).to(tl.int32)
    cell_x = (row - line * cells[2]).to(tl.int32)
    phase_y = phase // phases[2]
    phase_z = phase_y // phases[1] if RANK == 3 else 0
    phase_y = phase_y - phase_z * phases[1]
    phase_x = phase % phases[2]
    z = cell_z * STRIDE[0] + phase_z if RANK == 3 else 0
    y = cell_y * STRIDE[1] + phase_y
    x = cell_x * STRIDE[2] + phase_x
    written = (row < rows) & (y < output_size[1]) & (x < output_size[2])
    if RANK == 3:
        written = written & (z < output_size[0])

    reached_y, first_tap_y, taps_y, signal_y = taps_of_phase(
        phase_y, begin, KERNEL, STRIDE, DILATION, COMMON, INVERSE, 1
    )
    reached_x, first_tap_x, taps_x, signal_x = taps_of_phase(
        phase_x, begin, KERNEL, STRIDE, DILATION, COMMON, INVERSE, 2
    )
    inside = written & reached_y & reached_x
    taps_z = 1
    if RANK == 3:
        reached_z, first_tap_z, taps_z, signal_z = taps_of_phase(
            phase_z, begin, KERNEL, STRIDE, DILATION, COMMON, INVERSE, 0
        )
        inside = inside & reached_z
        origin_z = tl.load(origin + RANK * unit, mask=written, other=0)
    origin_y = tl.load(origin + RANK * unit + RANK - 2, mask=written, other=0)
    origin_x = tl.load(origin + RANK * unit + RANK - 1, mask=written, other=0)
    if BOUNDED:
        map_y = origin_y * STEP[1] + base[1] + y
        map_x = origin_x * STEP[2] + base[2] + x
        inside = inside & (map_y >= 0) & (map_y < map_size[1]) & (map_x >= 0) & (map_x < map_size[2])
        if RANK == 3:
            map_z = origin_z * STEP[0] + base[0] + z
            inside = inside & (map_z >= 0) & (map_z < map_size[0])

    all_channels = channels * groups
    map = unit * pooled_size[0] * pooled_size[1] * pooled_size[2] * all_channels + group * channels
    if switches is None:
        exists = inside
        first_y, count_y = windows_on_map(tl.zeros_like(cell_y), exists, pooled_size[1], pooled_size[1])
        first_x, count_x = windows_on_map(tl.zeros_like(cell_x), exists, pooled_size[2], pooled_size[2])
        if RANK == 3:
            first_z, count_z = windows_on_map(tl.zeros_like(cell_z), exists, pooled_size[0], pooled_size[0])
    else:
        source = tl.load(image + unit, mask=written, other=-1)
        exists = inside & (source >= 0) & (source < images)
        first_y, count_y = windows_on_map(origin_y, exists, pooled_size[1], switches_size[1])
        first_x, count_x = windows_on_map(origin_x, exists, pooled_size[2], switches_size[2])
        if RANK == 3:
            first_z, count_z = windows_on_map(origin_z, exists, pooled_size[0], switches_size[0])
            source = source * switches_size[0] + origin_z
        source = (source * switches_size[1] + origin_y) * switches_size[2] + origin_x
        switches_map = (source * all_channels + group * channels).to(INDEX)

    factor_column = feature.to(INDEX) * feature_step
    dtype: tl.constexpr = input.dtype.element_ty
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float64 if dtype == tl.float64 else tl.float32)
    # At least one step: where a loop might be skipped, ptxas lets no two products of Hopper's overlap.
    for step in range(tl.maximum(tl.cdiv(channels, BLOCK_K) * taps_z * taps_y * taps_x, 1)):
        # Taps change faster than channels, so that what a step reads lies next to what the last one did.
        line_of_taps = step // taps_x
        tap_x = step - line_of_taps * taps_x
        plane_of_taps = line_of_taps // taps_y
        tap_y = line_of_taps - plane_of_taps * taps_y
        block = plane_of_taps // taps_z if RANK == 3 else plane_of_taps
        tap_z = plane_of_taps - block * taps_z
        channel = block * BLOCK_K + tl.arange(0, BLOCK_K)
        in_channels = channel < channels

        # Unsigned, so that what lies before the map lies far behind its end.
        if RANK == 3:
            position_z = (cell_z + (signal_z - tap_z * (DILATION[0] // COMMON[0]))).to(tl.uint32)
        position_y = (cell_y + (signal_y - tap_y * (DILATION[1] // COMMON[1]))).to(tl.uint32)
        position_x = (cell_x + (signal_x - tap_x * (DILATION[2] // COMMON[2]))).to(tl.uint32)
        signal = tl.zeros((BLOCK_M, BLOCK_K), dtype)
        if WINDOWS[0] * WINDOWS[1] * WINDOWS[2] > 1:
            signal = comparable(signal)
        for back_z in tl.static_range(WINDOWS[0] - 1, -1, -1):
            if RANK == 3:
                window_z = position_z // POOLING.stride[0] - back_z
                pool_tap_z, sees_z = tap_of_window(window_z, position_z, first_z, count_z, POOLING, 0)
            for back_y in tl.static_range(WINDOWS[1] - 1, -1, -1):
                window_y = position_y // POOLING.stride[1] - back_y
                pool_tap, sees_y = tap_of_window(window_y, position_y, first_y, count_y, POOLING, 1)
                pooled_row = window_y.to(INDEX)
                switches_row = pooled_row
                if RANK == 3:
                    pool_tap += pool_tap_z * POOLING.kernel_size[1]
                    sees_y = sees_y & sees_z
                    pooled_row += window_z.to(INDEX) * pooled_size[1]
                    switches_row += window_z.to(INDEX) * switches_size[1]
                for back_x in tl.static_range(WINDOWS[2] - 1, -1, -1):
                    window_x = position_x // POOLING.stride[2] - back_x
                    pool_tap_x, sees_x = tap_of_window(window_x, position_x, first_x, count_x, POOLING, 2)
                    sees = (sees_y & sees_x)[:, None] & in_channels[None, :]
                    offset = map + (pooled_row * pooled_size[2] + window_x) * all_channels
                    value = tl.load(input + offset[:, None] + channel[None, :], mask=sees, other=0.0)
                    if switches is not None:
                        offset = switches_map + (switches_row * switches_size[2] + window_x) * all_channels
                        switch = tl.load(switches + offset[:, None] + channel[None, :], mask=sees, other=0)
                        code = (pool_tap * POOLING.kernel_size[2] + pool_tap_x).to(tl.int32)
                        chosen = switch.to(tl.int32) == code[:, None]
                    if switches is None:
                        signal = value
                    elif WINDOWS[0] * WINDOWS[1] * WINDOWS[2] == 1:
                        signal = tl.where(chosen, value, signal)
                    elif LAST:
                        signal = tl.where(chosen & sees, comparable(value), signal)
                    else:
                        signal += tl.where(chosen, comparable(value), 0.0)
        if RELU:
            signal = positive(signal)

        kernel_y = first_tap_y + tap_y * (STRIDE[1] // COMMON[1])
        if RANK == 3:
            kernel_y += (first_tap_z + tap_z * (STRIDE[0] // COMMON[0])) * KERNEL[1]
        tap = kernel_y * KERNEL[2] + first_tap_x + tap_x * (STRIDE[2] // COMMON[2])
        offset = tap.to(INDEX) * tap_step + (group * channels + channel).to(INDEX) * channel_step
        mask = in_channels[:, None] & (feature < features)[None, :]
        factor = tl.load(weight + offset[:, None] + factor_column[None, :], mask=mask, other=0.0)
        total = tl.dot(signal.to(dtype), factor, total, input_precision=PRECISION, out_dtype=total.dtype)

    total = tl.where(inside[:, None], total, 0.0)
    line = (unit * output_size[0] + z) * output_size[1] + y if RANK == 3 else unit * output_size[1] + y
    offset = (line * output_size[2] + x) * (groups * features) + group * features
    mask = written[:, None] & (feature < features)[None, :]
    tl.store(output + offset[:, None] + feature[None, :], total.to(dtype), mask=mask)
