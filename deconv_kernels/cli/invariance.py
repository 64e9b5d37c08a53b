"""`deconv-kernels invariance`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from . import options
from .options import Network, PhotographSources, group, option

_BORDERS = ("edge", "reflect")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to transform, how, and what to look at."""

    network: Network = group(Network)
    photographs: PhotographSources = group(PhotographSources)
    layers: str = options.layers("A low and a high layer, or any others, separated by commas.", required=True)
    labels: str | None = option(
        None,
        "The true classes, to follow their probabilities: one per photograph, separated by commas or one a line of a "
        "file; numbers, or names from --classes. 'predicted' takes the class given to the original image.",
    )
    classes: str | None = options.classes()
    probabilities: bool = option(False, "The network ends in probabilities, not in logits.", is_flag=True)
    translation: str | None = option(
        None, "FROM,TO,STEP in pixels, down is positive. By default the paper's, -60 to 60 of 224."
    )
    scale: str | None = option(None, "FROM,TO,STEP of the ratio. By default 1,1.8,0.05.")
    rotation: str | None = option(None, "FROM,TO,STEP in degrees, counter-clockwise. By default 0,350,10.")
    fill: str = option(
        "mean",
        "What fills the uncovered border: mean (zero in the network's input), a grey level 0..255, R,G,B, edge (the "
        "border's pixels repeated) or reflect.",
    )
    interpolation: str = option("bilinear", "bilinear, bicubic or nearest.")
    raw: bool = option(
        False, "Draw distances as in the paper, not divided by the original features' norm.", is_flag=True
    )
    size: int = options.size()
    batch_size: int = options.batch_size(help="Images per pass.")
    output: str = options.output()


@options.command("invariance", Settings, RuntimeError)
def command(settings: Settings) -> None:
    """Measure how features move when photographs are translated, scaled and rotated.

    Each photograph's central square is looked at. Writes a figure of curves (invariance.png), all distances and
    probabilities (invariance.csv), and the settings (invariance.json).
    """
    from ..data.crops import cut, plan_centres
    from ..data.photographs import load_photographs
    from ..data.tables import aligned, write_csv
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.invariance import figure_5, invariance
    from ..plot.invariance import draw_invariance, examples_of
    from .fills import describe_fill, fill_colour
    from .labels import read_labels
    from .subject import layers_of, load

    size, fill, interpolation = settings.size, settings.fill, settings.interpolation
    subject = load(settings.network, size)
    weights = subject.weights
    chosen = layers_of(subject.model, settings.layers)
    photographs = load_photographs(settings.photographs.sources)
    called = [photograph.name for photograph in photographs]
    inputs = subject.inputs(cut(photographs, plan_centres(photographs, size), size))
    border = fill if fill in _BORDERS else fill_colour(weights, fill, _BORDERS)
    asked = options.values(settings, "translation", "scale", "rotation")
    transformations = tuple(
        each if steps is None else replace(each, parameters=options.steps(name, steps))
        for each, (name, steps) in zip(figure_5(size, border, interpolation), asked.items(), strict=True)
    )
    wanted = None if settings.labels is None else read_labels(settings.labels, settings.classes, len(photographs))
    outputs = "probabilities" if settings.probabilities else "logits"
    told: dict[str, Any] = {
        "model": settings.network.model,
        "weights": weights.source,
        "images": called,
        "layers": chosen,
    }
    told |= {"labels": wanted, "outputs": outputs}
    told |= {"parameters": {each.name: each.parameters for each in transformations}}
    told |= options.values(settings, "fill", "interpolation", "size")
    parts = Parts.of_run(settings.output, "invariance", told, subject.model, inputs)
    with written_at_once(Path(settings.output)) as draft:
        found = invariance(
            subject.model,
            inputs,
            chosen,
            transformations,
            wanted,
            outputs=outputs,
            batch_size=settings.batch_size,
            parts=parts,
        )
        write_csv(draft / "invariance.csv", *found.table(called))
        norms = {layer: dict(zip(called, values.tolist(), strict=True)) for layer, values in found.norms.items()}
        write_json(draft / "invariance.json", {**told, "labels": found.labels, "norms": norms})
        examples = [examples_of(each, inputs, weights.deprocess) for each in transformations]
        caption = (
            f"Central squares of {len(photographs)} photographs at {size}x{size}, turned and scaled about their "
            f"middle, {interpolation} interpolation; what comes in at the border: {describe_fill(weights, fill)}. "
            f"Weights: {weights.source}."
        )
        title = f"{settings.network.model}: features of translated, scaled and rotated images"
        path = draft / "invariance.png"
        draw_invariance(path, title, caption, found, called, examples, relative=not settings.raw)
    parts.remove()
    options.tell(aligned(found.summary()))
    click.echo("Means over the images and all but the parameters that change nothing; distances divided by the norm.")
    click.echo(f"invariance.png, invariance.csv and invariance.json in {settings.output}")
