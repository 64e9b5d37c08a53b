"""Output folders that appear at once, and parts of long runs that survive an interruption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconv_kernels.experiments.files import Parts, file_name, fingerprint, fingerprint_of_network, written_at_once


def test_files_appear_when_the_block_ends_well(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")
    (folder / "kept").write_text("kept")
    with written_at_once(folder) as draft:
        (draft / "old").write_text("new")
        (draft / "more").write_text("more")
        assert (folder / "old").read_text() == "old"
        assert not (folder / "more").exists()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"old": "new", "kept": "kept", "more": "more"}


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_at_once(tmp_path / "a" / "b") as draft:
        (draft / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="output folder '.*file' is a file"), written_at_once(tmp_path / "file"):
        pass


def test_parts_are_computed_once_and_come_back_as_they_were(tmp_path):
    part = {"maps": torch.randn(3, 4, dtype=torch.float64), "list": [1, 2.5, "three", None], "pair": (True, -1)}
    calls = []

    def compute():
        calls.append(1)
        return part

    for _ in range(3):
        parts = Parts(tmp_path / "parts", {"seed": 1, "layers": ("a", "b")})
        found = parts.get("epoch 1/2: über", compute)
        assert torch.equal(found["maps"], part["maps"])
        assert {key: found[key] for key in ("list", "pair")} == {key: part[key] for key in ("list", "pair")}
    assert len(calls) == 1


def test_parts_of_other_settings_or_names_are_not_taken(tmp_path):
    assert Parts(tmp_path, {"seed": 1}).get("a", lambda: 1) == 1
    assert Parts(tmp_path, {"seed": 2}).get("a", lambda: 2) == 2
    assert Parts(tmp_path, {"seed": 1}).get("b", lambda: 3) == 3
    assert Parts(tmp_path, {"seed": 1}).get("a", lambda: 4) == 1


def test_an_interrupted_part_is_not_kept_and_a_finished_run_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    folder = tmp_path / "parts"
    parts = Parts(folder, "settings")
    assert parts.get("first", lambda: 1) == 1
    with pytest.raises(KeyboardInterrupt):
        parts.get("second", interrupted)
    resumed = Parts(folder, "settings")
    assert resumed.get("first", interrupted) == 1
    assert resumed.get("second", lambda: 2) == 2
    other = Parts(folder, "other settings")
    other.get("first", lambda: 3)
    resumed.remove()
    assert other.get("first", interrupted) == 3
    other.remove()
    assert not folder.exists()


def test_nowhere_keeps_nothing():
    parts = Parts.nowhere()
    assert parts.get("a", lambda: 1) == 1
    assert parts.get("a", lambda: 2) == 2
    parts.remove()


def test_a_damaged_part_is_computed_again(tmp_path):
    parts = Parts(tmp_path, "settings")
    parts.get("part", lambda: 1)
    (file,) = tmp_path.rglob("*.pt")
    for content in (b"", file.read_bytes()[:50], b"no part"):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="computed again"):
            assert parts.get("part", lambda: 2) == 2
        assert parts.get("part", lambda: 3) == 2


def test_fingerprints_tell_types_shapes_and_values():
    values = torch.arange(6.0)
    others = (values + 1, values.double(), values.view(2, 3), values.flip(0))
    assert fingerprint(values) == fingerprint(values.clone())
    assert len({fingerprint(x) for x in (values, *others)}) == 5
    assert fingerprint(values, values) != fingerprint(values)


class Small(nn.Module):
    def __init__(self, function, factor=2.0, pool=2):
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(pool)
        self.function, self.factor = function, factor
        nn.init.ones_(self.convolution.weight)
        nn.init.ones_(self.convolution.bias)

    def forward(self, x):
        return self.function(self.pool(self.convolution(x)) * self.factor + torch.full((1,), self.factor))


def test_a_network_is_its_weights_its_modules_and_its_code():
    other_weights = Small(torch.relu)
    nn.init.zeros_(other_weights.convolution.bias)
    networks = (Small(torch.relu), Small(torch.sin), Small(torch.relu, 3.0), Small(torch.relu, pool=3), other_weights)
    assert len({fingerprint_of_network(network) for network in networks}) == 5
    assert fingerprint_of_network(Small(torch.relu)) == fingerprint_of_network(Small(torch.relu).train())


def test_layers_as_names_of_files():
    assert file_name("block/a.b") == "block_a.b"
