"""What the processes of a torch.distributed job tell one another: tensors, never objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "of_torchrun"]


@contextmanager
def of_torchrun(device: str) -> Iterator[tuple[int, int]]:
    """The rank and number of processes: of the group that is there, that torchrun asks for, or of this one alone."""
    if dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
        return
    if int(os.environ.get("WORLD_SIZE") or "1") == 1:
        yield 0, 1
        return
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


class Processes:
    """The processes that share a run, or this one alone.

    Attributes:
        rank, world: which this is, of how many.

    Args:
        together: whether all processes of the default group take part, where torch.distributed is initialised.
    """

    def __init__(self, together: bool = True) -> None:
        together = together and dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        on_gpu = self.world > 1 and "gloo" not in str(dist.get_backend())
        self._device = torch.device("cuda" if on_gpu else "cpu")

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of tensors of one shape."""
        return self._reduced(tensor, dist.ReduceOp.SUM) if self.world > 1 else tensor

    def least(self, tensor: Tensor) -> Tensor:
        """The elementwise minimum."""
        return self._reduced(tensor, dist.ReduceOp.MIN) if self.world > 1 else tensor

    def most(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum."""
        return self._reduced(tensor, dist.ReduceOp.MAX) if self.world > 1 else tensor

    def gather(self, columns: Tensor) -> list[Tensor]:
        """The (R, n) int64 tensors of all processes, in the order of their ranks; n may differ."""
        if self.world == 1:
            return [columns]
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = columns.shape[1]
        lengths = self.add(lengths)
        padded = torch.zeros(columns.shape[0], int(lengths.max()), dtype=torch.int64, device=self._device)
        padded[:, : columns.shape[1]] = columns
        gathered = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(gathered, padded)
        return [part[:, :length].cpu() for part, length in zip(gathered, lengths.tolist(), strict=True)]

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        reduced = tensor.to(self._device, copy=True)
        dist.all_reduce(reduced, operation)
        return reduced.to(tensor.device)
