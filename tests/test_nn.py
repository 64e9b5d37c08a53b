"""The layers: the ops with their arguments kept, and torch.nn's own layers' results."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import deconv_kernels as dk

ARGUMENTS = [(2,), (3, 2), ((3, 2), (2, 1), (1, 1)), (3, 2, 1, 2), (3, None, 0, 1, False, True)]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_pooling_layer_is_that_of_torch(device: torch.device, arguments: tuple) -> None:
    map = torch.randn(2, 3, 13, 14, device=device)
    layer = dk.nn.MaxPool2d(*arguments)
    assert torch.equal(layer(map).cpu(), nn.MaxPool2d(*arguments)(map.cpu()))
    rectified = dk.nn.MaxPool2d(*arguments, relu=True)(map)
    assert torch.equal(rectified.cpu(), nn.MaxPool2d(*arguments)(map.cpu().relu()))


def test_switches_are_returned_where_asked_for(device: torch.device) -> None:
    map = torch.randn(2, 3, 8, 8, device=device)
    values, switches = dk.nn.MaxPool2d(2, return_switches=True)(map)
    expected = dk.max_pool2d(map, 2)
    assert torch.equal(values, expected[0])
    assert torch.equal(switches, expected[1])


@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_unpooling_layer(device: torch.device, overlap: str) -> None:
    map = torch.randn(2, 3, 9, 11, device=device)
    pool = dk.nn.MaxPool2d(3, 2, 1, return_switches=True)
    values, switches = pool(map)
    for relu, size in itertools.product((False, True), (None, (9, 11), map.shape)):
        layer = dk.nn.MaxUnpool2d(3, 2, 1, overlap=overlap, relu=relu)
        expected = dk.max_unpool2d(values, switches, 3, 2, 1, output_size=size, overlap=overlap, relu=relu)
        assert torch.equal(layer(values, switches, size), expected)


def test_unpooling_layer_is_that_of_torch(device: torch.device) -> None:
    map = torch.randn(2, 3, 9, 8, device=device)
    values, indices = nn.MaxPool2d(2, return_indices=True)(map)
    switches = dk.indices_to_switches(indices, (9, 8), 2)
    expected = nn.MaxUnpool2d(2)(values.cpu(), indices.cpu(), output_size=(9, 8))
    assert torch.equal(dk.nn.MaxUnpool2d(2)(values, switches, output_size=(9, 8)).cpu(), expected)


def test_a_network_of_layers_learns_and_can_be_kept(device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), dk.nn.MaxPool2d(3, 2, relu=True), nn.Conv2d(8, 2, 3)).to(device)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 2, 3)).to(device)
    plain[0], plain[3] = copy.deepcopy(network[0]), copy.deepcopy(network[2])
    map = torch.randn(2, 3, 15, 16, device=device)
    for model in (network, plain):
        model(map).square().sum().backward()
    torch.testing.assert_close(network[0].weight.grad, plain[0].weight.grad)
    for kept in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(kept(map), network(map))
    assert not dk.nn.MaxPool2d(2).state_dict()


def test_representations_name_the_arguments() -> None:
    pool = repr(dk.nn.MaxPool2d(3, 2, 1, ceil_mode=True, relu=True))
    unpool = repr(dk.nn.MaxUnpool2d((3, 2), overlap="last"))
    for part in ("kernel_size=(3, 3)", "stride=(2, 2)", "padding=(1, 1)", "ceil_mode=True", "relu=True"):
        assert part in pool
    for part in ("kernel_size=(3, 2)", "stride=(3, 2)", "overlap='last'", "relu=False"):
        assert part in unpool


@pytest.mark.parametrize("layer", [dk.nn.MaxPool2d, dk.nn.MaxUnpool2d])
def test_bad_arguments_are_refused_at_construction(layer: type[nn.Module]) -> None:
    for arguments, error, name in [
        ((0,), ValueError, "kernel_size"),
        (("2",), TypeError, "kernel_size"),
        ((2, 0), ValueError, "stride"),
        ((2, 2, 2), ValueError, "padding"),
        ((2, 2, 0, 0), ValueError, "dilation"),
    ]:
        with pytest.raises(error, match=f"^{name}"):
            layer(*arguments)
    with pytest.raises(ValueError, match='^overlap must be "sum" or "last"'):
        dk.nn.MaxUnpool2d(2, overlap="mean")
