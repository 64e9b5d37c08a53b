"""The ops as functions: arguments checked here, work done by the chosen backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import forward_ad, profiler
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from ..checks import shown
from . import backends
from .geometry import (
    FLOATING,
    LARGEST_STEP,
    Pair,
    check_device,
    check_like,
    check_map,
    check_tensor,
    convolution_arguments,
    extent,
    pair,
    pooled_size,
    refuse_torchscript,
    switch_dtype,
    unpooled_range,
    window_arguments,
)

IntOrPair = int | Sequence[int]


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
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
        The pooled values, and the switches: the position of each maximum inside its window, `tap_y * kernel_x +
        tap_x`, as uint8 (int16 for windows of more than 256 positions). Both (N, C, PH, PW) or (C, PH, PW), in the
        memory format of the input.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (switches).
    """
    if has_torch_function_variadic(input, bias):
        return handle_torch_function(
            max_pool2d, (input, bias), input, kernel_size, stride, padding, dilation, ceil_mode, bias=bias, relu=relu
        )
    window = window_arguments(kernel_size, stride, padding, dilation)
    return _call("max_pool2d", _check_max_pool2d, (input, bias), *window, bool(ceil_mode), bool(relu))


def max_unpool2d(
    input: Tensor,
    switches: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    output_size: Sequence[int] | None = None,
    *,
    overlap: str = "sum",
    relu: bool = False,
) -> Tensor:
    """Puts every pooled value back where its switch says, zero elsewhere.

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
    """
    if has_torch_function_variadic(input, switches):
        window = (kernel_size, stride, padding, dilation)
        return handle_torch_function(
            max_unpool2d, (input, switches), input, switches, *window, output_size, overlap=overlap, relu=relu
        )
    window = window_arguments(kernel_size, stride, padding, dilation)
    if output_size is None:
        size = _unpooled_size(input, *window)
    else:
        size = _spatial("output_size", output_size, "input", input)
    return _call("max_unpool2d", _check_max_unpool2d, (input, switches), *window, size, overlap, bool(relu))


def max_unpool2d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
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
    """
    if has_torch_function_variadic(input, switches, image, origin):
        tensors, window = (input, switches, image, origin), (kernel_size, stride, padding, dilation)
        return handle_torch_function(max_unpool2d_window, tensors, *tensors, *window, overlap=overlap, relu=relu)
    kernel, step, pad, spread = window_arguments(kernel_size, stride, padding, dilation)
    tensors = (input, switches, image, origin)
    windows = _call(
        "max_unpool2d_window", _check_max_unpool2d_window, tensors, kernel, step, spread, overlap, bool(relu)
    )
    origins = torch.stack([origin[:, axis] * step[axis] - pad[axis] for axis in (0, 1)], dim=1)
    return windows, origins


def backproject2d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    switches: Tensor | None = None,
    pool_kernel_size: IntOrPair | None = None,
    pool_stride: IntOrPair | None = None,
    pool_padding: IntOrPair = 0,
    pool_dilation: IntOrPair = 1,
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
        The windows (U, C, h', w') on the convolution's input, by default with h' = (h - 1) * stride + dilation *
        (kh - 1) + 1 rows where h counts rows after unpooling, in the memory format of `input`; and their origins (U, 2)
        in that map. Sums are formed in float32 (float64 for float64) and rounded once, as is the unpooled signal.
        Weights must be finite: a signal of zero may be skipped or multiplied.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape, size or device.

    Source: Zeiler & Fergus 2013, section 2.1 (unpooling, rectification, filtering).
    """
    if has_torch_function_variadic(input, weight, image, origin, switches, packed):
        return handle_torch_function(
            backproject2d,
            (input, weight, image, origin, switches, packed),
            *(input, weight, image, origin, stride, padding, dilation, groups),
            switches=switches,
            pool_kernel_size=pool_kernel_size,
            pool_stride=pool_stride,
            pool_padding=pool_padding,
            pool_dilation=pool_dilation,
            overlap=overlap,
            relu=relu,
            output_size=output_size,
            crop=crop,
            packed=packed,
        )
    step, spread = convolution_arguments(stride, dilation)
    pad = _bounded("padding", padding, 0)
    if switches is None:
        pool, pool_step, pool_pad, pool_spread = (1, 1), (1, 1), (0, 0), (1, 1)
    elif pool_kernel_size is None:
        raise TypeError("pool_kernel_size must be given with switches")
    else:
        pool, pool_step, pool_pad, pool_spread = window_arguments(
            pool_kernel_size, pool_stride, pool_padding, pool_dilation, "pool_"
        )
    check_map("input", input, FLOATING)
    _check_weight(weight, groups)
    full = []
    for axis in (0, 1):
        signal = (input.shape[axis - 2] - 1) * pool_step[axis] + extent(pool[axis], pool_spread[axis])
        full.append((signal - 1) * step[axis] + extent(weight.shape[axis + 2], spread[axis]))
    begin, size = ((0, 0), (full[0], full[1])) if crop is None else _crop(crop)
    base = (
        begin[0] - pool_pad[0] * step[0] - pad[0],
        begin[1] - pool_pad[1] * step[1] - pad[1],
    )
    if output_size is None:
        end = (-1, -1)
    elif isinstance(output_size, Sequence):
        end = _bounded("output_size", output_size, 1)
    else:
        raise TypeError(f"output_size must be two ints (H, W), got {output_size!r}")
    geometry = Backprojection(
        pool, pool_step, pool_spread, overlap, bool(relu), step, spread, groups, begin, size, base, end
    )
    windows = send_back(input, weight, image, origin, switches, packed, geometry)
    origins = torch.stack([origin[:, axis] * (step[axis] * pool_step[axis]) + base[axis] for axis in (0, 1)], dim=1)
    return windows, origins


