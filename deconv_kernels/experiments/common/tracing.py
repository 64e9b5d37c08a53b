"""How experiments trace networks: for the way forward alone, or for the way back where there is one."""

from __future__ import annotations

from torch import Tensor, nn

from ...engine.deconvnet import Deconvnet
from ...engine.errors import UnsupportedModule

__all__ = ["forward_only", "with_way_back"]


def forward_only(model: Deconvnet | nn.Module, images: Tensor | None = None) -> Deconvnet:
    """A network to be run forward only, which asks for no rule of anything: whatever can be traced will do.

    The rule "gradient" is what has a step for everything; on the way forward all rules are the same.

    Args:
        model: one that was traced already is left as it is.
        images: (N, ...) that it will be run on, where a network may need their size to know its layers.

    Raises:
        UnsupportedModule: it cannot be traced.
    """
    size = None if images is None else images.shape[1:]
    return model if isinstance(model, Deconvnet) else Deconvnet(model, rule="gradient", image_size=size)


def with_way_back(
    model: Deconvnet | nn.Module, images: Tensor | None = None
) -> tuple[Deconvnet, UnsupportedModule | None]:
    """A network to be run forward and, where there are rules for all of it, backwards.

    Args:
        model: one that was traced already is left as it is.
        images: (N, ...) that it will be run on, where a network may need their size to know its layers.

    Returns:
        The deconvnet; where a part of it has no rule, the network for the way forward only, and the error that says so.

    Raises:
        UnsupportedModule: it cannot be traced.
    """
    if isinstance(model, Deconvnet):
        return model, None
    try:
        net = Deconvnet(model, image_size=None if images is None else images.shape[1:])
        _ = net.tape  # of which every step has a rule
        return net, None
    except UnsupportedModule as error:
        return forward_only(model, images), error
