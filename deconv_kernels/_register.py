"""Everything torch asks of an op beside its kernel: fake tensors, gradients, vmap and autocast, for every namespace."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, reference
from ._pooling import Pair, dense_copy, empty, extent, is_channels_last, pooled_size, switch_dtype

Context = Any  # what torch.library passes between setup_context and backward


def register_all() -> None:
    """Gives every op of every namespace its kernels and its registrations."""
    for name in _library.SCHEMAS:
        plain = getattr(reference, name)
        triton = _triton_kernel(name)
        _library.reference_library.impl(name, plain, "CompositeExplicitAutograd")
        for key in ("CPU", "CUDA"):
            _library.triton_library.impl(name, triton, key)
        if _library.cpu_error is not None:
            _library.library.impl(name, plain, "CPU")
        if _library.cuda_error is not None:
            _library.library.impl(name, triton, "CUDA")
    for library in (_library.library, _library.triton_library, _library.reference_library):
        namespace = getattr(torch.ops, library.ns)
        for name, fake in _FAKES.items():
            torch.library.register_fake(f"{library.ns}::{name}", fake)
        for name, (backward, setup) in _gradients(namespace).items():
            torch.library.register_autograd(f"{library.ns}::{name}", backward, setup_context=setup)
        for name, rule in _vmaps(namespace).items():
            torch.library.register_vmap(f"{library.ns}::{name}", rule)
        for device in ("CPU", "CUDA"):
            pool = functools.partial(_autocast_max_pool2d, namespace.max_pool2d.default, device.lower())
            library.impl("max_pool2d", pool, f"Autocast{device}")


def _triton_kernel(name: str) -> Callable[..., Any]:
    def kernel(*arguments: Any) -> Any:
        return getattr(importlib.import_module("deconv_kernels.triton"), name)(*arguments)

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


def _fake_switches_to_indices(switches: Tensor, input_size: Pair, *window: Pair) -> Tensor:
    return empty(switches.shape, torch.int64, switches.device, is_channels_last(switches))


def _fake_indices_to_switches(indices: Tensor, input_size: Pair, kernel_size: Pair, *window: Pair) -> Tensor:
    return empty(indices.shape, switch_dtype(kernel_size), indices.device, is_channels_last(indices))


_FAKES: dict[str, Callable[..., Any]] = {
    "max_pool2d": _fake_max_pool2d,
    "max_unpool2d": _fake_max_unpool2d,
    "max_unpool2d_window": _fake_max_unpool2d_window,
    "switches_to_indices": _fake_switches_to_indices,
    "indices_to_switches": _fake_indices_to_switches,
}


def _gradients(namespace: Any) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Backward and setup_context of the differentiable ops; gradients run on the same namespace's ops."""

    def pool_setup(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, bias, *window, _, relu = inputs
        values, switches = output
        ctx.save_for_backward(switches, values if relu else None)
        ctx.window, ctx.size, ctx.has_bias = window, tuple(input.shape[-2:]), bias is not None

    def pool_backward(ctx: Context, grad: Tensor, _: None) -> tuple[Any, ...]:
        switches, rectified = ctx.saved_tensors
        if rectified is not None:
            grad = torch.where(rectified <= 0, 0, grad)
        grad_input = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = namespace.max_unpool2d(grad, switches, *ctx.window, ctx.size, "sum", False)
        if ctx.has_bias and ctx.needs_input_grad[1]:
            grad_bias = grad.sum([axis for axis in range(grad.dim()) if axis != grad.dim() - 3])
        return grad_input, grad_bias, None, None, None, None, None, None

    def unpool_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, switches, *window, _, overlap, relu = inputs
        ctx.save_for_backward(switches, output if relu else None)
        ctx.window, ctx.pooled, ctx.overlap = window, tuple(input.shape[-2:]), overlap

    def unpool_backward(ctx: Context, grad: Tensor) -> tuple[Any, ...]:
        switches, rectified = ctx.saved_tensors
        if rectified is not None:
            grad = torch.where(rectified <= 0, 0, grad)
        (kernel, stride, padding, dilation), size = ctx.window, tuple(grad.shape[-2:])
        position, inside = _positions(switches.long(), size, kernel, stride, padding, dilation)
        if ctx.overlap == "last":
            order = _window_order(switches.shape, grad.device)
            winner = namespace.max_unpool2d(order, switches, *ctx.window, size, "last", False)
            inside = inside & (_gather(winner, position) == order)
        grad_input = torch.where(inside, _gather(grad, position), 0)
        return grad_input, None, None, None, None, None, None, None, None

    def window_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, switches, image, origin, *window, overlap, relu = inputs
        ctx.save_for_backward(switches, image, origin, output if relu else None)
        ctx.window, ctx.size, ctx.overlap = window, tuple(input.shape[-2:]), overlap

    def window_backward(ctx: Context, grad: Tensor) -> tuple[Any, ...]:
        switches, image, origin, rectified = ctx.saved_tensors
        if rectified is not None:
            grad = torch.where(rectified <= 0, 0, grad)
        kernel, stride, dilation = ctx.window
        codes = reference.window_switches(switches, image, origin, ctx.size)
        position, inside = _positions(codes, tuple(grad.shape[-2:]), kernel, stride, (0, 0), dilation)
        if ctx.overlap == "last":
            order = _window_order(codes.shape, grad.device)
            winner = namespace.max_unpool2d_window(order, switches, image, origin, *ctx.window, "last", False)
            inside = inside & (_gather(winner, position) == order)
        grad_input = torch.where(inside, _gather(grad, position), 0)
        return grad_input, None, None, None, None, None, None, None, None

    return {
        "max_pool2d": (pool_backward, pool_setup),
        "max_unpool2d": (unpool_backward, unpool_setup),
        "max_unpool2d_window": (window_backward, window_setup),
    }


def _positions(
    codes: Tensor, size: Sequence[int], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor]:
    """The flat position in a (H, W) map that each switch names, clamped, and whether it lies inside the map."""
    rows = torch.arange(codes.shape[-2], device=codes.device)[:, None] * stride[0] - padding[0]
    columns = torch.arange(codes.shape[-1], device=codes.device) * stride[1] - padding[1]
    y = rows + torch.div(codes, kernel[1], rounding_mode="floor") * dilation[0]
    x = columns + codes % kernel[1] * dilation[1]
    inside = (codes >= 0) & (codes < kernel[0] * kernel[1]) & (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return torch.where(inside, y * size[1] + x, 0), inside


def _gather(map: Tensor, position: Tensor) -> Tensor:
    gathered = map.flatten(-2).gather(-1, position.flatten(-2)).unflatten(-1, position.shape[-2:])
    return dense_copy(gathered, True) if is_channels_last(map) else gathered


def _window_order(shape: Sequence[int], device: torch.device) -> Tensor:
    """Row-major number of each window plus one, exact in float64."""
    order = torch.arange(1, shape[-2] * shape[-1] + 1, dtype=torch.float64, device=device)
    return order.view(shape[-2], shape[-1]).expand(shape).contiguous()


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
            switches = switches.movedim(dims[1], 0)
            exists = (image >= 0) & (image < switches.shape[1])
            first = torch.arange(info.batch_size, device=image.device)[:, None] * switches.shape[1]
            image = torch.where(exists, image + first, -1)
            switches = switches.flatten(0, 1)
        windows = namespace.max_unpool2d_window(_fold(maps), switches, image.flatten(0, 1), origin.flatten(0, 1), *rest)
        return _unfold(windows, maps), 0

    def convert(name: str) -> Callable[..., Any]:
        def rule(info: Any, dims: tuple[Any, ...], codes: Tensor, *rest: Any) -> tuple[Any, int]:
            maps = _mapped_first(codes, dims[0], info.batch_size)
            return _unfold(getattr(namespace, name)(_fold(maps), *rest), maps), 0

        return rule

    return {
        "max_pool2d": pool,
        "max_unpool2d": unpool,
        "max_unpool2d_window": unpool_window,
        "switches_to_indices": convert("switches_to_indices"),
        "indices_to_switches": convert("indices_to_switches"),
    }


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
