"""Networks with pooling and unpooling layers are trained: what torch's own layers learn, with less memory."""

from __future__ import annotations

import copy
import itertools
import os
import random
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import deconv_kernels as dk
from deconv_kernels import backends

LAYOUTS = (torch.contiguous_format, torch.channels_last)


needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "g++") is None, reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def small_networks(threads: None) -> None:
    """One thread, as maps this small want, and nothing compiled before."""
    torch.set_num_threads(1)
    torch._dynamo.reset()


class SummingUnpool2d(nn.Module):
    """Adds the values of windows that share a maximum, by the indices of `nn.MaxPool2d`."""

    def forward(self, values: Tensor, indices: Tensor, output_size: torch.Size) -> Tensor:
        map = values.new_zeros(*values.shape[:2], output_size[-2] * output_size[-1])
        return map.scatter_add(2, indices.flatten(2), values.flatten(2)).view(*values.shape[:2], *output_size[-2:])


class SegNet(nn.Module):
    """As many poolings as `channels` and back to a class for every pixel (Badrinarayanan et al. 2015).

    With `kind` "ours" the layers under test, with "torch" those of torch.nn, and with "torch, summing" those with an
    unpooling that adds where windows overlap.
    """

    def __init__(
        self,
        kind: str,
        window: tuple[int, int, int] = (2, 2, 0),
        overlap: str = "sum",
        norm: bool = True,
        channels: tuple[int, ...] = (8, 16),
    ) -> None:
        super().__init__()
        if kind == "ours":
            self.pool: nn.Module = dk.nn.MaxPool2d(*window, return_switches=True, relu=True)
            self.unpool: nn.Module = dk.nn.MaxUnpool2d(*window, overlap=overlap)
        else:
            self.pool = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(*window, return_indices=True))
            self.unpool = nn.MaxUnpool2d(*window) if kind == "torch" else SummingUnpool2d()

        def block(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
            normalized = [nn.BatchNorm2d(outputs)] if norm else []
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm), *normalized, *after)

        down, up = itertools.pairwise((3, *channels)), itertools.pairwise((*channels[::-1], channels[0]))
        self.encoder = nn.ModuleList([block(*step) for step in down])
        self.decoder = nn.ModuleList([block(*step, nn.ReLU(inplace=True)) for step in up])
        self.classes = nn.Conv2d(channels[0], 2, 1)

    def forward(self, map: Tensor) -> Tensor:
        places = []
        for block in self.encoder:
            map = block(map)
            size = map.shape[-2:]
            map, place = self.pool(map)
            places.append((place, size))
        for block in self.decoder:
            place, size = places.pop()
            map = block(self.unpool(map, place, output_size=size))
        return self.classes(map)


def twins(device: torch.device, layout: torch.memory_format, *others: SegNet) -> list[SegNet]:
    """The networks with the weights of the first, laid out alike."""
    for other in others[1:]:
        other.load_state_dict(copy.deepcopy(others[0].state_dict()))
    return [network.to(device, memory_format=layout) for network in others]


