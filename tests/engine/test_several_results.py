"""Calls that return several results, of which a network takes some; and that what refusals advise works."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from idioms import Between, compare, small
from networks import randomise
from torch import Tensor, nn

from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnsupportedModule

SEVERAL: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "torch.max": lambda net, y, z: y + torch.max(z, 1)[0].unsqueeze(1),
    "x.max": lambda net, y, z: y.max(dim=1, keepdim=True).values + z,
    "x.min": lambda net, y, z: y.min(1).values[:, None] + z.max(-1, keepdim=True)[0],
    "both branches": lambda net, y, z: torch.cat((y.mean(1, keepdim=True), torch.max(y, 1, keepdim=True)[0]), 1),
    "topk": lambda net, y, z: y.topk(2, dim=1).values,
    "torch.topk": lambda net, y, z: torch.topk(y.flatten(2), 3)[0],
    "sort": lambda net, y, z: torch.sort(y, dim=1, descending=True)[0] * 2,
    "unpacked": lambda net, y, z: unpacked(y),
    "indices": lambda net, y, z: z.gather(1, y.argsort(1)[:, :2]),
    "indices of topk": lambda net, y, z: z.gather(1, y.topk(2, 1)[1]),
    "kthvalue": lambda net, y, z: y.kthvalue(2, 1, keepdim=True)[0] + z,
    "median": lambda net, y, z: torch.median(y, 2)[0],
    "cummax": lambda net, y, z: y.cummax(3).values,
    "aminmax": lambda net, y, z: y - y.aminmax(dim=1, keepdim=True).min,
    "torch.aminmax": lambda net, y, z: torch.aminmax(y, dim=1, keepdim=True)[1] + z,
    "var_mean": lambda net, y, z: normalised(y),
    "std_mean": lambda net, y, z: torch.std_mean(y, (2, 3), keepdim=True)[1] + z,
    "parts of what is not linear": lambda net, y, z: torch.stack(torch.var_mean(y, 1), 1),
    "chunks that are gated": lambda net, y, z: gated(y),
    "attention": lambda net, y, z: net.attention(*[y.mean(2)] * 3)[0],
    "attention unpacked": lambda net, y, z: attended(net, y, z),
    "attention without weights": lambda net, y, z: net.attention(y.mean(2), z.mean(2), z.mean(2), need_weights=False)[
        0
    ],
    "heads put first": lambda net, y, z: heads(y),
    "heads put first and unbound": lambda net, y, z: y.unflatten(1, (2, 2)).transpose(0, 1).unbind(0)[1],
    "recurrent": lambda net, y, z: recurrent(net, y),
    "pool of adapted size": lambda net, y, z: F.adaptive_max_pool2d(y, (2, 3), return_indices=True)[0],
    "largest of two": lambda net, y, z: torch.max(y, z),
    "largest of all dimensions": lambda net, y, z: y.amax((2, 3), keepdim=True) + z,
}


def unpacked(y: Tensor) -> Tensor:
    values, _ = y.max(dim=1)
    return values[:, None] * 2


def normalised(y: Tensor) -> Tensor:
    variance, mean = torch.var_mean(y, dim=1, keepdim=True)
    return (y - mean) * torch.rsqrt(variance + 1e-3)


def gated(y: Tensor) -> Tensor:
    gate, value = y.chunk(2, dim=1)
    return torch.sigmoid(gate) * value


def attended(net: Any, y: Tensor, z: Tensor) -> Tensor:
    out, weights = net.attention(y.mean(2), z.mean(2), z.mean(2))
    return torch.cat((out.mean(1), weights.flatten(1)), 1)


def heads(y: Tensor) -> Tensor:
    queries, keys = y.flatten(2).reshape(y.shape[0], 2, 2, 42).permute(2, 0, 1, 3)
    return (queries @ keys.transpose(-2, -1)).softmax(-1) @ keys


def recurrent(net: Any, y: Tensor) -> Tensor:
    out, (hidden, _) = net.recurrent(y.mean(2))
    return out


class ChannelNorm(nn.LayerNorm):
    """Over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def network(function: Callable[[Any, Tensor, Tensor], Tensor], images: Tensor) -> nn.Module:
    model = Between(function)
    model.attention = nn.MultiheadAttention(7, 1, batch_first=True)
    model.norm = ChannelNorm(4)
    model.recurrent = nn.LSTM(7, 5, batch_first=True)
    return randomise(model.double().eval(), images)


