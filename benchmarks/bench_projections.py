"""Projections of VGG16's units: inside their receptive fields, full-frame by ATen in batches, and by Captum one by one.

The weights are random (He initialisation): the work is the same as with trained ones but for the share of zeros.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from deconv_kernels import baselines, models
from deconv_kernels.deconvnet import Deconvnet

LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
UNITS = 8
LARGEST_ERROR = 1e-5  # relative to the largest value of a projection


@functools.cache
def network() -> nn.Module:
    torch.manual_seed(0)
    model = models.VGG16(features_only=True).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def assert_agree(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    error = (actual - expected).abs().amax((1, 2, 3)) / expected.abs().amax((1, 2, 3))
    assert float(error.max()) < LARGEST_ERROR, f"{what}: relative error {float(error.max()):g}"


@pytest.mark.parametrize("layer", LAYERS)
def test_projections(compare: Any, layer: str) -> None:
    images = torch.randn(2, 3, 224, 224)
    net = Deconvnet(network())
    record = net.record(images, layers=[layer])
    units = record.strongest(layer, k=1)[:: len(record.strongest(layer, k=1)) // UNITS][:UNITS]

    def ours() -> Any:
        return net.project(record, units)

    def full_frame() -> torch.Tensor:
        return baselines.project_full_frame(net, images, units, seed="activation")

    def captum() -> torch.Tensor:
        with torch.enable_grad():
            return baselines.project_captum(net, images, units[:1], seed="activation")

    projected = ours().full()
    assert_agree(projected, full_frame(), "batched full-frame ATen")
    others = {"batched full-frame ATen": full_frame}
    if importlib.util.find_spec("captum") is not None:
        assert_agree(projected[:1], captum(), "Captum")
        others["Captum, one unit"] = captum
    medians = compare(
        ours,
        others,
        op=f"projections of {UNITS} units",
        shape=f"VGG16 {layer}",
        size=[UNITS, 3, 224, 224],
        layout="NCHW",
    )
    if medians:
        per_unit = {name: s / (1 if name.endswith("one unit") else UNITS) for name, s in medians.items()}
        compare.benchmark.extra_info["seconds_per_unit"] = per_unit
        compare.benchmark.extra_info["ratios"] = {
            name: s / per_unit["ours"] for name, s in per_unit.items() if name != "ours"
        }
