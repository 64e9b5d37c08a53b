"""Hypothesis, or what stands for it where it is not installed: every test of a property is then skipped, saying so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

try:
    from hypothesis import assume, given, settings
    from hypothesis import strategies as st
except ImportError:

    class _Nothing:
        """Any strategy, and whatever is made of strategies."""

        def __getattr__(self, name: str) -> _Nothing:
            return self

        def __call__(self, *arguments: Any, **options: Any) -> _Nothing:
            return self

        def __or__(self, other: Any) -> _Nothing:
            return self

    def given(**strategies: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
        def skipping(test: Callable[..., None]) -> Callable[[], None]:
            def skipped() -> None:
                pytest.skip("hypothesis is not installed")

            skipped.__name__, skipped.__doc__, skipped.__module__ = test.__name__, test.__doc__, test.__module__
            return skipped

        return skipping

    def settings(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return lambda test: test

    assume, st = bool, _Nothing()

__all__ = ["assume", "given", "settings", "st"]
