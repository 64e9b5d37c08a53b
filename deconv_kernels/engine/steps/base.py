"""What every step is, and what all of them share."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..expressions import Expression
from ..fields import Window, as_map
from ..signal import Windows, channels_innermost
from ..weights import Weights

Kept = tuple[Tensor, ...]
Function = Callable[..., Tensor] | Expression
Shapes = Sequence[Sequence[int]]
Signals = Sequence[Windows | None]
RULES = ("deconvnet", "guided", "gradient")
KERNELS = ("auto", "sparse", "dense")


@dataclass(frozen=True)
class Options:
    """What the user chose for the way back.

    Attributes:
        overlap: "sum" or "last", for overlapping pooling windows.
        kernel: "sparse", "dense" or "auto", for convolutions.
    """

    overlap: str = "sum"
    kernel: str = "auto"


class Step:
    """One operation of a network; the signal passes it unchanged unless a step says otherwise.

    What a step needs of the network's tensors it is given as expressions. It can be run when it is `bound`: then these
    have become tensors, numbers and functions.

    Attributes:
        name: the name of the layer, for its users.
        is_layer: whether its output is a layer that has a name.
        memory: of its output: the "same" tensor as its input, its "own" memory, or "unknown".
        waits: whether its way back is left to the step below, to do with its own work.
        rectifies: whether it is a rectifier.
        keeps_maps: whether each map of its output is made of the same map of its input alone.
        keeps_responses: whether what it makes of rectified maps counts as rectified.
        rank: how many axes the maps must have that it reads; None where that does not matter to it.
    """

    is_layer = True
    memory = "unknown"
    waits = False
    rectifies = False
    keeps_maps = False
    keeps_responses = False
    rank: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._last: tuple[dict[str, Any], Step] | None = None

    def bound(self, weights: Weights) -> Step:
        """The step with the tensors of one moment; the same object again as long as these are the same."""
        held = {name: value for name, value in vars(self).items() if isinstance(value, Expression)}
        if not held:
            return self
        found = {name: expression.bound(weights) for name, expression in held.items()}
        last = self._last
        if last is None or any(found[name] is not value for name, value in last[0].items()):
            step = copy.copy(self)
            vars(step).update(found, _last=None)
            self._last = last = found, step
        return last[1]

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        """Runs the step as the module does in eval mode.

        Args:
            inputs: each (N, ...).
            owned: whether the first may be overwritten.

        Returns:
            The output, and what the way back needs of this batch, (N, ...) each.
        """
        raise NotImplementedError

    def output(self, inputs: Sequence[Tensor], owned: bool) -> Tensor:
        """What `run` returns first, for those who do not go back."""
        return self.run(inputs, owned)[0]

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        """The step as it runs on windows of its inputs instead of all; None where it needs all.

        A step that neither slides nor pads runs on windows that lie alike on all its inputs and its output: it takes
        every position alone, and all in the same way.

        Args:
            read: its inputs for one image, (1, ...).
            made: its output.
            rank: how many axes the images have.
        """
        return None

    def fuses(self, keeps: bool) -> bool:
        """Whether it is a plain rectifier, which a step above may be instead if it can.

        Args:
            keeps: whether what it keeps is needed; then it must be nothing.
        """
        return False

    def rectifying(self) -> Step | None:
        """The step that rectifies its input too; None where it cannot."""
        return None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        """The windows on the inputs, of these shapes for one image, of a window on the output.

        None stands for an input to which no signal goes.
        """
        return (window,)

    def source(self, above: Window, options: Options) -> Window:
        """The window that the way back reads of the recorded maps, or sends on, for one on the output."""
        return above

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        """Sends windows on the output back to the inputs.

        Args:
            windows: the signal on the output; may be overwritten.
            kept: what `run` returned beside the output, of all images.
            planned: the windows on the inputs, their shapes, and the user's choices.
        """
        return (windows,)

    def multiply_adds(self, above: Window, read: Sequence[int]) -> int:
        """Of one unit, whose window on the output is `above`, to an input of a shape for one image, zeros included."""
        return 0

    def weights_read(self, above: Window, read: Sequence[int]) -> int:
        """How many weights the way back reads for any number of units, with windows as `multiply_adds` has them."""
        return 0

    def slices_weights(self, read: Sequence[int]) -> bool:
        """Whether a unit of its own sends a slice of the weights to an input of a shape, and nothing is multiplied."""
        return False

    def kept_bytes(self, above: Window) -> int:
        """Of a record, what the way back of one unit reads here."""
        return 0

    def bytes(self, above: Window, below: Sequence[Window], itemsize: int) -> int:
        """Working memory of one unit: its windows on the output and the inputs, one where these are the same."""
        windows = [above] if below == [above] else [above, *below]
        return sum(window.elements for window in windows) * itemsize

    def kernel_of(self, planned: PlannedStep) -> str:
        """What runs on the way back, for people."""
        return "with the step below" if self.waits else "torch"


class FunctionStep(Step):
    """A step that runs by a function of its inputs.

    Args:
        function: of tensors (N, ...) to one (N, ...).
    """

    function: Callable[..., Tensor]

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name)
        self.function = function  # type: ignore[assignment]

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        return self.function(*inputs), ()

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return self if _works_on_positions(self.function, read, made, rank) else None


@dataclass(frozen=True)
class PlannedStep:
    """One step on the way back.

    Attributes:
        step: of the tape.
        number: its own, in the tape.
        value, sources: the numbers of the value it makes and of those it reads.
        above: the window of a unit on its output.
        source: the same, or what it grows to before it is sent on.
        below: on each of its inputs; None where no signal goes.
        shapes: of its inputs, for one image.
        options: of the projection.
        seeded: whether the signal begins here, in single units, each of which sends a slice of the weights.
        settled: whether nothing is left to be done to the signal that arrives.
        multiply_adds: of one unit, zeros included.
        bytes: of one unit's windows above and below, of the switches under them, and of what waits on other branches.
        units_at_once: how many units' windows fit into the working memory.
    """

    step: Step
    number: int
    value: int
    sources: tuple[int, ...]
    above: Window
    source: Window
    below: tuple[Window | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    options: Options
    seeded: bool
    settled: bool
    multiply_adds: int
    bytes: int
    units_at_once: int

    @property
    def reached(self) -> Window:
        """The window on the first input, to which a signal goes."""
        assert self.below[0] is not None
        return self.below[0]

    @property
    def kernel(self) -> str:
        """What runs."""
        return self.step.kernel_of(self)


def require_maps(name: str, x: Tensor, rank: int) -> Tensor:
    """The same, if it is (N, C, ...) of `rank` axes.

    Raises:
        ValueError: it is not.
    """
    if x.dim() != rank + 2:
        needed = "N, C, D, H, W" if rank == 3 else "N, C, H, W" if rank == 2 else "N, C, L"
        raise ValueError(f"{name} needs maps ({needed}), got {tuple(x.shape)}")
    return x


def are_maps(rank: int, *values: Tensor) -> bool:
    """Whether values are all (N, C, ...) of `rank` axes."""
    return all(x.dim() == rank + 2 for x in values)


def are_equal(shapes: Shapes) -> bool:
    """Whether shapes are all the same."""
    return all(tuple(shape) == tuple(shapes[0]) for shape in shapes)


def on_whole(signal: Tensor, shape: Sequence[int], windows: Windows, nonnegative: bool = False) -> Windows:
    """Signal (U, *shape) on a whole value, for the units of `windows`."""
    window = Window.full(as_map(shape, windows.window.rank))
    values = channels_innermost(signal.reshape(len(signal), window.channels, *window.size))
    return Windows(values, window, windows.positions, nonnegative=nonnegative)


def batched_maps(x: Tensor, rank: int) -> Tensor:
    """(N, ...) as (N, C, ...) of `rank` axes, in the way `as_map` counts."""
    return x.reshape(len(x), *as_map(x.shape[1:], rank))


def _works_on_positions(function: Callable[..., Tensor], read: Sequence[Tensor], made: Tensor, rank: int) -> bool:
    """Whether a function of maps takes every position alone, and all in the same way.

    It is known only by what it does: halves of maps that are different everywhere have to come out as they do within
    the whole. A constant with a value for each position does not fit a half; statistics of a map are not its half's.

    Args:
        function: is linear, or keeps the shape.
        read: maps (1, ..., [[D,] H,] W) as it takes them.
        made: of them.
        rank: how many axes maps have.
    """
    if any(x.dim() <= rank or x.shape[-rank:] != made.shape[-rank:] for x in (made, *read)):
        return False
    slope = torch.ones((), dtype=torch.float64)
    for length in made.shape[-rank:]:
        slope = slope[..., None] * torch.linspace(0.5, 2, length, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.randn(x.shape, generator=generator, dtype=torch.float64) * slope).to(x) for x in read]
    whole = function(*maps)
    halves: list[tuple[slice, slice]] = [
        (slice(0, (length + 1) // 2), slice(length // 2, length)) for length in made.shape[-rank:]
    ]
    for half in itertools.product(*halves):
        part: Any = (..., *half)
        expected = whole[part]
        try:
            found = function(*(x[part] for x in maps))
        except (IndexError, RuntimeError, ValueError):  # a constant of another size
            return False
        if found.shape != expected.shape or not torch.allclose(found, expected, 1e-4, 1e-6, equal_nan=True):
            return False
    return True
