"""What a projection will do: its steps, their cost, and how many units each takes at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..terminal import aligned
from .fields import Window, as_map, rank_of, receptive_fields
from .positions import Origins
from .steps.base import Options, PlannedStep, Step
from .trace.tape import Tape

# Working memory for the windows above and below a step: on the CPU as much as stays near the cores, elsewhere as much
# as keeps the device busy.
HOST_BYTES = 2**23
DEVICE_BYTES = 2**30


def working_bytes(device: torch.device) -> int:
    """Working memory for the windows of one step, where the user names none."""
    return HOST_BYTES if device.type == "cpu" else DEVICE_BYTES


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

    @functools.cached_property
    def origins(self) -> Origins:
        """Of the windows whose origins the way back reads, and of those on the inputs."""
        places = [axis.length for axis in self.top.axes]
        return Origins(places, (*(planned.source for planned in self.steps), *self.inputs))

    @property
    def multiply_adds(self) -> int:
        """Of one unit, zeros included."""
        return sum(step.multiply_adds for step in self.steps)

    def shape(self, units: int, input: int = 0) -> tuple[int, ...]:
        """(U, C, [[d,] h,] w) of the windows that so many units have on an input."""
        window = self.inputs[input]
        return units, window.channels, *window.size

    def as_dict(self, units: int) -> dict[str, Any]:
        """The plan for a number of units in plain numbers and texts: its steps from the units down to the images."""
        steps = []
        for planned in reversed(self.steps):
            at_once = min(units, planned.units_at_once)
            windows = [(window.channels, *(axis.size for axis in window.axes)) for window in planned.below if window]
            steps.append(
                {
                    "step": planned.step.name,
                    "kind": type(planned.step).__name__,
                    "windows": list(dict.fromkeys(windows)),
                    "units_at_once": at_once,
                    "multiply_adds": planned.multiply_adds * units,
                    "bytes": planned.bytes * at_once,
                    "kernel": planned.kernel,
                }
            )
        result = sum(window.elements for window in self.inputs) * units * 4
        totals = {"multiply_adds": self.multiply_adds * units, "result_bytes": result}
        return {"layer": self.layer, "units": units, **totals, "steps": steps}

    def table(self, units: int) -> str:
        """The plan for a number of units, as text: one line for each step, from the units down to the images."""
        plan = self.as_dict(units)
        rows = [("step", "kind", "window", "units at once", "multiply-adds", "memory", "kernel")]
        for step in plan["steps"]:
            windows = " and ".join(" x ".join(map(str, window)) for window in step["windows"])
            needs = quantity(step["multiply_adds"], "", 1000), quantity(step["bytes"], "B", 1024)
            rows.append((step["step"], step["kind"], windows, f"{step['units_at_once']:,}", *needs, step["kernel"]))
        total, result = quantity(plan["multiply_adds"], "", 1000), quantity(plan["result_bytes"], "B", 1024)
        costs = f"{total} multiply-adds, zeros included; {result} of projections in float32"
        return "\n".join([*aligned(rows, left=range(7)), f"{units:,} units of {self.layer}: {costs}"])


def make_plan(
    tape: Tape,
    layer: str,
    shapes: Sequence[tuple[int, ...] | None],
    dtype: torch.dtype,
    max_bytes: int,
    whole: bool = False,
    options: Options | None = None,
) -> Plan:
    """Plans the way back from a layer.

    Args:
        tape: of the network.
        layer: whose units are projected.
        shapes: of every value of the tape, for one image; None where the layer does not need it.
        dtype: of the network.
        max_bytes: working memory for the windows of one step.
        whole: the signal begins on whole maps and not in single units.
        options: the user's choices.

    Raises:
        UnknownLayer: a layer the network does not have.
    """
    options = options or Options()
    top = tape.layer(layer).value
    rank = rank_of(shapes[0] or ())
    shape = as_map(shapes[top] or (), rank)
    units = Window.full(shape) if whole else Window.unit(shape)
    fields = receptive_fields(tape.steps, tape.sources, shapes, top, units)
    planned: list[PlannedStep] = []
    senders: dict[int, list[Step]] = {top: []}  # of the values whose signal waits for its step
    for link in reversed(tape.links):
        step, above = link.step, fields[link.value] if link.value <= top else None
        if above is None:
            continue
        read = tuple(shapes[source] or () for source in link.sources)
        reaching = zip(link.sources, step.reaches(above, read), strict=True)
        below = tuple(fields[source] if window == fields[source] else window for source, window in reaching)
        above_it = senders.pop(link.value)
        others = sum(field.elements for other in senders if (field := fields[other]) is not None)
        for source, window in zip(link.sources, below, strict=True):
            if window is not None:
                senders.setdefault(source, []).append(step)
        of_unit = step.bytes(above, [window for window in below if window is not None], dtype.itemsize)
        size = of_unit + others * dtype.itemsize
        seeded = link.value == top and not whole and step.slices_weights(read[0])
        planned.append(
            PlannedStep(
                step=step,
                number=link.number,
                value=link.value,
                sources=link.sources,
                above=above,
                source=step.source(above, options),
                below=below,
                shapes=read,
                options=options,
                seeded=seeded,
                settled=len(above_it) != 1 or not above_it[0].waits,
                multiply_adds=0 if seeded else step.multiply_adds(above, read[0]),
                bytes=size,
                units_at_once=max(1, max_bytes // size),
            )
        )
    inputs = tuple(fields[number] or Window.full(as_map(shapes[number] or (), rank)) for number in range(tape.inputs))
    return Plan(layer, top, units, tuple(reversed(planned)), tuple(fields), inputs)


def quantity(value: float, unit: str, base: int) -> str:
    """An amount in three digits with the prefix that goes with it, in steps of 1000 or 1024."""
    prefixes = ["", "K", "M", "G", "T", "P"]
    while value >= min(base, 1000) and len(prefixes) > 1:
        value /= base
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip()
