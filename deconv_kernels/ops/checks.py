"""What the ops ask of their arguments. The functions named as the ops take an op's tensors and objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ..checks import shown
from .geometry import LARGEST_STEP, Backprojection, Convolution, PerAxis, Pooling, per_axis
from .layout import spatial_size

AXES = {1: "L", 2: "H, W", 3: "D, H, W"}  # the sizes of a map, by its rank
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def max_pool(input: Tensor, bias: Tensor | None, pooling: Pooling, ceil_mode: bool, relu: bool) -> None:
    """A map that the window fits, and a bias for each of its channels."""
    check_map("input", input, pooling.rank, FLOATING)
    size = spatial_size(input, pooling.rank)
    if min(pooling.pooled_size(size, ceil_mode)) < 1:
        raise ValueError(
            f"kernel_size {pooling.kernel_size} with dilation {pooling.dilation} does not fit input's {tuple(size)} "
            f"map padded by {pooling.padding}"
        )
    if bias is None:
        return
    check_tensor("bias", bias)
    channels = input.shape[-1 - pooling.rank]
    if bias.shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},), one for each channel, got {tuple(bias.shape)}")
    if bias.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"bias must have the dtype of input, {input.dtype}, got {bias.dtype}")
    check_device("bias", bias, "input", input)


def max_unpool(
    input: Tensor, switches: Tensor, pooling: Pooling, output_size: PerAxis, overlap: str, relu: bool
) -> None:
    """A pooled map with its switches, and a size that pools to it."""
    check_map("input", input, pooling.rank, FLOATING)
    check_like("switches", switches, (pooling.switch_dtype(),), "input", input)
    check_overlap(overlap)
    pooled = spatial_size(input, pooling.rank)
    if not pooling.pools_to(output_size, pooled):
        smallest, largest = pooling.unpooled_range(pooled)
        raise ValueError(
            f"output_size must be between {smallest} and {largest} for input's {pooled} map, got {tuple(output_size)}"
        )


def max_unpool_window(
    input: Tensor, switches: Tensor, image: Tensor, origin: Tensor, pooling: Pooling, overlap: str, relu: bool
) -> None:
    """Windows with their places, and the switches of the maps they lie on."""
    _check_windows(input, image, origin, pooling.rank)
    _check_switches_of_windows(switches, input, pooling)
    check_overlap(overlap)


def pack_weight(weight: Tensor, convolution: Convolution) -> None:
    """A weight that its groups divide."""
    check_weight(weight, convolution.rank, convolution.groups)


def backproject(
    input: Tensor,
    weight: Tensor,
    image: Tensor,
    origin: Tensor,
    switches: Tensor | None,
    packed: Tensor | None,
    geometry: Backprojection,
) -> None:
    """Windows with their places, a weight for their channels, and the part that is wanted of the result."""
    _check_windows(input, image, origin, geometry.rank)
    check_weight(weight, geometry.rank, geometry.groups)
    if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"weight must have the dtype of input, {input.dtype}, got {weight.dtype}")
    if weight.shape[0] != input.shape[1]:
        raise ValueError(
            f"weight must have {input.shape[1]} rows, one for each channel of input, got {tuple(weight.shape)}"
        )
    check_device("weight", weight, "input", input)
    if switches is not None:
        _check_switches_of_windows(switches, input, geometry.pooling())
    if packed is not None:
        check_tensor("packed", packed)
        check_device("packed", packed, "input", input)
    check_overlap(geometry.overlap)
    begin, size, _, map_size = placement = geometry.placement()
    if min(begin) < 0 or min(size) < 1:
        raise ValueError(f"crop must begin at 0 or later and have at least one position, got {begin}, {size}")
    if min(map_size) < 1 and placement.bounded():
        raise ValueError(f"output_size must be at least {(1,) * geometry.rank}, got {map_size}")


def switches_to_indices(switches: Tensor, input_size: PerAxis, pooling: Pooling) -> None:
    """Switches of a map of `input_size`."""
    check_map("switches", switches, pooling.rank, (pooling.switch_dtype(),))
    _check_input_size(switches, input_size, pooling)


def indices_to_switches(indices: Tensor, input_size: PerAxis, pooling: Pooling) -> None:
    """Indices into a map of `input_size`."""
    check_map("indices", indices, pooling.rank, (torch.int64,))
    _check_input_size(indices, input_size, pooling)


def given_size(name: str, size: Sequence[int], rank: int, pooled_name: str, pooled: Tensor) -> PerAxis:
    """A map's size given as such or as a whole shape, of which `pooled` is known by another name.

    Raises:
        TypeError: not a sequence of integers.
        ValueError: a sequence of another length, or one that does not begin as the shape of `pooled` does.
    """
    if type(size) is tuple and len(size) == rank and set(map(type, size)) == {int}:
        return size
    check_tensor(pooled_name, pooled)
    if not isinstance(size, Sequence):
        raise TypeError(f"{name} must be ({AXES[rank]}) or a whole shape, got {size!r}")
    if len(size) == pooled.dim() and len(size) != rank:
        if tuple(size[:-rank]) != tuple(pooled.shape[:-rank]):
            raise ValueError(f"{name} must begin with {tuple(pooled.shape[:-rank])}, got {tuple(size)}")
        size = size[-rank:]
    if len(size) != rank:
        raise ValueError(f"{name} must be ({AXES[rank]}) or a shape of {pooled.dim()} entries, got {tuple(size)}")
    return per_axis(tuple(size), rank, name)


def given_crop(crop: tuple[Sequence[int], Sequence[int]], rank: int) -> tuple[PerAxis, PerAxis]:
    """A crop as its place and its size.

    Raises:
        TypeError: not two sequences of integers.
        ValueError: a place below 0, or a size below 1.
    """
    form = {1: "((x,), (columns,))", 2: "((y, x), (rows, columns))", 3: "((z, y, x), (planes, rows, columns))"}[rank]
    if not isinstance(crop, tuple | list) or len(crop) != 2:
        raise TypeError(f"crop must be {form}, got {crop!r}")
    begin, size = per_axis(crop[0], rank, "crop"), per_axis(crop[1], rank, "crop")
    if min(begin) < 0 or min(size) < 1 or max(*begin, *size) > LARGEST_STEP:
        raise ValueError(
            f"crop must be {form} with a place from 0 and a size from 1 to {LARGEST_STEP}, got ({begin}, {size})"
        )
    return begin, size


def check_overlap(overlap: str) -> str:
    """`overlap` itself.

    Raises:
        ValueError: neither "sum" nor "last".
    """
    if overlap not in ("sum", "last"):
        raise ValueError(f'overlap must be "sum" or "last", got {shown(overlap)}')
    return overlap


def check_weight(weight: Tensor, rank: int, groups: int) -> None:
    """A (K, C / groups, kh, kw) weight that is not empty, or one of another rank.

    Raises:
        TypeError: not a tensor, of another dtype, or groups that are no int.
        ValueError: another shape, or groups that do not divide K.
    """
    _check_strided("weight", weight)
    if weight.dtype not in FLOATING:
        raise TypeError(f"weight must be float32, float64, float16 or bfloat16, got {weight.dtype}")
    if weight.dim() != rank + 2 or 0 in weight.shape:
        taps = ", ".join(f"k{axis.lower()}" for axis in AXES[rank].split(", "))
        raise ValueError(f"weight must have shape (K, C / groups, {taps}), not empty, got {tuple(weight.shape)}")
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"groups must be an int, got {groups!r}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must divide weight's {weight.shape[0]} rows, got {groups}")


def check_tensor(name: str, tensor: object) -> None:
    """A tensor.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")


def check_map(name: str, tensor: Tensor, rank: int, dtypes: Sequence[torch.dtype]) -> None:
    """A map of `rank` dimensions that is not empty, with channels, alone or in a batch, of one of `dtypes`.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape.
    """
    _check_strided(name, tensor)
    if tensor.dtype not in dtypes:
        _wrong_dtype(name, tensor, dtypes)
    check_shape(name, tensor.shape, rank)


def check_shape(name: str, shape: Sequence[int], rank: int) -> None:
    """The shape of a map of `rank` dimensions that is not empty, with channels, alone or in a batch.

    Raises:
        ValueError: another shape.
    """
    if len(shape) not in (rank + 1, rank + 2):
        raise ValueError(f"{name} must have shape (C, {AXES[rank]}) or (N, C, {AXES[rank]}), got {tuple(shape)}")
    if 0 in shape[-1 - rank :]:
        raise ValueError(f"{name} may be empty only in its batch dimension, got shape {tuple(shape)}")


def check_like(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype], of: str, like: Tensor) -> None:
    """A tensor of one of `dtypes`, with the shape and on the device of `like`, which the caller knows as `of`.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: another shape or device.
    """
    check_tensor(name, tensor)
    if tensor.dtype not in dtypes:
        _wrong_dtype(name, tensor, dtypes)
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {tuple(tensor.shape)}")
    check_device(name, tensor, of, like)


def check_device(name: str, tensor: Tensor, of: str, like: Tensor) -> None:
    """Two tensors on one device.

    Raises:
        ValueError: they are on different devices.
    """
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on the device of {of}, {like.device}, got {tensor.device}")


def _check_strided(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense (strided) Tensor, got layout {tensor.layout}")


def _check_windows(input: Tensor, image: Tensor, origin: Tensor, rank: int) -> None:
    check_map("input", input, rank, FLOATING)
    if input.dim() != rank + 2:
        raise ValueError(f"input must have shape (U, C, {AXES[rank].lower()}), got {tuple(input.shape)}")
    units = input.shape[0]
    for name, tensor, shape in (("image", image, (units,)), ("origin", origin, (units, rank))):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            raise TypeError(f"{name} must be an int64 Tensor, got {getattr(tensor, 'dtype', type(tensor).__name__)}")
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, one for each window of input, got {tuple(tensor.shape)}")
        check_device(name, tensor, "input", input)


def _check_switches_of_windows(switches: Tensor, input: Tensor, pooling: Pooling) -> None:
    rank = pooling.rank
    check_map("switches", switches, rank, (pooling.switch_dtype(),))
    if switches.dim() != rank + 2 or switches.shape[1] != input.shape[1]:
        pooled = ", ".join(f"P{axis}" for axis in AXES[rank].split(", "))
        raise ValueError(f"switches must have shape (N, {input.shape[1]}, {pooled}), got {tuple(switches.shape)}")
    check_device("switches", switches, "input", input)


def _check_input_size(pooled: Tensor, size: PerAxis, pooling: Pooling) -> None:
    pooled_size = spatial_size(pooled, pooling.rank)
    if not pooling.pools_to(size, pooled_size):
        fits = [pooling.pooled_size(size, ceil_mode) for ceil_mode in (False, True)]
        raise ValueError(
            f"input_size {tuple(size)} pools to {fits[0]}, or {fits[1]} with ceil_mode, not to {pooled_size}"
        )


def _wrong_dtype(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> NoReturn:
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    raise TypeError(f"{name} must be {names}, got {str(tensor.dtype).removeprefix('torch.')}")
