"""The Triton kernels compiled ahead of time, without a GPU: no spills, few registers, 16-byte accesses, matrix units.

The launchers are called with tensors on the meta device and their launches recorded, so what is compiled here is what
they would launch: the same constants, and the same specialisations of arguments as Triton makes them (a size of 1 is a
constant, pointers and sizes are known to be multiples of 16 where they are).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deconv_kernels import backends

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if backends.triton_interprets():
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from kept_launches import forget_launches  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from deconv_kernels.ops import triton as triton_ops  # noqa: E402
from deconv_kernels.ops.arguments import taking_flat  # noqa: E402
from deconv_kernels.ops.library import without_rank  # noqa: E402

# Called with the arguments of the schemas.
kernels = SimpleNamespace(**{name: taking_flat(name, getattr(triton_ops, without_rank(name))) for name in backends.OPS})
COMMON = importlib.import_module("deconv_kernels.ops.triton._common")
BACKPROJECT = importlib.import_module("deconv_kernels.ops.triton.backproject")
HOPPER = GPUTarget("cuda", 90, 32)
OTHERS = [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 100, 32), GPUTarget("hip", "gfx942", 64)]
# 80 registers leave room for 768 threads on a Hopper multiprocessor: with one 16-byte load each in flight, 12 KiB.
MOST_REGISTERS = 80
# Of the smallest tile of a matrix product: four programs of 128 threads fit on a multiprocessor, in TF32 three.
MOST_REGISTERS_OF_A_PRODUCT = {torch.bfloat16: 128, torch.float32: 168}
# Triton 3.6, which torch 2.11 brings, waits after every product and spills a little on sm_80: slower, not wrong.
OLDER = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 9)
SPILLS_OF_OLDER = 4
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


Launch = tuple[Any, dict[str, Any], dict[str, int]]  # kernel, arguments, options of the compiler


@dataclasses.dataclass
class Machine:
    """What a kernel was compiled to: registers per thread, and how many global accesses of how many bits it makes."""

    registers: int
    loads: Counter[int]
    stores: Counter[int]
    barriers: int
    codes: Counter[str] = dataclasses.field(repr=False)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """The kernels that the launchers launch, with every tile that they would try."""
    recorded: list[Launch] = []

    def record(launch: Any, *tensors: Tensor | None) -> None:
        assert launch.programs > 0
        given = dict(zip(launch.kernel.arg_names, tensors, strict=False))
        recorded.append((launch.kernel, given | launch.arguments, launch.options))

    def record_all(fastest: Any, *tensors: Tensor | None) -> None:
        for launch in fastest.launches.values():
            launch(*tensors)

    monkeypatch.setattr(COMMON.Launch, "__call__", record)
    monkeypatch.setattr(COMMON.FastestLaunch, "__call__", record_all)
    forget_launches()
    yield recorded
    forget_launches()


def compiled(kernel: Any, arguments: dict[str, Any], options: dict[str, int], target: Any) -> Any:
    constants, attributes = {}, {}

    def typed(value: Any, path: tuple[int, ...], constant: bool) -> Any:
        if isinstance(value, tuple) and not constant:
            return tuple(typed(entry, (*path, index), False) for index, entry in enumerate(value))
        is_size = isinstance(value, int) and not isinstance(value, bool)
        if constant or value is None or (is_size and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "*" + NAMES[value.dtype] if isinstance(value, Tensor) else "i32" if -(2**31) <= value < 2**31 else "i64"

    signature = {
        parameter.name: typed(arguments[parameter.name], (position,), parameter.is_constexpr)
        for position, parameter in enumerate(kernel.params)
    }
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=options)


def nvidia_machine(binary: bytes, folder: Path, spills: int) -> Machine:
    file = folder / "kernel.cubin"
    file.write_bytes(binary)
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) ", usage)
    assert found is not None, usage
    listing = subprocess.run([tool, "-sass", file], capture_output=True, text=True, check=True).stdout
    codes = re.findall(r"/\*[0-9a-f]{4,5}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", listing)
    kinds = Counter(code.split(".")[0] for code in codes)
    assert {"ATOM", "ATOMG", "RED", "REDG"}.isdisjoint(kinds)
    # Accesses of local memory; its size tells less, because ptxas may reserve some that it does not use.
    assert kinds["LDL"] + kinds["STL"] <= spills, f"spills: {usage}"

    def accesses(name: str) -> Counter[int]:
        widths = (re.search(r"\.(?:[US]?(8|16|64|128|256))(?:\.|$)", code) for code in codes if code.startswith(name))
        return Counter(32 if width is None else int(width[1]) for width in widths)

    return Machine(int(found[1]), accesses("LDG"), accesses("STG"), kinds["BAR"], Counter(codes))


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

    codes = Counter(re.findall(r"^\t(\w+)", assembly, re.MULTILINE))
    return Machine(int(registers[1]), accesses("load"), accesses("store"), assembly.count("s_barrier"), codes)


def machine(launches: list[Launch], folder: Path, target: Any = HOPPER, spills: int = 0) -> Machine:
    """Compiles the one kernel that was launched; it may access local memory `spills` times."""
    ((kernel, arguments, options),) = launches
    launches.clear()
    result = compiled(kernel, arguments, options, target)
    found = (
        amd_machine(result.asm["amdgcn"])
        if target.backend == "hip"
        else nvidia_machine(result.asm["cubin"], folder, spills)
    )
    print(f"{kernel.fn.__name__} on {target.arch}, {options}: {found}")
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


def backproject(
    case: tuple[Any, Any] | None,
    dtype: torch.dtype,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    features: int = 256,
) -> None:
    """Windows of 64 units through a convolution from `features` channels to 256 and, where given, a pooling."""
    values = laid_out((64, 256, 12, 12), dtype, "channels_last")
    weight = torch.empty((256, features, *kernel), dtype=dtype, device="meta")
    image, origin = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in ((64,), (64, 2)))
    switches = None if case is None else laid_out((8, 256, *pooled(case)), torch.uint8, "channels_last")
    window = ((1, 1), (1, 1)) if case is None else case[0][:2]
    rest = ("sum", True, stride, (1, 1), 1, (2, 2), (24, 24), (-2, -2), (56, 56))
    kernels.backproject2d(values, weight, image, origin, switches, None, *window, (1, 1), *rest)


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


def split(launches: list[Launch]) -> list[list[Launch]]:
    """The recorded launches as lists of one each."""
    alone = [[launch] for launch in launches]
    launches.clear()
    return alone


def assert_product_on_hopper(found: Machine) -> None:
    """Copies to shared memory are asynchronous, and so are products: they are waited for less often than issued.

    That they are is not asked of an older compiler than the pinned one.
    """
    products = sum(number for code, number in found.codes.items() if code.startswith("HGMMA"))
    waits = sum(number for code, number in found.codes.items() if code.startswith("WARPGROUP.DEPBAR"))
    assert waits > 0 and products > 0
    assert OLDER or waits < products
    assert sum(number for code, number in found.codes.items() if code.startswith("LDGSTS")) > 0


def assert_copies_are_wide(found: Machine, launch: Launch) -> None:
    """A step copies its values, switches and weights once, 16 bytes at a time, so its tile says the bytes per FLOP."""
    _, arguments, options = launch
    copies = {code: number for code, number in found.codes.items() if code.startswith("LDGSTS")}
    assert all(code.endswith(".128") for code in copies), copies
    rows, columns, channels = (arguments[f"BLOCK_{name}"] for name in "MNK")
    itemsize = arguments["input"].element_size()
    step = channels * (rows * (itemsize + 1) + columns * itemsize)
    copied = sum(copies.values()) * 16 * 32 * options["num_warps"]
    assert copied == options["num_stages"] * step, f"{copied} bytes for {options['num_stages']} steps of {step}"
    print(f"{step / (2 * rows * columns * channels):.3f} bytes a FLOP")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers take the meta device for a Hopper card."""
    monkeypatch.setattr(COMMON, "is_hopper_or_later", lambda device: True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_backproject2d_on_hopper(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper: None, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(BACKPROJECT, "float32_precision", lambda: "tf32")
    backproject(DENSE, dtype)
    smallest, *others = split(launches)
    assert "wgmma.mma_async" in compiled(*smallest[0], HOPPER).asm["ptx"]
    for launches in (smallest, *(others[1::2] if dtype == torch.bfloat16 else others[-1:])):
        (launch,) = launches
        found = machine(launches, tmp_path)
        assert_product_on_hopper(found)
        assert_copies_are_wide(found, launch)
        if launch[1]["BLOCK_M"] == launch[1]["BLOCK_N"] == 64:
            assert found.registers <= MOST_REGISTERS_OF_A_PRODUCT[dtype]


@pytest.mark.parametrize(("case", "dtype"), [(DENSE, torch.bfloat16), (None, torch.float32)], ids=str)
def test_backproject2d_to_few_channels_on_hopper(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Any, dtype: torch.dtype
) -> None:
    """One product without tiles to try, whose signal is copied 16 bytes at a time and once for all nine taps."""
    monkeypatch.setattr(BACKPROJECT, "float32_precision", lambda: "tf32")
    backproject(case, dtype, features=3)
    (_, arguments, options) = launches[0]
    assert arguments["COLUMNS"] == 32
    found = machine(launches, tmp_path)
    assert any(code.startswith("HGMMA") for code in found.codes)
    copies = {code: number for code, number in found.codes.items() if code.startswith("LDGSTS")}
    assert copies and all(code.endswith(".128") for code in copies), copies
    positions = arguments["UNITS"] * arguments["HEIGHT"] * arguments["WIDTH"]
    signal = arguments["BLOCK_K"] * positions * (dtype.itemsize + (case is not None))
    at_once, stages = 16 * 32 * options["num_warps"], options["num_stages"]
    # The weights of a step, if they are copied so too, are no more than what all threads copy at once.
    assert stages * signal <= sum(copies.values()) * at_once <= stages * (signal + at_once)


def test_backproject2d_of_other_kinds_on_hopper(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper: None
) -> None:
    """Pools that overlap, no pool, a first layer in phases, and products that the fast matrix units do not know."""
    monkeypatch.setattr(BACKPROJECT, "float32_precision", lambda: "ieee")
    backproject(None, torch.float16)
    assert_product_on_hopper(machine(split(launches)[-1], tmp_path))
    backproject(OVERLAPPING, torch.float16)
    assert any(code.startswith("HGMMA") for code in machine(split(launches)[-1], tmp_path).codes)
    backproject(OVERLAPPING, torch.bfloat16, (11, 11), (4, 4), 3)
    assert any(code.startswith("HGMMA") for code in machine(split(launches)[0], tmp_path).codes)
    backproject(DENSE, torch.float32)
    assert machine(split(launches)[-1], tmp_path).codes["FFMA"] > 500
    backproject(DENSE, torch.float64)
    assert any(code.startswith("DMMA") for code in machine(split(launches)[-1], tmp_path).codes)
    monkeypatch.setattr(COMMON, "index_type", lambda *tensors: COMMON.tl.int64)
    backproject(DENSE, torch.bfloat16)
    assert_product_on_hopper(machine(split(launches)[0], tmp_path))


def test_the_fastest_tile_is_measured_once_and_never_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        arg_names = ()

    tiles = [COMMON.Tile(64, 16 << shift, 4, 3) for shift in range(4)]
    times = dict(zip(tiles, (4.0, 2.0, 1.0, 3.0), strict=True))
    launched: list[int] = []
    measured: list[int] = []
    capturing = False

    def launch(launch: Any) -> None:
        if launch.arguments["BLOCK_N"] == 64:
            raise triton.OutOfResources(1, 0, "shared memory")
        launched.append(launch.arguments["BLOCK_N"])

    def measure(run: Callable[[], None], **_: Any) -> float:
        before = len(launched)
        run()
        measured.extend(launched[before:])
        del launched[before:]
        return next(time for tile, time in times.items() if measured[-1] == tile.BLOCK_N)

    monkeypatch.setattr(COMMON.Launch, "__call__", launch)
    monkeypatch.setattr(COMMON, "_fastest", {})
    monkeypatch.setattr(triton.testing, "do_bench", measure)
    monkeypatch.setattr(COMMON, "on", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)

    def run(alike: str, rows: int = 64) -> None:
        COMMON.FastestLaunch(Kernel, lambda tile: rows, torch.device("cuda", 0), {}, tiles, (alike,))()

    run("empty", rows=0)
    capturing = True
    run("first")
    assert launched == [16, 16] and measured == []
    capturing = False
    run("first")
    assert launched == [16, 16, 32] and measured == [16, 32, 128]
    capturing = True
    run("first")
    assert launched == [16, 16, 32, 32] and measured == [16, 32, 128]
    capturing = False
    run("second")
    assert measured == 2 * [16, 32, 128]


def test_precision_of_float32_is_what_torch_allows(launches: list[Launch]) -> None:
    for allowed in (False, True):
        with torch.backends.cudnn.flags(allow_tf32=allowed):
            assert BACKPROJECT.float32_precision() == ("tf32" if allowed else "ieee")
    for precision in ("ieee", "tf32"):
        # torch's own test helpers, once imported, forbid to set this elsewhere.
        with torch.backends.__allow_nonbracketed_mutation():
            before = torch.backends.cudnn.conv.fp32_precision
            torch.backends.cudnn.conv.fp32_precision = precision
        try:
            assert BACKPROJECT.float32_precision() == precision
            backproject(DENSE, torch.float32)
            assert {arguments["PRECISION"] for _, arguments, _ in launches} == {precision}
            launches.clear()
        finally:
            with torch.backends.__allow_nonbracketed_mutation():
                torch.backends.cudnn.conv.fp32_precision = before


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
        lambda: kernels.backproject2d(
            maps(torch.float32),
            maps(torch.float32),
            index,
            index.expand(1, 2),
            maps(torch.uint8),
            None,
            (1, 1),
            (1, 1),
            (1, 1),
            "sum",
            True,
            (1, 1),
            (1, 1),
            1,
            (1, 1),
            (1, 1),
            (1, 1),
            (1, 1),
        ),
        lambda: kernels.switches_to_indices(maps(torch.uint8), (1, 1), *one[0], (1, 1)),
        lambda: kernels.indices_to_switches(maps(torch.int64), (1, 1), *one[0], (1, 1)),
    ]
    for run in runs:
        run()
        machine(split(launches)[0], tmp_path)


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


@pytest.mark.parametrize("target", OTHERS, ids=lambda target: str(target.arch))
def test_backproject2d_on_other_machines(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any
) -> None:
    newer = target.backend == "cuda" and target.arch >= 90
    unit = "v_mfma" if target.backend == "hip" else "UTCHMMA" if newer else "HMMA"
    monkeypatch.setattr(COMMON, "is_hopper_or_later", lambda device: newer)
    monkeypatch.setattr(BACKPROJECT, "float32_precision", lambda: "ieee")
    backproject(DENSE, torch.bfloat16)
    tiles = split(launches)
    few = SPILLS_OF_OLDER if OLDER and target.arch == 80 else 0
    for launch, spills in ((tiles[0], few), (tiles[-1], 8 + few if target.arch == 80 else 0)):
        assert any(code.startswith(unit) for code in machine(launch, tmp_path, target, spills).codes)
    backproject(OVERLAPPING, torch.float32)
    machine(split(launches)[-1], tmp_path, target)
    backproject(DENSE, torch.bfloat16, features=3)
    assert any(code.startswith(unit) for code in machine(launches, tmp_path, target).codes)
