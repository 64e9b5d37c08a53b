"""Which layers of a network an experiment is about."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...engine.deconvnet import Deconvnet
from .tracing import forward_only

__all__ = ["check_takes", "chosen_layers", "spread_layers"]


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
        net.tape.index(layer)
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
    try:
        net.record(images[:1], layers, progress=False)
    except (RuntimeError, TypeError, ValueError) as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(f"{model} does not take images of {shape} in torch.float32: {error}") from error


def spread_layers(model: nn.Module, count: int = 5) -> tuple[str, ...]:
    """Convolutions spread evenly over a network, the first and the last among them; linear layers where it has none.

    Raises:
        ValueError: the network has neither as a layer that `Deconvnet` knows.
    """
    known = set(forward_only(model).layers)
    names: list[str] = []
    for kind in (nn.Conv2d, nn.Linear):
        names = names or [name for name, module in model.named_modules() if isinstance(module, kind) and name in known]
    if not names:
        raise ValueError("the network has no nn.Conv2d or nn.Linear to choose layers from: name them")
    count = min(count, len(names))
    return tuple(names[round(place * (len(names) - 1) / max(1, count - 1))] for place in range(count))
