"""Traces a network for one size of its images with torch.export, where torch.fx cannot know what Python asks of sizes.

torch.export runs the network on tensors that have shapes and no values. The batch is a large prime number of images
there, so that a multiple of it in the graph stands for as many times the batch; another prime has to give the same
graph, or something else depends on the size of the batch. Operations of ATen are written as the
functions of torch that they come from, of which `layers` knows the steps.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.export.graph_signature import InputKind
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ... import ops
from ...ops.dispatch import FakeTensor, FakeTensorMode, OpOverload
from ..errors import UnsupportedModule
from ..nodes import LAYER, NO_GRAD, VALUE, Applied, Node, Region, describe, overwritten, set_item
from ..weights import tensors_within
from .functions import APPLIED, AppliedCall, kept_whole
from .layers import is_known, normalizes
from .rules import is_spelling
from .tracer import TRACING, ModuleCall, functions_apply, input_names, to_trace, untraceable
from .views import write_back

BATCH, OTHER_BATCH = 1_000_003, 1_000_211
_STACK = "nn_module_stack"
_ADAPTIVE_MAX_POOLS = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
# Where torch writes, beside raising it, that sizes of maps do not go together.
_LOG_OF_SHAPES = logging.getLogger("torch._subclasses.fake_tensor")
_NO_END = 2**63 - 1
_MOST_TAKEN = 100
_SET_GRAD_ENABLED = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def exported_apart(
    model: nn.Module,
    leaves: Collection[Any],
    arguments: Mapping[str, object],
    inputs: Collection[str],
    like: Sequence[Tensor],
) -> tuple[nn.Module, list[ModuleCall], torch.fx.Graph]:
    """Traces a copy of a model for images of one shape: the copy, the calls of its modules, and the graph.

    Args:
        model: the network; it is not changed.
        leaves: types of modules that become one node each.
        arguments: values for parameters of its forward.
        inputs: parameters that are inputs although they have a default.
        like: a tensor for each of its inputs, of which shape, dtype and device matter.

    Raises:
        UnsupportedModule: torch.export cannot trace it for such images, or it depends on the size of the batch.
    """
    root, graph = _written(model, arguments, inputs, like, BATCH)
    if str(graph) != str(_written(model, arguments, inputs, like, OTHER_BATCH)[1]):
        raise UnsupportedModule(f"{type(model).__name__} computes otherwise for another size of the batch")
    write_back(graph, root)
    for node in graph.nodes:  # maps may lie otherwise in memory than torch.export thinks
        node.target = "reshape" if node.target == "view" else node.target
    for path, nodes in _regions(graph, root, leaves):
        _collapse(graph, nodes, root, path)
    returned = [n for node in graph.nodes if node.op == "output" for n in node.all_input_nodes]
    if len(returned) == 1 and not _keeps_batch(returned[0]):
        raise UnsupportedModule(f"in what {type(model).__name__} returns, images have no dimension of their own")
    if any(_is_complex(node) for node in returned):
        raise UnsupportedModule(f"{type(model).__name__} returns complex numbers, and signals are real")
    for nodes in _between_maps(graph):
        _collapse(graph, nodes, root, _innermost(nodes))
    return root, _module_calls(graph, root), graph


def image_like(model: nn.Module, size: Sequence[int] = ()) -> Tensor:
    """An image without values for a network.

    Args:
        model: the network.
        size: (C, [[D,] H,] W), (F,) of a row, or without the channels if the network has a convolution, whose those
            are; by default as the network says itself, or else 224 x 224, or in three dimensions 64 x 64 x 64.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((part for part in model.modules() if isinstance(part, kinds)), None)
    channels, rank = (3, 2) if first is None else (first.in_channels, len(first.kernel_size))
    named: Any = getattr(getattr(model, "config", None), "image_size", None) or (64 if rank == 3 else 224)
    named = getattr(model, "default_cfg", {}).get("input_size", named)
    size = tuple(size) or (tuple(named) if isinstance(named, tuple | list) else (named,) * rank)
    return parameter.new_empty((1, *((channels, *size) if len(size) == rank else size)))


def _written(
    model: nn.Module, arguments: Mapping[str, object], inputs: Collection[str], like: Sequence[Tensor], batch: int
) -> tuple[nn.Module, torch.fx.Graph]:
    """A copy of a model, and its graph traced for so many images, in which that number stands nowhere."""
    root = to_trace(model)
    program, calls = _exported(root, arguments, inputs, like, batch)
    return root, _Writer(root, program, calls, batch).graph


