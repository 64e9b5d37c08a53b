"""What functions accept as arguments."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["at_least", "one_of", "shown", "whole_number", "whole_numbers"]


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """An argument as an integer; also one of NumPy's, or a tensor of one integer.

    Raises:
        TypeError: it is none.
        ValueError: it is smaller than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from error
    if least is not None:
        at_least(name, number, least)
    return number


def at_least(name: str, value: float, least: float) -> None:
    """Refuses an argument that is too small.

    Raises:
        ValueError: it is smaller than `least`.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def whole_numbers(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """An argument that is one whole number for all axes, or one for each.

    Raises:
        ValueError: something else.
    """
    try:
        numbers = tuple(map(operator.index, value if isinstance(value, Sequence) else (value,) * rank))
    except TypeError:
        numbers = ()
    if len(numbers) != rank:
        each = ("two", "three")[rank - 2] if rank > 1 else "one in a list"
        raise ValueError(f"{name} must be a whole number or {each}, got {value!r}")
    return numbers


def one_of(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuses an argument that is none of some words.

    Raises:
        ValueError: it is none of `choices`; the message lists them.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for an error message, in a line: of a module or a tensor its type alone."""
    parts = value if isinstance(value, list | tuple) else (value,)
    plain = all(part is None or isinstance(part, str | int | float) for part in parts)
    return f"{value!r:.80}" if plain else type(value).__name__
