"""The one table of tolerances. Pooling, unpooling and switches have none: they are compared bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

# Largest error of a sum of products relative to the largest value of the exact result.
RELATIVE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


def assert_close(actual: Tensor, exact: Tensor, what: str = "") -> None:
    """Asserts that `actual` is `exact` (of a higher precision) within the tolerance of its own dtype."""
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(exact.shape)}"
    if exact.numel() == 0:
        return
    exact = exact.detach().double().cpu()
    error = (actual.detach().double().cpu() - exact).abs().max().item()
    scale = exact.abs().max().item()
    limit = RELATIVE[actual.dtype]
    assert error <= limit * scale, f"{what}: largest error {error:g} at scale {scale:g}, {limit:g} is allowed"
