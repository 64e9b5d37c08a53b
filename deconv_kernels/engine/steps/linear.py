"""Fully connected layers, and the flattening before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import Backprojection, send_back
from ..expressions import Expression
from ..fields import Window, as_map
from ..signal import Windows
from .base import Kept, PlannedStep, Shapes, Signals, Step, on_whole
from .packing import Packing


class Flatten(Step):
    """(N, ...) -> (N, F). A flat map counts as F channels of one position.

    Args:
        features: how many there have to be, where the network says so.
    """

    keeps_responses = True

    def __init__(self, name: str, features: int | None = None) -> None:
        super().__init__(name)
        self.features = features

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        (x,) = inputs
        flat = x.flatten(1)
        if self.features is not None and flat.shape[1] != self.features:
            raise ValueError(
                f"{self.name} makes rows of {self.features}, but its input of shape {tuple(x.shape)} has "
                f"{flat.shape[1]} values an image: use images of the size the network was made for"
            )
        return flat, ()

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (Window.full(as_map(shapes[0], window.rank)),)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        return (on_whole(windows.dense(), planned.shapes[0], windows, windows.nonnegative),)


class Linear(Packing):
    """A fully connected layer over the last dimension; backwards its transposed weight.

    Args:
        weight, bias: (K, F) and (K,), or None.
    """

    memory = "own"
    weight: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: Expression, bias: Expression | None) -> None:
        super().__init__(name)
        self.weight, self.bias = weight, bias  # type: ignore[assignment]

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        (x,), weight = inputs, self.weight
        if x.dim() < 2 or x.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"{self.name} is a linear layer over {weight.shape[1]} features and cannot take {tuple(x.shape)}; "
                "flatten maps first, and use images of the size the network was made for"
            )
        return F.linear(x, weight, self.bias), ()

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (Window.full(as_map(shapes[0], window.rank)),)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        weight, shape, positions = self.weight, planned.shapes[0], windows.positions
        if len(shape) > 1:
            signal = windows.whole().reshape(-1, *shape[:-1], len(weight))
            # A matrix product would not promise the same bits whatever the number of rows.
            sent = torch.stack([unit @ weight for unit in signal] or [signal @ weight])
            return (on_whole(sent.reshape(-1, *shape), shape, windows),)
        if windows.channel is not None:
            values = weight[windows.channel] * windows.settle_().values.view(-1, 1)
            return (on_whole(values, shape, windows),)
        if windows.unpooling is not None:
            windows.settle_()
        # Nor would it here.
        of_one_position = weight[:, :, None, None]
        values = send_back(
            windows.values.view(-1, len(weight), 1, 1),
            of_one_position,
            positions.image,
            positions.image.new_zeros((len(windows), 2)),
            None,
            self.packed(of_one_position),
            _ONE_POSITION._replace(relu=windows.rectify),
        )
        return (on_whole(values, shape, windows),)

    def multiply_adds(self, above: Window, read: Sequence[int]) -> int:
        return above.elements * read[-1]

    def weights_read(self, above: Window, read: Sequence[int]) -> int:
        return above.channels * read[-1]

    def slices_weights(self, read: Sequence[int]) -> bool:
        return len(read) == 1

    def kernel_of(self, planned: PlannedStep) -> str:
        return "row of the weights" if planned.seeded else "backproject2d"


_ONE_POSITION = Backprojection(
    (1, 1), (1, 1), (1, 1), "sum", False, (1, 1), (1, 1), 1, (0, 0), (1, 1), (0, 0), (-1, -1)
)
