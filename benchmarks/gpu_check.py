"""`make gpu-check`: builds the package on a machine with a GPU, tests it there, and measures it.

Needs no network and no environment, only what such a machine has: a Python with torch, Triton and pytest, and nvcc.
Every stage runs in a process of its own under a time limit; all of them together take at most nine minutes. The
outcome, a stage that could not run included, goes to `benchmarks/results/<card>.json`, which is rewritten after every
stage. The exit code is 0 only if every stage passed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from tolerances import RELATIVE, assert_close

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TOTAL_LIMIT = 530.0  # seconds
LIMITS = {
    "build": 120.0,
    "exercise": 110.0,
    "benchmarks": 80.0,
    "backprojections": 130.0,
    "memcheck": 60.0,
    "racecheck": 60.0,
    "tests": 240.0,
}
BACKENDS = ("cuda", "triton")
GRACE = 10.0  # seconds of a limit that are kept for a process to end by itself
ROUNDS = 30
WARM_UP = 3
BACKPROJECTION_ROUNDS = 12
MULTIPLICATIONS = 4e10  # of one measured backprojection, zeros included
MOST_UNITS = 10_000
SMALLEST = 256 * 2**20  # bytes of the larger tensor of a measurement, several times any L2 cache
FLUSH = 512 * 2**20  # bytes
SANITIZER_FOUND = 99
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
    import deconv_kernels as dk

    image = case.channels * case.size[0] * case.size[1] * case.dtype.itemsize
    batch = SMALLEST // image + 1
    torch.manual_seed(SEED)
    x = torch.randn(batch, case.channels, *case.size, device="cuda", dtype=case.dtype)
    x = x.to(memory_format=torch.channels_last) if case.channels_last else x
    window = (case.kernel, case.stride)
    y, switches = dk.max_pool2d(x, *window)
    ends = torch.tensor([0, batch - 1], device="cuda")

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
        values = torch.randn(units, case.channels, height, width, device="cuda", dtype=case.dtype)
        values = values.to(memory_format=torch.channels_last) if case.channels_last else values
        images = torch.randint(0, batch, (units,), device="cuda")
        origins = torch.randint(-4, switches.shape[-1] - 10, (units, 2), device="cuda")
        last = torch.tensor([0, units - 1], device="cuda")

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
    cache and keeps the GPU busy until the run is queued, so that no time of the CPU is counted.
    """
    flush = torch.zeros(FLUSH // 4, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(WARM_UP + rounds):
        for name, run in runs.items():
            with forced(name):
                flush.sum()
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
    import deconv_kernels as dk

    return dk.backends.use(name) if name in BACKENDS else contextlib.nullcontext()


def measure(case: Case) -> Outcome:
    """Checks every backend on a case and then times it, the baselines and a copy of as many bytes.

    Returns:
        Seconds of each, and for our backends the share of the copy's bandwidth.

    Raises:
        AssertionError: a backend gives a wrong result; nothing is timed then.
    """
    import deconv_kernels as dk

    prepared = prepare(case)

    ours = {backend: prepared.ours for backend in BACKENDS if dk.backends.why_not(backend) is None}
    for backend, run in ours.items():
        with forced(backend):
            result = run()
        prepared.check(result)
        del result
    source = torch.empty(prepared.bytes_moved // 2, dtype=torch.uint8, device="cuda").random_()
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
        "not_run": {b: dk.backends.why_not(b) for b in BACKENDS if b not in ours},
    }


def run_benchmarks(kind: str, output: Path, limit: float) -> bool:
    """Measures every case of a kind, rewriting `output` after each; what does not fit into `limit` seconds says so."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    measured: list[tuple[Any, Callable[[Any], Outcome]]] = (
        [(case, measure) for case in cases()]
        if kind == "benchmarks"
        else [(case, measure_backprojection) for case in backprojections()]
    )
    for case, measure_case in measured:
        if time.monotonic() - began > limit:
            outcomes.append({"case": case.name, "error": "not run: no time left"})
        else:
            try:
                outcomes.append(measure_case(case))
            except Exception as error:  # a wrong or failing kernel is reported, and the others are still measured
                outcomes.append({"case": case.name, "error": f"{type(error).__name__}: {error}"[:1000]})
        torch.cuda.empty_cache()
        output.write_text(json.dumps(outcomes))
        print(describe(outcomes[-1]), flush=True)
    return all("error" not in outcome and not outcome["not_run"] for outcome in outcomes)


def describe(outcome: Outcome) -> str:
    """One line about a measurement."""
    if "error" in outcome:
        return f"{outcome['case']}: {outcome['error']}"
    times = ", ".join(f"{name} {seconds * 1e6:.0f} us" for name, seconds in outcome["seconds"].items())
    shares = ", ".join(f"{name} {share:.0%}" for name, share in outcome.get("share_of_copy", {}).items())
    ratios = ", ".join(
        f"{name} {ratio:.2f}x {baseline}"
        for baseline, found in outcome["speedup_over"].items()
        for name, ratio in found.items()
    )
    return (
        f"{outcome['case']}: {times}"
        + (f"; {ratios}" if ratios else "")
        + (f"; of the copy: {shares}" if shares else "")
    )


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
    def tolerance(self) -> torch.dtype:
        """The dtype whose tolerance applies: TF32 has as many digits as float16."""
        return torch.float16 if self.precision == "tf32" else self.dtype


def backprojections() -> list[Backprojection]:
    """Every layer of VGG16 below a pool, at windows of conv5_3 and of units just above the pool; and some others.

    The layers that decide come first, in case time runs out.
    """
    after_a_pool = [
        ("conv4_3", 512, 512, 7),
        ("conv3_3", 256, 256, 20),
        ("conv2_2", 128, 128, 46),
        ("conv1_2", 64, 64, 96),
        ("conv4_3", 512, 512, 3),
        ("conv3_3", 256, 256, 3),
        ("conv2_2", 128, 128, 3),
        ("conv1_2", 64, 64, 3),
    ]
    rectified = [
        ("conv5_3", 512, 512, 3),
        ("conv4_1", 512, 256, 18),
        ("conv3_2", 256, 256, 5),
        ("conv2_1", 128, 64, 94),
        ("conv1_1", 64, 3, 194),
    ]
    return [
        Backprojection(*shape, pooled, precision)
        for shapes, pooled in ((after_a_pool, True), (rectified, False))
        for precision in ("float32", "tf32", "bfloat16")
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
    import deconv_kernels as dk

    kernel, step = pool if switches is not None else (1, 1)
    signal = [(length - 1) * step + kernel for length in input.shape[2:]]
    size = [(length - 1) * stride + taps for length, taps in zip(signal, weight.shape[2:], strict=True)]
    pooling = ([kernel, kernel], [step, step], [1, 1])
    convolution = ([stride, stride], [1, 1], groups)
    op = dk.backends.operator("backproject2d", input)
    tensors = (input, weight, image, origin, switches, packed)
    return op(*tensors, *pooling, overlap, True, *convolution, [0, 0], size, [0, 0], list(map_size))


def allow_tf32(allowed: bool) -> None:
    """Torch's setting for convolutions, which cuDNN and our Triton kernel obey."""
    torch.backends.cudnn.allow_tf32 = allowed


def measure_backprojection(case: Backprojection) -> Outcome:
    """Checks both backends on a case and then times them, and unpooling, rectifier and cuDNN as separate calls.

    Returns:
        Seconds of each, and how many times faster ours are than the faster layout of the separate calls.

    Raises:
        AssertionError: a backend gives a wrong result; nothing is timed then.
    """
    import deconv_kernels as dk

    torch.manual_seed(SEED)
    torch.backends.cudnn.benchmark = True
    allow_tf32(case.precision == "tf32")
    shape = (case.units, case.channels, case.window, case.window)
    input = torch.randn(shape, device="cuda", dtype=case.dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(case.channels, case.features, 3, 3, device="cuda", dtype=case.dtype)
    image = torch.randint(0, 4, (case.units,), device="cuda")
    origin = torch.randint(0, 8, (case.units, 2), device="cuda")
    switches = None
    if case.pooled:
        switches = torch.randint(0, 4, (4, case.channels, *[case.window + 8] * 2), device="cuda", dtype=torch.uint8)
        switches = switches.to(memory_format=torch.channels_last)

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
        with forced(backend):
            packed = dk.backends.operator("pack_weight", weight)(weight, [1, 1], [1, 1], 1)
        return lambda: backproject(input, weight, image, origin, switches, packed)

    ends = torch.tensor([0, case.units - 1], device="cuda")
    with dk.backends.use("reference"):
        few = (input[ends].double(), weight.double(), image[ends], origin[ends])
        exact = backproject(*few, switches, None)
    available = {backend: ours(backend) for backend in BACKENDS if dk.backends.why_not(backend) is None}
    for backend, run in available.items():
        with forced(backend):
            result = run()[ends]
        assert result.dtype == case.dtype
        error = (result.double() - exact).abs().max() / exact.abs().max()
        assert error <= RELATIVE[case.tolerance], f"{backend}: relative error {error.item():g}"
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
        "not_run": {b: dk.backends.why_not(b) for b in BACKENDS if b not in available},
    }


# What the sanitizers watch


def exercise() -> None:
    """Runs every op of every GPU backend on small tensors, each tensor in memory of its own, and checks the results."""
    import deconv_kernels as dk

    torch.manual_seed(SEED)
    geometries = [
        ((8, 16), (2, 2, 0, 1)),
        ((7, 9), (2, 2, 1, 1)),
        ((9, 13), (3, 2, 1, 1)),
        ((9, 11), (3, 1, 1, 2)),
    ]
    missing = [f"{backend}: {dk.backends.why_not(backend)}" for backend in BACKENDS if dk.backends.why_not(backend)]
    if missing:
        raise RuntimeError("; ".join(missing))
    for dtype in (torch.float32, torch.bfloat16):
        for channels in (3, 8):
            for channels_last in (False, True):
                for size, window in geometries:
                    x = torch.randn(2, channels, *size, dtype=dtype)
                    x = x.to(memory_format=torch.channels_last) if channels_last else x
                    expected = results_of(x, window, "reference")
                    for backend in BACKENDS:
                        assert_same(tuple(r.cpu() for r in results_of(x.cuda(), window, backend)), expected)
    lost_windows()
    for dtype in (torch.float32, torch.bfloat16):
        for channels_last in (False, True):
            exercise_backprojection(dtype, channels_last)
    torch.cuda.synchronize()


def results_of(x: Tensor, window: tuple[int, int, int, int], backend: str) -> tuple[Tensor, ...]:
    """What the five ops give for one input."""
    import deconv_kernels as dk

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


def exercise_backprojection(dtype: torch.dtype, channels_last: bool) -> None:
    """Runs backproject2d of every GPU backend on small windows and compares it with the reference in float64."""
    import deconv_kernels as dk

    allow_tf32(False)
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
        codes = None if switches is None else switches.cuda()
        tensors = (input.cuda(), weight.cuda(), image.cuda(), origin.cuda(), codes, None)
        for backend in BACKENDS:
            with forced(backend):
                what = f"{backend} {taps}x{taps} {options} groups {groups} {dtype} channels_last={channels_last}"
                run = functools.partial(backproject, *tensors, **options)
                assert_close(run(), exact, what)
                if "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ:  # a capture cannot allocate without the cache
                    assert_close(replayed(run), exact, f"graph, {what}")


def replayed(run: Callable[[], Tensor]) -> Tensor:
    """What `run` computes when it is replayed from a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    result.fill_(torch.nan)
    graph.replay()
    return result


def lost_windows() -> None:
    """Images and origins that do not exist must give zeros and read nothing; asked of the ops behind the checks."""
    values = torch.ones(4, 8, 2, 3, device="cuda")
    switches = torch.zeros(2, 8, 4, 4, dtype=torch.uint8, device="cuda")
    image = torch.tensor([-1, 2, 0, 1], device="cuda")
    origin = torch.tensor([[0, 0], [0, 0], [-(2**63), 0], [0, 2**63 - 1]], device="cuda")
    for namespace in (torch.ops.deconv_kernels, torch.ops.deconv_kernels_triton):
        result = namespace.max_unpool2d_window(values, switches, image, origin, [2, 2], [2, 2], [1, 1], "sum", False)
        assert not result.any(), "a window of no image is not zero"
    weight = torch.ones(8, 8, 3, 3, device="cuda")
    for backend in BACKENDS:
        with forced(backend):
            assert not backproject(values, weight, image, origin, switches, None).any(), (
                "a window of no image is not zero"
            )


# Stages


@dataclasses.dataclass
class Check:
    """A run of all stages, and the file that tells of it."""

    deadline: float
    path: Path
    report: dict[str, Any]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.report, indent=2) + "\n")

    def stage(self, name: str, run: Callable[[float], Outcome]) -> bool:
        """Runs a stage under its limit and records its outcome."""
        began = time.monotonic()
        limit = min(LIMITS[name], self.deadline - began)
        print(f"== {name} (at most {limit:.0f} s)", flush=True)
        outcome = run(limit) if limit > 2 * GRACE else not_run("no time left")
        self.report["stages"][name] = {**outcome, "seconds": round(time.monotonic() - began, 1)}
        self.save()
        print(f"== {name}: {outcome['status']}{': ' + outcome['reason'] if 'reason' in outcome else ''}", flush=True)
        return outcome["status"] == "passed"


def not_run(reason: str) -> Outcome:
    return {"status": "not run", "reason": reason}


def start(command: list[str], limit: float, **environment: str) -> tuple[int | None, str]:
    """Runs a command in the repository, showing its output.

    Returns:
        Its exit code, None where it ran out of time, and the end of its output.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit - GRACE)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)  # pytest then still reports what it has done
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read()
    print(text[-6000:], flush=True)
    return code, text[-2000:]


