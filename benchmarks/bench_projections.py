"""Projections of the units of some layers, against full-frame passes of ATen, Captum and zennit.

VGG16 has its ImageNet weights where they are installed, and AlexNet random ones; the results say so.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from deconv_kernels.measure.baselines import comparable
from deconv_kernels.measure.throughput import LAYERS, Job, measure_layer

CASES = [(model, layer) for model in ("vgg16", "alexnet") for layer in LAYERS[model]]


@functools.cache
def job(model: str) -> Job:
    return Job(model)


@pytest.mark.parametrize(("model", "layer"), CASES)
def test_projections(benchmark: Any, request: pytest.FixtureRequest, model: str, layer: str) -> None:
    chosen = job(model)
    found = comparable()
    seconds = request.config.getoption("--projection-seconds")
    measured = benchmark.pedantic(measure_layer, args=(chosen.net, chosen.images, layer, found, seconds), rounds=1)
    timings = {"ours": measured.ours, **measured.baselines}
    benchmark.extra_info.update(
        op="projection",
        shape=f"{model} {layer}",
        model=model,
        layer=layer,
        weights=chosen.weights,
        images=chosen.images_source,
        receptive_field=measured.receptive_field,
        seconds={name: timing.seconds for name, timing in timings.items()},
        units={name: timing.units for name, timing in timings.items()},
        calls=measured.ours.calls,
        peak_bytes={name: timing.peak_bytes for name, timing in timings.items()},
        ratios={name: measured.ratio(name) for name in measured.baselines},
        with_forward=[baseline.name for baseline in found if baseline.forward],
        not_measured=dict(measured.not_measured),
        difference=measured.difference,
    )
