"""What the ops return, without the values: for `torch.compile`, `torch.export` and fake tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from . import library, reference
from .dispatch import packed_size
from .geometry import Backprojection, Convolution, PerAxis, Pooling
from .layout import empty, empty_like, is_channels_last, spatial_size, taps_first


def max_pool(
    input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    """Values and switches of the pooled map."""
    size = pooling.pooled_size(spatial_size(input, pooling.rank), ceil_mode)
    return empty_like(input, size), empty_like(input, size, pooling.switch_dtype())


def max_unpool(
    input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
) -> Tensor:
    """A map of `output_size`."""
    return empty_like(input, output_size)


def max_unpool_window(
    input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, pooling: Pooling, overlap: str, relu: bool
) -> Tensor:
    """All that the windows reach."""
    return empty_like(input, pooling.unpooled_size(spatial_size(input, pooling.rank)))


def backproject(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    geometry: Backprojection,
) -> Tensor:
    """The part that is wanted, with all channels of the convolution's input."""
    channels = weight.shape[1] * geometry.groups
    shape, rank = (input.shape[0], channels, *geometry.size), geometry.rank
    return empty(shape, input.dtype, input.device, is_channels_last(input, rank), rank)


def pack_weight(namespace: str, weight: Tensor, convolution: Convolution) -> Tensor:
    """Each backend packs in its own way."""
    cpp = namespace == library.NAMESPACE and weight.device.type == "cpu"
    if namespace == library.REFERENCE_NAMESPACE or (cpp and library.cpu_error is not None):
        return reference.pack_weight(weight, convolution)
    if not cpp:
        return taps_first(weight, for_tf32=namespace == library.TRITON_NAMESPACE)
    sums = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.new_empty(packed_size(weight, convolution), dtype=sums)


def switches_to_indices(switches: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """An index for each switch."""
    return empty_like(switches, spatial_size(switches, pooling.rank), torch.int64)


def indices_to_switches(indices: Tensor, input_size: PerAxis, pooling: Pooling) -> Tensor:
    """A switch for each index."""
    return empty_like(indices, spatial_size(indices, pooling.rank), pooling.switch_dtype())
