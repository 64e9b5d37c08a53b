"""The C++ kernels of every instruction set this machine has: the op tests once more in a child process for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deconv_kernels import backends

TESTS = Path(__file__).parent
OP_TESTS = (
    "test_max_pool.py",
    "test_max_unpool.py",
    "test_max_unpool_window.py",
    "test_backproject.py",
    "test_corrupt_switches.py",
)
VARIABLE = "DECONV_CPU_CAPABILITY"
FROM_NARROW_TO_WIDE = ("baseline", "avx2", "avx512")


def run(*arguments: str, capability: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, VARIABLE: capability, "DECONV_TEST_SEED": str(seed)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=TESTS.parents[1], timeout=1800, check=False
    )


@pytest.mark.parametrize("capability", FROM_NARROW_TO_WIDE)
def test_op_tests_pass(capability: str, seed: int) -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    active = backends.cpu_capability()
    if FROM_NARROW_TO_WIDE.index(capability) > FROM_NARROW_TO_WIDE.index(active):
        pytest.skip(f"this machine has no {capability}")
    if capability == active:
        pytest.skip(f"{capability} is what the op tests themselves run with here")
    probe = run("-c", "from deconv_kernels import backends; print(backends.cpu_capability())", capability=capability)
    assert probe.stdout.strip() == capability, probe.stderr[-2000:]
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--backend", "cpu", *(str(TESTS / name) for name in OP_TESTS)]
    child = run("-m", "pytest", *arguments, capability=capability, seed=seed)
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout[-4000:]}\n{child.stderr[-2000:]}"
    assert " passed" in child.stdout


def test_empty_capability_counts_as_none() -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    empty = run("-c", "from deconv_kernels import backends; print(backends.cpu_capability())", capability="")
    assert empty.returncode == 0, empty.stderr[-2000:]
    best = empty.stdout.strip()
    assert best in FROM_NARROW_TO_WIDE
    if not os.environ.get(VARIABLE):
        assert best == backends.cpu_capability()


def test_unknown_capability_is_refused_by_name() -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    program = "import torch, deconv_kernels; deconv_kernels.max_pool2d(torch.ones(1, 2, 2), 2)"
    child = run("-c", program, capability="sse9")
    assert child.returncode == 1
    assert "DECONV_CPU_CAPABILITY is sse9" in child.stderr


def test_results_are_streamed_from_a_quarter_of_the_largest_cache_on() -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    units = {"K": 10, "M": 20}
    told = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    largest = max((int(size.rstrip("KM")) << units.get(size[-1], 0) for size in told), default=0)
    cache, streamed, _ = torch.ops.deconv_kernels.cpu_choices()
    assert cache == largest
    assert streamed == (largest // 4 or 8 << 20)
    assert any(f"{streamed / 2**20:g} MiB" in sentence for sentence in backends.cpu_choices())
