"""The engine against Captum, in float32, on the real topologies of AlexNet and VGG16."""

from __future__ import annotations

import builtins
import random
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import nn

from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.record import Record
from deconv_kernels.engine.units import Units
from deconv_kernels.measure.baselines import project_captum, project_full_frame


def he(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.05)
    return model.eval()


def alexnet() -> nn.Module:
    """As torchvision has it, with smaller linear layers."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )
    fc6 = (nn.Dropout(), nn.Linear(256 * 36, 128), nn.ReLU(inplace=True))
    fc7 = (nn.Dropout(), nn.Linear(128, 64), nn.ReLU(inplace=True), nn.Linear(64, 20))
    return he(nn.Sequential(features, nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Sequential(*fc6, *fc7)))


def vgg16() -> nn.Module:
    """The convolutions of VGG16."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", *(512, 512, 512, "pool") * 2):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return he(nn.Sequential(*layers))


def some_units(record: Record, layer: str) -> Units:
    """A corner, and a unit anywhere: of both images."""
    channels, height, width = record.shape(layer)
    corner = (0, random.randrange(channels), random.choice((0, height - 1)), random.choice((0, width - 1)))
    anywhere = (1, *(random.randrange(size) for size in (channels, height, width)))
    return Units(layer, *zip(corner, anywhere, strict=True))


@pytest.mark.parametrize(
    ("rule", "size"), [("deconvnet", (224, 224)), *((rule, (197, 231)) for rule in ("deconvnet", "guided", "gradient"))]
)
def test_alexnet_equals_captum(size: tuple[int, int], rule: str) -> None:
    pytest.importorskip("captum", reason="Captum is not installed")
    net, images = Deconvnet(alexnet(), rule), torch.randn(2, 3, *size)
    layers = ["0.2", "0.8", "0.12", "3.1", "3.6"]
    record = net.record(images, layers, activations=True, batch_size=1)  # as Captum: a batch may round differently
    for layer in layers:
        units = some_units(record, layer)
        captum = project_captum(net, images, units)
        assert_close(net.project(record, units, seed="one").full(), captum, f"{layer}, {rule}, seed one")
        scaled = captum * record.seeds(units)[:, None, None, None]
        assert_close(net.project(record, units).full(), scaled, f"{layer}, {rule}")
        if layer == "0.12":
            assert_close(project_full_frame(net, images, units), captum, f"full frame, {rule}")


@pytest.mark.parametrize(("size", "layers"), [((224, 224), ["9", "28"]), ((197, 231), ["14", "21", "29"])])
def test_vgg16_equals_captum(size: tuple[int, int], layers: list[str]) -> None:
    pytest.importorskip("captum", reason="Captum is not installed")
    net, images = Deconvnet(vgg16()), torch.randn(1, 3, *size)
    record = net.record(images, layers)
    for layer in layers:
        strongest = record.strongest(layer, 1)
        alive = strongest[strongest.activation > 0]  # the other maps project to nothing
        units = alive[random.randrange(len(alive))]
        ours = net.project(record, units).full()
        assert ours.any()
        assert_close(ours, project_captum(net, images, units, seed="activation"), layer)


def test_without_captum_its_baseline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("captum"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    net = Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ImportError, match="this baseline needs Captum: pip install captum"):
        project_captum(net, torch.randn(1, 3, 8, 8), Units("0", 0, 0, 0, 0))
