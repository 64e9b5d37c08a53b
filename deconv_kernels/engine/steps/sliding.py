"""What slides over a map: steps whose outputs each read a rectangle of one size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..fields import Window
from .base import Pair, Shapes, Step, are_maps


class Sliding(Step):
    """A step whose outputs each read a rectangle of one size.

    Attributes:
        kernel, stride, before, dilation: its own; `before` is the padding above and at the left.
        extent: rows and columns that one output reads.
        around: what lies around the map.
    """

    around = 0.0

    def __init__(self, name: str, kernel: Pair, stride: Pair, before: Pair, dilation: Pair) -> None:
        super().__init__(name)
        self.kernel, self.stride, self.before, self.dilation = kernel, stride, before, dilation
        self.extent: Pair = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, Pair]:
        """Kernel, stride, padding and dilation, as the ops take them."""
        return self.kernel, self.stride, self.before, self.dilation

    def slid(self, window: Window, shape: Sequence[int]) -> Window:
        """The window on the input, of shape (C, H, W), wherever it reaches; padding included."""
        y, x = (
            axis.slid(shape[i + 1], self.kernel[i], self.stride[i], self.before[i], self.dilation[i])
            for i, axis in enumerate(window.axes)
        )
        return Window(shape[0], y, x)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (self.slid(window, shapes[0]).clipped(),)

    def in_windows(self, read: Sequence[Tensor], made: Tensor) -> Step | None:
        return self if are_maps(*read, made) else None

    def on_patches(self, patches: Tensor, origin: Tensor, length: Pair) -> Tensor:
        """Windows of the output from the patches of the input that they read.

        Args:
            patches: (P, C, h, w), padding included.
            origin: (P, 2) int64 on the host, where each window begins.
            length: (H, W) of the input.
        """
        raise NotImplementedError
