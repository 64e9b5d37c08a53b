"""Transformations against NumPy in float64, distances and probabilities against plain forward passes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS
from PIL import Image
from torch import nn

from deconv_kernels.cli.invariance import command
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.invariance import (
    Transformation,
    figure_5,
    invariance,
    rotate,
    scale,
    translate,
)
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import cut, load_photographs, plan_centres

SIZES = [(16, 16), (13, 13), (11, 18), (20, 7)]
FILLS = [0.0, -1.75, "colour", "edge", "reflect"]


def _fill(fill, channels):
    return torch.randn(channels, dtype=torch.float64) if fill == "colour" else fill


def _at(image, rows, columns, fill):
    """Pixels of a (C, H, W) array at whole positions, which may lie outside."""
    height, width = image.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if isinstance(fill, str):

        def fold(positions, length):
            if fill == "reflect":
                positions = np.where(positions % (2 * length) < length, positions, -1 - positions) % length
            return np.clip(positions, 0, length - 1)

        return image[:, fold(rows, height), fold(columns, width)]
    colour = np.broadcast_to(np.asarray(fill, dtype=np.float64).reshape(-1, 1, 1), (len(image), *rows.shape))
    return np.where(inside, image[:, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)], colour)


def _bilinear(image, rows, columns, fill):
    """A (C, H, W) array read between its pixels."""
    y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
    b, a = rows - y, columns - x
    return (
        (1 - b) * (1 - a) * _at(image, y, x, fill)
        + (1 - b) * a * _at(image, y, x + 1, fill)
        + b * (1 - a) * _at(image, y + 1, x, fill)
        + b * a * _at(image, y + 1, x + 1, fill)
    )


def _compare(actual, images, where, fill):
    """Against reading the images at where(dy, dx) from the middle, with dy and dx those of the result's pixels."""
    height, width = images.shape[2:]
    dy, dx = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2]).reshape(2, 1, 1)
    rows, columns = where(dy, dx)
    fill = fill.numpy() if isinstance(fill, torch.Tensor) else fill
    for image, result in zip(images.numpy(), actual.numpy(), strict=True):
        expected = _bilinear(image, rows + (height - 1) / 2, columns + (width - 1) / 2, fill)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", FILLS)
def test_transformations_are_bilinear_readings(size, fill):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    fill = _fill(fill, 3)
    for pixels in (2.25, -0.5, 7.8, -30.1):
        _compare(translate(images, pixels, fill), images, lambda dy, dx, p=pixels: (dy - p, dx), fill)
    for ratio in (1.3, 2.7, 0.6, 0.999):
        _compare(scale(images, ratio, fill), images, lambda dy, dx, r=ratio: (dy / r, dx / r), fill)
    for degrees in (10, 33.3, 100, -77, 200, 359.5, 90.001):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))

        def turned(dy, dx, c=cosine, s=sine):
            # With rows going down, a turn to the left takes what is at the right (0, 1) up to (-1, 0).
            return c * dy + s * dx, c * dx - s * dy

        _compare(rotate(images, degrees, fill), images, turned, fill)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_whole_pixels_move_as_they_are(size, fill, dtype):
    images = torch.randn(2, 3, *size).to(dtype)
    fill = _fill(fill, 3)
    height = size[0]
    for pixels in (1, -3, height - 1, -height, height + 5, 3 * height + 1):
        rows = np.arange(height) - pixels
        moved = translate(images, pixels, fill)
        assert moved.dtype == dtype
        grid = np.broadcast_arrays(rows[:, None], np.arange(size[1]))
        numbers = fill.to(dtype).numpy() if isinstance(fill, torch.Tensor) else fill
        for image, result in zip(images.numpy(), moved.numpy(), strict=True):
            expected = _at(image.astype(np.float64), *grid, numbers)
            np.testing.assert_array_equal(result.astype(np.float64), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_identities_give_the_image_bit_for_bit(size, dtype):
    images = torch.randn(2, 3, *size).to(dtype)
    images[0, 0, 0, :3] = torch.tensor([-0.0, torch.inf, torch.nan])
    images[1, 2, -1, -1] = -torch.inf
    bits = images.view(torch.uint8)
    for fill in (0.0, 3.5, "edge", "reflect"):
        same = [translate(images, 0, fill), scale(images, 1, fill)]
        same += [rotate(images, degrees, fill) for degrees in (0, 360, -720, 0.0)]
        for result in same:
            assert torch.equal(result.contiguous().view(torch.uint8), bits)
            assert result.data_ptr() != images.data_ptr()


def test_quarter_turns_are_counter_clockwise_and_exact():
    square, oblong = torch.randn(1, 3, 9, 9), torch.randn(1, 2, 6, 11)
    for turns in (1, 2, 3, -1, 6):
        expected = np.rot90(square.numpy(), turns, axes=(2, 3))
        assert np.array_equal(rotate(square, 90 * turns).numpy(), expected)
    assert np.array_equal(rotate(oblong, 180).numpy(), oblong.numpy()[:, :, ::-1, ::-1])
    # Just beside a quarter turn it is interpolated, and almost the same.
    near = rotate(square.double(), 90 + 1e-7)
    assert torch.allclose(near, rotate(square.double(), 90), atol=1e-5)


def test_figure_5_has_the_ranges_of_the_paper():
    translation, scaling, rotation = figure_5(224)
    assert translation.parameters == tuple(range(-60, 61, 5))
    assert np.allclose(scaling.parameters, np.arange(1, 1.81, 0.05))
    assert rotation.parameters == tuple(range(0, 360, 10))
    assert figure_5(5)[0].parameters == (-1.0, 0.0, 1.0)
    images = torch.randn(1, 2, 21, 21)
    blue = figure_5(21, fill=7.0)[0].apply(images, 4.0)
    assert torch.equal(blue[:, :, :4], torch.full((1, 2, 4, 21), 7.0))


def _by_hooks(model, images, layers):
    """The outputs of modules, and of the model, in plain forward passes of one image each, as NumPy rows."""
    found = {name: [] for name in layers}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: found[name].append(output.detach().clone().numpy().ravel())
        )
        for name in layers
    ]
    with torch.no_grad():
        outputs = [model(image[None].clone()) for image in images]
    for hook in hooks:
        hook.remove()
    return found, np.stack([np.asarray(out).ravel() for out in outputs])


