"""Everything torch asks of an op beside its kernel: fake tensors, gradients, vmap and autocast, for every namespace."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import library, reference
from .autograd import autograd_kernel, differentials
from .geometry import Pair, empty, extent, is_channels_last, pooled_size, switch_dtype
from .onnx import plain_in_onnx


def register_all() -> None:
    """Gives every op of every namespace its kernels and its registrations."""
    for name in library.SCHEMAS:
        plain = getattr(reference, name)
        triton = _triton_kernel(name)
        library.reference_library.impl(name, plain, "CompositeExplicitAutograd")
        for key in ("CPU", "CUDA"):
            library.triton_library.impl(name, triton, key)
        if library.cpu_error is not None:
            library.library.impl(name, plain, "CPU")
        if library.cuda_error is not None:
            library.library.impl(name, triton, "CUDA")
    for defined in (library.library, library.triton_library, library.reference_library):
        namespace = getattr(torch.ops, defined.ns)
        for name, fake in _FAKES.items():
            torch.library.register_fake(f"{defined.ns}::{name}", fake)
        packs = functools.partial(_fake_pack_weight, defined.ns)
        torch.library.register_fake(f"{defined.ns}::pack_weight", packs)
        differentiated = differentials(namespace)
        for name in library.SCHEMAS:
            kernel = autograd_kernel(getattr(namespace, name).default, differentiated.get(name))
            defined.impl(name, plain_in_onnx(name, kernel), "Autograd", with_keyset=True)
        for name, rule in _vmaps(namespace).items():
            torch.library.register_vmap(f"{defined.ns}::{name}", rule)
        for device in ("CPU", "CUDA"):
            pool = functools.partial(_autocast_max_pool2d, namespace.max_pool2d.default, device.lower())
            defined.impl("max_pool2d", pool, f"Autocast{device}")
            send = functools.partial(_autocast_backproject2d, namespace.backproject2d.default, device.lower())
            defined.impl("backproject2d", send, f"Autocast{device}")


def _triton_kernel(name: str) -> Callable[..., Any]:
    def kernel(*arguments: Any) -> Any:
        return getattr(importlib.import_module("deconv_kernels.ops.triton"), name)(*arguments)

    return kernel


def _fake_max_pool2d(
    input: Tensor,
    bias: Tensor | None,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    pooled = pooled_size(input.shape[-2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    shape = (*input.shape[:-2], *pooled)
    channels_last = is_channels_last(input)
    values = empty(shape, input.dtype, input.device, channels_last)
    return values, empty(shape, switch_dtype(kernel_size), input.device, channels_last)


def _fake_max_unpool2d(
    input: Tensor,
    switches: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    output_size: Pair,
    overlap: str,
    relu: bool,
) -> Tensor:
    return empty((*input.shape[:-2], *output_size), input.dtype, input.device, is_channels_last(input))


def _fake_max_unpool2d_window(
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
    size = [(input.shape[axis - 2] - 1) * stride[axis] + extent(kernel_size[axis], dilation[axis]) for axis in (0, 1)]
    return empty((*input.shape[:-2], *size), input.dtype, input.device, is_channels_last(input))


def _fake_backproject2d(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    pool_kernel_size: Pair,
    pool_stride: Pair,
    pool_dilation: Pair,
    overlap: str,
    relu: bool,
    stride: Pair,
    dilation: Pair,
    groups: int,
    begin: Pair,
    size: Pair,
    base: Pair,
    map_size: Pair,
) -> Tensor:
    shape = (input.shape[0], weight.shape[1] * groups, *size)
    return empty(shape, input.dtype, input.device, is_channels_last(input))


def _fake_pack_weight(namespace: str, weight: Tensor, stride: Pair, dilation: Pair, groups: int) -> Tensor:
    """Each backend packs in its own way: what the C++ kernels make is described in csrc/cpu/kernels.h."""
    on_cpu = weight.device.type == "cpu"
    reference_packs = namespace == library.REFERENCE_NAMESPACE or (
        on_cpu and namespace == library.NAMESPACE and library.cpu_error is not None
    )
    if reference_packs:
        return weight.new_empty(weight.shape)
    channels, outputs, *kernel = weight.shape
    if not on_cpu or namespace == library.TRITON_NAMESPACE:
        return weight.new_empty((*kernel, channels, outputs))
    double = weight.dtype == torch.float64
    line = 8 if double else 16
    taps = kernel[0] * kernel[1]
    tiled = tuple(kernel) == (3, 3) and tuple(stride) == tuple(dilation) == (1, 1) and 4 * outputs >= 3 * line
    wide = line if tiled else min(outputs, 128 if taps == 1 else 64)
    lines = taps if tiled else -(-taps * wide // line)
    dtype = torch.float64 if double else torch.float32
    sliding = tuple(stride) == tuple(dilation) == (1, 1)
    if groups == 1 and kernel[1] == 3 and sliding and outputs <= 4 and channels % line == 0:
        return weight.new_empty(weight.numel(), dtype=dtype)
    return weight.new_empty(-(-outputs // wide) * channels * lines * line, dtype=dtype)


def _fake_switches_to_indices(switches: Tensor, input_size: Pair, *window: Pair) -> Tensor:
    return empty(switches.shape, torch.int64, switches.device, is_channels_last(switches))


def _fake_indices_to_switches(indices: Tensor, input_size: Pair, kernel_size: Pair, *window: Pair) -> Tensor:
    return empty(indices.shape, switch_dtype(kernel_size), indices.device, is_channels_last(indices))


_FAKES: dict[str, Callable[..., Any]] = {
    "max_pool2d": _fake_max_pool2d,
    "max_unpool2d": _fake_max_unpool2d,
    "max_unpool2d_window": _fake_max_unpool2d_window,
    "backproject2d": _fake_backproject2d,
    "switches_to_indices": _fake_switches_to_indices,
    "indices_to_switches": _fake_indices_to_switches,
}


def _vmaps(namespace: Any) -> dict[str, Callable[..., Any]]:
    """Batching rules: the mapped dimension is folded into the op's batch dimension and unfolded after it."""

    def pool(info: Any, dims: tuple[Any, ...], input: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Any, Any]:
        maps = _mapped_first(input, dims[0], info.batch_size)
        if bias is not None and dims[1] is not None:
            added = bias.to(input.dtype).movedim(dims[1], 0)[..., None, None]
            maps, bias = maps + (added if maps.dim() == 4 else added[:, None]), None
        values, switches = namespace.max_pool2d(_fold(maps), bias, *rest)
        return (_unfold(values, maps), _unfold(switches, maps)), (0, 0)

    def unpool(info: Any, dims: tuple[Any, ...], input: Tensor, switches: Tensor, *rest: Any) -> tuple[Any, int]:
        maps, codes = (_mapped_first(t, d, info.batch_size) for t, d in ((input, dims[0]), (switches, dims[1])))
        return _unfold(namespace.max_unpool2d(_fold(maps), _fold(codes), *rest), maps), 0

    def unpool_window(
        info: Any,
        dims: tuple[Any, ...],
        input: Tensor,
        switches: Tensor,
        image: Tensor,
        origin: Tensor,
        *rest: Any,
    ) -> tuple[Any, int]:
        maps, image, origin = (
            _mapped_first(t, d, info.batch_size) for t, d in ((input, dims[0]), (image, dims[2]), (origin, dims[3]))
        )
        if dims[1] is not None:
            switches, image = _side_by_side(switches.movedim(dims[1], 0), image)
        windows = namespace.max_unpool2d_window(_fold(maps), switches, image.flatten(0, 1), origin.flatten(0, 1), *rest)
        return _unfold(windows, maps), 0

    def send(
        info: Any,
        dims: tuple[Any, ...],
        input: Tensor,
        weight: Tensor,
        image: Tensor,
        origin: Tensor,
        switches: Tensor | None,
        packed: Tensor | None,
        *rest: Any,
    ) -> tuple[Any, int]:
        tensors = (input, weight, image, origin, switches, packed)
        if dims[1] is not None or dims[5] is not None:
            # Every weight is a convolution of its own.
            each = [
                [t if d is None or t is None else t.select(d, index) for t, d in zip(tensors, dims, strict=False)]
                for index in range(info.batch_size)
            ]
            return torch.stack([namespace.backproject2d(*arguments, *rest) for arguments in each]), 0
        maps, image, origin = (
            _mapped_first(t, d, info.batch_size) for t, d in ((input, dims[0]), (image, dims[2]), (origin, dims[3]))
        )
        if switches is not None and dims[4] is not None:
            switches, image = _side_by_side(switches.movedim(dims[4], 0), image)
        windows = namespace.backproject2d(
            maps.flatten(0, 1), weight, image.flatten(0, 1), origin.flatten(0, 1), switches, packed, *rest
        )
        return windows.unflatten(0, maps.shape[:2]), 0

    def pack(info: Any, dims: tuple[Any, ...], weight: Tensor, *rest: Any) -> tuple[Any, int]:
        return torch.stack([namespace.pack_weight(one, *rest) for one in weight.movedim(dims[0], 0)]), 0

    def convert(name: str) -> Callable[..., Any]:
        def rule(info: Any, dims: tuple[Any, ...], codes: Tensor, *rest: Any) -> tuple[Any, int]:
            maps = _mapped_first(codes, dims[0], info.batch_size)
            return _unfold(getattr(namespace, name)(_fold(maps), *rest), maps), 0

        return rule

    return {
        "max_pool2d": pool,
        "max_unpool2d": unpool,
        "max_unpool2d_window": unpool_window,
        "backproject2d": send,
        "pack_weight": pack,
        "switches_to_indices": convert("switches_to_indices"),
        "indices_to_switches": convert("indices_to_switches"),
    }


