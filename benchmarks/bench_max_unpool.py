"""max_unpool2d with relu against ATen's gradient of the pooling ("sum") and F.max_unpool2d ("last").

Two orders of ATen are timed. Rectifying the pooled values first is the cheaper one; where windows do not overlap it
gives the same, elsewhere only rectifying the result does.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUTS, bytes_of, pool_cases

import deconv_kernels as dk


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "shape", "kernel", "stride", "ceil_mode"), pool_cases())
def test_unpool_and_relu(
    compare: Any,
    name: str,
    shape: tuple[int, ...],
    kernel: int,
    stride: int,
    ceil_mode: bool,
    layout: str,
    overlap: str,
) -> None:
    x = torch.randn(shape).to(memory_format=LAYOUTS[layout])
    size = list(shape[2:])
    pooled, indices = F.max_pool2d(x, kernel, stride, ceil_mode=ceil_mode, return_indices=True)
    switches = dk.indices_to_switches(indices, size, kernel, stride)
    signal = torch.randn_like(pooled)
    window = [kernel] * 2, [stride] * 2, [0, 0], [1, 1], ceil_mode

    def ours() -> Any:
        return dk.max_unpool2d(signal, switches, kernel, stride, output_size=size, overlap=overlap, relu=True)

    def unpool(values: torch.Tensor) -> torch.Tensor:
        if overlap == "sum":
            return torch.ops.aten.max_pool2d_with_indices_backward(values, x, *window, indices)
        return torch.ops.aten.max_unpool2d(values, indices, size)

    def aten() -> Any:
        return F.relu(unpool(signal))

    def aten_relu_first() -> Any:
        return unpool(F.relu(signal))

    out = ours()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where windows overlap, F.max_unpool2d has one result only so
    expected = aten()
    torch.set_num_threads(threads)
    assert torch.equal(out, expected)
    baselines = {"ATen": aten_relu_first, "ATen, relu last": aten} if kernel <= stride else {"ATen": aten}
    compare(
        ours,
        baselines,
        bytes_of(signal, switches, out),
        op=f"unpool + relu, {overlap}",
        shape=name,
        size=list(shape),
        layout=layout,
    )
