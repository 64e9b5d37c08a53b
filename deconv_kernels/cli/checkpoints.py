"""The checkpoints of one network, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .options import names


def checked_files(checkpoints: Sequence[str]) -> list[str]:
    """The files that lists separated by commas name; ValueError: none, one twice, or one that is not there."""
    files = [name for entry in checkpoints for name in names(entry)]
    if repeated := [file for file in files if files.count(file) > 1]:
        raise ValueError(f"checkpoint {repeated[0]!r} was given more than once")
    if not files:
        raise ValueError("no checkpoints were given")
    if missing := [file for file in files if not Path(file).is_file()]:
        raise ValueError(f"checkpoint {missing[0]!r}: no such file")
    return files


def names_of(files: Sequence[str]) -> Sequence[str]:
    """What to call checkpoints: as their files, with folders where they would not differ."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else files


def identity(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns
