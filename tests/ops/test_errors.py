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

HOSTILE_CALLS = Path(__file__).parents[1] / "support" / "hostile_calls.py"


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
        self.weight = torch.randn(3, 12, 3, 3, device=device)


Call = Callable[[Tensors], Any]

# What is wrong -> the call, the exception, and what its message has to hold.
CASES: dict[str, tuple[Call, type[Exception], list[str]]] = {}


def case(name: str, call: Call, error: type[Exception], *message: str) -> None:
    assert name not in CASES
    CASES[name] = call, error, list(message)


def window_cases(name: str, call: Callable[..., Any], prefix: str = "") -> None:
    """The window arguments, which all ops of pooling share; their names begin with `prefix`."""
    kernel, stride, padding, dilation = (prefix + n for n in ("kernel_size", "stride", "padding", "dilation"))
    case(f"{name}: {prefix}kernel 0", lambda t: call(t, 0), ValueError, kernel, "at least 1", "(0, 0)")
    case(f"{name}: {prefix}kernel -2", lambda t: call(t, (2, -2)), ValueError, kernel, "at least 1", "(2, -2)")
    case(f"{name}: {prefix}kernel float", lambda t: call(t, 2.0), TypeError, kernel, "int", "2.0")
    case(f"{name}: {prefix}kernel floats", lambda t: (call(t, (2, 2)), call(t, (2.0, 2.0))), TypeError, kernel, "(2.0")
    case(f"{name}: {prefix}kernel bool", lambda t: call(t, True), TypeError, kernel, "int", "True")
    case(
        f"{name}: {prefix}kernel None", lambda t: call(t, None), TypeError, kernel, *([] if prefix else ["int", "None"])
    )
    case(f"{name}: {prefix}kernel text", lambda t: call(t, "22"), TypeError, kernel, "int", "22")
    case(f"{name}: {prefix}kernel array", lambda t: call(t, np.array([2, 2])), TypeError, kernel, "int")
    case(f"{name}: {prefix}kernel dict", lambda t: call(t, {}), TypeError, kernel, "int", "{}")
    case(f"{name}: {prefix}kernel Tensor", lambda t: call(t, torch.tensor(2)), TypeError, kernel, "int")
    case(f"{name}: {prefix}kernel of 3", lambda t: call(t, (2, 2, 2)), ValueError, kernel, "one or two", "(2, 2, 2)")
    case(f"{name}: {prefix}kernel empty", lambda t: call(t, []), ValueError, kernel, "one or two", "[]")
    case(f"{name}: {prefix}kernel large", lambda t: call(t, (129, 256)), ValueError, kernel, "33024", "32768")
    case(f"{name}: {prefix}stride 0", lambda t: call(t, 2, 0), ValueError, stride, "at least 1", "(0, 0)")
    case(f"{name}: {prefix}stride -1", lambda t: call(t, 2, (1, -1)), ValueError, stride, "at least 1", "(1, -1)")
    case(f"{name}: {prefix}stride float", lambda t: call(t, 2, 1.5), TypeError, stride, "int", "1.5")
    case(f"{name}: {prefix}stride text", lambda t: call(t, 2, "a"), TypeError, stride, "int")
    case(f"{name}: {prefix}dilation 0", lambda t: call(t, 2, 2, 0, 0), ValueError, dilation, "at least 1", "(0, 0)")
    case(f"{name}: {prefix}dilation inf", lambda t: call(t, 2, 2, 0, float("inf")), TypeError, dilation, "int", "inf")
    case(f"{name}: {prefix}padding 2", lambda t: call(t, 3, 2, 2), ValueError, padding, "half", "(3, 3)", "(2, 2)")
    case(f"{name}: {prefix}padding -1", lambda t: call(t, 3, 2, -1), ValueError, padding, "0", "(-1, -1)")
    case(f"{name}: {prefix}padding nan", lambda t: call(t, 3, 2, float("nan")), TypeError, padding, "int", "nan")


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


def project(t: Tensors, **options: Any) -> Any:
    tensors = {"input": t.windows, "weight": t.weight, "image": t.image, "origin": t.origin}
    return dk.backproject2d(**(tensors | options))


def project_pooled(t: Tensors, *window: Any) -> Any:
    """The window arguments follow each other as in the other ops."""
    names = "pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation"
    return project(t, switches=t.switches, **dict(zip(names, window, strict=False)))


