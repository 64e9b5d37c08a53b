"""Mining: the strongest, weakest and quantile activations of every map over a data set of any size.

Images stream through the network once, batch by batch, and of each map only the k units of each kind are kept. Units
are ranked by activation, and equal ones by image, row and column, so that the result does not depend on how the data
was divided among parts, processes or machines. A convolution may round differently in a batch of another size or with
another number of threads, so that the last bit asks for the same batches.

    mined = mine(net, loader, ["conv4_3", "conv5_3"], k=9)
    units = mined.strongest["conv5_3"]                  # images by their number in the data set
    numbers = mined.numbers(["conv5_3"])                # the few images that these are in
    record = net.record(fetch(loader, numbers), "conv5_3")
    projections = net.project(record, renumbered(units, numbers))

Source: Zeiler & Fergus 2013, Fig 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import whole_number
from ..data.tensor_files import load_tensors, save_tensors
from ..engine.deconvnet import Deconvnet
from ..engine.record import Record
from ..engine.trace.tape import Tape
from ..engine.units import AXES, Units, columns_of
from ..terminal import Progress
from .common.batches import NEEDS_BATCH, Share, check_data, fetch
from .common.files import Parts
from .common.processes import Processes
from .common.quantiles import Counts, QuantileSearch, order_keys
from .common.responses import by_map, ranks, rectifier_of, respond
from .common.tracing import forward_only

__all__ = ["Mined", "fetch", "mine", "renumbered"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHUNK = 2**24  # activations ranked at a time
_FORMAT = "deconv_kernels mined 1"


@dataclass(frozen=True, eq=False)
class Mined:
    """What `mine` found: for every layer, units whose images are numbered as in the data set.

    Attributes:
        spans: the images looked at: from, to (exclusive), in rising order.
        k: units per map, of each kind.
        one_per_image: whether an image gives a map at most one.
        strongest: by layer; sorted by channel, then by falling activation.
        weakest: the weakest of the positive ones, by layer; sorted by channel, then by rising activation. Maps with
            fewer than k positive ones have fewer units. Empty if not asked for.
        quantiles: by layer and quantile, one unit per map. Empty if not asked for.
    """

    spans: tuple[tuple[int, int], ...]
    k: int
    one_per_image: bool
    strongest: Mapping[str, Units]
    weakest: Mapping[str, Units] = field(default_factory=dict)
    quantiles: Mapping[str, Mapping[float, Units]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def layers(self) -> tuple[str, ...]:
        """Those mined."""
        return tuple(self.strongest)

    def units(self) -> Iterator[tuple[str, Units]]:
        """All units with what they are, "strongest", "weakest" or such as "quantile 0.5", layer by layer."""
        for layer in self.layers:
            yield "strongest", self.strongest[layer]
            if layer in self.weakest:
                yield "weakest", self.weakest[layer]
            for q, units in self.quantiles.get(layer, {}).items():
                yield f"quantile {q}", units

    def responses(self) -> Mined:
        """The same without strongest units that do not respond: those whose activation is not above zero.

        The strongest of a dead map are such units, and of a layer before its rectifier those of maps that few images
        excite. Maps may so have fewer than k strongest units, or none.
        """
        strongest = {}
        for layer, units in self.strongest.items():
            assert units.activation is not None
            strongest[layer] = units[respond(units.activation)]
        return replace(self, strongest=strongest)

    def table(self) -> Iterator[list[object]]:
        """One row per unit: layer, kind, map, rank from 1 in every map, image, [[z,] y,] x and activation."""
        for kind, units in self.units():
            assert units.activation is not None
            image, channel, *place = units.table()
            columns = (channel, ranks(units), image, *place, units.activation.double())
            yield from ([units.layer, kind, *row] for row in zip(*(column.tolist() for column in columns), strict=True))

    def summary(self) -> Iterator[tuple[object, ...]]:
        """For people, what the layers are like: of every map its strongest activation."""
        yield "layer", "maps", "never positive", "median of the maps' strongest", "strongest"
        for layer, units in self.strongest.items():
            assert units.activation is not None
            first = units.channel.new_ones(len(units)).bool()
            first[1:] = units.channel[1:] != units.channel[:-1]
            peaks = units.activation[first].float()
            yield layer, len(peaks), int((peaks <= 0).sum()), f"{peaks.median():.4g}", f"{peaks.max():.4g}"

    def remarks(self, tape: Tape) -> Iterator[str]:
        """For people: of layers that are followed by a rectifier, and of maps with fewer responses than k.

        Args:
            tape: of the network.
        """
        responses = self.responses()
        for layer, units in self.strongest.items():
            if (rectifier := rectifier_of(tape, layer)) != layer:
                yield f"layer {layer}: as it is before layer {rectifier} rectifies it"
            places = by_map(responses.strongest[layer], units.channel.unique().tolist())
            counts = [place.stop - place.start for place in places.values()]
            if few := sum(count < self.k for count in counts):
                none = f"{counts.count(0)} have none"
                yield f"layer {layer}: {few} of {len(counts)} maps have fewer than {self.k} responses, {none}"

    def numbers(self, layers: Sequence[str] | None = None) -> Tensor:
        """The numbers of the images that units of some layers (by default of all) are in, rising; int64.

        Raises:
            ValueError: a layer that was not mined.
        """
        for layer in layers or ():
            if layer not in self.strongest:
                raise ValueError(f"layer {layer!r} was not mined, only {', '.join(map(repr, self.layers))}")
        images = [units.image for _, units in self.units() if layers is None or units.layer in layers]
        return torch.cat(images).unique() if images else torch.empty(0, dtype=torch.int64)

    @classmethod
    def merged(cls, parts: Iterable[Mined]) -> Mined:
        """What mining all the parts' images in one run would have found, whatever the order of the parts.

        Raises:
            ValueError: no parts; parts of other layers, k or kinds; parts that share images (`first_image` of `mine`
                numbers them apart); parts with quantiles, which do not determine those of the whole.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no parts to merge")
        first = parts[0]
        for part in parts:
            for name in ("k", "one_per_image"):
                if getattr(part, name) != getattr(first, name):
                    raise ValueError(
                        f"parts of one {name} are needed, got {getattr(first, name)}, {getattr(part, name)}"
                    )
            if set(part.strongest) != set(first.strongest) or set(part.weakest) != set(first.weakest):
                raise ValueError("parts of the same layers and kinds are needed")
            if part.quantiles:
                raise ValueError(
                    "quantiles of parts do not determine those of the whole: mine with torch.distributed, or merge "
                    "parts without quantiles"
                )
        spans: list[tuple[int, int]] = []
        for start, stop in sorted(span for part in parts for span in part.spans):
            if spans and start < spans[-1][1]:
                raise ValueError(f"image {start} is in several parts: number them apart by first_image")
            if spans and start == spans[-1][1]:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))

        def best(kind: str) -> dict[str, Units]:
            return {
                layer: _best([getattr(part, kind)[layer] for part in parts], first.k, kind)
                for layer in getattr(first, kind)
            }

        return cls(tuple(spans), first.k, first.one_per_image, best("strongest"), best("weakest"))

    def save(self, path: Path | str) -> None:
        """Writes everything to a `.npz` or `.safetensors` file; `load` reads it.

        Its tensors are called such as "conv5_3/strongest/activation".

        Raises:
            ValueError, OSError: as `deconv_kernels.data.tensor_files.save_tensors`.
        """
        tensors = {}
        for kind, units in self.units():
            for column in (*units.columns, "activation"):
                tensors[f"{units.layer}/{kind}/{column}"] = getattr(units, column)
        quantiles = next(iter(self.quantiles.values()), {})
        about = {
            "format": _FORMAT,
            "spans": self.spans,
            "k": self.k,
            "one_per_image": self.one_per_image,
            "layers": self.layers,
            "weakest": bool(self.weakest),
            "quantiles": tuple(quantiles),
        }
        save_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path | str) -> Mined:
        """Reads what `save` wrote. Nothing in the file is executed.

        Raises:
            ValueError: no such file, or not one that `save` wrote.
        """
        tensors, about = load_tensors(path)

        def units(layer: str, kind: str) -> Units:
            rank = sum(f"{layer}/{kind}/{axis}" in tensors for axis in AXES)
            table = torch.stack([tensors[f"{layer}/{kind}/{column}"] for column in columns_of(rank)])
            return Units.of_table(layer, table, tensors[f"{layer}/{kind}/activation"])

        if about.get("format") != _FORMAT:
            raise ValueError(f"{str(path)!r} does not hold mined units")
        try:
            layers, quantiles = about["layers"], about["quantiles"]
            return cls(
                tuple((start, stop) for start, stop in about["spans"]),
                about["k"],
                about["one_per_image"],
                {layer: units(layer, "strongest") for layer in layers},
                {layer: units(layer, "weakest") for layer in layers if about["weakest"]},
                {layer: {q: units(layer, f"quantile {q}") for q in quantiles} for layer in layers if quantiles},
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} does not hold mined units as they were saved: {error}") from error


