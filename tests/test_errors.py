"""Bad input: the exact exception, and a message that names the argument, what it was and what it may be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deconv_kernels as dk

HOSTILE_CALLS = Path(__file__).parent / "hostile_calls.py"


class Tensors:
    """Good arguments of every op, for a case to spoil one of."""

    def __init__(self, device: torch.device) -> None:
        self.map = torch.randn(2, 3, 8, 8, device=device)
        self.pooled = torch.randn(2, 3, 4, 4, device=device)
        self.switches = torch.randint(0, 4, (2, 3, 4, 4), device=device).to(torch.uint8)
        self.indices = dk.switches_to_indices(self.switches, (8, 8), 2)
        self.windows = torch.randn(5, 3, 2, 2, device=device)
        self.image = torch.tensor([0, 1, 0, 1, 1], device=device)
        self.origin = torch.zeros(5, 2, dtype=torch.int64, device=device)
        self.bias = torch.randn(3, device=device)


Call = Callable[[Tensors], Any]

# What is wrong -> the call, the exception, and what its message has to hold.
CASES: dict[str, tuple[Call, type[Exception], list[str]]] = {}


def case(name: str, call: Call, error: type[Exception], *message: str) -> None:
    assert name not in CASES
    CASES[name] = call, error, list(message)


def window_cases(name: str, call: Callable[..., Any], takes_padding: bool = True) -> None:
    """The window arguments, which all ops share."""
    case(f"{name}: kernel 0", lambda t: call(t, 0), ValueError, "kernel_size", "at least 1", "(0, 0)")
    case(f"{name}: kernel -2", lambda t: call(t, (2, -2)), ValueError, "kernel_size", "at least 1", "(2, -2)")
    case(f"{name}: kernel float", lambda t: call(t, 2.0), TypeError, "kernel_size", "int", "2.0")
    case(f"{name}: kernel floats", lambda t: (call(t, (2, 2)), call(t, (2.0, 2.0))), TypeError, "kernel_size", "(2.0")
    case(f"{name}: kernel bool", lambda t: call(t, True), TypeError, "kernel_size", "int", "True")
    case(f"{name}: kernel None", lambda t: call(t, None), TypeError, "kernel_size", "int", "None")
    case(f"{name}: kernel text", lambda t: call(t, "22"), TypeError, "kernel_size", "int", "22")
    case(f"{name}: kernel array", lambda t: call(t, np.array([2, 2])), TypeError, "kernel_size", "int")
    case(f"{name}: kernel dict", lambda t: call(t, {}), TypeError, "kernel_size", "int", "{}")
    case(f"{name}: kernel Tensor", lambda t: call(t, torch.tensor(2)), TypeError, "kernel_size", "int")
    case(f"{name}: kernel of 3", lambda t: call(t, (2, 2, 2)), ValueError, "kernel_size", "one or two", "(2, 2, 2)")
    case(f"{name}: kernel empty", lambda t: call(t, []), ValueError, "kernel_size", "one or two", "[]")
    case(f"{name}: kernel large", lambda t: call(t, (129, 256)), ValueError, "kernel_size", "33024", "32768")
    case(f"{name}: stride 0", lambda t: call(t, 2, 0), ValueError, "stride", "at least 1", "(0, 0)")
    case(f"{name}: stride -1", lambda t: call(t, 2, (1, -1)), ValueError, "stride", "at least 1", "(1, -1)")
    case(f"{name}: stride float", lambda t: call(t, 2, 1.5), TypeError, "stride", "int", "1.5")
    case(f"{name}: stride text", lambda t: call(t, 2, "a"), TypeError, "stride", "int")
    case(f"{name}: dilation 0", lambda t: call(t, 2, 2, 0, 0), ValueError, "dilation", "at least 1", "(0, 0)")
    case(f"{name}: dilation inf", lambda t: call(t, 2, 2, 0, float("inf")), TypeError, "dilation", "int", "inf")
    if takes_padding:
        case(f"{name}: padding 2", lambda t: call(t, 3, 2, 2), ValueError, "padding", "half", "(3, 3)", "(2, 2)")
        case(f"{name}: padding -1", lambda t: call(t, 3, 2, -1), ValueError, "padding", "0", "(-1, -1)")
        case(f"{name}: padding nan", lambda t: call(t, 3, 2, float("nan")), TypeError, "padding", "int", "nan")


def map_cases(name: str, argument: str, call: Callable[..., Any], good: Callable[[Tensors], torch.Tensor]) -> None:
    """The map-shaped arguments, which all ops share."""
    case(f"{name}: list", lambda t: call(t, [[1.0]]), TypeError, argument, "Tensor", "list")
    case(f"{name}: None", lambda t: call(t, None), TypeError, argument, "Tensor", "NoneType")
    case(f"{name}: complex", lambda t: call(t, good(t).to(torch.complex64)), TypeError, argument, "complex64")
    case(f"{name}: bool", lambda t: call(t, good(t).to(torch.bool)), TypeError, argument, "bool")
    case(f"{name}: 2-d", lambda t: call(t, good(t)[0, 0]), ValueError, argument, "(C, H, W)", "(4, 4)")
    case(f"{name}: 5-d", lambda t: call(t, good(t)[None]), ValueError, argument, "(N, C, H, W)", "(1, 2, 3, 4, 4)")
    case(f"{name}: no channels", lambda t: call(t, good(t)[:, :0]), ValueError, argument, "empty", "(2, 0, 4, 4)")
    case(f"{name}: no rows", lambda t: call(t, good(t)[:, :, :0]), ValueError, argument, "empty", "(2, 3, 0, 4)")
    case(f"{name}: sparse", lambda t: call(t, good(t).to_sparse()), TypeError, argument, "sparse")


def pool(t: Tensors, *window: Any, **options: Any) -> Any:
    return dk.max_pool2d(t.map, *window, **options)


def unpool(t: Tensors, *window: Any, **options: Any) -> Any:
    return dk.max_unpool2d(t.pooled, t.switches, *window, **options)


def unpool_windows(t: Tensors, *window: Any, **options: Any) -> Any:
    return dk.max_unpool2d_window(t.windows, t.switches, t.image, t.origin, *window, **options)


window_cases("max_pool2d", pool)
map_cases("max_pool2d", "input", lambda t, x: dk.max_pool2d(x, 2), lambda t: t.pooled)
case("max_pool2d: integers", lambda t: dk.max_pool2d(t.map.int(), 2), TypeError, "input", "float32", "int32")
case("max_pool2d: does not fit", lambda t: pool(t, 9), ValueError, "kernel_size", "(9, 9)", "(8, 8)", "does not fit")
case(
    "max_pool2d: dilation does not fit", lambda t: pool(t, 3, 1, 0, 4), ValueError, "kernel_size", "dilation", "(4, 4)"
)
case("max_pool2d: stride 2^31", lambda t: pool(t, 2, 2**31), ValueError, "stride", "2147483648")
case("max_pool2d: stride 10^30", lambda t: pool(t, 2, 10**30), ValueError, "stride", "1000000000")
case("max_pool2d: dilation 2^31", lambda t: pool(t, 1, 1, 0, 2**31), ValueError, "dilation", "2147483648")
case("max_pool2d: bias list", lambda t: pool(t, 2, bias=[1.0] * 3), TypeError, "bias", "Tensor", "list")
case("max_pool2d: bias shape", lambda t: pool(t, 2, bias=t.bias[:2]), ValueError, "bias", "(3,)", "(2,)")
case("max_pool2d: bias rank", lambda t: pool(t, 2, bias=t.bias[None]), ValueError, "bias", "(3,)", "(1, 3)")
case("max_pool2d: bias dtype", lambda t: pool(t, 2, bias=t.bias.double()), TypeError, "bias", "float32", "float64")
case("max_pool2d: bias device", lambda t: pool(t, 2, bias=t.bias.to("meta")), ValueError, "bias", "device", "meta")

window_cases("max_unpool2d", unpool)
map_cases(
    "max_unpool2d", "input", lambda t, x: dk.max_unpool2d(x, t.switches, 2, output_size=(8, 8)), lambda t: t.pooled
)
case("max_unpool2d: integers", lambda t: dk.max_unpool2d(t.indices, t.switches, 2), TypeError, "input", "int64")
case(
    "max_unpool2d: switches of floats",
    lambda t: dk.max_unpool2d(t.pooled, t.pooled, 2),
    TypeError,
    "switches",
    "uint8",
    "float32",
)
case(
    "max_unpool2d: indices for switches",
    lambda t: dk.max_unpool2d(t.pooled, t.indices, 2),
    TypeError,
    "switches",
    "uint8",
    "int64",
)
case(
    "max_unpool2d: bytes for a large window",
    lambda t: unpool(t, 17),
    TypeError,
    "switches",
    "int16",
    "uint8",
)
case("max_unpool2d: no switches", lambda t: dk.max_unpool2d(t.pooled, None, 2), TypeError, "switches", "NoneType")
case(
    "max_unpool2d: switches shape",
    lambda t: dk.max_unpool2d(t.pooled, t.switches[:, :2], 2),
    ValueError,
    "switches",
    "(2, 3, 4, 4)",
    "(2, 2, 4, 4)",
)
case(
    "max_unpool2d: switches rank",
    lambda t: dk.max_unpool2d(t.pooled, t.switches[0], 2),
    ValueError,
    "switches",
    "(2, 3, 4, 4)",
    "(3, 4, 4)",
)
case(
    "max_unpool2d: switches device",
    lambda t: dk.max_unpool2d(t.pooled, t.switches.to("meta"), 2),
    ValueError,
    "switches",
    "device",
    "meta",
)
for size in ((6, 8), (8, 10), (0, 8), (-8, 8), (10**12, 8), (8, 10**30)):
    case(
        f"max_unpool2d: output_size {size}",
        lambda t, size=size: unpool(t, 2, output_size=size),
        ValueError,
        "output_size",
        "(7, 7)",
        "(9, 9)",
        str(size),
    )
case(
    "max_unpool2d: output_size with dilation",
    lambda t: unpool(t, 3, 2, 1, 2, (9, 12)),
    ValueError,
    "output_size",
    "(8, 8)",
    "(10, 10)",
    "(9, 12)",
)
case("max_unpool2d: output_size int", lambda t: unpool(t, 2, output_size=8), TypeError, "output_size", "(H, W)", "8")
case("max_unpool2d: output_size floats", lambda t: unpool(t, 2, output_size=(8.0, 8)), TypeError, "output_size", "8.0")
case(
    "max_unpool2d: output_size of 3",
    lambda t: unpool(t, 2, output_size=(3, 8, 8)),
    ValueError,
    "output_size",
    "(H, W)",
    "(3, 8, 8)",
)
case(
    "max_unpool2d: output_size of another batch",
    lambda t: unpool(t, 2, output_size=(1, 3, 8, 8)),
    ValueError,
    "output_size",
    "(2, 3)",
    "(1, 3, 8, 8)",
)
case(
    "max_unpool2d: nothing but padding",
    lambda t: dk.max_unpool2d(t.pooled[..., :1, :1], t.switches[..., :1, :1], 2, 2, 1),
    ValueError,
    "output_size",
    "(0, 0)",
)
for overlap in ("mean", "", None, 1, ["sum"]):
    case(
        f"max_unpool2d: overlap {overlap!r}",
        lambda t, overlap=overlap: unpool(t, 2, overlap=overlap),
        ValueError,
        "overlap",
        '"sum"',
        '"last"',
        repr(overlap),
    )

window_cases("max_unpool2d_window", unpool_windows)
map_cases(
    "max_unpool2d_window",
    "input",
    lambda t, x: dk.max_unpool2d_window(x, t.switches, t.image[:2], t.origin[:2], 2),
    lambda t: t.pooled,
)
case(
    "max_unpool2d_window: 3-d",
    lambda t: dk.max_unpool2d_window(t.windows[0], t.switches, t.image, t.origin, 2),
    ValueError,
    "input",
    "(U, C, h, w)",
    "(3, 2, 2)",
)
case(
    "max_unpool2d_window: switches of other channels",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches[:, :2], t.image, t.origin, 2),
    ValueError,
    "switches",
    "(N, 3, PH, PW)",
    "(2, 2, 4, 4)",
)
case(
    "max_unpool2d_window: switches dtype",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches.short(), t.image, t.origin, 2),
    TypeError,
    "switches",
    "uint8",
    "int16",
)
case(
    "max_unpool2d_window: switches device",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches.to("meta"), t.image, t.origin, 2),
    ValueError,
    "switches",
    "device",
    "meta",
)
for name, spoil in {
    "image": lambda t: (t.windows, t.switches, t.image[:4], t.origin),
    "origin": lambda t: (t.windows, t.switches, t.image, t.origin[:4]),
}.items():
    shape = "(5,)" if name == "image" else "(5, 2)"
    case(
        f"max_unpool2d_window: too few {name}",
        lambda t, spoil=spoil: dk.max_unpool2d_window(*spoil(t), 2),
        ValueError,
        name,
        shape,
    )
case(
    "max_unpool2d_window: image int32",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches, t.image.int(), t.origin, 2),
    TypeError,
    "image",
    "int64",
    "int32",
)
case(
    "max_unpool2d_window: origin list",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches, t.image, [[0, 0]] * 5, 2),
    TypeError,
    "origin",
    "int64",
    "list",
)
case(
    "max_unpool2d_window: image device",
    lambda t: dk.max_unpool2d_window(t.windows, t.switches, t.image.to("meta"), t.origin, 2),
    ValueError,
    "image",
    "device",
    "meta",
)
case("max_unpool2d_window: overlap", lambda t: unpool_windows(t, 2, overlap="first"), ValueError, "overlap", "'first'")

for name, argument, convert in (
    ("switches_to_indices", "switches", dk.switches_to_indices),
    ("indices_to_switches", "indices", dk.indices_to_switches),
):
    window_cases(
        name,
        lambda t, *window, argument=argument, convert=convert: convert(getattr(t, argument), (8, 8), *window),
    )
    map_cases(
        name,
        argument,
        lambda t, x, convert=convert: convert(x, (8, 8), 2),
        lambda t, argument=argument: getattr(t, argument),
    )
    case(
        f"{name}: dtype",
        lambda t, argument=argument, convert=convert: convert(getattr(t, argument).int(), (8, 8), 2),
        TypeError,
        argument,
        "int32",
    )
    for size in ((6, 8), (8, 10), (0, 8), (8, -8), (2**62, 8)):
        case(
            f"{name}: input_size {size}",
            lambda t, argument=argument, convert=convert, size=size: convert(getattr(t, argument), size, 2),
            ValueError,
            "input_size",
            str(size),
            "(4, 4)",
        )
    case(
        f"{name}: input_size int",
        lambda t, argument=argument, convert=convert: convert(getattr(t, argument), 8, 2),
        TypeError,
        "input_size",
        "(H, W)",
    )


@pytest.mark.parametrize("name", CASES)
def test_bad_argument(device: torch.device, name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error) as caught:
        call(Tensors(device))
    assert caught.type is error
    missing = [part for part in message if part not in str(caught.value)]
    assert not missing, f"the message lacks {missing}: {caught.value}"


@pytest.mark.parametrize("number", [-1, 2, 3, 2**31, 2**32, 2**62, -(2**63)])
def test_image_out_of_range_raises_on_the_cpu(device: torch.device, number: int) -> None:
    t = Tensors(device)
    t.image[3] = number
    if device.type == "cuda":
        out = unpool_windows(t, 2)[0][3]
        assert not out.any(), "a GPU gives zeros for a window of no image"
        return
    with pytest.raises(ValueError, match=r"^image must be between 0 and 1, got"):
        unpool_windows(t, 2)


def test_image_of_another_batch_entry_is_out_of_range_under_vmap(device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("a GPU does not check values")
    t = Tensors(device)
    many = torch.stack([t.switches, t.switches])
    for number in (-1, 2):
        image = t.image.clone()
        image[3] = number
        with pytest.raises(ValueError, match="image must be between"):
            torch.vmap(lambda s, image=image: dk.max_unpool2d_window(t.windows, s, image, t.origin, 2)[0])(many)


def test_meta_tensors_give_meta_results(device: torch.device, backend: str) -> None:
    if backend != "reference":
        with pytest.raises(ValueError, match=f"'{backend}' works on .* tensors, input is on meta"):
            dk.max_pool2d(torch.empty(2, 3, 8, 8, device="meta"), 2)
    with dk.backends.use(None):
        values, switches = dk.max_pool2d(torch.empty(2, 3, 9, 8, device="meta", dtype=torch.bfloat16), 2)
        assert (values.shape, values.dtype, values.device.type) == ((2, 3, 4, 4), torch.bfloat16, "meta")
        assert (switches.shape, switches.dtype, switches.device.type) == ((2, 3, 4, 4), torch.uint8, "meta")


def test_hostile_calls_of_the_ops_raise_and_never_crash(backend: str, seed: int) -> None:
    """Past the public functions, in a child process: a crash there is a failure here."""
    if backend == "reference":
        pytest.skip("the reference is called with checked arguments only")
    arguments = [sys.executable, str(HOSTILE_CALLS), backend, str(seed)]
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
    child = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, check=False)
    last = child.stdout.splitlines()[-1:] or ["nothing"]
    assert child.returncode == 0, f"exit code {child.returncode} after {last[0]}\n{child.stderr[-3000:]}"
    assert last[0].startswith("all "), last
