"""Geometries, inputs, memory layouts and independent oracles that the op tests share, for maps of every rank."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import deconv_kernels as dk

Pair = tuple[int, int]
PerAxis = tuple[int, ...]

POOL = {1: dk.max_pool1d, 2: dk.max_pool2d, 3: dk.max_pool3d}
UNPOOL = {1: dk.max_unpool1d, 2: dk.max_unpool2d, 3: dk.max_unpool3d}
UNPOOL_WINDOW = {1: dk.max_unpool1d_window, 2: dk.max_unpool2d_window, 3: dk.max_unpool3d_window}
ATEN_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_IMAGE = 14_000  # elements
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 67)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """One pooling: the size of its input map and its window."""

    size: PerAxis
    kernel: PerAxis
    stride: PerAxis
    padding: PerAxis = ()  # by default none
    dilation: PerAxis = ()  # by default none
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", self.padding or (0,) * self.rank)
        object.__setattr__(self, "dilation", self.dilation or (1,) * self.rank)

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def window(self) -> tuple[PerAxis, PerAxis, PerAxis, PerAxis]:
        return self.kernel, self.stride, self.padding, self.dilation

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @functools.cached_property
    def pooled(self) -> PerAxis:
        """The size ATen pools this map to."""
        map = torch.empty(1, *self.size, device="meta" if self.rank > 1 else "cpu")
        return tuple(ATEN_POOL[self.rank](map, *self.window, self.ceil_mode).shape[1:])

    @property
    def switch_dtype(self) -> torch.dtype:
        return torch.uint8 if self.taps <= 256 else torch.int16

    @functools.cached_property
    def windows_off_the_map(self) -> Tensor:
        """Of the pooled size, True where dilation makes a window step over the map without a tap inside it."""
        inside = []
        for axis in range(self.rank):
            start = torch.arange(self.pooled[axis])[:, None] * self.stride[axis] - self.padding[axis]
            taps = start + torch.arange(self.kernel[axis]) * self.dilation[axis]
            inside.append(((taps >= 0) & (taps < self.size[axis])).any(1))
        return ~torch.stack(torch.meshgrid(*inside, indexing="ij")).all(0)

    @property
    def extent(self) -> PerAxis:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


GEOMETRIES = [
    Geometry((8, 8), (2, 2), (2, 2)),
    Geometry((56, 56), (2, 2), (2, 2)),
    Geometry((13, 13), (2, 2), (2, 2), ceil_mode=True),
    Geometry((13, 13), (3, 3), (2, 2)),
    Geometry((27, 27), (3, 3), (2, 2)),
    Geometry((55, 55), (3, 3), (2, 2)),
    Geometry((111, 37), (3, 3), (2, 2), ceil_mode=True),
    Geometry((7, 224), (2, 2), (2, 2)),
    Geometry((7, 224), (3, 3), (2, 2), (1, 1)),
    Geometry((1, 19), (1, 3), (1, 2)),
    Geometry((19, 1), (3, 1), (2, 1)),
    Geometry((5, 3), (2, 2), (1, 1)),
    Geometry((3, 2), (3, 2), (3, 2)),
    Geometry((1, 1), (1, 1), (1, 1)),
    Geometry((1, 1), (2, 2), (2, 2), ceil_mode=True),
    Geometry((1, 1), (3, 3), (2, 2), (1, 1)),
    Geometry((6, 8), (3, 3), (2, 2), ceil_mode=True),
    Geometry((6, 7), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    Geometry((9, 10), (3, 2), (2, 1), (1, 1)),
    Geometry((10, 9), (2, 3), (1, 2), (1, 0), (1, 2)),
    Geometry((11, 12), (2, 2), (3, 3)),
    Geometry((11, 12), (1, 1), (2, 3)),
    Geometry((11, 12), (1, 1), (3, 2), ceil_mode=True),
    Geometry((12, 17), (3, 3), (1, 1), (1, 1), (2, 2)),
    Geometry((12, 17), (2, 2), (1, 1), (0, 1), (1, 3), ceil_mode=True),
    Geometry((14, 15), (3, 3), (2, 2), (1, 1), (2, 2), ceil_mode=True),
    Geometry((14, 15), (3, 3), (3, 3), (0, 0), (2, 2), ceil_mode=True),
    Geometry((16, 70), (2, 2), (2, 2), (0, 0), (2, 1)),
    Geometry((16, 70), (2, 2), (2, 2), (0, 0), (1, 2)),
    Geometry((15, 70), (2, 2), (2, 2), (1, 0), ceil_mode=True),
    Geometry((16, 70), (3, 2), (2, 2)),
    Geometry((16, 70), (2, 2), (1, 2)),
    Geometry((16, 70), (2, 3), (2, 2), (0, 0), (2, 1)),
    Geometry((16, 15), (4, 4), (4, 4)),
    Geometry((16, 15), (4, 4), (2, 2), (2, 2)),
    Geometry((16, 19), (5, 5), (3, 3), (2, 2)),
    Geometry((16, 19), (6, 6), (1, 1)),
    Geometry((18, 19), (7, 7), (2, 2), (3, 3)),
    Geometry((33, 35), (16, 16), (8, 8), (8, 8)),
    Geometry((33, 35), (17, 17), (8, 9), (8, 8)),
    Geometry((13, 13), (13, 13), (13, 13)),
    Geometry((18, 20), (18, 20), (18, 20)),
]


# Of the other ranks: every way in which a third axis can meet the others, and signals.
OTHER_GEOMETRIES = [
    Geometry((6, 8, 10), (2, 2, 2), (2, 2, 2)),
    Geometry((3, 12, 34), (1, 2, 2), (1, 2, 2)),
    Geometry((5, 7, 40), (2, 2, 2), (2, 2, 2), ceil_mode=True),
    Geometry((7, 9, 37), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    Geometry((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    Geometry((9, 8, 11), (3, 2, 3), (2, 1, 2), (1, 0, 1), (2, 1, 1)),
    Geometry((7, 5, 9), (2, 3, 2), (3, 1, 2), (0, 1, 1), (1, 1, 3), ceil_mode=True),
    Geometry((4, 1, 1), (4, 1, 1), (2, 1, 1), (2, 0, 0)),
    Geometry((9, 4, 4), (2, 2, 2), (1, 2, 2), (1, 0, 0), (4, 1, 1)),
    Geometry((8, 9, 10), (6, 6, 6), (2, 3, 1), (3, 0, 2)),
    Geometry((8, 9, 10), (7, 6, 7), (1, 3, 3)),
    Geometry((40,), (2,), (2,)),
    Geometry((41,), (3,), (2,), (1,), ceil_mode=True),
    Geometry((17,), (5,), (3,), (2,), (3,)),
    Geometry((300,), (257,), (9,), (4,)),
]


def random_geometry(rank: int = 2) -> Geometry:
    """A pooling drawn from everything the ops accept, with a map of up to about 40 positions along each axis."""
    most = {1: 9, 2: 7, 3: 4}[rank]
    kernel = tuple(random.randint(1, most) for _ in range(rank))
    stride = tuple(random.randint(1, 4) for _ in range(rank))
    padding = tuple(random.randint(0, taps // 2) for taps in kernel)
    dilation = tuple(random.randint(1, 3) for _ in range(rank)) if random.random() < 0.4 else (1,) * rank
    size = tuple(
        max(1, spread * (taps - 1) + 1 - 2 * pad) + random.randint(0, 20 if axis + 2 >= rank else 5) // max(1, rank - 1)
        for axis, (taps, pad, spread) in enumerate(zip(kernel, padding, dilation, strict=True))
    )
    return Geometry(size, kernel, stride, padding, dilation, random.random() < 0.5)


def geometries(backend: str) -> list[Geometry]:
    """A sample of the fixed geometries and some random ones, others in every call; fewer for the slow reference."""
    fixed, other, drawn = (2, 1, 1) if backend == "reference" else (14, 4, 4)
    ranks = random.choices((1, 2, 3), (1, 4, 3), k=drawn)
    return [
        *random.sample(GEOMETRIES, fixed),
        *random.sample(OTHER_GEOMETRIES, other),
        *(random_geometry(rank) for rank in ranks),
    ]


def random_shape(geometry: Geometry, batched: bool = True) -> tuple[int, ...]:
    """([N,] C, *size) of the geometry's map, with fewer channels where the map is large."""
    affordable = [c for c in CHANNELS if c * math.prod(geometry.size) <= LARGEST_IMAGE]
    return ((random.randint(1, 3),) if batched else ()) + (random.choice(affordable), *geometry.size)


