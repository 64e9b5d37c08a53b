"""The true classes of photographs, from the command line or from files."""

from __future__ import annotations

from pathlib import Path


def read_labels(labels: str, classes: str | None, count: int) -> list[int] | str:
    """What --labels and --classes say: "predicted", or one class number for each photograph.

    Raises:
        ValueError: another number of labels, or one that is neither a number nor a known name.
    """
    known: dict[str, int] = {}
    if classes is not None:
        for number, name in enumerate(read_lines(classes, "classes")):
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
