"""Which implementation of the ops runs, which could, and why another cannot."""

from .ops.backends import (
    NAMES,
    OPS,
    allows_tf32,
    available,
    chosen,
    cpu_capability,
    cpu_choices,
    float32_precision,
    operator,
    triton_interprets,
    usable_device,
    use,
    why_not,
)

__all__ = [
    "NAMES",
    "OPS",
    "allows_tf32",
    "available",
    "chosen",
    "cpu_capability",
    "cpu_choices",
    "float32_precision",
    "operator",
    "triton_interprets",
    "usable_device",
    "use",
    "why_not",
]
