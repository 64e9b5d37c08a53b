"""Networks that the engine is held to: the well-known ones of architectures.py, and traps.

`NETWORKS` lists them; `build` makes one with random weights, `trace` finds the node of each of its layers.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from architectures import (
    C3D,
    VGG,
    AlexNet,
    BasicBlock,
    Bottleneck,
    DenseNet,
    GoogLeNet,
    InceptionV3,
    MobileNetV2,
    PreActivationResNet,
    ResNet,
    SegNet,
    ShuffleNet,
    SignalResNet,
    SqueezeNet,
    UNetNearest,
    UNetOfSignals,
    UNetOfVolumes,
    UNetTransposed,
    UNetWithMaxUnpool,
    UNetWithSwitches,
    ZFNet,
)
from torch import Tensor, nn

import deconv_kernels.nn as own
from deconv_kernels.engine.trace.tracer import traceable


@dataclass(frozen=True)
class Network:
    """A network to test with.

    Attributes:
        make: builds it, with the weights torch gives it.
        layers: which are worth testing; all of them if none is named.
        size: (H, W) of its images, (D, H, W) of volumes, (L,) of signals.
        channels: of its images, or the features of a flat input.
        inputs: how many tensors its forward takes.
        overlap: whether it has max pools whose windows overlap.
        normalization: whether it has response or contrast normalisation.
        rules: what `Deconvnet` has to be told about it.
    """

    make: Callable[[], nn.Module]
    layers: tuple[str, ...] = ()
    size: tuple[int, ...] = (37, 43)
    channels: int = 3
    inputs: int = 1
    overlap: bool = False
    normalization: bool = False
    rules: Mapping[Any, str] = field(default_factory=dict)

    def images(self, count: int = 2, dtype: torch.dtype = torch.float64) -> Tensor | tuple[Tensor, ...]:
        """Random images, as the network takes them."""
        batches = tuple(torch.randn(count, self.channels, *self.size, dtype=dtype) for _ in range(self.inputs))
        return batches[0] if self.inputs == 1 else batches

    def build(self) -> nn.Module:
        """The network in float64 and eval mode, with random weights, biases and running statistics."""
        return randomise(self.make().double().eval(), *inputs_of(self.images(8)))


_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)


@torch.no_grad()
def randomise(model: nn.Module, *images: Tensor) -> nn.Module:
    """Gives a model random parameters and statistics with which signals neither vanish nor explode at any depth.

    As the images pass, weights are scaled to what they meet.
    """

    def meet_batch(module: Any, arguments: tuple[Tensor]) -> None:
        x = arguments[0].transpose(0, 1).flatten(1)
        deviation = x.std(1).clamp(min=0.1)
        module.running_mean.copy_(x.mean(1) + 0.3 * deviation * torch.randn_like(deviation))
        module.running_var.copy_(deviation.square() * torch.empty_like(deviation).uniform_(0.5, 2))
        module.weight.uniform_(0.5, 2).mul_(torch.randn_like(deviation).sign())
        module.bias.normal_(std=0.3)

    def meet(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if module not in met:
            met.add(module)
            scale = output.square().mean().sqrt().clamp(min=0.1)
            module.weight.div_(scale)
            if module.bias is not None:  # so that no map is negative everywhere
                mean = (output / scale).transpose(0, 1).flatten(1).mean(1)
                module.bias.normal_(std=0.3).sub_(mean)
        return module.forward(*arguments)

    met: set[nn.Module] = set()
    handles = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            handles.append(module.register_forward_pre_hook(meet_batch))
        elif isinstance(module, _CONVOLUTIONS):
            nn.init.normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            handles.append(module.register_forward_hook(meet))
    model(*(x.clone() for x in images))
    for handle in handles:
        handle.remove()
    return model


def inputs_of(images: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors that a network takes."""
    return images if isinstance(images, tuple) else (images,)


def some_units(activations: Tensor, count: int, rank: int = 2) -> Tensor:
    """Units (U, 2 + rank), a third each at corners, anywhere, and at the maximum of a map."""
    maps = activations.reshape(*activations.shape[:2], *(activations.shape[2:] or (1,) * rank))
    rows = []
    for number in range(count):
        image, channel = random.randrange(len(maps)), random.randrange(maps.shape[1])
        place = [random.randrange(length) for length in maps.shape[2:]]
        if number % 3 == 0:
            place = [random.choice((0, length - 1)) for length in maps.shape[2:]]
        if number % 3 == 1:
            place = [int(at) for at in torch.unravel_index(maps[image, channel].argmax(), maps.shape[2:])]
        rows.append((image, channel, *place))
    return torch.tensor(rows)


