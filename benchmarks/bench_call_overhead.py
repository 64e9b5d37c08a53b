"""What a call costs beside the work: maps of 4x4, without gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

import deconv_kernels as dk

CALLS = 500


def report(compare: Any, op: str, ours: Any, aten: Any) -> None:
    medians = compare(
        ours, {"ATen": aten}, calls=CALLS, op=f"call of {op}", shape="1x1x4x4", size=[1, 1, 4, 4], layout=""
    )
    if medians:
        compare.benchmark.extra_info["extra_microseconds"] = (medians["ours"] - medians["ATen"]) * 1e6


def test_max_pool2d(compare: Any) -> None:
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(dk.max_pool2d(x, 2)[0], F.max_pool2d(x, 2))
    report(compare, "max_pool2d", lambda: dk.max_pool2d(x, 2), lambda: F.max_pool2d(x, 2, return_indices=True))


def test_max_unpool2d(compare: Any) -> None:
    x = torch.randn(1, 1, 4, 4)
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    switches = dk.indices_to_switches(indices, (4, 4), 2)
    assert torch.equal(dk.max_unpool2d(values, switches, 2), F.max_unpool2d(values, indices, 2))
    report(
        compare,
        "max_unpool2d",
        lambda: dk.max_unpool2d(values, switches, 2),
        lambda: F.max_unpool2d(values, indices, 2),
    )
