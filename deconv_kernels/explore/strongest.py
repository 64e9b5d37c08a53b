"""The strongest units of every map over the folders, found picture by picture while the page is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..engine.deconvnet import Deconvnet
from ..experiments.mining import Mined, mine
from .library import Library

__all__ = ["StrongUnit", "StrongestOfFolder"]

_K = 9


@dataclass(frozen=True)
class StrongUnit:
    """One of the strongest units of a map: the picture it is in, row, column and activation."""

    image: str
    y: int
    x: int
    activation: float


class StrongestOfFolder:
    """The nine strongest units of every map over a library's files, at most one a picture.

    Args:
        net: the network.
        library: whose files are looked at, one with each `step`.
        inputs: what the network is given of a picture (3, H, W): a batch of one.
        layers: whose units to rank.

    Attributes:
        done: how many files were looked at.
        unreadable: those among them that could not be read, and why.
    """

    def __init__(
        self, net: Deconvnet, library: Library, inputs: Callable[[Tensor], Tensor], layers: Sequence[str]
    ) -> None:
        self.net, self.library, self.inputs, self.layers = net, library, inputs, layers
        self.done = 0
        self.unreadable: list[str] = []
        self._mined: Mined | None = None

    @property
    def total(self) -> int:
        """How many files are to be looked at."""
        return len(self.library) if self.layers else 0

    def step(self) -> None:
        """Looks at the next file, if there is one left."""
        if self.done == self.total:
            return
        try:
            pixels = self.library.square(self.done)
        except ValueError as error:
            self.unreadable.append(str(error))
        else:
            found = mine(
                self.net,
                self.inputs(pixels),
                self.layers,
                _K,
                first_image=self.done,
                distributed=False,
                progress=False,
            )
            self._mined = found if self._mined is None else Mined.merged([self._mined, found])
        # Only now, for another thread may ask how far the search is.
        self.done += 1

    def of(self, layer: str, map: int) -> list[StrongUnit]:
        """A map's strongest units so far, by falling activation; only those above zero, and none of other layers."""
        if self._mined is None or layer not in self.layers:
            return []
        units = self._mined.strongest[layer]
        assert units.activation is not None
        units = units[(units.channel == map) & (units.activation > 0)]
        assert units.activation is not None
        columns = (units.image.tolist(), units.y.tolist(), units.x.tolist(), units.activation.tolist())
        return [StrongUnit(self.library.names[image], *rest) for image, *rest in zip(*columns, strict=True)]

    def activation(self, image: str, layer: str, map: int, y: int, x: int) -> float | None:
        """That of a unit, if it is one of the strongest."""
        found = (unit.activation for unit in self.of(layer, map) if (unit.image, unit.y, unit.x) == (image, y, x))
        return next(found, None)
