"""Geometries, inputs, memory layouts and independent oracles that the op tests share."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_IMAGE = 14_000  # elements
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 67)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """One pooling: the size of its input map and its window."""

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def window(self) -> tuple[Pair, Pair, Pair, Pair]:
        return self.kernel, self.stride, self.padding, self.dilation

    @functools.cached_property
    def pooled(self) -> Pair:
        """The size ATen pools this map to."""
        pooled = F.max_pool2d(torch.empty(1, *self.size, device="meta"), *self.window, self.ceil_mode)
        return pooled.shape[-2], pooled.shape[-1]

    @property
    def switch_dtype(self) -> torch.dtype:
        return torch.uint8 if self.kernel[0] * self.kernel[1] <= 256 else torch.int16

    @functools.cached_property
    def windows_off_the_map(self) -> Tensor:
        """(PH, PW), True where dilation makes a window step over the map without a tap inside it."""

        def inside(axis: int) -> Tensor:
            start = torch.arange(self.pooled[axis])[:, None] * self.stride[axis] - self.padding[axis]
            taps = start + torch.arange(self.kernel[axis]) * self.dilation[axis]
            return ((taps >= 0) & (taps < self.size[axis])).any(1)

        return ~(inside(0)[:, None] & inside(1))

    @property
    def extent(self) -> Pair:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))  # type: ignore[return-value]


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


def random_geometry() -> Geometry:
    """A pooling drawn from everything the ops accept, with a map of up to about 40 rows and columns."""
    kernel = random.randint(1, 7), random.randint(1, 7)
    stride = random.randint(1, 4), random.randint(1, 4)
    padding = random.randint(0, kernel[0] // 2), random.randint(0, kernel[1] // 2)
    dilation = (random.randint(1, 3), random.randint(1, 3)) if random.random() < 0.4 else (1, 1)

    def size(axis: int) -> int:
        smallest = dilation[axis] * (kernel[axis] - 1) + 1 - 2 * padding[axis]
        return max(1, smallest) + random.randint(0, 20)

    return Geometry((size(0), size(1)), kernel, stride, padding, dilation, random.random() < 0.5)


def geometries(backend: str) -> list[Geometry]:
    """A sample of the fixed geometries and some random ones, others in every call; fewer for the slow reference."""
    fixed, drawn = (3, 1) if backend == "reference" else (16, 4)
    return random.sample(GEOMETRIES, fixed) + [random_geometry() for _ in range(drawn)]


def random_shape(geometry: Geometry, batched: bool = True) -> tuple[int, ...]:
    """(N, C, H, W) or (C, H, W) of the geometry's map, with fewer channels where the map is large."""
    affordable = [c for c in CHANNELS if c * geometry.size[0] * geometry.size[1] <= LARGEST_IMAGE]
    return ((random.randint(1, 3),) if batched else ()) + (random.choice(affordable), *geometry.size)


def pooled_shape(geometry: Geometry, batched: bool = True) -> tuple[int, ...]:
    """The shape that a map of `random_shape` pools to."""
    return (*random_shape(geometry, batched)[:-2], *geometry.pooled)


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


def _channels_last(values: Tensor) -> Tensor:
    return values.movedim(-3, -1).contiguous().movedim(-1, -3)


def _cut_out(values: Tensor, channels_last: bool) -> Tensor:
    """The values inside a larger tensor: strides with gaps on every axis, at times between channels too."""
    *batch, channels, height, width = values.shape
    step = random.choice((1, 2))
    shape = (*batch, step * channels + 1, height + 2, 2 * width + 3)
    frame = torch.full(shape, 77.0).to(values.dtype)
    frame = _channels_last(frame) if channels_last else frame
    inside = frame[..., : step * channels : step, 1 : height + 1, 1 : 2 * width + 1 : 2]
    return inside.copy_(values)


def _misaligned(values: Tensor) -> Tensor:
    memory = torch.empty(values.numel() + 1, dtype=values.dtype)
    return memory[1:].view(values.shape).copy_(values)


# Each makes a tensor of the same shape in another layout; all but "expanded" keep the values.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda values: values.contiguous(),
    "channels_last": _channels_last,
    "sliced": lambda values: _cut_out(values, channels_last=False),
    "sliced_channels_last": lambda values: _cut_out(values, channels_last=True),
    "expanded": lambda values: values[..., :1, :, :].expand(values.shape),
    "transposed": lambda values: values.mT.contiguous().mT,
    "misaligned": _misaligned,
}


def keeps_channels_last(tensor: Tensor) -> bool:
    """Whether ATen lays out its results for `tensor` with the channels innermost; ours are alike for single images.

    Asked of the CPU's kernel: with torch 2.10, meta tensors answer otherwise for some maps of one column.
    """
    shape, strides = tensor.shape, tensor.stride()
    if tensor.dim() == 3:
        shape, strides = (1, *shape), (sum(n * s for n, s in zip(shape, strides, strict=True)) + 1, *strides)
    pooled = F.max_pool2d(torch.empty_strided(shape, strides), 2, 1, 1)  # one more row and column
    return pooled.stride() != _dense_strides(pooled.shape, channels_last=False)


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


