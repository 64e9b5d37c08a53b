"""Max unpooling by window-local switches, in gather form: every output element is computed and written once."""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import dense, empty_like
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import (
    comparable,
    known_multiple,
    map_position,
    of_known_width,
    offset_in,
    on_map,
    rectified,
    tile_position,
)

# A cell of at most this many positions is kept in registers.
LARGEST_CELL = 16


def max_unpool(
    input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
) -> Tensor:
    """Every pooled value put back where its switch says; see `deconv_kernels.max_unpool2d`."""
    return unpool(input, switches, None, None, pooling, output_size, overlap, relu)


def unpool(
    input: Tensor,
    switches: Tensor,
    image: Tensor | None,
    origin: Tensor | None,
    pooling: Pooling,
    output_size: PerAxis,
    overlap: str,
    relu: bool,
) -> Tensor:
    """Unpools maps, or windows of the maps that `switches` belongs to where `image` and `origin` are given."""
    rank = pooling.rank
    channels_last = _common.channels_innermost(input, rank)
    output = empty_like(input, output_size)
    input = dense(input, channels_last, rank)
    switches = dense(switches, channels_last, rank)
    if image is not None and origin is not None:
        image, origin = image.contiguous(), origin.contiguous()
    launch = _launch(
        input.shape,
        input.dtype,
        input.device,
        switches.shape,
        output_size,
        channels_last,
        image is not None,
        pooling,
        overlap,
        relu,
    )
    launch(input, switches, image, origin, output)
    return output


