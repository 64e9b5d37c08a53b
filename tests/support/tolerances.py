"""The tables of tolerances. Pooling, unpooling and switches have none: they are compared bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

# The row of float32 whose factors torch lets a GPU cut to eleven bits, by its name there: 2**-10 of each at most.
TF32 = "tf32"

# Largest error of a sum of products relative to the largest value of the exact result.
RELATIVE: dict[torch.dtype | str, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    TF32: 2e-3,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}

# Largest error of each element relative to the sum of its terms' magnitudes, for sums of up to some thousand terms in
# float32 (float64 for float64), rounded once: for the 16-bit types, half a unit in the last place and no more.
ROUNDED_ONCE: dict[torch.dtype | str, float] = {
    torch.float64: 4e-15,
    torch.float32: 2e-6,
    TF32: 2**-9 + 2e-6,
    torch.float16: 2**-11 + 2e-6,
    torch.bfloat16: 2**-8 + 2e-6,
}


def assert_close(actual: Tensor, exact: Tensor, what: str = "", row: torch.dtype | str | None = None) -> None:
    """Asserts that `actual` is `exact` (of a higher precision) within the tolerance of a row: that of its own dtype."""
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(exact.shape)}"
    if exact.numel() == 0:
        return
    exact = exact.detach().double().cpu()
    error = (actual.detach().double().cpu() - exact).abs().max().item()
    scale = exact.abs().max().item()
    limit = RELATIVE[row or actual.dtype]
    assert error <= limit * scale, f"{what}: largest error {error:g} at scale {scale:g}, {limit:g} is allowed"


def assert_rounded_once(
    actual: Tensor, exact: Tensor, magnitude: Tensor, what: str = "", row: torch.dtype | str | None = None
) -> None:
    """Asserts that every element of `actual` is `exact` (float64) but for the rounding of sums of size `magnitude`.

    The tolerance is that of a row: of its own dtype, unless another is named. Where nothing is summed, the magnitude
    is zero and the result has to be.
    """
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(exact.shape)}"
    kind = torch.finfo(actual.dtype)
    subnormal = (magnitude > 0) * (kind.smallest_normal * kind.eps)
    error = (actual.detach().cpu().double() - exact).abs()
    beyond = ~(error <= ROUNDED_ONCE[row or actual.dtype] * magnitude + subnormal)
    if bool(beyond.any()):
        where = beyond.nonzero()
        first = tuple(where[0].tolist())
        raise AssertionError(
            f"{what}: {len(where)} of {beyond.numel()} elements differ, the first at {first}: "
            f"{actual[first].item()!r} instead of {exact[first].item()!r}, a sum of size {magnitude[first].item():g}"
        )
