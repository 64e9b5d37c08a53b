"""Commands on volumes and signals in files: what they write is the definition's, of the tensors as they are."""

from __future__ import annotations

import csv
import json
import math
import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from click.testing import CliRunner
from networks import Trace
from PIL import Image
from torch import Tensor

from deconv_kernels import reference
from deconv_kernels.cli import main
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.units import AXES
from deconv_kernels.measure import throughput
from deconv_kernels.models import load_network
from deconv_kernels.plot import figures


@dataclass(frozen=True)
class Kind:
    """A network of own_networks.py, the shape of its images, and two of its layers."""

    name: str
    shape: tuple[int, ...]
    layers: tuple[str, str]

    @property
    def model(self) -> str:
        return f"{Path(own_networks.__file__)}:{self.name}"

    @property
    def axes(self) -> tuple[str, ...]:
        return AXES[1 - len(self.shape) :]

    @property
    def one(self) -> str:
        return "volume" if len(self.shape) == 4 else "signal"


KINDS = {
    "residual network of volumes": Kind("volume_residual", (1, 6, 13, 15), ("1", "3")),
    "U-Net of volumes": Kind("VolumeUNet", (2, 6, 10, 12), ("bn", "middle")),
    "chain of signals": Kind("signal_chain", (2, 61), ("0", "4")),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def written(kind: Kind, folder: Path) -> Tensor:
    """Five images in files of several kinds, as the commands read them."""
    seed = torch.seed() % 2**31
    print("images from seed", seed)
    torch.manual_seed(seed)
    images = torch.randn(5, *kind.shape)
    folder.mkdir()
    np.save(folder / "a.npy", images[0].numpy() if len(images[0]) > 1 else images[0, 0].numpy())
    np.savez(folder / "b.npz", first=images[1].numpy(), second=images[2].double().numpy())
    torch.save(images[3:], folder / "c.pt")
    (folder / ".hidden.npy").write_bytes(b"")
    return images


def run(command: str, kind: Kind, images: Path, output: Path, *options: str) -> dict[str, object]:
    arguments = (command, "--model", kind.model, "--images", str(images), "-o", str(output), "--json", *options)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are painted with few pixels, which is quicker."""
    monkeypatch.setattr(figures, "_DPI", 40)


def layers_of(kind: Kind) -> tuple[str, str]:
    return "--layers", ",".join(kind.layers)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str], names: Sequence[str]) -> list[int]:
    return [int(row[name]) for name in names]


def picture(path: Path) -> tuple[int, int]:
    """The size of a figure, of which something has to be drawn."""
    with Image.open(path) as image:
        assert len(set(image.convert("L").resize((40, 40)).tobytes())) > 3
        return image.size


@each_kind
def test_gallery(kind: Kind, tmp_path: Path) -> None:
    images = written(kind, tmp_path / "images")
    run("gallery", kind, tmp_path / "images", tmp_path / "out", *layers_of(kind), "--maps", "2", "-k", "3")
    network, one = load_network(kind.model)[0].double(), kind.one
    net, trace = Deconvnet(network), Trace(network)
    files = [row["file"] for row in table(tmp_path / "out" / f"{one}s.csv")]
    assert files == ["a.npy", "b.npz", "b.npz", "c.pt", "c.pt"]
    rows = table(tmp_path / "out" / "units.csv")
    for layer in kind.layers:
        picture(tmp_path / "out" / f"{layer}.png")
        of_layer = [row for row in rows if row["layer"] == layer]
        with np.load(tmp_path / "out" / "projections.npz") as arrays:
            windows = torch.from_numpy(arrays[layer]).double()
        assert len(windows) == len(of_layer)
        for row, window in zip(of_layer, windows, strict=True):
            node = trace.nodes[net.layer(row["rectified_by"] or layer).step]
            at = torch.tensor([numbers(row, (one, "map", *kind.axes))])
            exact, activation = reference.project(trace.module, images.double(), node, at)
            assert isinstance(exact, Tensor)
            assert float(row["activation"]) == pytest.approx(float(activation), rel=1e-4, abs=1e-5)
            frame = exact[0] * activation
            placed = torch.zeros_like(frame)
            starts, stops = (numbers(row, [f"{axis}{end}" for axis in kind.axes]) for end in (0, 1))
            bounds = [(max(a, 0), min(b, n)) for a, b, n in zip(starts, stops, frame.shape[1:], strict=True)]
            inside = tuple(slice(a - at, b - at) for (a, b), at in zip(bounds, starts, strict=True))
            placed[(slice(None), *(slice(a, b) for a, b in bounds))] = window[(slice(None), *inside)]
            assert float((placed - frame).abs().max()) <= 1e-4 * float(frame.abs().max()) + 1e-9


@each_kind
def test_mine(kind: Kind, tmp_path: Path) -> None:
    images = written(kind, tmp_path / "images")
    run("mine", kind, tmp_path / "images", tmp_path / "out", *layers_of(kind), "-k", "2", "--batch-size", "2")
    record = Deconvnet(load_network(kind.model)[0]).record(images, kind.layers, activations=True)
    for layer in kind.layers:
        maps, found = record.activations[layer], record.strongest(layer, 2)
        assert found.activation is not None
        rows = [row for row in table(tmp_path / "out" / "units.csv") if row["layer"] == layer]
        assert len(rows) == int((found.activation > 0).sum())
        for row in rows:
            image, channel, *place = numbers(row, (kind.one, "map", *kind.axes))
            assert float(row["activation"]) == pytest.approx(float(maps[(image, channel, *place)]), rel=1e-4, abs=1e-5)
            assert float(row["activation"]) == pytest.approx(float(maps[image, channel].max()), rel=1e-4, abs=1e-5)


@each_kind
def test_occlusion(kind: Kind, tmp_path: Path) -> None:
    """The map's sum, and the probability, at every position are what the network makes of the hidden image."""
    images = written(kind, tmp_path / "images")[1:3]
    size, fill = [n // 2 for n in kind.shape[1:]], [0.5, -1.5][: kind.shape[0]]
    options = ("--occluder", ",".join(map(str, size)), "--stride", "5", "--fill", ",".join(map(str, fill)))
    run("occlusion", kind, tmp_path / "images" / "b.npz", tmp_path / "out", "--layers", kind.layers[1], *options)
    picture(tmp_path / "out" / "occlusion.png")
    told = json.loads((tmp_path / "out" / "occlusion.json").read_text())
    assert told["images"] == ["b.npz 0", "b.npz 1"]
    rows = table(tmp_path / "out" / "occlusion.csv")
    assert len(rows) == 2 * math.prod(len(range(0, n - s, 5)) + 1 for n, s in zip(kind.shape[1:], size, strict=True))
    hidden = images[[told["images"].index(row["image"]) for row in rows]]
    for image, row in zip(hidden, rows, strict=True):
        begins = zip(numbers(row, kind.axes), size, strict=True)
        part = image[(slice(None), *(slice(begin, begin + length) for begin, length in begins))]
        part[:] = torch.tensor(fill).view(-1, *[1] * len(size))
    network = load_network(kind.model)[0]
    found = Deconvnet(network).record(hidden, told["layer"], activations=True).activations[told["layer"]]
    for row, maps in zip(rows, found, strict=True):
        watched = told["found"][told["images"].index(row["image"])]["map"]
        assert float(row["activation"]) == pytest.approx(float(maps[watched].sum()), rel=1e-3, abs=1e-4)
    assert ("probability" in rows[0]) == (kind.name != "VolumeUNet")


def activations(kind: Kind, images: Tensor, layer: str) -> Tensor:
    """Of a layer, in float64."""
    net = Deconvnet(load_network(kind.model)[0].double(), "gradient")
    return net.record(images.double(), layer, activations=True).activations[layer]


@each_kind
def test_invariance(kind: Kind, tmp_path: Path) -> None:
    """Features move as far as those of images that are moved by hand."""
    images = written(kind, tmp_path / "images")
    turned = ("--rotation", "0,60,30") if len(kind.shape) > 2 else ()
    steps = ("--translation=-2,2,2", "--scale", "1,1.5,0.5", *turned)
    given = (*layers_of(kind), *steps, "--fill", "0.5")
    told = run("invariance", kind, tmp_path / "images", tmp_path / "out", *given)
    picture(tmp_path / "out" / "invariance.png")
    rows = table(tmp_path / "out" / "invariance.csv")
    names = told["images"]
    assert isinstance(names, list)
    translations = [f"{of} translation" for of in ("depth", "vertical", "horizontal")]
    translations = translations if len(kind.shape) > 2 else ["translation"]
    assert {row["transformation"] for row in rows} == {*translations, "scale", *["rotation"] * (len(kind.shape) > 2)}
    for axis, translation in enumerate(translations, start=2):
        moved = torch.full_like(images, 0.5)
        length = images.shape[axis]
        moved.narrow(axis, 2, length - 2).copy_(images.narrow(axis, 0, length - 2))
        for layer in kind.layers:
            distances = (activations(kind, moved, layer) - activations(kind, images, layer)).flatten(1).norm(dim=1)
            of_them = [row for row in rows if row["transformation"] == translation]
            for row in of_them:
                if float(row["parameter"]) == 2:
                    expected = float(distances[names.index(row["image"])])
                    assert float(row[f"distance {layer}"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
                elif float(row["parameter"]) == 0:
                    assert float(row[f"distance {layer}"]) == 0


@each_kind
def test_evolution(kind: Kind, tmp_path: Path) -> None:
    """Each checkpoint's units are the strongest of its network."""
    images = written(kind, tmp_path / "images")
    states = []
    for name in ("first", "last"):
        network = getattr(own_networks, kind.name)().eval()
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        states.append((name, network))
    given = ("--checkpoints", str(tmp_path / "*st.pth"), *layers_of(kind), "--maps", "2", "--batch-size", "2")
    run("evolution", kind, tmp_path / "images", tmp_path / "out", *given)
    rows = table(tmp_path / "out" / "evolution.csv")
    for name, network in states:
        for layer in kind.layers:
            picture(tmp_path / "out" / f"{layer}_evolution.png")
            of_them = [row for row in rows if row["checkpoint"] == name and row["layer"] == layer]
            assert len(of_them) == 2
            read = of_them[0]["rectified_by"] or layer
            maps = Deconvnet(network).record(images, read, activations=True).activations[read]
            for row in of_them:
                strongest = float(maps[:, int(row["map"])].max())
                assert float(row["activation"]) == pytest.approx(strongest, rel=1e-4, abs=1e-5)
                assert (row["silent"] == "1") == (strongest <= 0)
                if row["silent"] == "0":
                    image, channel, *place = numbers(row, (kind.one, "map", *kind.axes))
                    assert float(maps[(image, channel, *place)]) == pytest.approx(strongest, rel=1e-4, abs=1e-5)
                    assert row["file"].split()[0] == ["a.npy", "b.npz", "b.npz", "c.pt", "c.pt"][image]


@each_kind
def test_filters(kind: Kind, tmp_path: Path) -> None:
    images = written(kind, tmp_path / "images")
    run("filters", kind, tmp_path / "images", tmp_path / "out", "--renormalize", "0.05", "--batch-size", "2")
    network = load_network(kind.model)[0]
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, torch.nn.modules.conv._ConvNd))
    picture(tmp_path / "out" / f"{name}_filters.png")
    picture(tmp_path / "out" / f"{name}_before_after.png")
    rows = table(tmp_path / "out" / "filters.csv")
    exact = first.weight.detach().double().square().flatten(1).mean(1).sqrt().tolist()
    assert [float(row["rms"]) for row in rows] == pytest.approx(exact, rel=1e-5)
    counted = {"volume_residual": "1", "VolumeUNet": "relu", "signal_chain": "2"}[kind.name]
    peaks = activations(kind, images, counted).flatten(2).amax((0, 2)).tolist()
    assert [float(row["peak"]) for row in rows] == pytest.approx(peaks, rel=1e-4, abs=1e-5)
    after = [float(row["rms"]) for row in table(tmp_path / "out" / "filters_after.csv")]
    assert after == pytest.approx([min(each, 0.05) for each in exact], rel=1e-5)


@each_kind
def test_correspondence(kind: Kind, tmp_path: Path) -> None:
    """Shares of features that change are those of images with the parts hidden by hand."""
    images = written(kind, tmp_path / "images")[1:]
    places = {"eye": [n // 3 for n in kind.shape[1:]], "nose": [n // 2 for n in kind.shape[1:]]}
    lines = [f"image,part,{','.join(kind.axes)}"]
    for name in ("b.npz 0", "b.npz 1", "c.pt 0", "c.pt 1"):
        lines += [f"{name},{part},{','.join(map(str, place))}" for part, place in places.items()]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    side = [2, 3, 3][-len(places["eye"]) :]
    given = ("--points", str(tmp_path / "points.csv"), "--side", ",".join(map(str, side)), "--draws", "2")
    given += ("--reach", "inf", "--fill", "0.5", *layers_of(kind))
    told = run("correspondence", kind, tmp_path / "images", tmp_path / "out", *given)
    assert told["images"] == ["b.npz 0", "b.npz 1", "c.pt 0", "c.pt 1"]
    picture(tmp_path / "out" / "correspondence.png")
    rows = table(tmp_path / "out" / "correspondence.csv")
    for layer in kind.layers:
        clean = Deconvnet(load_network(kind.model)[0], "gradient").record(images, layer, activations=True).activations
        for part, place in places.items():
            hidden = images.clone()
            begins = [at - (of - 1) // 2 for at, of in zip(place, side, strict=True)]
            inside = [slice(max(0, b), b + of) for b, of in zip(begins, side, strict=True)]
            hidden[(slice(None), slice(None), *inside)] = 0.5
            changed = Deconvnet(load_network(kind.model)[0], "gradient").record(hidden, layer, activations=True)
            share = (changed.activations[layer] != clean[layer]).double().mean()
            (row,) = (row for row in rows if (row["layer"], row["part"]) == (layer, part))
            assert float(row["changed"]) == pytest.approx(float(share), abs=0.02)


@each_kind
def test_transfer(kind: Kind, tmp_path: Path) -> None:
    """The command trains and tests as the function does on the same images."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    images = torch.cat([written(kind, tmp_path / name) for name in ("a", "b")])
    (tmp_path / "classes").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / "classes" / name)
    given = ("--per-class", "2", "--folds", "2", "--test", "2", "--classifiers", "softmax", "--no-untrained")
    run("transfer", kind, tmp_path / "classes", tmp_path / "out", *given, *layers_of(kind))
    picture(tmp_path / "out" / "transfer.png")
    from deconv_kernels.experiments.transfer import transfer

    labels = torch.arange(2).repeat_interleave(5)
    how = {"per_class": 2, "folds": 2, "test_per_class": 2, "classifiers": ("softmax",), "progress": False}
    found = transfer({"given": load_network(kind.model)[0]}, images, labels, kind.layers, **how)
    written_rows = table(tmp_path / "out" / "transfer.csv")
    for score, row in zip(found.scores, written_rows, strict=True):
        assert (score.layer, score.network) == (row["layer"], row["network"])
        assert float(row["mean"]) == pytest.approx(score.mean)


@each_kind
def test_report(kind: Kind, tmp_path: Path) -> None:
    """Its units are where the maps respond most, in the images that it shows, and its heat maps are the occlusions'."""
    images = written(kind, tmp_path / "images")
    size = [n // 2 for n in kind.shape[1:]]
    hide = ("--occluder", ",".join(map(str, size)), "--stride", "5", "--whole", "1")
    run("report", kind, tmp_path / "images", tmp_path / "out", *layers_of(kind), "--maps", "2", "-k", "2", *hide)
    page = (tmp_path / "out" / "report.html").read_text()
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    assert data["one"] == kind.one and data["size"] == [1, *kind.shape[1:]][-2:]
    net = Deconvnet(load_network(kind.model)[0])
    for shown, layer in zip(data["layers"], kind.layers, strict=True):
        read = re.findall(r"as layer (\S+) rectifies", shown["about"])
        name = read[0] if read else layer
        maps = net.record(images, name, activations=True).activations[name]
        for entry in shown["maps"]:
            peaks = maps[:, entry["map"]].flatten(1).amax(1)
            expected = sorted((peak for peak in peaks.tolist() if peak > 0), reverse=True)[:2]
            assert [unit["a"] for unit in entry["units"]] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            for unit in entry["units"]:
                place = tuple(map(int, re.findall(r"\d+", unit["at"])))
                number = int(str(unit["crop"]).split("/")[0])
                assert float(maps[(number, entry["map"], *place)]) == pytest.approx(unit["a"], rel=1e-4, abs=1e-5)
                assert unit["patch"].startswith("data:image/") and unit["src"].startswith("data:image/")
                assert data["crops"][str(unit["crop"])]["about"].lower().count(f"{kind.one} {number},") == 1
                y0, x0, y1, x1 = unit["box"]
                assert [y1 - y0, x1 - x0] == [1, *shown["field"]][-2:]
    watched = [of for of in data["occlusions"] if of["maps"]]
    assert watched and all(of["occluder"] == [1, *size][-2:] for of in watched)
    for of in watched:
        values = np.array(of["maps"][0]["values"])
        assert values.shape == tuple(len(of[axis]) for axis in ("rows", "columns"))
        assert of["maps"][0]["low"] == values.min() and of["maps"][0]["high"] == values.max()


@each_kind
def test_plan_and_bench(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are those of the images' sizes, and projections agree with their definition."""
    monkeypatch.setattr(throughput, "_units_per_call", lambda *arguments: 8)
    monkeypatch.setattr(throughput, "FEWEST_ROUNDS", 1)
    monkeypatch.setattr(throughput, "IMAGES", 2)
    size = ",".join(map(str, kind.shape[1:]))
    named = ("--model", kind.model, "--size", size, *layers_of(kind), "--json")
    answer = CliRunner().invoke(main, ("plan", *named))
    assert answer.exit_code == 0, answer.output
    network = load_network(kind.model)[0]
    net = Deconvnet(network)
    for plan, layer in zip(json.loads(answer.stdout)["plans"], kind.layers, strict=True):
        record = net.record(torch.zeros(1, *kind.shape), layer)
        assert plan == json.loads(json.dumps(net.plan(record, layer).as_dict(1)))
    modelled = CliRunner().invoke(main, ("plan", *named, "--device", "h100"))
    assert modelled.exit_code == 0, modelled.output
    measured = CliRunner().invoke(main, ("bench", *named, "--seconds", "0.01", "--no-compile"))
    assert measured.exit_code == 0, measured.output
    for layer in json.loads(measured.stdout)["layers"]:
        assert layer["difference"] <= 1e-5 and "batched ATen" in layer["baselines"]
        assert len(layer["receptive_field"]) == len(kind.shape) - 1
    wrong = CliRunner().invoke(main, ("plan", "--model", kind.model, "--size", "4,5", *layers_of(kind)))
    assert wrong.exit_code == 2 and "size of images of" in wrong.output


@pytest.mark.parametrize("width", [1, 2, 4])
def test_recorded_sounds_are_numbers_from_minus_one_to_one(width: int, tmp_path: Path) -> None:
    from deconv_kernels.data.tensor_images import load_tensor_images

    values = np.array([[-1.0, 0.5], [0.0, -0.25], [0.75, 0.125]])
    integers = np.rint(values * 2 ** (8 * width - 1)).astype(np.int64) + 128 * (width == 1)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(width)
        sound.setframerate(8000)
        sound.writeframes(integers.astype({1: "u1", 2: "<i2", 4: "<i4"}[width]).tobytes())
    found = load_tensor_images([tmp_path / "sound.wav"], rank=1, channels=2)
    assert found.names == ("sound.wav",) and torch.equal(found.values[0], torch.from_numpy(values.T).float())


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    kind = KINDS["residual network of volumes"]
    written(kind, tmp_path / "images")
    for name, array in {
        "nan": np.full((4, 4, 4), np.nan),
        "flat": np.zeros((4, 4)),
        "empty": np.zeros((0, 4, 4)),
        "small": np.zeros((4, 4, 4)),
        "complex": np.zeros((4, 4, 4), complex),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "photograph.png")
    images = str(tmp_path / "images")
    for sources, options, said in (
        (["nan.npy"], (), "not finite"),
        (["flat.npy"], (), r"reads \(D, H, W\), \(1, D, H, W\) or \(N, 1, D, H, W\), got \(4, 4\)"),
        (["empty.npy"], (), "arrays of numbers"),
        (["complex.npy"], (), "arrays of numbers"),
        (["pickled.npy"], (), "cannot be read"),
        (["small.npy", images], (), "one size: small.npy holds 1x4x4x4 and a.npy 1x6x13x15"),
        (["photograph.png", images], (), "either photographs or tensors"),
        (["photograph.png"], (), "reads volumes, not photographs"),
        ([images], ("--mean", "0.5"), "leave --mean and --std out"),
        ([images], ("--distinct",), "leave --distinct out"),
        ([images], ("-k", "6"), "5 volumes are too few for the 6 strongest"),
    ):
        given = [part for source in sources for part in ("--images", str(tmp_path / source))]
        arguments = ("gallery", "--model", kind.model, *given, "--layers", "1", "-o", str(tmp_path / "out"), *options)
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and not (tmp_path / "out").exists(), result.output
        assert re.search(said, " ".join(result.output.split())), (said, result.output)


def test_commands_of_photographs_say_why_tensors_will_not_do(tmp_path: Path) -> None:
    written(KINDS["chain of signals"], tmp_path / "images")
    for command, said in (
        ("repair", "the networks that repair trains read photographs in colour, and .npy, .npz, .pt, .wav files hold"),
        ("unsupervised", "the networks that unsupervised trains learn from photographs, and"),
        ("explore", "the page shows photographs, and"),
    ):
        result = CliRunner().invoke(main, (command, "--images", str(tmp_path / "images")))
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
    signals = ("--model", KINDS["chain of signals"].model, "--images", "samples", "--layers", "0")
    for command in ("invariance", "filters", "report", "correspondence", "transfer"):
        points = ("--points", str(tmp_path / "none.csv")) if command == "correspondence" else ()
        (tmp_path / "none.csv").write_text("image,part,y,x\n*,eye,1,1\n")
        given = ("--model", signals[1], "--data", "digits") if command == "transfer" else signals
        result = CliRunner().invoke(main, (command, *given, *points))
        assert result.exit_code == 2 and "reads signals, not photographs" in result.output, (command, result.output)


def test_a_network_without_convolutions_does_not_say_what_its_images_are(tmp_path: Path) -> None:
    (tmp_path / "row.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(4, 2))\n"
    )
    np.save(tmp_path / "row.npy", np.zeros((1, 4)))
    arguments = ["mine", "--model", f"{tmp_path / 'row.py'}:build", "--images", str(tmp_path / "row.npy")]
    result = CliRunner().invoke(main, [*arguments, "--layers", "0", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and "has no convolution" in result.output
