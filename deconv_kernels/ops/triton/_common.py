"""What the Triton kernels share: tile sizes, the launch itself, and per-element work.

Most kernels work on a tile of rows by columns. Columns are what lies side by side in memory: positions of one map row
in the contiguous layout, channels of one pixel in channels_last. Rows count everything else, so a tile may span maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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
# How many launches of an op are kept, each for tensors of one geometry.
LAUNCHES_KEPT = 4096
# Past the end of every result that fits in memory, and far from what an int32 can hold.
FARTHEST_BEGIN = 2**30


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


def index_type(*shapes: Sequence[int]) -> tl.dtype:
    """The integer type that counts elements of tensors of these shapes, with room for a tile that overhangs them."""
    return tl.int32 if all(math.prod(shape) < 2**30 for shape in shapes) else tl.int64


def on_three_axes(numbers: Sequence[int], absent: int = 1) -> PerAxis:
    """One number for each of three axes, `absent` for those that are not there."""
    return (absent,) * (3 - len(numbers)) + tuple(numbers)


def of_three_axes(pooling: Pooling) -> Pooling:
    """A pooling of three dimensions: along an axis that is not there nothing is pooled."""
    axes = zip(Pooling.one_position(3 - pooling.rank), pooling, strict=True)
    return Pooling(*(absent + given for absent, given in axes))


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` the current one, for the length of a `with` block."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


class Launch:
    """A kernel with its grid and all that it takes but tensors, to be run again and again, with contraction off.

    Triton compiles a kernel for what it sees in its arguments, and looks at each of them in every call: at types, at
    sizes of one, at multiples of 16. Of a launch all this is settled but for the addresses of its tensors. So what was
    compiled is kept for which of these are multiples of 16, and is run without looking.

    Args:
        kernel: its parameters begin with the tensors.
        programs: how many.
        device: of the tensors; their types, and which of them are missing, are the same in every call.
        arguments: all others, by their names.
        num_warps, options: for the compiler.
    """

    def __init__(
        self,
        kernel: Any,
        programs: int,
        device: torch.device,
        arguments: dict[str, Any],
        num_warps: int = WARPS,
        **options: int,
    ) -> None:
        self.kernel, self.programs, self.device, self.arguments = kernel, programs, device, arguments
        self.options = {"num_warps": num_warps, "enable_fp_fusion": False, **options}
        self._compiled: dict[tuple[bool, ...], Callable[..., None]] = {}
        self._values = [arguments[name] for name in kernel.arg_names if name in arguments]

    def __call__(self, *tensors: Tensor | None) -> None:
        """Runs the kernel, on the current stream."""
        if self.programs == 0:
            return
        aligned = tuple([tensor is None or tensor.data_ptr() % 16 == 0 for tensor in tensors])
        with on(self.device):
            run = self._compiled.get(aligned)
            if run is not None:
                return run(*tensors, *self._values)
            compiled = self.kernel[(self.programs,)](*tensors, **self.arguments, **self.options)
            # The interpreter compiles nothing, and for AMD it matters too which tensors lie within 2 GB.
            if compiled is not None and not torch.version.hip:
                self._compiled[aligned] = compiled[(self.programs, 1, 1)]


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


class FastestLaunch:
    """A launch with the tile that was fastest when one with the same `alike` was first run on this device.

    Only that first run waits for the device. Where it cannot, in the interpreter and while a CUDA graph is captured,
    the first of `tiles` is used.
    """

    def __init__(
        self,
        kernel: Any,
        programs: Callable[[Tile], int],
        device: torch.device,
        arguments: dict[str, Any],
        tiles: Sequence[Tile],
        alike: tuple[Any, ...],
    ) -> None:
        def with_tile(tile: Tile) -> Launch:
            sizes = {"BLOCK_M": tile.BLOCK_M, "BLOCK_N": tile.BLOCK_N}
            return Launch(kernel, programs(tile), device, arguments | sizes, tile.num_warps, num_stages=tile.num_stages)

        self.launches = {tile: with_tile(tile) for tile in tiles}
        self._device, self._alike = device, (kernel, device, *alike)
        self._tile: Tile | None = None

    def __call__(self, *tensors: Tensor | None) -> None:
        """Runs the kernel, on the current stream."""
        if self._tile is None:
            self._tile = _fastest.get(self._alike) or self._measured(tensors)
        tile = self._tile or next(iter(self.launches))
        self.launches[tile](*tensors)

    def _measured(self, tensors: tuple[Tensor | None, ...]) -> Tile | None:
        """The fastest tile; None where that cannot be measured now."""

        def milliseconds(tile: Tile) -> float:
            launch = self.launches[tile]
            try:
                return triton.testing.do_bench(lambda: launch(*tensors), warmup=5, rep=20, return_mode="median")
            except triton.OutOfResources:
                return math.inf

        nothing = any(launch.programs == 0 for launch in self.launches.values())
        if nothing or self._device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return None
        with on(self._device):
            tile = _fastest[self._alike] = min(self.launches, key=milliseconds)
        return tile


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


@triton.jit
def tap_of_window(window, position, first, count, POOLING: tl.constexpr, AXIS: tl.constexpr):
    """The tap through which a pooling window sees a position, and whether it does; all are unsigned."""
    EXTENT: tl.constexpr = POOLING.dilation[AXIS] * (POOLING.kernel_size[AXIS] - 1) + 1
    offset = position - window * POOLING.stride[AXIS]
    sees = window - first < count
    if EXTENT % POOLING.stride[AXIS] != 0:
        sees = sees & (offset < EXTENT)
    if POOLING.dilation[AXIS] > 1:
        sees = sees & (offset % POOLING.dilation[AXIS] == 0)
    return offset // POOLING.dilation[AXIS], sees


@triton.jit
def windows_on_map(origin, inside, pooled_size, switches_size):
    """Of `pooled_size` windows, the first that lies on the map of switches, and how many do."""
    first = tl.minimum(tl.maximum(-origin, 0), pooled_size)
    end = tl.minimum(tl.maximum(switches_size - origin, 0), pooled_size)
    return first.to(tl.uint32), tl.where(inside, tl.maximum(end - first, 0), 0).to(tl.uint32)


@triton.jit
def positive(value):
    """`value`, +0 where it is negative or zero; NaN stays."""
    return tl.maximum(value, tl.zeros_like(value), propagate_nan=tl.PropagateNan.ALL)
