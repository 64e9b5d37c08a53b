"""Mining against brute force: every activation of every map in one Python list, sorted."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mining_process import CASES, run
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import deconv_kernels as dk
import deconv_kernels.cli.mine as mine_command
from deconv_kernels.cli.mine import command
from deconv_kernels.data.crops import CropImages
from deconv_kernels.experiments.common import quantiles as quantile_search
from deconv_kernels.experiments.common.batches import fetch
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.common.quantiles import order_keys, passes_needed
from deconv_kernels.experiments.mining import Mined, mine, renumbered
from deconv_kernels.models import load_weights
from deconv_kernels.photographs import Crop, cut, load_photographs

LAYERS = ("0", "1", "2", "4", "6")
Rows = list[tuple[int, int, int, int, float]]


class Counting(nn.Sequential):
    """Small integer weights: with integer images no sum is ever rounded, and many activations are equal."""

    def __init__(self, height: int = 11, width: int = 13, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(
            nn.Conv2d(2, 5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(5, 4, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1) if height == 0 else nn.Flatten(),
            nn.Identity() if height == 0 else nn.Linear(4 * flat(height) * flat(width), 9),
        )
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape).to(dtype)
        self[3].weight.data[1], self[3].bias.data[1] = 0, -1  # a dead map, negative before its rectifier
        self.eval()


def flat(length: int) -> int:
    return ((length + 1) // 2 - 3) // 2 + 1


def integers(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-2, 3, (count, *(shape or (2, 11, 13)))).to(dtype)


def every_activation(model: nn.Module, batches: Sequence[Tensor], layer: str) -> list[list[tuple[int, int, int, int]]]:
    """(N, C, H, W) or (N, F, 1, 1) of every image, by a hook on the model itself."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, given, out: seen.append(out.clone()))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return [image if image.dim() == 3 else image[:, None, None] for batch in seen for image in batch]