TRANSFORMATIONS = (
    Transformation("vertical translation", "pixels", (-5.0, -1.5, 0.0, 3.0), translate),
    Transformation("scale", "ratio", (1.0, 1.4), scale),
    Transformation("rotation", "degrees", (0.0, 50.0, 180.0, 270.0, 360.0), rotate),
    Transformation("brightness", "added", (-1.0, 0.0, 2.0), lambda images, added: images + added),
)

CLASSIFIERS = {
    "AlexNet": ("features.0", "features.11", "classifier.5"),
    "ZFNet": ("conv1", "conv5", "fc7"),
    "SqueezeNet 1.1": ("features.0", "features.12.expand1x1"),
    "ResNet-18": None,
}


@pytest.mark.parametrize(("name", "layers"), CLASSIFIERS.items())
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_distances_and_probabilities(name, layers, batch_size):
    network = NETWORKS[name]
    model = network.build()
    images = network.images(3)
    layers = layers or [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)][1::3]
    labels = [3, 0, 4]
    found = invariance(model, images, layers, TRANSFORMATIONS, labels, batch_size=batch_size, progress=False)
    assert found.labels == (3, 0, 4)
    assert found.layers == tuple(layers)
    for number, image in enumerate(images):
        (original, logits) = _by_hooks(model, image[None], layers)
        for layer in layers:
            norm = np.linalg.norm(original[layer][0])
            assert found.norms[layer][number].item() == pytest.approx(norm, rel=1e-10)
        for curves in found.curves:
            apply, parameters = curves.transformation.apply, curves.transformation.parameters
            changed = torch.cat([apply(image[None], parameter) for parameter in parameters])
            features, logits = _by_hooks(model, changed, layers)
            for layer in layers:
                expected = [np.linalg.norm(each - original[layer][0]) for each in features[layer]]
                scale_of = max(1.0, np.linalg.norm(original[layer][0]))
                np.testing.assert_allclose(curves.distances[layer][number], expected, rtol=1e-9, atol=1e-10 * scale_of)
                relative = found.relative(curves, layer)[number]
                np.testing.assert_allclose(relative * found.norms[layer][number], curves.distances[layer][number])
            powers = np.exp(logits - logits.max(1, keepdims=True))
            expected = (powers / powers.sum(1, keepdims=True))[:, labels[number]]
            np.testing.assert_allclose(curves.probabilities[number], expected, rtol=1e-9)


