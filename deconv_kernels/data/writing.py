"""Writing files: drafts that become files at once, and errors that say which file could not be written.

A draft is locked while it is written. One that nothing has locked is what a killed run left behind, and the next
writer in its folder deletes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

__all__ = ["being_written", "draft_folder", "replaced_at_once", "save_state", "write_json", "write_text"]

_PREFIX = ".draft-"
_DRAFT = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}(\.\w+)?")  # as tempfile names them


class _CannotWriteError(OSError):
    """Says which file could not be written, and why."""


@contextmanager
def being_written(path: Path | str) -> Iterator[None]:
    """Inside, errors of writing a file name it and its folder; one in a draft folder, as it was to be called.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        yield
    except _CannotWriteError:
        raise
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        final = Path(*(part for part in Path(path).parts if not _DRAFT.fullmatch(part)))
        told = _CannotWriteError(f"{str(final)!r} cannot be written: {reason.strerror or reason}")
        told.errno = reason.errno
        raise told from error


def _reason(error: BaseException) -> OSError | None:
    """The error of the operating system behind an error: torch's writer hides it behind one of its own."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind


def write_text(path: Path, text: str) -> None:
    """Writes text, in UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with being_written(path):
        path.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, indent: int = 2, allow_nan: bool = True) -> None:
    """Writes what JSON can say.

    Args:
        path: the file.
        content: lists, dicts, texts and numbers.
        indent, allow_nan: as for `json.dumps`.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=allow_nan) + "\n")


def save_state(path: Path, state: object) -> None:
    """Writes what `torch.load(path, weights_only=True)` reads.

    Raises:
        OSError: the file cannot be written.
    """
    with being_written(path), path.open("wb") as file:
        torch.save(state, file)


@contextmanager
def replaced_at_once(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when the block ends well; otherwise it vanishes.

    Raises:
        OSError: the file cannot be written.
    """
    with being_written(path):
        _delete_left_behind(path.parent)
        handle, draft = _locked(path.parent, path.suffix, folder=False)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.chmod(draft, 0o666 & ~_umask())
                os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """An empty folder inside `folder`, which vanishes with all that is in it when the block ends.

    Raises:
        OSError: it cannot be made.
    """
    _delete_left_behind(folder)
    handle, draft = _locked(folder, "", folder=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(handle)


def _locked(place: Path, suffix: str, folder: bool) -> tuple[int, Path]:
    """A new draft, locked, and its open handle; the lock ends when that is closed, or with the process."""
    while True:
        if folder:
            draft = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            try:
                handle = os.open(draft, os.O_RDONLY)
            except FileNotFoundError:  # deleted, as below
                continue
        else:
            handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=suffix, dir=place)
            draft = Path(name)
        # Until it is locked, another run may delete it.
        if _lock(handle) is not False and draft.exists():
            return handle, draft
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the lock could be taken; False: another process holds it; None: this file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _delete_left_behind(folder: Path) -> None:
    """Deletes drafts that no process holds."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _DRAFT.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        except OSError:  # deleted by another run, or not ours
            continue
        try:
            if _lock(handle):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
