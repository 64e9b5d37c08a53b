"""Figures of the unsupervised deconvolutional network: filters, units, reconstructions, and how learning went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from ..engine.pictures import patches, with_contrast
from ..experiments.common.responses import by_map
from ..experiments.reconstructions import Reconstructions
from ..experiments.unsupervised import DeconvolutionalNetwork, Epoch, SparseFeatures
from .figures import new_figure, picture, save
from .text import shortened
from .tiles import MapTiles, draw_filters, draw_maps

__all__ = ["draw_curves", "draw_network", "draw_reconstructions", "draw_units"]

_NAME = 32


def draw_network(
    folder: Path,
    source: str,
    network: DeconvolutionalNetwork,
    features: SparseFeatures,
    images: Tensor,
    maps: int,
    history: Sequence[Epoch],
) -> None:
    """Draws the first layer's filters, some maps of every layer above, and how learning went if there was any.

    Args:
        folder: where to write layer1.png, layer2.png, ..., and curves.png.
        source: of the filters and images, in words.
        network, features, images: as for `draw_units`.
        maps: of each layer, at most.
        history: as `DeconvolutionalNetwork.fit` returns it.
    """
    for layer, sparse in enumerate(network.layers, 1):
        path, title = folder / f"layer{layer}.png", f"Layer {layer} of a deconvolutional network, {source}"
        if layer == 1:
            words = f"{sparse.maps} filters of {sparse.kernel_size}x{sparse.kernel_size}, contrast per filter."
            draw_filters(path, title, words, _rgb(network.filters[0].detach()))
            continue
        words = (
            "For each map its strongest units by magnitude, at most one per crop: what the unit alone puts into the "
            "image through the switches of the layers below (left), and the image there (right)."
        )
        draw_units(path, title, words, network, features, images, layer, range(min(maps, sparse.maps)))
    if history:
        words = "Each epoch as it went, with the filters of its time; the last is with the final filters."
        draw_curves(folder / "curves.png", f"A deconvolutional network, {source}", words, history)


def draw_units(
    path: Path,
    title: str,
    caption: str,
    network: DeconvolutionalNetwork,
    features: SparseFeatures,
    images: Tensor,
    layer: int,
    maps: Sequence[int],
    k: int = 9,
) -> None:
    """Draws what maps of a layer put into images: their strongest units alone, down to pixels, beside the patches.

    Args:
        path: the PNG to write.
        title, caption: the words above.
        network, features: the features are the network's, of the images.
        images: what the features were inferred from, (N, C, H, W).
        layer: from 1.
        maps: which.
        k: units per map, at most one per image; units of zero are left out.
    """
    units = network.strongest(features, layer, k, maps)
    assert units.activation is not None
    units = units[units.activation != 0]
    projections = network.project(features, units)
    tiles = with_contrast(_rgb(projections.windows))
    pictures = torch.from_numpy(with_contrast(_rgb(images))).permute(0, 3, 1, 2)
    shown = patches(pictures, units.image.tolist(), projections.boxes.tolist())
    entries = []
    for number, rows in by_map(units, maps).items():
        assert units.activation is not None
        found = units.activation[rows].tolist()
        few = f", in {len(found)} crop{'s' * (len(found) > 1)} only" if len(found) < min(k, len(images)) else ""
        note = f"strongest {found[0]:.3g}{few}" if found else "silent: zero in every crop"
        entries.append(MapTiles(f"map {number}", note, tiles[rows], shown[rows]))
    draw_maps(path, title, caption, entries)


def draw_reconstructions(path: Path, names: Sequence[str], photographs: Tensor, found: Reconstructions) -> None:
    """Draws photographs, what the network was given, and what each layer makes of it, a row for each photograph.

    Args:
        path: the PNG to write.
        names: of the photographs.
        photographs: uint8 RGB (N, 3, H, W).
        found: what the layers make of them, drawn at one contrast with the image.
    """
    images, reconstructions = found.inputs.cpu(), [each.cpu() for each in found.made]
    columns = 2 + len(reconstructions)
    title = "Photographs, reconstructed from each layer through the switches below"
    caption = (
        "Middle squares of the photographs; what the network is given (local contrast normalised); R z of each layer. "
        "Error: squared, as a share of the given image's energy; each layer answers for the pixels, at its own "
        "fidelity, so a higher one can have less. One contrast per row."
    )
    figure, area = new_figure(title, caption, 2.6 * columns, 2.75 * len(names))
    grid = area.subplots(len(names), columns, squeeze=False)
    for row, name in enumerate(names):
        picture(grid[row, 0], photographs[row].permute(1, 2, 0).numpy(), shortened(name, _NAME))
        drawn = [("contrast normalised", images[row])]
        for number, (each, error) in enumerate(zip(reconstructions, found.errors, strict=True)):
            drawn.append((f"from layer {number + 1}: error {error[row]:.1%}", each[row]))
        # One picture of all, so that all have one contrast.
        strip = with_contrast(_rgb(torch.cat([signal for _, signal in drawn], dim=2)[None]))[0]
        for axes, (words, _), pixels in zip(grid[row, 1:], drawn, np.split(strip, len(drawn), axis=1), strict=True):
            picture(axes, pixels, words)
    save(figure, path)


def draw_curves(path: Path, title: str, caption: str, history: Sequence[Epoch]) -> None:
    """Draws objective, error, l1 norm and share of values other than zero by epoch, a curve for each layer.

    Args:
        path: the PNG to write.
        title, caption: the words above.
        history: as `DeconvolutionalNetwork.fit` returns it.
    """
    figure, area = new_figure(title, caption, 13.0, 3.4)
    panels = [
        ("objective", "objective, share of epoch 0's"),
        ("error", "reconstruction error, share of energy"),
        ("l1", "l1 norm of the maps, share of epoch 0's"),
        ("nonzero", "values of the maps other than zero"),
    ]
    for axes, (field, words) in zip(area.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for layer in sorted({epoch.layer for epoch in history}):
            epochs = [epoch for epoch in history if epoch.layer == layer]
            values = [getattr(epoch, field) for epoch in epochs]
            if field in ("objective", "l1"):
                values = [value / values[0] if values[0] else 0.0 for value in values]
            axes.plot([epoch.epoch for epoch in epochs], values, marker="o", markersize=3, label=f"layer {layer}")
        axes.set_title(words, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_ylim(bottom=0, top=axes.dataLim.y1 * 1.06 or 1.0)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        axes.grid(color="0.9")
        axes.legend(fontsize=8)
    save(figure, path)


def _rgb(signal: Tensor) -> Tensor:
    """Signed values of grey (N, 1, h, w) or colour (N, 3, h, w) images as colours."""
    return signal.expand(-1, 3, -1, -1)
