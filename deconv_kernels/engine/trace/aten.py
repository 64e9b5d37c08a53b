"""Operations of ATen, as torch.export leaves them in a graph, as the functions of torch that they come from."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ...ops.dispatch import OpOverload
from ..nodes import VALUE, Node, set_item
from .operations import is_known
from .rules import is_spelling

_NO_END = 2**63 - 1


def as_written(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A call of ATen as that of a function of torch or, by its name, of a method; None for what changes nothing.

    Args:
        target: what is called; if it is no operation it stays as it is.
        args, kwargs: its arguments, nodes among them.
    """
    if not isinstance(target, OpOverload):
        return target, args, kwargs
    name = target._opname
    if target.namespace == "deconv_kernels" and name in ("max_pool2d", "max_pool3d"):
        input, bias, *window, relu = args
        return getattr(ops, name), (input, *window), {"bias": bias, "relu": relu}
    if target.namespace != "aten":
        return target, args, kwargs
    if name.startswith("_assert"):
        return None, (), {}
    if name in _REWRITTEN:
        return _REWRITTEN[name](*args, **kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "layout") or value}
    if "dropout" in name:
        return F.dropout, args, kwargs
    found = _function(_NAMES.get(name, name))
    if found is None and name.endswith("_"):
        return _function(name[:-1]) or target, args, {**kwargs, "inplace": True}
    return found or target, args, kwargs


def _function(name: str) -> Any:
    candidates = [getattr(room, name, None) for room in (F, torch)]
    candidates.append(getattr(torch.linalg, name.removeprefix("linalg_"), None) if name.startswith("linalg_") else None)
    if callable(getattr(Tensor, name, None)):
        candidates.append(name)
    known = [c for c in candidates if c is not None and (is_known(c) or is_spelling(c))]
    return next(iter(known or [c for c in (*candidates[1:], candidates[0]) if c is not None]), None)


def _item(x: Node, *index: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return operator.getitem, (x, index), {}


def _slice(x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    if start in (None, 0) and end in (None, _NO_END) and step == 1:
        return None, (x,), {}
    dim %= x.meta[VALUE].dim()
    return _item(x, *[slice(None)] * dim, slice(start, None if end == _NO_END else end, None if step == 1 else step))


def _index(x: Node, indices: Sequence[Any]) -> Any:
    return _item(x, *(slice(None) if index is None else index for index in indices))


def _index_put(x: Node, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    if accumulate:
        return "index_put_", (x, tuple(indices), values, True), {}
    return set_item, (x, tuple(slice(None) if index is None else index for index in indices), values), {}


def _interpolate(mode: str) -> Any:
    def rewritten(x: Node, size: Any, *rest: Any) -> Any:
        align, scales = (rest[0], rest[1:]) if mode in ("bilinear", "bicubic", "linear", "trilinear") else (None, rest)
        factors = scales[0] if scales and isinstance(scales[0], tuple | list) else None
        return F.interpolate, (x, None if size is None else list(size), factors, mode, align or None), {}

    return rewritten


def _padded(mode: str) -> Any:
    return lambda x, sides, value=0: (F.pad, (x, list(sides), mode, *([value] if mode == "constant" else [])), {})


_NAMES = {"split_with_sizes": "split", "log_sigmoid": "logsigmoid", "detach_": "detach", "_unsafe_view": "view"}
_REWRITTEN: dict[str, Any] = {
    "batch_norm": lambda x, w, b, m, v, training, momentum, eps, *_: (
        F.batch_norm,
        (x, m, v, w, b, training, momentum, eps),
        {},
    ),
    "instance_norm": lambda x, w, b, m, v, own, momentum, eps, *_: (
        F.instance_norm,
        (x, m, v, w, b, own, momentum, eps),
        {},
    ),
    "layer_norm": lambda *args, **named: (F.layer_norm, args[:5], named),
    "group_norm": lambda *args, **named: (F.group_norm, args[:5], named),
    "im2col": lambda x, *window: (F.unfold, (x, *window), {}),
    "col2im": lambda x, *window: (F.fold, (x, *window), {}),
    "mT": lambda x: (torch.transpose, (x, -2, -1), {}),
    "slice": _slice,
    "index": _index,
    "index_put_": _index_put,
    "alias": lambda x: (F.dropout, (x, 0.0, False), {}),
    "lift_fresh_copy": lambda x: (torch.clone, (x,), {}),
    "to": lambda x, *to, **named: (
        "to",
        (x, *(what for what in to if isinstance(what, torch.dtype | torch.device | Node))),
        {name: what for name, what in named.items() if name in ("dtype", "device")},
    ),
    "constant_pad_nd": _padded("constant"),
    **{
        f"{kind}ion_pad{n}d": _padded(mode)
        for kind, mode in (("reflect", "reflect"), ("replicat", "replicate"))
        for n in (1, 2, 3)
    },
    **{
        f"upsample_{mode}{n}d": _interpolate("nearest-exact" if "exact" in mode else mode)
        for mode in ("nearest", "_nearest_exact", "linear", "bilinear", "bicubic", "trilinear")
        for n in (1, 2, 3)
    },
}
