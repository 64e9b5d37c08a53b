"""The filters of a network: how large they are, which frequencies they pass, which are dead and which dominate.

    found = diagnose(model, ["conv1"], batches)        # one Diagnosis per layer
    changed = renormalize_(model, radius=0.1)          # the paper's repair, in place
    clip = ClipFilters(model, radius=0.1)              # and while training: clip.step() after optimizer.step()

Source: Zeiler & Fergus 2013, sections 3 and 4.1, Fig 6.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..engine.trace.tape import Tape
from ..terminal import Progress
from .common.batches import batches_of, images_of
from .common.tracing import forward_only

__all__ = [
    "Activity",
    "ClipFilters",
    "Comparison",
    "Diagnosis",
    "Renormalized",
    "TABLE_HEAD",
    "aliased_energy",
    "centroid_frequency",
    "compare",
    "convolutions",
    "diagnose",
    "dominating",
    "filter_rms",
    "power_spectrum",
    "renormalize_",
    "summary_table",
]

DOMINANCE = 5.0
"""A filter dominates its layer when it is more than so many times the mean of the others."""

SPECTRUM_SIZE = 64
"""Frequencies per axis at which spectra are sampled, half as many in volumes; larger where a filter is larger."""

TABLE_HEAD = (
    *("layer", "filter", "rms", "share_of_rms", "centroid", "aliased_energy", "dominating"),
    *("peak", "mean_activation", "share_of_activation", "active_images", "dead", "aliased_response"),
)
"""What the columns of `Diagnosis.table` are called."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Activity:
    """What the filters of a layer did over a data set, after the rectifier that follows them.

    Args:
        layer: whose output was counted: the rectifier's, or where none follows, the convolution's own (after its batch
            normalisation).
        images: how many images were seen.
        peak: (F,) the highest value of each map anywhere, float64.
        mean: (F,) the mean of each map's positive values, the others counted as zero, float64.
        active_images: (F,) in how many images the map was positive somewhere, int64.
        aliased: (F,) of the variance of the filter's responses at every pixel, the share above the Nyquist frequency of
            the layer's stride, which the layer's output shows at wrong frequencies; float64. Zero for stride 1, NaN
            where nothing varies.
    """

    layer: str
    images: int
    peak: Tensor
    mean: Tensor
    active_images: Tensor
    aliased: Tensor

    @property
    def dead(self) -> Tensor:
        """(F,) bool: never positive in any image."""
        return self.active_images == 0

    @property
    def share(self) -> Tensor:
        """(F,) each map's share of the layer's activation; NaN where all maps are silent."""
        return self.mean / self.mean.sum()


