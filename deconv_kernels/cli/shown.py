"""What a command shows a network: crops of photographs, or volumes, signals and images that are tensors in files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ..data.crops import Crop, CropImages, crop_table, cut, plan_centres, plan_crops
from ..data.photographs import Photograph, load_photographs
from ..data.tensor_images import TensorImages, hold_tensors, load_tensor_images
from ..engine.pictures import as_colours, visible
from ..engine.trace.exported import first_convolution
from ..experiments.occlusion import colour_of, occluded
from ..models import load_network
from .fills import describe_fill, fill_colour
from .options import Network, numbers
from .subject import Subject, device_of, load, on_device

__all__ = ["Shown", "ShownCrops", "ShownTensors", "show_centres", "show_crops"]

Fill = float | str | Tensor

_KINDS = {1: "signal", 2: "image", 3: "volume"}


class Shown(ABC):
    """A network on its device, and images to show it.

    Attributes:
        model: in evaluation mode.
        device: where it is.
        source: where its weights come from, in words.
        names: what to call the images.
        one: what one of them is called, in tables and captions.
        origin: what they come from: "photographs" or "tensor files".
        sources: how many of these.
        crops: where they were cut out of photographs; None of tensors.
        dataset: the images, one by one, as the network reads them.
        contents: all that they are made of, by which a run that goes on knows them again.
    """

    model: nn.Module
    device: torch.device
    source: str
    names: Sequence[str]
    one: str
    origin: str
    sources: int
    crops: Sequence[Crop] | None
    dataset: Dataset[Any]
    contents: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def said(self) -> str:
        """How many there are of what, in words."""
        return f"{len(self)} {self.one}{'s' * (len(self) != 1)} of {self.sources} {self.origin}"

    @property
    def counts(self) -> dict[str, int]:
        """The same as numbers by name."""
        return {f"{self.one}s": len(self), self.origin.replace(" ", "_"): self.sources}

    @property
    @abstractmethod
    def first(self) -> Tensor:
        """A batch of one image such as they are, (1, C, [[D,] H,] W), on the network's device."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """All images as the network reads them, (N, C, [[D,] H,] W), on the host."""

    @abstractmethod
    def pixels(self) -> Tensor:
        """All of them as they are drawn: uint8 RGB (N, 3, [D,] H, W); of signals what the network reads."""

    @abstractmethod
    def fill(self, text: str) -> tuple[Fill, str]:
        """What stands in the place of hidden parts, as the network reads it, or "mean" for each image's own; in words.

        Raises:
            ValueError: a text that says nothing of the kind.
        """

    @abstractmethod
    def covered(self, fill: Fill, number: int, origin: Sequence[int], size: Sequence[int]) -> Tensor:
        """An image as it is drawn, with a part hidden; of a signal what the network reads.

        Args:
            fill: what stands there, as `fill` says it.
            number: which image.
            origin, size: [[z,] y,] x of the part's first pixel, and how many there are along each axis.
        """

    @abstractmethod
    def table(self) -> tuple[list[str], list[list[object]]]:
        """Where they come from: a head, and a row for each."""

    @property
    @abstractmethod
    def to_rgb(self) -> Callable[[Tensor], Tensor]:
        """Makes RGB of projections, zero into zero."""


class ShownCrops(Shown):
    """Crops of photographs.

    Args:
        subject: the network.
        photographs, crops: what to cut, and where.
        size: rows and columns of a crop as the network sees it.
    """

    one, origin = "crop", "photographs"

    def __init__(self, subject: Subject, photographs: Sequence[Photograph], crops: Sequence[Crop], size: int) -> None:
        self.model, self.device, self.weights = subject.model, subject.device, subject.weights
        self.source = subject.weights.source
        self.names = [photographs[crop.photograph].name for crop in crops]
        self.sources = len(photographs)
        self.crops: Sequence[Crop] = crops
        self.photographs, self.size = photographs, size
        self.dataset = CropImages(photographs, crops, size, subject.weights.preprocess)
        self.contents = [torch.tensor(photograph.pixels) for photograph in photographs]

    @property
    def first(self) -> Tensor:
        return self.weights.preprocess(cut(self.photographs, self.crops[:1], self.size)).to(self.device)

    def inputs(self) -> Tensor:
        return self.weights.preprocess(self.pixels()).contiguous(memory_format=torch.channels_last)

    def pixels(self) -> Tensor:
        return cut(self.photographs, self.crops, self.size)

    def fill(self, text: str) -> tuple[Fill, str]:
        colour = "mean" if text == "image" else fill_colour(self.weights, text, ("image",))
        return colour, describe_fill(self.weights, text)

    def covered(self, fill: Fill, number: int, origin: Sequence[int], size: Sequence[int]) -> Tensor:
        pixels = cut(self.photographs, self.crops[number : number + 1], self.size)[0]
        colour = colour_of(self.weights.preprocess(pixels), fill)
        paint = self.weights.deprocess(colour[:, None, None]).round().clamp(0, 255).to(torch.uint8)
        return occluded(pixels, torch.tensor([list(origin)]), paint.expand(-1, *size))[0]

    def table(self) -> tuple[list[str], list[list[object]]]:
        return crop_table(self.crops, self.photographs)

    @property
    def to_rgb(self) -> Callable[[Tensor], Tensor]:
        return self.weights.preprocessing.to_rgb