class Backprojection(NamedTuple):
    """The arguments of the op `backproject2d` after its tensors; `reference.backproject2d` says what they mean."""

    pool_kernel_size: Pair
    pool_stride: Pair
    pool_dilation: Pair
    overlap: str
    relu: bool
    stride: Pair
    dilation: Pair
    groups: int
    begin: Pair
    size: Pair
    base: Pair
    map_size: Pair


def send_back(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    geometry: Backprojection,
) -> Tensor:
    """`backproject2d` for those who have worked out its geometry; returns the windows only."""
    tensors = (input, weight, image, origin, switches, packed)
    return _call("backproject2d", _check_backproject2d, tensors, *geometry)


def pack_weight(weight: Tensor, stride: IntOrPair = 1, dilation: IntOrPair = 1, groups: int = 1) -> Tensor:
    """A convolution's weight in the order in which `backproject2d` reads it on this backend.

    Args:
        weight: (K, C / groups, kh, kw), the weight of the forward convolution.
        stride, dilation, groups: those of the convolution.

    Returns:
        A tensor for the argument `packed` of `backproject2d`, of use with the same backend only.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape or size.
    """
    if has_torch_function_unary(weight):
        return handle_torch_function(pack_weight, (weight,), weight, stride, dilation, groups)
    step, spread = convolution_arguments(stride, dilation)
    return _call("pack_weight", _check_pack_weight, (weight,), step, spread, groups)


