"""What is watched while an occluder slides: the map of a layer, and the probabilities of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.deconvnet import Deconvnet
from ...engine.recompute import Recomputation
from ...engine.units import Units
from ..common.classes import class_count, class_to_follow, log_odds, probabilities
from .occluder import Occluder

__all__ = ["Classes", "WatchedMap", "in_windows"]

# Rounding is measured at so many positions, at which the clean image is computed again in windows. What is found counts
# so many times, for it is a sample.
_MEASURED = 9
_TIMES = 8


class WatchedMap:
    """The map of a layer whose total activation is recorded.

    Args:
        maps: of the clean image.
        layer: their name.
        map: which of them, or None for the strongest.
        rank: how many axes the image has.
    """

    def __init__(self, maps: Tensor, layer: str, map: int | None, rank: int) -> None:
        if maps.dim() not in (1, rank + 1):
            raise ValueError(f"a layer of maps is needed, but {layer!r} has values of shape {tuple(maps.shape)}")
        maps = maps.reshape(len(maps), *(maps.shape[1:] or (1,) * rank))  # a row counts as maps of one position
        if map is not None and not 0 <= map < len(maps):
            raise ValueError(f"map of {layer!r} must be from 0 to {len(maps) - 1}, got {map}")
        self.rank = rank
        totals = self._sums(maps)
        self.layer, self.map = layer, int(totals.argmax()) if map is None else map
        self.clean, self.maps = float(totals[self.map]), maps

    def _sums(self, maps: Tensor) -> Tensor:
        return maps.double().flatten(-self.rank).sum(-1).cpu()

    def totals(self, maps: Tensor) -> Tensor:
        """Of maps (n, C, H, W), or rows (n, C): (n,)."""
        return self._sums(maps.reshape(-1, *self.maps.shape)[:, self.map])

    def strongest(self, count: int) -> Units:
        """The map's strongest units, at most as many as it has."""
        values = self.maps[self.map].flatten()
        strength, place = values.sort(descending=True, stable=True)
        strength, place = strength[:count], place[:count]
        places = torch.unravel_index(place, self.maps.shape[1:])
        image, channel = torch.zeros_like(place), torch.full_like(place, self.map)
        return Units.of_table(self.layer, torch.stack([image, channel, *places]), strength)

    def projected(self, net: Deconvnet, image: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The places of its strongest units, and the sum of their projections."""
        units = self.strongest(count)
        record = net.record(image[None], self.layer, progress=False)
        projections = net.project(record, units, progress=False)
        return units.table()[2:].T.contiguous(), projections.full().sum(0).cpu()


class Classes:
    """The classes whose probabilities are recorded.

    Args:
        scores: of the clean image.
        layer: their name.
        logits: whether they are, or are probabilities.
        label: the true class, or None for the one to follow.
        already: whether they are known to be probabilities.
    """

    def __init__(self, scores: Tensor, layer: str, logits: bool, label: int | None, already: bool) -> None:
        self.layer, self.logits, self.scores = layer, logits, scores[None].flatten(1)
        if scores.numel() != len(scores):
            raise ValueError(f"one value for each class is needed, but {layer!r} has the shape {tuple(scores.shape)}")
        one = len(scores) == 1
        adds_up = bool((scores >= 0).all()) and abs(float(scores.double().sum()) - 1) < 1e-4
        if logits and (already or (adds_up and not one)):
            raise ValueError(f"the values of {layer!r} are probabilities already; pass softmax=False (--probabilities)")
        if not logits and not (0 <= float(scores.sum()) <= 1 if one else adds_up):
            needed = "be from 0 to 1" if one else "be at least 0 and add up to 1"
            raise ValueError(f"the values of {layer!r} are no probabilities: they must {needed}")
        count = class_count(len(scores))
        if label is not None and not 0 <= label < count:
            raise ValueError(f"label must be from 0 to {count - 1}, got {label}")
        clean = probabilities(self.scores, logits)[0]
        self.most_probable = int(clean.argmax())
        self.label = class_to_follow(self.scores[0]) if label is None else label
        self.clean = float(clean[self.label])
        self.largest = float(scores.abs().max())

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Of scores (n, classes), what becomes of them: (n,) each."""
        self.largest = max(self.largest, float(scores.abs().max()))
        found = probabilities(scores.flatten(1), self.logits)
        highest, most_probable = found.max(1)
        return {"probability": found[:, self.label], "most_probable": most_probable, "highest_probability": highest}

    def rounding(self, again: Tensor) -> float:
        """By how much rounding alone may raise the label's probability above the clean one.

        Args:
            again: scores (n, classes) of the clean image as they come out of windows.
        """
        clean = log_odds(self.scores, self.label, self.logits)
        spread = (log_odds(again.flatten(1), self.label, self.logits) - clean).abs().max()
        largest = self.largest if self.logits else float(clean.abs())
        reached = torch.sigmoid(clean + _TIMES * spread + _resolution(again) * largest)
        return float((reached - torch.sigmoid(clean)).clamp(min=torch.finfo(torch.float64).eps))


def in_windows(recomputation: Recomputation, image: Tensor, occluder: Occluder) -> dict[str, Tensor]:
    """The outputs of the clean image, computed in windows around squares that hide nothing, at some positions."""
    count = len(occluder.origins)
    chosen = occluder.origins[torch.linspace(0, count - 1, min(count, _MEASURED)).round().long()]
    parts = (
        [slice(at, at + length) for at, length in zip(place, occluder.size, strict=True)] for place in chosen.tolist()
    )
    return recomputation(chosen, torch.stack([image[(slice(None), *part)] for part in parts]))


def _resolution(scores: Tensor) -> float:
    """What rounding may do to a network's scores whatever windows they come from, as a share of the largest."""
    exact = scores.dtype in (torch.float32, torch.float64)
    if scores.is_cuda and scores.dtype == torch.float32:
        convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        if "tf32" in (convolutions, torch.backends.cuda.matmul.fp32_precision):
            return 4 * 2.0**-10
    return (16 if exact else 4) * torch.finfo(scores.dtype).eps
