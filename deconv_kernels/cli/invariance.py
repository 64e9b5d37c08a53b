"""`deconv-kernels invariance`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    layers_of,
    layers_option,
    load,
    network_options,
    output_option,
    photograph_options,
    size_option,
    user_errors,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..experiments.invariance import Invariance, Transformation
    from ..models import Weights
    from ..plot.invariance import Examples

_BORDERS = ("edge", "reflect")
_SHOWN = 5
_MOST_STEPS = 1000


@click.command("invariance")
@network_options
@photograph_options
@layers_option("A low and a high layer, or any others, separated by commas.", required=True)
@click.option(
    "--labels",
    help="The true classes, to follow their probabilities: one per photograph, separated by commas or one a line of "
    "a file; numbers, or names from --classes. 'predicted' takes the class given to the original image.",
)
@click.option("--classes", help="A file with the name of each class on a line of its own, from class 0 on.")
@click.option("--probabilities", is_flag=True, help="The network ends in probabilities, not in logits.")
@click.option(
    "--translation", help="FROM,TO,STEP in pixels, down is positive. By default the paper's, -60 to 60 of 224."
)
@click.option("--scale", help="FROM,TO,STEP of the ratio. By default 1,1.8,0.05.")
@click.option("--rotation", help="FROM,TO,STEP in degrees, counter-clockwise. By default 0,350,10.")
@click.option(
    "--fill",
    default="mean",
    show_default=True,
    help="What fills the uncovered border: mean (zero in the network's input), a grey level 0..255, R,G,B, edge (the "
    "border's pixels repeated) or reflect.",
)
@click.option("--interpolation", default="bilinear", show_default=True, help="bilinear, bicubic or nearest.")
@click.option("--raw", is_flag=True, help="Draw distances as in the paper, not divided by the original features' norm.")
@size_option()
@click.option("--batch-size", default=16, show_default=True, help="Images per pass.")
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    labels: str | None,
    classes: str | None,
    probabilities: bool,
    translation: str | None,
    scale: str | None,
    rotation: str | None,
    fill: str,
    interpolation: str,
    raw: bool,
    size: int,
    batch_size: int,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Measure how features move when photographs are translated, scaled and rotated.

    Each photograph's central square is looked at. Writes a figure of curves (invariance.png), all distances and
    probabilities (invariance.csv), and the settings (invariance.json).
    """
    import json
    from dataclasses import replace

    from ..data.photographs import cut, load_photographs, plan_centres
    from ..data.tables import aligned, write_csv
    from ..data.writing import write_text
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.invariance import figure_5, invariance
    from ..plot.invariance import draw_invariance
    from .fills import describe_fill, fill_colour
    from .labels import read_labels

    with user_errors(ValueError, OSError, RuntimeError, UnsupportedModule):
        subject = load(model, weights, size, mean, std, device, threads)
        chosen = layers_of(subject.model, layers)
        photographs = load_photographs(images + more_images)
        called = [photograph.name for photograph in photographs]
        inputs = subject.weights.preprocess(cut(photographs, plan_centres(photographs, size), size)).to(subject.device)
        border = fill if fill in _BORDERS else fill_colour(subject.weights, fill, _BORDERS)
        transformations = tuple(
            each if steps is None else replace(each, parameters=_steps(option, steps))
            for each, option, steps in zip(
                figure_5(size, border, interpolation),
                ("translation", "scale", "rotation"),
                (translation, scale, rotation),
                strict=True,
            )
        )
        wanted = None if labels is None else read_labels(labels, classes, len(photographs))
        settings = {
            "model": model,
            "weights": subject.weights.source,
            "images": called,
            "layers": chosen,
            "labels": wanted,
            "outputs": "probabilities" if probabilities else "logits",
            "parameters": {each.name: each.parameters for each in transformations},
            "fill": fill,
            "interpolation": interpolation,
            "size": size,
        }
        parts = Parts.of_run(output, "invariance", settings, subject.model, inputs)
        with written_at_once(Path(output)) as draft:
            found = invariance(
                subject.model,
                inputs,
                chosen,
                transformations,
                wanted,
                outputs="probabilities" if probabilities else "logits",
                batch_size=batch_size,
                parts=parts,
            )
            head, rows = _rows(found, called)
            write_csv(draft / "invariance.csv", head, rows)
            norms = {layer: dict(zip(called, values.tolist(), strict=True)) for layer, values in found.norms.items()}
            content = {**settings, "labels": found.labels, "norms": norms}
            write_text(draft / "invariance.json", json.dumps(content, indent=2) + "\n")
            draw_invariance(
                draft / "invariance.png",
                f"{model}: features of translated, scaled and rotated images",
                f"Central squares of {len(photographs)} photographs at {size}x{size}, turned and scaled about their "
                f"middle, {interpolation} interpolation; what comes in at the border: "
                f"{describe_fill(subject.weights, fill)}. Weights: {subject.weights.source}.",
                found,
                called,
                [examples_of(subject.weights, inputs, each) for each in transformations],
                relative=not raw,
            )
        parts.remove()
    for line in aligned(_summary(found)):
        click.echo(line)
    click.echo("Means over the images and all but the parameters that change nothing; distances divided by the norm.")
    click.echo(f"invariance.png, invariance.csv and invariance.json in {output}")


