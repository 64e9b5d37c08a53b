"""What people see in a terminal, and that `quiet` silences all of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest

from deconv_kernels import terminal


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class AtOnce:
    """A timer for which the time is always up."""

    def __init__(self, seconds: float, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self.start = lambda: function(*arguments)

    def cancel(self) -> None:
        """It is over."""

    join = cancel


def test_a_long_step_is_told_and_wiped_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "Timer", AtOnce)
    with redirect_stderr(Terminal()) as stderr:
        with terminal.working("drawing"):
            assert stderr.getvalue() == "drawing ..."
        assert stderr.getvalue() == "drawing ...\r           \r"


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "Timer", AtOnce)
    with redirect_stderr(Terminal()) as stderr, terminal.quiet():
        with terminal.working("drawing"):
            pass
        assert list(terminal.watched([1, 2], "reading", "file", True)) == [1, 2]
        assert list(terminal.chunks_of(5, 2, "reading", "file", True)) == [(0, 2), (2, 4), (4, 5)]
    assert stderr.getvalue() == ""
    with redirect_stderr(Terminal()) as stderr, terminal.quiet(False):
        assert list(terminal.watched([1, 2], "reading", "file", True)) == [1, 2]
    assert "reading: 100%" in stderr.getvalue()


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("layer", "units"), ("conv1", 7), ("c", 1234)]
    assert terminal.aligned(rows) == ["layer  units", "conv1      7", "c       1234"]
    assert terminal.aligned(rows, left=(0, 1)) == ["layer  units", "conv1  7", "c      1234"]
    rows = [("写真.png", 7), ("e\u0301te.png", 12), ("cat.png", 345)]  # two columns a character; an accent takes none
    assert terminal.aligned(rows) == ["写真.png    7", "e\u0301te.png    12", "cat.png   345"]
