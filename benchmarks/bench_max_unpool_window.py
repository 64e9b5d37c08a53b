"""max_unpool2d_window against ATen on whole maps: put windows in frames, unpool, cut windows out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUTS, bytes_of

import deconv_kernels as dk


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "channels", "size", "kernel", "window"),
    [("vgg16 pool4", 512, 28, 2, 7), ("vgg16 pool2", 128, 112, 2, 17), ("alexnet pool1", 64, 55, 3, 7)],
    ids=["vgg16-pool4", "vgg16-pool2", "alexnet-pool1"],
)
def test_unpool_windows(
    compare: Any, name: str, channels: int, size: int, kernel: int, window: int, layout: str
) -> None:
    units, images, stride = 32, 4, 2
    x = torch.randn(images, channels, size, size).to(memory_format=LAYOUTS[layout])
    pooled, switches = dk.max_pool2d(x, kernel, stride)
    indices = F.max_pool2d(x, kernel, stride, return_indices=True)[1]
    side = pooled.shape[-1]
    signal = torch.randn(units, channels, window, window).to(memory_format=LAYOUTS[layout])
    image = torch.arange(units) % images
    origin = torch.randint(0, side - window + 1, (units, 2))
    arguments = [kernel] * 2, [stride] * 2, [0, 0], [1, 1], False

    def ours() -> torch.Tensor:
        return dk.max_unpool2d_window(signal, switches, image, origin, kernel, stride)[0]

    def aten() -> torch.Tensor:
        frames = signal.new_zeros(units, channels, side, side).to(memory_format=LAYOUTS[layout])
        for unit, (y, x_) in enumerate(origin.tolist()):
            frames[unit, :, y : y + window, x_ : x_ + window] = signal[unit]
        wide = torch.ops.aten.max_pool2d_with_indices_backward(frames, x[image], *arguments, indices[image])
        extent = (window - 1) * stride + kernel
        cuts = [
            wide[unit, :, y * stride : y * stride + extent, x_ * stride : x_ * stride + extent]
            for unit, (y, x_) in enumerate(origin.tolist())
        ]
        return torch.stack(cuts)

    out = ours()
    assert torch.equal(out, aten())
    compare(
        ours,
        {"ATen, whole maps": aten},
        bytes_of(signal, signal.to(torch.uint8), out),
        op="unpool windows",
        shape=name,
        size=[units, channels, window, window],
        layout=layout,
    )
