"""Whatever is linear in the images passes by its adjoint, in every spelling; what mixes images is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from idioms import Between, compare, small
from networks import conv, randomise
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule

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
    "blurred": lambda net, y, z: F.conv2d(
        y, net.coordinates[:, :1, :3, :3].repeat(y.shape[1], 1, 1, 1), stride=2, groups=y.shape[1]
    ),
    "weights of the size": lambda net, y, z: F.linear(y, net.weight[:, : y.shape[3]]),
    "slice of a buffer": lambda net, y, z: y * net.slope[:, : y.shape[2]] + net.coordinates[:, :1, : y.size(2)],
    "mask of the size": lambda net, y, z: y * (torch.arange(y.shape[3]) > torch.arange(y.shape[2])[:, None]).to(y),
    "size of detached maps": lambda net, y, z: z.view(y.data.shape[0], y.detach().size(1), -1),
    "concatenated zeros": lambda net, y, z: torch.cat((y, torch.zeros(y.shape[0], 2, 6, 7, dtype=y.dtype)), 1),
    "zeros_like": lambda net, y, z: torch.cat((y, torch.zeros_like(y), z + torch.ones_like(z)), 1),
    "times ones_like": lambda net, y, z: y * torch.ones_like(y) + z * torch.full_like(y, 2.0),
    "new_zeros": lambda net, y, z: torch.cat((y, y.new_zeros(y.shape[0], 1, 6, 7), y.new_ones(z.shape)), 1),
    "overwritten zeros": lambda net, y, z: torch.zeros_like(y).add_(y).sub_(2 * z).neg_(),
    "written to zeros": lambda net, y, z: y + z.new_full(z.shape, 0.5).add_(z),
    "chunks along the width": lambda net, y, z: y.chunk(3, 3)[1],
    "split of sizes": lambda net, y, z: y.split([2, 4], dim=2)[1] * 2,
    "split by a size": lambda net, y, z: torch.split(y, y.shape[1] // 2, dim=1)[1],
    "tensor_split": lambda net, y, z: torch.tensor_split(y, (2, 3), 3)[2],
    "unbind": lambda net, y, z: y.unbind(1)[2] + z.unbind(1)[-1],
    "stack of unbind": lambda net, y, z: torch.stack(y.unbind(1), 3),
    "cat of chunks": lambda net, y, z: torch.cat(torch.chunk(y, 2, 1), dim=2),
    "views": lambda net, y, z: y.flatten(1).view(y.shape).view(y.shape[:2] + (42,)).view_as(z),
    "reshape_as": lambda net, y, z: y.flatten(2).reshape_as(z),
    "view of size(-4)": lambda net, y, z: y.view(y.size(-4), y.size(-3), -1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_passes(name: str) -> None:
    channels = random.choice((1, 3))
    images = small(3, channels)
    model = Between(LINEAR[name], channels).double().eval()
    randomise(model, images)
    for rule in (random.choice(("deconvnet", "guided")), "gradient"):
        compare(model, images.detach(), rule, what=name)


MIXING: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "roll": lambda net, y, z: y.roll(1, 0),
    "roll of everything": lambda net, y, z: y.roll(1),
    "flip": lambda net, y, z: y.flip(0),
    "flip of rows": lambda net, y, z: y.mean((2, 3)).flip(-2),
    "cumsum": lambda net, y, z: y.cumsum(0),
    "softmax": lambda net, y, z: y.softmax(0),
    "softmax counted from the last": lambda net, y, z: torch.softmax(y, -4),
    "statistics": lambda net, y, z: y / (y.std(0, keepdim=True) + 1),
    "statistics of everything": lambda net, y, z: y / (y.max() + 1),
    "hardly": lambda net, y, z: y + 1e-9 * y.softmax(0),
    "Gram matrix": lambda net, y, z: y.flatten(1) @ z.flatten(1).T,
    "Gram matrix of one": lambda net, y, z: torch.matmul(y.flatten(1), y.flatten(1).t()),
    "distances": lambda net, y, z: torch.cdist(y.flatten(1), z.flatten(1)),
    "a constant for each image": lambda net, y, z: y + net.of_two,
    "a factor for each image": lambda net, y, z: y * net.of_two,
    "divided for each image": lambda net, y, z: y / (1 + net.of_two),
    "images of an index": lambda net, y, z: y[net.swap],
    "index_select": lambda net, y, z: y.index_select(0, net.swap),
    "einsum": lambda net, y, z: torch.einsum("nchw,nm->mchw", y, net.of_two[:, 0, 0, :2]),
    "view": lambda net, y, z: y.view(y.shape[1], y.shape[0], -1),
    "view of a number": lambda net, y, z: y.view(2, -1),
    "view of half the batch": lambda net, y, z: y.view(y.shape[0] // 2, -1),
    "transpose": lambda net, y, z: y.transpose(-4, 1),
    "T of rows": lambda net, y, z: y.mean((2, 3)).T,
    "batch norm": lambda net, y, z: F.batch_norm(y, None, None, training=True),
    "sort": lambda net, y, z: y.sort(0)[0],
    "unbind": lambda net, y, z: y.unbind(0)[0][None],
    "attention along the batch": lambda net, y, z: net.attention(*[y.mean(2)] * 3)[0],
    "repeat": lambda net, y, z: y.repeat(2, 1, 1, 1),
    "expand": lambda net, y, z: y.mean(0, keepdim=True).expand(y.shape[0], -1, -1, -1),
    "other ranks": lambda net, y, z: y.mean((1, 3)).mean(1)[:, None, None] * z,
    "concatenated": lambda net, y, z: torch.cat((y, net.of_two), 0),
    "stacked": lambda net, y, z: torch.vstack((y, z)),
    "random": lambda net, y, z: y + torch.rand(y.shape),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_images_is_refused(name: str) -> None:
    for channels in (1, 3):
        model = Between(MIXING[name], channels)
        model.attention = nn.MultiheadAttention(7, 1)
        model.register_buffer("of_two", torch.rand(2, 4, 6, 7))
        model.register_buffer("swap", torch.tensor([1, 0]))
        for rule in ("deconvnet", "gradient"):
            with pytest.raises(UnsupportedModule):
                net = Deconvnet(model.double().eval(), rule)
                net.record(small(2, channels), net.output)


def test_what_is_linear_passes_in_larger_networks() -> None:
    class Residual(nn.Module):
        """Coordinates as channels, shifted maps, a residual block, and tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(5, 4), conv(4, 4), conv(4, 4)
            self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 5)
            self.register_buffer("token", torch.randn(1, 1, 4))
            self.register_buffer("position", torch.randn(1, 21, 4))

        def forward(self, x: Tensor) -> Tensor:
            n, _, height, width = x.shape
            rows = torch.linspace(-1, 1, height).to(x).view(1, 1, height, 1).expand(n, 1, height, width)
            columns = torch.linspace(-1, 1, width).type_as(x).repeat(n, 1, height, 1)
            x = F.relu(self.a(torch.cat((x, rows, columns), 1)))
            moved = torch.cat((x[:, :2].roll(1, 3), x.narrow(1, 2, 2).roll((-1, 1), (2, 3))), 1)
            x = F.relu(x + self.b(moved))
            x = F.max_pool2d(F.relu(self.c(x) + x), 2)
            tokens = x.flatten(2).swapaxes(1, 2)
            tokens = torch.cat((self.token.expand(n, -1, -1), tokens), dim=1) + self.position
            tokens = tokens + F.relu(self.fc(tokens))
            return self.out(tokens.select(1, 0) + tokens.narrow(1, 1, 20).mean(1))

    images = torch.randn(3, 3, 8, 11, dtype=torch.float64)
    model = Residual().double().eval()
    for rule in ("deconvnet", "guided", "gradient"):
        compare(model, images.detach(), rule)


