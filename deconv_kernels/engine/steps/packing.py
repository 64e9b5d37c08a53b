"""Weights in the order in which `backproject1d` to `backproject3d` read them."""

from __future__ import annotations

from torch import Tensor

from ...ops import backends, pack_weight
from ...ops.geometry import IntOrPerAxis
from .base import Step


class Packing(Step):
    """A step that sends its signal through a weight of its own."""

    _made: tuple[object, Tensor] | None = None

    def packed(self, weight: Tensor, stride: IntOrPerAxis = 1, dilation: IntOrPerAxis = 1, groups: int = 1) -> Tensor:
        """Its weight as the op reads it; made once for each operator that packs it."""
        operator = backends.operator("pack_weight", weight)
        made = self._made  # another thread may put its own there
        if made is None or made[0] is not operator:
            self._made = made = operator, pack_weight(weight, stride, dilation, groups)
        return made[1]
