"""The checkpoints of one network, from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape, glob
from pathlib import Path

from ..models import STATE_DICT_SUFFIXES
from .options import names


def checked_files(checkpoints: Sequence[str]) -> list[str]:
    """The files that lists separated by commas name; folders and patterns stand for what they hold, by number.

    Raises:
        ValueError: none, one twice, or one that is not there.
    """
    files = [file for entry in checkpoints for name in names(entry) for file in _files_of(name)]
    if repeated := [file for file in files if files.count(file) > 1]:
        raise ValueError(f"checkpoint {repeated[0]!r} was given more than once")
    if not files:
        raise ValueError("no checkpoints were given")
    return files


def _files_of(name: str) -> list[str]:
    if Path(name).is_file():
        return [name]
    if Path(name).is_dir():
        found = [file for file in glob(f"{escape(name)}/*") if file.endswith(STATE_DICT_SUFFIXES)]
        missing = f"the folder holds no files that end in {', '.join(STATE_DICT_SUFFIXES)}"
    else:
        found, missing = glob(name), "no such file or folder"
    files = sorted((file for file in found if Path(file).is_file()), key=_in_order)
    if not files:
        raise ValueError(f"checkpoint {name!r}: {missing}")
    return files


def _in_order(file: str) -> list[tuple[int, str]]:
    """A key for sorting that has epoch9 before epoch10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file)]


def names_of(files: Sequence[str]) -> Sequence[str]:
    """What to call checkpoints: as their files, with folders where they would not differ."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else files


def identity(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns
