"""Lays the built wheels out as a kernel of the Hugging Face Hub: `make hub-kernel`.

    build/torch-stable-abi210-cpu-x86_64-linux/    __init__.py and the rest of the package, metadata.json
    build/torch-stable-abi210-cpu-aarch64-linux/
    build/torch-stable-abi210-cu130-x86_64-linux/

The package `kernels` takes the variant that fits the machine and imports it under a name of its own, from any folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "deconv_kernels/"
OLDEST_TORCH = "210"
CUDA_ARCHS = ["8.0", "9.0", "10.0"]


@dataclass(frozen=True)
class Variant:
    """One folder of a kernel: what of a wheel goes into it, and for whom it is."""

    wheel: Path
    backend: str  # "cpu" or "cuda"

    def name(self) -> str:
        """The folder's name, from which `kernels` reads what it is for."""
        machine = "aarch64" if "aarch64" in self.wheel.name else "x86_64"
        compute = f"cu{toolkit()}" if self.backend == "cuda" else "cpu"
        return f"torch-stable-abi{OLDEST_TORCH}-{compute}-{machine}-linux"

    def metadata(self) -> dict[str, object]:
        """What `kernels` reads before it imports anything."""
        digest = hashlib.sha256(self.wheel.read_bytes()).hexdigest()[:7]
        backend = {"type": "cpu"} if self.backend == "cpu" else {"type": "cuda", "archs": CUDA_ARCHS}
        return {
            "id": f"_deconv_kernels_{self.backend}_{digest}",
            "name": "deconv-kernels",
            "version": int(self.wheel.name.split("-")[1].split(".")[0]),
            "license": "BSD-3-Clause",
            "python-depends": [],  # kernels knows a few names only, and not those of numpy and tqdm, which are needed
            "backend": backend,
        }

    def write(self, folder: Path) -> None:
        """Writes the folder."""
        with zipfile.ZipFile(self.wheel) as opened:
            files = [name for name in opened.namelist() if name.startswith(PACKAGE) and not name.endswith("/")]
            for name in files:
                if self.backend == "cuda" or not name.startswith(f"{PACKAGE}_cuda."):
                    target = folder / name.removeprefix(PACKAGE)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(opened.read(name))
        (folder / "metadata.json").write_text(json.dumps(self.metadata(), indent=2) + "\n")


def toolkit() -> str:
    """The version of the CUDA toolkit that compiled the wheels, without its point."""
    nvcc = os.environ.get("CUDACXX") or "nvcc"
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", printed)
    assert found, printed
    return found[1] + found[2]


def variants(wheels: Path) -> list[Variant]:
    """What the wheels of a folder are good for."""
    found = []
    for wheel in sorted(wheels.glob("deconv_kernels-*-abi3-*.whl")):
        with zipfile.ZipFile(wheel) as opened:
            backends = ["cpu", "cuda"] if f"{PACKAGE}_cuda.abi3.so" in opened.namelist() else ["cpu"]
        found += [Variant(wheel, backend) for backend in backends]
    if not found:
        raise SystemExit(f"{wheels} holds no compiled wheel of deconv_kernels: make wheel")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="folder of the wheels (default: dist)")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "hub-kernel", help="default: out/hub-kernel")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output / "build", ignore_errors=True)
    for variant in variants(arguments.wheels):
        variant.write(arguments.output / "build" / variant.name())
        print(arguments.output / "build" / variant.name())


if __name__ == "__main__":
    main()
