"""A `torch.autograd.Function` of the user's as an operation that torch.export keeps as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import UnsupportedModule

_LIBRARY = torch.library.Library("deconv_kernels_trace", "DEF")
_LIBRARY.define("applied(Tensor[] tensors, int call) -> Tensor[]")
APPLIED = torch.ops.deconv_kernels_trace.applied.default
_calls: ContextVar[list[AppliedCall]] = ContextVar("calls")
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class AppliedCall:
    """A call of a `torch.autograd.Function`.

    Attributes:
        function: which.
        several: whether it returns a tuple.
    """

    def __init__(self, function: type[torch.autograd.Function], args: Any, kwargs: Any) -> None:
        self.function, self.several = function, False
        self._leaves, self._spec = tree_flatten((args, kwargs))
        self.tensors = [x for x in self._leaves if isinstance(x, Tensor)]

    def arguments(self, tensors: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """What it was given, with others in the place of its tensors."""
        others = iter(tensors)
        leaves = [next(others) if isinstance(x, Tensor) else x for x in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return args, kwargs


def _fake(tensors: list[Tensor], call: int) -> list[Tensor]:
    """What a call returns, of the shapes alone: tensors of its own."""
    applied = _calls.get()[call]
    args, kwargs = applied.arguments(tensors)
    outer = _inside.set(True)
    try:
        with torch.no_grad():
            result = applied.function.apply(*args, **kwargs)
    finally:
        _inside.reset(outer)
    applied.several = isinstance(result, tuple)
    results = list(result) if isinstance(result, tuple) else [result]
    if not all(isinstance(x, Tensor) for x in results):
        name = applied.function.__name__
        raise UnsupportedModule(
            f"{name} returns what is no tensor, and the network asks for sizes; return tensors alone"
        )
    return [x.clone() if any(x is given for given in tensors) else x for x in results]


torch.library.register_fake("deconv_kernels_trace::applied", _fake, lib=_LIBRARY)


@contextmanager
def kept_whole() -> Iterator[tuple[list[AppliedCall], Callable[[Any, Any, Any], Any]]]:
    """While it lasts, calls of functions can become operations: the calls, and what a function returns then."""
    calls: list[AppliedCall] = []

    def applied(cls: type[torch.autograd.Function], args: Any, kwargs: Any) -> Any:
        call = AppliedCall(cls, args, kwargs)
        if _inside.get() or not call.tensors:
            return NotImplemented
        calls.append(call)
        results = APPLIED(call.tensors, len(calls) - 1)
        return tuple(results) if call.several else results[0]

    outer = _calls.set(calls)
    try:
        yield calls, applied
    finally:
        _calls.reset(outer)
