"""Progress bars that appear on a terminal when something takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tqdm import tqdm


def progress_bar(total: int, what: str, unit: str, progress: bool | None) -> tqdm | Silent:
    """A progress bar; with `progress` None one that appears on a terminal after a second."""
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=total, desc=what, unit=unit, delay=0 if progress else 1) if shown else Silent()


class Silent:
    """A progress bar that nobody sees, made in no time."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int) -> None:
        """Counts nothing."""


def chunks_of(total: int, size: int, what: str, unit: str, progress: bool | None) -> Iterator[tuple[int, int]]:
    """First and stop of chunks of so many things, with a progress bar."""
    with progress_bar(total, what, unit, progress) as bar:
        for start in range(0, total, size):
            stop = min(total, start + size)
            yield start, stop
            bar.update(stop - start)
