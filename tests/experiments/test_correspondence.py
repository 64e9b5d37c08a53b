"""Sign changes against brute force in NumPy, squares against their definition, and the points file."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS
from PIL import Image
from torch import nn

from deconv_kernels.cli.correspondence import command
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.correspondence import (
    Point,
    correspondence,
    hide_squares,
    part_squares,
    place_points,
    points_in_crops,
    random_squares,
    read_points,
    squares_around,
)
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import Crop, Photograph, cut, load_photographs


def _points(count, size, parts=("left eye", "right eye", "nose")):
    height, width = size
    limits = torch.tensor([height - 1, width - 1], dtype=torch.float64)
    return {part: torch.rand(count, 2, dtype=torch.float64) * limits for part in parts}


def _features(model, images, layers):
    """Rows of float64 features of modules, from plain forward passes of one image each."""
    found = {name: [] for name in layers}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: found[name].append(output.detach().clone().numpy().ravel())
        )
        for name in layers
    ]
    with torch.no_grad():
        for image in images:
            model(image[None].clone())
    for hook in hooks:
        hook.remove()
    return {name: np.stack(rows).astype(np.float64) for name, rows in found.items()}


def _covered(image, box, colour):
    """An image with a box hidden, pixel by pixel."""
    image = image.clone()
    for y, x in itertools.product(range(box[0], box[2]), range(box[1], box[3])):
        image[:, y, x] = colour
    return image


def _sign(values):
    return (values > 0).astype(int) - (values < 0).astype(int)


def _check_changes(changes, signs):
    """A layer's `SignChanges` against (P, N, F) signs, by the definition."""
    for part, of_part in enumerate(signs):
        pairs = list(itertools.combinations(of_part, 2))
        assert changes.features == of_part.shape[1]
        assert changes.differing[part].tolist() == [np.sum(one != other) for one, other in pairs]
        assert changes.either[part].tolist() == [np.sum((one != 0) | (other != 0)) for one, other in pairs]
        assert changes.changed[part].tolist() == (of_part != 0).sum(1).tolist()
        distance = [np.mean(one != other) for one, other in pairs]
        np.testing.assert_allclose(changes.distance[part], distance, rtol=1e-14, atol=0)
    return [sum(np.sum(one != other) for one, other in itertools.combinations(part, 2)) for part in signs]


# Batches of one and of many may round differently.
ROUNDING = 1e-11

CASES = {
    "AlexNet": ("features.0", "features.9", "classifier.6"),
    "VGG11 with batch norm": ("features.1", "features.14"),
    "ResNet-18": None,
    "ZFNet": ("conv1", "fc7"),
}


@pytest.mark.parametrize(("name", "layers"), CASES.items())
@pytest.mark.parametrize("batch_size", [2, 16])
def test_distances_by_the_definition(name, layers, batch_size, seed):
    network = NETWORKS[name]
    model = network.build()
    images = network.images(4)
    size = images.shape[2:]
    layers = layers or [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)][::5]
    points = _points(len(images), size)
    colour = torch.randn(3, dtype=torch.float64)
    found = correspondence(
        model, images, points, layers, side=5, draws=3, reach=math.inf, seed=seed, fill=colour, tolerance=ROUNDING,
        batch_size=batch_size, progress=False,
    )  # fmt: skip
    original = _features(model, images, layers)
    signs = {name: [] for name in layers}
    for squares in (*found.squares.unbind(1), *found.random_squares.unbind(1)):
        hidden = [_covered(image, box, colour) for image, box in zip(images, squares.tolist(), strict=True)]
        for name, rows in _features(model, hidden, layers).items():
            change = original[name] - rows
            least = ROUNDING * np.abs(original[name]).max(axis=1, keepdims=True)
            signs[name].append(np.where(np.abs(change) > least, _sign(change), 0))
    scores = {(score.layer, score.part): score for score in found.scores()}
    assert len(scores) == 4 * len(layers)
    for name in layers:
        totals = _check_changes(found.named[name], signs[name][:3])
        draws = _check_changes(found.random[name], signs[name][3:])
        features = original[name].shape[1]
        for part, total in zip(points, totals, strict=True):
            score = scores[name, part]
            assert score.mean == pytest.approx(total / features / 6, rel=1e-12)
            assert score.draws_as_low == pytest.approx(np.mean([draw <= total for draw in draws]))
        assert scores[name, "random"].mean == pytest.approx(np.mean(draws) / features / 6, rel=1e-12)
        assert math.isnan(scores[name, "random"].draws_as_low)
        pairs = found.named[name].distance[1].numpy()
        assert scores[name, "right eye"].deviation == pytest.approx(np.std(pairs, ddof=1), rel=1e-9)
        shares = found.named[name].differing[1].numpy() / np.maximum(1, found.named[name].either[1].numpy())
        shares = shares[found.named[name].either[1].numpy() > 0]
        of_changed = np.mean(shares) if len(shares) else math.nan
        assert scores[name, "right eye"].of_changed == pytest.approx(of_changed, rel=1e-9, nan_ok=True)
        # The paper's sum over i != j counts every pair twice.
        total = sum(np.mean(a != b) for a, b in itertools.permutations(signs[name][0], 2))
        assert scores[name, "left eye"].mean * 4 * 3 == pytest.approx(total, rel=1e-12)


