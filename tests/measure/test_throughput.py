"""Projections measured against the baselines: what is compared, what is refused, what is told of it."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import NETWORKS, Trace, some_units
from tolerances import assert_close
from torch import Tensor, nn

from deconv_kernels import Units
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.measure.baselines import (
    Baseline,
    FullFrame,
    WrongResult,
    comparable,
    definition,
    deviation,
    project_full_frame,
    project_zennit,
)
from deconv_kernels.measure.throughput import (
    FEWEST_ROUNDS,
    LARGEST_ERROR,
    Throughput,
    interior_units,
    measure_layer,
    peak_bytes,
)

FORMATS = [torch.contiguous_format, torch.channels_last]


def network() -> nn.Module:
    """Overlapping pools, a batch normalisation, and a linear end."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)),
    ).eval()


def units_of(layer: str, images: int, shape: tuple[int, int, int]) -> Units:
    return Units(layer, *(torch.randint(high, (11,)) for high in (images, *shape)))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_full_frame_equals_ours(rule: str, memory_format: torch.memory_format) -> None:
    net, images = Deconvnet(network(), rule), torch.randn(3, 3, 41, 38)
    for layer in ("3", "5", "6", "9"):
        record = net.record(images, layer, batch_size=1)
        units = units_of(layer, 3, record.shape(layer))
        full_frame = FullFrame(net, images, layer, batch_size=1, memory_format=memory_format)
        expected = net.project(record, units, seed="one").full()
        for units_at_once in (4, 16):
            assert_close(full_frame.project(units, units_at_once), expected, f"{rule}, {layer}, {units_at_once}")
    # In float64, since this baseline's batches are other ones and may round differently.
    net, images = Deconvnet(network().double(), rule), images.double()
    record = net.record(images, "9")
    strongest = record.strongest("9", 1)
    theirs = project_full_frame(net, images, strongest, seed="activation", units_at_once=2)
    assert_close(theirs, net.project(record, strongest).full(), "from activations")


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.inputs == 1])
def test_full_frame_is_the_definition_on_every_network(name: str) -> None:
    rule, network = random.choice(("deconvnet", "guided", "gradient")), NETWORKS[name]
    model, images = network.build(), network.images()
    net = Deconvnet(model, rule, rules=network.rules)
    nodes = Trace(model).nodes
    layers = [layer for layer in network.layers or net.layers if layer in nodes]
    record = net.record(images, layers, activations=True)
    maps = {layer: record.activations[net.layer(layer).step] for layer in layers}
    layer = random.choice([layer for layer in layers if maps[layer].dim() in (2, images.dim())])
    units = Units.of_table(layer, some_units(maps[layer], 6, images.dim() - 2 or 2).T)
    exact = definition(net, images, units)
    assert_close(FullFrame(net, images, layer).project(units, 4), exact, f"{name}, {rule}, {layer}")
    assert deviation(net.project(record, units, seed="one").full(), exact) < 1e-9


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_full_frame_compiled_equals_ours() -> None:
    net, images = Deconvnet(network()), torch.randn(2, 3, 41, 38)
    record = net.record(images, "5", batch_size=1)
    units = units_of("5", 2, record.shape("5"))
    full_frame = FullFrame(net, images, "5", batch_size=1, compiled=True)
    # Two passes of which the second is not full.
    assert_close(full_frame.project(units, 8), net.project(record, units, seed="one").full())


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_zennit_equals_ours(rule: str) -> None:
    pytest.importorskip("zennit", reason="zennit is not installed", exc_type=ImportError)
    net, images = Deconvnet(network(), rule), torch.randn(2, 3, 41, 38)
    for layer in ("3", "6", "9"):
        record = net.record(images, layer, batch_size=1)
        units = units_of(layer, 2, record.shape(layer))
        assert_close(project_zennit(net, images, units), net.project(record, units, seed="one").full(), layer)


def test_without_zennit_its_baseline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zennit", None)
    monkeypatch.setitem(sys.modules, "zennit.composites", None)
    net = Deconvnet(network())
    assert "zennit" not in [baseline.name for baseline in comparable()]
    with pytest.raises(ImportError, match="this baseline needs zennit and torchvision"):
        project_zennit(net, torch.randn(1, 3, 41, 38), Units("3", 0, 0, 0, 0))


def spoiled(what: Callable[[Tensor], Tensor], called: list[int]) -> Baseline:
    """A baseline that changes right projections."""

    def prepare(net: Deconvnet, images: Tensor, layer: str) -> Callable[[Units], Tensor]:
        full_frame = FullFrame(net, images, layer, batch_size=1)

        def project(units: Units) -> Tensor:
            called.append(len(units))
            return what(full_frame.project(units))

        return project

    return Baseline("spoiled", 4, False, prepare)


def one_off(projections: Tensor) -> Tensor:
    """One value of one projection off by a little more than is allowed."""
    projections[2, 0].view(-1)[projections[2, 0].abs().argmax()] += 3 * LARGEST_ERROR * projections[2].abs().max()
    return projections


