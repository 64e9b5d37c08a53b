"""Projections as on a GPU, without one: no waiting, one copy from the host, few launches, channels innermost.

The device is torch's meta device, whose tensors have shapes and no values: reading one on the host is an error. What
was recorded on the CPU is moved there, and the ops are Triton's launchers, whose launches are counted and not made.
"""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import NETWORKS, Network, some_units
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from deconv_kernels import Deconvnet, Record, Units
from deconv_kernels.models import VGG16
from deconv_kernels.ops import backends
from deconv_kernels.ops.arguments import taking_flat
from deconv_kernels.ops.layout import is_channels_last
from deconv_kernels.ops.library import without_rank

triton = pytest.importorskip("triton", reason="the package triton is not installed")
if backends.triton_interprets():
    pytest.skip("TRITON_INTERPRET=1: kernels run on the CPU", allow_module_level=True)

from no_launches import launching_nothing  # noqa: E402

from deconv_kernels.ops import triton as triton_ops  # noqa: E402

RULES = ("deconvnet", "guided", "gradient")
META = torch.device("meta")
COMMON = importlib.import_module("deconv_kernels.ops.triton._common")
# Chains, residual networks, dense ones, towers; maps, signals and volumes.
FEW_LAUNCHES = ("AlexNet", "VGG16", "VGG11 with batch norm", "ResNet-18", "DenseNet", "GoogLeNet", "MobileNet v2")
FEW_LAUNCHES += ("ECG ResNet", "C3D")
MOST_LAUNCHES = 3  # of a step, on an average of its walk
MOST_CALLS = 400  # of functions written in Python, for one small unit
# Where that unit is in maps of 32x32, and the launches it may take: what sticks out of the maps is zeroed axis by axis.
PLACES = {"inside": ((16, 11), 7), "at an edge": ((0, 11), 9), "in a corner": ((0, 31), 11)}
MOST_COMPILED = 4  # of a convolution: Triton does so again where a size or an address is a multiple of 16, or one
# Networks whose own code makes a constant on the host whenever it is called, or compares values there.
MAKE_CONSTANTS = {"coordinates as channels", "quantised"}


class Watch(TorchDispatchMode):
    """Counts what is launched on a device, and what moves between it and the host.

    Args:
        device: its type.

    Attributes:
        launched: operations that are no views, by their names.
        moved: those that had tensors on both devices.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device, self.launched, self.moved = device, Counter[str](), list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        devices = {x.device.type for x in pytree.tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        name = str(function)
        if len(devices) > 1:
            self.moved.append(name)
        elif devices == {self.device} and not function.is_view and not name.startswith("aten.empty"):
            self.launched[name] += 1
        return result


class Launches:
    """What the ops did.

    Attributes:
        kernels: those of Triton that would have been launched, by their names.
        transposed: ops that were given maps in another layout than channels innermost.
    """

    def __init__(self) -> None:
        self.kernels, self.transposed = Counter[str](), Counter[str]()

    def clear(self) -> None:
        self.kernels.clear()
        self.transposed.clear()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Lets every op on the meta device be Triton's, and counts what it would launch."""
    made = Launches()

    def launch(launch: Any, *tensors: Tensor | None) -> None:
        assert launch.programs > 0 and launch.device.type in ("meta", "cpu")
        made.kernels[launch.kernel.fn.__name__] += 1

    @functools.cache
    def operator(name: str) -> Callable[..., Any]:
        op = taking_flat(name, getattr(triton_ops, without_rank(name)))

        def watched(*arguments: Any) -> Any:
            maps = arguments[0]
            if name != "pack_weight" and maps.shape[1] > 1 and not is_channels_last(maps, maps.dim() - 2):
                made.transposed[name] += 1
            return op(*arguments)

        return watched

    monkeypatch.setattr(COMMON.Launch, "__call__", launch)
    monkeypatch.setattr(backends, "operator", lambda name, input: operator(name))
    monkeypatch.setattr(backends, "chosen", lambda device: "triton")
    return made


def on_meta(model: torch.nn.Module, record: Record, rule: str, network: Network) -> tuple[Deconvnet, Record]:
    """A network and what was recorded of it on the CPU, moved to the meta device."""
    net = Deconvnet(copy.deepcopy(model).to(META), rule, rules=network.rules)
    moved = Record(net.tape, record.names, len(record), record.dtype, META)
    moved.shapes, moved.peaks = record.shapes, record.peaks
    moved.kept = [tuple(kept.to(META) for kept in of_step) for of_step in record.kept]
    moved.activations = {layer: maps.to(META) for layer, maps in record.activations.items()}
    moved.steps, moved.weights = net.tape.bound(list(record.steps))
    return net, moved


