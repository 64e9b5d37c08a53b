"""Interleaved timing of one of our ops and its baselines, and the shapes that all benchmarks share."""

from __future__ import annotations

import functools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Threads stay on a processor each. OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_PROC_BIND", "true")

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from deconv_kernels import backends, models  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

SECONDS = 1.0  # that one comparison may take, within the limits on its rounds
FEWEST_ROUNDS, MOST_ROUNDS, WARM_UP = 7, 200, 3

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=SECONDS, help="aimed length of one comparison")
    parser.addoption("--projection-seconds", type=float, default=40.0, help="aimed length of one layer's projections")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["capability"] = backends.cpu_capability()
    machine_info["backend"] = backends.chosen("cpu")


Pool = tuple[str, tuple[int, ...], int, int, bool]


def pools(image: int = 224) -> Iterator[Pool]:
    """Name, (C, H, W), kernel, stride and ceil_mode of two standard shapes and of every pool of the three networks."""
    yield "k2s2", (256, 56, 56), 2, 2, False
    yield "k3s2", (96, 55, 55), 3, 2, False
    for network, architecture in models.ARCHITECTURES.items():
        x = torch.empty(1, 3, image, image, device="meta")
        for name, module in architecture(features_only=True).to("meta").named_children():
            if isinstance(module, nn.MaxPool2d):
                yield f"{network} {name}", tuple(x.shape[1:]), module.kernel_size, module.stride, module.ceil_mode
            x = module(x)


def pool_cases() -> list[Any]:
    """Pytest parameters (name, shape, kernel, stride, ceil_mode) with the batch in the shape."""
    cases = []
    for name, shape, kernel, stride, ceil_mode in pools():
        batches = {"k2s2": (8,), "k3s2": (16,)}.get(name, (1, 8))
        cases += [
            pytest.param(name, (n, *shape), kernel, stride, ceil_mode, id=f"{name} batch {n}".replace(" ", "-"))
            for n in batches
        ]
    return cases


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Load:
    """How busy other programs keep the processors from here on."""

    def __init__(self) -> None:
        self._before = self._seconds()

    @staticmethod
    def _seconds() -> tuple[float, float, float] | None:
        """Of all processors together, those spent, those spent in work, and those in work of this program."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return None
        total, idle = sum(map(int, fields)), int(fields[3]) + int(fields[4])
        tick = os.sysconf("SC_CLK_TCK")
        return total / tick, (total - idle) / tick, time.process_time()

    def of_others(self) -> float | None:
        """The share of the processors' time that others took; None where the system does not tell."""
        after = self._seconds()
        if self._before is None or after is None:
            return None
        total, work, own = (now - then for now, then in zip(after, self._before, strict=True))
        return max(0.0, work - own) / total if total > 0 else None


class Comparison:
    """Times our callable under pytest-benchmark, and between its rounds, in turn, every baseline.

    Medians with their quartiles, ratios, the load of others meanwhile and, with `bytes_moved`, the copy's bandwidth and
    the share of it go to the benchmark's extra_info.
    """

    def __init__(self, benchmark: Any, seconds: float) -> None:
        self.benchmark, self.seconds = benchmark, seconds

    def __call__(
        self,
        ours: Callable[[], Any],
        baselines: dict[str, Callable[[], Any]],
        bytes_moved: int | None = None,
        calls: int = 1,
        **description: Any,
    ) -> dict[str, float]:
        """Returns the median seconds of one call of each; `calls` of them make one round."""
        others = dict(baselines)
        if bytes_moved is not None:
            source = torch.ones(bytes_moved // 2, dtype=torch.uint8)
            others["copy"] = functools.partial(torch.empty_like(source).copy_, source)
        times: dict[str, list[float]] = {name: [] for name in others}

        def repeated(function: Callable[[], Any]) -> None:
            for _ in range(calls):
                function()

        def time_the_others() -> None:
            for name in random.sample(list(others), len(others)):
                start = time.perf_counter()
                repeated(others[name])
                times[name].append((time.perf_counter() - start) / calls)

        start = time.perf_counter()
        for _ in range(WARM_UP):
            time_the_others()
            repeated(ours)
        rounds = int(self.seconds * WARM_UP / (time.perf_counter() - start))
        for seconds in times.values():
            seconds.clear()
        rounds = min(max(rounds, FEWEST_ROUNDS), MOST_ROUNDS)
        load = Load()
        self.benchmark.pedantic(repeated, args=(ours,), setup=time_the_others, rounds=rounds, iterations=1)
        if self.benchmark.disabled:
            return {}
        times["ours"] = [seconds / calls for seconds in self.benchmark.stats.stats.data]
        medians = {name: statistics.median(times[name]) for name in ("ours", *others)}
        info = {**description, "rounds": rounds, "seconds": medians, "load_of_others": load.of_others()}
        info["quartiles"] = {name: statistics.quantiles(times[name], n=4)[::2] for name in medians}
        info["ratios"] = {name: medians[name] / medians["ours"] for name in baselines}
        if bytes_moved is not None:
            info["bytes_moved"] = bytes_moved
            info["share_of_copy"] = medians["copy"] / medians["ours"]
            info["copy_bandwidth"] = bytes_moved / medians["copy"]  # read and written together
        self.benchmark.extra_info.update(info)
        return medians


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Comparison:
    return Comparison(benchmark, request.config.getoption("--seconds"))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(random.randrange(2**31))
    with torch.no_grad():
        yield
