"""The source archive, the wheel and the installs without a compiler, without torch and with a broken source.

The archive is built once from a copy of this checkout, and compiled once, without optimisation, CUDA or network.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import deconv_kernels

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(deconv_kernels.__file__).parent
SOURCE_FOLDERS = (".github", "benchmarks", "docs", "csrc", "deconv_kernels", "release", "requirements", "tests")

# What a compiled part may link to: LibTorch's CPU half and the C and C++ runtimes.
ALLOWED_LIBRARIES = re.compile(
    r"(libtorch_cpu|libstdc\+\+|libgcc_s|libc|libm|libdl|libpthread|librt|ld-linux[^.]*)\.so"
)

needs_binutils = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm and readelf (binutils)")
needs_compiler = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="needs cmake and c++ on PATH"
)
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the network shut off for pip."""
    settings = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "DECONV_WITH_CUDA": "0"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
    )


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of a copy of this checkout, compiled parts lying about in the package included."""
    checkout = tmp_path_factory.mktemp("checkout") / "copy"
    # Other tests write some of these, maybe right now.
    left = (".git", ".venv", "out", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", ".benchmarks")
    by_name = shutil.ignore_patterns(*left)

    def ignored(folder: str, names: list[str]) -> set[str]:
        return by_name(folder, names) | ({"build"} if Path(folder) == ROOT else set())  # tests/build stays

    shutil.copytree(ROOT, checkout, ignore=ignored)
    (checkout / "deconv_kernels" / "_left_over.abi3.so").write_bytes(b"not a library")
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    succeed(sys.executable, "-c", build, cwd=checkout)
    (path,) = (checkout / "dist").iterdir()
    return path


@pytest.fixture
def source(archive: Path, tmp_path: Path) -> Path:
    """The sdist, unpacked."""
    return unpack(archive, tmp_path)


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist gives."""
    source = unpack(archive, tmp_path_factory.mktemp("compiled"))
    command = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "dist", ".")
    succeed(*command, cwd=source, CMAKE_BUILD_TYPE="Debug")
    (path,) = (source / "dist").iterdir()
    return path


def test_sdist_holds_everything_needed_to_build_and_test(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    files = {path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    left = {path for path in files if path.suffix == ".so" or {"__pycache__", ".hypothesis"} & set(path.parts)}
    wanted = {str(path.relative_to(ROOT)) for path in files - left}
    wanted |= {"CMakeLists.txt", "setup.py", "pyproject.toml", "Makefile", "LICENSE", "README.md", "CHANGELOG.md"}
    wanted |= {"CITATION.cff", ".clang-format", ".pre-commit-config.yaml", ".yamllint", ".ci/run"}
    assert wanted <= held, f"missing: {sorted(wanted - held)}"
    assert not [name for name in held if name.endswith(".so")]


def test_every_source_is_listed_in_cmake() -> None:
    listed = set(re.findall(r"csrc/\S+\.(?:cpp|cu)\b", (ROOT / "CMakeLists.txt").read_text()))
    present = {
        str(path.relative_to(ROOT))
        for path in [ROOT / "csrc/ops.cpp", *(ROOT / "csrc/cpu").glob("*.cpp"), *(ROOT / "csrc/cuda").glob("*.cu")]
    }
    assert listed == present


def test_changelog_names_this_version() -> None:
    assert f"## {deconv_kernels.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@needs_compiler
def test_wheel_serves_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"deconv_kernels-[\d.]+-cp310-abi3-\w+\.whl", wheel.name)


@needs_compiler
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "deconv_kernels").rglob("*.py")}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    data = {"deconv_kernels/py.typed", "deconv_kernels/plot/page.html", "deconv_kernels/_cpu.abi3.so"}
    data |= {str(path.relative_to(ROOT)) for path in (ROOT / "deconv_kernels" / "explore" / "page").iterdir()}
    assert held == modules | data


CHECK_INSTALLED = """
import pathlib, sys, torch, torch.nn.functional as F, deconv_kernels
assert pathlib.Path(deconv_kernels.__file__).is_relative_to(sys.argv[1]), deconv_kernels.__file__
x = torch.randn(2, 3, 7, 9)
values, switches = deconv_kernels.max_pool2d(x, 3, 2, relu=True)
expected, indices = F.max_pool2d(x.relu(), 3, 2, return_indices=True)
assert values.equal(expected)
assert deconv_kernels.switches_to_indices(switches, (7, 9), 3, 2).equal(indices)
"""


