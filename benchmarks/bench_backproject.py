"""backproject2d against unpooling, rectifying and F.conv_transpose2d as separate calls.

The shapes are those that the engine meets below the deepest units of VGG16 and AlexNet, and, with small windows, just
below the units above every pool. Signals are random: half of them negative, as on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUTS

import deconv_kernels as dk
from deconv_kernels import models
from deconv_kernels.engine.plan import HOST_BYTES
from deconv_kernels.engine.steps.convolution import Convolution
from deconv_kernels.engine.steps.pooling import MaxPool

UNITS_OF = {
    models.VGG16: ("conv5_3", "conv5_1", "conv4_1", "conv3_1", "conv2_1"),
    models.AlexNet: ("relu5", "conv3", "conv2"),
}
MULTIPLY_ADDS = 4e9  # of one call, zeros included
MOST_UNITS = 512
MARGIN = 4  # by which the maps are larger than the windows
LARGEST_ERROR = 1e-5  # relative to the largest value of the result


class Case(NamedTuple):
    """A convolution to go back through: its weight, windows of signal on its output, and the pool above, if any."""

    layer: str
    weight: tuple[int, ...]
    stride: tuple[int, int]
    window: tuple[int, int]
    pool: tuple[int, int] | None  # kernel and stride
    multiply_adds: int

    @property
    def units(self) -> int:
        return min(MOST_UNITS, max(1, int(MULTIPLY_ADDS / self.multiply_adds)))


def cases() -> Iterator[Case]:
    """For the deepest units every convolution below them, for the others the first one below."""
    for network, layers in UNITS_OF.items():
        with torch.device("meta"):
            net = dk.Deconvnet(network(features_only=True).eval())
            record = net.record(torch.empty(1, 3, 224, 224), layers)
        for layer in layers:
            plan = net.plan(record, layer, max_bytes=HOST_BYTES).steps[: net.layer(layer).value - net.tape.inputs]
            found = list(_convolutions(network.__name__, plan, record.steps))
            yield from found if layer == layers[0] else found[:1]


def _convolutions(network: str, plan: Any, steps: Any) -> Iterator[Case]:
    pooled = None
    for planned in reversed(plan):
        step = steps[planned.number]
        if isinstance(step, MaxPool):
            pooled = planned
        elif isinstance(step, Convolution) and planned.multiply_adds:
            window = (planned if pooled is None else pooled).above.size
            pool = None if pooled is None else (pooled.step.kernel[0], pooled.step.stride[0])
            weight: Any = tuple(step.weight.shape)
            yield Case(f"{network} {step.name}", weight, step.stride, window, pool, planned.multiply_adds)
            pooled = None


def identity(case: Case) -> str:
    return f"{case.layer}-{'x'.join(map(str, case.window))}".replace(" ", "-")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [pytest.param(case, id=identity(case)) for case in cases()])
def test_backproject(compare: Any, case: Case, layout: str) -> None:
    memory_format = LAYOUTS[layout]
    units, (features, channels, *taps) = case.units, case.weight
    signal = torch.randn(units, features, *case.window).to(memory_format=memory_format)
    weight = torch.randn(case.weight)
    image = torch.randint(0, 2, (units,))
    origin = torch.randint(0, MARGIN + 1, (units, 2))
    packed = dk.pack_weight(weight, case.stride)
    filters = weight.contiguous(memory_format=memory_format)
    pooling: dict[str, Any] = {}
    unpooled, indices, window = signal, None, ()
    if case.pool is not None:
        kernel, step = case.pool
        codes = torch.randint(0, kernel**2, (2, features, *[length + MARGIN for length in case.window]))
        switches = codes.to(torch.uint8, memory_format=torch.channels_last)
        pooling = {"switches": switches, "pool_kernel_size": kernel, "pool_stride": step}
        # What ATen needs of the switches, int64 indices for every window, is made beforehand.
        size = [(length - 1) * step + kernel for length in case.window]
        unpooled = torch.empty(units, features, *size).to(memory_format=memory_format)
        indices = dk.switches_to_indices(cropped(switches, image, origin, case.window), size, kernel, step)
        indices = indices.contiguous(memory_format=memory_format)
        window = ([kernel] * 2, [step] * 2, [0, 0], [1, 1], False)

    def ours() -> Any:
        return dk.backproject2d(signal, weight, image, origin, case.stride, relu=True, packed=packed, **pooling)[0]

    def separate() -> Any:
        if indices is None:
            rectified = F.relu(signal)
        else:
            backward = torch.ops.aten.max_pool2d_with_indices_backward
            rectified = backward(signal, unpooled, *window, indices).relu_()
        return F.conv_transpose2d(rectified, filters, stride=case.stride)

    expected = separate()
    error = float((ours() - expected).abs().max() / expected.abs().max())
    assert error < LARGEST_ERROR, f"relative error {error:g}"
    above = "" if case.pool is None else " pooled" if case.pool[0] == case.pool[1] else " pooled, overlapping"
    compare(
        ours,
        {"ATen, separate calls": separate},
        op="backproject2d",
        shape=f"{case.layer}, {taps[0]}x{taps[1]}{'' if case.stride[0] == 1 else f'/{case.stride[0]}'} {features} to "
        f"{channels}{above}",
        size=[units, features, *case.window],
        layout=layout,
        multiply_adds=case.multiply_adds * units,
    )


def cropped(maps: torch.Tensor, image: torch.Tensor, origin: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Windows of `size` of the maps of images, beginning at their origins."""
    corners = zip(image.tolist(), origin.tolist(), strict=True)
    return torch.stack([maps[n, :, y : y + size[0], x : x + size[1]] for n, (y, x) in corners])
