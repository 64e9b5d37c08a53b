"""The spellings of rectifiers, activation functions, products and normalisations, and what `rules` may say of them.

A deconvnet says what rectifiers and max pools do backwards, and everything linear has its adjoint. About smooth
activations, products of signals, or normalisation by statistics of the signal itself there is no agreement; `rules`
says what to do with them.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...checks import shown
from ...ops.dispatch import OpOverload

DECISIONS = ("gradient", "identity", "rectifier")
_SPELLINGS: tuple[tuple[Any, ...], ...] = (
    (nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    (nn.ReLU6, F.relu6),
    (nn.LeakyReLU, F.leaky_relu, F.leaky_relu_),
    (nn.Hardtanh, F.hardtanh, F.hardtanh_),
    (nn.Threshold, F.threshold, torch.threshold, torch.threshold_),
    (torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_"),
    (torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_"),
    (nn.SiLU, F.silu),
    (nn.GELU, F.gelu),
    (nn.Mish, F.mish),
    (nn.ELU, F.elu, F.elu_),
    (nn.CELU, F.celu, torch.celu, torch.celu_),
    (nn.SELU, F.selu, torch.selu, torch.selu_),
    (nn.PReLU, F.prelu, torch.prelu),
    (nn.RReLU,),
    (nn.Sigmoid, F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"),
    (nn.Tanh, F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"),
    (nn.Hardsigmoid, F.hardsigmoid),
    (nn.Hardswish, F.hardswish),
    (nn.Hardshrink, F.hardshrink),
    (nn.Softshrink, F.softshrink),
    (nn.Tanhshrink, F.tanhshrink),
    (nn.Softplus, F.softplus),
    (nn.Softsign, F.softsign),
    (nn.LogSigmoid, F.logsigmoid),
    (torch.exp, "exp"),
    (torch.log, "log"),
    (torch.sqrt, "sqrt"),
    (torch.rsqrt, "rsqrt"),
    (torch.square, "square"),
    (torch.abs, operator.abs, "abs"),
    (torch.pow, operator.pow, operator.ipow, "pow", "pow_"),
    (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
    (operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_"),
    (operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"),
    (nn.Softmax, F.softmax, torch.softmax, "softmax"),
    (nn.LogSoftmax, F.log_softmax, torch.log_softmax, "log_softmax"),
    (nn.LayerNorm, F.layer_norm, torch.layer_norm),
    (nn.GroupNorm, F.group_norm, torch.group_norm),
    (nn.InstanceNorm2d, nn.InstanceNorm1d, nn.InstanceNorm3d, F.instance_norm, torch.instance_norm),
    (F.normalize,),
)
_CANONICAL = {spelling: spellings[0] for spellings in _SPELLINGS for spelling in spellings}
_SIGNALS_MEET = _SPELLINGS.index((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"))
POINTWISE = frozenset(spellings[0] for spellings in _SPELLINGS[:_SIGNALS_MEET])
"""Those that work on every value alone."""


def canonical(kind: Any) -> Any:
    """One spelling for all of the same thing; what is not known stays as it is.

    Args:
        kind: a module type, a function, the name of a tensor method, or a `torch.autograd.Function`.
    """
    owner = getattr(kind, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return owner  # its `apply`
    if isinstance(kind, str) and kind not in _CANONICAL and callable(getattr(torch, kind, None)):
        kind = getattr(torch, kind)
    try:
        return _CANONICAL.get(kind, kind)
    except TypeError:  # not hashable
        return kind


def is_spelling(kind: Any) -> bool:
    """Whether a function, or the name of a method, is one of those above."""
    return kind in _CANONICAL


_ROOMS = {"torch": torch, "torch.nn.functional": F, "torch.nn": nn, "operator": operator, "": builtins}
_ROOMS |= {f"torch.{name}": getattr(torch, name) for name in ("special", "linalg", "fft")}


def spelled(kind: Any) -> str:
    """How a key of `rules` is written in Python."""
    if isinstance(kind, str):
        return repr(kind)
    if isinstance(kind, OpOverload):
        return f"torch.ops.{kind}"
    name = str(kind.__name__)
    for room, module in _ROOMS.items():
        spellings = [spelling for spelling, value in vars(module).items() if value is kind]
        if spellings:
            return f"{room}.{name if name in spellings else spellings[0]}".lstrip(".")
    defined_in = getattr(kind, "__module__", None)
    return name if defined_in in (None, "__main__") else f"{defined_in}.{kind.__qualname__}"


def decisions(rules: Mapping[Any, str] | None) -> dict[Any, str]:
    """The user's rules by canonical spelling.

    Args:
        rules: from module types, functions, names of tensor methods or classes of `torch.autograd.Function` to
            "gradient" (the exact gradient at the recorded input), "identity" (the signal passes unchanged) or
            "rectifier" (as a rectifier under the net's rule).

    Raises:
        TypeError: a key that is none of these.
        ValueError: another decision.
    """
    found: dict[Any, str] = {}
    for kind, decision in (rules or {}).items():
        if not (callable(kind) or isinstance(kind, str)) or isinstance(kind, nn.Module):
            raise TypeError(f"rules are for module types, functions and names of tensor methods, got {shown(kind)}")
        if decision not in DECISIONS:
            raise ValueError(
                f"a rule must be one of {', '.join(map(repr, DECISIONS))}, got {shown(decision)} for {kind!r}"
            )
        found[canonical(kind)] = decision
    return found
