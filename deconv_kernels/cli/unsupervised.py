"""`deconv-kernels unsupervised`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..checks import at_least
from . import options
from .options import Machine, Photographs, group, option

if TYPE_CHECKING:
    from ..experiments.unsupervised import DeconvolutionalNetwork

T = TypeVar("T", int, float)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to learn, from what, and what to show."""

    photographs: Photographs = group(Photographs)
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
    size: int = options.size(64, "the crops")
    batch_size: int = options.batch_size(16, "Crops per update of the filters.")
    grey: bool = option(False, "Learn from grey images.", is_flag=True)
    seed: int = options.seed("Of the filters to begin with and the order of the crops.")
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
    import hashlib
    from dataclasses import asdict

    import torch

    from ..data.crops import cut, plan_centres, plan_crops
    from ..data.photographs import load_photographs
    from ..data.tables import aligned
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.reconstructions import CONTRAST_FLOOR, learning_table, reconstruct, seen
    from ..plot.unsupervised import draw_network, draw_reconstructions
    from .subject import device_of

    for name in ("size", "shown_size", "shown", "shown_maps"):
        at_least(name.replace("_", "-"), getattr(settings, name), 1)
    options.check_seed(settings.seed)
    device, size, output = device_of(settings.machine), settings.size, Path(settings.output)
    network = _network(settings).to(device, torch.float32)
    photographs = load_photographs(settings.photographs.sources)
    planned = plan_crops(photographs, size, settings.crops)
    pixels = cut(photographs, planned, size)
    learned_from = seen(pixels, network.channels, device)
    inference = options.values(settings, "steps", "method", "pooling", "batch_size")
    told = {
        "layers": [asdict(layer) for layer in network.layers],
        "channels": network.channels,
        "crops": len(planned),
        "size": size,
        "epochs": settings.epochs,
        **inference,
        "seed": settings.seed,
        "contrast_floor": CONTRAST_FLOOR,
        "filters": None if settings.filters is None else str(settings.filters),
    }
    digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    parts = Parts(output / ".parts-unsupervised", told | {"device": str(device), "pixels": digest})
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
    for line in aligned(learning_table(history, shown.errors)):
        click.echo(line)
    click.echo(f"figures, numbers and filters in {output}")


def _network(settings: Settings) -> DeconvolutionalNetwork:
    """One to be trained, or one that was.

    Raises:
        ValueError: layers that cannot be, or filters of images that are not grey or colour.
    """
    from ..experiments.unsupervised import DeconvolutionalNetwork, SparseLayer

    if settings.filters is not None:
        network = DeconvolutionalNetwork.load(settings.filters)
        if network.channels not in (1, 3):
            raise ValueError(
                f"{str(settings.filters)!r} is for images of {network.channels} channels, not grey or colour"
            )
        return network
    maps = _numbers("maps", settings.maps, int)
    fidelities = [0.4, *[0.2] * (len(maps) - 1)]
    if settings.fidelity is not None:
        fidelities = _for_each("fidelity", settings.fidelity, float, len(maps))
    kernels, pools = (_for_each(name, getattr(settings, name), int, len(maps)) for name in ("kernel", "pool"))
    layers = [SparseLayer(*layer) for layer in zip(maps, fidelities, kernels, pools, strict=True)]
    return DeconvolutionalNetwork(layers, channels=1 if settings.grey else 3, seed=settings.seed)


def _numbers(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Numbers separated by commas; ValueError: there is none, or something else among them."""
    what = "whole numbers" if kind is int else "numbers"
    values = options.numbers(name, text, kind, what)
    if not values:
        raise ValueError(f"{name} must be {what} separated by commas, got {text!r}")
    return list(values)


def _for_each(name: str, text: str, kind: Callable[[str], T], layers: int) -> list[T]:
    """One number for every layer, or the same for all; ValueError: another number of them."""
    values = _numbers(name, text, kind)
    if len(values) not in (1, layers):
        raise ValueError(f"{name} needs one number, or one for each of the {layers} layers, got {text!r}")
    return values * layers if len(values) == 1 else values
