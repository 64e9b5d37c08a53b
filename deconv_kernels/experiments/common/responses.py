"""Which units respond: those whose activation, rectified, is above zero.

What a figure shows of a map are responses. A layer that a rectifier follows stands for what that makes of it, and a map
without a response over all images is dead: it has no strongest unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...engine.fields import Window, as_map, receptive_fields
from ...engine.record import Record
from ...engine.trace.tape import Tape
from ...engine.units import Units

__all__ = [
    "by_map",
    "describe_field",
    "describe_rectification",
    "ranks",
    "receptive_field",
    "rectifier_of",
    "respond",
    "seen_size",
    "strongest_responses",
]

_UNBOUNDED = 2**40


def rectifier_of(tape: Tape, layer: str) -> str:
    """The layer whose units stand for those of a layer: the rectifier that alone reads it, else the layer itself.

    Between the two may stand steps that keep each map to itself, such as batch normalisation.

    Raises:
        UnknownLayer: no such layer.
    """
    value = tape.layer(layer).value
    made = tape.maker(value)
    if made is None or made.step.rectifies:
        return layer
    found = tape.maker(tape.rectified(value))
    return found.step.name if found is not None and found.step.rectifies else layer


def describe_rectification(tape: Tape, layer: str) -> str:
    """For captions: whose activations stand for a layer's, a sentence; nothing where the layer itself is rectified.

    Raises:
        UnknownLayer: no such layer.
    """
    rectifier = rectifier_of(tape, layer)
    if rectifier != layer:
        return f"Activations of layer {layer} as layer {rectifier} rectifies them."
    if _is_rectified(tape, tape.layer(layer).value):
        return ""
    return f"No rectifier follows layer {layer}: of its activations those above zero are shown."


def seen_size(field: tuple[int, ...] | None) -> str:
    """A receptive field as columns x rows, and planes."""
    return "whole image" if field is None else "x".join(map(str, reversed(field)))


def describe_field(field: tuple[int, ...] | None, window: tuple[int, ...]) -> str:
    """For captions: a receptive field in pixels or samples, and what is shown where images are smaller than it."""
    unit = "samples" if len(window) == 1 else "pixels"
    if field is None:
        return f"the whole image, {seen_size(window)} {unit}"
    clipped = f", more than an image has: shown are its {seen_size(window)}" if field != window else ""
    return f"{seen_size(field)} {unit}{clipped}"


def _is_rectified(tape: Tape, value: int) -> bool:
    """Whether a value is a rectifier's, as it is or pooled."""
    while (made := tape.maker(value)) is not None and not made.step.rectifies:
        if not made.step.keeps_responses:
            return False
        value = made.sources[0]
    return made is not None


def respond(activation: Tensor) -> Tensor:
    """Which activations are responses. NaN counts as one, so that it is seen."""
    return ~(activation <= 0)


def strongest_responses(record: Record, layer: str, k: int, channels: Sequence[int] | Tensor | None = None) -> Units:
    """The strongest units of every map that respond, at most one per image: k of them, or as many as there are.

    Args:
        record, layer, channels: as for `Record.strongest`.
        k: units per map, at most.

    Raises:
        ValueError: as `Record.strongest`.

    Source: Zeiler & Fergus 2013, Fig 2.
    """
    units = record.strongest(layer, min(k, len(record)), channels)
    return units[respond(record.seeds(units))]


def by_map(units: Units, channels: Sequence[int]) -> dict[int, slice]:
    """The places of the units of every map, which lie together; an empty slice for a map without units.

    Args:
        units: sorted by map.
        channels: the maps.
    """
    maps, counts = units.channel.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    found = dict(zip(maps.tolist(), zip((stops - counts).tolist(), stops.tolist(), strict=True), strict=True))
    return {channel: slice(*found.get(channel, (0, 0))) for channel in channels}


def ranks(units: Units) -> Tensor:
    """(U,) the places of units in their maps, from 1; `units` are sorted by map."""
    counts = units.channel.unique_consecutive(return_counts=True)[1].tolist()
    return torch.cat([torch.arange(1, count + 1) for count in (0, *counts)])


def receptive_field(tape: Tape, record: Record, layer: str) -> tuple[int, ...] | None:
    """How far along each axis of the input a unit of a layer can see, however large the input is; None: all of it.

    A projection's window is that, or the whole image where it is at least as large.

    Args:
        tape: of the network.
        record: of any images.
        layer: whose units.

    Raises:
        UnknownLayer: no such layer.
        ValueError: the record does not reach it.
    """
    record.shape(layer)
    shapes = [None if shape is None else _unbounded(shape) for shape in record.shapes]
    value = tape.layer(layer).value
    window = Window.unit(as_map(shapes[value] or (), record.rank))
    field = receptive_fields(tape.steps, tape.sources, shapes, value, window)[0]
    return None if field is None or max(field.size) >= _UNBOUNDED else field.size


def _unbounded(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape with maps so large that no window reaches their ends; single positions stay what they are."""
    return (shape[0], *(_UNBOUNDED if length > 1 else 1 for length in shape[1:]))
