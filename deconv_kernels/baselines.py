"""What this package is measured against: the same projections by other means."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .convolution import Convolution
from .deconvnet import Deconvnet
from .joins import AdaptiveAveragePool
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

WayBack = Callable[[Tensor, Tensor], Tensor]
"""(signal on a step's output, which image each unit is of) -> signal on its input; may overwrite the signal."""


class FullFrame:
    """Plain ATen: one forward of the images, then backward passes over whole maps, many units in each.

    It is what a careful user of PyTorch would write: int64 indices, `max_pool2d_with_indices_backward`,
    `convolution_backward`. The forward is run on construction.

    Args:
        net: the network and its rule; its `normalization` must be "identity".
        images: (N, C, H, W), as for `Deconvnet.record`.
        layer: whose units are projected.
        batch_size: images per forward pass, by default all; what the passes round differently can move a switch.
        memory_format: of the maps on the way back; channels_last is the faster one.
        compiled: send the signal back by `torch.compile` over static shapes, as a whole or not at all.

    Raises:
        ValueError: a network that branches, or a step that the baseline cannot do.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: Deconvnet,
        images: Tensor,
        layer: str,
        *,
        batch_size: int | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        compiled: bool = False,
    ) -> None:
        count = net.tape.index(layer) + 1
        steps = list(net.tape.bound(range(count))[0].values())
        if any(sources != (index,) for index, sources in enumerate(net.tape.sources[: len(steps)])):
            raise ValueError(f"up to {layer!r} the network branches, and this baseline can only do chains of layers")
        device = next(net.model.parameters(), images).device
        kept: list[list[Tensor | None]] = [[] for _ in steps]
        for batch in images.split(batch_size or len(images)):
            x = batch.to(device)
            shapes = [x.shape[1:]]
            for step, of_step in zip(steps, kept, strict=True):
                x, of_batch = _forward(step, x)
                of_step.append(of_batch)
                shapes.append(x.shape[1:])
        self._images, self._shape, self._signal = images.shape, shapes[-1], x.new_zeros(())
        self._format = memory_format
        self._ways = [
            _backward(step, shape, _together(of_step, memory_format), memory_format)
            for step, shape, of_step in zip(steps, shapes, kept, strict=False)
        ][::-1]
        self._compiled = compiled
        self._send = torch.compile(self._send_back, fullgraph=True, dynamic=False) if compiled else self._send_back

    def _send_back(self, signal: Tensor, image: Tensor) -> Tensor:
        for way in self._ways:
            signal = way(signal, image)
        return signal

    @torch.no_grad()
    def project(self, units: Units, units_at_once: int = 16, seed: str = "one") -> Tensor:
        """Projects units of the layer.

        Args:
            units: of any of the images.
            units_at_once: units per backward pass.
            seed: "one", or "activation" for units that know theirs.

        Returns:
            (U, C, H, W).

        Raises:
            ValueError: units without activations with seed "activation".
        """
        scale = _scale(units, seed)
        device = self._signal.device
        columns = [getattr(units, name).to(device) for name in ("image", "channel", "y", "x")][: 1 + len(self._shape)]
        projections = self._signal.new_empty((len(units), *self._images[1:]))
        for start in range(0, len(units), units_at_once):
            image, *position = (column[start : start + units_at_once] for column in columns)
            # A compiled pass always takes as many units; those that are missing stay zero.
            size = units_at_once if self._compiled else len(image)
            signal = _laid_out(self._signal.new_zeros((size, *self._shape)), self._format)
            signal[(torch.arange(len(image), device=device), *position)] = 1
            which = torch.cat((image, image.new_zeros(size - len(image))))
            projections[start : start + len(image)] = self._send(signal, which)[: len(image)]
        return projections if scale is None else projections.mul_(scale.to(device)[:, None, None, None])


def project_full_frame(
    net: Deconvnet, images: Tensor, units: Units, seed: str = "one", units_at_once: int = 16
) -> Tensor:
    """Projects units by plain ATen ops: a forward of their images, then batched backward passes; see `FullFrame`.

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
    _scale(units, seed)
    used, image = torch.unique(units.image, return_inverse=True)
    full_frame = FullFrame(net, images[used], units.layer)
    of_used = Units(units.layer, image, units.channel, units.y, units.x, units.activation)
    return full_frame.project(of_used, units_at_once, seed)


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
    device = next(net.model.parameters(), images).device
    projections = images.new_empty((len(units), *images.shape[1:]), device=device)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (image, channel, y, x) in enumerate(tqdm(rows, "Captum", len(units), disable=not progress)):
            selector = (channel,) if flat else (channel, y, x)
            attributed = attribution.attribute(images[image : image + 1].to(device).clone(), selector)
            projections[row] = attributed[0].detach()
    return projections if scale is None else projections.mul_(scale.to(device)[:, None, None, None])


def project_zennit(net: Deconvnet, images: Tensor, units: Units, seed: str = "one") -> Tensor:
    """Projects units by zennit's composites for these rules: one forward and one backward of the network per unit.

    Args:
        net: its model, whose rectifiers must all be modules for zennit to see them, and its rule.
        images: (N, C, H, W), as for `Deconvnet.record`.
        units: of a layer that is a module.
        seed: "one", or "activation" for units that know theirs.

    Returns:
        (U, C, H, W).

    Raises:
        ImportError: zennit, or torchvision which it needs, is not installed.
        ValueError: units without activations with seed "activation".
    """
    try:
        from zennit.composites import DeconvNet, GuidedBackprop
    except ImportError as error:
        raise ImportError(f"this baseline needs zennit and torchvision: pip install zennit ({error})") from error
    scale = _scale(units, seed)
    composite = {"deconvnet": DeconvNet, "guided": GuidedBackprop}.get(net.rule)
    device = next(net.model.parameters(), images).device
    projections = images.new_empty((len(units), *images.shape[1:]), device=device)
    outputs: list[Tensor] = []
    handle = net.model.get_submodule(units.layer).register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        with (
            torch.enable_grad(),
            contextlib.nullcontext(net.model) if composite is None else composite().context(net.model) as model,
        ):
            for row, (image, *position) in enumerate(units.table().T.tolist()):
                outputs.clear()
                pixels = images[image : image + 1].to(device).clone().requires_grad_()
                model(pixels)
                output = outputs[0][0]
                value = output[tuple(position[: output.dim()])]
                projections[row] = torch.autograd.grad(value, pixels)[0][0]
    finally:
        handle.remove()
    return projections if scale is None else projections.mul_(scale.to(device)[:, None, None, None])


@dataclass(frozen=True)
class Baseline:
    """One way of projecting, ready to be compared with others.

    Attributes:
        name: for people.
        units: how many it takes in one call.
        forward: whether every call runs the network forward; otherwise that is done once, before.
        prepare: (network, images, layer) -> the function from units to (U, C, H, W).
    """

    name: str
    units: int
    forward: bool
    prepare: Callable[[Deconvnet, Tensor, str], Callable[[Units], Tensor]]


UNITS_AT_ONCE = 16


def comparable(net: Deconvnet, compiled: bool = True) -> list[Baseline]:
    """The baselines that compute what `net` computes, overlapping pooling windows summed, and that are installed.

    Captum and zennit differentiate response and contrast normalisation, so they are left out where `net` passes it.

    Args:
        net: the network and its rule.
        compiled: include the one under `torch.compile`, which compiles for some ten seconds.
    """
    found = [
        _full_frame("batched ATen", memory_format=torch.contiguous_format),
        _full_frame("batched ATen channels_last"),
    ]
    if compiled:
        found.append(_full_frame("batched ATen compiled", compiled=True))
    if not any(isinstance(step, Normalization) for step in net.tape.steps):
        for name, project in (("Captum", project_captum), ("zennit", project_zennit)):
            if _imports(name.lower()):
                found.append(Baseline(name, 1, True, functools.partial(_one_by_one, project)))
    return found


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two batches of projections (U, C, H, W), relative to the largest value of each."""
    largest = theirs.abs().amax(dim=(1, 2, 3)).clamp_min(torch.finfo(theirs.dtype).tiny)
    return float(((ours - theirs).abs().amax(dim=(1, 2, 3)) / largest).max())


def _full_frame(name: str, **options: Any) -> Baseline:
    def prepare(net: Deconvnet, images: Tensor, layer: str) -> Callable[[Units], Tensor]:
        if options.get("compiled"):
            torch.compiler.reset()  # it compiles one function only so many times
        # One image at a time, as others see them: the same rounding and so the same switches.
        return FullFrame(net, images, layer, batch_size=1, **options).project

    return Baseline(name, UNITS_AT_ONCE, False, prepare)


def _one_by_one(
    project: Callable[..., Tensor], net: Deconvnet, images: Tensor, layer: str
) -> Callable[[Units], Tensor]:
    return functools.partial(project, net, images)


def _imports(package: str) -> bool:
    """Whether a package is installed together with what it needs."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


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
    y, _ = step.run((x,), owned=False)
    return y, x if isinstance(step, Rectifier) and step.rule != "deconvnet" else None


def _together(batches: list[Tensor | None], memory_format: torch.memory_format) -> Tensor | None:
    """What was kept of several batches, in one tensor."""
    tensors = [batch for batch in batches if batch is not None]
    return _laid_out(torch.cat(tensors), memory_format) if tensors else None


def _laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=memory_format) if x.dim() == 4 else x