def renumbered(units: Units, numbers: Tensor) -> Units:
    """The same units of a record of only some images of the data set.

    Args:
        units: their images are numbers in the data set.
        numbers: the images of the record, by their rising numbers in the data set.

    Raises:
        ValueError: a unit's image is not among them.

    Example:
        >>> units = dk.Units("conv5", image=[7, 90, 7], channel=3, y=0, x=0)
        >>> renumbered(units, torch.tensor([7, 90])).image.tolist()
        [0, 1, 0]
    """
    place = torch.searchsorted(numbers, units.image)
    missing = numbers[place.clamp(max=len(numbers) - 1)] != units.image if len(numbers) else units.image >= 0
    if bool(missing.any()):
        raise ValueError(f"image {int(units.image[missing][0])} is not among the {len(numbers)} given")
    return units.of_images(place)


def mine(
    model: Deconvnet | nn.Module,
    data: Iterable[Any],
    layers: str | Sequence[str],
    k: int = 9,
    *,
    one_per_image: bool = True,
    weakest: bool = False,
    quantiles: Sequence[float] = (),
    first_image: int = 0,
    parts: Parts | None = None,
    batches_per_part: int = 64,
    distributed: bool = True,
    progress: bool = True,
) -> Mined:
    """Finds the strongest, and if asked the weakest positive and the quantile activations of every map.

    Memory does not grow with the data: it holds one batch, k units of each map and kind, and for quantiles up to four
    copies of counts, which take at most 64 MiB per layer.

    NaN ranks above everything, as in `Record.strongest`, so that it is seen. The forward pass runs in eval mode and
    does not depend on a Deconvnet's rule.

    Quantiles are exact, of all activations of a map in all images, and are `Record.at_quantile` of a record of all of
    them; of equal activations the first unit by image, row and column is taken. They need further passes over the data:
    float32 three in all (two for layers of few maps), float64 twice as many.

    In a torch.distributed job, such as under `torchrun`, batch number n goes to process n modulo their number; every
    process gets the whole result, on the CPU the same as that of one process to the last bit.

    Args:
        model: the network; on its device the images are run.
        data: batches on any device, from any iterable or DataLoader in a fixed order: tensors (N, C, H, W), or (N, F)
            where the network takes rows; or tuples, lists or dicts, of which the first floating-point tensors are
            taken. Batches may differ in size and in the size of their images. A tensor of images is taken as batches
            of 16. Single images without a batch dimension are refused.
        layers: which layers' units to rank. Nothing is run that they do not need.
        k: units per map, of each kind; fewer where there are fewer.
        one_per_image: at most one unit of a map per image, as in the paper; else all positions compete.
        weakest: look for the weakest of the positive activations too.
        quantiles: from 0, the weakest activation, to 1, the strongest.
        first_image: the number of the first image, for parts of a data set that are mined apart.
        parts: keeps finished batches, so that an interrupted run goes on where it stopped: without a forward pass, and
            for a DataLoader of a map-style data set without loading. Their settings have to say what the network, the
            data and these arguments are.
        batches_per_part: how many batches of a process make a part.
        distributed: share the batches among the processes of torch.distributed, where it is initialised. Then all of
            them must call `mine`; with False this process mines all of the data.
        progress: show a progress bar, in the first process.

    Returns:
        The units, on the host.

    Raises:
        TypeError: data or batches that do not hold images of the model's dtype, or a number that is not whole.
        ValueError: no layers, no images, k or a quantile that cannot be, a DataLoader that shuffles or drops images, or
            an iterator (which can be read only once) where quantiles need several passes.
        UnknownLayer: a layer the model does not have.

    Source: Zeiler & Fergus 2013, Fig 2.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU())
        >>> mined = mine(model, torch.randn(32, 3, 16, 16), "1", k=9, progress=False)
        >>> mined.images, len(mined.strongest["1"])
        (32, 36)
    """
    net = forward_only(model)
    names = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise ValueError("layers must name at least one layer")
    for name in names:
        net.layer(name)
    k, first_image = whole_number("k", k, 1), whole_number("first_image", first_image, 0)
    batches_per_part = whole_number("batches_per_part", batches_per_part, 1)
    wanted = tuple(dict.fromkeys(float(q) for q in quantiles))
    if wrong := [q for q in wanted if not 0 <= q <= 1]:
        raise ValueError(f"quantiles must be between 0 and 1, got {wrong[0]}")
    check_data(data, "quantiles" if wanted else None)
    run = _Run(
        net, data, k, one_per_image, weakest, wanted, first_image, parts, batches_per_part, distributed, progress
    )
    return run.mined(names)


