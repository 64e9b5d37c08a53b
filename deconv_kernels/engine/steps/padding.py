"""Padding and cropping of maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..fields import Window
from ..signal import Windows
from .base import Function, FunctionStep, Kept, Pair, PlannedStep, Shapes, Signals, Step, require_maps


class ZeroPad(FunctionStep):
    """Padding with a constant, or cropping; backwards the middle.

    Args:
        function: pads.
        before: rows above and columns to the left; negative where they are cut off.
    """

    memory = "own"

    def __init__(self, name: str, function: Function, before: Pair) -> None:
        super().__init__(name, function)
        self.before = before

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self.function(require_maps(self.name, *inputs)), ()

    def in_windows(self, read: Sequence[Tensor], made: Tensor) -> Step | None:
        return self

    def _moved(self, window: Window, shape: Sequence[int]) -> Window:
        axes = [
            axis._replace(length=shape[number + 1], offset=axis.offset - self.before[number])
            for number, axis in enumerate(window.axes)
        ]
        return Window(shape[0], axes[0], axes[1])

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (self._moved(window, shapes[0]).clipped(),)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        moved, nonnegative = self._moved(windows.window, planned.shapes[0]), windows.nonnegative
        result = windows.move(windows.dense(), moved, planned.reached).clear_overhang()
        result.nonnegative = nonnegative
        return (result,)
