"""Texts of the command line that the shell's completion knows something about."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

__all__ = ["Words"]


class Words(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text of which some words, and files, are known to the shell's completion.

    Args:
        name: of the kind of text.
        words: the known ones.
        files: the paths of "file" or of "dir" may stand there too.
    """

    def __init__(self, name: str, words: Sequence[str] = (), files: str | None = None) -> None:
        self.name, self.words, self.files = name, tuple(words), files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The known words that begin so, and a request for paths."""
        found = [CompletionItem(word) for word in self.words if word.startswith(incomplete)]
        return [*found, *([CompletionItem(incomplete, type=self.files)] if self.files else [])]
