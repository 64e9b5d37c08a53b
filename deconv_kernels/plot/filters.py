"""Figures of filters: their weights, sizes and spectra, and a layer before and after its repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..engine.pictures import Pixels, mosaic, slices, with_contrast
from ..engine.units import AXES
from ..experiments.common.files import file_name
from ..experiments.filters import Comparison, Diagnosis
from .figures import new_figure, picture, save

__all__ = ["common_contrast", "draw_comparison", "draw_diagnosis", "draw_layers", "filter_page"]

_TINY = torch.finfo(torch.float64).tiny
_SOUND, _DOMINATING, _DEAD = "#4477aa", "#cc3311", "#999999"


def draw_layers(
    folder: Path,
    found: Sequence[Diagnosis] | Comparison,
    model: str,
    caption: str,
    first: str,
    to_rgb: Callable[[Tensor], Tensor] | None,
) -> None:
    """Draws a figure of every layer, and of a comparison a second one: before and after.

    Args:
        folder: where to write the PNGs, called by the layers.
        found: what to draw.
        model: the network's name.
        caption: the words above.
        first: the first layer, which is drawn in colour if it reads colours.
        to_rgb: turns what the network reads of photographs into RGB; None where it reads something else.
    """
    comparison = found if isinstance(found, Comparison) else None
    for number, diagnosis in enumerate(found.before if isinstance(found, Comparison) else found):
        colours = to_rgb if diagnosis.layer == first else None
        sides = "x".join(map(str, reversed(diagnosis.weight.shape[2:])))
        title = f"{model}, layer {diagnosis.layer}: {len(diagnosis)} filters of {sides}"
        draw_diagnosis(folder / f"{file_name(diagnosis.layer)}_filters.png", diagnosis, title, caption, colours)
        if comparison is not None:
            scaled = sum(change.layer == diagnosis.layer for change in comparison.changed)
            words = f"Filters scaled to an RMS of {comparison.radius:g}, which they exceeded: {scaled}. {caption}"
            path = folder / f"{file_name(diagnosis.layer)}_before_after.png"
            draw_comparison(path, comparison, number, f"{title}, before and after", words, colours)


def draw_diagnosis(
    path: Path, diagnosis: Diagnosis, title: str, caption: str, to_rgb: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Draws a layer's filters: weights (where they read RGB), spectra, RMS, and size against frequency.

    Args:
        path: the PNG to write.
        diagnosis: of the layer.
        title, caption: the words above; what the panels show is added to the caption.
        to_rgb: turns filters (F, 3, h, w) from the network's input into RGB; of the first layer only.
    """
    caption += (
        "\nRed: dominates its layer (RMS or activation more than "
        f"{diagnosis.dominance:g} times the mean of the others). Grey: dead, never active. Spectra: amplitude of each "
        "filter by frequency, zero in the middle, contrast per filter; the frame is the Nyquist frequency of the "
        f"stride, {_nyquist(diagnosis)} cycles per {_element(diagnosis)}: what lies outside is aliased."
    )
    if diagnosis.weight.dim() == 5:
        caption += " Of volumes, all frequencies along z are added up."
    coloured = to_rgb is not None and diagnosis.weight.shape[1] == 3
    panels = ["weights", "spectra"] if coloured else ["spectra"]
    figure, area = new_figure(title, caption, 15.0, 9.0)
    top, bottom = area.subfigures(2, 1, height_ratios=[1.65, 1], squeeze=False)[:, 0]
    upper = top.subplots(1, len(panels) + 1, squeeze=False)[0]
    if coloured:
        assert to_rgb is not None
        tiles = with_contrast(to_rgb(diagnosis.weight), saturated=0)
        picture(upper[0], _framed(tiles, diagnosis), "filters, contrast of each its own, by number row by row")
    _draw_spectra(upper[-2], diagnosis)
    _draw_scatter(upper[-1], diagnosis)
    (bars,) = bottom.subplots(1, 1, squeeze=False)[0]
    _draw_bars(bars, diagnosis)
    save(figure, path)


