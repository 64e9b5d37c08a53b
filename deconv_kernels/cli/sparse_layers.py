"""The layers of a deconvolutional network, as the options of `deconv-kernels unsupervised` name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..experiments.unsupervised import DeconvolutionalNetwork, SparseLayer
from .options import numbers
from .unsupervised_settings import Settings

T = TypeVar("T", int, float)


def network_of(settings: Settings) -> DeconvolutionalNetwork:
    """One to be trained, or one that was.

    Raises:
        ValueError: layers that cannot be, or filters of images that are not grey or colour.
    """
    if settings.filters is not None:
        network = DeconvolutionalNetwork.load(settings.filters)
        if network.channels not in (1, 3):
            raise ValueError(
                f"{str(settings.filters)!r} is for images of {network.channels} channels, not grey or colour"
            )
        return network
    maps = _for_each("maps", settings.maps, int)
    fidelities = [0.4, *[0.2] * (len(maps) - 1)]
    if settings.fidelity is not None:
        fidelities = _for_each("fidelity", settings.fidelity, float, len(maps))
    kernels, pools = (_for_each(name, getattr(settings, name), int, len(maps)) for name in ("kernel", "pool"))
    layers = [SparseLayer(*layer) for layer in zip(maps, fidelities, kernels, pools, strict=True)]
    return DeconvolutionalNetwork(layers, channels=1 if settings.grey else 3, seed=settings.seed)


def _for_each(name: str, text: str, kind: Callable[[str], T], layers: int | None = None) -> list[T]:
    """Numbers separated by commas, one for every layer or the same for all; ValueError: none, or another number."""
    what = "whole numbers" if kind is int else "numbers"
    values = list(numbers(name, text, kind, what))
    if not values:
        raise ValueError(f"{name} must be {what} separated by commas, got {text!r}")
    if layers is None or len(values) == layers:
        return values
    if len(values) > 1:
        raise ValueError(f"{name} needs one number, or one for each of the {layers} layers, got {text!r}")
    return values * layers