@pytest.mark.parametrize(
    "what", [one_off, lambda p: torch.full_like(p, torch.nan), torch.zeros_like], ids=["one value", "NaN", "zeros"]
)
def test_a_wrong_baseline_is_left_out(what: Callable[[Tensor], Tensor]) -> None:
    net, images, called = Deconvnet(network()), torch.randn(2, 3, 41, 38), list[int]()
    measured = measure_layer(net, images, "3", [*comparable(compiled=False), spoiled(what, called)], 0.1, 8)
    assert called == [4]
    assert "batched ATen" in measured.baselines
    assert "spoiled" not in measured.baselines
    assert measured.not_measured["spoiled"].startswith("it differs by ")
    assert 0 <= measured.difference < LARGEST_ERROR


@pytest.mark.parametrize("wrong", [lambda p: 1.01 * p, lambda p: torch.nan * p], ids=["off by 1 %", "NaN"])
def test_ours_have_to_be_the_defined_ones_before_anything_is_timed(
    wrong: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, images, called = Deconvnet(network()), torch.randn(2, 3, 41, 38), list[int]()
    honest = net.project

    def project(*arguments: Any, **named: Any) -> Any:
        found = honest(*arguments, **named)
        found.windows = wrong(found.windows)
        return found

    monkeypatch.setattr(net, "project", project)
    with pytest.raises(WrongResult, match=r"^3: ours differ from the definition by .* nothing was timed$"):
        measure_layer(net, images, "3", [spoiled(lambda right: right, called)], 0.1, 8)
    assert called == []


def test_a_layer_is_measured_against_all(tmp_path: Path) -> None:
    net, images = Deconvnet(network()), torch.randn(2, 3, 41, 38)
    called: list[int] = []

    def cannot(net: Deconvnet, images: Tensor, layer: str) -> Callable[[Units], Tensor]:
        raise RuntimeError("no compiler\nand more about it")

    found = comparable(compiled=False)
    more = [spoiled(lambda right: right, called), Baseline("impossible", 16, False, cannot)]
    measured = measure_layer(net, images, "3", [*found, *more], 0.1, units_per_call=40)
    names = [baseline.name for baseline in found]
    assert {"batched ATen", "batched ATen channels_last"} <= set(names)
    assert ("Captum" in names) == (importlib.util.find_spec("captum") is not None)
    assert list(measured.baselines) == [*names, "spoiled"]
    assert measured.not_measured == {"impossible": "no compiler"}
    assert (measured.layer, measured.receptive_field) == ("3", (17, 17))
    assert measured.ours.units == 40
    assert {name: timing.units for name, timing in measured.baselines.items()} == {
        **{baseline.name: baseline.units for baseline in found},
        "spoiled": 4,
    }
    # Once to be checked, once for its memory, and then to be timed.
    assert set(called) == {4}
    assert len(called) == 2 + measured.baselines["spoiled"].calls
    assert measured.baselines["spoiled"].calls >= FEWEST_ROUNDS
    assert 0 <= measured.difference < LARGEST_ERROR
    for name, timing in measured.baselines.items():
        assert measured.ratio(name) == timing.seconds / measured.ours.seconds > 0

    with_forward = tuple(baseline.name for baseline in found if baseline.forward)
    whole = Throughput("small", "random weights", "noise", "this machine", with_forward, (measured,))
    text = "\n".join(whole.lines())
    assert "3, impossible: not measured: no compiler" in text
    assert "batched ATen 16" in text
    assert "The forward pass is left out for ours, batched ATen" in text
    for name in measured.baselines:
        assert f"({measured.ratio(name):,.0f}x)" in text or measured.ratio(name) < 10
    content = json.loads(json.dumps(whole.as_dict()))
    assert content["layers"][0]["ratios"] == {name: measured.ratio(name) for name in measured.baselines}


def test_interior_units_lie_inside() -> None:
    net, images = Deconvnet(network()), torch.randn(2, 3, 61, 67)
    record = net.record(images, ["3", "6", "9"])
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)
    units = interior_units(net, record, "3", 4000, generator)
    boxes = net.project(record, units, seed="one").boxes
    assert len(units) == 4000
    assert bool((boxes[:, :2] >= 0).all())
    assert bool((boxes[:, 2:] <= torch.tensor([61, 67])).all())
    assert set(units.channel.tolist()) == set(range(8))
    assert set(units.image.tolist()) == {0, 1}
    # Every place inside is taken, and no other is inside.
    rows, columns = record.shape("3")[1:]
    everywhere = Units("3", 0, 0, torch.arange(rows * columns) // columns, torch.arange(rows * columns) % columns)
    boxes = net.project(record, everywhere, seed="one").boxes
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= torch.tensor([61, 67])).all(1)
    assert {(y, x) for y, x in everywhere.table()[2:, inside].T.tolist()} == set(
        zip(units.y.tolist(), units.x.tolist(), strict=True)
    )
    flat = interior_units(net, record, "9", 7, generator)
    assert flat.y.tolist() == flat.x.tolist() == [0] * 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's highest memory")