def _steps(option: str, text: str) -> tuple[float, ...]:
    """The parameters that FROM,TO,STEP stand for, both ends included."""
    try:
        first, last, step = (float(number) for number in text.split(","))
        count = round((last - first) / step, 9)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option} must be FROM,TO,STEP, three numbers, got {text!r}") from None
    if not 0 <= count < _MOST_STEPS:
        raise ValueError(f"{option} must reach TO from FROM in less than {_MOST_STEPS} steps, got {text!r}")
    return tuple(round(first + number * step, 9) for number in range(int(count) + 1))


def examples_of(weights: Weights, inputs: Tensor, transformation: Transformation) -> Examples:
    """The first images under five of the parameters, as pixels."""
    import torch

    from ..plot.invariance import Examples

    ordered = sorted(transformation.parameters)
    count = min(_SHOWN, len(ordered))
    shown = [ordered[round(place * (len(ordered) - 1) / max(1, count - 1))] for place in range(count)]
    changed = torch.stack([transformation.apply(inputs[:_SHOWN], parameter) for parameter in shown], dim=1)
    pixels = weights.deprocess(changed.cpu()).round().clamp(0, 255).to(torch.uint8)
    return Examples(shown, pixels.permute(0, 1, 3, 4, 2).numpy())


def _rows(found: Invariance, called: list[str]) -> tuple[list[str], list[list[Any]]]:
    """Every number, one row for each transformation, parameter and image."""
    head = ["transformation", "parameter", "image"]
    for layer in found.layers:
        head += [f"distance {layer}", f"relative distance {layer}"]
    if found.labels is not None:
        head += ["label", "probability"]
    rows: list[list[Any]] = []
    for curves in found.curves:
        relative = {layer: found.relative(curves, layer) for layer in found.layers}
        for place, parameter in enumerate(curves.transformation.parameters):
            for number, name in enumerate(called):
                row: list[Any] = [curves.transformation.name, parameter, name]
                for layer in found.layers:
                    row += [float(curves.distances[layer][number, place]), float(relative[layer][number, place])]
                if found.labels is not None and curves.probabilities is not None:
                    row += [found.labels[number], float(curves.probabilities[number, place])]
                rows.append(row)
    return head, rows


def _summary(found: Invariance) -> list[list[str]]:
    rows = [["", *found.layers, *(["probability"] if found.labels is not None else [])]]
    for curves in found.curves:
        changed = sum(curves.distances.values(), start=curves.distances[found.layers[0]] * 0).sum(0) > 0
        means = [found.relative(curves, layer)[:, changed].nanmean() for layer in found.layers]
        if curves.probabilities is not None:
            means.append(curves.probabilities[:, changed].mean())
        rows.append([curves.transformation.name, *(f"{float(mean):.3f}" for mean in means)])
    return rows
