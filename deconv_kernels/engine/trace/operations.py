"""The modules, functions and tensor methods that have rules of their own, and the steps that they are; by exact type,
never by likeness."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ... import nn as own
from ... import ops
from ...ops.geometry import PerAxis, per_axis
from ..expressions import Expression
from ..nodes import VALUE, Node, nodes_in, set_item
from ..ranks import each_rank
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
Rule = Callable[[Call], Built]


def is_known(kind: Any) -> bool:
    """Whether a function, a method of some name or a type of module has a rule."""
    return kind in _RULES or canonical(kind) in _RULES


def known_type(kind: type) -> type | None:
    """The type of module with a rule that a type is, or of which it is a subclass with the same forward; else None."""
    for base in kind.__mro__:
        if base in _RULES:
            methods = ("forward", "_conv_forward", "_check_input_dim")
            same = all(getattr(kind, method, None) is getattr(base, method, None) for method in methods)
            return base if same else None
    return None


def normalizes(module: nn.Module) -> bool:
    """Whether a module is response or contrast normalisation."""
    return getattr(module, "deconvnet_identity", False) or known_type(type(module)) is nn.LocalResponseNorm


def built_of(call: Call) -> Built:
    """The step or steps that what is called has a rule for; None where it has none.

    Raises:
        UnsupportedModule: this call of it is not exact.
    """
    kind: Any = call.node.target
    if call.module is not None:
        if normalizes(call.module):
            return _normalization(call)
        kind = known_type(call.kind())
    elif call.node.kwargs.get("out") is not None:
        raise call.refused("it writes into a given tensor; use what it returns")
    rule = _RULES.get(kind) or _RULES.get(canonical(kind))
    return None if rule is None else rule(call)


def along_the_batch(call: Call, needed: str) -> list[Step]:
    """What works along the dimension of the batch; with sizes known it keeps that dimension, and is tried out.

    Raises:
        NeedsSizes: they are not known.
    """
    if VALUE not in call.node.meta:
        raise call.refused_unsized(needed)
    return call.whole(linear=True, alone=True)


def check_index(call: Call, index: Any) -> None:
    """Whether an index keeps images apart."""
    parts: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    if not (parts[0] == slice(None) or parts[0] is Ellipsis):
        raise call.refused("it takes some of the images; begin the index with a colon")
    if parts[0] is Ellipsis and len(parts) > 3:
        raise call.refused_unsized("it may take some of the images; begin the index with a colon")


def _linear_map(call: Call) -> list[Step]:
    return call.whole(linear=True)


def _gradient(call: Call) -> list[Step]:
    """Something that is not linear, of which everybody takes the gradient."""
    return call.whole(linear=False)


def _random(call: Call) -> Step:
    raise call.refused("it is random in eval mode too")


def _rectifier(call: Call) -> Step:
    return Rectifier(call.name, call.rule)


def _clamp(call: Call, low: Any, high: Any) -> Step:
    ceiling = math.inf if high is None else high
    if isinstance(low, Node) or isinstance(ceiling, Node) or low != 0 or not ceiling > 0:
        if call.rule == "gradient" and len(call.signals) == 1:
            return Activation(call.name, call.function, "gradient")
        raise call.undecided(f"only bounds from 0 up make a rectifier, it has {low} and {high}; ")
    return Rectifier(call.name, call.rule, float(ceiling))


def _threshold(call: Call) -> Step:
    if call.setting(1, "threshold") != 0 or call.setting(2, "value") != 0:
        if call.rule == "gradient":
            return Activation(call.name, call.function, "gradient")
        raise call.undecided("only a threshold of 0 with the value 0 is a rectifier; ")
    return Rectifier(call.name, call.rule)


def _leaky(call: Call) -> Step:
    return Activation(call.name, call.function, call.rule)


def _normalization(call: Call) -> Step:
    return Normalization(call.name, call.function, call.exact)


def _constant(call: Call, argument: Any) -> Expression | None:
    """An argument that is a parameter or buffer of the model, or computed from them, or None."""
    if argument is None:
        return None
    known = isinstance(argument, Node) and argument in call.constants
    value = call.constants.expression(argument) if known else None
    if value is None or value.is_sized:
        raise call.refused("its weight and bias must be parameters of the model, not computed from the images")
    return value


def _tensor(call: Call, position: int, name: str) -> Expression | None:
    """A tensor that a call is given, or that the module has which is called; None where there is none."""
    if call.module is None:
        return _constant(call, call.argument(position, name))
    return None if getattr(call.module, name) is None else call.constants.tensor(f"{call.node.target}.{name}")


def _weight(call: Call) -> Expression:
    module = call.module
    if module is None:
        weight = _constant(call, call.argument(1, "weight"))
        if weight is None:
            raise call.refused("it has no weight")
        return weight
    is_computed = parametrize.is_parametrized(module, "weight") or computed_by_hook(module, "weight") is not None
    if "weight" not in module._parameters and not is_computed:
        raise call.refused("a hook computes its weight; make the weight permanent, or use parametrizations")
    return call.constants.tensor(f"{call.node.target}.weight")


def _weighted(build: Callable[[Call, Expression, Expression | None], Built]) -> Rule:
    """The rule for what has a weight and a bias, as long as these depend on neither the images nor their sizes."""

    def rule(call: Call) -> Built:
        if call.module is None and call.function.is_sized and call.signals == [call.argument(0, "input")]:
            return call.whole(linear=True, alone=True)
        if len(call.signals) > 1 and call.rule == "gradient":
            return None
        return build(call, _weight(call), _tensor(call, 2, "bias"))

    return rule


def _kernel(call: Call, weight: Expression) -> PerAxis:
    """The size of a convolution's filters."""
    return tuple(weight.now().shape[2:]) if call.module is None else call.setting(None, "kernel_size")