@dataclass(frozen=True)
class Diagnosis:
    """The filters of one convolution. Frequencies are in cycles per pixel of the layer's input.

    Args:
        layer: the convolution's name.
        stride, dilation: its own, along each axis: [planes,] [rows,] columns.
        weight: (F, C / groups, [[KD,] KH,] KW), a copy.
        rms: (F,) root mean square of each filter's weights, float64.
        spectrum: (F, [[n,] n,] n) power spectra summed over the channels, zero frequency at n // 2, float64.
        centroid: (F,) the mean distance from frequency zero, weighted by power, float64.
        aliased: (F,) the share of the energy above the Nyquist frequency of the stride, float64.
        dominance: how many times the mean of the others a filter must exceed to dominate.
        activity: over a data set, if there was one.
    """

    layer: str
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    weight: Tensor
    rms: Tensor
    spectrum: Tensor
    centroid: Tensor
    aliased: Tensor
    dominance: float = DOMINANCE
    activity: Activity | None = None

    def __len__(self) -> int:
        """How many filters."""
        return len(self.rms)

    @property
    def nyquist(self) -> tuple[float, ...]:
        """The highest frequencies that the layer's output can represent, along each axis."""
        return tuple(0.5 / step for step in self.stride)

    @property
    def share(self) -> Tensor:
        """(F,) each filter's share of the layer's total RMS; NaN where all are zero."""
        return self.rms / self.rms.sum()

    @property
    def dominating(self) -> Tensor:
        """(F,) bool: filters whose RMS, or whose activation, dominates the layer."""
        found = dominating(self.rms, self.dominance)
        return found if self.activity is None else found | dominating(self.activity.mean, self.dominance)

    def table(self) -> Iterator[list[object]]:
        """One row per filter under `TABLE_HEAD`; it needs the activity."""
        activity = self.activity
        assert activity is not None
        columns = [self.rms, self.share, self.centroid, self.aliased, self.dominating]
        columns += [activity.peak, activity.mean, activity.share, activity.active_images, activity.dead]
        columns += [activity.aliased]
        for number, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            yield [self.layer, number, *(int(cell) if isinstance(cell, bool) else cell for cell in row)]

    def summary(self) -> dict[str, Any]:
        """The main numbers of the layer; None for what is not defined. It needs the activity."""
        activity = self.activity
        assert activity is not None
        numbers = {
            "rms_median": self.rms.median(),
            "rms_largest": self.rms.max(),
            "largest_share_of_rms": self.share.max(),
            "largest_share_of_activation": activity.share.max(),
            "centroid_median": self.centroid.nanmedian(),
            "aliased_energy_median": self.aliased.nanmedian(),
            "aliased_response_median": activity.aliased.nanmedian(),
        }
        return {
            "layer": self.layer,
            "filters": len(self),
            "stride": self.stride,
            "nyquist": self.nyquist,
            "dead": activity.dead.nonzero()[:, 0].tolist(),
            "dominating": self.dominating.nonzero()[:, 0].tolist(),
            **{name: value.item() if value.isfinite() else None for name, value in numbers.items()},
        }


@dataclass(frozen=True)
class Renormalized:
    """A filter that was scaled down: its convolution's name, its number, its RMS before and the factor."""

    layer: str
    filter: int
    rms: float
    factor: float


@dataclass(frozen=True)
class Comparison:
    """A network before and after its filters were renormalised.

    Args:
        radius: the largest RMS allowed.
        changed: the filters that were scaled down, of all convolutions.
        before, after: the diagnoses of the layers asked for.
        model: the repaired copy.
    """

    radius: float
    changed: tuple[Renormalized, ...]
    before: tuple[Diagnosis, ...]
    after: tuple[Diagnosis, ...]
    model: nn.Module


def summary_table(states: Sequence[tuple[str, Sequence[Diagnosis]]]) -> list[list[str]]:
    """For people: the layers of networks, each network with the word that tells it from the others."""
    rows = [["layer", "filters", "dead", "dominating", "RMS median", "largest", "centroid", "beyond Nyquist: energy"]]
    rows[0].append("response")
    for name, found in states:
        for each in found:
            summary = each.summary()
            numbers = ("rms_median", "rms_largest", "centroid_median", "aliased_energy_median")
            cells = [summary[key] for key in (*numbers, "aliased_response_median")]
            counts = [str(len(summary[key])) for key in ("dead", "dominating")]
            rows.append([f"{each.layer} {name}".strip(), str(len(each)), *counts])
            rows[-1] += ["-" if cell is None else f"{cell:.3g}" for cell in cells]
    return rows


