"""switches_to_indices and indices_to_switches: ATen's indices, there and back."""

from __future__ import annotations

import random

import pytest
import torch
from pooling_cases import (
    DTYPES,
    LAYOUTS,
    Geometry,
    assert_dense,
    assert_same_bits,
    aten_pool,
    geometries,
    keeps_channels_last,
    random_shape,
    random_switches,
    random_values,
    switches_of,
)

import deconv_kernels as dk


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(backend: str, device: torch.device, layout: str) -> None:
    for geometry in geometries(backend):
        if geometry.windows_off_the_map.any():
            continue  # their switches name no position of the map
        batched = random.random() < 0.7
        shape = random_shape(geometry, batched)
        input = LAYOUTS[layout](random_values(shape, random.choice(DTYPES)).to(device), geometry.rank)
        _, expected = aten_pool(input, geometry, None, relu=False)
        expected = LAYOUTS[layout](expected, geometry.rank)
        switches = LAYOUTS[layout](switches_of(expected, geometry), geometry.rank).to(device)
        sizes = [geometry.size, list(geometry.size), (*shape[: -geometry.rank], *geometry.size)]
        size = random.choice(sizes[: 3 if geometry.rank > 1 else 2])
        indices = dk.switches_to_indices(switches, size, *geometry.window)
        assert_same_bits(indices, expected, f"indices of {geometry}")
        assert_dense(indices, keeps_channels_last(switches, geometry.rank), f"indices of {geometry}", geometry.rank)
        back = dk.indices_to_switches(expected.to(device), size, *geometry.window)
        assert_same_bits(back, switches, f"switches of {geometry}")
        assert_dense(back, keeps_channels_last(expected, geometry.rank), f"switches of {geometry}", geometry.rank)
        assert indices.device == back.device == device or device.type == "cuda"


def test_pooling_gives_the_indices_of_aten(device: torch.device) -> None:
    input = random_values((2, 9, 27, 31), torch.float32).to(device)
    geometry = Geometry((27, 31), (3, 3), (2, 2), (1, 1), ceil_mode=True)
    _, switches = dk.max_pool2d(input, *geometry.window, ceil_mode=True)
    indices = dk.switches_to_indices(switches, (27, 31), *geometry.window)
    assert_same_bits(indices, aten_pool(input, geometry, None, relu=False)[1], "indices")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", [2, 17])
def test_bad_values_raise_on_the_cpu_and_are_marked_on_a_gpu(device: torch.device, kernel: int, layout: str) -> None:
    """Each bad value alone, wherever it stands among good ones."""
    geometry = Geometry((4 * kernel + 1, 5 * kernel), (kernel, kernel), (kernel, kernel))
    shape = (2, 19, *geometry.pooled)
    good = random_switches(shape, geometry, outside=False)
    width, highest = geometry.size[1], geometry.size[0] * geometry.size[1]
    indices = dk.switches_to_indices(good.to(device), geometry.size, *geometry.window).cpu()
    bad_switches = [kernel * kernel, 255] if kernel == 2 else [289, 32767, -1, -32768]
    bad_indices = [-1, highest, highest + 1, 2**62, -(2**63), 2**63 - 1, kernel, width * kernel]
    for bad, tensor, convert in [(b, good, dk.switches_to_indices) for b in bad_switches] + [
        (b, indices, dk.indices_to_switches) for b in bad_indices
    ]:
        spoilt = tensor.clone()
        at = random.randrange(2), random.randrange(19), *((0, 0) if bad in (kernel, width * kernel) else (3, 4))
        spoilt[at] = bad
        spoilt = LAYOUTS[layout](spoilt.to(device))
        if device.type == "cpu":
            name = "switches" if tensor is good else "indices"
            with pytest.raises(ValueError, match=f"^{name} holds a "):
                convert(spoilt, geometry.size, *geometry.window)
        else:
            marked = convert(spoilt, geometry.size, *geometry.window)[at].item()
            assert marked == (0 if tensor is good else 255 if kernel == 2 else -1)


def test_switches_that_name_padding_raise_on_the_cpu(device: torch.device) -> None:
    switches = torch.full((1, 1, 3, 3), 4, dtype=torch.uint8)
    dk.switches_to_indices(switches.to(device), (5, 5), 3, 2, 1)
    for at, code in (((0, 0), 1), ((0, 0), 3), ((2, 2), 7), ((2, 2), 5), ((0, 2), 5), ((2, 0), 0)):
        spoilt = switches.clone()
        spoilt[0, 0, at[0], at[1]] = code
        if device.type == "cpu":
            with pytest.raises(ValueError, match="^switches holds a "):
                dk.switches_to_indices(spoilt.to(device), (5, 5), 3, 2, 1)
        else:
            assert dk.switches_to_indices(spoilt.to(device), (5, 5), 3, 2, 1)[0, 0, at[0], at[1]] == 0


def test_indices_between_dilated_taps_raise_on_the_cpu(device: torch.device) -> None:
    indices = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    for index in range(25):
        given = indices + index
        y, x = divmod(index, 5)
        if y % 2 == 0 and x % 2 == 0:
            assert dk.indices_to_switches(given.to(device), (5, 5), 3, 1, 0, 2).item() == y // 2 * 3 + x // 2
        elif device.type == "cpu":
            with pytest.raises(ValueError, match="^indices holds a "):
                dk.indices_to_switches(given.to(device), (5, 5), 3, 1, 0, 2)


@pytest.mark.parametrize("kernel", [2, 17])
def test_empty_batch(device: torch.device, kernel: int) -> None:
    geometry = Geometry((3 * kernel, 2 * kernel), (kernel, kernel), (kernel, kernel))
    switches = torch.empty(0, 5, 3, 2, dtype=geometry.switch_dtype, device=device)
    indices = dk.switches_to_indices(switches, geometry.size, kernel)
    assert (indices.shape, indices.dtype) == ((0, 5, 3, 2), torch.int64)
    back = dk.indices_to_switches(indices, geometry.size, kernel)
    assert (back.shape, back.dtype) == ((0, 5, 3, 2), geometry.switch_dtype)
