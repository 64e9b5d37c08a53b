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

from deconv_kernels.ops.geometry import PerAxis, Pooling

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


def index_type(*tensors: torch.Tensor) -> tl.dtype:
    """The integer type that counts the elements of every one of `tensors`, with room for a tile that overhangs them."""
    return tl.int32 if all(tensor.numel() < 2**30 for tensor in tensors) else tl.int64


def by_axis(**numbers: Sequence[int]) -> dict[str, int]:
    """Numbers for each axis as arguments of a kernel: `STRIDE` as STRIDE_Y and STRIDE_X, `base` as base_y ..."""
    axes = {name: "ZYX" if name.isupper() else "zyx" for name in numbers}
    return {
        f"{name}_{axis}": value
        for name, values in numbers.items()
        for axis, value in zip(axes[name][-len(values) :], values, strict=True)
    }


def window_arguments(pooling: Pooling) -> dict[str, int]:
    """A pooling as arguments of a kernel, of three dimensions: along an axis that is not there nothing is pooled."""
    axes = zip(Pooling.one_position(3 - pooling.rank), pooling, strict=True)
    kernel, stride, padding, dilation = (absent + given for absent, given in axes)
    return by_axis(KERNEL=kernel, STRIDE=stride, PADDING=padding, DILATION=dilation)


def size_arguments(**sizes: PerAxis) -> dict[str, int]:
    """Sizes of maps as arguments of a kernel: `pooled` as pooled_depth, pooled_height and pooled_width."""
    return {
        f"{name}_{axis}": length
        for name, size in sizes.items()
        for axis, length in zip(("depth", "height", "width"), (1,) * (3 - len(size)) + tuple(size), strict=True)
    }


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
def tile_position(columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr):
    """The rows [ROWS, 1] of this program's tile, and its first column."""
    column_tiles = tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    row_tile = program // column_tiles
    first_column = (program - row_tile * column_tiles) * COLUMNS
    return row_tile.to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None], first_column


@triton.jit
def map_position(row, column, depth, height, width, CHANNELS_LAST: tl.constexpr):
    """Map, z, y and x of the elements of a tile; in channels_last all channels of an image are one map."""
    if CHANNELS_LAST:
        line = row // width
        x = (row - line * width).to(tl.int32)
    else:
        line = row
        x = column
    plane = line // height
    map = plane // depth
    return map, (plane - map * depth).to(tl.int32), (line - plane * height).to(tl.int32), x


@triton.jit
def comparable(value):
    """`value` in the type its kind is compared and summed in: float64 for float64, else float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def rectified(value):
    """`value`, zero where it is negative; NaN and -0.0 stay."""
    return tl.where(value < 0, 0.0, value)
