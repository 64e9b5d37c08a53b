"""The loops of the CPU kernels compile for aarch64, whose baseline is NEON; they are not run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "aarch64-linux-gnu-g++"


def test_loops_compile_for_neon(tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}, which Debian's package g++-aarch64-linux-gnu brings")
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized"]
    as_built = ["-std=c++20", "-fno-math-errno", "-ffp-contract=off", "-DDECONV_CPU_CAPABILITY=baseline"]
    command = [COMPILER, "-c", "-O0", *warnings, *as_built, "csrc/cpu/kernels.cpp", "-o", str(tmp_path / "kernels.o")]
    compiled = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert compiled.returncode == 0, compiled.stderr[-4000:]
