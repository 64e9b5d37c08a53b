"""What nvcc makes of the CUDA kernels: no spills, no local memory, and 16-byte accesses where the layout allows."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 90, 100)
SOURCES = ("backproject", "max_pool", "max_unpool", "max_unpool_window", "switches")
MOST_REGISTERS = 168  # with which three blocks of 128 threads fit a multiprocessor
WIDEST = {"f": 4, "d": 2, "6__half": 8, "13__nv_bfloat16": 8}  # lanes of 16 bytes, by mangled name

# 16-byte (loads, stores) of global memory, by a kernel's name and its template arguments after the number of lanes.
WIDE_ACCESSES = {
    ("backproject_patches", ()): (0, 0),
    ("backproject_tiles", ()): (6, 4),
    ("max_pool_pairs", (2,)): (4, 0),
    ("max_pool_columns", (2, 2, 1)): (4, 1),
    ("max_pool_columns", (3, 2, 2)): (15, 2),
    ("max_pool_general", ()): (1, 1),
    ("max_unpool_pairs", (2,)): (0, 4),
    ("max_unpool_columns", (2, 2, 1)): (1, 4),
    ("max_unpool_columns", (3, 2, 1)): (4, 4),
    ("max_unpool_general", ()): (1, 1),
    ("switches_to_indices", ()): (0, 2),
    ("indices_to_switches", ()): (2, 0),
}

# 16-byte loads from shared memory, at least.
WIDE_SHARED_LOADS = {"backproject_patches": 5, "backproject_tiles": 4}

# How many variants of a kernel take 16 bytes a step: one for each dtype.
VARIANTS = {"backproject_patches": 3, "switches_to_indices": 2, "indices_to_switches": 2}

pytestmark = pytest.mark.xdist_group("nvcc")


def find_nvcc() -> str | None:
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_cuobjdump() -> str | None:
    """cuobjdump on PATH, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    folders = [] if triton is None or triton.origin is None else [Path(triton.origin).parent / "backends/nvidia/bin"]
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    return found or next(filter(None, (shutil.which("cuobjdump", path=str(folder)) for folder in folders)), None)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The outcome of one compilation for one architecture."""

    cubin: Path
    returncode: int
    output: str


Compile = Callable[[str, int], Compiled]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles the device code of a source, once."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    folder = tmp_path_factory.mktemp("nvcc")
    done: dict[tuple[str, int], Compiled] = {}

    def compile_source(source: str, architecture: int) -> Compiled:
        if (source, architecture) not in done:
            cubin = folder / f"{source}.{architecture}.cubin"
            flags = ["-cubin", f"-arch=sm_{architecture}", "-std=c++20", "-O3", "-Werror=all-warnings"]
            flags += ["-Xptxas=-v,--warn-on-spills,--warning-as-error", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
            flags += [f"-I{ROOT / 'csrc'}", "-isystem", str(Path(torch.origin).parent / "include")]
            command = [nvcc, *flags, str(ROOT / "csrc/cuda" / f"{source}.cu"), "-o", str(cubin)]
            result = subprocess.run(command, capture_output=True, text=True)
            done[source, architecture] = Compiled(cubin, result.returncode, result.stdout + result.stderr)
        return done[source, architecture]

    return compile_source


def lanes_and_arguments(kernel: str) -> tuple[str, bool, tuple[int, ...]]:
    """A kernel's plain name, whether it takes 16 bytes a step, and its template arguments after the lanes."""
    match = re.search(r"\d+(backproject|max_pool|max_unpool|switches_to|indices_to)_([a-z]+)I(.*)", kernel)
    assert match is not None, kernel
    name = f"{match[1]}_{match[2]}"
    numbers = tuple(int(n) for n in re.findall(r"Li(\d+)E", match[3]))
    if not numbers:
        return name, True, ()
    dtype = re.search(r"I(6__half|13__nv_bfloat16|[fd])", f"I{match[3]}")
    assert dtype is not None, kernel
    return name, numbers[0] == WIDEST[dtype[1]], numbers[1:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_compiles_without_spills(compiled: Compile, source: str, architecture: int) -> None:
    result = compiled(source, architecture)
    assert result.returncode == 0, result.output[-4000:]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", result.output)]
    assert registers and max(registers) <= MOST_REGISTERS, f"{max(registers)} registers"
    assert set(re.findall(r"(\d+) bytes stack frame", result.output)) == {"0"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_accesses_are_wide(compiled: Compile, source: str, architecture: int) -> None:
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("cuobjdump is not installed")
    result = compiled(source, architecture)
    assert result.returncode == 0, result.output[-4000:]
    dump = subprocess.run([cuobjdump, "-sass", result.cubin], capture_output=True, text=True, check=True).stdout
    checked: collections.Counter[str] = collections.Counter()
    for kernel, body in re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", dump, re.S):
        assert not re.search(r"\b(LDL|STL)\b", body), f"{kernel} uses local memory"
        name, wide, arguments = lanes_and_arguments(kernel)
        if wide:
            loads, stores = (len(re.findall(rf"\b{kind}\.E[\w.]*\.128\b", body)) for kind in ("LDG", "STG"))
            least = WIDE_ACCESSES[name, arguments]
            assert loads >= least[0] and stores >= least[1], f"{kernel}: {loads} wide loads, {stores} wide stores"
            shared = len(re.findall(r"\bLDS[\w.]*\.128\b", body))
            assert shared >= WIDE_SHARED_LOADS.get(name, 0), f"{kernel}: {shared} wide loads from shared memory"
            checked[name] += 1
    expected = {name for name, _ in WIDE_ACCESSES if name.startswith(source.removesuffix("_window") + "_")}
    if source == "max_unpool_window":
        expected.discard("max_unpool_pairs")
    if source == "switches":
        expected = {"switches_to_indices", "indices_to_switches"}
    assert set(checked) == expected
    assert all(count >= VARIANTS.get(name, 4) for name, count in checked.items()), checked
