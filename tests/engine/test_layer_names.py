"""Names of layers as torchvision's feature extraction makes them, beside those of the modules and of torch.fx."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconv_kernels as dk


class Block(nn.Module):
    """A rectifier called twice, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class Tripling(nn.Module):
    """A sum in place."""

    def forward(self, x: Tensor) -> Tensor:
        doubled = x * 2
        doubled += x
        return doubled


class Residual(nn.Module):
    """Blocks in layers, and functions outside of any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.tripling = Tripling()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return F.relu(self.tripling(self.layer1(x)))


class Asking(Residual):
    """The same, of which torch.fx alone cannot make a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] > 4 else x * 2)


SAME = {
    "relu": "relu",
    "layer1.0.relu": "layer1_0_relu",
    "layer1.0.relu_1": "layer1_0_relu_1",
    "layer1.1.add": "add_1",
    "layer1": "layer1_1_relu_1",
    "tripling.add": "iadd",
    "relu_1": "relu_1",
}


def test_both_names_are_one_layer() -> None:
    net = dk.Deconvnet(Residual())
    assert {name: net.layer(name).step for name in SAME} == SAME
    assert set(SAME.values()) <= set(net.layers)
    record = net.record(torch.randn(2, 3, 9, 9), list(SAME), activations=True)
    for name, other in SAME.items():
        units = record.strongest(name, k=1)
        ours, theirs = net.project(record, units), net.project(record, record.strongest(other, k=1))
        assert torch.equal(ours.full(), theirs.full()), name
    copied = dk.Deconvnet(net.model).layer("layer1.1.add")
    assert copied == net.layer("layer1.1.add")


def test_where_the_network_asks_for_sizes() -> None:
    net = dk.Deconvnet(Asking(), image_size=(3, 9, 9))
    assert net.asks_for_sizes
    added = net.layer("layer1.1.add")
    assert added.step in net.layers and added.value != net.layer("layer1.0.add").value


def test_they_are_torchvisions() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    model = Residual().eval()
    names = [name for name in extraction.get_graph_node_names(model)[1][1:] if name != "tripling.mul"]  # written over
    net, images = dk.Deconvnet(model), torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        expected = extraction.create_feature_extractor(model, return_nodes=names)(images)
    record = net.record(images, names, activations=True)
    for name in names:
        torch.testing.assert_close(record.activations[net.layer(name).step], expected[name])
