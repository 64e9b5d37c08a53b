"""Recomputation inside windows against running the network on the whole changed images, and what it refuses."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, inputs_of, randomise
from random_networks import RandomNetwork
from tolerances import RELATIVE
from torch import Tensor, nn

from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnknownLayer
from deconv_kernels.engine.recompute import Recomputation, Spans
from deconv_kernels.experiments.occlusion import occluded
from deconv_kernels.models import AlexNet, ZFNet

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
MAPS = [name for name, network in NETWORKS.items() if network.size]


def brute_force(net: Deconvnet, images: Sequence[Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
    """The activations of whole images, (P, ...)."""
    return net.record(images if len(images) > 1 else images[0], layers, activations=True).activations


def some_rectangles(channels: int, *lengths: int, count: int = 7) -> tuple[Tensor, Tensor]:
    """Origins of rectangles anywhere, at corners and hanging over borders, and the content of one."""
    most = 1 if random.random() < 0.3 else 3
    size = [random.randint(1, max(1, length // most)) for length in lengths]
    places = [
        [0, length - s, 1 - s, length - 1, *(random.randint(1 - s, length - 1) for _ in range(count - 4))]
        for length, s in zip(lengths, size, strict=True)
    ]
    shuffled = [random.sample(along, count) for along in places]
    return torch.tensor(shuffled).T.contiguous(), torch.randn(channels, *size).double()


def check(
    net: Deconvnet,
    images: Sequence[Tensor],
    layers: Sequence[str],
    dtype: torch.dtype = torch.float64,
    what: str = "",
) -> None:
    """Positions of a random occluder against running the network, in float64, on the whole images it makes.

    All of them in float64. In another dtype those at which the network itself, run whole, keeps well within the
    tolerance: a deep network with random weights may round more than that at some images, and so does any part of it.
    """
    number = random.randrange(len(images))
    origins, content = some_rectangles(*images[number].shape)
    changed = [image.repeat(len(origins), *[1] * image.dim()) for image in images]
    changed[number] = occluded(images[number], origins, content)
    exact = brute_force(net, changed, layers)
    tolerance = RELATIVE[dtype]
    compared = torch.ones(len(origins), dtype=torch.bool)
    if dtype != torch.float64:
        double, net = net, Deconvnet(net.model.to(dtype), net.rule, rules=net._arguments[0])
        whole = brute_force(net, [image.to(dtype) for image in changed], layers)
        for layer in layers:
            scale = max(exact[layer].abs().max().item(), 1e-3)
            compared &= (whole[layer].double() - exact[layer]).abs().flatten(1).amax(1) <= 2 * tolerance * scale
        if not compared.any():
            net.model.double()
            check(double, images, layers, dtype, what)
            return
    max_bytes = random.choice((None, 1, 30_000))
    converted = [image.to(dtype) for image in images]
    found = Recomputation(net, converted, layers, input=number, max_bytes=max_bytes)(origins, content.to(dtype))
    assert set(found) == set(layers)
    for layer in layers:
        assert found[layer].shape == exact[layer].shape and found[layer].dtype == dtype
        scale = max(exact[layer].abs().max().item(), 1e-3)
        error = (found[layer].double() - exact[layer])[compared].abs().max().item()
        assert error <= 10 * tolerance * scale, (
            f"{what}: {layer}, {tuple(content.shape)} at {origins.tolist()}: {error}"
        )


@pytest.mark.parametrize("name", MAPS)
def test_networks_are_exact(name: str) -> None:
    network = NETWORKS[name]
    net = Deconvnet(network.build(), random.choice(("deconvnet", "guided", "gradient")), rules=network.rules)
    images = [image[0] for image in inputs_of(network.images(1))]
    check(net, images, net.layers, what=name)  # nothing can be left to a later step
    check(net, images, [net.layers[-1], random.choice(net.layers)], what=name)
    check(net, images, [net.layers[-1]], torch.float32, what=name)


@pytest.mark.parametrize(("rank", "number"), [(2, n) for n in range(30)] + [(r, n) for r in (1, 3) for n in range(6)])
def test_random_networks_are_exact(rank: int, number: int) -> None:
    size = [random.randint(9, (38, 23, 12)[rank - 1]) for _ in range(rank)]
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    model = RandomNetwork(images, random.randint(5, 16)).eval()
    print("\n".join(model.text))
    net = Deconvnet(model)
    check(net, [images[0]], random.sample(net.layers, min(4, len(net.layers))), what=f"random network {number}")
    check(net, [images[0]], [net.layers[-1]], what=f"random network {number}")


@pytest.mark.parametrize("kind", ["convolution", "max pool", "average pool"])
def test_every_sliding_window_is_exact(kind: str) -> None:
    """Strides above kernels, dilation, one-sided ceil_mode windows, maps of one row."""
    for _ in range(40):
        kernel, stride = [random.randint(1, 4) for _ in "yx"], [random.randint(1, 5) for _ in "yx"]
        dilation = [random.randint(1, 3) for _ in "yx"] if kind != "average pool" else [1, 1]
        padding = [random.randint(0, k // 2) for k in kernel]
        least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        size = [random.randint(n, n + 14) for n in least]
        if kind == "convolution":
            groups = random.choice((1, 2))
            step: nn.Module = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups).double()
        elif kind == "max pool":
            step = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=random.random() < 0.5)
        else:
            divisor = random.choice((None, 3))
            step = nn.AvgPool2d(kernel, stride, padding, random.random() < 0.5, random.random() < 0.5, divisor)
        first = nn.Conv2d(3, 4, 1).double()
        image = torch.randn(3, *size, dtype=torch.float64)
        check(Deconvnet(nn.Sequential(first, nn.ReLU(), step, nn.ReLU())), [image], ["2", "3"], what=f"{step} {size}")


class Everywhere(nn.Module):
    """Functions that are not what they seem: their constants have a value for each position, or they mix positions."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.where = nn.Parameter(torch.randn(1, 4, height, width))
        self.row, self.column = nn.Parameter(torch.randn(1, width)), nn.Parameter(torch.randn(height, 1))
        self.register_buffer("ones", torch.ones(height, width))
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.a(x) + self.where) * self.row
        x = self.norm(F.relu(x / (2 + self.column.abs())))
        return F.softmax(x * self.ones, 2)


