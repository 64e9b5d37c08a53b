"""Which implementation runs, how one is forced, and that all of them define the same ops."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import deconv_kernels as dk
from deconv_kernels import backends
from deconv_kernels.ops import library as _library

NAMESPACES = {
    "cpu": "deconv_kernels",
    "cuda": "deconv_kernels",
    "triton": "deconv_kernels_triton",
    "reference": "deconv_kernels_reference",
}
FORCED_HERE = [name for name in backends.NAMES if backends.why_not(name) is None]
NOT_HERE = [name for name in backends.NAMES if backends.why_not(name) is not None]


def namespace_of(backend: str | None, device: str = "cpu") -> str:
    """The namespace of the op that a call really reaches, as a dispatch mode sees it."""

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        seen: str | None = None

        def __torch_dispatch__(self, operator, types, arguments=(), options=None):
            if operator.namespace.startswith("deconv_kernels"):
                self.seen = operator.namespace
            return operator(*arguments, **(options or {}))

    with Spy() as spy:
        dk.max_pool2d(torch.randn(1, 2, 4, 4, device=device), 2)
    return spy.seen


@pytest.mark.parametrize("namespace", sorted(set(NAMESPACES.values())))
@pytest.mark.parametrize("name", backends.OPS)
def test_schemas_of_every_namespace_are_the_written_ones(namespace: str, name: str) -> None:
    """`deconv_kernels` comes from csrc/ops.cpp where the extension is built, the others from Python."""
    schema = getattr(getattr(torch.ops, namespace), name).default._schema
    written = torch._C.parse_schema(f"{namespace}::{name}{_library.SCHEMAS[name]}")
    assert str(schema) == str(written)
    assert len(getattr(torch.ops, namespace).__dict__["_dir"]) >= 1
    assert getattr(getattr(torch.ops, namespace), name).overloads() == ["default"]


def test_the_reference_always_runs() -> None:
    assert backends.why_not("reference") is None
    assert set(backends.available()) == set(backends.OPS)
    for op, reasons in backends.available().items():
        assert list(reasons) == list(backends.NAMES), op
        assert reasons == {name: backends.why_not(name) for name in backends.NAMES}


def test_unknown_backends_are_refused_by_name() -> None:
    for call in (backends.why_not, backends.use):
        with pytest.raises(ValueError, match="must be one of 'cpu', 'cuda', 'triton', 'reference', got 'metal'"):
            call("metal")


@pytest.mark.parametrize("name", FORCED_HERE)
def test_a_forced_backend_is_the_one_that_runs(name: str) -> None:
    device = "cuda" if name in ("cuda", "triton") and not backends.triton_interprets() else "cpu"
    with backends.use(name):
        assert backends.chosen("cpu") == name
        assert namespace_of(name, device) == NAMESPACES[name]
    assert namespace_of(None) == "deconv_kernels"


@pytest.mark.parametrize("name", NOT_HERE)
def test_forcing_one_that_cannot_run_raises_with_the_reason(name: str) -> None:
    before = backends.chosen("cpu")
    reason = backends.why_not(name)
    with pytest.raises(RuntimeError) as caught:
        backends.use(name)
    assert str(caught.value) == f"backend {name!r} cannot run here: {reason}"
    assert backends.chosen("cpu") == before


def test_with_restores_what_was_before() -> None:
    automatic = backends.chosen("cpu")
    with backends.use("reference"):
        with backends.use(None):
            assert backends.chosen("cpu") == automatic
        assert backends.chosen("cpu") == "reference"
        with pytest.raises(KeyError), backends.use(None):
            raise KeyError
        assert backends.chosen("cpu") == "reference"
    assert backends.chosen("cpu") == automatic


def test_use_without_with_stays() -> None:
    automatic = backends.chosen("cpu")
    try:
        backends.use("reference")
        assert backends.chosen("cpu") == "reference"
        assert namespace_of("reference") == "deconv_kernels_reference"
    finally:
        backends.use(None)
    assert backends.chosen("cpu") == automatic


def test_automatic_choice() -> None:
    assert backends.chosen("cpu") == ("reference" if _library.cpu_error else "cpu")
    if all(backends.why_not(name) for name in ("cuda", "triton")):
        with pytest.raises(RuntimeError) as caught:
            backends.chosen("cuda")
        for name in ("cuda", "triton"):
            assert f"{name}: {backends.why_not(name)}" in str(caught.value)
    else:
        assert backends.chosen("cuda") == ("triton" if backends.why_not("cuda") else "cuda")


@pytest.mark.skipif(backends.why_not("cpu") is not None, reason=f"backend cpu: {backends.why_not('cpu')}")
def test_a_forced_backend_refuses_tensors_of_another_device() -> None:
    with backends.use("cpu"), pytest.raises(ValueError, match="'cpu' works on CPU tensors, input is on meta"):
        dk.max_pool2d(torch.empty(1, 2, 4, 4, device="meta"), 2)


@pytest.mark.parametrize("library", ["_cpu", "_cuda"])
def test_a_library_that_was_built_loads(library: str) -> None:
    if not Path(dk.__file__).with_name(f"{library}.abi3.so").exists():
        pytest.skip(f"{library} was not built")
    error = _library.cpu_error if library == "_cpu" else _library.cuda_error
    assert error is None, error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_devices_are_not_mixed() -> None:
    map = torch.randn(1, 2, 4, 4, device="cuda")
    with backends.use("cpu"), pytest.raises(ValueError, match="'cpu' works on CPU tensors, input is on cuda"):
        dk.max_pool2d(map, 2)
    with pytest.raises(ValueError, match="bias must be on the device of input, cuda:0, got cpu"):
        dk.max_pool2d(map, 2, bias=torch.ones(2))
    values, switches = dk.max_pool2d(map, 2)
    with pytest.raises(ValueError, match="switches must be on the device of input, cuda:0, got cpu"):
        dk.max_unpool2d(values, switches.cpu(), 2)


@pytest.mark.parametrize("float32_precision", ["ieee", "tf32"], indirect=True)
def test_what_the_matrix_units_take_is_theirs_whatever_its_size(
    float32_precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def namespace(dtype: torch.dtype, *shape: int) -> str:
        maps = SimpleNamespace(is_cuda=True, dtype=dtype, shape=shape)
        operators = [backends.operator(name, maps) for name in (f"backproject{len(shape) - 2}d", "pack_weight")]  # type: ignore[arg-type]
        assert operators[0].namespace == operators[1].namespace  # type: ignore[attr-defined]
        return operators[0].namespace  # type: ignore[attr-defined]

    for triton in (True, False):
        reason = None if triton else "it is not installed"
        monkeypatch.setattr("deconv_kernels.ops.backends.why_not", lambda name, reason=reason: reason)
        for shape in ((1, 512, 1, 1), (9, 64, 3, 3), (4096, 64, 192, 192), (2, 3, 2, 1, 1)):
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                fast = dtype.itemsize == 2 or (dtype == torch.float32 and float32_precision == "tf32")
                expected = "triton" if triton and fast else "cuda"
                assert namespace(dtype, *shape) == NAMESPACES[expected]


@pytest.mark.parametrize("float32_precision", ["ieee", "tf32"], indirect=True)
def test_precision_of_float32_is_set_for_a_block(float32_precision: str) -> None:
    def check(precision: str) -> None:
        assert backends.allows_tf32() == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        assert not torch.backends.cuda.matmul.allow_tf32

    for inner in ("tf32", "ieee"):
        with contextlib.suppress(KeyError), backends.float32_precision(inner):
            check(inner)
            raise KeyError("leaving by an error")
        check(float32_precision)
    with pytest.raises(ValueError, match="precision must be ieee or tf32, got 'x3'"), backends.float32_precision("x3"):
        pass


@pytest.mark.parametrize(
    "setting",
    [
        "torch.backends.cudnn.allow_tf32 = {tf32}",
        "torch.backends.cudnn.conv.fp32_precision = 'tf32' if {tf32} else 'ieee'",
        "torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = {tf32}, {tf32}",
        "torch.backends.cuda.matmul.fp32_precision = 'ieee'; torch.backends.cudnn.allow_tf32 = {tf32}",
    ],
)
def test_precision_of_float32_is_read_and_restored_however_it_was_set(setting: str) -> None:
    code = f"""
