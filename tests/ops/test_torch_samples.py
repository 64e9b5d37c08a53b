"""PyTorch's own sample inputs for max_pool2d and max_unpool2d."""

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


@functools.cache
def op_info(name: str) -> Any:
    from torch.testing._internal.common_methods_invocations import op_db

    return next(info for info in op_db if info.name == name and not info.variant_test_name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_of_max_pool2d(backend: str, device: torch.device, dtype: torch.dtype, threads: None) -> None:
    torch.set_num_threads(1)
    left_out: Counter[str] = Counter()
    seen = 0
    samples = list(op_info("nn.functional.max_pool2d").sample_inputs("cpu", dtype))
    for sample in samples[:: 10 if backend == "reference" else 2]:  # each comes with and without return_indices
        arguments = {**sample.kwargs, "return_indices": True}
        assert not sample.args
        expected, indices = F.max_pool2d(sample.input, **arguments)
        arguments.pop("return_indices")
        values, switches = dk.max_pool2d(sample.input.to(device), **arguments)
        assert_same_bits(values, expected, str(arguments))
        seen += 1
        window = {key: arguments[key] for key in ("kernel_size", "stride", "padding", "dilation") if key in arguments}
        if bool((expected == -torch.inf).any()):
            left_out["indices of windows without a tap in the map"] += 1
            continue
        size = sample.input.shape[-2:]
        assert_same_bits(dk.switches_to_indices(switches, size, **window), indices, str(arguments))
    assert seen >= 100
    assert not left_out, left_out


def test_error_inputs_of_max_pool2d(device: torch.device) -> None:
    """What ATen refuses is refused here too, as a ValueError."""
    for error in op_info("nn.functional.max_pool2d").error_inputs("cpu"):
        arguments = {key: value for key, value in error.sample_input.kwargs.items() if key != "return_indices"}
        with pytest.raises(ValueError, match="padding|empty|does not fit|kernel_size"):
            dk.max_pool2d(error.sample_input.input.to(device), *error.sample_input.args, **arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_of_max_unpool2d(backend: str, device: torch.device, dtype: torch.dtype, threads: None) -> None:
    """PyTorch pools with dilation or ceil_mode and then unpools without saying so: such indices fit no window."""
    torch.set_num_threads(1)
    left_out: Counter[str] = Counter()
    seen = 0
    samples = list(op_info("nn.functional.max_unpool2d").sample_inputs("cpu", dtype))
    for sample in samples[:: 5 if backend == "reference" else 1]:
        (indices,) = sample.args
        arguments = dict(sample.kwargs)
        size = arguments.pop("output_size")
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
        out = dk.max_unpool2d(sample.input.to(device), switches, output_size=size, overlap="last", **arguments)
        assert_same_bits(out, F.max_unpool2d(sample.input, indices, output_size=size, **arguments), str(arguments))
        seen += 1
    print(f"{seen} samples compared, left out: {dict(left_out)}")
    assert seen > left_out.total()
