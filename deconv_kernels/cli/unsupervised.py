"""`deconv-kernels unsupervised`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import torch
from torch import Tensor

from ..checks import at_least
from .common import machine_options, names, output_option, photograph_options, set_threads, user_errors

if TYPE_CHECKING:
    from ..experiments.unsupervised import Epoch

T = TypeVar("T", int, float)

_FLOOR = 0.02  # of the contrast that is normalised away, as a share of white: some five levels of a photograph's 256
_NUMBERS = {int: "whole numbers", float: "numbers"}


@click.command("unsupervised")
@photograph_options
@click.option("--maps", default="32,64", show_default=True, help="Feature maps of each layer, from the bottom.")
@click.option(
    "--fidelity",
    help="Weight of the reconstruction error against the l1 norm (lambda), of each layer; smaller is sparser. By "
    "default 0.4 for the first layer and 0.2 for those above.",
)
@click.option("--kernel", default="7", show_default=True, help="Rows and columns of the filters, of each layer.")
@click.option("--pool", default="2", show_default=True, help="Rows and columns of the pooling windows, of each layer.")
@click.option("--epochs", default=6, show_default=True, help="Passes through the crops, per layer.")
@click.option("--steps", default=15, show_default=True, help="Steps of inference.")
@click.option("--method", default="fista", show_default=True, help="Inference: fista or ista.")
@click.option(
    "--pooling",
    default="within",
    show_default=True,
    help="within: every step pools and unpools, as in the 2011 paper; after: once at the end.",
)
@click.option("--crops", default=128, show_default=True, help="Crops to learn from, at most.")
@click.option("--size", default=64, show_default=True, help="Rows and columns of the crops.")
@click.option("--batch-size", default=16, show_default=True, help="Crops per update of the filters.")
@click.option("--grey", is_flag=True, help="Learn from grey images.")
@click.option("--seed", default=0, show_default=True, help="Of the filters to begin with and the order of the crops.")
@click.option(
    "--filters",
    type=click.Path(path_type=Path),
    help="A filters.npz of an earlier run, computed with in float32: nothing is learned, and options about layers do "
    "not count.",
)
@click.option("--shown", default=6, show_default=True, help="Photographs to reconstruct, at most, in colour or grey.")
@click.option("--shown-size", default=160, show_default=True, help="Rows and columns at which they are reconstructed.")
@click.option("--shown-maps", default=16, show_default=True, help="Maps of each upper layer to draw.")
@machine_options
@output_option
def command(
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    maps: str,
    fidelity: str | None,
    kernel: str,
    pool: str,
    epochs: int,
    steps: int,
    method: str,
    pooling: str,
    crops: int,
    size: int,
    batch_size: int,
    grey: bool,
    seed: int,
    filters: Path | None,
    shown: int,
    shown_size: int,
    shown_maps: int,
    device: str,
    threads: int | None,
    output: str,
) -> None:
    """Learn a deconvolutional network from photographs, without labels: sparse maps, switches and filters.

    Writes a figure per layer (the first layer's filters; above, the strongest units of some maps in pixels beside the
    patches), reconstructions of whole photographs from every layer, the curves of learning, all numbers as JSON, and
    the filters. Finished epochs are kept until the end: an interrupted run goes on where it stopped.
    """
    import hashlib
    import json
    from dataclasses import asdict

    from ..backends import usable_device
    from ..data.photographs import cut, load_photographs, plan_centres, plan_crops
    from ..data.tables import aligned
    from ..data.writing import write_text
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.unsupervised import DeconvolutionalNetwork, SparseLayer
    from ..plot.unsupervised import draw_curves, draw_first_layer, draw_reconstructions, draw_units

    with user_errors(ValueError, OSError):
        for name, value in (("size", size), ("shown-size", shown_size), ("shown", shown), ("shown-maps", shown_maps)):
            at_least(name, value, 1)
        if not 0 <= seed < 2**63:
            raise ValueError(f"--seed must be from 0 to 2**63 - 1, got {seed}")
        set_threads(threads)
        where = usable_device(device)
        if filters is None:
            counts = _numbers("maps", maps, int)
            columns = (
                counts,
                _fidelities(len(counts)) if fidelity is None else _for_each("fidelity", fidelity, float, len(counts)),
                _for_each("kernel", kernel, int, len(counts)),
                _for_each("pool", pool, int, len(counts)),
            )
            layers = [SparseLayer(*layer) for layer in zip(*columns, strict=True)]
            network = DeconvolutionalNetwork(layers, channels=1 if grey else 3, seed=seed)
        else:
            network = DeconvolutionalNetwork.load(filters)
            if network.channels not in (1, 3):
                raise ValueError(f"{str(filters)!r} is for images of {network.channels} channels, not grey or colour")
        network.to(where, torch.float32)
        photographs = load_photographs(images + more_images)
        planned = plan_crops(photographs, size, crops)
        pixels = cut(photographs, planned, size)
        learned_from = _given(pixels, network.channels, where)
        inference: dict[str, Any] = {"steps": steps, "method": method, "pooling": pooling, "batch_size": batch_size}
        settings = {
            "layers": [asdict(layer) for layer in network.layers],
            "channels": network.channels,
            "crops": len(planned),
            "size": size,
            "epochs": epochs,
            **inference,
            "seed": seed,
            "contrast_floor": _FLOOR,
            "filters": None if filters is None else str(filters),
        }
        parts = Parts(
            Path(output) / ".parts-unsupervised",
            settings | {"device": str(where), "pixels": hashlib.sha256(pixels.numpy().tobytes()).hexdigest()},
        )
        with written_at_once(Path(output)) as draft:
            history = []
            if filters is None:
                history = network.fit(learned_from, epochs=epochs, seed=seed, parts=parts, **inference)
            features = network.infer(learned_from, **inference, progress=True)
            centres = plan_centres(photographs[:shown], shown_size)
            squares = cut(photographs, centres, shown_size)
            inputs = _given(squares, network.channels, where)
            inferred = network.infer(inputs, **inference, progress=True)
            depth = range(1, len(network.layers) + 1)
            with torch.no_grad():
                made = [network.reconstruct(inferred, layer) for layer in depth]
            energy = inputs.square().sum((1, 2, 3)).clamp(min=torch.finfo(inputs.dtype).tiny)
            errors = [((each - inputs).square().sum((1, 2, 3)) / energy).tolist() for each in made]

            source = (
                f"learned without labels from {len(planned)} crops of {size}x{size} of {len(photographs)} photographs"
                if filters is None
                else f"of {filters.name}, on {len(planned)} crops of {size}x{size} of {len(photographs)} photographs"
            )
            for layer in depth:
                title = f"Layer {layer} of a deconvolutional network, {source}"
                sparse = network.layers[layer - 1]
                if layer == 1:
                    caption = (
                        f"{sparse.maps} filters of {sparse.kernel_size}x{sparse.kernel_size}, contrast per filter."
                    )
                    draw_first_layer(draft / "layer1.png", title, caption, network)
                    continue
                chosen = range(min(shown_maps, sparse.maps))
                caption = (
                    "For each map its strongest units by magnitude, at most one per crop: what the unit alone puts "
                    "into the image through the switches of the layers below (left), and the image there (right)."
                )
                path = draft / f"layer{layer}.png"
                draw_units(path, title, caption, network, features, learned_from, layer, chosen)
            draw_reconstructions(
                draft / "reconstructions.png",
                "Photographs, reconstructed from each layer through the switches below",
                "Middle squares of the photographs; what the network is given (local contrast normalised); R z of each "
                "layer. Error: squared, as a share of the given image's energy; each layer answers for the pixels, at "
                "its own fidelity, so a higher one can have less. One contrast per row.",
                [photographs[crop.photograph].name for crop in centres],
                squares,
                inputs.cpu(),
                [each.cpu() for each in made],
                errors,
            )
            if history:
                draw_curves(
                    draft / "curves.png",
                    f"A deconvolutional network, {source}",
                    "Each epoch as it went, with the filters of its time; the last is with the final filters.",
                    history,
                )
            network.save(draft / "filters.npz")
            described = [
                {
                    "photograph": photographs[crop.photograph].name,
                    "layers": [
                        {
                            "layer": layer,
                            "error": errors[layer - 1][number],
                            "nonzero": _share(code.maps[number]),
                            "l1": float(code.maps[number].abs().sum()),
                            "objective": float(code.objective[-1, number]),
                        }
                        for layer, code in zip(depth, inferred.codes, strict=True)
                    ],
                }
                for number, crop in enumerate(centres)
            ]
            numbers = {
                "settings": settings,
                "photographs": [photograph.name for photograph in photographs],
                "history": [asdict(epoch) for epoch in history],
                "shown_size": shown_size,
                "reconstructions": described,
            }
            write_text(draft / "unsupervised.json", json.dumps(numbers, indent=1) + "\n")
    parts.remove()
    for line in aligned(_table(history, errors)):
        click.echo(line)
    click.echo(f"figures, numbers and filters in {output}")


def _numbers(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Numbers separated by commas.

    Raises:
        ValueError: there is none, or something else among them.
    """
    try:
        values = [kind(part) for part in names(text)]
    except ValueError:
        values = []
    if not values:
        raise ValueError(f"{name} must be {_NUMBERS[kind]} separated by commas, got {text!r}")  # type: ignore[index]
    return values


