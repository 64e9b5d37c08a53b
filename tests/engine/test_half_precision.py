"""Networks in bfloat16 and float16: projections in their type, with sums in float32, against the engine in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import NETWORKS, inputs_of, some_units

from deconv_kernels import Deconvnet, Units

# Chains, residual networks, towers and U-Nets, of maps, signals and volumes.
CHOSEN = ("VGG16", "GoogLeNet", "ResNet-18", "MobileNet v2", "SegNet", "U-Net with switches")
CHOSEN += ("U-Net with transposed convolution", "ECG ResNet", "C3D")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CHOSEN)
def test_every_step_rounds_once(name: str, dtype: torch.dtype) -> None:
    """With the switches of the forward pass in half precision, and the same weights, float64 is the exact result.

    Allowed is, for every step, one unit in the last place of the projection's largest value.
    """
    network = NETWORKS[name]
    model, images = network.build().to(dtype), network.images(dtype=dtype)
    net, exact = Deconvnet(model), Deconvnet(copy.deepcopy(model).double())
    layers = list(network.layers or net.layers)[-3:]
    record = net.record(images, layers)
    reference = exact.record(inputs_of(images)[0].double(), layers)
    for of_step, taken in zip(reference.kept, record.kept, strict=True):
        for kept, switches in zip(of_step, taken, strict=True):
            kept.copy_(switches)
    for layer in layers:
        maps = torch.randn(len(record), *record.shape(layer))
        units = Units.of_table(layer, some_units(maps, 12, record.rank).T)
        found, expected = (of.project(kept, units, "one") for of, kept in ((net, record), (exact, reference)))
        assert found.windows.dtype == dtype and torch.equal(found.boxes, expected.boxes)
        error = (found.windows.double() - expected.windows).abs().amax()
        steps = len(net.plan(record, layer).steps)
        limit = steps * torch.finfo(dtype).eps * expected.windows.abs().amax()
        assert error <= limit, f"{layer}: error {error:g}, {limit:g} is allowed after {steps} steps"
