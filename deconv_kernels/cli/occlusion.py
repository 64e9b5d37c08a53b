"""`deconv-kernels occlusion`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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

    from ..experiments.occlusion import Occlusion
    from ..models import Weights

_LISTED = 10


@click.command("occlusion")
@network_options
@photograph_options
@layers_option(
    "One layer, whose strongest map is watched, rectified if a rectifier follows; by default the last that has maps."
)
@click.option("--map", "number", type=int, help="Watch this map instead of the strongest.")
@click.option("--occluder", default=32, show_default=True, help="Rows and columns of the square.")
@click.option("--stride", default=8, show_default=True, help="Pixels from one position of the square to the next.")
@click.option(
    "--cover/--no-cover",
    default=True,
    show_default=True,
    help="End rows and columns with a position at the border, even if it is nearer than the stride.",
)
@click.option(
    "--fill",
    default="mean",
    show_default=True,
    help="The colour of the square: mean (what preprocessing subtracts, zero in the network's input), image (each "
    "photograph's own mean), a grey level 0..255 or R,G,B.",
)
@click.option(
    "--units",
    type=int,
    help="Strongest units of the map to project back, by default one; 0 for none, as for networks that can only be run "
    "forward.",
)
@click.option(
    "--logits", help="The layer with one value for each class; by default the network's output if it is such a row."
)
@click.option("--probabilities", is_flag=True, help="That layer holds probabilities, not logits.")
@click.option(
    "--labels",
    default="predicted",
    show_default=True,
    help="The true classes: one for each photograph, separated by commas or one a line of a file; numbers, or names "
    "from --classes. 'predicted' takes the class given to the clean image.",
)
@click.option("--classes", help="A file with the name of each class on a line of its own, from class 0 on.")
@size_option()
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    number: int | None,
    occluder: int,
    stride: int,
    cover: bool,
    fill: str,
    units: int | None,
    logits: str | None,
    probabilities: bool,
    labels: str,
    classes: str | None,
    size: int,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Slide a grey square over photographs and see which parts a map and the network's answer owe to them.

    Each photograph's central square is looked at. Writes a figure (occlusion.png), every position as a table
    (occlusion.csv), the arrays (occlusion.npz) and the main numbers (occlusion.json). Probabilities need a network that
    ends in one value for each class. An interrupted run goes on with the photographs that are left.
    """
    from dataclasses import asdict

    from ..data.crops import shapes_of
    from ..data.photographs import cut, load_photographs, plan_centres
    from ..data.tables import aligned
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.classes import class_count
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.common.responses import rectifier_of
    from ..experiments.common.tracing import with_way_back
    from ..experiments.occlusion import Occlusion, occlude
    from .labels import read_labels, read_lines

    with user_errors(ValueError, OSError, UnsupportedModule):
        subject = load(model, weights, size, mean, std, device, threads)
        photographs = load_photographs(images + more_images)
        called = [photograph.name for photograph in photographs]
        pixels = cut(photographs, plan_centres(photographs, size), size)
        inputs = subject.weights.preprocess(pixels).to(subject.device)
        net, refusal = with_way_back(subject.model)
        if units is None:
            units = 1 if refusal is None else 0
        elif units > 0 and refusal is not None:
            raise ValueError(f"no projection, leave --units out: {refusal}")
        shapes = shapes_of(net, inputs, net.layers)
        asked, *others = layers_of(subject.model, layers) if layers else (_last_maps(shapes),)
        if others:
            raise ValueError(f"one layer is watched, got {len(others) + 1}: {layers}")
        layer = rectifier_of(net.tape, asked)
        if logits is None and net.tape.output is not None and len(shapes[net.output]) == 1:
            logits = net.output
        wanted = read_labels(labels, classes, len(photographs))
        if logits is None and (wanted != "predicted" or probabilities):
            raise ValueError("the network does not end in one value for each class, so no class has a probability")
        if isinstance(wanted, list) and logits in shapes and max(wanted) >= class_count(shapes[logits][0]):
            raise ValueError(f"label must be from 0 to {class_count(shapes[logits][0]) - 1}, got {max(wanted)}")
        names = [] if classes is None else read_lines(classes, "classes")
        colour = _colour(subject.weights, fill)
        settings: dict[str, Any] = {
            "model": model,
            "weights": subject.weights.source,
            "images": called,
            "asked": asked,
            "layer": layer,
            "map": number,
            "occluder": occluder,
            "stride": stride,
            "cover": cover,
            "fill": fill,
            "units": units,
            "logits": logits,
            "probabilities": probabilities,
            "labels": wanted,
            "size": size,
        }
        parts = Parts.of_run(output, "occlusion", settings, subject.model, inputs)

        def one(place: int) -> dict[str, Any]:
            found = occlude(
                net,
                inputs[place],
                layer,
                logits,
                size=occluder,
                stride=stride,
                fill=colour,
                cover=cover,
                map=number,
                units=units,
                label=wanted[place] if isinstance(wanted, list) else None,
                softmax=not probabilities,
                title=called[place],
            )
            return asdict(found)

        with written_at_once(Path(output)) as draft:
            found = [Occlusion(**parts.get(f"photograph {place}", partial(one, place))) for place in range(len(called))]
            _write_numbers(draft, settings, found, called)
            _draw(draft / "occlusion.png", subject.weights, settings, found, pixels, names)
        parts.remove()
    for line in aligned(_summary(found, called, names)):
        click.echo(line)
    if refusal is not None:
        click.echo(f"No projection: {refusal}")
    if logits is None:
        click.echo(f"No probabilities: the output of {model} is not one value for each class.")
    for each, name in zip(found, called, strict=True):
        for line in _raises(each, name, names):
            click.echo(line)
    click.echo(f"occlusion.png, occlusion.csv, occlusion.npz and occlusion.json in {output}")


