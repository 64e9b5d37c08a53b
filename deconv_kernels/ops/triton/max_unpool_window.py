"""Unpooling of windows of pooled maps by the switches of the images they come from."""

from __future__ import annotations

from torch import Tensor

from deconv_kernels.ops.geometry import Pooling
from deconv_kernels.ops.layout import spatial_size
from deconv_kernels.ops.triton.max_unpool import unpool


def max_unpool_window(
    input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, pooling: Pooling, overlap: str, relu: bool
) -> Tensor:
    """Windows of pooled maps unpooled by the switches of their images; see `deconv_kernels.max_unpool2d_window`.

    A window whose `image` is not one of the images of `switches` comes out as zeros.
    """
    size = pooling.unpooled_size(spatial_size(input, pooling.rank))
    return unpool(input, switches, image, origin, pooling, size, overlap, relu)
