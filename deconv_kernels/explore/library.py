"""The pictures of the explorer: those of the folders it was given, and those that a browser sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..data.crops import cut, plan_centres
from ..data.datasets import ImageFiles
from ..data.photographs import decode_photograph
from .kept import Kept

__all__ = ["FORMATS", "MOST_BYTES", "MOST_PIXELS", "Library", "UnknownImage"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What may be sent."""
MOST_BYTES = 20 * 2**20
"""Of a file that is sent."""
MOST_PIXELS = 50_000_000
"""Of a picture that is sent."""

_SQUARES_KEPT = 256
_UPLOADS_KEPT = 64
_LONGEST_NAME = 80


class UnknownImage(LookupError):  # noqa: N818
    """A picture that is not here, or no longer."""


class Library:
    """Pictures by their names, each as the central square that the network sees.

    A name is looked up in a table and never becomes a path, so that no file outside the folders can be reached.

    Args:
        paths: the files of the folders.
        size: rows and columns of the squares.

    Attributes:
        names: of the files, in order; those that were there before get a number.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.size = size
        self._files = ImageFiles(paths, size)
        self.names = _told_apart([path.name for path in paths])
        self._numbers = {name: number for number, name in enumerate(self.names)}
        nbytes = 3 * size * size
        self._squares: Kept[int, Tensor] = Kept(_SQUARES_KEPT * nbytes)
        self._uploads: Kept[str, tuple[str, Tensor]] = Kept(_UPLOADS_KEPT * nbytes)

    def __len__(self) -> int:
        """How many files the folders have."""
        return len(self.names)

    def pixels(self, name: str) -> Tensor:
        """A picture as uint8 RGB (3, size, size).

        Args:
            name: of a file, or what `add` returned.

        Raises:
            UnknownImage: neither.
            ValueError: the file cannot be read.
        """
        if name in self._numbers:
            return self.square(self._numbers[name])
        upload = self._uploads.get(name)
        if upload is None:
            raise UnknownImage(f"no picture {name!r} here; one that was dropped onto the page is kept for a while only")
        return upload[1]

    def square(self, number: int) -> Tensor:
        """The picture of a file by its number.

        Raises:
            ValueError: the file cannot be read.
        """
        return self._squares.made(number, lambda: self._files[number], lambda x: x.nbytes)

    def title(self, name: str) -> str:
        """What to call a picture: the name of its file."""
        upload = None if name in self._numbers else self._uploads.get(name)
        return name if upload is None else upload[0]

    def add(self, content: bytes, title: str) -> str:
        """Takes in a picture that was sent, which stays until many more have come.

        Args:
            content: of the file.
            title: its name, for people.

        Returns:
            The name by which it is known here.

        Raises:
            ValueError: no picture in one of `FORMATS`, a damaged one, or one that is too large.
        """
        if len(content) > MOST_BYTES:
            raise ValueError(f"the file has more than {MOST_BYTES // 2**20} MB")
        title = "".join(c for c in title if c.isprintable())[:_LONGEST_NAME] or "dropped picture"
        photograph = decode_photograph(content, title, FORMATS, MOST_PIXELS)
        square = cut([photograph], plan_centres([photograph]), self.size)[0]
        name = f"dropped-{hashlib.sha256(content).hexdigest()[:16]}"
        self._uploads.put(name, (title, square), square.nbytes)
        return name


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, those that were there before with the first free number behind them."""
    found: dict[str, None] = {}
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        found[unique] = None
    return list(found)
