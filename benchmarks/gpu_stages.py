"""What `make gpu-check` runs on a machine with a GPU, each stage in a process of its own.

    python benchmarks/gpu_stages.py STAGE [ARGUMENT...]

A stage takes its steps one after another. One that fails is recorded with its error, and the next one is taken; what is
known is written after every step, as JSON, to the file that the environment variable GPU_CHECK_OUTPUT names.
GPU_CHECK_LIMIT holds the seconds after which no further step is begun. The exit code is 0 if no step failed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = 8192  # rows and columns of the factors
COPIED = 2**31  # bytes
MOST_FAILURES = 200  # that are written down

Outcome = dict[str, Any]


class Steps:
    """Takes the steps of a stage and writes down what each gave.

    Args:
        output: the file to write; None to keep it here.
        limit: seconds after which no step is begun.
    """

    def __init__(self, output: Path | None, limit: float) -> None:
        self.output, self.end = output, time.monotonic() + limit
        self.found: list[Outcome] = []
        self.lost: str | None = None

    def take(self, name: str, work: Callable[[], Outcome | None]) -> bool:
        """Takes a step, unless the time is over or an earlier one has lost the device; whether it went well."""
        began = time.monotonic()
        outcome: Outcome
        if self.lost is not None:
            outcome = {"error": f"not run: the device was lost in {self.lost}"}
        elif began > self.end:
            outcome = {"error": "not run: no time left"}
        else:
            try:
                outcome = work() or {}
                synchronize()
            except Exception as error:  # a wrong or failing kernel is reported, and the others still run
                outcome = {"error": f"{type(error).__name__}: {error}"[:1000], "where": innermost(error)}
                self.lost = name if device_is_lost() else None
        outcome = {"case": name, **outcome, "took": round(time.monotonic() - began, 2)}
        self.add(outcome)
        if self.lost is None:
            gc.collect()
            torch.cuda.empty_cache()
        return "error" not in outcome

    def add(self, outcome: Outcome) -> None:
        """Adds a result and writes all of them."""
        self.found.append(outcome)
        print(describe(outcome), flush=True)
        self.save()

    def save(self) -> None:
        if self.output is not None:
            draft = self.output.with_suffix(".draft")
            draft.write_text(json.dumps(self.found))
            os.replace(draft, self.output)

    @property
    def passed(self) -> bool:
        return not any("error" in outcome or outcome.get("not_run") for outcome in self.found)


def innermost(error: BaseException) -> list[str]:
    """Where an error was raised: the last lines of its traceback."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_is_lost() -> bool:
    """Whether an error has left a device on which nothing can run any more."""
    try:
        synchronize()
    except Exception:
        return True
    return False


def describe(outcome: Outcome) -> str:
    """One line about a step."""
    if "error" in outcome:
        return f"{outcome['case']}: {outcome['error']}"
    if "speedup_over" not in outcome:
        return f"{outcome['case']}: {', '.join(f'{k} {v}' for k, v in outcome.items() if k != 'case') or 'done'}"
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


# Stages


def machine(steps: Steps) -> None:
    """What runs: the card, and the versions of everything."""

    def found() -> Outcome:
        versions: Outcome = {
            "card": "none",
            "torch": torch.__version__,
            "triton": version_of("triton"),
            "cuda": torch.version.cuda,
            "python": sys.version.split()[0],
        }
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            versions |= {
                "card": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory": properties.total_memory,
                "multiprocessors": properties.multi_processor_count,
            }
        return {"machine": versions}

    steps.take("machine", found)
    if not torch.cuda.is_available():
        steps.add({"case": "device", "error": "torch finds no CUDA device"})


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def build(steps: Steps) -> None:
    """Builds both libraries in place, the CUDA one for this card."""

    def built() -> None:
        architecture = "".join(map(str, torch.cuda.get_device_capability()))
        variables = {**os.environ, "DECONV_WITH_CUDA": "1", "DECONV_CUDA_ARCHS": architecture}
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, env=variables, check=True)

    steps.take("build", built)