def projection_cases() -> None:
    def bad(what: str, error: type[Exception], *message: str, **options: Callable[[Tensors], Any]) -> None:
        """One spoilt argument: its name, what it may be and what it was."""
        call = lambda t: project(t, **{name: value(t) for name, value in options.items()})  # noqa: E731
        case(f"backproject2d: {what}", call, error, *message)

    def plain(what: str, error: type[Exception], *message: str, **options: Any) -> None:
        bad(what, error, *message, **{name: lambda t, value=value: value for name, value in options.items()})

    for name, smallest in (("stride", 1), ("padding", 0), ("dilation", 1)):
        for value in (smallest - 1, (smallest, -1)):
            got = str(value if isinstance(value, tuple) else (value, value))
            plain(f"{name} {value}", ValueError, name, str(smallest), got, **{name: value})
        for value in (1.5, "same", None, True, (1, 2.0), {}, float("nan")):
            plain(f"{name} {value!r}", TypeError, name, "int", repr(value), **{name: value})
        for value in ((1, 1, 1), ()):
            plain(f"{name} {value}", ValueError, name, "one or two", repr(value), **{name: value})
        for value in (2**31, 10**30):
            plain(f"{name} {value}", ValueError, name, str(value), **{name: value})
    for value in (0, -1, 2, 4):
        plain(f"groups {value}", ValueError, "groups", "3", str(value), groups=value)
    for value in (1.0, None, True, (1, 1)):
        plain(f"groups {value!r}", TypeError, "groups", "int", repr(value), groups=value)
    for value in ((0, 5), (5, -2), (-1, -1)):
        plain(f"output_size {value}", ValueError, "output_size", "between 1", str(value), output_size=value)
    for value in (5, 2.5, (5.0, 5), "ab"):
        plain(f"output_size {value!r}", TypeError, "output_size", "int", output_size=value)
    plain("output_size of 4", ValueError, "output_size", "two", "(2, 3, 8, 8)", output_size=(2, 3, 8, 8))
    plain("output_size 2^31", ValueError, "output_size", str(2**31), output_size=(2**31, 4))
    for value in (((-1, 0), (2, 2)), ((0, 0), (0, 2)), ((0, 0), (2, -2))):
        plain(f"crop {value}", ValueError, "crop", str(value[0]), str(value[1]), crop=value)
    for value in (5, (1, 1, 1), ((0, 0),), "crop", ((0.5, 0), (1, 1)), ((0, 0), None), ((0, 0), "ab")):
        plain(f"crop {value!r}", TypeError, "crop", crop=value)
    plain("crop of 3", ValueError, "crop", "(0, 0, 0)", crop=((0, 0, 0), (1, 1, 1)))
    plain("crop 2^31", ValueError, "crop", str(2**31), crop=((2**31, 0), (1, 1)))
    for value in ("mean", None, 1):
        plain(f"overlap {value!r}", ValueError, "overlap", '"sum"', '"last"', repr(value), overlap=value)

    bad("input of integers", TypeError, "input", "float32", "uint8", input=lambda t: t.switches)
    bad("one window", ValueError, "input", "(U, C, h, w)", "(3, 2, 2)", input=lambda t: t.windows[0])
    for value in (None, [[1.0]], 3.0):
        plain(f"weight {value!r}", TypeError, "weight", "Tensor", type(value).__name__, weight=value)
    bad("weight of integers", TypeError, "weight", "float32", "int32", weight=lambda t: t.weight.int())
    bad("weight dtype", TypeError, "weight", "torch.float32", "torch.float64", weight=lambda t: t.weight.double())
    bad("weight 3-d", ValueError, "weight", "(K, C / groups, kh, kw)", "(12, 3, 3)", weight=lambda t: t.weight[0])
    for axis in range(4):
        bad(
            f"weight empty along {axis}",
            ValueError,
            "weight",
            "empty",
            weight=lambda t, a=axis: t.weight.narrow(a, 0, 0),
        )
    bad("weight rows", ValueError, "weight", "3 rows", "(2, 12, 3, 3)", weight=lambda t: t.weight[:2])
    bad("weight device", ValueError, "weight", "device", "meta", weight=lambda t: t.weight.to("meta"))
    bad("weight sparse", TypeError, "weight", "sparse", weight=lambda t: t.weight.to_sparse())
    bad("too few image", ValueError, "image", "(5,)", "(4,)", image=lambda t: t.image[:4])
    bad("too few origin", ValueError, "origin", "(5, 2)", "(4, 2)", origin=lambda t: t.origin[:4])
    bad("image int32", TypeError, "image", "int64", "int32", image=lambda t: t.image.int())
    bad("origin list", TypeError, "origin", "int64", "list", origin=lambda t: [[0, 0]] * 5)
    bad("origin of floats", TypeError, "origin", "int64", "float32", origin=lambda t: t.origin.float())
    bad("image device", ValueError, "image", "device", "meta", image=lambda t: t.image.to("meta"))

    def codes(what: str, error: type[Exception], *message: str, switches: Callable[[Tensors], Any]) -> None:
        bad(what, error, "switches", *message, switches=switches, pool_kernel_size=lambda t: 2)

    codes("switches list", TypeError, "Tensor", "list", switches=lambda t: [[0]])
    codes(
        "switches of other channels", ValueError, "(N, 3, PH, PW)", "(2, 2, 4, 4)", switches=lambda t: t.switches[:, :2]
    )
    codes("switches 3-d", ValueError, "(N, 3, PH, PW)", "(3, 4, 4)", switches=lambda t: t.switches[0])
    codes("switches dtype", TypeError, "uint8", "int16", switches=lambda t: t.switches.short())
    codes("switches device", ValueError, "device", "meta", switches=lambda t: t.switches.to("meta"))
    bad("no pool_kernel_size", TypeError, "pool_kernel_size", "switches", switches=lambda t: t.switches)

    bad("packed list", TypeError, "packed", "Tensor", "list", packed=lambda t: [1.0])
    bad("packed device", ValueError, "packed", "device", "meta", packed=lambda t: dk.pack_weight(t.weight).to("meta"))
    window_cases("backproject2d", project_pooled, prefix="pool_")
    map_cases("backproject2d", "input", lambda t, x: project(t, input=x), lambda t: t.pooled)

    for value in (None, [[1.0]]):
        got = type(value).__name__
        case(f"pack_weight: {got}", lambda t, v=value: dk.pack_weight(v), TypeError, "weight", "Tensor", got)
    case("pack_weight: integers", lambda t: dk.pack_weight(t.weight.int()), TypeError, "weight", "float32", "int32")
    case("pack_weight: 2-d", lambda t: dk.pack_weight(t.weight[0, 0]), ValueError, "weight", "(3, 3)")
    case("pack_weight: empty", lambda t: dk.pack_weight(t.weight[:0]), ValueError, "weight", "empty", "(0, 12, 3, 3)")
    case("pack_weight: sparse", lambda t: dk.pack_weight(t.weight.to_sparse()), TypeError, "weight", "sparse")
    case("pack_weight: stride 0", lambda t: dk.pack_weight(t.weight, 0), ValueError, "stride", "1", "(0, 0)")
    case("pack_weight: dilation", lambda t: dk.pack_weight(t.weight, 1, 0), ValueError, "dilation", "1", "(0, 0)")
    case("pack_weight: groups", lambda t: dk.pack_weight(t.weight, 1, 1, 2), ValueError, "groups", "3 rows", "2")
    case("pack_weight: groups text", lambda t: dk.pack_weight(t.weight, 1, 1, "1"), TypeError, "groups", "int", "'1'")


