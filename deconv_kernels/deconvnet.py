"""The deconvnet: record a network's forward pass, choose units, project them back to pixels.

Source: Zeiler & Fergus 2013, "Visualizing and Understanding Convolutional Networks", section 2.1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .graph import Tape, trace
from .ops import check_overlap
from .plan import DEVICE_BYTES, HOST_BYTES, Plan, make_plan
from .record import Peaks, Record, Units
from .steps import KERNELS, RULES, MaxPool, Options, Rectifier
from .windows import Positions, Windows, place

NORMALIZATIONS = ("identity", "gradient")
SEEDS = ("activation", "one")


@dataclass(eq=False)
class Projections:
    """What units look like in pixels.

    Attributes:
        units: the units projected.
        windows: (U, C, h, w), the receptive field of each unit.
        boxes: (U, 4) int64 on the host, where the windows lie: y0, x0, y1, x1 in pixels, half open. A box may overhang
            the image; its window is zero there.
        image_size: (H, W) of the images.
    """

    units: Units
    windows: Tensor
    boxes: Tensor
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Projections:
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Projections(self.units[index], self.windows[chosen], self.boxes[chosen], self.image_size)

    def full(self) -> Tensor:
        """The projections in frames of the images' size, zero outside the receptive field: (U, C, H, W)."""
        frames = self.windows
        for axis, length in enumerate(self.image_size):
            if frames.shape[axis + 2] != length or bool(self.boxes[:, axis].any()):
                frames = place(frames, self.boxes[:, axis].to(frames.device), length, axis + 2)
        return frames.clone() if frames is self.windows else frames


