"""How projections of VGG16 scale: with units, threads, processes and the size of images; and the memory of many units.

    python benchmarks/scaling.py units threads processes sizes
    python benchmarks/scaling.py memory            1,000,000 units of conv2_2 into a memory-mapped file

What is measured goes into results/scaling.json beside what is there already; docs/scaling.png is drawn anew. Times are
the smallest of several rounds: of units and sizes the processor time of one thread, of threads and processes that of a
clock, which needs an idle machine. A slope is that of a straight line through the logarithms: 1 where time grows in
proportion.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import clock
import numpy as np
import torch
from matplotlib.figure import Figure

from deconv_kernels import Deconvnet, Record, Units, backends, models
from deconv_kernels.measure.throughput import interior_units

HERE = Path(__file__).resolve().parent
RESULT, PLOT = HERE / "results" / "scaling.json", HERE.parent / "docs" / "scaling.png"
COUNTS = {"conv2_2": (1, 10, 100, 1_000, 10_000), "conv4_3": (1, 4, 16, 64)}
PARALLEL, AT_ONCE = (1, 2, 4), {"conv2_2": 4096, "conv4_3": 64}
SIZES = (112, 160, 224, 320, 448)
MILLION = 1_000_000
Curve = list[tuple[float, float]]


def job(layer: str, size: int = 224) -> tuple[Deconvnet, Record, float]:
    """VGG16 with random weights and a record of noise, with the processor seconds that recording took by image."""
    torch.manual_seed(0)
    net = Deconvnet(models.VGG16(features_only=True).eval())
    images = torch.randn(2, 3, size, size)
    record = net.record(images, layer)
    return net, record, clock.seconds(lambda: net.record(images, layer)) / len(images)


def units_of(net: Deconvnet, record: Record, layer: str, count: int) -> Units:
    return interior_units(net, record, layer, count, torch.Generator().manual_seed(0))


def seconds_by_unit(
    net: Deconvnet, record: Record, units: Units, seconds: float, timer: Callable[[], float] = time.thread_time
) -> float:
    """The smallest of at least two calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        times.append(clock.seconds(lambda: net.project(record, units, seed="one", progress=False), timer))
    return min(times) / len(units)


def by_units(seconds: float) -> dict[str, Curve]:
    """Seconds by unit, by how many a call projects."""
    torch.set_num_threads(1)
    curves: dict[str, Curve] = {}
    for layer, counts in COUNTS.items():
        net, record, _ = job(layer)
        curves[layer] = []
        for count in counts:
            units = units_of(net, record, layer, count)
            curves[layer].append((count, seconds_by_unit(net, record, units, seconds)))
    return curves


def by_threads(seconds: float) -> dict[str, Curve]:
    """Seconds by unit, by threads."""
    curves: dict[str, Curve] = {}
    for layer, count in AT_ONCE.items():
        net, record, _ = job(layer)
        units = units_of(net, record, layer, count)
        curves[layer] = []
        for threads in PARALLEL:
            torch.set_num_threads(threads)
            curves[layer].append((threads, seconds_by_unit(net, record, units, seconds, time.perf_counter)))
    return curves


def by_processes(seconds: float) -> dict[str, Curve]:
    """Seconds by unit of processes of one thread each that run at the same time, by how many there are."""
    curves: dict[str, Curve] = {}
    for layer, count in AT_ONCE.items():
        curves[layer] = []
        for processes in PARALLEL:
            command = [sys.executable, __file__, "--one-process", layer, "--seconds", str(seconds)]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            calls = sum(float(process.communicate()[0]) for process in running)  # a second
            curves[layer].append((processes, 1 / (calls * count)))
    return curves


def one_process(layer: str, seconds: float) -> float:
    """Calls a second of one process of one thread, while others start and run."""
    torch.set_num_threads(1)
    net, record, _ = job(layer)
    units = units_of(net, record, layer, AT_ONCE[layer])
    start, calls = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        net.project(record, units, seed="one", progress=False)
        calls += 1
    return calls / (time.perf_counter() - start)


