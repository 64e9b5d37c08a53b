"""The modules, functions and tensor methods that have rules of their own, and the steps that they are; by exact type,
never by likeness."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ... import nn as own
from ... import ops
from ...ops.geometry import per_axis
from ..expressions import Expression
from ..nodes import VALUE, Node, nodes_in, set_item
from ..steps.base import Step
from ..steps.convolution import Convolution, TransposedConvolution
from ..steps.joins import ChannelSlice, Concatenate, Sum
from ..steps.linear import Flatten, Linear
from ..steps.padding import ZeroPad
from ..steps.pointwise import Activation, BatchNormalization, Identity, Normalization, Rectifier, Scale, Shift
from ..steps.pooling import AdaptiveAveragePool, AveragePool, MaxPool
from ..steps.whole import Whole
from ..weights import computed_by_hook
from .calls import Call, is_batch_size
from .constants import asks_for_shape
from .rules import canonical
from .unpooling import window_of

Built = Sequence[Step] | Step | None


def is_known(function: Any) -> bool:
    """Whether a function, or a method of some name, has a rule."""
    return function in _FUNCTIONS


def normalizes(module: nn.Module) -> bool:
    """Whether a module is response or contrast normalisation."""
    return getattr(module, "deconvnet_identity", False) or known_type(type(module)) is nn.LocalResponseNorm


def built_of(call: Call) -> Built:
    """The step or steps that what is called has a rule for; None where it has none.

    Raises:
        UnsupportedModule: this call of it is not exact.
    """
    if call.node.op == "call_module":
        module = call.model.get_submodule(str(call.node.target))
        if getattr(module, "deconvnet_identity", False):
            return Normalization(call.name, call.function, call.exact)
        known = known_type(call.kind())
        return None if known is None else _MODULES[known](call, module)
    if call.node.kwargs.get("out") is not None:
        raise call.refused("it writes into a given tensor; use what it returns")
    return _FUNCTIONS.get(call.node.target, lambda call: None)(call)


def known_type(kind: type) -> type | None:
    """The type of module with a rule that a type is, or of which it is a subclass with the same forward; else None."""
    for base in kind.__mro__:
        if base in _MODULES:
            methods = ("forward", "_conv_forward", "_check_input_dim")
            same = all(getattr(kind, method, None) is getattr(base, method, None) for method in methods)
            return base if same else None
    return None


def spellings(kinds: Collection[Any]) -> list[Any]:
    """Functions and methods of which one is the canonical spelling for some."""
    return [function for function in _FUNCTIONS if canonical(function) in kinds]


def along_the_batch(call: Call, needed: str) -> list[Step]:
    """What works along the dimension of the batch; with sizes known it keeps that dimension, and is tried out.

    Raises:
        NeedsSizes: they are not known.
    """
    if VALUE not in call.node.meta:
        raise call.refused_unsized(needed)
    return call.whole(linear=True, alone=True)


def _clamp(call: Call, low: Any, high: Any) -> Step | None:
    ceiling = math.inf if high is None else high
    if isinstance(low, Node) or isinstance(ceiling, Node) or low != 0 or not ceiling > 0:
        if call.rule == "gradient" and len(call.signals) == 1:
            return Activation(call.name, call.function, "gradient")
        raise call.undecided(f"only bounds from 0 up make a rectifier, it has {low} and {high}; ")
    return Rectifier(call.name, call.rule, float(ceiling))


def _threshold(call: Call, threshold: Any, value: Any) -> Step:
    if threshold != 0 or value != 0:
        if call.rule == "gradient":
            return Activation(call.name, call.function, "gradient")
        raise call.undecided("only a threshold of 0 with the value 0 is a rectifier; ")
    return Rectifier(call.name, call.rule)


def _leaky(call: Call) -> Step:
    return Activation(call.name, call.function, call.rule)


def _max_pool(rank: int, call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> MaxPool:
    pad, spread = per_axis(padding, rank, "padding"), per_axis(dilation, rank, "dilation")
    return MaxPool(call.name, *window_of(rank, kernel, stride), pad, spread, ceil_mode)


def _adaptive_average_pool(call: Call, size: Any) -> list[Step] | Step:
    if call.looked_at or isinstance(size, Node):
        return call.whole(linear=True)
    return AdaptiveAveragePool(call.name, call.function)


def _flatten(call: Call, start: Any, end: Any) -> list[Step] | Step:
    if start == 1 and end == -1:
        return Flatten(call.name)
    if start == 0 or start == -4:
        return along_the_batch(call, "flattening the batch dimension mixes images; start at dimension 1")
    return call.whole(linear=True)


def _parameters_of(call: Call, module: nn.Module) -> tuple[Expression, Expression | None]:
    if (
        "weight" not in module._parameters
        and not parametrize.is_parametrized(module, "weight")
        and computed_by_hook(module, "weight") is None
    ):
        raise call.refused("a hook computes its weight; make the weight permanent, or use parametrizations")
    return _tensor_of(call, "weight"), None if module.bias is None else _tensor_of(call, "bias")


def _tensor_of(call: Call, name: str) -> Expression:
    """A parameter or buffer of the module that is called."""
    return call.constants.tensor(f"{call.node.target}.{name}")


def _constant(call: Call, argument: Any) -> Expression | None:
    """An argument that is a parameter or buffer of the model, or computed from them, or None."""
    if argument is None:
        return None
    known = isinstance(argument, Node) and argument in call.constants
    value = call.constants.expression(argument) if known else None
    if value is None or value.is_sized:
        raise call.refused("its weight and bias must be parameters of the model, not computed from the images")
    return value


def _parameters_given(call: Call) -> tuple[Expression, Expression | None]:
    weight = _constant(call, call.argument(1, "weight"))
    if weight is None:
        raise call.refused("it has no weight")
    return weight, _constant(call, call.argument(2, "bias"))


def check_index(call: Call, index: Any) -> None:
    """Whether an index keeps images apart."""
    parts: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    if not (parts[0] == slice(None) or parts[0] is Ellipsis):
        raise call.refused("it takes some of the images; begin the index with a colon")
    if parts[0] is Ellipsis and len(parts) > 3:
        raise call.refused_unsized("it may take some of the images; begin the index with a colon")


def _set_item(call: Call) -> list[Step]:
    index = call.node.args[1]
    mask = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if call.has_signal(mask) and not call.has_signal(call.node.args[2]) and call.rule == "gradient":
        return call.whole(linear=False, alone=True)
    check_index(call, index)
    if any(node not in call.constants for node in nodes_in(index)):
        raise call.refused("its index is computed from the images")
    return call.whole(linear=True, alone=True)


def _convolution_module(call: Call, module: Any) -> list[Step]:
    parameters = _parameters_of(call, module)
    window = (module.kernel_size, module.stride)
    spacing = (module.dilation, module.groups)
    if module.padding_mode == "zeros":
        return [Convolution(call.name, *parameters, *window, module.padding, *spacing)]
    mode, sides = module.padding_mode, list(module._reversed_padding_repeated_twice)
    pad = Whole(f"{call.name}.pad", lambda x: F.pad(x, sides, mode), signals=1, linear=True)
    return [pad, Convolution(call.name, *parameters, *window, (0,) * len(module.stride), *spacing)]


def _is_sized(call: Call) -> bool:
    """Whether it is linear in its only signal, with weights or windows that depend on sizes."""
    return call.function.is_sized and call.signals == [call.argument(0, "input")]


def _convolution_function(call: Call) -> list[Step] | Convolution | None:
    if _is_sized(call):
        return call.whole(linear=True, alone=True)
    if len(call.signals) > 1 and call.rule == "gradient":
        return None
    weight, bias = _parameters_given(call)
    kernel = tuple(weight.now().shape[2:])
    padding, rank = call.argument(4, "padding", 0), len(kernel)
    return Convolution(
        call.name,
        weight,
        bias,
        kernel,
        per_axis(call.argument(3, "stride", 1), rank, "stride"),
        padding if isinstance(padding, str) else per_axis(padding, rank, "padding"),
        per_axis(call.argument(5, "dilation", 1), rank, "dilation"),
        call.argument(6, "groups", 1),
    )


def _transposed_convolution_module(call: Call, module: Any) -> list[Step] | TransposedConvolution:
    weight, _ = _parameters_of(call, module)
    window = (module.stride, module.padding, module.dilation, module.groups)
    if call.looked_at:
        return call.whole(linear=True, alone=True)
    return TransposedConvolution(call.name, call.function, weight, *window)


def _transposed_convolution_function(call: Call) -> list[Step] | TransposedConvolution | None:
    if _is_sized(call):
        return call.whole(linear=True, alone=True)
    if len(call.signals) > 1 and call.rule == "gradient":
        return None
    weight, _ = _parameters_given(call)
    if nodes_in(call.node.args[3:]):
        return call.whole(linear=True, alone=True)
    rank = weight.now().dim() - 2
    window = (
        per_axis(call.argument(3, "stride", 1), rank, "stride"),
        per_axis(call.argument(4, "padding", 0), rank, "padding"),
        per_axis(call.argument(7, "dilation", 1), rank, "dilation"),
    )
    return TransposedConvolution(call.name, call.function, weight, *window, call.argument(6, "groups", 1))


def _max_pool_module(rank: int, call: Call, module: Any) -> list[Step]:
    pool = _max_pool(rank, call, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    return [Rectifier(f"{call.name}.relu", call.rule), pool] if getattr(module, "relu", False) else [pool]


def _window_is_computed(call: Call) -> bool:
    """Whether something beside its map is known only when the network runs."""
    return bool(nodes_in((call.node.args[1:], [v for k, v in call.node.kwargs.items() if k != "input"])))


def _max_pool_function(rank: int, call: Call) -> list[Step] | MaxPool:
    if _window_is_computed(call):
        return _gradient(call)
    kernel, stride = call.argument(1, "kernel_size"), call.argument(2, "stride")
    padding, dilation = call.argument(3, "padding", 0), call.argument(4, "dilation", 1)
    return _max_pool(rank, call, kernel, stride, padding, dilation, call.argument(5, "ceil_mode", False))


def _own_max_pool_function(rank: int, call: Call) -> list[Step]:
    if call.node.kwargs.get("bias") is not None:
        raise call.refused("add the bias before it, so that it is a step of its own")
    if _window_is_computed(call):
        raise call.refused("its window depends on the size of maps; give numbers")
    pool = _max_pool_function(rank, call)
    assert isinstance(pool, MaxPool)
    return [Rectifier(f"{call.name}.relu", call.rule), pool] if call.node.kwargs.get("relu", False) else [pool]


def _average_pool(rank: int, call: Call, kernel: Any, stride: Any, padding: Any, *rest: Any) -> AveragePool:
    return AveragePool(call.name, *window_of(rank, kernel, stride), per_axis(padding, rank, "padding"), *rest)


def _average_pool_module(rank: int, call: Call, module: Any) -> AveragePool:
    window = (module.kernel_size, module.stride, module.padding, module.ceil_mode)
    return _average_pool(rank, call, *window, module.count_include_pad, getattr(module, "divisor_override", None))


def _average_pool_function(rank: int, call: Call) -> list[Step] | AveragePool:
    if _window_is_computed(call):
        return call.whole(linear=True)
    window = (call.argument(1, "kernel_size"), call.argument(2, "stride"), call.argument(3, "padding", 0))
    ceil_mode, count_include_pad = call.argument(4, "ceil_mode", False), call.argument(5, "count_include_pad", True)
    return _average_pool(rank, call, *window, ceil_mode, count_include_pad, call.argument(6, "divisor_override"))


def _batch_normalization(call: Call, module: Any) -> Step:
    if module.running_mean is None or module.running_var is None:
        raise call.refused("running statistics are needed; without them it mixes the images of a batch")
    weight, bias = (None if getattr(module, name) is None else _tensor_of(call, name) for name in ("weight", "bias"))
    mean, variance = _tensor_of(call, "running_mean"), _tensor_of(call, "running_var")
    return BatchNormalization(call.name, mean, variance, weight, bias, module.eps)


def _batch_normalization_function(call: Call) -> Step:
    mean, variance = _constant(call, call.argument(1, "running_mean")), _constant(call, call.argument(2, "running_var"))
    if mean is None or variance is None or call.argument(5, "training", False):
        raise call.refused("running statistics are needed; without them it mixes the images of a batch")
    weight, bias = _constant(call, call.argument(3, "weight")), _constant(call, call.argument(4, "bias"))
    return BatchNormalization(call.name, mean, variance, weight, bias, call.argument(7, "eps", 1e-5))


def _response_normalization(call: Call) -> Normalization:
    size, alpha = call.argument(1, "size"), call.argument(2, "alpha", 1e-4)
    beta, k = call.argument(3, "beta", 0.75), call.argument(4, "k", 1.0)
    return Normalization(call.name, lambda x: F.local_response_norm(x, size, alpha, beta, k), call.exact)


def _pad(call: Call, sides: Any, mode: str) -> list[Step] | Step:
    numbers = list(sides) if isinstance(sides, tuple | list) else []
    while mode == "constant" and numbers[-2:] == [0, 0] and len(numbers) > 2:
        numbers = numbers[:-2]
    if mode == "constant" and len(numbers) in (2, 4, 6) and all(isinstance(side, int) for side in numbers):
        return ZeroPad(call.name, call.function, tuple(numbers[-2::-2]))
    if len(numbers) > 8:
        raise call.refused("padding of the batch dimension mixes images")
    return call.whole(linear=True)


def _interpolate(call: Call, mode: Any) -> list[Step]:
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"):
        raise call.refused(f"interpolation of maps is needed, not {mode!r}")
    return call.whole(linear=True)


def _numbers(call: Call, name: str) -> Any:
    """What a method is given one by one or as a list."""
    given: Any = call.node.args[1:] or call.node.kwargs.get(name, ())
    return given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given


def _view(call: Call) -> list[Step] | Step:
    shape = _numbers(call, "shape")
    if len(shape) == 2 and isinstance(shape[1], int):
        batch, features = shape
        if is_batch_size(batch) and (features == -1 or features > 0):
            return Flatten(call.name, None if features == -1 else features)
        if batch == -1 and features > 0:
            return Flatten(call.name, features)
    first = shape[0] if len(shape) else None
    if len(shape) > 1 and (isinstance(first, Node) or (first == -1 and -1 not in shape[1:])):
        return call.whole(linear=True)
    if len(shape) == 1 and isinstance(first, Node):
        return call.whole(linear=True)
    raise call.refused_unsized(
        f"its shape {tuple(shape)} says nothing of the batch, which has to stay the first dimension whatever its size: "
        "begin with x.shape[0], or with -1 where the other sizes are numbers"
    )


def _squeeze(call: Call) -> None:
    if call.argument(1, "dim") is None:
        raise call.refused("it takes the batch too where that is one image; name the other dimensions by number")


def _permute(call: Call) -> list[Step]:
    order = _numbers(call, "dims")
    if not order or order[0] != 0:
        return along_the_batch(call, "the batch dimension must stay the first")
    return call.whole(linear=True)


def _item(call: Call) -> list[Step] | Step | None:
    source, index = call.node.args[0], call.node.args[1]
    assert isinstance(source, Node)
    if len(call.signals) > 1:
        return None
    check_index(call, index)
    parts: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    step = parts[1] if len(parts) == 2 and parts[0] == slice(None) else None
    if (
        isinstance(step, slice)
        and step.step in (None, 1)
        and not any(isinstance(end, Node) for end in (step.start, step.stop))
    ):
        return ChannelSlice(call.name, call.function, lambda channels: step.indices(channels)[:2])
    return call.whole(linear=True)


def _operands(call: Call) -> tuple[Any, Any]:
    first = call.argument(0, "input")
    return first, call.argument(1, "other")


def _add(sign: int) -> Callable[[Call], list[Step] | Step | None]:
    def build(call: Call) -> list[Step] | Step | None:
        first, second = _operands(call)
        factor = call.argument(2, "alpha", 1)
        if isinstance(factor, Node):
            return None if call.has_signal(factor) else call.whole(linear=True)
        if call.has_signal(first) and call.has_signal(second):
            call.reads = [first, second]
            return Sum(call.name, (1, sign * factor))
        if call.looked_at:
            return call.whole(linear=True)
        if call.has_signal(first) or sign * factor == 1:
            return Shift(call.name, call.function)
        return Scale(call.name, call.function, sign * factor)

    return build


def _multiply(call: Call) -> list[Step] | Step | None:
    first, second = _operands(call)
    if len(call.signals) > 1 or (first is second and call.has_signal(first)):
        return None
    return _scale(call, second if call.has_signal(first) else first)


def _divide(call: Call) -> list[Step] | Step | None:
    first, second = _operands(call)
    if call.has_signal(second) or call.argument(2, "rounding_mode") is not None:
        return None
    return _scale(call, second, inverse=True)


def _scale(call: Call, factor: Any, inverse: bool = False) -> list[Step] | Step:
    """A map times something constant, or divided by it."""
    value = call.constants.expression(factor)
    if call.looked_at or any(is_batch_size(node) for node in value.order):
        return call.whole(linear=True)
    return Scale(call.name, call.function, value, inverse)


def _concatenate(call: Call) -> list[Step] | Step:
    maps, dimension = call.argument(0, "tensors"), call.argument(1, "dim", call.node.kwargs.get("axis", 0))
    if dimension == 0 or not isinstance(dimension, int):
        return along_the_batch(call, "concatenation along the batch dimension mixes images")
    if not isinstance(maps, tuple | list) or not all(call.has_signal(x) for x in maps):
        return call.whole(linear=True)
    call.reads = list(maps)
    return Concatenate(call.name, dimension)


def _dropout(call: Call) -> Step:
    if call.argument(2, "train" if call.node.target is torch.dropout else "training", True):
        raise call.refused("it drops values in eval mode too; pass training=self.training")
    return Identity(call.name)


def _gradient(call: Call) -> list[Step]:
    """Something that is not linear, of which everybody takes the gradient."""
    return call.whole(linear=False)


def _random(call: Call) -> Step:
    raise call.refused("it is random in eval mode too")


def _linear_map(call: Call) -> list[Step]:
    return call.whole(linear=True)


def _is_for_its_size(call: Call) -> bool:
    """Whether nothing is read of what a call makes but its size."""
    return all(map(asks_for_shape, call.node.users))


def _attribute(call: Call) -> list[Step] | None:
    attribute = call.node.args[1]
    linear = attribute in ("mT", "mH", "real") or (attribute == "data" and _is_for_its_size(call))
    return call.whole(linear=True) if linear else None


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _each_rank(room: Any, name: str, build: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """What builds the step of a module or a function for maps of one, two or three axes, given that number first."""
    return {getattr(room, f"{name}{rank}d"): functools.partial(build, rank) for rank in (1, 2, 3)}


_PADS = {
    getattr(nn, f"{name}Pad{rank}d"): mode
    for name, mode in (
        ("Zero", "constant"),
        ("Constant", "constant"),
        ("Reflection", "reflect"),
        ("Replication", "replicate"),
        ("Circular", "circular"),
    )
    for rank in (1, 2, 3)
}


_MODULES: dict[Any, Callable[[Call, Any], Any]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_module),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_convolution_module),
    nn.Linear: lambda call, module: Linear(call.name, *_parameters_of(call, module)),
    **_each_rank(nn, "MaxPool", _max_pool_module),
    **_each_rank(own, "MaxPool", _max_pool_module),
    nn.ReLU: lambda call, module: Rectifier(call.name, call.rule),
    nn.ReLU6: lambda call, module: Rectifier(call.name, call.rule, 6.0),
    nn.LeakyReLU: lambda call, module: _leaky(call),
    nn.Hardtanh: lambda call, module: _clamp(call, module.min_val, module.max_val),
    nn.Threshold: lambda call, module: _threshold(call, module.threshold, module.value),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_normalization),
    nn.LocalResponseNorm: lambda call, module: Normalization(call.name, call.function, call.exact),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        lambda call, module: _adaptive_average_pool(call, module.output_size),
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        lambda call, module: None if module.return_indices else _gradient(call),
    ),
    **dict.fromkeys((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), lambda call, module: _random(call)),
    **_each_rank(nn, "AvgPool", _average_pool_module),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        lambda call, module: _interpolate(call, module.mode),
    ),
    nn.Flatten: lambda call, module: _flatten(call, module.start_dim, module.end_dim),
    **dict.fromkeys(
        (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Fold),
        lambda call, module: _linear_map(call),
    ),
    nn.Unflatten: lambda call, module: _linear_map(call) if module.dim not in (0, -4) else None,
    nn.Identity: lambda call, module: Identity(call.name),
    **dict.fromkeys(_DROPOUTS, lambda call, module: Identity(call.name)),
    **dict.fromkeys(
        _PADS, lambda call, module: _pad(call, module.padding, _PADS[known_type(type(module)) or nn.ZeroPad2d])
    ),
}


_FUNCTIONS: dict[Any, Callable[[Call], Any]] = {
    **dict.fromkeys(
        (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), lambda call: Rectifier(call.name, call.rule)
    ),
    F.relu6: lambda call: Rectifier(call.name, call.rule, 6.0),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky),
    **dict.fromkeys(
        (F.hardtanh, F.hardtanh_),
        lambda call: _clamp(call, call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)),
    ),
    **dict.fromkeys(
        (
            *(torch.clamp, torch.clamp_, torch.clip, torch.clip_, torch.clamp_min, torch.clamp_min_),
            *("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"),
        ),
        lambda call: _clamp(call, call.argument(1, "min"), call.argument(2, "max")),
    ),
    **dict.fromkeys(
        (F.threshold, torch.threshold, torch.threshold_),
        lambda call: _threshold(call, call.argument(1, "threshold"), call.argument(2, "value")),
    ),
    **_each_rank(F, "max_pool", _max_pool_function),
    **_each_rank(torch, "max_pool", _max_pool_function),
    **{getattr(F, f"max_pool{rank}d_with_indices"): functools.partial(_max_pool_function, rank) for rank in (1, 2, 3)},
    **_each_rank(ops, "max_pool", _own_max_pool_function),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), _gradient),
    **dict.fromkeys(
        (F.fractional_max_pool2d, F.fractional_max_pool3d, F.gumbel_softmax, torch.bernoulli, torch.rand_like), _random
    ),
    **dict.fromkeys((torch.randn_like, torch.randint_like), _random),
    **_each_rank(F, "avg_pool", _average_pool_function),
    **dict.fromkeys(
        (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
        lambda call: _adaptive_average_pool(call, call.argument(1, "output_size")),
    ),
    **dict.fromkeys((torch.clone, "clone"), lambda call: Shift(call.name, call.function)),
    **dict.fromkeys(
        (torch.flatten, "flatten"),
        lambda call: _flatten(call, call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)),
    ),
    **dict.fromkeys(("view", "reshape", torch.reshape), _view),
    **dict.fromkeys((torch.squeeze, "squeeze"), _squeeze),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    operator.getitem: _item,
    getattr: _attribute,
    **dict.fromkeys((torch.detach, "detach"), lambda call: _linear_map(call) if _is_for_its_size(call) else None),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout), _dropout),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    "contiguous": lambda call: Shift(call.name, call.function),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution_function),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _transposed_convolution_function),
    F.linear: lambda call: (
        call.whole(linear=True, alone=True) if _is_sized(call) else Linear(call.name, *_parameters_given(call))
    ),
    F.batch_norm: _batch_normalization_function,
    F.local_response_norm: _response_normalization,
    F.pad: lambda call: _pad(call, call.argument(1, "pad"), call.argument(2, "mode", "constant")),
    **dict.fromkeys((F.interpolate, F.upsample), lambda call: _interpolate(call, call.argument(3, "mode", "nearest"))),
    **dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle, torch.pixel_shuffle, torch.channel_shuffle), _linear_map),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add(1)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"), _add(-1)),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"), _multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_"), _divide),
    **dict.fromkeys((operator.neg, torch.neg, "neg", "neg_"), lambda call: Scale(call.name, call.function, -1.0)),
    set_item: _set_item,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concatenate),
}
