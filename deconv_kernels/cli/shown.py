"""What a command shows a network: crops of photographs, or volumes, signals and images that are tensors in files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..checks import at_least
from ..data.crops import Crop, CropImages, crop_table, cut, plan_centres, plan_crops
from ..data.datasets import LabelledImages, class_folders, load_class_tensors, load_labelled
from ..data.photographs import Photograph, load_photographs
from ..data.tensor_images import SUFFIXES, TensorImages, hold_tensors, load_tensor_images
from ..engine.deconvnet import Deconvnet
from ..engine.pictures import as_colours, describe_channels, visible
from ..engine.trace.exported import first_convolution
from ..experiments.common.tracing import forward_only
from ..experiments.correspondence import place_points, places_of, points_in_crops, read_points, squares_around
from ..experiments.occlusion import colour_of, occluded
from ..models import load_network
from .fills import describe_border, describe_fill, fill_colour
from .options import Network, numbers
from .subject import Subject, device_of, load, on_device

__all__ = [
    "check_photographs",
    "Shown",
    "ShownCrops",
    "ShownTensors",
    "show_centres",
    "show_crops",
    "show_labelled",
    "show_parts",
]

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
        noun: what the network is said to see: image, volume or signal.
        what: what they are, in words.
        classes: what the network's classes are called, from class 0 on, where that is known.
        origin: what they come from: "photographs" or "tensor files".
        sources: how many of these.
        remark: how they are drawn, a sentence; nothing where that goes without saying.
        crops: where they were cut out of photographs; None of tensors.
        dataset: the images, one by one, as the network reads them.
        contents: all that they are made of, by which a run that goes on knows them again.
    """

    model: nn.Module
    device: torch.device
    source: str
    names: Sequence[str]
    one: str
    noun: str
    what: str
    classes: Sequence[str]
    origin: str
    sources: int
    remark: str
    crops: Sequence[Crop] | None
    dataset: Dataset[Any]
    contents: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def said(self) -> str:
        """How many there are of what, in words."""
        return f"{_counted(len(self), self.one)} of {_counted(self.sources, self.origin[:-1])}"

    @property
    def counts(self) -> dict[str, int]:
        """The same as numbers by name."""
        return {f"{self.one}s": len(self), self.origin.replace(" ", "_"): self.sources}

    @cached_property
    def net(self) -> Deconvnet:
        """The network, traced to be run forward."""
        return forward_only(self.model, self.first)

    @property
    @abstractmethod
    def first(self) -> Tensor:
        """A batch of one image such as they are, (1, C, [[D,] H,] W), on the network's device."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """All images as the network reads them, (N, C, [[D,] H,] W), on the host."""

    @abstractmethod
    def pixels(self, numbers: Sequence[int] | None = None) -> Tensor:
        """All of them, or some, as they are drawn: uint8 RGB (N, 3, [D,] H, W); of signals what the network reads."""

    @abstractmethod
    def whole(self, count: int) -> Shown:
        """The central squares of the first photographs, or the first tensors."""

    @abstractmethod
    def drawn(self, inputs: Tensor) -> Tensor:
        """Images as the network reads them (N, C, [[D,] H,] W), as `pixels` has them."""

    @abstractmethod
    def network(self, weights: str) -> nn.Module:
        """The network with the weights of another file, on its device.

        Raises:
            ValueError: a file that does not hold them.
        """

    def batches(self, batch_size: int) -> DataLoader[Any]:
        """The images as the network reads them, batch by batch.

        Raises:
            ValueError: a batch size below 1.
        """
        at_least("batch-size", batch_size, 1)
        return DataLoader(self.dataset, batch_size)

    @abstractmethod
    def fill(self, text: str, others: Sequence[str] = ("image",)) -> tuple[Fill, str]:
        """What stands in the place of hidden or missing parts, as the network reads it; and in words.

        Args:
            text: as the user gave it.
            others: words that stand for something else, which is returned by its name: of "image", each image's own
                mean, "mean".

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
        named: what the command knows of the network.
        cut_as: what the crops are called in captions.
    """

    one, noun, origin, remark = "crop", "image", "photographs", ""

    def __init__(
        self,
        subject: Subject,
        photographs: Sequence[Photograph],
        crops: Sequence[Crop],
        size: int,
        named: Network,
        cut_as: str,
    ) -> None:
        self.model, self.device, self.weights = subject.model, subject.device, subject.weights
        self.named = named
        self.source, self.classes = subject.weights.source, subject.weights.classes
        self.names = [photographs[crop.photograph].name for crop in crops]
        self.sources = len(photographs)
        self.crops: Sequence[Crop] = crops
        self.photographs, self.size = photographs, size
        cuts = _counted(len(crops), cut_as.removesuffix("s"))
        self.what = f"{cuts} of {size}x{size} of {_counted(len(photographs), 'photograph')}"
        self.dataset = CropImages(photographs, crops, size, subject.weights.preprocess)
        self.contents = [torch.tensor(photograph.pixels) for photograph in photographs]

    @property
    def first(self) -> Tensor:
        return self.weights.preprocess(cut(self.photographs, self.crops[:1], self.size)).to(self.device)

    def inputs(self) -> Tensor:
        return self.weights.preprocess(self.pixels()).contiguous(memory_format=torch.channels_last)

    def pixels(self, numbers: Sequence[int] | None = None) -> Tensor:
        chosen = self.crops if numbers is None else [self.crops[number] for number in numbers]
        return cut(self.photographs, chosen, self.size)

    def whole(self, count: int) -> Shown:
        centres = plan_centres(self.photographs[:count])
        subject = Subject(self.weights, self.model, self.device)
        return ShownCrops(subject, self.photographs, centres, self.size, self.named, "central squares")

    def drawn(self, inputs: Tensor) -> Tensor:
        return self.weights.deprocess(inputs.cpu()).round().clamp(0, 255).to(torch.uint8)

    def network(self, weights: str) -> nn.Module:
        return load(replace(self.named, weights=weights), self.size).model

    def fill(self, text: str, others: Sequence[str] = ("image",)) -> tuple[Fill, str]:
        named = "mean" if text == "image" else text
        colour = named if text in others else fill_colour(self.weights, text, others)
        return colour, describe_fill(self.weights, text)

    def covered(self, fill: Fill, number: int, origin: Sequence[int], size: Sequence[int]) -> Tensor:
        pixels = self.pixels([number])[0]
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
        named: what the command knows of the network.
        model: the network, on its device.
        source: where its weights come from, in words.
        device: where it is.
        images: what to show it.
    """

    origin = "tensor files"
    classes, crops = (), None

    def __init__(
        self, named: Network, model: nn.Module, source: str, device: torch.device, images: TensorImages
    ) -> None:
        self.named, self.model, self.source, self.device, self.images = named, model, source, device, images
        self.names, self.one = images.names, _KINDS[images.values.dim() - 2]
        self.noun, self.sources = self.one, len(set(images.files))
        sides = "x".join(map(str, images.values.shape[2:]))
        self.what = f"{_counted(len(self), self.one)} of {sides} of {_counted(self.sources, self.origin[:-1])}"
        self.remark = describe_channels(images.values.shape[1]) if images.values.dim() > 3 else ""
        self.dataset, self.contents = TensorDataset(images.values), [images.values]

    @property
    def first(self) -> Tensor:
        return self.images.values[:1].to(self.device)

    def only(self, numbers: Sequence[int]) -> ShownTensors:
        """Some of the images."""
        return ShownTensors(self.named, self.model, self.source, self.device, self.images.only(numbers))

    def inputs(self) -> Tensor:
        return self.images.values

    def pixels(self, numbers: Sequence[int] | None = None) -> Tensor:
        return visible(self.images.values if numbers is None else self.images.values[list(numbers)])

    def whole(self, count: int) -> Shown:
        return self.only(range(min(count, len(self))))

    def drawn(self, inputs: Tensor) -> Tensor:
        return visible(inputs.cpu())

    def network(self, weights: str) -> nn.Module:
        return on_device(load_network(self.named.model, weights)[0], self.device, self.named.model)

    def fill(self, text: str, others: Sequence[str] = ("image",)) -> tuple[Fill, str]:
        if text == "mean":
            return 0.0, "zero"
        if text in others:
            return ("mean", f"the mean of each {self.one}") if text == "image" else (text, describe_border(text))
        values = torch.tensor(numbers("fill", text, float, f"{', '.join(('mean', *others))} or numbers"))
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
    return _show(network, sources, size, partial(plan_crops, limit=limit), "crops")


