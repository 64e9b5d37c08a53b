"""A pytest plugin: the C++ ops of CPU tensors run in another program, which may be one of another processor.

The environment variable DECONV_EMULATED_CPU is its command, as that of `csrc/host/without_torch.cpp` under an emulator.
With `--sample=N` only N of the tests run, which the seed chooses.
"""

from __future__ import annotations

import ctypes
import functools
import os
import random
import shlex
import struct
import subprocess
from typing import Any

import pytest
import torch
from torch import Tensor

from deconv_kernels.ops import library

NONE, INTEGER, INTEGERS, STRING, TENSOR, OPTIONAL_TENSOR = range(6)
CODES = {
    torch.uint8: 0,
    torch.int16: 2,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bfloat16: 15,
}
DTYPES = {code: dtype for dtype, code in CODES.items()}


def integers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def elements_spanned(sizes: list[int], strides: list[int]) -> int:
    if 0 in sizes:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def written(argument: Any, optional: bool) -> bytes:
    if argument is None:
        return integers(NONE)
    if isinstance(argument, Tensor):
        sizes, strides = list(argument.shape), list(argument.stride())
        memory = elements_spanned(sizes, strides) * argument.element_size()
        head = integers(CODES[argument.dtype], len(sizes), *sizes, len(strides), *strides)
        kind = OPTIONAL_TENSOR if optional else TENSOR
        return integers(kind) + head + (ctypes.string_at(argument.data_ptr(), memory) if memory else b"")
    if isinstance(argument, str):
        return integers(STRING, len(argument)) + argument.encode()
    if isinstance(argument, (list, tuple)):
        return integers(INTEGERS, len(argument), *argument)
    return integers(INTEGER, int(argument))


class EmulatedCpu:
    """The program, and calls of it."""

    def __init__(self, command: list[str]) -> None:
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, name: str, *arguments: Any) -> Any:
        schema = getattr(torch.ops.deconv_kernels, name).default._schema
        results = len(schema.returns)
        optional = ["Optional" in str(argument.type) for argument in schema.arguments]
        assert self.program.stdin is not None
        self.program.stdin.write(integers(len(name)) + name.encode() + integers(results, len(arguments)))
        for argument, may_be_none in zip(arguments, optional, strict=True):
            self.program.stdin.write(written(argument, may_be_none))
        self.program.stdin.flush()
        if self.read_integer() != 0:
            raise RuntimeError(self.read(self.read_integer()).decode())
        returned = [self.read_tensor() for _ in range(results)]
        return tuple(returned) if results > 1 else returned[0]

    def read(self, count: int) -> bytes:
        assert self.program.stdout is not None
        found = self.program.stdout.read(count)
        assert len(found) == count, f"the program ended with {self.program.wait()}"
        return found

    def read_integer(self) -> int:
        value: int = struct.unpack("<q", self.read(8))[0]
        return value

    def read_tensor(self) -> Tensor:
        dtype = DTYPES[self.read_integer()]
        sizes = [self.read_integer() for _ in range(self.read_integer())]
        strides = [self.read_integer() for _ in range(self.read_integer())]
        count = elements_spanned(sizes, strides)
        if count == 0:
            return torch.empty_strided(sizes, strides, dtype=dtype)
        return torch.frombuffer(bytearray(self.read(count * dtype.itemsize)), dtype=dtype).as_strided(sizes, strides)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, help="run so many of the tests")


def pytest_configure() -> None:
    global _kernels
    emulated = EmulatedCpu(shlex.split(os.environ["DECONV_EMULATED_CPU"]))
    _kernels = torch.library.Library(library.NAMESPACE, "IMPL")
    for op in library.SCHEMAS:
        _kernels.impl(op, functools.partial(emulated.call, op), "CPU")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    count = config.getoption("--sample")
    if count is not None:
        chosen = random.Random(os.environ.get("DECONV_TEST_SEED")).sample(range(len(items)), count)
        items[:] = [items[i] for i in sorted(chosen)]


_kernels: torch.library.Library | None = None