class Copy(nn.Module):
    """Features that are the pixels."""

    def forward(self, x):
        return torch.relu(x)


def test_signs_of_a_network_that_copies_its_image():
    """With pixels as features and black squares in white images, everything is known."""
    images = torch.ones(3, 1, 9, 11)
    images[2, :, 4, 4] = 0
    centre = torch.tensor([[4.0, 4.0]]).repeat(3, 1)
    corner = torch.tensor([[0.0, 0.0], [8.0, 10.0], [4.0, 4.0]])
    found = correspondence(
        Copy(), images, {"centre": centre, "corner": corner}, ["relu"], side=3, draws=0, progress=False
    )
    assert found.squares[0].tolist() == [[3, 3, 6, 6], [0, 0, 2, 2]]
    assert found.squares[1].tolist() == [[3, 3, 6, 6], [7, 9, 9, 11]]
    changes = found.named["relu"]
    # Nine pixels change, but in the last image its middle was black before.
    assert changes.changed[0].tolist() == [9, 9, 8]
    assert changes.differing[0].tolist() == [0, 1, 1]
    assert changes.either[0].tolist() == [9, 9, 9]
    # Corners with nothing in common: four, four and eight pixels.
    assert changes.differing[1].tolist() == [8, 12, 12]
    assert [score.part for score in found.scores()] == ["centre", "corner"]
    # Squares that brighten one image and darken the other differ wherever they change something.
    opposite = torch.stack([torch.zeros(1, 9, 11), torch.ones(1, 9, 11)])
    found = correspondence(
        Copy(), opposite, {"centre": centre[:2]}, ["relu"], side=3, draws=0, fill=0.5, progress=False
    )
    assert float(found.named["relu"].distance) == 9 / 99
    assert math.isnan(found.scores()[0].deviation)
    # A square that changes nothing.
    found = correspondence(Copy(), opposite, {"c": centre[:2]}, ["relu"], side=1, draws=0, fill=0.0, progress=False)
    assert found.named["relu"].changed[0].tolist() == [0, 1]


def test_features_out_of_reach_do_not_change_at_all():
    model = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.Conv2d(40, 40, 3, padding=1), nn.MaxPool2d(2))
    images = torch.randn(5, 3, 32, 32)
    points = {"part": torch.full((5, 2), 10.0)}
    found = correspondence(model, images, points, ["0", "1", "2"], side=4, draws=0, progress=False)
    assert found.squares[0, 0].tolist() == [9, 9, 13, 13]  # a float32 convolution reaches one pixel further each time
    for layer, most in (("0", 6**2), ("1", 8**2), ("2", 5**2)):
        assert bool((found.named[layer].changed <= 40 * most).all())


def test_the_tolerance_leaves_small_changes_out():
    images = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).repeat(1, 1, 6, 6)
    images[:, :, 0, 0] = 100
    points = {"part": torch.full((2, 2), 4.0)}

    def changed(tolerance):
        options = {"side": 2, "draws": 0, "tolerance": tolerance, "progress": False}
        return correspondence(Copy(), images, points, ["relu"], **options).named["relu"].changed[0].tolist()

    assert changed(0) == [4, 4]
    assert changed(0.015) == [0, 4]
    assert changed(0.02) == [0, 0]


