"""max_pool2d against ATen doing the same: relu, then pooling with indices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUTS, bytes_of, pool_cases

import deconv_kernels as dk


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "shape", "kernel", "stride", "ceil_mode"), pool_cases())
def test_relu_and_pool(
    compare: Any, name: str, shape: tuple[int, ...], kernel: int, stride: int, ceil_mode: bool, layout: str
) -> None:
    x = torch.randn(shape).to(memory_format=LAYOUTS[layout])

    def ours() -> Any:
        return dk.max_pool2d(x, kernel, stride, ceil_mode=ceil_mode, relu=True)

    def aten() -> Any:
        return F.max_pool2d(F.relu(x), kernel, stride, ceil_mode=ceil_mode, return_indices=True)

    (values, switches), (expected, indices) = ours(), aten()
    assert torch.equal(values, expected)
    assert torch.equal(dk.switches_to_indices(switches, shape[2:], kernel, stride), indices)
    compare(
        ours,
        {"ATen": aten},
        bytes_of(x, values, switches),
        op="relu + pool + switches",
        shape=name,
        size=list(shape),
        layout=layout,
    )