def pooled_shape(geometry: Geometry, batched: bool = True) -> tuple[int, ...]:
    """The shape that a map of `random_shape` pools to."""
    return (*random_shape(geometry, batched)[: -geometry.rank], *geometry.pooled)


VALUES = ("normal", "ties", "special", "minus infinity")


def random_values(shape: tuple[int, ...], dtype: torch.dtype, kind: str | None = None) -> Tensor:
    """Values of one of the kinds of VALUES: plain, with many ties, with NaN, infinities and both zeros, or all -inf."""
    kind = kind or random.choice(VALUES[:3])
    if kind == "minus infinity":
        return torch.full(shape, -torch.inf, dtype=dtype)
    if kind == "normal":
        return torch.randn(shape, dtype=torch.float64).to(dtype)
    values = torch.randint(-3, 4, shape).to(dtype) / 2
    if kind == "special":
        odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, -0.0], dtype=dtype)
        values = torch.where(torch.rand(shape) < 0.3, odd[torch.randint(0, len(odd), shape)], values)
    return values


def _channels_last(values: Tensor, rank: int) -> Tensor:
    return values.movedim(-1 - rank, -1).contiguous().movedim(-1, -1 - rank)


def _cut_out(values: Tensor, rank: int, channels_last: bool) -> Tensor:
    """The values inside a larger tensor: strides with gaps on every axis, at times between channels too."""
    batch, channels, size = values.shape[: -1 - rank], values.shape[-1 - rank], values.shape[-rank:]
    step = random.choice((1, 2))
    shape = (*batch, step * channels + 1, *(length + 2 for length in size[:-1]), 2 * size[-1] + 3)
    frame = torch.full(shape, 77.0).to(values.dtype)
    frame = _channels_last(frame, rank) if channels_last else frame
    lines = [slice(1, length + 1) for length in size[:-1]]
    return frame[(..., slice(0, step * channels, step), *lines, slice(1, 2 * size[-1] + 1, 2))].copy_(values)


