"""Padding and cropping of maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...ops.geometry import PerAxis
from ..fields import Window
from ..signal import Windows
from .base import Function, Kept, PlannedStep, Shapes, Signals, Step, are_maps
from .whole import Whole


class ZeroPad(Whole):
    """Padding with a constant, or cropping; backwards the middle.

    Args:
        function: pads.
        before: how much before the first position of each axis, outermost axis first; negative where it is cut off.
            Axes that are not named are not padded.
    """

    memory = "own"

    def __init__(self, name: str, function: Function, before: PerAxis) -> None:
        super().__init__(name, function, signals=1, linear=True)
        self.before = before

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if are_maps(rank, *read, made) and len(self.before) <= rank else None

    def offset(self, rank: int) -> PerAxis:
        """How much comes before the first position of each of `rank` axes."""
        return (*(0,) * (rank - len(self.before)), *self.before)

    def _pads_maps(self, window: Window, shapes: Shapes) -> bool:
        """Whether it pads nothing but the axes of maps."""
        return len(shapes[0]) == window.rank + 1 and len(self.before) <= window.rank

    def _moved(self, window: Window, shape: Sequence[int]) -> Window:
        axes = zip(window.axes, shape[1:], self.offset(window.rank), strict=True)
        return Window(
            shape[0], tuple(a._replace(length=length, offset=a.offset - before) for a, length, before in axes)
        )

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if not self._pads_maps(window, shapes):
            return super().reaches(window, shapes)
        return (self._moved(window, shapes[0]).clipped(),)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        if not self._pads_maps(windows.window, planned.shapes):
            return super().send(windows, kept, planned)
        moved, nonnegative = self._moved(windows.window, planned.shapes[0]), windows.nonnegative
        result = windows.move(windows.dense(), moved, planned.reached).clear_overhang()
        result.nonnegative = nonnegative
        return (result,)