def convolutions(model: nn.Module) -> dict[str, Convolution]:
    """The convolutions of a model by name, in the order of `named_modules()`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Convolution)}


def filter_rms(weight: Tensor) -> Tensor:
    """Root mean square of every filter's weights, over its input channels and its kernel.

    Args:
        weight: (F, C / groups, ...) of a convolution, any floating dtype.

    Returns:
        (F,) float64.

    Raises:
        ValueError: complex weights.
    """
    _check_real("the weight", weight)
    return weight.detach().to(torch.float64).flatten(1).square().mean(1).sqrt()


def power_spectrum(weight: Tensor, dilation: Sequence[int] | None = None, size: int | None = None) -> Tensor:
    """Power spectra of filters: of the discrete Fourier transform of each, padded with zeros to `size` along each axis.

    The power |W(fy, fx)|^2 is summed over the input channels. Row i stands for fy = (i - size // 2) / size cycles per
    pixel of the layer's input, columns alike; size^2 times a filter's sum of squares is the sum over its spectrum.

    Args:
        weight: (F, C / groups, [[KD,] KH,] KW).
        dilation: pixels between neighbouring taps along each axis, by default 1.
        size: samples per axis; by default `SPECTRUM_SIZE`, doubled until the dilated kernel fits twice.

    Returns:
        (F, [[size,] size,] size) float64.

    Raises:
        ValueError: the dilated kernel is larger than `size`, or complex weights.
    """
    _check_real("the weight", weight)
    taps = _dilated(weight, dilation or (1,) * (weight.dim() - 2))
    rank, largest = taps.dim() - 2, max(taps.shape[2:])
    if size is None:
        size = SPECTRUM_SIZE if rank < 3 else SPECTRUM_SIZE // 2
        while size < 2 * largest:
            size *= 2
    if size < largest:
        raise ValueError(f"size must be at least {largest}, the filters' extent, got {size}")
    axes = tuple(range(-rank, 0))
    waves = (torch.view_as_real(torch.fft.fftn(each, (size,) * rank, axes)) for each in taps)
    power = torch.stack([each.square().sum((0, -1)) for each in waves])
    return torch.fft.fftshift(power, dim=axes)


def centroid_frequency(spectrum: Tensor) -> Tensor:
    """The centroid of power spectra: the mean of the distance sqrt(fy^2 + fx^2) from zero, weighted by power.

    Args:
        spectrum: (F, [[n,] n,] n) as from `power_spectrum`.

    Returns:
        (F,) float64, cycles per pixel; NaN for a filter of zeros.
    """
    size = spectrum.shape[-1]
    frequency = (torch.arange(size, dtype=torch.float64, device=spectrum.device) - size // 2) / size
    distance = reduce(torch.hypot, torch.meshgrid(*[frequency] * (spectrum.dim() - 1), indexing="ij")).abs()
    return (spectrum * distance).flatten(1).sum(1) / spectrum.flatten(1).sum(1)


def aliased_energy(weight: Tensor, stride: Sequence[int], dilation: Sequence[int] | None = None) -> Tensor:
    """The share of each filter's energy that a strided layer cannot represent.

    Sampled every s pixels, a response keeps the frequencies up to the Nyquist frequency 1 / (2 s) cycles per pixel;
    what the filter passes above it, along any axis, appears at wrong, lower frequencies. The share is that
    of the filter's continuous power spectrum outside |fy| <= 1 / (2 sy), |fx| <= 1 / (2 sx). The integral inside is
    computed in closed form: taps a pixels apart contribute sinc(a / s) / s per axis. It is what sampled spectra of ever
    larger size converge to.

    Args:
        weight: (F, C / groups, [[KD,] KH,] KW).
        stride: of the layer, along each axis.
        dilation: pixels between neighbouring taps along each axis, by default 1.

    Returns:
        (F,) float64 from 0 to 1; exactly 0 for stride 1, 1 - 1 / (sy sx) for a single tap, NaN for a filter of zeros.

    Raises:
        ValueError: complex weights.

    Source: Zeiler & Fergus 2013, section 4.1 and Fig 6, on the aliasing that stride 4 causes.
    """
    _check_real("the weight", weight)
    taps = weight.detach().to(torch.float64)
    inside = taps
    for axis, (step, spread) in enumerate(zip(stride, dilation or (1,) * len(stride), strict=True), start=2):
        place = spread * torch.arange(taps.shape[axis], dtype=torch.float64, device=taps.device)
        kernel = torch.sinc((place[:, None] - place[None, :]) / step) / step
        inside = (inside.movedim(axis, -1) @ kernel).movedim(-1, axis)
    energy = taps.square().flatten(1).sum(1)
    if max(stride) == 1:
        return torch.where(energy > 0, 0.0, torch.nan).to(torch.float64)
    return (1 - (taps * inside).flatten(1).sum(1) / energy).clamp(0, 1)


def dominating(values: Tensor, factor: float = DOMINANCE) -> Tensor:
    """Which of a layer's filters dominate: those above `factor` times the mean of the others.

    Args:
        values: (F,) not negative: the RMS of each filter, or its mean activation.
        factor: a filter of an even layer has 1.

    Returns:
        (F,) bool. A single filter dominates nobody.
    """
    others = (values.sum() - values) / max(1, len(values) - 1)
    return (values > factor * others) & (len(values) > 1)


def diagnose(
    model: nn.Module,
    layers: Sequence[str] | None = None,
    batches: Iterable[Any] | None = None,
    *,
    dominance: float = DOMINANCE,
    progress: bool = True,
) -> tuple[Diagnosis, ...]:
    """Diagnoses the filters of convolutions, and over a data set which are dead.

    Args:
        model: any module; with `batches`, one that Deconvnet can trace, whatever its activations. It is left as it is.
        layers: names of `nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d` modules, or of modules that hold some; by default the
            first convolution.
        batches: float images (N, C, [[D,] H,] W) as the network takes them, read once, batch by batch; or tuples, lists
            or dicts, of which the first floating-point tensor is taken, as DataLoaders of labelled images give. A
            tensor of images is taken as batches of 16. Memory is that of one batch's maps.
        dominance: how many times the mean of the others a filter must exceed to dominate.
        progress: show a progress bar over the batches.

    Returns:
        One diagnosis per layer, on the host.

    Raises:
        TypeError: batches without images of the network's dtype.
        ValueError: no such convolution, a convolution the network does not use, no images, weights or images that are
            not finite, complex weights.
        UnsupportedModule: with `batches`, a part of the network cannot be followed.

    Source: Zeiler & Fergus 2013, section 4.1, Fig 6.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 7, stride=2), nn.ReLU())
        >>> (diagnosis,) = diagnose(model)
        >>> len(diagnosis), diagnosis.nyquist
        (32, (0.25, 0.25))
    """
    if not (dominance > 0 and isfinite(dominance)):
        raise ValueError(f"dominance must be a number above 0, got {dominance}")
    chosen = _chosen(model, layers)
    for name, module in chosen.items():
        _check_finite(name, module)
    activities = {} if batches is None else _activities(model, chosen, batches, progress)
    return tuple(_diagnosis(name, module, dominance, activities.get(name)) for name, module in chosen.items())


@torch.no_grad()
def renormalize_(model: nn.Module, radius: float = 0.1) -> tuple[Renormalized, ...]:
    """Scales every convolution filter whose RMS exceeds a radius down to that radius, in place.

    A filter is what makes one output map: a row of the weight of an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`. Its
    direction is kept and biases are not touched. A second call changes nothing: what exceeds the radius by less than
    the rounding of the weights' dtype is left alone.

    Args:
        model: any module.
        radius: the largest RMS allowed.

    Returns:
        What was changed, by layer and filter.

    Raises:
        ValueError: radius not above 0; before anything is changed, a weight that is not finite, complex, or
            computed from other parameters (weight norm, pruning), so that scaling it would not last.

    Source: Zeiler & Fergus 2013, section 3, where the radius is 1e-1 for inputs of about -128 to 128.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 2, 7))
        >>> _ = nn.init.constant_(model[0].weight, 0.5)
        >>> _ = renormalize_(model, radius=0.1)
        >>> round(model[0].weight.square().mean().sqrt().item(), 3)
        0.1
    """
    modules = _clipped_modules(model, radius)
    for name, module in modules.items():
        _check_finite(name, module)
    changed = []
    for name, module in modules.items():
        rms, factor = _clip(module.weight, radius)
        for number in (factor < 1).nonzero()[:, 0].tolist():
            changed.append(Renormalized(name, number, rms[number].item(), factor[number].item()))
    return tuple(changed)


class ClipFilters:
    """Keeps the RMS of every convolution filter within a radius during training, as the paper trained.

        clip = ClipFilters(model, radius=0.1)
        ...
        optimizer.step()
        clip.step()

    or once, `clip.register(optimizer)`, after which every `optimizer.step()` clips. Nothing waits for the device.

    Args:
        model: any module; its convolutions are those of `renormalize_`.
        radius: the largest RMS allowed.

    Attributes:
        counts: by layer, (F,) int64: how many steps scaled each filter down.

    Raises:
        ValueError: as `renormalize_`; weights that become infinite or NaN later are left as they are.

    Source: Zeiler & Fergus 2013, section 3.
    """

    def __init__(self, model: nn.Module, radius: float = 0.1) -> None:
        self._modules = _clipped_modules(model, radius)
        self.radius = radius
        self.counts = {
            name: torch.zeros(len(module.weight), dtype=torch.int64, device=module.weight.device)
            for name, module in self._modules.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Clips now; to be called after `optimizer.step()`."""
        for name, module in self._modules.items():
            _, factor = _clip(module.weight, self.radius)
            self.counts[name] += (factor < 1).to(self.counts[name].device)

    def register(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Clips after every step of an optimizer; the handle's `remove()` ends it."""

        def hook(*_: Any) -> None:
            self.step()

        return optimizer.register_step_post_hook(hook)


def compare(
    model: nn.Module,
    radius: float = 0.1,
    layers: Sequence[str] | None = None,
    batches: Iterable[Any] | None = None,
    *,
    dominance: float = DOMINANCE,
    progress: bool = True,
) -> Comparison:
    """Diagnoses a network before and after `renormalize_`. The model is left as it is.

    Args:
        model, layers, batches, dominance, progress: as for `diagnose`; `batches` are read twice, so not a generator.
        radius: as for `renormalize_`.

    Raises:
        ValueError, UnsupportedModule: as `diagnose` and `renormalize_`, and for batches that can be read only once.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 7), nn.ReLU())
        >>> comparison = compare(model, radius=0.01)
        >>> [len(diagnosis) for diagnosis in comparison.after]
        [8]
    """
    if batches is not None and iter(batches) is batches:
        raise ValueError("batches are read twice, before and after: give a list or a DataLoader, not an iterator")
    repaired = copy.deepcopy(model)
    changed = renormalize_(repaired, radius)
    before, after = (
        diagnose(network, layers, batches, dominance=dominance, progress=progress) for network in (model, repaired)
    )
    return Comparison(radius, changed, before, after, repaired)


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Filters with zeros between their taps, (F, C, [[d,] h,] w) float64."""
    size = (step * (length - 1) + 1 for step, length in zip(dilation, weight.shape[2:], strict=True))
    taps = torch.zeros((*weight.shape[:2], *size), dtype=torch.float64, device=weight.device)
    every = tuple(slice(None, None, step) for step in dilation)
    taps[(slice(None), slice(None), *every)] = weight.detach().to(torch.float64)
    return taps


def _chosen(model: nn.Module, layers: Sequence[str] | None) -> dict[str, Convolution]:
    known = convolutions(model)
    if not known:
        raise ValueError(f"{type(model).__name__} has no convolution")
    if layers is None:
        return dict([next(iter(known.items()))])
    if not layers:
        raise ValueError("layers must name at least one convolution")
    layers = [layers] if isinstance(layers, str) else layers
    chosen: dict[str, Convolution] = {}
    for layer in layers:
        if list(layers).count(layer) > 1:
            raise ValueError(f"layer {layer!r} was given more than once")
        inside = {name: module for name, module in known.items() if f"{name}.".startswith(f"{layer}.")}
        if not inside:
            close = difflib.get_close_matches(layer, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"{layer!r} is no convolution of the network{hint}; its convolutions are {', '.join(known)}"
            )
        chosen |= inside
    return chosen


def _check_finite(name: str, module: nn.Module) -> None:
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"the weight of {name!r} has no shape yet: run the lazy network once")
    weight = module.weight
    assert isinstance(weight, Tensor)
    _check_real(f"the weight of {name!r}", weight)
    bad = (~filter_rms(weight).isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"filter {bad[0]} of {name!r} holds weights that are not finite numbers")


def _check_real(what: str, weight: Tensor) -> None:
    if weight.is_complex():
        raise ValueError(f"{what} must be real, got {weight.dtype}")


def _diagnosis(name: str, module: Convolution, dominance: float, activity: Activity | None) -> Diagnosis:
    weight = module.weight.detach().cpu().clone()
    stride, dilation = tuple(module.stride), tuple(module.dilation)
    spectrum = power_spectrum(weight, dilation)
    return Diagnosis(
        name,
        stride,
        dilation,
        weight,
        filter_rms(weight),
        spectrum,
        centroid_frequency(spectrum),
        aliased_energy(weight, stride, dilation),
        dominance,
        activity,
    )


def _clipped_modules(model: nn.Module, radius: float) -> dict[str, Convolution]:
    if not (radius > 0 and isfinite(radius)):
        raise ValueError(f"radius must be a number above 0, got {radius}")
    modules = convolutions(model)
    for name, module in modules.items():
        if "weight" not in module._parameters:
            raise ValueError(
                f"the weight of {name!r} is computed from other parameters (a parametrization, weight norm or pruning) "
                "and scaling it would not last; remove that first"
            )
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise ValueError(f"the weight of {name!r} has no shape yet: run the lazy network once")
        _check_real(f"the weight of {name!r}", module.weight)
    return modules


def _clip(weight: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Scales the filters beyond `radius`; returns their RMS before and the factors, 1 for those left alone."""
    rms = filter_rms(weight)
    exceeds = (rms > radius * (1 + torch.finfo(weight.dtype).eps)) & rms.isfinite()
    factor = torch.where(exceeds, radius / rms, 1.0)
    # In float64 and rounded once; a factor of 1 keeps the bits.
    weight.copy_(weight.to(torch.float64) * factor.view(-1, *[1] * (weight.dim() - 1)))
    return rms, factor


class _Observed:
    """What is counted of one convolution while batches go by.

    Args:
        calls: for every call of it, the layer that makes its input (None for the images) and the layer that is counted.
    """

    def __init__(self, module: Convolution, calls: Sequence[tuple[str | None, str]]) -> None:
        self.module, self.calls = module, calls
        filters = module.out_channels
        self.peak = torch.full((filters,), -torch.inf, dtype=torch.float64)
        self.total, self.variance, self.above = (torch.zeros(filters, dtype=torch.float64) for _ in range(3))
        self.active = torch.zeros(filters, dtype=torch.int64)
        self.positions = 0

    @property
    def strided(self) -> bool:
        return max(self.module.stride) > 1

    @property
    def layers(self) -> set[str]:
        """The layers whose activations are needed."""
        inputs = {given for given, _ in self.calls if given is not None} if self.strided else set()
        return inputs | {counted for _, counted in self.calls}

    def see(self, images: Tensor, activations: dict[str, Tensor]) -> None:
        active = torch.zeros((len(images), len(self.peak)), dtype=torch.bool)
        for given, counted in self.calls:
            maps = activations[counted].flatten(2)
            peaks = maps.amax(2)
            active |= (peaks > 0).cpu()
            self.peak = torch.maximum(self.peak, peaks.amax(0).to("cpu", torch.float64))
            self.total += maps.clamp(min=0).sum((0, 2), dtype=torch.float64).cpu()
            self.positions += maps.shape[0] * maps.shape[2]
            if self.strided:
                for image in images if given is None else activations[given]:
                    variance, above = _response_variance(self.module, image)
                    self.variance += variance.cpu()
                    self.above += above.cpu()
        self.active += active.sum(0)

    def activity(self, images: int) -> Activity:
        aliased = self.above / self.variance if self.strided else torch.zeros_like(self.above)
        mean = self.total / self.positions
        return Activity(self.calls[-1][1], images, self.peak, mean, self.active, aliased)


@torch.no_grad()
def _activities(
    model: nn.Module, chosen: dict[str, Convolution], batches: Iterable[Any], progress: bool
) -> dict[str, Activity]:
    net = forward_only(model)
    observed = {name: _Observed(module, _calls(net.tape, name)) for name, module in chosen.items()}
    needed = sorted(set().union(*(each.layers for each in observed.values())))
    seen = 0
    with Progress(batches_of(batches), desc="filters", unit="batch", disable=not progress) as bar:
        for images in images_of(bar):
            bad = (~images.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
            if bad:
                raise ValueError(f"image {seen + bad[0]} holds values that are not finite numbers")
            record = net.record(images, needed, activations=True, batch_size=max(1, len(images)), progress=False)
            for each in observed.values():
                each.see(images.to(record.device), record.activations)
            seen += len(images)
    if not seen:
        raise ValueError("no images were given")
    return {name: each.activity(seen) for name, each in observed.items()}


def _calls(tape: Tape, layer: str) -> list[tuple[str | None, str]]:
    """For every call of a module: the layer that makes its input (None for the images), and the layer to count."""
    calls = []
    for call in tape.calls.get(layer, ()):
        given, returned = call.given[0], call.returned[0]
        if given is None or returned is None:
            continue
        below, rectified = tape.maker(given), tape.maker(tape.rectified(returned))
        assert rectified is not None
        calls.append((None if below is None else below.step.name, rectified.step.name))
    if not calls:
        raise ValueError(f"the network has {layer!r} but does not use it")
    return calls


def _response_variance(convolution: Convolution, image: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of every filter's responses to one map at every pixel, and how much of it lies above the Nyquist
    frequency of the stride; (F,) each.

    The responses, less their mean, are weighted with a Hann window, so that the map's edges do not count as high
    frequencies.
    """
    padding: Any = convolution.padding
    if convolution.padding_mode != "zeros":
        image = F.pad(image[None], convolution._reversed_padding_repeated_twice, mode=convolution.padding_mode)[0]
        padding = 0
    convolve = (F.conv1d, F.conv2d, F.conv3d)[image.dim() - 2]
    maps = convolve(image[None], convolution.weight, None, 1, padding, convolution.dilation, convolution.groups)[0]
    maps = maps.to(torch.float64)
    axes = tuple(range(1, maps.dim()))
    where: dict[str, Any] = {"dtype": torch.float64, "device": maps.device}
    hann = [torch.hann_window(length + 2, periodic=False, **where)[1:-1] for length in maps.shape[1:]]
    window = reduce(torch.mul, torch.meshgrid(*hann, indexing="ij"))
    maps = (maps - (maps * window).sum(axes, keepdim=True) / window.sum()) * window
    power = torch.view_as_real(torch.fft.fftn(maps, dim=axes)).square().sum(-1)
    beyond = [
        torch.fft.fftfreq(length, **where).abs() > 0.5 / step
        for length, step in zip(maps.shape[1:], convolution.stride, strict=True)
    ]
    above = reduce(torch.logical_or, torch.meshgrid(*beyond, indexing="ij"))
    return power.sum(axes), power[:, above].sum(1)
