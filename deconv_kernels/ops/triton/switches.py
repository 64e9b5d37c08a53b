"""Switches to flat indices into the map, as `F.max_pool2d(return_indices=True)` gives them, and back."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import dense, empty_like, is_channels_last, spatial_size
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import known_multiple, map_position, tile_position

# Elements a thread converts: one 16-byte access of int64 indices.
ELEMENTS = 2


def switches_to_indices(switches: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """Flat int64 positions in a map; see `deconv_kernels.switches_to_indices`.

    A switch that names no position of its window inside the map gives 0.
    """
    return _convert(switches_to_indices_kernel, switches, torch.int64, input_size, pooling)


def indices_to_switches(indices: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """Window-local positions of flat int64 positions; see `deconv_kernels.indices_to_switches`.

    An index that its window does not cover gives 255 (uint8) or -1 (int16).
    """
    return _convert(indices_to_switches_kernel, indices, pooling.switch_dtype(), input_size, pooling)


def _convert(kernel: Any, source: Tensor, dtype: torch.dtype, input_size: PerAxis, pooling: Pooling) -> Tensor:
    rank = pooling.rank
    channels_last = is_channels_last(source, rank)
    channels, pooled = source.shape[-1 - rank], spatial_size(source, rank)
    output = empty_like(source, pooled, dtype)
    source = dense(source, channels_last, rank)
    channels_last = channels_last and channels > 1  # both layouts of one channel are the same memory
    columns = channels if channels_last else pooled[-1]
    rows = source.numel() // columns
    tile = _common.tile_shape(columns, _common.THREADS * ELEMENTS)
    arguments = {
        "source": source,
        "output": output,
        "rows": rows,
        "columns": columns,
        **_common.size_arguments(pooled=pooled, map=input_size),
        **_common.window_arguments(pooling),
        "CHANNELS_LAST": channels_last,
        "ALIGNMENT": _common.alignment(columns),
        "INDEX": _common.index_type(source),
        "MAP_INDEX": tl.int32 if math.prod(input_size) < 2**31 else tl.int64,
        "ROWS": tile[0],
        "COLUMNS": tile[1],
    }
    programs = triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1])
    _common.launch(kernel, programs, source.device, arguments)
    return output


@triton.jit
def switches_to_indices_kernel(
    source,
    output,
    rows,
    columns,
    pooled_depth,
    pooled_height,
    pooled_width,
    map_depth,
    map_height,
    map_width,
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
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    MAP_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    _, pooled_z, pooled_y, pooled_x = map_position(
        row, column, pooled_depth, pooled_height, pooled_width, CHANNELS_LAST
    )
    columns = known_multiple(columns, ALIGNMENT)
    inside = (row < rows) & (column < columns)
    switch = tl.load(source + row * columns + column, mask=inside, other=0).to(tl.int32)
    z = pooled_z * STRIDE_Z - PADDING_Z + switch // (KERNEL_Y * KERNEL_X) * DILATION_Z
    y = pooled_y * STRIDE_Y - PADDING_Y + switch // KERNEL_X % KERNEL_Y * DILATION_Y
    x = pooled_x * STRIDE_X - PADDING_X + switch % KERNEL_X * DILATION_X
    valid = (switch >= 0) & (switch < KERNEL_Z * KERNEL_Y * KERNEL_X) & (z >= 0) & (z < map_depth)
    valid = valid & (y >= 0) & (y < map_height) & (x >= 0) & (x < map_width)
    index = tl.where(valid, (z.to(MAP_INDEX) * map_height + y) * map_width + x, 0)
    tl.store(output + row * columns + column, index.to(tl.int64), mask=inside)


@triton.jit
def indices_to_switches_kernel(
    source,
    output,
    rows,
    columns,
    pooled_depth,
    pooled_height,
    pooled_width,
    map_depth,
    map_height,
    map_width,
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
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    MAP_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    _, pooled_z, pooled_y, pooled_x = map_position(
        row, column, pooled_depth, pooled_height, pooled_width, CHANNELS_LAST
    )
    columns = known_multiple(columns, ALIGNMENT)
    inside = (row < rows) & (column < columns)
    index = tl.load(source + row * columns + column, mask=inside, other=-1)
    on_map = (index >= 0) & (index < tl.cast(map_depth, tl.int64) * map_height * map_width)
    index = tl.where(on_map, index, 0).to(MAP_INDEX)
    line = index // map_width
    plane = line // map_height
    offset_z = plane.to(tl.int32) - (pooled_z * STRIDE_Z - PADDING_Z)
    offset_y = (line - plane * map_height).to(tl.int32) - (pooled_y * STRIDE_Y - PADDING_Y)
    offset_x = (index - line * map_width).to(tl.int32) - (pooled_x * STRIDE_X - PADDING_X)
    tap_z = offset_z // DILATION_Z
    tap_y = offset_y // DILATION_Y
    tap_x = offset_x // DILATION_X
    valid = on_map & (offset_z >= 0) & (tap_z < KERNEL_Z) & (offset_z % DILATION_Z == 0)
    valid = valid & (offset_y >= 0) & (tap_y < KERNEL_Y) & (offset_y % DILATION_Y == 0)
    valid = valid & (offset_x >= 0) & (tap_x < KERNEL_X) & (offset_x % DILATION_X == 0)
    switch = tl.where(valid, (tap_z * KERNEL_Y + tap_y) * KERNEL_X + tap_x, -1)
    tl.store(output + row * columns + column, switch.to(output.dtype.element_ty), mask=inside)
