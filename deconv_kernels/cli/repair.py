"""`deconv-kernels repair`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checks import at_least
from . import options
from .answer import Answer, records
from .options import Machine, PhotographSources, group, option

_NETWORKS = '''\
"""The networks of `deconv-kernels repair`: fine has a first layer of 7x7 stride 2, coarse of 11x11 stride 4."""

from deconv_kernels.experiments.repair import SmallZFNet, reading_photographs


def fine():
    return reading_photographs(SmallZFNet({classes}, 7, 2, {normalized}))


def coarse():
    return reading_photographs(SmallZFNet({classes}, 11, 4, {normalized}))
'''


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, how, and on what."""

    photographs: PhotographSources = group(PhotographSources)
    size: int = options.size(default=64, help="Rows and columns of the crops.")
    train: int = option(80, "Training crops per photograph.")
    validation: int = option(40, "Validation crops per photograph.")
    epochs: int = option(12, "Passes over the training crops.")
    batch_size: int = options.batch_size(default=64, help="Crops per step.")
    learning_rate: float = option(1e-3, "Of stochastic gradient descent.")
    seeds: int = option(3, "Networks of each kind.")
    heat: float = option(100.0, "What the hot filter's weights are multiplied by.")
    radius: float = option(0.1, "Largest RMS of a filter where filters are clipped.")
    contrast_normalization: bool = option(
        False, "Normalise contrast across maps, as the paper's network.", is_flag=True
    )
    checkpoints: str = option(
        "",
        "Epochs, separated by commas (0: before training), whose weights to write, of the first seed's networks.",
    )
    machine: Machine = group(Machine)
    output: str = options.output()


@options.command("repair", Settings)
def command(settings: Settings) -> Answer:
    """Train small networks to show the paper's two repairs: clipping a hot filter, and 7x7 stride 2 for 11x11 stride 4.

    The networks learn to tell photographs apart by their crops; validation crops come from regions held out. Writes
    a figure (repair.png), the numbers of every run (repair.csv) and all of them by epoch (repair.json); with
    --checkpoints also state dicts and a networks.py for --model, which the command evolution takes. Interrupted, it
    goes on after the last epoch that was finished.

    \b
    Example:
        deconv-kernels repair --images photos/ --checkpoints 0,4,12
    """
    from dataclasses import asdict

    from ..data.photographs import load_photographs
    from ..data.tables import write_csv
    from ..data.writing import save_state, write_json, write_text
    from ..experiments import repair as experiment
    from ..experiments.common.files import Parts, files_in, fingerprint, written_at_once
    from ..plot.repair import draw_repair
    from ..terminal import aligned
    from .shown import check_photographs
    from .subject import device_of

    check_photographs(settings.photographs.sources, "the networks that repair trains read photographs in colour")
    size, heat, radius, output = settings.size, settings.heat, settings.radius, Path(settings.output)
    device = device_of(settings.machine)
    at_least("seeds", settings.seeds, 1)
    kept = tuple(sorted(set(options.numbers("checkpoints", settings.checkpoints, int, "epochs"))))
    recipe = experiment.Recipe(**options.values(settings, "epochs", "batch_size", "learning_rate"))
    photographs = load_photographs(settings.photographs.sources)
    data = experiment.photograph_crops(photographs, size, settings.train, settings.validation)
    arms = experiment.standard_arms(len(data.names), heat, radius, settings.contrast_normalization)
    told = {"size": size, "train": len(data.train), "validation": len(data.validation), "photographs": data.names}
    told |= {"mean": data.mean, "recipe": asdict(recipe)}
    told |= options.values(settings, "seeds", "heat", "radius", "contrast_normalization")
    pixels = fingerprint(data.train.tensors[0], data.validation.tensors[0])
    parts = Parts(output / ".parts-repair", [told, pixels, settings.machine.device])
    with written_at_once(output) as draft:
        seeds = range(settings.seeds)
        runs = experiment.repair(
            data.train, data.validation, arms, seeds, recipe, checkpoints=kept, device=device, parts=parts
        )
        by_arm = {arm.name: [run for run in runs if run.arm == arm.name] for arm in arms}
        rows = [run.row() for run in runs]
        write_csv(draft / "repair.csv", experiment.TABLE_HEAD, rows)
        write_json(draft / "repair.json", {"settings": told, "runs": [run.as_dict() for run in runs]}, allow_nan=False)
        caption = (
            f"{len(data.train)} training and {len(data.validation)} validation crops of {size}x{size} from separate "
            f"regions of {len(data.names)} photographs; chance is {1 / len(data.names):.1%}. Hot: filter 0 of the "
            f"first layer starts out {heat:g} times too large. All but the hot network are clipped to an RMS of "
            f"{radius:g}."
        )
        draw_repair(draft / "repair.png", runs, "Two repairs: clipping filters, and a finer first layer", caption)
        for run in [each[0] for each in by_arm.values()] if kept else ():
            for epoch, state in run.checkpoints.items():
                name = run.arm.replace(",", "").replace(" ", "-")
                save_state(draft / f"{name}-epoch-{epoch:02d}.pth", experiment.readable(state, data.mean))
        if kept:
            text = _NETWORKS.format(classes=len(data.names), normalized=settings.contrast_normalization)
            write_text(draft / "networks.py", text)
        files = files_in(draft)
    parts.remove()
    lines = [*aligned(experiment.summary(by_arm)), f"figure and numbers in {output}"]
    if kept:
        lines.append(f"checkpoints too: deconv-kernels evolution --model {output / 'networks.py'}:fine")
    return Answer(lines, output, files, {**told, "runs": records(experiment.TABLE_HEAD, rows)})
