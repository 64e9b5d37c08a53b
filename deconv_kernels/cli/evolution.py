"""`deconv-kernels evolution`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from ..checks import at_least
from ..engine.steps.base import RULES
from .common import (
    layers_of,
    layers_option,
    machine_options,
    model_option,
    names,
    numbers,
    output_option,
    photograph_options,
    reading_options,
    set_threads,
    size_option,
    user_errors,
)


@click.command("evolution")
@model_option
@click.option(
    "--checkpoints",
    required=True,
    multiple=True,
    help="State-dict files in order of training, separated by commas, or the option repeated.",
)
@photograph_options
@layers_option("Layers, separated by commas.", required=True)
@click.option("--maps", default=6, show_default=True, help="Maps per layer, chosen at random.")
@click.option("--seed", default=0, show_default=True, help="Chooses the maps.")
@reading_options
@size_option()
@click.option("--crops", default=256, show_default=True, help="Crops to cut from the photographs, at most.")
@click.option("--batch-size", default=16, show_default=True, help="Crops at a time.")
@click.option(
    "--rule", default=RULES[0], show_default=True, help=f"What a rectifier does backwards: {', '.join(RULES)}."
)
@machine_options
@output_option
def command(
    model: str,
    checkpoints: tuple[str, ...],
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    maps: int,
    seed: int,
    mean: str,
    std: str,
    size: int,
    crops: int,
    batch_size: int,
    rule: str,
    device: str,
    threads: int | None,
    output: str,
) -> None:
    """Draw how features evolve while a network trains: each map's strongest activation, checkpoint by checkpoint.

    Writes a figure per layer, the units (evolution.csv) and their projections (projections.npz). A layer that a
    rectifier follows stands for what that makes of it. A map that responds to no crop is silent: it has no strongest
    crop, and its projection is zero. Interrupted, it goes on after the last checkpoint that was finished.
    """
    from functools import partial

    from ..backends import usable_device
    from ..data.crops import CropBatches, shapes_of
    from ..data.photographs import load_photographs, plan_crops
    from ..data.tables import aligned, write_csv
    from ..data.tensor_files import save_arrays
    from ..engine.deconvnet import Deconvnet
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import Parts, file_name, written_at_once
    from ..experiments.common.responses import describe_rectification, rectifier_of
    from ..experiments.evolution import evolve
    from ..experiments.gallery import choose_maps
    from ..models import load_weights
    from ..plot.evolution import draw_evolution

    with user_errors(ValueError, OSError, UnsupportedModule):
        set_threads(threads)
        where = usable_device(device)
        files = [name for entry in checkpoints for name in names(entry)]
        if repeated := [file for file in files if files.count(file) > 1]:
            raise ValueError(f"checkpoint {repeated[0]!r} was given more than once")
        if not files:
            raise ValueError("no checkpoints were given")
        if missing := [file for file in files if not Path(file).is_file()]:
            raise ValueError(f"checkpoint {missing[0]!r}: no such file")
        at_least("maps", maps, 1)
        at_least("seed", seed, 0)
        at_least("size", size, 1)
        reading: dict[str, Any] = {"size": size, "mean": numbers("mean", mean), "deviation": numbers("std", std)}
        first = load_weights(model, files[0], **reading)
        photographs = load_photographs(images + more_images)
        planned = plan_crops(photographs, size, crops)
        batches = CropBatches(photographs, planned, size, batch_size, first, where)
        network = first.model().to(where)
        layer_names = layers_of(network, layers)
        net = Deconvnet(network, rule=rule)
        shapes = shapes_of(net, batches.first(), layer_names)
        chosen = {layer: choose_maps(layer, shapes[layer][0], maps, seed) for layer in layer_names}
        for file in files[1:]:
            load_weights(model, file, **reading)  # one that cannot be used is found before the work

        seen = {file: _identity(Path(file)) for file in files}
        settings = [model, seen, planned, chosen, reading, batch_size, rule, device, "rectified"]
        pixels = (torch.tensor(photograph.pixels) for photograph in photographs)
        parts = Parts.of_run(output, "evolution", settings, network, *pixels)
        networks = {
            name: partial(lambda file: load_weights(model, file, **reading).model().to(where), file)
            for name, file in zip(_labels(files), files, strict=True)
        }
        with written_at_once(Path(output)) as draft:
            found = evolve(networks, batches, chosen, rule=rule, rectified=True, parts=parts)
            rows = []
            arrays = {}
            for layer, stages in found.stages.items():
                jumps, responds = found.jumps(layer), found.responds(layer)
                rectifier = rectifier_of(net.tape, layer)
                rectified_by = "" if rectifier == layer else rectifier
                for column, (name, stage) in enumerate(zip(found.checkpoints, stages, strict=True)):
                    heard = responds[:, column]
                    arrays[f"{layer}/{name}"] = stage.windows.where(heard[:, None, None, None], 0).numpy()
                    activation = stage.units.activation
                    assert activation is not None
                    values = (stage.units.table().T.tolist(), activation.tolist(), stage.boxes.tolist())
                    for row, ((image, channel, y, x), value, box) in enumerate(zip(*values, strict=True)):
                        place: list[object] = ["", "", "", ""]
                        if heard[row]:
                            place = [image, photographs[planned[image].photograph].name, y, x]
                        corners = box if heard[row] else ["", "", "", ""]
                        rows.append([layer, channel, name, *place, value, *corners, int(jumps[row, column])])
                        rows[-1] += [int(not heard[row]), rectified_by]
            head = ["layer", "map", "checkpoint", "crop", "photograph", "y", "x", "activation", "y0", "x0", "y1", "x1"]
            write_csv(draft / "evolution.csv", [*head, "jump", "silent", "rectified_by"], rows)
            save_arrays(draft / "projections.npz", arrays)
            for layer in layer_names:
                title = (
                    f"Layer {layer}: the evolution of {len(chosen[layer])} of its maps over {len(files)} checkpoints"
                )
                caption = f"{model}; {found.images} crops of {size}x{size} of {len(photographs)} photographs. "
                caption += describe_rectification(net.tape, layer)
                to_rgb = first.preprocessing.to_rgb
                draw_evolution(
                    draft / f"{file_name(layer)}_evolution.png", found, layer, title, caption, to_rgb, batches.pixels
                )
        parts.remove()
    table = [["layer", "checkpoint", "median activation", "silent maps", "jumps"]]
    for layer in layer_names:
        medians = found.activations(layer).median(0).values.tolist()
        counted = (found.responds(layer).logical_not(), found.jumps(layer), found.comparable(layer))
        counts = zip(*(each.sum(0).tolist() for each in counted), strict=True)
        for name, median, (silent, jumped, could) in zip(found.checkpoints, medians, counts, strict=True):
            of_both = f"{jumped} of {could}" if name != found.checkpoints[0] else "-"
            table.append([layer, name, f"{median:.3g}", str(silent), of_both])
    for line in aligned(table):
        click.echo(line)
    click.echo(f"figures and numbers in {output}")


def _identity(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _labels(files: list[str]) -> list[str]:
    """Names for checkpoints: those of their files, with folders where they would not differ."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else files
