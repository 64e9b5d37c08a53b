"""What this package is measured against: the same projections by other means."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .convolution import Convolution
from .deconvnet import Deconvnet
from .record import Units
from .steps import (
    AveragePool,
    BatchNormalization,
    Flatten,
    Identity,
    Linear,
    MaxPool,
    Normalization,
    Rectifier,
    Step,
)


@torch.no_grad()
def project_full_frame(
    net: Deconvnet, images: Tensor, units: Units, seed: str = "one", units_at_once: int = 16
) -> Tensor:
    """Projects units by plain ATen ops: one forward of their images, then batched backward passes over whole maps.

    It is what a careful user of PyTorch would write: int64 indices, `max_pool2d_with_indices_backward`,
    `convolution_backward`, many units per pass.

    Args:
        net: the network and its rule; its `normalization` must be "identity".
        images: (N, C, H, W), as for `Deconvnet.record`.
        units: of any images.
        seed: "one", or "activation" for units that know theirs.
        units_at_once: units per backward pass.

    Returns:
        (U, C, H, W).

    Raises:
        ValueError: units without activations with seed "activation", or a step that the baseline cannot do.
    """
    scale = _scale(units, seed)
    steps = net.tape.steps[: net.tape.index(units.layer) + 1]
    used, image = torch.unique(units.image, return_inverse=True)
    x = images[used].to(next(net.model.parameters(), images).device)
    inputs = []
    for step in steps:
        y, kept = _forward(step, x)
        inputs.append((x.shape[1:], kept))
        x = y
    projections = images.new_empty((len(units), *images.shape[1:]))
    for start in range(0, len(units), units_at_once):
        chunk = slice(start, start + units_at_once)
        which = image[chunk].to(x.device)
        signal = x.new_zeros((len(which), *x.shape[1:]))
        position = [getattr(units, name)[chunk].to(x.device) for name in ("channel", "y", "x")][: x.dim() - 1]
        signal[(torch.arange(len(which), device=x.device), *position)] = 1
        for step, (shape, kept) in zip(reversed(steps), reversed(inputs), strict=True):
            signal = _backward(step, signal, shape, kept, which)
        projections[chunk] = signal
    return projections.mul_(scale[:, None, None, None]) if scale is not None else projections


def project_captum(net: Deconvnet, images: Tensor, units: Units, seed: str = "one", progress: bool = False) -> Tensor:
    """Projects units by Captum, as its users do: one forward and one backward of the whole network per unit.

    Args:
        net: its model, whose rectifiers must all be `nn.ReLU` modules for Captum to be right, and its rule.
        images: (N, C, H, W), as for `Deconvnet.record`.
        units: of a layer that is a module.
        seed: "one", or "activation" for units that know theirs.
        progress: show a progress bar.

    Returns:
        (U, C, H, W).

    Raises:
        ImportError: Captum is not installed.
        ValueError: units without activations with seed "activation".
    """
    try:
        from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
    except ImportError as error:
        raise ImportError("this baseline needs Captum: pip install captum") from error
    scale = _scale(units, seed)
    attribution = {
        "deconvnet": NeuronDeconvolution,
        "guided": NeuronGuidedBackprop,
        "gradient": NeuronGradient,
    }[net.rule](net.model, net.model.get_submodule(units.layer))
    columns: list[Tensor] = [getattr(units, name) for name in ("image", "channel", "y", "x")]
    flat = isinstance(net.tape.steps[net.tape.index(units.layer)], Linear)
    projections = images.new_empty((len(units), *images.shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (image, channel, y, x) in enumerate(tqdm(rows, "Captum", len(units), disable=not progress)):
            selector = (channel,) if flat else (channel, y, x)
            attributed = attribution.attribute(images[image : image + 1].clone(), selector)
            projections[row] = attributed[0].detach()
    return projections.mul_(scale[:, None, None, None]) if scale is not None else projections


def _scale(units: Units, seed: str) -> Tensor | None:
    if seed == "one":
        return None
    if seed != "activation" or units.activation is None:
        raise ValueError(f'seed must be "one", or "activation" for units that know theirs, got {seed!r}')
    return units.activation


def _forward(step: Step, x: Tensor) -> tuple[Tensor, Any]:
    """The step's output, and what its way back needs: indices of a max pool, the gate of a rectifier."""
    if isinstance(step, MaxPool):
        return F.max_pool2d(
            x, step.kernel, step.stride, step.padding, step.dilation, step.ceil_mode, return_indices=True
        )
    y, _ = step.forward(x, owned=False)
    return y, x if isinstance(step, Rectifier) and step.rule != "deconvnet" else None


def _backward(step: Step, signal: Tensor, shape: torch.Size, kept: Any, image: Tensor) -> Tensor:
    """The signal on the input, of `shape` without the batch dimension, of whole maps of signal on the output."""
    size = (len(signal), *shape)
    if isinstance(step, Convolution):
        if isinstance(step.padding, str) and step.padding == "same" and any((k + 1) % 2 for k in step.kernel):
            raise ValueError(f"{step.name}: even kernels with padding 'same' are not part of this baseline")
        weight, _ = step.parameters()
        arguments = (list(step.stride), list(step.before), list(step.dilation), False, [0, 0], step.groups)
        like = signal.new_empty(1).expand(size)
        return torch.ops.aten.convolution_backward(signal, like, weight, None, *arguments, [True, False, False])[0]
    if isinstance(step, Rectifier):
        if step.rule != "gradient":
            signal = signal.clamp(min=0)
        if step.rule == "deconvnet":
            return signal
        gate = (kept > 0) & (kept < step.ceiling) if step.rule == "gradient" and step.ceiling < math.inf else kept > 0
        return signal * gate[image]
    if isinstance(step, MaxPool):
        like = signal.new_empty(size)
        window = (list(step.kernel), list(step.stride), list(step.padding), list(step.dilation), step.ceil_mode)
        return torch.ops.aten.max_pool2d_with_indices_backward(signal, like, *window, kept[image])
    if isinstance(step, AveragePool):
        return step.adjoint(signal, signal.new_empty(size))
    if isinstance(step, BatchNormalization):
        module = step.module
        assert module.running_var is not None
        scale = torch.rsqrt(module.running_var + module.eps) * (1 if module.weight is None else module.weight)
        return signal * scale.reshape(-1, *[1] * (len(shape) - 1))
    if isinstance(step, Linear):
        return signal @ step.parameters()[0]
    if isinstance(step, Flatten):
        return signal.reshape(size)
    if isinstance(step, Identity) or (isinstance(step, Normalization) and not step.exact):
        return signal
    raise ValueError(f"{step.name}: {type(step).__name__} is not part of this baseline")
