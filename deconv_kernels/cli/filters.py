"""`deconv-kernels filters`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    layers_option,
    load,
    names,
    network_options,
    output_option,
    photograph_options,
    size_option,
    user_errors,
)

if TYPE_CHECKING:
    from ..experiments.filters import Diagnosis


@click.command("filters")
@network_options
@photograph_options
@layers_option("Convolutions, separated by commas, or blocks with all of theirs; by default the first.")
@size_option()
@click.option("--crops", default=48, show_default=True, help="Crops to cut from the photographs, at most.")
@click.option("--batch-size", default=8, show_default=True, help="Crops at a time.")
@click.option(
    "--dominance", default=5.0, show_default=True, help="A filter above so many times the others' mean dominates."
)
@click.option(
    "--renormalize",
    type=float,
    help="Scale the filters of all convolutions whose RMS exceeds this radius (the paper: 0.1) down to it, write the "
    "repaired state dict, and report before and after.",
)
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    size: int,
    crops: int,
    batch_size: int,
    dominance: float,
    renormalize: float | None,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Diagnose convolution filters: how large, which frequencies, which dead over the photographs, which dominating.

    Writes a figure per layer, the numbers of every filter (filters.csv) and the spectra (spectra.npz); with
    --renormalize the repaired weights (repaired.pth, under the network's own names), what was scaled (changed.csv), and
    figures before and after.
    """
    import json

    from ..data.crops import CropBatches, running_on
    from ..data.photographs import load_photographs, plan_crops
    from ..data.tables import aligned, write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import save_state, write_text
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import file_name, written_at_once
    from ..experiments.filters import compare, convolutions, diagnose
    from ..plot.filters import draw_comparison, draw_diagnosis

    with user_errors(ValueError, OSError, UnsupportedModule):
        subject = load(model, weights, size, mean, std, device, threads)
        photographs = load_photographs(images + more_images)
        planned = plan_crops(photographs, size, crops)
        batches = CropBatches(photographs, planned, size, batch_size, subject.weights, subject.device)
        chosen = names(layers) or None
        one = batches.first()
        with running_on(one, RuntimeError, TypeError):
            diagnose(subject.model, chosen, [one], dominance=dominance, progress=False)
        with written_at_once(Path(output)) as draft:
            if renormalize is None:
                comparison = None
                found = diagnose(subject.model, chosen, batches, dominance=dominance)
            else:
                comparison = compare(subject.model, renormalize, chosen, batches, dominance=dominance)
                found = comparison.before
            first = next(iter(convolutions(subject.model)))
            caption = (
                f"Over {len(planned)} crops of {size}x{size} of {len(photographs)} photographs. "
                f"Weights: {subject.weights.source}."
            )
            for number, diagnosis in enumerate(found):
                preprocessing = subject.weights.preprocessing
                reads_pixels = diagnosis.layer == first and diagnosis.weight.shape[1] == len(preprocessing.mean)
                to_rgb = preprocessing.to_rgb if reads_pixels else None
                rows, columns = diagnosis.weight.shape[2:]
                title = f"{model}, layer {diagnosis.layer}: {len(diagnosis)} filters of {columns}x{rows}"
                draw_diagnosis(draft / f"{file_name(diagnosis.layer)}_filters.png", diagnosis, title, caption, to_rgb)
                if comparison is not None:
                    scaled = sum(change.layer == diagnosis.layer for change in comparison.changed)
                    words = f"Filters scaled to an RMS of {renormalize:g}, which they exceeded: {scaled}. {caption}"
                    path = draft / f"{file_name(diagnosis.layer)}_before_after.png"
                    draw_comparison(path, comparison, number, f"{title}, before and after", words, to_rgb)
            write_csv(draft / "filters.csv", _HEAD, _filters(found))
            save_arrays(draft / "spectra.npz", {each.layer: each.spectrum.numpy() for each in found})
            summary = {"model": model, "weights": subject.weights.source, "size": size, "crops": len(planned)}
            summary |= {"dominance": dominance, "layers": [_summary(each) for each in found]}
            if comparison is not None:
                write_csv(draft / "filters_after.csv", _HEAD, _filters(comparison.after))
                changes = [(c.layer, c.filter, c.rms, c.factor) for c in comparison.changed]
                write_csv(draft / "changed.csv", ["layer", "filter", "rms", "factor"], changes)
                save_state(draft / "repaired.pth", comparison.model.cpu().state_dict())
                summary |= {"radius": renormalize, "changed": len(changes)}
                summary["after"] = [_summary(each) for each in comparison.after]
            write_text(draft / "filters.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    states = [("", found)] if comparison is None else [("before", found), ("after", comparison.after)]
    for line in aligned(_table(states)):
        click.echo(line)
    if comparison is not None:
        click.echo(f"filters of all convolutions scaled to an RMS of {comparison.radius:g}: {len(comparison.changed)}")
    click.echo(f"figures and numbers in {output}")


_WEIGHTS = ("rms", "share_of_rms", "centroid", "aliased_energy", "dominating")
_ACTIVITY = ("peak", "mean_activation", "share_of_activation", "active_images", "dead", "aliased_response")
_HEAD = ("layer", "filter", *_WEIGHTS, *_ACTIVITY)


def _filters(found: Sequence[Diagnosis]) -> Iterator[list[object]]:
    """One row per filter, under `_HEAD`."""
    for each in found:
        activity = each.activity
        assert activity is not None
        columns = [each.rms, each.share, each.centroid, each.aliased, each.dominating]
        columns += [activity.peak, activity.mean, activity.share, activity.active_images, activity.dead]
        columns += [activity.aliased]
        for number, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            yield [each.layer, number, *(int(cell) if isinstance(cell, bool) else cell for cell in row)]


def _summary(each: Diagnosis) -> dict[str, object]:
    """The main numbers of a layer; None for what is not defined."""
    activity = each.activity
    assert activity is not None
    numbers = {
        "rms_median": each.rms.median(),
        "rms_largest": each.rms.max(),
        "largest_share_of_rms": each.share.max(),
        "largest_share_of_activation": activity.share.max(),
        "centroid_median": each.centroid.nanmedian(),
        "aliased_energy_median": each.aliased.nanmedian(),
        "aliased_response_median": activity.aliased.nanmedian(),
    }
    return {
        "layer": each.layer,
        "filters": len(each),
        "stride": each.stride,
        "nyquist": each.nyquist,
        "dead": activity.dead.nonzero()[:, 0].tolist(),
        "dominating": each.dominating.nonzero()[:, 0].tolist(),
        **{name: value.item() if value.isfinite() else None for name, value in numbers.items()},
    }


def _table(states: Sequence[tuple[str, Sequence[Diagnosis]]]) -> list[list[str]]:
    rows = [["layer", "filters", "dead", "dominating", "RMS median", "largest", "centroid", "beyond Nyquist: energy"]]
    rows[0].append("response")
    for name, found in states:
        for each in found:
            summary = _summary(each)
            numbers = ("rms_median", "rms_largest", "centroid_median", "aliased_energy_median")
            cells = [summary[key] for key in (*numbers, "aliased_response_median")]
            dead, dominating = (str(len(summary[key])) for key in ("dead", "dominating"))  # type: ignore[arg-type]
            rows.append([f"{each.layer} {name}".strip(), str(len(each)), dead, dominating])
            rows[-1] += ["-" if cell is None else f"{cell:.3g}" for cell in cells]
    return rows
