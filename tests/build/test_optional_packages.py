"""The suite without the packages that only some tests need: all of it is collected, and what cannot run says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OPTIONAL = (
    *("captum", "cloudpickle", "expecttest", "h5py", "hypothesis", "joblib", "onnx", "playwright", "pybind11"),
    *("safetensors", "scipy", "skimage", "sklearn", "starlette", "torchvision", "triton", "uvicorn", "xdist", "zennit"),
)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pytest, told to load the plugin `without`, finds none of the optional packages."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "without.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL!r}))\n")
    path = os.pathsep.join(filter(None, (str(folder), str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**variables, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_pytest(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "without", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_every_file_is_collected_without_them(without: dict[str, str]) -> None:
    collected = run_pytest(without, "--collect-only", "-q")
    for file in ("test_backproject.py", "test_geometry.py", "test_unsupervised.py", "test_windows.py"):
        assert f"{file}::" in collected


def test_what_cannot_run_without_them_says_so(without: dict[str, str]) -> None:
    cases = ["ops/test_geometry.py", "ops/test_triton_interpreter.py", "ops/test_onnx_cases.py"]
    cases.append("experiments/test_unsupervised.py::TestInference::test_minimum_of_independent_solvers")
    told = run_pytest(without, "-rs", "-q", *cases)
    for reason in (
        "hypothesis is not installed",
        "the package triton is not installed",
        "the package onnx is not installed",
        "one of the solvers is scikit-learn's",
    ):
        assert reason in told
