"""The geometry of 2-d poolings and convolutions, shared by every implementation in Python. A `Pair` is (y, x).

The fields of each object lie in the order in which the op schemas have them, so that `*pooling` spells it for an op.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.utils._pytree import tree_leaves

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]

LARGEST_BYTE_WINDOW = 256
LARGEST_WINDOW = 32768
LARGEST_STEP = 2**31 - 1


class Pooling(NamedTuple):
    """The windows of a 2-d max pooling.

    Window `o` of an axis looks at those positions `o * stride - padding + tap * dilation`, tap = 0 .. kernel_size - 1,
    that lie on the map.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @staticmethod
    def of(
        kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair, dilation: IntOrPair, prefix: str = ""
    ) -> Pooling:
        """The pooling of checked arguments; a stride of None is the kernel size.

        Error messages put `prefix` before the arguments' names.

        Raises:
            TypeError: an argument that is not an int or a pair of ints.
            ValueError: kernel, stride or dilation below 1, padding outside 0 .. kernel // 2, or a window of more
                positions than a switch can name.
        """
        # Exact ints and pairs of them are keys of the cache that equal no other argument's.
        if type(kernel_size) is type(padding) is type(dilation) is int and (stride is None or type(stride) is int):
            plain = True
        else:
            plain = all(map(_is_plain, (kernel_size, () if stride is None else stride, padding, dilation)))
        if plain and not is_compiling():
            return _cached_pooling(kernel_size, stride, padding, dilation, prefix)
        return _checked_pooling(kernel_size, stride, padding, dilation, prefix)

    def unpadded(self) -> Pooling:
        """The same windows without padding, as those are that a map has been cut into."""
        return Pooling(self.kernel_size, self.stride, (0, 0), self.dilation)

    def of_windows(self) -> tuple[Pair, Pair, Pair]:
        """Kernel size, stride and dilation: all that windows of a map are unpooled by. Padding moves their origins."""
        return self.kernel_size, self.stride, self.dilation

    def taps(self) -> int:
        """Positions of a window."""
        return self.kernel_size[0] * self.kernel_size[1]

    def switch_dtype(self) -> torch.dtype:
        """uint8 for windows of up to 256 positions, int16 above."""
        return torch.uint8 if self.taps() <= LARGEST_BYTE_WINDOW else torch.int16

    def extent(self) -> Pair:
        """Rows and columns from the first to the last tap of a window, both counted."""
        return _extent(self.kernel_size, self.dilation)

    def pooled_size(self, size: Pair, ceil_mode: bool) -> Pair:
        """Size of the pooled map of a map of `size`; it may be 0 or negative where no window fits."""

        def along(axis: int) -> int:
            stride, padding, extent = self.stride[axis], self.padding[axis], self.extent()[axis]
            pooled = (size[axis] + 2 * padding - extent + (stride - 1 if ceil_mode else 0)) // stride + 1
            if ceil_mode and stride + padding > extent:
                # No window begins beyond the map and the padding before it.
                return torch.sym_min(pooled, (size[axis] + padding - 1) // stride + 1)
            return pooled

        return along(0), along(1)

    def pools_to(self, size: Pair, pooled: Pair) -> bool:
        """Whether a map of `size` pools to one of size `pooled`, with or without ceil_mode."""
        floor, ceil = (self.pooled_size(size, ceil_mode) for ceil_mode in (False, True))
        # One condition with | holds for every symbolic size, where two with `or` would depend on it.
        return all(size[axis] > 0 and (pooled[axis] == floor[axis]) | (pooled[axis] == ceil[axis]) for axis in (0, 1))

    def unpooled_size(self, pooled: Pair) -> Pair:
        """Size of the map whose windows, all of them full, are `pooled`; with enough padding it may be negative."""
        (y, x), (rows, columns) = self.padding, _spread(pooled, self.stride, self.extent())
        return rows - 2 * y, columns - 2 * x

    def unpooled_range(self, pooled: Pair) -> tuple[Pair, Pair]:
        """Smallest and largest size of a map that pools to one of size `pooled`, with or without ceil_mode."""
        exact, stride = self.unpooled_size(pooled), self.stride
        first = [(pooled[axis] - 1) * stride[axis] - self.padding[axis] for axis in (0, 1)]
        smallest = [max(exact[axis] - stride[axis] + 1, first[axis] + 1, 1) for axis in (0, 1)]
        return (smallest[0], smallest[1]), (exact[0] + stride[0] - 1, exact[1] + stride[1] - 1)


class Convolution(NamedTuple):
    """A forward convolution, but for its weight and padding."""

    stride: Pair
    dilation: Pair
    groups: int

    @staticmethod
    def of(stride: IntOrPair, dilation: IntOrPair, groups: int) -> Convolution:
        """The convolution of arguments that are checked but for `groups`, which belongs to the weight.

        Raises:
            TypeError: an argument that is not an int or a pair of ints.
            ValueError: an argument below 1.
        """
        return Convolution(bounded("stride", stride, 1), bounded("dilation", dilation, 1), groups)

    def full_size(self, signal: Pair, kernel: Pair) -> Pair:
        """Size of the transposed convolution of a signal, nothing cut off."""
        return _spread(signal, self.stride, _extent(kernel, self.dilation))


class Placement(NamedTuple):
    """Which part of a transposed convolution is a window's result, and where it lies.

    Attributes:
        begin: where the part begins in the whole.
        size: of the part; beyond the whole it goes on with zeros.
        base: it lies at `origin * step + base` of the map.
        map_size: of the map, outside of which the result is zero; (-1, -1) stands for a map without end.
    """

    begin: Pair
    size: Pair
    base: Pair
    map_size: Pair = (-1, -1)

    def bounded(self) -> bool:
        """Whether the map has an end."""
        return self.map_size != (-1, -1)


class Backprojection(NamedTuple):
    """The arguments of the op `backproject2d` after its tensors; `reference.backproject2d` says what they mean."""

    pool_kernel_size: Pair
    pool_stride: Pair
    pool_dilation: Pair
    overlap: str
    relu: bool
    stride: Pair
    dilation: Pair
    groups: int
    begin: Pair
    size: Pair
    base: Pair
    map_size: Pair

    @staticmethod
    def of(
        pooling: Pooling | None, overlap: str, relu: bool, convolution: Convolution, placement: Placement
    ) -> Backprojection:
        """From windows after a pooling, or None of them, through a convolution."""
        window = (ONE_POSITION if pooling is None else pooling).of_windows()
        return Backprojection(*window, overlap, relu, *convolution, *placement)

    def pooling(self) -> Pooling:
        """The pooling by whose switches windows are unpooled, if any are given."""
        return Pooling(self.pool_kernel_size, self.pool_stride, (0, 0), self.pool_dilation)

    def convolution(self) -> Convolution:
        """The convolution that they are sent through."""
        return Convolution(self.stride, self.dilation, self.groups)

    def placement(self) -> Placement:
        """The part that is wanted of the result."""
        return Placement(self.begin, self.size, self.base, self.map_size)

    def step(self, pooled: bool) -> Pair:
        """How far apart the results of neighbouring windows lie, if these are `pooled` or not."""
        y, x = self.pool_stride if pooled else (1, 1)
        return self.stride[0] * y, self.stride[1] * x


ONE_POSITION = Pooling((1, 1), (1, 1))


def pair(value: IntOrPair, name: str) -> Pair:
    """`value` as (y, x); one number stands for both.

    Raises:
        TypeError: not an integer or a sequence of integers.
        ValueError: a sequence of another length than 1 or 2.
    """
    values = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else None
    if values is None or any(not isinstance(v, int | torch.SymInt) or isinstance(v, bool) for v in values):
        refuse_torchscript(values)
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if len(values) == 1:
        return values[0], values[0]
    if len(values) != 2:
        raise ValueError(f"{name} must have one or two entries, got {value!r}")
    return values[0], values[1]


def bounded(name: str, value: IntOrPair, smallest: int) -> Pair:
    """`value` as (y, x), from `smallest` to what an int32 holds.

    Raises:
        TypeError: not an integer or a sequence of integers.
        ValueError: a sequence of another length than 1 or 2, or an entry out of range.
    """
    values = pair(value, name)
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
    kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair, dilation: IntOrPair, prefix: str
) -> Pooling:
    kernel = pair(kernel_size, f"{prefix}kernel_size")
    empty_stride = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    step = kernel if empty_stride else pair(stride, f"{prefix}stride")  # type: ignore[arg-type]
    pad = pair(padding, f"{prefix}padding")
    spread = pair(dilation, f"{prefix}dilation")
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


def _extent(kernel: Pair, dilation: Pair) -> Pair:
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def _spread(count: Pair, stride: Pair, extent: Pair) -> Pair:
    """What `count` windows of some extent, a stride apart, cover."""
    return (count[0] - 1) * stride[0] + extent[0], (count[1] - 1) * stride[1] + extent[1]