class Deconvnet:
    """A network that can be run backwards from single units.

    Args:
        model: any `nn.Module` that torch.fx can trace into a chain of convolutions, rectifiers, max pools, average
            pools, batch, response and contrast normalisation, dropout, flatten and linear layers. It is read as in eval
            mode and left as it is.
        rule: what a rectifier does to the signal g on the way back: "deconvnet" relu(g); "guided" relu(g) where the
            activation was positive; "gradient" g where the activation was positive (and below the ceiling of a ReLU6).
        normalization: "identity" passes response and contrast normalisation unchanged on the way back, as deconvnets
            do; "gradient" takes their exact gradient, for which the record keeps their inputs.

    Raises:
        TypeError: `model` is not a module.
        ValueError: an unknown rule or normalization.
        UnsupportedModule: the network branches, or a part of it has no exact rule; the message names it.

    Source: Zeiler & Fergus 2013, section 2.1; Springenberg et al. 2014 for "guided".
    """

    def __init__(self, model: nn.Module, rule: str = "deconvnet", normalization: str = "identity") -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        _check_choice("rule", rule, RULES)
        _check_choice("normalization", normalization, NORMALIZATIONS)
        self.model, self.rule, self.normalization = model, rule, normalization
        self.tape: Tape = trace(model, rule, normalization)
        self._plans: dict[tuple[object, ...], Plan] = {}

    @property
    def layers(self) -> list[str]:
        """The names of all layers, from the images up."""
        return list(self.tape.layers)

    @torch.no_grad()
    def record(
        self,
        images: Tensor,
        layers: str | Sequence[str],
        activations: bool = False,
        *,
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> Record:
        """Runs images forward and keeps what the way back needs.

        Args:
            images: (N, C, H, W) of the model's dtype; batches move to the model's device as they are needed.
            layers: which layers' units to choose from. The pass stops at the deepest of them.
            activations: keep the activations of these layers too.
            batch_size: images per pass.
            progress: show a progress bar; by default on a terminal when it takes more than a second.

        Returns:
            One record of all N images.

        Raises:
            TypeError: images that are not a tensor of the model's dtype.
            ValueError: images of the wrong shape, no images or no layers.
            UnknownLayer: a layer the model does not have; the message lists them.
        """
        asked = sorted({self.tape.index(layer) for layer in ([layers] if isinstance(layers, str) else layers)})
        if not asked:
            raise ValueError("layers must name at least one layer")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        dtype, device = self._check_images(images)
        record = Record(self.tape, len(images), tuple(images.shape[1:]), dtype, device)  # type: ignore[arg-type]
        record.kept = [None] * (asked[-1] + 1)
        for start, stop in _chunks(len(images), batch_size, "recording", "image", progress):
            self._record_batch(record, images[start:stop].to(device), start, asked, activations)
        return record

    def _check_images(self, images: Tensor) -> tuple[torch.dtype, torch.device]:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), images)
        if images.dtype != parameter.dtype or not images.is_floating_point():
            raise TypeError(f"images must be of the model's dtype {parameter.dtype}, got {images.dtype}")
        if images.dim() != 4 or 0 in images.shape:
            raise ValueError(f"images must have shape (N, C, H, W) with no empty dimension, got {tuple(images.shape)}")
        return parameter.dtype, parameter.device

    def _record_batch(self, record: Record, x: Tensor, start: int, asked: list[int], activations: bool) -> None:
        shapes = [_shape(x)]
        foreign = {x.untyped_storage().data_ptr()}
        steps = self.tape.steps[: asked[-1] + 1]
        fused = False
        for index, step in enumerate(steps):
            owned = x.untyped_storage().data_ptr() not in foreign
            if isinstance(step, MaxPool):
                x, kept = step.forward(x, owned, relu=fused)
                fused = False
            elif self._fuses(index, asked):
                fused, kept = True, None
            else:
                x, kept = step.forward(x, owned)
            shapes.append(_shape(x))
            if kept is not None:
                foreign.add(kept.untyped_storage().data_ptr())
                record.kept[index] = _store(record.kept[index], kept, start, len(record))
            if index in asked:
                self._keep_layer(record, step.name, x, start, activations)
                if activations:
                    foreign.add(x.untyped_storage().data_ptr())
        record.shapes = shapes

    def _fuses(self, index: int, asked: list[int]) -> bool:
        """Whether a step is a rectifier that only the max pool above it needs, which then rectifies as it pools."""
        step = self.tape.steps[index]
        if index in asked or not isinstance(step, Rectifier) or not step.fuses:
            return False
        return isinstance(self.tape.steps[index + 1], MaxPool)

    @staticmethod
    def _keep_layer(record: Record, name: str, x: Tensor, start: int, activations: bool) -> None:
        batch = Peaks.of(x)
        stored = record.peaks.get(name, Peaks(None, None, None))  # type: ignore[arg-type]
        record.peaks[name] = Peaks(
            *(_store(getattr(stored, part), getattr(batch, part), start, len(record)) for part in ("value", "y", "x"))
        )
        if activations:
            record.activations[name] = _store(record.activations.get(name), x, start, len(record))

    @torch.no_grad()
    def project(
        self,
        record: Record,
        units: Units,
        seed: str = "activation",
        overlap: str = "sum",
        *,
        kernel: str = "auto",
        max_bytes: int | None = None,
        progress: bool | None = None,
    ) -> Projections:
        """Projects units back to pixels, each inside its receptive field.

        What comes out for a unit does not depend on the other units, on their order, on `max_bytes` or on the number of
        threads: it is the same to the last bit. (Of the number of threads, torch's own convolution promises nothing:
        `kernel="dense"`.)

        Args:
            record: of this network.
            units: any number, of any images of the record.
            seed: what the projection of one is multiplied by: the unit's "activation", or "one".
            overlap: "sum" adds the signals of overlapping pooling windows that share a maximum, "last" keeps that
                of the last window in row-major order.
            kernel: what runs convolutions backwards: "sparse" (`backproject2d`), "dense" (unpooling, rectification and
                torch's transposed convolution), or "auto", which is sparse but for large signals with few zeros.
            max_bytes: working memory for the windows of one step; each step takes as many units at once as fit.
                By default 32 MiB on the CPU and 1 GiB elsewhere.
            progress: show a progress bar; by default on a terminal when it takes more than a second.

        Returns:
            The projections, in the order of the units.

        Raises:
            ValueError: a record of another network, a unit outside the record, an unknown seed, overlap or kernel, or
                activations that the record has not kept.
            UnknownLayer: a layer the model does not have.

        Source: Zeiler & Fergus 2013, section 2.1.
        """
        if record.tape is not self.tape:
            raise ValueError("the record was made by another Deconvnet; record the images with this one")
        _check_choice("seed", seed, SEEDS)
        _check_choice("kernel", kernel, KERNELS)
        check_overlap(overlap)
        record.check(units)
        plan = self.plan(record, units.layer, max_bytes=max_bytes)
        scale = record.seeds(units).to(record.dtype) if seed == "activation" else None
        shape = (len(units), plan.bottom.channels, *plan.bottom.size)
        walk = _Walk(
            plan,
            record.kept,
            Options(overlap, kernel),
            None if scale is None else scale.to(record.device)[:, None, None, None],
            torch.empty(shape, dtype=record.dtype, device=record.device),
        )
        positions = Positions.of(units.image, torch.stack((units.y, units.x), dim=1), record.device)
        if len(units):
            top = self.tape.index(units.layer)
            seeds = Windows.seeds(units.channel.to(record.device), positions, record.shapes[top + 1], record.dtype)
            with _progress(len(units), "projecting", "unit", progress) as bar:
                walk.down(seeds, top, 0, bar)
        boxes = positions.boxes(plan.bottom).cpu()
        return Projections(units, walk.result, boxes, record.image_shape[1:])

    def plan(self, record: Record, layer: str, *, max_bytes: int | None = None) -> Plan:
        """What `project` does with units of a layer: its steps, their windows and costs, and how they are batched.

        Args:
            record: of this network.
            layer: whose units are projected.
            max_bytes: as for `project`.

        Raises:
            UnknownLayer: a layer the model does not have.
        """
        if max_bytes is None:
            max_bytes = HOST_BYTES if record.device.type == "cpu" else DEVICE_BYTES
        key = (layer, tuple(record.shapes), record.dtype, max_bytes)
        if key not in self._plans:
            self._plans[key] = make_plan(self.tape, layer, record.shapes, record.dtype, max_bytes)
        return self._plans[key]


