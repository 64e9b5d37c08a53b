"""Networks that unpool to sizes of their own, as torch does it: by indices that count along the rows of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from idioms import RULES, compare
from networks import conv, randomise
from tolerances import assert_close
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule


class Unpooling(nn.Module):
    """A pool, and an unpooling by its indices to the size that a function of the network's maps says."""

    def __init__(self, size: Callable[[Tensor, Tensor], Any], functional: bool = False, **window: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 4), conv(4, 5)
        window = {"kernel_size": 2, **window}
        self.pool, self.unpool = nn.MaxPool2d(**window, return_indices=True), nn.MaxUnpool2d(**window)
        self.size, self.functional, self.window = size, functional, window

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y, indices = self.pool(x)
        y = F.relu(self.b(y))
        size = self.size(x, y)
        if self.functional:
            return self.c(F.max_unpool2d(y, indices, **self.window, output_size=size))
        return self.c(self.unpool(y, indices, output_size=size) if size is not None else self.unpool(y, indices))


SIZES: dict[str, tuple[tuple[int, int], Callable[[Tensor, Tensor], Any], dict[str, Any]]] = {
    "the pool's": ((4, 6), lambda x, y: x.size(), {}),
    "the pool's, odd": ((5, 7), lambda x, y: x.shape[2:], {}),
    "wider": ((4, 4), lambda x, y: (5, 5), {}),
    "wider only": ((4, 6), lambda x, y: (4, 7), {}),
    "higher only": ((4, 6), lambda x, y: [5, 6], {}),
    "narrower, as far as the indices reach": ((4, 5), lambda x, y: (5, 4), {}),
    "none, where the map is even": ((6, 4), lambda x, y: None, {}),
    "of another map": ((8, 6), lambda x, y: (2 * y.shape[2] + 1, 2 * y.shape[3]), {}),
    "a whole shape": ((6, 6), lambda x, y: (y.size(0), y.size(1), 7, 7), {}),
    "overlapping windows": ((7, 9), lambda x, y: x.size(), {"kernel_size": 3, "stride": 2}),
    "overlapping windows, wider": ((7, 9), lambda x, y: (8, 10), {"kernel_size": 3, "stride": 2}),
    "padded windows": ((8, 6), lambda x, y: (8, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("name", SIZES)
def test_unpooling_to_any_size_is_exact(name: str, functional: bool) -> None:
    shape, size, window = SIZES[name]
    images = torch.randn(3, 3, *shape, dtype=torch.float64)
    model = randomise(Unpooling(size, functional, **window).double().eval(), images)
    for rule in RULES:
        compare(model, images.detach(), rule, count=9, what=name)


REFUSED: dict[str, tuple[tuple[int, int], Callable[[Tensor, Tensor], Any], str]] = {
    "indices beyond the map": ((5, 5), lambda x, y: None, r"unpools 2x2 to 4x4, which has no position \d+"),
    "narrower": ((4, 7), lambda x, y: (4, 5), r"unpools 2x3 to 4x5, which has no position \d+"),
    "negative": ((4, 4), lambda x, y: (-4, -4), r"cannot unpool 2x2 to output_size=\(-4, -4\)"),
    "much too large": ((4, 4), lambda x, y: (40, 40), r"cannot unpool 2x2 to output_size=\(40, 40\)"),
    "zero": ((4, 4), lambda x, y: (0, 4), r"cannot unpool 2x2 to output_size=\(0, 4\)"),
    "one number": ((4, 4), lambda x, y: (4,), r"cannot unpool 2x2 to output_size=\(4,\)"),
}


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("name", REFUSED)
def test_sizes_that_cannot_be_are_refused_when_they_are_known(name: str, functional: bool) -> None:
    shape, size, message = REFUSED[name]
    images = torch.randn(2, 3, *shape, dtype=torch.float64)
    images[:, :, 2 * (shape[0] // 2) - 1, 2 * (shape[1] // 2) - 1] = (
        100  # a maximum in the last corner of the last window
    )
    model = Unpooling(size, functional).double().eval()
    nn.init.dirac_(model.a.weight)
    net = Deconvnet(model)
    with pytest.raises((RuntimeError, ValueError)):
        model(images)
    with pytest.raises(ValueError, match=message):
        net.record(images, net.output)


class Ours(nn.Module):
    def __init__(self, size: Callable[[Tensor], Any], pool: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.pool, self.unpool, self.size = conv(3, 4), conv(4, 4), pool, unpool, size

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y, switches = self.pool(x)
        return self.unpool(F.relu(self.b(y)), switches, self.size(x))


@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_unpooling_by_switches_has_the_sizes_of_the_pool(overlap: str) -> None:
    images = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    for size in (lambda x: x.shape[2:], lambda x: (8, 10), lambda x: None):
        pool = dk.nn.MaxPool2d(3, 2, return_switches=True)
        model = randomise(Ours(size, pool, dk.nn.MaxUnpool2d(3, 2, overlap=overlap)).double().eval(), images)
        for rule in RULES:
            compare(model, images.detach(), rule)
    net = Deconvnet(Ours(lambda x: (20, 20), pool, dk.nn.MaxUnpool2d(3, 2)).double())
    with pytest.raises(ValueError, match="output_size"):
        net.record(images.detach(), net.output)


def test_switches_and_indices_are_not_exchanged() -> None:
    ours, torchs = dk.nn.MaxPool2d(2, return_switches=True), nn.MaxPool2d(2, return_indices=True)
    for pool, unpool in ((ours, nn.MaxUnpool2d(2)), (torchs, dk.nn.MaxUnpool2d(2))):
        with pytest.raises(UnsupportedModule, match=r"switches are for the unpooling of deconv_kernels, and indices"):
            Deconvnet(Ours(lambda x: None, pool, unpool))


class OwnFunctions(nn.Module):
    """Pools and unpools with the functions of this package."""

    def __init__(self, relu: bool, overlap: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.relu, self.overlap = relu, overlap

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        values, switches = dk.max_pool2d(y, 3, 2, 1, relu=self.relu)
        size = y.shape[2:]
        y = dk.max_unpool2d(2 * values, switches, 3, 2, 1, output_size=size, overlap=self.overlap, relu=self.relu)
        return self.head(dk.max_pool2d(y, 2)[0])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_functions_of_the_package_are_as_its_modules(relu: bool, overlap: str, rule: str) -> None:
    model, x = OwnFunctions(relu, overlap).double().eval(), torch.randn(2, 3, 9, 8, dtype=torch.float64)

    class Modules(OwnFunctions):
        def __init__(self) -> None:
            super().__init__(relu, overlap)
            self.pool = dk.nn.MaxPool2d(3, 2, 1, relu=relu, return_switches=True)
            self.unpool = dk.nn.MaxUnpool2d(3, 2, 1, overlap=overlap, relu=relu)
            self.last = dk.nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            values, switches = self.pool(y)
            return self.head(self.last(self.unpool(2 * values, switches, output_size=y.shape[2:])))

    modules = Modules().double().eval()
    modules.load_state_dict(model.state_dict())
    signal = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    sent = []
    for network in (model, modules):
        net = dk.Deconvnet(network, rule)
        record = net.record(x, net.output, activations=True)
        assert torch.equal(record.activations[net.output], model(x))
        sent.append(net.project_signal(record, net.output, signal, torch.arange(2))[0])
    assert torch.equal(*sent)
    if rule == "gradient":
        leaf = x.clone().requires_grad_()
        (exact,) = torch.autograd.grad((model(leaf) * signal).sum(), leaf)
        assert_close(sent[0], exact, "own functions")
