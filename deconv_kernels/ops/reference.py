"""What every op means, in plain PyTorch: slow, obviously right, and what the rest is held against.

The functions take the tensors and objects of the ops, already checked by `deconv_kernels.ops`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from .geometry import Backprojection, Convolution, PerAxis, Placement, Pooling
from .layout import dense_copy, empty_like, is_channels_last, spatial_size


def max_pool(
    input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    """Pooled values and switches of `relu(input + bias)`; see `deconv_kernels.max_pool2d`."""
    rank = pooling.rank
    channels_last = is_channels_last(input, rank)
    if bias is not None:
        input = input + bias[(..., *[None] * rank)]
    if relu:
        input = torch.relu(input)
    size = spatial_size(input, rank)
    pooled = pooling.pooled_size(size, ceil_mode)
    shape = (*input.shape[:-rank], *pooled)
    values = torch.full(shape, -torch.inf, dtype=input.dtype, device=input.device)
    switches = torch.zeros(shape, dtype=pooling.switch_dtype(), device=input.device)
    untouched = torch.ones(pooled, dtype=torch.bool, device=input.device)
    starts = _window_starts(pooled, pooling, input.device)
    for code, taps in enumerate(itertools.product(*map(range, pooling.kernel_size))):
        seen, inside = input, torch.ones(pooled, dtype=torch.bool, device=input.device)
        for axis, tap in enumerate(taps):
            position = starts[axis] + tap * pooling.dilation[axis]
            inside = inside & along(axis, rank, (position >= 0) & (position < size[axis]))
            seen = seen.index_select(axis - rank, position.clamp(0, size[axis] - 1))
        wins = inside & (untouched | (seen > values) | seen.isnan())
        values = torch.where(wins, seen, values)
        switches = switches.masked_fill(wins, code)
        untouched = untouched & ~inside
    return dense_copy(values, channels_last, rank), dense_copy(switches, channels_last, rank)


def max_unpool(
    input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
) -> Tensor:
    """Every pooled value put back where its switch says; see `deconv_kernels.max_unpool2d`."""
    rank = pooling.rank
    out = _unpool(input, switches, pooling, output_size, overlap, relu)
    return dense_copy(out, is_channels_last(input, rank), rank)


def max_unpool_window(
    input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, pooling: Pooling, overlap: str, relu: bool
) -> Tensor:
    """Windows of a pooled map unpooled by the switches of their images; see `deconv_kernels.max_unpool2d_window`."""
    rank = pooling.rank
    pooled = spatial_size(input, rank)
    size = pooling.unpooled_size(pooled)
    if input.numel() == 0:
        return empty_like(input, size)
    images = len(switches)
    if not is_compiling() and bool(((image < 0) | (image >= images)).any()):
        raise ValueError(f"image must be between 0 and {images - 1}, got {image.min()} to {image.max()}")
    codes = window_switches(switches, image, origin, pooled)
    return dense_copy(_unpool(input, codes, pooling, size, overlap, relu), is_channels_last(input, rank), rank)


def window_switches(switches: Tensor, image: Tensor, origin: Tensor, size: PerAxis) -> Tensor:
    """The switches under windows of `size` (U, C, *size), -1 where a window overhangs its map."""
    rank = len(size)
    inside = torch.ones((), dtype=torch.bool, device=switches.device)
    places = []
    for axis, extent in enumerate(spatial_size(switches, rank)):
        position = origin[:, axis, None] + torch.arange(size[axis], device=origin.device)
        inside = inside & along(axis, rank, (position >= 0) & (position < extent), channels=True)
        places.append(along(axis, rank, position.clamp(0, extent - 1), channels=True))
    channel = torch.arange(switches.shape[1], device=switches.device)[(..., *[None] * rank)]
    codes = switches[(image[(..., *[None] * (rank + 1))], channel, *places)]
    return torch.where(inside, codes.long(), -1)


def along(axis: int, rank: int, numbers: Tensor, channels: bool = False) -> Tensor:
    """(..., size) numbers of the positions along one axis, to go with maps (..., [1,] *sizes) of `rank` dimensions."""
    before = [None] * (axis + channels)
    return numbers[(..., *before, slice(None), *[None] * (rank - 1 - axis))]


def _unpool(
    input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
) -> Tensor:
    """Gather form: each output position asks, in row-major order, the windows that can see it."""
    rank = pooling.rank
    pooled = spatial_size(input, rank)
    accumulate = torch.float64 if input.dtype == torch.float64 else torch.float32
    values = input.to(accumulate)
    codes = switches.long()
    out = torch.zeros((*input.shape[:-rank], *output_size), dtype=accumulate, device=input.device)
    last = overlap == "last"

    def windows(axis: int) -> list[tuple[Tensor, Tensor]]:
        """Per candidate, in rising order: its index for every output position, and the tap it sees it with or -1."""
        reach, stride, dilation = pooling.extent()[axis], pooling.stride[axis], pooling.dilation[axis]
        position = torch.arange(output_size[axis], device=input.device) + pooling.padding[axis]
        latest = position // stride
        candidates = []
        for back in range((reach - 1) // stride, -1, -1):
            window = latest - back
            offset = position - window * stride
            tap = offset // dilation
            sees = (window >= 0) & (window < pooled[axis]) & (offset < reach) & (offset % dilation == 0)
            candidates.append((window.clamp(0, pooled[axis] - 1), torch.where(sees, tap, -1)))
        return candidates

    for candidate in itertools.product(*map(windows, range(rank))):
        value, named = values, codes
        code = torch.zeros((), dtype=torch.int64, device=input.device)
        sees = torch.ones((), dtype=torch.bool, device=input.device)
        for axis, (window, tap) in enumerate(candidate):
            value, named = (each.index_select(axis - rank, window) for each in (value, named))
            code = code * pooling.kernel_size[axis] + along(axis, rank, tap)
            sees = sees & along(axis, rank, tap >= 0)
        chosen = sees & (named == code)
        out = torch.where(chosen, value, out) if last else out + torch.where(chosen, value, 0.0)
    if relu:
        out = torch.relu(out)
    return out.to(input.dtype)


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

    With `full` the transposed convolution of the whole signal, without padding, the result is `full` from position
    `begin` on, continued with zeros to `size`. Its first element lies at `origin * step + base` of a map of `map_size`,
    where a step is the pooling's stride times the convolution's; what lies outside the map is zero. Entries of -1 in
    `map_size` stand for a map without end.
    """
    signal = input
    if switches is not None:
        pooling = geometry.pooling()
        signal = max_unpool_window(input, switches, image, origin, pooling, geometry.overlap, geometry.relu)
    elif geometry.relu:
        signal = torch.relu(input)
    accumulate = torch.float64 if input.dtype == torch.float64 else torch.float32
    full = _transposed_convolution(signal.to(accumulate), weight.to(accumulate), geometry.convolution())
    rank, placement = geometry.rank, geometry.placement()
    margins: list[int] = []
    wanted = [slice(begin, begin + size) for begin, size in zip(placement.begin, placement.size, strict=True)]
    out = full[(slice(None), slice(None), *wanted)]
    for axis, size in enumerate(placement.size):
        margins = [0, size - out.shape[axis - rank], *margins]
    out = F.pad(out, margins)
    if placement.bounded():
        for axis, step in enumerate(geometry.step(pooled=switches is not None)):
            out = out.masked_fill(~on_map(origin, axis, step, placement), 0)
    return dense_copy(out.to(input.dtype), is_channels_last(input, rank), rank)


