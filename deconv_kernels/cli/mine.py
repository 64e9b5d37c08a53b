"""`deconv-kernels mine`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import options
from .answer import Answer
from .options import ImageSources, Network, group, option

_BATCHES_PER_PART = 8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to look for, and where."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    layers: str = options.layers("Layers to mine, separated by commas, such as conv3_3,conv5_3.", required=True)
    k: int = option(9, "Units per map, of each kind.", "-k")
    weakest: bool = option(False, "Find the weakest of the positive activations too.", is_flag=True)
    quantiles: str = option("", "Find the units at these quantiles of all activations of a map too, as in 0.5,0.99.")
    all_positions: bool = option(False, "Let all positions of a crop compete, not only its best.", is_flag=True)
    size: int = options.size()
    crops: int = options.crops()
    batch_size: int = options.batch_size(help="Crops per forward pass.")
    output: str = options.output()


@options.command("mine", Settings)
def command(settings: Settings) -> Answer | None:
    """Find the strongest activations of every map in images, and if asked the weakest positive ones and quantiles.

    Writes the units (units.csv), the crops they are in (crops.csv; volumes.csv or signals.csv of tensors), and
    everything for Python (mined.npz, read by deconv_kernels.experiments.mining.Mined.load). Strongest activations are
    responses: only those above zero count, so that a map that responds in few crops has few, and a dead one none.
    Layers are ranked as they are, before any rectifier that follows. An interrupted run goes on where it stopped when
    it is started again. Several processes share the work under torchrun --nproc-per-node 2 -m deconv_kernels mine.

    \b
    Example:
        deconv-kernels mine --weights vgg16.pth --images photos/ --layers conv5_3 --quantiles 0.5,0.99
    """
    from ..experiments.common.processes import of_torchrun

    with of_torchrun(settings.network.machine.device) as (rank, world):
        return _mine(settings, rank, world)


def _mine(settings: Settings, rank: int, world: int) -> Answer | None:
    """What one of several processes does; the first one writes and tells."""
    from contextlib import nullcontext

    from ..data.tables import write_csv
    from ..engine.units import AXES
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..experiments.common.layers import chosen_layers
    from ..experiments.mining import mine
    from ..terminal import aligned
    from .shown import show_crops

    size, batch_size, output = settings.size, settings.batch_size, settings.output
    wanted = _quantiles(settings.quantiles)
    shown = show_crops(settings.network, settings.images.sources, size, settings.crops)
    batches = shown.batches(batch_size)
    net = shown.net
    chosen = chosen_layers(net, options.names(settings.layers))
    net.shapes(shown.first, chosen)
    told = [settings.network.model, shown.source, str(shown.device), settings.layers, settings.k]
    told += [settings.weakest, wanted, settings.all_positions, size, settings.crops, batch_size]
    parts = Parts.of_run(output, "mine", told, net, *shown.contents)
    with written_at_once(Path(output)) if rank == 0 else nullcontext() as draft:
        mined = mine(
            net,
            batches,
            chosen,
            settings.k,
            one_per_image=not settings.all_positions,
            weakest=settings.weakest,
            quantiles=wanted,
            parts=parts,
            batches_per_part=_BATCHES_PER_PART,
        )
        if draft is None:
            return None
        responses = mined.responses()
        responses.save(draft / "mined.npz")
        axes = AXES[2 - shown.first.dim() :]
        head = ("layer", "kind", "map", "rank", shown.one, *axes, "activation")
        write_csv(draft / "units.csv", head, responses.table())
        write_csv(draft / f"{shown.one}s.csv", *shown.table())
        files = files_in(draft)
    parts.remove()
    by = f" by {world} processes" if world > 1 else ""
    end = f"{shown.said} mined{by}; units and numbers in {output}"
    lines = [*aligned(list(mined.summary())), *mined.remarks(net.tape), end]
    counts = {layer: len(units) for layer, units in responses.strongest.items()}
    found = {**shown.counts, "processes": world, "strongest": counts}
    return Answer(lines, output, files, found)


def _quantiles(separated: str) -> tuple[float, ...]:
    try:
        return tuple(float(q) for q in options.names(separated))
    except ValueError as error:
        raise ValueError(f"quantiles must be numbers between 0 and 1, not {separated!r}") from error
