"""How a call of an op reaches its kernel, and what torch says about a call; torch's private names live here alone."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import (
    DisableTorchFunction as DisableTorchFunction,
)
from torch._C import (
    DispatchKey,
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
    _is_fwd_grad_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C import (
    DispatchKeySet as DispatchKeySet,
)
from torch._functorch.utils import enable_single_level_autograd_function
from torch._ops import OpOverload as OpOverload
from torch._subclasses import FakeTensor as FakeTensor
from torch._subclasses import FakeTensorMode as FakeTensorMode
from torch.autograd import forward_ad, profiler
from torch.compiler import is_compiling

from . import backends, checks
from .arguments import grouped
from .geometry import Convolution, refuse_torchscript
from .library import NAMESPACE, SCHEMAS, TRITON_NAMESPACE, without_rank

native = torch._C._nn
"""What functions of torch.nn.functional call."""

_CPU = DispatchKeySet(DispatchKey.CPU)
_PLAIN = (Tensor, torch.nn.Parameter)
# (dispatch keys, arguments) -> results of the kernels of this namespace, as `redispatch` of an operator, which would
# cost as much again as the dispatch.
_KERNELS = {name: getattr(getattr(torch.ops, NAMESPACE), name).default._handle.redispatch_boxed for name in SCHEMAS}
_OF_TRITON = {getattr(getattr(torch.ops, TRITON_NAMESPACE), name).default for name in SCHEMAS}


def call(name: str, tensors: tuple[Tensor | None, ...], *arguments: Any) -> Any:
    """Checks the arguments and runs an op.

    A call that nothing else has to see goes straight into the kernel if that is Triton's, or the CPU's. The latter does
    the same checks in less time; only where it refuses do the checks here say why.
    """
    if backends.cpp_on_cpu and not is_compiling() and not _observed(tensors, "cpu"):
        try:
            return _KERNELS[name](_CPU, *tensors, *arguments)
        except RuntimeError:
            pass  # refused; the checks below say why
    refuse_torchscript(arguments)
    given: tuple[Any, ...] = grouped(name, (*tensors, *arguments))
    getattr(checks, without_rank(name))(*given)
    operator = backends.operator(name, tensors[0])  # type: ignore[arg-type]
    if is_compiling():
        return operator(*tensors, *arguments)
    if operator in _OF_TRITON and not _observed(tensors, given[0].device.type):
        return triton_kernel(name)(*given)
    try:
        return operator(*tensors, *arguments)
    except RuntimeError as error:
        # What only the kernel can see: a switch, an index or the number of an image that means nothing.
        message = str(error).partition("ValueError: ")[2]
        if not message:
            raise
        raise ValueError(message.splitlines()[0]) from None


@functools.cache
def triton_kernel(name: str) -> Callable[..., Any]:
    """Triton's kernel for an op, which takes its tensors and objects; imports Triton."""
    return getattr(importlib.import_module("deconv_kernels.ops.triton"), without_rank(name))


def _observed(tensors: tuple[Tensor | None, ...], device: str) -> bool:
    """Whether autograd, a transform, a mode, a subclass, a lazy sign or the profiler has to see a call on `tensors`.

    As it has to if they are not all on a device of one type, "cpu" or another.
    """
    if (
        _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or profiler._is_profiler_enabled
        or _get_tracing_state() is not None
        or torch.is_autocast_enabled(device)
    ):
        return True
    differentiates = is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _PLAIN
            or not (tensor.is_cpu if device == "cpu" else tensor.device.type == device)
            or (differentiates and tensor.requires_grad)
            or tensor.is_neg()
            or tensor._is_zerotensor()
        ):
            return True
    return False


def packed_size(weight: Tensor, convolution: Convolution) -> int:
    """Elements of what the C++ kernels for the CPU pack a weight into, which they alone decide."""
    sizes, double = [int(size) for size in weight.shape], weight.dtype == torch.float64
    return torch.ops.deconv_kernels.packed_size.default._handle.redispatch_boxed(_CPU, sizes, *convolution, double)


def below_autograd(operator: OpOverload, keys: DispatchKeySet, arguments: tuple[Any, ...]) -> Any:
    """What the dispatcher finds for an op under the keys that come after differentiation."""
    with _AutoDispatchBelowAutograd():
        return operator.redispatch(keys & _after_autograd_keyset, *arguments)


def recorded(operator: OpOverload, keys: DispatchKeySet, arguments: tuple[Any, ...], record: Callable[..., Any]) -> Any:
    """Runs an op below autograd; by way of `record(*arguments, run)` where the call is or may be differentiated.

    A transform of torch.func runs it on tensors of its own level. What is recorded then belongs to that level alone,
    and the levels below are reached by dispatching further, with differentiation as the caller had it switched.
    `torch.library.register_autograd` serves reverse mode outside of transforms only.
    """

    run = functools.partial(below_autograd, operator, keys, arguments)
    if not _are_functorch_transforms_active():
        backwards = is_grad_enabled() and _any_requires_grad(*arguments)
        return record(*arguments, run) if backwards or forward_ad._current_level >= 0 else run()
    modes = is_grad_enabled(), _is_fwd_grad_enabled()

    def run_as_called() -> Any:
        with torch.set_grad_enabled(modes[0]), forward_ad._set_fwd_grad_enabled(modes[1]):
            return run()

    with enable_single_level_autograd_function():
        return record(*arguments, run_as_called)
