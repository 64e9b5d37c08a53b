"""The occluder: where it lies on an image, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import whole_numbers

__all__ = ["Occluder", "colour_of", "occluded", "positions"]


class Occluder:
    """A rectangle of one colour in all its places on an image; the arguments are those of `occlude`.

    Attributes:
        size: of it along every axis.
        axes: where it begins along every axis, (R,) int64 each.
        origins: (P, rank) int64, [[z,] y,] x of its first pixel at all positions, in row-major order.
        content: (C, [[d,] h,] w), what it holds.
    """

    def __init__(
        self,
        image: Tensor,
        size: int | Sequence[int],
        stride: int | Sequence[int],
        fill: float | str | Sequence[float] | Tensor,
        cover: bool,
    ) -> None:
        rank = image.dim() - 1
        self.size, strides = whole_numbers("size", size, rank), whole_numbers("stride", stride, rank)
        self.axes = [positions(*along, cover) for along in zip(image.shape[1:], self.size, strides, strict=True)]
        self.origins = torch.stack(torch.meshgrid(self.axes, indexing="ij"), -1).view(-1, rank)
        self.content = colour_of(image, fill).view(-1, *[1] * rank).expand(-1, *self.size)


def positions(length: int, size: int, stride: int, cover: bool = True) -> Tensor:
    """Where the occluder begins along one axis.

    Args:
        length: of the image.
        size: of the occluder.
        stride: from one position to the next, in pixels.
        cover: end with a position that touches the far border, however near to the one before, so that every pixel is
            hidden at some position if the stride is not above the size. Else all positions are multiples of the stride.

    Returns:
        (R,) int64, rising; the occluder is wholly inside the image at each.

    Raises:
        ValueError: a size or stride below 1, or an occluder larger than the image.
    """
    if size < 1 or stride < 1:
        raise ValueError(f"size and stride of the occluder must be at least 1, got {size} and {stride}")
    if size > length:
        raise ValueError(f"the occluder of {size} pixels is larger than the image of {length}")
    places = list(range(0, length - size + 1, stride))
    if cover and places[-1] != length - size:
        places.append(length - size)
    return torch.tensor(places)


def occluded(image: Tensor, origins: Tensor, content: Tensor) -> Tensor:
    """Copies of an image, each with one rectangle replaced.

    Args:
        image: (C, [[D,] H,] W).
        origins: (P, rank) integers, [[z,] y,] x of the rectangles' first pixels; they may overhang the image.
        content: (C, [[d,] h,] w).

    Returns:
        (P, C, [[D,] H,] W).
    """
    images = image.repeat(len(origins), *[1] * image.dim())
    for copy, origin in zip(images, origins.tolist(), strict=True):
        axes = zip(origin, content.shape[1:], image.shape[1:], strict=True)
        bounds = [(begin, max(begin, 0), min(begin + size, length)) for begin, size, length in axes]
        if all(first < stop for _, first, stop in bounds):
            inside = (slice(None), *(slice(first - begin, stop - begin) for begin, first, stop in bounds))
            copy[(slice(None), *(slice(first, stop) for _, first, stop in bounds))] = content[inside]
    return images


def colour_of(image: Tensor, fill: float | str | Sequence[float] | Tensor) -> Tensor:
    """What an occluder of an image (C, ...) holds, (C,); `fill` as for `occlude`.

    Raises:
        ValueError: no finite number, or not one for each channel.
    """
    channels = len(image)
    if isinstance(fill, str):
        if fill != "mean":
            raise ValueError(f"fill must be numbers or 'mean', got {fill!r}")
        return image.flatten(1).mean(1)
    colour = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    if colour.dim() > 1 or (colour.dim() == 1 and len(colour) != channels) or not bool(colour.isfinite().all()):
        raise ValueError(f"fill must be one finite number, or one for each of {channels} channels, got {fill}")
    return colour.expand(channels)