def recorded(network: Network, rule: str, dtype: torch.dtype = torch.float32) -> tuple[Deconvnet, Record, list[str]]:
    """A network of the collection on the meta device, a record, and up to three of its layers."""
    model = network.build().to(dtype)
    net = Deconvnet(model, rule, rules=network.rules)
    layers = list(network.layers or net.layers)[-3:]
    record = net.record(network.images(dtype=dtype), layers, activations=True)
    return *on_meta(model, record, rule, network), layers


def units_of(record: Record, layer: str, count: int) -> Units:
    shape = (len(record), *record.shape(layer))
    return Units.of_table(layer, some_units(torch.randn(shape), count, record.rank).T)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_a_projection_waits_for_nothing_and_copies_once(launches: Launches) -> None:
    """Under every rule in turn, from the last layers of every network; the activations are on the device too."""
    networks = [(name, network) for name, network in NETWORKS.items() if name not in MAKE_CONSTANTS]
    for (name, network), rule in zip(networks, itertools.cycle(RULES)):
        net, record, layers = recorded(network, rule)
        units = units_of(record, layers[-1], 4)
        captured = net.capture(record, layers[-1], 4)
        for project in (functools.partial(net.project, record), captured.project):
            project(units)  # packs weights, and makes what is made once
            with Watch() as watch:
                project(units)
            assert watch.moved == ["aten.copy_.default"], f"{name}, {rule}, {layers[-1]}: {watch.moved}"


@pytest.mark.parametrize("name", FEW_LAUNCHES)
def test_a_step_is_few_launches_and_keeps_channels_innermost(name: str, launches: Launches) -> None:
    net, record, layers = recorded(NETWORKS[name], "deconvnet")
    for layer in layers:
        units = units_of(record, layer, 4)
        net.project(record, units)
        launches.clear()
        with Watch() as watch:
            net.project(record, units)
        steps = len(net.plan(record, layer).steps)
        count = launches.kernels.total() + watch.launched.total()
        print(f"{layer}: {launches.kernels.total()} kernels and {watch.launched.total()} of torch's in {steps} steps")
        assert count <= MOST_LAUNCHES * steps, f"{layer}: {launches.kernels} {watch.launched} in {steps} steps"
        assert not launches.transposed, f"{layer}: {launches.transposed}"


@pytest.mark.parametrize("place", PLACES)
def test_one_unit_is_little_work_for_the_host(place: str, launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of VGG16's second layer, where the host's time decides; on the CPU, because meta tensors take Python's."""
    (y, x), most = PLACES[place]
    net = Deconvnet(VGG16(features_only=True).eval())
    record = net.record(torch.randn(1, 3, 32, 32), "conv1_2")
    units = Units.of_table("conv1_2", torch.tensor([[0], [5], [y], [x]]), torch.rand(1))
    captured = net.capture(record, "conv1_2", 1)
    monkeypatch.setattr(backends, "cpp_on_cpu", False)
    for name, project in (("eager", functools.partial(net.project, record)), ("captured", captured.project)):
        project(units)
        launches.clear()
        with Watch("cpu") as watch:
            project(units)
        count = launches.kernels.total() + watch.launched.total()
        assert launches.kernels.total() == 1 and count <= most, f"{name}: {launches.kernels} {watch.launched}"
        calls = python_calls(functools.partial(project, units))
        print(f"{name}: {count} launches, {calls} calls of functions in Python")
        assert calls <= MOST_CALLS


def test_kernels_are_compiled_for_layers_and_not_for_numbers_of_units() -> None:
    """What Triton would compile on its way to a card, a tile for each kernel: nothing is compiled and nothing runs."""
    net = Deconvnet(VGG16(features_only=True).eval())
    layers = ("conv1_2", "conv2_2", "conv3_3")
    record = net.record(torch.randn(1, 3, 64, 64), layers)
    asked: dict[str, set[str]] = {}
    with launching_nothing(), triton.knobs.runtime.scope():
        for layer in layers:
            kernels = asked[layer] = set[str]()
            triton.knobs.runtime.jit_cache_hook = lambda *, repr, of=kernels, **about: of.add(str(about)) or True
            for count in (1, 2, 3, 5, 16, 27, 160):
                shape = record.shape(layer)
                units = Units.of_table(layer, torch.stack([torch.randint(n, (count,)) for n in (1, *shape)]))
                net.project(record, units, "one")
            convolutions = sum(planned.kernel == "backproject2d" for planned in net.plan(record, layer).steps)
            print(f"{layer}: {len(kernels)} kernels for {convolutions} convolutions")
            assert convolutions and len(kernels) <= MOST_COMPILED * convolutions


def python_calls(run: Callable[[], object]) -> int:
    """How many functions written in Python are called."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return calls
