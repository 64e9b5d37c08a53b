"""PyTorch's own sample inputs for pooling and unpooling of one, two and three axes."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import DTYPES, assert_same_bits

import deconv_kernels as dk

pytest.importorskip("expecttest", reason="torch.testing._internal needs the package expecttest")

RANKS = (1, 2, 3)
POOL = {1: (F.max_pool1d, dk.max_pool1d), 2: (F.max_pool2d, dk.max_pool2d), 3: (F.max_pool3d, dk.max_pool3d)}
UNPOOL = {
    1: (F.max_unpool1d, dk.max_unpool1d),
    2: (F.max_unpool2d, dk.max_unpool2d),
    3: (F.max_unpool3d, dk.max_unpool3d),
}
STEPS = {1: (10, 2), 2: (10, 2), 3: (20, 5)}  # which samples the reference takes, and the others
WINDOW = ("kernel_size", "stride", "padding", "dilation")


@functools.cache
def op_info(name: str) -> Any:
    from torch.testing._internal.common_methods_invocations import op_db

    return next(info for info in op_db if info.name == name and not info.variant_test_name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", RANKS)
def test_samples_of_max_pool(backend: str, device: torch.device, rank: int, dtype: torch.dtype, threads: None) -> None:
    """Values, indices and, of sums in the windows' own precision, the gradient, bit for bit."""
    torch.set_num_threads(1)
    (aten, ours), seen = POOL[rank], 0
    samples = list(op_info(f"nn.functional.max_pool{rank}d").sample_inputs("cpu", dtype))
    for sample in samples[:: STEPS[rank][backend != "reference"]]:  # each comes with and without return_indices
        arguments = {**sample.kwargs, "return_indices": True}
        assert not sample.args
        expected, indices = aten(sample.input, **arguments)
        arguments.pop("return_indices")
        input = sample.input.detach().to(device).requires_grad_(dtype == torch.float64)
        values, switches = ours(input, **arguments)
        assert_same_bits(values.detach(), expected, str(arguments))
        seen += 1
        assert not bool((expected == -torch.inf).any())
        window = {key: arguments[key] for key in WINDOW if key in arguments}
        size = sample.input.shape[-rank:]
        assert_same_bits(dk.switches_to_indices(switches, size, **window), indices, str(arguments))
        if input.requires_grad:
            leaf = sample.input.detach().requires_grad_()
            upstream = torch.randn_like(expected)
            (theirs,) = torch.autograd.grad(aten(leaf, **arguments), leaf, upstream)
            (gradient,) = torch.autograd.grad(values, input, upstream.to(device))
            assert_same_bits(gradient, theirs, str(arguments))
    assert seen >= 25


@pytest.mark.parametrize("rank", RANKS)
def test_error_inputs_of_max_pool(device: torch.device, rank: int) -> None:
    """What ATen refuses is refused here too, as a ValueError."""
    for error in op_info(f"nn.functional.max_pool{rank}d").error_inputs("cpu"):
        arguments = {key: value for key, value in error.sample_input.kwargs.items() if key != "return_indices"}
        with pytest.raises(ValueError, match="padding|empty|does not fit|kernel_size|stride|dilation|must have shape"):
            POOL[rank][1](error.sample_input.input.to(device), *error.sample_input.args, **arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", RANKS)
def test_samples_of_max_unpool(
    backend: str, device: torch.device, rank: int, dtype: torch.dtype, threads: None
) -> None:
    """PyTorch pools with dilation or ceil_mode and then unpools without saying so: such indices fit no window."""
    torch.set_num_threads(1)
    (aten, ours), left_out, seen = UNPOOL[rank], Counter[str](), 0
    samples = list(op_info(f"nn.functional.max_unpool{rank}d").sample_inputs("cpu", dtype))
    for sample in samples[:: 5 if backend == "reference" else 1]:
        (indices,) = sample.args
        arguments = dict(sample.kwargs)
        size = arguments.pop("output_size")
        size = size[-rank:]
        try:
            switches = dk.indices_to_switches(indices.to(device), size, **arguments)
        except ValueError as error:
            left_out["indices of a dilated pooling, unpooled as one without dilation"] += 1
            assert "does not cover" in str(error) or "pools to" in str(error)
            continue
        if device.type == "cuda" and not torch.equal(
            dk.switches_to_indices(switches, size, **arguments).cpu(), indices
        ):
            left_out["indices of a dilated pooling, unpooled as one without dilation"] += 1
            continue
        out = ours(sample.input.to(device), switches, output_size=size, overlap="last", **arguments)
        assert_same_bits(out, aten(sample.input, indices, output_size=size, **arguments), str(arguments))
        seen += 1
    print(f"{seen} samples compared, left out: {dict(left_out)}")
    assert seen > left_out.total()
