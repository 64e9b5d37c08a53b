"""Switches to flat indices into the map, as `F.max_pool2d(return_indices=True)` gives them, and back."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import dense, empty_like, spatial_size
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import (
    known_multiple,
    map_position,
    offset_in,
    on_map,
    tap_position,
    tile_position,
    window_start,
)

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
    channels_last = _common.channels_innermost(source, rank)
    output = empty_like(source, spatial_size(source, rank), dtype)
    source = dense(source, channels_last, rank)
    _launch(kernel, source.shape, source.device, channels_last, input_size, pooling)(source, output)
    return output


@functools.lru_cache(_common.LAUNCHES_KEPT)
def _launch(
    kernel: Any,
    shape: tuple[int, ...],
    device: torch.device,
    channels_last: bool,
    input_size: PerAxis,
    pooling: Pooling,
) -> _common.Launch:
    """The launch for a pooled map of some shape."""
    rank = pooling.rank
    columns = shape[-1 - rank] if channels_last else shape[-1]
    rows = math.prod(shape) // columns
    tile = _common.tile_shape(columns, _common.THREADS * ELEMENTS)
    arguments = {
        "rows": rows,
        "columns": columns,
        "pooled_size": _common.on_three_axes(shape[-rank:]),
        "map_size": _common.on_three_axes(input_size),
        "POOLING": _common.of_three_axes(pooling),
        "CHANNELS_LAST": channels_last,
        "ALIGNMENT": _common.alignment(columns),
        "INDEX": _common.index_type(shape),
        "MAP_INDEX": tl.int32 if math.prod(input_size) < 2**31 else tl.int64,
        "ROWS": tile[0],
        "COLUMNS": tile[1],
    }
    programs = triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1])
    return _common.Launch(kernel, programs, device, arguments)


@triton.jit
def switches_to_indices_kernel(
    source,
    output,
    rows,
    columns,
    pooled_size,
    map_size,
    POOLING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    MAP_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    _, pooled_z, pooled_y, pooled_x = map_position(row, column, pooled_size, CHANNELS_LAST)
    start_z, start_y, start_x = window_start(pooled_z, pooled_y, pooled_x, POOLING)
    columns = known_multiple(columns, ALIGNMENT)
    inside = (row < rows) & (column < columns)
    switch = tl.load(source + row * columns + column, mask=inside, other=0).to(tl.int32)
    z, y, x = tap_position(start_z, start_y, start_x, switch, POOLING)
    taps = POOLING.kernel_size[0] * POOLING.kernel_size[1] * POOLING.kernel_size[2]
    valid = (switch >= 0) & (switch < taps) & on_map(z, y, x, map_size)
    index = tl.where(valid, offset_in(0, z.to(MAP_INDEX), y, x, map_size), 0)
    tl.store(output + row * columns + column, index.to(tl.int64), mask=inside)


@triton.jit
def tap_at(offset, KERNEL: tl.constexpr, DILATION: tl.constexpr):
    """The tap at `offset` from where a window starts, and whether there is one, along one axis."""
    tap = offset // DILATION
    return tap, (offset >= 0) & (tap < KERNEL) & (offset % DILATION == 0)


@triton.jit
def indices_to_switches_kernel(
    source,
    output,
    rows,
    columns,
    pooled_size,
    map_size,
    POOLING: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    INDEX: tl.constexpr,
    MAP_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    _, pooled_z, pooled_y, pooled_x = map_position(row, column, pooled_size, CHANNELS_LAST)
    start_z, start_y, start_x = window_start(pooled_z, pooled_y, pooled_x, POOLING)
    columns = known_multiple(columns, ALIGNMENT)
    inside = (row < rows) & (column < columns)
    index = tl.load(source + row * columns + column, mask=inside, other=-1)
    named = (index >= 0) & (index < tl.cast(map_size[0], tl.int64) * map_size[1] * map_size[2])
    index = tl.where(named, index, 0).to(MAP_INDEX)
    _, z, y, x = map_position(index, 0, map_size, True)
    tap_z, sees_z = tap_at(z - start_z, POOLING.kernel_size[0], POOLING.dilation[0])
    tap_y, sees_y = tap_at(y - start_y, POOLING.kernel_size[1], POOLING.dilation[1])
    tap_x, sees_x = tap_at(x - start_x, POOLING.kernel_size[2], POOLING.dilation[2])
    tap = (tap_z * POOLING.kernel_size[1] + tap_y) * POOLING.kernel_size[2] + tap_x
    switch = tl.where(named & sees_z & sees_y & sees_x, tap, -1)
    tl.store(output + row * columns + column, switch.to(output.dtype.element_ty), mask=inside)