def sortable(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


def brute(maps: Sequence[Tensor], k: int, kind: str, one_per_image: bool) -> Rows:
    rows: Rows = []
    for channel in range(len(maps[0])):
        units = []
        for image, of_image in enumerate(maps):
            within = [(image, channel, y, x, v) for y, row in enumerate(of_image[channel].tolist())
                      for x, v in enumerate(row) if kind == "strongest" or v > 0]  # fmt: skip
            within.sort(key=lambda unit: sortable(unit[4]), reverse=False)
            if kind == "strongest":
                within.sort(key=lambda unit: (not sortable(unit[4])[0], -sortable(unit[4])[1]))
            units += within[:1] if one_per_image else within
        if kind == "strongest":
            units.sort(key=lambda unit: (not sortable(unit[4])[0], -sortable(unit[4])[1]))
        else:
            units.sort(key=lambda unit: unit[4])
        rows += units[:k]
    return rows


def brute_quantile(maps: Sequence[Tensor], q: float) -> Rows:
    rows = []
    for channel in range(len(maps[0])):
        units = [(image, channel, y, x, v) for image, of_image in enumerate(maps)
                 for y, row in enumerate(of_image[channel].tolist()) for x, v in enumerate(row)]  # fmt: skip
        value = sortable(sorted((u[4] for u in units), key=sortable)[round(q * (len(units) - 1))])
        rows.append(next(unit for unit in units if sortable(unit[4]) == value))
    return rows


def rows(units: dk.Units) -> Rows:
    assert units.activation is not None
    columns = (units.image, units.channel, units.y, units.x, units.activation)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_rows(units: dk.Units, expected: Rows) -> None:
    found = rows(units)
    assert [unit[:4] for unit in found] == [unit[:4] for unit in expected]
    np.testing.assert_array_equal([unit[4] for unit in found], [unit[4] for unit in expected])


def assert_equal(one: Mined, other: Mined) -> None:
    """To the last bit."""
    assert (one.spans, one.k, one.one_per_image, one.layers) == (
        other.spans,
        other.k,
        other.one_per_image,
        other.layers,
    )
    for (kind, units), (also, others) in zip(one.units(), other.units(), strict=True):
        assert kind == also and units.layer == others.layer
        assert torch.equal(units.table(), others.table()), (units.layer, kind)
        assert units.activation is not None and others.activation is not None
        assert units.activation.dtype == others.activation.dtype
        assert torch.equal(units.activation.view(torch.uint8), others.activation.view(torch.uint8)), (units.layer, kind)


QUANTILES = (0.0, 0.1, 0.5, 0.75, 0.999, 1.0)


@pytest.mark.parametrize("one_per_image", [True, False])
@pytest.mark.parametrize("k", [1, 4, 1000])
def test_against_brute_force(one_per_image: bool, k: int) -> None:
    model, images = Counting(), integers(17)
    batches = images.split(5)  # the last is smaller
    quantiles = QUANTILES if k == 4 else ()
    mined = mine(
        model, batches, LAYERS, k, one_per_image=one_per_image, weakest=True, quantiles=quantiles, progress=False
    )
    assert mined.images == 17 and mined.layers == LAYERS and mined.spans == ((0, 17),)
    for layer in LAYERS:
        maps = every_activation(model, batches, layer)
        assert_rows(mined.strongest[layer], brute(maps, k, "strongest", one_per_image))
        assert_rows(mined.weakest[layer], brute(maps, k, "weakest", one_per_image))
        for q in quantiles:
            assert_rows(mined.quantiles[layer][q], brute_quantile(maps, q))
    assert 1 not in mined.weakest["4"].channel  # dead
    assert mined.strongest["4"].activation[mined.strongest["4"].channel == 1].eq(0).all()


def test_as_the_record() -> None:
    """What `Record` says of all images at once, where nothing is rounded."""
    net, images = dk.Deconvnet(Counting()), integers(12)
    mined = mine(net, images.split(5), LAYERS, 5, quantiles=QUANTILES, progress=False)
    record = net.record(images, LAYERS, activations=True)
    for layer in LAYERS:
        expected = record.strongest(layer, 5)
        assert torch.equal(mined.strongest[layer].table(), expected.table())
        assert torch.equal(mined.strongest[layer].activation, expected.activation)
        for q in QUANTILES:
            assert torch.equal(mined.quantiles[layer][q].activation, record.at_quantile(layer, q).activation)


def identity(channels: int, dtype: torch.dtype) -> nn.Module:
    """A network whose activations are its images, whatever they hold."""
    convolution = nn.Conv2d(channels, channels, 1, groups=channels, bias=False).to(dtype)
    convolution.weight.data.fill_(1)
    return nn.Sequential(convolution).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("one_per_image", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_hostile_values(dtype: torch.dtype, one_per_image: bool, memory_format: torch.memory_format) -> None:
    """NaN, infinities, zeros of both signs, subnormals, ties and values that differ in the last bit."""
    kind = torch.finfo(dtype)
    least = kind.smallest_normal
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, kind.max, kind.min, least, -least, least * kind.eps,
               1.0, 1.0 + kind.eps, -1.0, -1.0 - kind.eps]  # fmt: skip
    values = torch.tensor(special, dtype=dtype)
    images = values[torch.randint(len(special), (9, 3, 4, 5))]
    images[:, 2] = torch.where(images[:, 2] > 0, -images[:, 2], images[:, 2])  # a map that is never positive
    images = images.contiguous(memory_format=memory_format)
    model, batches = identity(3, dtype), images.split(4)
    maps = every_activation(model, batches, "0")
    settings = {"one_per_image": one_per_image, "weakest": True, "quantiles": QUANTILES, "progress": False}
    mined = mine(model, batches, "0", 7, **settings)
    assert_rows(mined.strongest["0"], brute(maps, 7, "strongest", one_per_image))
    assert_rows(mined.weakest["0"], brute(maps, 7, "weakest", one_per_image))
    assert 2 not in mined.weakest["0"].channel
    for q in QUANTILES:
        assert_rows(mined.quantiles["0"][q], brute_quantile(maps, q))
    assert_equal(mined, mine(model, images.split(2), "0", 7, **settings))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_order_keys(dtype: torch.dtype) -> None:
    """All pairs of values have the order that Python gives them, and keys lead back to them."""
    kind = torch.finfo(dtype)
    least = kind.smallest_normal * kind.eps
    special = [0.0, -0.0, math.inf, -math.inf, kind.max, kind.min, least, -least]
    values = torch.cat([torch.tensor(special, dtype=dtype), torch.randn(30).to(dtype)])
    keys = order_keys(values).to(torch.int64)
    numbers = values.double()
    assert torch.equal(numbers[:, None] < numbers, keys[:, None] < keys)
    assert torch.equal(numbers[:, None] == numbers, keys[:, None] == keys)
    nan = order_keys(torch.tensor([math.nan, -math.nan], dtype=dtype)).to(torch.int64)
    assert nan[0] == nan[1] > keys.max()
    assert keys.min() > torch.iinfo(order_keys(values).dtype).min
    assert torch.equal(quantile_search.from_keys(keys, dtype), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_with_little_memory(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Digits of a few bits, so that many passes are needed, give the same."""
    model, batches = Counting(dtype=dtype), integers(5, dtype=dtype).split(3)
    noisy = [batch + torch.rand_like(batch) for batch in batches]
    settings = {"quantiles": QUANTILES, "progress": False}
    expected = mine(model, noisy, ("0", "6"), 2, **settings)
    monkeypatch.setattr(quantile_search, "_COUNT_BYTES", 5000)
    assert passes_needed(5, 6, dtype) > 5
    monkeypatch.setattr(quantile_search, "_CHUNK", 50)
    assert_equal(mine(model, noisy, ("0", "6"), 2, **settings), expected)


def test_numpy_agrees_on_quantiles() -> None:
    """Of values that are all different, `numpy.quantile` by the nearest rank."""
    images = torch.randn(6, 2, 9, 9)
    mined = mine(identity(2, torch.float32), images.split(2), "0", quantiles=(0.31, 0.9), progress=False)
    for q, units in mined.quantiles["0"].items():
        values = images.transpose(0, 1).flatten(1).sort(1).values
        expected = values[:, round(q * (6 * 81 - 1))]
        assert torch.equal(units.activation, expected)
        between = np.quantile(values.numpy(), q, axis=1, method="closest_observation")
        position = np.array([values[c].tolist().index(float(v)) for c, v in enumerate(between)])
        assert np.abs(position - q * (6 * 81 - 1)).max() <= 1


@pytest.mark.parametrize("one_per_image", [True, False])
def test_any_partition_merges_to_the_same(one_per_image: bool) -> None:
    """Parts of a data set mined apart, merged in any order and grouping."""
    model, images = Counting(), integers(19)
    settings = {"one_per_image": one_per_image, "weakest": True, "progress": False}
    whole = mine(model, images.split(4), LAYERS, 3, **settings)
    cuts = sorted(torch.randperm(18)[:4].add(1).tolist())
    parts = [
        mine(model, images[start:stop].split(2), LAYERS, 3, first_image=start, **settings)
        for start, stop in zip([0, *cuts], [*cuts, 19], strict=True)
    ]
    for order in (torch.randperm(5).tolist() for _ in range(3)):
        a, b, c, d, e = (parts[place] for place in order)
        assert_equal(Mined.merged([a, b, c, d, e]), whole)
        assert_equal(Mined.merged([Mined.merged([a, b]), c, Mined.merged([d, e])]), whole)
        assert_equal(Mined.merged([e, Mined.merged([Mined.merged([c, d]), b]), a]), whole)
    assert parts[1].spans == ((cuts[0], cuts[1]),)
    assert Mined.merged([parts[0], parts[2]]).spans == ((0, cuts[0]), (cuts[1], cuts[2]))


def test_merging_refuses() -> None:
    model, images = Counting(), integers(4)
    one, two = (mine(model, [images], "4", 3, first_image=first, progress=False) for first in (0, 3))
    with pytest.raises(ValueError, match="image 3 is in several parts"):
        Mined.merged([one, two])
    with pytest.raises(ValueError, match="no parts"):
        Mined.merged([])
    with pytest.raises(ValueError, match="one k"):
        Mined.merged([one, mine(model, [images], "4", 4, first_image=4, progress=False)])
    with pytest.raises(ValueError, match="same layers"):
        Mined.merged([one, mine(model, [images], "3", 3, first_image=4, progress=False)])
    with pytest.raises(ValueError, match="quantiles of parts do not determine"):
        Mined.merged([one, mine(model, [images], "4", 3, first_image=4, quantiles=[0.5], progress=False)])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saving_and_loading(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    images = torch.randn(5, 3, 6, 6, dtype=dtype)
    images[1, 1, 2, 2], images[2, 0, 0, 0], images[:, 2] = math.nan, -0.0, -1.0
    model = identity(3, dtype)
    quantiles = (0.1, 0.1234567890123, 0.1234567890124)
    mined = mine(model, [images], "0", 4, weakest=True, quantiles=quantiles, first_image=7, progress=False)
    mined.save(tmp_path / f"mined{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"mined{suffix}"]
    loaded = Mined.load(tmp_path / f"mined{suffix}")
    assert loaded.spans == ((7, 12),)
    assert list(loaded.quantiles["0"]) == list(quantiles)
    for (kind, units), (also, others) in zip(mined.units(), loaded.units(), strict=True):
        assert kind == also and torch.equal(units.table(), others.table())
        assert units.activation.dtype == others.activation.dtype == dtype
        np.testing.assert_array_equal(units.activation.double().numpy(), others.activation.double().numpy())


def test_files_that_are_not_mined(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "pickled.npz", about=np.array([{}], dtype=object))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("text.npz", "pickled.npz", "other.npz", "empty.safetensors", "missing.npz", "mined.pkl"):
        with pytest.raises(ValueError, match=name):
            Mined.load(tmp_path / name)
    from deconv_kernels.data.tensor_files import save_tensors

    save_tensors(tmp_path / "tensors.npz", {"a": torch.zeros(2)}, {"format": "something else"})
    with pytest.raises(ValueError, match="does not hold mined units"):
        Mined.load(tmp_path / "tensors.npz")
    mined = mine(Counting(), [integers(2)], "4", progress=False)
    with pytest.raises(ValueError, match="must end in"):
        mined.save(tmp_path / "mined.txt")
    with pytest.raises(OSError):
        mined.save(tmp_path / "no folder" / "mined.npz")


class Labelled(Dataset[Any]):
    def __init__(self, images: Tensor) -> None:
        self.images, self.loaded = images, []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        self.loaded.append(index)
        return index, self.images[index]


class Stream(IterableDataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.images)


def test_every_kind_of_data() -> None:
    model, images = Counting(), integers(14)
    expected = mine(model, list(images.split(3)), "4", 3, progress=False)
    labels = torch.arange(14)
    kinds = {
        "tensor": images,
        "generator": (batch for batch in images.split(3)),
        "tuples": [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in images.split(3)],
        "labels first": [[torch.zeros(len(batch), dtype=torch.int64), batch] for batch in images.split(3)],
        "dicts": [{"label": torch.zeros(len(batch), dtype=torch.int64), "pixels": batch} for batch in images.split(3)],
        "loader": DataLoader(TensorDataset(images, labels), batch_size=3),
        "loader of a map": DataLoader(Labelled(images), batch_size=4),
        "loader with workers": DataLoader(Labelled(images), batch_size=4, num_workers=1),
        "loader of a stream": DataLoader(Stream(images), batch_size=4),
        "loader of batches": DataLoader(list(images.split(3)), batch_size=None),
        "empty batches between": [images[:0], images[:5], images[5:5], images[5:], images[:0]],
        "any sampler": DataLoader(Labelled(images), batch_sampler=[[0], list(range(1, 13)), [13]]),
    }
    for name, data in kinds.items():
        assert_equal(mine(model, data, "4", 3, progress=False), expected), name
    reverse = DataLoader(Labelled(images), batch_sampler=[[13, 12, 11], list(range(10, -1, -1))])
    assert_equal(mine(model, reverse, "4", 3, progress=False), mine(model, images.flip(0), "4", 3, progress=False))


def test_images_of_several_sizes() -> None:
    model = Counting(height=0)
    batches = [integers(3, 2, 11, 13), integers(2, 2, 20, 9), integers(4, 2, 7, 30)]
    mined = mine(model, batches, ("1", "4"), 3, one_per_image=False, weakest=True, quantiles=(0.3, 0.8), progress=False)
    for layer in ("1", "4"):
        maps = every_activation(model, batches, layer)
        assert_rows(mined.strongest[layer], brute(maps, 3, "strongest", False))
        assert_rows(mined.weakest[layer], brute(maps, 3, "weakest", False))
        for q in (0.3, 0.8):
            assert_rows(mined.quantiles[layer][q], brute_quantile(maps, q))


class TwoInputs(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.relu(left - right)


def test_a_network_of_rows_and_one_of_two_inputs() -> None:
    rows_of = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval()
    for parameter in rows_of.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    batches = integers(11, 6).split(4)
    mined = mine(rows_of, batches, "1", 20, weakest=True, progress=False)
    maps = every_activation(rows_of, batches, "1")
    assert_rows(mined.strongest["1"], brute(maps, 20, "strongest", True))
    assert_rows(mined.weakest["1"], brute(maps, 20, "weakest", True))

    left, right = integers(7, 2, 5, 5), integers(7, 2, 5, 5)
    net = dk.Deconvnet(TwoInputs())
    layer = net.output
    pairs = list(zip(left.split(3), right.split(3), strict=True))
    mined = mine(net, pairs, layer, 4, one_per_image=False, progress=False)
    assert_rows(mined.strongest[layer], brute(list(torch.relu(left - right)), 4, "strongest", False))


class Smooth(nn.Module):
    """A network for which the rule "deconvnet" has no answer; mining needs none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(2, 3, 3), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x) * torch.sigmoid(x)


def test_any_network_and_any_rule() -> None:
    model, batches = Smooth().eval(), torch.randn(6, 2, 8, 8).split(4)
    with pytest.raises(dk.UnsupportedModule):
        dk.Deconvnet(model)
    mined = mine(model, batches, "act", 2, progress=False)
    assert_rows(mined.strongest["act"], brute(every_activation(model, batches, "act"), 2, "strongest", True))
    counting, images = Counting(), integers(6).split(4)
    for rule in ("deconvnet", "guided", "gradient"):
        net = dk.Deconvnet(counting, rule=rule)
        assert_equal(mine(net, images, LAYERS, progress=False), mine(counting, images, LAYERS, progress=False))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mine(model, [torch.randn(4, 2, 6, 6)], "2", progress=False)
    assert model.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the data holds no images"),
        ([torch.zeros(0, 2, 11, 13)], "the data holds no images"),
        (list(torch.zeros(3, 2, 11, 13)), r"got \(2, 11, 13\): single images need a batch dimension"),
        ([torch.zeros(3, 2, 11, 13, dtype=torch.uint8)], "floating-point tensor of images, got torch.uint8"),
        ([torch.zeros(3, 2, 11, 13, dtype=torch.float64)], "the model's dtype torch.float32, got torch.float64"),
        ([np.zeros((3, 2, 11, 13))], "got a ndarray without tensors"),
        ([{"label": torch.zeros(3, dtype=torch.int64)}], "got torch.int64"),
        (5, "data must be an iterable of batches, got int"),
        (DataLoader(TensorDataset(torch.zeros(3, 2, 11, 13)), shuffle=True), "RandomSampler shuffles"),
        (DataLoader(Labelled(torch.zeros(3, 2, 11, 13)), batch_size=2, drop_last=True), "drop_last=True leaves"),
        (DataLoader(Stream(torch.zeros(3, 2, 11, 13)), batch_size=2, drop_last=True), "drop_last=True leaves"),
        (
            DataLoader(Labelled(torch.zeros(3, 2, 11, 13)), sampler=DistributedSampler([0] * 3, 1, 0)),
            "without DistributedSampler",
        ),
        (
            DataLoader(Labelled(torch.zeros(3, 2, 11, 13)), batch_size=2, collate_fn=lambda rows: rows[0][1][None]),
            "holds 1 images for 2 indices",
        ),
    ],
)
def test_data_that_cannot_be_mined(data: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        mine(Counting(), data, "4", progress=False)


def test_arguments_that_cannot_be() -> None:
    model, data = Counting(), [integers(2)]
    for arguments, message in (
        ({"k": 0}, "k must be at least 1"),
        ({"layers": []}, "at least one layer"),
        ({"layers": "nowhere"}, "nowhere"),
        ({"quantiles": [1.5]}, "between 0 and 1, got 1.5"),
        ({"quantiles": [math.nan]}, "between 0 and 1, got nan"),
        ({"first_image": -1}, "first_image must be at least 0"),
        ({"batches_per_part": 0}, "batches_per_part must be at least 1"),
        ({"data": iter(data), "quantiles": [0.5]}, "can be read only once"),
    ):
        with pytest.raises(ValueError, match=message):
            mine(**{"model": model, "data": data, "layers": "4", "progress": False, **arguments})
    for name in ("k", "first_image", "batches_per_part"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got 1.5"):
            mine(model, data, "4", **{name: 1.5}, progress=False)
    assert_equal(mine(model, data, "4", np.int64(2), progress=False), mine(model, data, "4", 2, progress=False))
    for numbers in ([0.5], torch.tensor([True])):
        with pytest.raises(TypeError, match="numbers of images must be integers"):
            fetch(data, numbers)
    assert torch.equal(fetch(data, np.array([1])), data[0][1:])
    with pytest.raises(ValueError, match="gave 5 maps"):
        model = nn.Sequential(nn.Flatten())
        mine(model, [torch.randn(2, 1, 1, 5), torch.randn(2, 1, 1, 4)], "0", progress=False)


class Changing:
    """Data that is different on every pass."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randn(20, 2, 11, 13).split(5))


def test_data_that_changes_between_passes() -> None:
    with pytest.raises(ValueError, match="the data changed from one pass over it to the next"):
        mine(Counting(), Changing(), "0", quantiles=[0.5], progress=False)


class StopError(Exception):
    """The machine went down."""


def failing(batches: Sequence[Tensor], at: int) -> Iterator[Tensor]:
    for number, batch in enumerate(batches):
        if number == at:
            raise StopError
        yield batch


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    model, batches = Counting(), integers(22).split(2)
    expected = mine(model, batches, LAYERS, 3, weakest=True, progress=False)
    parts = Parts(tmp_path / "parts", "settings")
    settings = {"weakest": True, "parts": parts, "batches_per_part": 2, "progress": False}
    with pytest.raises(StopError):
        mine(model, failing(batches, 7), LAYERS, 3, **settings)
    forwards: list[int] = []
    net = dk.Deconvnet(model)
    record = net.record
    net.record = lambda images, *rest, **more: forwards.append(len(images)) or record(images, *rest, **more)  # type: ignore
    assert_equal(mine(net, iter(batches), LAYERS, 3, **settings), expected)
    assert len(forwards) == 11 - 6  # three parts of two batches were finished
    forwards.clear()
    assert_equal(mine(net, batches, LAYERS, 3, **settings), expected)
    assert not forwards
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_finished_batches_are_not_loaded_again(tmp_path: Path) -> None:
    """Of a DataLoader over a map-style data set; several passes, and parts that are missing in between."""
    model, images = Counting(), integers(22)
    settings = {"quantiles": (0.4, 0.9), "one_per_image": False, "batches_per_part": 2, "progress": False}
    data = Labelled(images)
    loader = DataLoader(data, batch_size=2)
    expected = mine(model, loader, "1", 3, **settings)
    parts = Parts(tmp_path, "settings")
    assert_equal(mine(model, loader, "1", 3, parts=parts, **settings), expected)
    data.loaded.clear()
    assert_equal(mine(model, loader, "1", 3, parts=parts, **settings), expected)
    assert not data.loaded
    files = sorted(tmp_path.rglob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    for file in (files[1], files[3]):  # batches 2, 3 and 6, 7 of the first pass
        file.unlink()
    assert_equal(mine(model, loader, "1", 3, parts=parts, **settings), expected)
    assert set(data.loaded) == {4, 5, 6, 7, 12, 13, 14, 15}


def test_fetching_and_projecting() -> None:
    """From a data set to projections: the same as recording everything."""
    net, images = dk.Deconvnet(Counting()), integers(21)
    data = Labelled(images)
    loader = DataLoader(data, batch_size=4)
    mined = mine(net, loader, ("2", "4"), 2, progress=False)
    units = mined.strongest["4"]
    units = units[units.channel == 2]
    numbers = units.image.unique()
    data.loaded.clear()
    chosen = fetch(loader, numbers)
    assert torch.equal(chosen, images[numbers])
    assert {index // 4 for index in data.loaded} == {number // 4 for number in numbers.tolist()}
    assert torch.equal(fetch(images.split(5), numbers), chosen)
    assert torch.equal(fetch(images.split(5), numbers + 100, first_image=100), chosen)
    few = net.project(net.record(chosen, "4"), renumbered(units, numbers)).full()
    assert torch.equal(few, net.project(net.record(images, "4"), units).full())
    everything = mined.numbers()
    assert torch.equal(everything, torch.cat([u.image for u in mined.strongest.values()]).unique())
    assert torch.equal(mined.numbers(["4"]), mined.strongest["4"].image.unique())
    with pytest.raises(ValueError, match="was not mined"):
        mined.numbers(["1"])
    for wrong, message in (([3, 3], "rise"), ([], "at least one"), ([3, 21], "only 1 of 2")):
        with pytest.raises(ValueError, match=message):
            fetch(loader, wrong)
    with pytest.raises(ValueError, match="is not among the 1 given"):
        renumbered(units, numbers[:1] + 100)


NETWORK = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3))
"""


OTHER = """
from torch import nn

def depth():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())

def double():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
"""

EDITED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)

def network():
    return Net()
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the command: a small network in a file, three photographs of noise, two layers, everything asked for."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "small.py").write_text(NETWORK)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (60 + 9 * number, 75, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    model = ["--model", f"{folder / 'small.py'}:network", "--weights", "random", "--threads", "1"]
    data = ["--images", str(folder), "--size", "48", "--crops", "23", "--batch-size", "4"]
    return [*model, *data, "--layers", "1,3", "-k", "3", "--weakest", "--quantiles", "0.25,0.9", "--all-positions"]


def test_the_command(tmp_path: Path, arguments: list[str], threads: None) -> None:
    """Its files against brute force over the crops that it says it took."""
    result = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["crops.csv", "mined.npz", "units.csv"]
    mined = Mined.load(tmp_path / "out" / "mined.npz")
    weights = load_weights(arguments[1], "random")
    photographs = {photograph.name: photograph for photograph in load_photographs(arguments[7])}
    with (tmp_path / "out" / "crops.csv").open() as file:
        taken = [(r["photograph"], Crop(0, int(r["y"]), int(r["x"]), int(r["side"]))) for r in csv.DictReader(file)]
    images = torch.cat([weights.preprocess(cut([photographs[name]], [crop], 48)) for name, crop in taken])
    assert mined.images == len(images) <= 23
    model = weights.model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with (tmp_path / "out" / "units.csv").open() as file:
        table = list(csv.DictReader(file))
    for layer in ("1", "3"):
        maps = every_activation(model, images.split(4), layer)
        expected = {
            "strongest": brute(maps, 3, "strongest", False),
            "weakest": brute(maps, 3, "weakest", False),
            "quantile 0.25": brute_quantile(maps, 0.25),
            "quantile 0.9": brute_quantile(maps, 0.9),
        }
        assert_rows(mined.strongest[layer], expected["strongest"])
        for kind, units in expected.items():
            found = [row for row in table if row["layer"] == layer and row["kind"] == kind]
            names = ("crop", "map", "y", "x")
            assert [tuple(int(row[name]) for name in names) for row in found] == [unit[:4] for unit in units]
            np.testing.assert_allclose([float(row["activation"]) for row in found], [unit[4] for unit in units], 1e-8)
    assert "23 crops" in result.output and "quantile" not in result.output.splitlines()[0]


def test_what_does_not_respond_is_left_out() -> None:
    model = nn.Conv2d(3, 5, 3).eval()
    model.bias.data.copy_(torch.tensor([-99.0, 0.0, 99.0, -1.0, -1.5]))  # type: ignore[union-attr]
    images = torch.randn(11, 3, 9, 8)
    mined = mine(nn.Sequential(model), images.split(3), "0", 6, quantiles=[0.0], weakest=True, progress=False)
    found = mined.responses()
    with torch.no_grad():
        peaks = model(images).amax((2, 3)).T
    strongest, kept = mined.strongest["0"], found.strongest["0"]
    assert len(strongest) == 5 * 6
    for channel, of_map in enumerate(peaks):
        expected = of_map[of_map > 0].sort(descending=True).values[:6]
        torch.testing.assert_close(kept.activation[kept.channel == channel], expected)  # type: ignore[index]
    assert (found.weakest, found.quantiles, found.spans) == (mined.weakest, mined.quantiles, mined.spans)


def test_the_command_says_where_maps_do_not_respond(tmp_path: Path, arguments: list[str], threads: None) -> None:
    (tmp_path / "dead.py").write_text(
        "import torch\nfrom torch import nn\n\ndef network():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU())\n"
        "    net[0].bias.data.copy_(torch.tensor([-99.0, 9.0, 9.0, -99.0]))\n    return net\n"
    )
    given = [
        "--model",
        f"{tmp_path / 'dead.py'}:network",
        *arguments[2:12],
        "--layers",
        "0,1",
        "-k",
        "3",
        "--crops",
        "8",
    ]
    result = CliRunner().invoke(command, [*given, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "layer 0: as it is before layer 1 rectifies it" in result.output
    for layer in "01":
        assert f"layer {layer}: 2 of 4 maps have fewer than 3 responses, 2 have none" in result.output
    with (tmp_path / "out" / "units.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["map"]) for row in rows] == [(layer, map_) for layer in "01" for map_ in "111222"]
    assert Mined.load(tmp_path / "out" / "mined.npz").strongest["0"].channel.tolist() == [1, 1, 1, 2, 2, 2]


def test_an_interrupted_command_goes_on(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(mine_command, "_BATCHES_PER_PART", 1)
    load, loads = CropImages.__getitem__, []

    def failing(crops: Any, index: int) -> Tensor:
        loads.append(index)
        if len(loads) == 18:
            raise KeyboardInterrupt
        return load(crops, index)

    monkeypatch.setattr(CropImages, "__getitem__", failing)
    interrupted = CliRunner().invoke(command, [*arguments, "-o", str(out)])
    assert interrupted.exit_code != 0
    assert [path.name for path in out.iterdir()] == [".parts-mine"]
    again = CliRunner().invoke(command, [*arguments, "-o", str(out)])
    assert again.exit_code == 0, again.output
    assert loads[18:22] == [16, 17, 18, 19]  # the first four batches were finished
    assert sorted(path.name for path in out.iterdir()) == ["crops.csv", "mined.npz", "units.csv"]
    monkeypatch.setattr(CropImages, "__getitem__", load)
    whole = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    assert_equal(Mined.load(out / "mined.npz"), Mined.load(tmp_path / "whole" / "mined.npz"))


def test_parts_of_an_edited_network_are_not_used(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    network, out = tmp_path / "edited.py", tmp_path / "out"
    network.write_text(EDITED)
    given = [*arguments, "--model", f"{network}:network", "--layers", "conv"]
    load, loads = CropImages.__getitem__, []

    def failing(crops: Any, index: int) -> Tensor:
        loads.append(index)
        if len(loads) == 6:
            raise KeyboardInterrupt
        return load(crops, index)

    monkeypatch.setattr(mine_command, "_BATCHES_PER_PART", 1)
    monkeypatch.setattr(CropImages, "__getitem__", failing)
    assert CliRunner().invoke(command, [*given, "-o", str(out)]).exit_code == 1
    network.write_text(EDITED.replace("conv(x)", "conv(x * 2 - 1)"))
    for folder in (out, tmp_path / "fresh"):
        result = CliRunner().invoke(command, [*given, "-o", str(folder)])
        assert result.exit_code == 0, result.output
    assert_equal(Mined.load(out / "mined.npz"), Mined.load(tmp_path / "fresh" / "mined.npz"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--layers", "nowhere"], "no layer 'nowhere'"),
        (["--layers", ","], "at least one layer"),
        (["-k", "0"], "k must be at least 1"),
        (["--quantiles", "0.5,x"], "quantiles must be numbers between 0 and 1"),
        (["--quantiles", "2"], "quantiles must be between 0 and 1, got 2.0"),
        (["--batch-size", "0"], "batch-size must be at least 1"),
        (["--size", "2"], "images of 3x2x2"),
        (["--images", "nowhere.png"], "no such file or folder"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--device", "tpu"], "device must be cpu or cuda"),
        (["-o", __file__], "is a file"),
        (["-o", f"{__file__}/out"], "cannot be written"),
        (["--model", "depth"], "does not take images of 3x48x48"),
        (["--model", "double"], "torch.float64"),
    ],
)
def test_commands_that_cannot_work(
    tmp_path: Path, arguments: list[str], changed: list[str], message: str, threads: None
) -> None:
    if changed[0] == "--model":
        (tmp_path / "other.py").write_text(OTHER)
        changed = ["--model", f"{tmp_path / 'other.py'}:{changed[1]}", "--layers", "1"]
    result = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "out"), *changed])
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in result.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_two_processes_are_one_to_the_last_bit(tmp_path: Path, arguments: list[str], threads: None) -> None:
    """Two gloo processes under torchrun against one: all cases of mining_process.py, and the command."""
    torch.set_num_threads(1)
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    run(alone, None)
    worker = str(Path(__file__).parents[1] / "support" / "mining_process.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", worker]
    finished = subprocess.run(
        [*launch, str(together), str(tmp_path / "parts"), *arguments, "-o", str(together / "command")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    for name in CASES:
        expected = Mined.load(alone / f"0-{name}.npz")
        for rank in range(2):
            assert_equal(Mined.load(together / f"{rank}-{name}.npz"), expected)
    assert CliRunner().invoke(command, [*arguments, "-o", str(alone / "command")]).exit_code == 0
    assert finished.stdout.count("mined by 2 processes") == 1
    for name in ("units.csv", "crops.csv"):
        assert (together / "command" / name).read_bytes() == (alone / "command" / name).read_bytes()
    assert sorted(path.name for path in (together / "command").iterdir()) == ["crops.csv", "mined.npz", "units.csv"]