@dataclass(eq=False)
class _Pass:
    """What one pass over some of the batches found.

    Attributes:
        batches, images: how many.
        maps, dtypes: of every layer, how many maps and the dtype of their activations.
        best: units by layer and kind.
        counts: for the quantiles, by layer.
    """

    batches: int = 0
    images: int = 0
    maps: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    best: dict[tuple[str, str], Units] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As numbers and tensors in dicts."""
        return {
            "batches": self.batches,
            "images": self.images,
            "maps": self.maps,
            "dtypes": {layer: _DTYPES.index(dtype) for layer, dtype in self.dtypes.items()},
            "best": {key: (units.table(), units.activation) for key, units in self.best.items()},
            "counts": {layer: counts.plain() for layer, counts in self.counts.items()},
        }

    def meet(self, layer: str, maps: int, dtype: torch.dtype) -> None:
        """Notes a layer's maps.

        Raises:
            ValueError: they are not those met before.
        """
        if dtype not in _DTYPES:
            raise ValueError(f"layer {layer!r} gives {dtype}; {', '.join(map(str, _DTYPES))} can be ranked")
        met = self.maps.setdefault(layer, maps), self.dtypes.setdefault(layer, dtype)
        if met != (maps, dtype):
            raise ValueError(f"layer {layer!r} gave {met[0]} maps of {met[1]} and now gives {maps} of {dtype}")


@dataclass(eq=False)
class _Run:
    """One call of `mine`."""

    net: Deconvnet
    data: Iterable[Any]
    k: int
    one_per_image: bool
    weakest: bool
    quantiles: tuple[float, ...]
    first_image: int
    parts: Parts | None
    batches_per_part: int
    distributed: bool
    progress: bool

    def __post_init__(self) -> None:
        self.processes = Processes(self.distributed)
        self.searches: dict[str, QuantileSearch] = {}
        self.rank = 0  # how many axes the images have, as soon as some are seen

    def mined(self, layers: tuple[str, ...]) -> Mined:
        """All passes."""
        found = self._through(layers, 1)
        images = int(self.processes.add(torch.tensor(found.images)))
        if images == 0:
            raise ValueError("the data holds no images")
        self._agree(found, layers)
        kinds = ["strongest", *["weakest"] * self.weakest]
        best = {kind: {layer: self._gathered(found, layer, kind) for layer in layers} for kind in kinds}
        if self.quantiles:
            for layer in layers:
                self._search(layer, found.maps[layer], found.dtypes[layer])
            self._narrow(found, layers)
            number = 2
            while left := tuple(layer for layer in layers if not self.searches[layer].done):
                found = self._through(left, number)
                self._narrow(found, left)
                number += 1
        return Mined(
            ((self.first_image, self.first_image + images),),
            self.k,
            self.one_per_image,
            best["strongest"],
            best.get("weakest", {}),
            {layer: self._at_quantiles(layer) for layer in layers if self.quantiles},
        )

    def _through(self, layers: tuple[str, ...], number: int) -> _Pass:
        """One pass over this process's share of the data."""
        rank, world = self.processes.rank, self.processes.world
        share = Share(self.data, self.first_image, rank, world, self.net.tape.inputs)
        try:
            length = len(share)
        except TypeError:
            length = None
        kept = self.parts or Parts.nowhere()
        total = _Pass()
        title = "mining" if not self.quantiles else f"mining, pass {number}"
        with Progress(total=length, desc=title, unit="batch", disable=not self.progress or rank > 0) as bar:
            full, begin = True, 0
            while full:
                name = f"pass {number}, process {rank} of {world}, {self.batches_per_part} batches from {begin}"
                part = kept.get(name, partial(self._part, share, begin, layers, number, bar))
                bar.n = begin + part["batches"]
                bar.refresh()
                self._add(total, part)
                begin += self.batches_per_part
                full = part["batches"] == self.batches_per_part
        return total

    def _part(self, share: Share, begin: int, layers: tuple[str, ...], number: int, bar: Progress) -> dict[str, Any]:
        """What some batches hold, run forward."""
        part = _Pass()
        needs_all = number > 1 or not self.one_per_image or self.weakest or bool(self.quantiles)
        for start, inputs in share.take(begin, self.batches_per_part):
            part.batches += 1
            part.images += len(inputs[0])
            if len(inputs[0]):
                self._check(inputs)
                images = inputs if len(inputs) > 1 else inputs[0]
                record = self.net.record(images, layers, needs_all, batch_size=len(inputs[0]), progress=False)
                for layer in layers:
                    self._look(part, record, layer, start, number)
            bar.update()
        return part.plain()

    def _check(self, inputs: Sequence[Tensor]) -> None:
        """Refuses a batch that the network does not take."""
        try:
            self.net.check_images(inputs)
        except ValueError as error:
            single = inputs[0].dim() == (self.net.tape.rank or 2) + 1
            raise ValueError(f"{error}{NEEDS_BATCH}" if single else str(error)) from error

    def _look(self, part: _Pass, record: Record, layer: str, start: int, number: int) -> None:
        """Ranks and counts a layer's activations of a batch, whose first image is number `start`."""
        self.rank = record.rank
        maps = _as_maps(record.activations[layer], self.rank) if layer in record.activations else None
        if maps is not None:
            part.meet(layer, maps.shape[1], maps.dtype)
        if number == 1:
            for kind in ("strongest", *["weakest"] * self.weakest):
                if kind == "strongest" and self.one_per_image:
                    new = record.strongest(layer, min(self.k, len(record)))
                else:
                    assert maps is not None
                    new = _candidates(maps, layer, self.k, kind, self.one_per_image)
                assert new.activation is not None
                part.meet(layer, record.shape(layer)[0], new.activation.dtype)
                new = new.of_images(new.image + start)
                known = part.best.get((layer, kind))
                part.best[layer, kind] = _best([new] if known is None else [known, new], self.k, kind)
        if self.quantiles:
            assert maps is not None
            search = self._search(layer, maps.shape[1], maps.dtype)
            if layer not in part.counts:
                part.counts[layer] = search.counts()
            search.count(part.counts[layer], maps, start)

    def _add(self, total: _Pass, part: dict[str, Any]) -> None:
        total.batches += part["batches"]
        total.images += part["images"]
        for layer, maps in part["maps"].items():
            total.meet(layer, maps, _DTYPES[part["dtypes"][layer]])
        for (layer, kind), (table, activation) in part["best"].items():
            units = [Units.of_table(layer, table, activation)]
            self.rank = units[0].rank
            if (layer, kind) in total.best:
                units.append(total.best[layer, kind])
            total.best[layer, kind] = _best(units, self.k, kind)
        for layer, counts in part["counts"].items():
            if layer not in total.counts:
                total.counts[layer] = self._search(layer, total.maps[layer], total.dtypes[layer]).counts()
            total.counts[layer].add(counts)

    def _agree(self, found: _Pass, layers: tuple[str, ...]) -> None:
        """Tells processes without any batch what the layers are."""
        for layer in layers:
            maps, dtype = found.maps.get(layer, 0), found.dtypes.get(layer)
            number = -1 if dtype is None else _DTYPES.index(dtype)
            maps, number, self.rank = self.processes.most(torch.tensor([maps, number, self.rank])).tolist()
            found.meet(layer, maps, _DTYPES[number])

    def _gathered(self, found: _Pass, layer: str, kind: str) -> Units:
        """The best units over all processes; activations travel as their bits."""
        dtype = found.dtypes[layer]
        nothing = torch.empty(2 + self.rank, 0, dtype=torch.int64)
        nobody = Units.of_table(layer, nothing, torch.empty(0, dtype=dtype))
        own = found.best.get((layer, kind), nobody)
        assert own.activation is not None
        integer = order_keys(own.activation).dtype
        bits = own.activation.contiguous().view(integer).to(torch.int64)
        columns = self.processes.gather(torch.cat([own.table(), bits[None]]))
        units = [Units.of_table(layer, part[:-1], part[-1].to(integer).view(dtype)) for part in columns]
        return _best(units, self.k, kind)

    def _search(self, layer: str, maps: int, dtype: torch.dtype) -> QuantileSearch:
        if layer not in self.searches:
            parameter = next(self.net.model.parameters(), torch.empty(0))
            self.searches[layer] = QuantileSearch(maps, self.quantiles, dtype, parameter.device, self.rank)
        return self.searches[layer]

    def _narrow(self, found: _Pass, layers: tuple[str, ...]) -> None:
        """Adds up the counts of all processes and goes on to the next digit."""
        for layer in layers:
            search = self.searches[layer]
            counts = found.counts[layer] if layer in found.counts else search.counts()
            first = None if counts.first is None else self.processes.least(counts.first)
            search.narrow(Counts(self.processes.add(counts.number), first))

    def _at_quantiles(self, layer: str) -> dict[float, Units]:
        search = self.searches[layer]
        channels = torch.arange(search.maps)
        by_quantile = {}
        for place, q in enumerate(self.quantiles):
            (image, *at), value = search.units(place)
            by_quantile[q] = Units.of_table(layer, torch.stack([image, channels, *at]), value)
        return by_quantile


