"""What one forward pass leaves behind, and the units that can be picked from it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import at_least
from ..terminal import counted
from .fields import Shape, as_map, rank_of
from .fingerprint import fingerprint
from .positions import Bounds
from .steps.base import Kept, Step
from .trace.tape import Layer, LayerNames, Tape
from .units import LayerLike, Units, as_index, columns_of


@dataclass(eq=False)
class Peaks:
    """The strongest unit of every map of every image.

    Attributes:
        value: (N, C).
        place: (N, C, rank) int64, where it is: [[z,] y,] x.
    """

    value: Tensor
    place: Tensor

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        if state.keys() != {"value", "place"}:
            raise ValueError(
                f"this record was pickled by another version: its peaks have {', '.join(state)}, not value and place; "
                "record the images again"
            )
        self.__dict__.update(state)

    @classmethod
    def of(cls, maps: Tensor, rank: int) -> Peaks:
        """The peaks of (N, C, [[D,] H,] W) or rows (N, ...); the first in row-major order where several are equal."""
        if maps.dim() != rank + 2:
            maps = maps.reshape(len(maps), -1)
            return cls(maps.clone(), torch.zeros((*maps.shape, rank), dtype=torch.int64, device=maps.device))
        value, found = maps, list[Tensor]()
        for _ in range(rank):
            value, last = value.max(dim=-1)
            found.append(last)
        place = [found.pop()]
        while found:
            inner = found.pop()
            for index in place:  # along the outer axes
                rest = (1,) * (inner.dim() - 3)
                inner = inner.take_along_dim(index.view(*index.shape, 1, *rest), 2).squeeze(2)
            place.append(inner)
        return cls(value, torch.stack(place, -1))


class _Network(NamedTuple):
    """By what the network of a record is known again.

    Attributes:
        key: its tape's.
        steps: the numbers of those that were run.
        weights: the fingerprints of what these read, by their paths.
    """

    key: str
    steps: list[int]
    weights: dict[str, str]


@dataclass(eq=False, repr=False)
class Record:
    """What one forward pass kept of N images; made by `Deconvnet.record`.

    It can be copied, pickled and saved with torch. What comes back holds no network and no weights: the first
    `Deconvnet` that projects from it must have the same ones, which is checked.

    Attributes:
        tape: the network it was made with; None of a copy that no network has taken yet.
        names: of its layers.
        images: how many there are.
        dtype, device: of the network.
        steps: those that were run, by their numbers, with the weights of that moment.
        weights: these, by their paths in the network.
        shapes: of every value of the tape, for one image; None of those that the layers asked for do not need.
        kept: what every step passed keeps for the way back: switches, gates, or nothing.
        peaks: of the layers asked for.
        activations: (N, C, [[D,] H,] W) or (N, F) of the layers asked for, with `activations=True`.
        network: of a copy, by what its network is known again.

    Example:
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2)))
        >>> record = net.record(torch.randn(2, 3, 16, 16), "2")
        >>> record.shape("2"), len(record.strongest("2", k=2))
        ((4, 6, 6), 8)
    """

    tape: Tape | None
    names: LayerNames
    images: int
    dtype: torch.dtype
    device: torch.device
    steps: dict[int, Step] = field(default_factory=dict, repr=False)
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    shapes: list[tuple[int, ...] | None] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    peaks: dict[str, Peaks] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    network: _Network | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """How many images."""
        return self.images

    def __repr__(self) -> str:
        return f"Record({self._summary()})"

    def _repr_html_(self) -> str:
        return f"<p>Record of {escape(self._summary())}</p>"

    def _summary(self) -> str:
        image = "x".join(map(str, self.shapes[0] or ())) if self.shapes else "an unknown size"
        layers = ", ".join(map(repr, self.peaks))
        size = f"{self.nbytes / 1e6:.1f} MB" if self.nbytes >= 1e5 else f"{self.nbytes / 1e3:.1f} kB"
        return f"{counted(self.images, 'images')} of {image} up to {layers or 'no layer'}, {size}"

    def __getstate__(self) -> dict[str, object]:
        if self.tape is None:
            return vars(self)
        known = _Network(self.tape.key, list(self.steps), {k: fingerprint(x) for k, x in self.weights.items()})
        return {**vars(self), "tape": None, "steps": {}, "weights": {}, "network": known}

    def attach(self, tape: Tape) -> None:
        """Makes a record that was copied or loaded one of a network again.

        Raises:
            ValueError: it was made by another network, or with other weights.
        """
        if self.tape is tape:
            return
        known = self.network
        if known is None or known.key != tape.key:
            raise ValueError("the record was made by another Deconvnet; record the images with this one")
        if self.tape is None:
            steps, weights = tape.bound(known.steps)
            for path, expected in known.weights.items():
                if path not in weights or fingerprint(weights[path]) != expected:
                    raise ValueError(f"the record was made with another {path!r} than the network has; record again")
            self.steps, self.weights = steps, weights
        self.tape = tape

    @property
    def rank(self) -> int:
        """How many axes the images have: one for signals, two for pictures, three for volumes. Rows count as two."""
        return rank_of(self.shapes[0] or ())

    @property
    def image_shape(self) -> Shape:
        """(C, [[D,] H,] W) of the images; (F, 1, 1) of rows."""
        return as_map(self.shapes[0] or (), self.rank)

    @property
    def switches(self) -> dict[str, Tensor]:
        """The switches of every max pool passed, (N, C, [[PD,] PH,] PW) bytes."""
        return self._kept_by("MaxPool")

    @property
    def gates(self) -> dict[str, Tensor]:
        """Where every rectifier passed lets the signal through, (N, ...); only for the rules that need it."""
        return self._kept_by("Rectifier")

    @property
    def nbytes(self) -> int:
        """The memory the record takes."""
        peaks = [tensor for peak in self.peaks.values() for tensor in (peak.value, peak.place)]
        held = (*chain.from_iterable(self.kept), *peaks, *self.activations.values())
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in held}.values())

    def _kept_by(self, kind: str) -> dict[str, Tensor]:
        return {name: self.kept[number][0] for number, name in self.names.of(kind).items() if self.kept[number]}

    def name(self, layer: LayerLike) -> str:
        """The name of a layer that may be given as a module of the network.

        Raises:
            TypeError: it is neither a name nor a module.
            UnknownLayer: a module of another network.
            ValueError: a module, and the record is a copy that no network has taken yet.
        """
        if isinstance(layer, str):
            return layer
        if self.tape is None:
            raise ValueError("a record that was copied or loaded knows its layers by their names alone")
        return self.tape.name(layer)

    def layer(self, layer: LayerLike) -> Layer:
        """A layer by its name or its module.

        Raises:
            TypeError, UnknownLayer, ValueError: as `name`; no such layer.
        """
        return self.names.layer(self.name(layer))

    def shape(self, layer: LayerLike) -> Shape:
        """(C, [[D,] H,] W) of a layer's output; of a flat one (F, [[1,] 1,] 1).

        Raises:
            UnknownLayer: no such layer.
            ValueError: the record does not reach it.
        """
        layer = self.name(layer)
        shape = self.shapes[self.layer(layer).value]
        if shape is None:
            raise ValueError(f"the record was made for {', '.join(map(repr, self.peaks))} and does not reach {layer!r}")
        return as_map(shape, self.rank)

    def strongest(self, layer: LayerLike, k: int = 9, channels: Sequence[int] | Tensor | None = None) -> Units:
        """The k strongest units of every map over the images, at most one per image.

        Args:
            layer: a layer the record was asked for.
            k: units per map; fewer, with a warning, where there are fewer images.
            channels: maps to look at, all by default.

        Returns:
            Units sorted by channel as in `channels`, then by falling activation; the first image first among equals.

        Raises:
            ValueError: the record was not asked for the layer, k below 1, or a channel that is not there.

        Source: Zeiler & Fergus 2013, Fig 2.
        """
        layer = self.name(layer)
        return self._ranked(layer, k, channels, self._peaks(layer), descending=True)

    def weakest(self, layer: LayerLike, k: int = 9, channels: Sequence[int] | Tensor | None = None) -> Units:
        """The k weakest units of every map, at most one per image, by rising activation; as `strongest`.

        Raises:
            ValueError: as `strongest`, and if the record has no activations.
        """
        layer = self.name(layer)
        lows = Peaks.of(-self._activations(layer, "weakest"), self.rank)
        return self._ranked(layer, k, channels, Peaks(-lows.value, lows.place), descending=False)

    def at_quantile(self, layer: LayerLike, q: float, channels: Sequence[int] | Tensor | None = None) -> Units:
        """For every map, the unit whose activation has rank `q` among all its units in all images.

        Args:
            layer: a layer the record was asked for.
            q: 0 is the weakest, 1 the strongest unit; the nearest rank is taken.
            channels: maps to look at, all by default.

        Returns:
            One unit per map.

        Raises:
            ValueError: q outside 0 to 1, or as `weakest`.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, got {q}")
        layer = self.name(layer)
        maps = self._activations(layer, "at_quantile")
        _, *size = self.shape(layer)
        maps = maps.reshape(len(maps), -1, *size)
        chosen = self._channels(layer, channels)
        columns = maps[:, chosen.to(maps.device)].transpose(0, 1).reshape(len(chosen), -1)
        value, place = columns.kthvalue(round(q * (columns.shape[1] - 1)) + 1, dim=1)
        image, *within = torch.unravel_index(place, (len(maps), *size))
        return Units.of_table(layer, torch.stack([image, chosen.to(image.device), *within]), value)

    def seeds(self, units: Units) -> Tensor:
        """The activations of units, (U,), on the host.

        Raises:
            ValueError: units made by hand, and a record without activations.
        """
        if units.activation is not None:
            return units.activation
        image, channel, *place = units.table().to(self.device)
        return self.at(units.layer, image, channel, torch.stack(place, -1)).cpu()

    def at(self, layer: LayerLike, image: Tensor, channel: Tensor, place: Tensor) -> Tensor:
        """The activations at some places of a layer, (U,), which are not waited for.

        Args:
            layer: one whose activations were kept.
            image, channel: (U,) int64, on the device of the record.
            place: (U, rank) int64, there too.

        Raises:
            ValueError: they were not.
        """
        maps = self._activations(self.name(layer), "seed='activation' for units without activation")
        if maps.dim() != len(columns_of(self.rank)):
            return maps.reshape(len(maps), -1)[image, channel]
        return maps[(image, channel, *place.unbind(-1))]

    def check(self, units: Units) -> Bounds:
        """Whether all units are in the record.

        Returns:
            The least and the greatest of their places along every axis; zeros without units.

        Raises:
            ValueError: one is not.
        """
        if not len(units):
            return (0,) * self.rank, (0,) * self.rank
        layer = self.name(units.layer)
        channels, *size = self.shape(layer)
        if units.rank != self.rank:
            raise ValueError(
                f"units of {layer!r} are named by {', '.join(columns_of(self.rank))}, as its images have the shape "
                f"{self.shapes[0]}; got {', '.join(units.columns)}"
            )
        table = units.table().numpy()
        lowest, highest = (extreme.reduce(table, axis=1).tolist() for extreme in (np.minimum, np.maximum))
        for name, value, length in zip(units.columns, highest, (len(self), channels, *size), strict=True):
            if value >= length:
                images, maps = counted(len(self), "images"), counted(channels, "maps")
                raise ValueError(
                    f"{name} of a unit of {layer!r} must be below {length}, got {value} "
                    f"(the record has {images}, the layer {maps} of {'x'.join(map(str, size))})"
                )
        return tuple(lowest[2:]), tuple(highest[2:])

    def _peaks(self, layer: str) -> Peaks:
        name = self.layer(layer).step
        if name not in self.peaks:
            raise ValueError(f"the record was not asked for {layer!r}, only for {', '.join(map(repr, self.peaks))}")
        return self.peaks[name]

    def _activations(self, layer: str, purpose: str) -> Tensor:
        self._peaks(layer)
        name = self.layer(layer).step
        if name not in self.activations:
            raise ValueError(f"{purpose} needs the activations of {layer!r}: record with activations=True")
        return self.activations[name]

    def _channels(self, layer: str, channels: Sequence[int] | Tensor | None) -> Tensor:
        count = self.shape(layer)[0]
        if channels is None:
            return torch.arange(count)
        chosen = as_index("channels", channels).reshape(-1)
        if len(chosen) and int(chosen.max()) >= count:
            raise ValueError(f"channels of {layer!r} must be below {count}, got {int(chosen.max())}")
        return chosen

    def _ranked(
        self, layer: str, k: int, channels: Sequence[int] | Tensor | None, peaks: Peaks, descending: bool
    ) -> Units:
        at_least("k", k, 1)
        if k > len(self):
            images, units = counted(len(self), "images"), counted(len(self), "units")
            fewer = f"{units} per map and not {k}, at most one per image"
            warnings.warn(f"the record has {images}, of which {layer!r} gives {fewer}", stacklevel=3)
        chosen = self._channels(layer, channels)
        value, place = (tensor[:, chosen.to(tensor.device)].cpu() for tensor in (peaks.value, peaks.place))
        value, image = (t[:k] for t in value.sort(dim=0, descending=descending, stable=True))
        places = place[image, torch.arange(len(chosen))].unbind(-1)
        columns = (image, chosen.expand_as(image), *places)
        return Units.of_table(layer, torch.stack([column.T.flatten() for column in columns]), value.T.flatten())
