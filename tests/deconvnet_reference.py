"""The deconvnet by autograd with overridden gradients: slow, whole frames, and nothing of the package in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: str, ceiling: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule, ctx.ceiling = rule, ceiling
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.rule == "deconvnet":
            return signal.clamp(min=0), None, None
        if ctx.rule == "guided":
            return signal.clamp(min=0) * (x > 0), None, None
        return signal * ((x > 0) & (x < ctx.ceiling)), None, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal, None


class _LastWindowWins(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
        values, indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
        ctx.save_for_backward(indices)
        ctx.size = x.shape
        return values

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        result = torch.zeros(ctx.size, dtype=signal.dtype).flatten(2)
        for n in range(indices.shape[0]):
            for c in range(indices.shape[1]):
                for index, value in zip(indices[n, c].flatten().tolist(), signal[n, c].flatten(), strict=True):
                    result[n, c, index] = value
        return result.view(ctx.size), None, None, None, None, None


class OverriddenGradients(TorchFunctionMode):
    """Rectifiers, response normalisation and max pools get the gradients that a deconvnet gives them."""

    def __init__(self, rule: str, normalization: str, overlap: str) -> None:
        super().__init__()
        self.rule, self.normalization, self.overlap = rule, normalization, overlap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.relu, torch.relu, Tensor.relu):
            return _Rectify.apply(args[0], self.rule, math.inf)
        if func is F.hardtanh or func is F.relu6:
            return _Rectify.apply(args[0], self.rule, 6.0)
        if func is F.local_response_norm and self.normalization == "identity":
            return _StraightThrough.apply(args[0], lambda x: F.local_response_norm(x, *args[1:], **kwargs))
        if func is F.max_pool2d and self.overlap == "last":
            window = (kwargs[name] for name in ("stride", "padding", "dilation", "ceil_mode"))
            return _LastWindowWins.apply(*args, *window)
        return func(*args, **kwargs)


def project(
    model: nn.Module,
    images: Tensor,
    layer: str,
    units: Sequence[tuple[int, ...]],
    rule: str = "deconvnet",
    normalization: str = "identity",
    overlap: str = "sum",
) -> tuple[Tensor, Tensor]:
    """Projections (U, C, H, W) with seed one, and activations (U,), of units (image, channel, y, x) of a module."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    images = images.clone().requires_grad_()
    try:
        with OverriddenGradients(rule, normalization, overlap):
            model(images)
    finally:
        handle.remove()
    (maps,) = outputs
    picked = [maps[unit[: maps.dim()]] for unit in units]
    projections = [
        torch.autograd.grad(value, images, retain_graph=True)[0][unit[0]]
        for value, unit in zip(picked, units, strict=True)
    ]
    return torch.stack(projections), torch.stack(picked).detach()
