"""From the flat arguments of the op schemas to the objects that they mean. Back it is `*pooling`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .geometry import Backprojection, Convolution, Pair, Pooling


def _pooling_first(kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, *rest: Any) -> tuple[Any, ...]:
    return Pooling(kernel_size, stride, padding, dilation), *rest


def _pooling_of_windows(kernel_size: Pair, stride: Pair, dilation: Pair, *rest: Any) -> tuple[Any, ...]:
    return Pooling(kernel_size, stride, (0, 0), dilation), *rest


def _pooling_last(input_size: Pair, *window: Pair) -> tuple[Any, ...]:
    return input_size, Pooling(*window)


# Of every op, how many tensors its arguments begin with and what the others mean.
_MEANINGS: dict[str, tuple[int, Callable[..., tuple[Any, ...]]]] = {
    "max_pool2d": (2, _pooling_first),
    "max_unpool2d": (2, _pooling_first),
    "max_unpool2d_window": (4, _pooling_of_windows),
    "backproject2d": (6, lambda *arguments: (Backprojection(*arguments),)),
    "pack_weight": (1, lambda *arguments: (Convolution(*arguments),)),
    "switches_to_indices": (1, _pooling_last),
    "indices_to_switches": (1, _pooling_last),
}


def grouped(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an op, of which the dispatcher hands over pairs as lists, as its tensors and objects."""
    tensors, meaning = _MEANINGS[name]
    rest = (tuple(a) if isinstance(a, list) and len(a) == 2 else a for a in arguments[tensors:])
    return *arguments[:tensors], *meaning(*rest)


def taking_flat(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an op's tensors and objects as one of the arguments of its schema."""
    return lambda *arguments: function(*grouped(name, arguments))
