"""`deconv-kernels filters`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import options
from .answer import Answer
from .options import Network, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which filters to diagnose, over what, and how."""

    network: Network = group(Network)
    photographs: PhotographSources = group(PhotographSources)
    layers: str = options.layers(
        "Convolutions, separated by commas, or blocks with all of theirs; by default the first."
    )
    size: int = options.size()
    crops: int = options.crops(default=48)
    batch_size: int = options.batch_size(default=8)
    dominance: float = option(5.0, "A filter above so many times the others' mean dominates.")
    renormalize: float | None = option(
        None,
        "Scale the filters of all convolutions whose RMS exceeds this radius (the paper: 0.1) down to it, write the "
        "repaired state dict, and report before and after.",
        type=float,
    )
    output: str = options.output()


@options.command("filters", Settings)
def command(settings: Settings) -> Answer:
    """Diagnose convolution filters: how large, which frequencies, which dead over the photographs, which dominating.

    Writes a figure per layer, the numbers of every filter (filters.csv) and the spectra (spectra.npz); with
    --renormalize the repaired weights (repaired.pth, under the network's own names), what was scaled (changed.csv), and
    figures before and after.

    \b
    Example:
        deconv-kernels filters --weights vgg16.pth --images photos/ --renormalize 0.1
    """
    from ..data.crops import CropBatches, plan_crops
    from ..data.photographs import load_photographs
    from ..data.tables import write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import save_state, write_json
    from ..experiments import filters as experiment
    from ..experiments.common.files import files_in, written_at_once
    from ..experiments.common.layers import running_on
    from ..plot.filters import draw_layers
    from ..terminal import aligned
    from .subject import load

    model, size, dominance = settings.network.model, settings.size, settings.dominance
    subject = load(settings.network, size)
    weights = subject.weights
    photographs = load_photographs(settings.photographs.sources)
    planned = plan_crops(photographs, size, settings.crops)
    batches = CropBatches(photographs, planned, size, settings.batch_size, subject.inputs)
    chosen = options.names(settings.layers) or None
    one = batches.first()
    with running_on(one, (RuntimeError, TypeError)):
        experiment.diagnose(subject.model, chosen, [one], dominance=dominance, progress=False)
    with written_at_once(Path(settings.output)) as draft:
        if settings.renormalize is None:
            comparison = None
            found = experiment.diagnose(subject.model, chosen, batches, dominance=dominance)
        else:
            comparison = experiment.compare(subject.model, settings.renormalize, chosen, batches, dominance=dominance)
            found = comparison.before
        caption = (
            f"Over {len(planned)} crops of {size}x{size} of {len(photographs)} photographs. Weights: {weights.source}."
        )
        first = next(iter(experiment.convolutions(subject.model)))
        draw_layers(draft, comparison or found, model, caption, first, weights.preprocessing)
        write_csv(draft / "filters.csv", experiment.TABLE_HEAD, (row for each in found for row in each.table()))
        save_arrays(draft / "spectra.npz", {each.layer: each.spectrum.numpy() for each in found})
        summary = {"model": model, "weights": weights.source, "size": size, "crops": len(planned)}
        summary |= {"dominance": dominance, "layers": [each.summary() for each in found]}
        if comparison is not None:
            rows = (row for each in comparison.after for row in each.table())
            write_csv(draft / "filters_after.csv", experiment.TABLE_HEAD, rows)
            changes = [(c.layer, c.filter, c.rms, c.factor) for c in comparison.changed]
            write_csv(draft / "changed.csv", ["layer", "filter", "rms", "factor"], changes)
            save_state(draft / "repaired.pth", comparison.model.cpu().state_dict())
            summary |= {"radius": settings.renormalize, "changed": len(changes)}
            summary["after"] = [each.summary() for each in comparison.after]
        write_json(draft / "filters.json", summary, allow_nan=False)
        files = files_in(draft)
    states = [("", found)] if comparison is None else [("before", found), ("after", comparison.after)]
    lines = aligned(experiment.summary_table(states))
    if comparison is not None:
        scaled = len(comparison.changed)
        lines.append(f"filters of all convolutions scaled to an RMS of {comparison.radius:g}: {scaled}")
    return Answer([*lines, f"figures and numbers in {settings.output}"], settings.output, files, summary)