def _last_maps(shapes: dict[str, tuple[int, ...]]) -> str:
    """The last layer whose output is maps of more than one position, or where none is, the last but the output."""
    found = [layer for layer, shape in shapes.items() if len(shape) == 3 and shape[1] * shape[2] > 1]
    return found[-1] if found else list(shapes)[:-1][-1] if len(shapes) > 1 else next(iter(shapes))


def _colour(weights: Weights, fill: str) -> float | str | Tensor:
    """What the square holds, as `occlude` takes it."""
    from .fills import fill_colour

    return "mean" if fill == "image" else fill_colour(weights, fill, ("image",))


def _write_numbers(folder: Path, settings: dict[str, Any], found: Sequence[Occlusion], called: Sequence[str]) -> None:
    """Every position as a table, the maps as arrays, and the main numbers."""
    import json
    from dataclasses import asdict, fields

    import numpy as np
    from torch import Tensor

    from ..data.tables import write_csv
    from ..data.writing import being_written, write_text

    columns = ("activation", "probability", "most_probable", "highest_probability")
    measured = [name for name in columns if getattr(found[0], name) is not None]
    rows = [
        (name, y, x, *(getattr(each, column)[r, k].item() for column in measured))
        for each, name in zip(found, called, strict=True)
        for r, y in enumerate(each.rows.tolist())
        for k, x in enumerate(each.columns.tolist())
    ]
    write_csv(folder / "occlusion.csv", ("image", "y", "x", *measured), rows)
    arrays = {
        field.name: np.stack([getattr(each, field.name).numpy() for each in found])
        for field in fields(found[0])
        if isinstance(getattr(found[0], field.name), Tensor)
    }
    with being_written(folder / "occlusion.npz"):
        np.savez_compressed(folder / "occlusion.npz", **arrays)  # type: ignore[arg-type]
    numbers = []
    for each, name in zip(found, called, strict=True):
        scalars = {key: value for key, value in asdict(each).items() if not isinstance(value, Tensor | None)}
        raises = {} if each.probability is None else {"raises": [asdict(position) for position in each.raises()]}
        numbers.append({"image": name, **scalars, **raises})
    content = {**settings, "found": numbers}
    write_text(folder / "occlusion.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def _draw(
    path: Path,
    weights: Weights,
    settings: dict[str, Any],
    found: Sequence[Occlusion],
    pixels: Tensor,
    names: Sequence[str],
) -> None:
    """The figure; the square is drawn on each photograph a quarter of the way down and to the right."""
    import torch

    from ..experiments.occlusion import colour_of, occluded
    from ..plot.occlusion import OccludedImage, draw_occlusion
    from ..plot.tiles import with_contrast
    from .fills import describe_fill

    rows = []
    colour = _colour(weights, settings["fill"])
    for each, name, image in zip(found, settings["images"], pixels, strict=True):
        paint = weights.deprocess(colour_of(weights.preprocess(image), colour)[:, None, None])
        square = paint.round().clamp(0, 255).to(torch.uint8).expand(-1, *each.size)
        corner = torch.stack((each.rows[len(each.rows) // 4], each.columns[len(each.columns) // 4]))
        shown = occluded(image, corner[None], square)[0].permute(1, 2, 0).numpy()
        projection = None
        if each.projection is not None:
            projection = with_contrast(weights.preprocessing.to_rgb(each.projection)[None])[0]
        rows.append(OccludedImage(name, shown, each, projection, names))
    what = f"layer {settings['layer']}" + (" and the answer" if settings["logits"] else "")
    asked, layer = settings["asked"], settings["layer"]
    rectifies = f" Layer {layer} rectifies {asked}." if layer != asked else ""
    first = found[0]
    draw_occlusion(
        path,
        f"{settings['model']}: what {what} owe{'' if settings['logits'] else 's'} to each part of the image",
        f"A square of {first.size[0]}x{first.size[1]} pixels, filled with {describe_fill(weights, settings['fill'])}, "
        f"drawn in (a) at one of its {len(first.rows)}x{len(first.columns)} positions, slides over central squares of "
        f"photographs at {settings['size']}x{settings['size']}{_steps(first, settings['stride'])}. Every cell of a map "
        f"lies at the middle of the square it stands for.{rectifies} Weights: {settings['weights']}.",
        rows,
    )


def _steps(found: Occlusion, stride: int) -> str:
    """How the square moves, which is the same for rows and columns."""
    steps = found.rows.diff().tolist()
    if not steps:
        return ""
    if steps[-1] == stride:
        return f" in steps of {stride} pixels"
    return f" in steps of {stride} pixels, the last of {steps[-1]}" if len(steps) > 1 else f" in a step of {steps[0]}"


def _summary(found: Sequence[Occlusion], called: Sequence[str], names: Sequence[str]) -> list[tuple[object, ...]]:
    """One line for each photograph: where the map and the true class suffer most."""
    with_classes = found[0].probability is not None
    head = ("photograph", "map", "activation", "lowest", "at y,x")
    rows: list[tuple[object, ...]] = [(*head, "class", "probability", "lowest", "at y,x") if with_classes else head]
    for each, name in zip(found, called, strict=True):
        assert each.activation is not None
        row: tuple[object, ...] = (name, each.map, f"{each.clean_activation:.4g}", *_lowest(each, each.activation))
        if each.probability is not None and each.label is not None:
            row += (_class(each.label, names), f"{each.clean_probability:.4g}", *_lowest(each, each.probability))
        rows.append(row)
    return rows


def _lowest(found: Occlusion, values: Tensor) -> tuple[str, str]:
    """The lowest value and its position."""
    row, column = divmod(int(values.argmin()), values.shape[1])
    return f"{values.min():.4g}", f"{found.rows[row]},{found.columns[column]}"


def _class(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def _raises(found: Occlusion, name: str, names: Sequence[str]) -> list[str]:
    """The positions that raise the true class's probability most, for people."""
    if found.probability is None or found.label is None:
        return []
    raises, label = found.raises(), _class(found.label, names)
    lines = [
        f"{name}: {len(raises)} of {found.probability.numel()} positions make class {label} more probable "
        f"(by more than {found.rounding:.1g}, which may be rounding)"
    ]
    lines += [f"  at {each.y},{each.x} by {each.gain:.3g}, to {each.probability:.4g}" for each in raises[:_LISTED]]
    return lines