def rectangles(images: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise with a brighter rectangle in each image, (N, 3, H, W), and which pixels are inside it, (N, H, W) int64."""
    inside = torch.ones(images, *size, dtype=torch.bool)
    for axis, length in enumerate(size):
        begin = torch.randint(0, length // 2, (images, 1))
        end = begin + torch.randint(length // 4, length // 2, (images, 1))
        position = torch.arange(length)
        along = (position >= begin) & (position < end)
        inside &= along[:, :, None] if axis == 0 else along[:, None]
    return (torch.randn(images, 3, *size) + 1.5 * inside[:, None]).to(device), inside.long().to(device)


def gradients(network: nn.Module, called: nn.Module, map: Tensor, factors: Tensor) -> dict[str, Tensor]:
    """Of every parameter, of the input, and the result itself."""
    given = map.clone().requires_grad_()
    out = called(given)
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(
        (out.float() if out.dtype == torch.bfloat16 else out).mul(factors).sum(), (*parameters, given)
    )
    return dict(zip((*names, "input", "result"), (*found, out.detach()), strict=True))


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Up to `tolerance` of the largest element of each."""
    for name, wanted in expected.items():
        scale = wanted.abs().max()
        assert scale > 0, name
        deviation = (actual[name] - wanted).abs().max() / scale
        assert deviation <= tolerance, f"{name} deviates by {deviation:.1e} of its largest element"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_gradients_are_those_of_torchs_layers(
    device: torch.device, compiler: str | None, layout: torch.memory_format
) -> None:
    """In float64, windows apart from each other, also where they leave a border."""
    ours, theirs = twins(device, layout, SegNet("ours").double(), SegNet("torch").double())
    called = ours if compiler is None else torch.compile(ours, backend=compiler, fullgraph=True)
    for size in [(12, 16), (13, 11)] if compiler is None else [(13, 14)]:
        map = torch.randn(3, 3, *size, dtype=torch.float64).to(device, memory_format=layout)
        factors = torch.randn(3, 2, *size, dtype=torch.float64, device=device)
        expected = gradients(theirs, theirs, map, factors)
        assert_same_gradients(gradients(ours, called, map, factors), expected, 1e-11)


@needs_compiler
def test_gradients_of_inductor() -> None:
    device, layout = torch.device("cpu"), random.choice(LAYOUTS)
    kinds = [SegNet(kind, channels=(8,), norm=False).double() for kind in ("ours", "torch")]
    ours, theirs = twins(device, layout, *kinds)
    called = torch.compile(ours, fullgraph=True)
    map = torch.randn(3, 3, 13, 14, dtype=torch.float64).to(memory_format=layout)
    factors = torch.randn(3, 2, 13, 14, dtype=torch.float64)
    assert_same_gradients(gradients(ours, called, map, factors), gradients(theirs, theirs, map, factors), 1e-11)


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_gradients_where_windows_overlap(device: torch.device, compiler: str | None, overlap: str) -> None:
    """Against the reference, and for sums against torch's scatter_add."""
    layout = random.choice(LAYOUTS)
    window = (3, 2, 1)
    kinds = [SegNet("ours", window, overlap).double(), SegNet("torch, summing", window).double()]
    ours, theirs = twins(device, layout, *kinds)
    called = ours if compiler is None else torch.compile(ours, backend=compiler, fullgraph=True)
    map = torch.randn(3, 3, 13, 14, dtype=torch.float64).to(device, memory_format=layout)
    factors = torch.randn(3, 2, 13, 14, dtype=torch.float64, device=device)
    actual = gradients(ours, called, map, factors)
    with backends.use("reference"):
        assert_same_gradients(actual, gradients(ours, ours, map, factors), 1e-11)
    summed = gradients(theirs, theirs, map, factors)
    if overlap == "sum":
        assert_same_gradients(actual, summed, 1e-11)
    else:
        assert not torch.allclose(actual["result"], summed["result"]), "no two windows shared a maximum"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_gradients_under_autocast(device: torch.device, compiler: str | None, layout: torch.memory_format) -> None:
    """bfloat16 inside; torch's layers deviate from float64 by about 0.2, ours from them by nothing or a rounding."""
    ours, theirs = twins(device, layout, SegNet("ours"), SegNet("torch"))
    called = ours if compiler is None else torch.compile(ours, backend=compiler, fullgraph=True)
    map = torch.randn(3, 3, 16, 12).to(device, memory_format=layout)
    factors = torch.randn(3, 2, 16, 12, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        actual, expected = gradients(ours, called, map, factors), gradients(theirs, theirs, map, factors)
    assert actual["result"].dtype == torch.bfloat16
    assert_same_gradients(actual, expected, 0.02)


def losses_of(
    network: SegNet, compiler: str | None, layout: torch.memory_format, dtype: torch.dtype, device: torch.device
) -> list[float]:
    """While it learns to tell the pixels inside a rectangle from the others; with autocast if `dtype` is bfloat16."""
    called = network if compiler is None else torch.compile(network, backend=compiler, fullgraph=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    map, inside = rectangles(4, (16, 20), device)
    map = map.to(memory_format=layout)
    losses = []
    for _ in range(24):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = called(map)
        assert out.dtype == dtype
        loss = F.cross_entropy(out.float(), inside)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 3))
    return losses


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_a_network_learns(
    device: torch.device, compiler: str | None, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    (network,) = twins(device, layout, SegNet("ours"))
    losses = losses_of(network, compiler, layout, dtype, device)
    assert losses[-1] < losses[0] / 2, losses


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_network_learns_by_inductor(dtype: torch.dtype) -> None:
    device, layout = torch.device("cpu"), random.choice(LAYOUTS)
    (network,) = twins(device, layout, SegNet("ours", channels=(8,)))
    losses = losses_of(network, "inductor", layout, dtype, device)
    assert losses[-1] < losses[0] / 2, losses


def saved_bytes(network: nn.Module, map: Tensor) -> int:
    """What autograd keeps for the backward pass, without the parameters, the buffers and the input."""
    given = (map, *network.parameters(), *network.buffers())
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(map)
    assert out.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_less_memory_is_kept_for_the_backward_pass(
    device: torch.device, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Switches are an eighth of the indices' size, and the rectified map in front of a pooling is not kept."""
    largest = {torch.float32: (0.62, 0.75), torch.bfloat16: (0.59, 0.71)}[dtype]
    map = torch.randn(2, 3, 64, 48).to(device, memory_format=layout)
    for norm, share in zip((False, True), largest, strict=True):
        ours, theirs = twins(device, layout, SegNet("ours", norm=norm), SegNet("torch", norm=norm))
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            kept, torchs = saved_bytes(ours, map), saved_bytes(theirs, map)
        what = f"{kept} bytes instead of {torchs}, {kept / torchs:.3f}"
        print(what)
        assert kept <= share * torchs, what
