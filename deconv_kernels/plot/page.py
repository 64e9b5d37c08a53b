"""One HTML page of everything: galleries to click through, occlusion to point at, invariance and filters.

The page stands alone: its pictures are inside it, and it asks no server for anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from ..data.writing import write_text
from ..engine.pictures import address_of
from ..engine.projections import Projections
from ..experiments.common.responses import describe_field
from ..experiments.occlusion import Occlusion
from ..experiments.report import Report
from .filters import draw_diagnosis
from .invariance import Examples, draw_invariance
from .text import class_name, layer_name
from .views import Hidden, Photographs, View, png, view_of

__all__ = ["Photographs", "write_page"]


def write_page(
    path: Path,
    report: Report,
    crops: Photographs,
    images: Photographs,
    examples: Sequence[Examples],
    to_rgb: Callable[[Tensor], Tensor],
    title: str,
    facts: Sequence[str],
    classes: Sequence[str] = (),
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        report: what to show.
        crops: those in which the strongest units were looked for.
        images: those that were occluded and transformed.
        examples: of the transformations, for the figure of the invariance.
        to_rgb: turns (..., 3, h, w) from the network's input into RGB.
        title: the network's name.
        facts: lines about where weights and photographs came from.
        classes: their names, from class 0 on; numbers stand for those beyond.
    """
    seen, whole = view_of(crops, to_rgb), view_of(images, to_rgb)
    wholes: dict[int | str, dict[str, str]] = {}
    data = {
        "layers": [
            _gallery(layer, gallery, report, seen, wholes)
            for layer, gallery in zip(report.layers, report.galleries, strict=True)
        ],
        "crops": wholes,
        "one": seen.one,
        "occluder": seen.occluder,
        "size": seen.size,
        "aspect": seen.aspect,
        "occlusions": [
            _occlusion(hidden, whole.aspect, classes)
            for number, found in enumerate(report.occlusions)
            for hidden in whole.hidden(found, number)
        ],
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        invariance, filters = Path(folder) / "invariance.png", Path(folder) / "filters.png"
        draw_invariance(
            invariance,
            "Invariance",
            "How far the features of the first and the last of the layers above move when an image does.",
            report.invariance,
            images.names,
            examples,
            classes,
        )
        diagnosis = report.diagnosis
        drawn = [invariance]
        if diagnosis is not None:
            drawn.append(filters)
            coloured = to_rgb if diagnosis.weight.shape[1] == 3 and diagnosis.weight.dim() == 4 else None
            draw_diagnosis(
                filters, diagnosis, f"Filters of layer {diagnosis.layer}", f"{len(diagnosis)} filters.", to_rgb=coloured
            )
        figures = {file.stem: address_of(file.read_bytes()) for file in drawn}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deconv_kernels", "plot"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    text = environment.get_template("page.html").render(
        title=title,
        facts=facts,
        data=data,
        figures=figures,
        filters=_filters(report),
        one=seen.one,
        occluder=seen.occluder,
    )
    write_text(path, text)


def _gallery(
    layer: str, gallery: Projections, report: Report, view: View, wholes: dict[int | str, dict[str, str]]
) -> dict[str, Any]:
    """A layer's maps and, for each, its units with their pictures, as JSON takes them; `wholes` gets their images."""
    units, boxes = gallery.units, gallery.boxes.tolist()
    assert units.activation is not None
    images, activations = units.image.tolist(), units.activation.tolist()
    tiles, patches = view.tiles(gallery.windows, boxes), view.patches(images, boxes)
    maps: dict[int, list[dict[str, Any]]] = {channel: [] for channel in report.chosen[layer]}
    for number, (image, channel, *at) in enumerate(units.table().T.tolist()):
        box = boxes[number]
        key, whole = view.whole(image, box)
        wholes.setdefault(key, whole)
        unit = {"crop": key, "at": view.place(at), "a": activations[number], "box": view.box(box), "src": tiles[number]}
        maps[channel].append(unit if patches[number] is None else {**unit, "patch": patches[number]})
    window = tuple(gallery.windows.shape[2:])
    return {
        "name": layer,
        "of": report.maps[layer],
        "k": report.k,
        "field": window,
        "about": f"Receptive field {describe_field(report.fields[layer], window)}. " + report.rectification[layer],
        "maps": [{"map": channel, "units": shown} for channel, shown in maps.items()],
    }


def _occlusion(hidden: Hidden, aspect: tuple[int, int], classes: Sequence[str]) -> dict[str, Any]:
    """What became of an image, as JSON takes it."""
    found, shown = hidden.found, list[dict[str, Any]]()
    cells = _cells(found, hidden.size)
    if found.activation is not None and found.layer is not None:
        what = f"total activation of map {found.map} of {layer_name(found.layer)}"
        shown.append(_heat(what, found.activation, found.clean_activation, cells))
    raises: list[dict[str, Any]] | None = None
    called = ""
    if found.probability is not None and found.label is not None:
        called = class_name(found.label, classes)
        shown.append(_heat(f"probability of {called}", found.probability, found.clean_probability, cells))
        raises = [asdict(each) for each in found.raises()]
    if found.highest_probability is not None and found.most_probable is not None:
        heat = _heat("probability of the most probable class", found.highest_probability, None, cells)
        numbers = found.most_probable.tolist()
        shown.append({**heat, "classes": [[class_name(number, classes) for number in row] for row in numbers]})
    return {
        "name": hidden.name,
        "src": hidden.src,
        "size": hidden.size,
        "aspect": aspect,
        "occluder": list(found.size),
        **{name: places.tolist() for name, places in zip(("rows", "columns"), found.places, strict=True)},
        "edges": [edges.tolist() for edges in found.edges],
        "projection": hidden.projection,
        "maps": shown,
        "class": called,
        "raises": raises,
    }


def _cells(found: Occlusion, size: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    """For every row and for every column of the image's pixels the number of the position drawn there, -1 for none."""
    numbers = []
    for edges, length in zip(found.edges, size, strict=True):
        places = np.searchsorted(edges.numpy(), np.arange(length) + 0.5) - 1
        numbers.append(np.where(places < len(edges) - 1, places, -1))
    return tuple(numbers)


def _heat(what: str, values: Tensor, clean: float | None, cells: tuple[NDArray[np.int64], ...]) -> dict[str, Any]:
    """A map by position as JSON takes it, drawn in the frame of the image: clear where no position's cell lies."""
    low, high = float(values.min()), float(values.max())
    shares = (values.double().numpy() - low) / (high - low if high > low else 1.0)
    colours = (colormaps["viridis"](shares) * 255).round().astype(np.uint8)
    rows, columns = cells
    drawn = colours[rows[:, None], columns]
    drawn[(rows < 0)[:, None] | (columns < 0)] = 0
    return {"what": what, "clean": clean, "low": low, "high": high, "values": values.tolist(), "src": png(drawn)}


def _filters(report: Report) -> list[dict[str, Any]]:
    """One row of the table of filters for each."""
    diagnosis = report.diagnosis
    if diagnosis is None:
        return []
    dominating = diagnosis.dominating.tolist()
    dead = [False] * len(diagnosis) if diagnosis.activity is None else diagnosis.activity.dead.tolist()
    columns = (diagnosis.rms.tolist(), diagnosis.centroid.tolist(), diagnosis.aliased.tolist(), dominating, dead)
    names = ("rms", "centroid", "aliased", "dominates", "dead")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
