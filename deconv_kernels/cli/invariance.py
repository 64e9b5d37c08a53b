"""`deconv-kernels invariance`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from . import options
from .answer import Answer
from .invariance_settings import Settings

_BORDERS = ("edge", "reflect")


@options.command("invariance", Settings, RuntimeError)
def command(settings: Settings) -> Answer:
    """Measure how features move when photographs are translated, scaled and rotated.

    Each photograph's central square is looked at. Writes a figure of curves (invariance.png), all distances and
    probabilities (invariance.csv), and the settings (invariance.json).

    \b
    Example:
        deconv-kernels invariance --weights vgg16.pth --images photos/ --layers conv1_2,conv5_3
    """
    from ..data.crops import cut, plan_centres
    from ..data.photographs import load_photographs
    from ..data.tables import write_csv
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..experiments.invariance import figure_5, invariance
    from ..plot.invariance import draw_invariance, examples_of
    from ..terminal import aligned
    from .fills import describe_fill, fill_colour
    from .labels import class_names, read_labels
    from .subject import layers_of, load

    size, fill, interpolation = settings.size, settings.fill, settings.interpolation
    if settings.classes is not None and settings.labels is None:
        raise ValueError("--classes names the classes that --labels asks for: give --labels too, such as predicted")
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
    classes = class_names(settings.classes, weights.classes)
    wanted = (
        None if settings.labels is None else read_labels(settings.labels, settings.classes, len(photographs), classes)
    )
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
        told |= {"labels": found.labels, "norms": norms}
        write_json(draft / "invariance.json", told)
        examples = [examples_of(each, inputs, weights.deprocess) for each in transformations]
        caption = (
            f"Central squares of {len(photographs)} photographs at {size}x{size}, turned and scaled about their "
            f"middle, {interpolation} interpolation; what comes in at the border: {describe_fill(weights, fill)}. "
            f"Weights: {weights.source}."
        )
        title = f"{settings.network.model}: features of translated, scaled and rotated images"
        path = draft / "invariance.png"
        draw_invariance(path, title, caption, found, called, examples, classes, relative=not settings.raw)
        files = files_in(draft)
    parts.remove()
    lines = aligned(found.summary())
    lines.append("Means over the images and all but the parameters that change nothing; distances divided by the norm.")
    lines.append(f"invariance.png, invariance.csv and invariance.json in {settings.output}")
    return Answer(lines, settings.output, files, told)
