"""The floor plan of docs/architecture.md: every place is there, and nothing is imported upwards or in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import deconv_kernels

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(deconv_kernels.__file__).parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()
LONGEST_COMMAND = 120  # lines


def floor_plan(text: str) -> dict[str, set[str]]:
    """What each place may import, from top to bottom."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\|(.*)\|$", text, flags=re.MULTILINE)
    return {place: set(re.findall("`([^`]+)`", allowed)) for place, allowed in rows}


def modules_of(package: Path) -> dict[str, Path]:
    """The file of every module of a package, by its full name."""
    files = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in files.items()}


def targets(node: ast.AST, package: list[str]) -> Iterator[tuple[str, ...]]:
    """The names a statement may import, the likeliest first; `package` is where relative names begin."""
    if isinstance(node, ast.Import):
        yield from ((alias.name,) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        begin = package[: len(package) + 1 - node.level] if node.level else []
        base = ".".join([*begin, *([node.module] if node.module else [])])
        yield from ((f"{base}.{alias.name}", base) for alias in node.names)


def imports_of(package: Path) -> dict[str, set[str]]:
    """Which modules of a package each of its modules imports: anywhere, in functions and for type checkers too."""
    modules = modules_of(package)
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        around = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        statements = ast.walk(ast.parse(path.read_text()))
        named = [name for statement in statements for name in targets(statement, around)]
        found[module] = {next(n for n in names if n in modules) for names in named if set(names) & set(modules)}
    return found


def place_of(module: str, package: Path) -> str:
    """The row of the floor plan that a module belongs to."""
    first = [*module.split("."), "__init__"][1]
    return f"{first}/" if (package / first).is_dir() else f"{first}.py"


def upward(package: Path, plan: dict[str, set[str]]) -> list[str]:
    """The imports that the plan does not allow."""
    found = []
    for module, imported in imports_of(package).items():
        here = place_of(module, package)
        allowed = plan.get(here, set()) | {here}
        found += [f"{module} imports {other}" for other in imported if place_of(other, package) not in allowed]
    return sorted(found)


def circle(package: Path) -> list[str]:
    """Modules that import one another, in a circle; empty if there are none."""
    try:
        TopologicalSorter(imports_of(package)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def private_names(path: Path) -> list[str]:
    """The private names of torch that a file uses."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch._"):
            found.append(str(node.module))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"torch\._(?!_)\w+", ast.unparse(node)):
            found.append(ast.unparse(node))
    return found


def test_places_import_only_what_stands_below_them() -> None:
    plan = floor_plan(TEXT)
    order = list(plan)
    for place, allowed in plan.items():
        assert allowed <= set(order), f"{place} may import what is no place: {sorted(allowed - set(order))}"
        assert all(order.index(other) > order.index(place) for other in allowed), f"{place} may import upwards"


def test_the_plan_has_every_place_and_no_other() -> None:
    assert {place_of(module, PACKAGE) for module in modules_of(PACKAGE)} == set(floor_plan(TEXT))


def test_every_path_that_the_page_names_is_there() -> None:
    paths = set(re.findall(r"`([\w./]*/|[\w./]+\.(?:py|md|txt|cpp|h))`", TEXT))
    assert len(paths) > 50
    missing = [p for p in sorted(paths) if not any((base / p).exists() for base in (ROOT, PACKAGE))]
    assert not missing, f"docs/architecture.md names what is not there: {missing}"


def test_nothing_is_imported_upwards() -> None:
    assert not upward(PACKAGE, floor_plan(TEXT))


def test_no_modules_import_one_another() -> None:
    assert not circle(PACKAGE)


def test_commands_are_short() -> None:
    lengths = {path.name: path.read_text().count("\n") for path in (PACKAGE / "cli").glob("*.py")}
    commands = {name for name in lengths if "@options.command(" in (PACKAGE / "cli" / name).read_text()}
    assert commands
    assert not {name: lengths[name] for name in commands if lengths[name] > LONGEST_COMMAND}


def test_private_names_of_torch_stay_in_one_file() -> None:
    used = {str(path.relative_to(PACKAGE)): private_names(path) for path in PACKAGE.rglob("*.py")}
    assert {file: names for file, names in used.items() if names}.keys() <= {"ops/dispatch.py"}


class TestOnMadeUpTrees:
    PLAN = {"roof/": {"floor/", "checks.py"}, "floor/": {"checks.py"}, "checks.py": set[str]()}

    @staticmethod
    def tree(folder: Path, files: dict[str, str]) -> Path:
        """A package of a roof, a floor and the files given."""
        empty = ("__init__", "checks", "roof/__init__", "roof/a", "floor/__init__", "floor/a")
        for name, text in (dict.fromkeys(empty, "") | files).items():
            path = folder / "house" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder / "house"

    @pytest.mark.parametrize(
        "text",
        [
            "from ..floor import a",
            "from ..floor.a import x as y",
            "from .. import floor, checks",
            "import house.floor.a",
            "from house.floor import a",
            "import torch, os\nfrom floor import a\nfrom ..checks import at_least",
            "from . import a",
        ],
    )
    def test_what_goes_down_is_allowed(self, tmp_path: Path, text: str) -> None:
        house = self.tree(tmp_path, {"roof/b": text})
        assert not upward(house, self.PLAN)
        assert not circle(house)

    @pytest.mark.parametrize(
        ("text", "imported"),
        [
            ("from ..roof import a", "house.roof.a"),
            ("from ..roof import name", "house.roof"),
            ("from ..roof.a import name", "house.roof.a"),
            ("from .. import roof", "house.roof"),
            ("from .. import name", "house"),
            ("import house.roof.a", "house.roof.a"),
            ("import house", "house"),
            ("from house.roof.a import *", "house.roof.a"),
            ("def late():\n    from ..roof import a", "house.roof.a"),
            ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..roof import a", "house.roof.a"),
            ("try:\n    from ..roof import a\nexcept ImportError:\n    pass", "house.roof.a"),
        ],
    )
    def test_what_goes_up_is_found(self, tmp_path: Path, text: str, imported: str) -> None:
        house = self.tree(tmp_path, {"floor/b": text})
        assert upward(house, self.PLAN) == [f"house.floor.b imports {imported}"]

    def test_what_goes_up_from_a_deeper_folder_is_found(self, tmp_path: Path) -> None:
        house = self.tree(
            tmp_path, {"floor/deep/__init__": "", "floor/deep/b": "from ...roof import a\nfrom .. import a"}
        )
        assert upward(house, self.PLAN) == ["house.floor.deep.b imports house.roof.a"]

    def test_a_place_that_is_not_in_the_plan_imports_nothing(self, tmp_path: Path) -> None:
        house = self.tree(tmp_path, {"cellar/b": "from ..checks import at_least"})
        assert upward(house, self.PLAN) == ["house.cellar.b imports house.checks"]

    @pytest.mark.parametrize(
        ("files", "members"),
        [
            ({"floor/a": "from . import b", "floor/b": "from .a import x"}, {"house.floor.a", "house.floor.b"}),
            ({"floor/a": "def late():\n    from . import a"}, {"house.floor.a"}),
            (
                {"floor/a": "from . import b", "floor/b": "from . import c", "floor/c": "import house.floor.a"},
                {"house.floor.a", "house.floor.b", "house.floor.c"},
            ),
            ({"floor/__init__": "from .a import x", "floor/a": "from . import y"}, {"house.floor", "house.floor.a"}),
        ],
    )
    def test_circles_are_found(self, tmp_path: Path, files: dict[str, str], members: set[str]) -> None:
        assert set(circle(self.tree(tmp_path, files))) == members

    def test_private_names_are_found(self, tmp_path: Path) -> None:
        path = tmp_path / "a.py"
        path.write_text("from torch._ops import x\ny = torch._C._nn.f(torch.__version__, torch.nn, self._C)")
        assert private_names(path) == ["torch._ops", "torch._C"]
