"""The CUDA kernels, executed on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer.

pytest builds `csrc/host/module.cpp` with the sanitizers and starts this file as a program, once per op, in a Python
that has AddressSanitizer preloaded. The program compares every kernel with ATen or with NumPy, bit for bit, and the
sums of products of backproject2d with ATen's in float64.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import itertools
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from signal import ITIMER_PROF, setitimer
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from pooling_cases import (
    DTYPES,
    GEOMETRIES,
    OTHER_GEOMETRIES,
    Geometry,
    assert_same_bits,
    aten_pool,
    random_geometry,
    random_switches,
    random_values,
    switches_of,
    unpool_by_hand,
    unpool_windows_by_hand,
)
from tolerances import assert_rounded_once

from deconv_kernels.ops import reference
from deconv_kernels.ops.geometry import Backprojection as Backprojected
from deconv_kernels.ops.geometry import Convolution as ForwardConvolution
from deconv_kernels.ops.geometry import Placement, Pooling

ROOT = Path(__file__).resolve().parents[2]
BARRIERS = ROOT / "csrc/cuda/backproject.cuh"  # the one file that has any
SHARED_MEMORY: list[tuple[int, int]] = []  # of the module, as `shared_memory_of` finds it
GUARD = 4096  # bytes before and after every array
GUARD_BYTE = 0xA5
LARGEST_IMAGE = 1_200  # elements
MOST_PRODUCTS = 200_000  # of one backprojection
CHANNELS = (1, 3, 8, 16)
LANES = {torch.float32: 4, torch.float64: 2, torch.float16: 8, torch.bfloat16: 8}
pytestmark = pytest.mark.xdist_group("host_kernels")
PATHS = ("automatic", "pairs", "columns", "general")
GEOMETRIES_HERE = [g for g in GEOMETRIES if g.size[0] * g.size[1] <= LARGEST_IMAGE] + [
    Geometry((8, 16), (2, 2), (2, 2)),
    Geometry((7, 16), (2, 2), (2, 2)),
    Geometry((6, 24), (2, 2), (2, 2)),
    Geometry((9, 13), (2, 2), (2, 2), (1, 1)),
    Geometry((12, 11), (3, 3), (2, 2), (1, 0)),
    Geometry((9, 13), (2, 2), (2, 2), (1, 0), ceil_mode=True),
    Geometry((27, 5), (3, 3), (2, 2), (0, 1), ceil_mode=True),
    *(g for g in OTHER_GEOMETRIES if g.rank == 3 and not g.windows_off_the_map.any()),
]


class Guarded:
    """A NumPy array in the order of memory, aligned to 16 bytes or one element off.

    It lies behind a guard, and at the end of its memory, past which AddressSanitizer sees a kernel read. What a kernel
    writes has a guard behind it as well.
    """

    def __init__(
        self, values: Tensor, channels_last: bool = False, misaligned: bool = False, guard_behind: int = 0
    ) -> None:
        self.dtype, self.channels_last = values.dtype, channels_last
        values = values.movedim(1, -1) if channels_last else values
        size = values.numel() * values.element_size()
        # malloc aligns to 16 bytes, and so the start of the array follows from what lies before it.
        before = GUARD + (values.element_size() if misaligned else 0)
        self.buffer = np.full(before + size + guard_behind, GUARD_BYTE, dtype=np.uint8)
        assert self.buffer.ctypes.data % 16 == 0
        self.start = before
        self.end = self.start + size
        numbers = values.contiguous().view(torch.uint16) if values.dtype == torch.bfloat16 else values.contiguous()
        self.array = self.buffer[self.start : self.end].view(numbers.numpy().dtype).reshape(numbers.shape)
        self.array[...] = numbers.numpy()

    @classmethod
    def unwritten(cls, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, misaligned: bool) -> Guarded:
        """An array filled with the byte of the guards."""
        guarded = cls(torch.zeros(shape, dtype=dtype), channels_last, misaligned, GUARD)
        guarded.buffer[:] = GUARD_BYTE
        return guarded

    def tensor(self) -> Tensor:
        """The values as an (N, C, H, W) tensor; asserts that the guards are whole."""
        before, after = self.buffer[: self.start], self.buffer[self.end :]
        assert (before == GUARD_BYTE).all() and (after == GUARD_BYTE).all(), "a kernel wrote outside its result"
        values = torch.from_numpy(self.array.copy())
        values = values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values
        return values.movedim(-1, 1) if self.channels_last else values


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cases() -> list[tuple[Geometry, torch.dtype, bool]]:
    """Every geometry of images and volumes in every dtype and layout, and some random ones of images."""
    geometries = GEOMETRIES_HERE + [random_geometry() for _ in range(8)]
    return list(itertools.product(geometries, DTYPES, (False, True)))


def random_size(geometry: Geometry) -> tuple[int, int]:
    """(N, C), with few channels where the map is large."""
    affordable = [c for c in CHANNELS if c * math.prod(geometry.size) <= LARGEST_IMAGE]
    return random.randint(1, 2), random.choice(affordable or [1])


def paths_of(geometry: Geometry) -> tuple[str, ...]:
    """The kernels to try; a fast one that the geometry rules out refuses, which `run` reports."""
    square = geometry.kernel in ((2, 2), (3, 3)) and geometry.stride == (2, 2) and geometry.dilation == (1, 1)
    return PATHS if square else ("automatic", "general")


def blocks() -> int:
    """A grid as on a GPU, or one so small that its threads have to go round several times."""
    return random.choice((0, 0, 1, 2))


def run(counts: dict[str, int], path: str, function: Any, *arguments: Any) -> bool:
    """Runs a kernel; False where it cannot do what is asked."""
    try:
        items = function(*arguments, path, blocks())
    except ValueError as error:
        assert "this path cannot" in str(error) and path in ("pairs", "columns"), error
        return False
    assert items > 0
    counts[path] = counts.get(path, 0) + 1
    return True


def check_max_pool(host: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for geometry, dtype, channels_last in cases():
        shape = (*random_size(geometry), *geometry.size)
        kinds = ("normal", "ties", "special", "minus infinity")
        values = random_values(shape, dtype, random.choice(kinds))
        bias = random_values(shape[1:2], dtype, random.choice(kinds[:3])) if random.random() < 0.4 else None
        relu = random.random() < 0.5
        output, indices = aten_pool(values, geometry, bias, relu)
        switches = switches_of(indices, geometry)
        misaligned = random.random() < 0.2
        for path in paths_of(geometry):
            what = (
                f"{geometry} {dtype} channels_last={channels_last} {path} {shape} relu={relu} bias={bias is not None}"
            )
            results = [
                Guarded.unwritten(tuple(like.shape), like.dtype, channels_last, misaligned)
                for like in (output, switches)
            ]
            ran = run(
                counts,
                path,
                host.max_pool,
                name_of(dtype),
                Guarded(values, channels_last, misaligned).array,
                None if bias is None else Guarded(bias).array,
                *(result.array for result in results),
                *geometry.window,
                relu,
                channels_last,
            )
            if ran:
                assert_same_bits(results[1].tensor(), switches, f"switches of {what}")
                assert_same_bits(results[0].tensor(), output, f"values of {what}")
    return counts


def check_max_unpool(host: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for geometry, dtype, channels_last in cases():
        shape = (*random_size(geometry), *geometry.pooled)
        values = random_values(shape, dtype)
        switches = random_switches(shape, geometry)
        relu, overlap = random.random() < 0.5, random.choice(("sum", "last"))
        expected = unpool_by_hand(values, switches, geometry, overlap, relu)
        misaligned = random.random() < 0.2
        for path in paths_of(geometry):
            result = Guarded.unwritten(tuple(expected.shape), dtype, channels_last, misaligned)
            ran = run(
                counts,
                path,
                host.max_unpool,
                name_of(dtype),
                Guarded(values, channels_last, misaligned).array,
                Guarded(switches, channels_last, misaligned).array,
                result.array,
                *geometry.window,
                overlap,
                relu,
                channels_last,
            )
            if ran:
                what = f"{geometry} {dtype} channels_last={channels_last} {path} {shape} {overlap} relu={relu}"
                assert_same_bits(result.tensor(), expected, what)
    return counts


def random_windows(units: int, images: int, pooled: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images and origins of windows; some overhang the map, are far from it, or belong to no image."""
    far = torch.tensor([-(2**63), 2**63 - 1, -(2**31), 2**31])
    image = torch.randint(-1, images + 1, (units,))
    shape = units, len(pooled)
    origin = torch.randint(*random.choice(((-6, max(pooled) + 2), (-1, min(pooled)))), shape)
    image = torch.where(torch.rand(units) < 0.05, far[torch.randint(0, 4, (units,))], image)
    origin = torch.where(torch.rand(shape) < 0.05, far[torch.randint(0, 4, shape)], origin)
    return image, origin


