"""Padding and cropping of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ..fields import Window
from ..signal import Windows
from .base import Function, Options, Pair, Step, require_maps


class ZeroPad(Step):
    """Padding with a constant, or cropping; backwards the middle.

    Args:
        function: pads.
        before: rows above and columns to the left; negative where they are cut off.
    """

    function: Callable[[Tensor], Tensor]

    def __init__(self, name: str, function: Function, before: Pair) -> None:
        super().__init__(name)
        self.function, self.before = function, before  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        return self.function(require_maps(self.name, x)), None

    def _moved(self, window: Window, shape: Sequence[int]) -> Window:
        axes = [
            replace(axis, length=shape[number + 1], offset=axis.offset - self.before[number])
            for number, axis in enumerate(window.axes)
        ]
        return Window(shape[0], axes[0], axes[1])

    def reach(self, window: Window, shape: tuple[int, int, int]) -> Window:
        moved = self._moved(window, shape)
        return Window(shape[0], moved.y.clipped(), moved.x.clipped())

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        moved = self._moved(windows.window, (below.channels, below.y.length, below.x.length))
        nonnegative = windows.nonnegative
        result = windows.move(windows.dense(), moved, below).clear_overhang()
        result.nonnegative = nonnegative
        return result
