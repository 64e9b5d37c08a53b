"""The ops on a GPU: what is measured of them, and small calls of every kind that check their results.

Part of `make gpu-check`; `gpu_stages.py` runs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import deconv_kernels as dk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from tolerances import RELATIVE, TF32, assert_close

DEVICE = "cuda"
BACKENDS = ("cuda", "triton")
PRECISIONS = ("float32", "tf32", "bfloat16")
ROUNDS = 30
WARM_UP = 3
BACKPROJECTION_ROUNDS = 12
MULTIPLICATIONS = 4e10  # of one measured backprojection, zeros included
MOST_UNITS = 10_000
SMALLEST = 256 * 2**20  # bytes of the larger tensor of a measurement, several times any L2 cache
FLUSH = 512 * 2**20  # bytes
SLEEP = 1_000_000  # cycles: more than the CPU takes to queue a call
SEED = 0

Outcome = dict[str, Any]


# Measurements


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure: an op at a geometry, in a layout and a dtype."""

    op: str
    channels: int
    size: tuple[int, int]
    kernel: int
    stride: int
    channels_last: bool
    dtype: torch.dtype

    @property
    def name(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.op} k{self.kernel}s{self.stride} {layout} {str(self.dtype).removeprefix('torch.')}"


def cases() -> list[Case]:
    """Pooling, unpooling and the conversions at the shapes of VGG16 (2x2, stride 2) and AlexNet (3x3, stride 2)."""
    geometries = [(64, (112, 112), 2, 2), (96, (55, 55), 3, 2)]
    found = [
        Case(op, channels, size, kernel, stride, channels_last, dtype)
        for op in ("max_pool2d", "max_unpool2d", "max_unpool2d_window")
        for channels, size, kernel, stride in geometries
        for dtype in (torch.float32, torch.bfloat16)
        for channels_last in (False, True)
    ]
    conversions = ("switches_to_indices", "indices_to_switches")
    return found + [Case(op, 64, (112, 112), 2, 2, False, torch.float32) for op in conversions]


@dataclasses.dataclass
class Prepared:
    """What a case runs: our op, the baselines that do the same, the bytes our op has to move, and its check."""

    ours: Callable[[], Any]
    baselines: dict[str, Callable[[], Any]]
    bytes_moved: int
    check: Callable[[Any], None]


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def assert_same(actual: Any, expected: Any) -> None:
    """Asserts equal values, a NaN equal to a NaN, for tensors or tuples of them."""
    pairs = zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def prepare(case: Case) -> Prepared:
    """Allocates the tensors of a case on the GPU.

    The check compares the first and the last image with the reference implementation, which works on small tensors.
    """
    image = case.channels * case.size[0] * case.size[1] * case.dtype.itemsize
    batch = SMALLEST // image + 1
    torch.manual_seed(SEED)
    x = torch.randn(batch, case.channels, *case.size, device=DEVICE, dtype=case.dtype)
    x = x.to(memory_format=torch.channels_last) if case.channels_last else x
    window = (case.kernel, case.stride)
    y, switches = dk.max_pool2d(x, *window)
    ends = torch.tensor([0, batch - 1], device=DEVICE)

    def check_with(op: Callable[..., Any], *tensors: Tensor) -> Callable[[Any], None]:
        def check(result: Any) -> None:
            with dk.backends.use("reference"):
                expected = op(*(tensor[ends] for tensor in tensors))
            assert_same(tuple(r[ends] for r in result) if isinstance(result, tuple) else result[ends], expected)

        return check

    if case.op == "max_pool2d":

        def pool(input: Tensor) -> tuple[Tensor, Tensor]:
            return dk.max_pool2d(input, *window, relu=True)

        aten = {"ATen": lambda: F.max_pool2d(F.relu(x), *window, return_indices=True)}
        return Prepared(lambda: pool(x), aten, size_of(x, y, switches), check_with(pool, x))

    if case.op == "max_unpool2d":
        indices = F.max_pool2d(x, *window, return_indices=True)[1]

        def unpool(input: Tensor, codes: Tensor) -> Tensor:
            return dk.max_unpool2d(input, codes, *window, output_size=case.size, relu=True)

        def backward() -> Tensor:
            arguments = ([case.kernel] * 2, [case.stride] * 2, [0, 0], [1, 1], False, indices)
            return F.relu(torch.ops.aten.max_pool2d_with_indices_backward(y, x, *arguments))

        baselines: dict[str, Callable[[], Any]] = {"ATen backward": backward}
        if case.kernel <= case.stride:
            baselines["ATen max_unpool2d"] = lambda: F.relu(F.max_unpool2d(y, indices, *window, output_size=case.size))
        return Prepared(
            lambda: unpool(y, switches), baselines, size_of(x, y, switches), check_with(unpool, y, switches)
        )

    if case.op == "max_unpool2d_window":
        del x, y
        height, width = 14, 14
        output = case.channels * ((height - 1) * case.stride + case.kernel) ** 2 * case.dtype.itemsize
        units = SMALLEST // output + 1
        values = torch.randn(units, case.channels, height, width, device=DEVICE, dtype=case.dtype)
        values = values.to(memory_format=torch.channels_last) if case.channels_last else values
        images = torch.randint(0, batch, (units,), device=DEVICE)
        origins = torch.randint(-4, switches.shape[-1] - 10, (units, 2), device=DEVICE)
        last = torch.tensor([0, units - 1], device=DEVICE)

        def unpool_windows(values: Tensor, images: Tensor, origins: Tensor) -> Tensor:
            return dk.max_unpool2d_window(values, switches, images, origins, *window, relu=True)[0]

        def check_windows(result: Tensor) -> None:
            with dk.backends.use("reference"):
                expected = unpool_windows(values[last], images[last], origins[last])
            assert_same(result[last], expected)

        moved = size_of(values) + values.numel() + units * output
        return Prepared(lambda: unpool_windows(values, images, origins), {}, moved, check_windows)

    def to_indices(codes: Tensor) -> Tensor:
        return dk.switches_to_indices(codes, case.size, *window)

    def to_switches(indices: Tensor) -> Tensor:
        return dk.indices_to_switches(indices, case.size, *window)

    if case.op == "switches_to_indices":
        return Prepared(lambda: to_indices(switches), {}, 9 * switches.numel(), check_with(to_indices, switches))
    indices = to_indices(switches)
    return Prepared(lambda: to_switches(indices), {}, 9 * switches.numel(), check_with(to_switches, indices))


