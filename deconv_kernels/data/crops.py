"""The crops of photographs that a network is shown: chosen, cut, and as images one by one or in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import at_least
from .photographs import Photograph, listed

__all__ = ["Crop", "CropBatches", "CropImages", "crop_table", "cut", "plan_centres", "plan_crops"]

_FINEST_STEPS = 8


@dataclass(frozen=True)
class Crop:
    """A square cut out of a photograph.

    Args:
        photograph: the photograph's place in the list it came from.
        y, x: the top left corner, in the photograph's pixels.
        side: the square's side, in the photograph's pixels; side / size is the scale at which it is shown.
    """

    photograph: int
    y: int
    x: int
    side: int


def plan_crops(photographs: Sequence[Photograph], size: int = 224, limit: int = 256) -> list[Crop]:
    """Chooses square crops at several scales; the same photographs always give the same crops.

    Every photograph gets the same share of `limit`. In each the side runs from its shorter edge down to `size` in equal
    ratios of at most the square root of 2, and at each side the crops lie on an even grid that reaches every edge, with
    neighbours at most half a side apart, or down to an eighth where that takes too few crops. What is more than the
    share is thinned out evenly. The crops of a photograph that is smaller than `size` have its shorter edge as their
    side and are enlarged, which a warning tells.

    Args:
        photographs: where to cut.
        size: side at which the crops will be shown to the network, in pixels.
        limit: the most crops to choose.

    Returns:
        The crops, by photograph, then from large to small, then by row and column.

    Raises:
        ValueError: `size` or `limit` is below 1.
    """
    at_least("the number of crops", limit, 1)
    at_least("the size of crops", size, 1)
    _tell_enlarged(photographs, size)
    crops: list[Crop] = []
    for index, photograph in enumerate(photographs):
        share = (index + 1) * limit // len(photographs) - index * limit // len(photographs)
        steps = 2
        grid = _grid(index, photograph, size, steps)
        while len(grid) < share and steps < _FINEST_STEPS:
            steps += 1
            grid = _grid(index, photograph, size, steps)
        count = min(share, len(grid))
        crops += [grid[place * len(grid) // count] for place in range(count)]
    return crops


def plan_centres(photographs: Sequence[Photograph], size: int | None = None) -> list[Crop]:
    """Chooses the largest square in the middle of each photograph.

    Args:
        photographs: where to cut.
        size: side at which the squares will be shown, in pixels: of photographs that are smaller they are enlarged,
            which a warning tells. None leaves the warning to the caller.
    """
    if size is not None:
        _tell_enlarged(photographs, size)
    crops = []
    for index, photograph in enumerate(photographs):
        height, width = photograph.pixels.shape[:2]
        side = min(height, width)
        crops.append(Crop(index, (height - side) // 2, (width - side) // 2, side))
    return crops


def cut(photographs: Sequence[Photograph], crops: Sequence[Crop], size: int = 224) -> Tensor:
    """Cuts crops out of photographs and scales them to size x size.

    Args:
        photographs: the list the crops were planned on.
        crops: what to cut.
        size: side of the result, in pixels.

    Returns:
        uint8 RGB tensor of shape (len(crops), 3, size, size).
    """
    images = [Image.fromarray(photograph.pixels) for photograph in photographs]
    pixels = np.empty((len(crops), size, size, 3), dtype=np.uint8)
    for place, crop in enumerate(crops):
        square = images[crop.photograph].crop((crop.x, crop.y, crop.x + crop.side, crop.y + crop.side))
        pixels[place] = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def crop_table(crops: Sequence[Crop], photographs: Sequence[Photograph]) -> tuple[list[str], list[list[object]]]:
    """Where crops were cut, one a row under a head."""
    rows = [[place, photographs[c.photograph].name, c.y, c.x, c.side] for place, c in enumerate(crops)]
    return ["crop", "photograph", "y", "x", "side"], rows


def _grid(index: int, photograph: Photograph, size: int, steps: int) -> list[Crop]:
    height, width = photograph.pixels.shape[:2]
    largest = min(height, width)
    smallest = min(largest, size)
    scales = ceil(2 * log2(largest / smallest)) + 1
    sides = sorted({round(side) for side in np.geomspace(largest, smallest, scales)}, reverse=True)
    return [
        Crop(index, int(y), int(x), side)
        for side in sides
        for y in _positions(height - side, side, steps)
        for x in _positions(width - side, side, steps)
    ]


def _positions(room: int, side: int, steps: int) -> NDArray[np.int64]:
    """Evenly spaced offsets from 0 to `room`, at most side / steps apart."""
    return np.linspace(0, room, ceil(room * steps / side) + 1).round().astype(np.int64)


def _tell_enlarged(photographs: Sequence[Photograph], size: int) -> None:
    sizes = ((photograph.name, *photograph.pixels.shape[:2]) for photograph in photographs)
    if small := [f"{name} ({width}x{height})" for name, height, width in sizes if min(height, width) < size]:
        warnings.warn(f"photographs smaller than {size}x{size} pixels are enlarged: {listed(small)}", stacklevel=3)


class CropImages(Dataset[Tensor]):
    """Crops as a network takes them, one by one, cut when they are asked for.

    Args:
        photographs, crops: as for `cut`.
        size: rows and columns of a crop as the network sees it.
        preprocess: makes of uint8 RGB what the network takes.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        crops: Sequence[Crop],
        size: int,
        preprocess: Callable[[Tensor], Tensor],
    ) -> None:
        self.photographs, self.crops, self.size, self.preprocess = photographs, crops, size, preprocess

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Tensor:
        crop = self.crops[index]
        return self.preprocess(cut([self.photographs[crop.photograph]], [replace(crop, photograph=0)], self.size))[0]


class CropBatches:
    """Batches of preprocessed crops, to be gone through any number of times.

    Args:
        photographs, crops: as for `cut`.
        size: rows and columns of a crop as the network sees it.
        batch_size: crops per batch.
        preprocess: makes of uint8 RGB what the network takes, on its device.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        crops: Sequence[Crop],
        size: int,
        batch_size: int,
        preprocess: Callable[[Tensor], Tensor],
    ) -> None:
        at_least("batch-size", batch_size, 1)
        self.photographs, self.crops, self.size, self.batch_size = photographs, crops, size, batch_size
        self.preprocess = preprocess

    def __len__(self) -> int:
        """How many batches."""
        return -(-len(self.crops) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.crops), self.batch_size):
            yield self.preprocess(self.pixels(range(start, start + self.batch_size)))

    def first(self) -> Tensor:
        """A batch of the first crop."""
        return self.preprocess(self.pixels([0]))

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """Crops as uint8 RGB, (k, 3, size, size); numbers beyond the last are left out."""
        chosen = [self.crops[number] for number in numbers if number < len(self.crops)]
        return cut(self.photographs, chosen, self.size)
