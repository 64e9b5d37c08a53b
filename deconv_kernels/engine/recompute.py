"""Forward inside windows: what a changed rectangle of an image changes in a network, and nothing else.

The activations of the clean image are computed once. Then, for many positions of a rectangle at once, every step of the
network runs on windows around what the rectangle can have changed, which take what they need beside it from the clean
activations. Steps that mix all positions get whole maps. The result is that of running the network on the whole changed
images, up to the rounding of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..ops import max_pool2d
from .deconvnet import Deconvnet
from .plan import DEVICE_BYTES, HOST_BYTES
from .steps.base import Pair
from .steps.convolution import Convolution
from .steps.joins import ChannelSlice, Concatenate, Product, Sum
from .steps.padding import ZeroPad
from .steps.pointwise import Activation, BatchNormalization, Identity, Normalization, Rectifier, Scale, Shift
from .steps.pooling import AdaptiveAveragePool, AveragePool, MaxPool
from .steps.whole import Whole

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Where a map differs from that of the clean image, for every position of the rectangle.

    Attributes:
        first, stop: (P, 2) int64 on the host, rows and columns, half open. Never empty, always inside the map.
        length: (H, W) of the map.
    """

    first: Tensor
    stop: Tensor
    length: Pair

    @classmethod
    def of(cls, first: Tensor, stop: Tensor, length: Pair) -> Spans:
        """Those of rectangles wherever they are, cut off at the borders."""
        last = torch.tensor(length)
        first = first.clamp(min=0).minimum(last - 1)
        return cls(first, stop.minimum(last).maximum(first + 1), length)

    def full(self, length: Pair) -> Spans:
        """All of a map, at every position."""
        return Spans(torch.zeros_like(self.first), torch.tensor(length).expand_as(self.stop), length)

    def joined(self, other: Spans) -> Spans:
        """The smallest that cover these and others on a map of the same size."""
        return Spans(self.first.minimum(other.first), self.stop.maximum(other.stop), self.length)

    def slid(self, sliding: Sliding, length: Pair) -> Spans:
        """Those of the outputs, a map of `length`, that a sliding step computes from any of these."""
        stride, before = torch.tensor(sliding.stride), torch.tensor(sliding.before)
        first = self.first + before - torch.tensor(sliding.reach) + 1
        return Spans.of(-(-first // stride), (self.stop - 1 + before) // stride + 1, length)

    def at(self, positions: Tensor) -> Frame:
        """Windows of one size for some of the positions, wholly inside the map."""
        first, stop = self.first[positions], self.stop[positions]
        size = (stop - first).amax(0)
        rows, columns = size.tolist()
        return Frame(first.minimum(torch.tensor(self.length) - size), (rows, columns), self.length)


@dataclass(frozen=True)
class Frame:
    """Windows of one size on a map.

    Attributes:
        origin: (P, 2) int64 on the host, where each begins.
        size: rows and columns.
        length: (H, W) of the map.
    """

    origin: Tensor
    size: Pair
    length: Pair

    @property
    def is_full(self) -> bool:
        """Whether every window is the whole map."""
        return self.size == self.length

    def lies_as(self, other: Frame) -> bool:
        """Whether the windows of both are the same."""
        return self.size == other.size and torch.equal(self.origin, other.origin)


class Changed(NamedTuple):
    """A value of the tape for several positions of the rectangle.

    Attributes:
        values: (P, C, h, w) in windows, or (P, ...) whole.
        frame: where the windows lie; None for values that are no maps, which are whole.
    """

    values: Tensor
    frame: Frame | None

    @property
    def is_whole(self) -> bool:
        return self.frame is None or self.frame.is_full


class Sliding:
    """A step whose outputs each read a rectangle of one size: how it runs on patches that hold what it reads.

    Attributes:
        kernel, stride, before, dilation: of the step; `before` is the padding above and at the left.
        reach: rows and columns that one output reads.
        fill: what lies around the map.
    """

    fill = 0.0

    def __init__(self, kernel: Pair, stride: Pair, before: Pair, dilation: Pair) -> None:
        self.kernel, self.stride, self.before, self.dilation = kernel, stride, before, dilation
        self.reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))

    def below(self, frame: Frame) -> tuple[Tensor, Pair]:
        """The origins and the size of the patches that windows on the output are computed from."""
        origin = frame.origin * torch.tensor(self.stride) - torch.tensor(self.before)
        rows, columns = ((n - 1) * s + r for n, s, r in zip(frame.size, self.stride, self.reach, strict=True))
        return origin, (rows, columns)

    def __call__(self, patches: Tensor, frame: Frame) -> Tensor:
        """The windows of `frame` from the patches below them."""
        raise NotImplementedError


