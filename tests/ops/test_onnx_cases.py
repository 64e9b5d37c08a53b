"""ONNX's operator test cases for MaxPool and MaxUnpool, taken from the installed onnx package."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from pooling_cases import assert_same_bits

import deconv_kernels as dk

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

Case = tuple[Any, list[Any], list[Any]]


@functools.cache
def cases() -> dict[str, Case]:
    """Name -> node, inputs and outputs of every test case of the two operators."""
    found: dict[str, Case] = {}

    def keep(node: Any, inputs: list[Any], outputs: list[Any], name: str, **_: Any) -> None:
        found[name] = node, inputs, outputs

    from onnx.backend.test.case import node as nodes

    modules = [importlib.import_module(f"onnx.backend.test.case.node.{name}") for name in ("maxpool", "maxunpool")]
    with warnings.catch_warnings(), mock.patch.object(nodes, "expect", keep):
        warnings.simplefilter("ignore")
        for module in modules:
            importlib.reload(module)  # defining its class makes the cases
    return found


def window_of(node: Any, size: tuple[int, ...]) -> tuple[dict[str, Any], str | None]:
    """The pooling's arguments for our ops, or the reason why they are outside what the ops do."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    kernel = given["kernel_shape"]
    if len(kernel) != 2:
        return {}, f"a {len(kernel)}-d pooling"
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads = given.get("pads", [0, 0, 0, 0])
    if given.get("auto_pad", b"NOTSET") != b"NOTSET":
        total = [
            max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
        ]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    if pads[:2] != pads[2:]:
        return {}, f"padding that differs between the sides: {pads}"
    if any(p > k // 2 for p, k in zip(pads, kernel, strict=False)):
        return {}, f"padding {pads[:2]} above half the kernel {kernel}"
    window = {"kernel_size": kernel, "stride": strides, "padding": pads[:2], "dilation": dilations}
    return {**window, "ceil_mode": bool(given.get("ceil_mode", 0))}, None


NAMES = list(cases())


def test_there_are_cases() -> None:
    assert sum("maxpool" in name for name in NAMES) >= 15
    assert sum("maxunpool" in name for name in NAMES) >= 2


@pytest.mark.parametrize("name", [name for name in NAMES if "maxunpool" not in name])
def test_max_pool(device: torch.device, name: str) -> None:
    node, inputs, outputs = cases()[name]
    map, expected = torch.from_numpy(inputs[0]), torch.from_numpy(outputs[0])
    window, reason = window_of(node, inputs[0].shape[2:])
    if not map.is_floating_point():
        reason = f"a pooling of {map.dtype}"
    if reason is not None:
        pytest.skip(f"outside the ops: {reason}")
    ceil_mode = window.pop("ceil_mode")
    values, switches = dk.max_pool2d(map.to(device), **window, ceil_mode=ceil_mode)
    assert_same_bits(values, expected, name)
    if len(outputs) == 2:
        indices = dk.switches_to_indices(switches, map.shape[2:], **window).cpu()
        if any(a.name == "storage_order" and a.i == 1 for a in node.attribute):
            height, width = map.shape[2:]
            indices = indices % width * height + indices // width
        # One image of one channel: counted over the whole tensor or over the map is the same.
        assert map.shape[:2] == (1, 1)
        assert_same_bits(indices, torch.from_numpy(outputs[1]), f"indices of {name}")


@pytest.mark.parametrize("name", [name for name in NAMES if "maxunpool" in name])
@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_max_unpool(device: torch.device, name: str, overlap: str) -> None:
    """Indices count in the map of full windows, whatever the output shape."""
    node, inputs, outputs = cases()[name]
    pooled, indices = (torch.from_numpy(array).to(device) for array in inputs[:2])
    window, reason = window_of(node, outputs[0].shape[2:])
    assert reason is None
    window.pop("ceil_mode")
    full = [(n - 1) * s + k for n, s, k in zip(pooled.shape[2:], window["stride"], window["kernel_size"], strict=True)]
    switches = dk.indices_to_switches(indices, full, **window)
    out = dk.max_unpool2d(pooled, switches, **window, output_size=outputs[0].shape, overlap=overlap)
    assert_same_bits(out, torch.from_numpy(outputs[0]), name)