def _dense_strides(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    if not channels_last:
        return torch.empty(tuple(shape), device="meta").stride()
    *batch, channels, height, width = shape
    return torch.empty((*batch, height, width, channels), device="meta").movedim(-1, -3).stride()


def assert_dense(result: Tensor, channels_last: bool, what: str) -> None:
    """Asserts that a result is dense, with the channels innermost or x innermost."""
    strides = _dense_strides(result.shape, channels_last)
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
        input = input + bias.detach().cpu()[:, None, None]
    if relu:
        input = F.relu(input)
    return F.max_pool2d(input, *geometry.window, geometry.ceil_mode, return_indices=True)


def switches_of(indices: Tensor, geometry: Geometry) -> Tensor:
    """ATen's indices as switches; 0 for windows without a tap in the map, where ATen's index means nothing."""
    width = geometry.size[1]
    rows = torch.arange(indices.shape[-2])[:, None] * geometry.stride[0] - geometry.padding[0]
    columns = torch.arange(indices.shape[-1]) * geometry.stride[1] - geometry.padding[1]
    tap_y, off_y = (indices // width - rows) // geometry.dilation[0], (indices // width - rows) % geometry.dilation[0]
    tap_x = (indices % width - columns) // geometry.dilation[1]
    off_x = (indices % width - columns) % geometry.dilation[1]
    switches = tap_y * geometry.kernel[1] + tap_x
    possible = (off_y == 0) & (off_x == 0) & (switches >= 0) & (switches < geometry.kernel[0] * geometry.kernel[1])
    meaningless = geometry.windows_off_the_map
    assert bool((possible | meaningless).all()), "an index of ATen lies outside its window"
    return switches.masked_fill(meaningless, 0).to(geometry.switch_dtype)


def random_switches(shape: tuple[int, ...], geometry: Geometry, outside: bool = True) -> Tensor:
    """Any switches at all: also such as name padding and, with `outside`, such as are no position of the window."""
    positions = geometry.kernel[0] * geometry.kernel[1]
    switches = torch.randint(0, positions, shape).to(geometry.switch_dtype)
    return torch.where(torch.rand(shape) < 0.2, corrupt_switches(shape, geometry), switches) if outside else switches


def corrupt_switches(shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Switches that are no position of the window, above all those next to it and the last of their type.

    A window of 256 positions leaves one byte none: its switches are any.
    """
    positions, width = geometry.kernel[0] * geometry.kernel[1], geometry.kernel[1]
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
    height, width = geometry.size
    pooled_height, pooled_width = values.shape[-2:]
    planes = values.detach().cpu().to(accumulate).reshape(-1, pooled_height, pooled_width).numpy()
    codes = switches.cpu().long().reshape(planes.shape).numpy()
    y = np.arange(pooled_height)[:, None] * geometry.stride[0] - geometry.padding[0]
    x = np.arange(pooled_width) * geometry.stride[1] - geometry.padding[1]
    y = y + codes // geometry.kernel[1] * geometry.dilation[0]
    x = x + codes % geometry.kernel[1] * geometry.dilation[1]
    written = (codes >= 0) & (codes < geometry.kernel[0] * geometry.kernel[1])
    written &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
    position = np.arange(len(planes))[:, None, None] * (height * width) + y * width + x
    out = np.zeros(len(planes) * height * width, dtype=planes.dtype)
    if overlap == "sum":
        with np.errstate(invalid="ignore", over="ignore"):
            np.add.at(out, position[written], planes[written])
    else:
        out[position[written]] = planes[written]
    if relu:
        out = np.where(out < 0, np.zeros_like(out), out)
    return torch.from_numpy(out).reshape(*values.shape[:-2], height, width).to(values.dtype)


def unpool_windows_by_hand(
    values: Tensor, switches: Tensor, image: Tensor, origin: Tensor, geometry: Geometry, overlap: str, relu: bool
) -> Tensor:
    """Unpools windows, with the switches cut out of their images, as a batch of maps without padding.

    Switches are any integers; where a window overhangs its map, or belongs to no image, there are none.
    """
    height, width = values.shape[-2:]
    maps = switches.cpu().long()
    local = torch.full(values.shape, -1)
    for unit, (index, (top, left)) in enumerate(zip(image.tolist(), origin.tolist(), strict=True)):
        for y, x in itertools.product(range(height), range(width)):
            inside = 0 <= top + y < maps.shape[2] and 0 <= left + x < maps.shape[3]
            if inside and 0 <= index < len(maps):
                local[unit, :, y, x] = maps[index, :, top + y, left + x]
    stride, extent = geometry.stride, geometry.extent
    size = (height - 1) * stride[0] + extent[0], (width - 1) * stride[1] + extent[1]
    window = Geometry(size, geometry.kernel, stride, (0, 0), geometry.dilation)
    return unpool_by_hand(values, local, window, overlap, relu)
