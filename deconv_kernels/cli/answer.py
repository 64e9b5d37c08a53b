"""What a command has found, said to people or to programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import click

__all__ = ["Answer", "records"]


@dataclass(frozen=True)
class Answer:
    """What a command says at its end.

    Args:
        lines: for people.
        output: the folder or file it wrote, if any.
        files: what it wrote into that folder.
        found: for programs: texts, numbers, lists and dicts.
    """

    lines: Iterable[str]
    output: Path | str | None = None
    files: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)

    def say(self, command: str, as_json: bool, quiet: bool) -> None:
        """Prints it: one JSON object, nothing, or the lines."""
        if as_json:
            written = {} if self.output is None else {"output": str(self.output), "files": list(self.files)}
            content = _strict({"command": command, **written, **self.found})
            click.echo(json.dumps(content, allow_nan=False, default=str))
        elif not quiet:
            for line in self.lines:
                click.echo(line)


def records(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[dict[str, object]]:
    """The rows of a table by the names of its columns."""
    names = tuple(head)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _strict(content: Any) -> Any:
    """The same without numbers that JSON does not have: null stands for them."""
    if isinstance(content, Mapping):
        return {str(name): _strict(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content