class InPlaceProxy(torch.fx.Proxy):
    """Traces `x += y` as what it is, where torch.fx takes it for `x = x + y`: other names of x see the sum."""

    def __iadd__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class Trace(torch.fx.Tracer):
    """The graph of a model, and which node every layer is.

    Attributes:
        module: the graph as a module, for `deconv_kernels.reference.project`.
        nodes: the name of the node whose value each layer has: paths of modules that are called once, and names of
            nodes. A container has the value that its forward returns.
        modules: the names of those layers that are modules.
        output: the node whose value the model returns, or the first of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._returned: dict[str, list[str]] = {}
        with traceable():
            graph = self.trace(model)
        self.module = torch.fx.GraphModule(model, graph)
        called_once = {path: names[0] for path, names in self._returned.items() if len(names) == 1}
        computed = [node.name for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self.nodes = {**{name: name for name in computed}, **called_once}
        self.modules = set(called_once)
        returned = next(node for node in graph.nodes if node.op == "output")
        self.output = returned.all_input_nodes[0].name

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own_layer = type(m).__module__ == own.__name__
        leaf = own_layer or getattr(m, "deconvnet_identity", False)
        return leaf or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        if isinstance(value, torch.fx.Proxy):
            self._returned.setdefault(self.path_of_module(m), []).append(value.node.name)
        return value


def conv(channels: int, width: int, kernel_size: int | tuple[int, int] = 3, padding: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size, padding=padding, **more)


class Doubling(nn.Module):
    """A contrast normalisation by the package's convention: it mixes channels, not positions."""

    deconvnet_identity = True

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.relu(x) / (1 + x.abs().mean(1, keepdim=True)) - x


class InstanceNormUNet(nn.Module):
    """As medical images are segmented; it is wide enough for maps whose channels lie together on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(1, 32), conv(32, 32, stride=2), conv(64, 32)
        self.norm1, self.norm2, self.norm3 = (
            nn.InstanceNorm2d(32, affine=True),
            nn.InstanceNorm2d(32),
            nn.InstanceNorm2d(32),
        )
        self.up, self.last = nn.ConvTranspose2d(32, 32, 2, 2), conv(32, 3, 1, padding=0)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.relu(self.norm1(self.first(x)))
        low = self.relu(self.norm2(self.second(skip)))
        return self.last(self.relu(self.norm3(self.third(torch.cat((self.up(low), skip), 1)))))


class Perceptron(nn.Module):
    """No images at all."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.fc2, self.fc3 = nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.fc1(x)))
        x = x + self.fc2(x).clamp(min=0)
        return self.fc3(x)


class Stereo(nn.Module):
    """Two images through one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2))
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.both = nn.Conv2d(8, 4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.tower(left), self.tower(right)
        a = F.relu(self.left(a)) - 0.5 * b
        return F.relu(self.both(torch.cat((a, b), 1)))


class Normalised(nn.Module):
    """Brings its images to mean 0 and deviation 1 by buffers; scales and shifts by parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
        self.scale, self.shift = nn.Parameter(torch.rand(4, 1, 1) - 0.5), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.a, self.b = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a((x - self.mean) / self.std)
        y = torch.relu(1 - x) * 0.3 + torch.relu(-x)
        y = torch.add(y, x, alpha=0.7).mul(2)
        y = torch.sub(self.b(F.relu(self.scale * y + self.shift)), x)
        y /= 3
        return torch.neg(y).div(1.5)


