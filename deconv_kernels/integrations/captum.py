"""Captum's deconvolution and guided backpropagation on this engine: change the import and keep the code.

    from deconv_kernels.integrations.captum import Deconvolution, GuidedBackprop
    from deconv_kernels.integrations.captum import NeuronDeconvolution, NeuronGuidedBackprop

Constructors and `attribute` take what Captum's take and return what Captum's return; Captum itself is not needed.
Single units are projected inside their receptive field, and lists of them in one batch.

What differs from Captum 0.9:

- Every rectifier is one, however it is written: `F.relu`, `x.relu()`, ReLU6, LeakyReLU, clamp from 0, and a module
  called several times. Captum overrides the gradient of `nn.ReLU` modules only, and goes wrong where one is called
  twice or where its input has other readers.
- The network is read as in eval mode, whatever its training flag; Captum runs it as it is, drops values at random and
  updates running statistics.
- What has no agreed rule (smooth activations, products of two signals, layer normalisation) is refused by name until
  `rules` says what to do with it; {nn.SiLU: "gradient"} is what Captum does. Softmax and log-softmax, which turn scores
  into probabilities, take their gradient, and so does response normalisation.
- A network that torch.fx cannot trace is refused, and so is an input without a row for every image: of Captum's own
  tests these are the two of GuidedGradCam with a second input of shape (1,), `test_improper_dims_multi_input_conv` and
  `test_improper_method_multi_input_conv`. The others that need no GPU pass.
- An input that the network does not use gets zeros, where Captum raises an error.
- Nothing is warned of: no hooks are set, and the inputs' `requires_grad` is not touched.
- A list as `neuron_selector` is several selectors; Captum takes it for a tuple.

Source: Zeiler & Fergus 2013, section 2.1; Springenberg et al. 2014.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.deconvnet import Deconvnet
from ..engine.errors import UnsupportedModule
from ..engine.units import Units
from ..ops import check_overlap

Inputs = Tensor | tuple[Tensor, ...]
Target = None | int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]]
Selector = int | tuple[int | slice, ...] | Callable[[Tensor], Tensor]
Position = tuple[int, ...]

_PROBABILITIES = {nn.Softmax: "gradient", nn.LogSoftmax: "gradient"}
_NETS_KEPT = 4


class _Net(Deconvnet):
    _usual_rules = frozenset(_PROBABILITIES)


class InvalidSelection(AssertionError, ValueError):  # noqa: N818
    """A target or neuron selector that does not fit; an AssertionError because Captum raises one."""


class _Attribution:
    """What the four have in common.

    Attributes:
        model: the network, taken out of DataParallel.
        forward_func: as given.
    """

    rule: str

    def __init__(
        self,
        model: nn.Module,
        *,
        rules: Mapping[Any, str] | None = None,
        overlap: str = "sum",
        normalization: str = "gradient",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        check_overlap(overlap)
        self.forward_func = self.model = model
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            self.model = model.module
        self.rules, self.overlap, self.normalization = {**_PROBABILITIES, **(rules or {})}, overlap, normalization
        self._nets: dict[tuple[object, ...], Deconvnet] = {}

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the inputs: never."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can return a convergence delta: never."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_nets": {}}

    def _attribute(
        self,
        inputs: Inputs,
        additional: object,
        value_of: Callable[[Deconvnet], int],
        selections: Sequence[Any],
        select: Callable[[Tensor, Any], Tensor],
    ) -> tuple[Tensor, ...]:
        """Attributions of S selections to each input, (S, N, ...).

        Args:
            inputs, additional: of the network, as Captum takes them.
            value_of: the number of the value on whose elements the signal starts.
            selections: targets or neuron selectors.
            select: what a selection takes of the value, of shape (N, ...).
        """
        attributed = inputs if isinstance(inputs, tuple) else (inputs,)
        if not selections:
            raise InvalidSelection("at least one target or neuron selector is needed")
        for x in attributed:
            if not isinstance(x, Tensor):
                raise TypeError(f"inputs must be a Tensor or a tuple of Tensors, got {type(x).__name__}")
            if not x.is_floating_point():
                raise TypeError(f"inputs must be floating point, got {x.dtype}")
        net, tensors = self._net(attributed, additional)
        value = value_of(net)
        made = net.tape.maker(value)
        if made is None:
            arrived: Sequence[Tensor] = _on_input(tensors, value, selections, select)
        else:
            arrived = self._project(net, tensors, made.step.name, len(attributed) == 1, selections, select)
        return tuple(
            part.reshape(len(selections), *x.shape).to(x.device) for part, x in zip(arrived, attributed, strict=False)
        )

    def _project(
        self,
        net: Deconvnet,
        tensors: Sequence[Tensor],
        layer: str,
        to_one: bool,
        selections: Sequence[Any],
        select: Callable[[Tensor, Any], Tensor],
    ) -> Sequence[Tensor]:
        """What arrives at the inputs, or with `to_one` at the first, in one batch."""
        functional = any(callable(selection) for selection in selections)
        record = net.record(tensors[0] if len(tensors) == 1 else tensors, layer, functional)
        images, shape = len(record), record.shapes[net.layer(layer).value]
        assert shape is not None
        image = torch.arange(images).repeat(len(selections))
        if to_one and not functional:
            positions = [_positions(selection, images, shape, record.rank) for selection in selections]
            units = [position for found in positions if found is not None for position in found]
            if len(units) == len(image):
                table = torch.cat((image[None], torch.tensor(units, dtype=torch.int64).T))
                return [net.project(record, Units.of_table(layer, table), "one", self.overlap).full()]
        if functional:
            values = record.activations[layer]
        else:
            values = torch.zeros((), dtype=record.dtype, device=record.device).expand(images, *shape)
        signal = torch.cat([_signal(values, selection, select) for selection in selections])
        return net.project_signal(record, layer, signal, image, self.overlap)

    def _net(self, inputs: tuple[Tensor, ...], additional: object) -> tuple[Deconvnet, list[Tensor]]:
        """The network as it is for these arguments, and its inputs."""
        more = additional if isinstance(additional, tuple) else () if additional is None else (additional,)
        kind, signature = type(self.model).__name__, inspect.signature(self.model.forward)
        given = signature.bind(*inputs, *more).arguments
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        arguments = {name: value for name, value in given.items() if name not in tensors}
        for name, value in arguments.items():
            if _holds_tensor(value):
                raise UnsupportedModule(
                    f"{kind}.forward takes several tensors as {name!r}; give each its own parameter"
                )
        modules = tuple((name, module, _settings(module)) for name, module in self.model.named_modules())
        key = (tuple(tensors), repr(arguments), modules) if _is_plain(arguments) else None
        if key in self._nets:
            return self._nets[key], list(tensors.values())
        try:
            net = _Net(
                self.model,
                self.rule,
                self.normalization,
                rules=self.rules,
                arguments=arguments,
                inputs=tuple(tensors),
            )
        except UnsupportedModule as error:
            if isinstance(error.__cause__, AssertionError):
                raise error.__cause__ from None
            raise
        if key is not None:
            self._nets = dict([*self._nets.items(), (key, net)][-_NETS_KEPT:])
        return net, list(tensors.values())


class _OutputAttribution(_Attribution):
    """Attributions of the network's output."""

    @torch.no_grad()
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Inputs:
        """Attributions of the output's targets to the inputs, for all images at once.

        Args:
            inputs: images (N, C, [[D,] H,] W) or rows (N, F), or a tuple of such; they are the first arguments of the
                model's forward.
            target: which element of the output of shape (N, ...), in any form that Captum takes: None where there is
                one for each image; an int, a tuple of ints or a tensor of one int, the same for all images; a list or
                (N,) tensor of ints, or a list of tuples, one for each.
            additional_forward_args: further arguments of the forward, a tuple if there are several.
            targets: T targets at once instead of `target`, each in any of these forms.

        Returns:
            As `inputs`, of the same shapes; with `targets` (T, N, ...). Detached.

        Raises:
            InvalidSelection: a target that does not fit the output.
            UnsupportedModule: a part of the network has no exact rule, or it cannot be traced; the message names it.
        """
        if target is not None and targets is not None:
            raise ValueError("give either target or targets")
        selections = [target] if targets is None else list(targets)
        found = self._attribute(inputs, additional_forward_args, _output_of, selections, _at_target)
        return _like(inputs, found if targets is not None else tuple(part[0] for part in found))


