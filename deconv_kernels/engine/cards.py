"""What a projection costs on a GPU at the least: a model of its plan. Nothing here was measured.

A step takes no less time than its arithmetic at the card's rate, than its bytes at the bandwidth of the card's memory,
and than the launch of its kernels. What is left out makes it longer: caches, index arithmetic, tiles that are not full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..checks import one_of
from ..terminal import aligned
from .datasheets import CARDS, PRECISIONS, Card
from .plan import DEVICE_BYTES, Plan, quantity

LAUNCH = 3e-6
"""Seconds from one kernel to the next, assumed: those of a CUDA graph. Calls that are not captured take more."""


@dataclass(frozen=True)
class Cost:
    """Of a step, or of several, for all units.

    Attributes:
        operations: floating-point operations, zeros counted; what runs by a gradient of torch's own is not counted.
        bytes: that device memory has to move, each input read and each output written once.
        launches: of kernels, one for a step and a part of the units that is taken at once.
        seconds: at the least.
        limit: which of these decides, "arithmetic", "memory" or "launches".
    """

    operations: float = 0
    bytes: float = 0
    launches: int = 0
    seconds: float = 0
    limit: str = ""

    def on(self, card: Card, precision: str) -> Cost:
        """With the time that it takes on a card."""
        times = {
            "arithmetic": self.operations / card.rates[precision],
            "memory": self.bytes / card.bandwidth,
            "launches": self.launches * LAUNCH,
        }
        limit = max(times, key=lambda name: times[name])
        return replace(self, seconds=times[limit], limit=limit)

    @classmethod
    def sum(cls, costs: Iterable[Cost]) -> Cost:
        """All of them one after the other; the limit is the one under which most of the time passes."""
        costs = list(costs)
        under = {cost.limit: sum(each.seconds for each in costs if each.limit == cost.limit) for cost in costs}
        return cls(
            operations=sum(cost.operations for cost in costs),
            bytes=sum(cost.bytes for cost in costs),
            launches=sum(cost.launches for cost in costs),
            seconds=sum(cost.seconds for cost in costs),
            limit=max(under, key=lambda limit: under[limit], default=""),
        )


class CardModel:
    """What a plan costs on a card.

    Args:
        plan: of a layer.
        units: how many of it.
        card: its name in `CARDS`.
        precision: one of `PRECISIONS`.

    Attributes:
        costs: of every step, from the units down, with its name.
        total: of all of them.

    Raises:
        ValueError: no such card or precision.

    Example:
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()))
        >>> plan = net.plan(net.record(torch.randn(1, 3, 16, 16), "3"), "3")
        >>> CardModel(plan, 1000, "h100", "tf32").total.launches
        2
    """

    def __init__(self, plan: Plan, units: int, card: str, precision: str) -> None:
        one_of("device", card, CARDS)
        one_of("precision", precision, PRECISIONS)
        self.plan, self.units, self.card, self.precision = plan, units, card, precision
        itemsize, arriving = PRECISIONS[precision], dict[int, float]()
        self.costs: list[tuple[str, Cost]] = []
        for planned in reversed(plan.steps):
            read = arriving.pop(planned.value, 0) or planned.above.elements * itemsize
            read += planned.step.kept_bytes(planned.above)
            below = [(s, window) for s, window in zip(planned.sources, planned.below, strict=True) if window]
            cost = Cost()
            if planned.step.waits:  # the step below reads what comes here
                arriving.update((source, read) for source, _ in below)
            else:
                written = sum(window.elements for _, window in below) * itemsize
                parts = math.ceil(units / planned.units_at_once)
                weights = 0
                if not planned.seeded:
                    weights = planned.step.weights_read(planned.above, planned.shapes[0]) * itemsize
                # A seed is no memory, and what it sends back is a slice of the weights.
                moved = units * (2 * written if planned.seeded else read + written) + parts * weights
                cost = Cost(2 * planned.multiply_adds * units, moved, parts)
            self.costs.append((planned.step.name, cost.on(CARDS[card], precision)))
        self.total = Cost.sum(cost for _, cost in self.costs)

    def as_dict(self) -> dict[str, Any]:
        """In plain numbers and texts."""
        steps = [{"step": name, **vars(cost)} for name, cost in self.costs]
        made = {"layer": self.plan.layer, "units": self.units, "device": self.card, "precision": self.precision}
        return {**made, "measured": False, **vars(self.total), "steps": steps}

    def table(self) -> str:
        """As text: one line for each step, from the units down to the images."""
        rows: list[tuple[str, ...]] = [("step", "FLOP", "bytes", "launches", "least time", "limit")]
        rows += [(name, *_texts(cost)) for name, cost in self.costs if cost.launches]
        rows.append(("all", *_texts(self.total)))
        source = CARDS[self.card].source
        told = f"{self.units:,} units of {self.plan.layer} in {self.precision} on {self.card}"
        return "\n".join(
            [
                *aligned(rows, left=(0, 5)),
                f"{told}, in parts of {quantity(DEVICE_BYTES, 'B', 1024)}: a model, nothing was measured",
                f"rates and bandwidth: {source}; a launch: {LAUNCH * 1e6:g} us, assumed",
            ]
        )


def _texts(cost: Cost) -> tuple[str, ...]:
    amounts = (quantity(amount, unit, 1000) for amount, unit in ((cost.operations, ""), (cost.bytes, "B")))
    return *amounts, f"{cost.launches:,}", f"{cost.seconds * 1e3:.3g} ms", cost.limit