def _along(call: Call, kernel: PerAxis, position: int, name: str, default: int) -> Any:
    """What a convolution has for each axis of its kernel; a module holds it in that form."""
    value = call.setting(position, name, default)
    return value if call.module is not None or isinstance(value, str) else per_axis(value, len(kernel), name)


@_weighted
def _convolution(call: Call, weight: Expression, bias: Expression | None) -> Built:
    kernel, groups = _kernel(call, weight), call.setting(6, "groups", 1)
    stride, padding = _along(call, kernel, 3, "stride", 1), _along(call, kernel, 4, "padding", 0)
    before: list[Step] = []
    if (mode := getattr(call.module, "padding_mode", "zeros")) != "zeros":
        sides = list(call.setting(None, "_reversed_padding_repeated_twice"))
        before = [Whole(f"{call.name}.pad", lambda x: F.pad(x, sides, mode), signals=1, linear=True)]
        padding = (0,) * len(kernel)
    dilation = _along(call, kernel, 5, "dilation", 1)
    return [*before, Convolution(call.name, weight, bias, kernel, stride, padding, dilation, groups)]


@_weighted
def _transposed_convolution(call: Call, weight: Expression, bias: Expression | None) -> Built:
    if call.looked_at or (call.module is None and nodes_in(call.node.args[3:])):
        return call.whole(linear=True, alone=True)
    kernel, groups = _kernel(call, weight), call.setting(6, "groups", 1)
    stride, padding = _along(call, kernel, 3, "stride", 1), _along(call, kernel, 4, "padding", 0)
    dilation = _along(call, kernel, 7, "dilation", 1)
    return TransposedConvolution(call.name, call.function, weight, kernel, stride, padding, dilation, groups)


@_weighted
def _linear(call: Call, weight: Expression, bias: Expression | None) -> Built:
    return Linear(call.name, weight, bias)


def _window_is_computed(call: Call) -> bool:
    """Whether something beside its map is known only when the network runs."""
    return bool(nodes_in((call.node.args[1:], [v for k, v in call.node.kwargs.items() if k != "input"])))


def _max_pool(rank: int, call: Call) -> list[Step] | MaxPool:
    if _window_is_computed(call):
        return _gradient(call)
    window = window_of(rank, call.setting(1, "kernel_size"), call.setting(2, "stride"))
    padding = per_axis(call.setting(3, "padding", 0), rank, "padding")
    dilation = per_axis(call.setting(4, "dilation", 1), rank, "dilation")
    return MaxPool(call.name, *window, padding, dilation, call.setting(5, "ceil_mode", False))


def _own_max_pool(rank: int, call: Call) -> list[Step]:
    if call.setting(None, "bias") is not None:
        raise call.refused("add the bias before it, so that it is a step of its own")
    if _window_is_computed(call):
        raise call.refused("its window depends on the size of maps; give numbers")
    pool = _max_pool(rank, call)
    assert isinstance(pool, MaxPool)
    return [Rectifier(f"{call.name}.relu", call.rule), pool] if call.setting(None, "relu", False) else [pool]


