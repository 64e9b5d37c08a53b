"""What experiments write: whole folders at once, and the finished parts of long runs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...data.writing import being_written, draft_folder, replaced_at_once
from ...engine.deconvnet import Deconvnet
from ...engine.fingerprint import fingerprint as fingerprint
from ...engine.nodes import text_of
from .tracing import forward_only

__all__ = ["Parts", "file_name", "files_in", "fingerprint", "fingerprint_of_network", "written_at_once"]

T = TypeVar("T")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_at_once(folder: Path) -> Iterator[Path]:
    """A draft folder whose files move into `folder` when the block ends well; otherwise it vanishes.

    The draft lies inside `folder`, so that moving is renaming. A folder that did not exist vanishes with it. Files of
    the same names are replaced. Drafts of runs that were killed are deleted, those of runs that go on are not.

    Raises:
        OSError: the folder cannot be written; a full disk is told with the folder's name.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output folder {str(folder)!r} is a file")
    missing = [parent for parent in (folder.absolute(), *folder.absolute().parents) if not parent.exists()]
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, missing)
            draft = stack.enter_context(draft_folder(folder))
        except OSError as error:
            raise OSError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
        try:
            yield draft
        except OSError as error:
            if error.errno not in _FULL or str(folder) in str(error):
                raise
            raise OSError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
        for path in sorted(draft.iterdir()):
            with being_written(folder / path.name):
                os.replace(path, folder / path.name)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, from the innermost, up to one that holds something."""
    for folder in folders:
        if any(folder.iterdir()):
            break
        folder.rmdir()


def files_in(folder: Path) -> tuple[str, ...]:
    """The names of its files, sorted."""
    return tuple(sorted(path.name for path in folder.iterdir()))


def file_name(layer: str) -> str:
    """A layer's name as part of a file's name."""
    return layer.replace("/", "_")


def fingerprint_of_network(model: Deconvnet | nn.Module) -> str:
    """A hash of all that decides what a network computes: its parameters and buffers, its modules and its code.

    Args:
        model: one that was traced already is not traced again.

    Raises:
        UnsupportedModule: it cannot be traced.
    """
    net = forward_only(model)
    tensors = (*net.model.parameters(), *net.model.buffers(), *net.tape.tensors.held.values())
    return hashlib.sha256(f"{net.model!r} {text_of(net.tape.graph)} {fingerprint(*tensors)}".encode()).hexdigest()


class Parts:
    """The finished parts of a long run, in a folder, so that an interrupted run goes on where it stopped.

    Args:
        folder: where to keep them; created with the first part.
        settings: what the parts depend on, as anything that JSON can write (other objects by their text). Parts of
            other settings lie in the same folder and are left alone.
    """

    def __init__(self, folder: Path | str, settings: object) -> None:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        self._root: Path | None = Path(folder)
        self._folder = self._root / key[:16]

    @classmethod
    def of_run(
        cls, output: Path | str, name: str, settings: object, network: Deconvnet | nn.Module, *tensors: Tensor
    ) -> Parts:
        """Those of a run of a network on tensors, in a hidden folder of its output folder.

        They are found again only by a run of the same name, settings, weights, code and values.

        Raises:
            UnsupportedModule: the network cannot be traced.
        """
        key = [settings, fingerprint_of_network(network), fingerprint(*tensors)]
        return cls(Path(output) / f".parts-{name}", key)

    @classmethod
    def nowhere(cls) -> Parts:
        """Keeps nothing: every part is computed."""
        parts = cls("", None)
        parts._root = None
        return parts

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """A part: what an earlier run kept under this name, or what `compute` returns.

        Args:
            name: may hold any characters.
            compute: returns tensors, numbers, strings, None, and dicts, lists and tuples of them.

        Raises:
            OSError: the part cannot be written.
        """
        if self._root is None:
            return compute()
        path = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.pt"
        if path.is_file():
            try:
                kept: T = torch.load(path, weights_only=True)
                return kept
            except Exception as error:  # a damaged file may fail in any way its reader can
                warnings.warn(f"{path} cannot be read and is computed again: {error!r}", stacklevel=2)
        part = compute()
        try:
            with being_written(path):
                self._folder.mkdir(parents=True, exist_ok=True)
                with replaced_at_once(path) as file:
                    torch.save(part, file)
        except BaseException:
            _remove_empty(folder for folder in (self._folder, self._root) if folder.exists())
            raise
        return part

    def remove(self) -> None:
        """Deletes the parts of these settings, once the results that they went into are written."""
        if self._root is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._root.is_dir() and not any(self._root.iterdir()):
            self._root.rmdir()
