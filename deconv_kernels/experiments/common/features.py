"""Frozen features: what the layers of a network make of images, as rows of numbers for other programs to learn from.

Source: Zeiler & Fergus 2013, section 5.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import at_least, one_of
from ...terminal import Progress
from .files import Parts, fingerprint, fingerprint_of_network
from .layers import taking
from .tracing import forward_only

__all__ = [
    "POOLINGS",
    "Batches",
    "Features",
    "check_finite",
    "class_numbers",
    "extract_features",
    "last_layers",
    "untrained",
]

POOLINGS = ("max", "average")

_POOLS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "average": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
_THUMBNAIL = 32

Batches = Iterable[Tensor | tuple[Tensor, Tensor] | Sequence[Tensor]]
"""Images (N, C, H, W), volumes (N, C, D, H, W) or signals (N, C, L), or these and labels (N,), batch by batch."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a network makes of images.

    Attributes:
        layers: for every layer (N, F) features.
        pixels: (N, P) the network's inputs themselves, averaged to at most 32 along each axis.
        labels: (N,) int64, or None if the batches came without.
    """

    layers: dict[str, Tensor]
    pixels: Tensor
    labels: Tensor | None


def last_layers(model: nn.Module, images: Tensor) -> list[str]:
    """The last layer of every size of maps, from the images up, and the last hidden one without positions.

    For a network of convolutions and pools these are what its pools read, and its top.

    Args:
        model: as for `Deconvnet`.
        images: (N, C, [[D,] H,] W), of which the first is run forward.
    """
    net = forward_only(model, images)
    record = net.record(images[:1], net.layers, progress=False)
    output = None if net.tape.output is None else net.layer(net.tape.output).value
    last: dict[tuple[int, ...], str] = {}
    for layer in net.layers:
        value = net.layer(layer).value
        shape = record.shapes[value] or ()
        size = shape[1:] if len(shape) == images.dim() - 1 and max(shape[1:]) > 1 else ()
        if value == output and size == () and size in last:
            continue
        last.pop(size, None)
        last[size] = layer
    return list(last.values())


@torch.no_grad()
def extract_features(
    model: nn.Module,
    batches: Tensor | Batches,
    layers: Sequence[str] = (),
    *,
    grid: int | None = 4,
    pooling: str = "max",
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    parts: Parts | None = None,
    progress: bool = True,
) -> Features:
    """The features of several layers, in one forward pass for each image.

    The activations of one batch are in memory at a time; what stays of an image is the pooled features of all layers.

    Args:
        model: as for `Deconvnet`, in eval mode; its rectifiers and other activations need no rule.
        batches: (N, C, [[D,] H,] W), or an iterable of batches of images, or of (images, labels), such as a DataLoader.
        layers: names as `Deconvnet(model).layers` has them; by default `last_layers`.
        grid: maps that are larger are pooled to as many positions along each axis: torch's adaptive pooling, which
            divides rows and columns as evenly as can be. None takes all positions, as the paper does; of VGG16's
            conv1_2 those are 3.2 million numbers for an image of 224x224.
        pooling: "max" or "average".
        preprocess: applied to every batch on the model's device, such as uint8 to what the network takes.
        batch_size: images per pass, if `batches` is one tensor.
        parts: keeps the features of finished batches. A batch is known by its images, the network (weights and code)
            and the arguments.
        progress: show a progress bar.

    Returns:
        Features on the host, float32 (float64 of a float64 network).

    Raises:
        ValueError: an unknown pooling, a number below 1, no images, images that the network does not take, or a feature
            that is not finite.
        UnknownLayer: a layer that the network does not have.

    Source: Zeiler & Fergus 2013, section 5.2.
    """
    parts = parts or Parts.nowhere()
    layers = list(dict.fromkeys(layers))
    one_of("pooling", pooling, POOLINGS)
    for name, number in (("grid", grid), ("batch_size", batch_size)):
        if number is not None:
            at_least(name, number, 1)
    net = forward_only(model)
    for layer in layers:
        net.layer(layer)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    known_by = fingerprint_of_network(net)

    def features(images: Tensor) -> dict[str, Tensor]:
        record = net.record(images, layers, activations=True, batch_size=len(images), progress=False)
        return {layer: _storable(_pooled(record.activations[layer], grid, pooling)) for layer in layers}

    collected: dict[str, list[Tensor]] = {}
    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    count = 0
    total = len(batches) if isinstance(batches, Tensor) else _length(batches)
    with Progress(desc="features", unit="image", total=total, disable=not progress) as bar:
        for images, classes in map(_parted, batches.split(batch_size) if isinstance(batches, Tensor) else batches):
            if not len(images):
                continue
            images = images.to(device)
            images = images if preprocess is None else preprocess(images)
            if not count:
                with taking(f"the network takes no images (C, H, W) = {tuple(images.shape[1:])} of {images.dtype}"):
                    model(images[:1])
            layers = layers or last_layers(model, images)
            name = f"features {fingerprint(images)} by {known_by} {layers} {grid} {pooling}"
            for layer, values in parts.get(name, partial(features, images)).items():
                check_finite(values, layer, count)
                collected.setdefault(layer, []).append(values)
            pixels.append(_storable(_pooled(images, _THUMBNAIL, "average")))
            if classes is not None:
                labels.append(class_numbers(classes))
            count += len(images)
            bar.update(len(images))
    if not count:
        raise ValueError("no images were given")
    known = torch.cat(labels) if labels else None
    if known is not None and len(known) != count:
        raise ValueError(f"labels must hold one class for each of {count} images, got {len(known)}")
    return Features({layer: torch.cat(collected.pop(layer)) for layer in layers}, torch.cat(pixels), known)


@torch.no_grad()
def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same network with random weights: what the architecture alone does.

    Every module is reset; then the weights of convolutions and linear layers are drawn as He et al. 2015 have it
    (normal, variance 2 / fan-in) and their biases are zero.

    Args:
        model: any network; it is left as it is.
        seed: of the weights. The global generators are left alone.

    Returns:
        A copy in eval mode, on the same device.

    Raises:
        ValueError: parameters of a module that knows no initial values; the message names them.
    """
    network = copy.deepcopy(model)
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for name, module in network.named_modules():
            own = [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif own:
                raise ValueError(
                    f"parameter {own[0]} of a {type(module).__name__} has no known initial value "
                    "(the module has no reset_parameters), so the network cannot be made untrained"
                )
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return network.eval()


def _pooled(maps: Tensor, grid: int | None, pooling: str) -> Tensor:
    """Features (N, F): maps (N, C, [[d,] h,] w) on at most `grid` positions along each axis, rows as they are."""
    if grid is not None and 3 <= maps.dim() <= 5 and max(maps.shape[2:]) > grid:
        pool = _POOLS[pooling][maps.dim() - 3]
        maps = pool(maps, [min(grid, length) for length in maps.shape[2:]])
    return maps.flatten(1)


def _storable(values: Tensor) -> Tensor:
    values = values.detach().cpu()
    return values.contiguous() if values.dtype == torch.float64 else values.to(torch.float32).contiguous()


def _parted(batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The images and, if there are any, the labels of a batch."""
    if isinstance(batch, Tensor):
        return batch, None
    if not isinstance(batch, Sequence) or not 1 <= len(batch) <= 2 or not isinstance(batch[0], Tensor):
        raise ValueError(f"a batch must be images or (images, labels), got {type(batch).__name__}")
    return batch[0], batch[1] if len(batch) == 2 else None


def _length(batches: Batches) -> int | None:
    """How many images a DataLoader holds, if that can be known."""
    dataset: Any = getattr(batches, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") else None


def class_numbers(labels: Tensor | Sequence[int], name: str = "labels") -> Tensor:
    """Labels as (N,) int64 on the host.

    Raises:
        ValueError: they are not integers of one dimension.
    """
    tensor = torch.as_tensor(labels).detach().cpu()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {tensor.dtype}")
    if tensor.dim() != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(tensor.shape)}")
    return tensor.to(torch.int64)


def check_finite(features: Tensor, layer: str, first: int = 0) -> None:
    """Raises ValueError naming the layer and the image, counted from `first`, if a feature is not finite."""
    bad = ~features.isfinite().all(dim=1)
    if bool(bad.any()):
        raise ValueError(f"features of {layer!r} are not finite for image {first + int(bad.nonzero()[0])}")
