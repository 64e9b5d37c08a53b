"""Projections in one call, their files, and the snippets of docs/backend.md, against the definition."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx
from networks import NETWORKS, Trace
from tolerances import assert_close
from torch import Tensor, nn

import deconv_kernels as dk
from deconv_kernels import reference
from deconv_kernels.data.tensor_files import load_tensors, save_tensors
from deconv_kernels.one_call import load_projections, project, save_projections

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = ("AlexNet", "ZFNet", "GoogLeNet", "pre-activation ResNet", "U-Net with max-unpool", "skip before relu")


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 7 * 8, 4),
    ).to(dtype)  # fmt: skip


def images(count: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, 19, 21, dtype=dtype)


def definition(model: nn.Module, given: Tensor, node: str, units: Sequence[Sequence[int]], **options: Any) -> Tensor:
    """(U, C, H, W) by autograd over whole frames, in float64, times the activations."""
    graph = torch.fx.symbolic_trace(model.double().eval())
    frames, activations = reference.project(graph, given.double(), node, units, **options)
    assert isinstance(frames, Tensor)
    return frames * activations.view(-1, 1, 1, 1)


UNITS = [[4, 0, 0, 0], [0, 4, 6, 7], [4, 2, 3, 3], [2, 1, 5, 0], [4, 2, 3, 3]]


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_against_the_definition(rule: str, overlap: str) -> None:
    model, given = network(), images()
    expected = definition(model, given, "_4", UNITS, rule=rule, overlap=overlap)
    for units in (UNITS, torch.tensor(UNITS), torch.tensor(UNITS, dtype=torch.int32), np.array(UNITS)):
        found = project(model, given, "4", units, rule=rule, overlap=overlap)
        assert_close(found, expected)
    windows, boxes = project(dk.Deconvnet(model, rule=rule), given, "4", UNITS, overlap=overlap, full=False)
    for window, (y0, x0, y1, x1), frame in zip(windows, boxes.tolist(), expected, strict=True):
        padded = nn.functional.pad(frame, (30, 30, 30, 30))
        assert_close(window, padded[:, 30 + y0 : 30 + y1, 30 + x0 : 30 + x1])
        assert frame.abs().sum() == pytest.approx(float(window.abs().sum()), rel=1e-9)


def test_in_batches_and_of_one_seed() -> None:
    model, given = network(), images(9)
    units = torch.stack([torch.randint(n, (40,)) for n in (9, 5, 7, 8)], dim=1)
    whole = project(model, given, "4", units)
    for batch_size in (1, 2, 100):
        assert_close(project(model, given, "4", units, batch_size=batch_size), whole)
    record = dk.Deconvnet(model).record(given, "4", activations=True)
    activation = record.activations["4"][tuple(units.T)]
    assert_close(project(model, given, "4", units, seed="one") * activation.view(-1, 1, 1, 1), whole)


def test_image_and_channel_name_the_strongest_unit() -> None:
    model, given = network(), images(6)
    pairs = torch.tensor([[5, 0], [0, 4], [5, 3], [2, 2]])
    with torch.no_grad():
        maps = model[:5](given)
    place = maps.flatten(2).max(2).indices[tuple(pairs.T)]
    units = torch.column_stack([pairs, place // 8, place % 8])
    assert_close(project(model, given, "4", pairs), definition(model, given, "_4", units.tolist()))
    assert_close(
        project(model, given, "4", pairs, batch_size=1, seed="one"), project(model, given, "4", units, seed="one")
    )
    flat = project(model, given, "6", pairs.clamp(max=3))
    wide = torch.column_stack([pairs.clamp(max=3), torch.zeros(4, 2, dtype=torch.int64)])
    assert torch.equal(flat, project(model, given, "6", wide))
    assert_close(flat, definition(model, given, "_6", [[i, c, 0, 0] for i, c in pairs.clamp(max=3).tolist()]))


@pytest.mark.parametrize("name", NAMED)
def test_networks(name: str) -> None:
    """Branches, skips, overlapping pools and normalisation, in odd sizes."""
    described = NETWORKS[name]
    model, given = described.build(), described.images(3)
    assert isinstance(given, Tensor)
    trace, net = Trace(model), dk.Deconvnet(model, rules=described.rules)
    layers = described.layers or [layer for layer in net.layers if layer in trace.nodes]
    layer = layers[len(layers) // 2]
    pairs = [[2, 0], [0, 1]]
    units = net.record(given, layer).strongest(layer, k=3, channels=[0, 1])
    chosen = [int(((units.image == i) & (units.channel == c)).nonzero()[0, 0]) for i, c in pairs]
    table = [[i, c, int(units.y[n]), int(units.x[n])] for (i, c), n in zip(pairs, chosen, strict=True)]
    node = trace.nodes[layer]
    frames, activations = reference.project(trace.module, given, node, table, rules=described.rules)
    assert isinstance(frames, Tensor)
    assert_close(project(net, given, layer, pairs), frames * activations.view(-1, 1, 1, 1), name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    model = network(dtype).to(memory_format=memory_format)
    given = images(dtype=dtype).contiguous(memory_format=memory_format)
    found = project(model, given, "1", [[1, 2, 3, 4], [0, 0, 0, 0]])
    assert found.dtype == dtype and found.shape == (2, 3, 19, 21)
    # One convolution and one rectifier: the filter, times the activation, at its place.
    with torch.no_grad():
        activation = model[:2](given)[1, 2, 3, 4].double()
    assert_close(found[0, :, 2:5, 3:6], activation * model[0].weight[2].double())
    assert torch.equal(found[0].count_nonzero(), found[0, :, 2:5, 3:6].count_nonzero())


def test_no_units_and_one_image() -> None:
    model, given = network(), images()
    assert project(model, given, "4", []).shape == (0, 3, 19, 21)
    assert project(model, given[:1], "4", torch.empty(0, 2, dtype=torch.int64)).shape == (0, 3, 19, 21)
    windows, boxes = project(model, given, "4", np.empty((0, 4), dtype=np.int64), full=False)
    assert windows.shape[0] == 0 and windows.shape[1] == 3 and boxes.shape == (0, 4)
    rows = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).double()
    found = project(rows, torch.randn(2, 6, dtype=torch.float64), "0", [[1, 3]], seed="one")
    assert torch.equal(found, rows[0].weight[3:4])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train(training)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = project(model, images(dtype=torch.float32), "2", [[0, 1]])
    assert not frames.requires_grad and model.training == training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"units": [[0, 0, 0]]}, r"units must have shape \(U, 4\)"),
        ({"units": [0, 0, 0, 0]}, r"units must have shape \(U, 4\)"),
        ({"units": [[0.0, 0, 0, 0]]}, "units must be integers, got torch.float32"),
        ({"units": torch.ones(1, 4, dtype=torch.bool)}, "units must be integers"),
        ({"units": [[5, 0, 0, 0]]}, "images of units must be below 5, got 5"),
        ({"units": [[0, 5]]}, "channels of '4' must be below 5, got 5"),
        ({"units": [[0, 0, 7, 0]]}, "y of a unit of '4' must be below 7, got 7"),
        ({"units": [[0, -1]]}, "units must not be negative, got -1"),
        ({"images": torch.zeros(3, 19, 21, dtype=torch.float64), "units": [[0, 0]]}, r"\(N, C, H, W\)"),
        ({"images": torch.zeros(0, 3, 19, 21, dtype=torch.float64), "units": []}, "no empty dimension"),
        ({"images": torch.zeros(5, 3, 19, 21)}, "the model's dtype torch.float64, got torch.float32"),
        ({"images": np.zeros((5, 3, 19, 21), np.uint8)}, "torch.uint8"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"rule": "other"}, "'other'"),
        ({"overlap": "other"}, "'other'"),
        ({"seed": "other"}, "'other'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"units": None}, "units must be a tensor, an array or lists of numbers, got None"),
        ({"units": [[0, 0], [0]]}, "units must be a tensor, an array or lists of numbers of one length"),
        ({"images": None}, "images must be a tensor, an array"),
        ({"model": "vgg16"}, "nn.Module"),
    ],
)
def test_bad_calls(changed: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"model": network(), "images": images(), "layer": "4", "units": [[0, 0]], **changed}
    with pytest.raises((TypeError, ValueError), match=message):
        project(**call)


def test_arrays_that_torch_cannot_share() -> None:
    model, given = network(), images().numpy()
    units = np.array([[1, 2, 3, 0], [0, 4, 1, 2]])
    expected = project(model, torch.from_numpy(given[::-1, :, :, ::-1].copy()), "4", torch.from_numpy(units))
    backwards = given[::-1, :, :, ::-1]
    frozen = backwards.copy()
    frozen.flags.writeable = False
    units.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(project(model, backwards, "4", units), expected)
        assert torch.equal(project(model, frozen, "4", units[::-1], batch_size=np.int64(2)), expected.flip(0))


def test_the_activation_multiplies_the_finished_projection() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    model[2].bias.data.fill_(-100.0)
    given = torch.randn(3, 7, dtype=torch.float64)
    values = model(given)[:, 0].detach()
    assert bool((values < 0).all())
    ones = project(model, given, "2", [[n, 0] for n in range(3)], seed="one")
    torch.testing.assert_close(project(model, given, "2", [[n, 0] for n in range(3)]), ones * values[:, None])


def test_arrays_of_any_names(tmp_path: Path) -> None:
    tensors = {name: torch.randn(2, 3) for name in ("file", "a/b", "allow_pickle", "args", "self")}
    for suffix in (".npz", ".safetensors"):
        save_tensors(tmp_path / f"x{suffix}", tensors, {"number": 3})
        read, about = load_tensors(tmp_path / f"x{suffix}")
        assert about == {"number": 3} and read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match="no tensor can be called 'about'"):
        save_tensors(tmp_path / "y.npz", {"about": torch.zeros(1)}, {})
    with pytest.raises(TypeError, match="projections must be"):
        save_projections(tmp_path / "y.npz", (1, 2))  # type: ignore[arg-type]
    assert not (tmp_path / "y.npz").exists()


def test_a_deconvnet_keeps_its_rule() -> None:
    model, given = network(), images()
    net = dk.Deconvnet(model, rule="guided")
    assert torch.equal(project(net, given, "4", UNITS), project(net, given, "4", UNITS, rule="guided"))
    with pytest.raises(ValueError, match="made with the rule 'guided', not 'deconvnet'"):
        project(net, given, "4", UNITS, rule="deconvnet")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_files(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / f"projections{suffix}"
    frames = torch.randn(4, 3, 5, 6).to(dtype).transpose(2, 3)
    save_projections(path, frames)
    loaded = load_projections(path)
    assert isinstance(loaded, Tensor) and loaded.dtype == dtype and torch.equal(loaded, frames)
    windows, boxes = torch.randn(4, 3, 2, 2).to(dtype), torch.randint(-5, 9, (4, 4))
    save_projections(str(path), (windows, boxes))
    pair = load_projections(str(path))
    assert isinstance(pair, tuple) and torch.equal(pair[0], windows) and torch.equal(pair[1], boxes)
    if dtype != torch.bfloat16:
        net = dk.Deconvnet(network(dtype))
        record = net.record(images(dtype=dtype), "4", activations=True)
        for units in (record.strongest("4", k=2), dk.Units("4", *torch.tensor(UNITS).T)):
            projections = net.project(record, units)
            save_projections(path, projections)
            again = load_projections(path)
            assert isinstance(again, dk.Projections)
            assert torch.equal(again.full(), projections.full()) and torch.equal(again.units.table(), units.table())
            assert (again.units.activation is None) == (units.activation is None)
            assert again.shape == projections.shape and again.units.layer == "4"
            if units.activation is not None:
                assert torch.equal(again.units.activation, units.activation)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_bad_files(tmp_path: Path) -> None:
    for name, content in (("text.npz", b"text"), ("text.safetensors", b"text"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_projections(tmp_path / name)
    np.savez(tmp_path / "pickle.npz", frames=np.array([print], dtype=object))
    for name in ("pickle.npz", "missing.npz", "frames.txt"):
        with pytest.raises(ValueError, match=name):
            load_projections(tmp_path / name)
    with pytest.raises(TypeError, match="must be what project returns"):
        save_projections(tmp_path / "a.npz", [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must end in .npz or .safetensors"):
        save_projections(tmp_path / "a.pt", torch.zeros(1))
    assert not (tmp_path / "a.npz").exists()


@pytest.fixture(scope="module")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the snippets of docs/backend.md leave behind, run one after the other in an empty folder."""
    text = (Path(__file__).parents[1] / "docs" / "backend.md").read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) == 6
    namespace: dict[str, Any] = {"folder": tmp_path_factory.mktemp("snippets")}
    # The snippets work in float32 and the definition in float64, and two almost equal values of a pooling window may
    # trade places between them: one seed for all, with which none do.
    torch.manual_seed(2013)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(namespace["folder"])
        for number, block in enumerate(blocks):
            exec(compile(block, f"docs/backend.md, snippet {number + 1}", "exec"), namespace)
            if number == 2:  # before the last snippets train the model
                namespace["attribution_frames"] = definition_of(namespace, [[i, 7, 3, 3] for i in range(8)], "one")
                namespace["frames_expected"] = definition_of(namespace, [[0, 5, 10, 12], [3, 31, 0, 27]], "activation")
            if number == 3:
                namespace["numpy_model"] = [p.detach().clone() for p in namespace["model"].parameters()]
                namespace["numpy_frames"] = strongest_frames(namespace["model"], namespace["photographs"][2:3])
    return namespace


