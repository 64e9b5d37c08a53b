"""`deconv-kernels occlusion`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import options
from .answer import Answer
from .options import ImageSources, Network, PerAxis, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to hide, and what to watch."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    layers: str = options.layers(
        "One layer, whose strongest map is watched, rectified if a rectifier follows; by default the last that has "
        "maps."
    )
    map: int | None = option(None, "Watch this map instead of the strongest.", type=int)
    occluder: int | tuple[int, ...] = options.occluder(
        help="Rows and columns of the square; or a number for each axis, as in 4,16,16.", type=PerAxis()
    )
    stride: int | tuple[int, ...] = option(
        8, "Pixels from one position of the square to the next; or a number for each axis.", type=PerAxis()
    )
    cover: bool = option(
        True,
        "End rows and columns with a position at the border, even if it is nearer than the stride.",
        "--cover/--no-cover",
        show_default=True,
    )
    fill: str = option(
        "mean",
        "The colour of the square: mean (what preprocessing subtracts, zero in the network's input), image (each "
        "photograph's own mean), a grey level 0..255 or R,G,B; in tensors a number, or one for each channel.",
    )
    units: int | None = option(
        None,
        "Strongest units of the map to project back, by default one; 0 for none, as for networks that can only be run "
        "forward.",
        type=int,
    )
    logits: str | None = option(
        None, "The layer with one value for each class; by default the network's output if it is such a row."
    )
    probabilities: bool = option(False, "That layer holds probabilities, not logits.", is_flag=True)
    labels: str = option(
        "predicted",
        "The true classes: one for each photograph, separated by commas or one a line of a file; numbers, or names "
        "from --classes. 'predicted' takes the class given to the clean image.",
    )
    classes: str | None = options.classes()
    size: int = options.size()
    output: str = options.output()


@options.command("occlusion", Settings)
def command(settings: Settings) -> Answer:
    """Slide a grey square over images and see which parts a map and the network's answer owe to them.

    Each photograph's central square is looked at. Through volumes a cube slides, along signals a span. Writes a figure
    (occlusion.png), every position as a table (occlusion.csv), the arrays (occlusion.npz) and the main numbers
    (occlusion.json). Probabilities need a network that ends in one value for each class. An interrupted run goes on
    with the images that are left.

    \b
    Example:
        deconv-kernels occlusion --weights vgg16.pth --images dog.jpg --layers conv5_3 --occluder 48
    """
    import numpy as np

    from ..data.tables import write_csv
    from ..data.writing import being_written, write_json
    from ..experiments import occlusion as experiment
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..plot.occlusion import Drawn, draw_occlusions
    from ..terminal import aligned
    from .labels import class_names, read_labels
    from .shown import show_centres

    model, size = settings.network.model, settings.size
    shown = show_centres(settings.network, settings.images.sources, size)
    called, inputs = list(shown.names), shown.inputs().to(shown.device)
    asked = options.names(settings.layers) if settings.layers else None
    watch = experiment.watch(shown.model, inputs, asked, settings.logits, settings.units)
    classes = class_names(settings.classes, shown.classes)
    wanted = read_labels(settings.labels, settings.classes, len(shown), classes)
    watch.check_labels(wanted, settings.probabilities)
    colour, filled = shown.fill(settings.fill)
    told: dict[str, Any] = {"model": model, "weights": shown.source, "images": called, "asked": watch.asked}
    told |= {"layer": watch.layer} | options.values(settings, "map", "occluder", "stride", "cover", "fill")
    told |= {"units": watch.units, "logits": watch.logits, "probabilities": settings.probabilities}
    told |= {"labels": wanted, "size": size}
    parts = Parts.of_run(settings.output, "occlusion", told, watch.net, inputs)
    with written_at_once(Path(settings.output)) as draft:
        labels = None if isinstance(wanted, str) else wanted
        how = {"size": settings.occluder, "fill": colour, "softmax": not settings.probabilities}
        how |= options.values(settings, "stride", "cover", "map")
        found = watch.occlude_each(inputs, called, labels, parts, **how)
        write_csv(draft / "occlusion.csv", *experiment.table(found, called))
        with being_written(draft / "occlusion.npz"):
            np.savez_compressed(draft / "occlusion.npz", **experiment.stacked(found))
        told["found"] = [{"image": name, **each.numbers()} for name, each in zip(called, found, strict=True)]
        write_json(draft / "occlusion.json", told, allow_nan=False)
        drawn = Drawn(told, classes, filled, shown.one, partial(shown.covered, colour), shown.to_rgb, shown.remark)
        draw_occlusions(draft / "occlusion.png", found, drawn)
        files = files_in(draft)
    parts.remove()
    lines = [*aligned(experiment.summary(found, called, classes)), *watch.remarks(found, called, classes, model)]
    lines.append(f"occlusion.png, occlusion.csv, occlusion.npz and occlusion.json in {settings.output}")
    return Answer(lines, settings.output, files, told)
