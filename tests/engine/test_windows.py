"""Receptive-field arithmetic against what autograd finds reachable, and the moving of windows against loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from properties import given, settings, st
from torch import Tensor

from deconv_kernels import Units
from deconv_kernels.engine.fields import Axis, Window, as_map, receptive_fields
from deconv_kernels.engine.positions import Origins, Positions, UnitBuffer
from deconv_kernels.engine.signal import Windows, place
from deconv_kernels.engine.steps.base import Step
from deconv_kernels.engine.steps.convolution import Convolution
from deconv_kernels.engine.steps.linear import Flatten, Linear
from deconv_kernels.engine.steps.pointwise import Rectifier
from deconv_kernels.engine.steps.pooling import MaxPool
from deconv_kernels.engine.steps.whole import Whole


def sliding_output(length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    extent = dilation * (kernel - 1) + 1
    room = length + 2 * padding - extent
    if room < 0:
        return 0
    windows = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    return windows - 1 if ceil_mode and (windows - 1) * stride >= length + padding else windows


def ones_sum(x: Tensor, kernel: int, stride: int, padding: int, dilation: int, size: int) -> Tensor:
    """Sums of the windows of a 1-d map; those that begin inside it count even where they overhang the padding."""
    x = F.pad(x, (padding, padding + kernel * dilation + stride))
    return F.conv1d(x, torch.ones(1, 1, kernel, dtype=x.dtype), stride=stride, dilation=dilation)[..., :size]


sliding = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3), st.booleans(), st.booleans()
).filter(lambda s: s[2] <= s[0] // 2)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 40), chain=st.lists(sliding, min_size=1, max_size=5), data=st.data())
def test_boxes_are_what_autograd_reaches(length: int, chain: list[tuple], data: st.DataObject) -> None:
    """On one axis (the axes are independent), with one channel of positive weights."""
    steps: list[Step] = []
    lengths = [length]
    images = torch.ones(1, 1, length, dtype=torch.float64, requires_grad=True)
    x = images
    contiguous = True
    for index, (kernel, stride, padding, dilation, ceil_mode, pools) in enumerate(chain):
        ceil_mode = ceil_mode and pools
        size = sliding_output(lengths[-1], kernel, stride, padding, dilation, ceil_mode)
        if size < 1:
            break
        window = ((1, kernel), (1, stride), (0, padding), (1, dilation))
        step = MaxPool(str(index), *window, ceil_mode) if pools else Convolution(str(index), None, None, *window, 1)
        steps.append(step)
        # Without gaps between the taps, and with none left over at the end of a map, a window is reached to its ends.
        left_over = (lengths[-1] + 2 * padding - kernel) % stride
        contiguous &= dilation == 1 and stride <= kernel and left_over == 0
        lengths.append(size)
        x = ones_sum(x, kernel, stride, padding, dilation, size)
        assert x.shape[-1] == size
    if not steps:
        return
    position = data.draw(st.integers(0, lengths[-1] - 1))
    (gradient,) = torch.autograd.grad(x[0, 0, position], images)
    reached = gradient[0, 0].nonzero().flatten().tolist()
    windows = chain_fields(steps, [(1, 1, size) for size in lengths])
    axis = windows[0].axes[1]
    begin = int(axis.origin(torch.tensor(position)))
    end = begin + axis.size
    assert axis.length == length
    assert axis.is_full or axis.size < length
    assert all(begin <= p < end for p in reached)
    if contiguous and not axis.is_full and reached:
        assert (reached[0], reached[-1] + 1) == (max(begin, 0), min(end, length))


def chain_fields(steps: list[Step], shapes: list[tuple[int, ...]]) -> list[Window | None]:
    sources = [(index,) for index in range(len(steps))]
    return receptive_fields(steps, sources, shapes, len(steps), Window.unit(as_map(shapes[-1], 2)))


def test_vgg16_conv5_3_has_its_known_receptive_field() -> None:
    steps: list[Step] = []
    shapes = [(3, 224, 224)]
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if steps:
            steps.append(MaxPool("pool", (2, 2), (2, 2), (0, 0), (1, 1), False))
            shapes.append((shapes[-1][0], shapes[-1][1] // 2, shapes[-1][2] // 2))
        for _ in range(convolutions):
            steps += [
                Convolution("conv", None, None, (3, 3), (1, 1), (1, 1), (1, 1), 1),
                Rectifier("relu", "deconvnet"),
            ]
            shapes += [(channels, *shapes[-1][1:])] * 2
    (window, *_, unit) = chain_fields(steps, shapes)
    assert unit == Window(512, (Axis(14, 1, 1, 0), Axis(14, 1, 1, 0)))
    assert window.axes[0] == Axis(length=224, size=196, stride=16, offset=-90)


def test_flat_and_averaging_steps_reach_the_whole_map() -> None:
    steps = [Whole("pool", None, signals=1, linear=True), Flatten("flatten"), Linear("fc", None, None)]
    windows = chain_fields(steps, [(3, 9, 7), (3, 3, 2), (18,), (5,)])
    assert windows[0] == Window.full((3, 9, 7))
    assert windows[2] == Window.full((18, 1, 1))
    assert windows[3] == Window.unit((5, 1, 1))


@settings(max_examples=60, deadline=None)
@given(
    units=st.integers(0, 5),
    size=st.integers(1, 6),
    length=st.integers(1, 9),
    dimension=st.sampled_from((2, 3)),
    data=st.data(),
)
def test_place_puts_windows_where_a_loop_puts_them(
    units: int, size: int, length: int, dimension: int, data: st.DataObject
) -> None:
    origin = data.draw(st.lists(st.integers(-7, 10), min_size=units, max_size=units))
    shape = (units, 2, size, 3) if dimension == 2 else (units, 2, 3, size)
    values = torch.randn(shape)
    expected = torch.zeros((units, 2, length, 3) if dimension == 2 else (units, 2, 3, length))
    for u, begin in enumerate(origin):
        for i in range(size):
            if 0 <= begin + i < length:
                expected.select(dimension, begin + i)[u] = values.select(dimension, i)[u]
    placed = place(values, torch.tensor(origin, dtype=torch.int64), length, dimension)
    assert torch.equal(placed, expected)


def positions_of(image: Tensor, place: Tensor, *windows: Window) -> Positions:
    """Units at some places, in a walk that asks for the origins of some windows."""
    origins = Origins((place.amax(0) + 1).tolist(), windows)
    buffer = UnitBuffer(origins, len(image), torch.float32, torch.device("cpu"))
    units = Units.of_table("", torch.cat((image[None], image[None], place.T)))
    buffer.fill(units.table().numpy(), None)
    return buffer.positions((tuple(place.amin(0).tolist()), tuple(place.amax(0).tolist())))


@pytest.mark.parametrize(("size", "offset", "length"), [(5, -2, 4), (3, 0, 5), (7, -1, 5), (4, 0, 4), (3, -1, 4)])
def test_whole_maps_are_cut_and_padded(size: int, offset: int, length: int) -> None:
    values = torch.randn(2, 3, size, 2)
    positions = positions_of(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64))
    reached = Window(3, (Axis(length, size, 0, offset), Axis.full(2)))
    moved = Windows(values, reached, positions).move(values, reached, Window.full((3, length, 2)))
    expected = place(values, torch.tensor([offset, offset]), length, 2)
    assert torch.equal(moved.values, expected)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(3, 8), width=st.integers(3, 8), size=st.integers(1, 3), offset=st.integers(-3, 1), data=st.data()
)
def test_crop_and_clearing_agree_with_loops(
    height: int, width: int, size: int, offset: int, data: st.DataObject
) -> None:
    units = data.draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=4
        )
    )
    image, yx = torch.tensor(units)[:, 0], torch.tensor(units)[:, 1:]
    maps = torch.randn(2, 3, height, width)
    window = Window(3, (Axis(height, size, 1, offset), Axis.full(width)))
    values = torch.randn(len(units), 3, size, width)
    windows = Windows(values.clone(), window, positions_of(image, yx, window))
    cropped = windows.crop(maps)
    cleared = windows.clear_overhang().values
    for u, (n, row, _) in enumerate(units):
        for i in range(size):
            r = row + offset + i
            inside = 0 <= r < height
            assert torch.equal(cropped[u, :, i], maps[n, :, min(max(r, 0), height - 1)])
            assert torch.equal(cleared[u, :, i], values[u, :, i] if inside else torch.zeros(3, width))
