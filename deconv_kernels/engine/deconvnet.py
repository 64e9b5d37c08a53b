"""The deconvnet: record a network's forward pass, choose units, project them back to pixels.

Source: Zeiler & Fergus 2013, "Visualizing and Understanding Convolutional Networks", section 2.1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import at_least, one_of, whole_number
from ..ops import check_overlap
from ..terminal import chunks_of, progress_bar
from .capture import Captured
from .errors import NeedsSizes, UnknownLayer
from .fields import Window, rank_of
from .forward import Recording
from .plan import Plan, make_plan, working_bytes
from .positions import UnitBuffer
from .projections import Projections
from .record import Record
from .signal import Windows
from .steps.base import KERNELS, RULES, Options
from .trace.builder import trace
from .trace.tape import Layer, Tape
from .trace.tapes import Tapes
from .trace.tracer import input_names
from .units import LayerLike, Units
from .walk import UnitWalk, Walk, empty_results

NORMALIZATIONS = ("identity", "gradient")
SEEDS = ("activation", "one")
_PLANS_KEPT = 256
_IMAGES = {4: "NCHW", 5: "NCDHW", 3: "NCL", 2: "NF"}  # by their number of dimensions


class Deconvnet:
    """A network that can be run backwards from single units.

    Args:
        model: any `nn.Module`; branches, skips, concatenations and shared modules are followed. What depends on the
            values of the images in Python is refused.
            It is read as in eval mode and without its hooks, and left as it is. Its tensors may change later, in any
            way, and so may its modules and the numbers that these have as attributes: every record is made, and
            projected, with those of its moment.
        rule: what a rectifier does to the signal g on the way back: "deconvnet" relu(g); "guided" relu(g) where the
            activation was positive; "gradient" its gradient, which is g where the activation was positive (and below
            the ceiling of a ReLU6).
        normalization: "identity" passes response and contrast normalisation unchanged on the way back, as deconvnets
            do; "gradient" takes their exact gradient, for which the record keeps their inputs.
        rules: what to do with parts about which there is no agreement, such as smooth activations and products of
            signals: from a module type (`nn.SiLU`), a function (`torch.sigmoid`, `operator.mul`), the name of a tensor
            method or a class of `torch.autograd.Function` to "gradient" (its exact gradient), "identity" (the signal
            passes unchanged) or "rectifier" (as a rectifier under `rule`). Under the rule "gradient" everything goes by
            its gradient anyway.
        arguments: values for parameters of the model's forward that are not tensors, by name. Parameters with neither a
            value nor a default are the inputs, of which there usually is one: the images.
        inputs: the names of parameters that are inputs although they have a default.
        image_size: (C, H, W) of the images, (C, D, H, W) of volumes, (C, L) of signals, or (F,) of rows; or without the
            channels, which are then those of the network's first convolution. It is needed for the layers of a network
            whose forward asks for the sizes of its maps, as in `if x.shape[-1] < 7`, until images are recorded: such a
            network is traced anew for every size.

    Raises:
        TypeError: `model` is not a module, or a key of `rules` not what it can be.
        ValueError: an unknown rule, normalization, decision or argument.
        UnsupportedModule: a part of the network has no exact rule, or it cannot be traced; the message names it.

    Source: Zeiler & Fergus 2013, section 2.1; Springenberg et al. 2014 for "guided".

    Example:
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2)))
        >>> record = net.record(torch.randn(2, 3, 16, 16), ["1", "2"])
        >>> projections = net.project(record, record.strongest("2", k=1))
        >>> projections.windows.shape  # of four maps the strongest unit, in its receptive field
        torch.Size([4, 3, 6, 6])
    """

    # Keys of `rules` that are given to every network, whether it calls them or not.
    _usual_rules: frozenset[Any] = frozenset()

    def __init__(
        self,
        model: nn.Module,
        rule: str = "deconvnet",
        normalization: str = "identity",
        *,
        rules: Mapping[Any, str] | None = None,
        arguments: Mapping[str, object] | None = None,
        inputs: Sequence[str] = (),
        image_size: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        model = _unwrapped(model)
        one_of("rule", rule, RULES)
        one_of("normalization", normalization, NORMALIZATIONS)
        self.model, self.rule, self.normalization = model, rule, normalization
        self._arguments = (rules, arguments, inputs)
        self._image_size = None if image_size is None else tuple(image_size)
        self._inputs = len(input_names(model, arguments or {}, inputs))
        self._planned = functools.lru_cache(_PLANS_KEPT)(make_plan)
        traced = functools.partial(trace, model, rule, normalization, rules, arguments, inputs)
        self._tapes = Tapes(model, traced, image_size, self._usual_rules)

    @property
    def asks_for_sizes(self) -> bool:
        """Whether the network is traced anew for every size of its images."""
        return self._tapes.ask_for_sizes

    @property
    def tape(self) -> Tape:
        """The network as its steps.

        Where it asks for sizes, for those of the images that were recorded last, or for usual ones as long as there
        were none.
        """
        return self._tapes.last_or_usual()

    def _tape_for(self, images: Sequence[Tensor]) -> Tape:
        """The network as its steps for images of these shapes."""
        return self._tapes.of(images)

    def _tape_of(self, record: Record) -> Tape:
        """The network as its steps for the images of a record."""
        if record.tape is not None and record.tape in self._tapes:
            return record.tape
        shapes = [shape for shape in record.shapes[: self._inputs] if shape is not None]
        return self._tape_for([torch.empty((1, *shape), dtype=record.dtype, device=record.device) for shape in shapes])

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles trace their own model again."""
        rules, arguments, inputs = self._arguments
        make = functools.partial(
            Deconvnet, rules=rules, arguments=arguments, inputs=inputs, image_size=self._image_size
        )
        return make, (self.model, self.rule, self.normalization)

    def layer(self, layer: LayerLike) -> Layer:
        """A layer by its name or its module.

        Raises:
            TypeError, UnknownLayer: no such layer; the message lists them.
        """
        return self.tape.layer(layer)

    @property
    def layers(self) -> list[str]:
        """The names of all layers, from the images up.

        Raises:
            NeedsSizes: they depend on the size of the images, and none was given or recorded yet.
        """
        return list(self._tapes.last().layers)

    @property
    def output(self) -> str:
        """The name of the layer whose output is the network's.

        Raises:
            ValueError: the network returns several tensors.
        """
        if self.tape.output is None:
            raise ValueError(f"{type(self.model).__name__} returns several tensors; choose one of net.layers")
        return self.tape.output

    @torch.no_grad()
    def record(
        self,
        images: Tensor | Sequence[Tensor],
        layers: LayerLike | Sequence[LayerLike],
        activations: bool = False,
        *,
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> Record:
        """Runs images forward and keeps what the way back needs.

        Args:
            images: (N, C, H, W), volumes or clips (N, C, D, H, W), signals (N, C, L), or (N, F) where the network takes
                rows, of the model's dtype; one tensor for each input of the network, of which all but the first may
                have any shape (N, ...). Batches move to the model's device as they are needed.
            layers: which layers' units to choose from, by name or as modules of the network. Nothing is run that they
                do not need.
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
        given = [layers] if isinstance(layers, str | nn.Module) else list(layers)
        if not given:
            raise ValueError("layers must name at least one layer")
        at_least("batch_size", batch_size, 1)
        several = self._inputs > 1 and not isinstance(images, Tensor)
        inputs: list[Tensor] = list(images) if several else [images]  # type: ignore[list-item]
        self.check_images(inputs)
        try:
            return self._recorded(self._tape_for(inputs), inputs, given, activations, batch_size, progress)
        except NeedsSizes as asked:
            if self.asks_for_sizes:
                raise
            try:
                tape = self._tapes.traced(inputs)
                record = self._recorded(tape, inputs, given, activations, batch_size, progress)
            except UnknownLayer:
                raise asked from None
            self._tapes.only_sized(tape)
            return record

    def _recorded(
        self,
        tape: Tape,
        inputs: Sequence[Tensor],
        layers: Sequence[LayerLike],
        activations: bool,
        batch_size: int,
        progress: bool | None,
    ) -> Record:
        dtype, device = self.check_images(inputs)
        found = [tape.layer(layer) for layer in layers]
        asked = {layer.value for layer in found}
        record = Record(tape, tape.names, len(inputs[0]), dtype, device)
        record.kept = [()] * len(tape.steps)
        record.steps, record.weights = tape.bound(tape.needed(asked))
        recording = Recording(tape, record, asked, activations, rank_of(inputs[0].shape[1:]))
        for start, stop in chunks_of(len(record), batch_size, "recording", "image", progress):
            recording.batch([x[start:stop].to(device) for x in inputs], start)
        if activations:
            # A container's layer is that of the step whose output it returns.
            record.activations.update({layer.name: record.activations[layer.step] for layer in found})
        return record

    def shapes(self, images: Tensor, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shapes of layers' outputs for the first of some images, (C, [[D,] H,] W) or (F,).

        Raises:
            UnknownLayer: a layer the model does not have.
            ValueError: no layers, or the network does not take such images.
        """
        if not layers:
            raise ValueError("at least one layer is needed")
        values = {layer: self._tape_for([images]).layer(layer).value for layer in layers}
        try:
            record = self.record(images[:1], list(values), progress=False)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            shape = "x".join(map(str, images.shape[1:]))
            raise ValueError(f"images of {shape} do not go through the network: {error}") from error
        return {layer: record.shapes[value] or () for layer, value in values.items()}

    def check_images(self, inputs: Sequence[Tensor]) -> tuple[torch.dtype, torch.device]:
        """Whether the network can take these tensors, one for each of its inputs.

        Returns:
            The dtype and the device of the network.

        Raises:
            TypeError: no tensor, or not of the model's dtype.
            ValueError: another number of tensors, or shapes that cannot be.
        """
        if len(inputs) != self._inputs:
            raise ValueError(f"the network takes {self._inputs} tensors, got {len(inputs)}")
        images = inputs[0]
        rank = self._tapes.rank
        taken = tuple(_IMAGES) if rank is None else (rank + 2,)
        if not all(isinstance(x, Tensor) for x in inputs):
            raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), images)
        for x in inputs:
            if (x.is_floating_point() or x is images) and x.dtype != parameter.dtype:
                raise TypeError(f"images must be of the model's dtype {parameter.dtype}, got {x.dtype}")
            if x.dim() == 0 or 0 in x.shape or (x is images and x.dim() not in taken):
                shapes = " or ".join(f"({', '.join(_IMAGES[dim])})" for dim in taken)
                raise ValueError(f"images must have shape {shapes} with no empty dimension, got {tuple(x.shape)}")
            if len(x) != len(images):
                raise ValueError(f"all inputs must hold {len(images)} images, got {len(x)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point, got {images.dtype}")
        return parameter.dtype, parameter.device

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
        input: int = 0,
        out: Tensor | None = None,
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
                By default 8 MiB on the CPU and 1 GiB elsewhere.
            progress: show a progress bar; by default on a terminal when it takes more than a second.
            input: to which of the network's inputs, where it has several.
            out: takes the windows as they come and becomes `windows` of the result: a tensor of the shape that
                `plan(record, layer).shape(len(units), input)` says, of the network's dtype and on its device. Over a
                memory-mapped file (`torch.from_file`) it may be larger than the memory.

        Returns:
            The projections, in the order of the units.

        Raises:
            TypeError: an `out` that is not a tensor.
            ValueError: a record of another network, a unit outside the record, an unknown seed, overlap, kernel or
                input, activations that the record has not kept, or an `out` of another shape, dtype or device.
            UnknownLayer: a layer the model does not have.

        Source: Zeiler & Fergus 2013, section 2.1.
        """
        record.attach(self._tape_of(record))
        self._check_input(input)
        one_of("seed", seed, SEEDS)
        bounds = record.check(units)
        plan = self._plan(record, units.layer, max_bytes, False, _options(overlap, kernel))
        walk = UnitWalk(record, plan, len(units), seed == "activation", input, out)
        boxes = walk.send(units, input)
        if len(units):
            with progress_bar(len(units), "projecting", "unit", progress) as bar:
                walk.run(bounds, bar)
        return Projections(units, walk.results[input], boxes, record.shapes[input] or ())

    @torch.no_grad()
    def capture(
        self,
        record: Record,
        layer: LayerLike,
        units: int = 64,
        seed: str = "activation",
        overlap: str = "sum",
        *,
        kernel: str = "auto",
        max_bytes: int | None = None,
        input: int = 0,
    ) -> Captured:
        """Prepares the way back from a layer once, to project units of it again and again at little cost for each call.

        On a GPU the way is captured in a CUDA graph: a call is then one copy of its units to the device and one launch.
        Elsewhere its steps run one by one in memory that is there already. What comes out is what `project` gives, to
        the last bit.

        Args:
            record: of this network. What was captured goes on using it and the weights of its moment.
            layer: whose units.
            units: how many are projected at once: a call with fewer costs as much, one with more is done in parts.
            seed, overlap, kernel, max_bytes, input: as for `project`.

        Returns:
            What projects units of the layer.

        Raises:
            ValueError: as `project`; no units.
            UnknownLayer: a layer the model does not have.
            RuntimeError: a step on the way waits for the GPU, which a CUDA graph cannot hold.

        Example:
            >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2)))
            >>> record = net.record(torch.randn(2, 3, 16, 16), "2")
            >>> captured, units = net.capture(record, "2", units=4), record.strongest("2", k=2)
            >>> torch.equal(captured.project(units).windows, net.project(record, units).windows)
            True
        """
        record.attach(self._tape_of(record))
        self._check_input(input)
        one_of("seed", seed, SEEDS)
        count = whole_number("units", units, 1)
        plan = self._plan(record, layer, max_bytes, False, _options(overlap, kernel))
        return Captured(record, plan, count, seed == "activation", input)

    def _check_input(self, input: int) -> None:
        if not 0 <= input < self._inputs:
            raise ValueError(f"input must be from 0 to {self._inputs - 1}, got {input}")

    @torch.no_grad()
    def project_signal(
        self,
        record: Record,
        layer: LayerLike,
        signal: Tensor,
        image: Tensor,
        overlap: str = "sum",
        *,
        kernel: str = "auto",
        max_bytes: int | None = None,
        progress: bool | None = None,
    ) -> tuple[Tensor, ...]:
        """Sends whole maps of signal back to the inputs: any combination of a layer's units at once.

        Args:
            record: of this network.
            layer: on whose output the signal lies.
            signal: (S, ...), each of the shape of the layer's output for one image.
            image: (S,) int64, the image of the record that each belongs to.
            overlap, kernel, max_bytes, progress: as for `project`.

        Returns:
            What arrives at each input of the network, (S, ...) of its shape.

        Raises:
            TypeError: a signal that is not of the network's dtype.
            ValueError: a record of another network, a signal of another shape or for an image outside the record, an
                unknown overlap or kernel.
            UnknownLayer: a layer the model does not have.
        """
        tape = self._tape_of(record)
        record.attach(tape)
        above = record.shape(layer)
        shape = record.shapes[tape.layer(layer).value]
        if signal.dtype != record.dtype:
            raise TypeError(f"signal must be of the network's dtype {record.dtype}, got {signal.dtype}")
        if tuple(signal.shape[1:]) != tuple(shape or ()) or image.shape != signal.shape[:1]:
            raise ValueError(
                f"signal must have shape (S, {', '.join(map(str, shape or ()))}) with one image for each, "
                f"got {tuple(signal.shape)} and {tuple(image.shape)}"
            )
        if len(image) and not 0 <= int(image.min()) <= int(image.max()) < len(record):
            raise ValueError(f"image must be from 0 to {len(record) - 1}, got {image.tolist()}")
        plan = self._plan(record, layer, max_bytes, True, _options(overlap, kernel))
        units = torch.zeros((2 + record.rank, len(image)), dtype=torch.int64)
        units[0] = image
        buffer = UnitBuffer(plan.origins, len(image), record.dtype, record.device)
        buffer.fill(units.numpy(), None)
        values, here = signal.to(record.device).reshape(-1, *above).clone(), (0,) * record.rank
        windows = Windows(values, Window.full(above), buffer.positions((here, here)))
        results = empty_results(record, plan, len(image))
        if len(image):
            with progress_bar(len(image), "projecting", "unit", progress) as bar:
                walk = Walk(plan, record.steps, record.kept, None, results, bar)
                walk.down({plan.value: [windows]}, len(plan.steps) - 1, 0, len(image))
        shapes = record.shapes[: self._inputs]
        return tuple(result.reshape(-1, *of) for result, of in zip(results, shapes, strict=True) if of is not None)

    def plan(
        self,
        record: Record,
        layer: LayerLike,
        *,
        max_bytes: int | None = None,
        whole: bool = False,
        overlap: str = "sum",
        kernel: str = "auto",
    ) -> Plan:
        """What `project` does with units of a layer: its steps, their windows and costs, and how they are batched.

        Args:
            record: of this network.
            layer: whose units are projected.
            max_bytes, overlap, kernel: as for `project`.
            whole: plan for whole maps of signal, as `project_signal` takes them, instead of single units.

        Raises:
            UnknownLayer: a layer the model does not have.
            ValueError: the record does not reach it, or an unknown overlap or kernel.
        """
        return self._plan(record, layer, max_bytes, whole, _options(overlap, kernel))

    def _plan(self, record: Record, layer: LayerLike, max_bytes: int | None, whole: bool, options: Options) -> Plan:
        tape = self._tape_of(record)
        layer = tape.name(layer)
        record.shape(layer)
        most = working_bytes(record.device) if max_bytes is None else max_bytes
        return self._planned(tape, layer, tuple(record.shapes), record.dtype, most, whole, options)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers that compute the same: of data parallelism, and of `torch.compile`."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return _unwrapped(compiled) if isinstance(compiled, nn.Module) else model


def _options(overlap: str, kernel: str) -> Options:
    one_of("kernel", kernel, KERNELS)
    check_overlap(overlap)
    return Options(overlap, kernel)