@dataclass(frozen=True)
class _Walk:
    """The way from units down to the images.

    Attributes:
        plan: of their layer.
        kept: what the record holds for every step.
        options: of the projection.
        scale: (U, 1, 1, 1), what every projection is multiplied by, or None.
        result: (U, C, h, w), filled from the bottom.
    """

    plan: Plan
    kept: list[Tensor | None]
    options: Options
    scale: Tensor | None
    result: Tensor

    def down(self, windows: Windows, index: int, first: int, bar: tqdm | _Silent) -> None:
        """Takes windows on the output of step `index`, those of the units from `first` on, down to the images."""
        while index >= 0:
            planned = self.plan.steps[index]
            if windows.values.shape[0] > planned.units_at_once:
                for begin in range(0, len(windows), planned.units_at_once):
                    end = min(len(windows), begin + planned.units_at_once)
                    self.down(windows.of_units(slice(begin, end)), index, first + begin, bar)
                return
            windows = planned.step.backward(windows, self.kept[index], planned.below, self.options)
            index -= 1
        values, units = windows.dense(), slice(first, first + len(windows))
        if self.scale is None:
            self.result[units] = values
        else:
            torch.mul(values, self.scale[units], out=self.result[units])
        bar.update(len(values))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _shape(x: Tensor) -> tuple[int, int, int]:
    return (x.shape[1], x.shape[2], x.shape[3]) if x.dim() == 4 else (x.shape[1], 1, 1)


def _progress(total: int, what: str, unit: str, progress: bool | None) -> tqdm | _Silent:
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=total, desc=what, unit=unit, delay=0 if progress else 1) if shown else _Silent()


class _Silent:
    """A progress bar that nobody sees, made in no time."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int) -> None:
        """Counts nothing."""


def _chunks(total: int, size: int, what: str, unit: str, progress: bool | None) -> Iterator[tuple[int, int]]:
    with _progress(total, what, unit, progress) as bar:
        for start in range(0, total, size):
            stop = min(total, start + size)
            yield start, stop
            bar.update(stop - start)


def _store(store: Tensor | None, batch: Tensor, start: int, total: int) -> Tensor:
    """Puts what was kept of a batch with what was kept of the others."""
    if len(batch) == total:
        return batch
    if store is None:
        channels_last = batch.dim() == 4 and not batch.is_contiguous() and batch.stride(1) == 1
        store = torch.empty(
            (total, *batch.shape[1:]),
            dtype=batch.dtype,
            device=batch.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
    store[start : start + len(batch)] = batch
    return store
