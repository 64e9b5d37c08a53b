"""backproject2d: windows of signal unpooled, rectified and transposed-convolved, against ATen in float64."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pooling_cases import (
    DTYPES,
    LAYOUTS,
    Geometry,
    Pair,
    assert_dense,
    assert_same_bits,
    keeps_channels_last,
    random_geometry,
    random_switches,
    random_values,
)
from properties import given, settings, st
from tolerances import TF32, assert_rounded_once
from torch import Tensor

import deconv_kernels as dk
from deconv_kernels import backends
from deconv_kernels.ops import reference
from deconv_kernels.ops.geometry import Pooling

CHANNELS = (1, 3, 13, 16, 17, 64, 65, 130)
MOST_WORK = 2_000_000  # multiply-adds of one random projection


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The forward convolution that a signal is sent back through."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def full(self, signal: Pair) -> Pair:
        """The size of the whole transposed convolution of a signal."""
        rows, columns = (
            (signal[axis] - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            for axis in (0, 1)
        )
        return rows, columns


CONVOLUTIONS = {
    "3x3": Convolution((3, 3), padding=(1, 1)),
    "1x1": Convolution((1, 1)),
    "5x5": Convolution((5, 5), padding=(2, 2)),
    "7x7/2": Convolution((7, 7), (2, 2), (3, 3)),
    "11x11/4": Convolution((11, 11), (4, 4), (2, 2)),
    "3x3/2": Convolution((3, 3), (2, 2), (1, 1)),
    "3x3 dilated": Convolution((3, 3), padding=(2, 2), dilation=(2, 2)),
    "2x2/2": Convolution((2, 2), (2, 2)),
    "1x1/3": Convolution((1, 1), (3, 3)),
    "1x3": Convolution((1, 3), padding=(0, 1)),
    "3x1": Convolution((3, 1), padding=(1, 0)),
    "2x4/(3, 1) dilated": Convolution((2, 4), (3, 1), (0, 1), (1, 3)),
    "4x2/(1, 5) dilated": Convolution((4, 2), (1, 5), (3, 0), (2, 7)),
}
POOLINGS = {
    "not pooled": None,
    "2x2/2": Geometry((13, 14), (2, 2), (2, 2), ceil_mode=True),
    "3x3/2": Geometry((13, 15), (3, 3), (2, 2)),
    "3x3/2 padded": Geometry((14, 15), (3, 3), (2, 2), (1, 1), ceil_mode=True),
    "2x2/1": Geometry((7, 8), (2, 2), (1, 1)),
    "2x2/3": Geometry((17, 18), (2, 2), (3, 3), (1, 0), ceil_mode=True),
    "2x2/2 dilated": Geometry((16, 20), (2, 2), (2, 2), dilation=(2, 1)),
    "1x2/2": Geometry((7, 15), (1, 2), (2, 2)),
    "5x5/3": Geometry((16, 19), (5, 5), (3, 3), (2, 2)),
    "17x17/9": Geometry((33, 35), (17, 17), (8, 9), (8, 8)),
}


@dataclasses.dataclass
class Projection:
    """The arguments of one call."""

    input: Tensor
    weight: Tensor
    image: Tensor
    origin: Tensor
    convolution: Convolution
    groups: int = 1
    switches: Tensor | None = None
    pooling: Geometry | None = None
    overlap: str = "sum"
    relu: bool = False
    output_size: Pair | None = None
    crop: tuple[Pair, Pair] | None = None

    def __str__(self) -> str:
        maps = None if self.switches is None else tuple(self.switches.shape)
        return (
            f"{self.convolution} groups {self.groups} weight {tuple(self.weight.shape)} input "
            f"{tuple(self.input.shape)} {self.input.dtype} strides {self.input.stride()} {self.pooling} of {maps} "
            f"{self.overlap} relu {self.relu} output_size {self.output_size} crop {self.crop}"
        )

    def run(self, packed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        convolution, pooling = self.convolution, self.pooling
        options: dict[str, Any] = {}
        if pooling is not None:
            kernel, stride, padding, dilation = pooling.window
            options = {"switches": self.switches, "pool_kernel_size": kernel, "pool_stride": stride}
            options |= {"pool_padding": padding, "pool_dilation": dilation, "overlap": self.overlap}
        return dk.backproject2d(
            self.input,
            self.weight,
            self.image,
            self.origin,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            self.groups,
            relu=self.relu,
            output_size=self.output_size,
            crop=self.crop,
            packed=packed,
            **options,
        )

    def pack(self) -> Tensor:
        return dk.pack_weight(self.weight, self.convolution.stride, self.convolution.dilation, self.groups)

    def on(self, device: torch.device) -> Projection:
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Projection(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def units(self, which: Tensor | slice) -> Projection:
        """The projection of some of the windows."""
        chosen = {name: getattr(self, name)[which] for name in ("input", "image", "origin")}
        return dataclasses.replace(self, **chosen)

    def signal(self) -> Tensor:
        """What is convolved, on the CPU: unpooled, which other tests compare bit for bit, and rectified."""
        input = self.input.detach().cpu()
        if self.pooling is not None:
            where = self.switches.cpu(), self.image.cpu(), self.origin.cpu()
            pooling = Pooling(*self.pooling.window).unpadded()
            return reference.max_unpool_window(input, *where, pooling, self.overlap, self.relu)
        return torch.where(input < 0, 0, input) if self.relu else input

    def exact(self) -> tuple[Tensor, Tensor, list[list[int]]]:
        """In float64: the result, the sum of its terms' magnitudes, and the origins of the windows."""
        convolution, weight = self.convolution, self.weight.detach().cpu().double()
        signal = self.signal().double()
        options = (None, convolution.stride, 0, 0, self.groups, convolution.dilation)
        full = F.conv_transpose2d(signal, weight, *options)
        magnitude = F.conv_transpose2d(signal.abs(), weight.abs(), *options)
        begin, size = self.crop or ((0, 0), convolution.full(signal.shape[-2:]))
        step, before = [1, 1], [0, 0]
        for axis in (0, 1):
            stride, padding = convolution.stride[axis], convolution.padding[axis]
            step[axis] = stride * (1 if self.pooling is None else self.pooling.stride[axis])
            before[axis] = padding + stride * (0 if self.pooling is None else self.pooling.padding[axis])
        places = [[at[a] * step[a] + begin[a] - before[a] for a in (0, 1)] for at in self.origin.tolist()]
        outside = torch.zeros(len(places), 1, *size, dtype=torch.bool)
        if self.output_size is not None:
            for unit, (y, x) in enumerate(places):
                for row in range(size[0]):
                    outside[unit, :, row] |= not 0 <= y + row < self.output_size[0]
                for column in range(size[1]):
                    outside[unit, :, :, column] |= not 0 <= x + column < self.output_size[1]
        results = []
        for whole in (full, magnitude):
            part = whole[:, :, begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
            framed = whole.new_zeros(*whole.shape[:2], *size)
            framed[:, :, : part.shape[2], : part.shape[3]] = part
            results.append(framed.masked_fill(outside, 0))
        return results[0], results[1], places


def random_projection(
    dtype: torch.dtype,
    pooling: Geometry | None,
    *,
    layout: str = "contiguous",
    convolution: Convolution | None = None,
    channels: Pair | None = None,
    groups: int | None = None,
    integers: bool = False,
) -> Projection:
    """A projection of everything that is not given; `channels` are those of a group, of the signal and the result.

    With `integers` all values are small ones, whose sums are exact in any order.
    """

    def values(shape: tuple[int, ...]) -> Tensor:
        return torch.randint(-3, 4, shape).to(dtype) if integers else random_values(shape, dtype, "normal")

    convolution = convolution or random.choice(list(CONVOLUTIONS.values()))
    groups = groups or random.choice((1, 1, 1, 2, 5, 17))
    images, units, size = random.randint(1, 3), random.randint(1, 6), [random.randint(1, 6), random.randint(1, 7)]
    reach = (1, 1) if pooling is None else pooling.extent
    steps = (1, 1) if pooling is None else pooling.stride

    def unpooled() -> Pair:
        return (size[0] - 1) * steps[0] + reach[0], (size[1] - 1) * steps[1] + reach[1]

    def work(inputs: int, outputs: int) -> int:
        taps = convolution.kernel[0] * convolution.kernel[1]
        return groups * inputs * outputs * taps * unpooled()[0] * unpooled()[1]

    if channels is None:
        channels = random.choice(CHANNELS), random.choice(CHANNELS)
        while work(*channels) > MOST_WORK and channels != (1, 1):
            channels = random.choice(CHANNELS[:4]), random.choice(CHANNELS[:4])
    while work(*channels) > MOST_WORK and size != [1, 1]:
        size = [max(1, size[0] - 1), max(1, size[1] - 1)]
    units = max(1, min(units, MOST_WORK // work(*channels)))
    maps = (8, 9) if pooling is None else pooling.pooled
    shape = (images, groups * channels[0], *maps)
    place = random.choice(list(LAYOUTS))
    full = convolution.full(unpooled())
    crop = None
    if random.random() < 0.5:
        begin = random.randint(0, full[0] + 2), random.randint(0, full[1] + 2)
        crop = begin, (random.randint(1, full[0] + 3), random.randint(1, full[1] + 3))
    return Projection(
        LAYOUTS[layout](values((units, groups * channels[0], *size))),
        LAYOUTS[random.choice(list(LAYOUTS))](values((groups * channels[0], channels[1], *convolution.kernel))),
        torch.randint(0, images, (units,)),
        (torch.rand(units, 2) * (torch.tensor(maps) + 10) - 6).floor().long(),
        convolution,
        groups,
        None if pooling is None else LAYOUTS[place](random_switches(shape, pooling)),
        pooling,
        random.choice(("sum", "last")),
        random.random() < 0.5,
        None if random.random() < 0.4 else (random.randint(1, 40), random.randint(1, 40)),
        crop,
    )


def check(
    projection: Projection, device: torch.device, bits: bool = False, row: torch.dtype | str | None = None
) -> None:
    """Compares with ATen: with `bits` exactly, for signals whose sums are exact; else by a row of the tolerances."""
    projection = projection.on(device)
    what = str(projection)
    out, origins = projection.run(projection.pack() if random.random() < 0.5 else None)
    exact, magnitude, places = projection.exact()
    if bits:
        assert_same_bits(out + 0, exact.to(out.dtype) + 0, what)
    else:
        assert out.dtype == projection.input.dtype
        assert_rounded_once(out, exact, magnitude, what, row)
    assert_dense(out, keeps_channels_last(projection.input), what)
    assert out.device == origins.device == projection.input.device
    assert_same_bits(origins, torch.tensor(places).view(-1, 2), f"origins of {what}")


def random_pooling() -> Geometry | None:
    return random.choice([*POOLINGS.values(), random_geometry()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_projections(backend: str, device: torch.device, dtype: torch.dtype, layout: str) -> None:
    for pooling in random.sample(list(POOLINGS.values()), 2 if backend == "reference" else 6) + [random_geometry()]:
        check(random_projection(dtype, pooling, layout=layout), device)


def row_of(backend: str, precision: str) -> torch.dtype | str:
    """The tolerance of float32: TF32 is a matter of Triton's kernel on an NVIDIA GPU alone."""
    rounds = backend == "triton" and not backends.triton_interprets() and torch.version.hip is None
    return TF32 if precision == "tf32" and rounds else torch.float32


@pytest.mark.parametrize("float32_precision", ["ieee", "tf32"], indirect=True)
@pytest.mark.parametrize("pooling", ["not pooled", "2x2/2", "3x3/2"])
def test_tf32_where_torch_allows_it(backend: str, device: torch.device, float32_precision: str, pooling: str) -> None:
    for convolution, channels in (("3x3", (64, 65)), ("5x5", (13, 130)), ("7x7/2", (64, 3))):
        projection = random_projection(
            torch.float32, POOLINGS[pooling], convolution=CONVOLUTIONS[convolution], channels=channels, groups=1
        )
        check(projection, device, row=row_of(backend, float32_precision))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("float32_precision", ["ieee", "tf32"], indirect=True)
def test_the_backend_that_is_chosen_obeys_the_precision(float32_precision: str) -> None:
    """With windows large enough for the matrix units."""
    place = torch.tensor([1, 0]), torch.tensor([[0, 0], [-2, 3]])
    input, weight = torch.randn(2, 64, 12, 11), torch.randn(64, 32, 3, 3)
    projection = Projection(input, weight, *place, CONVOLUTIONS["3x3"], output_size=(16, 15))
    row = row_of("cuda" if backends.why_not("triton") else "triton", float32_precision)
    check(projection, torch.device("cuda"), row=row)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_small_integers_are_exact(
    backend: str, device: torch.device, pooling: Geometry | None, dtype: torch.dtype
) -> None:
    for layout in ("contiguous", "channels_last"):
        for _ in range(1 if backend == "reference" else 5):
            check(random_projection(dtype, pooling, layout=layout, integers=True), device, bits=True)


@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_few_and_many_channels(backend: str, device: torch.device, convolution: Convolution) -> None:
    pairs = list(itertools.product(CHANNELS, CHANNELS))
    for channels in random.sample(pairs, 4 if backend == "reference" else 32):
        pooling = random.choice((None, POOLINGS["2x2/2"], random_pooling()))
        dtype = random.choice((torch.float32, torch.float32, torch.float32, *DTYPES))
        layout = random.choice(("contiguous", "channels_last"))
        check(
            random_projection(
                dtype, pooling, layout=layout, convolution=convolution, channels=channels, groups=1, integers=True
            ),
            device,
            bits=True,
        )


@pytest.mark.parametrize("outputs", [1, 2, 3, 4])
def test_down_to_the_few_channels_of_images(backend: str, device: torch.device, outputs: int) -> None:
    for kernel, channels in itertools.product(((3, 3), (1, 3), (5, 3)), (16, 48, 64)):
        convolution = Convolution(kernel, padding=(kernel[0] // 2, 1))
        for dtype in DTYPES if kernel == (3, 3) and backend != "reference" else (torch.float32,):
            pooling = random.choice((None, None, POOLINGS["2x2/2"], random_pooling()))
            layout = random.choice(("contiguous", "channels_last"))
            check(
                random_projection(
                    dtype,
                    pooling,
                    layout=layout,
                    convolution=convolution,
                    channels=(channels, outputs),
                    groups=1,
                    integers=True,
                ),
                device,
                bits=True,
            )


def test_a_result_too_large_for_the_caches(device: torch.device) -> None:
    units, channels, size = 2, 3, (random.randint(120, 140), random.randint(120, 140))
    signal = torch.relu(torch.randn(units, channels, *size)).to(memory_format=torch.channels_last)
    place = torch.zeros(units, dtype=torch.int64), torch.zeros((units, 2), dtype=torch.int64)
    weight = torch.randn(channels, 80, 3, 3)
    projection = Projection(signal, weight, *place, CONVOLUTIONS["3x3"], output_size=size)
    assert units * 80 * size[0] * size[1] * 4 > 2**23
    check(projection, device)


@pytest.mark.parametrize("pooling", ["not pooled", "2x2/2", "3x3/2"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_groups(device: torch.device, convolution: Convolution, pooling: str) -> None:
    """Depthwise, with one and with several maps of signal for each channel, and groups that fill no vector."""
    for groups, inputs, outputs in [(13, 1, 1), (64, 1, 1), (17, 2, 1), (3, 5, 7), (2, 65, 3), (2, 3, 16)]:
        projection = random_projection(
            torch.float32,
            POOLINGS[pooling],
            layout=random.choice(("contiguous", "channels_last")),
            convolution=convolution,
            channels=(inputs, outputs),
            groups=groups,
        )
        check(projection, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_whole_map_is_a_transposed_convolution(
    device: torch.device, convolution: Convolution, dtype: torch.dtype
) -> None:
    """A window that is a whole map, cut to the map that was convolved: conv_transpose2d with padding."""
    groups, size = random.choice((1, 3)), (random.randint(19, 26), random.randint(19, 26))
    window = (convolution.stride, convolution.padding, convolution.dilation, groups)
    weight = torch.randn(12, 17, *convolution.kernel).to(device, dtype)
    read = torch.empty(2, 17 * groups, *size, device="meta")
    maps = F.conv2d(read, torch.empty(weight.shape, device="meta"), None, *window)
    input = torch.randn(maps.shape).to(device, dtype)
    origin = torch.zeros(2, 2, dtype=torch.int64, device=device)
    image = torch.zeros(2, dtype=torch.int64, device=device)
    out, origins = dk.backproject2d(input, weight, image, origin, *window, output_size=size)
    assert origins.tolist() == [[-convolution.padding[0], -convolution.padding[1]]] * 2

    def transposed(signal: Tensor, weight: Tensor) -> Tensor:
        options = {"stride": convolution.stride, "padding": convolution.padding, "dilation": convolution.dilation}
        bare = F.conv_transpose2d(signal, weight, groups=groups, **options)
        rest = [size[axis] - bare.shape[axis + 2] for axis in (0, 1)]
        return F.conv_transpose2d(signal, weight, groups=groups, output_padding=rest, **options)

    exact = transposed(input.cpu().double(), weight.cpu().double())
    magnitude = transposed(input.cpu().double().abs(), weight.cpu().double().abs())
    top, left = convolution.padding
    on_map = F.pad(out, (0, left + size[1] - out.shape[3], 0, top + size[0] - out.shape[2]))[:, :, top:, left:]
    assert_rounded_once(on_map, exact, magnitude, str(convolution))
    assert out.count_nonzero() == on_map.count_nonzero(), "something is left outside the map"


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "not pooled"])
def test_composition_of_separate_ops(device: torch.device, pooling: str, overlap: str) -> None:
    """Unpooling, rectifier and F.conv_transpose2d one after the other, with switches of real maps."""
    geometry = POOLINGS[pooling]
    map = torch.randn(3, 24, *geometry.size, device=device)
    values, switches = dk.max_pool2d(map, *geometry.window, geometry.ceil_mode)
    for name in ("3x3", "5x5", "3x3/2"):
        convolution = CONVOLUTIONS[name]
        weight = torch.randn(24, 19, *convolution.kernel, device=device)
        image = torch.randint(0, 3, (4,), device=device)
        origin = torch.stack([torch.randint(-2, geometry.pooled[axis], (4,)) for axis in (0, 1)], 1).to(device)
        input = torch.randn(4, 24, 3, 2, device=device)
        window = geometry.window
        signal, places = dk.max_unpool2d_window(input, switches, image, origin, *window, overlap=overlap, relu=True)
        by_hand = F.conv_transpose2d(
            signal.double(), weight.double(), stride=convolution.stride, dilation=convolution.dilation
        )
        magnitude = F.conv_transpose2d(
            signal.double(), weight.double().abs(), stride=convolution.stride, dilation=convolution.dilation
        )
        projection = Projection(
            input, weight, image, origin, convolution, 1, switches, geometry, overlap=overlap, relu=True
        )
        out, origins = projection.run()
        assert_rounded_once(out, by_hand.cpu(), magnitude.cpu(), str(projection))
        stride, padding = torch.tensor(convolution.stride), torch.tensor(convolution.padding)
        assert_same_bits(origins, places.cpu() * stride - padding, f"origins of {projection}")


@pytest.mark.parametrize("pooling", ["2x2/2", "3x3/2", "3x3/2 padded"])
def test_windows_of_a_map_that_is_zero_elsewhere(device: torch.device, pooling: str) -> None:
    """What the engine does: the whole map sent back, seen through a unit's window, and nothing of it is elsewhere."""
    geometry, convolution = POOLINGS[pooling], CONVOLUTIONS["3x3"]
    weight = torch.randint(-3, 4, (8, 5, 3, 3)).float().to(device)
    _, switches = dk.max_pool2d(torch.randn(2, 8, *geometry.size, device=device), *geometry.window, geometry.ceil_mode)
    ends = geometry.pooled
    for y, x in [(0, 0), (1, 2), (ends[0] - 3, ends[1] - 2), (-1, -1), (ends[0] - 1, ends[1] - 1)]:
        window = torch.randint(-3, 4, (2, 8, 3, 2)).float()
        framed = torch.zeros(2, 8, ends[0] + 6, ends[1] + 6)
        framed[:, :, y + 3 : y + 6, x + 3 : x + 5] = window
        whole = framed[:, :, 3:-3, 3:-3].contiguous().to(device)
        signal = dk.max_unpool2d(whole, switches, *geometry.window, geometry.size, relu=True)
        full = F.conv_transpose2d(signal, weight, padding=1)
        image, origin = torch.arange(2, device=device), torch.tensor([[y, x]] * 2, device=device)
        projection = Projection(window.to(device), weight, image, origin, convolution, 1, switches, geometry, relu=True)
        out, origins = dataclasses.replace(projection, output_size=geometry.size).run()
        top, left = origins[0].tolist()
        margin = 12
        seen = F.pad(full, (margin,) * 4)[
            :, :, top + margin : top + margin + out.shape[2], left + margin : left + margin + out.shape[3]
        ]
        assert_same_bits(out + 0, seen + 0, f"{geometry} {y} {x}")
        assert out.abs().sum() == full.abs().sum(), "the window misses a part of the map"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_wider_than_16_bits_and_rounded_once(device: torch.device, dtype: torch.dtype) -> None:
    """Partial sums that a 16-bit type cannot hold, over channels, taps and blocks of channels."""
    for name, channels in itertools.product(("1x1", "3x3", "5x5", "3x3/2"), (4, 70)):
        convolution = CONVOLUTIONS[name]
        large, one = (60000.0, 32.0) if dtype == torch.float16 else (256.0, 1.0)
        input = torch.zeros(1, channels, 1, 1, dtype=torch.float64)
        input[0, :, 0, 0] = torch.tensor([large, large, *[0.0] * (channels - 4), one - large, -large])
        weight = torch.ones(channels, 17, *convolution.kernel)
        zeros = torch.zeros(1, 2, dtype=torch.int64)
        projection = Projection(input.to(dtype), weight.to(dtype), zeros[:, 0], zeros, convolution).on(device)
        expected = input.to(dtype).double().sum().item()
        assert expected != 0
        out, _ = projection.run()
        assert_same_bits(out, torch.full_like(out, expected), str(projection))


def test_origins_far_outside(device: torch.device) -> None:
    """No arithmetic on an origin overflows onto the map."""
    far = [2**63 - 1, -(2**63), 2**62, -(2**62), 2**61, 2**32, -(2**32), 2**31 - 1, -(2**31), 10**6, -(10**6)]
    origin = torch.tensor([(y, x) for y in [*far, 0] for x in [*far, 0] if (y, x) != (0, 0)])
    units = len(origin)
    image = torch.zeros(units, dtype=torch.int64)
    for name in ("3x3", "11x11/4", "3x3/2"):
        convolution = CONVOLUTIONS[name]
        input, weight = torch.ones(units, 3, 3, 3), torch.ones(3, 17, *convolution.kernel)
        for layout in ("contiguous", "channels_last"):
            plain = Projection(LAYOUTS[layout](input), weight, image, origin, convolution).on(device)
            endless, _ = plain.run()
            assert bool((endless == endless[:1]).all()) and endless[0].all(), f"{name}: an origin changes the signal"
            out, _ = dataclasses.replace(plain, output_size=(50, 50)).run()
            assert not out.any(), f"{name}: {origin[out.flatten(1).any(1).cpu()].tolist()} are on the map"
            for pooling in ("2x2/2", "3x3/2", "5x5/3"):
                geometry = POOLINGS[pooling]
                switches = torch.zeros(1, 3, 9, 9, dtype=torch.uint8, device=device)
                pooled = dataclasses.replace(plain, switches=switches, pooling=geometry)
                for size in (None, (50, 50)):
                    out, _ = dataclasses.replace(pooled, output_size=size).run()
                    found = origin[out.flatten(1).any(1).cpu()].tolist()
                    assert not found, f"{name} {pooling}: {found} have switches or are on the map"


@pytest.mark.parametrize("pooling", ["not pooled", "2x2/2", "3x3/2"])
@pytest.mark.parametrize("convolution", ["3x3", "5x5", "7x7/2"])
def test_crops_beyond_the_result_are_zeros(device: torch.device, convolution: str, pooling: str) -> None:
    projection = random_projection(
        torch.float32, POOLINGS[pooling], convolution=CONVOLUTIONS[convolution], channels=(16, 17), groups=1
    )
    full = projection.convolution.full(projection.signal().shape[-2:])
    begins = [full, (full[0], 0), (0, full[1]), (full[0] - 1, full[1] - 1), (full[0] + 50, 3), (3, full[1] + 50)]
    begins += [(2**31 - 9, 0), (0, 2**31 - 9), (2**31 - 9, 2**31 - 9)]
    for begin in begins:
        cropped = dataclasses.replace(projection, crop=(begin, (3, 5)), output_size=None).on(device)
        out, origins = cropped.run()
        exact, magnitude, places = cropped.exact()
        assert_rounded_once(out, exact, magnitude, str(cropped))
        assert origins.tolist() == places


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_no_windows_and_no_images(device: torch.device, layout: str) -> None:
    switches = torch.zeros(2, 16, 9, 9, dtype=torch.uint8, device=device)
    image = torch.empty(0, dtype=torch.int64, device=device)
    origin = torch.empty(0, 2, dtype=torch.int64, device=device)
    for dtype, name in itertools.product(DTYPES, ("3x3", "7x7/2")):
        convolution = CONVOLUTIONS[name]
        nothing = LAYOUTS[layout](torch.empty(0, 16, 4, 5, device=device, dtype=dtype))
        weight = torch.ones(16, 12, *convolution.kernel, device=device, dtype=dtype)
        plain = Projection(nothing, weight, image, origin, convolution)
        pooled = [
            (None, None),
            *((codes, POOLINGS[p]) for codes in (switches, switches[:0]) for p in ("2x2/2", "3x3/2")),
        ]
        for codes, geometry in pooled:
            projection = dataclasses.replace(plain, switches=codes, pooling=geometry)
            out, origins = projection.run(projection.pack())
            signal = (4, 5) if geometry is None else (8, 10) if geometry.kernel == (2, 2) else (9, 11)
            assert (out.shape, out.dtype) == ((0, 12, *convolution.full(signal)), dtype)
            assert (origins.shape, origins.dtype) == ((0, 2), torch.int64)
            cropped, _ = dataclasses.replace(projection, crop=((1, 2), (3, 4)), output_size=(5, 5)).run()
            assert cropped.shape == (0, 12, 3, 4)


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "not pooled"])
def test_switches_outside_their_window_contribute_nothing(device: torch.device, pooling: str) -> None:
    """Every value of the dtype as a switch: those beyond the window leave zeros."""
    geometry = POOLINGS[pooling]
    positions = geometry.kernel[0] * geometry.kernel[1]
    lowest, highest = (positions, 255) if geometry.switch_dtype == torch.uint8 else (-32768, -1)
    if geometry.switch_dtype == torch.int16:
        codes = torch.cat([torch.arange(lowest, highest + 1), torch.arange(positions, 32768)])
    else:
        codes = torch.arange(lowest, highest + 1)
    for name in ("3x3", "5x5", "11x11/4"):
        projection = random_projection(
            torch.float32, geometry, convolution=CONVOLUTIONS[name], channels=(64, 16), groups=1
        )
        chosen = codes[torch.randint(0, len(codes), projection.switches.shape)].to(geometry.switch_dtype)
        for layout in ("contiguous", "channels_last"):
            out, _ = dataclasses.replace(projection, switches=LAYOUTS[layout](chosen)).on(device).run()
            assert not out.any(), str(projection)


@pytest.mark.parametrize("pooling", ["2x2/2", "3x3/2", "5x5/3"])
@pytest.mark.parametrize("number", [-1, 3, 4, 2**31, 2**32, 2**62, -(2**63)])
def test_image_out_of_range(device: torch.device, pooling: str, number: int) -> None:
    """The CPU raises; a GPU, which is not waited for, gives zeros. Without switches the numbers mean nothing."""
    for name in ("3x3", "7x7/2"):
        convolution = CONVOLUTIONS[name]
        switches = torch.zeros(3, 16, 4, 4, dtype=torch.uint8)
        origin, image = torch.zeros(5, 2, dtype=torch.int64), torch.tensor([0, 2, 1, number, 0])
        weight = torch.ones(16, 16, *convolution.kernel)
        plain = Projection(torch.ones(5, 16, 2, 2), weight, image, origin, convolution).on(device)
        assert plain.run()[0][3].all()
        projection = dataclasses.replace(plain, switches=switches.to(device), pooling=POOLINGS[pooling])
        if device.type == "cuda":
            out, _ = projection.run()
            assert not out[3].any() and out[4].any()
            continue
        with pytest.raises(ValueError, match=r"^image must be between 0 and 2, got"):
            projection.run()


@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_packed_weights_change_nothing(device: torch.device, convolution: Convolution) -> None:
    for dtype in DTYPES:
        for channels, groups in [((17, 16), 1), ((65, 3), 1), ((3, 70), 2), ((1, 1), 13)]:
            projection = random_projection(
                dtype, random_pooling(), convolution=convolution, channels=channels, groups=groups
            ).on(device)
            out, _ = projection.run()
            packs = [projection.pack()]
            for layout in ("channels_last", "sliced", "transposed", "misaligned"):
                copy = dataclasses.replace(projection, weight=LAYOUTS[layout](projection.weight.cpu()).to(device))
                packs.append(copy.pack())
                assert_same_bits(copy.run()[0], out, f"weight {layout} {projection}")
            for packed in packs:
                assert_same_bits(projection.run(packed)[0], out, str(projection))
                assert_same_bits(packed, packs[0], f"packed {projection}")


def test_packing_copies(device: torch.device) -> None:
    """What is packed does not change with the weight, and is what runs."""
    projection = random_projection(torch.float32, None, convolution=CONVOLUTIONS["3x3"], channels=(13, 16), groups=1)
    projection = dataclasses.replace(projection, weight=projection.weight.contiguous()).on(device)
    before, _ = projection.run()
    packed = projection.pack()
    kept = packed.clone()
    projection.weight.mul_(2)
    assert_same_bits(packed, kept, "packed")
    assert_same_bits(projection.pack(), kept * 2, "packed again")
    if dk.backends.chosen(device) != "reference":
        assert_same_bits(projection.run(packed)[0], before, "the old weight")


def large_projections() -> dict[str, Projection]:
    """Of the kernels' every path, each larger than what they do at once."""

    def projection(
        name: str, pooling: str, channels: Pair, size: Pair, units: int, groups: int = 1, **options: Any
    ) -> Projection:
        convolution, geometry = CONVOLUTIONS[name], POOLINGS[pooling]
        input = torch.randn(units, channels[0], *size)
        weight = torch.randn(channels[0], channels[1] // groups, *convolution.kernel)
        codes = None
        if geometry is not None:
            codes = random_switches((3, channels[0], size[0] + 3, size[1] + 3), geometry)
        place = torch.randint(0, 3, (units,)), torch.randint(-2, 4, (units, 2))
        return Projection(input, weight, *place, convolution, groups, codes, geometry, **options)

    return {
        "3x3": projection("3x3", "not pooled", (17, 20), (21, 18), 9),
        "3x3 of pooled": projection("3x3", "2x2/2", (70, 33), (13, 9), 9, relu=True, output_size=(30, 28)),
        "3x3 of many units": projection("3x3", "2x2/2", (64, 3), (13, 14), 300),
        "3x3 of large maps": projection("3x3", "2x2/2", (8, 16), (70, 71), 2, relu=True),
        "3x3 of overlapping windows": projection("3x3", "3x3/2", (16, 16), (9, 11), 7),
        "3x3 to the images": projection("3x3", "not pooled", (64, 3), (39, 41), 3, relu=True),
        "3x3 beyond the caches": projection("3x3", "not pooled", (3, 64), (102, 101), 4, relu=True),
        "3x3 to three channels": projection("3x3", "2x2/2", (64, 3), (40, 40), 3),
        "1x1": projection("1x1", "5x5/3", (65, 130), (5, 6), 9),
        "5x5": projection("5x5", "3x3/2", (33, 65), (6, 5), 7),
        "7x7/2": projection("7x7/2", "3x3/2 padded", (20, 3), (30, 33), 4),
        "11x11/4": projection("11x11/4", "not pooled", (20, 3), (25, 25), 5, crop=((2, 3), (90, 91))),
        "groups": projection("3x3", "not pooled", (24, 48), (12, 13), 7, groups=3),
        "depthwise": projection("5x5", "2x2/2", (70, 70), (7, 6), 7, groups=70),
    }


@pytest.mark.parametrize("name", large_projections())
def test_a_unit_does_not_depend_on_its_batch(backend: str, device: torch.device, name: str, threads: None) -> None:
    """Bit for bit: alone, among others in any order, with any number of threads and in any call."""
    if backend == "reference":
        pytest.skip("the reference sums in the order in which a BLAS likes to")
    projection = large_projections()[name].on(device)
    if random.random() < 0.5:
        projection.input = projection.input.to(memory_format=torch.channels_last)
    if random.random() < 0.3:
        dtype = random.choice(DTYPES)
        projection.input, projection.weight = projection.input.to(dtype), projection.weight.to(dtype)
    units = len(projection.input)
    torch.set_num_threads(1)
    together, origins = projection.run()
    exact, magnitude, _ = projection.units(slice(0, 2)).exact()
    assert_rounded_once(together[:2], exact, magnitude, name)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        order = torch.randperm(units)
        again, places = projection.units(order.to(device)).run(projection.pack())
        assert_same_bits(again, together[order.to(device)], f"{name} in another order with {count} threads")
        assert_same_bits(places, origins[order.to(device)], f"origins of {name} in another order")
        for unit in random.sample(range(units), min(units, 4)):
            alone, _ = projection.units(slice(unit, unit + 1)).run()
            assert_same_bits(alone[0], together[unit], f"unit {unit} of {name} alone with {count} threads")
        part = sorted(random.sample(range(units), 2))
        some, _ = projection.units(slice(part[0], part[1])).run()
        assert_same_bits(some, together[part[0] : part[1]], f"units {part} of {name} with {count} threads")


@pytest.mark.parametrize("name", ["3x3", "3x3 of pooled", "3x3 of large maps", "7x7/2", "11x11/4", "groups"])
def test_a_crop_is_a_part_of_the_whole(backend: str, device: torch.device, name: str) -> None:
    """Bit for bit, also where the crop begins inside what is computed at once."""
    if backend == "reference":
        pytest.skip("the reference computes the whole and cuts it")
    projection = dataclasses.replace(large_projections()[name], crop=None).units(slice(0, 2)).on(device)
    whole, origins = projection.run()
    rows, columns = whole.shape[2:]
    for _ in range(8):
        begin = random.randint(0, rows - 1), random.randint(0, columns - 1)
        size = random.randint(1, rows - begin[0]), random.randint(1, columns - begin[1])
        part, places = dataclasses.replace(projection, crop=(begin, size)).run()
        seen = whole[:, :, begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
        assert_same_bits(part, seen, f"{name} crop {begin} {size}")
        assert_same_bits(places, origins + torch.tensor(begin, device=device), f"origins of {name} crop {begin}")


def test_special_values(device: torch.device) -> None:
    """NaN and infinities go where their taps send them and nowhere else; the rectifier keeps NaN, as ATen's does."""
    for name, pooling, relu in itertools.product(
        ("3x3", "5x5", "3x3/2", "1x1"), ("not pooled", "2x2/2"), (False, True)
    ):
        geometry, convolution = POOLINGS[pooling], CONVOLUTIONS[name]
        input = torch.randint(-2, 3, (4, 16, 5, 5)).float()
        for unit, value in enumerate((torch.nan, torch.inf, -torch.inf, -0.0)):
            input[unit, torch.randint(0, 16, ()), torch.randint(0, 5, ()), torch.randint(0, 5, ())] = value
        weight = torch.randint(1, 3, (16, 17, *convolution.kernel)).float()
        codes = None if geometry is None else random_switches((1, 16, 7, 7), geometry, outside=False)
        zeros = torch.zeros(4, 2, dtype=torch.int64)
        projection = Projection(input, weight, zeros[:, 0], zeros, convolution, 1, codes, geometry, relu=relu)
        exact, _, _ = projection.exact()
        out, _ = projection.on(device).run()
        assert_same_bits(out + 0, exact.float() + 0, str(projection))


def test_arguments_are_not_written_to_and_signs_are_seen(device: torch.device) -> None:
    for pooling in ("not pooled", "2x2/2", "3x3/2"):
        projection = random_projection(torch.float32, POOLINGS[pooling], channels=(16, 13), groups=1).on(device)
        tensors = {f.name: getattr(projection, f.name) for f in dataclasses.fields(projection)}
        before = {name: tensor.clone() for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        out, _ = projection.run()
        for name, tensor in before.items():
            assert_same_bits(tensors[name], tensor, name)
        lazy = dataclasses.replace(
            projection, input=torch._neg_view(-projection.input), weight=torch._neg_view(-projection.weight)
        )
        assert lazy.input.is_neg() and lazy.weight.is_neg()
        assert_same_bits(lazy.run()[0], out, f"negative views of {projection}")


def test_arguments_may_have_any_layout(device: torch.device) -> None:
    """Images, origins and switches with gaps between their elements; pairs as lists, and one number for both."""
    geometry, convolution = POOLINGS["3x3/2"], CONVOLUTIONS["3x3"]
    projection = random_projection(torch.float32, geometry, convolution=convolution, channels=(13, 16), groups=1)
    projection = dataclasses.replace(projection, output_size=(9, 9), crop=((1, 1), (4, 4))).on(device)
    units = len(projection.input)
    expected, places = projection.run()
    image = torch.zeros(units, 3, dtype=torch.int64, device=device)
    origin = torch.zeros(2, units + 1, dtype=torch.int64, device=device)
    image[:, 1], origin[:, :units] = projection.image, projection.origin.T
    out, origins = dk.backproject2d(
        projection.input,
        projection.weight,
        image[:, 1],
        origin[:, :units].T,
        [1],
        [1, 1],
        switches=projection.switches,
        pool_kernel_size=[3, 3],
        pool_stride=2,
        overlap=projection.overlap,
        relu=projection.relu,
        output_size=torch.Size([9, 9]),
        crop=[[1, 1], torch.Size([4, 4])],
    )
    assert_same_bits(out, expected, str(projection))
    assert_same_bits(origins, places, "origins")


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
sizes = st.tuples(st.integers(1, 5), st.integers(1, 5))
convolutions = st.builds(
    Convolution,
    kernel=sizes,
    stride=pairs,
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=pairs,
)
poolings = st.none() | st.builds(
    lambda kernel, stride, halves, dilation: Geometry(
        (40, 40), kernel, stride, (min(halves[0], kernel[0] // 2), min(halves[1], kernel[1] // 2)), dilation
    ),
    kernel=pairs,
    stride=pairs,
    halves=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.just((1, 1)) | pairs,
)


@settings(deadline=None, max_examples=60, database=None)
@given(
    convolution=convolutions,
    pooling=poolings,
    size=sizes,
    channels=st.tuples(st.integers(1, 5), st.sampled_from((1, 2, 5, 12, 17)), st.integers(1, 3)),
    origins=st.lists(st.tuples(st.integers(-9, 20), st.integers(-9, 20)), min_size=1, max_size=3),
    crop=st.none() | st.tuples(st.tuples(st.integers(0, 30), st.integers(0, 30)), sizes),
    output_size=st.none() | st.tuples(st.integers(1, 30), st.integers(1, 30)),
    options=st.tuples(st.booleans(), st.booleans(), st.sampled_from(("sum", "last"))),
    seed=st.integers(0, 2**31),
)
def test_geometry(
    convolution: Convolution,
    pooling: Geometry | None,
    size: Pair,
    channels: tuple[int, int, int],
    origins: list[Pair],
    crop: tuple[Pair, Pair] | None,
    output_size: Pair | None,
    options: tuple[bool, bool, str],
    seed: int,
) -> None:
    """Every element of every window, by the definition: the place of each tap of each element, summed one by one."""
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs, groups = channels
    channels_last, relu, overlap = options

    def integers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    input = integers(len(origins), inputs * groups, *size)
    image = torch.randint(0, 2, (len(origins),), generator=generator)
    codes = None
    if pooling is not None:
        positions = pooling.kernel[0] * pooling.kernel[1]
        codes = torch.randint(0, positions + 1, (2, inputs * groups, 7, 9), generator=generator).to(torch.uint8)
    projection = Projection(
        input.to(memory_format=torch.channels_last) if channels_last else input,
        integers(inputs * groups, outputs, *convolution.kernel),
        image,
        torch.tensor(origins),
        convolution,
        groups,
        codes,
        pooling,
        overlap,
        relu,
        output_size,
        crop,
    )
    signal = projection.signal()
    begin, cut = crop or ((0, 0), convolution.full(signal.shape[-2:]))
    out, places = projection.run()
    assert out.shape == (len(origins), outputs * groups, *cut)
    expected = torch.zeros(out.shape)
    by_group = signal.unflatten(1, (groups, inputs))
    weights = projection.weight.unflatten(0, (groups, inputs))
    for tap_y, tap_x in itertools.product(range(convolution.kernel[0]), range(convolution.kernel[1])):
        sent = torch.einsum("ugkyx,gkc->ugcyx", by_group, weights[..., tap_y, tap_x]).flatten(1, 2)
        for y, x in itertools.product(range(signal.shape[2]), range(signal.shape[3])):
            row = y * convolution.stride[0] + tap_y * convolution.dilation[0] - begin[0]
            column = x * convolution.stride[1] + tap_x * convolution.dilation[1] - begin[1]
            if 0 <= row < cut[0] and 0 <= column < cut[1]:
                expected[:, :, row, column] += sent[:, :, y, x]
    for unit, origin in enumerate(origins):
        for axis in (0, 1):
            # The first element of the uncut window: the first tap of the first window of the pooling.
            unpooled = origin[axis] if pooling is None else origin[axis] * pooling.stride[axis] - pooling.padding[axis]
            place = unpooled * convolution.stride[axis] - convolution.padding[axis] + begin[axis]
            assert places[unit, axis] == place
            if output_size is not None:
                for index in range(cut[axis]):
                    if not 0 <= place + index < output_size[axis]:
                        expected[unit].select(axis + 1, index).zero_()
    assert_same_bits(out + 0, expected + 0, str(projection))
