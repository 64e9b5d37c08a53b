"""`deconv-kernels mine`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checks import at_least
from ..data.photographs import Crop, Photograph, cut, load_photographs, plan_crops
from ..models import Weights
from .common import (
    layers_of,
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
    from ..engine.deconvnet import Deconvnet
    from ..experiments.mining import Mined

_BATCHES_PER_PART = 8


@click.command("mine")
@network_options
@photograph_options
@layers_option("Layers to mine, separated by commas, such as conv3_3,conv5_3.", required=True)
@click.option("-k", default=9, show_default=True, help="Units per map, of each kind.")
@click.option("--weakest", is_flag=True, help="Find the weakest of the positive activations too.")
@click.option(
    "--quantiles", default="", help="Find the units at these quantiles of all activations of a map too, as in 0.5,0.99."
)
@click.option("--all-positions", is_flag=True, help="Let all positions of a crop compete, not only its best.")
@size_option()
@click.option("--crops", default=256, show_default=True, help="Crops to cut from the photographs, at most.")
@click.option("--batch-size", default=16, show_default=True, help="Crops per forward pass.")
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    k: int,
    weakest: bool,
    quantiles: str,
    all_positions: bool,
    size: int,
    crops: int,
    batch_size: int,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Find the strongest activations of every map in photographs, and if asked the weakest positive ones and quantiles.

    Writes the units (units.csv), the crops they are in (crops.csv), and everything for Python (mined.npz, read by
    deconv_kernels.experiments.mining.Mined.load). Strongest activations are responses: only those above zero count, so
    that a map that responds in few crops has few, and a dead one none. Layers are ranked as they are, before any
    rectifier that follows. An interrupted run goes on where it stopped when it is started again. Several processes
    share the work under torchrun:

    \b
        torchrun --nproc-per-node 2 -m deconv_kernels mine ...
    """
    from ..data.crops import shapes_of
    from ..data.tables import aligned, write_csv
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.common.tracing import forward_only
    from ..experiments.mining import mine

    with user_errors(ValueError, OSError, UnsupportedModule), _processes(device) as (rank, world):
        wanted = _quantiles(quantiles)
        subject = load(model, weights, size, mean, std, device, threads)
        photographs = load_photographs(images + more_images)
        planned = plan_crops(photographs, size, crops)
        at_least("batch-size", batch_size, 1)
        net = forward_only(subject.model)
        first = subject.weights.preprocess(cut(photographs, planned[:1], size))
        chosen = layers_of(subject.model, layers)
        shapes_of(net, first.to(subject.device), chosen)
        data = DataLoader(_Crops(photographs, planned, size, subject.weights), batch_size=batch_size)
        settings = [model, subject.weights.source, str(subject.device), layers, k, weakest, wanted, all_positions]
        settings += [size, crops, batch_size]
        pixels = (torch.tensor(photograph.pixels) for photograph in photographs)
        parts = Parts.of_run(output, "mine", settings, subject.model, *pixels)
        with written_at_once(Path(output)) if rank == 0 else nullcontext() as draft:
            mined = mine(
                net,
                data,
                chosen,
                k,
                one_per_image=not all_positions,
                weakest=weakest,
                quantiles=wanted,
                parts=parts,
                batches_per_part=_BATCHES_PER_PART,
            )
            if draft is None:
                return
            responses = mined.responses()
            responses.save(draft / "mined.npz")
            head = ("layer", "kind", "map", "rank", "crop", "y", "x", "activation")
            write_csv(draft / "units.csv", head, _rows(responses))
            places = [
                (n, photographs[crop.photograph].name, crop.y, crop.x, crop.side) for n, crop in enumerate(planned)
            ]
            write_csv(draft / "crops.csv", ("crop", "photograph", "y", "x", "side"), places)
        parts.remove()
    for line in aligned(list(_table(mined))):
        click.echo(line)
    for layer in mined.layers:
        for line in _few(net, responses, layer, mined.strongest[layer].channel.unique().tolist()):
            click.echo(line)
    by = f" by {world} processes" if world > 1 else ""
    click.echo(f"{mined.images} crops of {len(photographs)} photographs mined{by}; units and numbers in {output}")


class _Crops(Dataset[Tensor]):
    """Crops of photographs as a network takes them, cut when they are asked for."""

    def __init__(self, photographs: Sequence[Photograph], crops: Sequence[Crop], size: int, weights: Weights) -> None:
        self.photographs, self.crops, self.size, self.weights = photographs, crops, size, weights

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Tensor:
        crop = self.crops[index]
        pixels = cut([self.photographs[crop.photograph]], [replace(crop, photograph=0)], self.size)
        return self.weights.preprocess(pixels)[0]


@contextmanager
def _processes(device: str) -> Iterator[tuple[int, int]]:
    """The rank and number of processes: of the group that is there, that torchrun asks for, or of this one alone."""
    if dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
        return
    if int(os.environ.get("WORLD_SIZE") or "1") == 1:
        yield 0, 1
        return
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _quantiles(separated: str) -> tuple[float, ...]:
    try:
        return tuple(float(q) for q in names(separated))
    except ValueError as error:
        raise ValueError(f"quantiles must be numbers between 0 and 1, not {separated!r}") from error


def _rows(mined: Mined) -> Iterator[list[object]]:
    """One row per unit; ranks count from 1 in every map."""
    for kind, units in mined.units():
        assert units.activation is not None
        columns = (units.channel, units.image, units.y, units.x, units.activation.double())
        last, rank = None, 0
        for channel, image, y, x, activation in zip(*(column.tolist() for column in columns), strict=True):
            rank = rank + 1 if channel == last else 1
            last = channel
            yield [units.layer, kind, channel, rank, image, y, x, activation]


def _few(net: Deconvnet, mined: Mined, layer: str, maps: Sequence[int]) -> Iterator[str]:
    """What there is to say of a layer before its rectifier, and of maps with fewer responses than asked for."""
    from ..experiments.common.responses import by_map, rectifier_of

    if (rectifier := rectifier_of(net.tape, layer)) != layer:
        yield f"layer {layer}: as it is before layer {rectifier} rectifies it"
    counts = [place.stop - place.start for place in by_map(mined.strongest[layer], maps).values()]
    if few := sum(count < mined.k for count in counts):
        none = f"{counts.count(0)} have none"
        yield f"layer {layer}: {few} of {len(maps)} maps have fewer than {mined.k} responses, {none}"


def _table(mined: Mined) -> Iterator[tuple[object, ...]]:
    """What the layers are like: of every map its strongest activation."""
    yield "layer", "maps", "never positive", "median of the maps' strongest", "strongest"
    for layer, units in mined.strongest.items():
        assert units.activation is not None
        first = units.channel.new_ones(len(units)).bool()
        first[1:] = units.channel[1:] != units.channel[:-1]
        peaks = units.activation[first].float()
        yield layer, len(peaks), int((peaks <= 0).sum()), f"{peaks.median():.4g}", f"{peaks.max():.4g}"
