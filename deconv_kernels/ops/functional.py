"""The ops as functions: arguments checked here, work done by the chosen backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from . import checks
from .checks import AXES, FLOATING, check_map, check_shape, check_tensor, check_weight, given_crop, given_size
from .dispatch import call
from .geometry import Backprojection, Convolution, IntOrPerAxis, PerAxis, Placement, Pooling, bounded
from .layout import spatial_size


def max_pool1d(
    input: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    *,
    bias: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pools signals `relu(input + bias)` and keeps, for every window, where its maximum was.

    Values are bit for bit those of `F.max_pool1d(F.relu(input + bias), ...)`: the first of equal maxima in row-major
    order wins, and NaN wins over everything.

    Args:
        input: (N, C, L) or (C, L); float32, float64, float16 or bfloat16, any strides.
        kernel_size: positions of the window.
        stride: step between windows; the kernel size by default.
        padding: positions of -inf around the signal, at most half the kernel.
        dilation: step between the taps of a window.
        ceil_mode: keep partial windows at the far borders.
        bias: (C,) of the input's dtype, added first.
        relu: rectify before pooling.

    Returns:
        The pooled values, and the switches: the position of each maximum inside its window, `tap`, as uint8 (int16 for
        windows of more than 256 positions). Both (N, C, PL) or (C, PL), in the memory format of the input.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (switches).

    Example:
        >>> values, switches = dk.max_pool1d(torch.tensor([[1.0, 5.0, 7.0, 3.0]]), kernel_size=2)
        >>> values.tolist(), switches.tolist()  # the maxima, and their places inside their windows
        ([[5.0, 7.0]], [[1, 0]])
    """
    if has_torch_function_variadic(input, bias):
        return handle_torch_function(
            max_pool1d, (input, bias), input, kernel_size, stride, padding, dilation, ceil_mode, bias=bias, relu=relu
        )
    return _max_pool(Pooling.of(1, kernel_size, stride, padding, dilation), input, bias, bool(ceil_mode), bool(relu))


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    *,
    bias: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pools `relu(input + bias)` and keeps, for every window, where its maximum was.

    Values are bit for bit those of `F.max_pool2d(F.relu(input + bias), ...)`: the first of equal maxima in row-major
    order wins, and NaN wins over everything.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16, any strides.
        kernel_size: rows and columns of the window.
        stride: step between windows; the kernel size by default.
        padding: rows and columns of -inf around the map, at most half the kernel.
        dilation: step between the taps of a window.
        ceil_mode: keep partial windows at the far borders.
        bias: (C,) of the input's dtype, added first.
        relu: rectify before pooling.

    Returns:
        The pooled values, and the switches: the position of each maximum inside its window, `tap_y * kernel_x + tap_x`,
        as uint8 (int16 for windows of more than 256 positions). Both (N, C, PH, PW) or (C, PH, PW), in the memory
        format of the input.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (switches).

    Example:
        >>> values, switches = dk.max_pool2d(torch.tensor([[[1.0, 5.0], [7.0, 3.0]]]), kernel_size=2)
        >>> values.item(), switches.item()  # the maximum, and its place inside its window
        (7.0, 2)
    """
    if has_torch_function_variadic(input, bias):
        return handle_torch_function(
            max_pool2d, (input, bias), input, kernel_size, stride, padding, dilation, ceil_mode, bias=bias, relu=relu
        )
    return _max_pool(Pooling.of(2, kernel_size, stride, padding, dilation), input, bias, bool(ceil_mode), bool(relu))


def max_pool3d(
    input: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    ceil_mode: bool = False,
    *,
    bias: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pools volumes `relu(input + bias)` and keeps, for every window, where its maximum was.

    Values are bit for bit those of `F.max_pool3d(F.relu(input + bias), ...)`: the first of equal maxima in row-major
    order wins, and NaN wins over everything.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W); float32, float64, float16 or bfloat16, any strides.
        kernel_size: planes, rows and columns of the window.
        stride: step between windows; the kernel size by default.
        padding: planes, rows and columns of -inf around the map, at most half the kernel.
        dilation: step between the taps of a window.
        ceil_mode: keep partial windows at the far borders.
        bias: (C,) of the input's dtype, added first.
        relu: rectify before pooling.

    Returns:
        The pooled values, and the switches: the position of each maximum inside its window, `(tap_z * kernel_y + tap_y)
        * kernel_x + tap_x`, as uint8 (int16 for windows of more than 256 positions). Both (N, C, PD, PH, PW) or (C, PD,
        PH, PW), in the memory format of the input.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (switches).

    Example:
        >>> values, switches = dk.max_pool3d(torch.arange(8.0).reshape(1, 2, 2, 2), kernel_size=2)
        >>> values.item(), switches.item()  # the maximum, and its place inside its window
        (7.0, 7)
    """
    if has_torch_function_variadic(input, bias):
        return handle_torch_function(
            max_pool3d, (input, bias), input, kernel_size, stride, padding, dilation, ceil_mode, bias=bias, relu=relu
        )
    return _max_pool(Pooling.of(3, kernel_size, stride, padding, dilation), input, bias, bool(ceil_mode), bool(relu))


