"""The figure of the transfer experiment: accuracy by layer (Table 7) and by number of training images (Fig 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from ..experiments.transfer import PIXELS, Transfer
from .figures import new_figure, save
from .text import layer_name, shortened

__all__ = ["draw_transfer"]

_MARKERS = "osD^v"
_LINES = ("-", "--", ":", "-.")
_NAME = 20


def draw_transfer(path: Path, result: Transfer, told: Mapping[str, Any]) -> None:
    """Draws accuracies by layer with the most training images, and of every network against their number.

    Bars reach one standard deviation over the folds to both sides. The dotted line is what guessing gives.

    Args:
        path: the PNG to write.
        result: of `transfer`.
        told: what `deconv-kernels transfer` writes of its settings.
    """
    grid = told["grid"]
    size = (told["size"],) * 2 if isinstance(told["size"], int) else told["size"]
    pooled = (
        f"maps larger than {_sides((grid,) * len(size))} pooled to it ({told['pooling']})" if grid else "whole maps"
    )
    tested = " to ".join(map(str, sorted({min(result.tested), max(result.tested)})))
    untrained = "untrained" in result.names("network")
    title = f"Linear classifiers on the frozen features of {told['model']}: {told['data']}"
    caption = (
        f"{result.classes} classes, images of {_sides(size)}; {told['folds']} folds, mean and standard deviation over "
        f"them, {tested} test images each. Features: {pooled}. Weights: {told['weights']}. Dotted: what guessing gives."
        + ("\nUntrained is the same network with random weights, frozen too." if untrained else "")
    )
    networks = [network for network in result.names("network") if network != PIXELS]
    layers = [layer for layer in result.names("layer") if layer != PIXELS]
    curves = networks if len({score.per_class for score in result.scores}) > 1 else []
    width = max(8.0, 6.5 + 4 * len(curves))
    figure, area = new_figure(title, caption, width=width, height=5)
    ratios = [1.5, *(1 for _ in curves)]
    axes = area.subplots(1, len(ratios), squeeze=False, sharey=True, width_ratios=ratios)[0]
    _by_layer(axes[0], result, networks, layers)
    for each, network in zip(axes[1:], curves, strict=True):
        _by_number(each, result, network, layers)
    guessing = 100 / result.classes
    lowest = min(100 * score.mean - _reach(score.deviation) for score in result.scores)
    highest = max(100 * score.mean + _reach(score.deviation) for score in result.scores)
    for each in axes:
        each.axhline(guessing, color="0.5", linewidth=1, linestyle=":")
        each.set_ylim(min(lowest, guessing) - 5, max(highest, 100) + 2)
        each.grid(alpha=0.25)
        each.tick_params(labelsize=8)
    axes[0].set_ylabel("accuracy, mean over classes (%)", fontsize=9)
    save(figure, path)


def _sides(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _by_layer(axes: Axes, result: Transfer, networks: list[str], layers: list[str]) -> None:
    classifiers = result.names("classifier")
    most = result.most_per_class
    colours = matplotlib.colormaps["tab10"]
    places = range(len(layers))
    for i, network in enumerate(networks):
        for j, classifier in enumerate(classifiers):
            scores = [result.score(network, layer, classifier, most) for layer in layers]
            axes.errorbar(
                [place + 0.06 * (i * len(classifiers) + j) for place in places],
                [100 * score.mean for score in scores],
                [_reach(score.deviation) for score in scores],
                color=colours(i),
                marker=_MARKERS[j % len(_MARKERS)],
                linestyle=_LINES[j % len(_LINES)],
                markersize=5,
                capsize=3,
                label=f"{network}, {classifier}",
            )
    if PIXELS in result.names("layer"):
        for j, classifier in enumerate(classifiers):
            score = result.score(PIXELS, PIXELS, classifier, most)
            line = _LINES[j % len(_LINES)]
            axes.axhline(100 * score.mean, color="0.35", linestyle=line, linewidth=1, label=f"{PIXELS}, {classifier}")
    shown = [shortened(layer, _NAME) for layer in layers]
    crowded = sum(map(len, shown)) > 60
    axes.set_xticks(list(places), shown, rotation=25 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlabel("layer, from the images up", fontsize=9)
    axes.set_title(f"By layer, {most} training images per class", fontsize=10)
    axes.legend(fontsize=7.5, framealpha=0.8, loc="lower left", ncols=2)


def _by_number(axes: Axes, result: Transfer, network: str, layers: list[str]) -> None:
    classifier = result.names("classifier")[0]
    numbers = sorted({score.per_class for score in result.scores})
    colours = matplotlib.colormaps["viridis"]
    rows = [(network, layer, colours(0.9 * place / max(1, len(layers) - 1))) for place, layer in enumerate(layers)]
    if PIXELS in result.names("layer"):
        rows.append((PIXELS, PIXELS, (0.35, 0.35, 0.35, 1.0)))
    for of, layer, colour in rows:
        scores = [result.score(of, layer, classifier, number) for number in numbers]
        axes.errorbar(
            numbers,
            [100 * score.mean for score in scores],
            [_reach(score.deviation) for score in scores],
            color=colour,
            linestyle="--" if of == PIXELS else "-",
            marker="o",
            markersize=3.5,
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
            label=shortened(layer_name(layer), _NAME),
        )
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("training images per class", fontsize=9)
    axes.set_title(f"By number of training images: {network}, {classifier}", fontsize=10)
    axes.legend(fontsize=7.5, framealpha=0.8, loc="best")


def _reach(deviation: float) -> float:
    return 0.0 if isnan(deviation) else 100 * deviation