def on_map(origin: Tensor, axis: int, step: int, placement: Placement) -> Tensor:
    """Which positions of windows lie on the map along one axis, to go with (U, C, *size)."""
    size, base, map_size = placement.size[axis], placement.base[axis], placement.map_size[axis]
    position = far(origin, axis, step) * step + base + torch.arange(size, device=origin.device)
    return along(axis, len(placement.size), (position >= 0) & (position < map_size), channels=True)


def far(origin: Tensor, axis: int, step: int) -> Tensor:
    """One column of `origin`, (U, 1), held where its multiples by `step` do not overflow: far outside any map."""
    furthest = 2**60 // step
    return origin[:, axis : axis + 1].clamp(-furthest, furthest)


def _transposed_convolution(signal: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    """Every tap of the kernel sends the signal, times its weights, to its place."""
    stride, dilation, groups = convolution
    rank = convolution.rank
    size, kernel = spatial_size(signal, rank), spatial_size(weight, rank)
    out = signal.new_zeros((len(signal), groups, weight.shape[1], *convolution.full_size(size, kernel)))
    signal = signal.unflatten(1, (groups, -1))
    weight = weight.unflatten(0, (groups, -1))
    for taps in itertools.product(*map(range, kernel)):
        axes = zip(taps, size, stride, dilation, strict=True)
        reached = [
            slice(tap * spread, tap * spread + (count - 1) * step + 1, step) for tap, count, step, spread in axes
        ]
        place: Any = (..., *reached)
        of_tap: Any = (..., *taps)
        out[place] += torch.einsum("ugk...,gkc->ugc...", signal, weight[of_tap])
    return out.flatten(1, 2)


def pack_weight(weight: Tensor, convolution: Convolution) -> Tensor:
    """The weight itself: the reference reads it as it is."""
    return weight.clone(memory_format=torch.contiguous_format)


def switches_to_indices(switches: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """Flat int64 positions in a map; see `deconv_kernels.switches_to_indices`."""
    position, inside = positions(switches.long(), input_size, pooling)
    if not is_compiling() and not bool(inside.all()):
        raise ValueError(
            f"switches holds a value that names no position of a {pooling.kernel_size} window inside the "
            f"{input_size} map"
        )
    return dense_copy(position, is_channels_last(switches, pooling.rank), pooling.rank)


def positions(codes: Tensor, size: PerAxis, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """The flat position in a map of `size` that each int64 switch names, and whether it lies inside the map."""
    rank = pooling.rank
    starts = _window_starts(spatial_size(codes, rank), pooling, codes.device)
    inside = (codes >= 0) & (codes < pooling.taps())
    flat, taps = torch.zeros((), dtype=torch.int64, device=codes.device), pooling.taps()
    for axis in range(rank):
        taps //= pooling.kernel_size[axis]
        tap = codes // taps % pooling.kernel_size[axis]
        position = along(axis, rank, starts[axis]) + tap * pooling.dilation[axis]
        inside = inside & (position >= 0) & (position < size[axis])
        flat = flat * size[axis] + position
    return flat, inside


def indices_to_switches(indices: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """Window-local positions of flat int64 positions; see `deconv_kernels.indices_to_switches`."""
    rank, positions_left = pooling.rank, math.prod(input_size)
    starts = _window_starts(spatial_size(indices, rank), pooling, indices.device)
    inside = (indices >= 0) & (indices < positions_left)
    code, rest = torch.zeros((), dtype=torch.int64, device=indices.device), indices
    for axis in range(rank):
        positions_left = positions_left // input_size[axis]
        position = rest // positions_left
        rest = rest - position * positions_left
        offset = position - along(axis, rank, starts[axis])
        tap = offset // pooling.dilation[axis]
        inside = inside & (offset % pooling.dilation[axis] == 0) & (tap >= 0) & (tap < pooling.kernel_size[axis])
        code = code * pooling.kernel_size[axis] + tap
    if not is_compiling() and not bool(inside.all()):
        raise ValueError(
            f"indices holds a position of the {input_size} map that its {pooling.kernel_size} window does not cover"
        )
    return dense_copy(code.to(pooling.switch_dtype()), is_channels_last(indices, rank), rank)


def _window_starts(pooled: PerAxis, pooling: Pooling, device: torch.device) -> list[Tensor]:
    """Along each axis, where the windows of a pooled map begin."""
    axes = zip(pooled, pooling.stride, pooling.padding, strict=True)
    return [torch.arange(count, device=device) * stride - padding for count, stride, padding in axes]