def test_peak_bytes_sees_what_is_freed_again(threads: None) -> None:
    torch.set_num_threads(1)  # Linux counts the pages of each processor on its own and adds them up now and then
    size = 64 * 2**20

    def run() -> Tensor:
        first = torch.ones(size, dtype=torch.uint8)
        second = first + 1
        del first
        return second[:1].clone()

    for _ in range(2):
        peak = peak_bytes(run, torch.device("cpu"))
        if peak is None:
            pytest.skip("this machine does not let a process reset its high-water mark")
        assert 1.9 * size < peak < 2.5 * size


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "report.py"
    if not path.exists():
        pytest.skip("the benchmarks are not here")
    specification = importlib.util.spec_from_file_location("report", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_report_makes_tables_and_plots_of_results(report: Any, tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    page = docs / "performance.md"
    docs.mkdir()
    results.mkdir()
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.generate(results, page)
    assert "Not measured: `make bench`" in page.read_text()
    assert "Not measured: `make gpu-check`" in page.read_text()
    assert list(docs.iterdir()) == [page]

    projection = {
        "op": "projection", "shape": "vgg16 conv3_3", "model": "vgg16", "layer": "conv3_3", "weights": "good weights",
        "images": "8 images", "receptive_field": [40, 44], "seconds": {"ours": 0.001, "Captum": 0.25},
        "units": {"ours": 256, "Captum": 1}, "peak_bytes": {"ours": 2**25, "Captum": None}, "ratios": {"Captum": 250.0},
        "with_forward": ["Captum"], "not_measured": {"batched ATen compiled": "no compiler"}, "difference": 2e-7,
    }  # fmt: skip
    pooling = {
        "op": "relu + pool", "shape": "vgg16 pool1", "size": [1, 64, 224, 224], "layout": "NCHW",
        "seconds": {"ours": 0.002, "ATen": 0.001, "copy": 0.0015}, "ratios": {"ATen": 0.5}, "share_of_copy": 0.75,
    }  # fmt: skip
    machine = {"machine": "Some CPU", "torch": "2.13", "date": "2026-01-02", "rows": [projection, pooling]}
    (results / "some.json").write_text(json.dumps(machine))
    case = {
        "case": "max_pool2d k2s2", "seconds": {"cuda": 1e-3, "ATen": 2e-3, "copy": 9.1e-4},
        "share_of_copy": {"cuda": 0.91}, "speedup_over": {"ATen": {"cuda": 2.0}}, "not_run": {},
    }  # fmt: skip
    whole = {
        "case": "all units in tf32", "projections": 38016, "seconds_recording": 0.5, "seconds_projecting": 1.75,
        "least_seconds_by_layer": {"conv1_1": 0.25, "conv1_2": 0.125}, "deviation_from_float32": {"conv1_1": 0.002},
    }  # fmt: skip
    failed = {"case": "all units in bfloat16", "error": "out of memory"}
    unit = {"case": "one unit, captured", "host_seconds": 2e-5, "seconds_until_done": 4e-5}
    card = {
        "card": "Some GPU", "torch": "2.13", "triton": "3.9", "cuda": "13", "time": "2026-01-03T00:00:00Z",
        "passed": False,
        "stages": {
            "benchmarks": {"status": "failed", "results": [case, {"case": "max_unpool2d", "error": "wrong"}]},
            "backprojections": {"status": "not run", "reason": "no time left"},
            "whole": {"status": "failed", "seconds": 21.4, "results": [whole, failed]},
            "unit": {"status": "passed", "seconds": 3.0, "results": [unit]},
        },
    }  # fmt: skip
    (results / "card.json").write_text(json.dumps(card))
    report.generate(results, page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nafter\n")
    assert "| conv3_3 | 44x40 | 1.00 ms | 250.00 ms, 250x |" in text
    assert "| conv3_3 | 256 | 32 | not known |" in text
    assert "conv3_3, batched ATen compiled: not measured: no compiler" in text
    assert "![Projections per second by layer, ours and the baselines](projections.png)" in text
    assert "vgg16 pool1" not in text
    assert "| vgg16 pool1 (1x64x224x224) | NCHW | 2.00 ms | 1.00 ms | 0.5x | 75% |" in (results / "some.md").read_text()
    assert "Some GPU; torch 2.13, Triton 3.9, CUDA 13; 2026-01-03; the checks did not all pass" in text
    assert "| max_pool2d k2s2 | 1.00 ms | 2x | 91% |" in text
    assert "| max_unpool2d | wrong |" in text
    assert "**backproject2d**: not measured (no time left)" in text
    assert "| backprojections | not run | 0 s | no time left |" in text
    assert "| whole | failed | 21 s | all units in bfloat16 |" in text
    assert "| all units in tf32 | 38,016 | 0.50 s | 1.75 s | 0.38 s | 2.0e-03 |" in text
    assert "| one unit, captured | 20 us | 40 us |" in text
    for name in ("projections.png", "bandwidth.png"):
        assert (docs / name).read_bytes().startswith(b"\x89PNG")
    written = text
    report.generate(results, page)
    assert page.read_text() == written
