"""Builds the compiled parts with CMake (CMakeLists.txt says what they are made of).

Environment variables; an empty one counts as unset:

- DECONV_COMPILED=0: pure Python
- DECONV_WITH_CUDA=auto|0|1: auto, if nvcc is found
- DECONV_CUDA_ARCHS: as CMake's CUDA_ARCHITECTURES
- DECONV_WERROR=ON: warnings are errors
- DECONV_TORCH_LIB: the folder of libtorch_cpu, if not that of the torch found here
- DECONV_REPOSITORY: where the sources are published, for the addresses in the metadata
- what CMake itself reads: CXX, CUDACXX, CXXFLAGS, CMAKE_GENERATOR

Without a C++ compiler or CMake the package is installed as pure Python and runs on its reference implementation. pip
shows nothing of a build that succeeds but the version, so the version says it: `0.1.0+slow.no.cmake`.

scikit-build-core would replace `CMakeBuild`, but has no place for the rest (whose torch, what is missing, the pure
wheel): there would be two build systems instead of one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 10)


def version_in(path: Path) -> str:
    """The `__version__` that a Python file sets."""
    found = re.search(r"""^__version__ = ["']([^"']+)["']""", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} sets no __version__"
    return found[1]


def find_cmake() -> str | None:
    """The cmake on PATH, or the one installed beside this Python."""
    return shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))


def find_compiler() -> str | None:
    """The C++ compiler that CMake will take."""
    names = [os.environ["CXX"].split()[-1]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def find_nvcc() -> str | None:
    """nvcc as named by CUDACXX, on PATH, or in a CUDA toolkit's folder."""
    if os.environ.get("CUDACXX"):
        return shutil.which(os.environ["CUDACXX"])
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next(
        filter(None, (shutil.which("nvcc", path=f"{home}/bin") for home in homes if home)), None
    )


def with_cuda() -> bool:
    """What DECONV_WITH_CUDA asks for."""
    wanted = os.environ.get("DECONV_WITH_CUDA") or "auto"
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"DECONV_WITH_CUDA is {wanted!r}; it may be auto, 0 or 1")
    if wanted == "1" and find_nvcc() is None:
        raise SystemExit("DECONV_WITH_CUDA is 1, but nvcc was not found: put it on PATH or set CUDACXX")
    return wanted != "0" and find_nvcc() is not None


def find_torch() -> Path | None:
    """The file of the torch to build with; it is not imported, which would take seconds.

    pip builds in an environment of its own, which has no torch; the one that pip installs into has the right one. As a
    requirement of the build, torch would be downloaded with gigabytes of CUDA for a few headers.
    """
    if "pip-build-env" not in os.environ.get("PYTHONPATH", ""):
        spec = importlib.util.find_spec("torch")
        origin = spec.origin if spec else None
    else:
        find = "import importlib.util; spec = importlib.util.find_spec('torch'); print(spec.origin if spec else '')"
        outside = subprocess.run([sys.executable, "-I", "-c", find], capture_output=True, text=True, check=True)
        origin = outside.stdout.strip()
    return Path(origin) if origin else None


def torch_folder() -> Path:
    """Where torch has its headers and libraries."""
    torch = find_torch()
    if torch is None:
        raise SystemExit(
            "torch is needed to build deconv_kernels and is not in the build environment.\n"
            "Install torch >= 2.10 first, then: pip install --no-build-isolation <what you were installing>"
        )
    installed = version_in(torch.with_name("version.py"))
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TORCH:
        raise SystemExit(f"deconv_kernels needs torch >= 2.10 to build; found torch {installed}")
    return torch.parent


class EarlyCheck(dist_info):
    """Says that torch is missing in the first step of an install, before pip downloads what the package depends on."""

    def run(self) -> None:
        if self.distribution.ext_modules:
            torch_folder()
        super().run()