@pytest.mark.parametrize("size", [(40, 40), (33, 57)])
@pytest.mark.parametrize("side", [1, 4, 7])
@pytest.mark.parametrize("reach", [1.5, math.inf])
def test_random_squares_are_where_they_may_be(size, side, reach, seed):
    middle = torch.tensor([size[0] / 2, size[1] / 2])
    points = {
        part: middle + torch.tensor(shift) + torch.randn(3, 2)
        for part, shift in (("left", (-4.0, 9.0)), ("right", (-4.0, -9.0)), ("nose", (5.0, 0.0)))
    }
    table = torch.stack(list(points.values()), 1).numpy()
    named = part_squares(points, side, size)
    drawn = random_squares(points, side, size, 50, reach, seed)
    for of_image, squares, parts in zip(table, drawn.tolist(), named.tolist(), strict=True):
        span = max(np.linalg.norm(a - b) for a, b in itertools.combinations(of_image, 2))
        for y0, x0, y1, x1 in squares:
            assert (y1 - y0, x1 - x0) == (side, side)
            assert min(y0, x0) >= 0
            assert y1 <= size[0]
            assert x1 <= size[1]
            covered = set(itertools.product(range(y0, y1), range(x0, x1)))
            for box in parts:
                assert not covered & set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))
            centre = np.array([(y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2])
            assert np.linalg.norm(centre - of_image.mean(0)) <= reach * span + 1e-5
    assert torch.equal(drawn, random_squares(points, side, size, 50, reach, seed))
    alone = {part: places[:2] for part, places in points.items()}
    assert torch.equal(drawn[:2], random_squares(alone, side, size, 50, reach, seed))
    assert not torch.equal(drawn, random_squares(points, side, size, 50, reach, seed + 1))


def test_shared_squares_are_allowed_in_every_image(seed):
    points = {"part": torch.tensor([[2.0, 2.0], [2.0, 7.0], [7.0, 2.0]])}
    drawn = random_squares(points, 3, (10, 10), 2000, math.inf, seed, shared=True)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    own = [
        set(map(tuple, random_squares({"part": places[None]}, 3, (10, 10), 9000, math.inf)[0].tolist()))
        for places in points["part"]
    ]
    assert set(map(tuple, drawn[0].tolist())) == own[0] & own[1] & own[2]
    with pytest.raises(ValueError, match="no place common to all images"):
        random_squares(points, 6, (10, 10), 1, math.inf, shared=True)


def test_random_squares_use_every_place_and_no_other():
    points = {"part": torch.tensor([[1.0, 1.0]])}
    drawn = random_squares(points, 2, (5, 6), 2000, math.inf)
    corners = {(y, x) for y, x, *_ in drawn[0].tolist()}
    # The part covers rows and columns 1 and 2 (an even square lies half a pixel low).
    (y0, x0, y1, x1) = part_squares(points, 2, (5, 6))[0, 0].tolist()
    free = {(y, x) for y in range(4) for x in range(5) if y >= y1 or y + 2 <= y0 or x >= x1 or x + 2 <= x0}
    assert corners == free  # each is missed with a probability of 10^-60
    with pytest.raises(ValueError, match="no room"):
        random_squares(points, 3, (4, 4), 1, math.inf)
    with pytest.raises(ValueError, match="no room"):
        random_squares(points, 2, (5, 6), 1, 1.5)  # a single point has no extent
    assert random_squares(points, 3, (4, 4), 0).shape == (1, 0, 4)


def test_occlude_covers_the_squares_and_nothing_else():
    image = torch.randn(3, 8, 9)
    squares = torch.tensor([[0, 0, 2, 3], [5, 7, 8, 9]])
    hidden = hide_squares(image, squares, torch.tensor([1.0, 2.0, 3.0]))
    for copy, box in zip(hidden, squares.tolist(), strict=True):
        assert torch.equal(copy, _covered(image, box, torch.tensor([1.0, 2.0, 3.0])))


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    images, points = torch.randn(3, 3, 16, 18), _points(3, (16, 18))
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, nn.ReLU())
    options = {"side": 3, "draws": 2, "reach": math.inf, "progress": False}
    whole = correspondence(model, images, points, ["0", "1"], **options)
    spoilt = images.clone()
    spoilt[2] = torch.nan
    with pytest.raises(ValueError, match="'0' are not all finite"):
        correspondence(model, spoilt, points, ["0", "1"], parts=Parts(tmp_path, 1), **options)
    spoilt[:2], spoilt[2] = torch.nan, images[2]  # the first two are not looked at again
    again = correspondence(model, spoilt, points, ["0", "1"], parts=Parts(tmp_path, 1), **options)
    for layer in ("0", "1"):
        assert torch.equal(again.named[layer].differing, whole.named[layer].differing)
        assert torch.equal(again.random[layer].either, whole.random[layer].either)


