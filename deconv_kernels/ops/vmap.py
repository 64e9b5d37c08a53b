"""Batching rules for `torch.vmap`: the mapped dimension is folded into the op's batch dimension and unfolded after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def rules(namespace: Any) -> dict[str, Callable[..., Any]]:
    """Those of the ops of a namespace, by their names without rank."""

    def pool(info: Any, dims: tuple[Any, ...], input: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Any, Any]:
        rank = len(rest[0])
        maps = _mapped_first(input, dims[0], info.batch_size)
        if bias is not None and dims[1] is not None:
            added = bias.to(input.dtype).movedim(dims[1], 0)[(..., *[None] * rank)]
            maps, bias = maps + (added if maps.dim() == rank + 2 else added[:, None]), None
        values, switches = getattr(namespace, f"max_pool{rank}d")(_fold(maps, rank), bias, *rest)
        return (_unfold(values, maps, rank), _unfold(switches, maps, rank)), (0, 0)

    def unpool(info: Any, dims: tuple[Any, ...], input: Tensor, switches: Tensor, *rest: Any) -> tuple[Any, int]:
        rank = len(rest[0])
        maps, codes = (_mapped_first(t, d, info.batch_size) for t, d in ((input, dims[0]), (switches, dims[1])))
        result = getattr(namespace, f"max_unpool{rank}d")(_fold(maps, rank), _fold(codes, rank), *rest)
        return _unfold(result, maps, rank), 0

    def unpool_window(
        info: Any, dims: tuple[Any, ...], input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, *rest: Any
    ) -> tuple[Any, int]:
        rank = len(rest[0])
        maps = _mapped_first(input, dims[0], info.batch_size)
        places = _places(info.batch_size, (switches, image, origin), dims[1:4])
        result = getattr(namespace, f"max_unpool{rank}d_window")(_fold(maps, rank), *places, *rest)
        return _unfold(result, maps, rank), 0

    def send(
        info: Any, dims: tuple[Any, ...], input: Tensor, weight: Tensor, image: Tensor, origin: Tensor, *rest: Any
    ) -> tuple[Any, int]:
        switches, packed, *geometry = rest
        rank = len(geometry[0])
        send_back = getattr(namespace, f"backproject{rank}d")
        if dims[1] is not None or dims[5] is not None:
            # Every weight is a convolution of its own.
            tensors = (input, weight, image, origin, switches, packed)
            each = [
                [t if d is None or t is None else t.select(d, index) for t, d in zip(tensors, dims, strict=False)]
                for index in range(info.batch_size)
            ]
            return torch.stack([send_back(*arguments, *geometry) for arguments in each]), 0
        maps = _mapped_first(input, dims[0], info.batch_size)
        switches, image, origin = _places(info.batch_size, (switches, image, origin), (dims[4], *dims[2:4]))
        sent = send_back(_fold(maps, rank), weight, image, origin, switches, packed, *geometry)
        return _unfold(sent, maps, rank), 0

    def pack(info: Any, dims: tuple[Any, ...], weight: Tensor, *rest: Any) -> tuple[Any, int]:
        return torch.stack([namespace.pack_weight(one, *rest) for one in weight.movedim(dims[0], 0)]), 0

    def convert(name: str) -> Callable[..., Any]:
        def rule(info: Any, dims: tuple[Any, ...], codes: Tensor, *rest: Any) -> tuple[Any, int]:
            rank = len(rest[0])
            maps = _mapped_first(codes, dims[0], info.batch_size)
            return _unfold(getattr(namespace, name)(_fold(maps, rank), *rest), maps, rank), 0

        return rule

    return {
        "max_pool": pool,
        "max_unpool": unpool,
        "max_unpool_window": unpool_window,
        "backproject": send,
        "pack_weight": pack,
        "switches_to_indices": convert("switches_to_indices"),
        "indices_to_switches": convert("indices_to_switches"),
    }


def _places(batch: int, tensors: tuple[Any, ...], dims: Sequence[int | None]) -> tuple[Tensor | None, Tensor, Tensor]:
    """Switches, and the image and origin of each window, of all calls as of one."""
    switches, image, origin = tensors
    image, origin = _mapped_first(image, dims[1], batch), _mapped_first(origin, dims[2], batch)
    if switches is not None and dims[0] is not None:
        switches, image = _side_by_side(switches.movedim(dims[0], 0), image)
    return switches, image.flatten(0, 1), origin.flatten(0, 1)


def _side_by_side(switches: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, C, ...) switches as those of B * N images, and (B, U) numbers of images among these."""
    exists = (image >= 0) & (image < switches.shape[1])
    first = torch.arange(len(switches), device=image.device)[:, None] * switches.shape[1]
    return switches.flatten(0, 1), torch.where(exists, image + first, -1)


def _mapped_first(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _fold(maps: Tensor, rank: int) -> Tensor:
    """(B, C, ...) as it is, (B, N, C, ...) as (B * N, C, ...), where the dots are `rank` sizes."""
    return maps if maps.dim() == rank + 2 else maps.flatten(0, 1)


def _unfold(result: Tensor, maps: Tensor, rank: int) -> Tensor:
    return result if maps.dim() == rank + 2 else result.unflatten(0, maps.shape[:2])
