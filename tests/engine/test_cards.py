"""The model of a card against operations and bytes counted by hand."""

from __future__ import annotations

import json
import random

import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS

from deconv_kernels import Deconvnet, models
from deconv_kernels.cli import main
from deconv_kernels.engine.cards import CARDS, LAUNCH, PRECISIONS, CardModel, Cost
from deconv_kernels.engine.plan import DEVICE_BYTES, Plan


def plan_of(layer: str) -> Plan:
    with torch.device("meta"):
        net, images = Deconvnet(models.VGG16()), torch.empty(1, 3, 224, 224)
    return net.plan(net.record(images, [layer, "conv1_1"]), layer, max_bytes=DEVICE_BYTES)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_operations_and_bytes_are_those_of_the_windows(precision: str) -> None:
    units, itemsize = random.randrange(1000, 9000), PRECISIONS[precision]
    model = CardModel(plan_of("conv5_3"), units, "h100", precision)
    costs = dict(model.costs)
    # 7 x 7 pooled positions and a switch for each, unpooled to 14 x 14, which lie nowhere; 16 x 16 are written.
    after_the_pool, launches = costs["conv4_3"], costs["conv4_3"].launches
    assert after_the_pool.operations == 2 * units * 14 * 14 * 9 * 512 * 512
    read, written = 7 * 7 * 512 * (itemsize + 1), 16 * 16 * 512 * itemsize
    assert after_the_pool.bytes == units * (read + written) + launches * 9 * 512 * 512 * itemsize
    assert costs["conv5_2"].bytes == units * (9 + 25) * 512 * itemsize + 9 * 512 * 512 * itemsize
    assert costs["relu4_3"] == costs["pool4"] == Cost(limit="arithmetic"), "the step below does it"
    assert costs["conv5_3"].operations == 0, "a seed takes a slice of the weights"
    for cost in costs.values():
        times = {"arithmetic": cost.operations / CARDS["h100"].rates[precision], "memory": cost.bytes / 3.35e12}
        times["launches"] = cost.launches * LAUNCH
        assert cost.seconds == max(times.values()) and times[cost.limit] == cost.seconds
    assert model.total.seconds == pytest.approx(sum(cost.seconds for cost in costs.values()))
    assert CardModel(plan_of("conv1_2"), 1, "h100", precision).total.limit == "launches"


def test_linear_layers_count_their_weights() -> None:
    costs = dict(CardModel(plan_of("fc8"), 5, "a100", "float32").costs)
    assert costs["fc7"].operations == 2 * 5 * 4096 * 4096
    assert costs["fc7"].bytes == 4 * (5 * 2 * 4096 + 4096 * 4096) and costs["fc7"].limit == "memory"


def test_transposed_convolutions_are_counted_on_their_whole_maps() -> None:
    """Also where the signal begins in one of their units, which sends a map and no slice of the weights."""
    grows = torch.nn.ConvTranspose2d(8, 12, (3, 2), stride=2, groups=2)
    net = Deconvnet(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), grows, torch.nn.Conv2d(12, 5, 1)))
    images, units = torch.randn(1, 3, 6, 9), random.randrange(1, 20)
    for layer in ("1", "2"):
        plan = net.plan(net.record(images, layer), layer)
        cost = dict(CardModel(plan, units, "h100", "tf32").costs)["1"]
        read, written, weights = 12, 6 * 9 * 8, 8 * (12 // 2) * (3 * 2)
        assert cost.operations == 2 * units * 6 * 9 * weights
        assert cost.bytes == 4 * (units * (read + written) + weights)


def test_every_network_has_a_model() -> None:
    for name in ("ResNet-18", "DenseNet", "U-Net with transposed convolution", "tokens", "ECG ResNet", "C3D"):
        network = NETWORKS[name]
        net = Deconvnet(network.build(), random.choice(["deconvnet", "guided"]), rules=network.rules)
        layer = list(network.layers or net.layers)[-1]
        plan = net.plan(net.record(network.images(), layer), layer)
        costs = [cost for _, cost in CardModel(plan, 7, "h200", "float64").costs]
        assert len(costs) == len(plan.steps)
        for planned, cost in zip(reversed(plan.steps), costs, strict=True):
            assert planned.step.waits == (cost.launches == 0) == (cost.bytes == 0), f"{name}: {planned.step.name}"


def test_the_command_prints_the_model() -> None:
    def run(*options: str) -> str:
        layers = ("--model", "vgg16", "--layers", "conv3_1,conv1_2", "--units", "900", "--device", "h200")
        result = CliRunner().invoke(main, ["plan", *layers, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    expected = [CardModel(plan_of(layer), 900, "h200", "bfloat16") for layer in ("conv3_1", "conv1_2")]
    told = run("--precision", "bfloat16")
    assert told == "\n\n".join(model.table() for model in expected) + "\n"
    assert told.count("a model, nothing was measured") == 2 and "NVIDIA H200 Tensor Core GPU datasheet" in told
    assert json.loads(run("--json"))["models"][1]["measured"] is False
    for precision in PRECISIONS:
        assert f"900 units of conv1_2 in {precision} on h200" in run("--precision", precision)


@pytest.mark.parametrize(
    ("card", "precision", "message"),
    [
        ("h300", "tf32", "device must be one of 'a100', 'h100', 'h200', got 'h300'"),
        ("h100", "fp8", "precision must be one of 'float64', 'float32', 'tf32', 'bfloat16', 'float16', got 'fp8'"),
    ],
)
def test_unknown_cards_and_precisions_are_refused(card: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CardModel(plan_of("conv1_2"), 1, card, precision)
