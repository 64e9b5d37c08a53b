"""`deconv-kernels report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checks import at_least
from . import options
from .answer import Answer
from .options import Network, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to put on the page."""

    network: Network = group(Network)
    photographs: PhotographSources = group(PhotographSources)
    layers: str = options.layers("Layers to show, separated by commas; by default five convolutions from low to high.")
    maps: int = options.maps()
    k: int = options.k()
    crops: int = options.crops(default=128)
    whole: int = option(3, "Photographs to occlude and to transform, the first ones.")
    occluder: int = options.occluder(help="Rows and columns of the occluding square.")
    stride: int = options.stride()
    seed: int = options.seed()
    size: int = options.size()
    output: str = options.output()


@options.command("report", Settings)
def command(settings: Settings) -> Answer:
    """Make one page of everything: galleries to click through, occlusion, invariance and the first filters.

    Writes report.html, which stands alone: any browser shows it, without a server or a network. An interrupted run goes
    on where it stopped.

    \b
    Example:
        deconv-kernels report --weights vgg16.pth --images photos/ -o out/
    """
    from ..data.crops import cut, plan_centres, plan_crops
    from ..data.photographs import load_photographs
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.common.layers import check_takes, spread_layers
    from ..experiments.common.tracing import forward_only
    from ..experiments.invariance import figure_5
    from ..experiments.report import make_report
    from ..plot.invariance import examples_of
    from ..plot.page import Photographs, write_page
    from .subject import layers_of, load

    model, size, output = settings.network.model, settings.size, settings.output
    at_least("whole", settings.whole, 1)
    subject = load(settings.network, size)
    weights = subject.weights
    net = forward_only(subject.model)
    chosen = layers_of(net, settings.layers) if settings.layers else spread_layers(net)
    photographs = load_photographs(settings.photographs.sources)
    planned = plan_crops(photographs, size, settings.crops)
    seen = Photographs(cut(photographs, planned, size), [photographs[crop.photograph].name for crop in planned])
    centres = plan_centres(photographs[: settings.whole])
    shown = Photographs(cut(photographs, centres, size), [photographs[crop.photograph].name for crop in centres])
    inputs, wholes = (subject.inputs(each.pixels) for each in (seen, shown))
    check_takes(net, inputs, net.tape.layers[-1:], model)
    how = options.values(settings, "maps", "k", "seed", "occluder", "stride")
    parts = Parts.of_run(output, "report", [chosen, how], net, inputs, wholes)
    with written_at_once(Path(output)) as draft:
        report = make_report(subject.model, inputs, wholes, chosen, **how, parts=parts)
        write_page(
            draft / "report.html",
            report,
            seen,
            shown,
            [examples_of(each, wholes, weights.deprocess) for each in figure_5(size)],
            weights.preprocessing.to_rgb,
            model,
            (
                f"Weights: {weights.source}.",
                f"{len(planned)} crops of {size}x{size} pixels of {len(photographs)} photographs; "
                f"the maps are a random choice (seed {settings.seed}).",
            ),
            weights.classes,
        )
    parts.remove()
    bytes_written = (Path(output) / "report.html").stat().st_size
    lines, silent = [], {}
    for layer, gallery in zip(report.layers, report.galleries, strict=True):
        alive = set(gallery.units.channel.tolist())
        if dead := [number for number in report.chosen[layer] if number not in alive]:
            lines.append(f"layer {layer}: dead over these crops: maps {', '.join(map(str, dead))}")
            silent[layer] = dead
    count = sum(map(len, report.galleries))
    lines.append(f"{count} projections; report.html ({bytes_written / 1e6:.1f} MB) in {output}")
    found = {"layers": report.layers, "projections": count, "bytes": bytes_written, "dead": silent}
    return Answer(lines, output, ("report.html",), found)
