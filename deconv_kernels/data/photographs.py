"""Photographs from files and folders, or from `samples`: those that scikit-image, scikit-learn and matplotlib ship.

One rule for all: hidden files of a folder are left out, transparent parts are shown on white, and a photograph that is
smaller than what the network sees is enlarged. A warning names photographs to which one of the last two happens.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..terminal import watched

__all__ = [
    "IMAGE_SUFFIXES",
    "Photograph",
    "decode_photograph",
    "image_files",
    "is_hidden",
    "listed",
    "load_photographs",
    "photograph_files",
    "read_photograph",
]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

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
    paths = photograph_files(sources)
    photographs = list(map(read_photograph, watched(paths, "reading", "photograph", None)))
    if transparent := [photograph.name for photograph in photographs if photograph.transparent]:
        warnings.warn(f"transparent parts are shown on white: {listed(transparent)}", stacklevel=2)
    return photographs


def photograph_files(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files of photographs, none of them opened yet.

    Args:
        sources: as for `load_photographs`.

    Raises:
        ValueError: a source is missing or holds no image file.
    """
    given = [sources] if isinstance(sources, str | Path) else sources
    found = [_samples() if str(source) == "samples" else image_files(Path(source)) for source in given]
    if not found:
        raise ValueError("no images were given")
    return [path for paths in found for path in paths]


def read_photograph(path: Path) -> Photograph:
    """One photograph, upright and in RGB, transparent parts white.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    return Photograph(path.name, *_read(path, str(path)))


def decode_photograph(content: bytes, name: str, formats: tuple[str, ...], most_pixels: int) -> Photograph:
    """One photograph out of bytes that nobody vouches for, upright and in RGB, transparent parts white.

    Args:
        content: of a file.
        name: what to call it.
        formats: those that are tried, by Pillow's names.
        most_pixels: the size of a picture is looked at before it is unpacked.

    Raises:
        ValueError: it is no image of one of the formats, is damaged, or has too many pixels.
    """
    return Photograph(name, *_read(io.BytesIO(content), name, formats, most_pixels))


def listed(names: Sequence[str]) -> str:
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
    images = (path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    paths = sorted(path for path in images if not is_hidden(path))
    if not paths:
        raise ValueError(
            f"folder {str(source)!r} holds no image files ({', '.join(sorted(IMAGE_SUFFIXES))}) that are not hidden"
        )
    return paths


def _read(
    source: Path | IO[bytes], name: str, formats: tuple[str, ...] | None = None, most_pixels: int | None = None
) -> tuple[NDArray[np.uint8], bool]:
    """The pixels, and whether some of them were transparent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=formats) as image:
                if most_pixels is not None and image.width * image.height > most_pixels:
                    raise ValueError(f"it has {image.width}x{image.height} pixels, more than {most_pixels}")
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
        if formats is not None and isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(formats)}"
        raise ValueError(f"image {name!r} cannot be read: {reason}") from error


def _on_background(image: Image.Image) -> tuple[NDArray[np.uint8], bool]:
    """An image in RGB, laid on white, and whether any of the white shows through."""
    if not ({"A", "a"} & set(image.getbands()) or "transparency" in image.info):
        return np.asarray(image.convert("RGB")), False
    coloured = image.convert("RGBA")
    transparent = np.asarray(coloured)[..., 3].min() < 255
    background = Image.new("RGBA", image.size, (_BACKGROUND,) * 3 + (255,))
    return np.asarray(Image.alpha_composite(background, coloured).convert("RGB")), bool(transparent)
