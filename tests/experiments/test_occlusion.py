"""Occlusion experiments against brute force and closed forms, the command, and what both refuse."""

from __future__ import annotations

import copy
import csv
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from networks import NETWORKS, randomise
from PIL import Image
from torch import Tensor, nn

from deconv_kernels import Units, UnsupportedModule
from deconv_kernels.cli.occlusion import command
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnknownLayer
from deconv_kernels.experiments.common.responses import rectifier_of
from deconv_kernels.experiments.occlusion import Occlusion, colour_of, occlude, occluded, positions
from deconv_kernels.plot import occlusion as plot
from deconv_kernels.plot.occlusion import OccludedImage, draw_occlusion


def test_positions() -> None:
    assert positions(224, 32, 8).tolist() == list(range(0, 193, 8))
    assert positions(10, 4, 5).tolist() == [0, 5, 6]
    assert positions(10, 4, 5, cover=False).tolist() == [0, 5]
    assert positions(7, 7, 3).tolist() == [0]
    assert positions(7, 1, 1).tolist() == list(range(7))


def test_positions_hide_every_pixel_when_they_cover() -> None:
    for _ in range(50):
        length = random.randint(1, 60)
        size = random.randint(1, length)
        places = positions(length, size, random.randint(1, size))
        hidden = (places[:, None] + torch.arange(size)).unique()
        assert hidden.tolist() == list(range(length)) and bool((places[1:] > places[:-1]).all())


