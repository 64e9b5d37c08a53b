"""What slides over a map: steps whose outputs each read a part of one size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...ops.geometry import PerAxis
from ..fields import Window, as_map
from ..signal import Windows
from .base import Kept, PlannedStep, Shapes, Signals, Step, are_maps
from .whole import Whole


class Sliding(Step):
    """A step whose outputs each read a part of one size.

    In a network whose images have another number of axes than its maps it works on whole maps.

    Attributes:
        kernel, stride, before, dilation: its own; `before` is the padding before the first position of each axis.
        extent: how far along each axis one output reads.
        around: what lies around the map.
        rank: how many axes its maps have.
    """

    around = 0.0
    rank: int

    def __init__(self, name: str, kernel: PerAxis, stride: PerAxis, before: PerAxis, dilation: PerAxis) -> None:
        super().__init__(name)
        self.kernel, self.stride, self.before, self.dilation = kernel, stride, before, dilation
        self.extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        self.rank = len(kernel)

    @property
    def geometry(self) -> tuple[PerAxis, PerAxis, PerAxis, PerAxis]:
        """Kernel, stride, padding and dilation, as the ops take them."""
        return self.kernel, self.stride, self.before, self.dilation

    def slid(self, window: Window, shape: Sequence[int]) -> Window:
        """The window on the input, of shape (C, [[D,] H,] W), wherever it reaches; padding included."""
        return window.slid(tuple(shape), *self.geometry)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        if window.rank != self.rank:
            return (Window.full(as_map(shapes[0], window.rank)),)
        return (self.slid(window, shapes[0]).clipped(),)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        if windows.window.rank != self.rank:
            return self.send_whole(windows, kept, planned)
        return (self.send_windows(windows, kept, planned),)

    def send_windows(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Windows:
        """As `send`, for windows with the axes of its maps."""
        raise NotImplementedError

    def send_whole(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        """As `send`, for whole maps in a network whose images have other axes: its adjoint, if it is linear."""
        adjoint = Whole(self.name, lambda x: self.output([x], False), signals=1, linear=True, alone=True)
        return adjoint.send(windows, (), planned)

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if rank == self.rank and are_maps(rank, *read, made) else None

    def on_patches(self, patches: Tensor, origin: Tensor, length: PerAxis) -> Tensor:
        """Windows of the output from the patches of the input that they read.

        Args:
            patches: (P, C, [[d,] h,] w), padding included.
            origin: (P, rank) int64 on the host, where each window begins.
            length: of the input, along each axis.
        """
        raise NotImplementedError
