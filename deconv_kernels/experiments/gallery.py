"""The gallery: what the maps of a network respond to (Zeiler & Fergus 2013, Fig 2).

Images are recorded once, and for every chosen map the strongest activations (at most one per image) are projected back
to pixels. Only units that respond count: a map has fewer where it responds in fewer images, and none if it is dead.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import at_least
from ..data.crops import Crop
from ..engine.deconvnet import Deconvnet
from ..engine.projections import Projections
from ..engine.record import Record
from ..engine.units import AXES, Units
from ..terminal import Progress
from .common.clock import now
from .common.responses import by_map, ranks, receptive_field, rectifier_of, strongest_responses

__all__ = ["Gallery", "LayerGallery", "choose_maps", "distinct", "gallery", "strongest", "table_head"]

_CHUNK = 48


@dataclass(frozen=True)
class LayerGallery:
    """What maps of a layer respond to.

    Attributes:
        layer: its name. Where a rectifier follows it, the units are those of `rectifier`, which else is the same.
        rectifier: whose units stand for the layer's.
        channels: how many maps the layer has.
        maps: the chosen ones. One without units is dead: it responds in no image.
        projections: of at most k units for each of them, by map, then by falling activation.
        field: what a unit sees of an image however large it is, along each axis, or None for all of it.
        seconds: how long projecting took.
    """

    layer: str
    rectifier: str
    channels: int
    maps: tuple[int, ...]
    projections: Projections
    field: tuple[int, ...] | None
    seconds: float

    @property
    def window(self) -> tuple[int, ...]:
        """How far what is projected reaches along each axis, at most as far as an image."""
        return tuple(self.projections.windows.shape[2:])

    @property
    def rectified_by(self) -> str | None:
        """The rectifier that follows the layer, or None."""
        return None if self.rectifier == self.layer else self.rectifier

    @property
    def places(self) -> Mapping[int, slice]:
        """Where the units of every chosen map are among the projections."""
        return by_map(self.projections.units, self.maps)

    @property
    def counts(self) -> Mapping[int, int]:
        """How many units every chosen map has."""
        return {channel: place.stop - place.start for channel, place in self.places.items()}

    def dead(self) -> tuple[int, ...]:
        """The chosen maps that respond in no image."""
        return tuple(channel for channel, count in self.counts.items() if not count)

    def fewer(self, k: int) -> dict[int, int]:
        """The chosen maps that respond in fewer than k images, in how many."""
        return {channel: count for channel, count in self.counts.items() if 0 < count < k}

    def table(self) -> Iterator[list[object]]:
        """One row per unit, under `table_head`; ranks count from 1 in every map."""
        units = self.projections.units
        assert units.activation is not None
        image, channel, *place = units.table()
        columns = (channel, ranks(units), image, *place, units.activation, self.projections.boxes)
        for *numbers, box in zip(*(column.tolist() for column in columns), strict=True):
            yield [self.layer, *numbers, *box, self.rectified_by or ""]


def table_head(image: str, rank: int) -> tuple[str, ...]:
    """What the columns of `LayerGallery.table` are called.

    Args:
        image: what an image is called, such as "crop".
        rank: how many axes images have.
    """
    axes = AXES[-rank:]
    box = (f"{axis}{end}" for end in (0, 1) for axis in axes)
    return ("layer", "map", "rank", image, *axes, "activation", *box, "rectified_by")


@dataclass(frozen=True)
class Gallery:
    """What maps of some layers respond to.

    Attributes:
        k: units per map at most.
        layers: in the order asked for.
        record_seconds: how long recording the images took.
    """

    k: int
    layers: tuple[LayerGallery, ...]
    record_seconds: float


def gallery(
    net: Deconvnet,
    images: Tensor,
    layers: Sequence[str],
    *,
    maps: int = 16,
    k: int = 9,
    seed: int = 0,
    overlap: str = "sum",
    crops: Sequence[Crop] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Gallery:
    """Projects the strongest units of some maps of layers.

    Args:
        net: the network.
        images: (N, C, H, W), (N, C, D, H, W) or (N, C, L) as it takes them.
        layers: whose maps; see `rectifier_of`.
        maps: maps per layer, chosen at random, or all where a layer has fewer.
        k: units per map, at most one per image.
        seed: chooses the maps.
        overlap: as for `Deconvnet.project`.
        crops: where the images were cut out of photographs, to show a place that several of them hold only once a map.
        batch_size: images recorded at a time.
        progress: show progress bars.

    Source: Zeiler & Fergus 2013, Fig 2.
    """
    rectifiers = {layer: rectifier_of(net.tape, layer) for layer in layers}
    start = time.perf_counter()
    record = net.record(images, list(dict.fromkeys(rectifiers.values())), batch_size=batch_size, progress=progress)
    record_seconds = now(record.device) - start
    chosen = {layer: choose_maps(layer, record.shape(layer)[0], maps, seed) for layer in layers}
    mined = {layer: strongest(net, record, rectifiers[layer], k, chosen[layer], crops) for layer in layers}
    found = []
    with Progress(total=sum(map(len, mined.values())), desc="projecting", unit="unit", disable=not progress) as bar:
        for layer, units in mined.items():
            start, parts = now(record.device), []
            for first in range(0, max(1, len(units)), _CHUNK):
                parts.append(net.project(record, units[first : first + _CHUNK], overlap=overlap, progress=False))
                bar.update(len(parts[-1]))
            seconds = now(record.device) - start
            windows, boxes = (torch.cat([getattr(part, name) for part in parts]) for name in ("windows", "boxes"))
            projections = Projections(units, windows, boxes, parts[0].shape)
            field = receptive_field(net.tape, record, rectifiers[layer])
            channels, of = record.shape(layer)[0], tuple(chosen[layer])
            found.append(LayerGallery(layer, rectifiers[layer], channels, of, projections, field, seconds))
    return Gallery(k, tuple(found), record_seconds)


def strongest(
    net: Deconvnet, record: Record, layer: str, k: int, maps: Sequence[int], crops: Sequence[Crop] | None = None
) -> Units:
    """The k strongest units of maps that respond, at most one per image and, of crops, one per place.

    Args:
        net, record: the network and what was recorded of the images.
        layer: whose maps.
        k, maps, crops: as for `gallery`.
    """
    if crops is None:
        return strongest_responses(record, layer, k, maps)
    candidates = strongest_responses(record, layer, len(crops), maps)
    _, *grid = record.shape(layer)
    projections = net.project(record, candidates[:1], progress=False)
    kept = distinct(candidates, k, crops, grid, projections.windows.shape[2:], projections.image_size[0])
    return candidates[torch.tensor(kept, dtype=torch.int64)]


def choose_maps(layer: str, channels: int, count: int, seed: int) -> list[int]:
    """Chooses maps of a layer at random, as the paper's Fig 2 does; the same arguments always choose the same.

    Returns:
        `count` different channels (all where there are fewer), in order.
    """
    at_least("seed", seed, 0)
    generator = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    return sorted(generator.permutation(channels)[:count].tolist())


def distinct(
    units: Units, k: int, crops: Sequence[Crop], grid: Sequence[int], receptive_field: Sequence[int], size: int
) -> list[int]:
    """Picks the k strongest units of every map that show different places.

    Crops overlap, so one place of a photograph comes up in several of them. Two units show the same place if their
    receptive fields, laid onto the photograph, share more than half of their union. Where fewer than k places are left
    the strongest repeats fill up.

    Args:
        units: sorted by map, within each by falling activation; images are indices into `crops`.
        k: units per map.
        crops: where the images were cut.
        grid: rows and columns of the layer's maps.
        receptive_field: its rows and columns, in the images' pixels.
        size: side of the images.

    Returns:
        Indices into `units`, by map, then by falling activation.
    """
    if not len(units):
        return []
    image, channel, y, x = units.table().numpy()
    photograph, top, left, side = np.array([(c.photograph, c.y, c.x, c.side) for c in crops], dtype=np.float64)[image].T
    scale = side / size
    centre_y, centre_x = top + (y + 0.5) / grid[0] * side, left + (x + 0.5) / grid[1] * side
    reach_y, reach_x = (min(length, size) * scale / 2 for length in receptive_field)

    def shared(first: int, others: list[int]) -> np.ndarray:
        """Intersection over union of one receptive field with others."""
        sides = [
            np.minimum(centre[first] + reach[first], centre[others] + reach[others])
            - np.maximum(centre[first] - reach[first], centre[others] - reach[others])
            for centre, reach in ((centre_y, reach_y), (centre_x, reach_x))
        ]
        common = np.maximum(sides[0], 0) * np.maximum(sides[1], 0)
        areas = 4 * (reach_y[first] * reach_x[first] + reach_y[others] * reach_x[others])
        return common / (areas - common) * (photograph[first] == photograph[others])

    kept: list[int] = []
    for map_ in dict.fromkeys(channel.tolist()):
        new: list[int] = []
        repeated: list[int] = []
        for candidate in np.flatnonzero(channel == map_).tolist():
            if len(new) == k:
                break
            (repeated if new and shared(candidate, new).max() > 0.5 else new).append(candidate)
        kept += sorted(new + repeated[: k - len(new)])
    return kept