def interleaved_medians(runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """The median time of each callable in seconds, by CUDA events, all of them taken in turn in every round.

    A name of BACKENDS runs with that backend forced. Before each run a large buffer is read, which empties the L2
    cache, and the GPU sleeps until the run is queued, so that no time of the CPU is counted.
    """
    flush = torch.zeros(FLUSH // 4, device=DEVICE)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(WARM_UP + rounds):
        for name, run in runs.items():
            with forced(name):
                flush.sum()
                torch.cuda._sleep(SLEEP)
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                run()
                end.record()
                end.synchronize()
            if round_number >= WARM_UP:
                times[name].append(begin.elapsed_time(end) / 1e3)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def forced(name: str) -> contextlib.AbstractContextManager[None]:
    """Forces the backend of that name, if it is one."""
    return dk.backends.use(name) if name in BACKENDS else contextlib.nullcontext()


def that_are_right(
    prepare: Callable[[str], Callable[[], Any]], check: Callable[[Any], None]
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """What to run on every backend whose result passes the check, and of the others, why not."""
    right: dict[str, Callable[[], Any]] = {}
    wrong: dict[str, str] = {}
    for backend in BACKENDS:
        if reason := dk.backends.why_not(backend):
            wrong[backend] = reason
            continue
        try:
            with forced(backend):
                run = prepare(backend)
                check(run())
            right[backend] = run
        except Exception as error:  # the other backend is still measured
            wrong[backend] = f"{type(error).__name__}: {error}"[:1000]
    if not right:
        raise RuntimeError("; ".join(f"{backend}: {reason}" for backend, reason in wrong.items()))
    return right, wrong


def measure(case: Case) -> Outcome:
    """Checks every backend on a case and then times it, the baselines and a copy of as many bytes.

    Returns:
        Seconds of each, and for our backends the share of the copy's bandwidth; of a backend that cannot run, or gives
        a wrong result, why it was not timed.
    """
    prepared = prepare(case)
    ours, not_run = that_are_right(lambda backend: prepared.ours, prepared.check)
    source = torch.empty(prepared.bytes_moved // 2, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    runs = {**ours, **prepared.baselines, "copy": lambda: target.copy_(source)}
    seconds = interleaved_medians(runs)
    share = {backend: seconds["copy"] / seconds[backend] for backend in ours}
    speedup = {
        baseline: {backend: seconds[baseline] / seconds[backend] for backend in ours} for baseline in prepared.baselines
    }
    return {
        "case": case.name,
        "bytes": prepared.bytes_moved,
        "seconds": seconds,
        "copy_bytes_per_second": prepared.bytes_moved / seconds["copy"],
        "share_of_copy": share,
        "speedup_over": speedup,
        "not_run": not_run,
    }


# Backprojection


@dataclasses.dataclass(frozen=True)
class Backprojection:
    """A 3x3 convolution of VGG16, backwards, on windows of one size; after the unpooling of a 2x2 pool, or without."""

    layer: str
    channels: int
    features: int
    window: int
    pooled: bool
    precision: str  # "float32", "tf32" or "bfloat16"

    @property
    def name(self) -> str:
        signal = f"{2 * self.window}x{2 * self.window} from " if self.pooled else ""
        return f"{self.layer} {self.channels}->{self.features} {signal}{self.window}x{self.window} {self.precision}"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def units(self) -> int:
        """As many as give the matrix units work for a while."""
        positions = (2 * self.window if self.pooled else self.window) ** 2
        return min(MOST_UNITS, max(16, int(MULTIPLICATIONS / (9 * positions * self.channels * self.features))))

    @property
    def tolerance(self) -> torch.dtype | str:
        """The row of the tolerances that applies."""
        return TF32 if self.precision == "tf32" else self.dtype


def backprojections() -> list[Backprojection]:
    """Every layer of VGG16 below a pool, at windows of conv5_3 and of units just above the pool; and some others.

    What decides comes first, in case time runs out.
    """
    after_a_pool = [("conv4_3", 512, 512, 7), ("conv3_3", 256, 256, 20), ("conv2_2", 128, 128, 46)]
    after_a_pool += [("conv1_2", 64, 64, 96)]
    small = [(layer, channels, features, 3) for layer, channels, features, _ in after_a_pool]
    rectified = [
        ("conv5_3", 512, 512, 3),
        ("conv4_1", 512, 256, 18),
        ("conv3_2", 256, 256, 5),
        ("conv2_1", 128, 64, 94),
    ]
    groups = ((after_a_pool, True), ([("conv1_1", 64, 3, 194)], False), (small, True), (rectified, False))
    return [
        Backprojection(*shape, pooled, precision)
        for shapes, pooled in groups
        for precision in PRECISIONS
        for shape in shapes
    ]


def backproject(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    pool: tuple[int, int] = (2, 2),
    stride: int = 1,
    groups: int = 1,
    overlap: str = "sum",
    map_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """The op behind the checks, on the backend in force: rectified windows, the whole result."""
    kernel, step = pool if switches is not None else (1, 1)
    signal = [(length - 1) * step + kernel for length in input.shape[2:]]
    size = [(length - 1) * stride + taps for length, taps in zip(signal, weight.shape[2:], strict=True)]
    pooling = ([kernel, kernel], [step, step], [1, 1])
    convolution = ([stride, stride], [1, 1], groups)
    op = dk.backends.operator("backproject2d", input)
    tensors = (input, weight, image, origin, switches, packed)
    return op(*tensors, *pooling, overlap, True, *convolution, [0, 0], size, [0, 0], list(map_size))


def rounding(precision: str) -> contextlib.AbstractContextManager[None]:
    """Whether convolutions use TF32, which cuDNN and our Triton kernel obey: for "tf32" alone."""
    return dk.backends.float32_precision("tf32" if precision == "tf32" else "ieee")


def _tensors(case: Backprojection, units: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Random windows, weight, images, origins and, after a pool, switches."""
    shape = (units, case.channels, case.window, case.window)
    input = torch.randn(shape, device=DEVICE, dtype=case.dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(case.channels, case.features, 3, 3, device=DEVICE, dtype=case.dtype)
    image = torch.randint(0, 4, (units,), device=DEVICE)
    origin = torch.randint(0, 8, (units, 2), device=DEVICE)
    if not case.pooled:
        return input, weight, image, origin, None
    codes = torch.randint(0, 4, (4, case.channels, *[case.window + 8] * 2), device=DEVICE, dtype=torch.uint8)
    return input, weight, image, origin, codes.to(memory_format=torch.channels_last)


def measure_backprojection(case: Backprojection) -> Outcome:
    """Checks both backends on a case and then times them, and unpooling, rectifier and cuDNN as separate calls.

    Returns:
        Seconds of each, and how many times faster ours are than the faster layout of the separate calls; of a backend
        that cannot run, or gives a wrong result, why it was not timed.
    """
    with rounding(case.precision):
        return _measure_backprojection(case)


def _measure_backprojection(case: Backprojection) -> Outcome:
    torch.manual_seed(SEED)
    torch.backends.cudnn.benchmark = True
    input, weight, image, origin, switches = _tensors(case, case.units)

    def separate(memory_format: torch.memory_format) -> Callable[[], Tensor]:
        values, factor = input.contiguous(memory_format=memory_format), weight.contiguous(memory_format=memory_format)
        codes = None if switches is None else switches.contiguous(memory_format=memory_format)

        def run() -> Tensor:
            signal = values
            if codes is not None:
                op = torch.ops.deconv_kernels.max_unpool2d_window
                signal = op(values, codes, image, origin, [2, 2], [2, 2], [1, 1], "sum", False)
            return F.conv_transpose2d(F.relu(signal), factor)

        return run

    def ours(backend: str) -> Callable[[], Tensor]:
        packed = dk.backends.operator("pack_weight", weight)(weight, [1, 1], [1, 1], 1)
        return lambda: backproject(input, weight, image, origin, switches, packed)

    ends = torch.tensor([0, case.units - 1], device=DEVICE)
    with dk.backends.use("reference"):
        few = (input[ends].double(), weight.double(), image[ends], origin[ends])
        exact = backproject(*few, switches, None)

    def check(result: Tensor) -> None:
        assert result.dtype == case.dtype
        error = (result[ends].double() - exact).abs().max() / exact.abs().max()
        assert error <= RELATIVE[case.tolerance], f"relative error {error.item():g}"

    available, not_run = that_are_right(ours, check)
    baselines = {
        "separate, contiguous": separate(torch.contiguous_format),
        "separate, channels_last": separate(torch.channels_last),
    }
    seconds = interleaved_medians({**available, **baselines}, BACKPROJECTION_ROUNDS)
    best = min(seconds[name] for name in baselines)
    return {
        "case": case.name,
        "units": case.units,
        "seconds": seconds,
        "speedup_over": {"the faster separate": {backend: best / seconds[backend] for backend in available}},
        "not_run": not_run,
    }


def profiled_calls() -> Iterator[tuple[str, Callable[[], None]]]:
    """The layers that decide, once on each backend and in each precision, with few units."""
    layers = ("conv1_2", "conv3_3", "conv1_1")
    for case in backprojections():
        if case.layer in layers and case.window > 3:
            for backend in BACKENDS:
                yield f"{case.name} on {backend}", functools.partial(_launch, case, backend)


def _launch(case: Backprojection, backend: str) -> None:
    with rounding(case.precision), forced(backend):
        tensors = _tensors(case, units=64)
        backproject(*tensors, None)


# Small calls of everything, which the sanitizers watch too


def exercises(backend: str, trimmed: bool = False) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every op of a backend on small tensors, its results checked: names, and what to call.

    Args:
        backend: "cuda" or "triton".
        trimmed: only as much as sees every kind of access once, for tools that slow everything down.
    """
    geometries = [
        ((8, 16), (2, 2, 0, 1)),
        ((9, 13), (3, 2, 1, 1)),
        ((7, 9), (2, 2, 1, 1)),
        ((9, 11), (3, 1, 1, 2)),
    ]
    geometries = geometries[:2] if trimmed else geometries
    for dtype in (torch.float32, torch.bfloat16):
        for channels_last in (False, True):
            layout = "channels_last" if channels_last else "contiguous"
            kind = f"{backend} {str(dtype).removeprefix('torch.')} {layout}"
            for channels in (8,) if trimmed else (3, 8):
                yield (
                    f"pooling and unpooling, {channels} channels, {kind}",
                    functools.partial(exercise_pooling, backend, dtype, channels_last, channels, geometries),
                )
            yield f"backproject2d, {kind}", functools.partial(exercise_backprojection, backend, dtype, channels_last)
    yield f"windows of no image, {backend}", functools.partial(lost_windows, backend)


def exercise_pooling(
    backend: str,
    dtype: torch.dtype,
    channels_last: bool,
    channels: int,
    geometries: list[tuple[tuple[int, int], tuple[int, int, int, int]]],
) -> None:
    """Pools, unpools and converts, and compares every bit with the reference."""
    torch.manual_seed(SEED)
    for size, window in geometries:
        x = torch.randn(2, channels, *size, dtype=dtype)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        expected = results_of(x, window, "reference")
        assert_same(tuple(r.cpu() for r in results_of(x.to(DEVICE), window, backend)), expected)


def results_of(x: Tensor, window: tuple[int, int, int, int], backend: str) -> tuple[Tensor, ...]:
    """What the five ops give for one input."""
    image = torch.tensor([1, 0, 1], device=x.device)
    origin = torch.tensor([[0, 0], [-1, 1], [2, -2]], device=x.device)
    size = tuple(x.shape[-2:])
    with dk.backends.use(backend):
        y, switches = dk.max_pool2d(x, *window, relu=True)
        out = dk.max_unpool2d(y, switches, *window, output_size=size)
        indices = dk.switches_to_indices(switches, size, *window)
        back = dk.indices_to_switches(indices, size, *window)
        windows, _ = dk.max_unpool2d_window(y[[0, 1, 0], :, :2, :3], switches, image, origin, *window)
        return y, switches, out, indices, back, windows


def exercise_backprojection(backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Sends small windows back, at once and from a CUDA graph, and compares with the reference in float64."""
    torch.manual_seed(SEED)
    calls: list[tuple[int, int, Outcome]] = [
        (3, 64, {"pool": (2, 2), "map_size": (12, 9)}),
        (5, 8, {"pool": (3, 2), "overlap": "last"}),
        (7, 8, {"pool": None, "stride": 2, "groups": 2}),
    ]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for taps, features, options in calls:
        groups, pool = options.get("groups", 1), options.pop("pool")
        input = torch.randn(3, 16, 2, 3, dtype=dtype).to(memory_format=memory_format)
        weight = torch.randn(16, features, taps, taps, dtype=dtype)
        image, origin = torch.tensor([1, 0, 1]), torch.tensor([[0, 0], [-1, 1], [2, -2]])
        switches = None
        if pool is not None:
            switches = torch.randint(0, pool[0] ** 2, (2, 16, 5, 5), dtype=torch.uint8)
            switches, options["pool"] = switches.to(memory_format=memory_format), pool
        with dk.backends.use("reference"):
            exact = backproject(input.double(), weight.double(), image, origin, switches, None, **options)
        codes = None if switches is None else switches.to(DEVICE)
        tensors = (input.to(DEVICE), weight.to(DEVICE), image.to(DEVICE), origin.to(DEVICE), codes, None)
        what = f"{taps}x{taps} {options} groups {groups}"
        run = functools.partial(backproject, *tensors, **options)
        with forced(backend), rounding("float32"):
            assert_close(run(), exact, what)
            if "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ:  # a capture cannot allocate without the cache
                assert_close(replayed(run), exact, f"from a graph, {what}")


def replayed(run: Callable[[], Tensor]) -> Tensor:
    """What `run` computes when it is replayed from a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    result.fill_(torch.nan)
    graph.replay()
    return result


def lost_windows(backend: str) -> None:
    """Images and origins that do not exist must give zeros and read nothing; asked of the ops behind the checks."""
    values = torch.ones(4, 8, 2, 3, device=DEVICE)
    switches = torch.zeros(2, 8, 4, 4, dtype=torch.uint8, device=DEVICE)
    image = torch.tensor([-1, 2, 0, 1], device=DEVICE)
    origin = torch.tensor([[0, 0], [0, 0], [-(2**63), 0], [0, 2**63 - 1]], device=DEVICE)
    weight = torch.ones(8, 8, 3, 3, device=DEVICE)
    with forced(backend):
        unpool = dk.backends.operator("max_unpool2d_window", values)
        assert not unpool(values, switches, image, origin, [2, 2], [2, 2], [1, 1], "sum", False).any()
        assert not backproject(values, weight, image, origin, switches, None).any()