def _expanded(values: Tensor, rank: int) -> Tensor:
    return values.narrow(-1 - rank, 0, 1).expand(values.shape)


def _misaligned(values: Tensor, rank: int) -> Tensor:
    memory = torch.empty(values.numel() + 1, dtype=values.dtype)
    return memory[1:].view(values.shape).copy_(values)


_LAYOUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "contiguous": lambda values, rank: values.contiguous(),
    "channels_last": _channels_last,
    "sliced": functools.partial(_cut_out, channels_last=False),
    "sliced_channels_last": functools.partial(_cut_out, channels_last=True),
    "expanded": _expanded,
    "transposed": lambda values, rank: values.mT.contiguous().mT,
    "misaligned": _misaligned,
}


def _in_layout(layout: str, values: Tensor, rank: int = 2) -> Tensor:
    return _LAYOUTS[layout](values, rank)


# Each makes a tensor of the same shape in another layout, of maps of a rank; all but "expanded" keep the values.
LAYOUTS = {layout: functools.partial(_in_layout, layout) for layout in _LAYOUTS}


def keeps_channels_last(tensor: Tensor, rank: int = 2) -> bool:
    """Whether ATen lays out its results for `tensor` with the channels innermost; ours are alike for single images.

    Asked of the CPU's kernel: with torch 2.10, meta tensors answer otherwise for some maps of one column. Signals are
    laid out as maps of one row.
    """
    if rank == 1:
        return keeps_channels_last(tensor.unsqueeze(-2))
    shape, strides = tensor.shape, tensor.stride()
    if tensor.dim() == rank + 1:
        shape, strides = (1, *shape), (sum(n * s for n, s in zip(shape, strides, strict=True)) + 1, *strides)
    pooled = ATEN_POOL[rank](torch.empty_strided(shape, strides), 2, 1, 1)  # one more along each axis
    return pooled.stride() != _dense_strides(pooled.shape, False, rank)