def test_points_in_crops_follow_the_pixels():
    """A bright pixel of a photograph is brightest where the point comes to lie."""
    photographs, places = [], []
    for number, size in enumerate(((60, 80), (91, 64), (25, 25))):
        pixels = np.zeros((*size, 3), dtype=np.uint8)
        y, x = np.random.randint(10, size[0] - 10), np.random.randint(10, size[1] - 10)
        pixels[y, x] = 255
        photographs.append(Photograph(str(number), pixels))
        places.append((y, x))
    points = {"bright": torch.tensor(places, dtype=torch.float64)}
    crops = squares_around(photographs, {**points, "other": points["bright"] + torch.tensor([0.0, 6.0])}, 3.0)
    assert [crop.side for crop in crops] == [18, 18, 18]
    for size in (224, 50):
        shown = cut(photographs, crops, size).double().mean(1)
        inside = points_in_crops(points, crops, photographs, size)["bright"]
        for image, place in zip(shown, inside, strict=True):
            weights = (image >= image.max()).double()
            centre = torch.stack([(index.double() * weights).sum() / weights.sum() for index in _grid(size)])
            assert torch.allclose(centre, place, atol=0.75)
    with pytest.raises(ValueError, match="'bright' of 0 lies outside the square"):
        points_in_crops(points, [Crop(0, 0, 0, 3)] * 3, photographs, 224)


def _grid(size):
    return torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")


def test_squares_around_points_stay_in_the_photograph():
    photographs = [Photograph("a", np.zeros((50, 90, 3), np.uint8)), Photograph("b", np.zeros((90, 50, 3), np.uint8))]
    points = {"one": torch.tensor([[2.0, 3.0], [40.0, 20.0]]), "two": torch.tensor([[2.0, 13.0], [50.0, 20.0]])}
    assert squares_around(photographs, points, 2) == [Crop(0, 0, 0, 20), Crop(1, 36, 10, 20)]
    assert squares_around(photographs, points, 99) == [Crop(0, 0, 0, 50), Crop(1, 20, 0, 50)]
    assert squares_around(photographs, points) == [Crop(0, 0, 20, 50), Crop(1, 20, 0, 50)]
    for extent in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            squares_around(photographs, points, extent)
    with pytest.raises(ValueError, match="two parts"):
        squares_around(photographs, {"one": points["one"]}, 2)


def _file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode(encoding))
    return path


PHOTOGRAPHS = [Photograph(name, np.zeros((20, 30, 3), np.uint8)) for name in ("a.png", "b.png", "c d.jpg")]


def test_points_are_read_and_placed(tmp_path):
    text = (
        "\ufeff# by hand\npart, x ,image,y,remark\n\nnose,7.5,a.png,3,\n"
        '"nose",1,"c d.jpg",2,x\neye,9,*,19.9,\n eye ,0,a.png,0,\n'
    )
    points = read_points(_file(tmp_path, text))
    assert [(p.image, p.part, p.y, p.x) for p in points] == [
        ("a.png", "nose", 3.0, 7.5),
        ("c d.jpg", "nose", 2.0, 1.0),
        ("*", "eye", 19.9, 9.0),
        ("a.png", "eye", 0.0, 0.0),
    ]
    chosen, places = place_points(points[:2], PHOTOGRAPHS)
    assert [photograph.name for photograph in chosen] == ["a.png", "c d.jpg"]
    assert places["nose"].tolist() == [[3.0, 7.5], [2.0, 1.0]]
    with pytest.raises(ValueError, match="b.png has points, but none for 'nose'"):
        place_points(points, PHOTOGRAPHS)
    chosen, places = place_points(points, PHOTOGRAPHS[::2])
    assert places["eye"].tolist() == [[0.0, 0.0], [19.9, 9.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns image, part, y, x"),
        ("image,part,y\na,b,1\n", "'x' is not"),
        ("image,part,y,x,x\n", "'x' is not"),
        ("image,part,y,x\n", "holds no points"),
        ("image,part,y,x\n# none\n", "holds no points"),
        ("image,part,y,x\na,b,1\n", "line 2: 4 values are needed, got 3"),
        ("image,part,y,x\n\na,b,1,one\n", "line 3: y and x must be numbers, got '1' and 'one'"),
        ("image,part,y,x\n,b,1,2\n", "line 2: the image or the part has no name"),
        ("image,part,y,x\na,b,1,2\na,b,3,4\n", "line 3: 'b' of a is there twice"),
    ],
)
def test_bad_points_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_points(_file(tmp_path, text))
    assert "points.csv" in str(error.value)


