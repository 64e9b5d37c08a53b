"""Output folders that appear at once, and parts of long runs that survive an interruption."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from deconv_kernels import plot
from deconv_kernels.data.tables import write_csv
from deconv_kernels.data.tensor_files import save_arrays, save_tensors
from deconv_kernels.data.writing import save_state, write_text
from deconv_kernels.experiments.common.files import (
    Parts,
    file_name,
    fingerprint,
    fingerprint_of_network,
    written_at_once,
)
from deconv_kernels.experiments.unsupervised import DeconvolutionalNetwork, SparseLayer
from deconv_kernels.plot.figures import heat, new_figure, save


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


def test_drafts_of_killed_runs_go_and_those_of_others_stay(tmp_path):
    """A draft is the lock of the process that writes it; the kernel opens the lock of one that was killed."""
    for name in (".draft-ab12cd_9", ".draft-strange", ".draft-notes.txt.old", "draft-ab12cd_9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    (tmp_path / ".draft-zyxw9876.npz").write_bytes(b"half")
    with written_at_once(tmp_path) as alive:
        left = {".draft-strange", ".draft-notes.txt.old", "draft-ab12cd_9", alive.name}
        assert {path.name for path in tmp_path.iterdir()} == left
        (alive / "first").write_text("first")
        with written_at_once(tmp_path) as other:
            (other / "second").write_text("second")
            assert alive.exists()
        (alive / "more").write_text("more")
    assert {path.name for path in tmp_path.iterdir()} == left - {alive.name} | {"first", "second", "more"}


def test_what_a_killed_process_wrote_goes(tmp_path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from deconv_kernels.experiments.common.files import Parts, written_at_once\n"
        "def kill():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "class Deadly:\n    def __reduce__(self):\n        kill()\n"
        "with written_at_once(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').write_text('half')\n"
        "    Parts(Path(sys.argv[1]) / '.parts', 1).get('part', Deadly)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [path.name[:7] for path in tmp_path.iterdir()].count(".draft-") == 1
    assert list((tmp_path / ".parts").rglob(".draft-*.pt"))
    parts = Parts(tmp_path / ".parts", 1)
    assert parts.get("part", lambda: 2) == 2
    assert not list((tmp_path / ".parts").rglob(".draft-*"))
    with written_at_once(tmp_path) as draft:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".parts", draft.name])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_folder(tmp_path, code):
    message = f"output folder '{tmp_path}/out' cannot be written: {os.strerror(code)}"
    with pytest.raises(OSError, match=re.escape(message)), written_at_once(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_errors_of_reading_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), written_at_once(tmp_path / "out"):
        (tmp_path / "absent").read_text()


def _writers():
    """Everything that writes a file, by the name of what it writes."""
    noise = torch.randn(64, 3, 9, 9)
    tiles = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    rows = [(number, 0.5) for number in range(400)]

    def figure(path):
        drawing, area = new_figure("title", "caption", 4.0, 3.0)
        heat(area.subplots(), noise[0, 0], (np.arange(10), np.arange(10)), "heat", limits=(-3.0, 3.0))
        save(drawing, path)

    return {
        "table.csv": lambda path: write_csv(path, ("number", "half"), rows),
        "numbers.json": lambda path: write_text(path, "1" * 5000),
        "weights.pth": lambda path: save_state(path, {"weight": noise}),
        "arrays.npz": lambda path: save_arrays(path, {"noise": noise.numpy()}),
        "tensors.npz": lambda path: save_tensors(path, {"noise": noise}, {}),
        "tensors.safetensors": lambda path: save_tensors(path, {"noise": noise}, {}),
        "filters.npz": DeconvolutionalNetwork([SparseLayer(32, 0.5, 7)]).save,
        "figure.png": figure,
        "maps.png": lambda path: plot.draw_maps(path, "title", "caption", [plot.MapTiles("map", "", tiles, tiles)]),
        "first.png": lambda path: plot.draw_filters(path, "title", "caption", noise),
    }


@pytest.mark.parametrize("name", _writers())
def test_every_writer_names_the_file_that_does_not_fit(tmp_path, small_disk, name):
    write, message = _writers()[name], f"'{tmp_path}/out/{name}' cannot be written: File too large"
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    folder = tmp_path / "out"
    with pytest.raises(OSError, match=re.escape(message)), written_at_once(folder) as draft, small_disk(1000):
        write(draft / name)
    assert list(tmp_path.iterdir()) == []
    with written_at_once(tmp_path / "out") as draft:
        write(draft / name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_part_that_does_not_fit_is_named(tmp_path, small_disk):
    parts = Parts(tmp_path / ".parts-run", 1)
    message = rf"'{re.escape(str(tmp_path))}/\.parts-run/\w+/\w+\.pt' cannot be written: File too large"
    with small_disk(1000), pytest.raises(OSError, match=message):
        parts.get("part", lambda: torch.randn(1000))
    assert list(tmp_path.iterdir()) == []
    parts.get("first", lambda: 1)
    with small_disk(1000), pytest.raises(OSError, match=message):
        parts.get("part", lambda: torch.randn(1000))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert parts.get("first", lambda: 2) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out" / "figure.png").mkdir(parents=True)
    with (
        pytest.raises(OSError, match="out/figure.png' cannot be written: "),
        written_at_once(tmp_path / "out") as draft,
    ):
        (draft / "figure.png").write_text("new")
    with pytest.raises(OSError, match="absent/a.npz' cannot be written: No such file"):
        save_tensors(tmp_path / "absent" / "a.npz", {}, {})


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
