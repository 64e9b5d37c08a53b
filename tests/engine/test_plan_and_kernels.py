"""What runs a projection: its plan, sparse and dense convolutions, and what results may not depend on."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv_kernels import Deconvnet, Record, Units, UnknownLayer, models
from deconv_kernels.engine.plan import make_plan
from deconv_kernels.engine.steps import convolution
from deconv_kernels.measure.baselines import project_full_frame


def vgg_like() -> nn.Sequential:
    """Convolutions of many shapes: 3x3 with many and few channels, 5x5, 1x1, stride 2, groups, and linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(48, 64, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(64, 80, 1),
        nn.ReLU(),
        nn.Conv2d(80, 96, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96 * 5 * 5, 130),
        nn.ReLU(),
        nn.Linear(130, 10),
    ).eval()


LAYERS = ["2", "5", "8", "10", "13", "15"]


def some_units(record: Record, layer: str, count: int) -> Units:
    sizes = (len(record), *record.shape(layer))
    image, channel, y, x = (torch.randint(size, (count,)) for size in sizes)
    return Units(layer, image, channel, y, x)


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("overlap", ["sum", "last"])
@pytest.mark.parametrize("kernel", ["auto", "sparse"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_unit_looks_the_same_to_the_last_bit_in_any_company(
    layer: str, kernel: str, overlap: str, threads: object
) -> None:
    net = Deconvnet(vgg_like())
    record = net.record(torch.randn(3, 3, 37, 40), LAYERS)
    units = some_units(record, layer, 23)

    def project(chosen: Units, max_bytes: int | None = None) -> Tensor:
        return net.project(record, chosen, "one", overlap, kernel=kernel, max_bytes=max_bytes).windows

    whole = project(units)
    assert whole.abs().amax() > 0
    order = torch.randperm(len(units))
    assert torch.equal(project(units[order]), whole[order])
    for max_bytes in (1, 100_000):
        assert torch.equal(project(units, max_bytes), whole)
    one = random.randrange(len(units))
    assert torch.equal(project(units[one]), whole[one : one + 1])
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(project(units), whole)


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("layer", LAYERS)
def test_sparse_and_dense_convolutions_agree(layer: str, rule: str) -> None:
    net = Deconvnet(vgg_like().double(), rule)
    images = torch.randn(2, 3, 37, 40, dtype=torch.float64)
    record = net.record(images, LAYERS)
    units = some_units(record, layer, 9)
    expected = project_full_frame(net, images, units)
    for kernel in ("auto", "sparse", "dense"):
        projected = net.project(record, units, "one", kernel=kernel).full()
        torch.testing.assert_close(projected, expected, rtol=1e-9, atol=1e-12)


def test_each_units_own_density_chooses_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "DENSE_WORK", 1)
    # Without a rectifier every signal is dense but where a filter is zero.
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Conv2d(20, 30, 3), nn.Conv2d(30, 8, 3)).eval()
    with torch.no_grad():
        model[2].weight[1:, 3:] = 0
    net = Deconvnet(model)
    images = torch.randn(1, 3, 20, 20)
    record = net.record(images, ["2"])
    units = Units("2", 0, [0, 1, 0, 2], [3, 4, 5, 6], [7, 2, 9, 1])
    ran: list[tuple[str, int]] = []
    for name in ("_sparse", "_dense"):
        original = getattr(convolution.Convolution, name)

        def counted(
            self: object, windows: object, *rest: object, name: str = name, original: object = original
        ) -> object:
            ran.append((name, len(windows)))  # type: ignore[arg-type]
            return original(self, windows, *rest)  # type: ignore[operator]

        monkeypatch.setattr(convolution.Convolution, name, counted)
    projected = net.project(record, units, "one")
    assert ("_dense", 2) in ran and ("_sparse", 2) in ran
    torch.testing.assert_close(projected.full(), project_full_frame(net, images, units), rtol=1e-4, atol=1e-6)
    for index in range(len(units)):
        assert torch.equal(net.project(record, units[index], "one").windows[0], projected.windows[index])
    ran.clear()
    net.project(record, units, "one", kernel="sparse")
    assert {name for name, _ in ran} == {"_sparse"}
    ran.clear()
    net.project(record, units, "one", kernel="dense")
    assert {name for name, _ in ran} == {"_dense"}


def test_an_unknown_kernel_is_an_error() -> None:
    net = Deconvnet(vgg_like())
    record = net.record(torch.randn(1, 3, 37, 40), ["2"])
    with pytest.raises(ValueError, match="kernel must be one of 'auto', 'sparse', 'dense', got 'winograd'"):
        net.project(record, Units("2", 0, 0, 0, 0), "one", kernel="winograd")