@needs_compiler
def test_wheel_computes(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path)
    done = run(sys.executable, "-c", CHECK_INSTALLED, tmp_path, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "reference implementation" not in done.stderr


AS_THE_HUB_IMPORTS = """
import importlib.util, json, pathlib, sys, torch, torch.nn.functional as F
folder = pathlib.Path(sys.argv[1])
name = json.loads((folder / "metadata.json").read_text())["id"]
spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
sys.modules[name] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
assert "deconv_kernels" not in sys.modules
assert package.backends.why_not("cpu") is None
x = torch.randn(2, 3, 7, 9)
assert package.max_pool2d(x, 3, 2)[0].equal(F.max_pool2d(x, 3, 2))
net = package.Deconvnet(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)))
record = net.record(x, layers=["0"])
assert net.project(record, package.Units("0", [0], [1], [2], [3]), seed="one").windows.shape == (1, 3, 3, 3)
"""


@needs_compiler
def test_wheel_becomes_a_kernel_of_the_hub(wheel: Path, tmp_path: Path) -> None:
    """The package works under any name, from any folder."""
    command = (sys.executable, ROOT / "release" / "hub_kernel.py", "--wheels", wheel.parent, "--output", tmp_path)
    printed = succeed(*command, cwd=tmp_path)
    (variant,) = (tmp_path / "build").iterdir()
    assert str(variant) in printed
    assert variant.name == f"torch-stable-abi210-cpu-{platform.machine()}-linux"
    succeed(sys.executable, "-c", AS_THE_HUB_IMPORTS, variant, cwd=tmp_path, PYTHONPATH="")


def test_pure_wheel_is_for_everyone_and_has_full_addresses(source: Path) -> None:
    command = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "dist", ".")
    succeed(*command, cwd=source, DECONV_COMPILED="0", DECONV_REPOSITORY="https://example.org/someone/kernels")
    (path,) = (source / "dist").iterdir()
    assert path.name == f"deconv_kernels-{deconv_kernels.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("METADATA"))
        metadata = opened.read(name).decode()
    assert "\nLicense-Expression: BSD-3-Clause\n" in metadata
    assert "\nProject-URL: Source, https://example.org/someone/kernels\n" in metadata
    targets = re.findall(r"\]\(([^)\s]+)", metadata)
    assert any(re.fullmatch(r"https://example.org/someone/kernels/raw/v[\d.]+/docs/\w+.(jpg|png)", t) for t in targets)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


@needs_binutils
@pytest.mark.parametrize("part", ["_cpu", "_cuda"])
def test_compiled_part_needs_only_the_stable_abi(part: str) -> None:
    """It links to libtorch_cpu alone and asks it for C functions alone, so it loads beside any torch >= 2.10."""
    library = PACKAGE / f"{part}.abi3.so"
    if not library.exists():
        pytest.skip(f"{library.name} was not built here")
    dynamic = succeed("readelf", "--dynamic", "--wide", library, cwd=ROOT)
    linked = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert [name for name in linked if not ALLOWED_LIBRARIES.match(name)] == []
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    undefined = re.findall(r" U (\S+)", succeed("nm", "--dynamic", "--undefined-only", library, cwd=ROOT))
    foreign = [name for name in undefined if re.match(r"cu[A-Z]|cuda|_?Py|THP|_ZNK?(2at|3c10|5torch|4c10d)", name)]
    assert foreign == []
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in undefined)


@needs_binutils
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_vectorised_code_stays_in_its_namespace(capability: str) -> None:
    """A function of a shared name, compiled with AVX-512, might be the copy that the linker keeps for everyone."""
    objects = list((ROOT / f"build/editable/CMakeFiles/kernels_{capability}.dir").rglob("*.o"))
    if not objects:
        pytest.skip(f"no editable build with {capability} kernels in this checkout")
    (kernels,) = objects
    symbols = succeed("nm", "--demangle", "--defined-only", "--extern-only", kernels, cwd=ROOT)
    names = re.findall(r"^\w+ [^V] (.*)$", symbols, re.MULTILINE)  # V: weak data, no code
    assert names, "the object defines nothing"
    assert [name for name in names if f"deconv_kernels::{capability}::" not in name.partition("(")[0]] == []


def test_installs_and_runs_without_a_compiler(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", target, ".")
    printed = succeed(sys.executable, *install, cwd=source, PATH="/nonexistent", CXX="/nonexistent/c++")
    # pip shows nothing else of a build that succeeds.
    assert f"Successfully installed deconv_kernels-{deconv_kernels.__version__}+slow.no.compiler.no.cmake" in printed
    assert list(target.rglob("*.so")) == []
    done = run(sys.executable, "-c", CHECK_INSTALLED, target, cwd=tmp_path, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reference implementation") == 1


@needs_compiler
def test_a_source_that_does_not_compile_fails_the_install(source: Path, tmp_path: Path) -> None:
    for path in (source / "csrc").rglob("*.cpp"):
        path.write_text('#error "this source is broken on purpose"\n')
    target = tmp_path / "target"
    install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", target, ".")
    done = run(sys.executable, *install, cwd=source)
    assert done.returncode != 0
    assert "this source is broken on purpose" in done.stdout + done.stderr
    assert not target.exists()


def run_without_torch(command: str, source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of setup.py in a Python that finds no torch."""
    script = f"import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['{command}']; runpy.run_path('setup.py')"
    return run(sys.executable, "-c", script, cwd=source, **environment)


@needs_compiler
@pytest.mark.parametrize("command", ["dist_info", "build_ext"])  # the first is what pip asks for before it downloads
def test_building_without_torch_says_what_to_do(command: str, source: Path) -> None:
    done = run_without_torch(command, source, PYTHONPATH="")
    assert done.returncode != 0
    assert "pip install --no-build-isolation" in done.stderr
    assert "Traceback" not in done.stderr


@needs_compiler
def test_torch_is_found_outside_the_environment_of_a_build(source: Path, tmp_path: Path) -> None:
    done = run_without_torch("dist_info", source, PYTHONPATH=str(tmp_path / "pip-build-env-x" / "site"))
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("value", "message"),
    [("yes", "DECONV_WITH_CUDA is 'yes'; it may be auto, 0 or 1"), ("1", "nvcc was not found")],
)
def test_a_wrong_cuda_setting_is_named(source: Path, value: str, message: str) -> None:
    done = run(sys.executable, "setup.py", "build_ext", cwd=source, DECONV_WITH_CUDA=value, CUDACXX="/nonexistent/nvcc")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