def test_files_that_are_no_points(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_points(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="cannot be read: it is not text"):
        read_points(_file(tmp_path, "imagé", "latin-1"))


@pytest.mark.parametrize(
    ("points", "photographs", "message"),
    [
        ([Point("z.png", "b", 1, 1)], PHOTOGRAPHS, "no photographs are called 'z.png'"),
        ([Point("a.png", "b", 1, 1)], [*PHOTOGRAPHS, PHOTOGRAPHS[0]], "2 photographs are called 'a.png'"),
        ([Point("a.png", "b", 1, 1)], PHOTOGRAPHS, "at least two photographs"),
        ([Point("*", "b", 20, 1)], PHOTOGRAPHS, "y=20, x=1 lies outside a.png, which has 20 rows and 30 columns"),
        ([Point("*", "b", math.nan, 1)], PHOTOGRAPHS, "lies outside"),
        ([Point("*", "b", 1, -1)], PHOTOGRAPHS, "lies outside"),
    ],
)
def test_points_that_do_not_fit_the_photographs(points, photographs, message):
    with pytest.raises(ValueError, match=message):
        place_points(points, photographs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(1, 3, 8, 8)}, ValueError, "at least 2"),
        ({"images": torch.zeros(8, 8)}, ValueError, "at least 2"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, TypeError, "dtype torch.float32"),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": ["nine"]}, ValueError, "nine"),
        ({"points": {}}, ValueError, "at least one part"),
        ({"points": {"nose": torch.zeros(3, 2)}}, ValueError, r"'nose' must have shape \(2, 2\), got \(3, 2\)"),
        ({"points": {"nose": torch.tensor([[0.0, 0.0], [3.0, 8.0]])}}, ValueError, "'nose' of image 1 is at y=3, x=8"),
        ({"points": {"nose": torch.full((2, 2), torch.nan)}}, ValueError, "outside 8x8"),
        ({"side": 0}, ValueError, "side must be at least 1"),
        ({"side": 9}, ValueError, "no room"),
        ({"draws": -1}, ValueError, "draws must be at least 0"),
        ({"reach": 0}, ValueError, "reach must be above 0"),
        ({"reach": math.nan}, ValueError, "reach must be above 0"),
        ({"tolerance": -1}, ValueError, "tolerance"),
        ({"tolerance": math.nan}, ValueError, "tolerance"),
        ({"fill": torch.zeros(2)}, ValueError, "each of 3 channels"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {
        "images": torch.zeros(2, 3, 8, 8),
        "points": {"nose": torch.ones(2, 2)},
        "layers": ["0"],
        "side": 2,
        "reach": math.inf,
        **change,
    }
    with pytest.raises(error, match=message):
        correspondence(nn.Sequential(nn.Conv2d(3, 4, 3)), progress=False, **arguments)


NETWORK = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU())
"""

POINTS = """image,part,y,x
a.png,left,10,30
a.png,right,10.5,12
b.png,left,25,20
b.png,right,27,33
c d.png,left,30,22
c d.png,right,33,40
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with photographs, a network and points."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "photographs").mkdir()
    for name, size in (("a.png", (50, 40)), ("b.png", (63, 61)), ("c d.png", (60, 70)), ("without.png", (40, 40))):
        Image.effect_noise(size, 60).save(tmp_path / "photographs" / name)
    (tmp_path / "points.csv").write_text(POINTS)
    (tmp_path / "three.csv").write_text(POINTS + "a.png,nose,5,5\n")
    (tmp_path / "corner.csv").write_text("image,part,y,x\n*,left,1,1\n*,right,5,10\n")
    (tmp_path / "one.csv").write_text("image,part,y,x\n*,left,20,20\n")
    return tmp_path


