"""`deconv-kernels report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checks import at_least
from . import options
from .answer import Answer
from .options import ImageSources, Network, PerAxis, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to put on the page."""

    network: Network = group(Network)
    images: ImageSources = group(ImageSources)
    layers: str = options.layers("Layers to show, separated by commas; by default five convolutions from low to high.")
    maps: int = options.maps()
    k: int = options.k()
    crops: int = options.crops(default=128)
    whole: int = option(3, "Photographs, volumes or signals to occlude and to transform, the first ones.")
    occluder: int | tuple[int, ...] = options.occluder(
        help="Rows and columns of the occluding square; or a number for each axis, as in 4,16,16.", type=PerAxis()
    )
    stride: int | tuple[int, ...] = option(
        8, "Pixels from one position of the square to the next; or a number for each axis.", type=PerAxis()
    )
    seed: int = options.seed()
    size: int = options.size()
    output: str = options.output()


@options.command("report", Settings)
def command(settings: Settings) -> Answer:
    """Make one page of everything: galleries to click through, occlusion, invariance and the first filters.

    Writes report.html, which stands alone: any browser shows it, without a server or a network. Volumes are shown as
    slices, signals as lines. An interrupted run goes on where it stopped.

    \b
    Example:
        deconv-kernels report --weights vgg16.pth --images photos/ -o out/
    """
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.common.layers import check_takes, spread_layers
    from ..experiments.invariance import figure_5
    from ..experiments.report import make_report
    from ..plot.invariance import examples_of
    from ..plot.page import Photographs, write_page
    from .shown import show_crops
    from .subject import layers_of

    model, output = settings.network.model, settings.output
    at_least("whole", settings.whole, 1)
    shown = show_crops(settings.network, settings.images.sources, settings.size, settings.crops)
    chosen = layers_of(shown.net, settings.layers) if settings.layers else spread_layers(shown.net)
    whole = shown.whole(settings.whole)
    inputs, wholes = (each.inputs().to(shown.device) for each in (shown, whole))
    check_takes(shown.net, inputs, shown.net.tape.layers[-1:], model)
    how = options.values(settings, "maps", "k", "seed", "occluder", "stride")
    parts = Parts.of_run(output, "report", [chosen, how], shown.net, inputs, wholes)
    with written_at_once(Path(output)) as draft:
        report = make_report(shown.model, inputs, wholes, chosen, **how, parts=parts)
        chance = f"the maps are a random choice (seed {settings.seed})."
        write_page(
            draft / "report.html",
            report,
            Photographs(shown.pixels(), shown.names),
            Photographs(whole.pixels(), whole.names),
            [examples_of(each, wholes, shown.drawn) for each in figure_5(wholes.shape[2:])],
            shown.to_rgb,
            model,
            (f"Weights: {shown.source}.", f"{shown.what}; {chance} {shown.remark}".strip()),
            shown.classes,
        )
    parts.remove()
    bytes_written = (Path(output) / "report.html").stat().st_size
    lines, silent = [], {}
    for layer, gallery in zip(report.layers, report.galleries, strict=True):
        alive = set(gallery.units.channel.tolist())
        if dead := [number for number in report.chosen[layer] if number not in alive]:
            lines.append(f"layer {layer}: dead over these {shown.one}s: maps {', '.join(map(str, dead))}")
            silent[layer] = dead
    count = sum(map(len, report.galleries))
    lines.append(f"{count} projections; report.html ({bytes_written / 1e6:.1f} MB) in {output}")
    found = {"layers": report.layers, "projections": count, "bytes": bytes_written, "dead": silent}
    return Answer(lines, output, ("report.html",), found)
