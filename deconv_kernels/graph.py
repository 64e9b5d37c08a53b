"""From an `nn.Module` to a tape: a chain of steps, found by tracing the module with torch.fx."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from itertools import chain

import torch.fx
from torch import Tensor, nn

from . import nn as own
from .layers import Call, UnsupportedModule, describe, is_in_place, is_size
from .steps import Step

Node = torch.fx.Node


class UnknownLayer(ValueError):  # noqa: N818
    """The network has no layer of that name."""


class Tape:
    """A network as the chain of its steps.

    Attributes:
        steps: from the images to the output.
        layers: the names of all layers, in order: those of `named_modules()`; for a function, or a module called more
            than once, the name of its torch.fx node. A container stands for the last step in it.
    """

    def __init__(self, steps: Sequence[Step], containers: Mapping[str, int]) -> None:
        self.steps = list(steps)
        self.layers = [step.name for step in steps]
        self._index = {**containers, **{name: index for index, name in enumerate(self.layers)}}

    def index(self, layer: str) -> int:
        """Which step's output `layer` is.

        Raises:
            UnknownLayer: no such layer; the message lists them.
        """
        if layer not in self._index:
            close = difflib.get_close_matches(str(layer), self._index, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownLayer(f"no layer {layer!r}{hint}; the layers are: {', '.join(self.layers)}")
        return self._index[layer]


def trace(model: nn.Module, rule: str = "deconvnet", normalization: str = "identity") -> Tape:
    """Finds the chain of steps that a network is.

    Args:
        model: any module that torch.fx can trace. It is not changed, and read as in eval mode.
        rule: "deconvnet", "guided" or "gradient", for its rectifiers.
        normalization: "identity" or "gradient", for response and contrast normalisation. A module with an attribute
            `deconvnet_identity = True` counts as such; it must map (N, C, H, W) to the same shape and mix no positions.

    Raises:
        UnsupportedModule: it branches, or has a part without an exact rule, or cannot be traced.
    """
    return _Chain(model, rule, normalization).tape()


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, own.MaxPool2d)
            or getattr(m, "deconvnet_identity", False)
            or super().is_leaf_module(m, module_qualified_name)
        )


def _graph(model: nn.Module) -> torch.fx.Graph:
    """The graph of the model in eval mode; a model in training mode is traced on a copy that shares its tensors."""
    try:
        if any(module.training for module in model.modules()):
            held = chain.from_iterable(
                chain(module._parameters.values(), module._buffers.values(), vars(module).values())
                for module in model.modules()
            )
            model = copy.deepcopy(model, {id(value): value for value in held if isinstance(value, Tensor)}).eval()
        return _Tracer().trace(model)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedModule(
            f"torch.fx cannot trace {type(model).__name__}: {reason}; "
            "its forward must take one tensor and be free of control flow that depends on it"
        ) from error


class _Chain:
    """Walks the nodes of a graph and links their steps."""

    def __init__(self, model: nn.Module, rule: str, normalization: str) -> None:
        self.model, self.rule, self.exact = model, rule, normalization == "gradient"
        self.graph = _graph(model)
        self.steps: list[Step] = []
        self.containers: dict[str, int] = {}
        self.shared: set[str] = set()
        calls = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        self.called_once = {path for path in calls if calls.count(path) == 1}

    def tape(self) -> Tape:
        kind = type(self.model).__name__
        images, *more = [node for node in self.graph.nodes if node.op == "placeholder"]
        used = [node for node in more if node.users]
        if used:
            raise UnsupportedModule(f"{kind} has a second input {used[0].name!r}; it must take images only")
        current = images
        overwritten: dict[Node, Node] = {}
        for node in self.graph.nodes:
            inputs = [overwritten.get(n, n) for n in node.all_input_nodes if n.op != "get_attr" and not is_size(n)]
            if node.op in ("placeholder", "get_attr") or is_size(node):
                continue
            if node.op == "output":
                if not isinstance(node.args[0], Node):
                    raise UnsupportedModule(f"{kind} must return one tensor, not {node.args[0]!r}")
                if inputs != [current]:
                    raise self._branches(f"the output of {kind}", inputs, current)
                continue
            if inputs != [current]:
                raise self._branches(describe(node, self.model), inputs, current)
            self._append(node)
            if is_in_place(node, self.model):
                overwritten.update({n: node for n in [*overwritten, current] if overwritten.get(n, n) is current})
            current = node
        if not self.steps:
            raise UnsupportedModule(f"{kind} has no layers")
        return Tape(self.steps, self.containers)

    def _append(self, node: Node) -> None:
        call = Call(node, self.model, self._name(node), self.rule, self.exact)
        for step in call.steps():
            self.steps.append(step)
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if "@" in key:  # a second call of the same container
                self.shared.add(path)
                self.containers.pop(path, None)
            elif path and path not in self.shared:
                self.containers[path] = len(self.steps) - 1

    def _name(self, node: Node) -> str:
        if node.op == "call_module" and node.target in self.called_once:
            return str(node.target)
        name, taken = node.name, self.called_once.union(step.name for step in self.steps)
        while name in taken:
            name += "_"
        return name

    def _branches(self, reader: str, inputs: list[Node], current: Node) -> UnsupportedModule:
        names = [self._layer(node) for node in inputs]
        if len(names) > 1:
            what = f"{reader} joins {' and '.join(names)}"
        else:
            source = f"the output of {names[0]}" if names else "no layer's output"
            what = f"{reader} reads {source} while the chain had come to {self._layer(current)}"
        return UnsupportedModule(f"{what}: the network branches, and only chains of layers are supported")

    @staticmethod
    def _layer(node: Node) -> str:
        return (
            "the images" if node.op == "placeholder" else repr(node.target if node.op == "call_module" else node.name)
        )
