"""Fully connected layers, and the flattening before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import Backprojection, send_back
from ..expressions import Expression
from ..fields import Shape, Window, as_map
from ..signal import Windows
from .base import Kept, Options, Step


class Flatten(Step):
    """(N, C, H, W) -> (N, C * H * W). A flat map counts as C * H * W channels of one position.

    Args:
        features: how many there have to be, where the network says so.
    """

    def __init__(self, name: str, features: int | None = None) -> None:
        super().__init__(name)
        self.features = features

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        flat = x.flatten(1)
        if self.features is not None and flat.shape[1] != self.features:
            raise ValueError(
                f"{self.name} makes rows of {self.features}, but its input of shape {tuple(x.shape)} has "
                f"{flat.shape[1]} values an image: use images of the size the network was made for"
            )
        return flat, None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        values = windows.dense().reshape(-1, below.channels, *below.size)
        return Windows(values, below, windows.positions, nonnegative=windows.nonnegative)


class Linear(Step):
    """A fully connected layer over the last dimension; backwards its transposed weight.

    Args:
        weight, bias: (K, F) and (K,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, name: str, weight: Expression, bias: Expression | None) -> None:
        super().__init__(name)
        self.weight, self.bias = weight, bias  # type: ignore[assignment]

    def forward(self, x: Tensor, owned: bool) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight, self.bias
        if x.dim() < 2 or x.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"{self.name} is a linear layer over {weight.shape[1]} features and cannot take {tuple(x.shape)}; "
                "flatten maps first, and use images of the size the network was made for"
            )
        return F.linear(x, weight, bias), None

    def reach(self, window: Window, shape: Shape) -> Window:
        return Window.full(shape)

    def send(
        self,
        windows: Windows,
        kept: Kept,
        below: Sequence[Window | None],
        shapes: Sequence[Sequence[int]],
        options: Options,
    ) -> Sequence[Windows | None]:
        if len(shapes[0]) == 1:
            return super().send(windows, kept, below, shapes, options)
        weight = self.weight
        signal = windows.whole().reshape(-1, *shapes[0][:-1], len(weight))
        # A matrix product would not promise the same bits whatever the number of rows.
        values = [unit @ weight for unit in signal] or [signal @ weight]
        window = Window.full(as_map(shapes[0]))
        return (Windows(torch.stack(values).reshape(-1, window.channels, *window.size), window, windows.positions),)

    def backward(self, windows: Windows, kept: Tensor | None, below: Window, options: Options) -> Windows:
        weight = self.weight
        if windows.channel is not None:
            values = (weight[windows.channel] * windows.settled().values[:, 0, 0])[:, :, None, None]
            return Windows(values, below, windows.positions)
        positions = windows.positions
        if windows.unpooling is not None:
            windows = windows.settled()
        # A matrix product would not promise the same bits whatever the number of rows.
        values = send_back(
            windows.values,
            weight[:, :, None, None],
            positions.image,
            positions.origins(windows.window),
            None,
            None,
            _ONE_POSITION._replace(relu=windows.rectify),
        )
        return Windows(values, below, positions)


_ONE_POSITION = Backprojection(
    (1, 1), (1, 1), (1, 1), "sum", False, (1, 1), (1, 1), 1, (0, 0), (1, 1), (0, 0), (-1, -1)
)
