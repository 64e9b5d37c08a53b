"""A gallery beside the definition of a projection and the baselines: how right it is, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ..engine.deconvnet import Deconvnet
from ..engine.steps.pooling import MaxPool
from ..experiments.common.clock import now
from ..experiments.common.responses import seen_size
from ..experiments.gallery import Gallery, LayerGallery
from ..ops.backends import allows_tf32
from ..terminal import aligned, watched
from .baselines import (
    Projector,
    WrongResult,
    definition,
    deviation,
    installed,
    project_captum,
    project_full_frame,
    said_by,
)

__all__ = ["LayerRates", "Summary", "rates_of"]


@dataclass(frozen=True)
class LayerRates:
    """Projections per second of one layer, ours over all its units, the baselines' on `sample` of them, by name.

    Ours leaves out the recording, which all units share; the baselines include the forward passes they need: batched
    ATen one per image, Captum one per unit. `difference` is the largest deviation of a projection from its definition
    and from a baseline's, relative to the projection's largest value. `left_out` says which baselines did not run or
    were wrong, and why. The rest is as `LayerGallery` has it; the maps in `fewer` respond in fewer crops than were
    asked for, in how many.
    """

    layer: str
    units: int
    receptive_field: tuple[int, ...] | None
    ours: float
    sample: int = 0
    baselines: Mapping[str, float] = field(default_factory=dict)
    difference: float | None = None
    window: tuple[int, ...] = ()
    rectified_by: str | None = None
    dead: tuple[int, ...] = ()
    fewer: Mapping[int, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a run did: its output folder and files, how long recording and projecting took, and the rates per layer.

    `one` is what an image is called, such as "crop"; `images` says how many were shown, of what, and `counts` says so
    in numbers by name.
    """

    folder: str
    files: tuple[str, ...]
    one: str
    images: str
    counts: Mapping[str, int]
    record_seconds: float
    project_seconds: float
    rates: tuple[LayerRates, ...]

    @property
    def projections(self) -> int:
        """How many units were projected."""
        return sum(rate.units for rate in self.rates)

    def told(self) -> dict[str, object]:
        """All of it, as JSON takes it."""
        told = asdict(self)
        return {**told.pop("counts"), **told}

    def lines(self) -> list[str]:
        """The summary for people, line by line."""
        lines = [
            f"{self.projections} projections of units in {self.images}: "
            f"recorded in {self.record_seconds:.1f} s, projected in {self.project_seconds:.1f} s "
            f"({self.projections / self.project_seconds:,.0f} per second)"
        ]
        names = list(dict.fromkeys(name for rate in self.rates for name in rate.baselines))
        compared = any(rate.difference is not None for rate in self.rates)
        sample = max((rate.sample for rate in self.rates), default=0)
        if names:
            lines.append("projections per second:")
        lines += [f"  {line}" for line in aligned(self._table(names, compared))]
        if names:
            lines.append(
                f"The baselines ran on {sample} units of each layer, with the forward passes they need; "
                "in brackets, how many times faster ours is."
            )
        for rate in self.rates:
            if rate.fewer:
                lines.append(f"layer {rate.layer}: {_maps(rate.fewer)} in fewer {self.one}s than asked for")
            if rate.dead:
                lines.append(f"layer {rate.layer}: {_maps(rate.dead)} in no {self.one} (dead)")
        if compared:
            lines.append(
                f"Differences, of {sample} units of each layer from the definition of a projection and from the "
                "baselines, are relative to a projection's largest value."
            )
        for rate in self.rates:
            lines += [f"{rate.layer}: {name} is left out: {why}" for name, why in rate.left_out.items()]
        return [*lines, f"{len(self.files)} files in {self.folder}: {', '.join(self.files)}"]

    def _table(self, names: Sequence[str], compared: bool) -> list[list[str]]:
        """Ours and the baselines of these names, by layer and on all of them."""
        rows = [["layer", "units", "receptive field", "ours", *names, "largest difference" if compared else ""]]
        for rate in self.rates:
            rows.append([rate.layer, str(rate.units), seen_size(rate.receptive_field), f"{rate.ours:,.1f}"])
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
        return rows


