"""The figure of the two repairs: accuracy, dead filters, aliasing and first layers of the networks compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..experiments.repair import Run
from .figures import new_figure, picture, save
from .filters import filter_page
from .text import layer_name

__all__ = ["draw_repair"]

_COLOURS = ("#4477aa", "#cc3311", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_SHADES = (1.0, 0.7, 0.45, 0.3)


def draw_repair(path: Path, runs: Sequence[Run], title: str, caption: str) -> None:
    """Draws what became of the networks.

    Args:
        path: the PNG to write.
        runs: from `repair`.
        title, caption: the words above; what the panels show is added to the caption.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    colours = {arm: _COLOURS[place % len(_COLOURS)] for place, arm in enumerate(arms)}
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in arms}
    caption += (
        "\nThin lines and dots are single seeds, thick lines and bars their means. Dead: never positive over the "
        "validation set. Aliased: of the variance of a first layer's responses, the share above the Nyquist frequency "
        "of its stride, median over filters.\nFilters are those of the first seed, one contrast per picture: one that "
        "dominates leaves the others grey."
    )
    figure, area = new_figure(title, caption, 15.0, 6.9)
    top, bottom = area.subfigures(2, 1, height_ratios=[2.1, 1], squeeze=False)[:, 0]
    accuracy, dead, aliased = top.subplots(1, 3, width_ratios=[1.5, 1.2, 0.8])
    for arm, each in by_arm.items():
        curves = np.array([run.accuracies for run in each])
        epochs = np.arange(1, curves.shape[1] + 1)
        accuracy.plot(epochs, curves.T, color=colours[arm], linewidth=0.6, alpha=0.6)
        accuracy.plot(epochs, curves.mean(0), color=colours[arm], linewidth=2.2, label=arm)
    accuracy.set_ylim(0, 1)
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.set_xlabel("epoch")
    accuracy.set_ylabel("validation accuracy")
    accuracy.legend(frameon=False, fontsize=8)

    places = np.arange(len(arms))
    floor = np.zeros(len(arms))
    for number, layer in enumerate(runs[0].dead):
        means = np.array([np.mean([int(run.dead[layer].sum()) for run in by_arm[arm]]) for arm in arms])
        shade = _SHADES[number % len(_SHADES)]
        bars = dead.bar(places, means, bottom=floor, color=[colours[arm] for arm in arms], alpha=shade)
        labels = [f"{layer_name(layer)}: {mean:.3g}" if mean else "" for mean in means]
        dead.bar_label(bars, labels, label_type="center", fontsize=7)
        floor += means
    for place, arm in zip(places, arms, strict=True):
        counts = [run.dead_count for run in by_arm[arm]]
        dead.plot([place] * len(counts), counts, "o", color="black", markersize=3)
        shares = [run.aliased for run in by_arm[arm]]
        aliased.bar(place, np.nanmean(shares) if not np.isnan(shares).all() else 0.0, color=colours[arm])
        aliased.plot([place] * len(shares), shares, "o", color="black", markersize=3)
    dead.set_ylim(0, max(1.0, dead.get_ylim()[1]))
    dead.yaxis.set_major_locator(MaxNLocator(integer=True))
    dead.set_ylabel(f"dead filters of {sum(map(len, runs[0].dead.values()))}")
    aliased.set_ylabel("aliased share of the first layer's responses")
    for axes in (accuracy, dead, aliased):
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (dead, aliased):
        axes.set_xticks(places, [arm.replace(", ", ",\n").replace(" stride", "\nstride") for arm in arms], fontsize=7.5)

    pictures = bottom.subplots(1, len(arms), squeeze=False)[0]
    for axes, arm in zip(pictures, arms, strict=True):
        picture(axes, filter_page(by_arm[arm][0].filters, columns=8), f"{arm}: first layer")
    save(figure, path)