def _exported(
    root: nn.Module, arguments: Mapping[str, object], inputs: Collection[str], like: Sequence[Tensor], batch: int
) -> tuple[ExportedProgram, list[AppliedCall]]:
    free = input_names(root, arguments, inputs)
    if len(free) != len(like):
        raise ValueError(f"the network takes {len(free)} tensors, got {len(like)}")
    root.forward = _returning_tensors(root.forward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        shaped = [torch.empty((batch, *x.shape[1:]), dtype=x.dtype, device=x.device) for x in like]

    thread = threading.get_ident()
    registered = {id(x) for x in (*root.parameters(), *root.buffers())}
    others = [(x, x.clone()) for x in tensors_within(root) if id(x) not in registered]
    try:
        with (
            TRACING,
            torch.inference_mode(False),
            torch.enable_grad(),
            _AllImages(type(root).__name__, batch),
            kept_whole() as (calls, applied),
            functions_apply(lambda *call: applied(*call) if threading.get_ident() == thread else NotImplemented),
            patch.object(nn.Identity, "forward", _as_a_node),
            patch.object(_LOG_OF_SHAPES, "disabled", True),
        ):
            return export(root, (), {**dict(zip(free, shaped, strict=True)), **arguments}, strict=False), calls
    except UnsupportedModule:
        raise
    except Exception as error:
        raise untraceable("torch.export", root, error) from error
    finally:
        # What is no parameter and no buffer is written to for real.
        written = [x.copy_(before) for x, before in others if not torch.equal(x, before)]
        if written:
            raise UnsupportedModule(
                f"{type(root).__name__} writes in place to a tensor that is neither a parameter nor a buffer, and asks "
                "for sizes; register that tensor as a buffer"
            )


class _AllImages(TorchFunctionMode):
    """Inside it, a network must not take the images of a batch one by one, of which there are very many.

    Nor may it hook into gradients, of which the graph would know nothing.

    Args:
        kind: the type of the network.
        batch: how many images there are.
    """

    def __init__(self, kind: str, batch: int) -> None:
        super().__init__()
        self.kind, self.batch, self.taken = kind, batch, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.register_hook:
            raise UnsupportedModule(f"{self.kind} hooks into the gradient of a map; make it a torch.autograd.Function")
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.dim() and given.shape[0] == self.batch:
            self.taken += self._takes(getattr(func, "__name__", ""), args[1:], kwargs)
            if self.taken > _MOST_TAKEN:
                raise UnsupportedModule(
                    f"{self.kind} takes the images of a batch one by one; it has to compute all of them at once"
                )
        return func(*args, **kwargs)

    def _takes(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        """How many parts of a batch a function makes."""
        if name == "__getitem__":
            first = args[0][0] if isinstance(args[0], tuple) and args[0] else args[0]
            return int(type(first) is int or (isinstance(first, slice) and first != slice(None)))
        size = next(iter(args), kwargs.get("split_size_or_sections")) if name == "split" else 1
        along = next(iter(args[1:] if name == "split" else args), kwargs.get("dim", 0))
        return self.batch // size if name in ("__iter__", "split", "unbind") and type(size) is int and along == 0 else 0


def _returning_tensors(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that returns the tensors in what another returns: in tuples, lists, dicts and dataclasses."""

    def tensors_in(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        if isinstance(value, Mapping):
            value = list(value.values())
        elif is_dataclass(value):
            value = [getattr(value, field.name) for field in fields(value)]
        return [x for part in value for x in tensors_in(part)] if isinstance(value, tuple | list) else []

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> list[Tensor]:
        return tensors_in(forward(*args, **kwargs))

    return run


def _as_a_node(identity: nn.Module, input: Tensor) -> Tensor:
    """What an `nn.Identity` does, as a node of the graph that bears the name of its layer."""
    return torch.ops.aten.alias(input)


class _Writer:
    """Writes the graph of an exported program in functions of torch.

    Attributes:
        graph: the same computation, on the network's tensors by their paths. Its nodes know their values' shapes and
            the modules to which they belong.
    """

    def __init__(self, root: nn.Module, program: ExportedProgram, calls: Sequence[AppliedCall], batch: int) -> None:
        self.root, self.calls, self.batch, self.graph = root, calls, batch, torch.fx.Graph()
        self.images: list[Node] = []
        self._held: dict[str, Node] = {}
        self._sizes: dict[Node, Node] = {}
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        given = [n for n in program.graph.nodes if n.op == "placeholder"]
        values = {node: self._input(node, specs[node.name], program) for node in given}
        self.graph.output(self._write(program.graph_module, values, no_grad=False))

    def _input(self, node: Node, spec: Any, program: ExportedProgram) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            if not isinstance(node.meta.get(VALUE), Tensor):
                return spec.arg.value
            self.images.append(self.graph.placeholder(node.name))
            self.images[-1].meta[VALUE] = node.meta[VALUE]
            return self.images[-1]
        path = str(spec.target)
        if spec.kind is InputKind.CONSTANT_TENSOR:
            if isinstance(program.constants[path], FakeTensor):
                raise self._refused("takes the data of its tensors")
            hold(self.root, path, program.constants[path])
        if path not in self._held:
            self._held[path] = self.graph.get_attr(path)
            self._held[path].meta[VALUE] = node.meta[VALUE]
        return self._held[path]

    def _write(self, module: torch.fx.GraphModule, values: dict[Node, Any], no_grad: bool) -> Any:
        """Writes the nodes of a graph, of which the placeholders have values; returns what it returns."""
        for node in module.graph.nodes:
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: values.get(n, n))
            if node.op == "output":
                return args[0]
            if node.op != "call_function":
                continue
            if node.target is _SET_GRAD_ENABLED:
                enabled, part, *given = args
                inside: Any = getattr(module, str(part.target))
                places = [n for n in inside.graph.nodes if n.op == "placeholder"]
                values[node] = self._write(inside, dict(zip(places, given, strict=True)), no_grad or not enabled)
            elif node.target is _AUTOCAST:
                _, dtype, enabled, _, part, *given = args
                if enabled:
                    raise self._refused(f"computes in {dtype} under torch.autocast")
                inside = getattr(module, str(part.target))
                places = [n for n in inside.graph.nodes if n.op == "placeholder"]
                values[node] = self._write(inside, dict(zip(places, given, strict=True)), no_grad)
            elif node.target is operator.getitem and not isinstance(args[0], Node):
                values[node] = args[0][args[1]]
            else:
                values[node] = self._call(node, args, kwargs, no_grad)
        raise AssertionError("a graph ends with its output")

    def _call(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], no_grad: bool) -> Any:
        if getattr(node.target, "_opname", "") in ("set_", "_has_compatible_shallow_copy_type"):
            raise self._refused("replaces the data of its tensors")
        if not isinstance(node.target, OpOverload) and node.target is not operator.getitem:
            raise self._refused(f"calls {node.target}")
        applied = self.calls[args[1]] if node.target is APPLIED else None
        if applied is None:
            target, args, kwargs = _as_written(node.target, args, kwargs)
        else:
            target, (args, kwargs) = Applied(applied.function), applied.arguments(args[0])
        if target is None:
            return args[0] if args else None
        alone = applied is not None and not applied.several
        if target in _ADAPTIVE_MAX_POOLS:
            alone = not any(user.args[1] == 1 and user.users for user in node.users)
            target = target if alone else getattr(F, f"{target.__name__}_with_indices")
        first = next((x for x in args if isinstance(x, Node) and _keeps_batch(x, self.batch)), self.images[0])
        args, kwargs = self._sized((args, kwargs), first, node)
        made = self.graph.create_node(
            "call_method" if isinstance(target, str) else "call_function", target, args, kwargs
        )
        made.meta.update({key: node.meta[key] for key in (VALUE, _STACK) if key in node.meta})
        if no_grad:
            made.meta[NO_GRAD] = True
        if not alone:
            return made
        made.meta[VALUE] = node.meta[VALUE][0]
        return made, None  # the indices of a pool, which nobody reads

    def _refused(self, what: str) -> UnsupportedModule:
        return UnsupportedModule(f"{type(self.root).__name__} {what}, and asks for sizes, which is not exact together")

    def _sized(self, value: Any, first: Node, reader: Node) -> Any:
        """Arguments in which the size of the batch is what it is of `first`."""
        if isinstance(value, tuple | list):
            return type(value)(self._sized(part, first, reader) for part in value)
        if isinstance(value, dict):
            return {name: self._sized(part, first, reader) for name, part in value.items()}
        if isinstance(value, slice):
            return slice(*self._sized((value.start, value.stop, value.step), first, reader))
        if type(value) is not int or abs(value) < self.batch // 2:
            return value
        times, left = divmod(value, self.batch)
        if left or abs(times) > self.batch // 2:
            raise self._refused(
                f"computes {reader.name!r} with the size of the batch, not so many rows for every image"
            )
        if first not in self._sizes:
            self._sizes[first] = self.graph.call_method("size", (first, 0))
        size = self._sizes[first]
        return size if times == 1 else self.graph.call_function(operator.mul, (size, times))


def hold(root: nn.Module, path: str, tensor: Tensor) -> None:
    """Puts a tensor into a module at a path where there is none yet."""
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    if not hasattr(module, name):
        setattr(module, name, tensor)


def _as_written(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A call of ATen as that of a function of torch or, by its name, of a method; None for what changes nothing."""
    if not isinstance(target, OpOverload):
        return target, args, kwargs
    name = target._opname
    if target.namespace == "deconv_kernels" and name in ("max_pool2d", "max_pool3d"):
        input, bias, *window, relu = args
        return getattr(ops, name), (input, *window), {"bias": bias, "relu": relu}
    if target.namespace != "aten":
        return target, args, kwargs
    if name.startswith("_assert"):
        return None, (), {}
    if name in _REWRITTEN:
        return _REWRITTEN[name](*args, **kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "layout") or value}
    if "dropout" in name:
        return F.dropout, args, kwargs
    found = _function(_NAMES.get(name, name))
    if found is None and name.endswith("_"):
        return _function(name[:-1]) or target, args, {**kwargs, "inplace": True}
    return found or target, args, kwargs


def _function(name: str) -> Any:
    candidates = [getattr(room, name, None) for room in (F, torch)]
    candidates.append(getattr(torch.linalg, name.removeprefix("linalg_"), None) if name.startswith("linalg_") else None)
    if callable(getattr(Tensor, name, None)):
        candidates.append(name)
    known = [c for c in candidates if c is not None and (is_known(c) or is_spelling(c))]
    return next(iter(known or [c for c in (*candidates[1:], candidates[0]) if c is not None]), None)


def _item(x: Node, *index: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return operator.getitem, (x, index), {}


def _slice(x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    if start in (None, 0) and end in (None, _NO_END) and step == 1:
        return None, (x,), {}
    dim %= x.meta[VALUE].dim()
    return _item(x, *[slice(None)] * dim, slice(start, None if end == _NO_END else end, None if step == 1 else step))


def _index(x: Node, indices: Sequence[Any]) -> Any:
    return _item(x, *(slice(None) if index is None else index for index in indices))


def _index_put(x: Node, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    if accumulate:
        return "index_put_", (x, tuple(indices), values, True), {}
    return set_item, (x, tuple(slice(None) if index is None else index for index in indices), values), {}


def _interpolate(mode: str) -> Any:
    def rewritten(x: Node, size: Any, *rest: Any) -> Any:
        align, scales = (rest[0], rest[1:]) if mode in ("bilinear", "bicubic", "linear", "trilinear") else (None, rest)
        factors = scales[0] if scales and isinstance(scales[0], tuple | list) else None
        return F.interpolate, (x, None if size is None else list(size), factors, mode, align or None), {}

    return rewritten


def _padded(mode: str) -> Any:
    return lambda x, sides, value=0: (F.pad, (x, list(sides), mode, *([value] if mode == "constant" else [])), {})


_NAMES = {"split_with_sizes": "split", "log_sigmoid": "logsigmoid", "detach_": "detach", "_unsafe_view": "view"}
_REWRITTEN: dict[str, Any] = {
    "batch_norm": lambda x, w, b, m, v, training, momentum, eps, *_: (
        F.batch_norm,
        (x, m, v, w, b, training, momentum, eps),
        {},
    ),
    "instance_norm": lambda x, w, b, m, v, own, momentum, eps, *_: (
        F.instance_norm,
        (x, m, v, w, b, own, momentum, eps),
        {},
    ),
    "layer_norm": lambda *args, **named: (F.layer_norm, args[:5], named),
    "group_norm": lambda *args, **named: (F.group_norm, args[:5], named),
    "im2col": lambda x, *window: (F.unfold, (x, *window), {}),
    "col2im": lambda x, *window: (F.fold, (x, *window), {}),
    "mT": lambda x: (torch.transpose, (x, -2, -1), {}),
    "slice": _slice,
    "index": _index,
    "index_put_": _index_put,
    "alias": lambda x: (F.dropout, (x, 0.0, False), {}),
    "lift_fresh_copy": lambda x: (torch.clone, (x,), {}),
    "to": lambda x, *to, **named: (
        "to",
        (x, *(what for what in to if isinstance(what, torch.dtype | torch.device | Node))),
        {name: what for name, what in named.items() if name in ("dtype", "device")},
    ),
    "constant_pad_nd": _padded("constant"),
    **{
        f"{kind}ion_pad{n}d": _padded(mode)
        for kind, mode in (("reflect", "reflect"), ("replicat", "replicate"))
        for n in (1, 2, 3)
    },
    **{
        f"upsample_{mode}{n}d": _interpolate("nearest-exact" if "exact" in mode else mode)
        for mode in ("nearest", "_nearest_exact", "linear", "bilinear", "bicubic", "trilinear")
        for n in (1, 2, 3)
    },
}


def _regions(graph: torch.fx.Graph, root: nn.Module, leaves: Collection[Any]) -> Iterator[tuple[str, list[Node]]]:
    """The nodes of the modules that are to be one node each, with the modules' paths."""
    types = [
        kind for kind in leaves if isinstance(kind, type) and issubclass(kind, nn.Module) and not is_spelling(kind)
    ]
    paths = [
        path
        for path, module in root.named_modules(remove_duplicate=False)
        if path and (normalizes(module) or any(_is_a(module, kind) for kind in types))
    ]
    for path in paths:
        calls: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for key, (of, _) in node.meta.get(_STACK, {}).items():
                if of == path:
                    calls.setdefault(key, []).append(node)
        for nodes in calls.values():
            if len(nodes) > 1 or not isinstance(nodes[0].target, Region):
                yield path, nodes


def _is_a(module: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(module, kind) and type(module).forward is kind.forward


def _innermost(nodes: Sequence[Node]) -> str:
    """The path of the innermost module to which some nodes all belong."""
    stacks = [[path for path, _ in node.meta.get(_STACK, {}).values()] for node in nodes]
    common = [path for path in stacks[0] if all(path in stack for stack in stacks)]
    return common[-1] if common else ""


def _collapse(graph: torch.fx.Graph, nodes: Sequence[Node], root: nn.Module, path: str) -> None:
    """Makes one node of several, which belong to the module at a path."""
    nodes = _with_sizes(graph, nodes)
    members = set(nodes)
    read = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in members)
    for node in nodes:
        if any(target in read for target in overwritten(node, root)):
            raise UnsupportedModule(f"{describe(node, root)} writes into what {path!r} is given; make it out of place")
    returned = [node for node in nodes if any(user not in members for user in node.users)]
    inside = torch.fx.Graph()
    copies = {n: inside.placeholder(n.name) for n in read}
    for node in nodes:
        copies[node] = inside.node_copy(node, copies.__getitem__)
    inside.output(copies[returned[0]] if len(returned) == 1 else tuple(copies[n] for n in returned))
    module = root.get_submodule(path)
    with graph.inserting_after(nodes[-1]):
        made = graph.call_function(Region(module, inside), tuple(read))
    inner = {key: of for key, of in nodes[-1].meta.get(_STACK, {}).items() if of[0] == path or path.startswith(of[0])}
    made.meta.update(
        {
            _STACK: inner,
            VALUE: returned[0].meta[VALUE] if len(returned) == 1 else tuple(n.meta[VALUE] for n in returned),
        }
    )
    last = made
    for number, node in enumerate(returned):
        result = made
        if len(returned) > 1:
            with graph.inserting_after(last):
                result = last = graph.call_function(operator.getitem, (made, number))
            result.meta.update({_STACK: inner, VALUE: node.meta[VALUE]})
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user not in members)
    for node in reversed(nodes):
        graph.erase_node(node)
    _put_in_order(graph)


def _with_sizes(graph: torch.fx.Graph, nodes: Sequence[Node]) -> list[Node]:
    """Nodes together with what they ask for the number of images of one another's values, theirs alone from now on."""
    members, own = set(nodes), dict[Node, Node]()
    for node in list(graph.nodes):
        asks = node.op == "call_method" and node.target == "size" and node.args[0] in members
        if asks or (_STACK not in node.meta and node.target is operator.mul and node.args[0] in own):
            with graph.inserting_after(node):
                own[node] = graph.node_copy(node, lambda n: own.get(n, n))
    for node, copied in reversed(own.items()):
        node.replace_all_uses_with(copied, delete_user_cb=members.union(own.values()).__contains__)
        if copied.users:
            members.add(copied)
        else:
            graph.erase_node(copied)
        if not node.users:
            graph.erase_node(node)
    return [node for node in graph.nodes if node in members]


def _put_in_order(graph: torch.fx.Graph) -> None:
    """Moves nodes behind what they read."""
    order: dict[Node, None] = {}
    waiting = list(graph.nodes)
    while waiting:
        left = []
        for node in waiting:
            if all(read in order for read in node.all_input_nodes):
                order[node] = None
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise UnsupportedModule(f"{left[0].name!r} is computed together with what it reads")
        waiting = left
    for before, node in itertools.pairwise(order):
        if before.next is not node:
            before.append(node)


def _signals(graph: torch.fx.Graph) -> set[Node]:
    """The nodes whose values are computed from what is in the images."""
    found: set[Node] = set()
    for node in graph.nodes:
        sizes = node.op == "call_method" and node.target == "size"
        if node.op == "placeholder" or (not sizes and any(read in found for read in node.all_input_nodes)):
            found.add(node)
    return found


def _keeps_batch(node: Node, batch: int = BATCH) -> bool:
    """Whether the first dimension of a value is that of the batch."""
    value = node.meta.get(VALUE)
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(not isinstance(x, Tensor) or (x.dim() > 0 and x.shape[0] == batch) for x in parts)


def _is_complex(node: Node) -> bool:
    return any(isinstance(x, Tensor) and x.is_complex() for x in tree_leaves(node.meta.get(VALUE)))


def _between_maps(graph: torch.fx.Graph) -> list[list[Node]]:
    """Groups of nodes between which there are no maps: where images have no dimension of their own, or numbers are
    complex. Each comes with the nodes that make maps again."""
    signals = _signals(graph)
    lost = {node for node in signals if node.op != "output" and (not _keeps_batch(node) or _is_complex(node))}
    groups: list[set[Node]] = []
    for node in graph.nodes:
        if node not in signals or node.op == "output":
            continue
        near = {read for read in node.all_input_nodes if read in lost}
        if node in lost or near:
            joined = {node} | near
            for group in [group for group in groups if group & joined]:
                joined |= group
                groups.remove(group)
            groups.append(joined)
    order = {node: number for number, node in enumerate(graph.nodes)}
    return [sorted(_convex(group, graph), key=order.__getitem__) for group in groups]


def _convex(group: set[Node], graph: torch.fx.Graph) -> set[Node]:
    """A group with the nodes between its members."""
    after: set[Node] = set()
    for node in graph.nodes:
        if node in group or any(read in after for read in node.all_input_nodes):
            after.add(node)
    before: set[Node] = set()
    for node in reversed(graph.nodes):
        if node in group or any(user in before for user in node.users):
            before.add(node)
    return {node for node in after & before if node.op != "output"}


def _module_calls(graph: torch.fx.Graph, root: nn.Module) -> list[ModuleCall]:
    """The calls of modules, and with a node that is all that a module computes the name of that module."""
    own_path = {module: path for path, module in root.named_modules()}
    signals, order = _signals(graph), list(graph.nodes)
    calls: dict[str, tuple[str, list[Node]]] = {}
    for node in order:
        for key, (path, _) in node.meta.get(_STACK, {}).items():
            if path:
                calls.setdefault(key, (own_path[root.get_submodule(path)], []))[1].append(node)
    paths = [path for path, _ in calls.values()]
    found = []
    for path, nodes in calls.values():
        members = set(nodes)
        given = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n in signals - members)
        returned = [n for n in nodes if n in signals and any(user not in members for user in n.users)]
        computed = [n for n in nodes if n in signals]
        if len(computed) == 1 and paths.count(path) == 1 and not any(p.startswith(f"{path}.") for p in paths):
            computed[0].meta[LAYER] = path
        before = order[order.index(nodes[0]) - 1]
        found.append(ModuleCall(path, tuple(given), tuple(returned), before, nodes[-1]))
    return found
