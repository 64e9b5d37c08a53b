"""Networks of torchvision, timm and Hugging Face's transformers by their names, each as its own library builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

__all__ = ["HUBS", "Built", "build"]


class Built(NamedTuple):
    """A network, and what its library says of the pixels from 0 to 1 that it takes: their mean and deviation."""

    network: nn.Module
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def build(hub: str, name: str, pretrained: bool) -> Built:
    """A network of a hub.

    Args:
        hub: a key of `HUBS`.
        name: as the library has it; for "hf" a folder or the name of a repository.
        pretrained: with the library's own weights, which it downloads where they are not on this machine.

    Raises:
        ValueError: the library is not installed, has no such network, or its weights cannot be had.
    """
    try:
        return HUBS[hub](name, pretrained)
    except ImportError as error:
        raise ValueError(f"model '{hub}:{name}' needs a library that is not installed: {error}") from error
    except Exception as error:  # a library and its downloads may fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "; give --weights FILE, or --weights random, where it cannot be downloaded" if pretrained else ""
        raise ValueError(f"model '{hub}:{name}' cannot be built: {reason}{hint}") from error


def _of_torchvision(name: str, pretrained: bool) -> Built:
    from torchvision import models

    network = models.get_model(name, weights="DEFAULT" if pretrained else None)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return Built(network, tuple(transforms.mean), tuple(transforms.std))


def _of_timm(name: str, pretrained: bool) -> Built:
    import timm

    network = timm.create_model(name, pretrained=pretrained)
    config = timm.data.resolve_data_config({}, model=network)
    return Built(network, tuple(config["mean"]), tuple(config["std"]))


def _of_transformers(name: str, pretrained: bool) -> Built:
    import transformers

    kind: Any = transformers.AutoModelForImageClassification
    if pretrained:
        network = kind.from_pretrained(name)
    else:
        network = kind.from_config(transformers.AutoConfig.from_pretrained(name))
    reads = transformers.AutoImageProcessor.from_pretrained(name)
    if not getattr(reads, "do_normalize", True):
        return Built(network, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Built(network, tuple(reads.image_mean), tuple(reads.image_std))


HUBS: dict[str, Callable[[str, bool], Built]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "hf": _of_transformers,
}
"""What builds a network of each, by the word before the colon in "timm:resnet18"."""