def test_what_leaves_an_image_as_it_is_has_distance_zero():
    network = NETWORKS["AlexNet"]
    model = network.build().float()
    images = network.images(2, torch.float32)
    found = invariance(model, images, ["features.0", "classifier.6"], TRANSFORMATIONS, "predicted", progress=False)
    for curves in found.curves:
        identity = 1.0 if curves.transformation.name == "scale" else 0.0
        places = [place for place, p in enumerate(curves.transformation.parameters) if p in (identity, 360.0)]
        assert places
        for layer in found.layers:
            assert not curves.distances[layer][:, places].any()
        others = [place for place in range(len(curves.transformation.parameters)) if place not in places]
        assert bool((curves.distances["features.0"][:, others] > 0).all())
        assert len(curves.probabilities[:, places].unique(dim=1).T) == 1


def test_the_predicted_class_is_that_of_the_original_image():
    network = NETWORKS["ZFNet"]
    model = network.build()
    images = network.images(4)
    with torch.no_grad():
        best = model(images.clone()).argmax(1)
    followed = invariance(model, images, ["conv1"], TRANSFORMATIONS[:1], "predicted", progress=False)
    assert followed.labels == tuple(best.tolist())
    given = invariance(model, images, ["conv1"], TRANSFORMATIONS[:1], best, progress=False)
    assert torch.equal(followed.curves[0].probabilities, given.curves[0].probabilities)


def test_a_model_that_ends_in_probabilities():
    logits = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    logits = logits.double()
    ending = nn.Sequential(*logits, nn.Softmax(1))
    images = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    a = invariance(logits, images, ["1"], TRANSFORMATIONS, [1, 2], progress=False)
    b = invariance(ending, images, ["1"], TRANSFORMATIONS, [1, 2], outputs="probabilities", progress=False)
    for one, other in zip(a.curves, b.curves, strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities)
        assert one.probabilities.max() < 1


def test_without_labels_a_network_without_classes_will_do():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).double()
    images = torch.randn(2, 1, 12, 15, dtype=torch.float64)
    found = invariance(model, images, ["0", "2", "0"], progress=False)
    assert found.layers == ("0", "2")
    assert found.labels is None
    assert [curves.probabilities for curves in found.curves] == [None] * 3
    assert [len(curves.transformation.parameters) for curves in found.curves] == [7, 17, 36]
    for without_classes, returned in ((model, "'2' gives"), (TwoOutputs(), "TwoOutputs returns several tensors")):
        with pytest.raises(ValueError, match=f"one value per class; {returned}.*: leave the labels out"):
            invariance(without_classes, images, ["0"], labels=[0, 1], progress=False)


class TwoOutputs(nn.Sequential):
    """Returns what it computes and its mean."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = super().forward(x)
        return y, y.mean((2, 3))


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(3, 3, 8, 8)
    seen = []

    def slide(image, pixels):
        if len(seen) == 5:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(image)
        return translate(image, pixels)

    moves = [Transformation("slide", "pixels", (0.0, 2.0), slide)]

    def run(parts):
        return invariance(model, images, ["0", "3"], moves, [0, 1, 2], parts=parts, progress=False)

    with pytest.raises(KeyboardInterrupt):
        run(Parts(tmp_path, "settings"))
    assert len(seen) == 6  # two images of two, one parameter of the third, and the interruption
    again = run(Parts(tmp_path, "settings"))
    assert len(seen) == 8
    whole = run(None)
    for name in ("0", "3"):
        assert torch.equal(again.norms[name], whole.norms[name])
        assert torch.equal(again.curves[0].distances[name], whole.curves[0].distances[name])
    assert torch.equal(again.curves[0].probabilities, whole.curves[0].probabilities)
    assert again.labels == whole.labels == (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"\(N, C, H, W\)"),
        ({"images": torch.zeros(0, 3, 8, 8)}, ValueError, r"\(N, C, H, W\)"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "dtype torch.float32"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, TypeError, "dtype torch.float32"),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": ["nine"]}, ValueError, "nine"),
        ({"transformations": []}, ValueError, "at least one"),
        ({"transformations": [Transformation("none", "", (), translate)]}, ValueError, "at least one"),
        ({"labels": [0]}, ValueError, "each of 2 images"),
        ({"labels": [0.5, 1.0]}, TypeError, "integers"),
        ({"labels": [0, 5]}, ValueError, "from 0 to 4, got 5"),
        ({"labels": [-1, 0]}, ValueError, "from 0 to 4, got -1"),
        ({"labels": "guess"}, ValueError, "'predicted'"),
        ({"outputs": "scores"}, ValueError, "'logits', 'probabilities'"),
        ({"batch_size": 0}, ValueError, "at least 1"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    arguments = {"images": torch.zeros(2, 3, 8, 8), "layers": ["0"], **change}
    with pytest.raises(error, match=message):
        invariance(model, progress=False, **arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: translate(x, float("nan")), ValueError, "pixels must be a number"),
        (lambda x: rotate(x, float("inf")), ValueError, "degrees must be a number"),
        (lambda x: scale(x, 0), ValueError, "above 0"),
        (lambda x: scale(x, -2), ValueError, "above 0"),
        (lambda x: rotate(x, 5, fill="mirror"), ValueError, "edge, reflect"),
        (lambda x: rotate(x, 5, fill=torch.zeros(2)), ValueError, "each of 3 channels"),
        (lambda x: rotate(x, 5, interpolation="area"), ValueError, "bilinear"),
        (lambda x: rotate(x[0, 0], 5), TypeError, r"\(N, C, H, W\)"),
        (lambda x: rotate(x.int(), 5), TypeError, "floating point"),
    ],
)
def test_bad_transformations_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(1, 3, 4, 4))


NETWORK = """
import torch
from torch import nn