def outcome_of(code: int | None, tail: str, limit: float) -> Outcome:
    if code == 0:
        return {"status": "passed"}
    reason = f"ran out of its {limit:.0f} s" if code is None else f"exit code {code}"
    return {"status": "failed", "reason": reason, "output": tail}


def build(limit: float) -> Outcome:
    """Builds both libraries in place, the CUDA one for this card."""
    if find_nvcc() is None:
        return not_run("nvcc is not installed")
    architecture = "".join(map(str, torch.cuda.get_device_capability()))
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return outcome_of(*start(command, limit, DECONV_WITH_CUDA="1", DECONV_CUDA_ARCHS=architecture), limit)


def test(limit: float) -> Outcome:
    """Runs the tests marked `gpu`; none at all counts as a failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", "--maxfail=20"]
        if importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(min(16, os.cpu_count() or 1)), "--dist", "loadgroup"]
        code, tail = start(command, limit)
        outcome = outcome_of(code, tail, limit)
        if report.exists():
            suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
            total, failed, errors, skipped = (
                sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
            )
            passed = total - failed - errors - skipped
            outcome["counts"] = {"passed": passed, "failed": failed, "errors": errors, "skipped": skipped}
            if passed == 0 and outcome["status"] == "passed":
                outcome |= {"status": "failed", "reason": "no test ran on the GPU"}
    return outcome


def sanitize(tool: str) -> Callable[[float], Outcome]:
    """Runs `exercise` under a tool of compute-sanitizer."""

    def run(limit: float) -> Outcome:
        sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if sanitizer is None:
            return not_run("compute-sanitizer is not installed")
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND), "--target-processes", "all"]
        command += [sys.executable, __file__, "--exercise"]
        # Without the caching allocator every tensor is an allocation of its own, whose end the sanitizer knows.
        code, tail = start(command, limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        outcome = outcome_of(code, tail, limit)
        summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", tail)
        outcome["verdict"] = summary[0] if summary else "the sanitizer gave no summary"
        if summary is None and outcome["status"] == "passed":
            outcome |= {"status": "failed", "reason": outcome["verdict"]}
        return outcome

    return run


def exercise_alone(limit: float) -> Outcome:
    """Runs `exercise` by itself, which also fills Triton's cache for the sanitizers."""
    return outcome_of(*start([sys.executable, __file__, "--exercise"], limit), limit)