def _average_pool(rank: int, call: Call) -> list[Step] | Step:
    if _window_is_computed(call):
        return call.whole(linear=True)
    window = window_of(rank, call.setting(1, "kernel_size"), call.setting(2, "stride"))
    padding = per_axis(call.setting(3, "padding", 0), rank, "padding")
    ceil_mode, count_include_pad = call.setting(4, "ceil_mode", False), call.setting(5, "count_include_pad", True)
    return AveragePool(call.name, *window, padding, ceil_mode, count_include_pad, call.setting(6, "divisor_override"))


def _adaptive_average_pool(call: Call) -> list[Step] | Step:
    if call.looked_at or isinstance(call.setting(1, "output_size"), Node):
        return call.whole(linear=True)
    return AdaptiveAveragePool(call.name, call.function)


def _adaptive_max_pool(call: Call) -> list[Step] | None:
    return None if getattr(call.module, "return_indices", False) else _gradient(call)


def _batch_normalization(call: Call) -> Step:
    mean, variance = _tensor(call, 1, "running_mean"), _tensor(call, 2, "running_var")
    trains = call.module is None and call.argument(5, "training", False)
    if mean is None or variance is None or trains:
        raise call.refused("running statistics are needed; without them it mixes the images of a batch")
    weight, bias = _tensor(call, 3, "weight"), _tensor(call, 4, "bias")
    return BatchNormalization(call.name, mean, variance, weight, bias, call.setting(7, "eps", 1e-5))


def _dropout(call: Call) -> Step:
    training = "train" if call.node.target is torch.dropout else "training"
    if call.module is None and call.argument(2, training, True):
        raise call.refused("it drops values in eval mode too; pass training=self.training")
    return Identity(call.name)


def _flatten(call: Call) -> list[Step] | Step:
    start, end = call.setting(1, "start_dim", 0), call.setting(2, "end_dim", -1)
    if start == 1 and end == -1:
        return Flatten(call.name)
    if start == 0 or start == -4:
        return along_the_batch(call, "flattening the batch dimension mixes images; start at dimension 1")
    return call.whole(linear=True)


def _unflatten(call: Call) -> list[Step] | None:
    return None if call.setting(None, "dim") in (0, -4) else call.whole(linear=True)


def _pad(call: Call, sides: Any, mode: str) -> list[Step] | Step:
    numbers = list(sides) if isinstance(sides, tuple | list) else []
    while mode == "constant" and numbers[-2:] == [0, 0] and len(numbers) > 2:
        numbers = numbers[:-2]
    if mode == "constant" and len(numbers) in (2, 4, 6) and all(isinstance(side, int) for side in numbers):
        return ZeroPad(call.name, call.function, tuple(numbers[-2::-2]))
    if len(numbers) > 8:
        raise call.refused("padding of the batch dimension mixes images")
    return call.whole(linear=True)


def _interpolate(call: Call) -> list[Step]:
    mode = call.setting(3, "mode", "nearest")
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
    if isinstance(first, Node) or (len(shape) > 1 and first == -1 and -1 not in shape[1:]):
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
    if len(call.signals) > 1:
        return None
    index = call.node.args[1]
    check_index(call, index)
    parts: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    step = parts[1] if len(parts) == 2 and parts[0] == slice(None) else None
    if isinstance(step, slice) and step.step in (None, 1) and not nodes_in((step.start, step.stop)):
        return ChannelSlice(call.name, call.function, lambda channels: step.indices(channels)[:2])
    return call.whole(linear=True)


def _set_item(call: Call) -> list[Step]:
    index = call.node.args[1]
    mask = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if call.has_signal(mask) and not call.has_signal(call.node.args[2]) and call.rule == "gradient":
        return call.whole(linear=False, alone=True)
    check_index(call, index)
    if any(node not in call.constants for node in nodes_in(index)):
        raise call.refused("its index is computed from the images")
    return call.whole(linear=True, alone=True)


def _is_for_its_size(call: Call) -> bool:
    """Whether nothing is read of what a call makes but its size."""
    return all(map(asks_for_shape, call.node.users))


def _attribute(call: Call) -> list[Step] | None:
    attribute = call.node.args[1]
    linear = attribute in ("mT", "mH", "real") or (attribute == "data" and _is_for_its_size(call))
    return call.whole(linear=True) if linear else None


def _detach(call: Call) -> list[Step] | None:
    return call.whole(linear=True) if _is_for_its_size(call) else None


def _operands(call: Call) -> tuple[Any, Any]:
    return call.argument(0, "input"), call.argument(1, "other")


def _add(sign: int, call: Call) -> list[Step] | Step | None:
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


def _by_rank(rule: Callable[[int, Call], Built], name: str, *rooms: Any) -> dict[Any, Rule]:
    """A rule for modules or functions of a name that is given the number of axes of their maps."""
    return {kind: functools.partial(rule, rank) for kind, rank in each_rank(name, *rooms).items()}