VGG16 = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M")
VGG11 = (4, "M", 6, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M")

NETWORKS: dict[str, Network] = {
    "AlexNet": Network(
        AlexNet,
        ("features.0", "features.2", "features.8", "features", "avgpool", "flatten", "classifier.2", "classifier.6"),
        size=(67, 75),
        overlap=True,
    ),
    "VGG16": Network(
        lambda: VGG(VGG16), ("features.3", "features.9", "features.29", "avgpool", "classifier.0", "classifier")
    ),
    "VGG11 with batch norm": Network(
        lambda: VGG(VGG11, batch_norm=True),
        ("features.1", "features.6", "features.13", "features.28", "classifier.1", "classifier.6"),
    ),
    "ZFNet": Network(
        ZFNet,
        ("relu", "max_pool2d", "norm", "norm_1", "conv5", "max_pool2d_2", "view", "fc6", "fc8"),
        size=(79, 85),
        overlap=True,
        normalization=True,
    ),
    "SqueezeNet 1.1": Network(
        SqueezeNet,
        ("features.3", "features.4.expand3x3", "cat_2", "features.9.squeeze_activation", "features.12", "classifier.1")
        + ("classifier", "flatten"),
        overlap=True,
    ),
    "GoogLeNet": Network(
        GoogLeNet,
        ("cat", "conv1", "maxpool2", "inception3a.branch4.0", "inception3b.branch3", "relu_12", "inception4c")
        + ("inception5b", "avgpool", "fc"),
        overlap=True,
    ),
    "Inception v3": Network(
        InceptionV3,
        ("Conv2d_2b_3x3.bn", "Mixed_5b.branch_pool.conv", "Mixed_5b", "max_pool2d", "Mixed_6b.branch7x7dbl_5")
        + ("Mixed_7a", "avg_pool2d_2", "cat_5", "Mixed_7b", "fc"),
        size=(83, 91),
        overlap=True,
    ),
    "ResNet-18": Network(
        lambda: ResNet(BasicBlock, (2, 2, 2, 2), (4, 6, 8, 8)),
        ("conv1", "maxpool", "layer1.0.bn2", "layer1_0_relu_1", "iadd_2", "layer2.0.downsample", "layer3", "layer4.1")
        + ("avgpool", "fc"),
        overlap=True,
    ),
    "ResNet-50": Network(
        lambda: ResNet(Bottleneck, (3, 4, 6, 3), (2, 2, 3, 3)),
        ("layer1.0", "layer1.2.bn1", "layer2_1_relu_2", "iadd_7", "layer3.5.conv2", "layer4", "fc"),
        overlap=True,
    ),
    "pre-activation ResNet": Network(
        PreActivationResNet,
        ("layer1.0", "relu_3", "layer2.0.shortcut", "layer3.1.conv1", "layer3", "avg_pool2d", "linear"),
        size=(35, 39),
    ),
    "DenseNet": Network(
        DenseNet,
        ("features.pool0", "features.denseblock1", "features.transition1.pool", "cat_9", "features.norm5", "features")
        + ("features.denseblock4.denselayer3.relu2", "relu", "classifier"),
        overlap=True,
    ),
    "MobileNet v2": Network(
        MobileNetV2,
        ("features.0", "features.3", "add_2", "features.7.conv.1.2", "features.14.conv.1.1", "features.17", "features")
        + ("adaptive_avg_pool2d", "classifier"),
    ),
    "ShuffleNet v2": Network(ShuffleNet, overlap=True),
    "SegNet": Network(SegNet),
    "U-Net with max-unpool": Network(UNetWithMaxUnpool),
    "U-Net with switches": Network(UNetWithSwitches, overlap=True),
    "U-Net with transposed convolution": Network(UNetTransposed),
    "U-Net with nearest interpolation": Network(UNetNearest),
    "U-Net with instance normalisation": Network(
        InstanceNormUNet,
        ("second", "relu_1", "third", "last"),
        size=(16, 12),
        channels=1,
        rules={nn.InstanceNorm2d: "gradient"},
    ),
    "perceptron": Network(Perceptron, size=(), channels=9),
    "two images": Network(Stereo, inputs=2),
    "normalised images": Network(Normalised, size=(13, 11)),
    "ECG ResNet": Network(SignalResNet, size=(151,), channels=2, overlap=True),
    "U-Net of signals": Network(UNetOfSignals, size=(45,), channels=1),
    "C3D": Network(C3D, size=(11, 19, 21), overlap=False),
    "U-Net of volumes": Network(UNetOfVolumes, size=(9, 13, 11), channels=1, overlap=True),
}


class Written(nn.Module):
    """A network written as a function of itself and its images."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def trap(
    *,
    size: tuple[int, ...] = (13, 17),
    overlap: bool = False,
    normalization: bool = False,
    rules: Any = None,
    **modules: Any,
) -> Callable[[Callable[[Any, Tensor], Any]], None]:
    """Lists a network under the name of the function decorated, which is its forward and reads these modules."""

    def register(forward: Callable[[Any, Tensor], Any]) -> None:
        NETWORKS[forward.__name__.replace("_", " ")] = Network(
            lambda: copy.deepcopy(Written(forward, **modules)),
            size=size,
            overlap=overlap,
            normalization=normalization,
            rules=rules or {},
        )

    return register


def later(names: str, width: int = 4) -> dict[str, nn.Module]:
    """Further convolutions of one width, one for each letter."""
    return {name: conv(width, width) for name in names}


@trap(a=conv(3, 4), **later("bcd"), relu=nn.ReLU())
def shared_relu_in_parallel_branches(net: Any, x: Tensor) -> Tensor:
    x = net.relu(net.a(x))
    return net.d(net.relu(net.b(x)) + net.relu(net.c(x)))


@trap(a=conv(3, 4), **later("bcd"), relu=nn.ReLU(inplace=True))
def shared_in_place_relu(net: Any, x: Tensor) -> Tensor:
    x = net.relu(net.a(x))
    y = net.b(x)
    return net.d(net.relu(y) + net.relu(net.c(x)) + y)


@trap(a=conv(3, 4), **later("bcd"))
def skip_before_relu(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = y + net.b(F.relu(y))
    return net.d(torch.relu(z)) + net.c(z)


@trap(a=conv(3, 4), **later("bcd"))
def skip_overwritten(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    skip = y
    z = net.b(F.relu_(y))
    z += skip
    before = z
    z.clamp_(min=0)
    return net.d(net.c(z)) + before


@trap(a=conv(3, 4), **later("bcd"))
def skip_added_to_in_place(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    skip = y
    y += net.b(F.relu(y))
    z = net.c(torch.relu(y)) + skip
    skip *= 0.7
    return net.d(z) + y


@trap(a=conv(3, 4), **later("bcd"), bn=nn.BatchNorm2d(4), relu=nn.ReLU(inplace=True))
def in_place_everywhere(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    skip = x
    x = F.dropout(net.relu(x), 0.5, net.training, inplace=True)
    y = net.bn(net.b(x))
    y.add_(skip)
    F.relu(y, inplace=True)
    y *= 0.5
    y.mul_(3).sub_(0.1)
    F.leaky_relu(y, 0.1, inplace=True)
    y += net.c(y)
    F.hardtanh(y, 0.0, 2.0, inplace=True)
    y -= 0.3 * skip
    return net.d(y).relu_()


@trap(a=conv(3, 4), b=conv(4, 4), relu=nn.ReLU(), block=nn.Sequential(conv(4, 4), nn.ReLU(inplace=True)))
def called_twice(net: Any, x: Tensor) -> Tensor:
    x = net.relu(net.a(x))
    x = net.b(x)
    x = net.relu(x)
    x = net.relu(net.b(x))
    return net.block(net.block(x)) + x


@trap(a=conv(3, 4), **later("bc"), leaky=nn.LeakyReLU(0.1), inplace=nn.LeakyReLU(inplace=True))
def leaky_relu(net: Any, x: Tensor) -> Tensor:
    x = net.leaky(net.a(x))
    x = F.leaky_relu(net.b(x), negative_slope=0.3) + x
    return net.inplace(net.c(x))


@trap(a=conv(3, 4), b=conv(4, 1), c=conv(3, 4))
def image_read_twice(net: Any, x: Tensor) -> Tensor:
    y = torch.relu(net.a(x))
    return torch.cat((x, net.b(y)), dim=1) + net.c(x)


@trap(a=conv(3, 4), b=conv(4, 3))
def image_overwritten(net: Any, x: Tensor) -> Tensor:
    x.relu_()
    return net.b(F.relu(net.a(x))) + x


@trap(
    size=(21, 17),
    overlap=True,
    a=conv(3, 4, padding_mode="reflect"),
    b=conv(4, 4, padding_mode="replicate"),
    c=conv(4, 4, padding=0),
    d=conv(4, 4),
    reflect=nn.ReflectionPad2d(2),
    zero=nn.ZeroPad2d((1, 2, 0, 3)),
    replicate=nn.ReplicationPad2d((1, 0, 2, 1)),
)
def paddings(net: Any, x: Tensor) -> Tensor:
    x = net.a(net.reflect(x)).relu()
    x = F.relu(net.b(net.zero(x)))
    x = F.relu(net.c(F.max_pool2d(net.replicate(x), 3, 2)))
    return net.d(F.pad(F.pad(x, (2, 1, 0, 2), value=0.5), [-1, -1, -1, -1]))


@trap(
    size=(37, 43),
    overlap=True,
    a=conv(3, 4),
    **later("bc"),
    d=conv(8, 4),
    dilated=nn.MaxPool2d(3, 1, dilation=2),
    average=nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    largest=nn.AdaptiveMaxPool2d((3, 2)),
    mean=nn.AdaptiveAvgPool2d((3, 2)),
)
def pools(net: Any, x: Tensor) -> Tensor:
    x = torch.max_pool2d(F.relu(net.a(x)), 3, 2)
    x = net.dilated(F.relu(net.b(x)))
    x = F.relu(net.c(F.max_pool2d(x, (3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True)))
    x = F.relu(net.average(x)) + F.avg_pool2d(x, 3, 2, 1, True, divisor_override=5)
    return net.d(torch.cat((net.largest(x), net.mean(x)), 1))


@trap(
    size=(23, 25),
    overlap=True,
    a=conv(3, 4),
    **later("cd"),
    pool=own.MaxPool2d(3, 2, 1, relu=True),
    other=own.MaxPool2d((3, 2), 2, 1),
)
def pools_that_rectify(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.pool(x)
    z = net.other(F.relu(x))
    return net.c(y) + net.d(z)


@trap(a=conv(3, 4), **later("bcdefg"), threshold=nn.Threshold(0, 0), hardtanh=nn.Hardtanh(0, 1.5, inplace=True))
def rectifier_spellings(net: Any, x: Tensor) -> Tensor:
    x = net.a(x).clamp(0, 1.5)
    x = F.relu6(3 * net.b(x))
    x = torch.clamp_min(net.c(x), 0) + F.hardtanh(net.d(x), 0, 1)
    x = F.threshold(net.e(x), 0, 0) + net.threshold(net.f(x)) + net.d(x).clip(min=0)
    return net.hardtanh(net.g(x)) + x.clamp_min_(0.0)


@trap(normalization=True, a=conv(3, 4), **later("bc"), local=nn.LocalResponseNorm(3, alpha=0.5), contrast=Doubling())
def normalisations(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    y = net.local(x) + net.contrast(x)
    return net.c(F.local_response_norm(torch.relu(net.b(y)), 3, alpha=0.3) + x)


@trap(a=conv(3, 4), b=conv(4, 4), c=conv(3, 4))
def channel_slices(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    a, b = torch.split(x, 2, dim=1)
    c, d = x.chunk(2, 1)
    y = torch.cat([b + c, a, d.relu()], 1)
    return net.b(y[:, 1:5]) + net.c(y[:, ::2])


@trap(
    size=(37, 43),
    a=conv(3, 4),
    **later("bcd"),
    twice=nn.Upsample(scale_factor=2),
    corners=nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
)
def interpolations(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(F.interpolate(x, scale_factor=0.5, mode="nearest")))
    x = F.relu(net.b(net.twice(x)))
    x = F.interpolate(x, size=(23, 31), mode="bilinear", align_corners=False)
    return net.d(torch.relu(net.c(net.corners(x))))


@trap(
    size=(23, 25),
    strided=conv(3, 8, (3, 2), (1, 0), stride=(2, 1), bias=False),
    depthwise=conv(8, 8, 3, 1, groups=8),
    pointwise=conv(8, 8, 1, 0, groups=2),
    transposed=nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1, groups=2, dilation=2),
    dilated=conv(4, 4, 3, 2, dilation=2),
    asymmetric=nn.Conv2d(4, 4, (2, 4), padding="same"),
)
def convolutions(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.strided(x))
    x = F.relu(net.depthwise(x)) + net.pointwise(x)
    x = F.relu(net.transposed(x))
    return net.asymmetric(F.relu(net.dilated(x)))


@trap(a=conv(3, 4), b=conv(4, 4, 1, 0), c=conv(4, 4, 1, 0), d=conv(8, 4))
def global_context(net: Any, x: Tensor) -> Tensor:
    x = net.a(x).relu()
    context = F.relu(net.b(F.adaptive_avg_pool2d(x, 1)))
    far = F.interpolate(net.c(x.mean((2, 3), keepdim=True)), size=x.shape[2:], mode="nearest")
    return net.d(torch.cat((x + context, F.relu(far)), 1))


@trap(size=(23, 25), overlap=True, a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(4, 5))
def mean_over_the_maps(net: Any, x: Tensor) -> Tensor:
    x = net.b(F.max_pool2d(F.relu(net.a(x)), 3, 2)).relu()
    return net.fc(x.mean((2, 3)))


@trap(
    a=conv(3, 4), b=conv(4, 4), flatten=nn.Flatten(), fc1=nn.Linear(80, 6), fc2=nn.Linear(80, 6), fc3=nn.Linear(16, 5)
)
def views(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(net.a(x)), 3, 3)
    y = F.relu(net.fc1(x.view(x.size(0), -1)))
    z = net.fc2(x.reshape(x.shape[0], -1)).relu_()
    return net.fc3(torch.cat((y, z, net.flatten(net.b(x).mean(dim=[-2, -1], keepdim=True))), dim=1))


@trap(a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(4, 5))
def several_outputs(net: Any, x: Tensor) -> dict[str, Tensor]:
    x = F.relu(net.a(x))
    return {"out": net.b(F.max_pool2d(x, 2)), "aux": net.fc(x.mean((2, 3)))}


@trap(
    rules={
        nn.SiLU: "gradient",
        torch.sigmoid: "gradient",
        operator.mul: "gradient",
        F.gelu: "rectifier",
        torch.tanh: "identity",
    },
    a=conv(3, 4),
    **later("bc"),
    silu=nn.SiLU(),
    fc1=conv(4, 2, 1, 0),
    fc2=conv(2, 4, 1, 0),
)
def smooth_activations_and_a_gate(net: Any, x: Tensor) -> Tensor:
    x = net.silu(net.a(x))
    gate = torch.sigmoid(net.fc2(F.relu(net.fc1(x.mean((2, 3), keepdim=True)))))
    x = net.b(x * gate)
    return net.c(F.gelu(x) + torch.tanh(x))


class StraightThrough(torch.autograd.Function):
    """Quantises, and passes its signal on as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (levels * x).round() / levels

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal, None


@trap(rules={StraightThrough: "gradient"}, a=conv(3, 4), **later("bcd"))
def quantised(net: Any, x: Tensor) -> Tensor:
    x = StraightThrough.apply(F.relu(net.a(x)), 8)
    return net.d(StraightThrough.apply(F.relu(net.b(x)) + x, 8) + F.relu(net.c(x)))


@trap(a=conv(5, 4), **later("bcd"))
def coordinates_as_channels(net: Any, x: Tensor) -> Tensor:
    n, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height).to(x).view(1, 1, height, 1).expand(n, 1, height, width)
    columns = torch.arange(width).type_as(x).div(width).repeat(n, 1, height, 1)
    x = F.relu(net.a(torch.cat((x, rows, columns), 1)))
    return net.d(F.relu(net.b(x)) + F.relu(net.c(torch.zeros_like(x) + x)))


