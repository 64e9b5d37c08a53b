"""`deconv-kernels report`."""

from __future__ import annotations

from pathlib import Path

import click

from ..checks import at_least
from .common import (
    layers_of,
    layers_option,
    load,
    network_options,
    output_option,
    photograph_options,
    size_option,
    user_errors,
)


@click.command("report")
@network_options
@photograph_options
@layers_option("Layers to show, separated by commas; by default five convolutions from low to high.")
@click.option("--maps", default=16, show_default=True, help="Maps per layer, chosen at random.")
@click.option("-k", default=9, show_default=True, help="Strongest activations per map.")
@click.option("--crops", default=128, show_default=True, help="Crops to cut from the photographs, at most.")
@click.option("--whole", default=3, show_default=True, help="Photographs to occlude and to transform, the first ones.")
@click.option("--occluder", default=32, show_default=True, help="Rows and columns of the occluding square.")
@click.option("--stride", default=8, show_default=True, help="Pixels from one position of the square to the next.")
@click.option("--seed", default=0, show_default=True, help="Chooses the maps.")
@size_option()
@output_option
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    layers: str,
    maps: int,
    k: int,
    crops: int,
    whole: int,
    occluder: int,
    stride: int,
    seed: int,
    size: int,
    output: str,
    device: str,
    threads: int | None,
) -> None:
    """Make one page of everything: galleries to click through, occlusion, invariance and the first filters.

    Writes report.html, which stands alone: any browser shows it, without a server or a network. An interrupted run goes
    on where it stopped.
    """
    from ..data.photographs import cut, load_photographs, plan_centres, plan_crops
    from ..engine.deconvnet import Deconvnet
    from ..engine.errors import UnsupportedModule
    from ..experiments.common.files import Parts, written_at_once
    from ..experiments.common.layers import check_takes, spread_layers
    from ..experiments.invariance import figure_5
    from ..experiments.report import make_report
    from ..plot.page import Photographs, write_page
    from .invariance import examples_of

    with user_errors(ValueError, OSError, UnsupportedModule):
        at_least("whole", whole, 1)
        subject = load(model, weights, size, mean, std, device, threads)
        chosen = layers_of(subject.model, layers) if layers else spread_layers(subject.model)
        photographs = load_photographs(images + more_images)
        planned = plan_crops(photographs, size, crops)
        seen = Photographs(cut(photographs, planned, size), [photographs[crop.photograph].name for crop in planned])
        centres = plan_centres(photographs[:whole])
        shown = Photographs(cut(photographs, centres, size), [photographs[crop.photograph].name for crop in centres])
        inputs, wholes = (subject.weights.preprocess(each.pixels).to(subject.device) for each in (seen, shown))
        net = Deconvnet(subject.model, rule="gradient")
        check_takes(net, inputs, net.layers[-1:], model)
        settings = [chosen, maps, k, seed, occluder, stride]
        parts = Parts.of_run(output, "report", settings, subject.model, inputs, wholes)
        with written_at_once(Path(output)) as draft:
            report = make_report(
                subject.model,
                inputs,
                wholes,
                chosen,
                maps=maps,
                k=k,
                seed=seed,
                occluder=occluder,
                stride=stride,
                parts=parts,
            )
            write_page(
                draft / "report.html",
                report,
                seen,
                shown,
                [examples_of(subject.weights, wholes, each) for each in figure_5(size)],
                subject.weights.preprocessing.to_rgb,
                model,
                (
                    f"Weights: {subject.weights.source}.",
                    f"{len(planned)} crops of {size}x{size} pixels of {len(photographs)} photographs; "
                    f"the maps are a random choice (seed {seed}).",
                ),
            )
        parts.remove()
    bytes_written = (Path(output) / "report.html").stat().st_size
    for layer, gallery in zip(report.layers, report.galleries, strict=True):
        alive = set(gallery.units.channel.tolist())
        if dead := [str(number) for number in report.chosen[layer] if number not in alive]:
            click.echo(f"layer {layer}: dead over these crops: maps {', '.join(dead)}")
    click.echo(f"{sum(map(len, report.galleries))} projections; report.html ({bytes_written / 1e6:.1f} MB) in {output}")