@pytest.mark.parametrize("decision", ["identity", "rectifier", "gradient"])
def test_what_only_seems_to_work_on_positions(decision: str) -> None:
    height, width = random.randint(1, 11), random.randint(2, 11)
    rules = {nn.GroupNorm: decision, F.softmax: decision, operator.mul: "gradient"}
    net = Deconvnet(Everywhere(height, width).double(), rules=rules)
    check(net, [torch.randn(3, height, width, dtype=torch.float64)], net.layers)


class ShuffledColours(nn.Module):
    """What is made of views alone takes every position by itself, in maps of any rank, unless sizes are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x[:, 2].unsqueeze(1), torch.stack((x[:, 0] * 2, x[:, 1]), 1)), 1)
        x = F.relu(self.a(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.b(F.interpolate(torch.cat((x[:, ::2], x[:, 1::2]), 1), size=x.shape[2:])).flip(1)


def test_views_keep_windows() -> None:
    net = Deconvnet(ShuffledColours().double(), rule="gradient")
    image = torch.randn(3, random.randint(8, 30), random.randint(8, 30), dtype=torch.float64)
    check(net, [image], net.layers)
    recomputation = Recomputation(net, image, net.output)
    steps = [net.tape.maker(value).step.name for value, step in recomputation._in_windows.items() if step is None]
    assert not steps, f"{steps} run on whole maps"


def test_what_mixes_positions_does_not_keep_windows() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            turned = F.interpolate(x.transpose(2, 3), size=x.shape[2:])
            return (x - x.mean((2, 3), keepdim=True)).flip(3) + x / x.shape[2] + turned

    net = Deconvnet(Mixed(), rule="gradient")
    for size in ((6, 6), (5, 9)):
        check(net, [torch.randn(3, *size, dtype=torch.float64)], net.layers)


@pytest.mark.parametrize("architecture", [AlexNet, ZFNet])
def test_real_sizes_in_float32(architecture: type[nn.Module]) -> None:
    """To 1e-5 of whole images in the same precision, at the size the networks were made for."""
    model = architecture(classes=7).eval()
    net, image = Deconvnet(model), torch.randn(3, 224, 224)
    origins, content = torch.randint(-20, 215, (5, 2)), torch.zeros(3, 32, 32)
    images = occluded(image, origins, content)
    layers = ["conv1", "pool2", "relu5", "fc8"]
    found, expected = Recomputation(net, image, layers)(origins, content), brute_force(net, [images], layers)
    for layer in layers:
        error = (found[layer] - expected[layer]).abs().max()
        assert error <= 1e-5 * expected[layer].abs().max(), f"{layer}: {float(error)}"


def test_a_layer_that_does_not_see_the_changed_input() -> None:
    network = NETWORKS["two images"]
    model, images = network.build(), [image[0] for image in inputs_of(network.images(1))]
    net = Deconvnet(model)
    layer = next(name for name in net.layers if name.startswith("tower"))
    recomputation = Recomputation(net, images, [layer, net.output], input=1)
    content = torch.randn(3, 5, 4, dtype=torch.float64)
    found = recomputation(torch.tensor([[3, 4], [0, 0]]), content)
    exact = brute_force(
        net,
        [images[0].repeat(2, 1, 1, 1), occluded(images[1], torch.tensor([[3, 4], [0, 0]]), content)],
        [layer, net.output],
    )
    torch.testing.assert_close(found[layer], exact[layer])
    torch.testing.assert_close(found[net.output], exact[net.output])
    torch.testing.assert_close(found[layer][0], recomputation.clean[layer])


def test_closed_form_of_a_mean() -> None:
    """Under a 3x3 mean of stride 3, a square of ones on zeros counts the pixels it covers of every cell."""
    model = nn.Sequential(nn.AvgPool2d(3), nn.ReLU())
    recomputation = Recomputation(Deconvnet(model.double()), torch.zeros(1, 12, 12, dtype=torch.float64), "1")
    found = recomputation(torch.tensor([[2, 5], [-1, 11]]), torch.ones(1, 2, 2, dtype=torch.float64))["1"]
    expected = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    expected[0, 0, 0:2, 1:3] = 1 / 9
    expected[1, 0, 0, 3] = 1 / 9
    torch.testing.assert_close(found, expected)


def test_every_position_has_its_own_content() -> None:
    network = NETWORKS["VGG16"]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    origins, content = torch.tensor([[3, 9], [20, 1], [-2, 40]]), torch.randn(3, 3, 7, 6, dtype=torch.float64)
    found = Recomputation(net, image, net.output, max_bytes=1)(origins, content)[net.output]
    images = torch.cat([occluded(image, at[None], one) for at, one in zip(origins, content, strict=True)])
    torch.testing.assert_close(found, net.model(images))


def test_chunks_bring_every_position_once_whatever_their_size() -> None:
    network = NETWORKS["ResNet-18"]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    origins, content = torch.randint(-3, 36, (23, 2)), torch.randn(3, 4, 5, dtype=torch.float64)
    whole = Recomputation(net, image, net.output)(origins, content)[net.output]
    recomputation = Recomputation(net, image, net.output, max_bytes=200_000)
    parts = list(recomputation.chunks(origins, content))
    assert len(parts) > 1 and torch.cat([places for places, _ in parts]).sort().values.tolist() == list(range(23))
    for places, outputs in parts:
        torch.testing.assert_close(outputs[net.output], whole[places], rtol=1e-10, atol=1e-10)


def test_the_content_the_image_and_what_is_clean_stay_as_they_are() -> None:
    network = NETWORKS["in place everywhere"]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    origins, content = torch.tensor([[0, 0], [3, 3]]), torch.randn(3, *network.size, dtype=torch.float64)
    recomputation = Recomputation(net, image, net.layers)
    before = [x.clone() for x in (image, content, *recomputation.clean.values())]
    first = recomputation(origins, content)
    second = recomputation(origins, content)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for x, y in zip(before, (image, content, *recomputation.clean.values()), strict=True):
        assert torch.equal(x, y)


def test_no_positions() -> None:
    network = NETWORKS["VGG16"]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    found = Recomputation(net, image, net.output)(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(3, 2, 2).double())
    assert found[net.output].shape == (0, 5)


def test_windows_are_as_small_as_the_step_allows() -> None:
    """A 3x3 convolution reaches one pixel further, a 2x2 pool halves; windows stay inside the map."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding=1))
    recomputation = Recomputation(
        Deconvnet(randomise(model.double(), torch.randn(2, 1, 16, 16).double())), torch.randn(1, 16, 16).double(), "2"
    )
    spans = recomputation._spans(torch.tensor([[4, 6], [0, 14]]), torch.zeros(1, 1, 4, 4))
    intervals = [(span.first.tolist(), span.stop.tolist()) for span in spans.values()]
    assert intervals[1] == ([[3, 5], [0, 13]], [[9, 11], [5, 16]])
    assert intervals[2] == ([[1, 2], [0, 6]], [[5, 6], [3, 8]])
    assert intervals[3] == ([[0, 1], [0, 5]], [[6, 7], [4, 8]])
    frame = spans[3].at(torch.tensor([0, 1]))
    assert frame.size == (6, 6) and frame.origin.tolist() == [[0, 1], [0, 2]]