def _as_maps(activations: Tensor, rank: int) -> Tensor:
    return activations if activations.dim() == rank + 2 else activations.flatten(1)[(..., *(None,) * rank)]


def _candidates(maps: Tensor, layer: str, k: int, kind: str, one_per_image: bool) -> Units:
    """The k best units of every map of every image, or one; of equal ones the first in row-major order."""
    at_once = max(1, _CHUNK // maps[0].numel())
    parts = [
        _of_chunk(maps[first : first + at_once], first, layer, k, kind, one_per_image)
        for first in range(0, len(maps), at_once)
    ]
    return Units.concatenate(parts)


def _of_chunk(maps: Tensor, first: int, layer: str, k: int, kind: str, one_per_image: bool) -> Units:
    values = maps.flatten(2)
    score = order_keys(values.contiguous())
    excluded = torch.iinfo(score.dtype).min
    if kind == "weakest":
        score = torch.where(values > 0, -score, excluded)
    places = score.shape[2]
    count = 1 if one_per_image else min(k, places)
    if count == 1:
        best, place = score.max(dim=2, keepdim=True)
    else:
        least = score.topk(count, dim=2, sorted=False).values.amin(2, keepdim=True)
        falling = torch.arange(places, 0, -1, dtype=torch.int32, device=score.device)
        # Everything above the least of the best, and of its equals the first.
        priority = torch.where(score > least, places + 1, torch.where(score == least, falling, 0))
        place = priority.topk(count, dim=2, sorted=False).indices
        best = score.gather(2, place)
    image, channel, rank = (best > excluded).nonzero(as_tuple=True)
    chosen = place[image, channel, rank]
    at = torch.unravel_index(chosen, maps.shape[2:])
    return Units.of_table(layer, torch.stack([image + first, channel, *at]), values[image, channel, chosen])


def _best(parts: Sequence[Units], k: int, kind: str) -> Units:
    """The k best units of every map; equal ones by image and place."""
    units = Units.concatenate(parts)
    assert units.activation is not None
    keys = order_keys(units.activation.contiguous()).to(torch.int64).numpy()
    image, channel, *place = units.table().numpy()
    order = np.lexsort((*reversed(place), image, keys if kind == "weakest" else -keys, channel))
    channel = channel[order]
    rank = np.arange(len(order)) - np.searchsorted(channel, channel)
    return units[torch.from_numpy(order[rank < k])]
