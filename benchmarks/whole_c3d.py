"""Projections of a network for video (C3D, random weights, clips of 16 x 112 x 112), beside batched ATen and Captum.

    python benchmarks/whole_c3d.py

Every layer is compared with the definition in float64 before anything is timed; then ours, ATen and Captum take turns.
Prints a Markdown table: the smallest time of each, by unit.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import torch
from torch import nn

from deconv_kernels import Deconvnet, Record
from deconv_kernels.measure.baselines import FullFrame, definition, deviation, project_captum

CLIP = (3, 16, 112, 112)
UNITS = {"conv2": 256, "conv3b": 128, "conv4b": 48, "conv5b": 16}
BASELINE_UNITS = 4
LARGEST_ERROR = 1e-9  # of the definition, in float64


def c3d() -> nn.Sequential:
    """The convolutions and pools of C3D (Tran et al. 2015) up to conv5b, by their names."""
    network, channels = nn.Sequential(), CLIP[0]
    for stage, names in enumerate((("1",), ("2",), ("3a", "3b"), ("4a", "4b"), ("5a", "5b"))):
        for name in names:
            convolution = nn.Conv3d(channels, min(64 * 2**stage, 512), 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            network.add_module(f"conv{name}", convolution)
            network.add_module(f"relu{name}", nn.ReLU())
            channels = convolution.out_channels
        network.add_module(f"pool{stage + 1}", nn.MaxPool3d((1, 2, 2) if stage == 0 else 2))
    return network.eval()


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(threads: int, rounds: int) -> None:
    """Checks, measures and prints."""
    torch.set_num_threads(threads)
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    model, clips = c3d(), torch.randn(2, *CLIP)
    exact = Deconvnet(c3d().double())
    exact.model.load_state_dict(model.state_dict())
    kept = exact.record(clips.double(), list(UNITS))
    for layer in UNITS:
        units = kept.strongest(layer, 1)[:2]
        error = deviation(exact.project(kept, units, seed="one").full(), definition(exact, clips.double(), units))
        if error > LARGEST_ERROR:
            raise SystemExit(f"{layer} differs from the definition by {error:.0e}")
    net = Deconvnet(model)
    record = net.record(clips, list(UNITS))
    print(f"seed {seed}, torch {torch.__version__}, {threads} threads\n")
    print("| layer | ours, ms | batched full-frame ATen | Captum |\n| --- | --- | --- | --- |")
    for layer, count in UNITS.items():
        ours, aten, captum = measure(net, record, clips, layer, count, rounds)
        print(f"| {layer} | {ours * 1e3:.3g} | {aten / ours:,.1f}x | {captum / ours:,.1f}x |", flush=True)


def measure(
    net: Deconvnet, record: Record, clips: torch.Tensor, layer: str, count: int, rounds: int
) -> tuple[float, float, float]:
    """Seconds by unit of ours, ATen and Captum, the smallest of interleaved rounds."""
    units = record.strongest(layer, 2)[:count]
    few, full_frame = units[:BASELINE_UNITS], FullFrame(net, clips, layer)
    runs: list[tuple[Callable[[], object], int]] = [
        (lambda: net.project(record, units, seed="one"), count),
        (lambda: full_frame.project(few, BASELINE_UNITS), BASELINE_UNITS),
        (lambda: project_captum(net, clips, few[:1]), 1),
    ]
    times = [[_seconds(run) / length for run, length in runs] for _ in range(rounds)]
    ours, aten, captum = (min(column) for column in zip(*times, strict=True))
    return ours, aten, captum


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
