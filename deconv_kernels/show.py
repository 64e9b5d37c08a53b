"""What maps respond to, as a figure in one call: `deconv_kernels.show`; what draws is loaded by the first call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from .engine.deconvnet import Deconvnet
from .engine.units import LayerLike

if TYPE_CHECKING:
    from .engine.figures import Sheet

__all__ = ["show"]


def show(
    model: Deconvnet | nn.Module,
    images: object,
    layer: LayerLike,
    *,
    maps: int | Sequence[int] = 4,
    k: int = 9,
    preprocess: Callable[[Any], Any] | None = None,
    size: int = 224,
    batch_size: int = 16,
    progress: bool | None = None,
) -> Sheet:
    """Draws what a few maps of a layer respond to: their strongest units, projected, beside the patches that they saw.

    Args:
        model: any `nn.Module`, as `Deconvnet` takes it; or a `Deconvnet`, which is not traced again and says the rule.
        images: photographs, of each of which the central square is shown: a PIL image, an array (H, W, 3) or (H, W) of
            uint8, the path of a file or of a folder, "samples", or a list of these. Or images as they are: a tensor or
            array, (N, 3, H, W) of uint8, or (N, C, H, W) of floats, which the model is given unchanged. Volumes of
            floats (N, C, D, H, W) are drawn as rows of slices, and signals (N, C, L) as lines, each over what it was
            seen in, in grey. Of other numbers of channels than one and three, images are drawn as the mean over them,
            and projections as the norm.
        layer: a name from `model.named_modules()`, or another of `Deconvnet.layers`; or the module itself.
        maps: which, or of how many those with the strongest units.
        k: units per map, at most one per image.
        preprocess: what the model reads of pixels: a `Preprocessing`, or `preprocess` of `Weights`; or any function of
            a PIL image that returns the model's input, such as torchvision's transforms, which cuts for itself. By
            default what torchvision's networks read, or grey where the first convolution reads one channel.
        size: rows and columns of the squares.
        batch_size: images per forward pass.
        progress: show progress bars; by default on a terminal or in a notebook when it takes more than a second.

    Returns:
        A Matplotlib figure, which a notebook shows by itself and `savefig` writes.

    Raises:
        TypeError: images of another kind.
        ValueError: images that cannot be read or that the model does not take, no such map, or rows, which are no
            pictures.
        UnknownLayer: a layer the model does not have.
        UnsupportedModule: a part of the network has no exact rule.

    Source: Zeiler & Fergus 2013, Fig 2.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> figure = dk.show(model, torch.rand(9, 3, 32, 32), "4", maps=2)
        >>> [axes.get_title().split(":")[0][:3] for axes in figure.axes]
        ['map', 'map']
    """
    from .plot.strongest import draw_strongest

    return draw_strongest(model, images, layer, maps, k, preprocess, size, batch_size, progress)
