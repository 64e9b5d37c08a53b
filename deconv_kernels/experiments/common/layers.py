"""Which layers of a network an experiment is about, and whether it takes the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from ...engine.deconvnet import Deconvnet
from .tracing import forward_only

__all__ = ["classes_of", "check_takes", "chosen_layers", "running_on", "spread_layers", "taking"]

Kinds = tuple[type[Exception], ...]

ANY: Kinds = (RuntimeError, TypeError, ValueError, IndexError)
"""What layers raise at images that they do not fit."""


def chosen_layers(net: Deconvnet, names: Sequence[str]) -> tuple[str, ...]:
    """The names of layers, checked: modules, containers of modules, or functions by their name in the traced graph.

    Raises:
        ValueError: no names, or one given twice.
        UnknownLayer: a layer that the network does not have; the message says which is meant, and lists them.
    """
    if not names:
        raise ValueError("no layers were given: at least one layer is needed")
    if repeated := [layer for layer in names if list(names).count(layer) > 1]:
        raise ValueError(f"layer {repeated[0]!r} was given more than once")
    for layer in names:
        net.layer(layer)
    return tuple(names)


def check_takes(net: Deconvnet, images: Tensor, layers: Sequence[str], model: str) -> None:
    """Whether a network runs on images as far as some layers, before any work is done.

    Args:
        net: the network.
        images: of which the first is run.
        layers: their names.
        model: what to call the network.

    Raises:
        ValueError: it does not.
    """
    with taking(f"{model} does not take images of {_sides(images)} in torch.float32"):
        net.record(images[:1], layers, progress=False)


def running_on(images: Tensor, kinds: Kinds = ANY) -> AbstractContextManager[None]:
    """`taking`, with the images' size as the complaint."""
    return taking(f"images of {_sides(images)} do not go through the network", kinds)


def classes_of(net: Deconvnet, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The network's output if it is one row of classes for each image; `shapes` of the outputs of layers."""
    return net.output if net.tape.output is not None and len(shapes[net.output]) == 1 else None


@contextmanager
def taking(complaint: str, kinds: Kinds = ANY) -> Iterator[None]:
    """Inside, a network runs on images for the first time: errors say that it does not take them.

    Args:
        complaint: what stands before the error's own words.
        kinds: of errors.

    Raises:
        ValueError: the network does not take them.
    """
    try:
        yield
    except kinds as error:
        raise ValueError(f"{complaint}: {error}") from error


def _sides(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def spread_layers(model: Deconvnet | nn.Module, count: int = 5) -> tuple[str, ...]:
    """Convolutions spread evenly over a network, the first and the last among them; linear layers where it has none.

    Raises:
        ValueError: the network has neither as a layer that `Deconvnet` knows.
    """
    net = forward_only(model)
    known = set(net.tape.layers)
    named = [(name, module) for name, module in net.model.named_modules() if name in known]
    names: list[str] = []
    for kind in (nn.Conv1d | nn.Conv2d | nn.Conv3d, nn.Linear):
        names = names or [name for name, module in named if isinstance(module, kind)]
    if not names:
        raise ValueError("the network has no convolution or nn.Linear to choose layers from: name them")
    count = min(count, len(names))
    return tuple(names[round(place * (len(names) - 1) / max(1, count - 1))] for place in range(count))
