"""Unpooling of windows of pooled maps by the switches of the images they come from."""

from __future__ import annotations

from torch import Tensor

from deconv_kernels.ops.geometry import Pair, extent
from deconv_kernels.ops.triton.max_unpool2d import unpool


def max_unpool2d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel_size: Pair,
    stride: Pair,
    dilation: Pair,
    overlap: str,
    relu: bool,
) -> Tensor:
    """Windows of pooled maps unpooled by the switches of their images; see `deconv_kernels.max_unpool2d_window`.

    A window whose `image` is not one of the images of `switches` comes out as zeros.
    """
    height, width = input.shape[-2:]
    size = (
        (height - 1) * stride[0] + extent(kernel_size[0], dilation[0]),
        (width - 1) * stride[1] + extent(kernel_size[1], dilation[1]),
    )
    last = overlap == "last"
    return unpool(input, switches, image, origin, kernel_size, stride, (0, 0), dilation, size, last, relu)
