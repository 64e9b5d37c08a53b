"""The network that a command looks at, as its options name it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import at_least
from ..engine.deconvnet import Deconvnet
from ..engine.trace.exported import first_convolution
from ..experiments.common.layers import chosen_layers
from ..experiments.common.tracing import forward_only
from ..models import Weights, load_weights, not_photographs
from ..ops.backends import usable_device
from .options import Machine, Network, names


@dataclass(frozen=True)
class Subject:
    """The network an experiment looks at, on its device, and its weights with the preprocessing they need."""

    weights: Weights
    model: nn.Module
    device: torch.device

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network is given of uint8 RGB images (N, 3, H, W)."""
        return self.weights.preprocess(pixels).to(self.device)


def load(network: Network, size: int) -> Subject:
    """The network on images of size x size.

    Raises:
        ValueError: something about the options cannot work.
    """
    device = device_of(network.machine)
    at_least("size", size, 1)
    mean, deviation = network.reading.constants()
    weights = load_weights(network.model, network.weights, size=size, mean=mean, deviation=deviation)
    model = weights.model()
    first = first_convolution(model)
    if first is not None and len(first.kernel_size) != 2:
        raise ValueError(not_photographs(network.model, first))
    # Convolutions of channels_last maps are the faster ones on CPUs and GPUs alike.
    model = on_device(model, device, network.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Subject(weights, model, device)


def on_device(model: nn.Module, device: torch.device, name: str) -> nn.Module:
    """A network on a device.

    Raises:
        ValueError: its parameters are not of float32; `name` is what to call it.
    """
    if other := {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}:
        raise ValueError(f"model {name!r} has parameters of {other.pop()}; commands run networks of torch.float32")
    return model.to(device)


def layers_of(network: Deconvnet | nn.Module, separated: str) -> tuple[str, ...]:
    """The layers of a network that a list separated by commas names, checked.

    Raises:
        ValueError: none, one twice, or one that the network does not have.
    """
    return chosen_layers(forward_only(network), names(separated))


def device_of(machine: Machine) -> torch.device:
    """Where to compute, with the number of CPU threads set.

    Raises:
        ValueError: a device that is not there, or less than one thread.
    """
    set_threads(machine.threads)
    return usable_device(machine.device)


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads, if one was given.

    Raises:
        ValueError: it is below 1.
    """
    if threads is not None:
        at_least("threads", threads, 1)
        torch.set_num_threads(threads)
