"""Hashes by which tensors are known again."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def fingerprint(*tensors: Tensor) -> str:
    """A hash of the types, shapes and values of tensors, by which a run knows its own finished parts again."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
