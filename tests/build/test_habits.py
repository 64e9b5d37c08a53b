"""What runs by itself (hooks, workflows) runs what `make lint` and `make test` run, with the same pinned tools."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

import deconv_kernels

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
LISTS = ("runtime", "torch", "triton", "test", "demo", "lint", "docs")


def pins(name: str) -> dict[str, str]:
    """The packages of one list in requirements/, and their versions."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith(("#", "-r ")))
    return {package.lower().replace("_", "-"): version for package, version in found.items()}


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    return [line.strip() for line in lines.splitlines()]


def test_hooks_run_the_commands_of_make_lint() -> None:
    hooks, commands = re.findall(r"entry: \.venv/bin/(.*)", HOOKS), recipe("lint")
    assert len(hooks) == HOOKS.count("- id:") == len(commands)
    for command, hook in zip(commands, hooks, strict=True):
        assert command.startswith(f"$(BIN)/{hook}")


def test_hooks_have_no_versions_of_their_own() -> None:
    """Their tools are those of .venv, where `make lint` puts what requirements/lint.txt pins."""
    tools = {shlex.split(hook)[0] for hook in re.findall(r"entry: \.venv/bin/(.*)", HOOKS)}
    assert tools <= pins("lint").keys()
    assert not re.search(r"rev:|additional_dependencies:|==", HOOKS)
    assert set(re.findall(r"repo: (\S+)", HOOKS)) == {"local"}


@pytest.mark.parametrize(("one", "other"), list(combinations(LISTS, 2)))
def test_lists_of_packages_agree(one: str, other: str) -> None:
    first, second = pins(one), pins(other)
    assert {p: first[p] for p in first.keys() & second.keys()} == {p: second[p] for p in first.keys() & second.keys()}


def test_the_workflow_runs_targets_of_the_makefile() -> None:
    targets = re.findall(r"run: make (?:\w+=\S+ )?(\S+)", WORKFLOW)
    assert targets == ["lint", "docs", "oldest", "test"]
    assert all(recipe(target) for target in targets)


def test_the_workflow_has_the_oldest_python_that_is_claimed() -> None:
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    versions = re.findall(r"\b3\.\d+\b", WORKFLOW)
    assert min(versions, key=lambda version: int(version[2:])) == oldest[1]


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", text, flags=re.MULTILINE) == [deconv_kernels.__version__]


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    """A broken citation and a workflow that takes its code from a branch do not pass `make lint`."""
    checks = Path(sys.executable).parent
    if shutil.which("zizmor", path=checks) is None:
        pytest.skip("zizmor and check-jsonschema are not installed: `make lint` does that")
    (tmp_path / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text().replace("authors:", "writers:"))
    schema = (checks / "check-jsonschema", "--builtin-schema", "vendor.citation-file-format")
    assert subprocess.run([*schema, tmp_path / "CITATION.cff"], capture_output=True).returncode == 1
    (tmp_path / "ci.yml").write_text(re.sub(r"checkout@\w+", "checkout@main", WORKFLOW))
    zizmor = (checks / "zizmor", "--offline", "--quiet", tmp_path / "ci.yml")
    done = subprocess.run(zizmor, capture_output=True, text=True)
    assert done.returncode != 0
    assert "unpinned-uses" in done.stdout
