"""The engine against the dense definition of a projection, in float64, and what a record promises."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import Trace
from properties import given, settings, st
from tolerances import assert_close
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels import reference
from deconv_kernels.engine.deconvnet import Deconvnet
from deconv_kernels.engine.errors import UnknownLayer
from deconv_kernels.engine.record import Record
from deconv_kernels.engine.units import Units
from deconv_kernels.measure.baselines import project_full_frame

RULES = ("deconvnet", "guided", "gradient")


class Doubling(nn.Module):
    """A contrast normalisation: it mixes channels, not positions."""

    deconvnet_identity = True

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 3, alpha=0.5, beta=0.75, k=2.0)


def he(model: nn.Module) -> nn.Module:
    """Weights that keep signals alive, in float64 and eval mode."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


def alexnet(size: int = 6) -> nn.Module:
    """AlexNet's topology with response normalisation, at an eighth of its width."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(inplace=True), nn.LocalResponseNorm(5, 1e-1), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(8, 24, 5, padding=2, groups=2), nn.ReLU(inplace=True), Doubling(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(48, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )
    head = (nn.Dropout(), nn.Linear(32 * size**2, 40), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(40, 10))
    return he(nn.Sequential(features, nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Sequential(*head)))


def some_units(record: Record, layer: str, count: int) -> Units:
    """Random units, half of them at corners and borders."""
    channels, height, width = record.shape(layer)
    rows = [
        (
            random.randrange(len(record)),
            random.randrange(channels),
            random.choice((0, height - 1, random.randrange(height))),
            random.choice((0, width - 1, random.randrange(width))),
        )
        for _ in range(count)
    ]
    return Units(layer, *zip(*rows, strict=True))


def tuples(units: Units) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in (units.image, units.channel, units.y, units.x)), strict=True))


def check(
    model: nn.Module,
    images: Tensor,
    layer: str,
    units: int = 6,
    rule: str = "deconvnet",
    overlap: str = "sum",
    normalization: str = "identity",
) -> None:
    net = Deconvnet(model, rule, normalization)
    record = net.record(images, [layer], activations=True)
    chosen = some_units(record, layer, units)
    projected = net.project(record, chosen, overlap=overlap)
    trace = Trace(model)
    definition = (rule, normalization, overlap)
    exact, activations = reference.project(trace.module, images, trace.nodes[layer], tuples(chosen), *definition)
    assert_close(record.seeds(chosen), activations, "activations")
    assert_close(projected.full(), exact * activations[:, None, None, None], f"{layer}, {rule}, {overlap}")
    one = net.project(record, chosen, seed="one", overlap=overlap)
    assert_close(one.full(), exact, f"{layer}, {rule}, {overlap}, seed one")


convolution = st.tuples(
    st.just("conv"),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from((1, 1, 2)),
)
pool = st.tuples(
    st.just("pool"),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 2),
    st.booleans(),
)
plain = st.tuples(
    st.sampled_from(("relu", "relu", "relu", "relu6", "batch", "response", "contrast", "average", "same", "dropout"))
)


def chain(specification: list[tuple], images: Tensor) -> nn.Sequential:
    """The network of a specification, as far as its maps stay larger than nothing."""
    layers: list[nn.Module] = []
    x = images
    for kind, *window in specification:
        channels = x.shape[1]
        if kind == "conv":
            height, width, stride, padding, dilation, groups = window
            module: nn.Module = nn.Conv2d(channels, 4, (height, width), stride, padding, dilation, groups)
        elif kind == "pool":
            height, width, stride, pads, dilation, ceil_mode = window
            padding = (height // 2, width // 2) if pads else 0
            module = nn.MaxPool2d((height, width), stride, padding, dilation, ceil_mode=ceil_mode)
        else:
            module = {
                "relu": nn.ReLU,
                "relu6": nn.ReLU6,
                "batch": lambda c=channels: nn.BatchNorm2d(c),
                "response": lambda: nn.LocalResponseNorm(3, alpha=0.5),
                "contrast": Doubling,
                "average": lambda: nn.AvgPool2d(2, 1, 1, count_include_pad=False),
                "same": lambda c=channels: nn.Conv2d(c, 4, (2, 4), padding="same"),
                "dropout": nn.Dropout,
            }[kind]()
        he(module)
        try:
            x = module(x)
        except RuntimeError:  # nothing left of the map
            break
        if 0 in x.shape or not x.isfinite().all():  # a dilated window can miss a small map
            break
        layers.append(module)
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=100, deadline=None)
@given(
    specification=st.lists(st.one_of(convolution, pool, plain), min_size=1, max_size=8),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    rule=st.sampled_from(RULES),
    overlap=st.sampled_from(("sum", "last")),
    normalization=st.sampled_from(("identity", "gradient")),
    seed=st.integers(0, 2**31),
)
def test_random_chains_are_exact(
    specification: list[tuple], height: int, width: int, rule: str, overlap: str, normalization: str, seed: int
) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    images = torch.randn(2, 4, height, width, dtype=torch.float64)
    model = chain(specification, images)
    if len(model):
        check(model, images, str(len(model) - 1), 4, rule, overlap, normalization)


@pytest.mark.parametrize("rule", RULES)
def test_alexnet_is_exact_at_every_depth(rule: str) -> None:
    model, images = alexnet(), torch.randn(2, 3, 117, 151, dtype=torch.float64)
    for layer in ("0.1", "0.3", "0.8", "0.14", "1", "3.1", "3.4"):
        check(model, images, layer, 3, rule)


@pytest.mark.parametrize("rule", RULES)
def test_alexnet_with_last_window_and_exact_normalisation(rule: str) -> None:
    model, images = alexnet(2), torch.randn(2, 3, 67, 83, dtype=torch.float64)
    for layer in ("0.6", "0.11", "3.4"):
        check(model, images, layer, 3, rule, overlap="last")
        check(model, images, layer, 3, rule, normalization="gradient")


def small(inplace: bool = False) -> nn.Module:
    """Six layers whose pools overlap, then a linear one."""
    return he(
        nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(3, 2), nn.BatchNorm2d(6)),
            *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)),
        )
    )


def test_switches_are_those_of_the_models_own_forward() -> None:
    model, images = small().float(), torch.randn(3, 3, 33, 29)
    inputs: dict[str, Tensor] = {}
    for name in ("2", "6"):
        model.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: inputs.update({name: args[0]}))
    model(images)
    record = Deconvnet(model).record(images, ["9"])
    for name, maps in inputs.items():
        m = model.get_submodule(name)
        window = (m.kernel_size, m.stride, m.padding, m.dilation)
        _, indices = F.max_pool2d(maps, *window, m.ceil_mode, return_indices=True)
        switches = record.switches[name]
        assert switches.dtype == torch.uint8
        assert torch.equal(dk.switches_to_indices(switches, maps.shape[2:], *window), indices)
    assert record.gates == {}
    assert not record.activations


@pytest.mark.parametrize("rule", RULES)
def test_a_record_does_not_depend_on_the_batches(rule: str) -> None:
    net, images = Deconvnet(small(), rule), torch.randn(7, 3, 30, 31, dtype=torch.float64)
    layers = ["1", "4", "9"]
    whole, parts = (net.record(images, layers, True, batch_size=size) for size in (16, 3))
    assert len(whole) == len(parts) == 7
    assert whole.nbytes == parts.nbytes
    for name in whole.switches:
        assert torch.equal(whole.switches[name], parts.switches[name])
    assert (rule == "deconvnet") == (not whole.gates)
    for name in whole.gates:
        assert whole.gates[name].dtype == torch.bool
        assert torch.equal(whole.gates[name], parts.gates[name])
    for layer in layers:
        assert_close(parts.activations[layer], whole.activations[layer])
        assert_close(parts.peaks[layer].value, whole.peaks[layer].value)
        assert torch.equal(parts.peaks[layer].place, whole.peaks[layer].place)


def test_the_result_does_not_depend_on_the_chunks() -> None:
    net = Deconvnet(small())
    record = net.record(torch.randn(3, 3, 40, 37, dtype=torch.float64), ["0", "5", "9"])
    for layer in ("0", "5", "9"):
        units = record.strongest(layer)
        whole = net.project(record, units)
        for max_bytes in (1, 20_000):
            parts = net.project(record, units, max_bytes=max_bytes)
            assert_close(parts.windows, whole.windows)
            assert torch.equal(parts.boxes, whole.boxes)
        pieces = [net.project(record, units[start : start + 5]).windows for start in range(0, len(units), 5)]
        assert_close(torch.cat(pieces), whole.windows)


def test_windows_lie_where_their_boxes_say() -> None:
    net = Deconvnet(small())
    images = torch.randn(2, 3, 40, 37, dtype=torch.float64)
    record = net.record(images, ["5"])
    projected = net.project(record, some_units(record, "5", 12), seed="one")
    full = projected.full()
    assert projected.windows.shape[2:] == (9, 9)
    assert full.shape == (12, 3, 40, 37)
    outside = 0
    for window, (y0, x0, y1, x1), frame in zip(projected.windows, projected.boxes.tolist(), full, strict=True):
        assert (y1 - y0, x1 - x0) == (9, 9)
        expected = torch.zeros(3, 40, 37, dtype=torch.float64)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if 0 <= y < 40 and 0 <= x < 37:
                    expected[:, y, x] = window[:, y - y0, x - x0]
                else:
                    outside += 1
                    assert not window[:, y - y0, x - x0].any()
        assert torch.equal(frame, expected)
    assert outside
    assert torch.equal(projected[3].full(), full[3:4])
    assert torch.equal(projected[[5, 1]].full(), full[[5, 1]])


def test_model_and_images_are_left_as_they_are() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *small(inplace=True)).train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    copied = images.clone()
    net = Deconvnet(model)
    record = net.record(images, ["0", "1", "10"], activations=True)
    net.project(record, record.strongest("10", 1))
    assert torch.equal(images, copied)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training and not m._forward_hooks and not m._backward_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(record.activations["1"], model[1](images.relu())), "an activation asked for was overwritten"


@pytest.mark.parametrize("k", [1, 3, 9])
def test_strongest_and_weakest_are_the_extremes_of_the_activations(k: int) -> None:
    net = Deconvnet(small())
    record = net.record(torch.randn(5, 3, 30, 31, dtype=torch.float64), ["4", "1", "9"], activations=True)
    for layer in ("4", "1", "9"):
        maps = record.activations[layer].flatten(2) if layer != "9" else record.activations[layer][:, :, None]
        for units, sign in ((record.strongest(layer, k), 1), (record.weakest(layer, k), -1)):
            count = min(k, 5)
            assert units.channel.tolist() == [c for c in range(maps.shape[1]) for _ in range(count)]
            extremes, image = (sign * maps).amax(2).sort(dim=0, descending=True, stable=True)
            assert torch.equal(units.activation, sign * extremes[:count].T.flatten())
            assert torch.equal(units.image, image[:count].T.flatten())
            here = copy.copy(units)
            here.activation = None
            assert torch.equal(record.seeds(here), units.activation)
            width = record.shape(layer)[2]
            first = (sign * maps)[units.image, units.channel].argmax(1)
            assert torch.equal(units.y * width + units.x, first), "the first of equal units has to be taken"
    chosen = record.strongest("4", 2, channels=[5, 0])
    assert chosen.channel.tolist() == [5, 5, 0, 0]
    assert record.weakest("4", 1, channels=torch.tensor([3])).channel.tolist() == [3]


@pytest.mark.parametrize("q", [0, 0.25, 0.5, 0.999, 1])
def test_at_quantile_has_the_rank_asked_for(q: float) -> None:
    net = Deconvnet(small())
    record = net.record(torch.randn(4, 3, 30, 31, dtype=torch.float64), "4", activations=True)
    units = record.at_quantile("4", q, channels=[2, 0, 7])
    maps = record.activations["4"].transpose(0, 1).flatten(1)
    rank = round(q * (maps.shape[1] - 1))
    assert units.channel.tolist() == [2, 0, 7]
    assert torch.equal(units.activation, maps.sort(1).values[[2, 0, 7], rank])
    assert torch.equal(record.activations["4"][units.image, units.channel, units.y, units.x], units.activation)


def test_only_activations_answer_what_peaks_cannot() -> None:
    net = Deconvnet(small())
    record = net.record(torch.randn(2, 3, 30, 30, dtype=torch.float64), "4")
    for ask in (
        lambda: record.weakest("4"),
        lambda: record.at_quantile("4", 0.5),
        lambda: net.project(record, Units("4", 0, 0, 1, 1)),
    ):
        with pytest.raises(ValueError, match=r"needs the activations of '4': record with activations=True"):
            ask()
    with pytest.raises(ValueError, match="the record was not asked for '3', only for '4'"):
        record.strongest("3")
    assert len(net.project(record, Units("3", [0, 1], 2, [3, 3], [0, 1]), seed="one")) == 2


def test_units_take_lists_and_give_tensors() -> None:
    units = Units("conv", [0, 1, 1], channel=3, y=torch.tensor([4, 5, 6]), x=[1, 2, 3], activation=[0.5, 1, 2])
    assert len(units) == 3
    assert all(column.dtype == torch.int64 for column in (units.image, units.channel, units.y, units.x))
    assert units.channel.tolist() == [3, 3, 3]
    assert tuples(units[-1]) == [(1, 3, 6, 3)]
    assert tuples(units[1:]) == [(1, 3, 5, 2), (1, 3, 6, 3)]
    assert units[[2, 0]].activation.tolist() == [2, 0.5]
    assert tuples(units[units.image == 1]) == tuples(units[1:])
    assert [tuples(unit) for unit in units] == [[row] for row in tuples(units)]
    both = Units.concatenate([units, units[:1]])
    assert tuples(both) == [*tuples(units), tuples(units)[0]]
    assert both.activation.tolist() == [0.5, 1, 2, 0.5]
    assert Units.concatenate([units, Units("conv", 0, 0, 0, 0)]).activation is None
    assert len(Units("conv", [], [], [], [])) == 0
    with pytest.raises(ValueError, match="units of one layer"):
        Units.concatenate([units, Units("other", 0, 0, 0, 0)])
    with pytest.raises(ValueError, match=r"must have one length, got \{'image': 2, 'channel': 1"):
        Units("conv", [0, 1], [2], 0, 0)
    with pytest.raises(TypeError, match=r"y must hold integers, got torch\.float32"):
        Units("conv", 0, 0, [0.5], 0)
    with pytest.raises(ValueError, match="x must not be negative, got -1"):
        Units("conv", 0, 0, 0, [0, -1])
    with pytest.raises(ValueError, match=r"activation must have shape \(1,\), got \(2,\)"):
        Units("conv", 0, 0, 0, 0, [1.0, 2.0])
    with pytest.raises(IndexError):
        units[3]


def test_units_outside_the_record_are_errors() -> None:
    net = Deconvnet(small())
    images = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    record = net.record(images, "4")
    cases = {
        "image of a unit of '4' must be below 2, got 2": (2, 0, 0, 0),
        "channel of a unit of '4' must be below 8, got 8": (0, 8, 0, 0),
        "y of a unit of '4' must be below 14, got 14": (0, 0, 14, 0),
        "x of a unit of '4' must be below 14, got 20": (0, 0, 0, 20),
    }
    for message, unit in cases.items():
        with pytest.raises(ValueError, match=message):
            net.project(record, Units("4", *unit), seed="one")
    with pytest.raises(ValueError, match="the record was made for '4' and does not reach '5'"):
        net.project(record, Units("5", 0, 0, 0, 0), seed="one")
    with pytest.raises(UnknownLayer):
        net.project(record, Units("conv", 0, 0, 0, 0), seed="one")
    with pytest.raises(ValueError, match="another Deconvnet"):
        Deconvnet(small()).project(record, Units("4", 0, 0, 0, 0), seed="one")
    with pytest.raises(ValueError, match="seed must be one of 'activation', 'one', got 'two'"):
        net.project(record, Units("4", 0, 0, 0, 0), seed="two")
    with pytest.raises(ValueError, match="overlap must be"):
        net.project(record, Units("4", 0, 0, 0, 0), seed="one", overlap="mean")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        record.strongest("4", 0)
    with pytest.raises(ValueError, match="channels of '4' must be below 8, got 9"):
        record.strongest("4", channels=[9])


def test_images_that_cannot_be_recorded_are_errors() -> None:
    net = Deconvnet(small())
    with pytest.raises(TypeError, match=r"images must be of the model's dtype torch\.float64, got torch\.float32"):
        net.record(torch.zeros(1, 3, 30, 30), "4")
    with pytest.raises(TypeError, match="images must be a Tensor, got list"):
        net.record([torch.zeros(3, 30, 30)], "4")
    for shape in ((3, 30, 30), (0, 3, 30, 30)):
        with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\)"):
            net.record(torch.zeros(shape, dtype=torch.float64), "4")
    images = torch.zeros(1, 3, 30, 30, dtype=torch.float64)
    with pytest.raises(ValueError, match="layers must name at least one"):
        net.record(images, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        net.record(images, "4", batch_size=0)
    with pytest.raises(UnknownLayer, match="no layer 'conv5_3'"):
        net.record(images, "conv5_3")


def test_no_units_give_no_projections() -> None:
    net = Deconvnet(small())
    record = net.record(torch.randn(1, 3, 30, 30, dtype=torch.float64), "4")
    projected = net.project(record, Units("4", [], [], [], []), seed="one")
    assert projected.windows.shape == (0, 3, 9, 9)
    assert projected.boxes.shape == (0, 4)
    assert projected.full().shape == (0, 3, 30, 30)


def test_channels_last_models_and_float32() -> None:
    model = small().float().to(memory_format=torch.channels_last)
    images = torch.randn(3, 3, 41, 30)
    exact = Deconvnet(copy.deepcopy(model).double())
    net = Deconvnet(model)
    record = net.record(images.contiguous(memory_format=torch.channels_last), "5", activations=True, batch_size=2)
    assert record.switches["2"].is_contiguous(memory_format=torch.channels_last)
    units = some_units(record, "5", 8)
    projected = net.project(record, units)
    assert projected.windows.dtype == torch.float32
    truth = exact.record(images.double(), "5", activations=True)
    truth.kept = record.kept  # in float64 two almost equal values of a pooling window might trade places
    assert_close(projected.full(), exact.project(truth, units).full())


@pytest.mark.parametrize("rule", RULES)
def test_the_full_frame_baseline_computes_the_same(rule: str) -> None:
    model, images = small(), torch.randn(3, 3, 40, 37, dtype=torch.float64)
    net = Deconvnet(model, rule)
    record = net.record(images, ["4", "6", "9"])
    for layer in ("4", "6", "9"):
        units = record.strongest(layer, 2)
        ours = net.project(record, units).full()
        assert_close(project_full_frame(net, images, units, seed="activation", units_at_once=5), ours, layer)


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    net, images = Deconvnet(small()), torch.randn(3, 3, 30, 30, dtype=torch.float64)
    record = net.record(images, "4", batch_size=1, progress=True)
    net.project(record, record.strongest("4"), progress=True)
    shown = capsys.readouterr().err
    assert "recording" in shown
    assert "3/3" in shown
    assert "projecting" in shown
    assert "24/24" in shown
    net.project(net.record(images, "4", progress=False), record.strongest("4")[:1], progress=False)
    assert capsys.readouterr().err == ""


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that torch's allocator held at one time during `run`, above what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("layers", [["28"], ["1", "3", "8", "15", "22", "29", "30"]])
def test_recording_vgg16_takes_less_than_twice_the_memory_of_inference(layers: list[str]) -> None:
    modules: list[nn.Module] = []
    channels = 3
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", *(512, 512, 512, "pool") * 2):
        if width == "pool":
            modules.append(nn.MaxPool2d(2))
        else:
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    model = nn.Sequential(*modules).eval()
    net = Deconvnet(model)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        plain = peak_bytes(lambda: model(images))
    kept: list[Record] = []
    recording = peak_bytes(lambda: kept.append(net.record(images, layers)))
    assert plain > 2 * 2 * 64 * 224 * 224 * 4, "the measurement does not see conv1_2"
    assert recording < 2 * plain, f"{recording / 2**20:.0f} MiB against {plain / 2**20:.0f} MiB"
    switches = sum(s.nbytes for s in kept[0].switches.values())
    assert switches <= 2 * (64 * 112**2 + 128 * 56**2 + 256 * 28**2 + 512 * 14**2 + 512 * 7**2)


def test_a_layer_is_found_by_name_and_module_and_a_container_is_what_it_returns() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1)).eval()
    net = Deconvnet(model)
    record = net.record(torch.randn(1, 3, 12, 12), "2")
    for found in (net.layer("0"), net.layer(model[0]), record.layer(model[0])):
        assert found == ("0", "0.1", 2)
    assert net.layer(model[0][0]) == ("0.0", "0.0", 1)
    with pytest.raises(UnknownLayer, match="no layer '3'"):
        net.layer("3")


def test_shapes_tell_whether_the_network_takes_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 7)).eval()
    net = Deconvnet(model)
    assert net.shapes(torch.zeros(2, 3, 12, 12), ["0", "3"]) == {"0": (4, 10, 10), "3": (7,)}
    with pytest.raises(
        ValueError, match="images of 3x13x12 do not go through the network: .* is a linear layer over 400"
    ):
        net.shapes(torch.zeros(1, 3, 13, 12), ["0", "3"])
    with pytest.raises(ValueError, match="at least one layer is needed"):
        net.shapes(torch.zeros(1, 3, 12, 12), [])


def test_units_and_their_table() -> None:
    units = Units("0", [0, 1, 1], [2, 0, 1], [3, 4, 5], 6, [0.5, 1, 2])
    again = Units.of_table("0", units.table(), units.activation)
    assert torch.equal(again.table(), torch.tensor([[0, 1, 1], [2, 0, 1], [3, 4, 5], [6, 6, 6]]))
    assert again.activation is not None and again.activation.tolist() == [0.5, 1, 2]
