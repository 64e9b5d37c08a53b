"""What a network computes without looking at what is in its images: parameters, buffers, sizes, and what comes of them.

Steps do not hold tensors of a network but expressions of them, which get their values when a record is made: those of
that moment, computed in the order of the network with everything that it writes in place. So a projection belongs to
the weights that its record was made with, and no run depends on another.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .rules import UnsupportedModule

Node = torch.fx.Node
# What tracing notes of a node: a tensor that is not the model's, and that no gradient passes it.
CONSTANT, NO_GRAD = "deconv_kernels.constant", "deconv_kernels.no_grad"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


class Weights:
    """The tensors of a network at one moment, in memory that nobody else writes to.

    Args:
        model: the network.
        held: tensors that are not the model's, by the names under which tracing found them.
        known: what was taken last, by paths; kept up to date. A tensor whose bits have not changed since is the same
            object again.

    Attributes:
        taken: those that have been asked for, by their paths.
    """

    def __init__(self, model: nn.Module, held: Mapping[str, Tensor], known: dict[str, Tensor] | None = None) -> None:
        self.model, self.held = model, held
        self.taken: dict[str, Tensor] = {}
        self._known = {} if known is None else known
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, path: str) -> Any:
        if path not in self.taken:
            now = self.held[path] if path in self.held else tensor_at(self.model, path)
            if not isinstance(now, Tensor):
                return now
            if id(now) not in self._copies:  # what has several names is one tensor here too
                known = self._known.get(path)
                self._copies[id(now)] = now, _own(now) if known is None or not _same_bits(now, known) else known
            self.taken[path] = self._known[path] = self._copies[id(now)][1]
        return self.taken[path]


def _own(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return tensor.detach().clone()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device, a.layout) != (b.shape, b.dtype, b.device, b.layout) or a.stride() != b.stride():
        return False
    if a.layout != torch.strided or a.is_quantized:
        return False
    a, b = (torch.view_as_real(x.detach().resolve_conj()) if x.is_complex() else x.detach() for x in (a, b))
    integer = _INTEGERS[a.element_size()]
    return torch.equal(a.view(integer), b.view(integer))


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """A tensor of a network as its next call in eval mode reads it: computed, where it is parametrized or pruned.

    Args:
        model: the network.
        path: of a parameter, a buffer or a plain attribute, as in "features.0.weight".
    """
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    if parametrize.is_parametrized(module, name):
        # In training mode some parametrizations change what they hold whenever they are read.
        return getattr(in_eval(module), name)
    computed = computed_by_hook(module, name)
    return getattr(module, name) if computed is None else computed()


def computed_by_hook(module: nn.Module, name: str) -> Callable[[], Tensor] | None:
    """What computes a tensor of a module before each of its calls: pruning, weight or spectral normalisation."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return functools.partial(hook.apply_mask, module)
        if isinstance(hook, WeightNorm) and hook.name == name:
            return functools.partial(hook.compute_weight, module)
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return functools.partial(hook.compute_weight, module, do_power_iteration=False)
    return None


def in_eval(module: nn.Module) -> nn.Module:
    """The module, or a copy in eval mode that shares its tensors."""
    return copy_in_eval(module) if any(part.training for part in module.modules()) else module


def copy_in_eval(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that shares its tensors and has no hooks.

    What cannot be copied, such as a lock, is shared too.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in _tensors_within(module)}
    for part in module.modules():
        memo.update((id(value), type(value)()) for name, value in vars(part).items() if name in _HOOKS and value)
    try:
        return copy.deepcopy(module, dict(memo)).eval()
    except Exception:  # whatever an attribute's own way of being copied raises
        for value in chain.from_iterable(vars(part).values() for part in module.modules()):
            if not _can_be_copied(value, memo):
                memo[id(value)] = value
        return copy.deepcopy(module, memo).eval()


