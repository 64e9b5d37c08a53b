"""One HTML page of everything: galleries to click through, occlusion to point at, invariance and filters.

The page stands alone: its pictures are inside it, and it asks no server for anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from ..data.writing import write_text
from ..engine.pictures import Pixels, address_of, as_file, with_contrast
from ..engine.projections import Projections
from ..experiments.common.responses import describe_field
from ..experiments.occlusion import Occlusion
from ..experiments.report import Report
from .filters import draw_diagnosis
from .invariance import Examples, draw_invariance
from .text import class_name, layer_name

__all__ = ["Photographs", "write_page"]

_SMALL = 48


@dataclass(frozen=True)
class Photographs:
    """Pictures the network saw.

    Attributes:
        pixels: (N, 3, H, W) uint8 RGB.
        names: (N,) of the photographs they were cut from.
    """

    pixels: Tensor
    names: Sequence[str]


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
    used = sorted({number for gallery in report.galleries for number in gallery.units.image.tolist()})
    data = {
        "layers": [
            _gallery(layer, gallery, report, to_rgb)
            for layer, gallery in zip(report.layers, report.galleries, strict=True)
        ],
        "crops": {number: {"src": _jpeg(_picture(crops, number)), "name": crops.names[number]} for number in used},
        "size": list(crops.pixels.shape[2:]),
        "occlusions": [
            _occlusion(found, images.names[number], _picture(images, number), to_rgb, classes)
            for number, found in enumerate(report.occlusions)
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
            coloured = to_rgb if diagnosis.weight.shape[1] == 3 else None
            draw_diagnosis(
                filters, diagnosis, f"Filters of layer {diagnosis.layer}", f"{len(diagnosis)} filters.", to_rgb=coloured
            )
        figures = {file.stem: address_of(file.read_bytes()) for file in drawn}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deconv_kernels", "plot"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    text = environment.get_template("page.html").render(
        title=title, facts=facts, data=data, figures=figures, filters=_filters(report)
    )
    write_text(path, text)


def _gallery(layer: str, gallery: Projections, report: Report, to_rgb: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A layer's maps and, for each, its units with their pictures, as JSON takes them."""
    units = gallery.units
    assert units.activation is not None
    pictures = with_contrast(to_rgb(gallery.windows))
    columns = (units.channel, units.image, units.y, units.x, units.activation, gallery.boxes)
    maps: dict[int, list[dict[str, Any]]] = {channel: [] for channel in report.chosen[layer]}
    for picture, channel, image, y, x, activation, box in zip(pictures, *(c.tolist() for c in columns), strict=True):
        unit = {"crop": image, "y": y, "x": x, "a": activation, "box": box, "src": _tile(picture)}
        maps[channel].append(unit)
    height, width = gallery.windows.shape[2:]
    return {
        "name": layer,
        "of": report.maps[layer],
        "k": report.k,
        "field": [height, width],
        "about": f"Receptive field {describe_field(report.fields[layer], (height, width))}. "
        + report.rectification[layer],
        "maps": [{"map": channel, "units": shown} for channel, shown in maps.items()],
    }


def _occlusion(
    found: Occlusion, name: str, picture: Pixels, to_rgb: Callable[[Tensor], Tensor], classes: Sequence[str]
) -> dict[str, Any]:
    """What became of an image, as JSON takes it."""
    shown: list[dict[str, Any]] = []
    cells = _cells(found, picture.shape[:2])
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
    projection = None if found.projection is None else _jpeg(with_contrast(to_rgb(found.projection[None]))[0])
    return {
        "name": name,
        "src": _jpeg(picture),
        "size": list(picture.shape[:2]),
        "occluder": list(found.size),
        **{name: places.tolist() for name, places in zip(("rows", "columns"), found.places, strict=True)},
        "edges": [edges.tolist() for edges in found.edges],
        "projection": projection,
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
    return {"what": what, "clean": clean, "low": low, "high": high, "values": values.tolist(), "src": _png(drawn)}


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


def _picture(photographs: Photographs, number: int) -> Pixels:
    return photographs.pixels[number].permute(1, 2, 0).numpy()


def _tile(picture: Pixels) -> str:
    """Small pictures are kept to the pixel, large ones compressed."""
    return _png(picture) if max(picture.shape[:2]) <= _SMALL else _jpeg(picture)


def _png(picture: Pixels) -> str:
    return _encoded(picture, "png")


def _jpeg(picture: Pixels) -> str:
    return _encoded(picture, "jpeg", quality=85)


def _encoded(picture: Pixels, kind: str, **options: Any) -> str:
    return address_of(as_file(picture, kind, **options), kind)
