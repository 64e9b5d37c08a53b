"""The examples in docstrings of what users call: every one is there, and does what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import deconv_kernels as dk
from deconv_kernels import backends, models, one_call

EXPERIMENTS = {
    "correspondence": ["correspondence"],
    "evolution": ["evolve"],
    "filters": ["diagnose", "renormalize_", "compare"],
    "invariance": ["invariance", "figure_5"],
    "mining": ["mine", "renumbered"],
    "occlusion": ["occlude"],
    "repair": ["repair"],
    "report": ["make_report"],
    "transfer": ["transfer"],
    "unsupervised": ["DeconvolutionalNetwork", "SparseLayer"],
}
BACKENDS = ["available", "chosen", "float32_precision", "use", "why_not"]
LONGEST = 6  # lines of code and of what it prints


def public() -> Iterator[tuple[str, object]]:
    """The functions and classes that README and docstrings name, with the modules where users find them."""
    names = {dk: dk.__all__, dk.nn: ["MaxPool2d", "MaxUnpool2d"], backends: BACKENDS}
    names |= {one_call: one_call.__all__, models: models.__all__}
    names |= {importlib.import_module(f"deconv_kernels.experiments.{name}"): EXPERIMENTS[name] for name in EXPERIMENTS}
    for module, members in names.items():
        for name in members:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("place", "value"), [pytest.param(*named, id=named[0]) for named in public()])
def test_example(place: str, value: object) -> None:
    if place.endswith("transfer"):
        pytest.importorskip("sklearn", reason="the classifiers are scikit-learn's")
    known = {**vars(inspect.getmodule(value)), "torch": torch, "nn": nn, "dk": dk}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(value), known, place, None, None)
    assert example.examples, f"{place} has no example in its docstring"
    lines = sum(len((part.source + part.want).splitlines()) for part in example.examples)
    assert lines <= LONGEST
    told: list[str] = []
    failed, _ = doctest.DocTestRunner().run(example, out=told.append)
    assert not failed, "".join(told)


def test_the_reference_has_every_public_name() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
    module, listed = "", []
    for directive, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)", page, flags=re.MULTILINE):
        module = name if directive == "currentmodule" else module
        value = None if directive == "currentmodule" else getattr(importlib.import_module(module), name)
        assert value is None or inspect.getdoc(value), f"{module}.{name}"
        listed.append(value)
    missing = [place for place, value in public() if not any(value is each for each in listed)]
    assert not missing, f"docs/reference.md lacks {missing}"