def _backward(step: Step, shape: torch.Size, kept: Any, memory_format: torch.memory_format) -> WayBack:
    """How a step sends whole maps of signal on its output back to its input, of `shape` without the batch dimension.

    Args:
        kept: of all images, what `_forward` returned beside the output.
        memory_format: of the maps.
    """

    def like(signal: Tensor) -> Tensor:
        size = (len(signal), *shape)
        return torch.empty(size, dtype=signal.dtype, device=signal.device, memory_format=memory_format)

    if isinstance(step, Convolution):
        if isinstance(step.padding, str) and step.padding == "same" and any((k + 1) % 2 for k in step.kernel):
            raise ValueError(f"{step.name}: even kernels with padding 'same' are not part of this baseline")
        weight = _laid_out(step.weight, memory_format)
        arguments = (list(step.stride), list(step.before), list(step.dilation), False, [0, 0], step.groups)

        def convolution(signal: Tensor, image: Tensor) -> Tensor:
            mask = [True, False, False]
            return torch.ops.aten.convolution_backward(signal, like(signal), weight, None, *arguments, mask)[0]

        return convolution
    if isinstance(step, Rectifier):
        if step.rule == "deconvnet":
            return lambda signal, image: signal.clamp_(min=0)
        if step.rule == "gradient":
            gate = (kept > 0) & (kept < step.ceiling) if step.ceiling < math.inf else kept > 0
            return lambda signal, image: signal.mul_(gate[image])
        gate = kept > 0
        return lambda signal, image: signal.clamp_(min=0).mul_(gate[image])
    if isinstance(step, MaxPool):
        window = (list(step.kernel), list(step.stride), list(step.padding), list(step.dilation), step.ceil_mode)

        def unpool(signal: Tensor, image: Tensor) -> Tensor:
            return torch.ops.aten.max_pool2d_with_indices_backward(signal, like(signal), *window, kept[image])

        return unpool
    if isinstance(step, AdaptiveAveragePool):
        return lambda signal, image: torch.ops.aten._adaptive_avg_pool2d_backward(signal, like(signal))
    if isinstance(step, AveragePool):
        means = (step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad, step.divisor)
        return lambda signal, image: torch.ops.aten.avg_pool2d_backward(signal, like(signal), *means)
    if isinstance(step, BatchNormalization):
        factor = step.scale().detach().reshape(-1, *[1] * (len(shape) - 1))
        return lambda signal, image: signal.mul_(factor)
    if isinstance(step, Linear):
        matrix = step.weight
        return lambda signal, image: signal @ matrix
    if isinstance(step, Flatten):
        return lambda signal, image: _laid_out(signal.reshape(-1, *shape), memory_format)
    if isinstance(step, Identity) or (isinstance(step, Normalization) and not step.exact):
        return lambda signal, image: signal
    raise ValueError(f"{step.name}: {type(step).__name__} is not part of this baseline")
