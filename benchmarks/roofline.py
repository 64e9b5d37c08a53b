"""Useful multiply-adds of every convolution on the way back, against what the machine can do: docs/roofline.png.

    python benchmarks/roofline.py                  measures on this machine, into results/roofline.json, and draws
    python benchmarks/roofline.py --layers conv5_3

A multiply-add is useful where the rectified signal is not zero. The roof was measured in the same run: the best rate of
torch's matrix product and convolution in float32, and the bandwidth of a copy larger than the caches. Bytes are those
that a step cannot do without: its signal, switches and weights once, and its result once. All of it is of one core, in
the processor time that it took, so that other work on the machine weighs little.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import clock
import torch
from matplotlib.figure import Figure
from torch import Tensor

from deconv_kernels.engine.steps import convolution
from deconv_kernels.measure.throughput import Job, interior_units, machine

HERE = Path(__file__).resolve().parent
RESULT, PLOT = HERE / "results" / "roofline.json", HERE.parent / "docs" / "roofline.png"
UNITS = {"conv1_2": 4096, "conv2_2": 1024, "conv3_3": 256, "conv4_3": 64, "conv5_3": 16}
Row = dict[str, Any]


@click.command()
@click.option("--layers", default="conv3_3,conv4_3,conv5_3", show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Of each layer.")
def main(layers: str, seconds: float) -> None:
    """Measures, prints a Markdown table and draws."""
    torch.set_num_threads(1)
    job = Job("vgg16", layers=layers.split(","))
    rows = [row for layer in job.layers for row in steps_of(job, layer, seconds)]
    peak, bandwidth = roof()
    result = {
        "machine": machine(job.device),
        "weights": job.weights,
        "peak": peak,
        "bandwidth": bandwidth,
        "rows": rows,
    }
    RESULT.write_text(json.dumps({"roofline": result}, indent=1) + "\n")
    print(f"{result['machine']}; peak {peak / 1e9:.0f} G multiply-adds/s, copy {bandwidth / 1e9:.1f} GB/s\n")
    print("| layer | signal | result | not zero | useful G multiply-adds/s | of the peak |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        shapes = " | ".join("x".join(map(str, row[name])) for name in ("signal", "result"))
        rate = row["useful"] / row["seconds"]
        pooled = ", pooled" if row["pooled"] else ""
        print(f"| {row['layer']} | {shapes} | {row['density']:.0%}{pooled} | {rate / 1e9:.0f} | {rate / peak:.0%} |")
    draw(result).savefig(PLOT, dpi=130)


def steps_of(job: Job, layer: str, seconds: float) -> list[Row]:
    """The convolutions below a layer, with the smallest time of each, by unit."""
    record = job.net.record(job.images, layer, batch_size=1, progress=False)
    units = interior_units(job.net, record, layer, UNITS[layer], torch.Generator().manual_seed(0))
    times: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    rows: dict[tuple[Any, ...], Row] = {}
    send = convolution.send_back

    def timed(values: Tensor, weight: Tensor, *places: Any) -> Tensor:
        *_, switches, _, geometry = places
        start = time.thread_time()
        result: Tensor = send(values, weight, *places)
        taken = (time.thread_time() - start) / len(values)
        key = (*values.shape[1:], *result.shape[1:], switches is not None)
        times[key].append(taken)
        if key not in rows:
            sent = (values > 0) if geometry.relu else (values != 0)
            listed = sent.sum().item() / len(values)
            of_weights = weight.numel() * weight.element_size() / len(values)
            moved = (values[0].numel() + result[0].numel()) * values.element_size() + of_weights
            rows[key] = {
                "layer": layer,
                "signal": list(values.shape[1:]),
                "result": list(result.shape[1:]),
                "pooled": switches is not None,
                "density": listed / values[0].numel(),
                "useful": listed * weight[0].numel(),
                "bytes": moved + (values[0].numel() if switches is not None else 0),
            }
        return result

    convolution.send_back = timed
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            job.net.project(record, units, seed="one", progress=False)
    finally:
        convolution.send_back = send
    return [{**row, "seconds": min(times[key])} for key, row in rows.items()]


def roof() -> tuple[float, float]:
    """Multiply-adds and bytes a second."""
    square = torch.randn(1536, 1536)
    maps = torch.randn(4, 256, 56, 56).to(memory_format=torch.channels_last)
    filters = torch.randn(256, 256, 3, 3).to(memory_format=torch.channels_last)
    source = torch.randn(2**26)
    target = torch.empty_like(source)
    products = len(square) ** 3 / _smallest(lambda: square @ square)
    convolved = maps.numel() * filters[0].numel() / _smallest(lambda: torch.conv2d(maps, filters, padding=1))
    return max(products, convolved), 2 * source.nbytes / _smallest(lambda: target.copy_(source))


def _smallest(run: Callable[[], object], rounds: int = 8) -> float:
    return min(clock.seconds(run) for _ in range(rounds))


def draw(result: Row) -> Figure:
    """Every step below the roof of the machine."""
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    panel = figure.subplots()
    peak, bandwidth, rows = result["peak"] / 1e9, result["bandwidth"] / 1e9, result["rows"]
    for layer in dict.fromkeys(row["layer"] for row in rows):
        for pooled, marker in ((False, "o"), (True, "^")):
            chosen = [row for row in rows if row["layer"] == layer and row["pooled"] == pooled]
            label = f"{layer}, {'pooled' if pooled else 'rectified'} signal"
            points = [(row["useful"] / row["bytes"], row["useful"] / row["seconds"] / 1e9) for row in chosen]
            panel.scatter(*zip(*points, strict=True), s=26, marker=marker, label=label)
    low, high = panel.get_xlim()[0], max(row["useful"] / row["bytes"] for row in rows) * 2
    low = max(low, min(row["useful"] / row["bytes"] for row in rows) / 2)
    panel.plot([low, max(low, peak / bandwidth), high], [min(peak, low * bandwidth), peak, peak], color="black")
    panel.set(xscale="log", yscale="log", xlabel="useful multiply-adds a byte", ylabel="G useful multiply-adds/s")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8)
    figure.supxlabel(f"{result['machine']}; VGG16 with {result['weights']}", fontsize=7)
    return figure


if __name__ == "__main__":
    main()
