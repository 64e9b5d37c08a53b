"""Launches that are kept between calls, against what Triton itself would launch for the same tensors.

Nothing is compiled and nothing runs: a kernel is what Triton would compile it from, and tells what it is run with.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from deconv_kernels import backends

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if backends.triton_interprets():
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from no_launches import DEVICE, launching_nothing  # noqa: E402
from triton.compiler import CompiledKernel  # noqa: E402

import deconv_kernels as dk  # noqa: E402

COMMON = importlib.import_module("deconv_kernels.ops.triton._common")
CALLS = 150


class Uncompiled(CompiledKernel):
    """What a kernel would be compiled from."""

    ran: tuple[Any, ...] = ()

    def __init__(self, source: Any, options: dict[str, Any]) -> None:
        self.src, self.name = source, source.name
        self.about = (source.signature, source.constants, source.attrs, options)
        self.module = self.function = self.packed_metadata = None

    def _init_handles(self) -> None:
        pass

    def run(self, x: int, y: int, z: int, stream: int, *rest: Any) -> None:
        _, _, _, *hooks_and_arguments = rest
        Uncompiled.ran = (self.about, (x, y, z), stream, *hooks_and_arguments)


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Windows or weights whose first element lies on a multiple of 16 bytes or one element behind it."""
    behind = random.randint(0, 1)
    return torch.zeros(torch.Size(shape).numel() + 16, dtype=dtype)[behind:][: torch.Size(shape).numel()].view(shape)


def call_an_op() -> None:
    """With few sizes, so that calls meet launches that others left; some are 1 or multiples of 16."""
    dtype = random.choice((torch.float32, torch.float16))
    units, channels, features = (random.choice(of) for of in ((1, 2, 16), (1, 3, 16), (3, 16, 40)))
    size, images = (random.choice((4, 16)), 4), 2
    image = torch.zeros(units, dtype=torch.int64)
    origin = torch.zeros((units, 2), dtype=torch.int64)
    input = values(units, channels, *size, dtype=dtype)
    switches = values(images, channels, *size, dtype=torch.uint8)
    match random.randrange(5):
        case 0:
            dk.max_pool2d(input, 2, bias=random.choice((None, values(channels, dtype=dtype))))
        case 1:
            dk.max_unpool2d(input, values(*input.shape, dtype=torch.uint8), 2)
        case 2:
            dk.max_unpool2d_window(input, switches, image, origin, 2)
        case 3:
            dk.switches_to_indices(switches, (2 * size[0], 8), 2)
        case 4:
            weight = values(channels, features, *random.choice(((3, 3), (1, 1))), dtype=dtype)
            pooled = random.choice(({}, {"switches": switches, "pool_kernel_size": 2}))
            dk.backproject2d(input, weight, image, origin, **pooled)


def test_what_is_launched_is_what_triton_would_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    call = COMMON.Launch.__call__
    kept = 0

    def launch(launch: Any, *tensors: Tensor | None) -> None:
        nonlocal kept
        kernel = launch.kernel
        if getattr(kernel, "compile", None) is not uncompiled:
            assert kernel.device_caches[DEVICE]  # which sets the attribute
            monkeypatch.setattr(kernel, "compile", uncompiled)
        assert {tensor.device for tensor in tensors if tensor is not None} == {launch.device}
        before = len(launch._compiled)
        call(launch, *tensors)
        kept += before == len(launch._compiled)
        launched, Uncompiled.ran = Uncompiled.ran, ()
        kernel[(launch.programs,)](*tensors, **launch.arguments, **launch.options)
        pairs = zip(launched, Uncompiled.ran, strict=True)
        assert len(launched) > 8 and all(mine is its or mine == its for mine, its in pairs)

    def uncompiled(source: Any, target: Any, options: dict[str, Any]) -> Uncompiled:
        return Uncompiled(source, options)

    monkeypatch.setattr(COMMON.Launch, "__call__", launch)
    with launching_nothing():
        for _ in range(CALLS):
            call_an_op()
    print(f"{kept} of {CALLS} launches had been kept")
    assert kept > CALLS // 10