def test_spans_are_never_empty() -> None:
    spans = Spans.of(torch.tensor([[-9, 40]]), torch.tensor([[-5, 44]]), (7, 8))
    assert (spans.first.tolist(), spans.stop.tolist()) == ([[0, 7]], [[1, 8]])


def test_bad_input_is_refused() -> None:
    net = Deconvnet(NETWORKS["VGG16"].build())
    image = torch.randn(3, 37, 43, dtype=torch.float64)
    with pytest.raises(UnknownLayer, match="no layer 'conv9'"):
        Recomputation(net, image, "conv9")
    with pytest.raises(ValueError, match="at least one layer"):
        Recomputation(net, image, [])
    with pytest.raises(TypeError, match="float64"):
        Recomputation(net, image.float(), net.output)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        Recomputation(net, image[None], net.output)
    with pytest.raises(ValueError, match="input must be from 0 to 0"):
        Recomputation(net, image, net.output, input=1)
    with pytest.raises(ValueError, match="a part of an image"):
        Recomputation(Deconvnet(NETWORKS["perceptron"].build()), torch.randn(9, dtype=torch.float64), "fc1")
    recomputation = Recomputation(net, image, net.output)
    origins, content = torch.tensor([[1, 2]]), torch.zeros(3, 4, 4, dtype=torch.float64)
    for bad, message in ((origins[0], r"\(P, 2\)"), (origins.repeat(1, 2), r"\(P, 2\)")):
        with pytest.raises(ValueError, match=message):
            recomputation(bad, content)
    for wrong in (content[:2], content[:, :0], content[0], content.repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match="content must"):
            recomputation(origins, wrong)
    with pytest.raises(TypeError, match="origins must be integers"):
        recomputation(origins.double(), content)
    with pytest.raises(TypeError, match="content"):
        recomputation(origins, content.float())
