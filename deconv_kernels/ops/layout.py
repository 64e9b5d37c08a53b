"""The two dense layouts of maps, x innermost or the channels innermost, and which of them a result takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .geometry import PerAxis

_CHANNELS_LAST = {
    2: torch.channels_last,
    3: torch.channels_last_3d,
}  # what torch calls it, by the rank of a batch of maps


def spatial_size(map: Tensor, rank: int) -> PerAxis:
    """The last `rank` sizes of a tensor: (H, W) of a (..., H, W) one for a rank of two."""
    return tuple(map.shape[-rank:])


def is_channels_last(tensor: Tensor, rank: int) -> bool:
    """Whether results for `tensor` (C, ...) or (N, C, ...) are laid out with the channels innermost, as ATen's are.

    They are where its strides rise from channels over the spatial axes, the last one first, to images, gaps allowed.
    """
    shape, strides = tensor.shape, tensor.stride()
    channels = -1 - rank
    if strides[channels] == 0:
        return False
    least: int | torch.SymInt = 0
    for axis in (channels, *range(-1, channels, -1)):
        if shape[axis] == 0 or strides[axis] < least:
            return False
        least = strides[axis] * shape[axis] if shape[axis] > 1 else strides[axis]
    if least == strides[channels]:
        return False  # one element for all of them, which says nothing
    return tensor.dim() == rank + 1 or (shape[0] > 0 and strides[0] >= least)


def dense(tensor: Tensor, channels_last: bool, rank: int) -> Tensor:
    """`tensor` itself or a copy of it, dense with the channels innermost or with x innermost."""
    if not channels_last:
        return tensor.contiguous()
    if tensor.dim() == rank + 2 and rank in _CHANNELS_LAST and tensor.is_contiguous(memory_format=_CHANNELS_LAST[rank]):
        return tensor
    return tensor.movedim(-1 - rank, -1).contiguous().movedim(-1, -1 - rank)


def dense_copy(tensor: Tensor, channels_last: bool, rank: int) -> Tensor:
    """A copy of `tensor` with exactly the strides of `empty`, also along dimensions of one element."""
    if not channels_last:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.movedim(-1 - rank, -1).clone(memory_format=torch.contiguous_format).movedim(-1, -1 - rank)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool, rank: int) -> Tensor:
    """An uninitialised dense tensor of `shape`, channels and `rank` sizes at its end, in one of the two layouts."""
    if not channels_last:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    batch, channels, size = shape[: -1 - rank], shape[-1 - rank], shape[-rank:]
    if len(shape) == rank + 2 and rank in _CHANNELS_LAST:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=_CHANNELS_LAST[rank])
    return torch.empty((*batch, *size, channels), dtype=dtype, device=device).movedim(-1, -1 - rank)


def empty_like(map: Tensor, size: PerAxis, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised result for `map`, of another spatial size and perhaps another dtype."""
    rank = len(size)
    return empty((*map.shape[:-rank], *size), dtype or map.dtype, map.device, is_channels_last(map, rank), rank)


def taps_first(weight: Tensor, for_tf32: bool) -> Tensor:
    """A dense copy of a (K, C / groups, kh, kw) weight as (kh, kw, K, C / groups), as GPUs read it; of any rank.

    C / groups is innermost, but K in float32 `for_tf32`: matrix units take factors in TF32 along what they sum over.
    """
    if for_tf32 and weight.dtype == torch.float32:
        return weight.movedim((1, 0), (-2, -1)).clone(memory_format=torch.contiguous_format).transpose(-1, -2)
    return weight.movedim((0, 1), (-2, -1)).clone(memory_format=torch.contiguous_format)