def card(steps: Steps) -> None:
    """What the card does: a copy, and products of large matrices."""

    def seconds(run: Callable[[], Any], rounds: int = 10) -> float:
        for _ in range(3):
            run()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(rounds):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / rounds

    def copied() -> Outcome:
        source = torch.empty(COPIED, dtype=torch.uint8, device="cuda").random_()
        target = torch.empty_like(source)
        return {"bytes_per_second": 2 * COPIED / seconds(lambda: target.copy_(source))}

    def multiplied(dtype: torch.dtype, precision: str) -> Outcome:
        torch.backends.cuda.matmul.fp32_precision = precision
        a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=dtype) for _ in range(2))
        return {"flop_per_second": 2 * PRODUCT**3 / seconds(lambda: a @ b)}

    steps.take("copy", copied)
    for name, dtype, precision in (
        ("float32", torch.float32, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("bfloat16", torch.bfloat16, "ieee"),
    ):
        steps.take(f"product in {name}", lambda dtype=dtype, precision=precision: multiplied(dtype, precision))


def exercise(steps: Steps, *arguments: str) -> None:
    """Every op of the backends that are named, on small tensors, against the reference."""
    from gpu_ops import dk, exercises

    trimmed = "--trimmed" in arguments
    for backend in (name for name in arguments if name != "--trimmed"):
        if reason := dk.backends.why_not(backend):
            steps.add({"case": backend, "error": f"cannot run: {reason}"})
            continue
        for name, work in exercises(backend, trimmed):
            steps.take(name, work)


def engine(steps: Steps) -> None:
    from gpu_engine import against_the_cpu

    against_the_cpu(steps.take)


def whole(steps: Steps) -> None:
    from gpu_engine import all_units

    all_units(steps.take)


def unit(steps: Steps) -> None:
    from gpu_engine import one_unit

    one_unit(steps.take)


def benchmarks(steps: Steps) -> None:
    """Pooling, unpooling and the conversions, against ATen and a copy."""
    from gpu_ops import cases, measure

    for case in cases():
        steps.take(case.name, lambda case=case: measure(case))


def backprojections(steps: Steps) -> None:
    """backproject2d, against separate calls."""
    from gpu_ops import backprojections, measure_backprojection

    for case in backprojections():
        steps.take(case.name, lambda case=case: measure_backprojection(case))


def profiled(steps: Steps) -> None:
    """The kernels that Nsight Compute looks at: few launches, each backend and precision."""
    from gpu_ops import profiled_calls

    for name, work in profiled_calls():
        steps.take(name, work)


def tests(steps: Steps, *arguments: str) -> None:
    """Runs pytest and writes down every failure as it comes; no test that passes counts as a failure."""
    import pytest

    counts: Outcome = {"case": "tests", "passed": 0, "failed": 0, "skipped": 0}
    steps.add(counts)

    class Reporter:
        written = 0.0

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                counts["failed"] += 1
                if counts["failed"] <= MOST_FAILURES:
                    steps.add({"case": report.nodeid, "error": str(report.longrepr)[-1500:]})
            elif report.skipped:
                counts["skipped"] += 1
            elif report.when == "call":
                counts["passed"] += 1
            if time.monotonic() > self.written + 1:
                self.written = time.monotonic()
                steps.save()

    options = ["-q", "-p", "no:cacheprovider", *arguments]
    if importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(min(16, os.cpu_count() or 1)), "--dist", "loadgroup"]
    code = pytest.main(options, plugins=[Reporter()])
    if counts["passed"] == 0 or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        steps.add({"case": "pytest", "error": f"{pytest.ExitCode(code).name}; {counts['passed']} tests passed"})
    steps.save()


STAGES: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        *(machine, build, card, exercise, engine, whole, unit),
        *(benchmarks, backprojections, profiled, tests),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run one stage of `make gpu-check`.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    output = os.environ.get("GPU_CHECK_OUTPUT")
    steps = Steps(Path(output) if output else None, float(os.environ.get("GPU_CHECK_LIMIT", "inf")))
    STAGES[chosen.stage](steps, *chosen.arguments)
    return 0 if steps.passed else 1


if __name__ == "__main__":
    sys.exit(main())
