"""backproject1d and backproject3d: what `test_backproject.py` asks of two dimensions, of one and of three."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import DTYPES, assert_same_bits, random_values
from tolerances import assert_rounded_once
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import deconv_kernels as dk
from deconv_kernels.ops import reference
from deconv_kernels.ops.geometry import Pooling

Sizes = tuple[int, ...]

RANKS = (1, 3)
BACKPROJECT = {1: dk.backproject1d, 2: dk.backproject2d, 3: dk.backproject3d}
TRANSPOSED = {1: F.conv_transpose1d, 3: F.conv_transpose3d}
MOST_WORK = 2_000_000  # multiply-adds of one call

# Kernel, stride, padding and dilation of z, y, x; a signal has the last of them.
CONVOLUTIONS = {
    "3x3x3": ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "1x3x3": ((1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    "5x3x3/(2, 1, 1) dilated": ((5, 3, 3), (2, 1, 1), (2, 1, 1), (3, 1, 1)),
    "1x1x1": ((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    "3x3x3/2": ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "3x1x2/(1, 3, 2) dilated": ((3, 1, 2), (1, 3, 2), (0, 0, 1), (2, 1, 3)),
    "2x4x5": ((2, 4, 5), (1, 1, 1), (1, 0, 2), (1, 1, 1)),
}
# Kernel, stride, padding and dilation of the pooling above.
POOLINGS = {
    "not pooled": None,
    "2x2x2/2": ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    "1x2x2/2": ((1, 2, 2), (1, 2, 2), (0, 0, 0), (1, 1, 1)),
    "3x2x2 padded": ((3, 2, 2), (3, 2, 2), (1, 1, 0), (1, 1, 1)),
    "3x3x3/2": ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "2x1x3/(1, 2, 2) dilated": ((2, 1, 3), (1, 2, 2), (0, 0, 0), (2, 1, 2)),
    "5x7x9": ((5, 7, 9), (4, 5, 6), (2, 3, 1), (1, 1, 1)),
}


@dataclasses.dataclass(repr=False)
class Projection:
    """The arguments of one call."""

    rank: int
    input: Tensor
    weight: Tensor
    image: Tensor
    origin: Tensor
    convolution: tuple[Sizes, Sizes, Sizes]
    groups: int
    pooling: Pooling | None
    switches: Tensor | None
    overlap: str
    relu: bool
    output_size: Sizes | None
    crop: tuple[Sizes, Sizes] | None

    @classmethod
    def random(
        cls,
        rank: int,
        convolution: str | None = None,
        pooling: str | None = None,
        channels: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        units: int = 3,
        size: Sizes | None = None,
        kind: str = "integers",
    ) -> Projection:
        """Of everything that is not given; `channels` are those of a group, of the signal and the result."""

        def values(*shape: int) -> Tensor:
            if kind == "integers":
                return torch.randint(-3, 4, shape).to(dtype)
            return random_values(shape, dtype, "normal")

        kernel, *window = (axes[-rank:] for axes in CONVOLUTIONS[convolution or random.choice(list(CONVOLUTIONS))])
        above = POOLINGS[pooling or random.choice(list(POOLINGS))]
        pool = None if above is None else Pooling(*(axes[-rank:] for axes in above))
        groups = 1 if channels else random.choice((1, 1, 2, 5))
        inputs, outputs = channels or (random.choice((1, 3, 16, 17, 65)), random.choice((1, 3, 4, 13, 16, 33)))
        size = size or tuple(random.randint(1, 5 if rank == 3 else 12) for _ in range(rank))

        def full() -> Sizes:
            signal = size if pool is None else pool.unpadded().unpooled_size(size)
            return Pooling(kernel, window[0], (0,) * rank, window[2]).unpooled_size(signal)

        def work() -> int:
            positions = torch.tensor(full()).prod().item()
            return units * groups * inputs * outputs * int(positions) * torch.tensor(kernel).prod().item()

        while channels is None and work() > MOST_WORK and inputs * outputs > 1:
            inputs, outputs = max(1, inputs // 2), max(1, outputs // 2)
        maps = (2, groups * inputs, *(random.randint(1, 6) for _ in range(rank)))
        crop = None
        if random.random() < 0.5:
            crop = (
                tuple(random.randint(0, length + 1) for length in full()),
                tuple(random.randint(1, length + 2) for length in full()),
            )
        input, weight = values(units, groups * inputs, *size), values(groups * inputs, outputs, *kernel)
        if random.random() < 0.5:
            input = input.movedim(1, -1).contiguous().movedim(-1, 1)
        if random.random() < 0.3:
            weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
        return cls(
            rank,
            input,
            weight,
            torch.randint(0, 2, (units,)),
            torch.randint(-4, 6, (units, rank)),
            (window[0], window[1], window[2]),
            groups,
            pool,
            None if pool is None else torch.randint(0, pool.taps() + 1, maps).to(pool.switch_dtype()),
            random.choice(("sum", "last")),
            random.random() < 0.5,
            None if random.random() < 0.4 else tuple(random.randint(1, 20) for _ in range(rank)),
            crop,
        )

    def __str__(self) -> str:
        shapes = {
            field.name: tuple(value.shape) if isinstance(value, Tensor) else value
            for field, value in ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        }
        return f"{shapes} {self.input.dtype}"

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"relu": self.relu, "output_size": self.output_size, "crop": self.crop}
        if self.pooling is not None:
            names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation")
            options |= {
                "switches": self.switches,
                "overlap": self.overlap,
                **dict(zip(names, self.pooling, strict=True)),
            }
        return options

    def run(self, packed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tensors = (self.input, self.weight, self.image, self.origin)
        return BACKPROJECT[self.rank](*tensors, *self.convolution, self.groups, packed=packed, **self.options())

    def pack(self) -> Tensor:
        stride, _, dilation = self.convolution
        return dk.pack_weight(self.weight, stride, dilation, self.groups)

    def on(self, device: torch.device) -> Projection:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Projection(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in fields.items()})

    def units(self, which: Tensor | slice) -> Projection:
        return dataclasses.replace(self, **{n: getattr(self, n)[which] for n in ("input", "image", "origin")})

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """In float64: the result, the sum of its terms' magnitudes, and the origins of the windows."""
        rank, (stride, padding, dilation) = self.rank, self.convolution
        signal = self.input.cpu().clamp_min(0) if self.relu and self.pooling is None else self.input.cpu()
        if self.pooling is not None and self.switches is not None:
            places = self.switches.cpu(), self.image.cpu(), self.origin.cpu()
            signal = reference.max_unpool_window(signal, *places, self.pooling.unpadded(), self.overlap, self.relu)
        weight = self.weight.cpu().double()
        parts = []
        for terms in ((signal.double(), weight), (signal.double().abs(), weight.abs())):
            whole = TRANSPOSED[rank](*terms, None, stride, 0, 0, self.groups, dilation)
            begin, size = self.crop or ((0,) * rank, whole.shape[2:])
            cut = [slice(b, b + length) for b, length in zip(begin, size, strict=True)]
            margins = [margin for part in reversed(cut) for margin in (0, part.stop)]
            parts.append(F.pad(whole, margins)[(..., *cut)])
        pool = self.pooling or Pooling.one_position(rank)
        places = self.origin.cpu() * torch.tensor(pool.stride) - torch.tensor(pool.padding)
        origins = places * torch.tensor(stride) - torch.tensor(padding) + torch.tensor(begin)
        for axis, end in enumerate(self.output_size or ()):
            position = origins[:, axis, None] + torch.arange(size[axis])
            outside = ((position < 0) | (position >= end))[(slice(None), *[None] * (axis + 1))]
            outside = outside[(..., *[None] * (rank - 1 - axis))]
            parts = [part.masked_fill(outside, 0) for part in parts]
        return parts[0], parts[1], origins


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_integers_are_exact(backend: str, device: torch.device, rank: int, convolution: str) -> None:
    """Every pooling with every convolution, of small whole numbers, whose sums are exact in any order."""
    for pooling in POOLINGS:
        for channels in (None, (random.choice((16, 48, 70)), random.choice((1, 3, 14, 33)))):
            if channels is not None and (backend == "reference" or random.random() < 0.5):
                continue
            projection = Projection.random(
                rank, convolution, pooling, channels, random.choice((torch.float32, *DTYPES)), size=(2,) * rank
            ).on(device)
            exact, _, origins = projection.exact()
            out, places = projection.run(projection.pack() if random.random() < 0.5 else None)
            assert_same_bits(out + 0, exact.to(out.dtype) + 0, str(projection))
            assert torch.equal(places.cpu(), origins), projection
            if min(*projection.input.shape[1:], *out.shape[1:]) > 1:
                channels_last = projection.input.stride(1) == 1
                assert (out.stride(1) == 1) == channels_last, f"the memory format is that of the input: {projection}"


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_projections(backend: str, device: torch.device, rank: int, dtype: torch.dtype) -> None:
    for _ in range(3 if backend == "reference" else 12):
        projection = Projection.random(rank, dtype=dtype, kind="normal").on(device)
        exact, magnitude, _ = projection.exact()
        assert_rounded_once(projection.run()[0], exact, magnitude, str(projection))


