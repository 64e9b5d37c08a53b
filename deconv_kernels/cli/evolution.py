"""`deconv-kernels evolution`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checks import at_least
from . import options
from .answer import Answer
from .options import ImageSources, Machine, Network, Reading, group, option
from .words import Words


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which checkpoints and maps to draw."""

    model: str = options.model("vgg16")
    checkpoints: tuple[str, ...] = option(
        help="State-dict files in order of training, separated by commas, or the option repeated; a folder or a "
        "pattern such as 'epoch*.pth' stands for its files in the order of their numbers.",
        required=True,
        multiple=True,
        type=Words("checkpoints", files="file"),
    )
    images: ImageSources = group(ImageSources)
    layers: str = options.layers("Layers, separated by commas.", required=True)
    maps: int = options.maps(default=6)
    seed: int = options.seed()
    reading: Reading = group(Reading)
    size: int = options.size()
    crops: int = options.crops()
    batch_size: int = options.batch_size()
    rule: str = options.rule()
    machine: Machine = group(Machine)
    output: str = options.output()


@options.command("evolution", Settings)
def command(settings: Settings) -> Answer:
    """Draw how features evolve while a network trains: each map's strongest activation, checkpoint by checkpoint.

    Writes a figure per layer, the units (evolution.csv) and their projections (projections.npz). A layer that a
    rectifier follows stands for what that makes of it. A map that responds to no crop is silent: it has no strongest
    crop, and its projection is zero. Interrupted, it goes on after the last checkpoint that was finished.

    \b
    Example:
        deconv-kernels evolution --model net.py:build --checkpoints run/ --images photos/ --layers conv2
    """
    from functools import partial

    from ..data.tables import write_csv
    from ..data.tensor_files import save_arrays
    from ..engine.deconvnet import Deconvnet
    from ..experiments import evolution as experiment
    from ..experiments.common.files import Parts, file_name, files_in, written_at_once
    from ..experiments.common.responses import describe_rectification, rectifier_of
    from ..experiments.gallery import choose_maps
    from ..plot.evolution import draw_evolution
    from ..terminal import aligned
    from .checkpoints import checked_files, identity, names_of
    from .shown import show_crops
    from .subject import layers_of

    size, rule, output = settings.size, settings.rule, settings.output
    files = checked_files(settings.checkpoints)
    at_least("maps", settings.maps, 1)
    at_least("seed", settings.seed, 0)
    at_least("size", size, 1)
    named = Network(model=settings.model, weights=files[0], reading=settings.reading, machine=settings.machine)
    shown = show_crops(named, settings.images.sources, size, settings.crops)
    batches = shown.batches(settings.batch_size)
    net = Deconvnet(shown.model, rule=rule)
    layers = layers_of(net, settings.layers)
    shapes = net.shapes(shown.first, layers)
    chosen = {layer: choose_maps(layer, shapes[layer][0], settings.maps, settings.seed) for layer in layers}
    for file in files[1:]:
        shown.network(file)  # one that cannot be used is found before the work

    seen = {file: identity(Path(file)) for file in files}
    told = [settings.model, seen, shown.crops, chosen, size, settings.reading.constants(), settings.batch_size, rule]
    told += [settings.machine.device, "rectified"]
    parts = Parts.of_run(output, "evolution", told, net, *shown.contents)
    networks = {name: partial(shown.network, file) for name, file in zip(names_of(files), files, strict=True)}
    with written_at_once(Path(output)) as draft:
        found = experiment.evolve(networks, batches, chosen, rule=rule, rectified=True, parts=parts)
        rectifiers = {layer: rectifier_of(net.tape, layer) for layer in layers}
        head = experiment.table_head(shown.one, shown.origin.split()[-1][:-1], shown.first.dim() - 2)
        write_csv(draft / "evolution.csv", head, found.table(shown.names, rectifiers))
        arrays = {name: windows.numpy() for name, windows in found.projections().items()}
        save_arrays(draft / "projections.npz", arrays)
        for layer in layers:
            title = f"Layer {layer}: the evolution of {len(chosen[layer])} of its maps over {len(files)} checkpoints"
            words = [f"{settings.model}; {shown.what}.", describe_rectification(net.tape, layer), shown.remark]
            path, caption = draft / f"{file_name(layer)}_evolution.png", " ".join(filter(None, words))
            draw_evolution(path, found, layer, title, caption, shown.to_rgb, shown.pixels)
        written = files_in(draft)
    parts.remove()
    lines = [*aligned(found.summary()), f"figures and numbers in {output}"]
    numbers = {"model": settings.model, "checkpoints": found.checkpoints, "images": found.images, "maps": found.maps}
    return Answer(lines, output, written, numbers)
