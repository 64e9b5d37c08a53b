"""Projections in TensorBoard: `add_projections` writes them as one picture, through any writer that has `add_image`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..checks import at_least
from ..engine.pictures import mosaic
from ..engine.projections import Projections

__all__ = ["add_projections"]


def add_projections(
    writer: Any,
    tag: str,
    projections: Projections,
    global_step: int | None = None,
    *,
    columns: int | None = None,
    to_rgb: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Writes projections as one picture: their receptive fields row by row, each with a contrast of its own.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or another with its `add_image`.
        tag: the picture's name in TensorBoard.
        projections: at least one.
        global_step: of training.
        columns: side by side; by default as many as make the picture about square.
        to_rgb: as for `Projections.images`.

    Raises:
        TypeError: the writer has no `add_image`.
        ValueError: no projections, or none of images; see `Projections.images`.

    Example:
        >>> class Writer:
        ...     def add_image(self, tag, picture, step, dataformats): print(tag, picture.shape, step, dataformats)
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()))
        >>> record = net.record(torch.randn(2, 3, 16, 16), "1")
        >>> add_projections(Writer(), "first", net.project(record, record.strongest("1", k=1)), 7)
        first (11, 11, 3) 7 HWC
    """
    if not callable(getattr(writer, "add_image", None)):
        raise TypeError(f"writer must have add_image, as TensorBoard's SummaryWriter has, got {type(writer).__name__}")
    at_least("the number of projections", len(projections), 1)
    picture = mosaic(projections.images(full=False, to_rgb=to_rgb), columns=columns)
    writer.add_image(tag, picture, global_step, dataformats="HWC")