def random_view(device: torch.device) -> Tensor:
    """A map of any strides: a few permutations, slices and expansions of a dense one, some of it one element long."""
    view = torch.randn([random.choice((1, 1, 2, 3, 6)) for _ in range(4)]).to(device)
    for _ in range(random.randint(0, 4)):
        axis, change = random.randrange(4), random.randrange(4)
        if change == 0:
            view = view.permute(random.sample(range(4), 4))
        elif change == 1:
            first = random.randrange(view.shape[axis])
            view = view.narrow(axis, first, view.shape[axis] - first)
            view = view[(slice(None),) * axis + (slice(None, None, random.randint(1, 3)),)]
        elif change == 2:
            sizes = [random.randint(1, 3) if at == axis else size for at, size in enumerate(view.shape)]
            view = view.narrow(axis, 0, 1).expand(sizes)
        else:
            view = view.contiguous(memory_format=torch.channels_last)
    return view


def _dense_strides(shape: Sequence[int], channels_last: bool, rank: int) -> tuple[int, ...]:
    if not channels_last:
        return torch.empty(tuple(shape), device="meta").stride()
    batch, channels, size = shape[: -1 - rank], shape[-1 - rank], shape[-rank:]
    return torch.empty((*batch, *size, channels), device="meta").movedim(-1, -1 - rank).stride()


def assert_dense(result: Tensor, channels_last: bool, what: str, rank: int = 2) -> None:
    """Asserts that a result is dense, with the channels innermost or x innermost."""
    strides = _dense_strides(result.shape, channels_last, rank)
    assert result.numel() == 0 or result.stride() == strides, f"{what}: strides {result.stride()}, not {strides}"