def advised(model: nn.Module, rule: str) -> dict[Any, str]:
    """The rules that the refusals of a network ask for, one after the other, until it is accepted."""
    rules: dict[Any, str] = {}
    for _ in range(12):
        try:
            Deconvnet(model, rule, rules=rules)
        except UnsupportedModule as error:
            found = re.search(r"rules=(\{.*?\})", str(error))
            assert found, f"no advice: {error}"
            advice = eval(found[1], {"torch": torch, "operator": operator, "ChannelNorm": ChannelNorm})
            assert not advice.keys() & rules.keys(), f"did not help: {error}"
            rules |= advice
        else:
            return rules
    raise AssertionError(f"still refused with {rules}")


@pytest.mark.parametrize("name", SEVERAL)
def test_results_of_calls_that_return_several_are_exact(name: str) -> None:
    images = small(3)
    model = network(SEVERAL[name], images)
    compare(model, images.detach(), "gradient", what=name)
    for rule in ("deconvnet", "guided"):
        compare(model, images.detach(), rule, advised(model, rule), what=name)


ADVISED: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "silu": lambda net, y, z: F.silu(y) + z,
    "gelu": lambda net, y, z: F.gelu(y, approximate="tanh"),
    "sigmoid": lambda net, y, z: y.sigmoid() * z,
    "softmax": lambda net, y, z: torch.softmax(y, 1),
    "softplus": lambda net, y, z: F.softplus(y - 1),
    "product": lambda net, y, z: y * z,
    "quotient": lambda net, y, z: y / (1 + z),
    "attention weights": lambda net, y, z: (y @ z.transpose(2, 3)).softmax(-1) @ z,
    "einsum of signals": lambda net, y, z: torch.einsum("nchw,nchv->ncwv", y, z),
    "power": lambda net, y, z: (y + 1) ** 1.5,
    "normalize": lambda net, y, z: F.normalize(y + 1, dim=1),
    "norm": lambda net, y, z: y / y.norm(dim=1, keepdim=True).clamp(min=1e-3),
    "layer_norm": lambda net, y, z: F.layer_norm(y, (7,)),
    "scaled_dot_product_attention": lambda net, y, z: F.scaled_dot_product_attention(y, z, z),
    "clamp": lambda net, y, z: y.clamp(0.2, 0.9),
    "minimum": lambda net, y, z: torch.minimum(y, z),
    "where by a signal": lambda net, y, z: torch.where(y > z, y, 2 * z),
    "logsumexp": lambda net, y, z: torch.logsumexp(y, 1, keepdim=True),
    "square": lambda net, y, z: y.square() + torch.special.expit(z),
    "linalg": lambda net, y, z: torch.linalg.vector_norm(y + 1, dim=1, keepdim=True),
    "detach": lambda net, y, z: y.detach() + z,
    "lerp by a signal": lambda net, y, z: torch.lerp(y, z, y),
    "masked by a signal": lambda net, y, z: y.masked_fill(z > 0.3, 0.0),
    "product in place": lambda net, y, z: y.mul_(z),
    "its own layer norm": lambda net, y, z: net.norm(y) + F.layer_norm(z, (7,)),
    "group_norm": lambda net, y, z: F.group_norm(y, 2),
}


@pytest.mark.parametrize("name", ADVISED)
def test_what_a_refusal_advises_works(name: str) -> None:
    images = small(3)
    model = network(ADVISED[name], images)
    rules = advised(model, "deconvnet")
    assert rules, "nothing was refused"
    compare(model, images.detach(), "deconvnet", rules, what=name)


def test_a_method_and_its_function_have_one_rule() -> None:
    for function in (lambda net, y, z: y.topk(2, 1)[0], lambda net, y, z: torch.topk(y, 2, 1).values):
        for key in (torch.topk, "topk"):
            Deconvnet(Between(function), rules={key: "gradient"})
        for decision in ("identity", "rectifier"):
            with pytest.raises(UnsupportedModule, match="is for what returns one map; it can be 'gradient'"):
                Deconvnet(Between(function), rules={torch.topk: decision})
