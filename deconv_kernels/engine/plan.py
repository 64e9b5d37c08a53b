"""What a projection will do: its steps, their cost, and how many units each takes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .fields import Window, as_map, receptive_fields
from .steps.base import Step
from .steps.convolution import Convolution
from .steps.linear import Linear
from .steps.pointwise import Rectifier
from .steps.pooling import MaxPool
from .trace.tape import Tape

# Working memory for the windows above and below a step: on the CPU as much as stays near the cores, elsewhere as much
# as keeps the device busy.
HOST_BYTES = 2**25
DEVICE_BYTES = 2**30


@dataclass(frozen=True)
class PlannedStep:
    """One step on the way back.

    Attributes:
        step: of the tape.
        index: its number in the tape.
        value, sources: the numbers of the value it makes and of those it reads.
        above: the window of a unit on its output.
        below: on each of its inputs; None where no signal goes.
        shapes: of its inputs, for one image.
        multiply_adds: of one unit, zeros included.
        bytes: of one unit's windows above and below, of the switches under them, and of what waits on other branches.
        units_at_once: how many units' windows fit into the working memory.
        kernel: what runs.
    """

    step: Step
    index: int
    value: int
    sources: tuple[int, ...]
    above: Window
    below: tuple[Window | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    multiply_adds: int
    bytes: int
    units_at_once: int
    kernel: str


@dataclass(frozen=True)
class Plan:
    """The way back from the units of one layer.

    Attributes:
        layer: its name.
        value: the number of its value.
        top: the window on it; that of a unit, or all of it.
        steps: those that a signal passes, in the order of the tape, from the images up.
        fields: the window of a unit on every value, which covers all the paths to it; None where none leads.
        inputs: the window on each input; all of it where no path leads.
    """

    layer: str
    value: int
    top: Window
    steps: tuple[PlannedStep, ...]
    fields: tuple[Window | None, ...]
    inputs: tuple[Window, ...]

    @property
    def multiply_adds(self) -> int:
        """Of one unit, zeros included."""
        return sum(step.multiply_adds for step in self.steps)

    def table(self, units: int) -> str:
        """The plan for a number of units, as text: one line for each step, from the units down to the images."""
        head = ("step", "kind", "window", "units at once", "multiply-adds", "memory", "kernel")
        rows = [head]
        for planned in reversed(self.steps):
            windows = [f"{window.channels} x {window.y.size} x {window.x.size}" for window in planned.below if window]
            rows.append(
                (
                    planned.step.name,
                    type(planned.step).__name__,
                    " and ".join(dict.fromkeys(windows)),
                    f"{min(units, planned.units_at_once):,}",
                    _quantity(planned.multiply_adds * units, "", 1000),
                    _quantity(planned.bytes * min(units, planned.units_at_once), "B", 1024),
                    planned.kernel,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        result = sum(window.elements for window in self.inputs) * units * 4
        lines.append(
            f"{units:,} units of {self.layer}: {_quantity(self.multiply_adds * units, '', 1000)} multiply-adds, zeros "
            f"included; {_quantity(result, 'B', 1024)} of projections in float32"
        )
        return "\n".join(lines)


def make_plan(
    tape: Tape,
    layer: str,
    shapes: Sequence[tuple[int, ...] | None],
    dtype: torch.dtype,
    max_bytes: int,
    whole: bool = False,
) -> Plan:
    """Plans the way back from a layer.

    Args:
        tape: of the network.
        layer: whose units are projected.
        shapes: of every value of the tape, for one image; None where the layer does not need it.
        dtype: of the network.
        max_bytes: working memory for the windows of one step.
        whole: the signal begins on whole maps and not in single units.

    Raises:
        UnknownLayer: a layer the network does not have.
    """
    top = tape.value(layer)
    shape = as_map(shapes[top] or ())
    window = Window.full(shape) if whole else Window.unit(shape)
    fields = receptive_fields(tape.steps, tape.sources, shapes, top, window)
    planned: list[PlannedStep] = []
    waiting = {top}
    for index in reversed(range(top - tape.inputs + 1)):
        step, sources, value = tape.steps[index], tape.sources[index], tape.inputs + index
        above = fields[value]
        if above is None:
            continue
        waiting.discard(value)
        read = tuple(shapes[source] for source in sources)
        reached_by_it = zip(sources, step.reaches(above, read), strict=True)  # type: ignore[arg-type]
        below = tuple(fields[source] if window == fields[source] else window for source, window in reached_by_it)
        reached = [window for window in below if window is not None]
        others = sum(field.elements for other in waiting if (field := fields[other]) is not None)
        waiting.update(source for source, window in zip(sources, below, strict=True) if window is not None)
        elements = above.elements + sum(window.elements for window in reached)
        if isinstance(step, MaxPool):
            elements = above.elements  # done by the step below, which reads pooled values and switches
        elif reached == [above]:
            elements = above.elements
        size = (elements + others) * dtype.itemsize + (above.elements if isinstance(step, MaxPool) else 0)
        seeded = value == top and not whole
        planned.append(
            PlannedStep(
                step,
                index,
                value,
                sources,
                above,
                below,
                read,  # type: ignore[arg-type]
                step.multiply_adds(above, as_map(read[0] or ())[0])
                if isinstance(step, Convolution) and not seeded
                else 0,
                size,
                max(1, max_bytes // size),
                _kernel(step, seeded),
            )
        )
    inputs = tuple(fields[number] or Window.full(as_map(shapes[number] or ())) for number in range(tape.inputs))
    return Plan(layer, top, window, tuple(reversed(planned)), tuple(fields), inputs)


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
