"""Forward inside windows: what a changed rectangle of an image changes in a network, and nothing else.

A rectangle is a span of a signal, and a box of a volume.
The activations of the clean image are computed once. Then, for many positions of a rectangle at once, every step of the
network runs on windows around what the rectangle can have changed, which take what they need beside it from the clean
activations. Steps that mix all positions get whole maps. The result is that of running the network on the whole changed
images, up to the rounding of sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.geometry import PerAxis
from .deconvnet import Deconvnet
from .fields import rank_of
from .forward import fused, memory_of
from .plan import working_bytes
from .steps.base import Step
from .steps.padding import ZeroPad
from .steps.sliding import Sliding
from .trace.tape import Link

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Where a map differs from that of the clean image, for every position of the rectangle.

    Attributes:
        first, stop: (P, rank) int64 on the host, along every axis, half open. Never empty, always inside the map.
        length: of the map, along every axis.
    """

    first: Tensor
    stop: Tensor
    length: PerAxis

    @classmethod
    def of(cls, first: Tensor, stop: Tensor, length: PerAxis) -> Spans:
        """Those of rectangles wherever they are, cut off at the borders."""
        last = torch.tensor(length)
        first = first.clamp(min=0).minimum(last - 1)
        return cls(first, stop.minimum(last).maximum(first + 1), length)

    def full(self, length: PerAxis) -> Spans:
        """All of a map, at every position."""
        return Spans(torch.zeros_like(self.first), torch.tensor(length).expand_as(self.stop), length)

    def joined(self, other: Spans) -> Spans:
        """The smallest that cover these and others on a map of the same size."""
        return Spans(self.first.minimum(other.first), self.stop.maximum(other.stop), self.length)

    def slid(self, step: Sliding, length: PerAxis) -> Spans:
        """Those of the outputs, a map of `length`, that a sliding step computes from any of these."""
        stride, before = torch.tensor(step.stride), torch.tensor(step.before)
        first = self.first + before - torch.tensor(step.extent) + 1
        return Spans.of(-(-first // stride), (self.stop - 1 + before) // stride + 1, length)

    def at(self, positions: Tensor) -> Frame:
        """Windows of one size for some of the positions, wholly inside the map."""
        first, stop = self.first[positions], self.stop[positions]
        size = (stop - first).amax(0)
        return Frame(first.minimum(torch.tensor(self.length) - size), tuple(size.tolist()), self.length)


@dataclass(frozen=True)
class Frame:
    """Windows of one size on a map.

    Attributes:
        origin: (P, rank) int64 on the host, where each begins.
        size: along every axis.
        length: of the map, along every axis.
    """

    origin: Tensor
    size: PerAxis
    length: PerAxis

    @property
    def is_full(self) -> bool:
        """Whether every window is the whole map."""
        return self.size == self.length

    def below(self, step: Sliding) -> tuple[Tensor, PerAxis]:
        """The origins and the size of the patches that a sliding step computes the windows from."""
        origin = self.origin * torch.tensor(step.stride) - torch.tensor(step.before)
        return origin, tuple((n - 1) * s + r for n, s, r in zip(self.size, step.stride, step.extent, strict=True))

    def lies_as(self, other: Frame) -> bool:
        """Whether the windows of both are the same."""
        return self.size == other.size and torch.equal(self.origin, other.origin)


class Changed(NamedTuple):
    """A value of the tape for several positions of the rectangle.

    Attributes:
        values: (P, C, [[d,] h,] w) in windows, or (P, ...) whole.
        frame: where the windows lie; None for values that are no maps, which are whole.
    """

    values: Tensor
    frame: Frame | None

    @property
    def is_whole(self) -> bool:
        return self.frame is None or self.frame.is_full


class Recomputation:
    """The activations of one image, and how those of the image with a changed rectangle are computed from them.

    Both with the weights that the network has now.

    Args:
        net: any network.
        image: (C, H, W), (C, D, H, W) of a volume or (C, L) of a signal, of the model's dtype; one tensor for each
            input of the network.
        layers: whose outputs are wanted.
        input: the number of the input that the rectangle changes.
        max_bytes: working memory for the windows; as many positions are computed at once as fit, and at least one.
            By default 8 MiB on the CPU and 1 GiB elsewhere.

    Attributes:
        clean: the output of every layer for the clean image, (C, [[D,] H,] W) or (F,).

    Raises:
        TypeError: an image that is not a tensor of the model's dtype.
        ValueError: an image of the wrong shape, no layers, or an input that the network does not have.
        UnknownLayer: a layer the model does not have; the message lists them.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: Deconvnet,
        image: Tensor | Sequence[Tensor],
        layers: str | Sequence[str],
        *,
        input: int = 0,
        max_bytes: int | None = None,
    ) -> None:
        names = [layers] if isinstance(layers, str) else list(layers)
        if not names:
            raise ValueError("layers must name at least one layer")
        self.values = {name: net.layer(name).value for name in names}
        images = [image] if isinstance(image, Tensor) else list(image)
        dtype, device = net.check_images([x[None] if isinstance(x, Tensor) else x for x in images])
        if not 0 <= input < len(images):
            raise ValueError(f"input must be from 0 to {len(images) - 1}, got {input}")
        self.rank = rank_of(images[0].shape)
        if images[input].dim() != self.rank + 1:
            raise ValueError(
                f"a part of an image (C, H, W), (C, D, H, W) or (C, L) can change, not of {tuple(images[input].shape)}"
            )
        self.input, self.dtype, self.device = input, dtype, device
        self.max_bytes = working_bytes(device) if max_bytes is None else max_bytes
        wanted = set(self.values.values())
        tape = net.tape
        steps, _ = tape.bound(tape.needed(wanted))
        running = fused(tape, steps, wanted, keeps=False)
        self._affected = self._reached(running)
        self._last_reader = {source: link.value for link, _ in self._affected for source in link.sources}
        self._in_windows: dict[int, Step | None] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._tables: dict[int, Tensor] = {}
        self._maps: dict[int, Tensor] = {}
        self._run_clean([x[None].to(device) for x in images], running)
        self._memory = {memory_of(x) for x in self._maps.values()}
        self.clean = {name: self._maps[value][0] for name, value in self.values.items()}

    def _reached(self, running: Sequence[tuple[Link, Step]]) -> list[tuple[Link, Step]]:
        """The steps that see the input which changes."""
        changed, found = {self.input}, []
        for link, step in running:
            if changed.intersection(link.sources):
                changed.add(link.value)
                found.append((link, step))
        return found

    def _run_clean(self, images: Sequence[Tensor], running: Sequence[tuple[Link, Step]]) -> None:
        """Runs the clean image, finds how every step runs in windows, and keeps what these and wanted layers read."""
        last = {source: link.value for link, _ in running for source in link.sources}
        affected = {link.value for link, _ in self._affected}
        kept = {self.input, *self._last_reader, *self.values.values()}
        kept |= {link.value for link, step in self._affected if isinstance(step, ZeroPad)}
        maps = dict(enumerate(images))
        for value, x in enumerate(images):
            self._shapes[value] = tuple(x.shape[1:])
            if value in kept:
                maps[value] = self._keep(value, x)
        for (_, value, _, sources), step in running:
            read = [maps[source] for source in sources]
            x = step.output(read, False)
            self._shapes[value] = tuple(x.shape[1:])
            if value in affected:
                self._in_windows[value] = step.in_windows(read, x, self.rank)
            maps[value] = self._keep(value, x) if value in kept else x
            for source in {*sources, value}:
                if last.get(source, value) == value:
                    del maps[source]

    def _keep(self, value: int, x: Tensor) -> Tensor:
        """Keeps a value of the clean image; of a map all channels of a position together, and rows of what lies around.

        Those that are added to the rows of all positions are one of 0 and one of -inf, for padding.
        """
        if x.dim() > self.rank and x.is_floating_point():
            size = x.shape[-self.rank :]
            rows = x.new_zeros((math.prod(size) + 2, math.prod(x.shape[1 : -self.rank])))
            rows[-1] = -math.inf
            rows[:-2].copy_(x.reshape(-1, math.prod(size)).T)
            self._tables[value], x = rows, rows[:-2].view(*size, -1).movedim(-1, 0).view(x.shape)
        self._maps[value] = x
        return x

    @torch.no_grad()
    def chunks(self, origins: Tensor, content: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The wanted layers' outputs for the image with a changed rectangle, at many positions of it.

        Args:
            origins: (P, rank) int64, where the first pixel of each rectangle is: its row and column, in a volume
                [z, y, x], in a signal [x]. It may overhang the image.
            content: (C, [[d,] h,] w) what the rectangle holds, or (P, C, [[d,] h,] w) if that differs.

        Yields:
            The numbers of some positions, int64 on the host, and for these the output of every wanted layer,
            (n, C, [[D,] H,] W) or (n, F). Every position comes once; those with windows alike come together.

        Raises:
            TypeError: origins that are not integers, or content of another dtype than the image.
            ValueError: tensors of the wrong shape, or an empty rectangle.
        """
        origins, content = self._checked(origins, content)
        if not len(origins):
            return
        spans = self._spans(origins, content)
        at_once = max(1, self.max_bytes // self._bytes_at_once(spans))
        for positions in _alike(list(spans.values())).split(at_once):
            frames = {value: span.at(positions) for value, span in spans.items()}
            rectangles = content[positions.to(content.device)] if len(content) > 1 else content
            yield positions, self._changed(frames, origins[positions], rectangles.to(self.device))

    def __call__(self, origins: Tensor, content: Tensor) -> dict[str, Tensor]:
        """As `chunks`, for all positions at once and in their order: (P, ...) of every wanted layer."""
        results = {name: x.new_empty((len(origins), *x.shape)) for name, x in self.clean.items()}
        for positions, outputs in self.chunks(origins, content):
            for name, output in outputs.items():
                results[name][positions.to(self.device)] = output
        return results

    def _checked(self, origins: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        if origins.dtype not in (torch.int64, torch.int32) or content.dtype != self._maps[self.input].dtype:
            raise TypeError(
                f"origins must be integers and content {self._maps[self.input].dtype} as the image is, "
                f"got {origins.dtype} and {content.dtype}"
            )
        if origins.dim() != 2 or origins.shape[1] != self.rank:
            raise ValueError(f"origins must have shape (P, {self.rank}), got {tuple(origins.shape)}")
        content = content[None] if content.dim() == self.rank + 1 else content
        channels = self._shapes[self.input][0]
        if content.dim() != self.rank + 2 or content.shape[1] != channels or 0 in content.shape[2:]:
            size = ", ".join(("d", "h", "w")[-self.rank :])
            raise ValueError(
                f"content must have shape ({channels}, {size}) and not be empty, got {tuple(content.shape)}"
            )
        if len(content) not in (1, len(origins)):
            raise ValueError(f"content must be one rectangle or {len(origins)} of them, got {len(content)}")
        return origins.to("cpu", torch.int64), content

    def _length(self, value: int) -> PerAxis:
        return self._shapes[value][-self.rank :]

    def _spans(self, origins: Tensor, content: Tensor) -> dict[int, Spans]:
        """Where every map that the rectangle changes differs from the clean one."""
        image = Spans.of(origins, origins + torch.tensor(content.shape[2:]), self._length(self.input))
        spans = {self.input: image}
        for (_, value, _, sources), _ in self._affected:
            step = self._in_windows[value]
            if len(self._shapes[value]) < self.rank:
                continue
            length = self._length(value)
            read = [spans[source] for source in sources if source in spans]
            if isinstance(step, Sliding):
                spans[value] = read[0].slid(step, length)
            elif isinstance(step, ZeroPad):
                before = torch.tensor(step.offset(self.rank))
                spans[value] = Spans.of(read[0].first + before, read[0].stop + before, length)
            elif step is not None:
                joined = read[0]
                for other in read[1:]:
                    joined = joined.joined(other)
                spans[value] = joined
            else:
                spans[value] = image.full(length)
        return spans

    def _bytes_at_once(self, spans: dict[int, Spans]) -> int:
        """The most memory that one position takes at any step."""
        everything = torch.arange(len(next(iter(spans.values())).first))
        frames = {value: span.at(everything) for value, span in spans.items()}

        def elements(value: int) -> int:
            frame = frames.get(value)
            return math.prod(
                self._shapes[value] if frame is None else (*self._shapes[value][: -self.rank], *frame.size)
            )

        alive, most = {self.input}, 1
        for (_, value, _, sources), _ in self._affected:
            step, work = self._in_windows[value], 0
            if isinstance(step, Sliding) and value in frames:
                work = self._shapes[sources[0]][0] * math.prod(frames[value].below(step)[1])
            elif step is None:
                work = sum(math.prod(self._shapes[source]) for source in sources)
            alive.add(value)
            most = max(most, work + sum(map(elements, alive)))
            alive -= {source for source in sources if self._last_reader[source] == value}
        return most * self.dtype.itemsize

    def _changed(self, frames: dict[int, Frame], origins: Tensor, rectangles: Tensor) -> dict[str, Tensor]:
        """The outputs of the wanted layers for one chunk of positions."""
        count, length = len(origins), self._length(self.input)
        rectangles = rectangles.expand(count, *rectangles.shape[1:])
        given = Changed(rectangles, Frame(origins, rectangles.shape[2:], length))
        frame = frames[self.input]
        alive = {self.input: Changed(self._patches(self.input, given, frame.origin, frame.size), frame)}
        outputs: dict[int, Tensor] = {}
        for link, step in self._affected:
            value, windows = link.value, frames.get(link.value)
            alive[value] = changed = Changed(self._run(link, step, windows, alive, outputs, count), windows)
            if value in self.values.values():
                outputs[value] = self._whole(value, changed, count)
            for source in {*link.sources, value}:
                if self._last_reader.get(source, value) == value:
                    alive.pop(source, None)
        unchanged = {value: self._maps[value].expand(count, *self._shapes[value]) for value in self.values.values()}
        return {name: outputs.get(value, unchanged[value]) for name, value in self.values.items()}

    def _run(
        self,
        link: Link,
        step: Step,
        frame: Frame | None,
        alive: dict[int, Changed],
        outputs: dict[int, Tensor],
        count: int,
    ) -> Tensor:
        """What a step makes of the values that are alive, in windows of `frame` if it can run on them."""
        sources, in_windows = link.sources, None if frame is None else self._in_windows[link.value]
        changed = [alive.get(source) for source in sources]
        if frame is not None and isinstance(in_windows, ZeroPad):
            assert changed[0] is not None and changed[0].frame is not None
            below = changed[0].frame
            moved = Changed(
                changed[0].values, replace(below, origin=below.origin + torch.tensor(in_windows.offset(self.rank)))
            )
            return self._patches(link.value, moved, frame.origin, frame.size)
        if frame is not None and isinstance(in_windows, Sliding):
            if not (frame.is_full and changed[0] is not None and changed[0].is_whole):
                patches = self._patches(sources[0], changed[0], *frame.below(in_windows), in_windows.around)
                return in_windows.on_patches(patches, frame.origin, self._length(sources[0]))
            read = [changed[0].values]
        elif frame is not None and in_windows is not None:
            step = in_windows
            read = [self._framed(*pair, frame) for pair in zip(sources, changed, strict=True)]
        else:
            read = [self._whole(*pair, count) for pair in zip(sources, changed, strict=True)]
        dead = {source for source in sources if self._last_reader[source] == link.value}
        others = (*(x.values for source, x in alive.items() if source not in dead), *read[1:], *outputs.values())
        owned = memory_of(read[0]) not in self._memory.union(map(memory_of, others))
        return step.output(read, owned)

    def _framed(self, value: int, changed: Changed | None, frame: Frame) -> Tensor:
        """A map in windows of `frame`."""
        if changed is not None and changed.frame is not None and changed.frame.lies_as(frame):
            return changed.values
        return self._patches(value, changed, frame.origin, frame.size)

    def _whole(self, value: int, changed: Changed | None, count: int) -> Tensor:
        """A value with nothing left out, (count, ...)."""
        if changed is None:
            return self._maps[value].expand(count, *self._shapes[value])
        if changed.is_whole:
            return changed.values
        length = self._length(value)
        return self._patches(value, changed, torch.zeros((count, self.rank), dtype=torch.int64), length)

    def _patches(self, value: int, changed: Changed | None, origin: Tensor, size: PerAxis, fill: float = 0.0) -> Tensor:
        """Rectangles of a map: what has changed where it has been computed, beside it the clean map, around it `fill`.

        Args:
            value: the number of the map.
            changed: its windows; None where nothing has changed.
            origin: (P, rank) int64 on the host, where each rectangle begins; it may overhang the map.
            size: of each, along every axis.
            fill: 0 or -inf.

        Returns:
            (P, ..., [[d,] h,] w), channels innermost in memory.
        """
        table, length = self._tables[value], self._length(value)
        indices = [index + np.arange(count) for index, count in zip(_columns(origin), size, strict=True)]
        place = _numbers(indices, length)
        place[~_within(indices, length)] = math.prod(length) + int(fill < 0)
        if changed is None:
            return self._as_maps(value, table.index_select(0, self._to_device(place.ravel())), size)
        assert changed.frame is not None
        window = changed.frame
        indices = [index - begin for index, begin in zip(indices, _columns(window.origin), strict=True)]
        covered = _within(indices, window.size).ravel()
        beside, here = np.flatnonzero(~covered), np.flatnonzero(covered)
        values = changed.values.reshape(len(origin), -1, *window.size).movedim(1, -1).reshape(-1, table.shape[1])
        if len(here) < len(values):
            indices[0] = indices[0] + np.arange(len(origin))[:, None] * window.size[0]
            number = _numbers(indices, window.size).ravel()[here]
            values = values.index_select(0, self._to_device(number))
        patches = table.new_empty((len(covered), table.shape[1]))
        patches.index_copy_(0, self._to_device(here), values)
        around = table.index_select(0, self._to_device(place.ravel()[beside]))
        patches.index_copy_(0, self._to_device(beside), around)
        return self._as_maps(value, patches, size)

    def _as_maps(self, value: int, rows: Tensor, size: PerAxis) -> Tensor:
        """Rows of all channels of a position as rectangles, (P, ..., [[d,] h,] w)."""
        maps = rows.view(-1, *size, rows.shape[1]).movedim(-1, 1)
        return maps.view(-1, *self._shapes[value][: -self.rank], *size)

    def _to_device(self, index: Index) -> Tensor:
        return torch.from_numpy(index).to(self.device)


def _columns(origin: Tensor) -> list[Index]:
    """The columns of origins, (P, 1) each."""
    return [column[:, None] for column in origin.numpy().T]


def _laid_out(indices: Sequence[Index]) -> Iterator[Index]:
    """The indices of rectangles along every axis, (P, length) each, so that they can be broadcast together."""
    for axis, index in enumerate(indices):
        yield index.reshape(len(index), *(1,) * axis, -1, *(1,) * (len(indices) - 1 - axis))


def _numbers(indices: Sequence[Index], size: PerAxis) -> Index:
    """The row-major numbers of the elements of rectangles, (P, [[d,] h,] w), in a map of some size."""
    first, *others = _laid_out(indices)
    for index, length in zip(others, size[1:], strict=True):
        first = first * length + index
    return np.ascontiguousarray(first)


def _within(indices: Sequence[Index], size: PerAxis) -> NDArray[np.bool_]:
    """Which elements of rectangles lie in a map of some size, (P, [[d,] h,] w)."""
    inside = [(index >= 0) & (index < length) for index, length in zip(_laid_out(indices), size, strict=True)]
    return functools.reduce(np.logical_and, inside)


def _alike(spans: Sequence[Spans]) -> Tensor:
    """The numbers of all positions, those with windows of nearly the same sizes next to one another."""
    sizes = torch.stack([(span.stop - span.first) / torch.tensor(span.length) for span in spans]).sum(0).numpy()
    return torch.from_numpy(np.lexsort(sizes.T[::-1]))
