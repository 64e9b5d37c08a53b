"""Exact quantiles of streams of any length, in bounded memory: the digits of the answer, from the highest down.

Floating-point numbers, read as integers, keep their order. Each pass over the data counts, for every map, how many
values have which next digit among those that share the digits known already; the counts say which digit the value of
the wanted rank has. Counts of parts of the data add up, so that the result does not depend on how it was divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

__all__ = ["Counts", "QuantileSearch", "order_keys", "passes_needed"]

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MOST_DIGIT_BITS = 16
_COUNT_BYTES = 2**26  # for one layer
_CHUNK = 2**22  # values counted at a time
_NOWHERE = torch.iinfo(torch.int64).max
# A place is one number: image, row and column in 31, 16 and 16 bits.
_PLACE_BITS = 32


def order_keys(values: Tensor) -> Tensor:
    """Integers of the values' size in the order of the values; equal exactly where these are.

    Zeros of both signs are equal. NaNs are equal to each other and greater than everything else, as `torch.sort` has
    them. The lowest integer is not used.
    """
    integer = _INTEGERS[values.element_size()]
    clean = torch.where(values.isnan(), float("nan"), values + 0.0)  # -0 + 0 is +0
    bits = clean.view(integer)
    return bits ^ ((bits >> (8 * values.element_size() - 1)) & torch.iinfo(integer).max)


def from_keys(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that `order_keys` made int64 `keys` of."""
    integer = _INTEGERS[dtype.itemsize]
    bits = keys.to(integer)
    return (bits ^ ((bits >> (8 * dtype.itemsize - 1)) & torch.iinfo(integer).max)).view(dtype)


