"""How the ops are differentiated, in reverse and forward mode, for autograd and for the transforms of torch.func."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_weight, conv3d_weight

from . import reference
from .arguments import grouped
from .dispatch import DispatchKeySet, OpOverload, below_autograd, recorded
from .geometry import Backprojection, PerAxis, Placement, Pooling
from .layout import dense_copy, is_channels_last, spatial_size

Context = Any  # what autograd hands from `setup` to `backward` and `jvp`


class Differential(NamedTuple):
    """The derivatives of one op; None stands for a gradient or tangent of zero.

    `setup(ctx, inputs, output)` keeps what the other two need of the op's tensors and objects. `backward(ctx,
    *gradients)` turns gradients of the results into those of the op's first arguments, the only ones that have any.
    `jvp(ctx, *tangents)` turns tangents of the arguments into those of the results.
    """

    setup: Callable[..., None]
    backward: Callable[..., tuple[Tensor | None, ...]]
    jvp: Callable[..., Any]


def autograd_kernel(name: str, operator: OpOverload, differential: Differential | None) -> Callable[..., Any]:
    """What runs for an op under the dispatch key Autograd; one that works on whole numbers has no differential."""
    if differential is None:
        return lambda keys, *arguments: below_autograd(operator, keys, arguments)

    def forward(ctx: Context, *arguments: Any) -> Any:
        *flat, run = arguments
        output = run()
        ctx.set_materialize_grads(False)
        differential.setup(ctx, grouped(name, tuple(flat)), output)
        return output

    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = () if gradients[0] is None else differential.backward(ctx, *gradients)
        return *known, *[None] * (len(ctx.needs_input_grad) - len(known))

    def jvp(ctx: Context, *tangents: Tensor | None) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):  # for the levels below
            return differential.jvp(ctx, *tangents)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward), "jvp": staticmethod(jvp)}
    function = type(f"{operator.namespace}_{name}", (torch.autograd.Function,), methods)
    record = super(torch.autograd.Function, function).apply  # type: ignore[misc]  # Function.apply is for whole stacks

    def kernel(keys: DispatchKeySet, *arguments: Any) -> Any:
        return recorded(operator, keys, arguments, record)

    return kernel


def differentials(namespace: Any) -> dict[str, Differential]:
    """Those of the ops that work on real numbers, by their names without rank; they run on the same namespace's ops."""

    def keep(ctx: Context, *tensors: Tensor | None) -> None:
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def pool_setup(ctx: Context, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
        input, _, ctx.pooling, _, relu = inputs
        values, switches = output
        ctx.mark_non_differentiable(switches)
        keep(ctx, switches, values if relu else None)
        ctx.size = spatial_size(input, ctx.pooling.rank)

    def pool_backward(ctx: Context, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        switches, rectified = ctx.saved_tensors
        grad = _rectified(grad, rectified)
        grad_input = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = unpool_map(grad, switches, ctx.pooling, ctx.size, "sum")
        if ctx.needs_input_grad[1]:
            channels = grad.dim() - ctx.pooling.rank - 1
            grad_bias = grad.sum([axis for axis in range(grad.dim()) if axis != channels])
        return grad_input, grad_bias

    def pool_jvp(ctx: Context, input: Tensor | None, bias: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        switches, rectified = ctx.saved_tensors
        tangent = None
        if input is not None:
            tangent = _read(input, *_positions(switches.long(), ctx.size, ctx.pooling), ctx.pooling.rank)
        if bias is not None:
            added = bias[(..., *[None] * ctx.pooling.rank)].expand(switches.shape)
            tangent = added if tangent is None else tangent + added
        return None if tangent is None else _rectified(tangent, rectified), None

    def unpool_map(input: Tensor, switches: Tensor, pooling: Pooling, size: PerAxis, overlap: str) -> Tensor:
        operator = getattr(namespace, f"max_unpool{pooling.rank}d")
        return operator(input, switches, *pooling, size, overlap, False)

    def unpool_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        _, switches, ctx.pooling, ctx.size, ctx.overlap, relu = inputs
        keep(ctx, switches, output if relu else None)

    def unpool(ctx: Context, input: Tensor, overlap: str) -> Tensor:
        switches, _ = ctx.saved_tensors
        return unpool_map(input, switches, ctx.pooling, ctx.size, overlap)

    def unpool_backward(ctx: Context, grad: Tensor) -> tuple[Tensor]:
        switches, rectified = ctx.saved_tensors
        position, inside = _positions(switches.long(), ctx.size, ctx.pooling)
        if ctx.overlap == "last":
            order = _window_order(switches, ctx.pooling.rank)
            inside = inside & (_gather(unpool(ctx, order, "last"), position, ctx.pooling.rank) == order)
        return (_read(_rectified(grad, rectified), position, inside, ctx.pooling.rank),)

    def unpool_jvp(ctx: Context, input: Tensor | None, *_: None) -> Tensor | None:
        return None if input is None else _rectified(unpool(ctx, input, ctx.overlap), ctx.saved_tensors[1])

    def window_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        input, *places, ctx.pooling, ctx.overlap, relu = inputs
        keep(ctx, *places, output if relu else None)
        ctx.size = spatial_size(input, ctx.pooling.rank)

    def window_backward(ctx: Context, grad: Tensor) -> tuple[Tensor]:
        *places, rectified = ctx.saved_tensors
        return (read_windows(_rectified(grad, rectified), places, ctx.size, ctx.pooling, ctx.overlap),)

    def window_jvp(ctx: Context, input: Tensor | None, *_: None) -> Tensor | None:
        if input is None:
            return None
        *places, rectified = ctx.saved_tensors
        return _rectified(unpool_window(input, places, ctx.pooling, ctx.overlap, False), rectified)

    def unpool_window(input: Tensor, places: Sequence[Tensor], pooling: Pooling, overlap: str, relu: bool) -> Tensor:
        operator = getattr(namespace, f"max_unpool{pooling.rank}d_window")
        return operator(input, *places, *pooling.of_windows(), overlap, relu)

    def read_windows(map: Tensor, places: Sequence[Tensor], size: PerAxis, pooling: Pooling, overlap: str) -> Tensor:
        """Windows of `size`: what `map` holds where each of their elements was unpooled to."""
        switches, image, origin = places
        codes = reference.window_switches(switches, image, origin, size)
        position, inside = _positions(codes, spatial_size(map, pooling.rank), pooling)
        if overlap == "last":
            order = _window_order(codes, pooling.rank)
            inside = inside & (
                _gather(unpool_window(order, places, pooling, "last", False), position, pooling.rank) == order
            )
        return _read(map, position, inside, pooling.rank)

    def send(*arguments: Any) -> Tensor:
        *tensors, geometry = arguments
        return getattr(namespace, f"backproject{geometry.rank}d")(*tensors, *geometry)

    def send_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        input, weight, image, origin, switches, _, ctx.geometry = inputs
        keep(ctx, input, weight, image, origin, switches)

    def send_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, image, origin, switches = ctx.saved_tensors
        geometry: Backprojection = ctx.geometry
        convolution, placement = geometry.convolution(), geometry.placement()
        signal = signal_of(ctx, input, geometry.relu)
        inside = _on_map(origin, geometry.step(pooled=switches is not None), placement)
        if inside is not None:
            grad = torch.where(inside, grad, 0)
        rank = geometry.rank
        grad = _uncropped(
            grad, placement, convolution.full_size(spatial_size(signal, rank), spatial_size(weight, rank))
        )
        stride, dilation, groups = convolution
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            convolve = F.conv2d if rank == 2 else F.conv3d
            grad_input = convolve(grad, weight, None, stride, 0, dilation, groups)
            grad_input = _rectified(grad_input, signal if geometry.relu else None)
            if switches is not None:
                places, size = (switches, image, origin), spatial_size(input, rank)
                grad_input = read_windows(grad_input, places, size, geometry.pooling(), geometry.overlap)
        if ctx.needs_input_grad[1]:
            weight_gradient = conv2d_weight if rank == 2 else conv3d_weight
            grad_weight = weight_gradient(grad, weight.shape, signal, stride, (0,) * rank, dilation, groups)
        return grad_input, grad_weight

    def send_jvp(ctx: Context, input_tangent: Tensor | None, weight_tangent: Tensor | None, *_: None) -> Tensor | None:
        """Linear in the weight, and in the input too save where the signal is rectified."""
        kept_input, kept_weight, *places = ctx.saved_tensors
        input, weight = (forward_ad.unpack_dual(kept, level=0).primal for kept in (kept_input, kept_weight))
        tangents = []
        if input_tangent is not None and ctx.geometry.relu:
            signal = _rectified(signal_of(ctx, input_tangent, False), signal_of(ctx, input, True))
            tangents.append(send_signal(ctx, signal, weight))
        elif input_tangent is not None:
            tangents.append(send(input_tangent, weight, *places, None, ctx.geometry))
        if weight_tangent is not None:
            tangents.append(send(input, weight_tangent, *places, None, ctx.geometry))
        return sum(tangents[1:], tangents[0]) if tangents else None

    def signal_of(ctx: Context, input: Tensor, relu: bool) -> Tensor:
        """What is convolved for `input`."""
        _, _, image, origin, switches = ctx.saved_tensors
        if switches is not None:
            geometry = ctx.geometry
            return unpool_window(input, (switches, image, origin), geometry.pooling(), geometry.overlap, relu)
        return torch.relu(input) if relu else input

    def send_signal(ctx: Context, signal: Tensor, weight: Tensor) -> Tensor:
        """`signal`, unpooled and rectified already, sent back to where the op sends its input."""
        _, _, image, origin, switches = ctx.saved_tensors
        geometry: Backprojection = ctx.geometry
        if switches is not None:
            steps = zip(geometry.step(pooled=True), geometry.pool_stride, strict=True)
            unpooled = [reference.far(origin, axis, step) * stride for axis, (step, stride) in enumerate(steps)]
            origin = torch.cat(unpooled, dim=1)
        alone = Backprojection.of(None, "sum", False, geometry.convolution(), geometry.placement())
        return send(signal, weight, image, origin, None, None, alone)

    def pack_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    def pack_backward(ctx: Context, _: None) -> tuple[()]:
        return ()

    def pack_jvp(ctx: Context, *_: Tensor | None) -> None:
        return None

    return {
        "max_pool": Differential(pool_setup, pool_backward, pool_jvp),
        "max_unpool": Differential(unpool_setup, unpool_backward, unpool_jvp),
        "max_unpool_window": Differential(window_setup, window_backward, window_jvp),
        "backproject": Differential(send_setup, send_backward, send_jvp),
        "pack_weight": Differential(pack_setup, pack_backward, pack_jvp),
    }


def _rectified(change: Tensor, result: Tensor | None) -> Tensor:
    """A gradient or tangent of a rectifier's `result`; as it is where nothing was rectified."""
    return change if result is None else torch.where(result <= 0, 0, change)


def _positions(codes: Tensor, size: PerAxis, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """The flat position in a map of `size` that each switch names, clamped, and whether it lies inside the map."""
    position, inside = reference.positions(codes, size, pooling)
    return torch.where(inside, position, 0), inside


def _on_map(origin: Tensor, step: PerAxis, placement: Placement) -> Tensor | None:
    """Which elements of windows lie on the map, (U, 1, *size); None where it has no end."""
    if not placement.bounded():
        return None
    inside = [reference.on_map(origin, axis, step[axis], placement) for axis in range(len(step))]
    return functools.reduce(torch.logical_and, inside)


def _uncropped(grad: Tensor, placement: Placement, full: PerAxis) -> Tensor:
    """The gradient of a part of a transposed convolution of size `full`, as that of the whole."""
    parts = list(zip(placement.begin, placement.size, full, strict=True))
    if any(begin >= whole for begin, _, whole in parts):
        return grad.new_zeros((*grad.shape[:2], *full))
    margins = [margin for begin, size, whole in reversed(parts) for margin in (begin, whole - begin - size)]
    return F.pad(grad, margins)


def _read(map: Tensor, position: Tensor, inside: Tensor, rank: int) -> Tensor:
    """What `map` holds at each position, 0 where that is not inside it."""
    return torch.where(inside, _gather(map, position, rank), 0)


def _gather(map: Tensor, position: Tensor, rank: int) -> Tensor:
    flat, places = (each.reshape(*each.shape[:-rank], math.prod(each.shape[-rank:])) for each in (map, position))
    gathered = flat.gather(-1, places).reshape(position.shape)
    return dense_copy(gathered, True, rank) if is_channels_last(map, rank) else gathered


def _window_order(pooled: Tensor, rank: int) -> Tensor:
    """For each window of a pooled map its row-major number plus one, exact in float64."""
    size = pooled.shape[-rank:]
    order = torch.arange(1, math.prod(size) + 1, dtype=torch.float64, device=pooled.device)
    return order.view(size).expand(pooled.shape).contiguous()
