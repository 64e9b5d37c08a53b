"""Which step a module, function or tensor method in a traced network is; by exact type, never by likeness."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import nn as own
from ._pooling import pair
from .convolution import Convolution
from .steps import (
    AdaptiveAveragePool,
    AveragePool,
    BatchNormalization,
    Flatten,
    Identity,
    Linear,
    MaxPool,
    Normalization,
    Rectifier,
    Step,
)

Node = torch.fx.Node
Parameters = Callable[[], tuple[Tensor, Tensor | None]]
NO_STEP = "a step in deconv_kernels/steps.py would have to define one"


class UnsupportedModule(ValueError):  # noqa: N818
    """The network has a part for which there is no exact rule."""


@dataclass(frozen=True)
class Call:
    """One node of a traced network that computes something.

    Attributes:
        node: of the graph.
        model: the network it belongs to.
        name: what its step will be called.
        rule: "deconvnet", "guided" or "gradient", for a rectifier.
        exact: whether a normalisation runs backwards by its gradient.
    """

    node: Node
    model: nn.Module
    name: str
    rule: str
    exact: bool

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of a function or method, given by position or by name."""
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def refused(self, needed: str) -> UnsupportedModule:
        """The error that says what would be needed."""
        return UnsupportedModule(f"{describe(self.node, self.model)} has no exact backward rule: {needed}")

    def steps(self) -> list[Step]:
        """The steps the call stands for.

        Raises:
            UnsupportedModule: there is no exact rule for it.
        """
        if self.node.op == "call_module":
            module = self.model.get_submodule(str(self.node.target))
            if getattr(module, "deconvnet_identity", False):
                return [Normalization(self.name, module.forward, self.exact)]
            steps = _MODULES.get(parametrize.type_before_parametrizations(module))
            if steps is None:
                raise self.refused(NO_STEP)
            return steps(self, module)
        function = _FUNCTIONS.get(self.node.target)
        if function is None:
            raise self.refused(NO_STEP)
        return [function(self)]


def describe(node: Node, model: nn.Module) -> str:
    """What a node is, for an error message."""
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target))).__name__
        return f"module {node.target!r} ({kind}, node {node.name!r})"
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))
    return f"{'method' if node.op == 'call_method' else 'function'} {target} (node {node.name!r})"


def _clamp(call: Call, low: Any, high: Any) -> Rectifier:
    ceiling = math.inf if high is None else high
    if isinstance(low, Node) or isinstance(ceiling, Node) or low != 0 or not ceiling > 0:
        raise call.refused(f"only bounds from 0 up make a rectifier, it has {low} and {high}")
    return Rectifier(call.name, call.rule, float(ceiling))


def _threshold(call: Call, threshold: Any, value: Any) -> Rectifier:
    if threshold != 0 or value != 0:
        raise call.refused("only a threshold of 0 with the value 0 is a rectifier")
    return Rectifier(call.name, call.rule)