class ShownTensors(Shown):
    """Images that are tensors in files.

    Args:
        model: the network, on its device.
        source: where its weights come from, in words.
        device: where it is.
        images: what to show it.
    """

    origin = "tensor files"
    crops = None

    def __init__(self, model: nn.Module, source: str, device: torch.device, images: TensorImages) -> None:
        self.model, self.source, self.device, self.images = model, source, device, images
        self.names, self.one = images.names, _KINDS[images.values.dim() - 2]
        self.sources = len(set(images.files))
        self.dataset, self.contents = TensorDataset(images.values), [images.values]

    @property
    def first(self) -> Tensor:
        return self.images.values[:1].to(self.device)

    def inputs(self) -> Tensor:
        return self.images.values

    def pixels(self) -> Tensor:
        return visible(self.images.values)

    def fill(self, text: str) -> tuple[Fill, str]:
        if text in ("mean", "image"):
            return (0.0, "zero") if text == "mean" else ("mean", f"the mean of each {self.one}")
        values = torch.tensor(numbers("fill", text, float, "mean, image or numbers"))
        return (values if len(values) > 1 else float(values[0])), text

    def covered(self, fill: Fill, number: int, origin: Sequence[int], size: Sequence[int]) -> Tensor:
        image = self.images.values[number]
        content = colour_of(image, fill).view(-1, *[1] * len(size)).expand(-1, *size)
        return visible(occluded(image, torch.tensor([list(origin)]), content))[0]

    def table(self) -> tuple[list[str], list[list[object]]]:
        places = zip(self.images.files, self.images.places, strict=True)
        return [self.one, "file", "number"], [[n, file, place] for n, (file, place) in enumerate(places)]

    @property
    def to_rgb(self) -> Callable[[Tensor], Tensor]:
        return as_colours


def show_crops(network: Network, sources: Sequence[str], size: int, limit: int) -> Shown:
    """Crops of photographs, at several scales, or the tensors of files.

    Args:
        network: what a command knows of it.
        sources: files and folders.
        size: rows and columns of the crops.
        limit: crops at most.

    Raises:
        ValueError: something about the options cannot work.
    """
    return _show(network, sources, size, partial(plan_crops, limit=limit))


def show_centres(network: Network, sources: Sequence[str], size: int) -> Shown:
    """The central squares of photographs, or the tensors of files.

    Args:
        network, sources, size: as for `show_crops`.

    Raises:
        ValueError: something about the options cannot work.
    """
    return _show(network, sources, size, plan_centres)


def _show(network: Network, sources: Sequence[str], size: int, plan: Callable[..., list[Crop]]) -> Shown:
    """The parts of photographs that are planned for a size, or the tensors of files."""
    if _are_tensors(sources):
        return _show_tensors(network, sources)
    subject = load(network, size)
    photographs = load_photographs(sources)
    return ShownCrops(subject, photographs, plan(photographs, size), size)


def _are_tensors(sources: Sequence[str]) -> bool:
    """Whether the files named are tensors; what is not there is left to whoever reads photographs."""
    there = [source for source in sources if Path(source).exists()]
    return bool(there) and hold_tensors(there)


def _show_tensors(network: Network, sources: Sequence[str]) -> ShownTensors:
    if network.reading.mean or network.reading.std:
        raise ValueError("tensors are shown to the network as they are: leave --mean and --std out")
    device = device_of(network.machine)
    model, source = load_network(network.model, network.weights)
    first = first_convolution(model)
    if first is None:
        raise ValueError(
            f"model {network.model!r} has no convolution, which would say how many axes and channels its images have"
        )
    images = load_tensor_images(sources, len(first.kernel_size), first.in_channels)
    return ShownTensors(on_device(model, device, network.model), source, device, images)