def draw_comparison(
    path: Path,
    comparison: Comparison,
    layer: int,
    title: str,
    caption: str,
    to_rgb: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Draws a layer before and after its filters were renormalised.

    Args:
        path: the PNG to write.
        comparison: from `compare`.
        layer: which of its diagnoses.
        title, caption: the words above.
        to_rgb: as for `draw_diagnosis`.

    Source: Zeiler & Fergus 2013, Fig 6 (a).
    """
    pair = comparison.before[layer], comparison.after[layer]
    caption += (
        "\nFilters share one contrast per picture, so that one that dominates leaves the others grey, as in Fig 6."
    )
    coloured = to_rgb is not None and pair[0].weight.shape[1] == 3
    maps = pair[0].weight.shape[1]
    if not coloured and maps > 1:
        caption += f" Drawn is the mean of a filter over the {maps} maps it reads."
    caption += {3: " A row for each filter.", 5: " Planes of a filter are side by side."}.get(pair[0].weight.dim(), "")
    figure, area = new_figure(title, caption, 15.0, 9.0)
    left, right = area.subfigures(1, 2, width_ratios=[1, 1.6], squeeze=False)[0]
    pictures = left.subplots(2, 1)
    rms, activation = right.subplots(2, 1)
    for axes, name, diagnosis in zip(pictures, ("before", "after"), pair, strict=True):
        weights = diagnosis.weight if coloured else diagnosis.weight.float().mean(1, keepdim=True)
        picture(axes, filter_page(to_rgb(weights) if to_rgb is not None and coloured else weights), f"filters {name}")
        axes.set_aspect("auto" if weights.dim() == 3 else "equal")
    _draw_pair(rms, [diagnosis.rms for diagnosis in pair], "RMS of the weights")
    rms.axhline(comparison.radius, color="black", linewidth=0.8, linestyle="--")
    rms.text(1.0, comparison.radius, f" radius {comparison.radius:g}", transform=rms.get_yaxis_transform(), fontsize=8)
    activities = [diagnosis.activity for diagnosis in pair]
    shares = [activity.share for activity in activities if activity is not None]
    if len(shares) == 2:
        _draw_pair(activation, [share.nan_to_num(0.0) for share in shares], "share of the layer's activation")
    else:
        _draw_pair(activation, [diagnosis.share for diagnosis in pair], "share of the layer's total RMS")
    activation.set_xlabel("filter")
    save(figure, path)


def _draw_pair(axes: Axes, values: list[Tensor], label: str) -> None:
    number = np.arange(len(values[0]))
    for offset, colour, name, each in zip((-0.2, 0.2), (_DOMINATING, _SOUND), ("before", "after"), values, strict=True):
        axes.bar(number + offset, each.numpy(), 0.4, color=colour, label=name)
    axes.set_ylabel(label)
    axes.set_xlim(-1, len(number))
    axes.legend(framealpha=0.9, edgecolor="none", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def common_contrast(filters: Tensor) -> Pixels:
    """Turns filters (F, 3, ...) into pictures that share one contrast; zero is mid-grey. uint8 (F, ..., 3)."""
    values = filters.detach().cpu().float().nan_to_num(0.0, 0.0, 0.0)
    levels = (values / values.abs().max().clamp(min=1e-30) * 127 + 128).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(1, -1).numpy()


def filter_page(filters: Tensor, columns: int | None = None) -> Pixels:
    """Filters on one page, with one contrast: (F, C, h, w) as tiles, some planes of (F, C, d, h, w), (F, C, w) as rows.

    Args:
        filters: three channels are red, green and blue, and else their mean is grey.
        columns: tiles abreast, by default as many as make the page about square.
    """
    values = filters if filters.shape[1] == 3 else filters.float().mean(1, keepdim=True)
    pictures = common_contrast(values.expand(-1, 3, *values.shape[2:]))
    if pictures.ndim == 3:
        return pictures
    return mosaic(slices(pictures), 3, columns) if pictures.ndim == 5 else mosaic(pictures, columns=columns)


def _colours(diagnosis: Diagnosis) -> list[str]:
    dominating = diagnosis.dominating.tolist()
    dead = [False] * len(diagnosis) if diagnosis.activity is None else diagnosis.activity.dead.tolist()
    return [_DEAD if d else _DOMINATING if m else _SOUND for d, m in zip(dead, dominating, strict=True)]


def _element(diagnosis: Diagnosis) -> str:
    """What frequencies are counted in."""
    return "sample" if diagnosis.weight.dim() == 3 else "pixel"


def _nyquist(diagnosis: Diagnosis) -> str:
    limits = diagnosis.nyquist
    if len(set(limits)) == 1:
        return f"{limits[0]:g}"
    if len(limits) == 2:
        return f"{limits[0]:g} vertically and {limits[1]:g} horizontally"
    return ", ".join(f"{limit:g} along {axis}" for limit, axis in zip(limits, AXES, strict=True))


def _framed(tiles: Pixels, diagnosis: Diagnosis) -> Pixels:
    """The tiles, enlarged, with a frame in the colour of their state around those that are not sound."""
    factor = max(1, 48 // tiles.shape[1])
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    width = 3
    framed = np.full((len(tiles), tiles.shape[1] + 2 * width, tiles.shape[2] + 2 * width, 3), 255, dtype=np.uint8)
    for frame, tile, colour in zip(framed, tiles, _colours(diagnosis), strict=True):
        if colour != _SOUND:
            frame[:] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        frame[width:-width, width:-width] = tile
    return mosaic(framed)


def _draw_spectra(axes: Axes, diagnosis: Diagnosis) -> None:
    power = diagnosis.spectrum
    power = (power.sum(1) if power.dim() == 4 else power).sqrt()
    scaled = power / power.flatten(1).amax(1).view(-1, *[1] * (power.dim() - 1)).clamp(min=_TINY)
    if power.dim() == 2:
        return _draw_rows_of_spectra(axes, scaled, diagnosis.nyquist[0])
    gap, size = 4, power.shape[1]
    columns = ceil(sqrt(len(power)))
    tiles = (colormaps["magma"](scaled.numpy())[..., :3] * 255).round().astype(np.uint8)
    axes.imshow(mosaic(tiles, gap), interpolation="nearest")
    reach_y, reach_x = (size * limit for limit in diagnosis.nyquist[-2:])
    for number in range(len(power)):
        y = number // columns * (size + gap) + size // 2
        x = number % columns * (size + gap) + size // 2
        axes.add_patch(
            Rectangle((x - reach_x, y - reach_y), 2 * reach_x, 2 * reach_y, fill=False, color="white", linewidth=0.5)
        )
    axes.set_axis_off()
    axes.set_title("spectra, by number row by row", fontsize=9)


def _draw_rows_of_spectra(axes: Axes, amplitudes: Tensor, limit: float) -> None:
    """Those of filters of signals (F, n), a row for each."""
    axes.imshow(
        amplitudes.numpy(),
        cmap="magma",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, 0.5, len(amplitudes) - 0.5, -0.5),
    )
    for place in (-limit, limit):
        axes.axvline(place, color="white", linewidth=0.8, linestyle="--")
    axes.set_xlabel("frequency, cycles per sample")
    axes.set_ylabel("filter")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("spectra, a row for each filter", fontsize=9)


def _draw_scatter(axes: Axes, diagnosis: Diagnosis) -> None:
    colours = _colours(diagnosis)
    axes.scatter(diagnosis.centroid.numpy(), diagnosis.rms.numpy(), c=colours, s=24, linewidths=0, alpha=0.85)
    axes.set_xlim(0, max(0.5, 1.05 * float(diagnosis.centroid.nan_to_num(0.0).max())))
    axes.set_ylim(0, float(diagnosis.rms.max()) * 1.08 or 1.0)
    for limit in sorted(set(diagnosis.nyquist)):
        axes.axvline(limit, color="0.5", linewidth=0.8, linestyle="--")
    for number in [n for n, colour in enumerate(colours) if colour != _SOUND][:12]:
        axes.annotate(f" {number}", (float(diagnosis.centroid[number]), float(diagnosis.rms[number])), fontsize=7)
    axes.set_xlabel(f"centroid frequency, cycles per {_element(diagnosis)}")
    axes.set_ylabel("RMS of the weights")
    median = diagnosis.aliased.nanmedian().item()
    axes.set_title(f"size and frequency; dashed: Nyquist; median energy beyond it {median:.0%}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: Axes, diagnosis: Diagnosis) -> None:
    number = np.arange(len(diagnosis))
    axes.bar(number, diagnosis.rms.numpy(), 0.8, color=_colours(diagnosis))
    axes.set_xlim(-1, len(number))
    axes.set_xlabel("filter")
    axes.set_ylabel("RMS of the weights")
    axes.spines[["top", "right"]].set_visible(False)
    if diagnosis.activity is None:
        return
    other = axes.twinx()
    other.plot(number, diagnosis.activity.share.nan_to_num(0.0).numpy(), ".", color="black", markersize=4)
    other.set_ylim(0, None)
    other.set_ylabel("share of the layer's activation (dots)")
    other.spines[["top"]].set_visible(False)
