"""The way down of one plan: takes signal through the planned steps to the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..terminal import Progress, Silent
from .plan import Plan
from .signal import Windows
from .steps.base import Kept, Step


@dataclass(frozen=True)
class Walk:
    """The way from units down to the images.

    Attributes:
        plan: of their layer.
        steps: with the record's weights, by their numbers.
        kept: what the record holds for every step.
        scale: (U, 1, ...), what every projection is multiplied by, or None.
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
                torch.mul(arrived.dense(), scale, out=result)
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