def switches_to_indices(
    switches: Tensor,
    input_size: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Tensor:
    """The switches as the flat int64 indices `y * W + x` that `F.max_pool2d(return_indices=True)` returns.

    Args:
        switches: (N, C, PH, PW) or (C, PH, PW), as `max_pool2d` returned them.
        input_size: (H, W) of the map that was pooled, or its whole shape.
        kernel_size, stride, padding, dilation: those of the pooling.

    Returns:
        int64 of the switches' shape and memory format.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong size, or (on the CPU) a switch that names no position of the map.
    """
    if has_torch_function_unary(switches):
        return handle_torch_function(
            switches_to_indices, (switches,), switches, input_size, kernel_size, stride, padding, dilation
        )
    window = window_arguments(kernel_size, stride, padding, dilation)
    size = _spatial("input_size", input_size, "switches", switches)
    return _call("switches_to_indices", _check_switches_to_indices, (switches,), size, *window)


def indices_to_switches(
    indices: Tensor,
    input_size: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Tensor:
    """The switches that say the same as flat int64 indices; the inverse of `switches_to_indices`.

    Args:
        indices: (N, C, PH, PW) or (C, PH, PW) int64, as `F.max_pool2d(return_indices=True)` returns them.
        input_size: (H, W) of the map that was pooled, or its whole shape.
        kernel_size, stride, padding, dilation: those of the pooling.

    Returns:
        uint8 (int16 for windows of more than 256 positions) of the indices' shape and memory format.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong size, or (on the CPU) an index outside its window.
    """
    if has_torch_function_unary(indices):
        return handle_torch_function(
            indices_to_switches, (indices,), indices, input_size, kernel_size, stride, padding, dilation
        )
    window = window_arguments(kernel_size, stride, padding, dilation)
    size = _spatial("input_size", input_size, "indices", indices)
    return _call("indices_to_switches", _check_indices_to_switches, (indices,), size, *window)


_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_PLAIN = (Tensor, torch.nn.Parameter)


def _call(name: str, check: Callable[..., None], tensors: tuple[Tensor | None, ...], *arguments: Any) -> Any:
    """Checks the arguments and runs an op.

    A CPU call that nothing else has to see goes straight into the kernel, which does the same checks in less time; only
    where it refuses do the checks here say why.
    """
    if not is_compiling() and not _observed(tensors):
        direct = backends.direct_operators.get(name)
        if direct is not None:
            try:
                return direct(_CPU, *tensors, *arguments)
            except RuntimeError:
                direct = None  # refused; the checks below say why
    refuse_torchscript(arguments)
    check(*tensors, *arguments)
    operator = backends.operator(name, tensors[0])  # type: ignore[arg-type]
    if is_compiling():
        return operator(*tensors, *arguments)
    try:
        return operator(*tensors, *arguments)
    except RuntimeError as error:
        # What only the kernel can see: a switch, an index or the number of an image that means nothing.
        message = str(error).partition("ValueError: ")[2]
        if not message:
            raise
        raise ValueError(message.splitlines()[0]) from None


def _observed(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether autograd, a transform, a mode, a subclass, a lazy sign or the profiler has to see a call on `tensors`."""
    if (
        _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or profiler._is_profiler_enabled
        or _get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
    ):
        return True
    differentiates = is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _PLAIN
            or not tensor.is_cpu
            or (differentiates and tensor.requires_grad)
            or tensor.is_neg()
            or tensor._is_zerotensor()
        ):
            return True
    return False


def _check_max_pool2d(
    input: Tensor,
    bias: Tensor | None,
    kernel: Pair,
    step: Pair,
    pad: Pair,
    spread: Pair,
    ceil_mode: bool,
    relu: bool,
) -> None:
    check_map("input", input, FLOATING)
    height, width = pooled_size(input.shape[-2:], kernel, step, pad, spread, ceil_mode)  # type: ignore[arg-type]
    if height < 1 or width < 1:
        raise ValueError(
            f"kernel_size {kernel} with dilation {spread} does not fit input's {tuple(input.shape[-2:])} map "
            f"padded by {pad}"
        )
    if bias is None:
        return
    check_tensor("bias", bias)
    if bias.shape != (input.shape[-3],):
        raise ValueError(f"bias must have shape ({input.shape[-3]},), one for each channel, got {tuple(bias.shape)}")
    if bias.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"bias must have the dtype of input, {input.dtype}, got {bias.dtype}")
    check_device("bias", bias, "input", input)


def _check_max_unpool2d(
    input: Tensor,
    switches: Tensor,
    kernel: Pair,
    step: Pair,
    pad: Pair,
    spread: Pair,
    size: Pair,
    overlap: str,
    relu: bool,
) -> None:
    check_map("input", input, FLOATING)
    check_like("switches", switches, (switch_dtype(kernel),), "input", input)
    check_overlap(overlap)
    if not _pools_to(size, input, kernel, step, pad, spread):
        ranges = [
            unpooled_range(input.shape[axis - 2], kernel[axis], step[axis], pad[axis], spread[axis]) for axis in (0, 1)
        ]
        smallest, largest = ((ranges[0][i], ranges[1][i]) for i in (0, 1))
        raise ValueError(
            f"output_size must be between {smallest} and {largest} for input's {tuple(input.shape[-2:])} map, "
            f"got {tuple(size)}"
        )


def _check_max_unpool2d_window(
    input: Tensor,
    switches: Tensor,
    image: Tensor,
    origin: Tensor,
    kernel: Pair,
    step: Pair,
    spread: Pair,
    overlap: str,
    relu: bool,
) -> None:
    _check_windows(input, image, origin)
    _check_switches_of_windows(switches, input, kernel)
    check_overlap(overlap)


def _check_weight(weight: Tensor, groups: int) -> None:
    check_tensor("weight", weight)
    if weight.layout is not torch.strided:
        raise TypeError(f"weight must be a dense (strided) Tensor, got layout {weight.layout}")
    if weight.dtype not in FLOATING:
        raise TypeError(f"weight must be float32, float64, float16 or bfloat16, got {weight.dtype}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weight must have shape (K, C / groups, kh, kw), not empty, got {tuple(weight.shape)}")
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"groups must be an int, got {groups!r}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must divide weight's {weight.shape[0]} rows, got {groups}")


def _check_pack_weight(weight: Tensor, step: Pair, spread: Pair, groups: int) -> None:
    _check_weight(weight, groups)


def _check_backproject2d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    pool: Pair,
    pool_step: Pair,
    pool_spread: Pair,
    overlap: str,
    relu: bool,
    step: Pair,
    spread: Pair,
    groups: int,
    begin: Pair,
    size: Pair,
    base: Pair,
    end: Pair,
) -> None:
    _check_windows(input, image, origin)
    _check_weight(weight, groups)
    if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"weight must have the dtype of input, {input.dtype}, got {weight.dtype}")
    if weight.shape[0] != input.shape[1]:
        raise ValueError(
            f"weight must have {input.shape[1]} rows, one for each channel of input, got {tuple(weight.shape)}"
        )
    check_device("weight", weight, "input", input)
    if switches is not None:
        _check_switches_of_windows(switches, input, pool)
    if packed is not None:
        check_tensor("packed", packed)
        check_device("packed", packed, "input", input)
    check_overlap(overlap)
    if min(begin) < 0 or min(size) < 1:
        raise ValueError(f"crop must begin at 0 or later and have at least one row and column, got {begin}, {size}")
    if end != (-1, -1) and min(end) < 1:
        raise ValueError(f"output_size must be at least (1, 1), got {end}")


def _check_windows(input: Tensor, image: Tensor, origin: Tensor) -> None:
    check_map("input", input, FLOATING)
    if input.dim() != 4:
        raise ValueError(f"input must have shape (U, C, h, w), got {tuple(input.shape)}")
    for name, tensor, shape in (("image", image, (input.shape[0],)), ("origin", origin, (input.shape[0], 2))):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            raise TypeError(f"{name} must be an int64 Tensor, got {getattr(tensor, 'dtype', type(tensor).__name__)}")
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, one for each window of input, got {tuple(tensor.shape)}")
        check_device(name, tensor, "input", input)


def _check_switches_of_windows(switches: Tensor, input: Tensor, kernel: Pair) -> None:
    check_map("switches", switches, (switch_dtype(kernel),))
    if switches.dim() != 4 or switches.shape[1] != input.shape[1]:
        raise ValueError(f"switches must have shape (N, {input.shape[1]}, PH, PW), got {tuple(switches.shape)}")
    check_device("switches", switches, "input", input)


def _check_switches_to_indices(switches: Tensor, size: Pair, kernel: Pair, step: Pair, pad: Pair, spread: Pair) -> None:
    check_map("switches", switches, (switch_dtype(kernel),))
    _check_input_size(switches, size, kernel, step, pad, spread)


def _check_indices_to_switches(indices: Tensor, size: Pair, kernel: Pair, step: Pair, pad: Pair, spread: Pair) -> None:
    check_map("indices", indices, (torch.int64,))
    _check_input_size(indices, size, kernel, step, pad, spread)


def check_overlap(overlap: str) -> str:
    """`overlap` itself.

    Raises:
        ValueError: neither "sum" nor "last".
    """
    if overlap not in ("sum", "last"):
        raise ValueError(f'overlap must be "sum" or "last", got {shown(overlap)}')
    return overlap


def _spatial(name: str, size: Sequence[int], pooled_name: str, pooled: Tensor) -> Pair:
    """The (H, W) of a size given as such or as a whole shape."""
    if type(size) is tuple and len(size) == 2 and type(size[0]) is type(size[1]) is int:
        return size
    check_tensor(pooled_name, pooled)
    if not isinstance(size, Sequence):
        raise TypeError(f"{name} must be (H, W) or a whole shape, got {size!r}")
    if len(size) == pooled.dim() and len(size) != 2:
        if tuple(size[:-2]) != tuple(pooled.shape[:-2]):
            raise ValueError(f"{name} must begin with {tuple(pooled.shape[:-2])}, got {tuple(size)}")
        size = size[-2:]
    if len(size) != 2:
        raise ValueError(f"{name} must be (H, W) or a shape of {pooled.dim()} entries, got {tuple(size)}")
    return pair(tuple(size), name)


def _crop(crop: tuple[Sequence[int], Sequence[int]]) -> tuple[Pair, Pair]:
    if not isinstance(crop, tuple | list) or len(crop) != 2:
        raise TypeError(f"crop must be ((y, x), (rows, columns)), got {crop!r}")
    begin, size = pair(crop[0], "crop"), pair(crop[1], "crop")
    if min(begin) < 0 or min(size) < 1 or max(*begin, *size) > LARGEST_STEP:
        raise ValueError(
            f"crop must be ((y, x), (rows, columns)) with a place from 0 and a size from 1 to {LARGEST_STEP}, "
            f"got ({begin}, {size})"
        )
    return begin, size


def _bounded(name: str, value: IntOrPair, smallest: int) -> Pair:
    values = pair(value, name)
    if min(values) < smallest or max(values) > LARGEST_STEP:
        raise ValueError(f"{name} must be between {smallest} and {LARGEST_STEP}, got {values}")
    return values


def _unpooled_size(input: Tensor, kernel: Pair, step: Pair, pad: Pair, spread: Pair) -> Pair:
    check_map("input", input, FLOATING)
    height, width = (
        (input.shape[axis - 2] - 1) * step[axis] + extent(kernel[axis], spread[axis]) - 2 * pad[axis] for axis in (0, 1)
    )
    if height < 1 or width < 1:
        raise ValueError(f"output_size must be given: full windows padded by {pad} leave a ({height}, {width}) map")
    return height, width


def _pools_to(size: Pair, pooled: Tensor, kernel: Pair, step: Pair, pad: Pair, spread: Pair) -> bool:
    """Whether a map of `size` pools to the map of `pooled`, with or without ceil_mode."""
    floor, ceil = (pooled_size(size, kernel, step, pad, spread, ceil_mode) for ceil_mode in (False, True))
    # One condition with | holds for every symbolic size, where two with `or` would depend on it.
    return all(
        size[axis] > 0 and (pooled.shape[axis - 2] == floor[axis]) | (pooled.shape[axis - 2] == ceil[axis])
        for axis in (0, 1)
    )


def _check_input_size(pooled: Tensor, size: Pair, kernel: Pair, step: Pair, pad: Pair, spread: Pair) -> None:
    if not _pools_to(size, pooled, kernel, step, pad, spread):
        fits = [pooled_size(size, kernel, step, pad, spread, ceil_mode) for ceil_mode in (False, True)]
        raise ValueError(
            f"input_size {tuple(size)} pools to {fits[0]}, or {fits[1]} with ceil_mode, "
            f"not to {tuple(pooled.shape[-2:])}"
        )
