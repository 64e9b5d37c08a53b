"""What functions accept as arguments."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["shown", "whole_number"]


def whole_number(name: str, value: Any) -> int:
    """An argument as an integer; also one of NumPy's, or a tensor of one integer.

    Raises:
        TypeError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from error


def shown(value: Any) -> str:
    """A value for an error message, in a line: of a module or a tensor its type alone."""
    parts = value if isinstance(value, list | tuple) else (value,)
    plain = all(part is None or isinstance(part, str | int | float) for part in parts)
    return f"{value!r:.80}" if plain else type(value).__name__
