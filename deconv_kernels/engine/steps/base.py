"""What every step is, and what all of them share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..expressions import Expression
from ..fields import Shape, Window, as_map
from ..signal import Windows
from ..weights import Weights

Pair = tuple[int, int]
Kept = Tensor | tuple[Tensor, ...] | None
Function = Callable[..., Tensor] | Expression
RULES = ("deconvnet", "guided", "gradient")
KERNELS = ("auto", "sparse", "dense")


@dataclass(frozen=True)
class Options:
    """What the user chose for the way back.

    Attributes:
        overlap: "sum" or "last", for overlapping pooling windows.
        kernel: "sparse", "dense" or "auto", for convolutions.
    """

    overlap: str = "sum"
    kernel: str = "auto"


class Step:
    """One operation of a network between one map and the next; the signal passes unchanged unless it says otherwise.

    A step that reads one map defines `forward`, `reach` and `backward`. Those that read several define `run`, `reaches`
    and `send` (in joins.py), which is what the engine calls.

    What a step needs of the network's tensors it is given as expressions. It can be run when it is `bound`: then these
    have become tensors, numbers and functions.

    Attributes:
        name: the name of the layer, for its users.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._last: tuple[dict[str, Any], Step] | None = None

    def bound(self, weights: Weights) -> Step:
        """The step with the tensors of one moment; the same object again as long as these are the same."""
        held = {name: value for name, value in vars(self).items() if isinstance(value, Expression)}
        if not held:
            return self
        found = {name: expression.bound(weights) for name, expression in held.items()}
        last = self._last
        if last is None or any(found[name] is not value for name, value in last[0].items()):
            step = copy.copy(self)
            vars(step).update(found, _last=None)
            self._last = last = found, step
        return last[1]

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        """Runs the step as the module does in eval mode.

        Args:
            inputs: each (N, ...).
            owned: whether the first may be overwritten.

        Returns:
            The output, and what the way back needs of this batch (first dimension N) or None.
        """
        return self.forward(inputs[0], owned)

    def reaches(self, window: Window, shapes: Sequence[Sequence[int]]) -> tuple[Window | None, ...]:
        """The windows on the inputs, of these shapes for one image, of a window on the output.

        None stands for an input to which no signal goes.
        """
        return (self.reach(window, as_map(shapes[0])),)

    def send(
        self,
        windows: Windows,
        kept: Kept,
        below: Sequence[Window | None],
        shapes: Sequence[Sequence[int]],
        options: Options,
    ) -> Sequence[Windows | None]:
        """Sends windows on the output back to the inputs.

        Args:
            windows: the signal on the output; may be overwritten.
            kept: what `run` returned beside the output, of all images.
            below: `reaches` of the windows.
            shapes: of the inputs, for one image.
            options: of this projection.
        """
        assert below[0] is not None and not isinstance(kept, tuple)
        return (self.backward(windows, kept, below[0], options),)

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        """`run` of the only input."""
        raise NotImplementedError

    def reach(self, window: Window, shape: Shape) -> Window:
        """The window on the input, of shape (C, H, W), of a window on the output."""
        return window

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        """`send` to the only input."""
        return windows


def require_maps(name: str, x: Tensor) -> Tensor:
    """The same, if it is (N, C, H, W).

    Raises:
        ValueError: it is not.
    """
    if x.dim() != 4:
        raise ValueError(f"{name} needs maps (N, C, H, W), got {tuple(x.shape)}")
    return x
