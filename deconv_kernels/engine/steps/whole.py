"""Anything without a rule of its own: it runs backwards on whole maps by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import NeedsSizes, UnsupportedModule
from ..fields import Window, as_map
from ..signal import Windows
from .base import Function, FunctionStep, Kept, PlannedStep, Shapes, Signals, Step, on_whole


class Whole(FunctionStep):
    """Anything that is run backwards on whole maps by its gradient, as autograd has it.

    Args:
        function: of the inputs, (N, ...) each, to (N, ...). Every image must stay by itself, to the last bit.
        signals: how many of the inputs get a signal, from the first on; of the others only the shape matters.
        linear: whether the gradient depends on nothing but the shapes, so that no input has to be kept.
        alone: take one image at a time, because it is not known whether others would change a bit of what becomes of
            it.
        apart: it is known that images stay apart. Else it is tried out for every shape of the inputs.
    """

    def __init__(
        self, name: str, function: Function, signals: int, linear: bool, alone: bool = False, apart: bool = False
    ) -> None:
        super().__init__(name, function)
        self.signals, self.linear, self.alone, self.apart = signals, linear, alone, apart
        self._tried: set[tuple[torch.Size, ...]] = set()

    def run(self, inputs: Sequence[Tensor], owned: bool) -> tuple[Tensor, Kept]:
        images = len(inputs[0])
        shapes = tuple(x.shape[1:] for x in inputs)
        if not self.apart and shapes not in self._tried:
            self._require_apart(inputs)
            self._tried.add(shapes)
        if self.alone:
            rows = [self.function(*(x[image : image + 1] for x in inputs)) for image in range(images)]
            output = torch.cat([self._checked(row, 1) for row in rows])
        else:
            output = self._checked(self.function(*inputs), images)
        if not self.linear:
            return output, tuple(inputs)
        # Of the inputs of a conversion the way back has to know their types.
        converts = any(x.dtype != output.dtype for x in inputs)
        return output, tuple(x.new_empty((images, 0)) for x in inputs) if converts else ()

    def _checked(self, output: object, images: int) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != images:
            made = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NeedsSizes(
                f"{self.name} makes {made} of {images} images; what it makes of each needs a dimension of its own, "
                "(N, ...), which for instance keepdim=True keeps, and images must not be mixed",
                surely=False,
            )
        if output.is_complex():
            raise NeedsSizes(f"{self.name} makes complex numbers, and signals are real", surely=False)
        return output.contiguous() if _may_overlap(output) else output

    def _require_apart(self, inputs: Sequence[Tensor]) -> None:
        """Whether what becomes of an image depends on no other in the batch, tried out on two of them.

        Raises:
            UnsupportedModule: it does.
        """
        with torch.inference_mode(False), torch.enable_grad():
            first, last = ([x[:1] for x in inputs], [x[-1:] for x in inputs])
            if len(inputs[0]) == 1:
                last = [x.flip(tuple(range(1, x.dim()))) for x in first]
            pair = [torch.cat(both).detach() for both in zip(first, last, strict=True)]
            sources = [x.requires_grad_() for x in pair[: self.signals] if x.is_floating_point()]
            try:
                both = self._checked(self.function(*pair), 2)
                single = [self._checked(self.function(*(x[i : i + 1] for x in pair)), 1) for i in range(2)]
            except UnsupportedModule:
                raise
            except (IndexError, RuntimeError, ValueError) as error:
                raise UnsupportedModule(
                    f"{self.name} cannot be run on images of these shapes one by one, "
                    f"{', '.join(str(tuple(x.shape[1:])) for x in inputs)}; if it mixes them, it has no exact backward "
                    f"rule: {error}"
                ) from error
            alone = torch.cat(single)
            mixes = both.shape != alone.shape or not _are_close(both.detach(), alone.detach())
            if not mixes and both.requires_grad and sources:
                generator = torch.Generator().manual_seed(0)
                signal = torch.randn(both.shape[1:], generator=generator, dtype=torch.float64).to(both)
                for image, other in ((0, 1), (1, 0)):
                    found = torch.autograd.grad(both[image], sources, signal, retain_graph=True, allow_unused=True)
                    mixes |= any(x is not None and bool(x[other].nan_to_num().any()) for x in found)
        if mixes:
            raise UnsupportedModule(
                f"{self.name} mixes the images of a batch (or is random): what it makes of one depends on the others, "
                "for which there is no exact backward rule"
            )

    def in_windows(self, read: Sequence[Tensor], made: Tensor, rank: int) -> Step | None:
        return super().in_windows(read, made, rank) if self.linear else None

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        signals = [Window.full(as_map(shape, window.rank)) for shape in shapes[: self.signals]]
        return *signals, *[None] * (len(shapes) - self.signals)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        signal, image, shapes = windows.whole(), windows.positions.image, planned.shapes
        at_once = 1 if self.alone else max(1, len(signal))
        parts = [
            self._gradients(rows, kept, of, shapes)
            for rows, of in zip(signal.split(at_once), image.split(at_once), strict=True)
        ]
        if not parts:
            parts = [tuple(signal.new_zeros((0, *shape)) for shape in shapes[: self.signals])]
        results: list[Windows | None] = [
            on_whole(torch.cat(gradients), shape, windows)
            for gradients, shape in zip(zip(*parts, strict=True), shapes, strict=False)
        ]
        return results + [None] * (len(shapes) - self.signals)

    def _gradients(self, signal: Tensor, kept: Kept, image: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            if not kept:
                inputs = [signal.new_zeros((len(signal), *shape)) for shape in shapes]
            elif self.linear:
                inputs = [x.new_zeros((len(signal), *shape)) for x, shape in zip(kept, shapes, strict=True)]
            else:
                inputs = [x.index_select(0, image).contiguous() for x in kept]
            inputs = [x.requires_grad_(x.is_floating_point()) for x in inputs]
            sources = [x for x in inputs[: self.signals] if x.requires_grad]
            output = self.function(*inputs)
            found: Sequence[Tensor | None] = [None] * len(sources)
            if output.requires_grad:
                # Where the signal of one image lies otherwise in memory than its values, torch's own gradient of
                # instance normalisation is wrong.
                arrived = signal.reshape(output.shape).to(output.dtype).contiguous()
                found = torch.autograd.grad(output, sources, arrived, allow_unused=True)
        gradients = iter(found)
        return tuple(
            signal.new_zeros(x.shape) if not x.requires_grad or (gradient := next(gradients)) is None else gradient
            for x in inputs[: self.signals]
        )


class Passing(Whole):
    """What changes nothing in maps of some shapes, where signal passes unchanged."""

    def passes(self, window: Window, shapes: Shapes) -> bool:
        """Whether an output with such a window has the shape of the first input."""
        return window.shape == as_map(shapes[0], window.rank)

    def reaches(self, window: Window, shapes: Shapes) -> tuple[Window | None, ...]:
        return (window,) if self.passes(window, shapes) else super().reaches(window, shapes)

    def send(self, windows: Windows, kept: Kept, planned: PlannedStep) -> Signals:
        return (windows,) if self.passes(windows.window, planned.shapes) else super().send(windows, kept, planned)


class Added(Passing):
    """A map is added, image by image, to something constant; the signal passes unchanged where none is broadcast."""

    def __init__(self, name: str, function: Function) -> None:
        super().__init__(name, function, signals=1, linear=True, alone=True, apart=True)


def _may_overlap(x: Tensor) -> bool:
    """Whether several elements may be in one place of memory, so that what writes to one would change the others."""
    beyond = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length > 1:
            if stride < beyond:
                return True
            beyond = stride * (length - 1) + beyond
    return False


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same up to rounding, on the scale of the largest."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = one[one.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one.double(), other.double(), tolerance, tolerance * largest, equal_nan=True)
