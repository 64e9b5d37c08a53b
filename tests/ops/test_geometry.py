"""Properties of poolings of every kind, searched by Hypothesis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from properties import assume, given, settings, st

import deconv_kernels as dk
from deconv_kernels.ops.geometry import Pooling

axes = st.integers(1, 7).flatmap(
    lambda kernel: st.tuples(st.just(kernel), st.integers(1, 6), st.integers(0, kernel // 2), st.integers(1, 4))
)
thorough = settings(deadline=None, max_examples=150, database=None)
few = settings(deadline=None, max_examples=40, database=None)


def aten_size(size: int, axis: tuple[int, int, int, int], ceil_mode: bool) -> int | None:
    """The size ATen pools one axis of `size` to, or None where no window fits."""
    kernel, stride, padding, dilation = axis
    map = torch.empty(1, size, 1, device="meta")
    try:
        pooled = F.max_pool2d(map, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), ceil_mode)
    except RuntimeError as error:
        assert "Output size is too small" in str(error)
        return None
    return pooled.shape[1]


@thorough
@given(axis=axes, size=st.integers(1, 60), ceil_mode=st.booleans())
def test_pooled_size_is_that_of_aten(axis: tuple[int, int, int, int], size: int, ceil_mode: bool) -> None:
    arguments = [(value, 1) for value in axis]
    arguments[2] = (axis[2], 0)
    ours = Pooling(*arguments).pooled_size((size, 1), ceil_mode)[0]
    expected = aten_size(size, axis, ceil_mode)
    assert ours == expected if expected is not None else ours < 1


@thorough
@given(axis=axes, pooled=st.integers(1, 9))
def test_unpooled_range_holds_exactly_the_sizes_that_pool_to_it(axis: tuple[int, int, int, int], pooled: int) -> None:
    pooling = Pooling(*zip(axis, (1, 1, 0, 1), strict=True))
    (smallest, _), (largest, _) = pooling.unpooled_range((pooled, 1))
    for size in range(1, largest + 12):
        pools = any(pooling.pooled_size((size, 1), ceil_mode)[0] == pooled for ceil_mode in (False, True))
        assert pooling.pools_to((size, 1), (pooled, 1)) == pools
        assert pools == (smallest <= size <= largest), f"size {size}, range {smallest} to {largest}"


@few
@given(y=axes, x=axes, extra=st.tuples(st.integers(0, 9), st.integers(0, 9)), seed=st.integers(0, 2**31))
def test_indices_and_switches_round_trip(
    y: tuple[int, int, int, int], x: tuple[int, int, int, int], extra: tuple[int, int], seed: int
) -> None:
    window = tuple(zip(y, x, strict=True))
    size = tuple(max(1, a[3] * (a[0] - 1) + 1 - 2 * a[2]) + e for a, e in zip((y, x), extra, strict=True))
    torch.manual_seed(seed)
    map = torch.randint(-2, 3, (2, 3, *size)).double()
    values, switches = dk.max_pool2d(map, *window)
    assume(bool((values > -torch.inf).all()))  # else a window has no tap in the map
    indices = dk.switches_to_indices(switches, size, *window)
    assert torch.equal(map.flatten(-2).gather(-1, indices.flatten(-2)), values.flatten(-2))
    assert torch.equal(dk.indices_to_switches(indices, size, *window), switches)
    assert torch.equal(indices, F.max_pool2d(map, *window, return_indices=True)[1])


@few
@given(y=axes, x=axes, extra=st.tuples(st.integers(0, 9), st.integers(0, 9)), seed=st.integers(0, 2**31))
def test_unpooling_is_the_adjoint_of_gathering(
    y: tuple[int, int, int, int], x: tuple[int, int, int, int], extra: tuple[int, int], seed: int
) -> None:
    """<unpool(g), map> = <g, values of the map at the switches>, exactly, in integers held by float64."""
    window = tuple(zip(y, x, strict=True))
    size = tuple(max(1, a[3] * (a[0] - 1) + 1 - 2 * a[2]) + e for a, e in zip((y, x), extra, strict=True))
    torch.manual_seed(seed)
    map = torch.randint(-99, 100, (2, 3, *size)).double()
    values, switches = dk.max_pool2d(map, *window)
    assume(bool((values > -torch.inf).all()))
    g = torch.randint(-99, 100, values.shape).double()
    unpooled = dk.max_unpool2d(g, switches, *window, size)
    assert (unpooled * map).sum().item() == (g * values).sum().item()
