"""What is kept between requests: the most recently used results, within a budget of bytes."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Kept"]

_TRIMMED_BYTES = 64 * 2**20

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Results by their keys. The one used least recently goes first; the last that came in always stays.

    Args:
        most_bytes: the budget.

    Attributes:
        nbytes: what the results that are here take.

    Example:
        >>> kept = Kept(100)
        >>> for key in "abc":
        ...     kept.put(key, key.upper(), 40)
        >>> kept.get("a"), kept.get("c"), kept.nbytes
        (None, 'C', 80)
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.nbytes = most_bytes, 0
        self._let_go = 0
        self._results: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: K) -> V | None:
        """The result, which counts as used now; None if it is not here."""
        if key not in self._results:
            return None
        self._results.move_to_end(key)
        return self._results[key][0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Keeps a result, and lets others go until the budget holds."""
        if key in self._results:
            self._drop(key)
        self._results[key] = value, nbytes
        self.nbytes += nbytes
        while self.nbytes > self.most_bytes and len(self._results) > 1:
            self._drop(next(iter(self._results)))
        if self._let_go > _TRIMMED_BYTES:
            self._let_go = 0
            _give_memory_back()

    def _drop(self, key: K) -> None:
        nbytes = self._results.pop(key)[1]
        self.nbytes -= nbytes
        self._let_go += nbytes

    def made(self, key: K, make: Callable[[], V], nbytes: Callable[[V], int]) -> V:
        """The result that is here, or else one made now and kept."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value, nbytes(value))
        return value


def _give_memory_back() -> None:
    """Returns freed memory to the system; glibc else keeps what lies among blocks in use, more with every result."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
