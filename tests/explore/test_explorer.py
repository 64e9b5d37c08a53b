"""What the explorer computes, against the definition of a projection and the network itself."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from explored import SIZE, explorer_of, photographs
from networks import Trace
from torch import Tensor

from deconv_kernels import reference
from deconv_kernels.engine.errors import UnknownLayer
from deconv_kernels.engine.pictures import with_contrast
from deconv_kernels.explore import explorer as module
from deconv_kernels.explore.explorer import Explorer, Place, Square
from deconv_kernels.explore.kept import Kept
from deconv_kernels.explore.library import Library, UnknownImage
from deconv_kernels.explore.pictures import colours_of, contact_sheet
from deconv_kernels.models import load_weights

LAYER, NODE = "layer2.0.conv1", "layer2_0_conv1"


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    """Of a residual network, with all files searched."""
    made = explorer_of("residual", photographs(tmp_path_factory.mktemp("pictures") / "in", random.randrange(2**31)))
    for _ in range(made.strongest.total):
        made.strongest.step()
    return made


def inputs(explorer: Explorer, image: str) -> Tensor:
    return explorer.weights.preprocess(explorer.library.pixels(image)[None])


def value(explorer: Explorer, image: Tensor, layer: str) -> Tensor:
    """The output of a module for a batch."""
    kept: list[Tensor] = []
    hook = explorer.model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2].clone()))
    with hook, torch.no_grad():
        explorer.model(image)
    return kept[0]


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("overlap", ["sum", "last"])
def test_a_unit_is_projected_as_the_definition_says(explorer: Explorer, rule: str, overlap: str) -> None:
    image, maps = "b.jpg", value(explorer, inputs(explorer, "b.jpg"), LAYER)[0]
    for _ in range(3):
        place = Place(LAYER, *(random.randrange(length) for length in maps.shape))
        found = explorer.unit(image, place, rule, overlap)
        where = [(0, place.map, place.y, place.x)]
        images = inputs(explorer, image)
        exact, activation = reference.project(Trace(explorer.model).module, images, NODE, where, rule, overlap=overlap)
        assert found.activation == pytest.approx(float(maps[place.map, place.y, place.x]), rel=1e-4, abs=1e-5)
        y0, x0, y1, x1 = found.box
        inside = exact[0, :, max(y0, 0) : y1, max(x0, 0) : x1]
        assert exact.count_nonzero() == inside.count_nonzero()
        window = torch.zeros((1, 3, y1 - y0, x1 - x0))
        window[0, :, max(-y0, 0) :, max(-x0, 0) :][:, : inside.shape[1], : inside.shape[2]] = inside * activation
        drawn = with_contrast(explorer.weights.preprocessing.to_rgb(window))[0]
        assert np.abs(drawn.astype(int) - found.projection).max() <= 1
        assert found.silent == (not bool(window.any()))
        pixels = explorer.library.pixels(image)[:, max(y0, 0) : y1, max(x0, 0) : x1].permute(1, 2, 0).numpy()
        patch = found.patch[max(-y0, 0) :, max(-x0, 0) :][: pixels.shape[0], : pixels.shape[1]]
        assert np.array_equal(patch, pixels)


def test_maps_and_classes_are_the_network_s(explorer: Explorer) -> None:
    images = inputs(explorer, "a.png")
    assert torch.allclose(explorer.maps("a.png", LAYER), value(explorer, images, LAYER)[0], atol=1e-5)
    scores = value(explorer, images, "fc")[0].double().softmax(0)
    found = explorer.probabilities("a.png")
    assert [each.number for each in found] == scores.argsort(descending=True)[:5].tolist()
    for each in found:
        assert each.probability == pytest.approx(float(scores[each.number]), rel=1e-4)
        assert each.name == (("ant", "bee", "cat", "dog")[each.number] if each.number < 4 else None)


def test_a_square_changes_what_it_changes_in_the_network(explorer: Explorer) -> None:
    for _ in range(3):
        square = Square(random.randrange(-9, SIZE), random.randrange(-9, SIZE), random.randrange(1, SIZE))
        found = explorer.occluded("a.png", LAYER, 3, square)
        images = inputs(explorer, "a.png")
        rows, columns = (slice(max(at, 0), max(at + square.side, 0)) for at in (square.y, square.x))
        clean = value(explorer, images, LAYER)[0, 3]
        images[:, :, rows, columns] = 0
        assert torch.allclose(found.map, value(explorer, images, LAYER)[0, 3], atol=1e-4)
        assert found.clean_total == pytest.approx(float(clean.double().sum()), rel=1e-4, abs=1e-3)
        scores = value(explorer, images, "fc")[0].double().softmax(0)
        assert int(scores.argmax()) in [each.number for each in found.classes]
        for each in found.classes:
            assert each.probability == pytest.approx(float(scores[each.number]), rel=1e-3, abs=1e-6)


def test_the_strongest_units_are_those_of_all_files(explorer: Explorer) -> None:
    names = ["a.png", "b.jpg", "c & d.png"]
    assert explorer.strongest.done == explorer.strongest.total == 4
    assert len(explorer.strongest.unreadable) == 1
    maps = torch.stack([explorer.maps(name, LAYER) for name in names])
    for number in range(maps.shape[1]):
        peaks = maps[:, number].flatten(1).max(1)
        expected = [(names[i], float(peaks.values[i])) for i in peaks.values.argsort(descending=True)]
        expected = [(name, peak) for name, peak in expected if peak > 0]
        found = explorer.strongest.of(LAYER, number)
        assert [unit.image for unit in found] == [name for name, _ in expected]
        assert [unit.activation for unit in found] == pytest.approx([peak for _, peak in expected], rel=1e-4)
        for unit in found:
            assert float(explorer.map(unit.image, LAYER, number)[unit.y, unit.x]) == pytest.approx(unit.activation)


def test_layers_of_too_many_maps_are_not_searched(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SEARCHED", 8)
    few = Explorer(explorer.model, explorer.weights, explorer.library)
    few.strongest.step()
    found, expected = (each.strongest.of("fc", 0) for each in (few, explorer))
    assert [unit.image for unit in found] == [unit.image for unit in expected if unit.image == "a.png"]
    assert few.strongest.of("layer3.0.conv1", 0) == []
    assert few.strongest.activation("a.png", "layer3.0.conv1", 0, 0, 0) is None


def test_what_is_kept_stays_within_its_budget_and_changes_nothing(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_ACTIVATIONS_BYTES", "_RECORDS_BYTES", "_OCCLUSIONS_BYTES"):
        monkeypatch.setattr(module, name, 2**16)
    tight = Explorer(explorer.model, explorer.weights, explorer.library)
    for _ in range(12):
        image, layer = random.choice(explorer.library.names[:2]), random.choice(["conv1", LAYER, "layer4.1.conv2"])
        layer = layer if layer in [each.name for each in explorer.layers] else LAYER
        facts = explorer.facts(layer)
        place = Place(layer, *map(random.randrange, (facts.maps, facts.height, facts.width)))
        rule = random.choice(["deconvnet", "guided"])
        found, expected = (each.unit(image, place, rule, "sum") for each in (tight, explorer))
        assert found.box == expected.box
        assert np.abs(found.projection.astype(int) - expected.projection).max() <= 1
        tight.occluded(image, layer, place.map, Square(3, 4, 20))
        for kept in (tight._activations, tight._records, tight._occlusions):
            assert kept.nbytes <= 2**16 or len(kept) == 1


def test_the_least_recently_used_goes_first() -> None:
    kept: Kept[int, int] = Kept(10)
    model: list[tuple[int, int]] = []
    for _ in range(300):
        key, size = random.randrange(6), random.randrange(6)
        if random.random() < 0.5:
            expected = next((s for k, s in model if k == key), None)
            assert kept.get(key) == expected
            model.sort(key=lambda pair: pair[0] == key)  # stable: the one asked for is now the last
        else:
            kept.put(key, size, size)
            model = [pair for pair in model if pair[0] != key] + [(key, size)]
            while sum(s for _, s in model) > 10 and len(model) > 1:
                model.pop(0)
        assert kept.nbytes == sum(s for _, s in model)


@pytest.mark.parametrize("name", ["UNet", "FunctionalResidual", "chain", "LeNet"])
def test_networks_of_other_kinds(name: str, tmp_path: Path) -> None:
    """Every layer can be looked at, in the window that the engine says."""
    explored = explorer_of(name, photographs(tmp_path / "in", 1), 28 if name == "LeNet" else SIZE)
    assert (explored.logits is None) == (name == "UNet")
    explored.strongest.step()
    for layer in explored.layers:
        assert explored.maps("a.png", layer.name).shape == (layer.maps, layer.height, layer.width)
        unit = explored.unit("a.png", Place(layer.name, 0, layer.height - 1, 0), explored.rule, "sum")
        y0, x0, y1, x1 = unit.box
        assert unit.projection.shape == unit.patch.shape == (y1 - y0, x1 - x0, 3)
    found = explored.occluded("a.png", explored.start, 0, Square(0, 0, 9))
    assert bool(found.map.isfinite().all())
    assert len(found.classes) == 0 if name == "UNet" else len(found.classes) >= 5


def test_a_network_without_a_way_back_is_explored_by_its_gradient(tmp_path: Path) -> None:
    body = "nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.MaxPool2d(2))"
    (tmp_path / "smooth.py").write_text(f"from torch import nn\n\ndef smooth():\n    return {body}\n")
    weights = load_weights(f"{tmp_path / 'smooth.py'}:smooth", size=16)
    explored = Explorer(weights.model(), weights, Library(photographs(tmp_path / "in", 2), 16))
    assert explored.rule == "gradient"
    assert "SiLU" in str(explored.refusal)
    assert explored.unit("a.png", Place("2", 1, 2, 3), "gradient", "sum").box == (4, 6, 8, 10)
    with pytest.raises(ValueError, match="SiLU"):
        explored.unit("a.png", Place("2", 1, 2, 3), "guided", "sum")


@pytest.mark.parametrize(
    ("image", "place", "rule", "error", "words"),
    [
        ("../a.png", Place(LAYER, 0, 0, 0), "guided", UnknownImage, "no picture"),
        ("a.png", Place("layer9", 0, 0, 0), "guided", UnknownLayer, "no layer 'layer9'"),
        ("a.png", Place(LAYER, 99, 0, 0), "guided", ValueError, "from 0 to 7, got 99"),
        ("a.png", Place(LAYER, 0, 8, 0), "guided", ValueError, "8x8"),
        ("a.png", Place(LAYER, 0, 0, 0), "guide", ValueError, "rule"),
        ("broken.jpg", Place(LAYER, 0, 0, 0), "guided", ValueError, "cannot be read"),
    ],
)
def test_what_is_not_there(
    explorer: Explorer, image: str, place: Place, rule: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        explorer.unit(image, place, rule, "sum")


def test_a_contact_sheet_holds_the_strongest_of_every_piece() -> None:
    maps = torch.randn(7, 10, 6)
    maps[2, 3, 3] = float("nan")
    sheet, (height, width) = contact_sheet(maps, 5, 3)
    assert sheet.shape == (3 * height, 3 * width, 3) == (15, 15, 3)
    most = float(maps.nan_to_num(0.0).abs().max())
    whole = colours_of(maps[4, :, :5], most)
    pooled = colours_of(torch.nn.functional.adaptive_max_pool2d(maps[None, 4], (5, 5))[0], most)
    assert np.array_equal(sheet[height : 2 * height, width : 2 * width], pooled)
    assert whole.shape == (10, 5, 3)
    assert np.array_equal(colours_of(torch.zeros(2, 2), 0.0), np.full((2, 2, 3), (13, 15, 20)))