def definition_of(namespace: dict[str, Any], units: list[list[int]], seed: str) -> Tensor:
    import copy

    model = copy.deepcopy(namespace["model"]).double()
    frames, activations = reference.project(torch.fx.symbolic_trace(model), namespace["images"].double(), "_4", units)
    assert isinstance(frames, Tensor)
    return frames if seed == "one" else frames * activations.view(-1, 1, 1, 1)


def strongest_frames(model: nn.Module, image: np.ndarray) -> Tensor:
    import copy

    double = copy.deepcopy(model).double()
    given = torch.from_numpy(image).double()
    with torch.no_grad():
        maps = double(given)
    width = maps.shape[3]
    place = maps[0].flatten(1).max(1).indices.tolist()
    units = [[0, channel, p // width, p % width] for channel, p in enumerate(place)]
    frames, activations = reference.project(torch.fx.symbolic_trace(double), given, "_4", units)
    assert isinstance(frames, Tensor)
    return frames * activations.view(-1, 1, 1, 1)


def test_snippet_of_one_call(snippets: dict[str, Any]) -> None:
    assert_close(snippets["frames"], snippets["frames_expected"])
    assert snippets["windows"].shape[0] == len(snippets["strongest"]) == 2
    with np.load(snippets["folder"] / "frames.npz") as file:
        assert_close(torch.from_numpy(file["frames"]), snippets["frames_expected"])
    windows, boxes = load_projections(snippets["folder"] / "fields.safetensors")
    y0, x0, y1, x1 = boxes[0].tolist()
    assert_close(windows[0], snippets["frames_expected"][0, :, y0:y1, x0:x1])


def test_snippet_in_captums_style(snippets: dict[str, Any]) -> None:
    assert_close(snippets["attributions"], snippets["attribution_frames"])


def test_snippet_in_captums_style_against_captum() -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    text = (Path(__file__).parents[1] / "docs" / "backend.md").read_text()
    block = next(
        b for b in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "class DeconvnetAttribution" in b
    )
    model = network(torch.float64)
    space: dict[str, Any] = {"dk": dk}
    exec(block.partition("\n\n\nattributions")[0], space)
    given = images()
    ours = space["DeconvnetAttribution"](model, model[4]).attribute(given, (2, 3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it adds hooks and gradients
        theirs = captum.NeuronDeconvolution(model, model[4]).attribute(given, (2, 3, 4))
    assert_close(ours, theirs)


def test_snippet_in_numpy(snippets: dict[str, Any]) -> None:
    with np.load(snippets["folder"] / "image_2.npz") as file:
        fields, boxes, energy = file["fields"], file["boxes"], file["energy"]
    expected = snippets["numpy_frames"]
    assert boxes.shape == (32, 4)
    for field, (y0, x0, y1, x1), frame in zip(fields, boxes.tolist(), expected, strict=True):
        padded = nn.functional.pad(frame, (20, 20, 20, 20))[:, 20 + y0 : 20 + y1, 20 + x0 : 20 + x1]
        assert_close(torch.from_numpy(field), padded)
    np.testing.assert_allclose(energy, expected.square().sum((1, 2, 3)).numpy(), rtol=1e-4)


def test_snippet_of_the_callback(snippets: dict[str, Any]) -> None:
    files = sorted((snippets["folder"] / "evolution").iterdir())
    assert [file.name for file in files] == ["epoch_000.npz", "epoch_001.npz", "epoch_002.npz"]
    assert snippets["classifier"].training
    last, first = load_projections(files[-1]), load_projections(files[0])
    assert isinstance(last, dk.Projections) and isinstance(first, dk.Projections)
    assert last.units.channel.tolist() == [0, 1, 2, 3] and not torch.equal(last.windows, first.windows)
    assert_close(last.full(), definition_of(snippets, last.units.table().T.tolist(), "activation"))
    with torch.no_grad():
        maps = snippets["model"](snippets["images"])
    assert torch.allclose(last.units.activation, maps[:, :4].amax((0, 2, 3)), rtol=1e-5)


def test_snippet_of_mining(snippets: dict[str, Any]) -> None:
    data = torch.cat([batch[0] for batch in snippets["loader"]])
    with torch.no_grad():
        maps = torch.cat([snippets["model"](batch) for batch in data.split(20)])
    peaks = maps.amax((2, 3))
    units = snippets["units"]
    assert units.channel.tolist() == [0] * 9 + [1] * 9
    expected = torch.cat([peaks[:, channel].topk(9).values for channel in (0, 1)])
    assert torch.allclose(units.activation, expected, rtol=1e-5) and not math.isnan(float(expected.sum()))
    assert snippets["projections"].full().shape == (18, 3, 64, 64)
    namespace = {**snippets, "images": data}
    assert_close(
        snippets["projections"].full()[:3], definition_of(namespace, units.table().T[:3].tolist(), "activation")
    )
