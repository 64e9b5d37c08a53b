"""The nodes of a traced graph: what each calls and computes, and which tensors it overwrites."""

from __future__ import annotations

import inspect
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from .errors import UnsupportedModule

Node = torch.fx.Node

# What tracing notes of a node: a tensor that is not the model's, that no gradient passes it, and its layer's name.
CONSTANT, NO_GRAD, LAYER = "deconv_kernels.constant", "deconv_kernels.no_grad", "deconv_kernels.layer"
# What torch.export notes: a value of the shape that the node's has.
VALUE = "val"


def nodes_in(value: Any) -> list[Node]:
    """The nodes in an argument of a node, in order."""
    found: list[Node] = []
    torch.fx.map_arg(value, lambda node: found.append(node))
    return found


class Applied:
    """What `function.apply` is in a traced graph, where `function` is a `torch.autograd.Function` of the user's."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = self.__self__ = function
        self.__name__ = self.__qualname__ = function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)


class Region(Applied):
    """Some nodes of a graph as one function of the values that they read.

    Args:
        module: the module to which they belong.
        graph: these nodes, with a placeholder for each value.
    """

    def __init__(self, module: nn.Module, graph: torch.fx.Graph) -> None:
        super().__init__(type(module))  # type: ignore[arg-type]
        self.module, self.graph = module, graph
        self.writes = any(overwritten(node, module) for node in graph.nodes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.writes:
            return evaluated(self.graph, args)
        copies = [x.clone() if isinstance(x, Tensor) else x for x in args]
        result = evaluated(self.graph, copies)
        if not all(torch.equal(x, copy) for x, copy in zip(args, copies, strict=True) if isinstance(x, Tensor)):
            raise UnsupportedModule(f"a part of {self.__name__} writes into what it is given; make it out of place")
        return result

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def text_of(graph: torch.fx.Graph) -> str:
    """A graph as text, with the graphs of its regions and of the parts that it overwrites."""
    regions = [node.target.graph for node in graph.nodes if isinstance(node.target, Region | SetPart)]
    return "\n".join((str(graph), *map(str, regions)))


def execute(node: Node, known: Mapping[Node, Any], modules: Mapping[Node, nn.Module]) -> Any:
    """What a node computes.

    Args:
        node: of a graph, but no `get_attr`.
        known: the values of the nodes it reads.
        modules: to be called for those that call one.
    """
    arguments, named = torch.fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    with torch.set_grad_enabled(torch.is_grad_enabled() and NO_GRAD not in node.meta):
        return _called(node, arguments, named, modules)


def evaluated(graph: torch.fx.Graph, given: Sequence[Any]) -> Any:
    """What a graph without modules and tensors of its own returns of the values of its placeholders."""
    values, known = iter(given), dict[Node, Any]()
    for node in graph.nodes:
        if node.op == "output":
            return torch.fx.map_arg(node.args[0], known.__getitem__)
        known[node] = next(values) if node.op == "placeholder" else execute(node, known, {})
    raise AssertionError("a graph ends with its output")


def _called(node: Node, arguments: Sequence[Any], named: Mapping[str, Any], modules: Mapping[Node, nn.Module]) -> Any:
    if node.op == "call_module":
        return modules[node](*arguments, **named)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
    return node.target(*arguments, **named)  # type: ignore[operator]


def set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """`tensor[index] = value`, as a function that returns the tensor."""
    tensor[index] = value
    return tensor


def set_data(tensor: Tensor, value: Tensor) -> Tensor:
    """`tensor.data = value`, as a function that returns the tensor."""
    tensor.data = value
    return tensor


class SetPart:
    """A part of a tensor is overwritten, as a function of both that returns the tensor.

    Args:
        views: the nodes that take the part, each of what the one before it made, the first of the tensor.
        by: what made the new values, for an error message.

    Attributes:
        read: what they read beside it: sizes.
    """

    __name__ = __qualname__ = "set_part"

    def __init__(self, views: Sequence[Node], by: str) -> None:
        self.by = by
        taken = [view.all_input_nodes[0] for view in views]
        self.read = tuple(dict.fromkeys(n for view in views for n in view.all_input_nodes if n not in taken))
        self.graph = torch.fx.Graph()
        whole = self.graph.placeholder("whole")
        copies = {n: self.graph.placeholder(n.name) for n in self.read}
        for view, source in zip(views, taken, strict=True):
            copies[source] = whole
            whole = self.graph.node_copy(view, copies.__getitem__)
        self.graph.output(whole)

    def __call__(self, whole: Tensor, part: Tensor, *read: Any) -> Tensor:
        whole = whole.contiguous()  # in any other format `view` might be impossible
        evaluated(self.graph, (whole, *read)).copy_(part)
        return whole


IN_PLACE_OPERATORS = tuple(
    getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
)

_WRITING = frozenset((*IN_PLACE_OPERATORS, set_item, set_data))

_WRITING_METHODS = frozenset(f"__{operation.__name__}__" for operation in IN_PLACE_OPERATORS)


def overwritten(node: Node, model: nn.Module) -> tuple[Node, ...]:
    """The nodes to whose tensors a node writes in place: most often none or one.

    Later readers of these tensors see what has been written.
    """
    if node.op not in ("call_module", "call_function", "call_method"):
        return ()
    named = [node.kwargs[name] for name in ("input", "self", "tensor") if name in node.kwargs]
    first = next(iter((*node.args, *named, *node.kwargs.values())), None)
    return tuple(nodes_in((node.kwargs.get("out"), first if _is_in_place(node, model) else None)))


def _is_in_place(node: Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if isinstance(node.target, Applied):
        return False
    if node.target in _WRITING or isinstance(node.target, SetPart):
        return True
    name = function_name(node)
    if (name.endswith("_") and not name.endswith("__")) or name in _WRITING_METHODS:
        return True
    return bool(node.kwargs.get("inplace", _positional(node, "inplace")))


def _positional(node: Node, name: str) -> Any:
    """An argument that a function of torch.nn.functional was given by position."""
    if node.op != "call_function" or getattr(node.target, "__module__", "") != "torch.nn.functional":
        return None
    try:
        parameters = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except ValueError:  # it has no signature
        return None
    position = parameters.index(name) if name in parameters else len(node.args)
    return node.args[position] if position < len(node.args) else None


def function_name(node: Node) -> str:
    """The name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def describe(node: Node, model: nn.Module) -> str:
    """What a node is, for an error message."""
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target))).__name__
        return f"module {node.target!r} ({kind}, node {node.name!r})"
    if isinstance(node.target, SetPart):
        return node.target.by
    if isinstance(node.target, Region):
        return f"a part of {node.target.__name__} (node {node.name!r})"
    return f"{'method' if node.op == 'call_method' else 'function'} {function_name(node)} (node {node.name!r})"


# A tracer of torch's own sees x += y as x + y.
_PLAIN = {getattr(operator, f"i{name}"): name for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "matmul")}


def scoped_names(graph: torch.fx.Graph) -> dict[Node, str]:
    """What every node is called by torchvision's feature extraction: after the module in which it is computed.

    A module is called by its path, a function by that of the module around it and its own name, as in "layer1.0.add";
    what has such a name again gets a number, as in "layer1.0.relu_1".
    """
    counts: Counter[str] = Counter()
    names = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        around, _ = list(stack.values())[-1]
        own = str(node.target) if node.op == "call_module" else re.sub(r"_\d+$", "", node.name)
        own = _PLAIN.get(node.target, own)
        name = own if node.op == "call_module" or not around else f"{around}.{own}"
        names[node] = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
    return names
