"""The gallery: what the maps of a network respond to, in photographs (Zeiler & Fergus 2013, Fig 2).

Photographs are cut into crops, recorded once, and for every chosen map the strongest activations (at most one per crop)
are projected back to pixels and drawn beside the patches that caused them.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import plot
from ..backends import allows_tf32, usable_device
from ..baselines import deviation, project_captum, project_full_frame
from ..deconvnet import Deconvnet, Projections
from ..models import load_weights
from ..ops import check_overlap
from ..photographs import Crop, cut, load_photographs, plan_crops
from ..record import Record, Units
from ..tensor_files import save_arrays
from .files import file_name, written_at_once

__all__ = ["Gallery", "Settings", "Summary", "choose_maps", "distinct"]

CROP_SIZE = 224
_CHUNK = 48


@dataclass(frozen=True)
class Settings:
    """What to draw.

    Args:
        model: "vgg16", "alexnet" or "zfnet".
        weights: as `deconv_kernels.models.load_weights` takes them.
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
        sample: units per layer on which the baselines are compared and timed; 0 leaves them out.
    """

    model: str
    weights: str
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


@dataclass(frozen=True)
class LayerRates:
    """Projections per second of one layer, ours over all its units, the baselines' on `sample` of them, by name.

    Ours leaves out the recording, which all units share; the baselines include the forward passes they need: batched
    ATen one per image, Captum one per unit. `difference` is the largest deviation of a projection from a baseline's,
    relative to the projection's largest value.
    """

    layer: str
    units: int
    receptive_field: tuple[int, int]
    ours: float
    sample: int = 0
    baselines: Mapping[str, float] = field(default_factory=dict)
    difference: float | None = None


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
        if names:
            lines.append("projections per second:")
        rows = [["layer", "units", "receptive field", "ours", *names, "largest difference" if names else ""]]
        for rate in self.rates:
            height, width = rate.receptive_field
            rows.append([rate.layer, str(rate.units), f"{width}x{height}", f"{rate.ours:,.1f}"])
            rows[-1] += [f"{rate.baselines[name]:,.1f} ({rate.ours / rate.baselines[name]:,.1f}x)" for name in names]
            rows[-1].append("" if rate.difference is None else f"{rate.difference:.0e}" if rate.difference else "0")
        seconds = [self.project_seconds, self.record_seconds + self.project_seconds]
        for label, ours in zip(("all", "all, with recording"), (self.projections / s for s in seconds), strict=True):
            rows.append([label, str(self.projections), "", f"{ours:,.1f}"])
            for name in names:
                theirs = self.projections / sum(rate.units / rate.baselines[name] for rate in self.rates)
                rows[-1].append(f"{theirs:,.1f} ({ours / theirs:,.1f}x)")
            rows[-1].append("")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            first, *others = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join([first, *others]).rstrip())
        if names:
            lines.append(
                f"The baselines ran on {self.rates[0].sample} units of each layer, with the forward passes they need; "
                "in brackets, how many times faster ours is. Differences are relative to a projection's largest value."
            )
        return [*lines, f"{len(self.files)} files in {self.folder}: {', '.join(self.files)}"]


class Gallery:
    """One run, checked before it starts: weights, photographs and layers are loaded on construction.

    Args:
        settings: what to draw.

    Raises:
        ValueError: anything about the settings, the weights or the photographs that cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        for name, least in (("maps", 1), ("k", 1), ("crops", 1), ("batch_size", 1), ("sample", 0)):
            if getattr(settings, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")
        if not settings.layers:
            raise ValueError("no layers were given")
        if repeated := [layer for layer in settings.layers if settings.layers.count(layer) > 1]:
            raise ValueError(f"layer {repeated[0]!r} was given more than once")
        check_overlap(settings.overlap)
        self.settings = settings
        self.device = usable_device(settings.device)
        tf32 = self.device.type == "cuda" and allows_tf32()
        self.tolerance = 2e-2 if tf32 else 1e-4
        self.weights = load_weights(settings.model, settings.weights)
        # Convolutions of channels_last maps are the faster ones on CPUs and GPUs alike.
        self.model = self.weights.model().to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = Deconvnet(self.model, rule=settings.rule)
        if unknown := [layer for layer in settings.layers if layer not in self.net.layers]:
            raise ValueError(
                f"{settings.model} with these weights has no layer {unknown[0]!r}; "
                f"its layers are {', '.join(self.net.layers)}"
            )
        blank = self.weights.preprocess(torch.zeros(1, 3, CROP_SIZE, CROP_SIZE, dtype=torch.uint8)).to(self.device)
        try:
            self.net.record(blank, settings.layers, progress=False)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{settings.model} does not take images of 3x{CROP_SIZE}x{CROP_SIZE} in torch.float32: {error}"
            ) from error
        self.photographs = load_photographs(settings.images)
        self.crops = plan_crops(self.photographs, CROP_SIZE, settings.crops)
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
            RuntimeError: the baselines do not agree with the projections.
        """
        settings = self.settings
        with written_at_once(Path(folder)) as draft:
            images = cut(self.photographs, self.crops, CROP_SIZE)
            inputs = self.weights.preprocess(images).contiguous(memory_format=torch.channels_last)
            start = self._now()
            record = self.net.record(inputs, settings.layers, batch_size=settings.batch_size, progress=progress)
            record_seconds = self._now() - start

            mined = [self._mine(record, layer) for layer in settings.layers]
            projected, seconds = self._project(record, mined, progress)
            rates = tuple(self._rate(inputs, *each) for each in zip(projected, seconds, strict=True))

            self._write_numbers(draft, projected)
            self._draw(draft, images, record, projected)
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
        settings = self.settings
        maps = choose_maps(layer, record.shape(layer)[0], settings.maps, settings.seed)
        if not settings.distinct:
            return record.strongest(layer, settings.k, maps)
        candidates = record.strongest(layer, len(self.crops), maps)
        _, *grid = record.shape(layer)
        receptive_field = _size(self.net.project(record, candidates[:1], progress=False))
        kept = distinct(candidates, settings.k, self.crops, grid, receptive_field, CROP_SIZE)
        return candidates[kept]

    def _project(self, record: Record, mined: Sequence[Units], progress: bool) -> tuple[list[Projections], list[float]]:
        projected, seconds = [], []
        with tqdm(total=sum(map(len, mined)), desc="projecting", unit="unit", disable=not progress) as bar:
            for units in mined:
                parts = []
                start = self._now()
                for first in range(0, len(units), _CHUNK):
                    chunk = units[first : first + _CHUNK]
                    parts.append(self.net.project(record, chunk, overlap=self.settings.overlap, progress=False))
                    bar.update(len(chunk))
                seconds.append(self._now() - start)
                windows, boxes = (torch.cat([getattr(part, name) for part in parts]) for name in ("windows", "boxes"))
                projected.append(Projections(units, windows, boxes, parts[0].shape))
        return projected, seconds

    def _rate(self, inputs: Tensor, projections: Projections, seconds: float) -> LayerRates:
        """Ours, and on a sample of the layer's units (the strongest of evenly chosen maps) the baselines."""
        units = projections.units
        rates = LayerRates(units.layer, len(units), _size(projections), len(units) / seconds)
        baselines = _baselines(self.net, self.settings.overlap)
        if self.settings.sample == 0 or not baselines:
            return rates
        strongest = range(0, len(units), self.settings.k)
        count = min(self.settings.sample, len(strongest))
        chosen = torch.tensor([strongest[place * len(strongest) // count] for place in range(count)])
        sample, ours = units[chosen], projections[chosen].full()

        per_second: dict[str, float] = {}
        difference = 0.0
        for name, project in baselines.items():
            project(self.net, inputs, sample[:1], seed="activation")
            start = self._now()
            theirs = project(self.net, inputs, sample, seed="activation").to(ours.device)
            per_second[name] = count / (self._now() - start)
            error = deviation(ours, theirs)
            if not error <= self.tolerance:
                error = deviation(self._projected_alone(inputs, sample), theirs)
            if not error <= self.tolerance:
                raise RuntimeError(
                    f"projections of {units.layer} differ from {name} by {error:.1e} of their largest value; "
                    f"rounding explains {self.tolerance:.0e}"
                )
            difference = max(difference, error)
        return replace(rates, sample=count, baselines=per_second, difference=difference)

    def _projected_alone(self, inputs: Tensor, sample: Units) -> Tensor:
        """Projections of units whose images were recorded one at a time, as the baselines see few images at a time.

        A convolution may round differently in a batch of another size, and then two almost equal values of a pooling
        window can trade places: a difference of the recorded switches, not of the way back.
        """
        alone = Units(sample.layer, range(len(sample)), sample.channel, sample.y, sample.x, sample.activation)
        record = self.net.record(inputs[sample.image], sample.layer, batch_size=1, progress=False)
        return self.net.project(record, alone, overlap=self.settings.overlap, progress=False).full()

    def _write_numbers(self, folder: Path, projected: Sequence[Projections]) -> None:
        with _table(folder / "units.csv", "layer map rank crop y x activation y0 x0 y1 x1") as write:
            for projections in projected:
                rows = zip(*_columns(projections.units), projections.boxes.tolist(), strict=True)
                for place, (image, channel, y, x, activation, box) in enumerate(rows):
                    rank = place % self.settings.k + 1
                    write([projections.units.layer, channel, rank, image, y, x, f"{activation:.9g}", *box])
        with _table(folder / "crops.csv", "crop photograph y x side") as write:
            for place, crop in enumerate(self.crops):
                write([place, self.photographs[crop.photograph].name, crop.y, crop.x, crop.side])
        save_arrays(folder / "projections.npz", {p.units.layer: p.windows.cpu().numpy() for p in projected})

    def _draw(self, folder: Path, images: Tensor, record: Record, projected: Sequence[Projections]) -> None:
        settings = self.settings
        network = type(self.model).__name__
        for projections in projected:
            layer, k = projections.units.layer, settings.k
            image, channel, _, _, activation = _columns(projections.units)
            boxes = projections.boxes.tolist()
            pictures = plot.with_contrast(self.weights.preprocessing.to_rgb(projections.windows))
            causes = plot.patches(images, image, boxes)
            tiles = [
                plot.MapTiles(
                    f"map {channel[first]}",
                    f"activations {_short(activation[first])} to {_short(activation[first + k - 1])}",
                    pictures[first : first + k],
                    causes[first : first + k],
                )
                for first in range(0, len(channel), k)
            ]
            height, width = _size(projections)
            where = "at most one per crop and place" if settings.distinct else "at most one per crop"
            plot.draw_maps(
                folder / f"{file_name(layer)}.png",
                f"{network} {layer}: what {len(tiles)} of its {record.shape(layer)[0]} maps respond to",
                f"In each pair, left: {settings.rule} projections of the {k} strongest activations over "
                f"{len(self.crops)} crops of {len(self.photographs)} photographs, {where}. "
                "Right: the patches that caused them.\n"
                f"Receptive field {width}x{height} pixels. Contrast is normalised per projection: zero is grey, the "
                "largest 2 % of its values saturate. Patches are left light where they leave the crop.\n"
                f"The maps are a random choice (seed {settings.seed}). Weights: {self.weights.source}.",
                tiles,
            )
        self._draw_filters(folder, network)

    def _draw_filters(self, folder: Path, network: str) -> None:
        """The filters of the first convolution, if it reads the photographs' channels together."""
        convolutions = ((n, m) for n, m in self.model.named_modules() if isinstance(m, nn.Conv2d))
        first, convolution = next(convolutions, ("", None))
        if convolution is None or convolution.weight.shape[1] != 3:
            return
        maps, _, height, width = convolution.weight.shape
        plot.draw_filters(
            folder / f"{file_name(first)}_filters.png",
            f"{network} {first}: its {maps} filters",
            f"{width}x{height} pixels, drawn as RGB (the network reads {self.weights.preprocessing.channels}). "
            f"Contrast is normalised per filter: zero is grey. Weights: {self.weights.source}.",
            self.weights.preprocessing.to_rgb(convolution.weight),
        )

    def _write_summary(self, path: Path, summary: Summary) -> None:
        content = {"settings": asdict(self.settings), "weights": self.weights.source, **asdict(summary)}
        path.write_text(json.dumps(content, indent=2) + "\n")


def choose_maps(layer: str, channels: int, count: int, seed: int) -> list[int]:
    """Chooses maps of a layer at random, as the paper's Fig 2 does; the same arguments always choose the same.

    Returns:
        `count` different channels (all where there are fewer), in order.
    """
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


def _short(activation: float) -> str:
    return f"{activation:,.0f}" if abs(activation) >= 100 else f"{activation:.3g}"


def _baselines(net: Deconvnet, overlap: str) -> dict[str, Callable[..., Tensor]]:
    """The baselines that compute the same.

    Both sum where pooling windows overlap; Captum differentiates normalisation instead of passing it, and may not be
    installed.
    """
    pools = [module for module in net.model.modules() if isinstance(module, nn.MaxPool2d)]
    if overlap == "last" and any(pool.kernel_size != pool.stride for pool in pools):
        return {}
    named: dict[str, Callable[..., Tensor]] = {"full-frame ATen": project_full_frame}
    normalizes = any(getattr(module, "deconvnet_identity", False) for module in net.model.modules())
    if not normalizes and importlib.util.find_spec("captum") is not None:
        named["Captum"] = project_captum
    return named


def _columns(units: Units) -> tuple[list[int], list[int], list[int], list[int], list[float]]:
    """Images, channels, rows, columns and activations of units as lists."""
    parts = (units.image, units.channel, units.y, units.x, units.activation)
    return tuple(torch.as_tensor(part).tolist() for part in parts)  # type: ignore[return-value]


@contextmanager
def _table(path: Path, columns: str) -> Iterator[Callable[[Sequence[object]], object]]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split())
        yield writer.writerow
