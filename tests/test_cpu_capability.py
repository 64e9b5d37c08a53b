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
OP_TESTS = ("test_max_pool2d.py", "test_max_unpool2d.py", "test_max_unpool2d_window.py")
VARIABLE = "DECONV_CPU_CAPABILITY"
FROM_NARROW_TO_WIDE = ("baseline", "avx2", "avx512")


def widest() -> int:
    """Index of the widest instruction set of this machine."""
    if os.environ.get(VARIABLE) in FROM_NARROW_TO_WIDE:
        return FROM_NARROW_TO_WIDE.index(os.environ[VARIABLE])
    return {"AVX512": 2, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 0)


@pytest.mark.parametrize("capability", FROM_NARROW_TO_WIDE)
def test_op_tests_pass(capability: str, seed: int) -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    place = FROM_NARROW_TO_WIDE.index(capability)
    if place > widest():
        pytest.skip(f"this machine has no {capability}")
    if place == widest():
        pytest.skip(f"{capability} is what the op tests themselves run with here")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--backend", "cpu", *(str(TESTS / name) for name in OP_TESTS)]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, VARIABLE: capability, "DECONV_TEST_SEED": str(seed)},
        cwd=TESTS.parent,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout[-4000:]}\n{child.stderr[-2000:]}"
    assert " passed" in child.stdout