class CMakeBuild(build_ext):
    """Builds all extensions in one run of CMake, where each is the target of its name."""

    def build_extensions(self) -> None:
        # An editable install keeps its objects, so that a rebuild compiles only what changed.
        folder = ROOT / "build" / "editable" if self.editable_mode else Path(self.build_temp).resolve()
        self.cmake("-S", ROOT, "-B", folder, *self.settings())
        self.cmake("--build", folder, "--parallel", str(os.cpu_count() or 1))
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(folder / target.name), str(target))

    def settings(self) -> list[str]:
        torch = torch_folder()
        nvcc = find_nvcc() if with_cuda() else None
        settings = {
            "DECONV_TORCH_INCLUDE": torch / "include",
            "DECONV_TORCH_LIB": os.environ.get("DECONV_TORCH_LIB") or torch / "lib",
            "DECONV_WERROR": os.environ.get("DECONV_WERROR") or "OFF",
            "DECONV_CUDA": "ON" if nvcc else "OFF",
            "DECONV_CUDA_ARCHS": os.environ.get("DECONV_CUDA_ARCHS", ""),
        }
        if nvcc:
            settings["CMAKE_CUDA_COMPILER"] = nvcc
        return [f"-D{name}={value}" for name, value in settings.items()]

    def cmake(self, *arguments: str | Path) -> None:
        cmake = find_cmake()
        assert cmake is not None, "extensions are listed only where cmake was found"
        try:
            subprocess.run([cmake, *arguments], check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit("compiling deconv_kernels failed; the compiler's messages are above") from error


def compiled() -> bool:
    """What DECONV_COMPILED asks for."""
    wanted = os.environ.get("DECONV_COMPILED") or "1"
    if wanted not in ("0", "1"):
        raise SystemExit(f"DECONV_COMPILED is {wanted!r}; it may be 0 or 1")
    return wanted == "1"


def missing_tools() -> list[str]:
    """What a compiled package is wanted for and this machine lacks."""
    tools = {"compiler": find_compiler(), "cmake": find_cmake()}
    return [name for name, found in tools.items() if not found] if compiled() else []


def extensions() -> list[Extension]:
    """The compiled parts to build."""
    if not compiled() or missing_tools():
        return []
    names = ["_cpu", "_cuda"] if with_cuda() else ["_cpu"]
    return [Extension(f"deconv_kernels.{name}", sources=[], py_limited_api=True) for name in names]


def local_version() -> str:
    """What the version of a package says that will be slow for the lack of a tool."""
    missing = missing_tools()
    if not missing:
        return ""
    print(f"deconv_kernels: found no {' and no '.join(missing)}; installing pure Python only", file=sys.stderr)
    return ".no.".join(["+slow", *missing])


def readme() -> str:
    """README.md; with addresses in full where the repository's is known, since package indexes show it alone."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not repository:
        return text
    link = r"(!?)\[([^\]]*)\]\((?!\w+:|#)"
    kind = {"": "blob", "!": "raw"}
    return re.sub(link, lambda found: f"{found[1]}[{found[2]}]({repository}/{kind[found[1]]}/v{release}/", text)


def addresses() -> dict[str, str]:
    """The project's addresses."""
    pages = {
        "Source": "",
        "Documentation": "/tree/HEAD/docs",
        "Changelog": "/blob/HEAD/CHANGELOG.md",
        "Issues": "/issues",
    }
    published = {name: repository + page for name, page in pages.items()} if repository else {}
    return published | {"Paper": "https://arxiv.org/abs/1311.2901"}


release = version_in(ROOT / "deconv_kernels" / "__init__.py")
repository = os.environ.get("DECONV_REPOSITORY", "").rstrip("/")

setup(
    version=release + local_version(),
    ext_modules=extensions(),
    cmdclass={"build_ext": CMakeBuild, "dist_info": EarlyCheck},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls=addresses(),
    setup_requires=["cmake>=3.22"]
    if missing_tools() == ["cmake"]
    else [],  # setuptools' answer to pip's first question
)
