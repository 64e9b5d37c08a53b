"""Volumes, signals and images that are tensors in files, as a network reads them: nothing is scaled or cut."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .photographs import IMAGE_SUFFIXES, is_hidden

__all__ = ["SUFFIXES", "TensorImages", "hold_tensors", "load_tensor_images"]

SUFFIXES = (".npy", ".npz", ".pt", ".wav")

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
_WIDTHS = {1: "u1", 2: "<i2", 4: "<i4"}  # of samples of sound, in bytes


@dataclass(frozen=True)
class TensorImages:
    """Images out of files.

    Attributes:
        values: (N, C, L), (N, C, H, W) or (N, C, D, H, W), float32.
        files: (N,) the file that each comes from.
        places: (N,) its number in that file, from 0.
        sources: (N,) which of the sources named that file comes from.
    """

    values: Tensor
    files: tuple[str, ...]
    places: tuple[int, ...]
    sources: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each: its file, and where that holds several, its number there."""
        several = {name for name, place in zip(self.files, self.places, strict=True) if place}
        pairs = zip(self.files, self.places, strict=True)
        return tuple(f"{name} {place}" if name in several else name for name, place in pairs)

    def only(self, numbers: Sequence[int]) -> TensorImages:
        """Some of them."""
        files = tuple(self.files[number] for number in numbers)
        places, sources = (tuple(of[number] for number in numbers) for of in (self.places, self.sources))
        return TensorImages(self.values[list(numbers)], files, places, sources)


def hold_tensors(sources: Sequence[str | Path]) -> bool:
    """Whether files, or the files of folders, hold tensors; nothing else is found out of them.

    Raises:
        ValueError: some do, and others are photographs.
    """
    kinds = {kind for source in sources for kind in _kinds(Path(source))}
    if len(kinds) > 1:
        raise ValueError(f"give either photographs or tensors ({', '.join(SUFFIXES)}), not both")
    return kinds == {True}


def load_tensor_images(sources: Sequence[str | Path], rank: int, channels: int) -> TensorImages:
    """Reads the tensors of files.

    A `.npy` file holds one array, a `.npz` file one or several, a `.pt` file a tensor or a dict of tensors, of which
    nothing is executed, and a `.wav` file samples of 8, 16 or 32 bits, which become numbers from -1 to 1. An array is
    an image, with its channels before its axes or, of one channel, without; or several of them.

    Args:
        sources: files, and folders of them.
        rank: how many axes images have.
        channels: how many channels.

    Raises:
        ValueError: no such file, one that cannot be read or holds other numbers or shapes, or images of several sizes.
    """
    values: list[Tensor] = []
    files: list[str] = []
    places: list[int] = []
    origins: list[int] = []
    for number, path in ((n, path) for n, source in enumerate(sources) for path in _files(Path(source))):
        try:
            images = [image for array in _arrays(path) for image in _images(array, rank, channels)]
        except Exception as error:  # a damaged or hostile file may fail in any way its parser can
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{str(path)!r} cannot be read as images: {reason}") from error
        values += images
        files += [path.name] * len(images)
        places += range(len(images))
        origins += [number] * len(images)
    if not values:
        raise ValueError(f"no tensors ({', '.join(SUFFIXES)}) were given")
    for name, image in zip(files, values, strict=True):
        if image.shape != values[0].shape:
            first, other = ("x".join(map(str, each.shape)) for each in (values[0], image))
            raise ValueError(f"images must have one size: {files[0]} holds {first} and {name} {other}; cut or pad them")
    return TensorImages(torch.stack(values), tuple(files), tuple(places), tuple(origins))


def _kinds(source: Path) -> set[bool]:
    """Whether files are tensors; a folder is of photographs if it holds any, or neither kind."""
    if not source.is_dir():
        return {source.suffix.lower() in SUFFIXES}
    found = {path.suffix.lower() for path in source.iterdir() if path.is_file() and not is_hidden(path)}
    return {not found.isdisjoint(SUFFIXES) and found.isdisjoint(IMAGE_SUFFIXES)}


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise ValueError(f"{str(source)!r}: no such file or folder")
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and not is_hidden(path))


def _arrays(path: Path) -> list[Tensor]:
    """The arrays of a file, by name where they have names."""
    kind = path.suffix.lower()
    if kind == ".pt":
        held = torch.load(path, map_location="cpu", weights_only=True)
        return list(held.values()) if isinstance(held, dict) else [held]
    if kind == ".wav":
        return [torch.from_numpy(_samples(path))]
    loaded = np.load(path, allow_pickle=False)
    arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
    return [torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))) for array in arrays]


def _samples(path: Path) -> NDArray[np.float32]:
    """A recorded sound, (channels, L), from -1 to 1."""
    with wave.open(str(path), "rb") as sound:
        width, channels = sound.getsampwidth(), sound.getnchannels()
        if width not in _WIDTHS:
            raise ValueError(f"its samples have {8 * width} bits; {', '.join(str(8 * w) for w in _WIDTHS)} are read")
        numbers = np.frombuffer(sound.readframes(sound.getnframes()), _WIDTHS[width]).astype(np.float64)
    numbers = numbers - 128 if width == 1 else numbers
    return (numbers / 2 ** (8 * width - 1)).astype(np.float32).reshape(-1, channels).T.copy()


def _images(array: Tensor, rank: int, channels: int) -> list[Tensor]:
    """The images (C, ...) that an array holds, float32."""
    if not isinstance(array, Tensor) or array.is_complex() or 0 in array.shape:
        raise ValueError(f"it must hold arrays of numbers, got {getattr(array, 'dtype', type(array).__name__)}")
    numbers = array.to(torch.float32)
    if not bool(numbers.isfinite().all()):
        raise ValueError("it holds values that are not finite")
    axes = _AXES[rank]
    if numbers.dim() == rank and channels == 1:
        return [numbers[None]]
    if numbers.dim() == rank + 1 and len(numbers) == channels:
        return [numbers]
    if numbers.dim() == rank + 2 and numbers.shape[1] == channels:
        return list(numbers)
    alone = f"({axes}), " if channels == 1 else ""
    raise ValueError(
        f"the network reads {alone}({channels}, {axes}) or (N, {channels}, {axes}), got {tuple(array.shape)}"
    )
