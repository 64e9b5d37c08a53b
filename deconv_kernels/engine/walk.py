"""The way down of one plan: takes signal through the planned steps to the images, from units or from whole maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..terminal import Progress, Silent
from .plan import Plan
from .positions import Bounds, UnitBuffer
from .record import Record
from .signal import Windows
from .steps.base import Kept, Step
from .units import Units


@dataclass(frozen=True)
class Walk:
    """The way from units down to the images.

    Attributes:
        plan: of their layer.
        steps: with the record's weights, by their numbers.
        kept: what the record holds for every step.
        scale: (U,), what every projection is multiplied by, or None.
        results: (U, C, [[d,] h,] w) for every input, filled from the bottom.
        bar: shows how many units have arrived.
    """

    plan: Plan
    steps: Mapping[int, Step]
    kept: list[Kept]
    scale: Tensor | None
    results: list[Tensor]
    bar: Progress | Silent

    def down(self, pending: dict[int, list[Windows]], number: int, first: int, units: int) -> None:
        """Takes signal down to the images.

        Args:
            pending: what has come to every value above the steps still to be run.
            number: of the highest of these steps in the plan.
            first: of the units.
            units: how many.
        """
        plan = self.plan
        while number >= 0:
            planned = plan.steps[number]
            if units > planned.units_at_once:
                for begin in range(0, units, planned.units_at_once):
                    end = min(units, begin + planned.units_at_once)
                    chunk = slice(begin, end)
                    of_chunk = {value: [part.of_units(chunk) for part in parts] for value, parts in pending.items()}
                    self.down(of_chunk, number, first + begin, end - begin)
                return
            number -= 1
            windows = self._arrived(pending, planned.value)
            if windows is None:
                continue
            step = self.steps[planned.number]
            parts = step.send(windows, self.kept[planned.number], planned)
            for source, part in zip(planned.sources, parts, strict=True):
                if part is not None:
                    pending.setdefault(source, []).append(part)
        for value, result in enumerate(self.results):
            arrived, scale = self._arrived(pending, value), self.scale
            if units < result.shape[0]:
                result = result[first : first + units]
                scale = None if scale is None else scale[first : first + units]
            if arrived is None:
                result.zero_()
            elif scale is None:
                result.copy_(arrived.dense())
            else:
                torch.mul(arrived.dense(), scale.view(-1, *(1,) * (result.dim() - 1)), out=result)
        self.bar.update(units)

    def _arrived(self, pending: dict[int, list[Windows]], value: int) -> Windows | None:
        """The signal on a value, from all its readers."""
        parts = pending.pop(value, None)
        if parts is None:
            return None
        field = self.plan.fields[value]
        assert field is not None
        if len(parts) == 1 and (parts[0].window is field or parts[0].window == field):
            return parts[0]
        return Windows.sum(parts, field)


class UnitWalk:
    """The way from so many units of a layer down to the images, in memory that stays where it is.

    Once units have been sent to it, running it neither waits for the device nor copies between it and the host.

    Args:
        record: of the images.
        plan: of the layer.
        units: how many.
        scaled: by their activations.
        input, out: an input, and what takes its results.

    Attributes:
        results: (U, C, [[d,] h,] w) for every input, in the windows of the plan.
    """

    def __init__(
        self, record: Record, plan: Plan, units: int, scaled: bool, input: int = 0, out: Tensor | None = None
    ) -> None:
        self.record, self.plan, self.units, self.scaled = record, plan, units, scaled
        self.buffer = UnitBuffer(plan.origins, units, record.dtype, record.device)
        self.results = empty_results(record, plan, units, input, out)

    def send(self, units: Units, input: int) -> Tensor:
        """Sends as many units to the device.

        Returns:
            Where their windows lie on an input, (U, 2 * rank) int64 on the host.

        Raises:
            ValueError: activations are needed that neither the units nor the record have.
        """
        buffer, record = self.buffer, self.record
        table = buffer.fill(units.table().numpy(), units.activation if self.scaled else None)
        if self.scaled and units.activation is None:
            buffer.scale.copy_(record.at(units.layer, buffer.image, buffer.channel, buffer.table[0]))
        return self.plan.origins.boxes(table, self.plan.inputs[input])

    def run(self, bounds: Bounds, bar: Progress | Silent) -> None:
        """Takes a signal of one from every unit down to the images.

        Args:
            bounds: of the units' places.
            bar: shows how many have arrived.
        """
        record, plan, buffer = self.record, self.plan, self.buffer
        seeds = Windows.seeds(buffer.channel, buffer.positions(bounds), plan.top, record.dtype)
        scale = buffer.scale if self.scaled else None
        walk = Walk(plan, record.steps, record.kept, scale, self.results, bar)
        walk.down({plan.value: [seeds]}, len(plan.steps) - 1, 0, self.units)


def empty_results(record: Record, plan: Plan, units: int, input: int = 0, out: Tensor | None = None) -> list[Tensor]:
    """Memory for what arrives at every input, (U, C, [[d,] h,] w) in the windows of a plan.

    Args:
        record: of the images.
        plan: of the layer.
        units: how many.
        input, out: an input, and its memory; all others, and this one without it, get new memory.

    Raises:
        TypeError, ValueError: `out` cannot take the results.
    """
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"out must be a Tensor, got {type(out).__name__}")
    results = []
    for number in range(len(plan.inputs)):
        shape = plan.shape(units, number)
        if number != input or out is None:
            results.append(torch.empty(shape, dtype=record.dtype, device=record.device))
        elif (tuple(out.shape), out.dtype, out.device) != (shape, record.dtype, record.device):
            given = f"{tuple(out.shape)} of {out.dtype} on {out.device}"
            raise ValueError(f"out must be {shape} of {record.dtype} on {record.device}, got {given}")
        else:
            results.append(out)
    return results