def show_centres(network: Network, sources: Sequence[str], size: int) -> Shown:
    """The central squares of photographs, or the tensors of files.

    Args:
        network, sources, size: as for `show_crops`.

    Raises:
        ValueError: something about the options cannot work.
    """
    return _show(network, sources, size, plan_centres, "central squares")


def show_parts(
    network: Network, sources: Sequence[str], size: int, points: str, around: float | None
) -> tuple[Shown, dict[str, Tensor], int]:
    """Squares of photographs, or the tensors of files, in which points are.

    Args:
        network, sources, size: as for `show_crops`.
        points: the file that says where they are.
        around: how large a square around the points of a photograph is, as a multiple of how far they are apart; None
            takes the central square.

    Returns:
        The images with points; for every part (N, rank), its [[z,] y,] x in each; and how many images have no points.

    Raises:
        ValueError: something about the options or the points cannot work.
    """
    if _are_tensors(sources):
        if around is not None:
            raise ValueError("tensors are shown to the network whole: leave --around out")
        shown = _show_tensors(network, sources)
        rank, count = shown.images.values.dim() - 2, len(shown)
        sizes = [shown.images.values.shape[2:]] * count
        found, places = places_of(read_points(points, rank), shown.names, sizes, shown.one)
        return shown.only(found), places, count - len(found)
    given, loaded = read_points(points), load_photographs(sources)
    photographs, places = place_points(given, loaded)
    subject = load(network, size)
    crops = squares_around(photographs, places, around, size)
    inside = points_in_crops(places, crops, photographs, size)
    return ShownCrops(subject, photographs, crops, size, network, "squares"), inside, len(loaded) - len(photographs)