def by_size(seconds: float) -> dict[str, Curve]:
    """Seconds by unit and, of recording, by image; by rows of the image."""
    torch.set_num_threads(1)
    layer, curves = "conv4_3", dict[str, Curve]()
    for size in SIZES:
        net, record, recording = job(layer, size)
        units = units_of(net, record, layer, AT_ONCE[layer])
        taken = seconds_by_unit(net, record, units, seconds)
        curves.setdefault(f"a unit of {layer}", []).append((size, taken))
        curves.setdefault("recording an image", []).append((size, recording))
    return curves


def memory() -> dict[str, float]:
    """MiB of anonymous memory that many units need at their highest beyond what was in use, their result in a file."""
    layer = "conv2_2"
    net, record, _ = job(layer)
    units = units_of(net, record, layer, MILLION)
    shape = net.plan(record, layer).shape(MILLION)
    net.project(record, units[:1000], progress=False, seed="one")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "windows"
        out = torch.from_file(str(file), shared=True, size=math.prod(shape)).view(shape)
        before = highest = anonymous()
        done = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.01):
                highest = max(highest, anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        projections = net.project(record, units, seed="one", out=out, progress=False)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        mib = 2**20
        return {
            "units": MILLION,
            "seconds": seconds,
            "peak_mib": (highest - before) / mib,
            "boxes_mib": projections.boxes.nbytes / mib,
            "windows_mib": out.nbytes / mib,
        }


def anonymous() -> int:
    """Bytes of this process's resident memory that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def slope(curve: Curve) -> float:
    """Of the straight line through the logarithms."""
    x, y = np.log(np.array(curve)).T
    return float(np.polyfit(x, y, 1)[0])


PARTS: dict[str, Callable[[float], dict[str, Curve]]] = {
    "units": by_units,
    "threads": by_threads,
    "processes": by_processes,
    "sizes": by_size,
}
AXES = {"units": "units of a call", "threads": "threads", "processes": "processes", "sizes": "rows of the image"}


def draw(result: dict[str, Any]) -> Figure:
    """Units, or images, a second."""
    found = [part for part in PARTS if part in result]
    figure = Figure(figsize=(3.2 * len(found), 3.6), layout="constrained")
    for panel, part in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for name, curve in result[part].items():
            x, y = zip(*curve, strict=True)
            panel.plot(x, [1 / seconds for seconds in y], "o-", markersize=3, label=name)
        panel.set(xscale="log", yscale="log", xlabel=AXES[part])
        if part != "units":
            panel.set_xticks(x, [f"{each:g}" for each in x])
            panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7)
    figure.supylabel("a second")
    figure.supxlabel(result["machine"], fontsize=7)
    return figure


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "memory"]))
@click.option("--seconds", default=1.0, show_default=True, help="Of each point, at least.")
@click.option("--one-process", "alone", hidden=True, help="The layer of one of the processes of `processes`.")
def main(parts: tuple[str, ...], seconds: float, alone: str | None) -> None:
    """Measures the parts named, prints their tables and draws."""
    if alone is not None:
        print(one_process(alone, seconds))
        return
    result = json.loads(RESULT.read_text())["scaling"] if RESULT.exists() else {}
    result["machine"] = f"kernels for {backends.cpu_capability()}, torch {torch.__version__}"
    for part in parts:
        if part == "memory":
            result[part] = memory()
            print(", ".join(f"{name} {value:,.6g}" for name, value in result[part].items()))
            continue
        result[part] = PARTS[part](seconds)
        for name, curve in result[part].items():
            points = ", ".join(f"{x:,}: {1e3 * y:.4g}" for x, y in curve)
            print(f"{part}, {name}, ms: {points}; slope {slope(curve):.2f}")
    RESULT.write_text(json.dumps({"scaling": result}, indent=1) + "\n")
    draw(result).savefig(PLOT, dpi=130)


if __name__ == "__main__":
    main()
