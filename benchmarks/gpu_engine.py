"""Whole projections on a GPU: the engine against the CPU, the 38,016 units of a VGG16, and one unit alone.

Part of `make gpu-check`; `gpu_stages.py` runs it. The network is VGG16 with random weights, which are the same
everywhere and need no file; the images are noise.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_ops import DEVICE, PRECISIONS, SEED, assert_close, rounding
from torch import Tensor, nn

from deconv_kernels import Deconvnet, Record, Units
from deconv_kernels.engine.cards import CARDS, CardModel
from deconv_kernels.models import VGG16

SIZE = 224
FEW_IMAGES, IMAGES = 2, 16
STRONGEST = 9  # units of each of VGG16's 4,224 maps: 38,016
MAPS_AT_ONCE = 64
LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
DECISIONS_THAT_AGREE = 0.999  # share of switches that two roundings of a forward pass leave alike, at least
CALLS = 50

Outcome = dict[str, Any]
Take = Callable[[str, Callable[[], Outcome | None]], bool]


def network(device: str, dtype: torch.dtype = torch.float32) -> Deconvnet:
    """VGG16 up to its last pool, with the same weights on every call."""
    model, generator = VGG16(features_only=True).eval(), torch.Generator().manual_seed(SEED)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    return Deconvnet(model.to(device, dtype).to(memory_format=torch.channels_last))


def noise(count: int, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(SEED))


def share_alike(record: Record, other: Record) -> float:
    """The share of switches that are the same in two records of the same images."""
    pairs = [(switches.cpu(), other.switches[name].cpu()) for name, switches in record.switches.items()]
    return sum(int((a == b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


def take_switches(record: Record, other: Record) -> None:
    """Lets a record send signals where another one does, so that their projections differ by rounding alone."""
    for name, switches in record.switches.items():
        switches.copy_(other.switches[name])


def some_units(record: Record, layer: str) -> Units:
    """The strongest units of six maps, from the first to the last, one of every image each."""
    channels = record.shape(layer)[0]
    return record.strongest(layer, FEW_IMAGES, [number * (channels - 1) // 5 for number in range(6)])


def against_the_cpu(take: Take, layers: tuple[str, ...] = LAYERS, size: int = SIZE) -> None:
    """The engine in float32 on the device and on the CPU: what is recorded, and what is projected of it."""
    images = noise(FEW_IMAGES, size)
    with rounding("float32"):
        cpu, device = network("cpu"), network(DEVICE)
        expected, record = cpu.record(images, layers, progress=False), device.record(images, layers, progress=False)

        def recorded() -> Outcome:
            for layer in layers:
                assert_close(record.peaks[layer].value, expected.peaks[layer].value, f"peaks of {layer}")
            alike = share_alike(record, expected)
            assert alike >= DECISIONS_THAT_AGREE, f"only {alike:.2%} of the switches are those of the CPU"
            return {"switches_alike": alike}

        def projected(layer: str) -> Outcome:
            units = some_units(expected, layer)
            exact = cpu.project(expected, units, progress=False)
            found = device.project(record, units, progress=False)
            assert torch.equal(found.boxes, exact.boxes)
            assert_close(found.windows, exact.windows, f"projections of {layer}")
            with waiting_forbidden():
                again = device.project(record, units, progress=False)
            replayed = device.capture(record, layer, units=4).project(units)
            for other in (again, replayed):
                assert torch.equal(other.windows, found.windows), "another call gives other bits"
            return {"units": len(units)}

        take("what is recorded", recorded)
        take_switches(record, expected)
        for layer in layers:
            take(f"projections of {layer}", lambda layer=layer: projected(layer))


def all_units(take: Take, layers: tuple[str, ...] | None = None, images: int = IMAGES, size: int = SIZE) -> None:
    """The strongest units of every map, in every precision: seconds by layer, and how far they are from float32."""
    inputs = noise(images, size)
    first: dict[str, tuple[Units, Tensor]] = {}
    card = known_card()

    def run(precision: str) -> Outcome:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        net = network(DEVICE, dtype)
        chosen = layers or tuple(layer for layer in net.layers if layer.startswith("conv"))
        begun = _now()
        record = net.record(inputs.to(dtype), chosen, progress=False)
        recording = _now() - begun
        seconds: dict[str, float] = {}
        least: dict[str, float] = {}
        deviation: dict[str, float] = {}
        projections = 0
        for layer in chosen:
            parts = list(_parts(record, layer))
            net.project(record, parts[0], progress=False)  # compiles, and chooses tiles
            begun = _now()
            for units in parts:
                projections += len(net.project(record, units, progress=False).windows)
            seconds[layer] = _now() - begun
            if card is not None:
                count = sum(map(len, parts))
                least[layer] = CardModel(net.plan(record, layer), count, card, precision).total.seconds
            sampled = first[layer][0] if layer in first else parts[0]
            sample = net.project(record, sampled, seed="one", progress=False).windows.float().cpu()
            assert bool(sample.isfinite().all()) and bool(sample.any()), f"projections of {layer}: not finite, or zero"
            exact = first.setdefault(layer, (sampled, sample))[1]
            deviation[layer] = float((sample - exact).norm() / exact.norm())
        return {
            "projections": projections,
            "seconds_recording": recording,
            "seconds_projecting": sum(seconds.values()),
            "seconds_by_layer": seconds,
            "least_seconds_by_layer": least,  # of a model: by what the maker says of the card
            "deviation_from_float32": deviation,  # of the same units, switches of another rounding included
        }

    for precision in PRECISIONS:

        def step(precision: str = precision) -> Outcome:
            with rounding(precision):
                return run(precision)

        take(f"all units in {precision}", step)


def known_card() -> str | None:
    """The card of which there is a model, if the device is one."""
    name = torch.cuda.get_device_name().lower() if DEVICE == "cuda" else ""
    return next((card for card in CARDS if card in name), None)


def one_unit(take: Take, size: int = SIZE) -> None:
    """One unit of conv1_2: what a call costs, that it does not wait for the device, and what it costs captured."""
    with rounding("float32"):
        net = network(DEVICE)
        record = net.record(noise(1, size), "conv1_2", progress=False)
        units = record.strongest("conv1_2", 1, [5])
        expected = net.project(record, units, progress=False).windows

        def not_waiting() -> None:
            with waiting_forbidden():
                found = net.project(record, units, progress=False).windows
            assert torch.equal(found, expected)

        def captured() -> Outcome:
            replay = net.capture(record, "conv1_2", units=1)
            with waiting_forbidden():
                found = replay.project(units).windows
            assert torch.equal(found, expected)
            return _cost(lambda: replay.project(units))

        take("one unit, eager", lambda: _cost(lambda: net.project(record, units, progress=False)))
        take("one unit, without waiting for the device", not_waiting)
        take("one unit, captured", captured)  # last, because a capture that failed may leave the stream unusable


@contextlib.contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Inside, what waits for the device raises an error."""
    if DEVICE != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _cost(run: Callable[[], Any]) -> Outcome:
    """Seconds of a call, that of the host until it returns and that until the device is done."""
    host, whole = [], []
    for _ in range(CALLS):
        begun = _now()
        run()
        host.append(time.perf_counter() - begun)
        whole.append(_now() - begun)
    return {"host_seconds": statistics.median(host), "seconds_until_done": statistics.median(whole)}


def _parts(record: Record, layer: str) -> Iterator[Units]:
    channels = record.shape(layer)[0]
    for start in range(0, channels, MAPS_AT_ONCE):
        yield record.strongest(layer, STRONGEST, range(start, min(channels, start + MAPS_AT_ONCE)))


def _now() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
