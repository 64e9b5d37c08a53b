"""`deconv-kernels correspondence`."""

from __future__ import annotations

from pathlib import Path

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

_SHOWN = 5


@click.command("correspondence")
@network_options
@photograph_options
@click.option(
    "--points",
    required=True,
    help="A CSV file with the columns image, part, y, x: a photograph's name (or * for all), what is there, and where, "
    "in the photograph's pixels. Photographs without points are left out.",
)
@layers_option("Layers to look at, separated by commas, such as relu4_3,pool5.", required=True)
@click.option("--side", default=32, show_default=True, help="Of the squares that hide parts, in the network's pixels.")
@click.option(
    "--around",
    type=float,
    help="Cut out a square around the points, so many times as wide as they are apart. By default the photograph's "
    "central square.",
)
@click.option("--draws", default=20, show_default=True, help="Random squares in each photograph, to compare with.")
@click.option(
    "--reach",
    default=1.5,
    show_default=True,
    help="How far these may be from the middle of the points, as a multiple of the points' largest distance; inf for "
    "anywhere.",
)
@click.option("--shared", is_flag=True, help="A random square has the same place in all photographs.")
@click.option("--seed", default=0, show_default=True, help="Chooses the random squares.")
@click.option(
    "--fill", default="mean", show_default=True, help="Of the squares: mean (zero in the network's input) or 0..255."
)
@click.option(
    "--tolerance",
    default=0.0,
    show_default=True,
    help="Changes up to this multiple of a layer's largest activation count as none.",
)
@size_option()
@click.option("--batch-size", default=16, show_default=True, help="Squares per pass.")
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    points: str,
    layers: str,
    side: int,
    around: float | None,
    draws: int,
    reach: float,
    shared: bool,
    seed: int,
    fill: str,
    tolerance: float,
    size: int,
    batch_size: int,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Measure whether hiding the same part changes the features of different photographs alike.

    Writes a figure (correspondence.png), the table (correspondence.csv), the numbers of every pair of photographs and
    the squares (correspondence.npz), and the settings (correspondence.json).
    """
    import json

    import numpy as np
    import torch

    from ..data.photographs import cut, load_photographs
    from ..data.tables import aligned, write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import write_text
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.correspondence import (
        correspondence,
        occlude,
        place_points,
        points_in_crops,
        read_points,
        squares_around,
    )
    from ..plot.correspondence import draw_correspondence, with_deviation
    from .fills import describe_fill, fill_colour

    with user_errors(ValueError, OSError, RuntimeError, UnsupportedModule):
        given = read_points(points)
        loaded = load_photographs(images + more_images)
        photographs, places = place_points(given, loaded)
        subject = load(model, weights, size, mean, std, device, threads)
        chosen = layers_of(subject.model, layers)
        crops = squares_around(photographs, places, around, size)
        shown = points_in_crops(places, crops, photographs, size)
        pixels = cut(photographs, crops, size)
        inputs = subject.weights.preprocess(pixels).to(subject.device)
        colour = fill_colour(subject.weights, fill)
        settings = {
            "model": model,
            "weights": subject.weights.source,
            "images": [photograph.name for photograph in photographs],
            "parts": {part: of_part.tolist() for part, of_part in shown.items()},
            "layers": chosen,
            "side": side,
            "draws": draws,
            "reach": str(reach),
            "shared": shared,
            "seed": seed,
            "fill": fill,
            "tolerance": tolerance,
            "size": size,
        }
        parts = Parts.of_run(output, "correspondence", settings, subject.model, inputs)
        with written_at_once(Path(output)) as draft:
            found = correspondence(
                subject.model,
                inputs,
                shown,
                chosen,
                side=side,
                draws=draws,
                reach=reach,
                seed=seed,
                shared=shared,
                fill=colour,
                tolerance=tolerance,
                batch_size=batch_size,
                parts=parts,
            )
            scores = found.scores()
            head = ["layer", "part", "mean", "deviation", "of_changed", "changed", "draws_as_low"]
            write_csv(draft / "correspondence.csv", head, ([getattr(score, name) for name in head] for score in scores))
            arrays = {"squares": found.squares.numpy(), "random_squares": found.random_squares.numpy()}
            for layer in found.layers:
                for kind, changes in (("named", found.named[layer]), ("random", found.random[layer])):
                    for what in ("differing", "either", "changed"):
                        arrays[f"{layer}.{kind}.{what}"] = getattr(changes, what).numpy()
            save_arrays(draft / "correspondence.npz", arrays)
            features = {layer: found.named[layer].features for layer in found.layers}
            content = {**settings, "features": features}
            write_text(draft / "correspondence.json", json.dumps(content, indent=2) + "\n")

            squares = torch.cat([found.squares, found.random_squares[:, :1]], dim=1)[:_SHOWN]
            pictures = [
                torch.cat([image[None], occlude(image, of_image, colour)])
                for image, of_image in zip(inputs.cpu(), squares, strict=False)
            ]
            hidden = subject.weights.deprocess(torch.stack(pictures)).round().clamp(0, 255).to(torch.uint8)
            draw_correspondence(
                draft / "correspondence.png",
                f"{model}: do the same parts of {len(photographs)} images change features alike?",
                f"Squares of {side} pixels ({describe_fill(subject.weights, fill)}) hide a part of each photograph at "
                f"{size}x{size}; beside them {draws} random squares in each"
                f"{', at shared places' if shared else ''}, that cover none of the parts. "
                f"Weights: {subject.weights.source}.",
                found,
                [photograph.name for photograph in photographs[:_SHOWN]],
                hidden.permute(0, 1, 3, 4, 2).numpy(),
            )
        parts.remove()
    rows = [["layer", "part", "distance", "of the changed", "changed", "draws as low"]]
    for score in scores:
        as_low = "" if np.isnan(score.draws_as_low) else f"{score.draws_as_low:.2f}"
        rows.append(
            [score.layer, score.part, with_deviation(score), f"{score.of_changed:.3f}", f"{score.changed:.3f}", as_low]
        )
    for line in aligned(rows):
        click.echo(line)
    left_out = len(loaded) - len(photographs)
    click.echo(f"{len(photographs)} photographs{f'; {left_out} without points left out' if left_out else ''}.")
    click.echo(f"correspondence.png, .csv, .npz and .json in {output}")
