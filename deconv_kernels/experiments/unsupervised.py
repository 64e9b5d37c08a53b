"""The unsupervised deconvolutional network: layers of convolutional sparse coding joined by max-pooling with switches.

This is where the switches come from. A layer explains its images by feature maps z_l that are sparse, and minimises

    C_l(z_l) = lambda_l / 2 * || R_l z_l - y ||^2 + |z_l|_1,        R_l = F_1 U_1 F_2 U_2 ... F_l,

one image at a time, where F_j sums the maps of layer j, each filtered by its filter, and U_j unpools by the switches of
layer j. R_l goes all the way to the pixels y, so every layer answers for the image and not for the layer below it.

What is done, and where it differs from Zeiler, Taylor & Fergus 2011:

- Maps are larger than what they explain by the kernel less one, so that every pixel has all filters. Filters are kept
  as the weight of the forward convolution, which makes F_j `backproject2d` and its adjoint `F.conv2d`.
- Pooling is by magnitude, keeps signs, and has square windows that do not overlap, partial ones at the far borders. It
  goes over rows and columns only; the 2011 paper also pools over neighbouring maps.
- Inference is ISTA or FISTA (`sparse_code`). In the 2011 paper every step ends with pooling and unpooling, which renews
  the layer's own switches. Keeping the largest of the shrunk values of each window is exactly the proximal operator of
  "|z|_1, and at most one value per window other than zero"; so this too is a proximal gradient method, and with steps
  found by backtracking the objective never rises. `pooling="within"` does that. `pooling="after"` minimises C_l itself,
  which is convex, and pools once at the end. The switches of the layers below are fixed meanwhile in both.
- Filters are learned a layer at a time, by turns: maps of a batch of images, then some steps of conjugate gradients on
  the linear least squares problem that the filters solve when the maps are fixed, then unit length. In the n-th epoch
  filters go 1 / sqrt(n) of the way, so that what single batches want averages out. The paper updates once for all its
  images, and goes on from the last epoch's maps; here every inference starts from zero.
- Learning begins with random sums of patches of what a layer explains: noise of the right covariance. With white noise,
  as in the paper, some filters are so unlike any image that no map ever uses them.
- `contrast_normalised` is the paper's preprocessing, for grey and colour images.

Source: Zeiler, Krishnan, Taylor & Fergus, "Deconvolutional Networks" (2010); Zeiler, Taylor & Fergus, "Adaptive
Deconvolutional Networks for Mid and High Level Feature Learning" (2011).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import at_least, one_of, whole_number
from ..data.writing import being_written
from ..engine.projections import Projections
from ..engine.units import Units
from ..ops import backproject2d, max_pool2d, max_unpool2d, switches_to_indices
from ..terminal import Progress
from .common.files import Parts

__all__ = [
    "DeconvolutionalNetwork",
    "Epoch",
    "Reconstruction",
    "SparseCode",
    "SparseFeatures",
    "SparseLayer",
    "contrast_normalised",
    "pool_by_magnitude",
    "sparse_code",
]

METHODS = ("fista", "ista")
POOLING_TIMES = ("within", "after")
_GROWTH = 1.1


@dataclass(frozen=True)
class SparseLayer:
    """One layer.

    Args:
        maps: how many feature maps, and so filters.
        fidelity: the weight lambda of the reconstruction error against the maps' l1 norm; smaller is sparser.
        kernel_size: rows and columns of a filter.
        pool: rows and columns of a pooling window; 1 for no pooling.

    Raises:
        ValueError: one of them is out of range.

    Example:
        >>> SparseLayer(maps=8, fidelity=5.0, kernel_size=5, pool=2).pooled_size((16, 16))
        (10, 10)
    """

    maps: int
    fidelity: float
    kernel_size: int = 7
    pool: int = 2

    def __post_init__(self) -> None:
        for name in ("maps", "kernel_size", "pool"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        _check_fidelity(self.fidelity)

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the maps that explain something of this size."""
        return size[0] + self.kernel_size - 1, size[1] + self.kernel_size - 1

    def pooled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the pooled maps of something of this size."""
        height, width = self.map_size(size)
        return -(-height // self.pool), -(-width // self.pool)


@dataclass(frozen=True)
class SparseCode:
    """What inference found for N images at one layer.

    Attributes:
        maps: z, (N, K, H, W).
        objective: (steps + 1, N), C(z) before the first step and after each.
        curvature: (N,), the constant of the quadratic upper bound that backtracking found; its inverse is the step. It
            is at most 1.1 times lambda ||R||^2.
        gap: (N,), how far C(z) can be above the minimum, from duality. None with pooling within inference, which is not
            convex.
    """

    maps: Tensor
    objective: Tensor
    curvature: Tensor
    gap: Tensor | None


@dataclass(frozen=True)
class SparseFeatures:
    """What inference found for N images, layer by layer.

    Attributes:
        size: (H, W) of the images.
        codes: one for each layer.
        pooled, switches: p_l and s_l of each layer, (N, K, PH, PW), signed values and positions in the windows.
    """

    size: tuple[int, int]
    codes: tuple[SparseCode, ...]
    pooled: tuple[Tensor, ...]
    switches: tuple[Tensor, ...]


@dataclass(frozen=True)
class Epoch:
    """How a layer explained the images in one pass through them, each with the filters of its time.

    Attributes:
        layer: from 1.
        epoch: from 0.
        objective: C_l, mean of the images.
        error: sum of || R_l z_l - y ||^2 over the images, as a share of the sum of || y ||^2.
        l1: |z_l|_1, mean of the images.
        nonzero: share of the values of z_l other than zero.
        silent: maps that are zero everywhere in all images.
    """

    layer: int
    epoch: int
    objective: float = float("nan")
    error: float = float("nan")
    l1: float = float("nan")
    nonzero: float = float("nan")
    silent: int = 0


class Reconstruction:
    """The linear operator R of N images, from maps down to pixels, and its adjoint.

    Args:
        filters: of the layers from 1 upwards, (K, channels below, kernel, kernel) each.
        pools: the pooling windows of these layers.
        switches: of the same layers, (N, K, PH, PW) each, without the top one if the signal that goes down is the top
            layer's maps, or with it if it is the pooled maps.
        size: (H, W) of the images.
    """

    def __init__(
        self, filters: Sequence[Tensor], pools: Sequence[int], switches: Sequence[Tensor], size: tuple[int, int]
    ) -> None:
        self.filters, self.pools, self.switches = list(filters), list(pools), list(switches)
        self.sizes = [size, *((places.shape[-2], places.shape[-1]) for places in self.switches)]

    @cached_property
    def _indices(self) -> list[Tensor]:
        """The switches as flat places in their maps, (N, K, PH * PW) each."""
        indices = []
        for weight, pool, places, (height, width) in zip(
            self.filters, self.pools, self.switches, self.sizes, strict=False
        ):
            margin = weight.shape[-1] - 1
            indices.append(switches_to_indices(places, (height + margin, width + margin), pool).flatten(2))
        return indices

    def down(self, signal: Tensor) -> Tensor:
        """R: maps, or pooled maps, (N, K, H, W) to images (N, C, H, W). Differentiable, by the filters too."""
        image = torch.arange(len(signal), device=signal.device)
        origin = torch.zeros(len(signal), 2, dtype=torch.int64, device=signal.device)
        for place in reversed(range(len(self.filters))):
            margin = self.filters[place].shape[-1] - 1
            pooled = place < len(self.switches)
            signal, _ = backproject2d(
                signal,
                self.filters[place],
                image,
                origin,
                padding=margin,
                switches=self.switches[place] if pooled else None,
                pool_kernel_size=self.pools[place] if pooled else None,
                crop=((margin, margin), self.sizes[place]),
            )
        return signal

    def up(self, images: Tensor) -> Tensor:
        """The adjoint of `down`: images to maps, or pooled maps."""
        signal = images
        for place, weight in enumerate(self.filters):
            signal = F.conv2d(signal, weight, padding=weight.shape[-1] - 1)
            if place < len(self.switches):
                gathered = signal.flatten(2).gather(2, self._indices[place])
                signal = gathered.view(self.switches[place].shape)
        return signal


def sparse_code(
    operator: Reconstruction,
    images: Tensor,
    fidelity: float,
    *,
    steps: int = 20,
    method: str = "fista",
    pool: int | None = None,
    tolerance: float = 0.0,
) -> SparseCode:
    """Minimises fidelity / 2 * || R z - y ||^2 + |z|_1 for each image, from z = 0.

    Each image has its own step, found by backtracking from the curvature along its first gradient, and its own
    momentum. A step that would raise an image's objective is not taken and ends its momentum, so no objective ever
    rises.

    Args:
        operator: R.
        images: y, (N, C, H, W).
        fidelity: lambda.
        steps: how many at most; each goes down and up once, and once more down where backtracking shortens it.
        method: "fista", or "ista" without momentum.
        pool: keep at most one value other than zero in every window of this size (see the module).
        tolerance: an image whose duality gap is at most this share of its objective takes no further steps; 0 for all
            the steps.

    Returns:
        The maps, with the objective of every step.

    Raises:
        ValueError: an argument is out of range; a tolerance with `pool`, which leaves no gap to measure; images that
            are not finite, or an objective too large for their dtype.

    Source: Zeiler et al. 2011, inference (ISTA); Beck & Teboulle 2009 (FISTA, backtracking).
    """
    whole_number("steps", steps, 1)
    one_of("method", method, METHODS)
    _check_fidelity(fidelity)
    _check_tolerance(tolerance)
    if pool is not None:
        whole_number("pool", pool, 1)
        if tolerance > 0:
            raise ValueError("tolerance needs the duality gap, which inference with pooling within does not have")
    momentum = method == "fista"
    seen = _norm(images)
    eps = torch.finfo(images.dtype).eps
    steepest = operator.up(images)
    norm = _norm(steepest)
    curvature = fidelity * (_norm(operator.down(steepest)) / norm.clamp(min=torch.finfo(norm.dtype).tiny)) ** 2
    curvature = torch.where(curvature > 0, curvature, fidelity)
    gradient = steepest.mul_(-fidelity)
    maps, shown = torch.zeros_like(gradient), torch.zeros_like(images)
    cost = fidelity / 2 * seen**2
    _check_finite(images, fidelity, cost, curvature, gradient)
    gap = torch.full_like(cost, torch.inf)
    trace = [cost]
    before, time = (maps, shown, gradient), torch.ones_like(cost)
    going = torch.ones_like(cost, dtype=torch.bool)
    for _ in range(steps):
        later = (1 + (1 + 4 * time**2).sqrt()) / 2 if momentum else time
        weight = _per_image(1 + (time - 1) / later)  # of the present; the past has one less it
        start, start_shown, slope = (
            torch.lerp(old, new, weight) if momentum else new
            for old, new in zip(before, (maps, shown, gradient), strict=True)
        )
        while True:
            stride = _per_image(1 / curvature)
            moved = _proximal(torch.addcmul(start, slope, stride, value=-1), stride, pool)
            moved_shown = operator.down(moved)
            rounding = 32 * eps * (seen + _norm(moved_shown))
            bound = (_norm(moved_shown - start_shown) - rounding).clamp(min=0) ** 2 * fidelity
            allowed = _norm(moved - start) ** 2
            short = going & (bound > curvature * allowed)
            if not bool(short.any()):
                break
            curvature = torch.where(short, _GROWTH * bound / allowed, curvature)
            _check_finite(images, fidelity, curvature)
        moved_error = moved_shown - images
        moved_l1 = moved.abs().sum((1, 2, 3))
        moved_cost = fidelity / 2 * _norm(moved_error) ** 2 + moved_l1
        moved_gradient = operator.up(moved_error).mul_(fidelity)
        _check_finite(images, fidelity, moved_cost)

        falls = going & (moved_cost <= cost)
        before = (maps, shown, gradient)
        if bool(falls.all()):
            maps, shown, gradient, cost, time = moved, moved_shown, moved_gradient, moved_cost, later
        else:
            keep = _per_image(falls)
            maps, shown = torch.where(keep, moved, maps), torch.where(keep, moved_shown, shown)
            gradient = torch.where(keep, moved_gradient, gradient)
            cost, time = torch.where(falls, moved_cost, cost), torch.where(falls, later, torch.ones_like(later))
        trace.append(cost)
        if pool is None:
            gap = torch.where(falls, _duality_gap(images, moved_error, moved_gradient, moved_cost, fidelity), gap)
            if tolerance > 0:
                going = gap > tolerance * cost
                if not bool(going.any()):
                    break
    trace += [cost] * (steps + 1 - len(trace))
    return SparseCode(maps, torch.stack(trace), curvature, gap if pool is None else None)


def pool_by_magnitude(maps: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """The value of largest magnitude of every window, with its sign, and its switch.

    Args:
        maps: (N, K, H, W).
        pool: rows and columns of a window; partial windows at the far borders count.

    Returns:
        Pooled values and uint8 switches (int16 for windows of more than 256 positions), (N, K, PH, PW).

    Source: Zeiler et al. 2011, 3D max pooling, here in two dimensions.
    """
    _, switches = max_pool2d(maps.abs(), pool, ceil_mode=True)
    indices = switches_to_indices(switches, (maps.shape[-2], maps.shape[-1]), pool)
    return maps.flatten(2).gather(2, indices.flatten(2)).view(switches.shape), switches


def contrast_normalised(images: Tensor, kernel_size: int = 13, sigma: float = 5.0, floor: float = 0.0) -> Tensor:
    """Local subtractive and divisive normalisation.

    From every pixel the Gaussian-weighted mean of its neighbourhood is taken away, in each channel; what is left is
    divided by the Gaussian-weighted standard deviation of the neighbourhood over all channels together, so that colours
    keep their proportions, or by its mean over the image, or by `floor`, where one of those is larger. At borders the
    Gaussian is cut off and has weight one all the same.

    Args:
        images: (N, C, H, W), uint8 or floating point, finite.
        kernel_size: rows and columns of the Gaussian, odd.
        sigma: its standard deviation, in pixels.
        floor: the least divisor, in the images' units, of which uint8 has 1 for 255: keeps the noise of images without
            contrast from becoming their content.

    Returns:
        Images of the same shape; float32 for uint8, else the same dtype. An image of one colour becomes zero.

    Raises:
        ValueError: an argument out of range, or images that are not finite.

    Source: Zeiler et al. 2011, experiments (13x13, sigma 5); Jarrett et al. 2009 for the mean as the least divisor.
    """
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (N, C, H, W), not empty, got {tuple(images.shape)}")
    if kernel_size < 1 or kernel_size % 2 == 0 or not sigma > 0 or not floor >= 0:
        raise ValueError(
            f"kernel_size must be odd, sigma above 0 and floor at least 0, got {kernel_size}, {sigma:g} and {floor:g}"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite")
    values = images if images.is_floating_point() else images.to(torch.float32) / 255
    offsets = torch.arange(kernel_size, dtype=values.dtype, device=values.device) - kernel_size // 2
    line = torch.exp(-((offsets / sigma) ** 2) / 2)

    def blurred(maps: Tensor) -> Tensor:
        flat = maps.reshape(-1, 1, *maps.shape[-2:])
        for weight in (line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)):
            ones = torch.ones_like(flat[:1])
            pad = (weight.shape[2] // 2, weight.shape[3] // 2)
            flat = F.conv2d(flat, weight, padding=pad) / F.conv2d(ones, weight, padding=pad)
        return flat.view(maps.shape)

    centred = values - blurred(values)
    deviation = blurred(centred.square().mean(1, keepdim=True)).clamp(min=0).sqrt()
    mean = deviation.mean((2, 3), keepdim=True)
    divisor = torch.maximum(deviation, mean).clamp(min=max(floor, torch.finfo(values.dtype).tiny))
    rounding = 64 * torch.finfo(values.dtype).eps * values.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(mean > rounding, centred / divisor, 0)


class DeconvolutionalNetwork(nn.Module):
    """Layers of convolutional sparse coding, each on the pooled maps of the one below.

    Args:
        layers: from the pixels upwards.
        channels: of the images: 3 for colour, 1 for grey.
        seed: of the random filters it begins with.

    Attributes:
        filters: one parameter for each layer, (maps, channels below, kernel, kernel), each filter of length one.
        names: "layer1", "layer2", ..., as `Units` of this network name them.

    Raises:
        TypeError: layers that are no `SparseLayer`.
        ValueError: no layer or no channel.

    Filters, settings and nothing else make its state_dict; `save` and `load` keep both in one file.

    Example:
        >>> network = DeconvolutionalNetwork([SparseLayer(maps=8, fidelity=5.0, kernel_size=5)])
        >>> epochs = network.fit(torch.randn(2, 3, 16, 16), epochs=1, steps=3, progress=False)
        >>> network.reconstruct(network.infer(torch.randn(2, 3, 16, 16), steps=3)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, layers: Sequence[SparseLayer], channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a deconvolutional network needs at least one layer")
        for layer in layers:
            if not isinstance(layer, SparseLayer):
                raise TypeError(f"layers must be SparseLayer, got {layer!r}")
        at_least("channels", channels, 1)
        self.layers = tuple(layers)
        self.channels = channels
        self.names = tuple(f"layer{number + 1}" for number in range(len(self.layers)))
        generator = torch.Generator().manual_seed(seed)
        below = [channels, *(layer.maps for layer in self.layers)]
        self.filters = nn.ParameterList(
            _unit_length(torch.randn(layer.maps, count, layer.kernel_size, layer.kernel_size, generator=generator))
            for layer, count in zip(self.layers, below, strict=False)
        )

    def extra_repr(self) -> str:
        return "\n".join(map(str, self.layers))

    def operator(self, switches: Sequence[Tensor], size: tuple[int, int]) -> Reconstruction:
        """R_l for the layer above those whose switches are given; `size` is that of the images."""
        depth = len(switches) + 1
        pools = [layer.pool for layer in self.layers[:depth]]
        return Reconstruction(list(self.filters)[:depth], pools, switches, size)

    @torch.no_grad()
    def infer(
        self,
        images: Tensor,
        depth: int | None = None,
        *,
        steps: int = 20,
        method: str = "fista",
        pooling: str = "within",
        tolerance: float = 0.0,
        batch_size: int = 16,
        progress: bool = False,
    ) -> SparseFeatures:
        """Infers the maps of one layer after the other, from the bottom.

        Args:
            images: (N, C, H, W), contrast normalised, of the filters' dtype and device; any size.
            depth: how many layers; all by default.
            steps, method: as in `sparse_code`.
            pooling: "within" every step, as in the 2011 paper, or "after" the last (see the module).
            tolerance: as in `sparse_code`, with pooling after.
            batch_size: images at a time; it changes nothing but time, memory and rounding.
            progress: show a progress bar.

        Raises:
            TypeError, ValueError: an argument of the wrong dtype, shape or range.
        """
        depth = len(self.layers) if depth is None else depth
        if not 1 <= depth <= len(self.layers):
            raise ValueError(f"depth must be between 1 and {len(self.layers)}, got {depth}")
        self._check_images(images)
        inference = _Inference(steps, method, pooling, tolerance)
        batches = torch.arange(len(images)).split(whole_number("batch_size", batch_size, 1))
        codes: list[SparseCode] = []
        pooled: list[Tensor] = []
        switches: list[Tensor] = []
        with Progress(total=depth * len(images), desc="inferring", unit="image", disable=not progress) as bar:
            for layer in self.layers[:depth]:
                found = []
                for rows in batches:
                    operator = self.operator([s[rows] for s in switches], _size(images))
                    found.append(inference(operator, images[rows], layer))
                    bar.update(len(rows))
                codes.append(_concatenated(found))
                values, places = pool_by_magnitude(codes[-1].maps, layer.pool)
                pooled.append(values)
                switches.append(places)
        return SparseFeatures(_size(images), tuple(codes), tuple(pooled), tuple(switches))

    def reconstruct(
        self, features: SparseFeatures, layer: int | None = None, *, pooled: bool = False, batch_size: int = 16
    ) -> Tensor:
        """The images as a layer's maps explain them, through the switches of the layers below.

        Args:
            features: as inferred.
            layer: from 1; the top one inferred by default.
            pooled: go through the layer's own pooling as well: from its pooled maps and its switches. The same with
                pooling within inference.
            batch_size: images at a time.

        Returns:
            (N, C, H, W), differentiable by the filters and maps.

        Raises:
            ValueError: the features have no such layer.
        """
        top = self._level(features, layer) + 1
        signal = features.pooled[top - 1] if pooled else features.codes[top - 1].maps
        switches = features.switches[: top if pooled else top - 1]
        filters, pools = list(self.filters)[:top], [layer.pool for layer in self.layers[:top]]
        return torch.cat(
            [
                Reconstruction(filters, pools, [s[rows] for s in switches], features.size).down(signal[rows])
                for rows in torch.arange(len(signal)).split(whole_number("batch_size", batch_size, 1))
            ]
        )

    @torch.no_grad()
    def fit(
        self,
        images: Tensor,
        *,
        epochs: int = 10,
        steps: int = 20,
        filter_steps: int = 2,
        method: str = "fista",
        pooling: str = "within",
        batch_size: int = 16,
        seed: int = 0,
        go_on: bool = False,
        parts: Parts | None = None,
        progress: bool = True,
    ) -> list[Epoch]:
        """Learns the filters, layer by layer from the bottom.

        An epoch goes through the images batch by batch, in random order: it infers the layer's maps, then moves its
        filters 1 / sqrt(epoch + 1) of the way to those that `learn_filters` gives. A last pass with the final filters
        gives the switches for the layer above. The same images and arguments give the same result.

        Args:
            images: (N, C, H, W), contrast normalised, of the filters' dtype and device.
            epochs: passes through the images per layer.
            steps, method, pooling: as in `infer`.
            filter_steps: steps of conjugate gradients per update.
            batch_size: images per update.
            seed: of the filters to begin with and of the order of the images.
            go_on: begin with the present filters.
            parts: where finished epochs are kept; its settings must say all that the result depends on.
            progress: show a progress bar per layer.

        Returns:
            All epochs of all layers in order, epochs + 1 a layer, the last with the final filters.

        Raises:
            TypeError, ValueError: an argument of the wrong dtype, shape or range.

        Source: Zeiler et al. 2011, learning.
        """
        self._check_images(images)
        inference = _Inference(steps, method, pooling)
        whole_number("epochs", epochs, 0)
        whole_number("filter_steps", filter_steps, 1)
        whole_number("batch_size", batch_size, 1)
        parts = parts or Parts.nowhere()
        generator = torch.Generator().manual_seed(seed)
        history: list[Epoch] = []
        switches: list[Tensor] = []
        for level, name in enumerate(self.names):
            if not go_on:
                self.filters[level].copy_(self._noise(level, images, inference, batch_size, generator))
            with Progress(total=epochs + 1, desc=name, unit="epoch", disable=not progress) as bar:
                for epoch in range(epochs + 1):
                    last = epoch == epochs
                    order = torch.arange(len(images)) if last else torch.randperm(len(images), generator=generator)
                    compute = partial(
                        self._pass,
                        images,
                        switches,
                        order.split(batch_size),
                        inference,
                        Epoch(level + 1, epoch),
                        filter_steps=0 if last else filter_steps,
                    )
                    part = parts.get(f"{name} epoch {epoch}{' last' * last}", compute)
                    self.filters[level].copy_(part["filters"])
                    history.append(Epoch(**part["epoch"]))
                    bar.set_postfix_str(f"error {history[-1].error:.1%}, non-zero {history[-1].nonzero:.1%}")
                    bar.update()
                switches = [*switches, part["switches"].to(images.device)]
        return history

    @torch.no_grad()
    def learn_filters(self, images: Tensor, switches: Sequence[Tensor], maps: Tensor, steps: int = 2) -> Tensor:
        """Filters of a layer that explain images better by given maps, of length one.

        Conjugate gradients from the present filters on || R_l z_l - y ||^2, in which the filters of layer l are unknown
        and linear (least squares, without forming the normal equations).

        Args:
            images: (N, C, H, W).
            switches: of the layers below.
            maps: of the layer above those, (N, K, H, W).
            steps: how many; each goes down and up once.

        Returns:
            (K, channels below, kernel, kernel). Filters of maps that are zero everywhere stay as they are.

        Source: Zeiler et al. 2011, learning.
        """
        level = len(switches)
        known, pools = list(self.filters)[:level], [layer.pool for layer in self.layers[: level + 1]]
        below = Reconstruction(known, pools, switches, _size(images))
        filters = self.filters[level].detach().clone()

        def adjoint(residual: Tensor) -> Tensor:
            return _filter_gradient(below.up(residual), maps, filters.shape[-1])

        residual = images - Reconstruction([*known, filters], pools, switches, _size(images)).down(maps)
        slope = adjoint(residual)
        direction, steepness = slope, slope.square().sum()
        for _ in range(steps):
            change = Reconstruction([*known, direction], pools, switches, _size(images)).down(maps)
            energy = change.square().sum()
            if not bool(energy > 0):
                break
            filters += steepness / energy * direction
            residual -= steepness / energy * change
            slope = adjoint(residual)
            before, steepness = steepness, slope.square().sum()
            direction = slope + steepness / before * direction
        return _unit_length(filters)

    def strongest(self, features: SparseFeatures, layer: int, k: int = 9, maps: Sequence[int] | None = None) -> Units:
        """The units of largest magnitude of every map, at most one per image, in falling order.

        Args:
            features: as inferred.
            layer: from 1.
            k: units per map, or one per image where there are fewer.
            maps: which maps; all by default.

        Returns:
            Map by map, with signed activations.

        Raises:
            ValueError: the features have no such layer, or the layer no such map; `k` is below 1.
        """
        level = self._level(features, layer)
        whole_number("k", k, 1)
        values = features.codes[level].maps.detach()
        for number in () if maps is None else maps:
            if not 0 <= number < values.shape[1]:
                raise ValueError(f"maps of {self.names[level]} are from 0 to {values.shape[1] - 1}, got {number}")
        channels = torch.as_tensor(range(values.shape[1]) if maps is None else maps, dtype=torch.int64)
        flat = values[:, channels.to(values.device)].flatten(2)
        peak, place = flat.abs().max(2)
        images = peak.sort(dim=0, descending=True, stable=True).indices[:k].T.reshape(-1).cpu()
        rows = torch.arange(len(channels)).repeat_interleave(len(images) // len(channels))
        place, flat = place.cpu(), flat.cpu()
        place = place[images, rows]
        width = values.shape[-1]
        return Units(
            self.names[level], images, channels[rows], place // width, place % width, flat[images, rows, place]
        )

    @torch.no_grad()
    def project(self, features: SparseFeatures, units: Units) -> Projections:
        """What single units put into their image: all others zero, down to pixels inside the receptive field.

        Args:
            features: as inferred; the units' images are its images.
            units: of one of the `names`, with activations; as `strongest` gives them.

        Raises:
            ValueError: unknown layer, or units without activations or outside the maps.
        """
        if units.layer not in self.names:
            raise ValueError(f"units are of layer {units.layer!r}; this network has {', '.join(self.names)}")
        level = self._level(features, self.names.index(units.layer) + 1)
        if units.activation is None:
            raise ValueError("units need activations to be projected")
        shape = features.codes[level].maps.shape
        for axis, (name, index) in enumerate(zip(("image", "channel", "y", "x"), units.table(), strict=True)):
            if len(index) and int(index.max()) >= shape[axis]:
                raise ValueError(f"units.{name} must be below {shape[axis]} at {units.layer}, got {int(index.max())}")
        weight = self.filters[level]
        signal = weight.new_zeros(len(units), shape[1], 1, 1)
        signal[torch.arange(len(units)), units.channel] = units.activation.to(weight)[:, None, None]
        image, origin = units.image.to(weight.device), torch.stack([units.y, units.x], dim=1).to(weight.device)
        sizes = [features.size]
        for layer in self.layers[:level]:
            sizes.append(layer.pooled_size(sizes[-1]))
        for place in reversed(range(level + 1)):
            pooled = place < level
            signal, origin = backproject2d(
                signal,
                self.filters[place],
                image,
                origin,
                padding=self.layers[place].kernel_size - 1,
                switches=features.switches[place] if pooled else None,
                pool_kernel_size=self.layers[place].pool if pooled else None,
                output_size=sizes[place],
            )
        extent = torch.tensor(signal.shape[-2:], device=origin.device)
        return Projections(
            units, signal, torch.cat([origin, origin + extent], dim=1).cpu(), (self.channels, *features.size)
        )

    def save(self, path: str | Path) -> None:
        """Writes settings and filters to an .npz file: `settings` as JSON, and an array `layer1`, `layer2`, ... each.

        Raises:
            OSError: it cannot be written.
        """
        settings = json.dumps({"channels": self.channels, "layers": [asdict(layer) for layer in self.layers]})
        arrays: dict[str, Any] = {
            name: weight.detach().cpu().numpy() for name, weight in zip(self.names, self.filters, strict=True)
        }
        with being_written(path), open(path, "wb") as file:
            np.savez(file, settings=np.array(settings), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> DeconvolutionalNetwork:
        """The network that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no such network.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"filters {str(path)!r}: no such file")
        try:
            with np.load(path, allow_pickle=False) as file:
                settings = json.loads(str(file["settings"]))
                network = cls([SparseLayer(**layer) for layer in settings["layers"]], settings["channels"])
                weights = [torch.from_numpy(file[name]) for name in network.names]
        except OSError as error:
            raise OSError(f"filters {str(path)!r} cannot be read: {error.strerror}") from error
        except (BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
            raise ValueError(f"{str(path)!r} holds no deconvolutional network: {error}") from error
        for name, parameter, weight in zip(network.names, network.filters, weights, strict=True):
            if weight.shape != parameter.shape or not weight.is_floating_point() or not bool(weight.isfinite().all()):
                raise ValueError(
                    f"{str(path)!r}: {name} must be finite filters of shape {tuple(parameter.shape)}, "
                    f"got {weight.dtype} of shape {tuple(weight.shape)}"
                )
            parameter.data = weight
        return network

    def _noise(
        self, level: int, images: Tensor, inference: _Inference, count: int, generator: torch.Generator
    ) -> Tensor:
        """Random sums of all patches of what layer `level` explains in some of the images, each sum of length one."""
        layer = self.layers[level]
        chosen = images[torch.randperm(len(images), generator=generator)[:count].to(images.device)]
        explained = self.infer(chosen, level, **asdict(inference)).pooled[-1] if level else chosen
        shares = torch.randn(len(chosen), layer.maps, *layer.map_size(_size(explained)), generator=generator)
        drawn = _unit_length(_filter_gradient(explained, shares.to(explained), layer.kernel_size))
        return torch.where(drawn.flatten(1).any(1).view(-1, 1, 1, 1), drawn, self.filters[level])

    def _pass(
        self,
        images: Tensor,
        switches: Sequence[Tensor],
        batches: Sequence[Tensor],
        inference: _Inference,
        epoch: Epoch,
        filter_steps: int,
    ) -> dict[str, Any]:
        """One pass through the images at layer `epoch.layer`, which learns, or with no steps collects the switches."""
        level, layer = epoch.layer - 1, self.layers[epoch.layer - 1]
        error = energy = l1 = 0.0
        count = total = 0
        active = torch.zeros(layer.maps, dtype=torch.bool, device=images.device)
        collected = []
        for rows in batches:
            batch, below = images[rows], [s[rows] for s in switches]
            operator = self.operator(below, _size(images))
            maps = inference(operator, batch, layer).maps
            error += float((operator.down(maps) - batch).square().sum())
            energy += float(batch.square().sum())
            l1 += float(maps.abs().sum())
            by_map = maps.count_nonzero((0, 2, 3))
            active |= by_map > 0
            count, total = count + int(by_map.sum()), total + maps.numel()
            if filter_steps:
                learned = self.learn_filters(batch, below, maps, filter_steps)
                moved = torch.lerp(self.filters[level], learned, (epoch.epoch + 1) ** -0.5)
                self.filters[level].copy_(_unit_length(moved))
            else:
                collected.append(pool_by_magnitude(maps, layer.pool)[1])
        described = replace(
            epoch,
            objective=(layer.fidelity / 2 * error + l1) / len(images),
            error=error / energy if energy else 0.0,
            l1=l1 / len(images),
            nonzero=count / total,
            silent=int((~active).sum()),
        )
        part: dict[str, Any] = {"epoch": asdict(described), "filters": self.filters[level].detach().cpu().clone()}
        return part if filter_steps else part | {"switches": torch.cat(collected).cpu()}

    def _level(self, features: SparseFeatures, layer: int | None) -> int:
        inferred = len(features.codes)
        layer = inferred if layer is None else layer
        if not 1 <= layer <= inferred:
            raise ValueError(f"layer must be between 1 and {inferred}, the layers inferred, got {layer}")
        return layer - 1

    def _check_images(self, images: Tensor) -> None:
        weight = self.filters[0]
        if images.dim() != 4 or images.shape[1] != self.channels or 0 in images.shape:
            raise ValueError(f"images must have shape (N, {self.channels}, H, W), not empty, got {tuple(images.shape)}")
        if images.dtype != weight.dtype or images.device != weight.device:
            raise TypeError(
                f"images must be {weight.dtype} on {weight.device} as the filters are, "
                f"got {images.dtype} on {images.device}"
            )
        if not bool(images.isfinite().all()):
            raise ValueError("images must be finite")


@dataclass(frozen=True)
class _Inference:
    """How maps are inferred."""

    steps: int
    method: str
    pooling: str
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        one_of("pooling", self.pooling, POOLING_TIMES)
        _check_tolerance(self.tolerance)

    def __call__(self, operator: Reconstruction, images: Tensor, layer: SparseLayer) -> SparseCode:
        pool = layer.pool if self.pooling == "within" and layer.pool > 1 else None
        return sparse_code(
            operator,
            images,
            layer.fidelity,
            steps=self.steps,
            method=self.method,
            pool=pool,
            tolerance=self.tolerance,
        )


def _check_fidelity(fidelity: float) -> None:
    if not isinstance(fidelity, int | float) or not 0 < fidelity < inf:
        raise ValueError(f"fidelity must be a number above 0, got {fidelity!r}")


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < inf:
        raise ValueError(f"tolerance must be a number of at least 0, got {tolerance!r}")


def _check_finite(images: Tensor, fidelity: float, *values: Tensor) -> None:
    """Refuses an objective, or what it is made of, that is not finite."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise ValueError(
            f"the objective is not finite: images must be, and fidelity {fidelity:g} times their squares must be "
            f"within {images.dtype}"
        )


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _concatenated(codes: Sequence[SparseCode]) -> SparseCode:
    gaps = [code.gap for code in codes if code.gap is not None]
    return SparseCode(
        torch.cat([code.maps for code in codes]),
        torch.cat([code.objective for code in codes], dim=1),
        torch.cat([code.curvature for code in codes]),
        torch.cat(gaps) if gaps else None,
    )


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _norm(maps: Tensor) -> Tensor:
    """The Euclidean norm of each image's values, (N,)."""
    return torch.linalg.vector_norm(maps.flatten(1), dim=1)


def _proximal(maps: Tensor, threshold: Tensor, pool: int | None) -> Tensor:
    """Shrinkage, and of every pooling window only the largest magnitude."""
    shrunk = maps - maps.clamp(-threshold, threshold)
    if pool is None:
        return shrunk
    values, switches = max_pool2d(shrunk.abs(), pool, ceil_mode=True)
    largest = max_unpool2d(values, switches, pool, output_size=(maps.shape[-2], maps.shape[-1]))
    return torch.copysign(largest, shrunk)


def _duality_gap(images: Tensor, error: Tensor, gradient: Tensor, cost: Tensor, fidelity: float) -> Tensor:
    """C(z) less the dual objective at the multiple of the error that is feasible and best."""
    largest = gradient.abs().amax((1, 2, 3)).clamp(min=1)
    energy = _norm(error) ** 2
    aligned = -(error * images).sum((1, 2, 3))
    scale = torch.minimum((aligned / energy.clamp(min=torch.finfo(energy.dtype).tiny)).clamp(min=0), 1 / largest)
    return cost - fidelity * (scale * aligned - scale**2 * energy / 2)


def _filter_gradient(below: Tensor, maps: Tensor, kernel_size: int) -> Tensor:
    """By the filters of the full convolution from `below`, for the gradient `maps` at its result."""
    shape = (maps.shape[1], below.shape[1], kernel_size, kernel_size)
    return torch.nn.grad.conv2d_weight(below, shape, maps, padding=kernel_size - 1)


def _unit_length(filters: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(filters.flatten(1), dim=1).clamp(min=torch.finfo(filters.dtype).tiny)
    return filters / length.view(-1, 1, 1, 1)
