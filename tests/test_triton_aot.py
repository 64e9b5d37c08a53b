"""The Triton kernels compiled ahead of time, without a GPU: no spills, few registers, 16-byte accesses.

The launchers are called with tensors on the meta device and their launches recorded, so what is compiled here is what
they would launch: the same constants, and the same specialisations of arguments as Triton makes them (a size of 1 is a
constant, pointers and sizes are known to be multiples of 16 where they are).
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deconv_kernels import backends

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if backends.triton_interprets():
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from deconv_kernels import triton as kernels  # noqa: E402

COMMON = importlib.import_module("deconv_kernels.triton._common")
HOPPER = GPUTarget("cuda", 90, 32)
OTHERS = [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 100, 32), GPUTarget("hip", "gfx942", 64)]
# 80 registers leave room for 768 threads on a Hopper multiprocessor: with one 16-byte load each in flight, 12 KiB.
MOST_REGISTERS = 80
NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int64: "i64",
}
FLOATING = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "channels_last"]
DENSE = ((2, 2), (2, 2), (0, 0)), (56, 56)  # kernel, stride, padding; map
OVERLAPPING = ((3, 3), (2, 2), (1, 1)), (112, 112)
UNALIGNED = ((3, 3), (2, 2), (0, 0)), (55, 55)


@dataclasses.dataclass
class Machine:
    """What a kernel was compiled to: registers per thread, and how many global accesses of how many bits it makes."""

    registers: int
    loads: Counter[int]
    stores: Counter[int]
    barriers: int


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any], int]]:
    """The kernels that the launchers launch, their arguments, and warps."""
    recorded: list[tuple[Any, dict[str, Any], int]] = []

    def record(
        kernel: Any, programs: int, device: torch.device, arguments: dict[str, Any], num_warps: int = COMMON.WARPS
    ) -> None:
        assert programs > 0
        recorded.append((kernel, arguments, num_warps))

    monkeypatch.setattr(COMMON, "launch", record)
    return recorded


def compiled(kernel: Any, arguments: dict[str, Any], num_warps: int, target: Any) -> Any:
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        is_size = isinstance(value, int) and not isinstance(value, bool)
        if parameter.is_constexpr or value is None or (is_size and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = (
            "*" + NAMES[value.dtype] if isinstance(value, Tensor) else "i32" if value < 2**31 else "i64"
        )
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options={"num_warps": num_warps, "enable_fp_fusion": False})


def nvidia_machine(binary: bytes, folder: Path) -> Machine:
    file = folder / "kernel.cubin"
    file.write_bytes(binary)
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert found is not None, usage
    assert found[2] == found[3] == "0", f"spills: {usage}"
    listing = subprocess.run([tool, "-sass", file], capture_output=True, text=True, check=True).stdout
    codes = re.findall(r"/\*[0-9a-f]{4,5}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", listing)
    forbidden = {"LDL", "STL", "ATOM", "ATOMG", "RED", "REDG"}  # local memory, so spills, and atomics
    assert forbidden.isdisjoint(code.split(".")[0] for code in codes)

    def accesses(name: str) -> Counter[int]:
        widths = (re.search(r"\.(?:[US]?(8|16|64|128|256))(?:\.|$)", code) for code in codes if code.startswith(name))
        return Counter(32 if width is None else int(width[1]) for width in widths)

    return Machine(int(found[1]), accesses("LDG"), accesses("STG"), sum(code.startswith("BAR") for code in codes))


def amd_machine(assembly: str) -> Machine:
    # Scalar registers may be kept in lanes of vector registers (sgpr_spill_count); memory must stay untouched.
    for used in re.findall(r"\.(?:vgpr_spill_count|private_segment_fixed_size): +(\d+)", assembly):
        assert used == "0", "spills"
    registers = re.search(r"\.vgpr_count: +(\d+)", assembly)
    assert registers is not None
    widths = {"ubyte": 8, "byte": 8, "ushort": 16, "short": 16, "dword": 32, "dwordx2": 64, "dwordx4": 128}

    def accesses(name: str) -> Counter[int]:
        kinds = re.findall(rf"(?:global|buffer)_{name}_(?:d16_)?(?:hi_)?(\w+?)(?:_d16\w*)? ", assembly)
        return Counter(widths[kind] for kind in kinds)

    return Machine(int(registers[1]), accesses("load"), accesses("store"), assembly.count("s_barrier"))


def machine(launches: list[tuple[Any, dict[str, Any], int]], folder: Path, target: Any = HOPPER) -> Machine:
    """Compiles the one kernel that was launched."""
    ((kernel, arguments, num_warps),) = launches
    launches.clear()
    result = compiled(kernel, arguments, num_warps, target)
    found = (
        amd_machine(result.asm["amdgcn"]) if target.backend == "hip" else nvidia_machine(result.asm["cubin"], folder)
    )
    print(f"{kernel.fn.__name__} on {target.arch}: {found}")
    return found


def laid_out(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return tensor.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else tensor


def pooled(case: tuple[Any, Any]) -> tuple[int, int]:
    (kernel, stride, padding), size = case
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))  # type: ignore[return-value]


def pool(case: tuple[Any, Any], dtype: torch.dtype, layout: str, bias: bool = False) -> None:
    window, size = case
    bias_tensor = torch.empty(256, dtype=dtype, device="meta") if bias else None
    kernels.max_pool2d(laid_out((8, 256, *size), dtype, layout), bias_tensor, *window, (1, 1), False, True)


def unpool(case: tuple[Any, Any], dtype: torch.dtype, layout: str) -> None:
    window, size = case
    shape = (8, 256, *pooled(case))
    values, switches = laid_out(shape, dtype, layout), laid_out(shape, torch.uint8, layout)
    kernels.max_unpool2d(values, switches, *window, (1, 1), size, "sum", True)


def unpool_window(case: tuple[Any, Any], dtype: torch.dtype, layout: str) -> None:
    (kernel, stride, _), _ = case
    values = laid_out((64, 256, 12, 12), dtype, layout)
    switches = laid_out((8, 256, *pooled(case)), torch.uint8, layout)
    image, origin = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in ((64,), (64, 2)))
    kernels.max_unpool2d_window(values, switches, image, origin, kernel, stride, (1, 1), "sum", True)


def convert(name: str, dtype: torch.dtype, case: tuple[Any, Any], layout: str) -> None:
    window, size = case
    getattr(kernels, name)(laid_out((8, 256, *pooled(case)), dtype, layout), size, *window, (1, 1))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_contiguous_on_hopper(launches: list[Any], tmp_path: Path, dtype: torch.dtype) -> None:
    """A thread reads or writes 16 bytes of each map row, so it holds the 8 bytes of pooled values that belong there."""
    pool(DENSE, dtype, "contiguous")
    found = machine(launches, tmp_path)
    assert found.loads == {128: 2}
    assert found.stores[64] == 1
    assert found.stores.total() == 2

    pool(OVERLAPPING, dtype, "contiguous")  # its taps lie two apart, so adjacent threads share sectors, not vectors
    found = machine(launches, tmp_path)
    assert found.loads == {8 * dtype.itemsize: 18}
    assert found.stores == {8 * dtype.itemsize: 2, 8: 2}
    assert found.barriers <= 3
    assert found.registers <= MOST_REGISTERS

    for case in (DENSE, OVERLAPPING):
        unpool(case, dtype, "contiguous")
        found = machine(launches, tmp_path)
        assert found.stores == {128: 2}
        assert found.loads[64] >= 1
        assert found.registers <= MOST_REGISTERS
        assert found.barriers == 0


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_channels_last_on_hopper(launches: list[Any], tmp_path: Path, dtype: torch.dtype) -> None:
    for case, taps in ((DENSE, 4), (OVERLAPPING, 9)):
        pool(case, dtype, "channels_last")
        found = machine(launches, tmp_path)
        assert found.loads == {128: taps}
        assert found.stores[128] == 1
        assert found.stores.total() == 2
        assert found.registers <= MOST_REGISTERS
    for case, windows in ((DENSE, 1), (OVERLAPPING, 4)):
        unpool(case, dtype, "channels_last")
        found = machine(launches, tmp_path)
        assert found.stores == {128: 4}
        assert found.loads[128] == windows
        assert found.loads.total() == 2 * windows
        assert found.registers <= MOST_REGISTERS


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_windows_on_hopper(launches: list[Any], tmp_path: Path, dtype: torch.dtype, layout: str) -> None:
    unpool_window(DENSE, dtype, layout)
    found = machine(launches, tmp_path)
    assert found.stores == ({128: 4} if layout == "channels_last" else {128: 2})
    assert found.registers <= MOST_REGISTERS
    unpool_window(OVERLAPPING, dtype, layout)  # the contiguous rows of these windows, 25 long, are not aligned
    found = machine(launches, tmp_path)
    assert layout == "contiguous" or found.stores == {128: 4}
    assert found.registers <= MOST_REGISTERS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_switches_on_hopper(launches: list[Any], tmp_path: Path, layout: str) -> None:
    for case in (DENSE, OVERLAPPING):
        convert("switches_to_indices", torch.uint8, case, layout)
        assert machine(launches, tmp_path).stores == {128: 1}
        convert("indices_to_switches", torch.int64, case, layout)
        assert machine(launches, tmp_path).loads == {128: 1}


def test_unaligned_rows_and_bias_on_hopper(launches: list[Any], tmp_path: Path) -> None:
    for run in (pool, unpool):
        run(UNALIGNED, torch.float32, "contiguous")
        assert machine(launches, tmp_path).registers <= MOST_REGISTERS
    for layout in LAYOUTS:
        pool(DENSE, torch.float16, layout, bias=True)
        assert machine(launches, tmp_path).registers <= MOST_REGISTERS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_windows_and_64_bit_offsets_on_hopper(
    launches: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    large = ((16, 16), (16, 16), (0, 0)), (64, 64)
    for run in (pool, unpool):
        run(large, torch.float32, layout)
        assert machine(launches, tmp_path).registers <= MOST_REGISTERS
    monkeypatch.setattr(COMMON, "index_type", lambda *tensors: COMMON.tl.int64)
    for run in (pool, unpool, unpool_window):
        run(DENSE, torch.float32, layout)
        assert machine(launches, tmp_path).registers <= MOST_REGISTERS


def test_sizes_of_one_compile(launches: list[Any], tmp_path: Path) -> None:
    """Triton turns these arguments into constants, so kernels see a Python number where they usually see a tensor."""
    one = ((1, 1), (1, 1), (0, 0)), (1, 1)
    index = torch.empty((1,), dtype=torch.int64, device="meta")

    def maps(dtype: torch.dtype) -> Tensor:
        return torch.empty((1, 1, 1, 1), dtype=dtype, device="meta")

    runs: list[Callable[[], Any]] = [
        lambda: kernels.max_pool2d(maps(torch.float32), maps(torch.float32)[0, 0, 0], *one[0], (1, 1), False, True),
        lambda: kernels.max_pool2d(maps(torch.float32), None, (9, 9), (1, 1), (4, 4), (1, 1), False, True),
        lambda: kernels.max_unpool2d(maps(torch.float32), maps(torch.uint8), *one[0], (1, 1), (1, 1), "last", True),
        lambda: kernels.max_unpool2d(
            maps(torch.float32), maps(torch.uint8), (9, 9), (1, 1), (4, 4), (1, 1), (1, 1), "sum", True
        ),
        lambda: kernels.max_unpool2d_window(
            maps(torch.float32), maps(torch.uint8), index, index.expand(1, 2), (1, 1), (1, 1), (1, 1), "sum", True
        ),
        lambda: kernels.switches_to_indices(maps(torch.uint8), (1, 1), *one[0], (1, 1)),
        lambda: kernels.indices_to_switches(maps(torch.int64), (1, 1), *one[0], (1, 1)),
    ]
    for run in runs:
        run()
        machine(launches, tmp_path)


@pytest.mark.parametrize("target", OTHERS, ids=lambda target: str(target.arch))
def test_other_machines(launches: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    monkeypatch.setattr(COMMON, "THREADS", COMMON.WARPS * target.warp_size)
    for dtype in (torch.float32, torch.bfloat16):
        pool(DENSE, dtype, "contiguous")
        found = machine(launches, tmp_path, target)
        assert found.loads == {128: 2}
        pool(OVERLAPPING, dtype, "channels_last")
        found = machine(launches, tmp_path, target)
        assert found.loads == {128: 9}
        unpool(DENSE, dtype, "contiguous")
        found = machine(launches, tmp_path, target)
        assert found.stores == {128: 2}
        unpool(OVERLAPPING, dtype, "channels_last")
        found = machine(launches, tmp_path, target)
        assert found.stores == {128: 4}
    unpool_window(DENSE, torch.float32, "channels_last")
    assert machine(launches, tmp_path, target).stores == {128: 4}
    for name, dtype in (("switches_to_indices", torch.uint8), ("indices_to_switches", torch.int64)):
        convert(name, dtype, DENSE, "channels_last")
        machine(launches, tmp_path, target)
