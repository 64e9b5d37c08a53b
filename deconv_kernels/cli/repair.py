"""`deconv-kernels repair`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click

from ..checks import at_least
from .common import machine_options, output_option, photograph_options, set_threads, user_errors

if TYPE_CHECKING:
    from ..experiments.repair import Run


@click.command("repair")
@photograph_options
@click.option("--size", default=64, show_default=True, help="Rows and columns of the crops.")
@click.option("--train", default=80, show_default=True, help="Training crops per photograph.")
@click.option("--validation", default=40, show_default=True, help="Validation crops per photograph.")
@click.option("--epochs", default=12, show_default=True, help="Passes over the training crops.")
@click.option("--batch-size", default=64, show_default=True, help="Crops per step.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Of stochastic gradient descent.")
@click.option("--seeds", default=3, show_default=True, help="Networks of each kind.")
@click.option("--heat", default=100.0, show_default=True, help="What the hot filter's weights are multiplied by.")
@click.option("--radius", default=0.1, show_default=True, help="Largest RMS of a filter where filters are clipped.")
@click.option("--contrast-normalization", is_flag=True, help="Normalise contrast across maps, as the paper's network.")
@click.option(
    "--checkpoints",
    default="",
    help="Epochs, separated by commas (0: before training), whose weights to write, of the first seed's networks.",
)
@machine_options
@output_option
def command(
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    size: int,
    train: int,
    validation: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seeds: int,
    heat: float,
    radius: float,
    contrast_normalization: bool,
    checkpoints: str,
    device: str,
    threads: int | None,
    output: str,
) -> None:
    """Train small networks to show the paper's two repairs: clipping a hot filter, and 7x7 stride 2 for 11x11 stride 4.

    The networks learn to tell photographs apart by their crops; validation crops come from regions held out. Writes
    a figure (repair.png), the numbers of every run (repair.csv) and all of them by epoch (repair.json); with
    --checkpoints also state dicts and a networks.py for --model, which the command evolution takes. Interrupted, it
    goes on after the last epoch that was finished.
    """
    import json
    from dataclasses import asdict

    from ..backends import usable_device
    from ..data.photographs import load_photographs
    from ..data.tables import aligned, write_csv
    from ..data.writing import save_state, write_text
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.repair import Recipe, photograph_crops, readable, repair, standard_arms
    from ..plot.repair import draw_repair

    with user_errors(ValueError, OSError):
        set_threads(threads)
        where = usable_device(device)
        at_least("seeds", seeds, 1)
        kept = _epochs(checkpoints)
        recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
        data = photograph_crops(load_photographs(images + more_images), size, train, validation)
        arms = standard_arms(len(data.names), heat, radius, contrast_normalization)
        settings = {
            "size": size,
            "train": len(data.train),
            "validation": len(data.validation),
            "photographs": data.names,
            "mean": data.mean,
            "recipe": asdict(recipe),
            "seeds": seeds,
            "heat": heat,
            "radius": radius,
            "contrast_normalization": contrast_normalization,
        }
        pixels = [tensor.double().sum().item() for tensor in (data.train.tensors[0], data.validation.tensors[0])]
        parts = Parts(Path(output) / ".parts-repair", [settings, pixels, device])
        with written_at_once(Path(output)) as draft:
            runs = repair(
                data.train, data.validation, arms, range(seeds), recipe, checkpoints=kept, device=where, parts=parts
            )
            by_arm = {arm.name: [run for run in runs if run.arm == arm.name] for arm in arms}
            write_csv(draft / "repair.csv", _HEAD, [_row(run) for run in runs])
            content = {"settings": settings, "runs": [_numbers(run) for run in runs]}
            write_text(draft / "repair.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
            caption = (
                f"{len(data.train)} training and {len(data.validation)} validation crops of {size}x{size} from "
                f"separate regions of {len(data.names)} photographs; chance is {1 / len(data.names):.1%}. Hot: "
                f"filter 0 of the first layer starts out {heat:g} times too large. All but the hot network are "
                f"clipped to an RMS of {radius:g}."
            )
            draw_repair(draft / "repair.png", runs, "Two repairs: clipping filters, and a finer first layer", caption)
            for run in [each[0] for each in by_arm.values()] if kept else ():
                for epoch, state in run.checkpoints.items():
                    name = run.arm.replace(",", "").replace(" ", "-")
                    save_state(draft / f"{name}-epoch-{epoch:02d}.pth", readable(state, data.mean))
            if kept:
                text = _NETWORKS.format(classes=len(data.names), normalized=contrast_normalization)
                write_text(draft / "networks.py", text)
        parts.remove()
    for line in aligned(_table(by_arm)):
        click.echo(line)
    click.echo(f"figure and numbers in {output}")
    if kept:
        click.echo(f"checkpoints too: deconv-kernels evolution --model {Path(output) / 'networks.py'}:fine")


_NETWORKS = '''\
"""The networks of `deconv-kernels repair`: fine has a first layer of 7x7 stride 2, coarse of 11x11 stride 4."""

from deconv_kernels.experiments.repair import SmallZFNet, reading_photographs


def fine():
    return reading_photographs(SmallZFNet({classes}, 7, 2, {normalized}))


def coarse():
    return reading_photographs(SmallZFNet({classes}, 11, 4, {normalized}))
'''

_RUN = ("arm", "seed", "accuracy", "loss", "dead", "filters", "dead_share")
_HEAD = (*_RUN, "largest_rms", "median_rms", "aliased_energy", "aliased_response")


def _row(run: Run) -> list[object]:
    """One run under `_HEAD`."""
    filters = sum(map(len, run.dead.values()))
    numbers = (run.rms.max(), run.rms.median(), run.aliased_energy.nanmedian(), run.aliased_response.nanmedian())
    row = [run.arm, run.seed, run.accuracy, run.losses[-1], run.dead_count, filters, run.dead_share]
    return row + [number.item() for number in numbers]


def _numbers(run: Run) -> dict[str, Any]:
    """One run for JSON; None for what is no number."""
    return {
        "arm": run.arm,
        "seed": run.seed,
        "losses": _finite(run.losses),
        "accuracies": run.accuracies,
        "dead": {layer: dead.nonzero()[:, 0].tolist() for layer, dead in run.dead.items()},
        "rms": _finite(run.rms.tolist()),
        "aliased_energy": _finite(run.aliased_energy.tolist()),
        "aliased_response": _finite(run.aliased_response.tolist()),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if isfinite(value) else None for value in values]


def _table(by_arm: dict[str, list[Run]]) -> list[list[str]]:
    filters = sum(map(len, next(iter(by_arm.values()))[0].dead.values()))
    rows = [["", "accuracy", f"dead of {filters}", "largest RMS", "aliased energy", "aliased response"]]
    for arm, runs in by_arm.items():
        columns = (
            [100 * run.accuracy for run in runs],
            [float(run.dead_count) for run in runs],
            [run.rms.max().item() for run in runs],
            [100 * run.aliased_energy.nanmedian().item() for run in runs],
            [100 * run.aliased for run in runs],
        )
        units = (" %", "", "", " %", " %")
        rows.append([arm, *(_spread(values, unit) for values, unit in zip(columns, units, strict=True))])
    return rows


def _spread(values: Sequence[float], unit: str) -> str:
    """Mean and standard deviation over the seeds."""
    mean = f"{fmean(values):.3g}"
    return f"{mean}{unit}" if len(values) == 1 else f"{mean} ± {stdev(values):.2g}{unit}"


def _epochs(separated: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(entry) for entry in separated.split(",") if entry.strip()}))
    except ValueError as error:
        raise ValueError(f"checkpoints must be epochs separated by commas, got {separated!r}") from error
