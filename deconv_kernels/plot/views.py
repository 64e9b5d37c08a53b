"""What a page shows of pictures, of volumes and of signals: all of it as pictures with two axes, and words about it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.figures import beneath
from ..engine.pictures import Pixels, address_of, as_file, patches, planes_inside, slices, with_contrast
from ..experiments.occlusion import Occlusion
from .occlusion import of_plane, planes_shown

__all__ = ["Photographs", "Pictures", "Signals", "View", "Volumes", "jpeg", "png", "view_of"]

Box = Sequence[int]

_SMALL = 48
_SIGNAL = (100, 300)  # rows and columns of a drawn signal
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")


@dataclass(frozen=True)
class Photographs:
    """What the network saw, to be shown.

    Attributes:
        pixels: (N, 3, H, W) uint8 RGB, (N, 3, D, H, W) of volumes; signals (N, C, L) as the network reads them.
        names: (N,) of what they come from.
    """

    pixels: Tensor
    names: Sequence[str]


@dataclass(frozen=True)
class Hidden:
    """What became of an image, or of a plane of a volume, under an occluder, as of a picture.

    Attributes:
        name: what it is called.
        found: what became of it, by rows and columns; of a signal there is one row.
        src: the picture.
        size: rows and columns of `found`'s pixels in it.
        projection: the map's strongest units projected, as a picture; None for none.
    """

    name: str
    found: Occlusion
    src: str
    size: tuple[int, int]
    projection: str | None


class View:
    """How images of some kind are shown.

    Args:
        shown: the images.
        to_rgb: makes RGB of projections, zero into zero.

    Attributes:
        one, occluder: what an image is called, and what hides a part of it.
        size: rows and columns in which boxes are said.
        aspect: height and width of an image as it is drawn.
    """

    one: str
    occluder: str
    size: tuple[int, int]

    def __init__(self, shown: Photographs, to_rgb: Callable[[Tensor], Tensor]) -> None:
        self.shown, self.to_rgb = shown, to_rgb
        self.aspect = self.size

    def tiles(self, windows: Tensor, boxes: Sequence[Box]) -> list[str]:
        """Projections as pictures, by their addresses."""
        raise NotImplementedError

    def patches(self, image: Sequence[int], boxes: Sequence[Box]) -> list[str | None]:
        """What boxes hold, as pictures; None where the page cuts it out of the image itself."""
        raise NotImplementedError

    def whole(self, number: int, box: Box) -> tuple[int | str, dict[str, str]]:
        """The image in which a box lies, or the part of it that is shown: its key, its picture, its name, its words."""
        raise NotImplementedError

    def box(self, box: Box) -> list[int]:
        """A box y0, x0, y1, x1 in the picture of `whole`."""
        raise NotImplementedError

    def place(self, at: Sequence[int]) -> str:
        """Where a unit lies in its map, in words."""
        raise NotImplementedError

    def hidden(self, found: Occlusion, number: int) -> list[Hidden]:
        """What became of an image under an occluder, as pictures."""
        raise NotImplementedError


class Pictures(View):
    """Crops of photographs. A patch is a view of its crop, so that no pixel is in the page twice."""

    one, occluder = "crop", "square"

    def __init__(self, shown: Photographs, to_rgb: Callable[[Tensor], Tensor]) -> None:
        height, width = shown.pixels.shape[2:]
        self.size = (height, width)
        super().__init__(shown, to_rgb)

    def tiles(self, windows: Tensor, boxes: Sequence[Box]) -> list[str]:
        return [_tile(picture) for picture in with_contrast(self.to_rgb(windows))]

    def patches(self, image: Sequence[int], boxes: Sequence[Box]) -> list[str | None]:
        return [None] * len(image)

    def whole(self, number: int, box: Box) -> tuple[int | str, dict[str, str]]:
        name = self.shown.names[number]
        return number, {"src": jpeg(self._picture(number)), "name": name, "about": f"Crop {number}, of {name}."}

    def box(self, box: Box) -> list[int]:
        return list(box)

    def place(self, at: Sequence[int]) -> str:
        return "row {}, column {}".format(*at)

    def hidden(self, found: Occlusion, number: int) -> list[Hidden]:
        projection = None
        if found.projection is not None:
            projection = jpeg(with_contrast(self.to_rgb(found.projection[None]))[0])
        return [Hidden(self.shown.names[number], found, jpeg(self._picture(number)), self.size, projection)]

    def _picture(self, number: int) -> Pixels:
        return self.shown.pixels[number].permute(1, 2, 0).numpy()


class Volumes(View):
    """Volumes: projections and patches as rows of slices, and of a whole volume the plane in the middle of a box."""

    one, occluder = "volume", "box"

    def __init__(self, shown: Photographs, to_rgb: Callable[[Tensor], Tensor]) -> None:
        self.depth, height, width = shown.pixels.shape[2:]
        self.size = (height, width)
        super().__init__(shown, to_rgb)

    def tiles(self, windows: Tensor, boxes: Sequence[Box]) -> list[str]:
        pictures = with_contrast(self.to_rgb(windows))
        return [_tile(row) for row in slices(pictures, inside=planes_inside(boxes, self.depth))]

    def patches(self, image: Sequence[int], boxes: Sequence[Box]) -> list[str | None]:
        pictures = patches(self.shown.pixels, image, boxes)
        return [_tile(row) for row in slices(pictures, inside=planes_inside(boxes, self.depth))]

    def whole(self, number: int, box: Box) -> tuple[int | str, dict[str, str]]:
        plane = min(max((box[0] + box[3]) // 2, 0), self.depth - 1)
        name = self.shown.names[number]
        about = f"Plane {plane} of volume {number}, {name}."
        return f"{number}/{plane}", {"src": jpeg(self._plane(number, plane)), "name": name, "about": about}

    def box(self, box: Box) -> list[int]:
        return [box[1], box[2], box[4], box[5]]

    def place(self, at: Sequence[int]) -> str:
        return "plane {}, row {}, column {}".format(*at)

    def hidden(self, found: Occlusion, number: int) -> list[Hidden]:
        assert found.planes is not None
        projected = None
        if found.projection is not None:
            projected = with_contrast(self.to_rgb(found.projection[None]))[0]
        rows = []
        for place in planes_shown(found, len(self.shown.names)):
            plane = int(found.planes[place]) + found.size[0] // 2
            name = f"{self.shown.names[number]}, plane {plane}"
            projection = None if projected is None else jpeg(projected[plane])
            src = jpeg(self._plane(number, plane))
            rows.append(Hidden(name, of_plane(found, place), src, self.size, projection))
        return rows

    def _plane(self, number: int, plane: int) -> Pixels:
        return self.shown.pixels[number, :, plane].permute(1, 2, 0).numpy()


class Signals(View):
    """Signals as lines, every channel in a colour of its own."""

    one, occluder = "signal", "span"

    def __init__(self, shown: Photographs, to_rgb: Callable[[Tensor], Tensor]) -> None:
        self.size = (1, shown.pixels.shape[2])
        super().__init__(shown, to_rgb)
        self.aspect = _SIGNAL

    def tiles(self, windows: Tensor, boxes: Sequence[Box]) -> list[str]:
        return [_line(window) for window in windows]

    def patches(self, image: Sequence[int], boxes: Sequence[Box]) -> list[str | None]:
        return [_line(window) for window in beneath(self.shown.pixels, image, boxes)]

    def whole(self, number: int, box: Box) -> tuple[int | str, dict[str, str]]:
        name = self.shown.names[number]
        about = f"Signal {number}, {name}."
        return number, {"src": _line(self.shown.pixels[number]), "name": name, "about": about}

    def box(self, box: Box) -> list[int]:
        return [0, box[0], 1, box[1]]

    def place(self, at: Sequence[int]) -> str:
        return f"position {at[0]}"

    def hidden(self, found: Occlusion, number: int) -> list[Hidden]:
        projection = None if found.projection is None else _line(found.projection)
        by_position = ("activation", "probability", "most_probable", "highest_probability")
        lifted: dict[str, Any] = {n: None if (of := getattr(found, n)) is None else of[None] for n in by_position}
        row = replace(found, size=(1, *found.size), rows=torch.zeros(1, dtype=torch.int64), **lifted)
        return [Hidden(self.shown.names[number], row, _line(self.shown.pixels[number]), self.size, projection)]


def view_of(shown: Photographs, to_rgb: Callable[[Tensor], Tensor]) -> View:
    """How images are shown, by the number of their axes."""
    return {3: Signals, 4: Pictures, 5: Volumes}[shown.pixels.dim()](shown, to_rgb)


def png(picture: Pixels) -> str:
    """A picture to the pixel."""
    return address_of(as_file(picture, "png"), "png")


def jpeg(picture: Pixels) -> str:
    """A picture, compressed."""
    return address_of(as_file(picture, "jpeg", quality=85), "jpeg")


def _tile(picture: Pixels) -> str:
    """Small pictures are kept to the pixel, large ones compressed."""
    return png(picture) if picture.shape[0] <= _SMALL else jpeg(picture)


def _line(signal: Tensor) -> str:
    """A signal (C, w) as a drawing of lines from its lowest to its highest value."""
    height, width = _SIGNAL
    values = signal.detach().double().cpu()
    low, high = (float(end) for end in values.aminmax())
    rows = (height - 4) * (1 - (values - low) / (high - low or 1)) + 2
    step = width / max(1, signal.shape[1] - 1)
    drawn = "".join(
        f'<polyline fill="none" stroke="{_COLOURS[channel % len(_COLOURS)]}" points="'
        + " ".join(f"{place * step:.5g},{row:.4g}" for place, row in enumerate(line))
        + '"/>'
        for channel, line in enumerate(rows.tolist())
    )
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{drawn}</svg>'
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
