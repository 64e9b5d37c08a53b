"""Photographs as the layers of an unsupervised deconvolutional network reconstruct them.

Source: Zeiler, Taylor & Fergus, "Adaptive Deconvolutional Networks for Mid and High Level Feature Learning" (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .unsupervised import DeconvolutionalNetwork, Epoch, SparseFeatures, contrast_normalised

__all__ = ["CONTRAST_FLOOR", "Reconstructions", "learning_table", "reconstruct", "seen"]

CONTRAST_FLOOR = 0.02
"""Of the contrast that is normalised away, as a share of white: some five levels of a photograph's 256."""


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """What the layers of a network make of N images.

    Attributes:
        inputs: (N, C, H, W), the images as the network sees them.
        features: what it inferred.
        made: by layer (N, C, H, W).
        errors: by layer of every image, squared, as a share of the image's energy.
    """

    inputs: Tensor
    features: SparseFeatures
    made: tuple[Tensor, ...]
    errors: tuple[list[float], ...]

    def numbers(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Of every image, by layer, how well and how sparsely it is explained, as JSON takes it; `names` of images."""
        codes = self.features.codes
        return [
            {
                "photograph": name,
                "layers": [
                    {
                        "layer": layer,
                        "error": errors[number],
                        "nonzero": int(code.maps[number].count_nonzero()) / code.maps[number].numel(),
                        "l1": float(code.maps[number].abs().sum()),
                        "objective": float(code.objective[-1, number]),
                    }
                    for layer, (code, errors) in enumerate(zip(codes, self.errors, strict=True), 1)
                ],
            }
            for number, name in enumerate(names)
        ]


def seen(pixels: Tensor, channels: int, device: torch.device) -> Tensor:
    """What a network of grey or colour images sees of uint8 RGB images."""
    values = pixels.to(device, torch.float32) / 255
    if channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(3, 1, 1)  # ITU-R BT.601
        values = (values * luma).sum(1, keepdim=True)
    return contrast_normalised(values, floor=CONTRAST_FLOOR)


@torch.no_grad()
def reconstruct(network: DeconvolutionalNetwork, images: Tensor, **inference: Any) -> Reconstructions:
    """Infers features of images, and reconstructs these from each layer.

    Args:
        network: any.
        images: (N, C, H, W), as `seen` returns them.
        inference: as `DeconvolutionalNetwork.infer` takes it.
    """
    features = network.infer(images, **inference)
    made = tuple(network.reconstruct(features, layer) for layer in range(1, len(network.layers) + 1))
    energy = images.square().sum((1, 2, 3)).clamp(min=torch.finfo(images.dtype).tiny)
    errors = tuple(((each - images).square().sum((1, 2, 3)) / energy).tolist() for each in made)
    return Reconstructions(images, features, made, errors)


def learning_table(history: Sequence[Epoch], errors: Sequence[Sequence[float]]) -> list[list[str]]:
    """For people, per layer: how learning went, if there was any, and the mean error of the images shown."""
    rows = [["layer", "error at first", "at last", "non-zero", "silent maps", "error of photographs"]]
    for layer, shown in enumerate(errors, 1):
        epochs = [epoch for epoch in history if epoch.layer == layer]
        rows.append([str(layer), "-", "-", "-", "-", f"{sum(shown) / len(shown):.1%}"])
        if epochs:
            first, last = epochs[0], epochs[-1]
            rows[-1][1:5] = [f"{first.error:.1%}", f"{last.error:.1%}", f"{last.nonzero:.2%}", str(last.silent)]
    return rows
