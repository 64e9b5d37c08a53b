"""The way back from a layer, prepared once for any of its units; on a GPU it is captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..terminal import Silent
from .plan import Plan
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
            self._graph = _captured(lambda: self._walk.run(*anywhere, Silent()), record.device, self.layer)

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
        record.check(units)
        result = walk.results[self.input]
        windows = result.new_empty((len(units), *result.shape[1:]))
        boxes = torch.empty((len(units), 2 * record.rank), dtype=torch.int64)
        for start in range(0, len(units), walk.units):
            part = slice(start, start + walk.units)
            boxes[part] = self._replayed(units[part])
            windows[part].copy_(result[: len(units) - start])
        return Projections(units, windows, boxes, self.shape)

    def _replayed(self, units: Units) -> Tensor:
        """Projects no more units than were captured, and returns their boxes."""
        count = len(units)
        if count < self._walk.units:  # the last of them stands for those that are not there
            units = units[torch.arange(self._walk.units).clamp_(max=count - 1)]
        boxes = self._walk.send(units, self.input)
        if self._graph is None:
            self._walk.run(*units.bounds(), Silent())
        else:
            self._graph.replay()
        return boxes[:count]


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