def _fidelities(layers: int) -> list[float]:
    """Of each layer, unless the user says otherwise."""
    return [0.4, *[0.2] * (layers - 1)]


def _for_each(name: str, text: str, kind: Callable[[str], T], layers: int) -> list[T]:
    """One number for every layer, or the same for all.

    Raises:
        ValueError: another number of them.
    """
    values = _numbers(name, text, kind)
    if len(values) not in (1, layers):
        raise ValueError(f"{name} needs one number, or one for each of the {layers} layers, got {text!r}")
    return values * layers if len(values) == 1 else values


def _given(pixels: Tensor, channels: int, device: torch.device) -> Tensor:
    """What the network sees of uint8 RGB images."""
    from ..experiments.unsupervised import contrast_normalised

    values = pixels.to(device, torch.float32) / 255
    if channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(3, 1, 1)  # ITU-R BT.601
        values = (values * luma).sum(1, keepdim=True)
    return contrast_normalised(values, floor=_FLOOR)


def _table(history: Sequence[Epoch], errors: Sequence[Sequence[float]]) -> list[list[str]]:
    """Per layer: how learning went, if there was any, and the mean error of the photographs shown."""
    rows = [["layer", "error at first", "at last", "non-zero", "silent maps", "error of photographs"]]
    for layer, shown in enumerate(errors, 1):
        epochs = [epoch for epoch in history if epoch.layer == layer]
        rows.append([str(layer), "-", "-", "-", "-", f"{sum(shown) / len(shown):.1%}"])
        if epochs:
            first, last = epochs[0], epochs[-1]
            rows[-1][1:5] = [f"{first.error:.1%}", f"{last.error:.1%}", f"{last.nonzero:.2%}", str(last.silent)]
    return rows


def _share(maps: Tensor) -> float:
    """The share of values other than zero."""
    return int(maps.count_nonzero()) / maps.numel()
