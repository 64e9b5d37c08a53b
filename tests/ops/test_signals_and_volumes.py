"""Transforms, compilation and export of the ops for signals and volumes; those for images have files of their own."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import deconv_kernels as dk

POOL = {1: dk.max_pool1d, 3: dk.max_pool3d}
UNPOOL = {1: dk.max_unpool1d, 3: dk.max_unpool3d}
ATEN = {1: F.max_pool1d, 3: F.max_pool3d}
WINDOWS = {1: (3, 2, 1), 3: ((2, 3, 3), (1, 2, 2), (0, 1, 1))}
SIZES = {1: (13,), 3: (5, 8, 9)}
each_rank = pytest.mark.parametrize("rank", POOL)


class PoolAndBack(nn.Module):
    """Pooled, unpooled by switches in both ways, and the switches as indices."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.window = rank, WINDOWS[rank]

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        values, switches = POOL[self.rank](maps, *self.window, relu=True)
        size = maps.shape[-self.rank :]
        unpool = partial(UNPOOL[self.rank], values, switches, *self.window, output_size=size)
        return values, unpool(relu=True), unpool(overlap="last"), dk.switches_to_indices(switches, size, *self.window)


def maps_of(rank: int, *batch: int, device: torch.device) -> Tensor:
    seed = torch.seed() % 2**31
    print("maps from seed", seed)
    torch.manual_seed(seed)
    return torch.randint(-4, 5, (*batch, *SIZES[rank]), device=device).float()  # with ties, and sums without rounding


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@each_rank
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_vmap_is_one_after_the_other(device: torch.device, rank: int, dim: int) -> None:
    network, maps = PoolAndBack(rank), maps_of(rank, 3, 2, 4, device=device)
    moved = maps.movedim(0, dim)
    same(torch.vmap(network, in_dims=dim)(moved), tuple(map(torch.stack, zip(*map(network, maps), strict=True))))


@each_rank
def test_gradients_of_samples_are_those_of_aten(device: torch.device, rank: int) -> None:
    maps, upstream = maps_of(rank, 3, 4, device=device), maps_of(rank, 3, 4, device=device)

    def of_pooled(pool: Any, one: Tensor, weight: Tensor) -> Tensor:
        values = pool(one, *WINDOWS[rank])
        values = values[0] if isinstance(values, tuple) else values
        return (values * weight[(..., *(slice(length) for length in values.shape[-rank:]))]).sum()

    ours = torch.vmap(torch.func.grad(partial(of_pooled, POOL[rank])))(maps, upstream)
    theirs = []
    for one, weight in zip(maps, upstream, strict=True):
        leaf = one.clone().requires_grad_()
        theirs += torch.autograd.grad(of_pooled(ATEN[rank], leaf, weight), leaf)
    assert torch.equal(ours, torch.stack(theirs))


@each_rank
def test_compiled_in_one_graph_for_all_sizes(device: torch.device, rank: int) -> None:
    torch._dynamo.reset()
    network = PoolAndBack(rank)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter, fullgraph=True, dynamic=True)
    for more in (0, 3, 4):
        maps = F.pad(maps_of(rank, 2, 3, device=device), [0, more] * rank, value=1.0)
        same(compiled(maps), network(maps))
    assert counter.frame_count == 1


@each_rank
def test_exported_for_all_sizes(device: torch.device, rank: int) -> None:
    network, maps = PoolAndBack(rank), maps_of(rank, 2, 3, device=device)
    sizes = {0: torch.export.Dim.AUTO, **dict.fromkeys(range(2, rank + 2), torch.export.Dim.AUTO)}
    program = torch.export.export(network, (maps,), dynamic_shapes={"maps": sizes})
    kind = f"max_pool{2 if rank == 1 else 3}d"
    assert any(kind in str(node.target) for node in program.graph.nodes)
    for images, more in ((2, 0), (3, 5)):
        given = F.pad(maps_of(rank, images, 3, device=device), [0, more] * rank, value=2.0)
        same(program.module()(given), network(given))


@each_rank
def test_exported_to_onnx(rank: int) -> None:
    pytest.importorskip("onnxscript", reason="the package onnxscript, which torch.onnx needs, is not installed")
    evaluator = pytest.importorskip("onnx.reference", reason="the package onnx is not installed")
    network, maps = PoolAndBack(rank), maps_of(rank, 2, 3, device=torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (maps,), dynamo=True, verbose=False)
        assert program is not None
        model = program.model_proto
        assert all(node.domain == "" for node in model.graph.node)
        try:
            import onnxruntime
        except ImportError:
            session = evaluator.ReferenceEvaluator(model)
        else:
            session = onnxruntime.InferenceSession(model.SerializeToString())
        found = session.run(None, {model.graph.input[0].name: maps.numpy()})
    same(tuple(torch.from_numpy(np.asarray(array)) for array in found), network(maps))


def test_whole_shapes_of_volumes_without_images(device: torch.device) -> None:
    """Four entries, of which the switches say that they are channels and the three axes of a volume."""
    volume = maps_of(3, 4, device=device)
    expected, indices = F.max_pool3d(volume, 2, return_indices=True)
    _, switches = dk.max_pool3d(volume, 2)
    assert torch.equal(dk.switches_to_indices(switches, volume.shape, 2), indices)
    assert torch.equal(dk.indices_to_switches(indices, volume.shape, 2), switches)
    assert torch.equal(dk.max_unpool3d(expected, switches, 2, output_size=volume.shape[1:]) != 0, _at(indices, volume))


def _at(indices: Tensor, volume: Tensor) -> Tensor:
    """Where the maxima other than zero lie."""
    found = torch.zeros_like(volume, dtype=torch.bool).flatten(1)
    found.scatter_(1, indices.flatten(1), True)
    return found.view_as(volume) & (volume != 0)
