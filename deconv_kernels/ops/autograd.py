"""How the ops are differentiated, in reverse and forward mode, for autograd and for the transforms of torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_weight

from . import reference
from .geometry import Pair, dense_copy, extent, is_channels_last

Context = Any  # what autograd hands from `setup` to `backward` and `jvp`


class Differential(NamedTuple):
    """The derivatives of one op; None stands for a gradient or tangent of zero.

    `setup(ctx, inputs, output)` keeps what the other two need. `backward(ctx, *gradients)` turns gradients of the
    results into those of the op's first arguments, the only ones that have any. `jvp(ctx, *tangents)` turns tangents
    of the arguments into those of the results.
    """

    setup: Callable[..., None]
    backward: Callable[..., tuple[Tensor | None, ...]]
    jvp: Callable[..., Any]


def autograd_kernel(operator: torch._ops.OpOverload, differential: Differential | None) -> Callable[..., Any]:
    """What runs for `operator` under the dispatch key Autograd; one that works on whole numbers has no differential.

    A transform of torch.func runs it on tensors of its own level. What is recorded then belongs to that level alone,
    and the levels below are reached by dispatching further, with differentiation as the caller had it switched.
    `torch.library.register_autograd` serves reverse mode outside of transforms only.
    """

    if differential is None:
        return lambda keys, *arguments: operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    def forward(ctx: Context, *arguments: Any) -> Any:
        *inputs, run = arguments
        output = run()
        ctx.set_materialize_grads(False)
        differential.setup(ctx, inputs, output)
        return output

    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = () if gradients[0] is None else differential.backward(ctx, *gradients)
        return *known, *[None] * (len(ctx.needs_input_grad) - len(known))

    def jvp(ctx: Context, *tangents: Tensor | None) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):  # for the levels below
            return differential.jvp(ctx, *tangents)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward), "jvp": staticmethod(jvp)}
    recorded = type(f"{operator.namespace}_{operator._opname}", (torch.autograd.Function,), methods)
    record = super(torch.autograd.Function, recorded).apply  # type: ignore[misc]  # Function.apply is for whole stacks

    def kernel(keys: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        def run() -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

        if not _are_functorch_transforms_active():
            backwards = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
            return record(*arguments, run) if backwards or forward_ad._current_level >= 0 else run()
        modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

        def run_as_called() -> Any:
            with torch.set_grad_enabled(modes[0]), forward_ad._set_fwd_grad_enabled(modes[1]):
                return run()

        with enable_single_level_autograd_function():
            return record(*arguments, run_as_called)

    return kernel


def differentials(namespace: Any) -> dict[str, Differential]:
    """Those of the ops that work on real numbers; they run on the same namespace's ops."""

    def keep(ctx: Context, *tensors: Tensor | None) -> None:
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def pool_setup(ctx: Context, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
        input, _, *window, _, relu = inputs
        values, switches = output
        ctx.mark_non_differentiable(switches)
        keep(ctx, switches, values if relu else None)
        ctx.window, ctx.size = window, tuple(input.shape[-2:])

    def pool_backward(ctx: Context, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        switches, rectified = ctx.saved_tensors
        grad = _rectified(grad, rectified)
        grad_input = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = namespace.max_unpool2d(grad, switches, *ctx.window, ctx.size, "sum", False)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.sum([axis for axis in range(grad.dim()) if axis != grad.dim() - 3])
        return grad_input, grad_bias

    def pool_jvp(ctx: Context, input: Tensor | None, bias: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        switches, rectified = ctx.saved_tensors
        tangent = None
        if input is not None:
            tangent = _read(input, *_positions(switches.long(), ctx.size, *ctx.window))
        if bias is not None:
            added = bias[:, None, None].expand(switches.shape)
            tangent = added if tangent is None else tangent + added
        return None if tangent is None else _rectified(tangent, rectified), None

    def unpool_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        input, switches, *window, size, overlap, relu = inputs
        keep(ctx, switches, output if relu else None)
        ctx.window, ctx.size, ctx.overlap = window, tuple(size), overlap

    def unpool_backward(ctx: Context, grad: Tensor) -> tuple[Tensor]:
        switches, rectified = ctx.saved_tensors
        position, inside = _positions(switches.long(), ctx.size, *ctx.window)
        if ctx.overlap == "last":
            order = _window_order(switches.shape, grad.device)
            winner = namespace.max_unpool2d(order, switches, *ctx.window, ctx.size, "last", False)
            inside = inside & (_gather(winner, position) == order)
        return (_read(_rectified(grad, rectified), position, inside),)

    def unpool_jvp(ctx: Context, input: Tensor | None, *_: None) -> Tensor | None:
        if input is None:
            return None
        switches, rectified = ctx.saved_tensors
        return _rectified(namespace.max_unpool2d(input, switches, *ctx.window, ctx.size, ctx.overlap, False), rectified)

    def window_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        input, switches, image, origin, *window, overlap, relu = inputs
        keep(ctx, switches, image, origin, output if relu else None)
        ctx.window, ctx.size, ctx.overlap = window, tuple(input.shape[-2:]), overlap

    def window_backward(ctx: Context, grad: Tensor) -> tuple[Tensor]:
        switches, image, origin, rectified = ctx.saved_tensors
        grad = _rectified(grad, rectified)
        return (read_windows(grad, switches, image, origin, ctx.size, ctx.window, ctx.overlap),)

    def window_jvp(ctx: Context, input: Tensor | None, *_: None) -> Tensor | None:
        if input is None:
            return None
        *places, rectified = ctx.saved_tensors
        return _rectified(namespace.max_unpool2d_window(input, *places, *ctx.window, ctx.overlap, False), rectified)

    def read_windows(
        map: Tensor, switches: Tensor, image: Tensor, origin: Tensor, size: Pair, window: Any, overlap: str
    ) -> Tensor:
        """Windows of `size`: what `map` holds where each of their elements was unpooled to."""
        kernel, stride, dilation = window
        codes = reference.window_switches(switches, image, origin, size)
        position, inside = _positions(codes, tuple(map.shape[-2:]), kernel, stride, (0, 0), dilation)
        if overlap == "last":
            order = _window_order(codes.shape, map.device)
            winner = namespace.max_unpool2d_window(order, switches, image, origin, *window, "last", False)
            inside = inside & (_gather(winner, position) == order)
        return _read(map, position, inside)

    def send_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        input, weight, image, origin, switches, _, *arguments = inputs
        keep(ctx, input, weight, image, origin, switches)
        ctx.arguments = arguments
        ctx.window, (ctx.overlap, ctx.relu) = arguments[:3], arguments[3:5]
        ctx.stride, ctx.dilation, ctx.groups, ctx.begin, ctx.size, ctx.base, ctx.map_size = arguments[5:]

    def send_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, image, origin, switches = ctx.saved_tensors
        signal = signal_of(ctx, input, ctx.relu)
        step = [s * (1 if switches is None else p) for s, p in zip(ctx.stride, ctx.window[1], strict=True)]
        inside = _on_map(origin, step, ctx.base, ctx.size, ctx.map_size)
        if inside is not None:
            grad = torch.where(inside, grad, 0)
        full = [
            (signal.shape[axis + 2] - 1) * ctx.stride[axis] + extent(weight.shape[axis + 2], ctx.dilation[axis])
            for axis in (0, 1)
        ]
        if ctx.begin[0] >= full[0] or ctx.begin[1] >= full[1]:
            grad = grad.new_zeros((*grad.shape[:2], *full))
        else:
            after = [full[axis] - ctx.begin[axis] - ctx.size[axis] for axis in (0, 1)]
            grad = F.pad(grad, (ctx.begin[1], after[1], ctx.begin[0], after[0]))
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = F.conv2d(grad, weight, None, ctx.stride, 0, ctx.dilation, ctx.groups)
            grad_input = _rectified(grad_input, signal if ctx.relu else None)
            if switches is not None:
                size = tuple(input.shape[-2:])
                grad_input = read_windows(grad_input, switches, image, origin, size, ctx.window, ctx.overlap)
        if ctx.needs_input_grad[1]:
            conv = (ctx.stride, (0, 0), ctx.dilation, ctx.groups)
            grad_weight = conv2d_weight(grad, weight.shape, signal, *conv)
        return grad_input, grad_weight

    def send_jvp(ctx: Context, input_tangent: Tensor | None, weight_tangent: Tensor | None, *_: None) -> Tensor | None:
        """Linear in the weight, and in the input too save where the signal is rectified."""
        kept_input, kept_weight, *places = ctx.saved_tensors
        input, weight = (forward_ad.unpack_dual(kept, level=0).primal for kept in (kept_input, kept_weight))
        tangents = []
        if input_tangent is not None and ctx.relu:
            signal = _rectified(signal_of(ctx, input_tangent, False), signal_of(ctx, input, True))
            tangents.append(send_signal(ctx, signal, weight))
        elif input_tangent is not None:
            tangents.append(namespace.backproject2d(input_tangent, weight, *places, None, *ctx.arguments))
        if weight_tangent is not None:
            tangents.append(namespace.backproject2d(input, weight_tangent, *places, None, *ctx.arguments))
        return sum(tangents[1:], tangents[0]) if tangents else None

    def signal_of(ctx: Context, input: Tensor, relu: bool) -> Tensor:
        """What is convolved for `input`."""
        _, _, image, origin, switches = ctx.saved_tensors
        if switches is not None:
            return namespace.max_unpool2d_window(input, switches, image, origin, *ctx.window, ctx.overlap, relu)
        return torch.relu(input) if relu else input

    def send_signal(ctx: Context, signal: Tensor, weight: Tensor) -> Tensor:
        """`signal`, unpooled and rectified already, sent back to where the op sends its input."""
        _, _, image, origin, switches = ctx.saved_tensors
        if switches is not None:
            unpooled = [
                reference.far(origin, axis, ctx.stride[axis] * pool_stride) * pool_stride
                for axis, pool_stride in enumerate(ctx.window[1])
            ]
            origin = torch.cat(unpooled, dim=1)
        as_it_is = (None, None, (1, 1), (1, 1), (1, 1), "sum", False)
        return namespace.backproject2d(signal, weight, image, origin, *as_it_is, *ctx.arguments[5:])

    def pack_setup(ctx: Context, inputs: Sequence[Any], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    def pack_backward(ctx: Context, _: None) -> tuple[()]:
        return ()

    def pack_jvp(ctx: Context, *_: Tensor | None) -> None:
        return None

    return {
        "max_pool2d": Differential(pool_setup, pool_backward, pool_jvp),
        "max_unpool2d": Differential(unpool_setup, unpool_backward, unpool_jvp),
        "max_unpool2d_window": Differential(window_setup, window_backward, window_jvp),
        "backproject2d": Differential(send_setup, send_backward, send_jvp),
        "pack_weight": Differential(pack_setup, pack_backward, pack_jvp),
    }


def _rectified(change: Tensor, result: Tensor | None) -> Tensor:
    """A gradient or tangent of a rectifier's `result`; as it is where nothing was rectified."""
    return change if result is None else torch.where(result <= 0, 0, change)


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


def _on_map(origin: Tensor, step: Sequence[int], base: Pair, size: Pair, map_size: Pair) -> Tensor | None:
    """Which elements of windows of `size` lie on the map, (U, 1, h, w); None where it has no end."""
    if tuple(map_size) == (-1, -1):
        return None
    rows, columns = (
        reference.far(origin, axis, step[axis]) * step[axis]
        + base[axis]
        + torch.arange(size[axis], device=origin.device)
        for axis in (0, 1)
    )
    on_rows, on_columns = (rows >= 0) & (rows < map_size[0]), (columns >= 0) & (columns < map_size[1])
    return on_rows[:, None, :, None] & on_columns[:, None, None, :]


def _read(map: Tensor, position: Tensor, inside: Tensor) -> Tensor:
    """What `map` holds at each position, 0 where that is not inside it."""
    return torch.where(inside, _gather(map, position), 0)


def _gather(map: Tensor, position: Tensor) -> Tensor:
    flat = (*map.shape[:-2], map.shape[-2] * map.shape[-1])
    places = (*position.shape[:-2], position.shape[-2] * position.shape[-1])
    gathered = map.reshape(flat).gather(-1, position.reshape(places)).reshape(position.shape)
    return dense_copy(gathered, True) if is_channels_last(map) else gathered


def _window_order(shape: Sequence[int], device: torch.device) -> Tensor:
    """Row-major number of each window plus one, exact in float64."""
    order = torch.arange(1, shape[-2] * shape[-1] + 1, dtype=torch.float64, device=device)
    return order.view(shape[-2], shape[-1]).expand(shape).contiguous()