def _run(*arguments):
    defaults = {
        "--model": "net.py:network", "--weights": "random", "--images": "photographs", "--layers": "1,4",
        "--points": "points.csv", "--size": "48", "--side": "5", "--around": "2.5", "--draws": "3", "-o": "out/deep",
    }  # fmt: skip
    options = {**defaults, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    flags = ["--shared"] if "--shared" in arguments else []
    given = [part for pair in options.items() if pair[1] is not None for part in pair]
    return CliRunner().invoke(command, given + flags)


def test_the_command_writes_what_the_function_finds(place):
    result = _run("--fill", "100", "--seed", "5")
    assert result.exit_code == 0, result.output
    out = place / "out" / "deep"
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".json", ".npz", ".png"]
    assert "3 photographs; 1 without points left out" in result.stdout

    weights = load_weights("net.py:network", "random")
    photographs = load_photographs("photographs")[:3]
    points = {
        "left": torch.tensor([[10.0, 30], [25, 20], [30, 22]], dtype=torch.float64),
        "right": torch.tensor([[10.5, 12], [27, 33], [33, 40]], dtype=torch.float64),
    }
    crops = squares_around(photographs, points, 2.5)
    inputs = weights.preprocess(cut(photographs, crops, 48))
    inside = points_in_crops(points, crops, photographs, 48)
    grey = weights.preprocess(torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)).flatten()
    found = correspondence(
        weights.model(), inputs, inside, ["1", "4"], side=5, draws=3, seed=5, fill=grey, progress=False
    )
    with np.load(out / "correspondence.npz") as arrays:
        assert np.array_equal(arrays["squares"], found.squares)
        assert np.array_equal(arrays["random_squares"], found.random_squares)
        for layer in ("1", "4"):
            few = 1e-3 * found.named[layer].features  # a channels_last network may round differently
            for kind, changes in (("named", found.named[layer]), ("random", found.random[layer])):
                for what in ("differing", "either", "changed"):
                    np.testing.assert_allclose(arrays[f"{layer}.{kind}.{what}"], getattr(changes, what), atol=few)
        named = arrays["4.named.differing"]
    with (out / "correspondence.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["part"]) for row in rows] == [(s.layer, s.part) for s in found.scores()]
    features = json.loads((out / "correspondence.json").read_text())["features"]["4"]
    assert features == found.named["4"].features
    assert float(rows[4]["mean"]) == pytest.approx(named[1].mean() / features, rel=1e-6)
    assert float(rows[4]["deviation"]) == pytest.approx(named[1].std(ddof=1) / features, rel=1e-6)
    with Image.open(out / "correspondence.png") as figure:
        assert min(figure.size) > 1000


@pytest.mark.parametrize(
    "options",
    [
        ("--draws", "0", "--layers", "2"),
        ("--points", "one.csv", "--reach", "inf", "--around", None, "--tolerance", "1e-6"),
        ("--shared", None),
    ],
)
def test_the_command_takes_its_options(place, options):
    result = _run(*options)
    assert result.exit_code == 0, result.output
    assert (place / "out" / "deep" / "correspondence.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--points", "absent.csv"), "points 'absent.csv' cannot be read: No such file"),
        (("--points", "net.py"), "must name the columns"),
        (("--points", "three.csv"), "b.png has points, but none for 'nose'"),
        (("--points", "corner.csv", "--around", "0.3"), "outside the square that the network sees"),
        (("--points", "one.csv"), "needs two parts"),
        (("--points", "one.csv", "--around", None), "no room"),
        (("--images", "photographs/a.png"), "no photographs are called 'b.png'"),
        (("--layers", "9"), "'9'"),
        (("--around", "-1"), "extent must be"),
        (("--side", "60"), "no room"),
        (("--reach", "nan"), "reach must be above 0"),
        (("--draws", "-1"), "draws must be at least 0"),
        (("--fill", "edge"), "fill must be"),
        (("--tolerance", "-1"), "tolerance must be"),
        (("--size", "0"), "size must be at least 1"),
        (("-o", "net.py"), "output folder 'net.py' is a file"),
    ],
)
def test_the_command_says_what_is_wrong(place, options, message):
    result = _run(*options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert not (place / "out").exists()


def test_the_example_marks_photographs_that_packages_ship():
    path = Path(__file__).parents[2] / "docs" / "examples" / "points.csv"
    if importlib.util.find_spec("skimage") is None or importlib.util.find_spec("matplotlib") is None:
        pytest.skip("scikit-image, which ships the photographs, is not installed")
    photographs, points = place_points(read_points(path), load_photographs("samples"))
    assert [photograph.name for photograph in photographs] == ["astronaut.png", "chelsea.png", "grace_hopper.jpg"]
    assert list(points) == ["right eye", "left eye", "nose"]
    assert len(points_in_crops(points, squares_around(photographs, points, 3), photographs, 224)) == 3
