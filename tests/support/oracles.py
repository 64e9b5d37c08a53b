"""The network itself as the oracle: what it gives, and what autograd sends back through it under each rule."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SPELLINGS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
IN_PLACE = (torch.relu_, Tensor.relu_)


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, guided: bool, in_place: bool) -> Tensor:
        ctx.gate = x > 0 if guided else None
        if in_place:
            ctx.mark_dirty(x)
            return x.clamp_(min=0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        signal = gradient.clamp(min=0)
        return signal if ctx.gate is None else signal * ctx.gate, None, None


class Rectifiers(TorchFunctionMode):
    """Rectifiers of signals, which require their gradient, send back what a rule says; all else is as it is."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        if self.rule == "gradient" or func not in SPELLINGS:
            return func(*args, **given)
        x = args[0] if args else given["input"]
        in_place = func in IN_PLACE or bool(given.get("inplace", False)) or args[1:2] == (True,)
        if not x.requires_grad or not torch.is_grad_enabled():
            return func(*args, **given)
        return _Rectified.apply(x, self.rule == "guided", in_place)


def itself(model: nn.Module, *images: Tensor) -> Tensor:
    """What a copy of the network makes of the images, in eval mode; the network may change itself as it runs."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*(x.clone() for x in images))


def one_by_one(model: nn.Module, images: Tensor) -> Tensor:
    """What a copy of the network makes of every image alone."""
    return torch.cat([itself(model, x[None]) for x in images])


def sent_back(model: nn.Module, images: Tensor, signal: Tensor, rule: str = "gradient", copied: bool = True) -> Tensor:
    """What arrives at the images of a signal on the network's output, by autograd.

    What autograd keeps for the way back is copied as it is kept, so that the network may overwrite it, through `.data`
    too, and the gradient is still that of what was computed.

    Args:
        model: the network; its parameters are not differentiated.
        images: (N, ...).
        signal: of the shape of the output.
        rule: what rectifiers do.
        copied: run a copy of the network and not itself.
    """
    model = copy.deepcopy(model).eval() if copied else model
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in required:
        parameter.requires_grad_(False)
    leaf = images.detach().clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x), Rectifiers(rule):
        output = model(leaf.clone())
    if output.requires_grad:
        (found,) = torch.autograd.grad(output, leaf, signal, allow_unused=True)
    else:
        found = None
    for parameter, before in required:
        parameter.requires_grad_(before)
    return torch.zeros_like(images) if found is None else found


def of_units(model: nn.Module, images: Tensor, units: Tensor, rule: str = "gradient", copied: bool = True) -> Tensor:
    """The projections (U, C, H, W) of units of the output, started from one.

    Args:
        units: (U, 4) or fewer columns: the image, and where in its output.
    """
    frames = []
    for image, *place in units.tolist():
        output = itself(model, images[image, None]) if copied else model(images[image, None])
        signal = torch.zeros_like(output).detach()
        signal[(0, *place[: output.dim() - 1])] = 1
        frames.append(sent_back(model, images[image, None], signal, rule, copied)[0])
    return torch.stack(frames)


def held(model: nn.Module) -> dict[str, Any]:
    """All that a network holds, as parameters, buffers or otherwise: tensors by identity and a copy of their values."""
    found: dict[str, Any] = {}

    def collect(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            found[name] = (id(value), value.requires_grad, value.detach().clone())
        elif isinstance(value, dict):
            found[f"{name}.keys"] = (list(value), None, None)
            for key, part in value.items():
                collect(f"{name}.{key}", part)
        elif isinstance(value, list | tuple):
            found[f"{name}.length"] = (len(value), None, None)
            for key, part in enumerate(value):
                collect(f"{name}.{key}", part)
        elif isinstance(value, int | float | str | bool | None):
            found[name] = (value, None, None)

    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key != "_modules" and "hook" not in key:
                collect(f"{name}.{key}", value)
    return found


def assert_untouched(model: nn.Module, before: Mapping[str, Any]) -> None:
    """Asserts that a network holds what it held, bit for bit."""
    after = held(model)
    assert after.keys() == before.keys(), f"the network now holds {after.keys() ^ before.keys()}"
    for name, (identity, required, values) in before.items():
        assert after[name][:2] == (identity, required), f"{name} was replaced"
        if values is not None:
            assert torch.equal(after[name][2].nan_to_num(7), values.nan_to_num(7)), f"{name} was written to"


def assert_same(actual: Tensor, exact: Tensor, what: str) -> None:
    """Asserts that float64 sums agree but for rounding; whatever is lost or added is much larger."""
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(exact.shape)}"
    error = (actual - exact).abs().max().item()
    assert error <= 1e-10 * (1 + exact.abs().max().item()), f"{what}: off by {error:.3g} of {exact.abs().max():.3g}"