def max_unpool1d(
    input: Tensor,
    switches: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    output_size: Sequence[int] | None = None,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> Tensor:
    """Puts every pooled value back where its switch says, zero elsewhere; the same at every run, on every device.

    Args:
        input: (N, C, PL) or (C, PL) pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: of the input's shape, as `max_pool1d` returned them.
        kernel_size, stride, padding, dilation: those of the pooling.
        output_size: (L,) of the result, or its whole shape; the smallest map of full windows by default.
        overlap: what happens where several windows name one position: "sum" adds them in row-major order, as the
            gradient of the pooling does; "last" keeps the last of them in row-major order, as `F.max_unpool1d` does
            on the CPU.
        relu: rectify the result.

    Returns:
        (N, C, L) or (C, L), in the memory format of the input. Sums are formed in float32 (float64 for float64) and
        rounded once. A switch that names no position of the result contributes nothing.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device; for `output_size` with the valid range.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> values, switches = dk.max_pool1d(torch.tensor([[1.0, 5.0, 7.0, 3.0]]), kernel_size=2)
        >>> dk.max_unpool1d(values, switches, kernel_size=2)
        tensor([[0., 5., 7., 0.]])
    """
    if has_torch_function_variadic(input, switches):
        window = (kernel_size, stride, padding, dilation)
        return handle_torch_function(
            max_unpool1d, (input, switches), input, switches, *window, output_size, overlap=overlap, relu=relu
        )
    pooling = Pooling.of(1, kernel_size, stride, padding, dilation)
    return _max_unpool(pooling, input, switches, output_size, overlap, bool(relu))


def max_unpool2d(
    input: Tensor,
    switches: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    output_size: Sequence[int] | None = None,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> Tensor:
    """Puts every pooled value back where its switch says, zero elsewhere; the same at every run, on every device.

    Args:
        input: (N, C, PH, PW) or (C, PH, PW) pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: of the input's shape, as `max_pool2d` returned them.
        kernel_size, stride, padding, dilation: those of the pooling.
        output_size: (H, W) of the result, or its whole shape; the smallest map of full windows by default.
        overlap: what happens where several windows name one position: "sum" adds them in row-major order, as the
            gradient of the pooling does; "last" keeps the last of them in row-major order, as `F.max_unpool2d` does
            on the CPU.
        relu: rectify the result.

    Returns:
        (N, C, H, W) or (C, H, W), in the memory format of the input. Sums are formed in float32 (float64 for float64)
        and rounded once. A switch that names no position of the result contributes nothing.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device; for `output_size` with the valid range.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> values, switches = dk.max_pool2d(torch.tensor([[[1.0, 5.0], [7.0, 3.0]]]), kernel_size=2)
        >>> dk.max_unpool2d(values, switches, kernel_size=2)
        tensor([[[0., 0.],
                 [7., 0.]]])
    """
    if has_torch_function_variadic(input, switches):
        window = (kernel_size, stride, padding, dilation)
        return handle_torch_function(
            max_unpool2d, (input, switches), input, switches, *window, output_size, overlap=overlap, relu=relu
        )
    pooling = Pooling.of(2, kernel_size, stride, padding, dilation)
    return _max_unpool(pooling, input, switches, output_size, overlap, bool(relu))


def max_unpool3d(
    input: Tensor,
    switches: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    output_size: Sequence[int] | None = None,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> Tensor:
    """Puts every pooled value back where its switch says, zero elsewhere; the same at every run, on every device.

    Args:
        input: (N, C, PD, PH, PW) or (C, PD, PH, PW) pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: of the input's shape, as `max_pool3d` returned them.
        kernel_size, stride, padding, dilation: those of the pooling.
        output_size: (D, H, W) of the result, or its whole shape; the smallest map of full windows by default.
        overlap: what happens where several windows name one position: "sum" adds them in row-major order, as the
            gradient of the pooling does; "last" keeps the last of them in row-major order, as `F.max_unpool3d` does
            on the CPU with one thread.
        relu: rectify the result.

    Returns:
        (N, C, D, H, W) or (C, D, H, W), in the memory format of the input. Sums are formed in float32 (float64 for
        float64) and rounded once. A switch that names no position of the result contributes nothing.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device; for `output_size` with the valid range.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> values, switches = dk.max_pool3d(torch.arange(8.0).reshape(1, 2, 2, 2), kernel_size=2)
        >>> dk.max_unpool3d(values, switches, kernel_size=2).flatten()
        tensor([0., 0., 0., 0., 0., 0., 0., 7.])
    """
    if has_torch_function_variadic(input, switches):
        window = (kernel_size, stride, padding, dilation)
        return handle_torch_function(
            max_unpool3d, (input, switches), input, switches, *window, output_size, overlap=overlap, relu=relu
        )
    pooling = Pooling.of(3, kernel_size, stride, padding, dilation)
    return _max_unpool(pooling, input, switches, output_size, overlap, bool(relu))


def max_unpool1d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Unpools windows of pooled maps, each by the switches of the image it belongs to.

    Args:
        input: (U, C, l) windows of pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: (N, C, PL) of N images, as `max_pool1d` returned them.
        image: (U,) int64, which image a window comes from.
        origin: (U, 1) int64, where its first element sits in the pooled map (x). It may be negative, and the window
            may overhang the map: elements outside it contribute nothing.
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap, relu: as in `max_unpool1d`.

    Returns:
        The unpooled windows (U, C, l') with l' = (l - 1) * stride + dilation * (kernel - 1) + 1, and their origins (U,
        1) in the unpooled map, `origin * stride - padding`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> _, switches = dk.max_pool1d(torch.eye(4).reshape(1, 1, 16), kernel_size=2)
        >>> image, origin = torch.tensor([0]), torch.tensor([[1]])
        >>> windows, origins = dk.max_unpool1d_window(torch.ones(1, 1, 1), switches, image, origin, kernel_size=2)
        >>> windows.tolist(), origins.tolist()
        ([[[1.0, 0.0]]], [[2]])
    """
    if has_torch_function_variadic(input, switches, image, origin):
        tensors, window = (input, switches, image, origin), (kernel_size, stride, padding, dilation)
        return handle_torch_function(max_unpool1d_window, tensors, *tensors, *window, overlap=overlap, relu=relu)
    pooling = Pooling.of(1, kernel_size, stride, padding, dilation)
    return _max_unpool_window(pooling, input, switches, image, origin, overlap, bool(relu))


def max_unpool2d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Unpools windows of pooled maps, each by the switches of the image it belongs to.

    Args:
        input: (U, C, h, w) windows of pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: (N, C, PH, PW) of N images, as `max_pool2d` returned them.
        image: (U,) int64, which image a window comes from.
        origin: (U, 2) int64, where its first element sits in the pooled map (y, x). It may be negative, and the window
            may overhang the map: elements outside it contribute nothing.
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap, relu: as in `max_unpool2d`.

    Returns:
        The unpooled windows (U, C, h', w') with h' = (h - 1) * stride + dilation * (kernel - 1) + 1, and their origins
        (U, 2) in the unpooled map, `origin * stride - padding`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> _, switches = dk.max_pool2d(torch.eye(4).reshape(1, 1, 4, 4), kernel_size=2)
        >>> image, origin = torch.tensor([0]), torch.tensor([[1, 1]])
        >>> windows, origins = dk.max_unpool2d_window(torch.ones(1, 1, 1, 1), switches, image, origin, kernel_size=2)
        >>> windows.tolist(), origins.tolist()
        ([[[[1.0, 0.0], [0.0, 0.0]]]], [[2, 2]])
    """
    if has_torch_function_variadic(input, switches, image, origin):
        tensors, window = (input, switches, image, origin), (kernel_size, stride, padding, dilation)
        return handle_torch_function(max_unpool2d_window, tensors, *tensors, *window, overlap=overlap, relu=relu)
    pooling = Pooling.of(2, kernel_size, stride, padding, dilation)
    return _max_unpool_window(pooling, input, switches, image, origin, overlap, bool(relu))


def max_unpool3d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Unpools windows of pooled maps, each by the switches of the image it belongs to.

    Args:
        input: (U, C, d, h, w) windows of pooled values; float32, float64, float16 or bfloat16, any strides.
        switches: (N, C, PD, PH, PW) of N images, as `max_pool3d` returned them.
        image: (U,) int64, which image a window comes from.
        origin: (U, 3) int64, where its first element sits in the pooled map (z, y, x). It may be negative, and the
            window may overhang the map: elements outside it contribute nothing.
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap, relu: as in `max_unpool3d`.

    Returns:
        The unpooled windows (U, C, d', h', w') with d' = (d - 1) * stride + dilation * (kernel - 1) + 1, and their
        origins (U, 3) in the unpooled map, `origin * stride - padding`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling).

    Example:
        >>> _, switches = dk.max_pool3d(torch.eye(8).reshape(1, 1, 4, 4, 4), kernel_size=2)
        >>> image, origin = torch.tensor([0]), torch.tensor([[1, 0, 1]])
        >>> windows, origins = dk.max_unpool3d_window(torch.ones(1, 1, 1, 1, 1), switches, image, origin, kernel_size=2)
        >>> windows.shape, origins.tolist()
        (torch.Size([1, 1, 2, 2, 2]), [[2, 0, 2]])
    """
    if has_torch_function_variadic(input, switches, image, origin):
        tensors, window = (input, switches, image, origin), (kernel_size, stride, padding, dilation)
        return handle_torch_function(max_unpool3d_window, tensors, *tensors, *window, overlap=overlap, relu=relu)
    pooling = Pooling.of(3, kernel_size, stride, padding, dilation)
    return _max_unpool_window(pooling, input, switches, image, origin, overlap, bool(relu))


def backproject1d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    stride: IntOrPerAxis = 1,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    groups: int = 1,
    *,
    switches: Tensor | None = None,
    pool_kernel_size: IntOrPerAxis | None = None,
    pool_stride: IntOrPerAxis | None = None,
    pool_padding: IntOrPerAxis = 0,
    pool_dilation: IntOrPerAxis = 1,
    overlap: str = "sum",
    relu: bool = False,
    output_size: Sequence[int] | None = None,
    crop: tuple[Sequence[int], Sequence[int]] | None = None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sends windows of signal back through a convolution: unpooled by switches, rectified, and transposed-convolved.

    Args:
        input: (U, K, l) windows of the signal on the convolution's output, or with `switches` on its pooled output;
            float32, float64, float16 or bfloat16, any strides.
        weight: (K, C / groups, k) of the input's dtype, the weight of the forward convolution.
        image: (U,) int64, which image a window comes from.
        origin: (U, 1) int64, where its first element sits in the map (x); it may be negative.
        stride, padding, dilation, groups: those of the forward convolution.
        switches: (N, K, PL) of N images, as `max_pool1d` returned them, if the convolution was pooled.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation: those of the pooling; as in `max_pool1d`.
        overlap: "sum" or "last", as in `max_unpool1d`.
        relu: rectify the signal before it is convolved, after it is unpooled.
        output_size: (L,) of the map that the convolution read. What falls outside it is set to zero. By default the
            map has no end.
        crop: ((x,), (columns,)), the part of the result to compute, by default all of it. It may go on beyond
            the result, with zeros.
        packed: what `pack_weight` made of `weight`; saves packing it again at every call.

    Returns:
        The windows (U, C, l') on the convolution's input, by default with l' = (l - 1) * stride + dilation * (k - 1) +
        1 where l counts positions after unpooling, in the memory format of `input`; and their origins (U, 1) there.
        Sums are formed in float32 (float64 for float64) and rounded once, as is the unpooled signal. Weights must be
        finite: a signal of zero may be skipped or multiplied.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling, rectification, filtering).

    Example:
        >>> weight, image, origin = torch.arange(3.0).reshape(1, 1, 3), torch.tensor([0]), torch.tensor([[4]])
        >>> windows, origins = dk.backproject1d(2 * torch.ones(1, 1, 1), weight, image, origin, padding=1)
        >>> windows, origins.tolist()
        (tensor([[[0., 2., 4.]]]), [[3]])
    """
    tensors = (input, weight, image, origin, switches, packed)
    convolution = (stride, padding, dilation, groups)
    pool = (pool_kernel_size, pool_stride, pool_padding, pool_dilation)
    return _backproject(backproject1d, 1, tensors, convolution, pool, overlap, relu, output_size, crop)


def backproject2d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    stride: IntOrPerAxis = 1,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    groups: int = 1,
    *,
    switches: Tensor | None = None,
    pool_kernel_size: IntOrPerAxis | None = None,
    pool_stride: IntOrPerAxis | None = None,
    pool_padding: IntOrPerAxis = 0,
    pool_dilation: IntOrPerAxis = 1,
    overlap: str = "sum",
    relu: bool = False,
    output_size: Sequence[int] | None = None,
    crop: tuple[Sequence[int], Sequence[int]] | None = None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sends windows of signal back through a convolution: unpooled by switches, rectified, and transposed-convolved.

    Args:
        input: (U, K, h, w) windows of the signal on the convolution's output, or with `switches` on its pooled output;
            float32, float64, float16 or bfloat16, any strides.
        weight: (K, C / groups, kh, kw) of the input's dtype, the weight of the forward convolution.
        image: (U,) int64, which image a window comes from.
        origin: (U, 2) int64, where its first element sits in the map (y, x); it may be negative.
        stride, padding, dilation, groups: those of the forward convolution.
        switches: (N, K, PH, PW) of N images, as `max_pool2d` returned them, if the convolution was pooled.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation: those of the pooling; as in `max_pool2d`.
        overlap: "sum" or "last", as in `max_unpool2d`.
        relu: rectify the signal before it is convolved, after it is unpooled.
        output_size: (H, W) of the map that the convolution read. What falls outside it is set to zero. By default the
            map has no end.
        crop: ((y, x), (rows, columns)), the part of the result to compute, by default all of it. It may go on beyond
            the result, with zeros.
        packed: what `pack_weight` made of `weight`; saves packing it again at every call.

    Returns:
        The windows (U, C, h', w') on the convolution's input, by default with h' = (h - 1) * stride + dilation * (kh -
        1) + 1 rows where h counts rows after unpooling, in the memory format of `input`; and their origins (U, 2) in
        that map. Sums are formed in float32 (float64 for float64) and rounded once, as is the unpooled signal. Weights
        must be finite: a signal of zero may be skipped or multiplied.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling, rectification, filtering).

    Example:
        >>> weight = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> image, origin = torch.tensor([0]), torch.tensor([[4, 4]])
        >>> windows, origins = dk.backproject2d(2 * torch.ones(1, 1, 1, 1), weight, image, origin, padding=1)
        >>> torch.equal(windows, 2 * weight), origins.tolist()
        (True, [[3, 3]])
    """
    tensors = (input, weight, image, origin, switches, packed)
    convolution = (stride, padding, dilation, groups)
    pool = (pool_kernel_size, pool_stride, pool_padding, pool_dilation)
    return _backproject(backproject2d, 2, tensors, convolution, pool, overlap, relu, output_size, crop)


def backproject3d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    stride: IntOrPerAxis = 1,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
    groups: int = 1,
    *,
    switches: Tensor | None = None,
    pool_kernel_size: IntOrPerAxis | None = None,
    pool_stride: IntOrPerAxis | None = None,
    pool_padding: IntOrPerAxis = 0,
    pool_dilation: IntOrPerAxis = 1,
    overlap: str = "sum",
    relu: bool = False,
    output_size: Sequence[int] | None = None,
    crop: tuple[Sequence[int], Sequence[int]] | None = None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sends windows of signal back through a convolution: unpooled by switches, rectified, and transposed-convolved.

    Args:
        input: (U, K, d, h, w) windows of the signal on the convolution's output, or with `switches` on its pooled
            output; float32, float64, float16 or bfloat16, any strides.
        weight: (K, C / groups, kd, kh, kw) of the input's dtype, the weight of the forward convolution.
        image: (U,) int64, which image a window comes from.
        origin: (U, 3) int64, where its first element sits in the map (z, y, x); it may be negative.
        stride, padding, dilation, groups: those of the forward convolution.
        switches: (N, K, PD, PH, PW) of N images, as `max_pool3d` returned them, if the convolution was pooled.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation: those of the pooling; as in `max_pool3d`.
        overlap: "sum" or "last", as in `max_unpool3d`.
        relu: rectify the signal before it is convolved, after it is unpooled.
        output_size: (D, H, W) of the map that the convolution read. What falls outside it is set to zero. By default
            the map has no end.
        crop: ((z, y, x), (planes, rows, columns)), the part of the result to compute, by default all of it. It may go
            on beyond the result, with zeros.
        packed: what `pack_weight` made of `weight`; saves packing it again at every call.

    Returns:
        The windows (U, C, d', h', w') on the convolution's input, by default with d' = (d - 1) * stride + dilation *
        (kd - 1) + 1 planes where d counts planes after unpooling, in the memory format of `input`; and their origins
        (U, 3) in that map. Sums are formed in float32 (float64 for float64) and rounded once, as is the unpooled
        signal. Weights must be finite: a signal of zero may be skipped or multiplied.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling, rectification, filtering).

    Example:
        >>> weight = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
        >>> image, origin = torch.tensor([0]), torch.tensor([[4, 4, 4]])
        >>> windows, origins = dk.backproject3d(2 * torch.ones(1, 1, 1, 1, 1), weight, image, origin, padding=1)
        >>> torch.equal(windows, 2 * weight), origins.tolist()
        (True, [[3, 3, 3]])
    """
    tensors = (input, weight, image, origin, switches, packed)
    convolution = (stride, padding, dilation, groups)
    pool = (pool_kernel_size, pool_stride, pool_padding, pool_dilation)
    return _backproject(backproject3d, 3, tensors, convolution, pool, overlap, relu, output_size, crop)


def _backproject(
    public: Callable[..., tuple[Tensor, Tensor]],
    rank: int,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    convolution: tuple[IntOrPerAxis, IntOrPerAxis, IntOrPerAxis, int],
    pool: tuple[IntOrPerAxis | None, IntOrPerAxis | None, IntOrPerAxis, IntOrPerAxis],
    overlap: str,
    relu: bool,
    output_size: Sequence[int] | None,
    crop: tuple[Sequence[int], Sequence[int]] | None,
) -> tuple[Tensor, Tensor]:
    input, weight, image, origin, switches, packed = tensors
    stride, padding, dilation, groups = convolution
    kernel_size, pool_stride, pool_padding, pool_dilation = pool
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            public,
            tensors,
            *(input, weight, image, origin, *convolution),
            switches=switches,
            pool_kernel_size=kernel_size,
            pool_stride=pool_stride,
            pool_padding=pool_padding,
            pool_dilation=pool_dilation,
            overlap=overlap,
            relu=relu,
            output_size=output_size,
            crop=crop,
            packed=packed,
        )
    filter, pad = Convolution.of(rank, stride, dilation, groups), bounded("padding", padding, rank, 0)
    if switches is None:
        pooling = Pooling.one_position(rank)
    elif kernel_size is None:
        raise TypeError("pool_kernel_size must be given with switches")
    else:
        pooling = Pooling.of(rank, kernel_size, pool_stride, pool_padding, pool_dilation, "pool_")
    check_map("input", input, rank, FLOATING)
    check_weight(weight, rank, groups)
    if crop is None:
        signal = pooling.unpadded().unpooled_size(spatial_size(input, rank))
        begin, size = (0,) * rank, filter.full_size(signal, spatial_size(weight, rank))
    else:
        begin, size = given_crop(crop, rank)
    before = zip(begin, pooling.padding, filter.stride, pad, strict=True)
    base = tuple(first - pooled * step - padded for first, pooled, step, padded in before)
    if output_size is None:
        map_size: PerAxis = (-1,) * rank
    elif isinstance(output_size, Sequence):
        map_size = bounded("output_size", output_size, rank, 1)
    else:
        raise TypeError(f"output_size must be ints ({AXES[rank]}), got {output_size!r}")
    geometry = Backprojection.of(pooling, overlap, bool(relu), filter, Placement(begin, size, base, map_size))
    return send_back(*tensors, geometry), moved(origin, geometry.step(pooled=True), base)


def send_back(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    geometry: Backprojection,
) -> Tensor:
    """`backproject1d` to `backproject3d` for those who have worked out the geometry; returns the windows only."""
    tensors = (input, weight, image, origin, switches, packed)
    if geometry.rank != 1:
        return call(f"backproject{geometry.rank}d", tensors, *geometry)
    checks.backproject(*tensors, geometry)
    places = image, F.pad(origin, (1, 0)), None if switches is None else switches.unsqueeze(-2)
    rows = (input.unsqueeze(-2), weight.unsqueeze(-2), *places, packed)
    return call("backproject2d", rows, *geometry.of_rows()).squeeze(-2)


def pack_weight(weight: Tensor, stride: IntOrPerAxis = 1, dilation: IntOrPerAxis = 1, groups: int = 1) -> Tensor:
    """A convolution's weight in the order in which `backproject1d` to `backproject3d` read it on this backend.

    Args:
        weight: (K, C / groups, k), (K, C / groups, kh, kw) or (K, C / groups, kd, kh, kw), the weight of the forward
            convolution.
        stride, dilation, groups: those of the convolution.

    Returns:
        A tensor for the argument `packed` of `backproject1d` to `backproject3d`, of use with the same backend only.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape or size.

    Example:
        >>> weight, signal = torch.randn(8, 3, 3, 3), torch.randn(1, 8, 5, 5)
        >>> image, origin = torch.tensor([0]), torch.tensor([[0, 0]])
        >>> windows, _ = dk.backproject2d(signal, weight, image, origin, packed=dk.pack_weight(weight))
        >>> torch.equal(windows, dk.backproject2d(signal, weight, image, origin)[0])
        True
    """
    if has_torch_function_unary(weight):
        return handle_torch_function(pack_weight, (weight,), weight, stride, dilation, groups)
    check_tensor("weight", weight)
    rank = min(max(weight.dim() - 2, 1), 3)
    convolution = Convolution.of(rank, stride, dilation, groups)
    if rank != 1:
        return call("pack_weight", (weight,), *convolution)
    checks.pack_weight(weight, convolution)
    rows = Convolution((1, *convolution.stride), (1, *convolution.dilation), groups)
    return call("pack_weight", (weight.unsqueeze(-2),), *rows)


def switches_to_indices(
    switches: Tensor,
    input_size: Sequence[int],
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
) -> Tensor:
    """The switches as the flat int64 indices that PyTorch's pooling returns: `(z * H + y) * W + x`.

    Args:
        switches: as `max_pool1d`, `max_pool2d` or `max_pool3d` returned them.
        input_size: (L,), (H, W) or (D, H, W) of the map that was pooled, or the whole shape of maps of two or three
            dimensions; four entries are (N, C, H, W), and (C, D, H, W) where `kernel_size` has three, or where the
            second is not the second of the switches.
        kernel_size, stride, padding, dilation: those of the pooling.

    Returns:
        int64 of the switches' shape and memory format.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong size, or (on the CPU) a switch that names no position of the map.

    Example:
        >>> maps = torch.randn(1, 2, 8, 8)
        >>> _, switches = dk.max_pool2d(maps, kernel_size=2)
        >>> _, indices = nn.functional.max_pool2d(maps, 2, return_indices=True)
        >>> torch.equal(dk.switches_to_indices(switches, (8, 8), kernel_size=2), indices)
        True
    """
    if has_torch_function_unary(switches):
        return handle_torch_function(
            switches_to_indices, (switches,), switches, input_size, kernel_size, stride, padding, dilation
        )
    pooling = Pooling.of(_rank_of(input_size, kernel_size, switches), kernel_size, stride, padding, dilation)
    size = given_size("input_size", input_size, pooling.rank, "switches", switches)
    if pooling.rank != 1:
        return call("switches_to_indices", (switches,), size, *pooling)
    checks.switches_to_indices(switches, size, pooling)
    return call("switches_to_indices", (switches.unsqueeze(-2),), (1, *size), *pooling.of_rows()).squeeze(-2)


def indices_to_switches(
    indices: Tensor,
    input_size: Sequence[int],
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None = None,
    padding: IntOrPerAxis = 0,
    dilation: IntOrPerAxis = 1,
) -> Tensor:
    """The switches that say the same as flat int64 indices; the inverse of `switches_to_indices`.

    Args:
        indices: int64, as `F.max_pool1d`, `F.max_pool2d` or `F.max_pool3d` with `return_indices=True` returns them.
        input_size: as in `switches_to_indices`.
        kernel_size, stride, padding, dilation: those of the pooling.

    Returns:
        uint8 (int16 for windows of more than 256 positions) of the indices' shape and memory format.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong size, or (on the CPU) an index outside its window.

    Example:
        >>> _, indices = nn.functional.max_pool2d(torch.eye(4)[None], 2, return_indices=True)
        >>> dk.indices_to_switches(indices, (4, 4), kernel_size=2)
        tensor([[[0, 0],
                 [0, 0]]], dtype=torch.uint8)
    """
    if has_torch_function_unary(indices):
        return handle_torch_function(
            indices_to_switches, (indices,), indices, input_size, kernel_size, stride, padding, dilation
        )
    pooling = Pooling.of(_rank_of(input_size, kernel_size, indices), kernel_size, stride, padding, dilation)
    size = given_size("input_size", input_size, pooling.rank, "indices", indices)
    if pooling.rank != 1:
        return call("indices_to_switches", (indices,), size, *pooling)
    checks.indices_to_switches(indices, size, pooling)
    return call("indices_to_switches", (indices.unsqueeze(-2),), (1, *size), *pooling.of_rows()).squeeze(-2)


def _max_pool(
    pooling: Pooling, input: Tensor, bias: Tensor | None, ceil_mode: bool, relu: bool
) -> tuple[Tensor, Tensor]:
    if pooling.rank != 1:
        return call(f"max_pool{pooling.rank}d", (input, bias), *pooling, ceil_mode, relu)
    checks.max_pool(input, bias, pooling, ceil_mode, relu)
    values, switches = call("max_pool2d", (input.unsqueeze(-2), bias), *pooling.of_rows(), ceil_mode, relu)
    return values.squeeze(-2), switches.squeeze(-2)


def _max_unpool(
    pooling: Pooling, input: Tensor, switches: Tensor, output_size: Sequence[int] | None, overlap: str, relu: bool
) -> Tensor:
    rank = pooling.rank
    if output_size is not None:
        size = given_size("output_size", output_size, rank, "input", input)
    else:
        check_tensor("input", input)
        size = _size_of_full_windows(pooling, input.shape)
    if rank != 1:
        return call(f"max_unpool{rank}d", (input, switches), *pooling, size, overlap, relu)
    checks.max_unpool(input, switches, pooling, size, overlap, relu)
    rows = input.unsqueeze(-2), switches.unsqueeze(-2)
    return call("max_unpool2d", rows, *pooling.of_rows(), (1, *size), overlap, relu).squeeze(-2)


def _size_of_full_windows(pooling: Pooling, shape: torch.Size) -> PerAxis:
    """Size of the smallest map that a pooled map (C, ...) or (N, C, ...) can come from."""
    if is_compiling():
        return _checked_size_of_full_windows(pooling, shape)
    try:
        return _cached_size_of_full_windows(pooling, shape)
    except TypeError:  # symbolic sizes, which no cache takes
        return _checked_size_of_full_windows(pooling, shape)


def _checked_size_of_full_windows(pooling: Pooling, shape: torch.Size) -> PerAxis:
    check_shape("input", shape, pooling.rank)
    size = pooling.unpooled_size(tuple(shape[-pooling.rank :]))
    if min(size) < 1:
        raise ValueError(f"output_size must be given: full windows padded by {pooling.padding} leave a {size} map")
    return size


_cached_size_of_full_windows = functools.lru_cache(maxsize=1024)(_checked_size_of_full_windows)


def _max_unpool_window(
    pooling: Pooling, input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, overlap: str, relu: bool
) -> tuple[Tensor, Tensor]:
    if pooling.rank != 1:
        tensors = (input, switches, image, origin)
        windows = call(f"max_unpool{pooling.rank}d_window", tensors, *pooling.of_windows(), overlap, relu)
    else:
        checks.max_unpool_window(input, switches, image, origin, pooling, overlap, relu)
        rows = (input.unsqueeze(-2), switches.unsqueeze(-2), image, F.pad(origin, (1, 0)))
        windows = call("max_unpool2d_window", rows, *pooling.of_rows().of_windows(), overlap, relu).squeeze(-2)
    return windows, moved(origin, pooling.stride, [-padding for padding in pooling.padding])


def moved(origin: Tensor, step: Sequence[int], base: Sequence[int]) -> Tensor:
    """Where windows begin whose places (U, rank) are counted in steps, the first of them at `base`."""
    axes = zip(origin.unbind(dim=1), step, base, strict=True)
    return torch.stack([place * apart + first for place, apart, first in axes], dim=1)


def _rank_of(input_size: Sequence[int], kernel_size: IntOrPerAxis, pooled: Tensor) -> int:
    """The rank of a map by its size or its whole shape, as `switches_to_indices` takes them."""
    entries = len(input_size) if isinstance(input_size, Sequence) else 2
    if entries == 3:
        return 2 if isinstance(pooled, Tensor) and pooled.dim() == 3 else 3
    if entries == 4:
        of_volume = isinstance(kernel_size, Sequence) and len(kernel_size) == 3
        return 3 if of_volume or not _of_images(pooled, input_size) else 2
    return {1: 1, 5: 3}.get(entries, 2)


def _of_images(pooled: Tensor, shape: Sequence[int]) -> bool:
    """Whether a shape of four entries may be that of images whose pooled maps are given: (N, C, H, W)."""
    if not isinstance(pooled, Tensor) or pooled.dim() != 4 or isinstance(shape[1], Tensor):
        return True
    return pooled.shape[0] != shape[0] or pooled.shape[1] == shape[1]