@functools.lru_cache(_common.LAUNCHES_KEPT)
def _launch(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    switches_shape: tuple[int, ...],
    output_size: PerAxis,
    channels_last: bool,
    windowed: bool,
    pooling: Pooling,
    overlap: str,
    relu: bool,
) -> _common.Launch:
    """The launch for maps, or windows of maps, of some shape."""
    rank, stride = pooling.rank, pooling.stride
    channels, pooled, width = shape[-1 - rank], shape[-rank:], output_size[-1]
    maps = math.prod(shape[:-rank])
    arguments = {
        "channels": channels,
        "images": switches_shape[0] if windowed else 0,
        "pooled_size": _common.on_three_axes(pooled),
        "switches_size": _common.on_three_axes(switches_shape[-rank:]),
        "map_size": _common.on_three_axes(output_size),
        "POOLING": _common.of_three_axes(pooling),
        "LAST": overlap == "last",
        "RELU": relu,
        "WINDOWED": windowed,
        "RANK": rank,
        "CHANNELS_LAST": channels_last,
        "INDEX": _common.index_type(shape, switches_shape, (maps, *output_size)),
    }
    by_cell = pooling.taps() <= _common.LARGEST_UNROLLED_WINDOW and math.prod(stride) <= LARGEST_CELL
    by_cell = by_cell and (channels_last or stride[-1] <= 2)
    vector = _common.vector_elements(dtype)
    if by_cell:
        cells = tuple(triton.cdiv(length, step) for length, step in zip(output_size, stride, strict=True))
        columns = channels if channels_last else cells[-1]
        row_alignment = _common.alignment(channels if channels_last else width)
        elements = min(vector, row_alignment) // (1 if channels_last else min(stride[-1], row_alignment))
        reaches = list(zip(pooling.extent(), pooling.stride, pooling.padding, strict=True))
        before = [(extent - 1 - padding) // step for extent, step, padding in reaches]
        after = [(padding + step - 1) // step for _, step, padding in reaches]
        arguments |= {
            "cells": _common.on_three_axes(cells),
            "BEFORE": _common.on_three_axes(before, 0),
            "AFTER": _common.on_three_axes(after, 0),
            "POOLED_ALIGNMENT": _common.alignment(channels if channels_last else pooled[-1]),
            "OUTPUT_ALIGNMENT": row_alignment,
        }
        rows = maps * math.prod(cells) // columns
    else:
        columns = channels if channels_last else width
        row_alignment = _common.alignment(columns)
        elements = min(vector, row_alignment)
        before = [(extent - 1) // step for extent, step in zip(pooling.extent(), stride, strict=True)]
        arguments |= {"BEFORE": _common.on_three_axes(before, 0), "OUTPUT_ALIGNMENT": row_alignment}
        rows = maps * math.prod(output_size) // columns
    if row_alignment == 1:
        elements = _common.UNALIGNED_ELEMENTS
    tile = _common.tile_shape(columns, _common.THREADS * elements)
    arguments |= {"rows": rows, "columns": columns, "ROWS": tile[0], "COLUMNS": tile[1]}
    programs = triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1])
    return _common.Launch(max_unpool_cell_kernel if by_cell else max_unpool_kernel, programs, device, arguments)


@triton.jit
def switch_map(
    map,
    image,
    origin,
    inside,
    channels,
    images,
    WINDOWED: tl.constexpr,
    RANK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The map that holds the switches of `map`, z, y and x of the first of them, and whether there are any."""
    z = 0
    y = 0
    x = 0
    exists = inside
    if WINDOWED:
        unit = map if CHANNELS_LAST else map // channels
        if RANK == 3:
            z = tl.load(origin + 3 * unit, mask=inside, other=0)
        y = tl.load(origin + RANK * unit + RANK - 2, mask=inside, other=0)
        x = tl.load(origin + RANK * unit + RANK - 1, mask=inside, other=0)
        source = tl.load(image + unit, mask=inside, other=-1)
        exists = (source >= 0) & (source < images)
        source = tl.where(exists, source, 0).to(INDEX)
        map = source if CHANNELS_LAST else source * channels + (map - unit * channels)
    return map, z, y, x, exists


@triton.jit
def added(total, value, chosen, LAST: tl.constexpr):
    """`total` after a window whose switch names the position where `chosen` holds."""
    return tl.where(chosen, value, total) if LAST else total + tl.where(chosen, value, 0.0)


@triton.jit
def added_at(
    OFFSET_Z: tl.constexpr,
    OFFSET_Y: tl.constexpr,
    OFFSET_X: tl.constexpr,
    total,
    value,
    switch,
    POOLING: tl.constexpr,
    LAST: tl.constexpr,
):
    """`total` of the position that lies OFFSET_Z, OFFSET_Y, OFFSET_X from a window on the map, after that window."""
    from_z: tl.constexpr = OFFSET_Z + POOLING.padding[0]
    from_y: tl.constexpr = OFFSET_Y + POOLING.padding[1]
    from_x: tl.constexpr = OFFSET_X + POOLING.padding[2]
    z: tl.constexpr = from_z // POOLING.dilation[0]
    y: tl.constexpr = from_y // POOLING.dilation[1]
    x: tl.constexpr = from_x // POOLING.dilation[2]
    in_z: tl.constexpr = from_z % POOLING.dilation[0] == 0 and z >= 0 and z < POOLING.kernel_size[0]
    in_y: tl.constexpr = from_y % POOLING.dilation[1] == 0 and y >= 0 and y < POOLING.kernel_size[1]
    in_x: tl.constexpr = from_x % POOLING.dilation[2] == 0 and x >= 0 and x < POOLING.kernel_size[2]
    if in_z and in_y and in_x:
        total = added(total, value, switch == (z * POOLING.kernel_size[1] + y) * POOLING.kernel_size[2] + x, LAST)
    return total


@triton.jit
def result(total, dtype: tl.constexpr, RELU: tl.constexpr):
    """The output of a sum. Rounding never makes zero of a sum of 16-bit values, so it may be rectified before."""
    return (rectified(total) if RELU else total).to(dtype)


@triton.jit
def max_unpool_cell_kernel(
    input,
    switches,
    image,
    origin,
    output,
    rows,
    columns,
    channels,
    images,
    pooled_size,
    switches_size,
    map_size,
    cells,
    POOLING: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    LAST: tl.constexpr,
    RELU: tl.constexpr,
    WINDOWED: tl.constexpr,
    RANK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    POOLED_ALIGNMENT: tl.constexpr,
    OUTPUT_ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Small windows; a tile is [ROWS, COLUMNS] cells of as many output positions as windows are apart.

    Each position of a cell sees a fixed set of windows, counted from the cell's own, through fixed taps. So every
    window is loaded once per cell, and what its switch is compared with is known at compile time.
    """
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    map, cell_z, cell_y, cell_x = map_position(row, column, cells, CHANNELS_LAST)
    inside = row < rows
    if CHANNELS_LAST:
        columns = known_multiple(columns, OUTPUT_ALIGNMENT)
        pixel = columns
        lane = column
        inside = inside & (column < columns)
    else:
        pooled_size = of_known_width(pooled_size, POOLED_ALIGNMENT)
        if not WINDOWED:
            switches_size = pooled_size
        map_size = of_known_width(map_size, OUTPUT_ALIGNMENT)
        pixel = 1
        lane = 0
    source, first_z, first_y, first_x, exists = switch_map(
        map, image, origin, row < rows, channels, images, WINDOWED, RANK, CHANNELS_LAST, INDEX
    )

    dtype: tl.constexpr = input.dtype.element_ty
    CELL: tl.constexpr = POOLING.stride[0] * POOLING.stride[1] * POOLING.stride[2]
    STEPS: tl.constexpr = POOLING.stride[2]
    totals = ()  # one for each position of the cell, in row-major order
    for _ in tl.static_range(CELL):
        totals += (tl.zeros((ROWS, COLUMNS), tl.float64 if dtype == tl.float64 else tl.float32),)
    for away_z in tl.static_range(0 - BEFORE[0], 1 + AFTER[0]):
        for away_y in tl.static_range(0 - BEFORE[1], 1 + AFTER[1]):
            for away_x in tl.static_range(0 - BEFORE[2], 1 + AFTER[2]):
                z = cell_z + away_z
                y = cell_y + away_y
                x = cell_x + away_x
                valid = inside & on_map(z, y, x, pooled_size)
                offset = offset_in(map, z, y, x, pooled_size)
                value = comparable(tl.load(input + offset * pixel + lane, mask=valid, other=0.0))
                z = first_z + z
                y = first_y + y
                x = first_x + x
                recorded = valid & exists & on_map(z, y, x, switches_size) if WINDOWED else valid
                # Small windows have uint8 switches and none names position 255.
                offset = offset_in(source, z, y, x, switches_size)
                switch = tl.load(switches + offset * pixel + lane, mask=recorded, other=255)
                updated = ()
                for position in tl.static_range(CELL):
                    total = added_at(
                        position // (POOLING.stride[1] * POOLING.stride[2]) - away_z * POOLING.stride[0],
                        position // POOLING.stride[2] % POOLING.stride[1] - away_y * POOLING.stride[1],
                        position % POOLING.stride[2] - away_x * POOLING.stride[2],
                        totals[position],
                        value,
                        switch,
                        POOLING,
                        LAST,
                    )
                    updated += (total,)
                totals = updated

    for line in tl.static_range(POOLING.stride[0] * POOLING.stride[1]):
        z = cell_z * POOLING.stride[0] + line // POOLING.stride[1]
        y = cell_y * POOLING.stride[1] + line % POOLING.stride[1]
        start = output + offset_in(map, z, y, 0, map_size) * pixel + lane
        on_rows = (z < map_size[0]) & (y < map_size[1])
        if POOLING.stride[2] == 2 and not CHANNELS_LAST:
            both = tl.interleave(result(totals[2 * line], dtype, RELU), result(totals[2 * line + 1], dtype, RELU))
            x = 2 * first_column + tl.arange(0, 2 * COLUMNS)[None, :]
            tl.store(start + x, both, mask=(row < rows) & on_rows & (x < map_size[2]))
        else:
            for step in tl.static_range(STEPS):
                x = cell_x * POOLING.stride[2] + step
                total = result(totals[line * POOLING.stride[2] + step], dtype, RELU)
                tl.store(start + x * pixel, total, mask=inside & on_rows & (x < map_size[2]))


@triton.jit
def window_back(position, back, BEFORE: tl.constexpr, POOLING: tl.constexpr, AXIS: tl.constexpr):
    """Of the windows that may see `position`, number `back`; the tap it sees it through, and whether it does."""
    position += POOLING.padding[AXIS]
    window = position // POOLING.stride[AXIS] - BEFORE[AXIS] + back
    offset = position - window * POOLING.stride[AXIS]
    tap = offset // POOLING.dilation[AXIS]
    return window, tap, (tap < POOLING.kernel_size[AXIS]) & (offset % POOLING.dilation[AXIS] == 0)


@triton.jit
def max_unpool_kernel(
    input,
    switches,
    image,
    origin,
    output,
    rows,
    columns,
    channels,
    images,
    pooled_size,
    switches_size,
    map_size,
    POOLING: tl.constexpr,
    BEFORE: tl.constexpr,
    LAST: tl.constexpr,
    RELU: tl.constexpr,
    WINDOWED: tl.constexpr,
    RANK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUTPUT_ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Any window; a tile is [ROWS, COLUMNS] output elements, and each asks in turn the windows that can reach it."""
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    map, z, y, x = map_position(row, column, map_size, CHANNELS_LAST)
    columns = known_multiple(columns, OUTPUT_ALIGNMENT)
    inside = (row < rows) & (column < columns)
    if CHANNELS_LAST:
        pixel = columns
        lane = column
    else:
        pixel = 1
        lane = 0
    source, first_z, first_y, first_x, exists = switch_map(
        map, image, origin, row < rows, channels, images, WINDOWED, RANK, CHANNELS_LAST, INDEX
    )

    dtype: tl.constexpr = input.dtype.element_ty
    total = tl.zeros((ROWS, COLUMNS), tl.float64 if dtype == tl.float64 else tl.float32)
    for back_z in range(1 + BEFORE[0]):
        window_z, tap_z, sees_z = window_back(z, back_z, BEFORE, POOLING, 0)
        for back_y in range(1 + BEFORE[1]):
            window_y, tap_y, sees_y = window_back(y, back_y, BEFORE, POOLING, 1)
            for back_x in range(1 + BEFORE[2]):
                window_x, tap_x, sees_x = window_back(x, back_x, BEFORE, POOLING, 2)
                sees = inside & sees_z & sees_y & sees_x & on_map(window_z, window_y, window_x, pooled_size)
                offset = offset_in(map, window_z, window_y, window_x, pooled_size)
                switch_z = first_z + window_z
                switch_y = first_y + window_y
                switch_x = first_x + window_x
                if WINDOWED:
                    sees = sees & exists & on_map(switch_z, switch_y, switch_x, switches_size)
                value = comparable(tl.load(input + (offset * pixel + lane), mask=sees, other=0.0))
                offset = offset_in(source, switch_z, switch_y, switch_x, switches_size)
                switch = tl.load(switches + (offset * pixel + lane), mask=sees, other=0).to(tl.int32)
                tap = (tap_z * POOLING.kernel_size[1] + tap_y) * POOLING.kernel_size[2] + tap_x
                total = added(total, value, sees & (switch == tap), LAST)
    tl.store(output + row * columns + column, result(total, dtype, RELU), mask=inside)
