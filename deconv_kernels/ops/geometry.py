"""The geometry of poolings and convolutions of one, two and three dimensions, shared by every implementation in Python.

A `PerAxis` is one number for each spatial axis, in the order z, y, x; their count is the rank.

The fields of each object lie in the order in which the op schemas have them, so that `*pooling` spells it for an op.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.utils._pytree import tree_leaves

PerAxis = tuple[int, ...]
IntOrPerAxis = int | Sequence[int]

LARGEST_BYTE_WINDOW = 256
LARGEST_WINDOW = 32768
LARGEST_STEP = 2**31 - 1

_ENTRIES = {1: "one entry", 2: "one or two entries", 3: "one or three entries"}  # by rank


class Pooling(NamedTuple):
    """The windows of a max pooling.

    Window `o` of an axis looks at those positions `o * stride - padding + tap * dilation`, tap = 0 .. kernel_size - 1,
    that lie on the map.
    """

    kernel_size: PerAxis
    stride: PerAxis
    padding: PerAxis
    dilation: PerAxis

    @staticmethod
    def of(
        rank: int,
        kernel_size: IntOrPerAxis,
        stride: IntOrPerAxis | None,
        padding: IntOrPerAxis,
        dilation: IntOrPerAxis,
        prefix: str = "",
    ) -> Pooling:
        """The pooling of arguments that are still to be checked; a stride of None is the kernel size.

        Error messages put `prefix` before the arguments' names.

        Raises:
            TypeError: an argument that is not an int or one int for each axis.
            ValueError: kernel, stride or dilation below 1, padding outside 0 .. kernel // 2, or a window of more
                positions than a switch can name.
        """
        # Exact ints and tuples of them are keys of the cache that equal no other argument's.
        if type(kernel_size) is type(padding) is type(dilation) is int and (stride is None or type(stride) is int):
            plain = True
        else:
            plain = all(map(_is_plain, (kernel_size, () if stride is None else stride, padding, dilation)))
        if plain and not is_compiling():
            return _cached_pooling(rank, kernel_size, stride, padding, dilation, prefix)
        return _checked_pooling(rank, kernel_size, stride, padding, dilation, prefix)

    @staticmethod
    def one_position(rank: int) -> Pooling:
        """Windows of one position, side by side: each map is its own pooled map."""
        return Pooling((1,) * rank, (1,) * rank, (0,) * rank, (1,) * rank)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.kernel_size)

    def unpadded(self) -> Pooling:
        """The same windows without padding, as those are that a map has been cut into."""
        return self._replace(padding=(0,) * self.rank)

    def of_rows(self) -> Pooling:
        """The pooling of maps of one row that signals, which have one axis, are looked at as."""
        (kernel,), (stride,), (padding,), (dilation,) = self
        return Pooling((1, kernel), (1, stride), (0, padding), (1, dilation))

    def of_windows(self) -> tuple[PerAxis, PerAxis, PerAxis]:
        """Kernel size, stride and dilation: all that windows of a map are unpooled by. Padding moves their origins."""
        return self.kernel_size, self.stride, self.dilation

    def taps(self) -> int:
        """Positions of a window."""
        return math.prod(self.kernel_size)

    def switch_dtype(self) -> torch.dtype:
        """uint8 for windows of up to 256 positions, int16 above."""
        return torch.uint8 if self.taps() <= LARGEST_BYTE_WINDOW else torch.int16

    def extent(self) -> PerAxis:
        """Positions from the first to the last tap of a window along each axis, both counted."""
        return tuple([spread * (taps - 1) + 1 for taps, spread in zip(self.kernel_size, self.dilation, strict=True)])

    def pooled_size(self, size: PerAxis, ceil_mode: bool) -> PerAxis:
        """Size of the pooled map of a map of `size`; it may be 0 or negative where no window fits."""
        extent = self.extent()

        def along(axis: int) -> int:
            stride, padding = self.stride[axis], self.padding[axis]
            pooled = (size[axis] + 2 * padding - extent[axis] + (stride - 1 if ceil_mode else 0)) // stride + 1
            if ceil_mode and stride + padding > extent[axis]:
                # No window begins beyond the map and the padding before it.
                return torch.sym_min(pooled, (size[axis] + padding - 1) // stride + 1)
            return pooled

        return tuple(along(axis) for axis in range(self.rank))

    def pools_to(self, size: PerAxis, pooled: PerAxis) -> bool:
        """Whether a map of `size` pools to one of size `pooled`, with or without ceil_mode."""
        floor, ceil = (self.pooled_size(size, ceil_mode) for ceil_mode in (False, True))
        # One condition with | holds for every symbolic size, where two with `or` would depend on it.
        return all(
            size[axis] > 0 and (pooled[axis] == floor[axis]) | (pooled[axis] == ceil[axis]) for axis in range(self.rank)
        )

    def unpooled_size(self, pooled: PerAxis) -> PerAxis:
        """Size of the map whose windows, all of them full, are `pooled`; with enough padding it may be negative."""
        axes = zip(pooled, *self, strict=True)
        return tuple(
            [(count - 1) * step + spread * (taps - 1) + 1 - 2 * pad for count, taps, step, pad, spread in axes]
        )

    def unpooled_range(self, pooled: PerAxis) -> tuple[PerAxis, PerAxis]:
        """Smallest and largest size of a map that pools to one of size `pooled`, with or without ceil_mode."""
        axes = list(zip(self.unpooled_size(pooled), pooled, self.stride, self.padding, strict=True))
        smallest = (max(exact - step + 1, (count - 1) * step - pad + 1, 1) for exact, count, step, pad in axes)
        return tuple(smallest), tuple(exact + step - 1 for exact, _, step, _ in axes)


class Convolution(NamedTuple):
    """A forward convolution, but for its weight and padding."""

    stride: PerAxis
    dilation: PerAxis
    groups: int

    @staticmethod
    def of(rank: int, stride: IntOrPerAxis, dilation: IntOrPerAxis, groups: int) -> Convolution:
        """The convolution of arguments that are checked but for `groups`, which belongs to the weight.

        Raises:
            TypeError: an argument that is not an int or one int for each axis.
            ValueError: an argument below 1.
        """
        return Convolution(bounded("stride", stride, rank, 1), bounded("dilation", dilation, rank, 1), groups)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.stride)

    def full_size(self, signal: PerAxis, kernel: PerAxis) -> PerAxis:
        """Size of the transposed convolution of a signal, nothing cut off."""
        return Pooling(kernel, self.stride, (0,) * self.rank, self.dilation).unpooled_size(signal)


class Placement(NamedTuple):
    """Which part of a transposed convolution is a window's result, and where it lies.

    Attributes:
        begin: where the part begins in the whole.
        size: of the part; beyond the whole it goes on with zeros.
        base: it lies at `origin * step + base` of the map.
        map_size: of the map, outside of which the result is zero; entries of -1 stand for a map without end.
    """

    begin: PerAxis
    size: PerAxis
    base: PerAxis
    map_size: PerAxis

    def bounded(self) -> bool:
        """Whether the map has an end."""
        return any(entry != -1 for entry in self.map_size)


class Backprojection(NamedTuple):
    """The arguments of an op `backproject` after their tensors; `reference.backproject` says what they mean."""

    pool_kernel_size: PerAxis
    pool_stride: PerAxis
    pool_dilation: PerAxis
    overlap: str
    relu: bool
    stride: PerAxis
    dilation: PerAxis
    groups: int
    begin: PerAxis
    size: PerAxis
    base: PerAxis
    map_size: PerAxis

    @staticmethod
    def of(
        pooling: Pooling | None, overlap: str, relu: bool, convolution: Convolution, placement: Placement
    ) -> Backprojection:
        """From windows after a pooling, or None of them, through a convolution."""
        window = (pooling or Pooling.one_position(convolution.rank)).of_windows()
        return Backprojection(*window, overlap, relu, *convolution, *placement)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.stride)

    def of_rows(self) -> Backprojection:
        """The backprojection through maps of one row that signals, which have one axis, are looked at as."""
        convolution = Convolution((1, *self.stride), (1, *self.dilation), self.groups)
        bounded = self.placement().bounded()
        placement = Placement(
            (0, *self.begin), (1, *self.size), (0, *self.base), (1 if bounded else -1, *self.map_size)
        )
        return Backprojection.of(self.pooling().of_rows(), self.overlap, self.relu, convolution, placement)

    def pooling(self) -> Pooling:
        """The pooling by whose switches windows are unpooled, if any are given."""
        return Pooling(self.pool_kernel_size, self.pool_stride, (0,) * self.rank, self.pool_dilation)

    def convolution(self) -> Convolution:
        """The convolution that they are sent through."""
        return Convolution(self.stride, self.dilation, self.groups)

    def placement(self) -> Placement:
        """The part that is wanted of the result."""
        return Placement(self.begin, self.size, self.base, self.map_size)

    def step(self, pooled: bool) -> PerAxis:
        """How far apart the results of neighbouring windows lie, if these are `pooled` or not."""
        if not pooled:
            return self.stride
        return tuple(step * pool for step, pool in zip(self.stride, self.pool_stride, strict=True))


def per_axis(value: IntOrPerAxis, rank: int, name: str) -> PerAxis:
    """`value` with one entry for each of `rank` axes; one number stands for all.

    Raises:
        TypeError: not an integer or a sequence of integers.
        ValueError: a sequence of another length than 1 or `rank`.
    """
    values = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else None
    if values is None or any(not isinstance(v, int | torch.SymInt) or isinstance(v, bool) for v in values):
        refuse_torchscript(values)
        raise TypeError(f"{name} must be an int or a sequence of ints with {_ENTRIES[rank]}, got {value!r}")
    if len(values) == rank:
        return values
    if len(values) != 1:
        raise ValueError(f"{name} must have {_ENTRIES[rank]}, got {value!r}")
    return values * rank


def bounded(name: str, value: IntOrPerAxis, rank: int, smallest: int) -> PerAxis:
    """`value` with one entry for each of `rank` axes, from `smallest` to what an int32 holds.

    Raises:
        TypeError: not an integer or a sequence of integers.
        ValueError: a sequence of another length than 1 or `rank`, or an entry out of range.
    """
    values = per_axis(value, rank, name)
    if min(values) < smallest or max(values) > LARGEST_STEP:
        raise ValueError(f"{name} must be between {smallest} and {LARGEST_STEP}, got {values}")
    return values


def refuse_torchscript(arguments: object) -> None:
    """TorchScript, while it traces, makes tensors of the sizes of tensors, and cannot record an op that takes those.

    Raises:
        NotImplementedError: some of `arguments` are such sizes.
    """
    if is_compiling() or not torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(arguments)):
        raise NotImplementedError(
            "torch.jit.trace cannot record an op of deconv_kernels whose sizes follow from those of its input, such as "
            "an output_size of x.shape[-2:]: TorchScript is not supported; use torch.export.export instead"
        )


def _is_plain(value: object) -> bool:
    return type(value) is int or (type(value) is tuple and all(type(entry) is int for entry in value))


def _checked_pooling(
    rank: int,
    kernel_size: IntOrPerAxis,
    stride: IntOrPerAxis | None,
    padding: IntOrPerAxis,
    dilation: IntOrPerAxis,
    prefix: str,
) -> Pooling:
    kernel = per_axis(kernel_size, rank, f"{prefix}kernel_size")
    empty_stride = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    step = kernel if empty_stride else per_axis(stride, rank, f"{prefix}stride")  # type: ignore[arg-type]
    pad = per_axis(padding, rank, f"{prefix}padding")
    spread = per_axis(dilation, rank, f"{prefix}dilation")
    for name, values in (("kernel_size", kernel), ("stride", step), ("dilation", spread)):
        if min(values) < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, got {values}")
        if max(values) > LARGEST_STEP:
            raise ValueError(f"{prefix}{name} must be at most {LARGEST_STEP}, got {values}")
    if any(p < 0 or p > k // 2 for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(f"{prefix}padding must be between 0 and half the kernel size {kernel}, got {pad}")
    pooling = Pooling(kernel, step, pad, spread)
    if pooling.taps() > LARGEST_WINDOW:
        raise ValueError(
            f"{prefix}kernel_size {kernel} has {pooling.taps()} positions; a switch can name at most {LARGEST_WINDOW}"
        )
    return pooling


_cached_pooling = functools.lru_cache(maxsize=1024)(_checked_pooling)
