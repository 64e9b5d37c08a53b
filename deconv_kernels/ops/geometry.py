"""The geometry of a 2-d pooling and the checks on its arguments, shared by every implementation in Python."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch._C import _get_tracing_state
from torch.compiler import is_compiling
from torch.utils._pytree import tree_leaves

Pair = tuple[int, int]

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_BYTE_WINDOW = 256
LARGEST_WINDOW = 32768
LARGEST_STEP = 2**31 - 1


def pair(value: int | Sequence[int], name: str) -> Pair:
    """`value` as (y, x); one number stands for both.

    Raises:
        TypeError: not an integer or a sequence of integers.
        ValueError: a sequence of another length than 1 or 2.
    """
    values = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else None
    if values is None or any(not isinstance(v, int | torch.SymInt) or isinstance(v, bool) for v in values):
        refuse_torchscript(values)
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if len(values) == 1:
        return values[0], values[0]
    if len(values) != 2:
        raise ValueError(f"{name} must have one or two entries, got {value!r}")
    return values[0], values[1]


def window_arguments(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    prefix: str = "",
) -> tuple[Pair, Pair, Pair, Pair]:
    """The four window arguments as checked pairs; a stride of None is the kernel size.

    Error messages put `prefix` before their names.

    Raises:
        TypeError: an argument that is not an int or a pair of ints.
        ValueError: kernel, stride or dilation below 1, padding outside 0 .. kernel // 2, or a window of more positions
            than a switch can name.
    """
    # Exact ints and pairs of them are keys of the cache that equal no other argument's.
    if type(kernel_size) is type(padding) is type(dilation) is int and (stride is None or type(stride) is int):
        plain = True
    else:
        plain = all(map(_is_plain, (kernel_size, () if stride is None else stride, padding, dilation)))
    if plain and not is_compiling():
        return _cached_window_arguments(kernel_size, stride, padding, dilation, prefix)
    return _check_window_arguments(kernel_size, stride, padding, dilation, prefix)


def _is_plain(value: object) -> bool:
    return type(value) is int or (type(value) is tuple and all(type(entry) is int for entry in value))


def _check_window_arguments(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    prefix: str,
) -> tuple[Pair, Pair, Pair, Pair]:
    kernel = pair(kernel_size, f"{prefix}kernel_size")
    empty_stride = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    step = kernel if empty_stride else pair(stride, f"{prefix}stride")  # type: ignore[arg-type]
    pad = pair(padding, f"{prefix}padding")
    spread = pair(dilation, f"{prefix}dilation")
    for name, values in (("kernel_size", kernel), ("stride", step), ("dilation", spread)):
        if min(values) < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, got {values}")
        if max(values) > LARGEST_STEP:
            raise ValueError(f"{prefix}{name} must be at most {LARGEST_STEP}, got {values}")
    if any(p < 0 or p > k // 2 for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(f"{prefix}padding must be between 0 and half the kernel size {kernel}, got {pad}")
    if kernel[0] * kernel[1] > LARGEST_WINDOW:
        raise ValueError(
            f"{prefix}kernel_size {kernel} has {kernel[0] * kernel[1]} positions; "
            f"a switch can name at most {LARGEST_WINDOW}"
        )
    return kernel, step, pad, spread


_cached_window_arguments = functools.lru_cache(maxsize=1024)(_check_window_arguments)


def convolution_arguments(stride: int | Sequence[int], dilation: int | Sequence[int]) -> tuple[Pair, Pair]:
    """Stride and dilation of a convolution as checked pairs.

    Raises:
        TypeError: an argument that is not an int or a pair of ints.
        ValueError: an argument below 1.
    """
    step, spread = pair(stride, "stride"), pair(dilation, "dilation")
    for name, values in (("stride", step), ("dilation", spread)):
        if min(values) < 1 or max(values) > LARGEST_STEP:
            raise ValueError(f"{name} must be between 1 and {LARGEST_STEP}, got {values}")
    return step, spread


def extent(kernel: int, dilation: int) -> int:
    """Input positions from the first to the last tap of a window, both counted."""
    return dilation * (kernel - 1) + 1


def pooled_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> Pair:
    """Size of the pooled map of a map of `size` (y, x); it may be 0 or negative where no window fits."""

    def along(axis: int) -> int:
        room = size[axis] + 2 * padding[axis] - extent(kernel[axis], dilation[axis])
        pooled = (room + (stride[axis] - 1 if ceil_mode else 0)) // stride[axis] + 1
        if ceil_mode and stride[axis] + padding[axis] > extent(kernel[axis], dilation[axis]):
            # No window begins beyond the map and the padding before it.
            return torch.sym_min(pooled, (size[axis] + padding[axis] - 1) // stride[axis] + 1)
        return pooled

    return along(0), along(1)


def unpooled_range(pooled: int, kernel: int, stride: int, padding: int, dilation: int) -> Pair:
    """Smallest and largest map size that pools to `pooled`, with or without ceil_mode."""
    exact = (pooled - 1) * stride + extent(kernel, dilation) - 2 * padding
    smallest = max(exact - stride + 1, (pooled - 1) * stride - padding + 1, 1)
    return smallest, exact + stride - 1


def switch_dtype(kernel: Pair) -> torch.dtype:
    """uint8 for windows of up to 256 positions, int16 above."""
    return torch.uint8 if kernel[0] * kernel[1] <= LARGEST_BYTE_WINDOW else torch.int16


def refuse_torchscript(arguments: object) -> None:
    """TorchScript, while it traces, makes tensors of the sizes of tensors, and cannot record an op that takes those.

    Raises:
        NotImplementedError: some of `arguments` are such sizes.
    """
    if is_compiling() or _get_tracing_state() is None:
        return
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(arguments)):
        raise NotImplementedError(
            "torch.jit.trace cannot record an op of deconv_kernels whose sizes follow from those of its input, such as "
            "an output_size of x.shape[-2:]: TorchScript is not supported; use torch.export.export instead"
        )


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


def check_tensor(name: str, tensor: object) -> None:
    """A tensor.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")


def check_map(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """A (C, H, W) or (N, C, H, W) tensor with a non-empty map and one of `dtypes`.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another rank, or an empty dimension other than the batch.
    """
    check_tensor(name, tensor)
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense (strided) Tensor, got layout {tensor.layout}")
    if tensor.dtype not in dtypes:
        _wrong_dtype(name, tensor, dtypes)
    if tensor.dim() not in (3, 4):
        raise ValueError(f"{name} must have shape (C, H, W) or (N, C, H, W), got {tuple(tensor.shape)}")
    if 0 in tensor.shape[-3:]:
        raise ValueError(f"{name} may be empty only in its batch dimension, got shape {tuple(tensor.shape)}")


def check_like(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype], of: str, like: Tensor) -> None:
    """A tensor of one of `dtypes`, with the shape and on the device of `like`, which the caller knows as `of`.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape or device.
    """
    check_tensor(name, tensor)
    if tensor.dtype not in dtypes:
        _wrong_dtype(name, tensor, dtypes)
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {tuple(tensor.shape)}")
    check_device(name, tensor, of, like)


def check_device(name: str, tensor: Tensor, of: str, like: Tensor) -> None:
    """Two tensors on one device.

    Raises:
        ValueError: they are on different devices.
    """
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on the device of {of}, {like.device}, got {tensor.device}")


def _wrong_dtype(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> NoReturn:
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    raise TypeError(f"{name} must be {names}, got {str(tensor.dtype).removeprefix('torch.')}")
