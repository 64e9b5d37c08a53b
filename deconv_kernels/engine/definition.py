"""What a projection means, in plain PyTorch: slow, obviously right, and what the engine is held against."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ..ops import functional, reference
from ..ops.arguments import grouped
from ..ops.dispatch import OpOverload, native
from ..ops.geometry import PerAxis, Pooling
from ..ops.layout import spatial_size
from ..ops.library import without_rank
from .nodes import NO_GRAD


def project(
    graph: torch.fx.GraphModule,
    images: Tensor | tuple[Tensor, ...],
    node: str,
    units: Tensor | Sequence[Sequence[int]],
    rule: str = "deconvnet",
    normalization: str = "identity",
    overlap: str = "sum",
    rules: Mapping[Any, str] | None = None,
) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
    """The definition of projections: gradients of units by autograd, but for what some parts pass on instead of theirs.

    All images are taken whole. With g the signal that arrives at the output y of a part, on the way back:

    - A rectifier (ReLU, ReLU6, LeakyReLU, and clamp, hardtanh or threshold from 0 up, however they are written) passes
      on relu(g) under the rule "deconvnet", relu(g) where y > 0 under "guided", and its gradient under "gradient".
    - Response normalisation, and any module with `deconvnet_identity = True`, passes on g itself, or its gradient with
      `normalization="gradient"`.
    - A max pool passes g to the maxima of its windows. Where windows share a maximum, it gets the sum of their signals,
      or with `overlap="last"` the signal of the last of them in row-major order, be that zero.
    - What `rules` names, as the graph spells it, a `torch.autograd.Function` by its class, passes on its gradient
      ("gradient"), g itself ("identity"), or what a rectifier does ("rectifier").
    - Everything else passes on its gradient. What is read several times gets the sum of what its readers send.

    A unit is an element of a node's value as the node computed it. An in-place operation makes a new value, which all
    later readers see.

    Args:
        graph: the traced network, in eval mode; it does not mix the images of a batch.
        images: (N, C, H, W) or (N, F), or a tuple of such for a network of several inputs. Their dtype is computed in.
        node: the name of a node of the graph; of one that returns several tensors, the first is meant.
        units: (U, 4) int64: image, channel, y, x; of a flat layer (N, F) the first two columns are read.
        rule, normalization, overlap, rules: as for `deconv_kernels.Deconvnet`.

    Returns:
        The units' projections from the seed one, (U, C, H, W) or (U, F), in a tuple if `images` is one; and their
        activations (U,).

    Raises:
        ValueError: the graph has no such node.

    Source: Zeiler & Fergus 2013, section 2.1; Springenberg et al. 2014 for "guided".
    """
    graph = _own_copy(graph)
    batches = images if isinstance(images, tuple) else (images,)
    image, *position = torch.as_tensor(units, device=batches[0].device).unbind(1)
    inputs = tuple(batch.detach()[image].requires_grad_() for batch in batches)
    network = _Network(graph, _Signals(rule, normalization, overlap), rules or {})
    value = network.value(node, [x.clone() for x in inputs])
    activations = value[(torch.arange(len(image), device=value.device), *position[: value.dim() - 1])]
    signals = torch.autograd.grad(activations.sum(), inputs, allow_unused=True, materialize_grads=True)
    return signals if isinstance(images, tuple) else signals[0], activations.detach()


def _own_copy(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy of a network that may change its own tensors while it runs."""
    memo: dict[int, Tensor] = {}
    for part in graph.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, Tensor):
                clone = tensor.detach().clone()
                memo[id(tensor)] = nn.Parameter(clone) if isinstance(tensor, nn.Parameter) else clone
    return copy.deepcopy(graph, memo)


