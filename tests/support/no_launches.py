"""A driver for Triton that launches nothing: its kernels go all the way to the card on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import triton
from kept_launches import MODULES, forget_launches
from triton.backends.compiler import GPUTarget

from deconv_kernels.ops import backends

SHARED_MEMORY = 232_448  # bytes a block may have on compute capability 9.0
DEVICE = 2**16  # no machine has so many: what is compiled for it is never taken for what a card has loaded


class Driver:
    """Says that it is a Hopper card, loads every binary and runs none."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": SHARED_MEMORY},
        load_binary=lambda *binary: (0, 0, 32, 0, 1024),
        unload_module=lambda module: None,
    )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *launch: None

    def get_current_device(self) -> int:
        return DEVICE

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@contextmanager
def launching_nothing() -> Iterator[None]:
    """Inside, every op runs by Triton's kernels on tensors of the CPU, which are launched by the driver above.

    What comes out is whatever lay in memory.
    """

    def operator(name: str, input: torch.Tensor) -> Any:
        return getattr(torch.ops.deconv_kernels_triton, name).default

    before = {name: getattr(backends, name) for name in ("operator", "chosen", "cpp_on_cpu")}
    active = triton.runtime.driver._active
    triton.runtime.driver.set_active(Driver())
    backends.operator, backends.chosen, backends.cpp_on_cpu = operator, lambda device: "triton", False  # type: ignore[assignment]
    try:
        yield
    finally:
        forget_launches()
        for module in MODULES:
            for kernel in vars(module).values():
                if isinstance(kernel, triton.JITFunction):
                    kernel.device_caches.pop(DEVICE, None)
        triton.runtime.driver._active = active
        vars(backends).update(before)
