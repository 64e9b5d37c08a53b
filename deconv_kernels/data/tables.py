"""Rows of numbers, for people and as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from .writing import being_written

__all__ = ["aligned", "write_csv"]


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as lines with columns of equal width, the first to the left and the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


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