class SlidingConvolution(Sliding):
    def __init__(self, step: Convolution) -> None:
        super().__init__(step.kernel, step.stride, step.before, step.dilation)
        self.weight = step.weight.contiguous(memory_format=torch.channels_last)
        self.bias, self.groups = step.bias, step.groups

    def __call__(self, patches: Tensor, frame: Frame) -> Tensor:
        return F.conv2d(patches, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SlidingMaxPool(Sliding):
    fill = -math.inf

    def __init__(self, step: MaxPool, relu: bool) -> None:
        super().__init__(step.kernel, step.stride, step.padding, step.dilation)
        self.relu = relu

    def __call__(self, patches: Tensor, frame: Frame) -> Tensor:
        return max_pool2d(patches, self.kernel, self.stride, 0, self.dilation, relu=self.relu)[0]


class SlidingAveragePool(Sliding):
    """Sums by the share that each element has in its mean, which differs at the borders of the map.

    Args:
        step: the pool.
        map: of its input, (1, C, H, W).
    """

    def __init__(self, step: AveragePool, map: Tensor) -> None:
        super().__init__(step.kernel, step.stride, step.padding, (1, 1))
        ones = torch.ones_like(map[:, :1])
        means, _ = step.forward(ones, False)
        elements = F.avg_pool2d(ones, step.kernel, step.stride, step.padding, step.ceil_mode, divisor_override=1)
        self.share = (means / elements)[0, 0]

    def __call__(self, patches: Tensor, frame: Frame) -> Tensor:
        rows, columns = map(torch.from_numpy, _indices(frame.origin, frame.size))
        share = self.share[rows.to(patches.device)[:, :, None], columns.to(patches.device)[:, None]]
        return F.avg_pool2d(patches, self.kernel, self.stride, divisor_override=1).mul_(share[:, None])


class Recomputation:
    """The activations of one image, and how those of the image with a changed rectangle are computed from them.

    Both with the weights that the network has now.

    Args:
        net: any network.
        image: (C, H, W), of the model's dtype; one tensor for each input of the network.
        layers: whose outputs are wanted.
        input: the number of the input that the rectangle changes.
        max_bytes: working memory for the windows; as many positions are computed at once as fit, and at least one.
            By default 32 MiB on the CPU and 1 GiB elsewhere.

    Attributes:
        clean: the output of every layer for the clean image, (C, H, W) or (F,).

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
        self.tape, names = net.tape, [layers] if isinstance(layers, str) else list(layers)
        if not names:
            raise ValueError("layers must name at least one layer")
        self.values = {name: self.tape.value(name) for name in names}
        images = [image] if isinstance(image, Tensor) else list(image)
        dtype, device = net.check_images([x[None] if isinstance(x, Tensor) else x for x in images])
        if not 0 <= input < len(images):
            raise ValueError(f"input must be from 0 to {len(images) - 1}, got {input}")
        if images[input].dim() != 3:
            raise ValueError(f"a rectangle of an image (C, H, W) can change, not of {tuple(images[input].shape)}")
        self.input, self.dtype, self.device = input, dtype, device
        default = HOST_BYTES if device.type == "cpu" else DEVICE_BYTES
        self.max_bytes = default if max_bytes is None else max_bytes
        needed = self.tape.needed(set(self.values.values()))
        self._steps, _ = self.tape.bound(needed)
        self._affected = self._reached(needed)
        self._last_reader = {source: index for index in self._affected for source in self.tape.sources[index]}
        self._fused = self._left_to_pools()
        self._rules: dict[int, Sliding | ZeroPad | bool] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._tables: dict[int, Tensor] = {}
        self._maps: dict[int, Tensor] = {}
        self._run_clean([x[None].to(device) for x in images], needed)
        self._memory = {_memory(x) for x in self._maps.values()}
        self.clean = {name: self._maps[value][0] for name, value in self.values.items()}

    def _reached(self, needed: Sequence[int]) -> list[int]:
        """The steps that see the input which changes."""
        changed, steps = {self.input}, []
        for index in needed:
            if changed.intersection(self.tape.sources[index]):
                changed.add(self.tape.inputs + index)
                steps.append(index)
        return steps

    def _left_to_pools(self) -> set[int]:
        """Rectifiers that only a max pool reads, which then does the rectifying."""
        tape, readers = self.tape, [source for index in self._affected for source in self.tape.sources[index]]
        return {
            value
            for index in self._affected
            if (value := tape.inputs + index) not in self.values.values()
            and isinstance(rectifier := tape.steps[index], Rectifier)
            and rectifier.ceiling == math.inf
            and readers.count(value) == 1
            and isinstance(tape.steps[self._last_reader[value]], MaxPool)
        }

    def _run_clean(self, images: Sequence[Tensor], needed: Sequence[int]) -> None:
        """Runs the clean image, finds the rule of every step, and keeps what windows and wanted layers read."""
        tape, last = self.tape, {source: index for index in needed for source in self.tape.sources[index]}
        kept = {self.input, *self._last_reader, *self.values.values()}
        kept |= {tape.inputs + index for index in self._affected if isinstance(tape.steps[index], ZeroPad)}
        maps = dict(enumerate(images))
        for value, x in enumerate(images):
            self._shapes[value] = tuple(x.shape[1:])
            if value in kept:
                maps[value] = self._keep(value, x)
        affected = set(self._affected)
        for index in needed:
            value, sources = tape.inputs + index, tape.sources[index]
            read = [maps[source] for source in sources]
            x = self._forward(index, read, False)
            self._shapes[value] = tuple(x.shape[1:])
            if index in affected:
                self._rules[index] = self._rule(index, read, x)
            maps[value] = self._keep(value, x) if value in kept else x
            for source in {*sources, value}:
                if last.get(source, index) == index:
                    del maps[source]

    def _keep(self, value: int, x: Tensor) -> Tensor:
        """Keeps a value of the clean image; of a map all channels of a position together, and rows of what lies around.

        Those that are added to the rows of all positions are one of 0 and one of -inf, for padding.
        """
        if x.dim() > 2 and x.is_floating_point():
            height, width = x.shape[-2:]
            rows = x.new_zeros((height * width + 2, math.prod(x.shape[1:-2])))
            rows[-1] = -math.inf
            rows[:-2].copy_(x.reshape(-1, height * width).T)
            self._tables[value], x = rows, rows[:-2].view(height, width, -1).permute(2, 0, 1).view(x.shape)
        self._maps[value] = x
        return x

    def _rule(self, index: int, read: Sequence[Tensor], made: Tensor) -> Sliding | ZeroPad | bool:
        """How a step runs in windows; True where it works on every position alone, False where it needs whole maps."""
        step = self._steps[index]
        if isinstance(step, Activation | Shift | Scale) or (type(step) is Whole and step.linear):
            return _works_on_positions(step.function, read, made)
        if made.dim() != 4 or any(x.dim() != 4 for x in read):
            return False
        if isinstance(step, Convolution):
            return SlidingConvolution(step)
        if isinstance(step, MaxPool):
            return SlidingMaxPool(step, self.tape.sources[index][0] in self._fused)
        if isinstance(step, AveragePool):
            return SlidingAveragePool(step, read[0])
        if isinstance(step, ZeroPad):
            return step
        if isinstance(step, Identity | Rectifier | BatchNormalization | Normalization | ChannelSlice):
            return True
        if isinstance(step, AdaptiveAveragePool):
            return read[0].shape == made.shape
        if isinstance(step, Sum | Product):
            return all(x.shape == made.shape for x in read)
        return isinstance(step, Concatenate) and step.dimension % 4 == 1

    def _forward(self, index: int, read: Sequence[Tensor], owned: bool) -> Tensor:
        """The output of a step, as the module has it."""
        step, value = self._steps[index], self.tape.inputs + index
        if value in self._fused:
            return read[0]
        if isinstance(step, MaxPool):
            window = (step.kernel, step.stride, step.padding, step.dilation, step.ceil_mode)
            return max_pool2d(read[0], *window, relu=self.tape.sources[index][0] in self._fused)[0]
        if isinstance(step, Activation):
            return step.function(read[0])  # its `run` computes derivatives too
        if isinstance(step, AdaptiveAveragePool) and self._rules.get(index):
            return read[0]
        return step.run(read, owned)[0]

    @torch.no_grad()
    def chunks(self, origins: Tensor, content: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The wanted layers' outputs for the image with a changed rectangle, at many positions of it.

        Args:
            origins: (P, 2) int64, row and column of each rectangle's first pixel. It may overhang the image.
            content: (C, h, w) what the rectangle holds, or (P, C, h, w) if that differs.

        Yields:
            The numbers of some positions, int64 on the host, and for these the output of every wanted layer,
            (n, C, H, W) or (n, F). Every position comes once; those with windows alike come together.

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
        """As `chunks`, for all positions at once and in their order: (P, C, H, W) or (P, F) of every wanted layer."""
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
        if origins.dim() != 2 or origins.shape[1] != 2:
            raise ValueError(f"origins must have shape (P, 2), got {tuple(origins.shape)}")
        content = content[None] if content.dim() == 3 else content
        channels = self._shapes[self.input][0]
        if content.dim() != 4 or content.shape[1] != channels or 0 in content.shape[2:]:
            raise ValueError(f"content must have shape ({channels}, h, w) and not be empty, got {tuple(content.shape)}")
        if len(content) not in (1, len(origins)):
            raise ValueError(f"content must be one rectangle or {len(origins)} of them, got {len(content)}")
        return origins.to("cpu", torch.int64), content

    def _length(self, value: int) -> Pair:
        height, width = self._shapes[value][-2:]
        return height, width

    def _spans(self, origins: Tensor, content: Tensor) -> dict[int, Spans]:
        """Where every map that the rectangle changes differs from the clean one."""
        image = Spans.of(origins, origins + torch.tensor(content.shape[2:]), self._length(self.input))
        spans = {self.input: image}
        for index in self._affected:
            value, rule = self.tape.inputs + index, self._rules[index]
            if len(self._shapes[value]) < 2:
                continue
            length = self._length(value)
            read = [spans[source] for source in self.tape.sources[index] if source in spans]
            if isinstance(rule, Sliding):
                spans[value] = read[0].slid(rule, length)
            elif isinstance(rule, ZeroPad):
                before = torch.tensor(rule.before)
                spans[value] = Spans.of(read[0].first + before, read[0].stop + before, length)
            elif rule:
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
            return math.prod(self._shapes[value] if frame is None else (*self._shapes[value][:-2], *frame.size))

        alive, most = {self.input}, 1
        for index in self._affected:
            value, sources, rule = self.tape.inputs + index, self.tape.sources[index], self._rules[index]
            work = 0
            if isinstance(rule, Sliding) and value in frames:
                work = self._shapes[sources[0]][0] * math.prod(rule.below(frames[value])[1])
            elif rule is False:
                work = sum(math.prod(self._shapes[source]) for source in sources)
            alive.add(value)
            most = max(most, work + sum(map(elements, alive)))
            alive -= {source for source in sources if self._last_reader[source] == index}
        return most * self.dtype.itemsize

    def _changed(self, frames: dict[int, Frame], origins: Tensor, rectangles: Tensor) -> dict[str, Tensor]:
        """The outputs of the wanted layers for one chunk of positions."""
        count, length = len(origins), self._length(self.input)
        rectangles = rectangles.expand(count, -1, -1, -1)
        given = Changed(rectangles, Frame(origins, (rectangles.shape[2], rectangles.shape[3]), length))
        frame = frames[self.input]
        alive = {self.input: Changed(self._patches(self.input, given, frame.origin, frame.size), frame)}
        outputs: dict[int, Tensor] = {}
        for index in self._affected:
            value = self.tape.inputs + index
            alive[value] = changed = Changed(
                self._run(index, frames.get(value), alive, outputs, count), frames.get(value)
            )
            if value in self.values.values():
                outputs[value] = self._whole(value, changed, count)
            for source in {*self.tape.sources[index], value}:
                if self._last_reader.get(source, index) == index:
                    alive.pop(source, None)
        unchanged = {value: self._maps[value].expand(count, *self._shapes[value]) for value in self.values.values()}
        return {name: outputs.get(value, unchanged[value]) for name, value in self.values.items()}

    def _run(
        self, index: int, frame: Frame | None, alive: dict[int, Changed], outputs: dict[int, Tensor], count: int
    ) -> Tensor:
        """What a step makes of the values that are alive, in windows of `frame` if it has a rule for them."""
        sources, rule = self.tape.sources[index], self._rules[index]
        changed = [alive.get(source) for source in sources]
        if frame is not None and isinstance(rule, ZeroPad):
            assert changed[0] is not None and changed[0].frame is not None
            below = changed[0].frame
            moved = Changed(changed[0].values, replace(below, origin=below.origin + torch.tensor(rule.before)))
            return self._patches(self.tape.inputs + index, moved, frame.origin, frame.size)
        if frame is not None and isinstance(rule, Sliding):
            if not (frame.is_full and changed[0] is not None and changed[0].is_whole):
                return rule(self._patches(sources[0], changed[0], *rule.below(frame), rule.fill), frame)
            read = [changed[0].values]
        elif frame is not None and rule is True:
            read = [self._framed(*pair, frame) for pair in zip(sources, changed, strict=True)]
        else:
            read = [self._whole(*pair, count) for pair in zip(sources, changed, strict=True)]
        dead = {source for source in sources if self._last_reader[source] == index}
        others = (*(x.values for source, x in alive.items() if source not in dead), *read[1:], *outputs.values())
        owned = _memory(read[0]) not in self._memory.union(map(_memory, others))
        return self._forward(index, read, owned)

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
        return self._patches(value, changed, torch.zeros((count, 2), dtype=torch.int64), length)

    def _patches(self, value: int, changed: Changed | None, origin: Tensor, size: Pair, fill: float = 0.0) -> Tensor:
        """Rectangles of a map: what has changed where it has been computed, beside it the clean map, around it `fill`.

        Args:
            value: the number of the map.
            changed: its windows; None where nothing has changed.
            origin: (P, 2) int64 on the host, where each rectangle begins; it may overhang the map.
            size: rows and columns.
            fill: 0 or -inf.

        Returns:
            (P, ..., h, w), channels innermost in memory.
        """
        table, (height, width) = self._tables[value], self._length(value)
        rows, columns = _indices(origin, size)
        place = _numbers(rows, columns, width)
        place[~_within(rows, columns, (height, width))] = height * width + int(fill < 0)
        if changed is None:
            return self._as_maps(value, table.index_select(0, self._to_device(place.ravel())), size)
        assert changed.frame is not None
        window = changed.frame
        rows, columns = (index - begin for index, begin in zip((rows, columns), _columns(window.origin), strict=True))
        covered = _within(rows, columns, window.size).ravel()
        beside, here = np.flatnonzero(~covered), np.flatnonzero(covered)
        values = changed.values.reshape(len(origin), -1, *window.size).permute(0, 2, 3, 1).reshape(-1, table.shape[1])
        if len(here) < len(values):
            rows = rows + np.arange(len(origin))[:, None] * window.size[0]
            number = _numbers(rows, columns, window.size[1]).ravel()[here]
            values = values.index_select(0, self._to_device(number))
        patches = table.new_empty((len(covered), table.shape[1]))
        patches.index_copy_(0, self._to_device(here), values)
        around = table.index_select(0, self._to_device(place.ravel()[beside]))
        patches.index_copy_(0, self._to_device(beside), around)
        return self._as_maps(value, patches, size)

    def _as_maps(self, value: int, rows: Tensor, size: Pair) -> Tensor:
        """Rows of all channels of a position as rectangles, (P, ..., h, w)."""
        return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2).view(-1, *self._shapes[value][:-2], *size)

    def _to_device(self, index: Index) -> Tensor:
        return torch.from_numpy(index).to(self.device)


def _columns(origin: Tensor) -> tuple[Index, Index]:
    """Rows and columns of origins, (P, 1) each."""
    return origin[:, :1].numpy(), origin[:, 1:].numpy()


def _indices(origin: Tensor, size: Pair) -> tuple[Index, Index]:
    """The rows and the columns of rectangles, (P, h) and (P, w)."""
    y, x = _columns(origin)
    return y + np.arange(size[0]), x + np.arange(size[1])


def _numbers(rows: Index, columns: Index, width: int) -> Index:
    """The row-major numbers of the elements of rectangles, (P, h, w), in a map of some width."""
    return rows[:, :, None] * width + columns[:, None]


def _within(rows: Index, columns: Index, size: Pair) -> NDArray[np.bool_]:
    """Which elements of rectangles lie in a map of some size, (P, h, w)."""
    inside = [(index >= 0) & (index < length) for index, length in zip((rows, columns), size, strict=True)]
    return inside[0][:, :, None] & inside[1][:, None]


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _alike(spans: Sequence[Spans]) -> Tensor:
    """The numbers of all positions, those with windows of nearly the same sizes next to one another."""
    sizes = torch.stack([(span.stop - span.first) / torch.tensor(span.length) for span in spans]).sum(0).numpy()
    return torch.from_numpy(np.lexsort((sizes[:, 1], sizes[:, 0])))


def _works_on_positions(function: Callable[..., Tensor], read: Sequence[Tensor], made: Tensor) -> bool:
    """Whether a function of maps takes every position alone, and all in the same way.

    It is known only by what it does: halves of maps that are different everywhere have to come out as they do within
    the whole. A constant with a value for each position does not fit a half; statistics of a map are not its half's.

    Args:
        function: is linear, or keeps the shape.
        read: maps (1, ..., H, W) as it takes them.
        made: of them.
    """
    height, width = made.shape[-2:]
    if made.dim() < 3 or any(x.dim() < 3 or x.shape[-2:] != made.shape[-2:] for x in read):
        return False
    slope = torch.linspace(0.5, 2, height, dtype=torch.float64)[:, None] * torch.linspace(0.5, 2, width)
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.randn(x.shape, generator=generator, dtype=torch.float64) * slope).to(x) for x in read]
    whole = function(*maps)
    for rows in (slice(0, (height + 1) // 2), slice(height // 2, height)):
        for columns in (slice(0, (width + 1) // 2), slice(width // 2, width)):
            expected = whole[..., rows, columns]
            try:
                found = function(*(x[..., rows, columns] for x in maps))
            except (IndexError, RuntimeError, ValueError):  # a constant of another size
                return False
            if found.shape != expected.shape or not torch.allclose(found, expected, 1e-4, 1e-6, equal_nan=True):
                return False
    return True
