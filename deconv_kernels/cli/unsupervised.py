"""`deconv-kernels unsupervised`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from ..checks import at_least
from . import options
from .options import Machine, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to learn, from what, and what to show."""

    photographs: PhotographSources = group(PhotographSources)
    maps: str = option("32,64", "Feature maps of each layer, from the bottom.")
    fidelity: str | None = option(
        None,
        "Weight of the reconstruction error against the l1 norm (lambda), of each layer; smaller is sparser. By "
        "default 0.4 for the first layer and 0.2 for those above.",
    )
    kernel: str = option("7", "Rows and columns of the filters, of each layer.")
    pool: str = option("2", "Rows and columns of the pooling windows, of each layer.")
    epochs: int = option(6, "Passes through the crops, per layer.")
    steps: int = option(15, "Steps of inference.")
    method: str = option("fista", "Inference: fista or ista.")
    pooling: str = option(
        "within", "within: every step pools and unpools, as in the 2011 paper; after: once at the end."
    )
    crops: int = option(128, "Crops to learn from, at most.")
    size: int = options.size(default=64, help="Rows and columns of the crops.")
    batch_size: int = options.batch_size(default=16, help="Crops per update of the filters.")
    grey: bool = option(False, "Learn from grey images.", is_flag=True)
    seed: int = options.seed(help="Of the filters to begin with and the order of the crops.")
    filters: Path | None = option(
        None,
        "A filters.npz of an earlier run, computed with in float32: nothing is learned, and options about layers do "
        "not count.",
        type=click.Path(path_type=Path),
    )
    shown: int = option(6, "Photographs to reconstruct, at most, in colour or grey.")
    shown_size: int = option(160, "Rows and columns at which they are reconstructed.")
    shown_maps: int = option(16, "Maps of each upper layer to draw.")
    machine: Machine = group(Machine)
    output: str = options.output()


@options.command("unsupervised", Settings)
def command(settings: Settings) -> None:
    """Learn a deconvolutional network from photographs, without labels: sparse maps, switches and filters.

    Writes a figure per layer (the first layer's filters; above, the strongest units of some maps in pixels beside the
    patches), reconstructions of whole photographs from every layer, the curves of learning, all numbers as JSON, and
    the filters. Finished epochs are kept until the end: an interrupted run goes on where it stopped.
    """
    from dataclasses import asdict

    import torch

    from ..data.crops import cut, plan_centres, plan_crops
    from ..data.photographs import load_photographs
    from ..data.tables import aligned
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, fingerprint, written_at_once
    from ..experiments.reconstructions import CONTRAST_FLOOR, learning_table, reconstruct, seen
    from ..plot.unsupervised import draw_network, draw_reconstructions
    from .sparse_layers import network_of
    from .subject import device_of

    for name in ("size", "shown_size", "shown", "shown_maps"):
        at_least(name.replace("_", "-"), getattr(settings, name), 1)
    options.check_seed(settings.seed)
    device, size, output = device_of(settings.machine), settings.size, Path(settings.output)
    network = network_of(settings).to(device, torch.float32)
    photographs = load_photographs(settings.photographs.sources)
    planned = plan_crops(photographs, size, settings.crops)
    pixels = cut(photographs, planned, size)
    learned_from = seen(pixels, network.channels, device)
    inference = options.values(settings, "steps", "method", "pooling", "batch_size")
    told = {"layers": [asdict(layer) for layer in network.layers], "channels": network.channels, "crops": len(planned)}
    told |= {"size": size, "epochs": settings.epochs, **inference, "seed": settings.seed}
    told |= {"contrast_floor": CONTRAST_FLOOR, "filters": None if settings.filters is None else str(settings.filters)}
    parts = Parts(output / ".parts-unsupervised", [told, str(device), fingerprint(pixels)])
    with written_at_once(output) as draft:
        history = []
        if settings.filters is None:
            history = network.fit(learned_from, epochs=settings.epochs, seed=settings.seed, parts=parts, **inference)
        features = network.infer(learned_from, **inference, progress=True)
        centres = plan_centres(photographs[: settings.shown], settings.shown_size)
        names = [photographs[crop.photograph].name for crop in centres]
        squares = cut(photographs, centres, settings.shown_size)
        shown = reconstruct(network, seen(squares, network.channels, device), **inference, progress=True)
        of = f"{len(planned)} crops of {size}x{size} of {len(photographs)} photographs"
        source = f"learned without labels from {of}"
        if settings.filters is not None:
            source = f"of {settings.filters.name}, on {of}"
        draw_network(draft, source, network, features, learned_from, settings.shown_maps, history)
        draw_reconstructions(draft / "reconstructions.png", names, squares, shown)
        network.save(draft / "filters.npz")
        numbers = {
            "settings": told,
            "photographs": [photograph.name for photograph in photographs],
            "history": [asdict(epoch) for epoch in history],
            "shown_size": settings.shown_size,
            "reconstructions": shown.numbers(names),
        }
        write_json(draft / "unsupervised.json", numbers, indent=1)
    parts.remove()
    options.tell(aligned(learning_table(history, shown.errors)))
    click.echo(f"figures, numbers and filters in {output}")
