"""The way back from a layer, prepared once for any of its units; on a GPU it is captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..terminal import Silent
from .plan import Plan
from .positions import Bounds
from .projections import Projections
from .record import Record
from .units import Units
from .walk import UnitWalk


class Captured:
    """The way back from the units of one layer, ready to run; made by `Deconvnet.capture`.

    It has memory of its own for everything on that way, and serves one call at a time.

    Args:
        record: of the images.
        plan: of the layer.
        units: how many at once.
        scaled: by their activations.
        input: to which of the network's inputs.

    Attributes:
        layer: its name.
    """

    def __init__(self, record: Record, plan: Plan, units: int, scaled: bool, input: int) -> None:
        self.record, self.plan, self.input = record, plan, input
        self.layer, self.shape = plan.layer, record.shapes[input] or ()
        self._walk = UnitWalk(record, plan, units, scaled)
        self._graph = None
        if record.device.type == "cuda":
            anywhere = (0,) * record.rank, tuple(axis.length - 1 for axis in plan.top.axes)
            self._graph = _captured(lambda: self._walk.run(anywhere, Silent()), record.device, self.layer)

    def __repr__(self) -> str:
        return f"Captured({self.layer!r}, {self._walk.units} units at once, on {self.record.device})"

    @torch.no_grad()
    def project(self, units: Units) -> Projections:
        """Projects units back to pixels, as `Deconvnet.project` does.

        Args:
            units: any number, of the layer.

        Returns:
            The projections, in the order of the units, in memory of their own.

        Raises:
            ValueError: units of another layer or outside the record, or activations that the record has not kept.
        """
        record, walk = self.record, self._walk
        if record.name(units.layer) != self.layer:
            raise ValueError(f"units must be of the layer {self.layer!r} that was captured, got {units.layer!r}")
        bounds = record.check(units)
        starts = range(0, max(len(units), 1), walk.units)
        parts = [units] if len(starts) == 1 else [units[start : start + walk.units] for start in starts]
        windows, boxes = zip(*(self._replayed(part, bounds) for part in parts), strict=True)
        if len(parts) == 1:
            return Projections(units, windows[0], boxes[0], self.shape)
        return Projections(units, torch.cat(windows), torch.cat(boxes), self.shape)

    def _replayed(self, units: Units, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """The windows and the boxes of no more units than were captured."""
        count, walk = len(units), self._walk
        result = walk.results[self.input]
        if count == 0:
            return result[:0].clone(), torch.zeros((0, 2 * self.record.rank), dtype=torch.int64)
        if count < walk.units:  # the last of them stands for those that are not there
            units = units[torch.arange(walk.units).clamp_(max=count - 1)]
        boxes = walk.send(units, self.input)
        if self._graph is None:
            walk.run(bounds, Silent())
        else:
            self._graph.replay()
        return result[:count].clone(), boxes[:count]


def _captured(run: Callable[[], None], device: torch.device, layer: str) -> torch.cuda.CUDAGraph:
    """What `run` does on a GPU, as a graph.

    Raises:
        RuntimeError: it waits for the GPU.
    """
    with torch.cuda.device(device):
        # Before it is captured it runs once, which compiles kernels, chooses their tiles and makes what is made once.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError as error:
            raise RuntimeError(
                f"the way back from {layer!r} cannot be captured, because a step of it waits for the GPU; take "
                f"net.project instead: {error}"
            ) from error
    return graph
