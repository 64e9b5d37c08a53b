"""The evolution of features against Record.strongest and Deconvnet.project over all images at once."""

from __future__ import annotations

import copy
import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deconv_kernels import Deconvnet
from deconv_kernels.cli.evolution import command
from deconv_kernels.experiments import evolution
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.evolution import evolve, strongest_of
from deconv_kernels.plot import evolution as plot_evolution


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 5),
    ).double()


IMAGES = (13, 3, 23, 25)
MAPS = {"1": [4, 0], "4": [7, 2, 2, 5], "6": [1]}


def fitting():
    """A network whose dense layer fits IMAGES."""
    net = network()
    net[6] = nn.Linear(net[:6](torch.zeros(1, *IMAGES[1:], dtype=torch.float64)).shape[1], 5).double()
    return net


class TestEvolve:
    def test_units_and_projections_are_those_of_one_record_of_all_images(self):
        images = torch.randn(IMAGES, dtype=torch.float64)
        checkpoints = {f"epoch {number}": fitting() for number in range(3)}
        loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=4)
        found = evolve(checkpoints, loader, MAPS, progress=False)
        assert found.checkpoints == tuple(checkpoints)
        assert found.images == len(images)
        for column, model in enumerate(checkpoints.values()):
            net = Deconvnet(model)
            record = net.record(images, list(MAPS), batch_size=len(images))
            for layer, chosen in MAPS.items():
                expected = record.strongest(layer, 1, chosen)
                stage = found.stages[layer][column]
                assert torch.equal(stage.units.table(), expected.table())
                assert torch.allclose(stage.units.activation, expected.activation, rtol=1e-12)
                projections = net.project(record, expected)
                assert torch.equal(stage.boxes, projections.boxes)
                assert torch.allclose(stage.windows, projections.windows, rtol=1e-9, atol=1e-12)
                assert torch.equal(found.activations(layer)[:, column], stage.units.activation)

    def test_jumps_are_changes_of_the_image(self):
        images = torch.randn(IMAGES, dtype=torch.float64)
        model, turned = fitting(), fitting()
        found = evolve({"a": model, "b": copy.deepcopy(model), "c": turned}, images.split(5), MAPS, progress=False)
        for layer in MAPS:
            image, activation = found.strongest_images(layer), found.activations(layer)
            assert image.shape == (len(MAPS[layer]), 3)
            assert torch.equal(image >= 0, activation > 0)
            jumps, comparable = found.jumps(layer), (activation[:, 2] > 0) & (activation[:, 1] > 0)
            assert not jumps[:, :2].any()
            assert torch.equal(jumps[:, 2], (image[:, 2] != image[:, 1]) & comparable)

    @staticmethod
    def _with_biases(biases):
        """A convolution of positive weights, normalised, and its rectifier; each map responds, or is dead."""
        model = nn.Sequential(nn.Conv2d(3, len(biases), 3), nn.BatchNorm2d(len(biases)), nn.ReLU()).double().eval()
        model[0].weight.data.abs_()
        model[1].bias.data.copy_(torch.tensor(biases))
        return model

    @pytest.mark.parametrize("layer", ["0", "1", "2"])
    @pytest.mark.parametrize("rectified", [False, True])
    def test_death_and_revival_are_no_jumps(self, layer, rectified):
        images = torch.rand(20, 3, 9, 9, dtype=torch.float64)
        alive = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]]
        biases = [[0.0 if each else -100.0 for each in row] for row in alive]
        checkpoints = {str(number): self._with_biases(row) for number, row in enumerate(biases)}
        found = evolve(checkpoints, images, {layer: range(3)}, rectified=rectified, progress=False)
        heard = torch.tensor(alive, dtype=torch.bool).T
        if layer == "0" and not rectified:
            heard = torch.ones_like(heard)  # the convolution itself is always positive
        assert torch.equal(found.responds(layer), heard)
        assert torch.equal(found.strongest_images(layer) >= 0, heard)
        image = torch.stack([stage.units.image for stage in found.stages[layer]], 1)
        expected = torch.zeros_like(heard)
        expected[:, 1:] = heard[:, 1:] & heard[:, :-1] & (image[:, 1:] != image[:, :-1])
        assert torch.equal(found.jumps(layer), expected)
        for stage, model in zip(found.stages[layer], checkpoints.values(), strict=True):
            assert stage.units.layer == ("2" if rectified else layer)
            with torch.no_grad():
                maps = model[: int(stage.units.layer) + 1](images)
            torch.testing.assert_close(stage.units.activation, maps.amax((0, 2, 3)), rtol=1e-12, atol=1e-12)

    def test_the_first_of_equal_images_wins_whatever_the_batches(self):
        # Small whole numbers add up exactly, in any order.
        images = torch.randint(-3, 4, IMAGES)[:4].double().repeat(3, 1, 1, 1)
        model = fitting()
        for parameter in model.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape).double()
        net = Deconvnet(model)
        expected = net.record(images, list(MAPS), batch_size=12)
        for size in (1, 3, 5, 12):
            units, sources, seen = strongest_of(net, images.split(size), MAPS)
            assert seen == 12
            for layer in MAPS:
                assert int(units[layer].image.max()) < 4
                assert torch.equal(units[layer].table(), expected.strongest(layer, 1, MAPS[layer]).table())
                assert torch.equal(sources[layer], images[units[layer].image])

    def test_every_form_of_batches(self):
        images = torch.randn(37, *IMAGES[1:], dtype=torch.float64)
        model = fitting()
        expected = evolve({"only": model}, images.split(16), MAPS, progress=False)
        labels = torch.zeros(37, dtype=torch.int64)
        dicts = [{"label": labels[: len(batch)], "image": batch} for batch in images.split(16)]
        for batches in (images, dicts, DataLoader(TensorDataset(labels, images), 16)):
            found = evolve({"only": model}, batches, {layer: np.array(maps) for layer, maps in MAPS.items()})
            for layer in MAPS:
                assert torch.equal(found.activations(layer), expected.activations(layer))

    def test_activations_below_zero_are_found_too(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
        model[0].bias.data.fill_(-1e3)
        images = torch.randn(5, 3, 7, 7, dtype=torch.float64)
        found = evolve({"only": model}, images.split(2), {"0": range(4)}, progress=False)
        expected = model(images).amax((0, 2, 3))
        assert torch.allclose(found.activations("0")[:, 0], expected, rtol=1e-12)
        assert (expected < 0).all()

    @pytest.mark.parametrize("name", ["ResNet-18", "GoogLeNet", "ZFNet", "U-Net with max-unpool", "perceptron"])
    def test_other_networks(self, name):
        kind = NETWORKS[name]
        model = kind.build().eval()
        net = Deconvnet(model)
        images = torch.randn(5, kind.channels, *kind.size, dtype=torch.float64)
        layer = (kind.layers or net.layers)[-2]
        record = net.record(images, layer)
        expected = record.strongest(layer, 1, [0, 1])
        (stage,) = evolve({"only": model}, images.split(2), {layer: [0, 1]}, progress=False).stages[layer]
        assert torch.equal(stage.units.table(), expected.table())
        assert torch.allclose(stage.windows, net.project(record, expected).windows, rtol=1e-7, atol=1e-10)

    def test_networks_are_made_when_their_turn_comes_and_parts_are_not_computed_again(self, tmp_path):
        images = torch.randn(IMAGES, dtype=torch.float64)
        models = [fitting() for _ in range(3)]
        made = []

        def make(number):
            if number == 2 and len(made) == 2:
                made.append("interrupted")
                raise KeyboardInterrupt
            made.append(number)
            return models[number]

        checkpoints = {str(number): lambda number=number: make(number) for number in range(3)}
        with pytest.raises(KeyboardInterrupt):
            evolve(checkpoints, images.split(4), MAPS, parts=Parts(tmp_path, 1), progress=False)
        resumed = evolve(checkpoints, images.split(4), MAPS, parts=Parts(tmp_path, 1), progress=False)
        assert made == [0, 1, "interrupted", 2]
        whole = evolve(dict(zip("012", models, strict=True)), images.split(4), MAPS, progress=False)
        for layer in MAPS:
            for ours, theirs in zip(resumed.stages[layer], whole.stages[layer], strict=True):
                assert torch.equal(ours.units.table(), theirs.units.table())
                assert torch.equal(ours.units.activation, theirs.units.activation)
                assert torch.equal(ours.windows, theirs.windows)

    def test_bad_input_is_refused(self):
        images = torch.randn(IMAGES, dtype=torch.float64)
        model = fitting()

        def run(checkpoints=None, batches=None, maps=MAPS):
            checkpoints = {"first": model} if checkpoints is None else checkpoints
            return evolve(checkpoints, images.split(4) if batches is None else batches, maps, progress=False)

        with pytest.raises(ValueError, match="at least one checkpoint"):
            run(checkpoints={})
        with pytest.raises(ValueError, match="one map of each"):
            run(maps={"1": []})
        with pytest.raises(ValueError, match="can be read only once"):
            run(batches=iter(images.split(4)))
        with pytest.raises(ValueError, match="'first': no images were given"):
            run(batches=[])
        with pytest.raises(ValueError, match="'first': no layer 'conv9'"):
            run(maps={"conv9": [0]})
        with pytest.raises(ValueError, match="'first': channels of '1' must be below 6, got 6"):
            run(maps={"1": [6]})
        with pytest.raises(TypeError, match="a map must be a whole number, got 1.7"):
            run(maps={"1": [1.7]})
        with pytest.raises(ValueError, match="RandomSampler shuffles"):
            run(batches=DataLoader(TensorDataset(images), batch_size=4, shuffle=True))
        with pytest.raises(ValueError, match="images must be of one size"):
            run(batches=[images, images[:, :, 1:]], maps={"1": [0]})
        diverged = fitting()
        diverged[0].weight.data.fill_(torch.nan)
        with pytest.raises(ValueError, match="checkpoint 'late': the activations of '1' are not finite"):
            run(checkpoints={"first": model, "late": diverged})


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        generator = np.random.default_rng(torch.randint(2**31, ()).item())
        (tmp_path / "photographs").mkdir()
        for number in range(2):
            small = generator.integers(0, 256, (9, 11, 3), dtype=np.uint8)
            large = Image.fromarray(small).resize((110, 90), Image.Resampling.BICUBIC)
            large.save(tmp_path / "photographs" / f"{number}.png")
        (tmp_path / "network.py").write_text(
            "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU())\n"
        )
        for number in range(3):
            torch.save(
                {"0.weight": torch.randn(8, 3, 5, 5), "0.bias": torch.randn(8)}, tmp_path / f"epoch-{number}.pth"
            )
        return tmp_path

    def _run(self, folder, *more, checkpoints=("epoch-0.pth", "epoch-1.pth", "epoch-2.pth")):
        arguments = ["--model", f"{folder / 'network.py'}:build", "--images", str(folder / "photographs")]
        arguments += ["--checkpoints", ",".join(str(folder / name) for name in checkpoints), "--size", "48"]
        arguments += ["--crops", "9", "--batch-size", "4", "--maps", "3", "-o", str(folder / "out"), *more]
        return CliRunner().invoke(command, arguments)

    def test_it_writes_figures_and_numbers(self, folder):
        result = self._run(folder, "--layers", "1")
        assert result.exit_code == 0, result.output
        out = folder / "out"
        assert sorted(path.name for path in out.iterdir()) == ["1_evolution.png", "evolution.csv", "projections.npz"]
        rows = list(csv.DictReader((out / "evolution.csv").open()))
        assert [row["checkpoint"] for row in rows] == [f"epoch-{number}" for number in range(3) for _ in range(3)]
        assert all(row["jump"] == "0" for row in rows[:3])
        before = rows[:3]
        for number in (1, 2):
            after = rows[3 * number : 3 * number + 3]
            assert [row["jump"] for row in after] == [
                str(int(new["crop"] != old["crop"])) for new, old in zip(after, before, strict=True)
            ]
            before = after
        arrays = np.load(out / "projections.npz")
        assert arrays["1/epoch-2"].shape == (3, 3, 5, 5)
        assert min(Image.open(out / "1_evolution.png").size) > 500

    def test_silent_maps_have_no_crop_no_frame_and_no_patch(self, folder, monkeypatch):
        """Map 0 responds, falls silent and wakes up; map 1 never responds; map 2 always does."""
        drawn = []
        frame = plot_evolution.Rectangle

        def rectangle(*place, **style):
            drawn.append((place[0], style.get("edgecolor")))
            return frame(*place, **style)

        monkeypatch.setattr(plot_evolution, "Rectangle", rectangle)
        text = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 3, 5, 2), nn.ReLU())\n"
        (folder / "network.py").write_text(text)
        alive = [(1, 0, 1), (0, 0, 1), (1, 0, 1)]
        for number, row in enumerate(alive):
            state = {"0.weight": torch.randn(3, 3, 5, 5), "0.bias": torch.tensor([0.0 if r else -1e4 for r in row])}
            torch.save(state, folder / f"epoch-{number}.pth")
        result = self._run(folder, "--layers", "0")
        assert result.exit_code == 0, result.output
        rows = list(csv.DictReader((folder / "out" / "evolution.csv").open()))
        assert [row["silent"] for row in rows] == [str(1 - each) for row in alive for each in row]
        assert {row["rectified_by"] for row in rows} == {"1"}
        for row in rows:
            places = [row[name] for name in ("crop", "photograph", "y", "x", "y0", "x0", "y1", "x1")]
            assert (row["silent"] == "1") == (float(row["activation"]) == 0) == (not any(places))
        assert [row["jump"] for row in rows if row["map"] != "2"] == ["0"] * 6
        third = [row["crop"] for row in rows if row["map"] == "2"]
        jumps = [int(new != old) for old, new in zip(third, third[1:], strict=False)]
        assert [row["jump"] for row in rows if row["map"] == "2"] == ["0", *map(str, jumps)]
        arrays = np.load(folder / "out" / "projections.npz")
        for number, row in enumerate(alive):
            assert [bool(window.any()) for window in arrays[f"0/epoch-{number}"]] == [bool(each) for each in row]
        silent = [place for place, colour in drawn if colour == "none"]
        assert len(silent) == 5  # four cells, and the place of map 1's patch
        assert sum(colour == plot_evolution._JUMP for _, colour in drawn) == sum(jumps)
        lines = [line.split() for line in result.output.splitlines() if "epoch-" in line and "|" not in line]
        assert [line[3:] for line in lines] == [
            ["1", "-"],
            ["2", *f"{jumps[0]} of 1".split()],
            ["1", *f"{jumps[1]} of 1".split()],
        ]

    def test_bad_input_is_one_line_and_leaves_nothing(self, folder):
        for layers, checkpoints, message in (
            ("1", ("epoch-0.pth", "absent.pth"), "absent.pth': no such file"),
            ("1", ("epoch-0.pth", "epoch-0.pth"), "was given more than once"),
            ("conv1", ("epoch-0.pth",), "no layer 'conv1'"),
            ("1", ("network.py",), "weights must be a .pth, .pt or .safetensors file"),
            ("", ("epoch-0.pth",), "at least one layer"),
        ):
            result = self._run(folder, "--layers", layers, checkpoints=checkpoints)
            assert result.exit_code == 2, result.output
            assert message in " ".join(result.output.split())
            assert not (folder / "out").exists()

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ("nn.Sequential(nn.Conv2d(2, 8, 5, 2), nn.ReLU())", "does not take images of 3x48x48"),
            ("nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU()).double()", "torch.float64"),
        ],
    )
    def test_networks_of_other_images_are_one_line(self, folder, network, message):
        text = f"from torch import nn\n\n\ndef build():\n    return {network}\n"
        (folder / "network.py").write_text(text)
        space: dict[str, object] = {}
        exec(text, space)
        torch.save(space["build"]().state_dict(), folder / "epoch-0.pth")
        result = self._run(folder, "--layers", "1", checkpoints=("epoch-0.pth",))
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
        assert not (folder / "out").exists()

    def test_what_cannot_be_is_found_before_the_work(self, folder, monkeypatch):
        monkeypatch.setattr(evolution, "evolve", None)
        (folder / "bad.pth").write_bytes(b"nothing")
        for more, checkpoints, message in (
            (["--seed", "-1"], ("epoch-0.pth",), "seed must be at least 0, got -1"),
            (["-o", str(folder / "network.py" / "out")], ("epoch-0.pth",), "cannot be written"),
            ([], ("epoch-0.pth", "epoch-1.pth", "bad.pth"), "bad.pth"),
        ):
            result = self._run(folder, "--layers", "1", *more, checkpoints=checkpoints)
            assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
            assert not (folder / "out").exists()

    def test_layers_of_any_names(self, folder):
        (folder / "network.py").write_text(
            "from collections import OrderedDict\nfrom torch import nn\n\n\ndef build():\n"
            "    layers = [('file', nn.Conv2d(3, 4, 3)), ('a/b', nn.ReLU())]\n"
            "    return nn.Sequential(OrderedDict(layers))\n"
        )
        for name in ("epoch-0.pth", "epoch-1.pth"):
            torch.save({"file.weight": torch.randn(4, 3, 3, 3), "file.bias": torch.randn(4)}, folder / name)
        result = self._run(folder, "--layers", "file,a/b", checkpoints=("epoch-0.pth", "epoch-1.pth"))
        assert result.exit_code == 0, result.output
        keys = {f"{layer}/epoch-{number}" for layer in ("file", "a/b") for number in range(2)}
        assert set(np.load(folder / "out" / "projections.npz").files) == keys
        assert {path.name for path in (folder / "out").glob("*.png")} == {"file_evolution.png", "a_b_evolution.png"}

    def test_parts_of_an_edited_network_are_not_used(self, folder, monkeypatch):
        text = (
            "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.add_module('0', nn.Conv2d(3, 8, 5, 2))\n        self.relu = nn.ReLU()\n\n"
            "    def forward(self, x):\n        return self.relu(getattr(self, '0')(x))\n\n\n"
            "def build():\n    return Net()\n"
        )
        stage, made = evolution._stage, []

        def interrupted(name, *more):
            if name == "epoch-1" and not made:
                made.append(name)
                raise KeyboardInterrupt
            return stage(name, *more)

        monkeypatch.setattr(evolution, "_stage", interrupted)
        (folder / "network.py").write_text(text)
        assert self._run(folder, "--layers", "relu").exit_code == 1
        (folder / "network.py").write_text(text.replace("'0')(x)", "'0')(x) * 2 + 1"))
        assert self._run(folder, "--layers", "relu").exit_code == 0
        assert self._run(folder, "--layers", "relu", "-o", str(folder / "fresh")).exit_code == 0
        assert (folder / "out" / "evolution.csv").read_text() == (folder / "fresh" / "evolution.csv").read_text()
