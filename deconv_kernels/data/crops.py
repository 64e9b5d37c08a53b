"""Crops of photographs as batches that a network takes, cut when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..checks import at_least
from ..engine.deconvnet import Deconvnet
from ..models import Weights
from .photographs import Crop, Photograph, cut

__all__ = ["CropBatches", "running_on", "shapes_of"]


@contextmanager
def running_on(images: Tensor, *kinds: type[Exception]) -> Iterator[None]:
    """Inside, errors of a network's forward pass on images, of these kinds, say that it does not take them.

    Raises:
        ValueError: it does not.
    """
    try:
        yield
    except kinds as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(f"images of {shape} do not go through the network: {error}") from error


def shapes_of(net: Deconvnet, images: Tensor, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of layers' outputs for the first of some images, (C, H, W) or (F,).

    Raises:
        ValueError: no layers, or a network that does not take such images.
    """
    values = {layer: net.tape.value(layer) for layer in layers}
    if not values:
        raise ValueError("at least one layer is needed")
    with running_on(images, RuntimeError, TypeError, ValueError):
        record = net.record(images[:1], layers, progress=False)
    shapes = {layer: record.shapes[value] for layer, value in values.items()}
    return {layer: shape for layer, shape in shapes.items() if shape is not None}


class CropBatches:
    """Batches of preprocessed crops, to be gone through any number of times.

    Args:
        photographs, crops: as for `deconv_kernels.photographs.cut`.
        size: rows and columns of a crop as the network sees it.
        batch_size: crops per batch.
        weights: whose preprocessing to use.
        device: where the batches go.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        crops: Sequence[Crop],
        size: int,
        batch_size: int,
        weights: Weights,
        device: torch.device,
    ) -> None:
        at_least("batch-size", batch_size, 1)
        self.photographs, self.crops, self.size, self.batch_size = photographs, crops, size, batch_size
        self.weights, self.device = weights, device

    def __len__(self) -> int:
        """How many batches."""
        return -(-len(self.crops) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.crops), self.batch_size):
            yield self.weights.preprocess(self.pixels(range(start, start + self.batch_size))).to(self.device)

    def first(self) -> Tensor:
        """A batch of the first crop."""
        return self.weights.preprocess(self.pixels([0])).to(self.device)

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """Crops as uint8 RGB, (k, 3, size, size); numbers beyond the last are left out."""
        chosen = [self.crops[number] for number in numbers if number < len(self.crops)]
        return cut(self.photographs, chosen, self.size)
