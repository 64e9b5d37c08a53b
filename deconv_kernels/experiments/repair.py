"""The paper's two repairs on a small training run: clipping filters, and a finer first layer.

    train, validation, names = photograph_crops(load_photographs("samples"))
    results = repair(train, validation, standard_arms(classes=len(names)))

Networks of the paper's form learn to tell from which photograph a crop comes. In some of them one filter of the first
layer starts out far too large ("hot"); clipping brings it back. Beside them a first layer of 11x11 filters and
stride 4 stands against 7x7 and stride 2.

Source: Zeiler & Fergus 2013, sections 3 and 4.1, Fig 6.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..checks import at_least
from ..data.crops import Crop, cut
from ..data.photographs import Photograph
from ..models import TORCHVISION, Chain, ContrastNormalization
from ..terminal import Progress
from .common.files import Parts
from .common.layers import taking
from .filters import ClipFilters, convolutions, diagnose, renormalize_

__all__ = [
    "Arm",
    "Crops",
    "Recipe",
    "Run",
    "ShiftedLevels",
    "SmallZFNet",
    "TABLE_HEAD",
    "overheat_",
    "photograph_crops",
    "readable",
    "reading_photographs",
    "repair",
    "standard_arms",
    "summary",
    "train",
]

TABLE_HEAD = (
    *("arm", "seed", "accuracy", "loss", "dead", "filters", "dead_share"),
    *("largest_rms", "median_rms", "aliased_energy", "aliased_response"),
)
"""What the columns of `Run.row` are called."""

Labelled = Dataset[Any]


class SmallZFNet(Chain):
    """A small network of the paper's form, for images of about 64x64: conv1 to pool3, fc4 and fc5.

    The maps of the second layer are of one size whatever the first layer's stride: its stride times the second's
    is 4, as in the paper (2 and 2) and in Krizhevsky's network (4 and 1).

    Args:
        classes: number of logits.
        kernel, stride: of the first layer: 7 and 2 in the paper, 11 and 4 in Krizhevsky's network.
        normalized: contrast normalisation after the first two pools, as the paper has it.

    The weights of conv1 and of the logits are drawn with the paper's deviation, 1e-2. The layers between, with far
    fewer inputs than the paper's, are drawn as He et al. 2015 do, without which so small a network does not start to
    learn. Biases are 0.

    Raises:
        ValueError: a stride that does not divide 4.

    Source: Zeiler & Fergus 2013, section 3 and Fig 3.
    """

    def __init__(self, classes: int, kernel: int = 7, stride: int = 2, normalized: bool = False) -> None:
        if stride not in (1, 2, 4):
            raise ValueError(f"stride must be 1, 2 or 4, got {stride}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, 32, kernel, stride, padding=kernel // 2)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        if normalized:
            layers["norm1"] = ContrastNormalization()
        layers["conv2"] = nn.Conv2d(32, 48, 5, 4 // stride, padding=2)
        layers["relu2"] = nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        if normalized:
            layers["norm2"] = ContrastNormalization()
        layers["conv3"] = nn.Conv2d(48, 64, 3, padding=1)
        layers["relu3"] = nn.ReLU()
        layers["pool3"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        layers["avgpool"] = nn.AdaptiveAvgPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc4"] = nn.Linear(256, 128)
        layers["relu4"] = nn.ReLU()
        layers["drop4"] = nn.Dropout()
        layers["fc5"] = nn.Linear(128, classes)
        super().__init__(layers)
        for name, layer in self.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if name in ("conv1", "fc5"):
                    nn.init.normal_(layer.weight, 0, 1e-2)
                else:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class ShiftedLevels(nn.Module):
    """Turns images as torchvision normalises them back into grey levels less a mean, about -128 to 128.

    Args:
        mean: (3,) of RGB, in grey levels.
    """

    def __init__(self, mean: Sequence[float] = (0.0,) * 3) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        black = TORCHVISION.inverse(torch.zeros(3, 1, 1))
        self.register_buffer("scale", TORCHVISION.inverse(torch.ones(3, 1, 1)) - black)
        self.register_buffer("shift", black - torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to the same shape."""
        return images * self.scale + self.shift


def reading_photographs(network: nn.Sequential, mean: Sequence[float] = (0.0,) * 3) -> nn.Sequential:
    """A network trained on grey levels less a mean, behind `ShiftedLevels`, so that it reads what `load_weights`
    prepares for a network of the user's. The names of its layers stay."""
    return nn.Sequential(OrderedDict([("levels", ShiftedLevels(mean)), *network.named_children()]))


