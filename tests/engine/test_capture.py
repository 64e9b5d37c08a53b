"""What was captured once gives what `project` gives, to the last bit, for any units of its layer."""

from __future__ import annotations

import random

import pytest
import torch
from networks import NETWORKS, some_units

from deconv_kernels import Deconvnet, Units

CHOSEN = ("AlexNet", "ResNet-18", "GoogLeNet", "SegNet", "U-Net with switches", "two images", "ECG ResNet", "C3D")


@pytest.mark.parametrize("name", CHOSEN)
def test_captured_projections_are_projections(name: str) -> None:
    network = NETWORKS[name]
    net = Deconvnet(network.build(), random.choice(["deconvnet", "guided", "gradient"]), rules=network.rules)
    layers = list(network.layers or net.layers)[-3:]
    record = net.record(network.images(3), layers, activations=True)
    for layer in layers:
        options = {
            "seed": random.choice(["one", "activation"]),
            "overlap": random.choice(["sum", "last"]),
            "input": random.randrange(network.inputs),
            "max_bytes": random.choice([None, 1]),
        }
        captured = net.capture(record, layer, 4, **options)
        units = Units.of_table(layer, some_units(record.activations[net.layer(layer).step], 9, record.rank).T)
        last = None
        for chosen in (units, units[:0], units[2:5], units[:4]):  # more than were captured, none, fewer, as many
            found, expected = captured.project(chosen), net.project(record, chosen, **options)
            assert torch.equal(found.windows, expected.windows), f"{layer} {options}"
            assert torch.equal(found.boxes, expected.boxes) and found.shape == expected.shape
            assert torch.equal(found.full(), expected.full()) and found.units is chosen
            assert last is None or torch.equal(last[0], last[1]), "a later call has changed the result of another"
            last = found.windows, found.windows.clone()


def test_the_weights_are_those_of_the_record_and_what_cannot_be_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3), torch.nn.ReLU())
    net = Deconvnet(model)
    record = net.record(torch.randn(2, 3, 12, 13), ["1", "3"])
    captured, units = net.capture(record, "3", 2), Units("3", image=[1, 0], channel=[0, 4], y=[7, 0], x=[1, 8])
    expected = net.project(record, units, "one").windows
    with pytest.raises(ValueError, match="seed='activation' for units without activation needs the activations of '3'"):
        captured.project(units)
    captured = net.capture(record, model[3], 2, "one")
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(captured.project(units).windows, expected)
    with pytest.raises(ValueError, match="units must be of the layer '3' that was captured, got '1'"):
        captured.project(Units("1", 0, 0, 0, 0))
    with pytest.raises(ValueError, match="image of a unit of '3' must be below 2, got 2"):
        captured.project(Units("3", 2, 0, 0, 0))
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        net.capture(record, "3", 0)
    with pytest.raises(ValueError, match="seed must be one of"):
        net.capture(record, "3", seed="two")
    with pytest.raises(ValueError, match="input must be from 0 to 0, got 1"):
        net.capture(record, "3", input=1)
