"""What a projection costs the host on a GPU, measured without one: Triton's kernels are compiled, bound and not run.

    python benchmarks/gpu_host_time.py

A driver that launches nothing stands in for the card, so the driver's own time for a launch is missing, and torch's
operations run on the CPU, which takes about as long as queueing them. A call that a CUDA graph holds costs one copy and
one launch instead.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clock
import torch

import deconv_kernels as dk
from deconv_kernels.models import VGG16
from deconv_kernels.ops import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from no_launches import launching_nothing

CALLS = 3000
OP_GOAL, UNIT_GOAL = 40e-6, 100e-6  # seconds


def median(run: Callable[[], object]) -> float:
    """Seconds of one of many calls."""
    return statistics.median(clock.seconds(run, time.perf_counter) for _ in range(CALLS))


def main() -> None:
    torch.set_num_threads(1)
    net = dk.Deconvnet(VGG16(features_only=True).eval())
    record = net.record(torch.randn(1, 3, 32, 32), "conv1_2")
    units = record.strongest("conv1_2", 1, [5])
    calls: list[tuple[object, ...]] = []
    original = functional.call
    with launching_nothing(), torch.no_grad():
        functional.call = lambda *call: calls.append(call) or original(*call)  # type: ignore[assignment,func-returns-value]
        net.project(record, units)  # compiles
        functional.call = original
        op = next(call for call in calls if call[0] == "backproject2d")
        for what, run, goal in (
            ("backproject2d, one window of 3x3", lambda: original(*op), OP_GOAL),  # type: ignore[arg-type]
            ("one unit of conv1_2", lambda: net.project(record, units), UNIT_GOAL),
        ):
            print(f"{what}: {median(run) * 1e6:.0f} us of the host; the goal is {goal * 1e6:.0f} us")


if __name__ == "__main__":
    main()