def passes_needed(maps: int, quantiles: int, dtype: torch.dtype) -> int:
    """Over how many passes the digits are spread: more of them where more maps and quantiles share the memory."""
    bits = min(_MOST_DIGIT_BITS, (_COUNT_BYTES // (16 * maps * quantiles)).bit_length() - 1)
    return ceil(8 * dtype.itemsize / max(1, bits))


@dataclass(eq=False)
class Counts:
    """How many values have which next digit, and the first place of one.

    Attributes:
        number: (maps, Q, digits) int64.
        first: of the same shape, the lowest place; only of the last digit, where it is that of one value.
    """

    number: Tensor
    first: Tensor | None

    def plain(self) -> dict[str, Tensor]:
        """As tensors that hold only what is there."""
        index = self.number.flatten().nonzero()[:, 0]
        kept = {"index": index, "number": self.number.flatten()[index]}
        return kept if self.first is None else {**kept, "first": self.first.flatten()[index]}

    def add(self, kept: dict[str, Tensor]) -> None:
        """Adds what `plain` returned of other data."""
        index = kept["index"].to(self.number.device)
        self.number.view(-1)[index] += kept["number"].to(index.device)
        if self.first is not None:
            flat = self.first.view(-1)
            flat[index] = torch.minimum(flat[index], kept["first"].to(index.device))


class QuantileSearch:
    """The search for the units of given ranks in every map of a layer.

    Args:
        maps: how many maps.
        quantiles: from 0, the lowest value, to 1, the highest; the nearest rank is taken.
        dtype: of the values.
        device: where to count.
        rank: how many axes the maps have.
    """

    def __init__(
        self, maps: int, quantiles: Sequence[float], dtype: torch.dtype, device: torch.device, rank: int = 2
    ) -> None:
        self.maps, self.quantiles, self.dtype, self.device = maps, tuple(quantiles), dtype, device
        self._rank_of_maps, self._coordinate_bits = rank, _PLACE_BITS // rank
        bits = 8 * dtype.itemsize
        self._digit = ceil(bits / passes_needed(maps, len(quantiles), dtype))
        # The bits below the next digit.
        self._below = bits - self._digit
        # Of every map and quantile: the digits known, the rank among the values that share them, and their number.
        self._known: Tensor | None = None
        self._rank: Tensor
        self._sharing: Tensor
        self.found: tuple[Tensor, Tensor] | None = None

    @property
    def done(self) -> bool:
        """Whether the units are known."""
        return self.found is not None

    def counts(self) -> Counts:
        """Counts of no data yet, for this pass."""
        shape = (self.maps, 1 if self._known is None else len(self.quantiles), 2**self._digit)
        number = torch.zeros(shape, dtype=torch.int64, device=self.device)
        return Counts(number, torch.full_like(number, _NOWHERE) if self._below == 0 else None)

    def count(self, counts: Counts, maps: Tensor, first_image: int) -> None:
        """Counts a batch.

        Args:
            counts: of this pass.
            maps: (N, maps, [[D,] H,] W); it moves to the search's device.
            first_image: the number of the first of its images.

        Raises:
            ValueError: more than 65,536 rows or columns (1,024 of each axis in volumes), or 2^31 images.
        """
        maps = maps.to(self.device)
        images, channels, *size = maps.shape
        longest = 2**self._coordinate_bits
        if max(size) > longest or first_image + images > 2**31:
            raise ValueError(
                f"quantiles are for maps of at most {longest:,} positions along an axis and 2^31 images, got "
                f"{'x'.join(map(str, size))} maps and {first_image + images} images"
            )
        _, groups, digits = counts.number.shape
        number = counts.number.view(-1)
        area = math.prod(size)
        at_once = max(1, _CHUNK // (channels * area))
        for start in range(0, images, at_once):
            keys = order_keys(maps[start : start + at_once].contiguous()).view(-1, channels, area)
            for group in range(groups):
                if self._known is None:
                    chosen = None
                    digit = (keys >> self._below).to(torch.int64) + digits // 2
                    index = (digit + torch.arange(0, len(number), digits, device=keys.device)[:, None]).flatten()
                else:
                    fits = (keys >> (self._below + self._digit)) == self._known[:, group, None].to(keys.dtype)
                    chosen = fits.flatten().nonzero()[:, 0]
                    digit = (keys.flatten()[chosen] >> self._below).to(torch.int64) & (digits - 1)
                    index = (_quotient(chosen, area) % channels * groups + group) * digits + digit
                if len(number) < 4 * len(index):
                    number += torch.bincount(index, minlength=len(number))
                else:
                    number.index_add_(0, index, torch.ones_like(index))
                if counts.first is not None:
                    place = self._places(keys.shape, chosen, size, first_image + start)
                    counts.first.view(-1).scatter_reduce_(0, index, place, "amin")

    def _places(self, shape: torch.Size, chosen: Tensor | None, size: Sequence[int], first_image: int) -> Tensor:
        """The places of some (by default of all) of (n, maps, area) values, in one number each."""
        _, channels, area = shape
        if chosen is None:
            chosen = torch.arange(shape.numel(), device=self.device)
        place, rest = first_image + _quotient(chosen, channels * area), chosen % area
        for axis in range(len(size)):
            below = math.prod(size[axis + 1 :])
            place = (place << self._coordinate_bits) + _quotient(rest, below)
            rest = rest % below
        return place

    def narrow(self, counts: Counts) -> None:
        """Ends a pass, with the counts of all data.

        Raises:
            ValueError: the data is not what it was in the pass before.
        """
        total = counts.number.sum(2)
        if self._known is None:
            ranks = [[round(q * (n - 1)) for q in self.quantiles] for n in total[:, 0].tolist()]
            self._rank = torch.tensor(ranks, dtype=torch.int64, device=self.device)
        elif not torch.equal(total, self._sharing):
            raise ValueError(
                "the data changed from one pass over it to the next: quantiles need the same images in the same "
                "batches each time"
            )
        number = counts.number.expand(-1, len(self.quantiles), -1).contiguous()
        upto = number.cumsum(2)
        digit = torch.searchsorted(upto, self._rank[..., None], right=True)
        self._sharing = number.gather(2, digit)[..., 0]
        self._rank = self._rank - (upto.gather(2, digit)[..., 0] - self._sharing)
        if self._known is None:
            self._known = digit[..., 0] - 2 ** (self._digit - 1)
        else:
            self._known = (self._known << self._digit) + digit[..., 0]
        if counts.first is not None:
            first = counts.first.expand_as(number).gather(2, digit)[..., 0]
            self.found = self._known.cpu(), first.cpu()
            return
        self._digit = min(self._digit, self._below)
        self._below -= self._digit

    def units(self, quantile: int) -> tuple[Tensor, Tensor]:
        """Of every map's unit at one of the quantiles, its first one in that order: image and [[z,] y,] x as rows of
        one tensor, (1 + rank, maps); and its value."""
        assert self.found is not None
        keys, places = (part[:, quantile] for part in self.found)
        columns = []
        for _ in range(self._rank_of_maps):
            columns.append(places & (2**self._coordinate_bits - 1))
            places = places >> self._coordinate_bits
        return torch.stack([places, *reversed(columns)]), from_keys(keys, self.dtype)


def _quotient(number: Tensor, divisor: int) -> Tensor:
    return torch.div(number, divisor, rounding_mode="floor")
