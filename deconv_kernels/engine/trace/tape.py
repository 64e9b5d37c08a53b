"""The tape: a network as its steps, in the order in which they run, and the names of its layers."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch.fx
from torch import Tensor, nn

from ..errors import UnknownLayer
from ..expressions import Expression
from ..steps.base import Step
from ..weights import Weights


class ValuesOfCall(NamedTuple):
    """What a call of a module was given and returned: the numbers of values, None for what is none."""

    given: tuple[int | None, ...]
    returned: tuple[int | None, ...]


class Tensors:
    """Where the tensors come from that the steps of a network read.

    Args:
        model: the network.
        held: tensors that are not the model's, by the names under which tracing found them.
        assumed: what must not change, because the control flow of the network depends on it.
    """

    def __init__(self, model: nn.Module, held: Mapping[str, Tensor], assumed: Sequence[Expression]) -> None:
        self.model, self.held, self.assumed = model, held, assumed
        self._taken: dict[str, Tensor] = {}

    def now(self) -> Weights:
        """Those of this moment, each the same object as before where its bits are the same.

        Raises:
            ValueError: what is assumed has changed.
        """
        weights = Weights(self.model, self.held, self._taken)
        for expression in self.assumed:
            expression.bound(weights)
        return weights


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        name: by which it was asked for.
        step: the name of the step whose output it is: its own, or of a container the last step in it.
        value: the number of that output.
    """

    name: str
    step: str
    value: int


class Link(NamedTuple):
    """One step of a tape.

    Attributes:
        number: its own, among the steps.
        value: the number of the value that it makes.
        step: itself.
        sources: the numbers of the values that it reads.
    """

    number: int
    value: int
    step: Step
    sources: tuple[int, ...]


class LayerNames:
    """The names of a network's layers.

    Args:
        inputs: how many tensors the network takes.
        steps: name and kind of every step, in order.
        hidden: the numbers of those that are no layers.
        more: names that stand for a step's output too.

    Attributes:
        all: those of the layers, in order.
    """

    def __init__(
        self,
        inputs: int,
        steps: Sequence[tuple[str, str]],
        hidden: Collection[int],
        more: Mapping[str, int],
    ) -> None:
        self._steps = steps
        named = {name: number for number, (name, _) in enumerate(steps) if number not in hidden}
        self.all = list(named)
        numbers = {**more, **named}
        self._layers = {name: Layer(name, steps[number][0], inputs + number) for name, number in numbers.items()}

    def layer(self, name: str) -> Layer:
        """The layer of a name.

        Raises:
            UnknownLayer: no such layer; the message lists them.
        """
        if name not in self._layers:
            close = difflib.get_close_matches(str(name), self._layers, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownLayer(f"no layer {name!r}{hint}; the layers are: {', '.join(self.all)}")
        return self._layers[name]

    def of(self, kind: str) -> dict[int, str]:
        """The names of the steps of a kind, by their numbers."""
        return {number: name for number, (name, of_kind) in enumerate(self._steps) if of_kind == kind}


class Tape:
    """A network as its steps, in the order in which they run. Each makes one value; the first values are the inputs.

    Attributes:
        inputs: how many tensors the network takes.
        steps: from the images to the output.
        sources: for every step, the numbers of the values that it reads.
        links: the steps with the values that they read and make.
        layers: the names of all layers, in order: those of `named_modules()`; for a function, or a module called more
            than once, the name of its torch.fx node. A container stands for what it returns, and names as torchvision's
            feature extraction makes them ("layer1.0.add", "layer1.0.relu_1") are others for the same.
        output: the name of the layer whose output is the network's; None if it returns several tensors.
        calls: for every module, by its name, what each of its calls was given and returned: the numbers of values, None
            for what is none.
        tensors: where those come from that the steps read.
        graph: the traced graph that they are made of.
        key: a hash of all that the steps depend on but the tensors.
        names: of the layers.
        unused: the keys of `rules` that the network does not call.
    """

    unused: frozenset[Any] = frozenset()

    def __init__(
        self,
        inputs: int,
        steps: Sequence[Step],
        sources: Sequence[tuple[int, ...]],
        more: Mapping[str, int],
        output: int | None,
        calls: Mapping[str, Sequence[ValuesOfCall]],
        tensors: Tensors,
        graph: torch.fx.Graph,
        key: str,
    ) -> None:
        self.inputs, self.steps, self.sources = inputs, list(steps), list(sources)
        numbered = enumerate(zip(self.steps, self.sources, strict=True))
        self.links = [Link(number, inputs + number, *link) for number, link in numbered]
        self.calls, self.tensors, self.graph, self.key = calls, tensors, graph, key
        hidden = {number for number, step in enumerate(steps) if not step.is_layer}
        kinds = [(step.name, type(step).__name__) for step in steps]
        self.names = LayerNames(inputs, kinds, hidden, more)
        self.layers = self.names.all
        self.output = None if output is None else self.steps[output].name

    @property
    def rank(self) -> int | None:
        """How many axes the images must have, where a step that reads them knows."""
        return next((link.step.rank for link in self.links if 0 in link.sources and link.step.rank is not None), None)

    def name(self, layer: str | nn.Module) -> str:
        """The name of a layer that may be given as a module of the network.

        Raises:
            TypeError: it is neither a name nor a module.
            UnknownLayer: a module of another network.
        """
        if isinstance(layer, str):
            return layer
        if not isinstance(layer, nn.Module):
            raise TypeError(f"a layer is a name or a module of the network, got {type(layer).__name__}")
        for name, module in self.tensors.model.named_modules():
            if module is layer:
                return name
        raise UnknownLayer(f"the {type(layer).__name__} given as a layer is no module of the network")

    def layer(self, layer: str | nn.Module) -> Layer:
        """A layer by its name or its module.

        Raises:
            TypeError, UnknownLayer: no such layer; the message lists them.
        """
        return self.names.layer(self.name(layer))

    def maker(self, value: int) -> Link | None:
        """The step that makes a value; None of an input."""
        return self.links[value - self.inputs] if value >= self.inputs else None

    def rectified(self, value: int) -> int:
        """The value in which a convolution's output is rectified: that of the rectifier that alone reads it.

        Between them may stand steps that keep each map to itself, such as batch normalisation. Where the way forks or
        another step follows first, the value before that.
        """
        while True:
            readers = [link for link in self.links if value in link.sources]
            if len(readers) != 1:
                return value
            if readers[0].step.rectifies:
                return readers[0].value
            if not readers[0].step.keeps_maps:
                return value
            value = readers[0].value

    def bound(self, steps: Collection[int]) -> tuple[dict[int, Step], dict[str, Tensor]]:
        """Steps with the tensors that the network has now, by their numbers, and these tensors by their paths.

        Raises:
            ValueError: what the control flow of the network depends on has changed.
        """
        weights = self.tensors.now()
        return {index: self.steps[index].bound(weights) for index in steps}, weights.taken

    def needed(self, values: Collection[int]) -> list[int]:
        """The steps that have to run to compute some values, in order."""
        wanted, steps = set(values), []
        for link in reversed(self.links):
            if link.value in wanted:
                steps.append(link.number)
                wanted.update(link.sources)
        return steps[::-1]
