"""What a projection will do: its steps, their cost, and how many units each takes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .convolution import Convolution
from .graph import Tape
from .steps import Linear, MaxPool, Rectifier, Step
from .windows import Shape, Window, receptive_fields

# Working memory for the windows above and below a step: on the CPU as much as stays near the cores, elsewhere as much
# as keeps the device busy.
HOST_BYTES = 2**25
DEVICE_BYTES = 2**30


@dataclass(frozen=True)
class PlannedStep:
    """One step on the way back.

    Attributes:
        step: of the tape.
        above, below: the windows of a unit on its output and on its input.
        multiply_adds: of one unit, zeros included.
        bytes: of one unit's windows above and below, and of the switches under them.
        units_at_once: how many units' windows fit into the working memory.
        kernel: what runs.
    """

    step: Step
    above: Window
    below: Window
    multiply_adds: int
    bytes: int
    units_at_once: int
    kernel: str


@dataclass(frozen=True)
class Plan:
    """The way back from the units of one layer.

    Attributes:
        layer: its name.
        steps: in the order of the tape, from the images up.
    """

    layer: str
    steps: tuple[PlannedStep, ...]

    @property
    def bottom(self) -> Window:
        """The window on the images."""
        return self.steps[0].below

    @property
    def multiply_adds(self) -> int:
        """Of one unit, zeros included."""
        return sum(step.multiply_adds for step in self.steps)

    def table(self, units: int) -> str:
        """The plan for a number of units, as text: one line for each step, from the units down to the images."""
        head = ("step", "kind", "window", "units at once", "multiply-adds", "memory", "kernel")
        rows = [head]
        for planned in reversed(self.steps):
            channels, (height, width) = planned.below.channels, planned.below.size
            rows.append(
                (
                    planned.step.name,
                    type(planned.step).__name__,
                    f"{channels} x {height} x {width}",
                    f"{min(units, planned.units_at_once):,}",
                    _quantity(planned.multiply_adds * units, "", 1000),
                    _quantity(planned.bytes * min(units, planned.units_at_once), "B", 1024),
                    planned.kernel,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        result = self.bottom.elements * units * 4
        lines.append(
            f"{units:,} units of {self.layer}: {_quantity(self.multiply_adds * units, '', 1000)} multiply-adds, zeros "
            f"included; {_quantity(result, 'B', 1024)} of projections in float32"
        )
        return "\n".join(lines)


def make_plan(tape: Tape, layer: str, shapes: Sequence[Shape], dtype: torch.dtype, max_bytes: int) -> Plan:
    """Plans the way back from a layer.

    Args:
        tape: of the network.
        layer: whose units are projected.
        shapes: (C, H, W) of the images and of the output of every step up to the layer.
        dtype: of the network.
        max_bytes: working memory for the windows of one step.

    Raises:
        UnknownLayer: a layer the network does not have.
    """
    top = tape.index(layer)
    steps = tape.steps[: top + 1]
    fields = receptive_fields(steps, shapes[: top + 2])
    planned: list[PlannedStep] = []
    for index, step in enumerate(steps):
        below, above = fields[index], fields[index + 1]
        seeded = index == top
        size = (below.elements + above.elements) * dtype.itemsize
        if isinstance(step, MaxPool):
            # Done by the step below, which reads pooled values and switches.
            size = above.elements * (dtype.itemsize + 1)
        elif below == above:
            size = above.elements * dtype.itemsize
        planned.append(
            PlannedStep(
                step,
                above,
                below,
                step.multiply_adds(above) if isinstance(step, Convolution) and not seeded else 0,
                size,
                max(1, max_bytes // size),
                _kernel(step, seeded),
            )
        )
    return Plan(layer, tuple(planned))


def _kernel(step: Step, seeded: bool) -> str:
    if isinstance(step, Convolution):
        return "slice of the weights" if seeded else "backproject2d"
    if isinstance(step, Linear):
        return "row of the weights" if seeded else "backproject2d"
    if isinstance(step, MaxPool) or (isinstance(step, Rectifier) and step.fuses):
        return "with the step below"
    return "torch"


def _quantity(value: float, unit: str, base: int) -> str:
    prefixes = ["", "K", "M", "G", "T", "P"]
    while value >= min(base, 1000) and len(prefixes) > 1:
        value /= base
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip()
