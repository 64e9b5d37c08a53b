"""A small network around any function, and the comparison of its projections with the definition and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from networks import Trace, conv, some_units
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.units import Units

RULES = ("deconvnet", "guided", "gradient")


class Between(nn.Module):
    """A function of the network and of the rectified maps of its two branches, (N, 4, 6, 7) each, rectified."""

    def __init__(self, function: Callable[[Any, Tensor, Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.a, self.c = conv(channels, 4), conv(channels, 4)
        self.weight, self.slope = nn.Parameter(torch.randn(7, 7)), nn.Parameter(torch.rand(4, 6, 7))
        self.register_buffer("mask", torch.rand(6, 7) > 0.4)
        self.register_buffer("order", torch.randperm(7))
        self.register_buffer("grid", torch.rand(1, 6, 7, 2) * 2 - 1)
        self.register_buffer("scattered", torch.randint(4, (1, 4, 6, 7)))
        self.register_buffer("coordinates", torch.randn(1, 2, 6, 7))
        self.unfold, self.fold = nn.Unfold(3, padding=1), nn.Fold((6, 7), 3, padding=1)
        self.over_rows, self.pool = nn.Conv1d(7, 7, 3, padding=1), nn.AvgPool1d(3, 1, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.function(self, F.relu(self.a(x)), F.relu(self.c(x))))


def small(images: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(images, channels, 6, 7, dtype=torch.float64)


def compare(model: nn.Module, images: Tensor, rule: str, rules: Any = None, count: int = 5, what: str = "") -> None:
    """The activations against the network's own, projections against the definition, and gradients against autograd."""
    net, trace = Deconvnet(model, rule, rules=rules), Trace(model)
    record = net.record(images, net.output, activations=True, batch_size=2)
    values = model(images.requires_grad_())
    assert_close(record.activations[net.output], values.detach(), f"{what}: activations")
    shape = record.shape(net.output)
    units = some_units(values.detach().reshape(len(images), *shape), count)
    found = net.project(record, Units(net.output, *units.T), seed="one").full()
    if values.dim() in (2, 4):
        exact, _ = reference.project(trace.module, images.detach(), trace.nodes[net.output], units, rule, rules=rules)
        assert_close(found, exact, f"{what}: {rule}")
    if rule == "gradient":
        for number, unit in enumerate(units.tolist()):
            value = values.reshape(len(images), *shape)[tuple(unit)]
            (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
            assert_close(found[number], gradient[unit[0]], f"{what}: autograd")