def check_max_unpool_window(host: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for geometry, dtype, channels_last in cases():
        images, channels = random_size(geometry)
        units, window = random.randint(1, 4), tuple(random.randint(1, 5) for _ in geometry.size)
        size = tuple((n - 1) * s + e for n, s, e in zip(window, geometry.stride, geometry.extent, strict=True))
        if channels * math.prod(size) > 4 * LARGEST_IMAGE:
            continue
        local = Geometry(size, geometry.kernel, geometry.stride, (0,) * geometry.rank, geometry.dilation)
        values = random_values((units, channels, *window), dtype)
        switches = random_switches((images, channels, *geometry.pooled), geometry)
        image, origin = random_windows(units, images, geometry.pooled)
        relu, overlap = random.random() < 0.5, random.choice(("sum", "last"))
        expected = unpool_windows_by_hand(values, switches, image, origin, local, overlap, relu)
        misaligned = random.random() < 0.2
        for path in paths_of(local):
            result = Guarded.unwritten(tuple(expected.shape), dtype, channels_last, misaligned)
            ran = run(
                counts,
                path,
                host.max_unpool_window,
                name_of(dtype),
                Guarded(values, channels_last, misaligned).array,
                Guarded(switches, channels_last, misaligned).array,
                Guarded(image).array,
                Guarded(origin).array,
                result.array,
                local.kernel,
                local.stride,
                local.dilation,
                overlap,
                relu,
                channels_last,
            )
            if ran:
                what = f"{local} {dtype} channels_last={channels_last} {path} image {image} origin {origin}"
                assert_same_bits(result.tensor(), expected, f"{what} {overlap} relu={relu}")
    return counts


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One transposed convolution of windows of `window` signal values."""

    window: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    inputs: int = 8  # channels of a group
    outputs: int = 8  # channels of a group

    @property
    def takes_patches(self) -> bool:
        return self.kernel == (3, 3) and self.stride == self.dilation == (1, 1) and self.outputs % 64 == 0

    def signal(self, pooling: Geometry | None) -> tuple[int, int]:
        """The size of the unpooled window."""
        if pooling is None:
            return self.window
        height, width = ((n - 1) * s + e for n, s, e in zip(self.window, pooling.stride, pooling.extent, strict=True))
        return height, width

    def full(self, pooling: Geometry | None) -> tuple[int, int]:
        """The size of the whole result."""
        height, width = (
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(self.signal(pooling), self.stride, self.dilation, self.kernel, strict=True)
        )
        return height, width

    def products(self, pooling: Geometry | None) -> int:
        """Multiplications of one window."""
        height, width = self.signal(pooling)
        return self.groups * self.inputs * self.outputs * height * width * self.kernel[0] * self.kernel[1]


CONVOLUTIONS = [
    Convolution((1, 1), (3, 3)),
    Convolution((1, 1), (3, 3), inputs=34, outputs=64),
    Convolution((2, 2), (3, 3), inputs=20, outputs=64),
    Convolution((3, 5), (3, 3), inputs=3, outputs=128),
    Convolution((3, 2), (3, 3), groups=2, inputs=2, outputs=64),
    Convolution((5, 9), (3, 3), inputs=1, outputs=64),
    Convolution((3, 3), (3, 3), inputs=16, outputs=72),
    Convolution((7, 7), (3, 3), inputs=20, outputs=16),
    Convolution((9, 8), (3, 3), inputs=4, outputs=3),
    Convolution((3, 2), (11, 11), (4, 4), inputs=8, outputs=3),
    Convolution((4, 3), (7, 7), (2, 2), inputs=16, outputs=3),
    Convolution((2, 3), (5, 5), groups=2, inputs=17, outputs=8),
    Convolution((3, 3), (3, 3), groups=8, inputs=1, outputs=1),
    Convolution((2, 2), (15, 17), inputs=4, outputs=2),
    Convolution((2, 3), (3, 3), (1, 1), (9, 4), inputs=4, outputs=8),
    Convolution((3, 2), (2, 3), (3, 4), (2, 6), inputs=5, outputs=9),
    Convolution((2, 2), (3, 1), (4, 6), (2, 9), inputs=2, outputs=16),
]
POOLINGS = [
    None,
    Geometry((12, 12), (2, 2), (2, 2)),
    Geometry((13, 11), (3, 3), (2, 2)),
    Geometry((12, 17), (3, 2), (1, 1), dilation=(2, 2)),
    Geometry((17, 15), (2, 3), (2, 1), dilation=(4, 3)),
    Geometry((20, 20), (17, 16), (3, 2)),
    Geometry((11, 12), (1, 2), (2, 3)),
]


def random_convolution() -> Convolution:
    def pair(largest: int) -> tuple[int, int]:
        return random.randint(1, largest), random.randint(1, largest)

    channels = random.choice((1, 3, 4, 8, 9, 16, 24, 40)), random.choice((1, 2, 3, 8, 16, 24, 130))
    return Convolution(pair(6), pair(6), pair(4), pair(4), random.choice((1, 1, 2, 3)), *channels)


@dataclasses.dataclass
class Backprojection:
    """One call of backproject2d, with the names of its arguments."""

    convolution: Convolution
    pooling: Geometry | None
    channels_last: bool
    input: Tensor
    weight: Tensor
    image: Tensor
    origin: Tensor
    switches: Tensor | None
    overlap: str
    relu: bool
    begin: tuple[int, int]
    size: tuple[int, int]
    base: tuple[int, int]
    map_size: tuple[int, int]

    @classmethod
    def random(cls, convolution: Convolution, pooling: Geometry | None, channels_last: bool) -> Backprojection:
        dtype, channels = random.choice(DTYPES), convolution.groups * convolution.inputs
        units = random.randint(1, min(7, 1 + 2 * MOST_PRODUCTS // convolution.products(pooling)))
        full = convolution.full(pooling)
        begin = random.choice(((0, 0), (random.randint(0, full[0]), random.randint(0, full[1]))))
        height, width = (max(1, f - b + random.randint(-3, 2)) for f, b in zip(full, begin, strict=True))
        image, origin = random_windows(units, 2, (6, 6) if pooling is None else pooling.pooled)
        return cls(
            convolution,
            pooling,
            channels_last,
            input=random_values((units, channels, *convolution.window), dtype),
            weight=random_values((channels, convolution.outputs, *convolution.kernel), dtype, "normal"),
            image=image,
            origin=origin,
            switches=None if pooling is None else random_switches((2, channels, *pooling.pooled), pooling),
            overlap=random.choice(("sum", "last")),
            relu=random.random() < 0.5,
            begin=begin,
            size=(height, width),
            base=(random.randint(-4, 4), random.randint(-4, 4)),
            map_size=random.choice(((-1, -1), (random.randint(1, 30), random.randint(1, 30)))),
        )

    def exact(self, magnitude: bool = False) -> Tensor:
        """The result in float64, or the sums of the magnitudes of its terms."""
        signal, step = F.relu(self.input) if self.relu else self.input, self.convolution.stride
        if self.pooling is not None and self.switches is not None:
            local = dataclasses.replace(self.pooling, size=self.convolution.signal(self.pooling), padding=(0, 0))
            windows = (self.input, self.switches, self.image, self.origin)
            signal = unpool_windows_by_hand(*windows, local, self.overlap, self.relu)
            step = step[0] * local.stride[0], step[1] * local.stride[1]
        geometry = (self.convolution.stride, 0, 0, self.convolution.groups, self.convolution.dilation)
        signal, weight = signal.double(), self.weight.double()
        if magnitude:
            signal, weight = signal.abs(), weight.abs()
        full = F.conv_transpose2d(signal, weight, None, *geometry)
        assert full.shape[2:] == self.convolution.full(self.pooling)
        (top, left), (height, width) = self.begin, self.size
        result = F.pad(full, (0, width, 0, height))[:, :, top : top + height, left : left + width]
        if self.map_size != (-1, -1):
            for axis, place in ((0, (slice(None), None, slice(None), None)), (1, (slice(None), None, None))):
                position = self.origin[:, axis, None] * step[axis] + self.base[axis] + torch.arange(self.size[axis])
                result = result.masked_fill(((position < 0) | (position >= self.map_size[axis]))[place], 0)
        return result

    def run(self, host: Any, units: slice, path: str, grid: int | None = None) -> tuple[Tensor, int] | None:
        """What a kernel makes of some of the units, and how many threads a GPU starts; None if it cannot."""
        misaligned = random.random() < 0.2
        guarded = functools.partial(Guarded, channels_last=self.channels_last, misaligned=misaligned)
        image, outputs = self.image[units], self.convolution.groups * self.convolution.outputs
        shape = (len(image), outputs, *self.size)
        result = Guarded.unwritten(shape, self.input.dtype, self.channels_last, misaligned)
        window = ((1, 1),) * 3
        if self.pooling is not None:
            window = (self.pooling.kernel, self.pooling.stride, self.pooling.dilation)
        arguments = (
            name_of(self.input.dtype),
            guarded(self.input[units]).array,
            Guarded(self.weight.permute(2, 3, 0, 1), misaligned=random.random() < 0.2).array,
            Guarded(image).array,
            Guarded(self.origin[units]).array,
            None if self.switches is None else guarded(self.switches).array,
            result.array,
            *window,
            self.overlap,
            self.relu,
            self.convolution.stride,
            self.convolution.dilation,
            self.convolution.groups,
            self.begin,
            self.base,
            self.map_size,
            self.channels_last,
        )
        try:
            threads = host.backproject(*arguments, path, blocks() if grid is None else grid)
        except ValueError as error:
            assert "this path cannot" in str(error) and path == "patches", error
            return None
        return result.tensor(), threads


def check_backproject2d(host: Any) -> dict[str, int]:
    """Most convolutions with most poolings; each time one of the units by itself has to give the same, bit for bit."""
    counts: collections.Counter[str] = collections.Counter()
    convolutions = CONVOLUTIONS + [random_convolution() for _ in range(8)]
    layouts = (False, True)
    calls = list(itertools.product(convolutions, layouts, POOLINGS))
    calls += itertools.product([c for c in convolutions if c.takes_patches], layouts, 4 * [POOLINGS[1]])
    for convolution, channels_last, pooling in calls:
        patches = convolution.takes_patches and pooling is not None and pooling.kernel == pooling.stride == (2, 2)
        if convolution.products(pooling) > MOST_PRODUCTS or (not patches and random.random() < 0.5):
            continue
        case = Backprojection.random(convolution, pooling, channels_last)
        exact, magnitude = case.exact(), case.exact(magnitude=True)
        finite = exact.isfinite()
        for path in ("tiles", "patches") if patches else ("automatic",):
            outcome = case.run(host, slice(None), path)
            if outcome is None:
                continue
            actual, threads = outcome
            what = f"{path}, {case}"
            expected = exact.masked_fill(finite, 0).to(actual.dtype)
            torch.testing.assert_close(
                actual.masked_fill(finite, 0), expected, rtol=0, atol=0, equal_nan=True, msg=what
            )
            sums, sums_exact, size = (t.masked_fill(~finite, 0) for t in (actual, exact, magnitude))
            assert_rounded_once(sums, sums_exact, size, what)
            counts[path] += 1
            unit = random.randrange(len(actual))
            outcome = case.run(host, slice(unit, unit + 1), path)
            if outcome is not None:
                assert_same_bits(outcome[0], actual[unit : unit + 1], f"unit {unit} by itself, {what}")
                counts["shared"] += path != "patches" and threads < len(actual) * outcome[1]
    check_signal(host)
    return dict(counts)


def check_barriers(host: Any) -> dict[str, int]:
    """Without any one of its barriers a kernel makes something else of the same windows, or runs astray."""
    calls = {
        "tiles": (Convolution((3, 3), (3, 3), (2, 2), inputs=40, outputs=8), None),
        "patches": (Convolution((3, 3), (3, 3), inputs=40, outputs=64), POOLINGS[1]),
    }
    units = 6  # one block computes several tiles, and more patches than it has warps
    lines = [number for number, line in enumerate(BARRIERS.read_text().splitlines(), 1) if "__syncthreads()" in line]
    unnoticed = set(lines)
    for path, (convolution, pooling) in calls.items():
        case = Backprojection.random(convolution, pooling, channels_last=True)
        shape, dtype = (units, *case.input.shape[1:]), random.choice((torch.float32, torch.bfloat16))
        case = dataclasses.replace(
            case,
            input=random_values(shape, dtype, "normal"),
            weight=case.weight.to(dtype),
            image=torch.zeros(units, dtype=torch.int64),
            origin=torch.zeros((units, 2), dtype=torch.int64),
            begin=(0, 0),
            size=convolution.full(pooling),
            map_size=(-1, -1),
        )

        def bits(missing: int, path: str = path, case: Backprojection = case) -> bytes:
            """What one block makes of all windows in some order."""
            set_schedule(host, missing)
            while (outcome := case.run(host, slice(None), path, grid=1)) is None:
                pass  # its weight lay askew this time, which patches do not take
            return outcome[0].contiguous().view(torch.uint8).numpy().tobytes()

        began, expected = time.process_time(), bits(missing=0)
        patience = 20 * (time.process_time() - began)
        assert bits(missing=0) == expected, f"another order, another result: {path}, {case}"
        for line in sorted(unnoticed):
            process = os.fork()  # for what a kernel then reads may lead it anywhere
            if process == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                setitimer(ITIMER_PROF, patience)
                os._exit(int(bits(line) != expected))
            if os.waitpid(process, 0)[1] != 0:
                unnoticed.remove(line)
    set_schedule(host)
    assert not unnoticed, f"{BARRIERS.name}: barriers that nothing needs, in lines {sorted(unnoticed)}"
    return {"barriers": len(lines)}


def check_signal(host: Any) -> None:
    """A convolution that changes nothing shows the signal, which has to be right bit for bit."""
    for pooling in POOLINGS:
        case = Backprojection.random(Convolution((4, 3), (1, 1), inputs=9, outputs=9), pooling, random.random() < 0.5)
        case.input = random_values(tuple(case.input.shape), case.input.dtype, "normal")
        case.weight = torch.eye(9, dtype=case.input.dtype)[:, :, None, None]
        outcome = case.run(host, slice(None), "automatic")
        assert outcome is not None
        signal = case.exact().to(case.input.dtype)
        torch.testing.assert_close(outcome[0], signal, rtol=0, atol=0, msg=f"the signal of {case}")


def named_by(codes: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The index that each switch names, and whether the map has it."""
    index, inside = torch.zeros_like(codes), (codes >= 0) & (codes < math.prod(geometry.kernel))
    for axis in range(geometry.rank):
        tap = codes // math.prod(geometry.kernel[axis + 1 :]) % geometry.kernel[axis]
        start = torch.arange(codes.shape[2 + axis]) * geometry.stride[axis] - geometry.padding[axis]
        place = start.view(-1, *(1,) * (geometry.rank - 1 - axis)) + tap * geometry.dilation[axis]
        inside = inside & (place >= 0) & (place < geometry.size[axis])
        index = index * geometry.size[axis] + place
    return index, inside


def converted(
    host: Any, geometry: Geometry, channels_last: bool, misaligned: bool, given: Tensor, dtype: torch.dtype
) -> Tensor:
    """Indices of switches, or switches of indices, in `dtype`."""
    source = Guarded(given, channels_last, misaligned)
    result = Guarded.unwritten(tuple(given.shape), dtype, channels_last, misaligned)
    to_indices = dtype == torch.int64
    switches, indices = (source, result) if to_indices else (result, source)
    window = (geometry.size, *geometry.window)
    host.switches(switches.array, indices.array, to_indices, *window, channels_last, blocks())
    return result.tensor()


def check_switches(host: Any) -> dict[str, int]:
    counts = {"switches": 0}
    for geometry, _, channels_last in cases():
        shape = (*random_size(geometry), *geometry.pooled)
        switches = random_switches(shape, geometry)
        convert = functools.partial(converted, host, geometry, channels_last, random.random() < 0.3)
        indices = convert(switches, torch.int64)
        named, inside = named_by(switches.long(), geometry)
        expected = torch.where(inside, named, 0)
        assert_same_bits(indices, expected, f"indices {geometry} {channels_last=}")
        back = convert(indices, switches.dtype)
        assert torch.equal(back[inside], switches[inside]), f"switches {geometry} {channels_last=}"

        wild = torch.randint(-(2**63), 2**63 - 1, shape)
        near = torch.randint(-2, math.prod(geometry.size) + 2, shape)
        given = torch.where(torch.rand(shape) < 0.2, wild, near)
        none = 255 if switches.dtype == torch.uint8 else -1
        expected = torch.full(shape, none)
        for code in range(math.prod(geometry.kernel)):
            named, inside = named_by(torch.full(shape, code), geometry)
            expected = torch.where(inside & (named == given), code, expected)
        assert_same_bits(convert(given, switches.dtype), expected.to(switches.dtype), f"wild {geometry}")
        counts["switches"] += 1
    return counts


def check_numbers(host: Any) -> dict[str, int]:
    numerators = torch.cat(
        [torch.randint(0, 2**63 - 1, (500,)) >> torch.randint(0, 63, (500,)), torch.tensor([0, 1, 2**63 - 1])]
    ).numpy()
    divisors = [1, 2, 3, 7, 2**31 - 1, 2**32 + 1, 2**62, 2**63 - 1] + [random.randrange(1, 2**62) for _ in range(50)]
    for divisor in divisors:
        quotients, remainders = np.empty_like(numerators), np.empty_like(numerators)
        host.divide(numerators, divisor, quotients, remainders)
        np.testing.assert_array_equal(quotients, numerators // divisor)
        np.testing.assert_array_equal(remainders, numerators % divisor)

    values = torch.randn(50_000) * 2.0 ** torch.randint(-30, 20, (50_000,))
    edges = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65504, 65519.99, 65520, 2**-24, 2**-25, 2**-14 * 0.9999]
    values = torch.cat([values, torch.tensor(edges)])
    for dtype in (torch.float16, torch.bfloat16):
        bits, back = np.empty(len(values), np.uint16), np.empty(len(values), np.float32)
        host.round_trip(name_of(dtype), values.numpy(), bits, back)
        assert_same_bits(torch.from_numpy(bits).view(dtype), values.to(dtype), f"rounding to {dtype}")
        assert_same_bits(torch.from_numpy(back), values.to(dtype).float(), f"float32 of {dtype}")
    return {"divisors": len(divisors), "roundings": 2 * len(values)}


def check_lanes(host: Any) -> dict[str, int]:
    """Aligned data takes 16 bytes a step and nothing else does: seen in the number of threads with work."""
    counts = {"lanes": 0}

    def threads(dtype: torch.dtype, shape: tuple[int, ...], kernel: int, channels_last: bool, misaligned: bool) -> int:
        geometry = Geometry(shape[2:], (kernel, kernel), (2, 2))  # type: ignore[arg-type]
        output, indices = aten_pool(torch.randn(shape).to(dtype), geometry, None, False)
        results = [
            Guarded.unwritten(tuple(output.shape), kind, channels_last, misaligned) for kind in (dtype, torch.uint8)
        ]
        source = Guarded(torch.randn(shape).to(dtype), channels_last, misaligned)
        arrays = [source.array, None, results[0].array, results[1].array]
        counts["lanes"] += 1
        return host.max_pool(name_of(dtype), *arrays, *geometry.window, False, channels_last, "automatic", 0)

    for dtype, lanes in LANES.items():
        assert threads(dtype, (2, 3, 8, 32), 2, False, False) == 2 * 3 * 2 * (32 // lanes)
        assert threads(dtype, (2, 3, 8, 32), 2, False, True) == 2 * 3 * 1 * 16
        assert threads(dtype, (2, 16, 8, 8), 2, True, False) == 2 * 4 * 4 * (16 // lanes)
        assert threads(dtype, (2, 16, 9, 9), 3, True, False) == 2 * 2 * 4 * (16 // lanes)
        assert threads(dtype, (2, 16, 9, 9), 3, True, True) == 2 * 4 * 4 * 16
        assert threads(dtype, (2, 9, 9, 9), 3, True, False) == 2 * 4 * 4 * 9
        assert threads(dtype, (2, 9, 9, 9), 3, False, False) == 2 * 9 * 1 * 4
    return counts


def overflow(host: Any) -> dict[str, int]:
    """A result that is a little longer than its memory, so that in any order the first access lies just behind it."""
    short = np.zeros((1, 1, 2, 2), np.float32)
    long = np.lib.stride_tricks.as_strided(short, (1, 1, 2, 4), (32, 32, 16, 4))
    host.max_pool(
        "float32", np.zeros((1, 1, 4, 8), np.float32), None, long, np.zeros((1, 1, 2, 4), np.uint8),
        (2, 2), (2, 2), (0, 0), (1, 1), False, False, "general", 0,
    )  # fmt: skip
    return {}


# Kernel, stride and dilation of a convolution, its groups, and channels of a group: of the signal and the result.
DEEP_CONVOLUTIONS = (
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), 1, (5, 64)),
    ((2, 3, 3), (1, 1, 1), (3, 1, 1), 2, (3, 64)),
    ((3, 3, 3), (2, 1, 1), (1, 1, 1), 1, (4, 64)),
    ((3, 2, 1), (2, 3, 1), (3, 2, 1), 3, (2, 7)),
    ((1, 4, 2), (2, 1, 2), (1, 1, 1), 1, (9, 8)),
)
DEEP_POOLINGS = (
    None,
    Pooling((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    Pooling((1, 2, 2), (1, 2, 2), (0, 0, 0), (1, 1, 1)),
    Pooling((3, 2, 3), (2, 1, 2), (0, 0, 0), (1, 2, 1)),
)


def run_backproject3d(
    host: Any, tensors: tuple[Any, ...], geometry: Backprojected, channels_last: bool, path: str
) -> Tensor | None:
    """What a kernel makes of windows, by the arguments of the op; None if it cannot."""
    input, weight, image, origin, switches = tensors

    def laid_out(maps: Tensor) -> np.ndarray:
        return (maps.movedim(1, -1) if channels_last else maps).contiguous().numpy()

    outputs = geometry.groups * weight.shape[1]
    out = laid_out(torch.full((len(input), outputs, *geometry.size), 77.0, dtype=input.dtype))
    arrays = laid_out(input), weight.permute(2, 3, 4, 0, 1).contiguous().numpy(), image.numpy(), origin.numpy()
    try:
        host.backproject(
            name_of(input.dtype),
            *(*arrays, None if switches is None else laid_out(switches), out),
            *(*geometry[:8], geometry.begin, geometry.base, geometry.map_size, channels_last),
            *(path, blocks()),
        )
    except ValueError as error:
        assert "this path cannot" in str(error) and path == "patches", error
        return None
    return torch.from_numpy(out).movedim(-1, 1) if channels_last else torch.from_numpy(out)


def check_backproject3d(host: Any) -> dict[str, int]:
    """Small whole numbers, whose sums are exact in any order; each time a unit by itself has to give the same."""
    counts: collections.Counter[str] = collections.Counter()
    calls = itertools.product(DEEP_CONVOLUTIONS, DEEP_POOLINGS, (False, True))
    for (kernel, stride, dilation, groups, channels), pooling, channels_last in calls:
        dtype, units, inputs = random.choice((torch.float32, torch.float64, torch.float16)), 3, groups * channels[0]
        size = tuple(random.randint(1, 3) for _ in range(3))
        input = torch.randint(-3, 4, (units, inputs, *size)).to(dtype)
        weight = torch.randint(-3, 4, (inputs, channels[1], *kernel)).to(dtype)
        image, origin = torch.randint(0, 2, (units,)), torch.randint(-2, 4, (units, 3))
        switches, window = None, Pooling.one_position(3)
        if pooling is not None:
            maps = (2, inputs, *(random.randint(1, 4) for _ in range(3)))
            window, switches = pooling, torch.randint(0, pooling.taps() + 1, maps).to(torch.uint8)
        full = Pooling(kernel, stride, (0, 0, 0), dilation).unpooled_size(window.unpooled_size(size))
        placement = Placement(
            begin=tuple(random.randint(0, length) for length in full),
            size=tuple(random.randint(1, length + 1) for length in full),
            base=tuple(random.randint(-4, 4) for _ in range(3)),
            map_size=random.choice(((-1,) * 3, tuple(random.randint(1, 9) for _ in range(3)))),
        )
        convolution = ForwardConvolution(stride, dilation, groups)
        geometry = Backprojected.of(
            window, random.choice(("sum", "last")), random.random() < 0.5, convolution, placement
        )
        exact = reference.backproject(input.double(), weight.double(), image, origin, switches, None, geometry)
        for path in ("tiles", "patches"):
            what = f"{path}, {kernel} {geometry} channels {channels}, channels_last {channels_last}"
            actual = run_backproject3d(host, (input, weight, image, origin, switches), geometry, channels_last, path)
            if actual is None:
                continue
            counts[path] += 1
            assert_same_bits(actual + 0, exact.to(dtype) + 0, what)
            unit = slice(random.randrange(units), None)
            rest = (input[unit], weight, image[unit], origin[unit], switches)
            alone = run_backproject3d(host, rest, geometry, channels_last, path)
            assert alone is not None
            assert_same_bits(alone, actual[unit], f"units from {unit.start} on by themselves, {what}")
    return counts


CHECKS = {
    "backproject2d": check_backproject2d,
    "backproject3d": check_backproject3d,
    "max_pool": check_max_pool,
    "max_unpool": check_max_unpool,
    "max_unpool_window": check_max_unpool_window,
    "switches": check_switches,
    "numbers": check_numbers,
    "lanes": check_lanes,
    "barriers": check_barriers,
    "overflow": overflow,
}


@pytest.fixture(scope="module")
def host_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `_host`, built with both sanitizers."""
    pybind11 = pytest.importorskip("pybind11", reason="the module that runs the kernels needs pybind11")
    if compiler() is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("host")
    module = folder / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-std=c++20", "-O0", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unknown-pragmas", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    includes = [f"-I{ROOT / 'csrc'}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    subprocess.run([str(compiler()), *flags, *includes, ROOT / "csrc/host/module.cpp", "-o", module], check=True)
    return folder


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX") or "g++")


@functools.cache
def shared_memory_of(folder: Path) -> list[tuple[int, int]]:
    """Where `_host` has the shared memory of kernels, which are static variables there: offset and bytes of each."""
    (module,) = folder.glob("_host*")
    symbols = subprocess.run(["nm", "-S", "--defined-only", module], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^(\w+) (\w+) \w _ZZN14deconv_kernels4cuda\d+backproject_\w+$", symbols, re.MULTILINE)
    assert found, "no kernel has shared memory"
    return [(int(offset, 16), int(size, 16)) for offset, size in found]


def library_of(name: str) -> str:
    command = [str(compiler()), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def start(folder: Path, check: str, seed: int) -> subprocess.CompletedProcess[str]:
    # AddressSanitizer finds the functions it wraps when it starts, so the C++ library has to be there by then.
    libraries = [library_of(name) for name in ("libasan.so", "libstdc++.so.6")]
    environment = os.environ | {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, __file__, str(folder), check, str(seed), json.dumps(shared_memory_of(folder))]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "overflow"])
def test_kernels_under_sanitizers(host_module: Path, check: str, seed: int) -> None:
    result = start(host_module, check, seed)
    print(result.stdout)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-6000:]}"
    counts = dict(line.split() for line in result.stdout.splitlines())
    if check == "backproject2d":
        assert set(counts) == {"automatic", "tiles", "patches", "shared"}, "not every kernel ran"
    if check == "backproject3d":
        assert set(counts) == {"tiles", "patches"}, "not every kernel ran"
    if check in ("max_pool", "max_unpool"):
        assert set(counts) == set(PATHS), "not every kernel ran"
    if check == "max_unpool_window":
        assert set(counts) == {"automatic", "columns", "general"}, "not every kernel ran"
    assert all(int(count) > 0 for count in counts.values())


def test_sanitizers_see_an_overflow(host_module: Path, seed: int) -> None:
    result = start(host_module, "overflow", seed)
    assert result.returncode != 0
    assert "AddressSanitizer" in result.stderr and "buffer-overflow" in result.stderr, result.stderr[-2000:]


def set_schedule(host: Any, missing_barrier: int = 0) -> None:
    """Lets blocks and threads run in another order from here on, with other bytes in shared memory before every block.

    Args:
        host: the module.
        missing_barrier: the line in which there is one at which no thread waits; 0 for none.
    """
    host.set_schedule(random.getrandbits(63), SHARED_MEMORY, missing_barrier)


def main(folder: str, check: str, seed: str, shared_memory: str) -> None:
    random.seed(int(seed))
    torch.manual_seed(int(seed))
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    SHARED_MEMORY.extend(json.loads(shared_memory))
    host = importlib.import_module("_host")
    set_schedule(host)
    for name, count in CHECKS[check](host).items():
        print(name, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
