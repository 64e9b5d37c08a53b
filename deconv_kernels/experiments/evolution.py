"""The evolution of features while a network trains: what the strongest activation of each map looks like by checkpoint.

    found = evolve({"epoch 1": first, "epoch 2": second}, batches, {"conv3": [0, 5, 7]})
    found.activations("conv3")      # (maps, checkpoints)
    found.jumps("conv3")            # where another image became the strongest

A map that responds to no image, because it is dead or not yet alive, has no strongest image and cannot jump.

Source: Zeiler & Fergus 2013, section 4 and Fig 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import whole_number
from ..engine.deconvnet import Deconvnet
from ..engine.projections import Projections
from ..engine.units import AXES, Units
from ..terminal import Progress
from .common.batches import check_data, images_of
from .common.files import Parts
from .common.responses import rectifier_of, respond

__all__ = ["TABLE_HEAD", "Evolution", "Stage", "evolve", "strongest_of", "table_head"]


def table_head(image: str, source: str, rank: int) -> tuple[str, ...]:
    """What the columns of `Evolution.table` are called.

    Args:
        image, source: what an image is called, and what it comes from, such as "crop" and "photograph".
        rank: how many axes images have.
    """
    axes = AXES[-rank:]
    box = (f"{axis}{end}" for end in (0, 1) for axis in axes)
    place = ("layer", "map", "checkpoint", image, source, *axes, "activation")
    return (*place, *box, "jump", "silent", "rectified_by")


TABLE_HEAD = table_head("crop", "photograph", 2)
"""Those of crops of photographs."""


@dataclass(frozen=True)
class Stage:
    """One layer of one checkpoint.

    Args:
        units: (maps,) the strongest unit of every chosen map over the data set, with its activation; `image` is its
            number in the order in which the batches came.
        windows: (maps, C, [[d,] h,] w), their projections.
        boxes: (maps, 2 * rank) int64, where those lie in the image: [[z0,] y0,] x0, [[z1,] y1,] x1, half open.
    """

    units: Units
    windows: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Evolution:
    """The strongest units of chosen maps, checkpoint by checkpoint.

    Args:
        checkpoints: their names.
        maps: the chosen maps by layer.
        images: how many images the data set holds.
        stages: by layer, one for every checkpoint.
    """

    checkpoints: tuple[str, ...]
    maps: Mapping[str, tuple[int, ...]]
    images: int
    stages: Mapping[str, tuple[Stage, ...]]

    def activations(self, layer: str) -> Tensor:
        """(maps, checkpoints) the strongest activations."""
        columns = [stage.units.activation for stage in self.stages[layer]]
        return torch.stack([column for column in columns if column is not None], 1)

    def strongest_images(self, layer: str) -> Tensor:
        """(maps, checkpoints) int64: the number of the image with the strongest response; -1 where there is none."""
        images = torch.stack([stage.units.image for stage in self.stages[layer]], 1)
        return images.where(self.responds(layer), -1)

    def responds(self, layer: str) -> Tensor:
        """(maps, checkpoints) bool: whether the map responds to any image, with an activation above zero."""
        return respond(self.activations(layer))

    def comparable(self, layer: str) -> Tensor:
        """(maps, checkpoints) bool: whether the map responds there and at the checkpoint before; never at the first."""
        responds = self.responds(layer)
        return torch.cat([torch.zeros_like(responds[:, :1]), responds[:, 1:] & responds[:, :-1]], 1)

    def jumps(self, layer: str) -> Tensor:
        """(maps, checkpoints) bool: another image than at the checkpoint before is the strongest.

        Never at the first checkpoint, nor where the map falls silent or wakes up: it then has no strongest image to
        compare with. A projection's appearance changes abruptly at a jump.

        Source: Zeiler & Fergus 2013, section 4, Fig 4.
        """
        image = self.strongest_images(layer)
        return self.comparable(layer) & (image != image.roll(1, 1))

    def table(self, names: Sequence[str], rectifiers: Mapping[str, str]) -> Iterator[list[object]]:
        """One row per layer, checkpoint and map, under `table_head`; a silent map has no place.

        Args:
            names: what the images were cut from.
            rectifiers: by layer the one whose units stand for its, or the layer itself.
        """
        for layer, stages in self.stages.items():
            jumps, responds = self.jumps(layer), self.responds(layer)
            rectified_by = "" if rectifiers[layer] == layer else rectifiers[layer]
            for column, (checkpoint, stage) in enumerate(zip(self.checkpoints, stages, strict=True)):
                assert stage.units.activation is not None
                values = (stage.units.table().T.tolist(), stage.units.activation.tolist(), stage.boxes.tolist())
                for row, ((image, channel, *at), value, box) in enumerate(zip(*values, strict=True)):
                    heard = bool(responds[row, column])
                    place = [image, names[image], *at] if heard else [""] * (2 + len(at))
                    ends = [int(jumps[row, column]), int(not heard), rectified_by]
                    yield [layer, channel, checkpoint, *place, value, *(box if heard else [""] * len(box)), *ends]

    def projections(self) -> dict[str, Tensor]:
        """By layer and checkpoint, such as "conv1/last": (maps, C, [[d,] h,] w), zero where a map is silent."""
        return {
            f"{layer}/{name}": stage.windows.where(heard.view(-1, *[1] * (stage.windows.dim() - 1)), 0)
            for layer, stages in self.stages.items()
            for name, stage, heard in zip(self.checkpoints, stages, self.responds(layer).T, strict=True)
        }

    def summary(self) -> list[list[str]]:
        """For people, one row per layer and checkpoint."""
        rows = [["layer", "checkpoint", "median activation", "silent maps", "jumps"]]
        for layer in self.stages:
            medians = self.activations(layer).median(0).values.tolist()
            counted = (self.responds(layer).logical_not(), self.jumps(layer), self.comparable(layer))
            counts = zip(*(each.sum(0).tolist() for each in counted), strict=True)
            for name, median, (silent, jumped, could) in zip(self.checkpoints, medians, counts, strict=True):
                of_both = f"{jumped} of {could}" if name != self.checkpoints[0] else "-"
                rows.append([layer, name, f"{median:.3g}", str(silent), of_both])
        return rows


def evolve(
    checkpoints: Mapping[str, nn.Module | Callable[[], nn.Module]],
    batches: Iterable[Any],
    maps: Mapping[str, Sequence[int]],
    *,
    rule: str = "deconvnet",
    overlap: str = "sum",
    rectified: bool = False,
    parts: Parts | None = None,
    progress: bool = True,
) -> Evolution:
    """Finds the strongest unit of chosen maps at every checkpoint and projects it back to pixels.

    Args:
        checkpoints: by name in order of training, networks, or functions that make one when its turn comes; any that
            Deconvnet can trace, all with the layers asked for.
        batches: float images (N, C, [[D,] H,] W), read once per checkpoint in one order (so not an iterator, nor a
            DataLoader that shuffles); or tuples, lists or dicts, of which the first floating-point tensor is taken. A
            tensor of images is taken as batches of 16.
        maps: the chosen maps of every layer.
        rule: as for `Deconvnet`.
        overlap: as for `Deconvnet.project`.
        rectified: take a layer that a rectifier follows as that leaves it: the units are the rectifier's.
        parts: where finished checkpoints are kept.
        progress: show a progress bar over the checkpoints.

    Raises:
        TypeError: batches without images of the networks' dtype, or maps that are not whole numbers.
        ValueError: no checkpoints, layers or images, batches that can be read only once or that shuffle or drop images,
            a layer that a network lacks, a map that a layer lacks, or activations that are not finite.
        UnsupportedModule: a network that cannot be followed.

    Source: Zeiler & Fergus 2013, section 4, Fig 4.

    Example:
        >>> checkpoints = {f"epoch {epoch}": nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()) for epoch in (1, 2, 5)}
        >>> evolution = evolve(checkpoints, torch.randn(8, 3, 16, 16), {"1": [0, 3]}, progress=False)
        >>> evolution.activations("1").shape  # of two maps at three checkpoints
        torch.Size([2, 3])
    """
    if not checkpoints:
        raise ValueError("at least one checkpoint is needed")
    if not maps or not all(len(chosen) for chosen in maps.values()):
        raise ValueError("at least one layer, and one map of each, is needed")
    check_data(batches, "checkpoints")
    wanted = {layer: tuple(whole_number("a map", map_) for map_ in chosen) for layer, chosen in maps.items()}
    parts = parts or Parts.nowhere()
    found = []
    for name, source in Progress(checkpoints.items(), desc="evolution", unit="checkpoint", disable=not progress):
        found.append(parts.get(name, partial(_stage, name, source, batches, wanted, rule, overlap, rectified)))
    counts = {part["images"] for part in found}
    if len(counts) > 1:
        raise ValueError(f"the batches did not hold the same number of images every time: {sorted(counts)}")
    stages = {layer: tuple(_as_stage(part["layers"][layer]) for part in found) for layer in wanted}
    return Evolution(tuple(checkpoints), wanted, counts.pop(), stages)


@torch.no_grad()
def strongest_of(
    net: Deconvnet, batches: Iterable[Any], maps: Mapping[str, Sequence[int]], rectified: bool = False
) -> tuple[dict[str, Units], dict[str, Tensor], int]:
    """The strongest unit of chosen maps over a data set, and the images they lie in. One image per map is held.

    Args:
        net: the network.
        batches, maps, rectified: as for `evolve`.

    Returns:
        By layer the units, one per map in the order given, the first image among equals; by layer their images
        (maps, C, [[D,] H,] W); and how many images were seen.

    Raises:
        ValueError, UnknownLayer: as `evolve`.
    """
    best: dict[str, tuple[Tensor, Tensor]] = {}
    named = {layer: rectifier_of(net.tape, layer) if rectified else layer for layer in maps}
    seen = 0
    for images in images_of(batches):
        wanted = list(dict.fromkeys(named.values()))
        record = net.record(images, wanted, batch_size=max(1, len(images)), progress=False)
        for layer, chosen in maps.items():
            units = record.strongest(named[layer], 1, chosen)
            activation = record.seeds(units)
            if not bool(activation.isfinite().all()):
                raise ValueError(f"the activations of {layer!r} are not finite numbers")
            table = torch.cat([units.table().to(torch.float64), activation[None].to(torch.float64)])
            table[0] += seen
            sources = images[units.image.to(images.device)]
            if layer in best:
                before, kept = best[layer]
                stronger = table[-1] > before[-1]
                table = torch.where(stronger, table, before)
                if sources.shape[1:] != kept.shape[1:]:
                    raise ValueError(
                        f"images must be of one size, got {tuple(kept.shape[1:])} and {tuple(sources.shape[1:])}"
                    )
                sources = torch.where(stronger.to(images.device).view(-1, *[1] * (images.dim() - 1)), sources, kept)
            best[layer] = table, sources
        seen += len(images)
    if not seen:
        raise ValueError("no images were given")
    units_by_layer = {}
    for layer, (table, _) in best.items():
        units_by_layer[layer] = Units.of_table(named[layer], table[:-1].to(torch.int64), table[-1])
    return units_by_layer, {layer: images for layer, (_, images) in best.items()}, seen


@torch.no_grad()
def _stage(
    name: str,
    source: nn.Module | Callable[[], nn.Module],
    batches: Iterable[Any],
    maps: Mapping[str, tuple[int, ...]],
    rule: str,
    overlap: str,
    rectified: bool,
) -> dict[str, Any]:
    """One checkpoint as plain tensors."""
    net = Deconvnet(source if isinstance(source, nn.Module) else source(), rule=rule)
    try:
        strongest, images, seen = strongest_of(net, batches, maps, rectified)
    except ValueError as error:
        raise ValueError(f"checkpoint {name!r}: {error}") from error
    layers = {}
    for layer, units in strongest.items():
        projections = _project(net, images[layer], units, overlap)
        layers[layer] = {
            "layer": units.layer,
            "table": units.table(),
            "activation": units.activation,
            "windows": projections.windows.cpu(),
            "boxes": projections.boxes,
        }
    return {"images": seen, "layers": layers}


def _project(net: Deconvnet, images: Tensor, units: Units, overlap: str) -> Projections:
    """Projections of units, each of the image of its own place in `images`."""
    record = net.record(images, units.layer, progress=False)
    own = units.of_images(range(len(units)))
    return net.project(record, own, overlap=overlap, progress=False)


def _as_stage(part: Mapping[str, Any]) -> Stage:
    units = Units.of_table(part["layer"], part["table"], part["activation"])
    return Stage(units, part["windows"], part["boxes"])
