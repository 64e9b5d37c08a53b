"""What people see in a terminal or a notebook: progress of long work, and tables."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Timer
from typing import Any, TypeVar

from tqdm.auto import tqdm
from tqdm.notebook import tqdm as notebook_tqdm

__all__ = ["Progress", "Silent", "aligned", "chunks_of", "counted", "progress_bar", "quiet", "watched", "working"]

T = TypeVar("T")

_QUIET = ContextVar("quiet", default=False)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Inside, no progress is shown, whoever asks for it."""
    token = _QUIET.set(wanted)
    try:
        yield
    finally:
        _QUIET.reset(token)


class Progress(tqdm):
    """tqdm's progress bar, which `quiet` silences."""

    def __init__(self, *arguments: Any, disable: bool = False, **options: Any) -> None:
        super().__init__(*arguments, disable=disable or _QUIET.get(), **options)


class Silent:
    """A progress bar that nobody sees, made in no time."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int) -> None:
        """Counts nothing."""


def progress_bar(total: int, what: str, unit: str, progress: bool | None) -> Progress | Silent:
    """A progress bar; with `progress` None one that appears on a terminal or in a notebook after a second."""
    seen = sys.stderr.isatty() or issubclass(Progress, notebook_tqdm)
    shown = seen if progress is None else progress
    return Progress(total=total, desc=what, unit=unit, delay=0 if progress else 1) if shown else Silent()


def chunks_of(total: int, size: int, what: str, unit: str, progress: bool | None) -> Iterator[tuple[int, int]]:
    """First and stop of chunks of so many things, with a progress bar."""
    with progress_bar(total, what, unit, progress) as bar:
        for start in range(0, total, size):
            stop = min(total, start + size)
            yield start, stop
            bar.update(stop - start)


def watched(things: Sequence[T], what: str, unit: str, progress: bool | None) -> Iterator[T]:
    """The same things one after the other, with a progress bar."""
    with progress_bar(len(things), what, unit, progress) as bar:
        for thing in things:
            yield thing
            bar.update(1)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says on a terminal what is being done, while one step of unknown length takes longer than a second."""
    if _QUIET.get() or not sys.stderr.isatty():
        yield
        return

    def say(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    told = f"{what} ..."
    timer = Timer(1, say, (told,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        say(f"\r{' ' * len(told)}\r")


def counted(count: int, what: str) -> str:
    """So many of what a word ending in s names: "1 image", "2 images"."""
    return f"{count} {what.removesuffix('s') if count == 1 else what}"


def aligned(rows: Sequence[Sequence[object]], left: Collection[int] = (0,)) -> list[str]:
    """Rows as lines with columns of equal width.

    Args:
        rows: of one length each.
        left: the columns whose cells begin at the left; the others end at the right, as numbers do.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*texts, strict=True)]

    def filled(place: int, cell: str) -> str:
        blank = " " * (widths[place] - _columns(cell))
        return cell + blank if place in left else blank + cell

    return ["  ".join(filled(place, cell) for place, cell in enumerate(row)).rstrip() for row in texts]


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for each Chinese, Japanese or Korean character."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)
