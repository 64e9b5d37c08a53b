"""Every network of `networks.py`, random ones and torchvision's against the dense definition of a projection."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from networks import NETWORKS, Network, Trace, inputs_of, some_units
from random_networks import RandomNetwork
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.record import Record
from deconv_kernels.engine.trace.builder import graph_module
from deconv_kernels.engine.units import Units

RULES = ("deconvnet", "guided", "gradient")
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def first_of(output: Any) -> Tensor:
    """The values that a layer returns, without the indices that may come with them."""
    return output if isinstance(output, Tensor) else output[0]


class Comparison:
    """One network under one rule, against the definition.

    Attributes:
        compared: how many units were compared.
        alive: how many of them had a projection that is not zero.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor | tuple[Tensor, ...],
        rule: str,
        normalization: str = "identity",
        rules: Any = None,
        what: str = "",
    ) -> None:
        self.model, self.images = model, images
        self.rule, self.normalization, self.rules, self.what = rule, normalization, rules, what
        self.trace = Trace(model)
        self.net = Deconvnet(model, rule, normalization, rules=rules)
        self.compared = self.alive = 0

    def maps(self, record: Record, layer: str) -> Tensor:
        """The activations that a record has of a layer, which may be a container."""
        return record.activations[self.net.layer(layer).step]

    def layers(self) -> list[str]:
        """All layers that are maps or rows."""
        known = [layer for layer in self.net.layers if layer in self.trace.nodes]
        record = self.net.record(self.images, known, activations=True)
        return [layer for layer in known if record.activations[layer].dim() in (2, record.rank + 2)]

    def run(self, layers: Sequence[str], overlaps: Sequence[str], count: int = 6) -> None:
        record = self.net.record(self.images, layers, activations=True)
        self.activations(record, layers)
        for layer in layers:
            units = some_units(self.maps(record, layer), count, record.rank)
            for overlap in overlaps:
                self.projections(record, layer, units, overlap)

    def activations(self, record: Record, layers: Sequence[str]) -> None:
        """The record of modules is what the model's own modules return."""
        returned: dict[str, Tensor] = {}
        modules = [layer for layer in layers if layer in self.trace.modules]
        handles = [
            self.model.get_submodule(layer).register_forward_hook(
                lambda module, inputs, output, layer=layer: returned.update({layer: first_of(output).clone()})
            )
            for layer in modules
        ]
        with torch.no_grad():
            self.model(*(x.clone() for x in inputs_of(self.images)))
        for handle in handles:
            handle.remove()
        for layer in modules:
            assert_close(self.maps(record, layer), returned[layer], f"{self.what}: activations of {layer}")

    def projections(self, record: Record, layer: str, units: Tensor, overlap: str) -> None:
        what = f"{self.what}: {layer}, {self.rule}, {self.normalization}, {overlap}"
        definition = (self.rule, self.normalization, overlap, self.rules)
        exact, activations = reference.project(
            self.trace.module, self.images, self.trace.nodes[layer], units, *definition
        )
        chosen = Units.of_table(layer, units.T)
        assert_close(record.seeds(chosen), activations, f"{what}: activations")
        kernel, max_bytes = random.choice(("auto", "auto", "sparse", "dense")), random.choice((None, None, None, 1))
        for number, projections in enumerate(inputs_of(exact)):
            options = {"kernel": kernel, "max_bytes": max_bytes, "input": number}
            found = self.net.project(record, chosen, seed="one", overlap=overlap, **options).full()
            assert_close(found, projections, f"{what}, {options}")
            self.compared += len(units)
            self.alive += sum(bool(x.any()) for x in projections)

    def signals(self, layer: str, count: int = 3) -> None:
        """Whole maps of signal, all of it zero but for one unit, to every input of the network."""
        record = self.net.record(self.images, layer, activations=True)
        maps = self.maps(record, layer)
        units = some_units(maps, count, record.rank)
        signal = torch.zeros(count, *maps.shape[1:], dtype=maps.dtype)
        signal[(torch.arange(count), *units.T[1 : maps.dim()])] = 1
        found = self.net.project_signal(record, layer, signal, units[:, 0])
        definition = (self.rule, self.normalization, "sum", self.rules)
        exact, _ = reference.project(self.trace.module, self.images, self.trace.nodes[layer], units, *definition)
        for one, other in zip(inputs_of(found), inputs_of(exact), strict=True):
            assert_close(one, other, f"{self.what}: signal on {layer}, {self.rule}")


def check(network: Network, rule: str, normalization: str = "identity", what: str = "") -> None:
    """A network, its listed layers and two others against the definition."""
    comparison = Comparison(network.build(), network.images(), rule, normalization, network.rules, what)
    layers = comparison.layers()
    listed = list(network.layers) or layers
    others = [layer for layer in layers if layer not in listed]
    comparison.run([*listed, *random.sample(others, min(2, len(others)))], overlaps_of(network))
    comparison.signals(random.choice(listed))
    assert comparison.alive > comparison.compared / 10, f"{comparison.alive} of {comparison.compared} are not zero"


def overlaps_of(network: Network) -> tuple[str, ...]:
    return ("sum", "last") if network.overlap else ("sum",)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_exact(name: str, rule: str) -> None:
    check(NETWORKS[name], rule, what=name)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.normalization])
def test_networks_are_exact_with_the_gradient_of_their_normalisation(name: str, rule: str) -> None:
    check(NETWORKS[name], rule, "gradient", what=name)


@pytest.mark.parametrize(("rank", "number"), [(2, n) for n in range(30)] + [(r, n) for r in (1, 3) for n in range(9)])
def test_random_networks_are_exact(rank: int, number: int) -> None:
    size = [random.randint(9, (38, 19, 12)[rank - 1]) for _ in range(rank)]
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    model = RandomNetwork(images, random.randint(5, 16)).eval()
    print("\n".join(model.text))
    comparison = Comparison(model, images, RULES[number % 3], what=f"random network {number}")
    layers = comparison.layers()
    comparison.run(random.sample(layers, min(4, len(layers))), ("sum", "last"), 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_traced_as_they_are(name: str) -> None:
    network = NETWORKS[name]
    model, images = network.build(), inputs_of(network.images())
    graph = graph_module(model)
    assert [node.name for node in graph.graph.nodes] == [node.name for node in Trace(model).module.graph.nodes]
    for traced, own in zip(values_of(graph, images), values_of(model, images), strict=True):
        assert torch.equal(traced, own)


def values_of(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """What a model returns."""
    returned = model(*(x.clone() for x in images))
    return list(returned.values()) if isinstance(returned, dict) else [returned]


REAL = {
    "alexnet": (67, 75),
    "squeezenet1_1": (61, 53),
    "googlenet": (61, 53),
    "inception_v3": (83, 91),
    "resnet18": (45, 53),
    "resnet50": (45, 53),
    "densenet121": (45, 53),
    "mobilenet_v2": (45, 53),
    "shufflenet_v2_x0_5": (45, 53),
}


@pytest.mark.parametrize("name", REAL)
def test_networks_of_torchvision_are_exact(name: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision cannot be imported")
    more = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = Network(lambda: getattr(models, name)(weights=None, **more), size=REAL[name], overlap=True)
    comparison = Comparison(network.build(), network.images(), random.choice(RULES), what=name)
    layers = comparison.layers()
    comparison.run([*random.sample(layers[:-1], 3), layers[-1]], overlaps_of(network), 3)
