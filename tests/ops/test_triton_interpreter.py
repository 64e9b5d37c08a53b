"""Runs the Triton kernels on the CPU, in Triton's interpreter, in a process that sets it before importing Triton."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

CASES = Path(__file__).parents[1] / "support" / "triton_interpreter_cases.py"


@pytest.mark.parametrize("op", ["max_pool2d", "not max_pool2d"])
def test_kernels_in_the_interpreter(op: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", op, str(CASES)]
    finished = subprocess.run(command, env=environment, cwd=CASES.parent, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", finished.stdout)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    assert passed is not None, finished.stdout[-2000:]
    assert not re.search(r"\d+ (skipped|failed|error)", finished.stdout), finished.stdout[-2000:]
    print(f"{passed[1]} cases passed in the interpreter")