@dataclass(frozen=True)
class ShownLabelled:
    """A network on its device, and images by class to show it.

    Attributes:
        model: in evaluation mode.
        source: where its weights come from, in words.
        dataset: the images, and their classes.
        size: of an image: the rows and columns of photographs, or what it has along each axis.
        preprocess: makes of them what the network reads; None of tensors, which are that.
    """

    model: nn.Module
    source: str
    dataset: LabelledImages
    size: int | tuple[int, ...]
    preprocess: Callable[[Tensor], Tensor] | None


def show_labelled(network: Network, source: str | Sequence[str], size: int) -> ShownLabelled:
    """Photographs by class, or the tensors of files in a folder for each class.

    Args:
        network, size: as for `show_crops`.
        source: a word for images that packages ship, or files and folders, as `load_labelled` takes them.

    Raises:
        ValueError: something about the options cannot work.
    """
    folder = None if isinstance(source, str) or len(source) != 1 else Path(source[0])
    if folder is not None and folder.is_dir() and hold_tensors(class_folders(folder)):
        model, said, first = _reader_of_tensors(network)
        dataset = load_class_tensors(folder, len(first.kernel_size), first.in_channels)
        assert isinstance(dataset.images, Tensor)
        return ShownLabelled(model, said, dataset, tuple(dataset.images.shape[2:]), None)
    subject = load(network, size)

    def preprocess(batch: Tensor) -> Tensor:
        return subject.weights.preprocess(batch).contiguous(memory_format=torch.channels_last)

    return ShownLabelled(subject.model, subject.weights.source, load_labelled(source, size), size, preprocess)


def _show(network: Network, sources: Sequence[str], size: int, plan: Callable[..., list[Crop]], cut_as: str) -> Shown:
    """The parts of photographs that are planned for a size, or the tensors of files."""
    if _are_tensors(sources):
        return _show_tensors(network, sources)
    subject = load(network, size)
    photographs = load_photographs(sources)
    return ShownCrops(subject, photographs, plan(photographs, size), size, network, cut_as)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def check_photographs(sources: Sequence[str], why: str) -> None:
    """ValueError: files of tensors, where only photographs can be shown; `why` says so."""
    if _are_tensors(sources):
        raise ValueError(f"{why}, and {', '.join(SUFFIXES)} files hold tensors")


def _are_tensors(sources: Sequence[str]) -> bool:
    """Whether the files named are tensors; what is not there is left to whoever reads photographs."""
    there = [source for source in sources if Path(source).exists()]
    return bool(there) and hold_tensors(there)


def _show_tensors(network: Network, sources: Sequence[str]) -> ShownTensors:
    model, source, first = _reader_of_tensors(network)
    images = load_tensor_images(sources, len(first.kernel_size), first.in_channels)
    return ShownTensors(network, model, source, device_of(network.machine), images)


def _reader_of_tensors(network: Network) -> tuple[nn.Module, str, nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """A network on its device, where its weights come from, and its first convolution."""
    network.reading.refuse()
    device = device_of(network.machine)
    model, source = load_network(network.model, network.weights)
    first = first_convolution(model)
    if first is None:
        raise ValueError(
            f"model {network.model!r} has no convolution, which would say how many axes and channels its images have"
        )
    return on_device(model, device, network.model), source, first
