"""Photographs and the crops that a network is shown.

Photographs come from files and folders, or from `samples`: real photographs that scikit-image, scikit-learn and
matplotlib ship inside their packages. No network is involved.

One rule for all: hidden files of a folder are left out, transparent parts are shown on white, and a photograph that is
smaller than what the network sees is enlarged. A warning names photographs to which one of the last two happens.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..checks import at_least

__all__ = [
    "Crop",
    "Photograph",
    "cut",
    "image_files",
    "is_hidden",
    "load_photographs",
    "plan_centres",
    "plan_crops",
    "read_photograph",
]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

_SAMPLES = {
    "skimage": (
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}

_FINEST_STEPS = 8
_BACKGROUND = 255  # white
_NAMED = 5


@dataclass(frozen=True)
class Photograph:
    """A photograph.

    Args:
        name: that of its file.
        pixels: uint8 RGB of shape (H, W, 3).
        transparent: whether the file has transparent parts; they are white in the pixels.
    """

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)
    transparent: bool = False


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


def load_photographs(sources: str | Path | Iterable[str | Path]) -> list[Photograph]:
    """Loads photographs.

    Args:
        sources: files, folders (every image file directly inside that is not hidden, by name) or "samples", one or
            several. A file called samples is "./samples".

    Returns:
        The photographs, upright and in RGB, in the order given. Transparent parts are white, which a warning tells.

    Raises:
        ValueError: a source is missing, holds no image or cannot be read as one.
    """
    photographs = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        paths = _samples() if str(source) == "samples" else image_files(Path(source))
        photographs += [read_photograph(path) for path in paths]
    if not photographs:
        raise ValueError("no images were given")
    if transparent := [photograph.name for photograph in photographs if photograph.transparent]:
        warnings.warn(f"transparent parts are shown on white: {_listed(transparent)}", stacklevel=2)
    return photographs


def read_photograph(path: Path) -> Photograph:
    """One photograph, upright and in RGB, transparent parts white.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    return Photograph(path.name, *_read(path))


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
    if size < 1:
        raise ValueError(f"the size of crops must be at least 1 pixel, got {size}")
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
        warnings.warn(f"photographs smaller than {size}x{size} pixels are enlarged: {_listed(small)}", stacklevel=3)


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden, such as `._photo.jpg`, which macOS writes beside `photo.jpg`."""
    return path.name.startswith(".")


def _samples() -> list[Path]:
    paths = []
    for package, names in _SAMPLES.items():
        specification = importlib.util.find_spec(package)
        if specification is not None and specification.submodule_search_locations:
            folder = Path(specification.submodule_search_locations[0])
            paths += [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        raise ValueError(
            "images 'samples': none of the packages that ship sample photographs is installed "
            "(scikit-image, scikit-learn, matplotlib)"
        )
    return paths


def image_files(source: Path) -> list[Path]:
    """The image files of a folder that are not hidden, by name, or the file itself.

    Raises:
        ValueError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"image {str(source)!r}: no such file or folder")
    images = (path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    paths = sorted(path for path in images if not is_hidden(path))
    if not paths:
        raise ValueError(
            f"folder {str(source)!r} holds no image files ({', '.join(sorted(_SUFFIXES))}) that are not hidden"
        )
    return paths


def _read(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """The pixels, and whether some of them were transparent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode in ("I", "F"):
                    raise ValueError(f"its grey levels are of {upright.mode!r}, whose range is not known")
                if upright.mode.startswith("I;16"):
                    deep = np.asarray(upright)
                    opacity = np.where(deep == upright.info.get("transparency", -1), 0, 255).astype(np.uint8)
                    grey = (deep.astype(np.float32) / 257).round().astype(np.uint8)
                    upright = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opacity)])
                return _on_background(upright)
    except Exception as error:  # a damaged file may fail in any way its decoder can
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"image {str(path)!r} cannot be read: {reason}") from error


def _on_background(image: Image.Image) -> tuple[NDArray[np.uint8], bool]:
    """An image in RGB, laid on white, and whether any of the white shows through."""
    if not ({"A", "a"} & set(image.getbands()) or "transparency" in image.info):
        return np.asarray(image.convert("RGB")), False
    coloured = image.convert("RGBA")
    transparent = np.asarray(coloured)[..., 3].min() < 255
    background = Image.new("RGBA", image.size, (_BACKGROUND,) * 3 + (255,))
    return np.asarray(Image.alpha_composite(background, coloured).convert("RGB")), bool(transparent)
