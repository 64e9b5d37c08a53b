"""Builds the compiled parts with CMake (CMakeLists.txt says what they are made of).

Environment variables: DECONV_WITH_CUDA=auto|0|1 (auto: if nvcc is found), DECONV_CUDA_ARCHS (as CMake's
CUDA_ARCHITECTURES), DECONV_WERROR=ON, and what CMake itself reads (CXX, CUDACXX, CXXFLAGS, CMAKE_GENERATOR).
An empty one counts as unset.
Without a C++ compiler or CMake the package is installed as pure Python and runs on its reference implementation.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 10)


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


def torch_folder() -> Path:
    """Where torch is installed; it is not imported, which would take seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "torch is needed to build deconv_kernels and is not in the build environment.\n"
            "Install torch >= 2.10 first, then: pip install --no-build-isolation <what you were installing>"
        )
    installed = version("torch")
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TORCH:
        raise SystemExit(f"deconv_kernels needs torch >= 2.10 to build; found torch {installed}")
    return Path(spec.origin).parent


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
            "DECONV_TORCH_LIB": torch / "lib",
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


def extensions() -> list[Extension]:
    """The compiled parts this machine can build."""
    missing = [what for what, found in {"C++ compiler": find_compiler(), "cmake": find_cmake()}.items() if not found]
    if missing:
        print(f"deconv_kernels: no {' and no '.join(missing)} found; installing pure Python only", file=sys.stderr)
        return []
    names = ["_cpu", "_cuda"] if with_cuda() else ["_cpu"]
    return [Extension(f"deconv_kernels.{name}", sources=[], py_limited_api=True) for name in names]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