def assert_same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    """Asserts equal dtype, shape and bits (so +0 is not -0); a NaN equals any NaN."""
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} instead of {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = (tensor.detach().cpu().resolve_neg() for tensor in (actual, expected))
    bits = _BITS[actual.element_size()]
    same = actual.contiguous().view(bits) == expected.contiguous().view(bits)
    if actual.is_floating_point():
        same |= actual.isnan() & expected.isnan()
    if not bool(same.all()):
        where = (~same).nonzero()
        first = tuple(where[0].tolist())
        raise AssertionError(
            f"{what}: {len(where)} of {same.numel()} elements differ, the first at {first}: "
            f"{actual[first].item()!r} instead of {expected[first].item()!r}"
        )


def aten_pool(input: Tensor, geometry: Geometry, bias: Tensor | None, relu: bool) -> tuple[Tensor, Tensor]:
    """Values and indices of ATen, on the CPU."""
    input = input.detach().cpu().contiguous()
    if bias is not None:
        input = input + bias.detach().cpu()[(..., *[None] * geometry.rank)]
    if relu:
        input = F.relu(input)
    return ATEN_POOL[geometry.rank](input, *geometry.window, geometry.ceil_mode, return_indices=True)


def switches_of(indices: Tensor, geometry: Geometry) -> Tensor:
    """ATen's indices as switches; 0 for windows without a tap in the map, where ATen's index means nothing."""
    switches, possible, rest = torch.zeros_like(indices), torch.ones_like(indices, dtype=torch.bool), indices
    for axis in range(geometry.rank):
        plane = math.prod(geometry.size[axis + 1 :])
        start = torch.arange(geometry.pooled[axis]) * geometry.stride[axis] - geometry.padding[axis]
        offset = rest // plane - start.view(-1, *[1] * (geometry.rank - 1 - axis))
        tap, rest = offset // geometry.dilation[axis], rest % plane
        possible &= (offset % geometry.dilation[axis] == 0) & (tap >= 0) & (tap < geometry.kernel[axis])
        switches = switches * geometry.kernel[axis] + tap
    meaningless = geometry.windows_off_the_map
    assert bool((possible | meaningless).all()), "an index of ATen lies outside its window"
    return switches.masked_fill(meaningless, 0).to(geometry.switch_dtype)


def random_switches(shape: tuple[int, ...], geometry: Geometry, outside: bool = True) -> Tensor:
    """Any switches at all: also such as name padding and, with `outside`, such as are no position of the window."""
    switches = torch.randint(0, geometry.taps, shape).to(geometry.switch_dtype)
    return torch.where(torch.rand(shape) < 0.2, corrupt_switches(shape, geometry), switches) if outside else switches


def corrupt_switches(shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Switches that are no position of the window, above all those next to it and the last of their type.

    A window of 256 positions leaves one byte none: its switches are any.
    """
    positions, width = geometry.taps, geometry.kernel[-1]
    lowest, highest = (0, 255) if geometry.switch_dtype == torch.uint8 else (-32768, 32767)
    edges = [lowest, lowest + 1, -width - 1, -width, -2, -1, positions, positions + 1, positions + width, highest]
    edges = [code for code in edges if lowest <= code < 0 or positions <= code <= highest] or [highest]
    anywhere = torch.randint(lowest, highest + 1, shape)
    at_edges = torch.tensor(edges)[torch.randint(0, len(edges), shape)]
    valid = (anywhere >= 0) & (anywhere < positions)
    return torch.where(valid | (torch.rand(shape) < 0.7), at_edges, anywhere).to(geometry.switch_dtype)


def unpool_by_hand(values: Tensor, switches: Tensor, geometry: Geometry, overlap: str, relu: bool) -> Tensor:
    """Unpools to `geometry.size` by writing each value where its switch says, in row-major order, with NumPy.

    Switches are any integers; those outside the window or naming a position outside the map write nothing.
    """
    accumulate = torch.float64 if values.dtype == torch.float64 else torch.float32
    rank, pooled = geometry.rank, values.shape[-geometry.rank :]
    maps = values.detach().cpu().to(accumulate).reshape(-1, *pooled).numpy()
    codes = switches.cpu().long().reshape(maps.shape).numpy()
    position = np.arange(len(maps)).reshape(-1, *[1] * rank)
    written, taps = (codes >= 0) & (codes < geometry.taps), geometry.taps
    for axis, length in enumerate(geometry.size):
        taps //= geometry.kernel[axis]
        start = np.arange(pooled[axis]) * geometry.stride[axis] - geometry.padding[axis]
        place = (
            start.reshape(-1, *[1] * (rank - 1 - axis))
            + codes // taps % geometry.kernel[axis] * geometry.dilation[axis]
        )
        written &= (place >= 0) & (place < length)
        position = position * length + place
    out = np.zeros(len(maps) * math.prod(geometry.size), dtype=maps.dtype)
    if overlap == "sum":
        with np.errstate(invalid="ignore", over="ignore"):
            np.add.at(out, position[written], maps[written])
    else:
        out[position[written]] = maps[written]
    if relu:
        out = np.where(out < 0, np.zeros_like(out), out)
    return torch.from_numpy(out).reshape(*values.shape[:-rank], *geometry.size).to(values.dtype)


def unpool_windows_by_hand(
    values: Tensor, switches: Tensor, image: Tensor, origin: Tensor, geometry: Geometry, overlap: str, relu: bool
) -> Tensor:
    """Unpools windows, with the switches cut out of their images, as a batch of maps without padding.

    Switches are any integers; where a window overhangs its map, or belongs to no image, there are none.
    """
    rank = geometry.rank
    size, maps = values.shape[-rank:], switches.cpu().long()
    local = torch.full(values.shape, -1)
    for unit, (index, first) in enumerate(zip(image.tolist(), origin.tolist(), strict=True)):
        for place in itertools.product(*map(range, size)):
            there = tuple(begin + step for begin, step in zip(first, place, strict=True))
            inside = all(0 <= at < length for at, length in zip(there, maps.shape[-rank:], strict=True))
            if inside and 0 <= index < len(maps):
                local[(unit, slice(None), *place)] = maps[(index, slice(None), *there)]
    steps = zip(size, geometry.stride, geometry.extent, strict=True)
    unpooled = tuple((count - 1) * stride + extent for count, stride, extent in steps)
    window = Geometry(unpooled, geometry.kernel, geometry.stride, (), geometry.dilation)
    return unpool_by_hand(values, local, window, overlap, relu)