import torch
from deconv_kernels import backends

def state():
    of_all = []
    for place, name in (
        (torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn.conv, "fp32_precision"), (torch.backends.cudnn.rnn, "fp32_precision"),
        (torch.backends.cuda.matmul, "fp32_precision"),
    ):
        try:
            of_all.append(getattr(place, name))
        except RuntimeError:
            of_all.append("they disagree")
    return of_all

assert backends.allows_tf32()
for tf32 in (False, True):
    exec("{setting}".format(tf32=tf32))
    before = state()
    for precision in ("ieee", "tf32"):
        with backends.float32_precision(precision):
            assert backends.allows_tf32() == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert state() == before, (state(), before)
    assert backends.allows_tf32() == tf32
print("read and restored")
"""
    done = run_python(code)
    assert done.stdout == "read and restored\n", done.stderr


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )


def test_without_the_extension_the_reference_runs_and_says_so_once() -> None:
    code = """
import warnings
import torch
load = torch.ops.load_library
def refuse(path):
    if "_cpu" in str(path):
        raise OSError("undefined symbol: spoilt")
    return load(path)
torch.ops.load_library = refuse
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import deconv_kernels as dk
    said = [str(w.message) for w in caught if "deconv_kernels" in str(w.message)]
    x = torch.randn(2, 3, 8, 8)
    values, switches = dk.max_pool2d(x, 2)
    dk.max_unpool2d(values, switches, 2)
    weight, numbers = torch.randn(3, 16, 3, 3), torch.zeros(2, 2, dtype=torch.int64)
    packed = dk.pack_weight(weight)
    windows, _ = dk.backproject2d(values, weight, numbers[:, 0], numbers, packed=packed)
    later = [w for w in caught if "deconv_kernels" in str(w.message)]
assert torch.equal(values, torch.nn.functional.max_pool2d(x, 2))
torch.testing.assert_close(windows, torch.nn.functional.conv_transpose2d(values, weight))
assert len(said) == len(later) == 1, said
assert dk.backends.chosen("cpu") == "reference"
print(said[0])
print(dk.backends.why_not("cpu"))
"""
    child = run_python(code)
    assert child.returncode == 0, child.stderr
    warning, reason = child.stdout.splitlines()
    assert "reference" in warning
    for text in (warning, reason):
        assert "undefined symbol: spoilt" in text or "not built: _cpu.abi3.so" in text