class Deconvolution(_OutputAttribution):
    """Deconvolution: rectifiers pass on the positive part of the signal; as `captum.attr.Deconvolution`.

    Args:
        model: the network.
        rules, normalization: as for `deconv_kernels.Deconvnet`; response normalisation by its gradient, as in Captum.
        overlap: "sum" or "last", as for `Deconvnet.project`.

    Source: Zeiler & Fergus 2013, section 2.1.
    """

    rule = "deconvnet"


class GuidedBackprop(_OutputAttribution):
    """Guided backpropagation: rectifiers pass on the positive part of the signal where their output was positive; as
    `captum.attr.GuidedBackprop`.

    Args:
        model: the network.
        rules, normalization: as for `deconv_kernels.Deconvnet`; response normalisation by its gradient, as in Captum.
        overlap: "sum" or "last", as for `Deconvnet.project`.

    Source: Springenberg et al. 2014.
    """

    rule = "guided"


class _NeuronAttribution(_Attribution):
    """Attributions of single neurons, or of functions of them.

    Attributes:
        layer, device_ids: as given.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        device_ids: list[int] | None = None,
        *,
        rules: Mapping[Any, str] | None = None,
        overlap: str = "sum",
        normalization: str = "gradient",
    ) -> None:
        super().__init__(model, rules=rules, overlap=overlap, normalization=normalization)
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a module of the model, got {type(layer).__name__}")
        self.layer, self.device_ids = layer, device_ids

    @torch.no_grad()
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector | list[Selector],
        additional_forward_args: object = None,
        attribute_to_neuron_input: bool = False,
    ) -> Inputs:
        """Attributions of neurons of the layer to the inputs, for all images at once.

        Args:
            inputs: images (N, C, [[D,] H,] W) or rows (N, F), or a tuple of such; they are the first arguments of the
                model's forward.
            neuron_selector: which neuron of the layer's output of shape (N, ...): an int where that has two dimensions;
                a tuple of ints and slices, where slices stand for the sum of their neurons; or a function from the
                layer's output to one number, or one for each image. A list of S selectors is S attributions at once.
            additional_forward_args: further arguments of the forward, a tuple if there are several.
            attribute_to_neuron_input: select from what the layer is given instead of what it returns.

        Returns:
            As `inputs`, of the same shapes; for a list of selectors (S, N, ...). Detached. Where the layer is called
            several times, its last call counts.

        Raises:
            InvalidSelection: a selector that does not fit the layer, or a layer that the network does not call.
            UnsupportedModule: a part of the network has no exact rule, or it cannot be traced; the message names it.
        """
        several = isinstance(neuron_selector, list)
        selectors = neuron_selector if isinstance(neuron_selector, list) else [neuron_selector]
        for selector in selectors:
            if not (isinstance(selector, int | slice | tuple) or callable(selector)):
                raise InvalidSelection(
                    "a neuron selector must be an int, a tuple of ints and slices, or a function, "
                    f"got {type(selector).__name__}"
                )

        def value_of(net: Deconvnet) -> int:
            return self._value(net, attribute_to_neuron_input)

        found = self._attribute(inputs, additional_forward_args, value_of, selectors, _at_neuron)
        return _like(inputs, found if several else tuple(part[0] for part in found))

    def _value(self, net: Deconvnet, given: bool) -> int:
        """The number of the value that the layer is given or returns."""
        name = next((name for name, module in self.model.named_modules() if module is self.layer), None)
        if name == "" and not given:
            return _output_of(net)
        if name == "":
            values: tuple[int | None, ...] = tuple(range(net.tape.inputs))
        elif name is not None and name in net.tape.calls:
            values = net.tape.calls[name][-1][0 if given else 1]
        else:
            where = "a module of the model" if name is None else f"{name!r}: it is not called, or inside of one step"
            raise InvalidSelection(
                f"layer must be one that the network calls; {type(self.layer).__name__} is not {where}"
            )
        if len(values) != 1 or values[0] is None:
            what = "is given" if given else "returns"
            raise UnsupportedModule(f"layer {name!r} {what} something else than one tensor computed from the inputs")
        return values[0]


class NeuronDeconvolution(_NeuronAttribution):
    """Deconvolution of neurons: rectifiers pass on the positive part of the signal; as
    `captum.attr.NeuronDeconvolution`.

    Args:
        model: the network.
        layer: the module of it whose neurons are meant.
        device_ids: taken for Captum's sake; a model in DataParallel is taken out of it.
        rules, normalization: as for `deconv_kernels.Deconvnet`; response normalisation by its gradient, as in Captum.
        overlap: "sum" or "last", as for `Deconvnet.project`.

    Source: Zeiler & Fergus 2013, section 2.1.
    """

    rule = "deconvnet"


class NeuronGuidedBackprop(_NeuronAttribution):
    """Guided backpropagation from neurons: rectifiers pass on the positive part of the signal where their output was
    positive; as `captum.attr.NeuronGuidedBackprop`.

    Args:
        model: the network.
        layer: the module of it whose neurons are meant.
        device_ids: taken for Captum's sake; a model in DataParallel is taken out of it.
        rules, normalization: as for `deconv_kernels.Deconvnet`; response normalisation by its gradient, as in Captum.
        overlap: "sum" or "last", as for `Deconvnet.project`.

    Source: Springenberg et al. 2014.
    """

    rule = "guided"


def _output_of(net: Deconvnet) -> int:
    return net.layer(net.output).value


def _like(inputs: Inputs, results: tuple[Tensor, ...]) -> Inputs:
    """A tuple where the inputs were one, else the only result."""
    return results if isinstance(inputs, tuple) else results[0]


def _at_target(output: Tensor, target: Any) -> Tensor:
    """The elements of an output (N, ...) that a target means, one for each image."""
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
        target = int(target)
    if isinstance(target, int):
        target = (target,)
    if target is None or isinstance(target, tuple):
        chosen = _at_index(output, target or ())
    elif isinstance(target, list | Tensor) and len(target) == len(output) and not isinstance(target[0], tuple):
        index = torch.as_tensor(target, device=output.device)
        if output.dim() != 2 or index.dim() != 1 or index.is_floating_point():
            raise InvalidSelection(
                f"one int for each image is for an output of shape (N, classes), it has shape {tuple(output.shape)}"
            )
        chosen = output.gather(1, index[:, None].long())
    elif isinstance(target, list) and len(target) == len(output):
        chosen = torch.stack([_at_index(row[None], index)[0] for row, index in zip(output, target, strict=True)])
    else:
        raise InvalidSelection(
            "a target must be None, an int, a tuple of ints, or a list or tensor with one of these for each of the "
            f"{len(output)} images, got {target!r}"
        )
    if chosen[0].numel() != 1:
        raise InvalidSelection(
            f"target {target!r} leaves {chosen[0].numel()} elements of an output of shape {tuple(output.shape)}; "
            "it must name one for each image"
        )
    return chosen


def _at_neuron(values: Tensor, selector: Any) -> Tensor:
    """What a selector takes of a layer's values (N, ...)."""
    if callable(selector):
        return selector(values)
    index = selector if isinstance(selector, tuple) else (selector,)
    chosen = _at_index(values, index)
    return chosen.flatten(1).sum(1) if any(isinstance(part, slice) for part in index) else chosen


