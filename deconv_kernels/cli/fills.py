"""What stands in the place of hidden or missing pixels, from the command line."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import Weights

_BORDERS = {"edge": "the border's pixels repeated", "reflect": "the image mirrored"}
_DESCRIPTIONS = {"image": "each photograph's own mean colour", **_BORDERS}


def fill_colour(weights: Weights, fill: str, others: Sequence[str] = ()) -> float | Tensor:
    """What "mean", a grey level 0..255 or R,G,B is in a network's input: one number, or one for each channel.

    Args:
        weights: whose preprocessing to use.
        fill: as the user gave it.
        others: what else the command takes, for the message.

    Raises:
        ValueError: it is no colour.
    """
    if fill == "mean":
        return 0.0
    levels = fill.split(",")
    if len(levels) not in (1, 3) or not all(level.strip().isdecimal() and int(level) <= 255 for level in levels):
        named = ", ".join(("mean", *others))
        raise ValueError(f"fill must be {named}, a grey level from 0 to 255 or R,G,B, got {fill!r}")
    rgb = torch.tensor([int(level) for level in levels], dtype=torch.uint8).expand(3)
    return weights.preprocess(rgb[:, None, None])[:, 0, 0]


def describe_border(name: str) -> str:
    """What comes in at the border, in words, where it is no colour."""
    return _BORDERS[name]


def describe_fill(weights: Weights, fill: str) -> str:
    """A fill in words, for captions."""
    if fill == "mean":
        black = weights.preprocess(torch.zeros(3, 1, 1, dtype=torch.uint8))
        levels = weights.deprocess(torch.zeros_like(black)).round().int().flatten().tolist()
        name = "RGB" if len(levels) == 3 else "grey level"
        return f"the mean that preprocessing subtracts, {name} {','.join(map(str, levels))}"
    return _DESCRIPTIONS.get(fill, f"{'RGB' if ',' in fill else 'grey level'} {fill}")