def benchmark(kind: str) -> Callable[[float], Outcome]:
    """Runs the measurements of a kind and keeps those that were done, whatever becomes of the rest."""

    def run(limit: float) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "benchmarks.json"
            command = [sys.executable, __file__, "--measure", kind, "--output", str(output)]
            outcome = outcome_of(*start([*command, "--limit", str(limit - 2 * GRACE)], limit), limit)
            outcome["results"] = json.loads(output.read_text()) if output.exists() else []
        return outcome

    return run


def find_nvcc() -> str | None:
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def commit() -> str:
    """The commit of the working tree, with a mark where files differ from it; "unknown" outside of a repository."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, capture_output=True).returncode != 0
    return head.stdout.strip() + (" with changes" if changed else "")


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check() -> int:
    """Runs all stages; returns the exit code."""
    if not torch.cuda.is_available():
        print("gpu-check did not run: torch finds no CUDA device", file=sys.stderr)
        return 1
    card = torch.cuda.get_device_name()
    path = RESULTS / (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json")
    report: dict[str, Any] = {
        "card": card,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stages": {},
    }
    run = Check(time.monotonic() + TOTAL_LIMIT, path, report)
    passed = [run.stage("build", build)]
    later = {
        "exercise": exercise_alone,
        "benchmarks": benchmark("benchmarks"),
        "backprojections": benchmark("backprojections"),
        "memcheck": sanitize("memcheck"),
        "racecheck": sanitize("racecheck"),
        "tests": test,
    }
    for name, stage in later.items():
        # Without a build there is still Triton to test; what it needs says so itself.
        passed.append(run.stage(name, stage))
    report["passed"] = all(passed)
    run.save()
    print(f"{'passed' if all(passed) else 'FAILED'}: {path}")
    return 0 if all(passed) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Build, test and measure on a GPU.")
    parser.add_argument("--exercise", action="store_true", help="only run what the sanitizers watch")
    parser.add_argument("--measure", choices=("benchmarks", "backprojections"), help="only measure, into --output")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the results of --measure go")
    parser.add_argument("--limit", type=float, help="seconds for --measure")
    arguments = parser.parse_args()
    if arguments.exercise:
        exercise()
        return 0
    if arguments.measure is not None:
        if arguments.output is None:
            parser.error("--measure needs --output")
        limit = LIMITS[arguments.measure] if arguments.limit is None else arguments.limit
        return 0 if run_benchmarks(arguments.measure, arguments.output, limit) else 1
    return check()


if __name__ == "__main__":
    sys.exit(main())