def _pads(name: str, mode: str) -> dict[Any, Rule]:
    """The rule for the modules that pad in one way."""
    modules = each_rank(f"{name}Pad{{}}d", nn)
    return dict.fromkeys(modules, lambda call: _pad(call, call.setting(None, "padding"), mode))


# By the type of a module, by the function, or by the name of a method. Those of which `canonical` knows all spellings
# stand here under their first.
_RULES: dict[Any, Rule] = {
    nn.ReLU: _rectifier,
    nn.ReLU6: lambda call: Rectifier(call.name, call.rule, 6.0),
    nn.LeakyReLU: _leaky,
    nn.Hardtanh: lambda call: _clamp(call, call.setting(1, "min_val", -1.0), call.setting(2, "max_val", 1.0)),
    **dict.fromkeys(
        (torch.clamp, torch.clamp_min), lambda call: _clamp(call, call.argument(1, "min"), call.argument(2, "max"))
    ),
    nn.Threshold: _threshold,
    **dict.fromkeys((*each_rank("Conv{}d", nn), *each_rank("conv{}d", F)), _convolution),
    **dict.fromkeys((*each_rank("ConvTranspose{}d", nn), *each_rank("conv_transpose{}d", F)), _transposed_convolution),
    **dict.fromkeys((nn.Linear, F.linear), _linear),
    **_by_rank(_max_pool, "MaxPool{}d", nn),
    **_by_rank(_max_pool, "max_pool{}d", F, torch),
    **_by_rank(_max_pool, "max_pool{}d_with_indices", F),
    **_by_rank(_own_max_pool, "MaxPool{}d", own),
    **_by_rank(_own_max_pool, "max_pool{}d", ops),
    **_by_rank(_average_pool, "AvgPool{}d", nn),
    **_by_rank(_average_pool, "avg_pool{}d", F),
    **dict.fromkeys(
        (*each_rank("AdaptiveAvgPool{}d", nn), *each_rank("adaptive_avg_pool{}d", F)), _adaptive_average_pool
    ),
    **dict.fromkeys((*each_rank("AdaptiveMaxPool{}d", nn), *each_rank("adaptive_max_pool{}d", F)), _adaptive_max_pool),
    **dict.fromkeys((*each_rank("BatchNorm{}d", nn), nn.SyncBatchNorm, F.batch_norm), _batch_normalization),
    **dict.fromkeys((nn.LocalResponseNorm, F.local_response_norm), _normalization),
    nn.Identity: lambda call: Identity(call.name),
    **dict.fromkeys((nn.Dropout, F.dropout, torch.dropout), _dropout),
    **dict.fromkeys((*each_rank("Dropout{}d", nn), *each_rank("dropout{}d", F)), _dropout),
    **dict.fromkeys((nn.AlphaDropout, nn.FeatureAlphaDropout, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **dict.fromkeys(
        (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, F.fractional_max_pool2d, F.fractional_max_pool3d), _random
    ),
    **dict.fromkeys(
        (F.gumbel_softmax, torch.bernoulli, torch.rand_like, torch.randn_like, torch.randint_like), _random
    ),
    **_pads("Zero", "constant"),
    **_pads("Constant", "constant"),
    **_pads("Reflection", "reflect"),
    **_pads("Replication", "replicate"),
    **_pads("Circular", "circular"),
    F.pad: lambda call: _pad(call, call.argument(1, "pad"), call.argument(2, "mode", "constant")),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _interpolate),
    **dict.fromkeys((F.interpolate, F.upsample), _interpolate),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Fold), _linear_map),
    **dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle, torch.pixel_shuffle, torch.channel_shuffle), _linear_map),
    **dict.fromkeys((nn.Flatten, torch.flatten), _flatten),
    nn.Unflatten: _unflatten,
    **dict.fromkeys(("view", torch.reshape), _view),
    torch.squeeze: _squeeze,
    torch.permute: _permute,
    **dict.fromkeys((torch.clone, "contiguous"), lambda call: Shift(call.name, call.function)),
    torch.detach: _detach,
    getattr: _attribute,
    operator.getitem: _item,
    set_item: _set_item,
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add_"), functools.partial(_add, 1)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub_"), functools.partial(_add, -1)),
    operator.mul: _multiply,
    operator.truediv: _divide,
    **dict.fromkeys((operator.neg, torch.neg, "neg_"), lambda call: Scale(call.name, call.function, -1.0)),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concatenate),
}