@pytest.mark.parametrize("convolution", ["3x3x3", "2x4x5", "3x3x3/2"])
@pytest.mark.parametrize("pooling", ["not pooled", "2x2x2/2", "3x3x3/2"])
@pytest.mark.parametrize("channels", [(70, 20), (64, 3)], ids=str)
def test_a_unit_does_not_depend_on_its_batch(
    backend: str, device: torch.device, convolution: str, pooling: str, channels: tuple[int, int], threads: None
) -> None:
    """Bit for bit: alone or among others, with one thread or several, and a crop is a part of the whole."""
    if backend == "reference":
        pytest.skip("the reference sums in the order in which a BLAS likes to")
    size = (6, 7, 8) if pooling == "not pooled" else (3, 4, 5)
    projection = Projection.random(3, convolution, pooling, channels, units=5, size=size, kind="normal").on(device)
    projection = dataclasses.replace(projection, crop=None)
    torch.set_num_threads(1)
    together, origins = projection.run()
    for threads_used in (1, 2):
        torch.set_num_threads(threads_used)
        order = torch.randperm(5, device=device)
        assert_same_bits(projection.units(order).run(projection.pack())[0], together[order], str(projection))
        unit = random.randrange(5)
        assert_same_bits(projection.units(slice(unit, unit + 1)).run()[0], together[unit : unit + 1], str(projection))
        begin = tuple(random.randint(0, length - 1) for length in together.shape[2:])
        part = tuple(random.randint(1, length - b) for length, b in zip(together.shape[2:], begin, strict=True))
        cut = [slice(b, b + length) for b, length in zip(begin, part, strict=True)]
        out, places = dataclasses.replace(projection, crop=(begin, part)).run()
        assert_same_bits(out, together[(..., *cut)], f"crop {begin} {part} of {projection}")
        assert torch.equal(places, origins + torch.tensor(begin, device=device))