def test_occluded_by_hand() -> None:
    image, content = torch.arange(12.0).view(1, 3, 4), torch.full((1, 2, 2), -1.0)
    found = occluded(image, torch.tensor([[1, 1], [-1, 3], [9, 0]]), content)
    assert found[0, 0].tolist() == [[0, 1, 2, 3], [4, -1, -1, 7], [8, -1, -1, 11]]
    assert found[1, 0].tolist() == [[0, 1, 2, -1], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert torch.equal(found[2], image)


def brute_force(net: Deconvnet, image: Tensor, layer: str, origins: Tensor, content: Tensor) -> Tensor:
    """The layer's output for every occluded image."""
    return net.record(occluded(image, origins, content), layer, activations=True).activations[layer]


@pytest.mark.parametrize("name", ["VGG16", "ResNet-18", "GoogLeNet", "SqueezeNet 1.1"])
def test_maps_by_position_are_those_of_whole_images(name: str) -> None:
    network = NETWORKS[name]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    layer = {"VGG16": "features.15", "ResNet-18": "layer2", "GoogLeNet": "cat_2", "SqueezeNet 1.1": "features.5"}[name]
    size, stride = (random.randint(3, 14), random.randint(3, 14)), (random.randint(4, 9), random.randint(4, 9))
    fill = random.choice((0.0, [0.5, -1.0, 2.0], "mean"))
    label = random.randrange(5)
    given = {"size": size, "stride": stride, "fill": fill, "label": label, "units": 2, "progress": False}
    found = occlude(net, image, layer, net.output, **given)

    origins = torch.cartesian_prod(found.rows, found.columns)
    grid = (len(found.rows), len(found.columns))
    assert found.rows.tolist() == positions(37, size[0], stride[0]).tolist()
    assert found.columns.tolist() == positions(43, size[1], stride[1]).tolist()
    colour = image.mean((1, 2)) if fill == "mean" else torch.as_tensor(fill, dtype=torch.float64).expand(3)
    content = colour[:, None, None].expand(-1, *size)
    clean = net.record(image[None], [layer, net.output], activations=True).activations
    assert found.map == int(clean[layer][0].sum((1, 2)).argmax())
    assert found.clean_activation == pytest.approx(float(clean[layer][0, found.map].sum()))
    totals = brute_force(net, image, layer, origins, content)[:, found.map].sum((1, 2))
    torch.testing.assert_close(found.activation, totals.view(grid), rtol=1e-10, atol=1e-10)

    probabilities = net.model(occluded(image, origins, content)).detach().softmax(1)
    torch.testing.assert_close(found.probability, probabilities[:, label].view(grid), rtol=1e-9, atol=1e-12)
    highest = probabilities.max(1).values
    torch.testing.assert_close(found.highest_probability, highest.view(grid), rtol=1e-9, atol=1e-12)
    said = probabilities.gather(1, found.most_probable.flatten()[:, None])[:, 0]
    torch.testing.assert_close(said, highest)
    before = clean[net.output][0].softmax(0)
    assert found.clean_probability == pytest.approx(float(before[label]))
    assert found.clean_most_probable == int(before.argmax()) and found.label == label

    gains = probabilities[:, label] - before[label]
    raises = found.raises()
    assert len(raises) == int((gains > 1e-9).sum()) or bool((gains.abs() < 1e-8).any())
    for one, other in zip(raises, raises[1:], strict=False):
        assert one.gain >= other.gain
    for each in raises:
        place = origins.tolist().index([each.y, each.x])
        assert each.gain == pytest.approx(float(gains[place]), abs=1e-9)
        assert each.probability == pytest.approx(float(probabilities[place, label]))
    least = float(gains.max()) / 2
    assert all(each.gain >= least for each in found.raises(by=max(least, 0)))

    values, places = clean[layer][0, found.map].flatten().topk(2)
    width = clean[layer].shape[3]
    units = Units(layer, 0, found.map, places // width, places % width, values)
    chosen = clean[layer][0, found.map][tuple(found.units.T)]
    torch.testing.assert_close(chosen, values)
    if values[0] != values[1]:
        record = net.record(image[None], layer)
        torch.testing.assert_close(found.projection, net.project(record, units).full().sum(0))


def test_closed_form_of_a_sum() -> None:
    """A mean over 4x4 cells loses what the square hides: total activation falls by the hidden sum / 16."""
    net = Deconvnet(nn.Sequential(nn.AvgPool2d(4), nn.ReLU()).double())
    image = torch.rand(2, 16, 16, dtype=torch.float64)
    found = occlude(net, image, "1", size=3, stride=2, units=0, progress=False)
    channel = int(image.sum((1, 2)).argmax())
    assert found.map == channel and found.projection is None and found.probability is None
    for r, y in enumerate(found.rows.tolist()):
        for k, x in enumerate(found.columns.tolist()):
            left = image[channel].sum() - image[channel, y : y + 3, x : x + 3].sum()
            assert float(found.activation[r, k]) == pytest.approx(float(left) / 16)


def test_hiding_a_distractor_raises_the_class() -> None:
    """Class 0 sees the left half, class 1 the right: hiding a part of the right half makes class 0 more probable."""

    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x, (1, 2)).flatten(1)

    net = Deconvnet(Halves())
    found = occlude(net, torch.ones(1, 8, 8), logits=net.output, size=4, stride=4, label=0, progress=False)
    assert found.clean_probability == pytest.approx(0.5)
    sure = float(torch.tensor([1.0, 0.5]).softmax(0)[0])
    torch.testing.assert_close(
        found.probability, torch.tensor([[1 - sure, sure], [1 - sure, sure]], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    assert found.most_probable.tolist() == [[1, 0], [1, 0]]
    assert [(each.y, each.x) for each in found.raises()] == [(0, 4), (4, 4)]
    assert found.raises()[0].gain == pytest.approx(sure - 0.5, abs=1e-6)
    assert found.raises(by=0.4) == []


@pytest.mark.parametrize("name", ["VGG16", "ResNet-18", "views"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gain_is_more_than_rounding(name: str, dtype: torch.dtype) -> None:
    """What is a gain in float32 is one in float64, up to a multiple of the rounding, and the other way round."""
    network = NETWORKS[name]
    model = network.build().to(dtype)
    image, exact = network.images(1)[0].to(dtype), copy.deepcopy(model).double()
    net = Deconvnet(model)
    found = occlude(net, image, logits=net.output, size=7, stride=6, progress=False)
    hidden = occluded(image, torch.cartesian_prod(found.rows, found.columns), torch.zeros(3, 7, 7, dtype=dtype))
    with torch.no_grad():
        before = exact(image.double()[None]).softmax(1)[0, found.label]
        gains = (exact(hidden.double()).softmax(1)[:, found.label] - before).view(found.probability.shape)
    raised = {(each.y, each.x) for each in found.raises()}
    assert found.rounding < (1e-3 if dtype == torch.float32 else 1e-12)
    for r, y in enumerate(found.rows.tolist()):
        for k, x in enumerate(found.columns.tolist()):
            if (y, x) in raised:
                assert float(gains[r, k]) > -30 * found.rounding
            else:
                assert float(gains[r, k]) < 30 * found.rounding


@pytest.mark.parametrize("name", ["AlexNet", "VGG16", "SqueezeNet 1.1", "ResNet-50", "DenseNet", "mean over the maps"])
def test_rounding_alone_raises_nothing(name: str) -> None:
    """A square of the image's own colour hides nothing: what differs then does so by rounding."""
    network = NETWORKS[name]
    net = Deconvnet(network.build().float())
    image = torch.randn(3, 1, 1).expand(-1, *network.size).contiguous()
    found = occlude(net, image, logits=net.output, size=7, stride=4, fill=image[:, 0, 0], progress=False)
    assert found.raises() == []


def test_gains_below_float32_are_none_by_default() -> None:
    given = {"label": 0, "clean_probability": 0.5}
    probability = torch.tensor([[0.5 + 1e-9, 0.5 + 1e-3]], dtype=torch.float64)
    found = Occlusion((1, 1), torch.arange(1), torch.arange(2), probability=probability, **given)
    assert [each.x for each in found.raises()] == [1]


class TestForwardOnly:
    """What only runs forward asks for no rule of anything."""

    def smooth(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Conv2d(6, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.LayerNorm(6), nn.Linear(6, 4),
        ).double()  # fmt: skip

    def test_smooth_networks_are_occluded(self) -> None:
        model, image = self.smooth(), torch.randn(3, 17, 19, dtype=torch.float64)
        with pytest.raises(UnsupportedModule):
            Deconvnet(model)
        found = occlude(model, image, "1", "7", size=5, stride=4, progress=False)
        assert found.projection is None and found.units is None
        assert found.unprojected is not None and "SiLU" in found.unprojected
        hidden = occluded(image, torch.cartesian_prod(found.rows, found.columns), torch.zeros(3, 5, 5).double())
        expected = model(hidden).softmax(1)[:, found.label].view(found.probability.shape)
        torch.testing.assert_close(found.probability, expected.detach())
        totals = model[:2](hidden)[:, found.map].sum((1, 2)).view(found.activation.shape)
        torch.testing.assert_close(found.activation, totals.detach())

    def test_units_that_are_asked_for_need_rules(self) -> None:
        with pytest.raises(UnsupportedModule, match="SiLU"):
            occlude(self.smooth(), torch.randn(3, 17, 19).double(), "1", size=5, units=1, progress=False)
        net = Deconvnet(self.smooth(), rule="gradient")
        found = occlude(net, torch.randn(3, 17, 19).double(), "1", size=5, units=1, progress=False)
        assert found.projection is not None and found.unprojected is None


class TestOneOutput:
    """A network of one logit says how probable class 1 is: its sigmoid."""

    def network(self, *last: nn.Module) -> nn.Sequential:
        layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
        return nn.Sequential(*layers, *last).double()

    @pytest.mark.parametrize("offset", [-4.0, 0.0, 4.0])
    def test_its_probability_is_the_sigmoid(self, offset: float) -> None:
        model, image = self.network(), torch.randn(3, 13, 14, dtype=torch.float64)
        model[4].bias.data += offset
        given = {"size": 5, "stride": 4, "progress": False}
        found = occlude(model, image, logits="4", **given)
        hidden = occluded(image, torch.cartesian_prod(found.rows, found.columns), torch.zeros(3, 5, 5).double())
        yes = torch.sigmoid(model(hidden))[:, 0].view(found.probability.shape).detach()
        torch.testing.assert_close(found.probability, yes)
        assert found.label == 1
        assert found.clean_probability == pytest.approx(float(torch.sigmoid(model(image[None]).detach())))
        assert found.most_probable.tolist() == (yes > 0.5).long().tolist()
        torch.testing.assert_close(found.highest_probability, torch.maximum(yes, 1 - yes))
        torch.testing.assert_close(occlude(model, image, logits="4", label=0, **given).probability, 1 - yes)
        with pytest.raises(ValueError, match="label must be from 0 to 1, got 2"):
            occlude(model, image, logits="4", label=2, **given)

    def test_a_sigmoid_at_the_end_is_a_probability_already(self) -> None:
        plain = self.network()
        ended = nn.Sequential(*plain, nn.Sigmoid())
        image, given = torch.randn(3, 13, 14, dtype=torch.float64), {"size": 5, "progress": False}
        with pytest.raises(ValueError, match="probabilities already"):
            occlude(ended, image, logits="5", **given)
        expected = occlude(plain, image, logits="4", **given).probability
        torch.testing.assert_close(occlude(ended, image, logits="5", softmax=False, **given).probability, expected)
        plain[4].bias.data += 100
        with pytest.raises(ValueError, match="from 0 to 1"):
            occlude(plain, image, logits="4", softmax=False, **given)


def test_a_convolution_is_watched_as_it_is_rectified() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.SiLU()
    )
    tape = Deconvnet(model, rule="gradient").tape
    assert [rectifier_of(tape, layer) for layer in "012345"] == ["2", "2", "2", "3", "4", "5"]


def test_probabilities_are_told_from_logits() -> None:
    logits = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = torch.randn(3, 9, 9)
    plain, ended = Deconvnet(logits), Deconvnet(nn.Sequential(logits, nn.Softmax(1)), rules={nn.Softmax: "gradient"})
    given = {"size": 3, "stride": 3, "progress": False}
    with pytest.raises(ValueError, match="probabilities already"):
        occlude(ended, image, logits=ended.output, **given)
    with pytest.raises(ValueError, match="no probabilities"):
        occlude(plain, image, logits=plain.output, softmax=False, **given)
    one = occlude(plain, image, logits=plain.output, **given)
    other = occlude(ended, image, logits=ended.output, softmax=False, **given)
    torch.testing.assert_close(one.probability, other.probability, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    network = NETWORKS["VGG16"]
    net, image = Deconvnet(network.build()), network.images(1)[0]
    refused = {
        "nothing to watch": {"layer": None},
        "larger than the image": {"size": 38},
        "at least 1": {"stride": 0},
        "at least 1, got 0": {"size": 0},
        "size must be a whole number": {"size": 3.5},
        "map of 'features.3' must be": {"map": 4},
        "units must be": {"units": -1},
        "fill must be numbers": {"fill": "grey"},
        "one for each of 3 channels": {"fill": [1.0, 2.0]},
        "finite": {"fill": float("nan")},
        "label must be from 0 to 4": {"logits": net.output, "label": 5},
        "one value for each class": {"logits": "features.3"},
        "image holds values that are not finite": {"image": torch.full_like(image, math.nan)},
        "image holds values that are not finite$": {"image": torch.full_like(image, math.inf)},
    }
    for message, wrong in refused.items():
        given = {"layer": "features.3", "size": 8, "stride": 8, "progress": False, "image": image, **wrong}
        with pytest.raises(ValueError, match=message):
            occlude(net, **given)
    for name in ("units", "map", "label"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got 1.5"):
            occlude(net, image, "features.3", net.output, **{name: 1.5}, progress=False)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        occlude(net, image[None], "features.3")
    with pytest.raises(UnknownLayer, match="did you mean"):
        occlude(net, image, "features.33")
    with pytest.raises(TypeError, match="float64"):
        occlude(net, image.float(), "features.3")
    with pytest.raises(ValueError, match="no probabilities were computed"):
        Occlusion((1, 1), torch.arange(2), torch.arange(2)).raises()


def test_values_that_are_not_finite_are_refused_by_the_name_of_their_layer() -> None:
    image = torch.randn(3, 12, 13)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[2].weight.data[1] = math.nan
    net = Deconvnet(model)
    assert bool(occlude(net, image, "1", size=4, progress=False).activation.isfinite().all())
    for layer, logits, named in (("2", None, "2"), ("1", "4", "4"), (None, "4", "4")):
        with pytest.raises(ValueError, match=f"the values of '{named}' are not finite"):
            occlude(net, image, layer, logits, size=4, progress=False)
    huge = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False)).double()
    huge[0].weight.data.fill_(1e307)
    with pytest.raises(ValueError, match="under the occluder the activation is not finite"):
        occlude(huge, torch.zeros(3, 4, 4).double(), "0", size=2, fill=1e10, progress=False)


def test_a_plain_module_and_numpys_integers_do() -> None:
    image = torch.randn(3, 12, 13)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    one = occlude(model, image, "1", size=np.int64(4), stride=np.int32(3), units=np.int16(2), map=1, progress=False)
    other = occlude(Deconvnet(model), image, "1", size=4, stride=3, units=2, map=np.int64(1), progress=False)
    assert torch.equal(one.activation, other.activation) and torch.equal(one.projection, other.projection)


def test_colours() -> None:
    image = torch.rand(3, 5, 7)
    assert torch.equal(colour_of(image, "mean"), image.mean((1, 2)))
    assert colour_of(image, 0.25).tolist() == [0.25] * 3
    assert colour_of(image, (1, 2, 3)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("length", "size", "stride"), [(224, 32, 8), (224, 32, 150), (224, 32, 40), (96, 20, 7), (50, 50, 3), (50, 20, 30)]
)
def test_cells_lie_where_the_squares_were(
    length: int, size: int, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle of every square lies in the cell with its value; cells meet halfway between middles."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    places = positions(length, size, stride)
    grid = torch.rand(len(places), len(places), dtype=torch.float64)
    classes = torch.arange(grid.numel()).view(grid.shape)
    found = Occlusion(
        (size, size), places, places, "conv", 0, grid, 0.5, label=1, probability=grid, clean_probability=0.25,
        most_probable=classes, highest_probability=grid, clean_most_probable=1,
    )  # fmt: skip
    draw_occlusion(tmp_path / "x.png", "", "", [OccludedImage("", np.zeros((length, length, 3), np.uint8), found)])
    meshes = drawn[0].findobj(QuadMesh)
    maps = [mesh for mesh in meshes if mesh.get_coordinates().shape[:2] == (len(places) + 1, len(places) + 1)]
    assert len(maps) == 3
    middles = places.double().numpy() + size / 2
    for mesh in maps:
        assert mesh.axes is not None and mesh.axes.get_xlim() == (0, length) and mesh.axes.get_ylim() == (length, 0)
        edges = mesh.get_coordinates()
        for axis, row in ((0, edges[0, :, 0]), (1, edges[:, 0, 1])):
            assert (row[:-1] < middles).all() and (middles < row[1:]).all(), axis
            np.testing.assert_allclose(row[1:-1], (middles[1:] + middles[:-1]) / 2)
    np.testing.assert_array_equal(maps[0].get_array(), grid.numpy())


def test_the_clean_value_is_marked_and_probabilities_share_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    rows = []
    for clean, low in ((0.75, 0.5), (0.05, 0.01)):
        grid = torch.tensor([[low, low + 0.01]], dtype=torch.float64)
        given = {"activation": grid, "clean_activation": 2.0, "probability": grid, "clean_probability": clean}
        classes = torch.zeros(1, 2, dtype=torch.int64)
        found = Occlusion(
            (4, 4), torch.tensor([0]), torch.tensor([0, 4]), "7", 0, label=0, most_probable=classes,
            highest_probability=grid, clean_most_probable=0, **given,
        )  # fmt: skip
        rows.append(OccludedImage("photograph", np.zeros((8, 8, 3), np.uint8), found))
    draw_occlusion(tmp_path / "x.png", "", "", rows)
    bars = [axes for axes in drawn[0].axes if axes.get_label() == "<colorbar>"]
    marks = [[line.get_ydata()[0] for line in axes.lines if line.get_marker() == ">"] for axes in bars]
    assert marks == [[2.0], [0.75], [2.0], [0.05]]
    assert [axes.get_ylim() for axes in bars] == [(0.5, 2.0), (0.01, 0.75), (0.01, 2.0), (0.01, 0.75)]
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert "(b) layer 7, map 0: total activation\nclean image 2" in titles


def test_figures_of_every_combination(tmp_path: Path) -> None:
    """Columns for what was computed; more classes than colours are told together."""
    grid = torch.rand(4, 5, dtype=torch.float64)
    place = (torch.arange(4) * 3, torch.arange(5) * 2)
    layers = {"layer": "conv5", "map": 3, "activation": grid, "clean_activation": 1.0, "units": torch.zeros(2, 2)}
    classes = {
        "label": 2,
        "probability": grid,
        "clean_probability": 0.5,
        "most_probable": torch.arange(20).view(4, 5),
        "highest_probability": grid,
        "clean_most_probable": 2,
    }
    pixels = np.zeros((20, 16, 3), np.uint8)
    widths = []
    for number, more in enumerate((layers, classes, layers | classes)):
        image = OccludedImage("a photograph.jpg", pixels, Occlusion((4, 4), *place, **more), None, ["cat", "dog " * 20])
        draw_occlusion(tmp_path / f"{number}.png", "title", "caption", [image, image])
        with Image.open(tmp_path / f"{number}.png") as figure:
            widths.append(figure.width)
    assert widths[0] < widths[1] < widths[2]


FACTORY = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )
"""


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    paths = []
    for name, size in (("wide.png", (61, 47)), ("tall.png", (40, 52))):
        pixels = np.random.default_rng(random.randrange(2**31)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    (tmp_path / "model.py").write_text(FACTORY)
    (tmp_path / "names.txt").write_text("cat\ndog\nhorse\nship\n")
    return paths


def run(folder: Path, photographs: list[str], *more: str) -> tuple[int, str]:
    arguments = ["--model", f"{folder / 'model.py'}:network", "--weights", "random", "--images", photographs[0]]
    arguments += ["--size", "41", "--occluder", "8", "--stride", "7", "-o", str(folder / "out"), *more, photographs[1]]
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command_writes_figures_and_numbers(tmp_path: Path, photographs: list[str]) -> None:
    code, text = run(tmp_path, photographs, "--labels", "dog,3", "--classes", str(tmp_path / "names.txt"))
    assert code == 0, text
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {f"occlusion.{kind}" for kind in ("png", "csv", "json", "npz")}
    numbers = json.loads((out / "occlusion.json").read_text())
    assert numbers["layer"] == "4" and numbers["logits"] == "7" and numbers["labels"] == [1, 3]
    assert [each["label"] for each in numbers["found"]] == [1, 3]
    with (out / "occlusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    arrays = np.load(out / "occlusion.npz")
    steps = positions(41, 8, 7).tolist()
    assert len(rows) == 2 * len(steps) ** 2 and arrays["rows"][0].tolist() == steps
    assert {(int(row["y"]), int(row["x"])) for row in rows} == {(y, x) for y in steps for x in steps}
    column = np.array([float(row["probability"]) for row in rows])
    np.testing.assert_allclose(column, arrays["probability"].ravel(), rtol=1e-7)
    for each, probability in zip(numbers["found"], arrays["probability"], strict=True):
        gains = probability - each["clean_probability"]
        assert len(each["raises"]) == int((gains > each["rounding"]).sum())
    assert "by 0.0000" not in text
    assert "make class dog more probable" in text and "make class ship more probable" in text


def test_the_command_watches_the_rectified_maps(tmp_path: Path, photographs: list[str]) -> None:
    code, text = run(tmp_path, photographs, "--layer", "3")
    assert code == 0, text
    asked = np.load(tmp_path / "out" / "occlusion.npz")
    numbers = json.loads((tmp_path / "out" / "occlusion.json").read_text())
    assert (numbers["asked"], numbers["layer"]) == ("3", "4")
    assert run(tmp_path, photographs, "--layer", "4", "-o", str(tmp_path / "rectified"))[0] == 0
    rectified = np.load(tmp_path / "rectified" / "occlusion.npz")
    np.testing.assert_array_equal(asked["activation"], rectified["activation"])


def test_the_command_takes_smooth_networks_of_one_logit(tmp_path: Path, photographs: list[str]) -> None:
    (tmp_path / "model.py").write_text(FACTORY.replace("nn.ReLU()", "nn.SiLU()").replace("(8, 4)", "(8, 1)"))
    code, text = run(tmp_path, photographs, "--labels", "1,0")
    assert code == 0 and "No projection: module '1' (SiLU" in text, text
    found = json.loads((tmp_path / "out" / "occlusion.json").read_text())["found"]
    assert [each["label"] for each in found] == [1, 0]
    code, text = run(tmp_path, photographs, "--units", "2")
    assert code == 2 and "leave --units out" in text
    code, text = run(tmp_path, photographs, "--labels", "1,2")
    assert code == 2 and "label must be from 0 to 1, got 2" in text


def test_the_command_without_classes(tmp_path: Path, photographs: list[str]) -> None:
    (tmp_path / "model.py").write_text(FACTORY.replace("nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),", ""))
    code, text = run(tmp_path, photographs, "--fill", "200,10,0", "--units", "3")
    assert code == 0 and "No probabilities" in text
    assert not any("probab" in name for name in np.load(tmp_path / "out" / "occlusion.npz"))
    code, text = run(tmp_path, photographs, "--labels", "1,2")
    assert code == 2 and "does not end in one value for each class" in text


def test_an_interrupted_command_goes_on(
    tmp_path: Path, photographs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconv_kernels.experiments import occlusion

    seen: list[str] = []

    def counted(*given: object, title: str, **more: object) -> Occlusion:
        seen.append(title)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return occlude(*given, title=title, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(occlusion, "occlude", counted)
    code, _ = run(tmp_path, photographs)
    assert code == 1 and [path.name for path in (tmp_path / "out").iterdir()] == [".parts-occlusion"]
    code, _ = run(tmp_path, photographs)
    assert code == 0 and seen == ["wide.png", "tall.png", "tall.png"]
    assert not (tmp_path / "out" / ".parts-occlusion").exists()


def test_parts_of_an_edited_network_are_not_used(
    tmp_path: Path, photographs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconv_kernels.experiments import occlusion

    def interrupted(*given: object, title: str, **more: object) -> Occlusion:
        if title == "tall.png":
            raise KeyboardInterrupt
        return occlude(*given, title=title, **more)  # type: ignore[arg-type]

    text = (
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n    def forward(self, x):\n        return self.conv(x).relu()\n\n"
        "def network():\n    return Net()\n"
    )
    (tmp_path / "model.py").write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(occlusion, "occlude", interrupted)
        assert run(tmp_path, photographs)[0] == 1
    (tmp_path / "model.py").write_text(text.replace("self.conv(x)", "(self.conv(x) * 2)"))
    assert run(tmp_path, photographs)[0] == 0
    assert run(tmp_path, photographs, "-o", str(tmp_path / "fresh"))[0] == 0
    resumed, fresh = (np.load(tmp_path / name / "occlusion.npz")["activation"] for name in ("out", "fresh"))
    np.testing.assert_array_equal(resumed, fresh)


def test_labels_are_checked_before_the_first_photograph(
    tmp_path: Path, photographs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconv_kernels.experiments import occlusion

    monkeypatch.setattr(occlusion, "occlude", None)
    code, text = run(tmp_path, photographs, "--labels", "1,9")
    assert code == 2 and "label must be from 0 to 3, got 9" in text


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())", "does not take images of 3x41x41"),
        ("nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()", "torch.float64"),
    ],
)
def test_networks_of_other_images_are_one_line(
    tmp_path: Path, photographs: list[str], network: str, message: str
) -> None:
    (tmp_path / "model.py").write_text(f"from torch import nn\n\ndef network():\n    return {network}\n")
    code, text = run(tmp_path, photographs)
    assert code == 2 and message in text and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--occluder", "42"], "larger than the image"),
        (["--occluder", "0"], "at least 1"),
        (["--stride", "0"], "at least 1"),
        (["--fill", "300"], "fill must be"),
        (["--fill", "1,2"], "fill must be"),
        (["--layer", "99"], "no layer '99'"),
        (["--layers", "3,7"], "one layer is watched, got 2"),
        (["--map", "8"], "from 0 to 7"),
        (["--units", "-1"], "units must be"),
        (["--labels", "1"], "2 photographs need one each"),
        (["--labels", "1,9"], "label must be from 0 to 3"),
        (["--classes", "missing.txt"], "cannot be read"),
        (["--probabilities"], "no probabilities"),
        (["--size", "0"], "size must be at least 1"),
        (["--size", "4"], "images of 3x4x4"),
        (["--size", "2"], "images of 3x2x2"),
        (["--images", "missing.jpg"], "no such file"),
        (["--device", "tpu"], "device"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, photographs: list[str], more: list[str], message: str) -> None:
    code, text = run(tmp_path, photographs, *more)
    assert code == 2 and message in text and "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("Error")]) == 1
    assert not list(tmp_path.glob("out/occlusion.*"))


def test_a_network_of_random_weights_in_float64_has_a_map_and_a_class() -> None:
    image = torch.randn(3, 33, 33, dtype=torch.float64)
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 31 * 31, 3)).double(),
        image[None].repeat(4, 1, 1, 1),
    )
    net = Deconvnet(model)
    found = occlude(net, image, "1", "3", size=33, stride=1, fill=0.0, progress=False)
    assert found.activation.shape == (1, 1)
    torch.testing.assert_close(
        float(found.activation),
        float(net.record(torch.zeros_like(image)[None], "1", activations=True).activations["1"][0, found.map].sum()),
    )