def rates_of(
    net: Deconvnet, images: Tensor, found: Gallery, sample: int, overlap: str = "sum"
) -> tuple[LayerRates, ...]:
    """How fast the layers of a gallery were projected, and on some of their units the baselines.

    Args:
        net: the network.
        images: those of the gallery.
        found: the gallery.
        sample: units per layer (the strongest of evenly chosen maps) on which the definition and the baselines are
            compared and timed; 0 leaves them out.
        overlap: as the units were projected.

    Raises:
        WrongResult: projections differ from their definition.
    """
    layers = watched(found.layers, "comparing", "layer", None)
    return tuple(_Comparison(net, images, layer, sample, overlap).rates(found.k) for layer in layers)


class _Comparison:
    """Some units of a layer beside their definition, which decides who is right, and the baselines."""

    def __init__(self, net: Deconvnet, images: Tensor, layer: LayerGallery, sample: int, overlap: str) -> None:
        self.net, self.images, self.layer, self.overlap = net, images, layer, overlap
        projections = layer.projections
        strongest = [place.start for place in layer.places.values() if place.stop > place.start]
        count = min(sample, len(strongest))
        chosen = torch.tensor([strongest[place * len(strongest) // count] for place in range(count)], dtype=torch.int64)
        self.sample = projections.units[chosen]
        self.ours = [projections[chosen].full()] if count else []
        self.tolerance = 2e-2 if projections.windows.is_cuda and allows_tf32() else 1e-4
        self.per_second: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        self.difference: float | None = None

    def rates(self, k: int) -> LayerRates:
        """Compares, of a gallery of k units a map; WrongResult: projections differ from their definition."""
        if self.ours:
            self._check()
            defined = self.difference is not None
            for name, project in _baselines().items():
                self._time(name, project, defined)
        layer, count = self.layer, len(self.layer.projections)
        return LayerRates(
            layer.layer,
            count,
            layer.field,
            count / layer.seconds,
            len(self.sample),
            self.per_second,
            self.difference,
            layer.window,
            layer.rectified_by,
            layer.dead(),
            layer.fewer(k),
            self.left_out,
        )

    def _check(self) -> None:
        try:
            exact = definition(self.net, self.images, self.sample, "activation", self.overlap)
        except ValueError as error:
            self.left_out["the definition"] = said_by(error)
            return
        self.difference = self._difference(exact)
        if not self.difference <= self.tolerance:
            raise WrongResult(
                f"projections of {self.sample.layer} differ from their definition by {self.difference:.1e} of their "
                f"largest value; rounding explains {self.tolerance:.0e}"
            )

    def _time(self, name: str, project: Projector, defined: bool) -> None:
        if self.overlap == "last" and _has_overlapping_pools(self.net):
            self.left_out[name] = "it sums where pooling windows overlap"
            return
        device = self.ours[0].device
        try:
            project(self.net, self.images, self.sample[:1], seed="activation")
            start = now(device)
            theirs = project(self.net, self.images, self.sample, seed="activation").to(device)
            took = now(device) - start
        except Exception as error:  # another library may fail in any way at a network that it does not know
            self.left_out[name] = said_by(error)
            return
        of_theirs = self._difference(theirs)
        if not of_theirs <= self.tolerance:
            self.left_out[name] = f"it differs by {of_theirs:.1e} of a projection's largest value"
            self.left_out[name] += ", and ours is the defined one" if defined else ""
            return
        self.per_second[name] = len(self.sample) / took
        self.difference = max(self.difference or 0.0, of_theirs)

    def _difference(self, theirs: Tensor) -> float:
        """By how much ours differs, recorded in batches or, if that is too much, one image at a time."""
        theirs = theirs.to(self.ours[0].device)
        if not deviation(self.ours[0], theirs) <= self.tolerance and len(self.ours) == 1:
            self.ours.append(self._projected_alone())
        return min((deviation(each, theirs) for each in self.ours), key=lambda error: (error != error, error))

    def _projected_alone(self) -> Tensor:
        """Projections of units whose images were recorded one at a time, as the baselines see few images at a time.

        A convolution may round differently in a batch of another size, and then two almost equal values of a pooling
        window can trade places: a difference of the recorded switches, not of the way back.
        """
        sample = self.sample
        alone = sample.of_images(range(len(sample)))
        record = self.net.record(self.images[sample.image], sample.layer, batch_size=1, progress=False)
        return self.net.project(record, alone, overlap=self.overlap, progress=False).full()


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


def _maps(numbers: Iterable[int]) -> str:
    named = ", ".join(map(str, numbers))
    return f"maps {named} respond" if "," in named else f"map {named} responds"