def test_large_windows_in_bands(device: torch.device) -> None:
    """Windows whose sums fill the caches several times are computed in parts, of planes and of rows."""
    for size, channels in (((18, 21, 24), (3, 20)), ((3, 90, 100), (2, 17))):
        projection = Projection.random(3, "3x3x3", "1x2x2/2", channels, units=1, size=size).on(device)
        projection = dataclasses.replace(projection, crop=None)
        assert_same_bits(projection.run()[0] + 0, projection.exact()[0].float() + 0, str(size))


def test_a_signal_is_a_map_of_one_row(device: torch.device) -> None:
    for _ in range(6):
        one = Projection.random(1, kind="normal").on(device)
        stride, padding, dilation = one.convolution
        switches = None if one.switches is None else one.switches[:, :, None]
        two = dataclasses.replace(
            one,
            rank=2,
            input=one.input[:, :, None],
            weight=one.weight[:, :, None],
            origin=F.pad(one.origin, (1, 0)),
            convolution=((1, *stride), (0, *padding), (1, *dilation)),
            pooling=None if one.pooling is None else one.pooling.of_rows(),
            switches=switches,
            output_size=None if one.output_size is None else (1, *one.output_size),
            crop=None if one.crop is None else ((0, *one.crop[0]), (1, *one.crop[1])),
        )
        assert_same_bits(one.run()[0], two.run()[0][:, :, 0], str(one))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("pooling", ["not pooled", "2x1x3/(1, 2, 2) dilated"])
