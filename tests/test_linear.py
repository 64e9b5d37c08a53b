"""Whatever is linear in the images passes by its adjoint, in every spelling; what mixes images is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Trace, conv, randomise, some_units
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import reference
from deconv_kernels.deconvnet import Deconvnet
from deconv_kernels.graph import UnsupportedModule
from deconv_kernels.linear import _LINEAR
from deconv_kernels.record import Units

RULES = ("deconvnet", "guided", "gradient")


class Between(nn.Module):
    """Rectified maps, (N, 4, 6, 7), a function that may use constants of the network, and more of it on what comes out.

    Attributes:
        other: the network's second branch, of the shape of the first.
    """

    def __init__(self, function: Callable[[Any, Tensor, Tensor], Tensor], channels: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(channels, 4), conv(4, 4), conv(channels, 4), nn.Conv2d(4, 5, 1)
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
        y = F.relu(self.a(x))
        z = self.function(self, y, F.relu(self.c(x)))
        return F.relu(z) + F.relu(self.b(y)).mean((2, 3)).sum(1).view(-1, *[1] * 1) if False else F.relu(z)


LINEAR: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "expand": lambda net, y, z: y.mean((2, 3), keepdim=True).expand(-1, -1, 6, 7),
    "expand of sizes": lambda net, y, z: y.mean((2, 3), keepdim=True).expand(y.size(0), y.shape[1], *(6, 7)),
    "expand of a shape": lambda net, y, z: y.mean((2, 3), keepdim=True).expand(y.shape),
    "expand_as": lambda net, y, z: y.mean((2, 3), keepdim=True).expand_as(z),
    "broadcast_to": lambda net, y, z: torch.broadcast_to(y[:, :, :1], y.shape),
    "repeat": lambda net, y, z: y.repeat(1, 2, 1, 3),
    "tile": lambda net, y, z: y.tile((1, 1, 2, 1)),
    "torch.tile": lambda net, y, z: torch.tile(y, (2, 1)),
    "repeat_interleave": lambda net, y, z: y.repeat_interleave(2, dim=3),
    "to": lambda net, y, z: y.to(torch.float64),
    "to a device": lambda net, y, z: y.to("cpu", non_blocking=True),
    "to as another": lambda net, y, z: y.to(z),
    "double": lambda net, y, z: y.double(),
    "type": lambda net, y, z: y.type(torch.float64),
    "type_as": lambda net, y, z: y.type_as(z),
    "cpu": lambda net, y, z: y.cpu().contiguous(),
    "positive": lambda net, y, z: +y,
    "roll": lambda net, y, z: y.roll(2, 3),
    "torch.roll": lambda net, y, z: torch.roll(y, shifts=(1, -2), dims=(2, 3)),
    "movedim": lambda net, y, z: y.movedim(1, 3),
    "torch.moveaxis": lambda net, y, z: torch.moveaxis(y, (1, 2), (2, 1)),
    "swapaxes": lambda net, y, z: y.swapaxes(2, 3),
    "swapdims": lambda net, y, z: torch.swapdims(y, 1, 2),
    "mT": lambda net, y, z: y.mT,
    "adjoint": lambda net, y, z: y.adjoint(),
    "narrow": lambda net, y, z: y.narrow(2, 1, 4),
    "select": lambda net, y, z: y.select(2, 3),
    "index_select": lambda net, y, z: y.index_select(3, net.order),
    "index by a buffer": lambda net, y, z: y[:, :, :, net.order],
    "index by a mask": lambda net, y, z: y[:, :, net.mask],
    "index by a list": lambda net, y, z: y[:, [2, 0, 0]],
    "index with steps": lambda net, y, z: torch.cat((y[:, :, ::2, ::2], y[:, :, 1::2, ::2]), 1),
    "gather": lambda net, y, z: y.gather(1, net.scattered.expand(y.shape[0], -1, -1, -1)),
    "take_along_dim": lambda net, y, z: torch.take_along_dim(y, net.scattered, 1),
    "flip": lambda net, y, z: torch.flip(y, [2, -1]),
    "fliplr": lambda net, y, z: y.fliplr(),
    "rot90": lambda net, y, z: torch.rot90(y, 1, (2, 3)),
    "diagonal": lambda net, y, z: y.diagonal(1, 2, 3),
    "diag_embed": lambda net, y, z: torch.diag_embed(y.mean(3), dim1=2, dim2=3),
    "tril": lambda net, y, z: y.tril(1),
    "triu": lambda net, y, z: torch.triu(y, diagonal=-1),
    "unflatten": lambda net, y, z: y.unflatten(1, (2, 2)).flatten(1, 2),
    "windows by unfold": lambda net, y, z: y.unfold(3, 3, 2).mean(-1),
    "F.unfold and F.fold": lambda net, y, z: F.fold(F.unfold(y, 3, padding=1), (6, 7), 3, padding=1),
    "nn.Unfold and nn.Fold": lambda net, y, z: net.fold(net.unfold(y)),
    "cumsum": lambda net, y, z: y.cumsum(2),
    "diff": lambda net, y, z: torch.diff(y, dim=3),
    "diff twice": lambda net, y, z: y.diff(n=2),
    "trapezoid": lambda net, y, z: torch.trapezoid(y, dim=2),
    "masked_fill": lambda net, y, z: y.masked_fill(net.mask, 0.5),
    "masked_fill_": lambda net, y, z: y.clone().masked_fill_(net.mask, -1.0),
    "where": lambda net, y, z: torch.where(net.mask, y, 0.0),
    "where of two": lambda net, y, z: torch.where(net.mask, y, z),
    "x.where": lambda net, y, z: y.where(net.mask, z),
    "times a mask": lambda net, y, z: y * net.mask,
    "index_fill": lambda net, y, z: y.index_fill(3, net.order[:2], 0.0),
    "index_add": lambda net, y, z: y.index_add(3, net.order, z, alpha=2),
    "index_copy": lambda net, y, z: y.index_copy(3, net.order[:2], z[:, :, :, :2]),
    "scatter_add": lambda net, y, z: y.scatter_add(1, net.scattered.expand(y.shape[0], -1, -1, -1), z),
    "select_scatter": lambda net, y, z: y.select_scatter(z[:, :, 0], 2, 1),
    "slice_scatter": lambda net, y, z: torch.slice_scatter(y, z[:, :, :2], 2, 1, 3),
    "addcmul": lambda net, y, z: torch.addcmul(y, z, net.slope, value=0.5),
    "addcmul of a constant": lambda net, y, z: torch.addcmul(net.slope[None], net.slope, y),
    "addcdiv": lambda net, y, z: y.addcdiv(z, net.slope + 1),
    "lerp": lambda net, y, z: torch.lerp(y, z, 0.3),
    "lerp by a parameter": lambda net, y, z: y.lerp(z, net.slope),
    "lerp of constants": lambda net, y, z: torch.lerp(net.slope, 2 * net.slope, y),
    "rsub": lambda net, y, z: torch.rsub(y, 1.0, alpha=0.5),
    "true_divide": lambda net, y, z: y.true_divide(net.slope + 1),
    "multiply": lambda net, y, z: y.multiply(net.slope),
    "deg2rad": lambda net, y, z: 100 * torch.deg2rad(y),
    "matmul": lambda net, y, z: y @ net.weight,
    "matmul from the left": lambda net, y, z: torch.matmul(net.weight[:6, :6], y),
    "einsum": lambda net, y, z: torch.einsum("nchw,wv->nchv", y, net.weight),
    "einsum of channels": lambda net, y, z: torch.einsum("kchw,nchw->nk", net.slope[None].expand(3, -1, -1, -1), y),
    "einsum of one": lambda net, y, z: torch.einsum("nchw->nhwc", y),
    "tensordot": lambda net, y, z: torch.tensordot(y, net.weight, dims=([3], [0])),
    "bmm": lambda net, y, z: torch.bmm(y.mean(1), net.weight.expand(y.shape[0], 7, 7)),
    "mm": lambda net, y, z: y.mean((1, 2)).mm(net.weight),
    "addmm": lambda net, y, z: torch.addmm(net.weight[0], y.mean((1, 2)), net.weight),
    "inner": lambda net, y, z: torch.inner(y, net.weight),
    "F.linear": lambda net, y, z: F.linear(y, net.weight, net.weight[0]),
    "bilinear with a constant": lambda net, y, z: F.bilinear(
        y.mean((1, 2)), net.weight[:1].expand(y.shape[0], 7), net.weight[None]
    ),
    "conv1d": lambda net, y, z: F.conv1d(y.mean(2), net.weight[:, :4, None]),
    "nn.Conv1d": lambda net, y, z: net.over_rows(y.mean(1).mT),
    "nn.AvgPool1d": lambda net, y, z: net.pool(y.mean(1)),
    "F.avg_pool1d": lambda net, y, z: F.avg_pool1d(y.mean(1), 2),
    "conv3d": lambda net, y, z: F.conv3d(y[:, None], net.weight[None, None, None, :3, :3]).flatten(1, 2),
    "grid_sample": lambda net, y, z: F.grid_sample(y, net.grid.expand(y.shape[0], -1, -1, -1), align_corners=False),
    "kron": lambda net, y, z: torch.kron(y, net.weight[:1, :2]),
    "stack": lambda net, y, z: torch.stack((y, z, net.slope.expand(y.shape)), 2).flatten(1, 2),
    "stack of a constant": lambda net, y, z: torch.stack([y, torch.zeros_like(z)], dim=1).flatten(1, 2),
    "hstack": lambda net, y, z: torch.hstack((y, z)),
    "dstack": lambda net, y, z: torch.dstack((y, z)),
    "coordinates": lambda net, y, z: torch.cat((y, net.coordinates.expand(y.shape[0], -1, -1, -1)), 1),
    "coordinates repeated": lambda net, y, z: torch.cat((y, net.coordinates.repeat(y.size(0), 1, 1, 1), z), dim=1),
    "coordinates of the size": lambda net, y, z: torch.cat(
        (y, torch.linspace(-1, 1, y.shape[3]).to(y).expand(y.shape[0], 1, y.shape[2], -1)), 1
    ),
    "coordinates by meshgrid": lambda net, y, z: torch.cat(
        (y, torch.arange(y.shape[2]).type_as(y)[None, None, :, None].expand(y.shape[0], 1, -1, y.shape[3])), 1
    ),
    "concatenated zeros": lambda net, y, z: torch.cat((y, torch.zeros(y.shape[0], 2, 6, 7, dtype=y.dtype)), 1),
    "zeros_like": lambda net, y, z: torch.cat((y, torch.zeros_like(y), z + torch.ones_like(z)), 1),
    "times ones_like": lambda net, y, z: y * torch.ones_like(y) + z * torch.full_like(y, 2.0),
    "new_zeros": lambda net, y, z: torch.cat((y, y.new_zeros(y.shape[0], 1, 6, 7), y.new_ones(z.shape)), 1),
    "overwritten zeros": lambda net, y, z: torch.zeros_like(y).add_(y).sub_(2 * z).neg_(),
    "written to zeros": lambda net, y, z: y + z.new_full(z.shape, 0.5).add_(z),
    "chunks along the width": lambda net, y, z: torch.cat(y.chunk(3, 3)[::-1], 2) if False else y.chunk(3, 3)[1],
    "split of sizes": lambda net, y, z: y.split([2, 4], dim=2)[1] * 2,
    "split by a size": lambda net, y, z: torch.split(y, y.shape[1] // 2, dim=1)[1],
    "tensor_split": lambda net, y, z: torch.tensor_split(y, (2, 3), 3)[2],
    "unbind": lambda net, y, z: y.unbind(1)[2] + z.unbind(1)[-1],
    "stack of unbind": lambda net, y, z: torch.stack(y.unbind(1), 3),
    "cat of chunks": lambda net, y, z: torch.cat(torch.chunk(y, 2, 1), dim=2),
    "views": lambda net, y, z: (
        y.flatten(1).view(y.shape).view(y.shape[:2] + (42,)).view(y.size(-3), -1).view_as(z)
        if False
        else y.flatten(1).view(y.shape).view(y.shape[:2] + (42,)).view_as(z)
    ),
    "reshape_as": lambda net, y, z: y.flatten(2).reshape_as(z),
    "view of size(-4)": lambda net, y, z: y.view(y.size(-4), y.size(-3), -1),
}


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


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_passes(name: str) -> None:
    images = small(3)
    model = Between(LINEAR[name]).double().eval()
    randomise(model, images)
    for rule in RULES:
        compare(model, images.detach(), rule, what=name)