def _max_pool(call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> MaxPool:
    kernel = pair(kernel, "kernel_size")
    step = kernel if stride is None or stride == [] else pair(stride, "stride")
    return MaxPool(call.name, kernel, step, pair(padding, "padding"), pair(dilation, "dilation"), ceil_mode)


def _average_pool(
    call: Call, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> AveragePool:
    kernel = pair(kernel, "kernel_size")
    step = kernel if stride is None or stride == [] else pair(stride, "stride")
    window = (kernel, step, pair(padding, "padding"), ceil_mode, count_include_pad, divisor)
    return AveragePool(
        call.name,
        lambda x: F.avg_pool2d(x, *window),
        lambda signal, like: torch.ops.aten.avg_pool2d_backward(signal, like, *window),
    )


def _adaptive_average_pool(call: Call, size: Any) -> AdaptiveAveragePool:
    return AdaptiveAveragePool(call.name, (size[0], size[1]) if isinstance(size, tuple | list) else (size, size))


def _flatten(call: Call, start: Any, end: Any) -> Flatten:
    if start != 1 or end not in (-1, 3):
        raise call.refused("only flattening of everything but the batch dimension is supported")
    return Flatten(call.name)


def _parameters_of(call: Call, module: nn.Module) -> Parameters:
    if "weight" not in module._parameters and not parametrize.is_parametrized(module, "weight"):
        raise call.refused("a hook computes its weight; make the weight permanent, or use parametrizations")
    return lambda: (module.weight, module.bias)  # type: ignore[return-value]


def _parameters_given(call: Call) -> Parameters:
    """Weight and bias of a functional layer, which have to be parameters or buffers of the model."""
    readers: list[Callable[[Any], Any]] = []
    for value in (call.argument(1, "weight"), call.argument(2, "bias")):
        if isinstance(value, Node) and value.op == "get_attr":
            readers.append(operator.attrgetter(str(value.target)))
        elif value is None and readers:
            readers.append(lambda model: None)
        else:
            raise call.refused("its weight and bias must be parameters of the model, not computed")
    return lambda: (readers[0](call.model), readers[1](call.model))


def _convolution_module(call: Call, module: Any) -> list[Step]:
    if module.padding_mode != "zeros":
        raise call.refused(f"the adjoint of {module.padding_mode!r} padding would be needed")
    parameters = _parameters_of(call, module)
    window = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    return [Convolution(call.name, parameters, *window)]


def _convolution_function(call: Call) -> Convolution:
    parameters = _parameters_given(call)
    height, width = parameters()[0].shape[2:]
    padding = call.argument(4, "padding", 0)
    return Convolution(
        call.name,
        parameters,
        (height, width),
        pair(call.argument(3, "stride", 1), "stride"),
        padding if isinstance(padding, str) else pair(padding, "padding"),
        pair(call.argument(5, "dilation", 1), "dilation"),
        call.argument(6, "groups", 1),
    )


def _max_pool_module(call: Call, module: Any) -> list[Step]:
    if getattr(module, "return_indices", False) or getattr(module, "return_switches", False):
        raise call.refused("a pooling that returns its values only is needed")
    pool = _max_pool(call, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    return [Rectifier(f"{call.name}.relu", call.rule), pool] if getattr(module, "relu", False) else [pool]


def _max_pool_function(call: Call) -> MaxPool:
    if call.argument(6, "return_indices", False):
        raise call.refused("a pooling that returns its values only is needed")
    kernel, stride = call.argument(1, "kernel_size"), call.argument(2, "stride")
    padding, dilation = call.argument(3, "padding", 0), call.argument(4, "dilation", 1)
    return _max_pool(call, kernel, stride, padding, dilation, call.argument(5, "ceil_mode", False))


def _average_pool_module(call: Call, module: Any) -> list[Step]:
    window = (module.kernel_size, module.stride, module.padding, module.ceil_mode)
    return [_average_pool(call, *window, module.count_include_pad, module.divisor_override)]


def _average_pool_function(call: Call) -> AveragePool:
    kernel, stride, padding = (
        call.argument(1, "kernel_size"),
        call.argument(2, "stride"),
        call.argument(3, "padding", 0),
    )
    ceil_mode, count_include_pad = call.argument(4, "ceil_mode", False), call.argument(5, "count_include_pad", True)
    return _average_pool(
        call, kernel, stride, padding, ceil_mode, count_include_pad, call.argument(6, "divisor_override")
    )


def _batch_normalization(call: Call, module: Any) -> list[Step]:
    if module.running_mean is None or module.running_var is None:
        raise call.refused("running statistics are needed; without them it mixes the images of a batch")
    return [BatchNormalization(call.name, module)]


def _response_normalization(call: Call) -> Normalization:
    size, alpha = call.argument(1, "size"), call.argument(2, "alpha", 1e-4)
    beta, k = call.argument(3, "beta", 0.75), call.argument(4, "k", 1.0)
    return Normalization(call.name, lambda x: F.local_response_norm(x, size, alpha, beta, k), call.exact)


def _view(call: Call) -> Flatten:
    given: Any = call.node.args[1:]
    shape = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
    if len(shape) == 2 and isinstance(shape[1], int):
        batch, features = shape
        if is_batch_size(batch) and (features == -1 or features > 0):
            return Flatten(call.name, None if features == -1 else features)
        if batch == -1 and features > 0:
            return Flatten(call.name, features)
    raise call.refused("only flattening of everything but the batch dimension is supported")


def is_size(node: Node) -> bool:
    """Whether a node is about the shape of a tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.op == "call_function":
        if node.target is getattr:
            return node.args[1] in ("shape", "ndim")
        return node.target is operator.getitem and isinstance(node.args[0], Node) and is_size(node.args[0])
    return False


def is_batch_size(value: Any) -> bool:
    """Whether a value in a graph is `x.size(0)` or `x.shape[0]`."""
    if not isinstance(value, Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return bool(value.args[1:] == (0,) or value.kwargs.get("dim") == 0)
    return bool(value.target is operator.getitem and is_size(value) and value.args[1:] == (0,))


def is_in_place(node: Node, model: nn.Module) -> bool:
    """Whether a node overwrites its input, so that later readers of the input see its output."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") or bool(node.kwargs.get("inplace", False))


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

_MODULES: dict[type, Callable[[Call, Any], list[Step]]] = {
    nn.Conv2d: _convolution_module,
    nn.Linear: lambda call, module: [Linear(call.name, _parameters_of(call, module))],
    nn.MaxPool2d: _max_pool_module,
    own.MaxPool2d: _max_pool_module,
    nn.ReLU: lambda call, module: [Rectifier(call.name, call.rule)],
    nn.ReLU6: lambda call, module: [Rectifier(call.name, call.rule, 6.0)],
    nn.Hardtanh: lambda call, module: [_clamp(call, module.min_val, module.max_val)],
    nn.Threshold: lambda call, module: [_threshold(call, module.threshold, module.value)],
    nn.BatchNorm2d: _batch_normalization,
    nn.BatchNorm1d: _batch_normalization,
    nn.LocalResponseNorm: lambda call, module: [Normalization(call.name, module.forward, call.exact)],
    nn.AdaptiveAvgPool2d: lambda call, module: [_adaptive_average_pool(call, module.output_size)],
    nn.AvgPool2d: _average_pool_module,
    nn.Flatten: lambda call, module: [_flatten(call, module.start_dim, module.end_dim)],
    nn.Identity: lambda call, module: [Identity(call.name)],
    **dict.fromkeys(_DROPOUTS, lambda call, module: [Identity(call.name)]),
}

_FUNCTIONS: dict[Any, Callable[[Call], Step]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), lambda call: Rectifier(call.name, call.rule)),
    F.relu6: lambda call: Rectifier(call.name, call.rule, 6.0),
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
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool_function),
    F.avg_pool2d: _average_pool_function,
    F.adaptive_avg_pool2d: lambda call: _adaptive_average_pool(call, call.argument(1, "output_size")),
    **dict.fromkeys(
        (torch.flatten, "flatten"),
        lambda call: _flatten(call, call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)),
    ),
    **dict.fromkeys(("view", "reshape", torch.reshape), _view),
    **dict.fromkeys(
        (
            *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
            *(torch.dropout, "contiguous"),
        ),
        lambda call: Identity(call.name),
    ),
    F.conv2d: _convolution_function,
    F.linear: lambda call: Linear(call.name, _parameters_given(call)),
    F.local_response_norm: _response_normalization,
}
