"""The CPU ops on aarch64, whose loops are on NEON: compiled for it, and some of the op tests under qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from deconv_kernels import backends

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
OP_TESTS = ("test_max_pool.py", "test_max_unpool.py", "test_max_unpool_window.py", "test_backproject.py")
SAMPLE = 40  # tests, others on every run
TOO_SLOW = "not many and not large"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ops as a program for aarch64, not optimised, which would take longer than it saves."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}, which Debian's package g++-aarch64-linux-gnu brings")
    folder = tmp_path_factory.mktemp("aarch64")
    # In one file the headers of torch are read once.
    launchers = [path.name for path in sorted((ROOT / "csrc/cpu").glob("*.cpp")) if path.name != "kernels.cpp"]
    (folder / "launchers.cpp").write_text("".join(f'#include "cpu/{name}"\n' for name in launchers))
    options = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-fvisibility=hidden", "-Icsrc"]
    options += ["-fno-math-errno", "-ffp-contract=off", "-DDECONV_CPU_CAPABILITY=baseline"]
    options += ["-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-isystem{path}" for path in include_paths())]

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-4000:]

    def compiled(source: str | Path) -> Path:
        to = folder / f"{Path(source).stem}.o"
        run(COMPILER, *options, "-c", source, "-o", to)
        return to

    sources = ("csrc/cpu/kernels.cpp", folder / "launchers.cpp", "csrc/host/without_torch.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    linked = folder / "without_torch"
    run(COMPILER, "-static", *objects, "-o", linked)
    return linked


def test_op_tests_pass_on_neon(program: Path, seed: int) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"no {EMULATOR}, which Debian's package qemu-user-static brings")
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    environment = {
        **os.environ,
        "DECONV_EMULATED_CPU": f"{EMULATOR} {program}",
        "DECONV_TEST_SEED": str(seed),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/support"), *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "emulated_cpu"]
    command += [
        "--backend",
        "cpu",
        f"--sample={SAMPLE}",
        "-k",
        TOO_SLOW,
        *(str(Path(__file__).parent / name) for name in OP_TESTS),
    ]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout[-4000:]}\n{child.stderr[-2000:]}"
    assert f"{SAMPLE} passed" in child.stdout
