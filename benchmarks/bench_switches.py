"""switches_to_indices and indices_to_switches, as a share of a copy of the same bytes; ATen has nothing like them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUTS, bytes_of

import deconv_kernels as dk


@pytest.mark.parametrize("op", ["switches_to_indices", "indices_to_switches"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_conversion(compare: Any, layout: str, op: str) -> None:
    x = torch.randn(8, 256, 56, 56).to(memory_format=LAYOUTS[layout])
    _, switches = dk.max_pool2d(x, 2)
    indices = F.max_pool2d(x, 2, return_indices=True)[1]
    given, expected = (switches, indices) if op == "switches_to_indices" else (indices, switches)

    def ours() -> torch.Tensor:
        return getattr(dk, op)(given, (56, 56), 2)

    assert torch.equal(ours(), expected)
    compare(ours, {}, bytes_of(switches, indices), op=op, shape="k2s2", size=list(x.shape), layout=layout)
