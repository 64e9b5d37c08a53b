"""Rows of numbers as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from .writing import being_written

__all__ = ["write_csv"]


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]], line_end: str = "\n") -> None:
    """Writes a table; numbers with a fraction get nine digits.

    Args:
        path: the file.
        head: what the columns are called.
        rows: below it.
        line_end: what ends a line.

    Raises:
        OSError: the file cannot be written.
    """
    with being_written(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=line_end)
        writer.writerow(head)
        for row in rows:
            writer.writerow([f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row])