def _at_index(values: Tensor, index: tuple[Any, ...]) -> Tensor:
    if len(index) > values.dim() - 1:
        raise InvalidSelection(f"{index} has more dimensions than one image's part of shape {tuple(values.shape)}")
    return values[(slice(None), *index)]


def _signal(values: Tensor, selection: Any, select: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """The gradient of what is selected of some values with respect to them."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = values.detach().clone().requires_grad_()
        chosen = select(leaf.clone(), selection)
        (signal,) = torch.autograd.grad(torch.unbind(chosen) if chosen.numel() > 1 else chosen, leaf)
    return signal


def _on_input(
    tensors: Sequence[Tensor], number: int, selections: Sequence[Any], select: Callable[[Tensor, Any], Tensor]
) -> list[Tensor]:
    """What arrives at the inputs of a signal on one of them."""
    signal = torch.cat([_signal(tensors[number], selection, select) for selection in selections])
    return [signal if other == number else x.new_zeros((len(signal), *x.shape[1:])) for other, x in enumerate(tensors)]


def _positions(selection: Any, images: int, shape: Sequence[int], rank: int) -> list[Position] | None:
    """Channel and place of the one unit that a selection means in each image; None if it means something else.

    Args:
        selection: a target or a neuron selector.
        images: how many.
        shape: of the values of one image.
        rank: how many axes the images have.
    """
    if isinstance(selection, Tensor):
        if selection.is_floating_point() or selection.dim() > 1:
            return None
        selection = int(selection) if selection.numel() == 1 else selection.tolist()
    if isinstance(selection, list):
        listed = [index if isinstance(index, tuple) else (index,) for index in selection]
        if len(listed) != images or any(isinstance(index, int) and index < 0 for index in selection):
            return None
    else:
        index = () if selection is None else selection if isinstance(selection, tuple) else (selection,)
        listed = [index] * images
    positions = [_position(index, shape, rank) for index in listed]
    return None if None in positions else [position for position in positions if position is not None]


def _position(index: tuple[Any, ...], shape: Sequence[int], rank: int) -> Position | None:
    """Channel and place of the element at an index into values of a shape; None if it is not one of them."""
    if len(index) != len(shape) or not all(isinstance(part, Integral) and not isinstance(part, bool) for part in index):
        return None
    if not all(-length <= part < length for part, length in zip(index, shape, strict=True)):
        return None
    inside = [int(part) % length for part, length in zip(index, shape, strict=True)]
    if len(shape) == rank + 1:
        return tuple(inside)
    number = 0
    for part, length in zip(inside, shape, strict=True):
        number = number * length + part
    return number, *(0,) * rank


def _holds_tensor(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(_holds_tensor(part) for part in value))


def _settings(module: nn.Module) -> str:
    """What may steer the forward of a module, as text."""
    return repr({name: value for name, value in vars(module).items() if _is_plain(value)})


def _is_plain(value: object) -> bool:
    """Whether a value is fully told by its representation, and cannot change behind it."""
    if isinstance(value, dict):
        return all(_is_plain(part) for part in (*value, *value.values()))
    if isinstance(value, tuple | list):
        return all(_is_plain(part) for part in value)
    return value is None or type(value) in (bool, int, float, complex, str, bytes, torch.dtype, torch.device)
