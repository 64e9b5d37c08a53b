"""The true classes of photographs, from the command line or from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def class_names(classes: str | None, known: Sequence[str]) -> Sequence[str]:
    """The names of the classes, from class 0 on: those of the file --classes, or else those already known.

    Raises:
        ValueError: the file cannot be read.
    """
    return known if classes is None else read_lines(classes, "classes")


def read_labels(labels: str, classes: str | None, count: int, named: Sequence[str] = ()) -> list[int] | str:
    """What --labels and --classes say: "predicted", or one class number for each photograph.

    Args:
        labels, classes: texts of the options.
        count: how many photographs there are.
        named: what the classes are called where there is no file of their names.

    Raises:
        ValueError: another number of labels, or one that is neither a number nor a known name.
    """
    known: dict[str, int] = {}
    for number, name in enumerate(class_names(classes, named)):
        known.setdefault(name, number)
    if labels == "predicted":
        return labels
    separated = [label.strip() for label in labels.split(",")]
    given = read_lines(labels, "labels") if len(separated) == 1 and Path(labels).is_file() else separated
    if len(given) != count:
        raise ValueError(f"labels: {count} photographs need one each, got {len(given)}")
    if unknown := [label for label in given if label not in known and not label.isdecimal()]:
        where = "a number" if classes is None else f"a number, and not in {classes}"
        raise ValueError(f"label {unknown[0]!r} is not {where}")
    numbers = [known[label] if label in known else int(label) for label in given]
    if max(numbers) >= 2**31:
        raise ValueError(f"label {max(numbers)} is no class number")
    return numbers


def read_lines(path: str, what: str) -> list[str]:
    """The lines of a file, but for empty ones at its end.

    Raises:
        ValueError: it cannot be read; `what` is what it was to hold.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ValueError(f"{what} {path!r} cannot be read: {reason}") from error
    if "" in lines:
        raise ValueError(f"{what} {path!r}: line {lines.index('') + 1} is empty; every line stands for one")
    return lines
