"""Occlusion of VGG16 up to conv5_3: recomputation inside windows against whole images, batched.

The weights are ImageNet's where they are installed, else random ones; the results say so. Whole images run in both
memory formats and at several batch sizes, rectified in place. Their time does not depend on the position, so that some
of the positions stand for all; ours is measured on all of them, with the clean image's pass.
"""

from __future__ import annotations

import copy
import functools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from conftest import LAYOUTS
from torch import Tensor, nn

from deconv_kernels.engine.recompute import Recomputation
from deconv_kernels.experiments.occlusion import occluded, positions
from deconv_kernels.measure.throughput import Job

LAYER = "conv5_3"
SIZE, STRIDE = 32, 8
CONTENDERS = [("channels_last", 1), ("channels_last", 4), ("channels_last", 16), ("NCHW", 16)]
SAMPLE, ROUNDS = 32, 5


@functools.cache
def job() -> Job:
    return Job("vgg16")


def whole_images(format: torch.memory_format, batch: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The layer's output of all occluded images (P, ...), as PyTorch does it at its best."""
    layers = list(job().net.model.named_children())
    end = [name for name, _ in layers].index(LAYER) + 1
    model = nn.Sequential(*(copy.deepcopy(layer) for _, layer in layers[:end])).to(memory_format=format)
    for layer in model:
        if isinstance(layer, nn.ReLU):
            layer.inplace = True

    def run(image: Tensor, origins: Tensor, content: Tensor) -> Tensor:
        images = (occluded(image, some, content).contiguous(memory_format=format) for some in origins.split(batch))
        return torch.cat([model(some) for some in images])

    return run


def windows(image: Tensor, origins: Tensor, content: Tensor) -> Tensor:
    return Recomputation(job().net, image, LAYER)(origins, content)[LAYER]


def test_occlusion(benchmark: Any) -> None:
    image = job().images[0]
    content = torch.zeros(3, SIZE, SIZE)
    places = positions(image.shape[1], SIZE, STRIDE), positions(image.shape[2], SIZE, STRIDE)
    origins = torch.cartesian_prod(*places)
    sample = torch.randperm(len(origins))[:SAMPLE]
    baselines = {
        f"whole images, {name}, {batch} at once": whole_images(LAYOUTS[name], batch) for name, batch in CONTENDERS
    }
    found = windows(image, origins, content)[sample]
    differences = []
    for name, run in baselines.items():
        expected = run(image, origins[sample], content)
        differences.append(float((found - expected).abs().max() / expected.abs().max()))
        assert differences[-1] < 1e-5, f"{name}: {differences[-1]:g} of the largest value"

    times: dict[str, list[float]] = {name: [] for name in baselines}

    def time_the_others() -> None:
        for name in random.sample(list(baselines), len(baselines)):
            start = time.perf_counter()
            baselines[name](image, origins[sample], content)
            times[name].append((time.perf_counter() - start) / SAMPLE)

    benchmark.pedantic(windows, args=(image, origins, content), setup=time_the_others, rounds=ROUNDS, iterations=1)
    if benchmark.disabled:
        return
    medians = {"ours": benchmark.stats.stats.median / len(origins)}
    medians |= {name: statistics.median(seconds) for name, seconds in times.items()}
    benchmark.extra_info.update(
        op="occlusion",
        shape=f"VGG16 {LAYER}, square of {SIZE}x{SIZE} at {len(origins)} positions",
        weights=job().weights,
        seconds=medians,
        ratios={name: medians[name] / medians["ours"] for name in baselines},
        difference=max(differences),
        rounds=ROUNDS,
    )
