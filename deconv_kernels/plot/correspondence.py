"""What was hidden in each image, and the table of sign changes (Zeiler & Fergus 2013, Fig 8 and Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isnan
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from torch import Tensor

from ..engine.figures import trace
from ..engine.pictures import Pixels
from ..experiments.correspondence import RANDOM, Correspondence, Score, hide_squares
from .figures import new_figure, picture, save
from .text import layer_name, shortened

__all__ = ["draw_correspondence", "hidden_parts", "score_table"]

_TILE_INCHES = 1.5
_CHART_INCHES = 3.0
_ROW_INCHES = 0.3
_GREY = "0.55"
_NAME = 20
_SHOWN = 5


def hidden_parts(
    result: Correspondence, inputs: Tensor, fill: float | Tensor, drawn: Callable[[Tensor], Tensor]
) -> Pixels | Tensor:
    """The first images as they are, with each part hidden, and with the first random square if there is one.

    Args:
        result: of N images.
        inputs: (N, C, [[D,] H,] W) as the network takes them.
        fill: what hid the parts, as `hide_squares` takes it.
        drawn: makes of them uint8 RGB (N, 3, [D,] H, W), and leaves signals as they are.

    Returns:
        uint8 (M, K, H, W, 3) of M images, of volumes the plane in the middle of what is hidden, and of what is as it is
        that of the first part; of signals (M, K, C, L).
    """
    squares = torch.cat([result.squares, result.random_squares[:, :1]], dim=1)[:_SHOWN]
    rows = []
    for image, of_image in zip(inputs.cpu(), squares, strict=False):
        row = torch.cat([image[None], hide_squares(image, of_image, fill)])
        if row.dim() == 5:
            middles = (of_image[:, 0] + of_image[:, 3]) // 2
            planes = torch.cat([middles[:1], middles]).clamp(max=row.shape[2] - 1)
            row = row[torch.arange(len(row)), :, planes]
        if row.dim() == 4:  # side by side while they are drawn, so that all have one contrast
            row = drawn(torch.cat(list(row), dim=2)[None])[0].unflatten(2, (len(row), -1)).permute(2, 1, 3, 0)
        rows.append(row)
    found = torch.stack(rows)
    return found if inputs.dim() == 3 else found.numpy()


def draw_correspondence(
    path: Path,
    title: str,
    caption: str,
    result: Correspondence,
    names: Sequence[str],
    hidden: Pixels | Tensor,
) -> None:
    """Draws occluded images, the distances of parts and of random draws by layer, and the table.

    Args:
        path: the PNG to write.
        title, caption: the words above; what the panels show is added to the caption.
        result: of N images.
        names: of the N images.
        hidden: of the first M images, what `hidden_parts` returns.
    """
    signals = isinstance(hidden, Tensor)
    if result.squares.shape[2] == 6:
        caption += " Of volumes the plane in the middle of what is hidden is shown."
    caption += (
        "\nDistance: the share of a layer's features at which the signs (-1, 0, +1) of the changes of two images "
        "differ, mean and standard deviation over the pairs; lower is more alike. Grey: each draw of random squares. "
        "Bold in the table: the lowest of its row."
    )
    scores = result.scores()
    heads = ["original", *result.parts, *([RANDOM] if result.random_squares.shape[1] else [])]
    width = max(_TILE_INCHES * len(heads) + 0.6, _CHART_INCHES * len(result.layers), 9.0)
    names = names[: len(hidden)]
    tiles = ((0.7 if signals else 1.0) * _TILE_INCHES + 0.1) * len(names) + 0.3
    table = _ROW_INCHES * (2 * len(result.layers) + 1.5)
    figure, area = new_figure(title, caption, width, tiles + _CHART_INCHES + table)
    heights = [tiles, _CHART_INCHES, table]
    top, middle, bottom = area.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]

    grid = top.subplots(len(names), len(heads), squeeze=False)
    for row, (name, pictures) in enumerate(zip(names, hidden, strict=True)):
        for column, pixels in enumerate(pictures):
            axes = grid[row, column]
            if isinstance(pixels, Tensor):
                trace(axes, pixels, (0, 0, 1, 1), pictures)
                axes.set_axis_off()
                axes.set_title(heads[column] if row == 0 else "", fontsize=9)
            else:
                picture(axes, pixels, heads[column] if row == 0 else "")
        grid[row, 0].text(
            -0.05,
            0.5,
            shortened(name, _NAME),
            transform=grid[row, 0].transAxes,
            fontsize=8,
            rotation=90,
            ha="right",
            va="center",
        )

    charts = middle.subplots(1, len(result.layers), squeeze=False)[0]
    for axes, layer in zip(charts, result.layers, strict=True):
        _draw_layer(axes, [score for score in scores if score.layer == layer], result, layer)
    charts[0].set_ylabel("distance", fontsize=9)

    _draw_table(bottom.subplots(), scores, result.layers)
    save(figure, path)


def _draw_layer(axes: Axes, scores: Sequence[Score], result: Correspondence, layer: str) -> None:
    """A layer's parts and random squares side by side."""
    draws = result.random[layer].distance.mean(dim=1).numpy()
    for place, score in enumerate(scores):
        if score.part == RANDOM:
            axes.plot(place + np.linspace(-0.25, 0.25, len(draws)), draws, ".", color=_GREY, markersize=4)
        colour = "0.2" if score.part == RANDOM else f"C{place}"
        spread = None if isnan(score.deviation) else score.deviation
        axes.errorbar(place, score.mean, yerr=spread, fmt="o", color=colour, capsize=4, markersize=6)
    axes.set_xticks(range(len(scores)), [score.part for score in scores], fontsize=8)
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{layer_name(layer)} ({result.named[layer].features:,} features)", fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_table(axes: Axes, scores: Sequence[Score], layers: Sequence[str]) -> None:
    """Two rows for each layer: the distance, and the distance among the features that change; lowest in bold."""
    parts = list(dict.fromkeys(score.part for score in scores))
    by_cell = {(score.layer, score.part): score for score in scores}
    rows, labels, bold = [], [], []
    for layer in layers:
        of_layer = [by_cell[layer, part] for part in parts]
        rows.append([with_deviation(score) for score in of_layer])
        rows.append([f"{score.of_changed:.3f}" for score in of_layer])
        name = shortened(layer_name(layer), _NAME)
        labels += [f"{name}: distance", f"{name}: of the features that change"]
        bold += [_lowest([score.mean for score in of_layer]), _lowest([score.of_changed for score in of_layer])]
    axes.set_axis_off()
    table = axes.table(
        rows, rowLabels=labels, colLabels=parts, cellLoc="center", loc="center", bbox=Bbox.from_bounds(0.28, 0, 0.72, 1)
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.85")
        if row == 0 or (column >= 0 and bold[row - 1] == column):
            cell.set_text_props(fontweight="bold")


def _lowest(values: Sequence[float]) -> int:
    """The place of the least value that is a number."""
    return min(range(len(values)), key=lambda place: inf if isnan(values[place]) else values[place])


def score_table(scores: Sequence[Score]) -> list[list[str]]:
    """The table for people, one score a row."""
    rows = [["layer", "part", "distance", "of the changed", "changed", "draws as low"]]
    for score in scores:
        as_low = "" if isnan(score.draws_as_low) else f"{score.draws_as_low:.2f}"
        rows.append([score.layer, score.part, with_deviation(score), f"{score.of_changed:.3f}", f"{score.changed:.3f}"])
        rows[-1].append(as_low)
    return rows


def with_deviation(score: Score) -> str:
    """A score's mean and deviation, as the paper writes them."""
    return f"{score.mean:.3f}" if isnan(score.deviation) else f"{score.mean:.3f} \u00b1 {score.deviation:.3f}"