def readable(state: Mapping[str, Tensor], mean: Sequence[float]) -> dict[str, Tensor]:
    """The state dict of `reading_photographs` from that of the network alone."""
    levels = ShiftedLevels(mean).state_dict(prefix="levels.")
    return {**levels, **state}


class Crops(NamedTuple):
    """Crops labelled by the photograph they come from, as grey levels less the training crops' mean.

    Args:
        train, validation: (image, label) pairs; images (3, size, size) float32.
        names: of the photographs, by label.
        mean: (3,) the mean grey level of the training crops, RGB.
    """

    train: TensorDataset
    validation: TensorDataset
    names: tuple[str, ...]
    mean: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """How to train. Learning rate, momentum and clipping are the paper's but for the rate, which was 1e-2 there.

    Args:
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: a tenth of it in the last quarter of the epochs (the paper annealed by hand).
        momentum: of stochastic gradient descent.
        flip: mirror every image with probability 1/2.
    """

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3
    momentum: float = 0.9
    flip: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            at_least(name, getattr(self, name), 1)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a number above 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate * (0.1 if epoch > self.epochs - self.epochs // 4 else 1)


@dataclass(frozen=True)
class Arm:
    """One of the networks compared.

    Args:
        name: for people.
        network: builds it; its random weights come from torch's generator.
        heat: what filter 0 of the first convolution is multiplied by before training.
        radius: largest RMS of a filter, kept after every step; None to leave filters alone.
    """

    name: str
    network: Callable[[], nn.Module]
    heat: float = 1.0
    radius: float | None = 0.1


@dataclass(frozen=True)
class Run:
    """What became of one network.

    Args:
        arm, seed: which.
        losses: the mean training loss of each epoch.
        accuracies: the share of validation images told right after each epoch.
        dead: by convolution, (F,) bool: never positive over the validation set, after training.
        rms: (F,) of the first layer's filters after training, float64.
        aliased_energy: (F,) of the first layer's filters, as `Diagnosis.aliased`.
        aliased_response: (F,) of the first layer's responses to the validation set, as `Activity.aliased`.
        filters: (F, C, [[KD,] KH,] KW) of the first layer after training.
        checkpoints: state dicts by epoch, 0 before training, of the epochs asked for.

    Where training diverged, so that weights are no numbers, every filter counts as dead and what is left is NaN.
    """

    arm: str
    seed: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    dead: Mapping[str, Tensor]
    rms: Tensor
    aliased_energy: Tensor
    aliased_response: Tensor
    filters: Tensor = field(repr=False)
    checkpoints: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def accuracy(self) -> float:
        """After the last epoch."""
        return self.accuracies[-1]

    @property
    def dead_count(self) -> int:
        """Dead filters of all convolutions."""
        return sum(int(dead.sum()) for dead in self.dead.values())

    @property
    def dead_share(self) -> float:
        """Their share of all filters."""
        return self.dead_count / sum(map(len, self.dead.values()))

    @property
    def aliased(self) -> float:
        """The share of the first layer's response variance that its stride aliases, the median over its filters that
        respond."""
        return self.aliased_response.nanmedian().item()

    def row(self) -> list[object]:
        """The main numbers, under `TABLE_HEAD`."""
        filters = sum(map(len, self.dead.values()))
        numbers = (
            self.rms.max(),
            self.rms.median(),
            self.aliased_energy.nanmedian(),
            self.aliased_response.nanmedian(),
        )
        row = [self.arm, self.seed, self.accuracy, self.losses[-1], self.dead_count, filters, self.dead_share]
        return row + [number.item() for number in numbers]

    def as_dict(self) -> dict[str, Any]:
        """All numbers as JSON takes them; None for what is no number."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "losses": _finite(self.losses),
            "accuracies": self.accuracies,
            "dead": {layer: dead.nonzero()[:, 0].tolist() for layer, dead in self.dead.items()},
            "rms": _finite(self.rms.tolist()),
            "aliased_energy": _finite(self.aliased_energy.tolist()),
            "aliased_response": _finite(self.aliased_response.tolist()),
        }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def summary(by_arm: Mapping[str, Sequence[Run]]) -> list[list[str]]:
    """For people: of every arm mean and standard deviation over its runs."""
    filters = sum(map(len, next(iter(by_arm.values()))[0].dead.values()))
    rows = [["", "accuracy", f"dead of {filters}", "largest RMS", "aliased energy", "aliased response"]]
    for arm, runs in by_arm.items():
        columns = (
            [100 * run.accuracy for run in runs],
            [float(run.dead_count) for run in runs],
            [run.rms.max().item() for run in runs],
            [100 * run.aliased_energy.nanmedian().item() for run in runs],
            [100 * run.aliased for run in runs],
        )
        units = (" %", "", "", " %", " %")
        rows.append([arm, *(_spread(values, unit) for values, unit in zip(columns, units, strict=True))])
    return rows


def _spread(values: Sequence[float], unit: str) -> str:
    mean = f"{fmean(values):.3g}"
    return f"{mean}{unit}" if len(values) == 1 else f"{mean} ± {stdev(values):.2g}{unit}"


def standard_arms(
    classes: int, heat: float = 100.0, radius: float = 0.1, normalized: bool = False
) -> tuple[Arm, Arm, Arm, Arm]:
    """The paper's two repairs as four networks: healthy; hot; hot and clipped; with a coarse first layer.

    Args:
        classes: number of logits.
        heat: what the hot filter is multiplied by: 100 makes its RMS ten times the radius.
        radius: of clipping.
        normalized: with contrast normalisation.

    Source: Zeiler & Fergus 2013, section 4.1.
    """

    def fine() -> nn.Module:
        return SmallZFNet(classes, 7, 2, normalized)

    def coarse() -> nn.Module:
        return SmallZFNet(classes, 11, 4, normalized)

    return (
        Arm("7x7 stride 2", fine, radius=radius),
        Arm("hot filter", fine, heat, radius=None),
        Arm("hot filter, clipped", fine, heat, radius),
        Arm("11x11 stride 4", coarse, radius=radius),
    )


def photograph_crops(
    photographs: Sequence[Photograph], size: int = 64, train: int = 80, validation: int = 40, seed: int = 0
) -> Crops:
    """Crops to be told apart by photograph; those of the training and of the validation set share no pixel.

    Every photograph is divided into a grid of cells of at least 1.5 sizes where it is large enough, about every fourth
    cell is held out, and crops lie at random places inside one cell.

    Args:
        photographs: one class each, at least two.
        size: rows and columns of a crop, at the photographs' own scale.
        train, validation: crops per photograph.
        seed: of the places.

    Raises:
        ValueError: fewer than two photographs, one too small for two cells, or numbers below 1.
    """
    if len(photographs) < 2:
        raise ValueError(f"at least two photographs are needed to tell apart, got {len(photographs)}")
    for name, value in (("size", size), ("train", train), ("validation", validation)):
        at_least(name, value, 1)
    generator = np.random.default_rng(seed)
    planned: dict[bool, list[Crop]] = {False: [], True: []}
    for label, photograph in enumerate(photographs):
        cells = _cells(photograph, size)
        for held_out, count in ((False, train), (True, validation)):
            fitting = [cell for cell in cells if cell.held_out == held_out]
            for place in range(count):
                cell = fitting[place % len(fitting)]
                y = int(generator.integers(cell.y0, cell.y1 - size + 1))
                x = int(generator.integers(cell.x0, cell.x1 - size + 1))
                planned[held_out].append(Crop(label, y, x, size))
    images = {held_out: cut(photographs, crops, size).float() for held_out, crops in planned.items()}
    mean = images[False].mean((0, 2, 3))
    sets = [
        TensorDataset(images[held_out] - mean.view(3, 1, 1), torch.tensor([crop.photograph for crop in crops]))
        for held_out, crops in planned.items()
    ]
    return Crops(sets[0], sets[1], tuple(photograph.name for photograph in photographs), tuple(mean.tolist()))


@torch.no_grad()
def overheat_(model: nn.Module, heat: float, filter: int = 0) -> None:
    """Multiplies one filter of the first convolution, in place: the fault that clipping repairs.

    Raises:
        ValueError: the model has no convolution, or the first has no such filter.
    """
    first = next(iter(convolutions(model).values()), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no convolution")
    if not 0 <= filter < len(first.weight):
        raise ValueError(f"filter must be from 0 to {len(first.weight) - 1}, got {filter}")
    first.weight[filter] *= heat


def repair(
    train_set: Labelled,
    validation_set: Labelled,
    arms: Sequence[Arm],
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | None = None,
    *,
    checkpoints: Sequence[int] = (),
    device: torch.device | str = "cpu",
    parts: Parts | None = None,
    progress: bool = True,
) -> tuple[Run, ...]:
    """Trains every arm with every seed and looks at what became of its filters.

    Args:
        train_set, validation_set: (image, label) pairs, the images (C, H, W) float as the networks take them, about
            -128 to 128 as in the paper. (A DataLoader's are its `dataset`.)
        arms: what to compare, of different names.
        seeds: a seed decides the initial weights, the order of the images, mirroring and dropout: arms of one seed and
            one architecture start out alike.
        recipe: how to train.
        checkpoints: epochs whose state dicts to keep, 0 before training.
        device: where to compute.
        parts: where finished epochs are kept, so that an interrupted run goes on after the last; what comes out is the
            same bit for bit.
        progress: show a progress bar.

    Returns:
        The runs, by arm and then by seed.

    Raises:
        ValueError: no arm or seed, arms of one name, empty sets, images that an arm's network does not take, or a
            checkpoint beyond the last epoch.

    Source: Zeiler & Fergus 2013, sections 3 and 4.1.

    Example:
        >>> photographs = [(torch.randn(3, 64, 64), label) for label in (0, 1)]
        >>> arm = Arm("11x11", lambda: SmallZFNet(classes=2, kernel=11, stride=4))
        >>> (run,) = repair(photographs, photographs, [arm], seeds=[0], recipe=Recipe(epochs=1), progress=False)
        >>> run.arm
        '11x11'
    """
    recipe = recipe or Recipe()
    if not arms or not seeds:
        raise ValueError("at least one arm and one seed are needed")
    if len({arm.name for arm in arms}) < len(arms):
        raise ValueError(f"arms must have different names, got {', '.join(arm.name for arm in arms)}")
    _check_sets(train_set, validation_set)
    for arm in arms:
        _Trainer(train_set, validation_set, arm, seeds[0], recipe, torch.device(device)).check()
    runs = []
    total = len(arms) * len(seeds) * recipe.epochs
    with Progress(total=total, desc="training", unit="epoch", disable=not progress) as bar:
        for arm in arms:
            for seed in seeds:
                bar.set_postfix_str(f"{arm.name}, seed {seed}")
                runs.append(
                    train(
                        train_set,
                        validation_set,
                        arm,
                        seed,
                        recipe,
                        checkpoints=checkpoints,
                        device=device,
                        parts=parts,
                        after_epoch=bar.update,
                    )
                )
    return tuple(runs)


def train(
    train_set: Labelled,
    validation_set: Labelled,
    arm: Arm,
    seed: int,
    recipe: Recipe,
    *,
    checkpoints: Sequence[int] = (),
    device: torch.device | str = "cpu",
    parts: Parts | None = None,
    after_epoch: Callable[[], object] = lambda: None,
) -> Run:
    """Trains one network and looks at what became of its filters; arguments as for `repair`.

    Args:
        arm, seed: which network.
        after_epoch: called after every epoch.
    """
    _check_sets(train_set, validation_set)
    if unknown := [epoch for epoch in checkpoints if not 0 <= epoch <= recipe.epochs]:
        raise ValueError(f"checkpoints must be epochs from 0 to {recipe.epochs}, got {unknown[0]}")
    parts = parts or Parts.nowhere()
    trainer = _Trainer(train_set, validation_set, arm, seed, recipe, torch.device(device))
    run = f"{arm.name}, heat {arm.heat}, radius {arm.radius}, seed {seed}, {asdict(recipe)}"
    state = parts.get(f"{run}, epoch 0", trainer.start)
    states = [state]
    for epoch in range(1, recipe.epochs + 1):
        state = parts.get(f"{run}, epoch {epoch}", partial(trainer.epoch, epoch, state))
        states.append(state if epoch in checkpoints else {key: state[key] for key in ("loss", "accuracy")})
        after_epoch()
    found = parts.get(f"{run}, filters", partial(trainer.filters, state))
    return Run(
        arm.name,
        seed,
        tuple(each["loss"] for each in states[1:]),
        tuple(each["accuracy"] for each in states[1:]),
        **found,
        checkpoints={epoch: states[epoch]["network"] for epoch in sorted(set(checkpoints))},
    )


def _check_sets(train_set: Labelled, validation_set: Labelled) -> None:
    for name, images in (("training", train_set), ("validation", validation_set)):
        if not isinstance(images, Sized) or not len(images):
            raise ValueError(f"the {name} set must hold images and know how many")


class _Trainer:
    """One network's training as pure functions of its state, so that it can stop after any epoch and go on.

    A state is {"network", "optimizer", "loss", "accuracy"}, on the host.
    """

    def __init__(
        self,
        train_set: Labelled,
        validation_set: Labelled,
        arm: Arm,
        seed: int,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.train_set, self.validation_set = train_set, validation_set
        self.arm, self.seed, self.recipe, self.device = arm, seed, recipe, device

    @torch.no_grad()
    def check(self) -> None:
        """Refuses, before any training, a network that cannot be made or does not take the images."""
        network = self._network(self.start()).eval()
        with self._random(0):
            image = self.validation_set[0][0]
        complaint = f"images of {tuple(image.shape)} do not go through the network of {self.arm.name!r}"
        with taking(complaint, (RuntimeError,)):
            network(image[None].to(self.device))

    def start(self) -> dict[str, Any]:
        """The state before training."""
        with self._random(0):
            network = self.arm.network()
        overheat_(network, self.arm.heat)
        if self.arm.radius is not None:
            renormalize_(network, self.arm.radius)
        return {"network": _on_host(network.state_dict()), "optimizer": None}

    def epoch(self, epoch: int, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state after one more epoch."""
        recipe = self.recipe
        network = self._network(state).train()
        optimizer = torch.optim.SGD(network.parameters(), recipe.learning_rate, recipe.momentum)
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
        optimizer.param_groups[0]["lr"] = recipe.rate(epoch)
        if self.arm.radius is not None:
            ClipFilters(network, self.arm.radius).register(optimizer)
        total = 0.0
        with self._random(epoch):
            for images, labels in DataLoader(self.train_set, recipe.batch_size, shuffle=True):
                if recipe.flip:
                    mirrored = torch.rand(len(images)) < 0.5
                    images = torch.where(mirrored.view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)
                loss = F.cross_entropy(network(images.to(self.device)), labels.to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(images)
            accuracy = self._accuracy(network.eval())
        return {
            "network": _on_host(network.state_dict()),
            "optimizer": _on_host(optimizer.state_dict()),
            "loss": total / len(self.train_set),  # type: ignore[arg-type]
            "accuracy": accuracy,
        }

    def filters(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What `Run` says about the filters of a state."""
        network = self._network(state).eval()
        named = convolutions(network)
        filters = next(iter(named.values())).weight.detach().cpu()
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            unknown = torch.full((len(filters),), torch.nan, dtype=torch.float64)
            dead = {name: torch.ones(len(module.weight), dtype=torch.bool) for name, module in named.items()}
            names = ("rms", "aliased_energy", "aliased_response")
            return {"dead": dead, "filters": filters, **dict.fromkeys(names, unknown)}
        batches = DataLoader(self.validation_set, self.recipe.batch_size)
        with self._random(0):
            found = diagnose(network, list(named), batches, progress=False)
        first = found[0]
        activities = {each.layer: each.activity for each in found if each.activity is not None}
        return {
            "dead": {name: activity.dead for name, activity in activities.items()},
            "rms": first.rms,
            "aliased_energy": first.aliased,
            "aliased_response": activities[first.layer].aliased,
            "filters": filters,
        }

    def _random(self, epoch: int) -> Any:
        return _seeded(self.seed, epoch, self.device)

    def _network(self, state: Mapping[str, Any]) -> nn.Module:
        with self._random(0):
            network = self.arm.network()
        network.load_state_dict(state["network"])
        return network.to(self.device)

    @torch.no_grad()
    def _accuracy(self, network: nn.Module) -> float:
        right = 0
        for images, labels in DataLoader(self.validation_set, self.recipe.batch_size):
            right += int((network(images.to(self.device)).argmax(1).cpu() == labels).sum())
        return right / len(self.validation_set)  # type: ignore[arg-type]


class _seeded:
    """Inside, torch's generators start from a seed and an epoch; afterwards they are as before."""

    def __init__(self, seed: int, epoch: int, device: torch.device) -> None:
        devices = [device] if device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices)
        self._seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


class _Cell(NamedTuple):
    y0: int
    y1: int
    x0: int
    x1: int
    held_out: bool


def _cells(photograph: Photograph, size: int) -> list[_Cell]:
    """The cells of a photograph, of at least 1.5 sizes, or where that gives fewer than two, of one size."""
    height, width = photograph.pixels.shape[:2]
    for least in (1.5 * size, size):
        rows, columns = int(height // least), int(width // least)
        if rows * columns >= 2:
            ys, xs = (np.linspace(0, n, k + 1).astype(int).tolist() for n, k in ((height, rows), (width, columns)))
            return [
                _Cell(ys[row], ys[row + 1], xs[column], xs[column + 1], (row + 2 * column) % 4 == 0)
                for row in range(rows)
                for column in range(columns)
            ]
    raise ValueError(
        f"{photograph.name} is {width}x{height} pixels, too small for training and validation crops of {size}x{size} "
        "that do not overlap"
    )


def _on_host(state: Any) -> Any:
    """A state dict with its tensors copied to the host."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, Mapping):
        return {key: _on_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_on_host(value) for value in state)
    return state