def test_gradients(rank: int, pooling: str) -> None:
    """Of input and weight, twice; a ReLU has no derivative at zero, so that signals keep away from it."""
    convolution = random.choice(("3x3x3", "3x1x2/(1, 3, 2) dilated"))
    projection = Projection.random(rank, convolution, pooling, (2, 1), torch.float64, units=2, size=(2,) * rank)
    input = projection.input.sign() + 0.5 + 0.3 * torch.rand_like(projection.input)

    def run(input: Tensor, weight: Tensor) -> Tensor:
        return dataclasses.replace(projection, input=input, weight=weight).run()[0]

    leaves = input.requires_grad_(), projection.weight.clone().requires_grad_()
    assert gradcheck(run, leaves, check_forward_ad=True)
    assert gradgradcheck(run, leaves)


@pytest.mark.parametrize("rank", RANKS)
def test_transforms(backend: str, device: torch.device, rank: int) -> None:
    """vmap over windows and over weights, and autocast."""
    projection = Projection.random(rank, "3x3x3", "2x2x2/2", (5, 17)).on(device)

    def run(input: Tensor, weight: Tensor) -> Tensor:
        return dataclasses.replace(projection, input=input, weight=weight).run()[0]

    inputs, weights = (torch.stack([t, 2 * t, -t]) for t in (projection.input, projection.weight))
    one_by_one = torch.stack([run(input, projection.weight) for input in inputs])
    assert_same_bits(vmap(run, (0, None))(inputs, projection.weight), one_by_one, "vmap over windows")
    one_by_one = torch.stack([run(projection.input, weight) for weight in weights])
    assert_same_bits(vmap(run, (None, 0))(projection.input, weights), one_by_one, "vmap over weights")
    with torch.autocast(device.type, torch.bfloat16):
        assert run(projection.input, projection.weight).dtype == torch.bfloat16


def test_compiled_for_every_size() -> None:
    """Without a break, and with the sizes of the windows left open."""
    projection = Projection.random(3, "3x3x3", "2x2x2/2", (5, 17), size=(2, 3, 2))
    projection = dataclasses.replace(projection, crop=None)

    def run(input: Tensor) -> tuple[Tensor, Tensor]:
        return dataclasses.replace(projection, input=input).run()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for input in (projection.input, torch.randn(3, 5, 3, 4, 2)):
        for actual, expected in zip(compiled(input), run(input), strict=True):
            assert_same_bits(actual, expected, "compiled")


@pytest.mark.parametrize("rank", RANKS)
def test_what_is_refused(rank: int) -> None:
    shape, other = (2,) * rank, (2,) * (4 - rank)
    image, origin = torch.zeros(1, dtype=torch.int64), torch.zeros(1, rank, dtype=torch.int64)
    input, weight = torch.ones(1, 3, *shape), torch.ones(3, 4, *shape)
    run = BACKPROJECT[rank]
    with pytest.raises(ValueError, match=r"^input must have shape"):
        run(torch.ones(1, 3, *other), weight, image, origin)
    with pytest.raises(ValueError, match=r"^weight must have shape \(K, C / groups, k"):
        run(input, torch.ones(3, 4, *other), image, origin)
    with pytest.raises(ValueError, match=rf"^origin must have shape \(1, {rank}\)"):
        run(input, weight, image, torch.zeros(1, 4 - rank, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^stride must have one"):
        run(input, weight, image, origin, stride=(1,) * 4)
    with pytest.raises(ValueError, match=r"^crop must be"):
        run(input, weight, image, origin, crop=((0,) * rank, (0,) * rank))
    with pytest.raises(TypeError, match=r"^output_size must be ints \("):
        run(input, weight, image, origin, output_size=7)
    with pytest.raises(ValueError, match=r"^packed|^weight|packed must be"):
        run(input, weight, image, origin, packed=torch.ones(7))
