"""`deconv-kernels filters`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import options
from .answer import Answer
from .options import ImageSources, Network, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which filters to diagnose, over what, and how."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
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
    """Diagnose convolution filters: how large, which frequencies, which dead over the images, which dominating.

    Writes a figure per layer, the numbers of every filter (filters.csv) and the spectra (spectra.npz); with
    --renormalize the repaired weights (repaired.pth, under the network's own names), what was scaled (changed.csv), and
    figures before and after.

    \b
    Example:
        deconv-kernels filters --weights vgg16.pth --images photos/ --renormalize 0.1
    """
    from ..data.tables import write_csv
    from ..data.tensor_files import save_arrays
    from ..data.writing import save_state, write_json
    from ..experiments import filters as experiment
    from ..experiments.common.files import files_in, written_at_once
    from ..experiments.common.layers import running_on
    from ..plot.filters import draw_layers
    from ..terminal import aligned
    from .shown import show_crops

    model, size, dominance = settings.network.model, settings.size, settings.dominance
    shown = show_crops(settings.network, settings.images.sources, size, settings.crops)
    batches = shown.batches(settings.batch_size)
    chosen = options.names(settings.layers) or None
    with running_on(shown.first, (RuntimeError, TypeError)):
        experiment.diagnose(shown.model, chosen, [shown.first], dominance=dominance, progress=False)
    with written_at_once(Path(settings.output)) as draft:
        if settings.renormalize is None:
            comparison = None
            found = experiment.diagnose(shown.model, chosen, batches, dominance=dominance)
        else:
            comparison = experiment.compare(shown.model, settings.renormalize, chosen, batches, dominance=dominance)
            found = comparison.before
        caption = f"Over {shown.what}. Weights: {shown.source}."
        first = next(iter(experiment.convolutions(shown.model)))
        coloured = shown.crops is not None and shown.first.shape[1] == 3
        to_rgb = shown.to_rgb if coloured else None
        draw_layers(draft, comparison or found, model, caption, first, to_rgb)
        write_csv(draft / "filters.csv", experiment.TABLE_HEAD, (row for each in found for row in each.table()))
        save_arrays(draft / "spectra.npz", {each.layer: each.spectrum.numpy() for each in found})
        summary = {"model": model, "weights": shown.source, "size": size, **shown.counts}
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