def network():
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4))

def features():
    return network()[:4]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with photographs, a network and files of labels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "photographs").mkdir()
    for name, size in (("a.png", (50, 40)), ("b.png", (33, 61)), ("c.jpg", (40, 40))):
        Image.effect_noise(size, 60).save(tmp_path / "photographs" / name)
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird of prey\ncup\n")
    (tmp_path / "labels.txt").write_text("bird of prey\n0\ncat\n")
    (tmp_path / "file").write_text("in the way")
    return tmp_path


def _run(*arguments):
    defaults = {
        "--model": "net.py:network", "--weights": "random", "--images": "photographs", "--layers": "1,3",
        "--size": "32", "--translation": "-4,4,2", "--scale": "1,1.5,0.25", "--rotation": "0,90,30", "-o": "out/deep",
    }  # fmt: skip
    options = {**defaults, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    given = [part for pair in options.items() if pair[1] is not None for part in pair]
    return CliRunner().invoke(command, given)


def test_the_command_writes_what_the_function_finds(place):
    result = _run("--labels", "labels.txt", "--classes", "classes.txt", "--fill", "128")
    assert result.exit_code == 0, result.output
    out = place / "out" / "deep"
    assert sorted(path.name for path in out.iterdir()) == ["invariance.csv", "invariance.json", "invariance.png"]
    assert "relative" not in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == ["vertical", "scale", "rotation"]

    weights = load_weights("net.py:network", "random")
    photographs = load_photographs("photographs")
    inputs = weights.preprocess(cut(photographs, plan_centres(photographs), 32))
    grey = weights.preprocess(torch.full((1, 3, 1, 1), 128, dtype=torch.uint8)).flatten()
    moves = [
        Transformation("vertical translation", "", (-4, -2, 0, 2, 4), lambda x, p: translate(x, p, grey)),
        Transformation("scale", "", (1, 1.25, 1.5), lambda x, p: scale(x, p, grey)),
        Transformation("rotation", "", (0, 30, 60, 90), lambda x, p: rotate(x, p, grey)),
    ]
    found = invariance(weights.model(), inputs, ["1", "3"], moves, [2, 0, 0], progress=False)
    with (out / "invariance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (5 + 3 + 4)
    for curves in found.curves:
        for step, parameter in enumerate(curves.transformation.parameters):
            for number, photograph in enumerate(photographs):
                row = rows.pop(0)
                assert (row["transformation"], row["image"]) == (curves.transformation.name, photograph.name)
                assert float(row["parameter"]) == parameter
                for layer in ("1", "3"):
                    expected = curves.distances[layer][number, step].item()
                    assert float(row[f"distance {layer}"]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
                    norm = found.norms[layer][number].item()
                    assert float(row[f"relative distance {layer}"]) == pytest.approx(
                        expected / norm, rel=1e-4, abs=1e-5
                    )
                assert int(row["label"]) == [2, 0, 0][number]
                assert float(row["probability"]) == pytest.approx(curves.probabilities[number, step].item(), rel=1e-4)
    settings = json.loads((out / "invariance.json").read_text())
    assert settings["labels"] == [2, 0, 0]
    assert settings["norms"]["3"]["b.png"] == pytest.approx(found.norms["3"][1].item(), rel=1e-4)
    with Image.open(out / "invariance.png") as figure:
        assert min(figure.size) > 1000


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "net.py:features", "--fill", "reflect", "--interpolation", "bicubic", "--layers", "0"),
        ("--labels", "predicted", "--fill", "edge", "--rotation", "45,45,1"),
        ("--labels", "3,2,1", "--interpolation", "nearest", "--scale", "0.5,1,0.5", "--translation", "3,-3,-1.5"),
    ],
)
def test_the_command_takes_its_options(place, options):
    result = _run(*options)
    assert result.exit_code == 0, result.output
    with (place / "out" / "deep" / "invariance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ("probability" in rows[0]) == ("--labels" in options)
    assert {float(row["distance 0" if "--model" in options else "distance 1"]) >= 0 for row in rows} == {True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "absent"), "no such file or folder"),
        (("--model", "net.py:absent"), "absent"),
        (("--layers", "1,fc9"), "fc9"),
        (("--layers", ","), "at least one layer"),
        (("--labels", "1,2"), "3 photographs need one each, got 2"),
        (("--labels", "1,2,dog"), "label 'dog' is not a number"),
        (("--labels", "1,2,horse", "--classes", "classes.txt"), "not in classes.txt"),
        (("--labels", "1,2,4"), "from 0 to 3, got 4"),
        (("--labels", "1,2,3", "--classes", "absent.txt"), "classes 'absent.txt' cannot be read"),
        (("--labels", "1,2,3", "--model", "net.py:features"), "one value per class"),
        (("--fill", "256"), "fill must be"),
        (("--fill", "mirror"), "fill must be"),
        (("--interpolation", "cubic"), "'cubic' is not one of 'bilinear', 'bicubic', 'nearest'"),
        (("--translation", "1,2"), "translation must be FROM,TO,STEP"),
        (("--scale", "1,2,0"), "scale must be FROM,TO,STEP"),
        (("--scale", "0,1,0.5"), "ratio must be above 0"),
        (("--rotation", "0,90,-1"), "rotation must reach"),
        (("--rotation", "0,nan,1"), "rotation must reach"),
        (("--rotation", "0,360,0.01"), "less than 1000"),
        (("--size", "0"), "size must be at least 1"),
        (("--size", "2"), "size"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
        (("--device", "cuda:99"), "cuda"),
        (("--threads", "0"), "threads must be at least 1"),
        (("-o", "file"), "output folder 'file' is a file"),
    ],
)
def test_the_command_says_what_is_wrong(place, threads, options, message):
    result = _run(*options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert not (place / "out").exists()


@pytest.mark.parametrize("ended", [False, True])
def test_a_single_output_is_followed_through_its_sigmoid(ended):
    """Smooth activations need no rule here, and a network of one logit says how probable class 1 is."""
    layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)]
    model = nn.Sequential(*layers, *([nn.Sigmoid()] if ended else [])).double().eval()
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    chosen = [Transformation("translation", "pixels", (-2.0, 0.0, 3.0), translate)]
    given = {"outputs": "probabilities" if ended else "logits", "progress": False}
    expected = torch.stack([model(translate(images, by))[:, 0] for by in (-2.0, 0.0, 3.0)], 1).detach()
    expected = expected if ended else expected.sigmoid()
    found = invariance(model, images, "1", chosen, "predicted", **given)
    assert found.labels == (1, 1, 1)
    torch.testing.assert_close(found.curves[0].probabilities, expected)
    labels = [0, 1, 0]
    signed = torch.stack([row if label else 1 - row for row, label in zip(expected, labels, strict=True)])
    torch.testing.assert_close(invariance(model, images, "1", chosen, labels, **given).curves[0].probabilities, signed)
    with pytest.raises(ValueError, match="labels must be from 0 to 1, got 2"):
        invariance(model, images, "1", chosen, [0, 1, 2], **given)
    if ended:
        with pytest.raises(ValueError, match="probabilities already"):
            invariance(model, images, "1", chosen, labels, progress=False)
