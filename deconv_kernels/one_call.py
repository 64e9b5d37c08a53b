"""Projections in one call, with plain tensors in and out: `deconv_kernels.project`, for other tools to build on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import at_least, one_of, shown, whole_number
from .data.tensor_files import load_tensors, save_tensors
from .engine.deconvnet import SEEDS, Deconvnet
from .engine.fields import rank_of
from .engine.projections import Projections
from .engine.record import Record
from .engine.steps.base import RULES
from .engine.units import LayerLike, Units, columns_of
from .ops import check_overlap

__all__ = ["load_projections", "project", "save_projections"]

_FORMAT = "deconv_kernels projections 1"


@overload
def project(
    model: Deconvnet | nn.Module,
    images: Tensor | np.ndarray[Any, Any],
    layer: LayerLike,
    units: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]],
    *,
    rule: str | None = ...,
    overlap: str = ...,
    seed: str = ...,
    full: Literal[True] = ...,
    batch_size: int = ...,
    progress: bool | None = ...,
) -> Tensor: ...


@overload
def project(
    model: Deconvnet | nn.Module,
    images: Tensor | np.ndarray[Any, Any],
    layer: LayerLike,
    units: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]],
    *,
    rule: str | None = ...,
    overlap: str = ...,
    seed: str = ...,
    full: Literal[False],
    batch_size: int = ...,
    progress: bool | None = ...,
) -> tuple[Tensor, Tensor]: ...


def project(
    model: Deconvnet | nn.Module,
    images: Tensor | np.ndarray[Any, Any],
    layer: LayerLike,
    units: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]],
    *,
    rule: str | None = None,
    overlap: str = "sum",
    seed: str = "activation",
    full: bool = True,
    batch_size: int = 16,
    progress: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Projects units of a layer back to the images in one call.

    Only images that have units are run forward, `batch_size` of them at a time, so that memory does not grow with their
    number. Whoever calls often gives a `Deconvnet`, so that the network is not traced every time.

    Args:
        model: any `nn.Module`, as `Deconvnet` takes it, read as in eval mode and left as it is; or a `Deconvnet`.
        images: (N, C, H, W), volumes (N, C, D, H, W), signals (N, C, L), or (N, F) where the network takes rows, of the
            model's dtype, on any device; a NumPy array is read in place, or copied where torch cannot (read-only, or
            with negative strides).
        layer: a name from `model.named_modules()`, or another of `Deconvnet.layers`; or the module itself.
        units: integers, (U, 4): image, channel, y and x of each, in volumes (U, 5): image, channel, z, y and x, in
            signals (U, 3): image, channel and x; or (U, 2): image and channel, which stands for the strongest unit of
            that map in that image (the first in row-major order of several), and for the only one where the layer is
            flat. As a tensor, array or list.
        rule: "deconvnet", "guided" or "gradient"; by default "deconvnet", or that of the `Deconvnet`.
        overlap: what pooling windows that share a maximum do: "sum", or "last" (the last window wins).
        seed: what the projection of one is multiplied by when it is finished: the unit's "activation", so that a
            negative one turns its signs, or "one".
        full: return whole frames; otherwise receptive fields and where they lie.
        batch_size: images per forward pass.
        progress: show progress bars; by default on a terminal when it takes more than a second.

    Returns:
        (U, C, H, W), or as the images are, zero outside the receptive fields, in the order of the units and on the
        model's device. With `full=False` the receptive fields (U, C, h, w) and their boxes, (U, 4) int64 on the host:
        y0, x0, y1, x1 in pixels, half open, in volumes (U, 6): z0, y0, x0, z1, y1, x1, in signals (U, 2): x0, x1; a box
        may overhang the image, and its window is zero there.

    Raises:
        TypeError: images that are not of the model's dtype, units or a batch size that are not integers.
        ValueError: images or units of the wrong shape, units that do not exist, unknown choices, or a rule other than
            that of the Deconvnet.
        UnknownLayer: a layer the model does not have.
        UnsupportedModule: a part of the network has no exact rule.

    Source: Zeiler & Fergus 2013, section 2.1.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3))
        >>> frames = dk.project(model, torch.randn(2, 3, 32, 32), "3", units=[(0, 5, 6, 6), (1, 7, 0, 2)])
        >>> frames.shape
        torch.Size([2, 3, 32, 32])
    """
    inputs = _tensor("images", images)
    net = _deconvnet(model, rule, inputs)
    layer = net.layer(layer).name
    check_overlap(overlap)
    one_of("seed", seed, SEEDS)
    batch_size = whole_number("batch_size", batch_size)
    at_least("batch_size", batch_size, 1)
    rank = rank_of(inputs.shape[1:])
    table = _table(units, len(inputs) if inputs.dim() else 0, rank)
    needed = table[:, 0].unique()
    # Without units one image tells the sizes of everything.
    batches = needed.split(batch_size) if len(needed) else (torch.zeros(1, dtype=torch.int64),)
    windows, boxes, shape = None, torch.empty(len(table), 2 * rank, dtype=torch.int64), None
    for batch in batches:
        record = net.record(
            inputs[batch.to(inputs.device)] if len(inputs) else inputs,
            layer,
            activations=seed == "activation" and table.shape[1] > 2,
            batch_size=batch_size,
            progress=progress,
        )
        chosen = torch.isin(table[:, 0], batch).nonzero()[:, 0]
        of_batch = table[chosen]
        of_batch[:, 0] = torch.searchsorted(batch, of_batch[:, 0].contiguous())
        part = net.project(record, _units(record, layer, of_batch), seed, overlap, progress=progress)
        if windows is None:
            windows, shape = part.windows.new_empty(len(table), *part.windows.shape[1:]), part.shape
        windows[chosen.to(windows.device)], boxes[chosen] = part.windows, part.boxes
    assert windows is not None and shape is not None
    if not full:
        return windows, boxes
    places = F.pad(table, (0, 2 + rank - table.shape[1]))
    return Projections(Units.of_table(layer, places.T), windows, boxes, shape).full()


