"""What the Triton kernels share: tile sizes, the launch itself, and per-element work.

Most kernels work on a tile of rows by columns. Columns are what lies side by side in memory: positions of one map row
in the contiguous layout, channels of one pixel in channels_last. Rows count everything else, so a tile may span maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from deconv_kernels.ops.geometry import PerAxis, Pooling
from deconv_kernels.ops.layout import is_channels_last

WARPS = 4
THREADS = (64 if torch.version.hip else 32) * WARPS
# Up to this many positions a window's taps are unrolled; above it, kernels loop over them at run time.
LARGEST_UNROLLED_WINDOW = 27
# Elements a thread works on where rows are not aligned for vector accesses.
UNALIGNED_ELEMENTS = 2
# A tile this narrow still fills the memory sectors of its rows.
NARROWEST_TILE = 32


def vector_elements(dtype: torch.dtype) -> int:
    """Elements of `dtype` in one 16-byte access."""
    return 16 // dtype.itemsize


def alignment(size: int) -> int:
    """The largest power of two, up to 16, that divides `size`."""
    return math.gcd(size, 16)


def tile_shape(columns: int, elements: int) -> tuple[int, int]:
    """Rows and columns (powers of two) of a tile of `elements` that covers `columns` with the fewest idle lanes."""
    width = min(triton.next_power_of_2(columns), elements)
    candidates = [width]
    while candidates[-1] > NARROWEST_TILE:
        candidates.append(candidates[-1] // 2)
    width = min(candidates, key=lambda candidate: triton.cdiv(columns, candidate) * candidate)
    return elements // width, width


def channels_innermost(maps: Tensor, rank: int) -> bool:
    """Whether kernels take `maps` with channels side by side; both layouts of one channel are the same memory."""
    return maps.shape[-1 - rank] > 1 and is_channels_last(maps, rank)


def index_type(*tensors: Tensor) -> tl.dtype:
    """The integer type that counts the elements of every one of `tensors`, with room for a tile that overhangs them."""
    return tl.int32 if all(tensor.numel() < 2**30 for tensor in tensors) else tl.int64


def on_three_axes(numbers: Sequence[int], absent: int = 1) -> PerAxis:
    """One number for each of three axes, `absent` for those that are not there."""
    return (absent,) * (3 - len(numbers)) + tuple(numbers)


def of_three_axes(pooling: Pooling) -> Pooling:
    """A pooling of three dimensions: along an axis that is not there nothing is pooled."""
    axes = zip(Pooling.one_position(3 - pooling.rank), pooling, strict=True)
    return Pooling(*(absent + given for absent, given in axes))


def launch(
    kernel: Any,
    programs: int,
    device: torch.device,
    arguments: dict[str, Any],
    num_warps: int = WARPS,
    **options: int,
) -> None:
    """Runs `programs` programs of `kernel` on `device`, with floating-point contraction off."""
    if programs == 0:
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](**arguments, num_warps=num_warps, enable_fp_fusion=False, **options)


def is_hopper_or_later(device: torch.device) -> bool:
    """Whether `device` is an NVIDIA card of compute capability 9.0 or above."""
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) >= (9, 0)


class Tile(NamedTuple):
    """How much of a matrix product a program computes, by how many warps, with how many blocks being loaded at once."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int


_fastest: dict[tuple[Any, ...], Tile] = {}


def launch_fastest(
    kernel: Any,
    programs: Callable[[Tile], int],
    device: torch.device,
    arguments: dict[str, Any],
    tiles: Sequence[Tile],
    alike: tuple[Any, ...],
) -> None:
    """Runs `kernel` with the tile that was fastest when a call with the same `alike` was first made on this device.

    Only that first call waits for the device. Where it cannot, in the interpreter and while a CUDA graph is captured,
    the first of `tiles` is used.
    """

    def run(tile: Tile) -> None:
        sizes = {"BLOCK_M": tile.BLOCK_M, "BLOCK_N": tile.BLOCK_N}
        launch(kernel, programs(tile), device, arguments | sizes, tile.num_warps, num_stages=tile.num_stages)

    def milliseconds(tile: Tile) -> float:
        try:
            return triton.testing.do_bench(lambda: run(tile), warmup=5, rep=20, return_mode="median")
        except triton.OutOfResources:
            return math.inf

    key = (kernel, device, *alike)
    if key not in _fastest:
        if device.type != "cuda" or torch.cuda.is_current_stream_capturing() or programs(tiles[0]) == 0:
            return run(tiles[0])
        with torch.cuda.device(device):
            _fastest[key] = min(tiles, key=milliseconds)
    run(_fastest[key])


@triton.jit
def known_multiple(size, UNIT: tl.constexpr):
    """`size`, a multiple of UNIT, in a form that tells the compiler so."""
    return size // UNIT * UNIT


@triton.jit
def of_known_width(size, UNIT: tl.constexpr):
    """A size whose width is a multiple of UNIT, in a form that tells the compiler so."""
    return size[0], size[1], known_multiple(size[2], UNIT)


@triton.jit
def tile_position(columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr):
    """The rows [ROWS, 1] of this program's tile, and its first column."""
    column_tiles = tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    row_tile = program // column_tiles
    first_column = (program - row_tile * column_tiles) * COLUMNS
    return row_tile.to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None], first_column


@triton.jit
def map_position(row, column, size, CHANNELS_LAST: tl.constexpr):
    """Map, z, y and x of the elements of a tile of maps of `size`; in channels_last all of an image are one map."""
    line = row // size[2] if CHANNELS_LAST else row
    x = (row - line * size[2]).to(tl.int32) if CHANNELS_LAST else column
    plane = line // size[1]
    map = plane // size[0]
    return map, (plane - map * size[0]).to(tl.int32), (line - plane * size[1]).to(tl.int32), x


@triton.jit
def on_map(z, y, x, size):
    """Whether positions lie on a map of `size`."""
    return (z >= 0) & (z < size[0]) & (y >= 0) & (y < size[1]) & (x >= 0) & (x < size[2])


@triton.jit
def offset_in(map, z, y, x, size):
    """The offset of a position in maps of `size` that lie one after the other, in the integer type of `map`."""
    return ((map * size[0] + z) * size[1] + y) * size[2] + x


@triton.jit
def window_start(z, y, x, POOLING: tl.constexpr):
    """Where windows begin, some of them before the map."""
    start_z = z * POOLING.stride[0] - POOLING.padding[0]
    start_y = y * POOLING.stride[1] - POOLING.padding[1]
    return start_z, start_y, x * POOLING.stride[2] - POOLING.padding[2]


@triton.jit
def tap_position(start_z, start_y, start_x, tap, POOLING: tl.constexpr):
    """The position that windows see through their tap number `tap`, in row-major order."""
    z = start_z + tap // (POOLING.kernel_size[1] * POOLING.kernel_size[2]) * POOLING.dilation[0]
    y = start_y + tap // POOLING.kernel_size[2] % POOLING.kernel_size[1] * POOLING.dilation[1]
    return z, y, start_x + tap % POOLING.kernel_size[2] * POOLING.dilation[2]


@triton.jit
def comparable(value):
    """`value` in the type its kind is compared and summed in: float64 for float64, else float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def rectified(value):
    """`value`, zero where it is negative; NaN and -0.0 stay."""
    return tl.where(value < 0, 0.0, value)