def test_conversions_keep_to_the_types_of_the_network() -> None:
    """Half precision in the middle of a network, and double precision above it."""
    model = Between(lambda net, y, z: y.half().float() + z.double().mul(2).to(torch.float32)).eval()
    images = small(2).float()
    net = Deconvnet(model, "gradient")
    record = net.record(images, net.output)
    values = model(images.requires_grad_())
    unit = dk.Units(net.output, 1, 2, 3, 3)
    (gradient,) = torch.autograd.grad(values[1, 2, 3, 3], images)
    torch.testing.assert_close(net.project(record, unit, seed="one").full()[0], gradient[1], rtol=2e-3, atol=1e-3)


def test_rows_pass_what_is_linear() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.mixing = nn.Linear(6, 8), nn.Linear(9, 5), nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x.roll(1, 1).cumsum(-1)))
            x = F.relu(x @ self.mixing + x.index_select(1, torch.tensor([3, 2, 1, 0, 7, 6, 5, 4])))
            first, second = x.split((3, 5), dim=1)
            return self.b(torch.cat((second, torch.ones_like(first), first[:, :1].expand(x.shape[0], 1)), -1))

    images = torch.randn(3, 6, dtype=torch.float64)
    model = randomise(Rows().double().eval(), images)
    for rule in ("deconvnet", "guided", "gradient"):
        compare(model, images.detach(), rule)