class _Network(torch.fx.Interpreter):
    """A traced network whose parts pass on, on the way back, what the definition of a projection says."""

    def __init__(self, graph: torch.fx.GraphModule, signals: _Signals, rules: Mapping[Any, str]) -> None:
        super().__init__(graph)
        self.signals, self.rules = signals, rules

    def value(self, name: str, inputs: Sequence[Tensor]) -> Tensor:
        """What the node of that name computes, at that moment."""
        self.env, self.args_iter = {}, iter(inputs)
        with torch.autograd.graph.saved_tensors_hooks(_out_of_reach, lambda saved: saved):
            for node in self.graph.nodes:
                value = self.env[node] = self.run_node(node)
                if node.name == name:
                    return value[0] if isinstance(value, tuple | list) else value
        raise ValueError(f"no node {name!r}; the nodes are: {', '.join(node.name for node in self.graph.nodes)}")

    def run_node(self, n: torch.fx.Node) -> Any:
        with torch.set_grad_enabled(NO_GRAD not in n.meta):
            return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        owner = getattr(target, "__self__", None)
        own_backward = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
        return self._call(owner if own_backward else target, target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(target, getattr(type(args[0]), target), args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.module.get_submodule(target)
        return self._call(parametrize.type_before_parametrizations(module), module, args, kwargs)

    def _call(self, kind: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        rule = self.rules.get(kind)
        if rule is None and getattr(function, "deconvnet_identity", False):
            rule = self.signals.normalization
        if rule == "identity":
            return _override(function, args, kwargs, _unchanged)
        if rule == "rectifier":
            return self.signals.rectify(function, args, kwargs)
        if rule == "gradient":
            return function(*args, **kwargs)
        with self.signals:
            return function(*args, **kwargs)


def _out_of_reach(saved: Tensor) -> Tensor:
    """What autograd saves, where no later in-place operation of the network changes it."""
    return saved if isinstance(saved, nn.Parameter) else saved.detach().clone()


class _Signals(TorchFunctionMode):
    """Inside it, rectifiers, response normalisation and max pools pass on what the definition of a projection says."""

    def __init__(self, rule: str, normalization: str, overlap: str) -> None:
        super().__init__()
        self.rule, self.normalization, self.overlap = rule, normalization, overlap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RECTIFIERS and _RECTIFIERS[func](*args, **kwargs):
            return self.rectify(func, args, kwargs)
        if func is F.local_response_norm and self.normalization == "identity":
            return _override(func, args, kwargs, _unchanged)
        if func in _MAX_POOLS and self.overlap == "last":
            rank, with_indices = _MAX_POOLS[func]
            values, indices = _max_pool_to_the_last(rank, *args, **kwargs)
            return (values, indices) if with_indices else values
        if func in _PUBLIC:
            return self._public(func, *args, **kwargs)
        if isinstance(func, OpOverload) and func.namespace.startswith("deconv_kernels"):
            name = func.__name__.removesuffix(".default")
            if without_rank(name) == "max_pool":
                return self._max_pool(*grouped(name, (*args, *kwargs.values())))
            if without_rank(name) == "max_unpool":
                return self._max_unpool(*grouped(name, (*args, *kwargs.values())))
        return func(*args, **kwargs)

    def rectify(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a function that counts as a rectifier."""
        if self.rule == "deconvnet":
            return _override(function, args, kwargs, lambda y, signal: signal.clamp(min=0))
        if self.rule == "guided":
            return _override(function, args, kwargs, lambda y, signal: signal.clamp(min=0) * (y > 0))
        return function(*args, **kwargs)

    def _public(self, function: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Calls a public function of the package as the op that it is, with all arguments given."""
        given = inspect.signature(function).bind(input, *args, **kwargs)
        given.apply_defaults()
        values = given.arguments
        rank = int(function.__name__[-2])
        pooling = Pooling.of(rank, *(values[name] for name in Pooling._fields))
        if "bias" in values:
            return self._max_pool(input, values["bias"], pooling, values["ceil_mode"], values["relu"])
        size = spatial_size(function(input.detach(), *args, **kwargs), rank)
        return self._max_unpool(input, values["switches"], pooling, size, values["overlap"], values["relu"])

    def _max_pool(
        self, input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool
    ) -> tuple[Tensor, Tensor]:
        maps = input if bias is None else input + bias[(..., *[None] * pooling.rank)]
        if relu:
            maps = self.rectify(torch.relu, (maps,), {})
        with self:
            values = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[pooling.rank - 1](maps, *pooling, ceil_mode)
        return values, reference.max_pool(maps.detach(), None, pooling, ceil_mode, False)[1]

    def _max_unpool(
        self, input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
    ) -> Tensor:
        maps = reference.max_unpool(input, switches, pooling, output_size, overlap, False)
        return self.rectify(torch.relu, (maps,), {}) if relu else maps


def _from_zero(low: Any, high: Any) -> bool:
    """Whether bounds make a rectifier."""
    return not isinstance(low, Tensor) and low == 0 and (high is None or (not isinstance(high, Tensor) and high > 0))


# Functions and methods that are rectifiers, and whether they are with given arguments.
_RECTIFIERS: dict[Any, Callable[..., bool]] = {
    **dict.fromkeys(
        (
            *(F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
            *(F.relu6, native.relu6_, F.leaky_relu, F.leaky_relu_),
        ),
        lambda *args, **kwargs: True,
    ),
    **dict.fromkeys(
        (F.hardtanh, F.hardtanh_),
        lambda input, min_val=-1.0, max_val=1.0, inplace=False: _from_zero(min_val, max_val),
    ),
    **dict.fromkeys(
        (
            *(torch.clamp, torch.clamp_, torch.clip, torch.clip_),
            *(Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_),
        ),
        lambda input, min=None, max=None: _from_zero(min, max),
    ),
    **dict.fromkeys(
        (torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_),
        lambda input, min: _from_zero(min, None),
    ),
    **dict.fromkeys(
        (F.threshold, torch.threshold, torch.threshold_),
        lambda input, threshold, value, inplace=False: threshold == 0 and value == 0,
    ),
}

# Max pools, of how many axes their maps have, and whether they return the indices of the maxima too.
_MAX_POOLS = {
    **{getattr(room, f"max_pool{rank}d"): (rank, False) for room in (F, torch) for rank in (1, 2, 3)},
    **{getattr(F, f"max_pool{rank}d_with_indices"): (rank, True) for rank in (1, 2, 3)},
    **{getattr(native, f"max_pool{rank}d_with_indices"): (rank, True) for rank in (2, 3)},
    torch.max_pool1d_with_indices: (1, True),
}
_PUBLIC = {getattr(functional, f"max_{kind}{rank}d") for kind in ("pool", "unpool") for rank in (1, 2, 3)}


def _max_pool_to_the_last(
    rank: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
) -> tuple[Tensor, Tensor]:
    """Max pooling that passes to a shared maximum the signal of the last of its windows."""
    window = (kernel_size, stride, padding, dilation, ceil_mode)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    values, indices = pool(input.detach(), *window, return_indices=True)
    positions = indices.flatten(2)
    order = torch.arange(positions.shape[2], device=input.device).expand_as(positions)
    empty = torch.full_like(input, -1, dtype=torch.int64).flatten(2)
    last = empty.scatter_reduce(2, positions, order, "amax").gather(2, positions) == order

    def backward(y: Tensor, signal: Tensor) -> Tensor:
        sent = signal.flatten(2) * last
        return torch.zeros_like(input).flatten(2).scatter_add(2, positions, sent).view(input.shape)

    return _override(lambda maps: values, (input,), {}, backward), indices


class _Override(torch.autograd.Function):
    """A given value, and a given way back to the operands it comes from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, backward: Callable[[Tensor, Tensor], Tensor], *operands: Tensor) -> Tensor:
        ctx.value, ctx.override, ctx.shapes = value, backward, [operand.shape for operand in operands]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        signal = ctx.override(ctx.value, signal)
        return None, None, *(signal.sum_to_size(shape) for shape in ctx.shapes)


_Backward = Callable[[Tensor, Tensor], Tensor]


def _override(function: Callable[..., Any], args: Any, kwargs: Any, backward: _Backward) -> Any:
    """Calls a function, in place if it is so, whose operands are sent `backward(its value, the signal of that)`."""
    tensors = [given for given in (*args, *kwargs.values()) if isinstance(given, Tensor)]
    copies = {id(tensor): tensor.detach().clone() for tensor in tensors}
    value = function(
        *(copies.get(id(given), given) for given in args),
        **{name: copies.get(id(given), given) for name, given in kwargs.items()},
    )
    result = _Override.apply(value, backward, *(tensor for tensor in tensors if tensor.grad_fn is not None))
    overwritten = [tensor for tensor in tensors if copies[id(tensor)] is value]
    return overwritten[0].copy_(result) if overwritten else result


def _unchanged(value: Tensor, signal: Tensor) -> Tensor:
    return signal
