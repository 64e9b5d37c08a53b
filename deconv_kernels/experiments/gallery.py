"""The gallery: what the maps of a network respond to, in photographs (Zeiler & Fergus 2013, Fig 2).

Photographs are cut into crops, recorded once, and for every chosen map the strongest activations (at most one per crop)
are projected back to pixels and drawn beside the patches that caused them. Only units that respond are shown: a map has
fewer where it responds in fewer crops, and none if it is dead.
"""

from __future__ import annotations

import csv
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import plot
from ..backends import allows_tf32, usable_device
from ..checks import at_least
from ..data.photographs import Crop, cut, load_photographs, plan_crops
from ..data.tensor_files import save_arrays
from ..data.writing import being_written, write_text
from ..engine.deconvnet import Deconvnet, Projections
from ..engine.record import Record
from ..engine.steps.pooling import MaxPool
from ..engine.units import Units
from ..measure.baselines import (
    Projector,
    WrongResult,
    definition,
    deviation,
    installed,
    project_captum,
    project_full_frame,
    said_by,
)
from ..models import load_weights
from ..ops import check_overlap
from .common.files import file_name, written_at_once
from .common.layers import check_takes, chosen_layers
from .common.responses import by_map, describe_rectification, receptive_field, rectifier_of, strongest_responses

__all__ = ["Gallery", "Settings", "Summary", "choose_maps", "distinct"]

_CHUNK = 48


