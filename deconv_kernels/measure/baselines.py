"""What this package is measured against: the same projections by other means, and the definition of what is right."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from ..engine import definition as meaning
from ..engine.deconvnet import Deconvnet
from ..engine.fields import as_map
from ..engine.nodes import LAYER
from ..engine.steps.base import Step
from ..engine.steps.convolution import Convolution
from ..engine.steps.joins import Concatenate, Sum
from ..engine.steps.linear import Flatten, Linear
from ..engine.steps.pointwise import Activation, BatchNormalization, Identity, Normalization, Rectifier, Shift
from ..engine.steps.pooling import AdaptiveAveragePool, AveragePool, MaxPool
from ..engine.trace.builder import graph_of
from ..engine.units import Units
from ..terminal import Progress

Signals = Sequence[Tensor | None]
WayBack = Callable[[Tensor, Tensor], Signals]
"""(signal on a step's output, which image each unit is of) -> signal on its inputs; may overwrite the signal."""
Shapes = Sequence[torch.Size]
Projector = Callable[..., Tensor]
"""(network, images, units, seed) -> projections (U, C, H, W) or (U, F)."""


class WrongResult(RuntimeError):  # noqa: N818
    """Our projections differ from their definition by more than rounding explains."""


class FullFrame:
    """Plain ATen: one forward of the images, then backward passes over whole maps, many units in each.

    It is what a careful user of PyTorch would write: int64 indices, `max_pool2d_with_indices_backward`,
    `convolution_backward`, and autograd for what is none of the everyday layers. The forward is run on construction.

    Args:
        net: the network, of one input, and its rule.
        images: (N, C, [[D,] H,] W) or (N, F), as for `Deconvnet.record`.
        layer: whose units are projected.
        batch_size: images per forward pass, by default all; what the passes round differently can move a switch.
        memory_format: of the maps on the way back; channels_last is the faster one.
        compiled: send the signal back by `torch.compile` over static shapes, as a whole or not at all.

    Raises:
        ValueError: a network of several inputs.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: Deconvnet,
        images: Tensor,
        layer: str,
        *,
        batch_size: int | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        compiled: bool = False,
    ) -> None:
        tape = net.tape
        if tape.inputs != 1:
            raise ValueError(f"this baseline takes networks of one input, not of {tape.inputs}")
        self._top = tape.layer(layer).value
        needed = tape.needed({self._top})
        steps, _ = tape.bound(needed)
        last_reader = {source: index for index in needed for source in tape.sources[index]}
        device = next(net.model.parameters(), images).device
        shapes: dict[int, torch.Size] = {}
        kept: dict[int, list[tuple[Tensor, ...]]] = {index: [] for index in needed}
        for batch in images.split(batch_size or len(images)):
            values = {0: batch.to(device)}
            for index in needed:
                sources = tape.sources[index]
                values[1 + index], of_batch = _forward(steps[index], [values[source] for source in sources])
                kept[index].append(of_batch)
                shapes.update((value, values[value].shape[1:]) for value in (*sources, 1 + index))
                for source in set(sources):
                    if last_reader[source] == index:
                        del values[source]
        self._images, self._shape = images.shape, shapes[self._top]
        self._signal = values[self._top].new_zeros(())
        self._format = memory_format
        self._ways: list[tuple[int, tuple[int, ...], WayBack]] = []
        for index in reversed(needed):
            step, sources = steps[index], tape.sources[index]
            of_step = _together(kept.pop(index), memory_format)
            way = _backward(step, [shapes[source] for source in sources], of_step, memory_format)
            self._ways.append((1 + index, sources, way))
        self._compiled = compiled
        self._send = torch.compile(self._send_back, fullgraph=True, dynamic=False) if compiled else self._send_back

    def _send_back(self, signal: Tensor, image: Tensor) -> Tensor:
        signals = {self._top: signal}
        for value, sources, way in self._ways:
            arrived = signals.pop(value, None)
            if arrived is None:
                continue
            for source, part in zip(sources, way(arrived, image), strict=True):
                if part is not None:
                    signals[source] = signals[source].add_(part) if source in signals else part
        if 0 not in signals:
            return signal.new_zeros((len(image), *self._images[1:]))
        return signals[0]

    @torch.no_grad()
    def project(self, units: Units, units_at_once: int = 16, seed: str = "one") -> Tensor:
        """Projects units of the layer.

        Args:
            units: of any of the images.
            units_at_once: units per backward pass.
            seed: "one", or "activation" for units that know theirs.

        Returns:
            (U, C, H, W) or (U, F).

        Raises:
            ValueError: units without activations with seed "activation".
        """
        scale = _scale(units, seed)
        device = self._signal.device
        columns = units.table().to(device)
        projections = self._signal.new_empty((len(units), *self._images[1:]))
        for start in range(0, len(units), units_at_once):
            image, *position = (column[start : start + units_at_once] for column in columns)
            # A compiled pass always takes as many units; those that are missing stay zero.
            size = units_at_once if self._compiled else len(image)
            signal = _laid_out(self._signal.new_zeros((size, *as_map(self._shape, units.rank))), self._format)
            signal[(torch.arange(len(image), device=device), *position)] = 1
            which = torch.cat((image, image.new_zeros(size - len(image))))
            found = self._send(signal.reshape(size, *self._shape), which)
            projections[start : start + len(image)] = found[: len(image)]
        return _scaled(projections, scale)


def project_full_frame(
    net: Deconvnet, images: Tensor, units: Units, seed: str = "one", units_at_once: int = 16
) -> Tensor:
    """Projects units by plain ATen ops: a forward of their images, then batched backward passes; see `FullFrame`.

    Args:
        net: the network, of one input, and its rule.
        images: (N, C, H, W) or (N, F), as for `Deconvnet.record`.
        units: of any images.
        seed: "one", or "activation" for units that know theirs.
        units_at_once: units per backward pass.

    Returns:
        (U, C, H, W).

    Raises:
        ValueError: units without activations with seed "activation", or a network of several inputs.
    """
    _scale(units, seed)
    used, image = torch.unique(units.image, return_inverse=True)
    full_frame = FullFrame(net, images[used], units.layer)
    of_used = units.of_images(image)
    return full_frame.project(of_used, units_at_once, seed)


def project_captum(net: Deconvnet, images: Tensor, units: Units, seed: str = "one", progress: bool = False) -> Tensor:
    """Projects units by Captum, as its users do: one forward and one backward of the whole network per unit.

    Args:
        net: its model, whose rectifiers must all be `nn.ReLU` modules for Captum to be right, and its rule.
        images: (N, C, H, W), as for `Deconvnet.record`.
        units: of a layer that is a module.
        seed: "one", or "activation" for units that know theirs.
        progress: show a progress bar.

    Returns:
        (U, C, H, W).

    Raises:
        ImportError: Captum is not installed.
        ValueError: units without activations with seed "activation".
    """
    try:
        from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
    except ImportError as error:
        raise ImportError("this baseline needs Captum: pip install captum") from error
    scale = _scale(units, seed)
    attribution = {
        "deconvnet": NeuronDeconvolution,
        "guided": NeuronGuidedBackprop,
        "gradient": NeuronGradient,
    }[net.rule](net.model, net.model.get_submodule(units.layer))
    device = next(net.model.parameters(), images).device
    projections = images.new_empty((len(units), *images.shape[1:]), device=device)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        rows = units.table().T.tolist()
        for row, (image, *position) in enumerate(Progress(rows, "Captum", disable=not progress)):
            pixels = images[image : image + 1].to(device).clone()
            projections[row] = attribution.attribute(pixels, functools.partial(_unit, position))[0].detach()
    return _scaled(projections, scale)


def project_zennit(net: Deconvnet, images: Tensor, units: Units, seed: str = "one") -> Tensor:
    """Projects units by zennit's composites for these rules: one forward and one backward of the network per unit.

    Args:
        net: its model, whose rectifiers must all be modules for zennit to see them, and its rule.
        images: (N, C, H, W), as for `Deconvnet.record`.
        units: of a layer that is a module.
        seed: "one", or "activation" for units that know theirs.

    Returns:
        (U, C, H, W).

    Raises:
        ImportError: zennit, or torchvision which it needs, is not installed.
        ValueError: units without activations with seed "activation".
    """
    try:
        from zennit.composites import DeconvNet, GuidedBackprop
    except ImportError as error:
        raise ImportError(f"this baseline needs zennit and torchvision: pip install zennit ({error})") from error
    scale = _scale(units, seed)
    composite = {"deconvnet": DeconvNet, "guided": GuidedBackprop}.get(net.rule)
    device = next(net.model.parameters(), images).device
    projections = images.new_empty((len(units), *images.shape[1:]), device=device)
    outputs: list[Tensor] = []
    handle = net.model.get_submodule(units.layer).register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        with (
            torch.enable_grad(),
            contextlib.nullcontext(net.model) if composite is None else composite().context(net.model) as model,
        ):
            for row, (image, *position) in enumerate(units.table().T.tolist()):
                outputs.clear()
                pixels = images[image : image + 1].to(device).clone().requires_grad_()
                model(pixels)
                projections[row] = torch.autograd.grad(_unit(position, outputs[0]).sum(), pixels)[0][0]
    finally:
        handle.remove()
    return _scaled(projections, scale)


def definition(net: Deconvnet, images: Tensor, units: Units, seed: str = "one", overlap: str = "sum") -> Tensor:
    """Projections as they are defined, by `deconv_kernels.reference.project`, one unit at a time.

    Args:
        net: the network, of one input, and its rule.
        images: (N, C, H, W) or (N, F), as for `Deconvnet.record`.
        units: of any images.
        seed: "one", or "activation" for units that know theirs.
        overlap: "sum" or "last", for overlapping pooling windows.

    Returns:
        (U, C, H, W) or (U, F).

    Raises:
        ValueError: units without activations with seed "activation", or a layer that is a part of a module's work.
    """
    scale = _scale(units, seed)
    tape = net._tape_for([images])
    rules, graph = net._arguments[0], graph_of(tape)
    node = node_of(graph.graph, tape.layer(units.layer).step)
    device = next(net.model.parameters(), images).device
    projections = images.new_empty((len(units), *images.shape[1:]), device=device)
    for row, unit in enumerate(units.table().T):
        pixels = images[unit[0]][None].to(device)
        alone = torch.cat((torch.zeros(1, dtype=unit.dtype), unit[1:]))[None]
        with torch.enable_grad():
            found, _ = meaning.project(graph, pixels, node, alone, net.rule, net.normalization, overlap, rules)
        assert isinstance(found, Tensor)
        projections[row] = found[0]
    return _scaled(projections, scale)


def node_of(graph: torch.fx.Graph, layer: str) -> str:
    """The name of the node that computes a layer."""
    called = [node.name for node in graph.nodes if layer in (node.meta.get(LAYER), _called_module(node))]
    names = {node.name for node in graph.nodes}
    while layer not in names and layer.endswith("_"):  # a module of the node's name was there
        layer = layer[:-1]
    if len(called) != 1 and layer not in names:
        raise ValueError(f"{layer} is a part of what a module computes")
    return called[0] if len(called) == 1 else layer


def _called_module(node: torch.fx.Node) -> str | None:
    return str(node.target) if node.op == "call_module" else None


@dataclass(frozen=True)
class Baseline:
    """One way of projecting, ready to be compared with others.

    Attributes:
        name: for people.
        units: how many it takes in one call.
        forward: whether every call runs the network forward; otherwise that is done once, before.
        prepare: (network, images, layer) -> the function from units to (U, C, H, W).
    """

    name: str
    units: int
    forward: bool
    prepare: Callable[[Deconvnet, Tensor, str], Callable[[Units], Tensor]]


UNITS_AT_ONCE = 16


def comparable(compiled: bool = True) -> list[Baseline]:
    """The baselines that are installed, and on most networks compute what we compute.

    Overlapping pooling windows are summed by all of them. Captum and zennit know rectifiers that are modules of their
    own only, and differentiate response and contrast normalisation: `definition` tells where they are wrong.

    Args:
        compiled: include the one under `torch.compile`, which compiles for some ten seconds.
    """
    found = [
        _full_frame("batched ATen", memory_format=torch.contiguous_format),
        _full_frame("batched ATen channels_last"),
    ]
    if compiled:
        found.append(_full_frame("batched ATen compiled", compiled=True))
    for name, project in (("Captum", project_captum), ("zennit", project_zennit)):
        if installed(name.lower()):
            found.append(Baseline(name, 1, True, functools.partial(_one_by_one, project)))
    return found


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two batches of projections (U, ...), relative to the largest value of each."""
    largest = theirs.flatten(1).abs().amax(1).clamp_min(torch.finfo(theirs.dtype).tiny)
    return float(((ours - theirs).flatten(1).abs().amax(1) / largest).max())


def installed(package: str) -> bool:
    """Whether a package is installed together with what it needs."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def said_by(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())


def _full_frame(name: str, **options: Any) -> Baseline:
    def prepare(net: Deconvnet, images: Tensor, layer: str) -> Callable[[Units], Tensor]:
        if options.get("compiled"):
            torch.compiler.reset()  # it compiles one function only so many times
        # One image at a time, as others see them: the same rounding and so the same switches.
        return FullFrame(net, images, layer, batch_size=1, **options).project

    return Baseline(name, UNITS_AT_ONCE, False, prepare)


def _one_by_one(
    project: Callable[..., Tensor], net: Deconvnet, images: Tensor, layer: str
) -> Callable[[Units], Tensor]:
    return functools.partial(project, net, images)


def _scale(units: Units, seed: str) -> Tensor | None:
    if seed == "one":
        return None
    if seed != "activation" or units.activation is None:
        raise ValueError(f'seed must be "one", or "activation" for units that know theirs, got {seed!r}')
    return units.activation


def _scaled(projections: Tensor, scale: Tensor | None) -> Tensor:
    """Projections (U, ...), each multiplied in place by its number."""
    if scale is None:
        return projections
    return projections.mul_(scale.to(projections.device).view(-1, *[1] * (projections.dim() - 1)))


def _unit(position: Sequence[int], output: Tensor) -> Tensor:
    """The unit at (channel, y, x) of each image's output; of rows, at (channel)."""
    return output.movedim(0, -1)[tuple(position[: output.dim() - 1])]


def _weight(step: Convolution | Linear) -> Tensor:
    return step.weight.detach()


def _factor(step: BatchNormalization) -> Tensor:
    return step.scale.detach()


_BY_ATEN = (
    *(Convolution, Linear, BatchNormalization, Rectifier, Activation, Normalization),
    *(MaxPool, AveragePool, AdaptiveAveragePool, Flatten, Identity, Shift, Sum, Concatenate),
)


def _by_autograd(step: Step) -> bool:
    """Whether a step is run again to be differentiated, as autograd does what has no op for its way back."""
    if isinstance(step, Convolution):
        return step.padding == "same" and any((size + 1) % 2 for size in step.kernel)
    if isinstance(step, MaxPool | AveragePool | AdaptiveAveragePool):
        return step.rank != 2
    if isinstance(step, Activation):
        return step.rule == "gradient"
    if isinstance(step, Normalization):
        return step.exact
    return type(step) not in _BY_ATEN


def _forward(step: Step, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The step's output, and what its way back needs: the indices of a max pool, where a rectifier passes signal, or
    the inputs."""
    if isinstance(step, MaxPool) and not _by_autograd(step):
        window = (step.kernel, step.stride, step.padding, step.dilation, step.ceil_mode)
        y, indices = F.max_pool2d(inputs[0], *window, return_indices=True)
        return y, (indices,)
    y, _ = step.run(inputs, owned=False)
    if _by_autograd(step):
        return y, tuple(inputs)
    if isinstance(step, Rectifier | Activation) and step.rule == "guided":
        return y, (y > 0,)
    if isinstance(step, Rectifier) and step.rule == "gradient":
        gate = inputs[0] > 0
        return y, (gate & (inputs[0] < step.ceiling) if step.ceiling < math.inf else gate,)
    return y, ()


def _together(batches: Sequence[tuple[Tensor, ...]], memory_format: torch.memory_format) -> tuple[Tensor, ...]:
    """What was kept of several batches, in one tensor each."""
    return tuple(_laid_out(torch.cat(parts), memory_format) for parts in zip(*batches, strict=True))


def _laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=memory_format if x.dim() == 4 else torch.contiguous_format)


def _backward(step: Step, shapes: Shapes, kept: tuple[Tensor, ...], memory_format: torch.memory_format) -> WayBack:
    """How a step sends whole maps of signal on its output back to its inputs, of `shapes` without the batch dimension.

    Args:
        kept: of all images, what `_forward` returned beside the output.
        memory_format: of the maps.
    """
    if _by_autograd(step):
        return functools.partial(_differentiated, step, kept, memory_format)
    if isinstance(step, Sum):
        return lambda signal, image: [
            signal.clone().sum_to_size((len(signal), *shape)).mul_(factor)
            for shape, factor in zip(shapes, step.factors, strict=True)
        ]
    if isinstance(step, Concatenate):
        along = step.dimension % (len(shapes[0]) + 1)
        sizes = [shape[along - 1] for shape in shapes]
        return lambda signal, image: signal.split(sizes, along)
    way = _backward_to_one(step, shapes[0], kept, memory_format)
    return lambda signal, image: (way(signal, image),)


def _differentiated(
    step: Step, kept: tuple[Tensor, ...], memory_format: torch.memory_format, signal: Tensor, image: Tensor
) -> Signals:
    """The signal on the inputs of a step, which is run again on those of the units' images."""
    with torch.inference_mode(False), torch.enable_grad():
        # Contiguous, since torch's gradient of instance normalisation is wrong for one image in channels_last.
        inputs = [x[image].contiguous().requires_grad_(x.is_floating_point()) for x in kept]
        y, _ = step.run(inputs, owned=False)
        sources = [x for x in inputs if x.requires_grad]
        if not y.requires_grad:
            return [None] * len(inputs)
        arrived = signal.reshape(y.shape).contiguous()
        found = iter(torch.autograd.grad(y, sources, arrived, allow_unused=True))
    gradients = [next(found) if x.requires_grad else None for x in inputs]
    return [g if g is None else _laid_out(g.clone(), memory_format) for g in gradients]


def _backward_to_one(
    step: Step, shape: torch.Size, kept: tuple[Tensor, ...], memory_format: torch.memory_format
) -> Callable[[Tensor, Tensor], Tensor]:
    """`_backward` of a step that reads one map."""

    def like(signal: Tensor) -> Tensor:
        layout = memory_format if len(shape) == 3 else torch.contiguous_format
        return torch.empty((len(signal), *shape), dtype=signal.dtype, device=signal.device, memory_format=layout)

    if isinstance(step, Convolution):
        weight = _laid_out(_weight(step), memory_format)
        arguments = (list(step.stride), list(step.before), list(step.dilation), False, [0] * step.rank, step.groups)

        def convolution(signal: Tensor, image: Tensor) -> Tensor:
            mask = [True, False, False]
            return torch.ops.aten.convolution_backward(signal, like(signal), weight, None, *arguments, mask)[0]

        return convolution
    if isinstance(step, Rectifier | Activation):
        if step.rule == "gradient":
            return lambda signal, image: signal.mul_(kept[0][image])
        if step.rule == "guided":
            return lambda signal, image: signal.clamp_(min=0).mul_(kept[0][image])
        return lambda signal, image: signal.clamp_(min=0)
    if isinstance(step, MaxPool):
        window = (list(step.kernel), list(step.stride), list(step.padding), list(step.dilation), step.ceil_mode)

        def unpool(signal: Tensor, image: Tensor) -> Tensor:
            return torch.ops.aten.max_pool2d_with_indices_backward(signal, like(signal), *window, kept[0][image])

        return unpool
    if isinstance(step, AdaptiveAveragePool):
        return lambda signal, image: torch.ops.aten._adaptive_avg_pool2d_backward(signal, like(signal))
    if isinstance(step, AveragePool):
        means = (step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad, step.divisor)
        return lambda signal, image: torch.ops.aten.avg_pool2d_backward(signal, like(signal), *means)
    if isinstance(step, BatchNormalization):
        factor = _factor(step).reshape(-1, *[1] * (len(shape) - 1))
        return lambda signal, image: signal.mul_(factor)
    if isinstance(step, Linear):
        matrix = _weight(step)
        return lambda signal, image: signal @ matrix
    if isinstance(step, Flatten):
        return lambda signal, image: _laid_out(signal.reshape(-1, *shape), memory_format)
    return lambda signal, image: signal