projection_cases()

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


@pytest.mark.parametrize("taps", [(3, 3), (5, 5), (1, 1)], ids=str)
def test_weight_packed_for_something_else_is_refused(device: torch.device, backend: str, taps: tuple[int, int]) -> None:
    """Whatever has not the size or the dtype of what pack_weight makes."""
    if backend == "reference":
        pytest.skip("the reference reads the weight itself")
    t = Tensors(device)
    weight = torch.randn(3, 12, *taps, device=device)
    packed = dk.pack_weight(weight)
    others = {
        "another channel": dk.pack_weight(torch.randn(4, 12, *taps, device=device)),
        "other taps": dk.pack_weight(torch.randn(3, 12, 7, 2, device=device)),
        "another dtype": dk.pack_weight(weight.double()),
        "a part": packed.flatten()[:-1],
        "with gaps": packed.flatten().repeat_interleave(2)[::2],
        "integers": packed.int(),
        "nothing": packed.flatten()[:0],
    }
    assert torch.equal(project(t, weight=weight, packed=packed)[0], project(t, weight=weight)[0])
    for what, other in others.items():
        with pytest.raises((ValueError, TypeError), match="^packed must"):
            raise AssertionError(f"accepted {what}: {project(t, weight=weight, packed=other)[0].shape}")


@pytest.mark.parametrize("number", [-1, 2, 2**31, -(2**63)])
def test_image_of_a_projection_out_of_range(device: torch.device, number: int) -> None:
    t = Tensors(device)
    t.image[3] = number
    if device.type == "cuda":
        out = project_pooled(t, 2)[0]
        assert not out[3].any(), "a GPU gives zeros for a window of no image"
        return
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"^image must be between 0 and [13], got"):
            if mapped:  # also where the next entry's images follow
                many = torch.stack([t.switches, t.switches])
                torch.vmap(lambda s: project(t, switches=s, pool_kernel_size=2)[0])(many)
            else:
                project_pooled(t, 2)


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
    child = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=1200, check=False)
    last = child.stdout.splitlines()[-1:] or ["nothing"]
    assert child.returncode == 0, f"exit code {child.returncode} after {last[0]}\n{child.stderr[-3000:]}"
    assert last[0].startswith("all "), last
