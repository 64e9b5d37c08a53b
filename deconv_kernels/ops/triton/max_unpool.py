"""Max unpooling by window-local switches, in gather form: every output element is computed and written once."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import dense, empty_like, is_channels_last, spatial_size
from deconv_kernels.ops.triton import _common
from deconv_kernels.ops.triton._common import comparable, known_multiple, map_position, rectified, tile_position

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
    channels_last = is_channels_last(input, rank)
    output = empty_like(input, output_size)
    input = dense(input, channels_last, rank)
    switches = dense(switches, channels_last, rank)
    channels, pooled = input.shape[-1 - rank], spatial_size(input, rank)
    width = output_size[-1]
    channels_last = channels_last and channels > 1  # both layouts of one channel are the same memory
    arguments = {
        "input": input,
        "switches": switches,
        "image": None if image is None else image.contiguous(),
        "origin": None if origin is None else origin.contiguous(),
        "output": output,
        "channels": channels,
        "images": 0 if image is None else switches.size(0),
        **_common.size_arguments(pooled=pooled, switches=spatial_size(switches, rank), map=output_size),
        **_common.window_arguments(pooling),
        "LAST": overlap == "last",
        "RELU": relu,
        "WINDOWED": image is not None,
        "RANK": rank,
        "CHANNELS_LAST": channels_last,
        "INDEX": _common.index_type(input, switches, output),
    }
    stride = pooling.stride
    by_cell = pooling.taps() <= _common.LARGEST_UNROLLED_WINDOW and math.prod(stride) <= LARGEST_CELL
    by_cell = by_cell and (channels_last or stride[-1] <= 2)
    vector = _common.vector_elements(input.dtype)
    if by_cell:
        cells = tuple(triton.cdiv(length, step) for length, step in zip(output_size, stride, strict=True))
        columns = channels if channels_last else cells[-1]
        row_alignment = _common.alignment(channels if channels_last else width)
        elements = min(vector, row_alignment) // (1 if channels_last else min(stride[-1], row_alignment))
        arguments |= {
            **_common.size_arguments(cells=cells),
            "POOLED_ALIGNMENT": _common.alignment(channels if channels_last else pooled[-1]),
            "OUTPUT_ALIGNMENT": row_alignment,
        }
        rows = output.numel() // (channels * math.prod(output_size)) * math.prod(cells[:-1])
        rows *= cells[-1] if channels_last else channels
    else:
        columns = channels if channels_last else width
        row_alignment = _common.alignment(columns)
        elements = min(vector, row_alignment)
        arguments |= {"OUTPUT_ALIGNMENT": row_alignment}
        rows = output.numel() // columns
    if row_alignment == 1:
        elements = _common.UNALIGNED_ELEMENTS
    tile = _common.tile_shape(columns, _common.THREADS * elements)
    arguments |= {"rows": rows, "columns": columns, "ROWS": tile[0], "COLUMNS": tile[1]}
    programs = triton.cdiv(rows, tile[0]) * triton.cdiv(columns, tile[1])
    _common.launch(max_unpool_cell_kernel if by_cell else max_unpool_kernel, programs, input.device, arguments)
    return output


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
    KERNEL_Z: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    DILATION_Z: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    LAST: tl.constexpr,
):
    """`total` of the position at OFFSET_Z, OFFSET_Y, OFFSET_X in a window, after that window."""
    TAP_Z: tl.constexpr = OFFSET_Z // DILATION_Z
    TAP_Y: tl.constexpr = OFFSET_Y // DILATION_Y
    TAP_X: tl.constexpr = OFFSET_X // DILATION_X
    on_tap: tl.constexpr = OFFSET_Z % DILATION_Z == 0 and OFFSET_Y % DILATION_Y == 0 and OFFSET_X % DILATION_X == 0
    in_rows: tl.constexpr = TAP_Z >= 0 and TAP_Z < KERNEL_Z and TAP_Y >= 0 and TAP_Y < KERNEL_Y
    if on_tap and in_rows and TAP_X >= 0 and TAP_X < KERNEL_X:
        total = added(total, value, switch == (TAP_Z * KERNEL_Y + TAP_Y) * KERNEL_X + TAP_X, LAST)
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
    pooled_depth,
    pooled_height,
    pooled_width,
    switches_depth,
    switches_height,
    switches_width,
    map_depth,
    map_height,
    map_width,
    cells_depth,
    cells_height,
    cells_width,
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
    """Small windows; a tile is [ROWS, COLUMNS] cells of STRIDE_Z x STRIDE_Y x STRIDE_X output positions.

    Each position of a cell sees a fixed set of windows, counted from the cell's own, through fixed taps. So every
    window is loaded once per cell, and what its switch is compared with is known at compile time.
    """
    EXTENT_Z: tl.constexpr = DILATION_Z * (KERNEL_Z - 1) + 1
    EXTENT_Y: tl.constexpr = DILATION_Y * (KERNEL_Y - 1) + 1
    EXTENT_X: tl.constexpr = DILATION_X * (KERNEL_X - 1) + 1
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    map, cell_z, cell_y, cell_x = map_position(row, column, cells_depth, cells_height, cells_width, CHANNELS_LAST)
    inside = row < rows
    if CHANNELS_LAST:
        columns = known_multiple(columns, OUTPUT_ALIGNMENT)
        pixel = columns
        lane = column
        inside = inside & (column < columns)
    else:
        pooled_width = known_multiple(pooled_width, POOLED_ALIGNMENT)
        if not WINDOWED:
            switches_width = pooled_width
        map_width = known_multiple(map_width, OUTPUT_ALIGNMENT)
        pixel = 1
        lane = 0
    source, first_z, first_y, first_x, exists = switch_map(
        map, image, origin, row < rows, channels, images, WINDOWED, RANK, CHANNELS_LAST, INDEX
    )

    dtype: tl.constexpr = input.dtype.element_ty
    totals = ()  # one for each position of the cell, in row-major order
    for _ in tl.static_range(STRIDE_Z * STRIDE_Y * STRIDE_X):
        totals += (tl.zeros((ROWS, COLUMNS), tl.float64 if dtype == tl.float64 else tl.float32),)
    for window_z in tl.static_range(
        -((EXTENT_Z - 1 - PADDING_Z) // STRIDE_Z), (PADDING_Z + STRIDE_Z - 1) // STRIDE_Z + 1
    ):
        z = cell_z + window_z
        z_inside = (z >= 0) & (z < pooled_depth)
        for window_y in tl.static_range(
            -((EXTENT_Y - 1 - PADDING_Y) // STRIDE_Y), (PADDING_Y + STRIDE_Y - 1) // STRIDE_Y + 1
        ):
            y = cell_y + window_y
            row_inside = z_inside & (y >= 0) & (y < pooled_height)
            for window_x in tl.static_range(
                -((EXTENT_X - 1 - PADDING_X) // STRIDE_X), (PADDING_X + STRIDE_X - 1) // STRIDE_X + 1
            ):
                x = cell_x + window_x
                valid = inside & row_inside & (x < pooled_width)
                if window_x < 0:
                    valid = valid & (x >= 0)
                offset = ((map * pooled_depth + z) * pooled_height + y) * pooled_width + x
                value = tl.load(input + offset * pixel + lane, mask=valid, other=0.0)
                switch_z = first_z + z
                switch_y = first_y + y
                switch_x = first_x + x
                recorded = valid
                if WINDOWED:
                    recorded = valid & exists & (switch_y >= 0) & (switch_y < switches_height)
                    recorded = recorded & (switch_x >= 0) & (switch_x < switches_width)
                    recorded = recorded & (switch_z >= 0) & (switch_z < switches_depth)
                offset = (source * switches_depth + switch_z) * switches_height + switch_y
                offset = (offset * switches_width + switch_x) * pixel + lane
                # Small windows have uint8 switches and none names position 255.
                switch = tl.load(switches + offset, mask=recorded, other=255)
                value = comparable(value)
                updated = ()
                for position in tl.static_range(STRIDE_Z * STRIDE_Y * STRIDE_X):
                    total = added_at(
                        position // (STRIDE_Y * STRIDE_X) + PADDING_Z - window_z * STRIDE_Z,
                        position // STRIDE_X % STRIDE_Y + PADDING_Y - window_y * STRIDE_Y,
                        position % STRIDE_X + PADDING_X - window_x * STRIDE_X,
                        totals[position],
                        value,
                        switch,
                        KERNEL_Z,
                        KERNEL_Y,
                        KERNEL_X,
                        DILATION_Z,
                        DILATION_Y,
                        DILATION_X,
                        LAST,
                    )
                    updated += (total,)
                totals = updated

    for line in tl.static_range(STRIDE_Z * STRIDE_Y):
        z = cell_z * STRIDE_Z + line // STRIDE_Y
        y = cell_y * STRIDE_Y + line % STRIDE_Y
        start = output + ((map * map_depth + z) * map_height + y) * map_width * pixel + lane
        on_map = (z < map_depth) & (y < map_height)
        if STRIDE_X == 2 and not CHANNELS_LAST:
            both = tl.interleave(result(totals[2 * line], dtype, RELU), result(totals[2 * line + 1], dtype, RELU))
            x = 2 * first_column + tl.arange(0, 2 * COLUMNS)[None, :]
            tl.store(start + x, both, mask=(row < rows) & on_map & (x < map_width))
        else:
            for step in tl.static_range(STRIDE_X):
                x = cell_x * STRIDE_X + step
                total = result(totals[line * STRIDE_X + step], dtype, RELU)
                tl.store(start + x * pixel, total, mask=inside & on_map & (x < map_width))


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
    pooled_depth,
    pooled_height,
    pooled_width,
    switches_depth,
    switches_height,
    switches_width,
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
    EXTENT_Z: tl.constexpr = DILATION_Z * (KERNEL_Z - 1) + 1
    EXTENT_Y: tl.constexpr = DILATION_Y * (KERNEL_Y - 1) + 1
    EXTENT_X: tl.constexpr = DILATION_X * (KERNEL_X - 1) + 1
    row, first_column = tile_position(columns, ROWS, COLUMNS, INDEX)
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    map, z, y, x = map_position(row, column, map_depth, map_height, map_width, CHANNELS_LAST)
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
    z = z + PADDING_Z
    y = y + PADDING_Y
    x = x + PADDING_X
    for back_z in range((EXTENT_Z - 1) // STRIDE_Z + 1):
        window_z = z // STRIDE_Z - (EXTENT_Z - 1) // STRIDE_Z + back_z
        offset_z = z - window_z * STRIDE_Z
        z_sees = (window_z >= 0) & (window_z < pooled_depth) & (offset_z < EXTENT_Z) & (offset_z % DILATION_Z == 0)
        switch_z = first_z + window_z
        if WINDOWED:
            z_sees = z_sees & exists & (switch_z >= 0) & (switch_z < switches_depth)
        for back_y in range((EXTENT_Y - 1) // STRIDE_Y + 1):
            window_y = y // STRIDE_Y - (EXTENT_Y - 1) // STRIDE_Y + back_y
            offset_y = y - window_y * STRIDE_Y
            y_sees = (window_y >= 0) & (window_y < pooled_height) & (offset_y < EXTENT_Y) & (offset_y % DILATION_Y == 0)
            y_sees = y_sees & z_sees
            switch_y = first_y + window_y
            if WINDOWED:
                y_sees = y_sees & (switch_y >= 0) & (switch_y < switches_height)
            for back_x in range((EXTENT_X - 1) // STRIDE_X + 1):
                window_x = x // STRIDE_X - (EXTENT_X - 1) // STRIDE_X + back_x
                offset_x = x - window_x * STRIDE_X
                sees = (window_x >= 0) & (window_x < pooled_width) & (offset_x < EXTENT_X)
                sees = sees & (offset_x % DILATION_X == 0) & y_sees & inside
                switch_x = first_x + window_x
                if WINDOWED:
                    sees = sees & (switch_x >= 0) & (switch_x < switches_width)
                tap = (offset_z // DILATION_Z * KERNEL_Y + offset_y // DILATION_Y) * KERNEL_X + offset_x // DILATION_X
                offset = (source * switches_depth + switch_z) * switches_height + switch_y
                offset = (offset * switches_width + switch_x) * pixel + lane
                chosen = sees & (tl.load(switches + offset, mask=sees, other=0).to(tl.int32) == tap)
                offset = ((map * pooled_depth + window_z) * pooled_height + window_y) * pooled_width + window_x
                value = comparable(tl.load(input + (offset * pixel + lane), mask=sees, other=0.0))
                total = added(total, value, chosen, LAST)
    tl.store(output + row * columns + column, result(total, dtype, RELU), mask=inside)
