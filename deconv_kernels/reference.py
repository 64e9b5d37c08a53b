"""What a projection means, in plain PyTorch; `ops.reference` says the same of the ops."""

from .engine.definition import project

__all__ = ["project"]
