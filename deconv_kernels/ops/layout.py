"""The two dense layouts of maps, x innermost or the channels innermost, and which of them a result takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .geometry import Pair


def spatial_size(map: Tensor) -> Pair:
    """Height and width of a (..., H, W) tensor."""
    return map.shape[-2], map.shape[-1]


def is_channels_last(tensor: Tensor) -> bool:
    """Whether results for `tensor` (C, H, W) or (N, C, H, W) are laid out with the channels innermost, as ATen's are.

    They are where its strides rise from channels over columns and rows to images, gaps allowed.
    """
    shape, strides = tensor.shape, tensor.stride()
    if strides[-3] == 0:
        return False
    least: int | torch.SymInt = 0
    for axis in (-3, -1, -2):
        if shape[axis] == 0 or strides[axis] < least:
            return False
        least = strides[axis] * shape[axis] if shape[axis] > 1 else strides[axis]
    if least == strides[-3]:
        return False  # one element for all three, which says nothing
    return tensor.dim() == 3 or (shape[0] > 0 and strides[0] >= least)


def dense(tensor: Tensor, channels_last: bool) -> Tensor:
    """`tensor` itself or a copy of it, dense with the channels innermost or with x innermost."""
    if not channels_last:
        return tensor.contiguous()
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


def dense_copy(tensor: Tensor, channels_last: bool) -> Tensor:
    """A copy of `tensor` with exactly the strides of `empty`, also along dimensions of one element."""
    if not channels_last:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.movedim(-3, -1).clone(memory_format=torch.contiguous_format).movedim(-1, -3)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool) -> Tensor:
    """An uninitialised dense tensor of `shape` (..., C, H, W) in one of the two layouts."""
    if not channels_last:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    *batch, channels, height, width = shape
    return torch.empty((*batch, height, width, channels), dtype=dtype, device=device).movedim(-1, -3)


def empty_like(map: Tensor, size: Pair, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised result for `map` (..., C, H, W), of another height and width and perhaps another dtype."""
    return empty((*map.shape[:-2], *size), dtype or map.dtype, map.device, is_channels_last(map))


def taps_first(weight: Tensor) -> Tensor:
    """A dense copy of a (K, C / groups, kh, kw) weight as (kh, kw, K, C / groups), as GPUs read it."""
    return weight.permute(2, 3, 0, 1).clone(memory_format=torch.contiguous_format)
