"""Traces a network for one size of its images with torch.export, where torch.fx cannot know what Python asks of sizes.

torch.export runs the network on tensors that have shapes and no values. The batch is a large prime number of images
there, so that a multiple of it in the graph stands for as many times the batch; another prime has to give the same
graph, or something else depends on the size of the batch. Operations of ATen are written as the
functions of torch that they come from, of which `layers` knows the steps.
"""

from __future__ import annotations

import functools
import logging
import operator
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
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

from ...ops.dispatch import FakeTensor, FakeTensorMode, OpOverload
from ..errors import UnsupportedModule
from ..nodes import NO_GRAD, VALUE, Applied, Node
from ..weights import tensors_within
from .aten import as_written
from .functions import APPLIED, AppliedCall, kept_whole
from .regions import BATCH, STACK, between_maps, collapse, innermost, is_complex, keeps_batch, module_calls, regions
from .tracer import TRACING, ModuleCall, functions_apply, input_names, to_trace, untraceable
from .views import write_back

_OTHER_BATCH = 1_000_211
_ADAPTIVE_MAX_POOLS = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
# Where torch writes, beside raising it, that sizes of maps do not go together.
_LOG_OF_SHAPES = logging.getLogger("torch._subclasses.fake_tensor")
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
    if str(graph) != str(_written(model, arguments, inputs, like, _OTHER_BATCH)[1]):
        raise UnsupportedModule(f"{type(model).__name__} computes otherwise for another size of the batch")
    write_back(graph, root)
    for node in graph.nodes:  # maps may lie otherwise in memory than torch.export thinks
        node.target = "reshape" if node.target == "view" else node.target
    for path, nodes in regions(graph, root, leaves):
        collapse(graph, nodes, root, path)
    returned = [n for node in graph.nodes if node.op == "output" for n in node.all_input_nodes]
    if len(returned) == 1 and not keeps_batch(returned[0]):
        raise UnsupportedModule(f"in what {type(model).__name__} returns, images have no dimension of their own")
    if any(is_complex(node) for node in returned):
        raise UnsupportedModule(f"{type(model).__name__} returns complex numbers, and signals are real")
    for nodes in between_maps(graph):
        collapse(graph, nodes, root, innermost(nodes))
    return root, module_calls(graph, root), graph


def first_convolution(model: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | None:
    """A network's first convolution, which says how many axes and channels its images have."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    return next((part for part in model.modules() if isinstance(part, kinds)), None)


def image_like(model: nn.Module, size: Sequence[int] = ()) -> Tensor:
    """An image without values for a network.

    Args:
        model: the network.
        size: (C, [[D,] H,] W), (F,) of a row, or without the channels if the network has a convolution, whose those
            are; by default as the network says itself, or else 224 x 224, or in three dimensions 64 x 64 x 64.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    first = first_convolution(model)
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
                values[node] = self._write_inside(getattr(module, part.target), given, no_grad or not enabled)
            elif node.target is _AUTOCAST:
                _, dtype, enabled, _, part, *given = args
                if enabled:
                    raise self._refused(f"computes in {dtype} under torch.autocast")
                values[node] = self._write_inside(getattr(module, part.target), given, no_grad)
            elif node.target is operator.getitem and not isinstance(args[0], Node):
                values[node] = args[0][args[1]]
            else:
                values[node] = self._call(node, args, kwargs, no_grad)
        raise AssertionError("a graph ends with its output")

    def _write_inside(self, module: torch.fx.GraphModule, given: Sequence[Any], no_grad: bool) -> Any:
        places = [node for node in module.graph.nodes if node.op == "placeholder"]
        return self._write(module, dict(zip(places, given, strict=True)), no_grad)

    def _call(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], no_grad: bool) -> Any:
        if getattr(node.target, "_opname", "") in ("set_", "_has_compatible_shallow_copy_type"):
            raise self._refused("replaces the data of its tensors")
        if not isinstance(node.target, OpOverload) and node.target is not operator.getitem:
            raise self._refused(f"calls {node.target}")
        applied = self.calls[args[1]] if node.target is APPLIED else None
        if applied is None:
            target, args, kwargs = as_written(node.target, args, kwargs)
        else:
            target, (args, kwargs) = Applied(applied.function), applied.arguments(args[0])
        if target is None:
            return args[0] if args else None
        alone = applied is not None and not applied.several
        if target in _ADAPTIVE_MAX_POOLS:
            alone = not any(user.args[1] == 1 and user.users for user in node.users)
            target = target if alone else getattr(F, f"{target.__name__}_with_indices")
        first = next((x for x in args if isinstance(x, Node) and keeps_batch(x, self.batch)), self.images[0])
        args, kwargs = self._sized((args, kwargs), first, node)
        made = self.graph.create_node(
            "call_method" if isinstance(target, str) else "call_function", target, args, kwargs
        )
        made.meta.update({key: node.meta[key] for key in (VALUE, STACK) if key in node.meta})
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
