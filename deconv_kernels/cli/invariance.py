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
    """Measure how features move when images are translated, scaled and rotated.

    Each photograph's central square is looked at. Volumes are translated along each axis and turned in the plane of
    their rows and columns, signals translated and scaled. Writes a figure of curves (invariance.png), all distances and
    probabilities (invariance.csv), and the settings (invariance.json).

    \b
    Example:
        deconv-kernels invariance --weights vgg16.pth --images photos/ --layers conv1_2,conv5_3
    """
    from ..data.tables import write_csv
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..experiments.invariance import figure_5, invariance
    from ..plot.invariance import draw_invariance, examples_of
    from ..terminal import aligned
    from .labels import class_names, read_labels
    from .shown import show_centres
    from .subject import layers_of

    size, interpolation = settings.size, settings.interpolation
    if settings.classes is not None and settings.labels is None:
        raise ValueError("--classes names the classes that --labels asks for: give --labels too, such as predicted")
    shown = show_centres(settings.network, settings.images.sources, size)
    chosen = layers_of(shown.net, settings.layers)
    called, inputs = list(shown.names), shown.inputs().to(shown.device)
    border, filled = shown.fill(settings.fill, _BORDERS)
    given = options.values(settings, "translation", "scale", "rotation")
    asked = {name: options.steps(name, each) for name, each in given.items() if each is not None}
    transformations = figure_5(inputs.shape[2:], border, interpolation)
    if "rotation" in asked and not any(each.name == "rotation" for each in transformations):
        raise ValueError(f"{shown.one}s cannot be turned: leave --rotation out")
    transformations = tuple(
        replace(each, parameters=asked[name]) if name in asked else each
        for each, name in ((each, each.name.split()[-1]) for each in transformations)
    )
    classes = class_names(settings.classes, shown.classes)
    wanted = None if settings.labels is None else read_labels(settings.labels, settings.classes, len(shown), classes)
    outputs = "probabilities" if settings.probabilities else "logits"
    told: dict[str, Any] = {
        "model": settings.network.model,
        "weights": shown.source,
        "images": called,
        "layers": chosen,
    }
    told |= {"labels": wanted, "outputs": outputs}
    told |= {"parameters": {each.name: each.parameters for each in transformations}}
    told |= options.values(settings, "fill", "interpolation", "size")
    parts = Parts.of_run(settings.output, "invariance", told, shown.net, inputs)
    with written_at_once(Path(settings.output)) as draft:
        found = invariance(
            shown.net,
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
        examples = [examples_of(each, inputs, shown.drawn) for each in transformations]
        words = [
            f"{shown.what}, changed about their middle, {interpolation} interpolation; what comes in at the border: "
            f"{filled}.",
            "Of volumes the middle plane is shown." if inputs.dim() == 5 else "",
            shown.remark,
            f"Weights: {shown.source}.",
        ]
        deeds = "translated, scaled and rotated" if inputs.dim() > 3 else "translated and scaled"
        title = f"{settings.network.model}: features of {deeds} {shown.noun}s"
        path, caption = draft / "invariance.png", " ".join(filter(None, words))
        draw_invariance(path, title, caption, found, called, examples, classes, relative=not settings.raw)
        files = files_in(draft)
    parts.remove()
    lines = aligned(found.summary())
    lines.append("Means over the images and all but the parameters that change nothing; distances divided by the norm.")
    lines.append(f"invariance.png, invariance.csv and invariance.json in {settings.output}")
    return Answer(lines, settings.output, files, told)
