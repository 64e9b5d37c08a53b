"""What the makers of GPUs say of them; it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRECISIONS = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a value in each."""


@dataclass(frozen=True)
class Card:
    """What the maker says of a GPU.

    Attributes:
        rates: floating-point operations a second, dense, by precision.
        bandwidth: bytes a second of its memory.
        source: of these.
    """

    rates: Mapping[str, float]
    bandwidth: float
    source: str


# float64 and float32 run on the CUDA cores here, the others on the matrix units; sheets that give these with sparsity
# are halved.
_HOPPER = {"float64": 34e12, "float32": 67e12, "tf32": 494e12, "bfloat16": 989e12, "float16": 989e12}
CARDS = {
    "a100": Card(
        {"float64": 9.7e12, "float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12, "float16": 312e12},
        2.039e12,
        "NVIDIA A100 Tensor Core GPU datasheet, 80GB SXM",
    ),
    "h100": Card(_HOPPER, 3.35e12, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
    "h200": Card(_HOPPER, 4.8e12, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
}