_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def _can_be_copied(value: object, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # whatever its own way of being copied raises
        return False
    return True


def _tensors_within(root: object) -> Iterator[Tensor]:
    """The tensors that an object holds, in whatever it holds them."""
    seen, left = {id(root)}, [root]
    while left:
        held = left.pop()
        if isinstance(held, Tensor):
            yield held
        elif not isinstance(held, _SHARED):
            found = [part for part in gc.get_referents(held) if id(part) not in seen]
            seen.update(map(id, found))
            left += found


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


def _called(node: Node, arguments: Sequence[Any], named: Mapping[str, Any], modules: Mapping[Node, nn.Module]) -> Any:
    if node.op == "call_module":
        return modules[node](*arguments, **named)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
    return node.target(*arguments, **named)  # type: ignore[operator]


class Expression:
    """Arguments of a call, or the call itself, as a function of the network's tensors and of maps.

    Args:
        order: the constant nodes that have to run for it, in their order.
        looks_at: the maps of which these want to know the shape.
        result: nodes, nested as arguments of calls are; or the call.
        model: the network.
        held: tensors that are not the model's.
        given: where `result` is a call, the maps that it computes with; None for arguments.
        parts: calls in between, which make several results, in their order.
        replaced: of the called module, the tensors that the network has overwritten, and the nodes that hold them.
    """

    def __init__(
        self,
        order: Sequence[Node],
        looks_at: Sequence[Node],
        result: Any,
        model: nn.Module,
        held: Mapping[str, Tensor],
        given: Sequence[Node] | None = None,
        parts: Sequence[Node] = (),
        replaced: Mapping[str, Node] | None = None,
    ) -> None:
        self.order, self.looks_at, self.result, self.model, self.held = order, looks_at, result, model, held
        self.given, self.parts, self.replaced = given, parts, replaced or {}
        called = (*order, *parts) if given is None else (*order, *parts, result)
        self.called = [node for node in called if node.op == "call_module"]
        self.applies = any(isinstance(node.target, Applied) for node in called)
        self.written = () if given is None else overwritten(result, model)
        self.writes = any(overwritten(node, model) for node in order) or any(node in order for node in self.written)
        self._last: tuple[tuple[Any, ...], Any] | None = None

    @property
    def is_sized(self) -> bool:
        """Whether it depends on the shapes of maps."""
        return bool(self.looks_at)

    def now(self) -> Any:
        """Its value with the tensors that the network has now."""
        return self._made(Weights(self.model, self.held))

    def bound(self, weights: Weights) -> Any:
        """Its value with tensors of one moment, or a function of its maps where it has any.

        As long as the tensors are the same objects the value is the same object.
        """
        tensors = tuple(weights[path] for path in self._paths())
        last = self._last
        if last is None or len(last[0]) != len(tensors) or any(map(operator.is_not, last[0], tensors)):
            self._last = last = tensors, self._made(weights)
        return last[1]

    def _paths(self) -> list[str]:
        paths = [str(node.target) for node in self.order if node.op == "get_attr"]
        for node in self.called:
            paths += [f"{node.target}.{name}" for name in _names(self.model.get_submodule(str(node.target)))]
        return paths

    def _made(self, weights: Weights) -> Any:
        modules = {node: _with_tensors(self.model, str(node.target), weights) for node in self.called}
        maps = [*(self.given or ()), *(node for node in self.looks_at if node not in (self.given or ()))]
        fixed: dict[Node, Any] | None = None
        if not self.looks_at and not any(node in self.order for node in self.written):
            fixed = self._constants({}, weights, modules)
            for path, node in self.replaced.items():
                _set(modules[self.result], path, fixed[node])
        if self.given is None and not maps:
            return torch.fx.map_arg(self.result, (fixed or {}).__getitem__)

        def run(*tensors: Tensor) -> Any:
            given = dict(zip(maps, tensors, strict=True))
            known = {**fixed, **given} if fixed is not None else self._constants(given, weights, modules)
            if self.given is None:
                return torch.fx.map_arg(self.result, known.__getitem__)
            known.update({node: known[node].clone() for node in self.written if node in given})
            for node in self.parts:
                known[node] = execute(node, known, modules)
            return execute(self.result, known, modules)

        return self._on_copies(run) if self.applies else run

    def _on_copies(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that may write into what it is given, of which nobody could know."""

        def run(*tensors: Tensor) -> Any:
            copies = [tensor.clone() for tensor in tensors]
            result = function(*copies)
            if not all(torch.equal(*pair) for pair in zip(tensors, copies, strict=True)):
                what = describe(self.result, self.model)
                raise UnsupportedModule(f"{what} writes into what it is given; make it return a new tensor")
            return result

        return run

    def _constants(
        self, maps: Mapping[Node, Tensor], weights: Weights, modules: Mapping[Node, nn.Module]
    ) -> dict[Node, Any]:
        """The values of the constant nodes; what they overwrite are copies."""
        known: dict[Node, Any] = dict(maps)
        copies: dict[int, Any] = {}
        for node in self.order:
            if node.op != "get_attr":
                known[node] = execute(node, known, modules)
                continue
            value = weights[str(node.target)]
            if self.writes and isinstance(value, Tensor):
                value = copies.setdefault(id(value), value.clone())
            known[node] = value
        return known


def _names(module: nn.Module) -> list[str]:
    """The paths of all tensors of a module: parameters, buffers, plain attributes, and what hooks compute."""
    names: dict[str, None] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        own = chain(part._parameters.items(), part._buffers.items(), vars(part).items())
        names.update((prefix + name, None) for name, value in own if isinstance(value, Tensor))
    return list(names)


def _with_tensors(model: nn.Module, path: str, weights: Weights) -> nn.Module:
    """A module of a network that has the tensors of one moment."""
    module = copy_in_eval(model.get_submodule(path))
    for name in _names(module):
        _set(module, name, weights[f"{path}.{name}"])
    return module


def _set(module: nn.Module, path: str, value: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    part = module.get_submodule(owner)
    setattr(part, name, nn.Parameter(value, requires_grad=False) if name in part._parameters else value)


def set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """`tensor[index] = value`, as a function that returns the tensor."""
    tensor[index] = value
    return tensor


def set_data(tensor: Tensor, value: Tensor) -> Tensor:
    """`tensor.data = value`, as a function that returns the tensor."""
    tensor.data = value
    return tensor


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
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    return tuple(nodes_in((node.kwargs.get("out"), first if _is_in_place(node, model) else None)))


def _is_in_place(node: Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if isinstance(node.target, Applied):
        return False
    if node.target in _WRITING:
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


class Constants:
    """The nodes of a graph that compute nothing from what is in the images, in their order, and what they overwrite.

    Args:
        model: the network.
        held: tensors that are not the model's.
    """

    def __init__(self, model: nn.Module, held: Mapping[str, Tensor]) -> None:
        self.model, self.held = model, held
        self.order: dict[Node, None] = {}
        self._memory: dict[Node, Node] = {}  # towards one node for all that may share memory
        self._tensor: dict[Node, Node] = {}  # the first node that stood for the same tensor
        self._writers: dict[Node, list[Node]] = {}  # by the one node for their memory
        self._read: dict[Node, Tensor] = {}  # the network's tensors, by the first nodes that read them
        self._lost: dict[Node, Node] = {}  # tensors to which maps were written, and what has become of them

    def __contains__(self, node: Node) -> bool:
        return node in self.order

    def add(self, node: Node) -> None:
        """Takes the next constant node."""
        self.order[node] = None
        self._memory[node] = self._tensor[node] = node
        if node.op == "get_attr":
            tensor = self._at(str(node.target))
            if isinstance(tensor, Tensor):
                for first, held in self._read.items():
                    if _share_memory(tensor, held):
                        self._join(node, first, tensor is held)
                if self._tensor[node] is node:
                    self._read[node] = tensor
            return
        written = overwritten(node, self.model)
        if not written and function_name(node) in FRESH:
            return
        for other in node.all_input_nodes:
            if other in self.order:
                self._join(node, other, written == (other,) or _is_all_of(node, other))
        for other in written:
            self._writers.setdefault(self._root(other), []).append(node)

    def expression(self, result: Any, given: Sequence[Node] | None = None, parts: Sequence[Node] = ()) -> Expression:
        """Arguments of a call, or the call itself, as they are at this moment.

        Args:
            result: nodes, nested as arguments are; or a call.
            given: where it is a call, the maps that it computes with.
            parts: calls in between, which make several results.

        Raises:
            UnsupportedModule: the network has written to a part of the memory of a tensor that the called module reads.
        """
        left, replaced = nodes_in(result), {}
        if given is not None:
            own = {*given, *parts}
            left = [read for node in (result, *parts) for read in node.all_input_nodes if read not in own]
            if result.op == "call_module":
                replaced = self._replaced(str(result.target))
                left += replaced.values()
        chosen: set[Node] = set()
        looks_at: dict[Node, None] = {}
        while left:
            node = left.pop()
            if node not in self.order:
                looks_at[node] = None
            elif node not in chosen:
                chosen.add(node)
                left += [*node.all_input_nodes, *self._writers.get(self._root(node), ())]
        order = [node for node in self.order if node in chosen]
        if replaced and looks_at:
            raise UnsupportedModule(
                f"{describe(result, self.model)} has tensors to which the network writes what depends on sizes of maps"
            )
        return Expression(order, list(looks_at), result, self.model, self.held, given, parts, replaced)

    def tensor(self, path: str) -> Expression:
        """A tensor of a module that reads it itself, with what the network has written to it before.

        Raises:
            UnsupportedModule: as `expression`.
        """
        owner, _, name = path.rpartition(".")
        node = self._replaced(owner).get(name)
        if node is not None:
            return self.expression(node)
        node = torch.fx.Graph().get_attr(path)
        return Expression([node], [], node, self.model, self.held)

    def overwrite(self, target: Node, by: Node) -> None:
        """Lets maps be written to a constant tensor, which is none from then on."""
        self._lost[self._tensor[target]] = by

    def successor(self, node: Node) -> Node:
        """The node that holds what a constant has become: itself, or a map that was written to it.

        Raises:
            UnsupportedModule: a map was written to a part of its memory.
        """
        for tensor, by in reversed(self._lost.items()):
            if self._tensor[node] is tensor:
                return by
            if self._root(node) is self._root(tensor):
                raise UnsupportedModule(
                    f"{node.name!r} is read after {describe(by, self.model)} has written to a part of its memory; make "
                    "that operation out of place"
                )
        return node

    def tensor_now(self, node: Node) -> Node:
        """The node that holds what has become of the same tensor."""
        return self._lost.get(self._tensor.get(node, node), node)

    def _replaced(self, path: str) -> dict[str, Node]:
        """Of the tensors of a module those to which the network has written before: by their names, what holds them."""
        written = [node for node in self._read if self._root(node) in self._writers]
        written += [node for node in self._lost if node in self._read]
        found: dict[str, Node] = {}
        for name in _names(self.model.get_submodule(path)) if written else ():
            tensor = self._at(f"{path}.{name}")
            for node in written:
                if tensor is self._read[node] and node not in self._lost:
                    found[name] = node
                elif _share_memory(tensor, self._read[node]):
                    raise UnsupportedModule(
                        f"module {path!r} reads its {name!r}, to which the network writes maps, or only to a part of "
                        "its memory; make that operation out of place"
                    )
        return found

    def _at(self, path: str) -> Any:
        return self.held[path] if path in self.held else tensor_at(self.model, path)

    def _root(self, node: Node) -> Node:
        while self._memory[node] is not node:
            node = self._memory[node]
        return node

    def _join(self, node: Node, other: Node, same: bool) -> None:
        """Notes that two nodes may share memory, or that the first stands for the same tensor."""
        below, above = self._root(node), self._root(other)
        if below is not above:
            self._memory[below] = above
            self._writers.setdefault(above, []).extend(self._writers.pop(below, ()))
            if not self._writers[above]:
                del self._writers[above]
        if same:
            self._tensor[node] = self._tensor[other]


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    address = a.untyped_storage().data_ptr()
    return address != 0 and address == b.untyped_storage().data_ptr()


def _is_all_of(node: Node, argument: Node) -> bool:
    """Whether a node is a view of all of its first argument."""
    names_it = function_name(node) == "detach" or (node.target is getattr and node.args[1] == "data")
    return names_it and node.args[0] is argument


# What never returns memory of an argument.
_FRESH = """
    add sub mul div truediv true_divide divide multiply subtract floordiv floor_divide mod remainder fmod pow
    neg reciprocal exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square abs sign sin cos tan tanh sigmoid erf
    floor ceil round trunc clamp clip clamp_min clamp_max minimum maximum where masked_fill relu relu6
    leaky_relu elu selu celu gelu silu mish softplus hardtanh hardsigmoid hardswish softmax log_softmax
    normalize layer_norm group_norm instance_norm batch_norm local_response_norm eq ne lt le gt ge logical_and
    logical_or logical_not logical_xor mean sum prod var std var_mean std_mean amax amin argmax argmin norm
    vector_norm cumsum cumprod cat concat concatenate stack hstack vstack matmul mm bmm mv dot outer addmm
    baddbmm linear conv1d conv2d conv3d conv_transpose2d interpolate upsample pad max_pool2d avg_pool2d
    adaptive_max_pool2d pixel_shuffle flip roll repeat tril triu diag_embed one_hot clone zeros ones full empty
    arange linspace eye tensor zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    new_tensor item tolist size dim ndimension numel
"""
FRESH = frozenset(_FRESH.split())


def assume(value: Any, expected: Any) -> None:
    """Control flow that a network takes because of a tensor of its own.

    Raises:
        ValueError: the tensor has changed so that it would go another way.
    """
    if value != expected:
        raise ValueError(
            f"the network's control flow depends on a tensor that was {expected} when the network was traced and is "
            f"{value} now; make a new Deconvnet"
        )


_RANDOM = frozenset(
    (
        *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
        *("multinomial", "poisson", "gumbel_softmax", "fractional_max_pool2d", "uniform_", "normal_", "bernoulli_"),
        *("random_", "exponential_", "cauchy_", "geometric_", "log_normal_"),
    )
)


def is_random(name: str) -> bool:
    """Whether a function or method of some name gives something else every time."""
    return name in _RANDOM


_SHAPES = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "is_floating_point", "zeros_like", "ones_like", "full_like"),
        *("empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    )
)
_ABOUT = frozenset(("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad"))


# What looks at the shape and the type of its second argument.
_AS_ANOTHER = frozenset(("expand_as", "reshape_as", "to", "type_as", "view_as"))


def computes_with(node: Node) -> list[Node]:
    """The nodes that a call reads for more than their shape."""
    if asks_for_shape(node):
        return []
    read = node.all_input_nodes
    return read[:1] if function_name(node) in _AS_ANOTHER and node.args and read[0] is node.args[0] else read


def asks_for_shape(node: Node) -> bool:
    """Whether a node looks at the shape of a tensor, or at its type, and not at what is in it."""
    if node.target is getattr:
        return node.args[1] in _ABOUT
    return node.op in ("call_function", "call_method") and function_name(node) in _SHAPES


def describe(node: Node, model: nn.Module) -> str:
    """What a node is, for an error message."""
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target))).__name__
        return f"module {node.target!r} ({kind}, node {node.name!r})"
    return f"{'method' if node.op == 'call_method' else 'function'} {function_name(node)} (node {node.name!r})"
