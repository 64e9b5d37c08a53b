"""Networks of the hubs by name, with stand-ins for the libraries, which need not be installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from deconv_kernels import hubs
from deconv_kernels.models import load_weights

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def network(pretrained: bool) -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    if pretrained:
        nn.init.constant_(made[0].weight, 0.5)
    return made


class Files:
    """Stands for what a library finds on this machine; without, it would have to download."""

    @staticmethod
    def found(name: str) -> None:
        if name == "missing":
            raise OSError("no route to the hub\nand more about it")


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str, weights: str | None) -> nn.Module:
        Files.found(name)
        return network(weights == "DEFAULT")

    transforms = SimpleNamespace(mean=list(MEAN), std=list(STD))
    of_name = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: transforms))
    put(monkeypatch, "torchvision", models=SimpleNamespace(get_model=get_model, get_model_weights=lambda name: of_name))

    def create_model(name: str, pretrained: bool) -> nn.Module:
        Files.found(name)
        return network(pretrained)

    config = {"mean": MEAN, "std": STD}
    data = SimpleNamespace(resolve_data_config=lambda given, model: config)
    put(monkeypatch, "timm", create_model=create_model, data=data)

    def from_pretrained(name: str) -> Any:
        Files.found(name)
        return network(True)

    auto = SimpleNamespace(from_pretrained=from_pretrained, from_config=lambda config: network(False))
    reads = SimpleNamespace(image_mean=MEAN, image_std=STD, do_normalize=True)
    put(
        monkeypatch,
        "transformers",
        AutoModelForImageClassification=auto,
        AutoConfig=SimpleNamespace(from_pretrained=lambda name: None),
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: reads),
    )


def put(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("hub", hubs.HUBS)
def test_a_network_comes_with_its_weights_and_preprocessing(hub: str) -> None:
    weights = load_weights(f"{hub}:some/name", size=16)
    assert weights.source == "own weights"
    assert (weights.preprocessing.mean, weights.preprocessing.deviation) == (MEAN, STD)
    assert bool((weights.model()[0].weight == 0.5).all())
    untrained = load_weights(f"{hub}:some/name", "random", size=16)
    assert untrained.source == "random weights"
    assert not bool((untrained.model()[0].weight == 0.5).any())
    assert torch.equal(untrained.model()[0].weight, load_weights(f"{hub}:some/name", "random").model()[0].weight)


@pytest.mark.parametrize("hub", hubs.HUBS)
def test_what_would_have_to_be_downloaded_is_told_in_a_line(hub: str) -> None:
    with pytest.raises(ValueError, match=f"model '{hub}:missing' cannot be built: no route to the hub; give --weights"):
        load_weights(f"{hub}:missing")


@pytest.mark.parametrize(("hub", "library"), [("torchvision", "torchvision"), ("timm", "timm"), ("hf", "transformers")])
def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, hub: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"needs a library that is not installed: .*{library}"):
        load_weights(f"{hub}:name")
