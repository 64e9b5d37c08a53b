"""The two repairs on small training runs: what is trained, clipped, counted, interrupted and written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from deconv_kernels.cli.repair import command
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.filters import filter_rms
from deconv_kernels.experiments.repair import (
    Arm,
    Recipe,
    ShiftedLevels,
    SmallZFNet,
    overheat_,
    photograph_crops,
    readable,
    reading_photographs,
    repair,
    standard_arms,
    train,
)
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import Photograph, cut


def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 5, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(),
        nn.Linear(54, 3),
    )  # fmt: skip


def labelled(count):
    """Images whose class is their brightest channel."""
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 25, 25) * 40
    images[torch.arange(count), labels] += 30
    return TensorDataset(images, labels)


class Interrupted(Dataset):
    """Raises after so many images have been read."""

    def __init__(self, data, after):
        self.data, self.left = data, after

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.data[index]


def assert_same(first, second):
    assert (first.arm, first.seed, first.losses, first.accuracies) == (
        second.arm,
        second.seed,
        second.losses,
        second.accuracies,
    )
    for name in ("rms", "aliased_energy", "aliased_response", "filters"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert all(torch.equal(dead, second.dead[layer]) for layer, dead in first.dead.items())
    assert first.checkpoints.keys() == second.checkpoints.keys()
    for epoch, state in first.checkpoints.items():
        assert all(torch.equal(value, second.checkpoints[epoch][key]) for key, value in state.items())


RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=1e-3)
ARMS = (Arm("sound", tiny), Arm("hot", tiny, heat=30.0, radius=None), Arm("clipped", tiny, heat=30.0, radius=0.05))


class TestTraining:
    def test_a_seed_decides_everything(self):
        images, validation = labelled(30), labelled(12)
        once, again = (
            repair(images, validation, ARMS, (3, 5), RECIPE, checkpoints=(0, 4), progress=False) for _ in range(2)
        )
        torch.rand(7)  # the caller's generator plays no part
        assert [(run.arm, run.seed) for run in once] == [(arm.name, seed) for arm in ARMS for seed in (3, 5)]
        for first, second in zip(once, again, strict=True):
            assert_same(first, second)
        assert not torch.equal(once[0].filters, once[1].filters)

    def test_the_callers_random_numbers_are_left_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        train(labelled(9), labelled(6), ARMS[0], 0, RECIPE)
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        data = TensorDataset(torch.zeros(6, 3, 25, 25), torch.zeros(6, dtype=torch.int64))
        train(data, data, ARMS[0], 0, RECIPE)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize("after", [5, 30 + 17, 4 * 30 + 50, 7 * 30])
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, tmp_path, after):
        images, validation = labelled(30), labelled(12)
        whole = repair(images, validation, ARMS, (1, 2), RECIPE, checkpoints=(1, 3), progress=False)
        with pytest.raises(KeyboardInterrupt):
            repair(Interrupted(images, after), validation, ARMS, (1, 2), RECIPE, checkpoints=(1, 3),
                   parts=Parts(tmp_path, "a"), progress=False)  # fmt: skip
        rest = Interrupted(images, 10**6)
        resumed = repair(
            rest, validation, ARMS, (1, 2), RECIPE, checkpoints=(1, 3), parts=Parts(tmp_path, "a"), progress=False
        )
        for first, second in zip(whole, resumed, strict=True):
            assert_same(first, second)
        finished = after // 30  # epochs
        assert 10**6 - rest.left == (len(ARMS) * 2 * RECIPE.epochs - finished) * 30

    def test_one_step_is_that_of_sgd_with_momentum_and_clipping(self):
        """Two epochs of one batch each, written out."""
        data = labelled(6)
        recipe = Recipe(epochs=2, batch_size=6, learning_rate=0.05, momentum=0.8, flip=False)
        network = lambda: nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(484, 3))  # noqa: E731
        run = train(data, data, Arm("a", network, heat=50.0, radius=0.1), 0, recipe, checkpoints=(0, 1, 2))
        weights = {key: value.double() for key, value in run.checkpoints[0].items()}
        assert filter_rms(weights["0.weight"]).max() <= 0.1 * (1 + 1.2e-7)
        momentum = {key: torch.zeros_like(value) for key, value in weights.items()}
        images, labels = data.tensors[0].double(), data.tensors[1]
        for epoch in (1, 2):
            leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
            maps = F.relu(F.conv2d(images, leaves["0.weight"], leaves["0.bias"], 2)).flatten(1)
            loss = F.cross_entropy(F.linear(maps, leaves["3.weight"], leaves["3.bias"]), labels)
            assert run.losses[epoch - 1] == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
            for key, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                momentum[key] = 0.8 * momentum[key] + gradient
                weights[key] = weights[key] - 0.05 * momentum[key]
            rms = filter_rms(weights["0.weight"]).view(-1, 1, 1, 1)
            weights["0.weight"] = weights["0.weight"] * torch.where(rms > 0.1, 0.1 / rms, 1.0)
            for key, value in run.checkpoints[epoch].items():
                assert torch.allclose(value.double(), weights[key], rtol=1e-3, atol=1e-3 * weights[key].abs().max())

    def test_learning_rate_falls_in_the_last_quarter(self):
        rates = [Recipe(epochs=12, learning_rate=1.0).rate(epoch) for epoch in range(1, 13)]
        assert rates == [1.0] * 9 + [0.1] * 3
        assert Recipe(epochs=1, learning_rate=1.0).rate(1) == 1.0


class TestRuns:
    def test_numbers_are_those_of_the_last_checkpoint(self):
        images, validation = labelled(24), labelled(15)
        for run in repair(images, validation, ARMS, (4,), RECIPE, checkpoints=(4,), progress=False):
            network = tiny().eval()
            network.load_state_dict(run.checkpoints[4])
            x, y = validation.tensors
            with torch.no_grad():
                right = (network(x).argmax(1) == y).sum().item()
                alive = {"0": network[:2](x).amax((0, 2, 3)) > 0, "3": network[:5](x).amax((0, 2, 3)) > 0}
            assert run.accuracy == run.accuracies[-1]
            assert run.accuracy == right / 15
            assert torch.equal(run.filters, network[0].weight)
            assert torch.equal(run.rms, filter_rms(network[0].weight))
            assert all(torch.equal(run.dead[layer], ~alive[layer]) for layer in ("0", "3"))
            assert run.dead_count == sum(int((~each).sum()) for each in alive.values())
            assert run.dead_share == run.dead_count / 11

    def test_arms_of_a_seed_start_alike_but_for_the_hot_filter(self):
        runs = repair(labelled(9), labelled(6), ARMS, (2,), RECIPE, checkpoints=(0,), progress=False)
        sound, hot, clipped = (run.checkpoints[0] for run in runs)
        assert torch.equal(hot["0.weight"][1:], tiny_start(2)["0.weight"][1:])
        assert torch.equal(hot["0.weight"][0], tiny_start(2)["0.weight"][0] * 30)
        assert torch.allclose(
            clipped["0.weight"][0] / filter_rms(clipped["0.weight"])[0],
            hot["0.weight"][0] / filter_rms(hot["0.weight"])[0],
        )
        assert filter_rms(clipped["0.weight"]).max() <= 0.05 * (1 + 1.2e-7)
        assert all(torch.equal(sound[key], hot[key]) for key in sound if "bias" in key or key.startswith("7"))

    def test_the_bound_holds_at_every_checkpoint(self):
        arm = Arm("clipped", tiny, heat=30.0, radius=0.05)
        run = train(labelled(24), labelled(6), arm, 0, Recipe(4, 8, 0.1), checkpoints=range(5))
        for state in run.checkpoints.values():
            for key in ("0.weight", "3.weight"):
                assert filter_rms(state[key]).max() <= 0.05 * (1 + 1.2e-7)

    def test_training_that_diverges_is_said_so(self):
        run = train(labelled(24), labelled(6), Arm("wild", tiny, radius=None), 0, Recipe(3, 4, 1e38))
        assert not all(bool(value.isfinite()) for value in torch.tensor(run.losses))
        assert run.dead_share == 1
        assert run.rms.isnan().all()
        assert np.isnan(run.aliased)

    def test_bad_input_is_refused(self):
        images = labelled(6)
        for change, message in (
            ({"arms": ()}, "at least one arm and one seed"),
            ({"seeds": ()}, "at least one arm and one seed"),
            ({"arms": (ARMS[0], ARMS[0])}, "different names"),
            ({"train_set": labelled(0)}, "training set must hold images"),
            ({"checkpoints": (5,)}, "epochs from 0 to 4, got 5"),
            ({"arms": (Arm("dense", lambda: nn.Linear(2, 2)),)}, r"no convolution"),
            ({"arms": (Arm("radius", tiny, radius=-1.0),)}, "radius must be a number above 0"),
        ):
            arguments = {"train_set": images, "validation_set": images, "arms": ARMS, "seeds": (0,), "recipe": RECIPE}
            with pytest.raises(ValueError, match=message):
                repair(**{**arguments, **change}, progress=False)
        for change in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}):
            with pytest.raises(ValueError, match=next(iter(change))):
                Recipe(**change)
        with pytest.raises(ValueError, match="filter must be from 0 to 4, got 5"):
            overheat_(tiny(), 2.0, 5)


def tiny_start(seed):
    """The weights before heating of a seed, from an arm that neither heats nor clips."""
    arm = Arm("untouched", tiny, radius=None)
    return train(labelled(3), labelled(3), arm, seed, RECIPE, checkpoints=(0,)).checkpoints[0]


class TestNetworks:
    @pytest.mark.parametrize("size", [48, 64, 75])
    def test_coarse_and_fine_first_layers_lead_to_maps_of_one_size(self, size):
        fine, coarse = (SmallZFNet(7, kernel, stride, True).eval() for kernel, stride in ((7, 2), (11, 4)))
        images = torch.randn(2, 3, size, size)
        assert fine(images).shape == coarse(images).shape == (2, 7)
        depth = list(dict(fine.named_children())).index("pool2")
        heights = [network[: depth + 1](images).shape[2] for network in (fine, coarse)]
        assert abs(heights[0] - heights[1]) <= 1
        assert fine.conv1.weight.std().item() == pytest.approx(1e-2, rel=0.1)
        with pytest.raises(ValueError, match="stride must be 1, 2 or 4"):
            SmallZFNet(7, 7, 3)

    def test_networks_read_photographs_as_they_were_trained(self):
        network = SmallZFNet(4).eval()
        mean = (101.0, 99.5, 90.25)
        pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
        levels = pixels - torch.tensor(mean).view(3, 1, 1)
        place = "deconv_kernels.models:ZFNet"
        inputs = load_weights(place, "random").preprocess(pixels)
        assert torch.allclose(ShiftedLevels(mean)(inputs), levels, atol=1e-3)
        wrapped = reading_photographs(SmallZFNet(4)).eval()
        wrapped.load_state_dict(readable(network.state_dict(), mean))
        with torch.no_grad():
            assert torch.allclose(wrapped(inputs), network(levels), rtol=1e-3, atol=1e-4)

    def test_standard_arms_are_the_papers_repairs(self):
        sound, hot, clipped, coarse = standard_arms(5, heat=20.0, radius=0.2)
        assert [(arm.heat, arm.radius) for arm in (sound, hot, clipped, coarse)] == [
            (1.0, 0.2),
            (20.0, None),
            (20.0, 0.2),
            (1.0, 0.2),
        ]
        assert sound.network().conv1.weight.shape == (32, 3, 7, 7)
        assert coarse.network().conv1.weight.shape == (32, 3, 11, 11)
        assert coarse.network().conv1.stride == (4, 4)


class TestCrops:
    @pytest.mark.parametrize(("height", "width"), [(300, 451), (64, 130), (128, 64), (201, 199)])
    def test_training_and_validation_crops_share_no_pixel(self, height, width):
        generator = np.random.default_rng(torch.randint(2**31, ()).item())
        # The red and green levels of a pixel say where it is.
        y, x = np.mgrid[:height, :width]
        places = (y * width + x).astype(np.int64)
        pixels = np.stack([places // 65536, places // 256 % 256, places % 256], 2).astype(np.uint8)
        noise = generator.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        photographs = [Photograph("places", pixels), Photograph("noise", noise)]
        crops = photograph_crops(photographs, 64, train=40, validation=20, seed=3)
        seen = []
        for data, count in ((crops.train, 40), (crops.validation, 20)):
            images, labels = data.tensors
            assert labels.tolist() == [0] * count + [1] * count
            levels = (images[labels == 0] + torch.tensor(crops.mean).view(3, 1, 1)).round().long()
            found = levels[:, 0] * 65536 + levels[:, 1] * 256 + levels[:, 2]
            top = found[:, 0, 0]
            grid = top[:, None, None] + torch.arange(64)[:, None] * width + torch.arange(64)
            assert torch.equal(found, grid)
            seen.append(set(found.flatten().tolist()))
        assert not seen[0] & seen[1]
        assert torch.allclose(crops.train.tensors[0].mean((0, 2, 3)), torch.zeros(3), atol=1e-2)
        again = photograph_crops(photographs, 64, train=40, validation=20, seed=3)
        assert torch.equal(again.train.tensors[0], crops.train.tensors[0])
        assert cut(photographs, []).shape[0] == 0

    def test_what_is_too_little_is_refused(self):
        photograph = Photograph("small.png", np.zeros((64, 127, 3), np.uint8))
        with pytest.raises(ValueError, match="small.png is 127x64 pixels, too small"):
            photograph_crops([photograph, photograph])
        with pytest.raises(ValueError, match="at least two photographs"):
            photograph_crops([photograph])
        with pytest.raises(ValueError, match="train must be at least 1"):
            photograph_crops([photograph, photograph], train=0)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        generator = np.random.default_rng(torch.randint(2**31, ()).item())
        (tmp_path / "photographs").mkdir()
        for number in range(2):
            small = generator.integers(0, 256, (13, 17, 3), dtype=np.uint8)
            large = Image.fromarray(small).resize((136, 104), Image.Resampling.BICUBIC)
            large.save(tmp_path / "photographs" / f"{number}.png")
        return tmp_path

    def _run(self, folder, *more):
        arguments = ["--images", str(folder / "photographs"), "--size", "48", "--train", "6", "--validation", "4"]
        arguments += ["--epochs", "2", "--batch-size", "6", "--seeds", "2", "-o", str(folder / "out"), *more]
        return CliRunner().invoke(command, arguments)

    def test_it_writes_figure_numbers_and_checkpoints(self, folder):
        result = self._run(folder, "--checkpoints", "0,2")
        assert result.exit_code == 0, result.output
        out = folder / "out"
        names = {path.name for path in out.iterdir()}
        arms = ("7x7-stride-2", "hot-filter", "hot-filter-clipped", "11x11-stride-4")
        assert names == {"repair.png", "repair.csv", "repair.json", "networks.py"} | {
            f"{arm}-epoch-{epoch:02d}.pth" for arm in arms for epoch in (0, 2)
        }
        rows = list(csv.DictReader((out / "repair.csv").open()))
        numbers = json.loads((out / "repair.json").read_text())
        assert [(row["arm"], int(row["seed"])) for row in rows] == [
            (run["arm"], run["seed"]) for run in numbers["runs"]
        ]
        for row, run in zip(rows, numbers["runs"], strict=True):
            assert float(row["accuracy"]) == run["accuracies"][-1]
            assert int(row["dead"]) == sum(map(len, run["dead"].values()))
            assert float(row["largest_rms"]) == pytest.approx(max(run["rms"]))
        for name, arm in (("fine", arms[2]), ("coarse", arms[3])):
            weights = load_weights(f"{out / 'networks.py'}:{name}", out / f"{arm}-epoch-02.pth")
            state = weights.model().state_dict()
            run = next(run for run in numbers["runs"] if run["arm"].replace(",", "").replace(" ", "-") == arm)
            assert filter_rms(state["conv1.weight"]).tolist() == pytest.approx(run["rms"], rel=1e-6)
            expected = ShiftedLevels(numbers["settings"]["mean"])
            assert torch.allclose(state["levels.shift"], expected.shift)

    def test_bad_input_is_one_line_and_leaves_nothing(self, folder):
        for more, message in (
            (["--checkpoints", "one"], "epochs separated by commas, got 'one'"),
            (["--checkpoints", "3"], "epochs from 0 to 2, got 3"),
            (["--seeds", "0"], "seeds must be at least 1"),
            (["--size", "100"], "too small for training and validation crops"),
            (["--size", "16"], "images of (3, 16, 16) do not go through the network of '7x7 stride 2'"),
            (["--size", "1"], "images of (3, 1, 1) do not go through the network of '7x7 stride 2'"),
            (["--learning-rate", "-1"], "learning_rate must be a number above 0"),
            (["--radius", "0"], "radius must be a number above 0"),
        ):
            result = self._run(folder, *more)
            assert result.exit_code == 2, result.output
            assert message in result.output
            assert not (folder / "out").exists()