@trap(a=conv(3, 4), **later("bcd"))
def shifted_maps(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    moved = torch.cat((x[:, :1].roll(1, 3), x.narrow(1, 1, 2).roll((-1, 2), (2, 3)), x[:, 3:].flip(2)), 1)
    x = F.relu(net.b(moved)) + x.mean((2, 3), keepdim=True).expand_as(x)
    return net.d(F.relu(net.c(x)).cumsum(3) / 8)


@trap(a=conv(3, 4), b=conv(4, 4, 3, 1, stride=2), **later("c"), fc=nn.Linear(4, 5))
def tokens(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.b(F.relu(net.a(x))))
    n, channels, height, width = x.shape
    tokens = x.flatten(2).swapaxes(1, 2)
    tokens = torch.cat((tokens.mean(1, keepdim=True).expand(n, 1, channels), tokens), dim=1)
    x = tokens[:, 1:].mT.unflatten(2, (height, width))
    return net.fc(tokens.select(1, 0) + F.relu(net.c(x)).mean((2, 3)))


@trap(
    rules={torch.max: "gradient", "max": "gradient", torch.var_mean: "gradient", operator.mul: "gradient"},
    a=conv(3, 4),
    gate=conv(2, 1),
    **later("bc"),
)
def largest_of_the_channels(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    gate = net.gate(torch.cat((torch.max(x, 1, keepdim=True)[0], x.mean(1, keepdim=True)), 1))
    x = F.relu(net.b(x * gate.relu()))
    first, second = x.chunk(2, dim=2)[0], x.max(dim=3, keepdim=True).values
    variance, mean = torch.var_mean(first, (2, 3), keepdim=True)
    return net.c(first + second.mean(2, keepdim=True) + variance - mean)


@trap(size=(12, 14), a=conv(3, 4), pool=nn.MaxPool2d(2, return_indices=True), unpool=nn.MaxUnpool2d(2), **later("bc"))
def unpooled_to_wider_maps(net: Any, x: Tensor) -> Tensor:
    x, indices = net.pool(F.relu(net.a(x)))
    x = F.relu(net.b(x))
    return net.c(net.unpool(x, indices, output_size=(13, 15))) + F.pad(F.relu(net.unpool(x, indices)), (0, 1, 0, 1))


@trap(
    size=(41,),
    overlap=True,
    a=nn.Conv1d(3, 6, 5, 2, padding_mode="reflect", padding=2),
    b=nn.Conv1d(6, 6, 4, padding="same", dilation=2, groups=3),
    c=nn.Conv1d(6, 4, 3, padding=1),
    d=nn.ConvTranspose1d(4, 4, 3, 2, 1, output_padding=1),
    bn=nn.BatchNorm1d(6),
    pool=own.MaxPool1d(3, 2, 1, relu=True),
    average=nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    longer=nn.Upsample(scale_factor=2, mode="linear"),
    pad=nn.ConstantPad1d((2, -1), 0.5),
    mean=nn.AdaptiveAvgPool1d(5),
    largest=nn.AdaptiveMaxPool1d(5),
)
def signals(net: Any, x: Tensor) -> Tensor:
    x = net.pool(net.bn(net.a(x)))
    x = F.relu(net.c(F.relu(net.b(net.pad(x)))))
    x = F.max_pool1d(F.pad(net.longer(x), (1, 0)), 3, 1, dilation=2) + 0.1
    x = net.average(x) + F.avg_pool1d(x, 3, 2, 1, True)
    return net.d(torch.cat((net.mean(x), net.largest(x)), 2).relu())[:, 1:] * 0.5


@trap(
    size=(7, 12, 9),
    overlap=True,
    a=nn.Conv3d(3, 6, (2, 3, 3), (1, 2, 1), (1, 1, 0), groups=3),
    b=nn.Conv3d(6, 4, 3, padding="same", dilation=(1, 1, 2), padding_mode="circular"),
    c=nn.ConvTranspose3d(4, 4, (1, 2, 2), (1, 2, 1)),
    d=nn.Conv3d(8, 4, 1),
    bn=nn.BatchNorm3d(6),
    pool=own.MaxPool3d((2, 3, 3), (1, 2, 2), (1, 1, 1), relu=True),
    average=nn.AvgPool3d(2, (1, 2, 2), ceil_mode=True, divisor_override=5),
    pad=nn.ReplicationPad3d((1, 0, 0, 1, 1, 0)),
)
def volumes(net: Any, x: Tensor) -> Tensor:
    x = net.pool(net.bn(net.a(F.pad(x, (0, 1, -1, 0, 1, 0)))))
    x = F.relu(net.b(net.pad(x)))
    y = F.interpolate(net.c(net.average(x)), size=x.shape[2:], mode="trilinear", align_corners=False)
    x = F.max_pool3d(x + y.relu(), 2, 1, 1, ceil_mode=True)
    return net.d(torch.cat((x, x.mean((2, 3, 4), keepdim=True).expand_as(x)), 1)).relu()


@trap(
    size=(12, 10),
    a=conv(3, 4),
    b=nn.Conv1d(4, 4, 3, padding=1),
    c=nn.ConvTranspose1d(4, 3, 2),
    bn=nn.BatchNorm1d(4),
    pool=nn.MaxPool1d(2, return_indices=True),
    deep=nn.Conv3d(1, 2, 2),
    fc=nn.Linear(4, 3),
)
def maps_of_other_ranks(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    rows, _ = net.pool(F.relu(net.bn(net.b(x.mean(3)))))
    deep = F.max_pool3d(F.relu(net.deep(x.unsqueeze(1))), 2).flatten(1, 2)
    rows = net.c(F.avg_pool1d(rows, 2, 1))
    return torch.cat((net.fc(F.adaptive_avg_pool2d(deep, (1, 2)).flatten(1)), rows.flatten(1)), 1)
