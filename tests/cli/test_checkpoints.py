"""Checkpoints, as the command line takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deconv_kernels.cli.checkpoints import checked_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training = tmp_path / "run [1]"
    (training / "logs.pth").mkdir(parents=True)
    for name in ("epoch10.pth", "epoch9.pth", "epoch1.pth", "last.safetensors", ".epoch2.pth", "notes.txt"):
        (training / name).touch()
    return training


def test_a_folder_stands_for_its_checkpoints_by_number(folder):
    names = [Path(file).name for file in checked_files([str(folder)])]
    assert names == ["epoch1.pth", "epoch9.pth", "epoch10.pth", "last.safetensors"]


def test_files_and_patterns_in_the_order_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert checked_files(["last.safetensors, epoch1*.pth", "epoch9.pth"]) == [
        *("last.safetensors", "epoch1.pth", "epoch10.pth", "epoch9.pth")
    ]
    assert checked_files(["../run [[]1]/epoch9.pth", str(folder / "epoch9.pth")])[1] == str(folder / "epoch9.pth")


def test_what_is_not_there_is_named(folder):
    for given, message in (
        ([str(folder / "epoch3.pth")], "epoch3.pth': no such file or folder"),
        ([str(folder / "*.tar")], r"\*.tar': no such file or folder"),
        ([str(folder / "logs.pth")], "the folder holds no files that end in .pth, .pt"),
        ([f"{folder}/epoch9.pth,{folder}/epoch9.pth"], "epoch9.pth' was given more than once"),
        ([","], "no checkpoints were given"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_files(given)