@dataclass(frozen=True)
class Settings:
    """What to draw.

    Args:
        model, weights: as `deconv_kernels.models.load_weights` takes them.
        images: as `deconv_kernels.photographs.load_photographs` takes them.
        layers: names of the layers whose maps to draw.
        maps: maps per layer, or all where a layer has fewer.
        k: activations per map.
        crops: how many crops to cut from the photographs, at most.
        batch_size: crops recorded at a time.
        seed: chooses the maps.
        device: where to compute, "cpu" or "cuda".
        rule: "deconvnet", "guided" or "gradient".
        overlap: "sum" or "last".
        distinct: show a place of a photograph that several crops hold only once among a map's activations.
        sample: units per layer on which the definition and the baselines are compared and timed; 0 leaves them out.
        size: rows and columns of the crops that the network sees.
        mean, std: of the pixels from 0 to 1, as for `load_weights`.
    """

    model: str
    weights: str | None
    images: tuple[str, ...]
    layers: tuple[str, ...]
    maps: int = 16
    k: int = 9
    crops: int = 256
    batch_size: int = 16
    seed: int = 0
    device: str = "cpu"
    rule: str = "deconvnet"
    overlap: str = "sum"
    distinct: bool = False
    sample: int = 4
    size: int = 224
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerRates:
    """Projections per second of one layer, ours over all its units, the baselines' on `sample` of them, by name.

    Ours leaves out the recording, which all units share; the baselines include the forward passes they need: batched
    ATen one per image, Captum one per unit. `difference` is the largest deviation of a projection from its definition
    and from a baseline's, relative to the projection's largest value. `left_out` says which baselines did not run or
    were wrong, and why. `receptive_field` is what a unit sees of an image however large it is, or None for all of it;
    `window` is what is projected, at most the image. Where a rectifier follows the layer, the units are those of
    `rectified_by`. The maps in `dead` respond in no crop and have no units; those in `fewer` respond in fewer crops
    than were asked for, in how many.
    """

    layer: str
    units: int
    receptive_field: tuple[int, int] | None
    ours: float
    sample: int = 0
    baselines: Mapping[str, float] = field(default_factory=dict)
    difference: float | None = None
    window: tuple[int, int] = (0, 0)
    rectified_by: str | None = None
    dead: tuple[int, ...] = ()
    fewer: Mapping[int, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a run did: its output folder and files, how long recording and projecting took, and the rates per layer."""

    folder: str
    files: tuple[str, ...]
    crops: int
    photographs: int
    record_seconds: float
    project_seconds: float
    rates: tuple[LayerRates, ...]

    @property
    def projections(self) -> int:
        """How many units were projected."""
        return sum(rate.units for rate in self.rates)

    def lines(self) -> list[str]:
        """The summary for people, line by line."""
        lines = [
            f"{self.projections} projections of units in {self.crops} crops of {self.photographs} photographs: "
            f"recorded in {self.record_seconds:.1f} s, projected in {self.project_seconds:.1f} s "
            f"({self.projections / self.project_seconds:,.0f} per second)"
        ]
        names = list(dict.fromkeys(name for rate in self.rates for name in rate.baselines))
        compared = any(rate.difference is not None for rate in self.rates)
        if names:
            lines.append("projections per second:")
        rows = [["layer", "units", "receptive field", "ours", *names, "largest difference" if compared else ""]]
        for rate in self.rates:
            rows.append([rate.layer, str(rate.units), _seen(rate.receptive_field), f"{rate.ours:,.1f}"])
            rows[-1] += [_faster(rate.ours, rate.baselines.get(name)) for name in names]
            rows[-1].append("" if rate.difference is None else f"{rate.difference:.0e}" if rate.difference else "0")
        seconds = [self.project_seconds, self.record_seconds + self.project_seconds]
        for label, ours in zip(("all", "all, with recording"), (self.projections / s for s in seconds), strict=True):
            rows.append([label, str(self.projections), "", f"{ours:,.1f}"])
            for name in names:
                rated = [rate for rate in self.rates if rate.units]
                everywhere = all(name in rate.baselines for rate in rated)
                took = sum(rate.units / rate.baselines[name] for rate in rated) if everywhere else None
                rows[-1].append(_faster(ours, took and self.projections / took))
            rows[-1].append("")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *others = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join([first, *others]).rstrip())
        sample = max((rate.sample for rate in self.rates), default=0)
        if names:
            lines.append(
                f"The baselines ran on {sample} units of each layer, with the forward passes they need; "
                "in brackets, how many times faster ours is."
            )
        for rate in self.rates:
            if rate.fewer:
                lines.append(f"layer {rate.layer}: {_maps(rate.fewer)} in fewer crops than asked for")
            if rate.dead:
                lines.append(f"layer {rate.layer}: {_maps(rate.dead)} in no crop (dead)")
        if compared:
            lines.append(
                f"Differences, of {sample} units of each layer from the definition of a projection and from the "
                "baselines, are relative to a projection's largest value."
            )
        for rate in self.rates:
            lines += [f"{rate.layer}: {name} is left out: {why}" for name, why in rate.left_out.items()]
        return [*lines, f"{len(self.files)} files in {self.folder}: {', '.join(self.files)}"]


class Gallery:
    """One run, checked before it starts: weights, photographs and layers are loaded on construction.

    Args:
        settings: what to draw.

    Raises:
        ValueError: anything about the settings, the weights or the photographs that cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        for name, least in (
            ("maps", 1),
            ("k", 1),
            ("crops", 1),
            ("batch_size", 1),
            ("sample", 0),
            ("size", 1),
            ("seed", 0),
        ):
            at_least(name, getattr(settings, name), least)
        check_overlap(settings.overlap)
        self.settings = settings
        self.device = usable_device(settings.device)
        tf32 = self.device.type == "cuda" and allows_tf32()
        self.tolerance = 2e-2 if tf32 else 1e-4
        self.weights = load_weights(
            settings.model, settings.weights, size=settings.size, mean=settings.mean, deviation=settings.std
        )
        # Convolutions of channels_last maps are the faster ones on CPUs and GPUs alike.
        self.model = self.weights.model().to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = Deconvnet(self.model, rule=settings.rule)
        chosen_layers(self.net, settings.layers)
        self.rectified = {layer: rectifier_of(self.net.tape, layer) for layer in settings.layers}
        size = settings.size
        blank = self.weights.preprocess(torch.zeros(1, 3, size, size, dtype=torch.uint8)).to(self.device)
        check_takes(self.net, blank, settings.layers, settings.model)
        self.photographs = load_photographs(settings.images)
        self.crops = plan_crops(self.photographs, size, settings.crops)
        if len(self.crops) < settings.k:
            raise ValueError(
                f"{len(self.crops)} crops are too few for the {settings.k} strongest activations, one per crop: "
                "give more or larger photographs, more crops or a smaller k"
            )

    def run(self, folder: str | Path, progress: bool = True) -> Summary:
        """Records, mines, projects, compares with the baselines, draws and writes.

        The files appear in `folder` together, when everything is done; an error leaves nothing behind.

        Args:
            folder: created if need be. Files of the same names in it are replaced.
            progress: show progress bars.

        Raises:
            OSError: the folder cannot be written.
            WrongResult: projections differ from their definition.
        """
        settings = self.settings
        with written_at_once(Path(folder)) as draft:
            images = cut(self.photographs, self.crops, settings.size)
            inputs = self.weights.preprocess(images).contiguous(memory_format=torch.channels_last)
            start = self._now()
            wanted = list(dict.fromkeys(self.rectified.values()))
            record = self.net.record(inputs, wanted, batch_size=settings.batch_size, progress=progress)
            record_seconds = self._now() - start

            mined = [self._mine(record, layer) for layer in settings.layers]
            projected, seconds = self._project(record, mined, progress)
            rates = tuple(
                self._described(self._rate(inputs, projections, took), record, layer, projections.units)
                for layer, projections, took in zip(settings.layers, projected, seconds, strict=True)
            )

            self._write_numbers(draft, projected)
            self._draw(draft, images, record, projected, rates)
            summary = Summary(
                str(folder),
                (*sorted(path.name for path in draft.iterdir()), "gallery.json"),
                len(self.crops),
                len(self.photographs),
                record_seconds,
                sum(seconds),
                rates,
            )
            self._write_summary(draft / "gallery.json", summary)
        return summary

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _mine(self, record: Record, layer: str) -> Units:
        settings, maps, rectified = self.settings, self._chosen(record, layer), self.rectified[layer]
        if not settings.distinct:
            return strongest_responses(record, rectified, settings.k, maps)
        candidates = strongest_responses(record, rectified, len(self.crops), maps)
        _, *grid = record.shape(rectified)
        receptive_field = _size(self.net.project(record, candidates[:1], progress=False))
        kept = distinct(candidates, settings.k, self.crops, grid, receptive_field, settings.size)
        return candidates[torch.tensor(kept, dtype=torch.int64)]

    def _chosen(self, record: Record, layer: str) -> list[int]:
        return choose_maps(layer, record.shape(layer)[0], self.settings.maps, self.settings.seed)

    def _described(self, rates: LayerRates, record: Record, layer: str, units: Units) -> LayerRates:
        """The rates under the layer's own name, with what there is to say of its maps and receptive field."""
        rectified, k = self.rectified[layer], self.settings.k
        places = by_map(units, self._chosen(record, layer))
        counts = {channel: place.stop - place.start for channel, place in places.items()}
        return replace(
            rates,
            layer=layer,
            receptive_field=receptive_field(self.net.tape, record, rectified),
            window=rates.receptive_field or (0, 0),
            rectified_by=None if rectified == layer else rectified,
            dead=tuple(channel for channel, count in counts.items() if count == 0),
            fewer={channel: count for channel, count in counts.items() if 0 < count < k},
        )

    def _project(self, record: Record, mined: Sequence[Units], progress: bool) -> tuple[list[Projections], list[float]]:
        projected, seconds = [], []
        with tqdm(total=sum(map(len, mined)), desc="projecting", unit="unit", disable=not progress) as bar:
            for units in mined:
                parts = []
                start = self._now()
                for first in range(0, max(1, len(units)), _CHUNK):
                    chunk = units[first : first + _CHUNK]
                    parts.append(self.net.project(record, chunk, overlap=self.settings.overlap, progress=False))
                    bar.update(len(chunk))
                seconds.append(self._now() - start)
                windows, boxes = (torch.cat([getattr(part, name) for part in parts]) for name in ("windows", "boxes"))
                projected.append(Projections(units, windows, boxes, parts[0].shape))
        return projected, seconds

    def _rate(self, inputs: Tensor, projections: Projections, seconds: float) -> LayerRates:
        """Ours, and on a sample of the layer's units (the strongest of evenly chosen maps) the baselines.

        What a projection is by definition decides who is right where they differ.
        """
        units, overlap = projections.units, self.settings.overlap
        rates = LayerRates(units.layer, len(units), _size(projections), len(units) / seconds)
        strongest = [place.start for place in by_map(units, units.channel.unique().tolist()).values()]
        count = min(self.settings.sample, len(strongest))
        if not count:
            return rates
        chosen = torch.tensor([strongest[place * len(strongest) // count] for place in range(count)])
        sample, ours = units[chosen], [projections[chosen].full()]

        def differs(theirs: Tensor) -> float:
            """By how much ours does, recorded in batches or, if that is too much, one image at a time."""
            if not deviation(ours[0], theirs) <= self.tolerance and len(ours) == 1:
                ours.append(self._projected_alone(inputs, sample))
            return min((deviation(each, theirs) for each in ours), key=lambda error: (error != error, error))

        per_second: dict[str, float] = {}
        left_out: dict[str, str] = {}
        difference = None
        try:
            exact = definition(self.net, inputs, sample, "activation", overlap).to(ours[0].device)
        except ValueError as error:
            left_out["the definition"] = said_by(error)
        else:
            difference = differs(exact)
            if not difference <= self.tolerance:
                raise WrongResult(
                    f"projections of {units.layer} differ from their definition by {difference:.1e} of their largest "
                    f"value; rounding explains {self.tolerance:.0e}"
                )
        for name, project in _baselines().items():
            if overlap == "last" and _has_overlapping_pools(self.net):
                left_out[name] = "it sums where pooling windows overlap"
                continue
            try:
                project(self.net, inputs, sample[:1], seed="activation")
                start = self._now()
                theirs = project(self.net, inputs, sample, seed="activation").to(ours[0].device)
                took = self._now() - start
            except Exception as error:  # another library may fail in any way at a network that it does not know
                left_out[name] = said_by(error)
                continue
            of_theirs = differs(theirs)
            if not of_theirs <= self.tolerance:
                left_out[name] = f"it differs by {of_theirs:.1e} of a projection's largest value"
                left_out[name] += ", and ours is the defined one" if difference is not None else ""
                continue
            per_second[name] = count / took
            difference = max(difference or 0.0, of_theirs)
        return replace(rates, sample=count, baselines=per_second, difference=difference, left_out=left_out)

    def _projected_alone(self, inputs: Tensor, sample: Units) -> Tensor:
        """Projections of units whose images were recorded one at a time, as the baselines see few images at a time.

        A convolution may round differently in a batch of another size, and then two almost equal values of a pooling
        window can trade places: a difference of the recorded switches, not of the way back.
        """
        alone = Units(sample.layer, range(len(sample)), sample.channel, sample.y, sample.x, sample.activation)
        record = self.net.record(inputs[sample.image], sample.layer, batch_size=1, progress=False)
        return self.net.project(record, alone, overlap=self.settings.overlap, progress=False).full()

    def _write_numbers(self, folder: Path, projected: Sequence[Projections]) -> None:
        columns = "layer map rank crop y x activation y0 x0 y1 x1 rectified_by"
        with _table(folder / "units.csv", columns) as write:
            for layer, projections in zip(self.settings.layers, projected, strict=True):
                places = by_map(projections.units, projections.units.channel.unique().tolist())
                rectified_by = "" if self.rectified[layer] == layer else self.rectified[layer]
                rows = zip(*_columns(projections.units), projections.boxes.tolist(), strict=True)
                for place, (image, channel, y, x, activation, box) in enumerate(rows):
                    rank = place - places[channel].start + 1
                    write([layer, channel, rank, image, y, x, f"{activation:.9g}", *box, rectified_by])
        with _table(folder / "crops.csv", "crop photograph y x side") as write:
            for place, crop in enumerate(self.crops):
                write([place, self.photographs[crop.photograph].name, crop.y, crop.x, crop.side])
        windows = (projections.windows.cpu().numpy() for projections in projected)
        save_arrays(folder / "projections.npz", dict(zip(self.settings.layers, windows, strict=True)))

    def _draw(
        self,
        folder: Path,
        images: Tensor,
        record: Record,
        projected: Sequence[Projections],
        rates: Sequence[LayerRates],
    ) -> None:
        settings = self.settings
        network = type(self.model).__name__
        for layer, projections, rate in zip(settings.layers, projected, rates, strict=True):
            k = settings.k
            image, _, _, _, activation = _columns(projections.units)
            pictures = plot.with_contrast(self.weights.preprocessing.to_rgb(projections.windows))
            causes = plot.patches(images, image, projections.boxes.tolist())
            tiles = [
                plot.MapTiles(f"map {channel}", _note(activation[place], k), pictures[place], causes[place])
                for channel, place in by_map(projections.units, self._chosen(record, layer)).items()
            ]
            where = "at most one per crop and place" if settings.distinct else "at most one per crop"
            lines = [
                f"In each pair, left: {settings.rule} projections of the {k} strongest activations over "
                f"{len(self.crops)} crops of {len(self.photographs)} photographs, {where}. "
                "Right: the patches that caused them.",
                describe_rectification(self.net.tape, layer),
                _few_or_dead(rate, k),
                f"Receptive field {describe_field(rate.receptive_field, rate.window)}. Contrast is normalised per "
                "projection: zero is grey, the largest 2 % of its values saturate. Patches are left light where they "
                "leave the crop.",
                f"The maps are a random choice (seed {settings.seed}). Weights: {self.weights.source}.",
            ]
            plot.draw_maps(
                folder / f"{file_name(layer)}.png",
                f"{network}, layer {layer}: what {len(tiles)} of its {record.shape(layer)[0]} maps respond to",
                "\n".join(line for line in lines if line),
                tiles,
            )
        self._draw_filters(folder, network)

    def _draw_filters(self, folder: Path, network: str) -> None:
        """The filters of the first convolution, if it reads the photographs' channels together."""
        convolutions = ((n, m) for n, m in self.model.named_modules() if isinstance(m, nn.Conv2d))
        first, convolution = next(convolutions, ("", None))
        preprocessing = self.weights.preprocessing
        if convolution is None or convolution.weight.shape[1] != len(preprocessing.mean):
            return
        maps, _, height, width = convolution.weight.shape
        plot.draw_filters(
            folder / f"{file_name(first)}_filters.png",
            f"{network}, layer {first}: its {maps} filters",
            f"{width}x{height} pixels, drawn as RGB (the network reads {preprocessing.channels}). "
            f"Contrast is normalised per filter: zero is grey. Weights: {self.weights.source}.",
            preprocessing.to_rgb(convolution.weight),
        )

    def _write_summary(self, path: Path, summary: Summary) -> None:
        content = {"settings": asdict(self.settings), "weights": self.weights.source, **asdict(summary)}
        write_text(path, json.dumps(content, indent=2) + "\n")


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
    image, channel, y, x, _ = (np.asarray(column) for column in _columns(units))
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


def _size(projections: Projections) -> tuple[int, int]:
    """Rows and columns of the receptive field."""
    _, _, height, width = projections.windows.shape
    return height, width


def _seen(field: tuple[int, int] | None) -> str:
    """A receptive field as columns x rows."""
    return "whole image" if field is None else f"{field[1]}x{field[0]}"


def describe_field(field: tuple[int, int] | None, window: tuple[int, int]) -> str:
    """For captions: a receptive field in pixels, and what is shown where images are smaller than it."""
    if field is None:
        return f"the whole image, {_seen(window)} pixels"
    clipped = f", more than an image has: shown are its {_seen(window)}" if field != window else ""
    return f"{_seen(field)} pixels{clipped}"


def _note(activations: Sequence[float], k: int) -> str:
    """What stands above a map: the range of its activations, or how few there are."""
    if not activations:
        return "dead: responds in no crop"
    span = f"{_short(activations[0])} to {_short(activations[-1])}"
    if len(activations) == k:
        return f"activations {span}"
    return f"responds in {len(activations)} crop{'s' * (len(activations) > 1)} only: {span}"


def _few_or_dead(rate: LayerRates, k: int) -> str:
    """For captions: how many maps have fewer units than were asked for, and why; nothing where none has."""
    said = []
    if rate.fewer:
        said.append(f"{_counted(len(rate.fewer))} in fewer than {k} crops")
    if rate.dead:
        said.append(f"{_counted(len(rate.dead))} in none (dead)")
    return f"Shown are responses, activations above zero: {', '.join(said)}." if said else ""


def _counted(maps: int) -> str:
    return "1 map responds" if maps == 1 else f"{maps} maps respond"


def _maps(numbers: Iterable[int]) -> str:
    named = ", ".join(map(str, numbers))
    return f"maps {named} respond" if "," in named else f"map {named} responds"


def _short(activation: float) -> str:
    return f"{activation:,.0f}" if abs(activation) >= 100 else f"{activation:.3g}"


def _baselines() -> dict[str, Projector]:
    """Those that are installed, by name."""
    named: dict[str, Projector] = {"full-frame ATen": project_full_frame}
    if installed("captum"):
        named["Captum"] = project_captum
    return named


def _has_overlapping_pools(net: Deconvnet) -> bool:
    pools = [step for step in net.tape.steps if isinstance(step, MaxPool)]
    return any(size > stride for pool in pools for size, stride in zip(pool.kernel, pool.stride, strict=True))


def _faster(ours: float, theirs: float | None) -> str:
    """A baseline's projections per second, and how many times faster ours is."""
    return "-" if theirs is None else f"{theirs:,.1f} ({ours / theirs:,.1f}x)"


def _columns(units: Units) -> tuple[list[int], list[int], list[int], list[int], list[float]]:
    """Images, channels, rows, columns and activations of units as lists."""
    parts = (units.image, units.channel, units.y, units.x, units.activation)
    return tuple(torch.as_tensor(part).tolist() for part in parts)  # type: ignore[return-value]


@contextmanager
def _table(path: Path, columns: str) -> Iterator[Callable[[Sequence[object]], object]]:
    with being_written(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split())
        yield writer.writerow
