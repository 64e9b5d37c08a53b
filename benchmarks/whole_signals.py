"""Projections of short signals, of which every window holds the whole, beside batched ATen and Captum.

    python benchmarks/whole_signals.py

Where windows are whole nothing is saved by being local, and of one unit a call its steps cost more than what they
compute. Ours are compared with the definition in float64 before anything is timed; then all take turns. Prints a
Markdown table: the medians of each, by unit and by units in a call; Captum takes one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import click
import torch
from clock import seconds
from torch import nn

from deconv_kernels import Deconvnet
from deconv_kernels.measure.baselines import FullFrame, definition, deviation, project_captum

LAYER = "13"
LARGEST_ERROR = 1e-9  # of the definition, in float64


def chain(kernel: int = 17) -> nn.Sequential:
    """Four convolutions with batch normalisation between them, and pools of four."""
    layers: list[nn.Module] = []
    for before, after in ((1, 64), (64, 128), (128, 256)):
        layers.append(nn.Conv1d(before, after, kernel, padding=kernel // 2))
        layers += [nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.Conv1d(256, 256, kernel, padding=kernel // 2), nn.ReLU()).eval()


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--length", default=512, show_default=True)
def main(threads: int, rounds: int, length: int) -> None:
    """Checks, measures and prints."""
    torch.set_num_threads(threads)
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    model, signals = chain(), torch.randn(2, 1, length)
    exact = Deconvnet(chain().double())
    exact.model.load_state_dict(model.state_dict())
    kept = exact.record(signals.double(), LAYER)
    few = kept.strongest(LAYER, 1)[:2]
    error = deviation(exact.project(kept, few, seed="one").full(), definition(exact, signals.double(), few))
    if error > LARGEST_ERROR:
        raise SystemExit(f"it differs from the definition by {error:.0e}")
    net = Deconvnet(model)
    record = net.record(signals, LAYER, batch_size=1)
    units, full_frame = record.strongest(LAYER, 1), FullFrame(net, signals, LAYER, batch_size=1)
    window = net.plan(record, LAYER).inputs[0].size[0]
    print(f"seed {seed}, torch {torch.__version__}, {threads} threads, windows of {window} of {length} samples\n")
    print("| units a call | ours, ms | batched full-frame ATen | Captum |\n| --- | --- | --- | --- |")
    for count in (1, 4, 16, 256):
        runs: list[tuple[Callable[[], object], int]] = [
            (lambda count=count: net.project(record, units[:count], seed="one"), count),
            (lambda count=count: full_frame.project(units[:count], count), count),
            (lambda: project_captum(net, signals, units[:1]), 1),
        ]
        times = [[seconds(run, time.perf_counter) / length for run, length in runs] for _ in range(rounds)]
        ours, aten, captum = (median(column) for column in zip(*times, strict=True))
        print(f"| {count} | {ours * 1e3:.3g} | {aten / ours:,.1f}x | {captum / ours:,.1f}x |", flush=True)


if __name__ == "__main__":
    main()
