"""Experiments on signals and volumes, which find what they find on pictures of one row and in volumes of one plane."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from deconv_kernels.experiments.common.features import extract_features, last_layers
from deconv_kernels.experiments.correspondence import correspondence, random_squares
from deconv_kernels.experiments.evolution import evolve
from deconv_kernels.experiments.filters import Diagnosis, diagnose, power_spectrum
from deconv_kernels.experiments.invariance import Transformation, figure_5, invariance, rotate, scale, translate
from deconv_kernels.experiments.repair import Arm, Recipe, train

FILLS = [0.0, -1.75, "colour", "edge", "reflect"]
SIZES = {1: (31,), 2: (13, 17), 3: (5, 13, 17)}
each_rank = pytest.mark.parametrize("rank", [1, 3])


def chain(rank: int, lifted: bool = False) -> nn.Sequential:
    """A network of classes with strides, batch normalisation and overlapping pools; of pictures, it is `lifted` to read
    those of one row, or volumes of one plane."""
    axes = rank + lifted

    def along(last: int, first: int) -> tuple[int, ...]:
        return (*(first,) * lifted, *(last,) * rank)

    convolution, norm, pool, mean = (
        getattr(nn, f"{name}{axes}d") for name in ("Conv", "BatchNorm", "MaxPool", "AdaptiveAvgPool")
    )
    return nn.Sequential(
        *(convolution(2, 5, along(5, 1), along(2, 1)), norm(5), nn.ReLU(), pool(along(3, 1), along(2, 1))),
        *(convolution(5, 6, along(2, 1)), nn.ReLU(), mean(1), nn.Flatten(), nn.Linear(6, 3)),
    )


@dataclass(frozen=True)
class Twins:
    """A network, and the same with one more axis of length 1; `lift` makes images of the one such of the other."""

    low: nn.Sequential
    high: nn.Sequential
    images: Tensor

    def lift(self, x: Tensor) -> Tensor:
        return x[:, :, None]

    @property
    def each(self) -> tuple[tuple[nn.Sequential, Tensor], tuple[nn.Sequential, Tensor]]:
        return (self.low, self.images), (self.high, self.lift(self.images))


def twins(rank: int) -> Twins:
    """Signals and pictures of one row, or pictures and volumes of one plane."""
    below = 1 if rank == 1 else 2
    low, high = chain(below).double().eval(), chain(below, lifted=True).double().eval()
    for a, b in zip(low, high, strict=True):
        if isinstance(a, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(a.running_mean, -0.3, 0.3)
            nn.init.uniform_(a.running_var, 0.5, 2)
        for name, value in a.state_dict().items():
            b.state_dict()[name].copy_(value[:, :, None] if value.dim() > 2 else value)
    return Twins(low, high, torch.randn(4, 2, *SIZES[below], dtype=torch.float64))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("fill", FILLS)
def test_signals_and_volumes_are_moved_stretched_and_turned(fill: float | str) -> None:
    """Signals as pictures of one row; volumes plane by plane, and scaled along z as signals are."""
    content: Tensor | float | str = torch.randn(2, dtype=torch.float64) if fill == "colour" else fill
    signals = torch.randn(3, 2, 18, dtype=torch.float64)
    volumes = torch.randn(3, 2, 5, 11, 18, dtype=torch.float64)
    upright = signals[..., None]
    for pixels in (2, -7, 40, 2.25, -0.5, -30.1):
        close(translate(signals, pixels, content), translate(upright, pixels, content)[..., 0])
        sideways = translate(volumes[:, :, 0], pixels, content, axis="x")
        close(sideways, translate(volumes[:, :, 0].mT, pixels, content).mT)
        for axis in "yx":
            moved = translate(volumes, pixels, content, axis=axis)
            for plane in range(5):
                close(moved[:, :, plane], translate(volumes[:, :, plane], pixels, content, axis=axis))
        through = translate(volumes.transpose(2, 3), pixels, content, axis="y")
        close(translate(volumes, pixels, content, axis="z"), through.transpose(2, 3))
    for ratio in (1.3, 2.7, 0.6):
        row = scale(signals[:, :, None], ratio, content)
        close(scale(signals, ratio, content), row[:, :, 0])
        planes = torch.stack([scale(plane, ratio, content) for plane in volumes.unbind(2)], 2)
        lines = planes.permute(0, 3, 4, 1, 2).flatten(0, 2)
        deep = scale(lines, ratio, content).unflatten(0, (3, 11, 18)).permute(0, 3, 4, 1, 2)
        close(scale(volumes, ratio, content), deep)
    for degrees in (33.3, 90, -77, 180):
        turned = rotate(volumes, degrees, content)
        for plane in range(5):
            close(turned[:, :, plane], rotate(volumes[:, :, plane], degrees, content))


def test_what_there_is_of_no_such_images_is_refused() -> None:
    signals, volumes = torch.zeros(1, 2, 9), torch.zeros(1, 2, 4, 5, 6)
    with pytest.raises(ValueError, match="signals cannot be turned"):
        rotate(signals, 30)
    with pytest.raises(ValueError, match="axis must be one of 'x', got 'y'"):
        translate(signals, 1, axis="y")
    with pytest.raises(ValueError, match="of volumes must be bilinear or nearest, got 'bicubic'"):
        scale(volumes, 2, interpolation="bicubic")
    with pytest.raises(ValueError, match="one to three axes"):
        figure_5((1, 2, 3, 4))
    named = {rank: [each.name for each in figure_5(size)] for rank, size in SIZES.items()}
    assert named[1] == ["translation", "scale"]
    assert named[2] == ["vertical translation", "scale", "rotation"]
    assert named[3] == [*(f"{of} translation" for of in ("depth", "vertical", "horizontal")), "scale", "rotation"]
    assert [max(each.parameters) for each in figure_5((112, 224, 448))[:3]] == [30, 60, 120]


@each_rank
def test_invariance(rank: int) -> None:
    pair = twins(rank)
    shift = Transformation("x", "pixels", (-3.0, 0.0, 2.5), lambda x, pixels: translate(x, pixels, 0.5, axis="x"))
    louder = Transformation("louder", "times", (0.5, 1.0, 2.0), lambda x, times: x * times)
    one, other = (
        invariance(model, images, ["0", "4"], [shift, louder], "predicted", progress=False)
        for model, images in pair.each
    )
    assert one.labels == other.labels
    for a, b in zip(one.curves, other.curves, strict=True):
        assert a.probabilities is not None and b.probabilities is not None
        close(a.probabilities, b.probabilities)
        for layer in one.layers:
            close(a.distances[layer], b.distances[layer])
            close(one.norms[layer], other.norms[layer])


@each_rank
def test_filters(rank: int) -> None:
    pair = twins(rank)
    found: list[tuple[Diagnosis, ...]] = [
        diagnose(model, ["0", "4"], images, progress=False) for model, images in pair.each
    ]
    for one, other in zip(*found, strict=True):
        assert one.activity is not None and other.activity is not None
        assert other.stride == (1, *one.stride) and other.nyquist == (0.5, *one.nyquist)
        for name in ("rms", "aliased"):
            close(getattr(one, name), getattr(other, name))
        for name in ("peak", "mean", "aliased", "active_images"):
            close(getattr(one.activity, name), getattr(other.activity, name))
        size = other.spectrum.shape[-1]
        assert size == (64 if rank == 1 else 32)
        close(other.spectrum, power_spectrum(one.weight, one.dilation, size)[:, None].expand_as(other.spectrum))


@each_rank
def test_spectra(rank: int) -> None:
    weight, dilation = torch.randn(3, 2, *(3, 2, 4)[:rank], dtype=torch.float64), (2, 1, 3)[:rank]
    taps = np.zeros((3, 2, *(d * (n - 1) + 1 for d, n in zip(dilation, weight.shape[2:], strict=True))))
    taps[(..., *(slice(None, None, d) for d in dilation))] = weight
    axes = tuple(range(2, 2 + rank))
    waves = np.fft.fftshift(np.fft.fftn(taps, s=(20,) * rank, axes=axes), axes)
    close(power_spectrum(weight, dilation, 20), torch.from_numpy((np.abs(waves) ** 2).sum(1)))


@each_rank
def test_correspondence(rank: int) -> None:
    pair, of_square = twins(rank), 3
    length = SIZES[1 if rank == 1 else 2]
    points = {part: torch.rand(4, len(length)) * (torch.tensor(length) - 1) for part in ("eye", "nose")}
    high = {part: torch.cat([torch.zeros(4, 1), places], 1) for part, places in points.items()}
    low_side, high_side = (of_square,) * len(length), (1, *(of_square,) * len(length))
    how = {"draws": 3, "reach": float("inf"), "fill": torch.tensor([0.5, -1.0]), "batch_size": 3, "progress": False}
    how["tolerance"] = 1e-9  # rounding differs between convolutions of other ranks
    one = correspondence(pair.low, pair.images, points, ["0", "4"], side=low_side, **how)
    other = correspondence(pair.high, pair.lift(pair.images), high, ["0", "4"], side=high_side, **how)
    half = len(length)
    for name in ("squares", "random_squares"):
        a, b = getattr(one, name), getattr(other, name)
        assert torch.equal(b[..., [*range(1, half + 1), *range(half + 2, 2 * half + 2)]], a)
        assert torch.equal(b[..., [0, half + 1]], torch.tensor([0, 1]).expand(*b.shape[:2], 2))
    for layer in one.layers:
        for a, b in ((one.named[layer], other.named[layer]), (one.random[layer], other.random[layer])):
            assert a.features == b.features
            for name in ("differing", "either", "changed"):
                assert torch.equal(getattr(a, name), getattr(b, name))


def test_random_boxes_cover_no_part_and_stay_near() -> None:
    points = {"a": torch.tensor([[2.0, 4.0, 5.0]]), "b": torch.tensor([[5.0, 8.0, 5.0]])}
    boxes = random_squares(points, (2, 3, 3), (9, 14, 12), 300, reach=1.0)[0]
    assert bool((boxes[:, :3] >= 0).all()) and bool((boxes[:, 3:] <= torch.tensor([9, 14, 12])).all())
    assert torch.equal(boxes[:, 3:] - boxes[:, :3], torch.tensor([2, 3, 3]).expand(300, 3))
    for place in ((2, 4, 5), (5, 8, 5)):
        inside = (boxes[:, :3] <= torch.tensor(place)) & (torch.tensor(place) < boxes[:, 3:])
        assert not bool(inside.all(1).any())
    middles = boxes[:, :3] + (torch.tensor([2, 3, 3]) - 1) / 2
    assert float((middles - torch.tensor([3.5, 6.0, 5.0])).norm(dim=1).max()) <= 5.0
    assert len(boxes.unique(dim=0)) > 50


@each_rank
def test_evolution(rank: int) -> None:
    pair, again = twins(rank), twins(rank)
    found = []
    for (model, images), (later, _) in zip(pair.each, again.each, strict=True):
        found.append(evolve({"one": model, "two": later}, images, {"0": [0, 3], "5": [1]}, progress=False))
    one, other = found
    for layer in ("0", "5"):
        assert torch.equal(one.strongest_images(layer), other.strongest_images(layer))
        close(one.activations(layer), other.activations(layer))
        for a, b in zip(one.stages[layer], other.stages[layer], strict=True):
            close(a.windows, b.windows.squeeze(2))
            assert torch.equal(a.units.table(), torch.cat([b.units.table()[:2], b.units.table()[3:]]))


@each_rank
def test_features_are_pooled_along_every_axis(rank: int) -> None:
    model = chain(rank).double().eval()
    images = torch.randn(3, 2, *(40, 23, 37)[:rank], dtype=torch.float64)
    pools: dict[str, Callable[..., Tensor]] = {
        "max": getattr(F, f"adaptive_max_pool{rank}d"),
        "average": getattr(F, f"adaptive_avg_pool{rank}d"),
    }
    for pooling, pool in pools.items():
        found = extract_features(model, images, ["0", "6"], grid=2, pooling=pooling, progress=False)
        with torch.no_grad():
            close(found.layers["0"], pool(model[0](images), (2,) * rank).flatten(1))
            close(found.layers["6"], model[:7](images).flatten(1))
    close(found.pixels, pools["average"](images, tuple(min(32, n) for n in images.shape[2:])).flatten(1))
    assert last_layers(model, images) == ["2", "3", "5", "7"]


@each_rank
def test_training(rank: int) -> None:
    """Mirrored along x, clipped and counted alike."""
    pair = twins(rank)
    runs = []
    for model, images in pair.each:
        data = TensorDataset(images.float(), torch.tensor([0, 1, 2, 0]))
        arm = Arm("arm", lambda model=model: copy.deepcopy(model).float(), heat=30.0, radius=0.2)
        runs.append(train(data, data, arm, 0, Recipe(epochs=2, batch_size=2)))
    one, other = runs
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert one.accuracies == other.accuracies
    torch.testing.assert_close(one.filters, other.filters.squeeze(2), rtol=1e-4, atol=1e-5)
    assert float(one.rms.max()) == pytest.approx(0.2, rel=1e-5)
