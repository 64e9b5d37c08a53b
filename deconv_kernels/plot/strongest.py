"""What maps of any network respond to in any images, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..checks import at_least, shown
from ..data.crops import cut, plan_centres
from ..data.photographs import Photograph, load_photographs
from ..engine.deconvnet import Deconvnet
from ..engine.figures import Sheet, beneath, sheet, traces
from ..engine.pictures import mosaic, patches, planes_inside, side_by_side, slices, visible
from ..engine.units import LayerLike
from ..models import GREY, TORCHVISION, Preprocessing, Weights
from .text import layer_name

__all__ = ["draw_strongest"]

Preprocess = Preprocessing | Callable[[Any], Any]

_COLUMNS = 2
_LONGEST = 224  # pixels of a tile's side, about


def draw_strongest(
    model: Deconvnet | nn.Module,
    images: object,
    layer: LayerLike,
    maps: int | Sequence[int],
    k: int,
    preprocess: Preprocess | None,
    size: int,
    batch_size: int,
    progress: bool | None,
) -> Sheet:
    """See `deconv_kernels.show`."""
    at_least("k", k, 1)
    network = model.model if isinstance(model, Deconvnet) else model
    inputs, pixels, to_rgb = _read(images, preprocess, size, network)
    if inputs.dim() not in (3, 4, 5):
        what = "rows" if inputs.dim() == 2 else f"tensors of {inputs.dim()} dimensions"
        raise ValueError(
            f"show draws images (N, C, H, W), volumes (N, C, D, H, W) and signals (N, C, L), not {what}: use "
            "Deconvnet.project and full()"
        )
    net = model if isinstance(model, Deconvnet) else Deconvnet(model, image_size=inputs.shape[1:])
    record = net.record(inputs, layer, batch_size=batch_size, progress=progress)
    of_each = min(k, len(inputs))
    if isinstance(maps, int):
        at_least("maps", maps, 1)
        strongest = record.strongest(layer, k=1).activation
        assert strongest is not None
        maps = strongest.argsort(descending=True, stable=True)[:maps].tolist()
    units = record.strongest(layer, of_each, maps)
    assert units.activation is not None
    strengths = units.activation.tolist()
    found = net.project(record, units, progress=progress)
    title = f"What maps of {layer_name(record.layer(layer).name)} respond to"
    each = [slice(start, start + of_each) for start in range(0, len(units), of_each)]
    titles = [f"map {int(units.channel[part.start])}: {_span(strengths[part])}" for part in each]
    if inputs.dim() == 3:
        seen = beneath(inputs, units.image.tolist(), found.boxes.tolist())
        return traces([(found.windows[part], seen[part]) for part in each], titles, _COLUMNS, title)
    tiles = found.images(full=False, to_rgb=to_rgb)
    beside = patches(pixels, units.image.tolist(), found.boxes.tolist())
    if inputs.dim() == 5:
        beside = slices(beside, inside=planes_inside(found.boxes.tolist(), inputs.shape[2]))
    factor = max(1, round(_LONGEST / 3 / max(tiles.shape[1:3])))
    tiles, beside = (each.repeat(factor, axis=1).repeat(factor, axis=2) for each in (tiles, beside))
    gap = max(1, max(tiles.shape[1:3]) // 32)
    columns = 1 if inputs.dim() == 5 else None  # rows of slices are long
    drawn = [
        side_by_side([mosaic(tiles[part], gap, columns), mosaic(beside[part], gap, columns)], 4 * gap) for part in each
    ]
    return sheet(drawn, titles, _COLUMNS, title)


def _span(strengths: Sequence[float]) -> str:
    """From the strongest to the weakest, which are one where there is one unit."""
    return " to ".join(dict.fromkeys(f"{strengths[place]:.4g}" for place in (0, -1)))


def _read(
    images: object, preprocess: Preprocess | None, size: int, network: nn.Module
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor] | None]:
    """What the model is given, what is shown of it (uint8 RGB), and what makes RGB of projections."""
    if isinstance(images, np.ndarray) and (images.ndim >= 4 or images.dtype.kind == "f"):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if isinstance(images, Tensor) and images.is_floating_point():
        if preprocess is not None:
            raise ValueError("images of floating point are what the model reads: leave preprocess out")
        return images, visible(images), None
    known = _known(preprocess, network)
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                "images as a tensor or array must be uint8 of shape (N, 3, H, W), or floating point as the model "
                f"takes them, got {images.dtype} {tuple(images.shape)}"
            )
        photographs = [Photograph(str(n), image.permute(1, 2, 0).cpu().numpy()) for n, image in enumerate(images)]
        pixels = images.cpu()
    else:
        photographs = _photographs(images)
        at_least("size", size, 1)
        pixels = cut(photographs, plan_centres(photographs, size), size) if known is not None else torch.empty(0)
    if known is not None:
        return known(pixels), pixels, known.to_rgb
    assert preprocess is not None
    inputs = torch.cat([_given(preprocess, photograph) for photograph in photographs])
    return inputs, visible(inputs), None


def _known(preprocess: Preprocess | None, network: nn.Module) -> Preprocessing | None:
    """The preprocessing if it is one of this package's, which is known backwards too."""
    owner = getattr(preprocess, "__self__", None)
    if isinstance(owner, Weights):
        return owner.preprocessing
    if isinstance(preprocess, Preprocessing):
        return preprocess
    if preprocess is not None:
        return None
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return GREY if first is not None and first.in_channels == 1 else TORCHVISION


def _photographs(images: object) -> list[Photograph]:
    """The photographs that are given in any of the ways `show` knows."""
    if isinstance(images, str | Path):
        return load_photographs(images)
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("no images were given")
        return [photograph for each in images for photograph in _photographs(each)]
    if isinstance(images, Image.Image):
        return [Photograph("image", np.asarray(images.convert("RGB")))]
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim not in (2, 3) or (images.ndim == 3 and images.shape[2] != 3):
            raise ValueError(
                f"an array must be a photograph of uint8, (H, W, 3) or (H, W), got {images.dtype} {images.shape}"
            )
        return [Photograph("array", np.asarray(Image.fromarray(images).convert("RGB")))]
    raise TypeError(
        f"images must be PIL images, arrays, paths, a list of these, or a tensor (N, C, H, W), got {shown(images)}"
    )


def _given(preprocess: Callable[[Any], Any], photograph: Photograph) -> Tensor:
    """What a function of the user's makes of a photograph, (1, C, H, W)."""
    image = preprocess(Image.fromarray(photograph.pixels))
    if not isinstance(image, Tensor) or image.dim() not in (3, 4):
        raise TypeError(f"preprocess must return a tensor (C, H, W) for a PIL image, got {shown(image)}")
    return image if image.dim() == 4 else image[None]