def _side_by_side(switches: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, C, PH, PW) switches as those of B * N images, and (B, U) numbers of images among these."""
    exists = (image >= 0) & (image < switches.shape[1])
    first = torch.arange(len(switches), device=image.device)[:, None] * switches.shape[1]
    return switches.flatten(0, 1), torch.where(exists, image + first, -1)


def _mapped_first(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _fold(maps: Tensor) -> Tensor:
    """(B, C, H, W) as it is, (B, N, C, H, W) as (B * N, C, H, W)."""
    return maps if maps.dim() == 4 else maps.flatten(0, 1)


def _unfold(result: Tensor, maps: Tensor) -> Tensor:
    return result if maps.dim() == 4 else result.unflatten(0, maps.shape[:2])


def _autocast_max_pool2d(
    operator: torch._ops.OpOverload, device: str, input: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Pooling keeps the input's dtype; a bias kept in another dtype follows it."""
    with torch.autocast(device, enabled=False):
        return operator(input, None if bias is None else bias.to(input.dtype), *rest)


def _autocast_backproject2d(
    operator: torch._ops.OpOverload,
    device: str,
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    *rest: Any,
) -> Tensor:
    """Runs in autocast's dtype, as every convolution; a weight packed in another dtype is packed again."""
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        if input.dtype == torch.float64:
            return operator(input, weight.to(input.dtype), image, origin, switches, None, *rest)
        kept = packed if weight.dtype == dtype else None
        return operator(input.to(dtype), weight.to(dtype), image, origin, switches, kept, *rest)