@pytest.mark.parametrize(
    "how", ["in place", "through .data", "one filter through .data", "load_state_dict", "replaced"]
)
def test_changed_weights_are_noticed(how: str) -> None:
    model = vgg_like()
    images = torch.randn(1, 3, 37, 40)
    net = Deconvnet(model)
    units = Units("5", 0, [0, 1], [4, 6], [5, 5])
    before = net.project(net.record(images, ["5"]), units, "one").windows
    with torch.no_grad():
        weight = model[2].weight
        if how == "in place":
            weight.mul_(torch.rand(48, 1, 1, 1) + 0.5)
        elif how == "through .data":
            weight.data.mul_(torch.rand(48, 1, 1, 1) + 0.5)
        elif how == "one filter through .data":
            weight.data[random.randrange(48)] *= 0.25
        elif how == "load_state_dict":
            model.load_state_dict(vgg_like().state_dict())
        else:
            model[2].weight = nn.Parameter(torch.randn_like(weight))
    record = net.record(images, ["5"])
    after = net.project(record, units, "one")
    torch.testing.assert_close(after.full(), project_full_frame(net, images, units), rtol=1e-4, atol=1e-6)
    assert how == "one filter through .data" or not torch.equal(after.windows, before)


def test_the_plan_of_vgg16_is_known() -> None:
    net = Deconvnet(models.VGG16(features_only=True))
    record = net.record(torch.zeros(1, 3, 224, 224), ["conv5_3"])
    plan = net.plan(record, "conv5_3")
    by_name = {planned.step.name: planned for planned in plan.steps}
    assert plan.inputs[0].size == (196, 196)
    # 7 x 7 pooled positions, unpooled to 14 x 14; nine taps; 512 channels to 512.
    assert by_name["conv4_3"].multiply_adds == 14 * 14 * 9 * 512 * 512
    assert by_name["conv5_3"].multiply_adds == 0, "a seed takes a slice of the weights"
    assert 7.2e9 < plan.multiply_adds < 7.5e9
    assert by_name["conv1_2"].units_at_once == max(1, 2**23 // (4 * (64 * 192 * 192 + 64 * 194 * 194)))
    smaller = make_plan(net.tape, "conv5_3", record.shapes, torch.float32, 2**20)
    assert all(a.units_at_once <= b.units_at_once for a, b in zip(smaller.steps, plan.steps, strict=True))
    table = plan.table(4608)
    for expected in ("conv5_3", "512 x 3 x 3", "slice of the weights", "backproject2d", "4,608 units of conv5_3"):
        assert expected in table
    with pytest.raises(UnknownLayer):
        net.plan(record, "conv6_1")


def test_a_plan_names_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels(kernel: str) -> list[str]:
        return [planned.kernel for planned in net.plan(record, net.output, kernel=kernel).steps]

    net = Deconvnet(vgg_like())
    record = net.record(torch.randn(1, 3, 37, 40), net.output)
    rectified, sparse = "with the step below", "backproject2d"
    lowest = [sparse, rectified, sparse, rectified, rectified]
    assert kernels("auto")[:5] == kernels("sparse")[:5] == lowest
    assert kernels("dense")[:5] == [name.replace(sparse, "torch") for name in lowest]
    assert kernels("dense")[-4:] == ["torch", sparse, rectified, "row of the weights"]

    net = Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).eval())
    record = net.record(torch.randn(1, 3, 20, 20), net.output)
    assert kernels("auto") == [sparse, sparse, "slice of the weights"]
    monkeypatch.setattr(convolution, "DENSE_WORK", 1)
    assert kernels("auto") == ["backproject2d or torch", "backproject2d or torch", "slice of the weights"]


@pytest.mark.parametrize("input", [0, 1])
def test_results_go_to_a_file_as_they_come(input: int, tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 5)

        def forward(self, images: Tensor, maps: Tensor) -> Tensor:
            return F.max_pool2d((self.one(images) + self.other(maps)).relu(), 2)

    net = Deconvnet(Pair().eval())
    record = net.record([torch.randn(3, 3, 12, 12), torch.randn(3, 2, 16, 16)], net.output)
    units = some_units(record, net.output, 40)
    shape = net.plan(record, net.output).shape(len(units), input)
    path = tmp_path / "windows"
    out = torch.from_file(str(path), shared=True, size=math.prod(shape)).view(shape)
    found = net.project(record, units, "one", input=input, max_bytes=2_000, out=out)
    expected = net.project(record, units, "one", input=input)
    assert found.windows is out
    assert torch.equal(out, expected.windows) and torch.equal(found.boxes, expected.boxes)
    assert torch.equal(torch.from_file(str(path), size=math.prod(shape)).view(shape), expected.windows)
    for wrong in (out[:1], out.double(), out.to("meta")):
        with pytest.raises(ValueError, match=rf"out must be \({shape[0]}, {shape[1]}, .* of torch.float32 on cpu, got"):
            net.project(record, units, "one", input=input, out=wrong)
