"""From the flat arguments of the op schemas to the objects that they mean. Back it is `*pooling`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .geometry import Backprojection, Convolution, PerAxis, Pooling
from .library import without_rank


def _pooling_of_windows(kernel: PerAxis, stride: PerAxis, dilation: PerAxis, *rest: Any) -> tuple[Any, ...]:
    return Pooling(kernel, stride, (0,) * len(kernel), dilation), *rest


# Of every op, by its name without rank, how many tensors its arguments begin with and what the others mean.
_MEANINGS: dict[str, tuple[int, Callable[..., tuple[Any, ...]]]] = {
    "max_pool": (2, lambda *window: (Pooling(*window[:4]), *window[4:])),
    "max_unpool": (2, lambda *window: (Pooling(*window[:4]), *window[4:])),
    "max_unpool_window": (4, _pooling_of_windows),
    "backproject": (6, lambda *arguments: (Backprojection(*arguments),)),
    "pack_weight": (1, lambda *arguments: (Convolution(*arguments),)),
    "switches_to_indices": (1, lambda size, *window: (size, Pooling(*window))),
    "indices_to_switches": (1, lambda size, *window: (size, Pooling(*window))),
}


def grouped(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an op, of which the dispatcher hands over tuples as lists, as its tensors and objects."""
    tensors, meaning = _MEANINGS[without_rank(name)]
    rest = arguments[tensors:]
    if list in map(type, rest):
        rest = tuple(tuple(a) if isinstance(a, list) and len(a) in (2, 3) else a for a in rest)
    return *arguments[:tensors], *meaning(*rest)


def taking_flat(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an op's tensors and objects as one of the arguments of its schema."""
    return lambda *arguments: function(*grouped(name, arguments))