def save_projections(path: Path | str, projections: Tensor | tuple[Tensor, Tensor] | Projections) -> None:
    """Writes projections to a `.npz` or `.safetensors` file, which is there complete or not at all.

    What `project` returns becomes the arrays "frames", or "windows" and "boxes"; the `Projections` of a `Deconvnet`
    become "windows", "boxes", "image", "channel", "z", "y", "x" (those that there are) and, where they are known,
    "activation".

    Raises:
        TypeError: something else.
        ValueError, OSError: as `deconv_kernels.tensor_files.save_tensors`.

    Example:
        >>> import tempfile
        >>> model, images = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), torch.randn(2, 3, 8, 8)
        >>> frames = dk.project(model, images, "1", units=[(0, 3), (1, 3)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_projections(f"{folder}/frames.npz", frames)
    """
    about: dict[str, object] = {"format": _FORMAT}
    if isinstance(projections, Tensor):
        tensors = {"frames": projections}
    elif isinstance(projections, Projections):
        units = projections.units
        tensors = {"windows": projections.windows, "boxes": projections.boxes}
        tensors |= dict(zip(units.columns, units.table(), strict=True))
        if units.activation is not None:
            tensors["activation"] = units.activation
        about |= {"layer": units.layer, "shape": projections.shape}
    elif (
        isinstance(projections, tuple)
        and len(projections) == 2
        and all(isinstance(part, Tensor) for part in projections)
    ):
        tensors = {"windows": projections[0], "boxes": projections[1]}
    else:
        raise TypeError(f"projections must be what project returns or Projections, got {type(projections).__name__}")
    save_tensors(path, tensors, about)


def load_projections(path: Path | str) -> Tensor | tuple[Tensor, Tensor] | Projections:
    """Reads what `save_projections` wrote, as it was given. Nothing in the file is executed.

    Raises:
        ValueError: no such file, or not one of projections.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_projections(f"{folder}/frames.npz", torch.ones(2, 3, 8, 8))
        ...     load_projections(f"{folder}/frames.npz").shape
        torch.Size([2, 3, 8, 8])
    """
    tensors, about = load_tensors(path)
    if about.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} does not hold projections")
    try:
        if "frames" in tensors:
            return tensors["frames"]
        if "layer" not in about:
            return tensors["windows"], tensors["boxes"]
        table = torch.stack([tensors[name] for name in columns_of(tensors["windows"].dim() - 2)])
        units = Units.of_table(about["layer"], table, tensors.get("activation"))
        return Projections(units, tensors["windows"], tensors["boxes"], tuple(about["shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} does not hold projections as they were saved: {error}") from error


def _deconvnet(model: Deconvnet | nn.Module, rule: str | None, images: Tensor) -> Deconvnet:
    if not isinstance(model, Deconvnet):
        return Deconvnet(model, rule=RULES[0] if rule is None else rule, image_size=images.shape[1:] or None)
    if rule not in (None, model.rule):
        raise ValueError(f"the Deconvnet was made with the rule {model.rule!r}, not {rule!r}")
    return model


def _tensor(name: str, given: Tensor | np.ndarray[Any, Any] | Sequence[Any]) -> Tensor:
    """A tensor of a tensor, an array or lists."""
    if isinstance(given, np.ndarray) and (not given.flags.writeable or min(given.strides, default=0) < 0):
        given = given.copy()
    try:
        return torch.as_tensor(given)
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{name} must be a tensor, an array or lists of numbers, got {shown(given)}") from error
    except ValueError as error:
        raise ValueError(f"{name} must be a tensor, an array or lists of numbers of one length: {error}") from error


def _table(units: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]], images: int, rank: int) -> Tensor:
    """Units as (U, 2 + rank) or (U, 2) int64 on the host."""
    table = _tensor("units", units)
    if table.numel() == 0 and table.dim() < 2:
        return torch.empty(0, 2 + rank, dtype=torch.int64)
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise TypeError(f"units must be integers, got {table.dtype}")
    if table.dim() != 2 or table.shape[1] not in (2, 2 + rank):
        *first, last = columns_of(rank)
        raise ValueError(
            f"units must have shape (U, {2 + rank}), of {', '.join(first)} and {last}, or (U, 2), of image and "
            f"channel, got {tuple(table.shape)}"
        )
    table = table.detach().to("cpu", torch.int64)
    if len(table) and int(table.min()) < 0:
        raise ValueError(f"units must not be negative, got {int(table.min())}")
    if len(table) and int(table[:, 0].max()) >= images:
        raise ValueError(f"images of units must be below {images}, got {int(table[:, 0].max())}")
    return table


def _units(record: Record, layer: str, table: Tensor) -> Units:
    """The units of a table; of two columns, the strongest of their maps."""
    if table.shape[1] > 2:
        return Units.of_table(layer, table.T)
    channels = record.shape(layer)[0]
    if len(table) and int(table[:, 1].max()) >= channels:
        raise ValueError(f"channels of {layer!r} must be below {channels}, got {int(table[:, 1].max())}")
    peaks = record.peaks[record.layer(layer).step]
    image, channel = of = tuple(column.to(peaks.value.device) for column in table.unbind(1))
    return Units.of_table(layer, torch.stack([image, channel, *peaks.place[of].T]), peaks.value[of])
