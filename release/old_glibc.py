"""What to link with, so that libraries built here run wherever glibc is 2.28 or newer, and on another processor too.

A library asks for the versions of functions that the glibc it was linked with has. The package `ziglang` brings the
symbols, not the code, of every glibc since 2.17: linking with those of 2.28 is what an old system would be good for.
The compiler, and so the machine code, stays the one that is tested here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GLIBC = "2.28"

# What later C and C++ libraries have is compiled into ours. std::shared_ptr asks whether there is one thread: "no" is
# always right. Streams in memory have members that libstdc++ exports since GCC 9 and 11.
LATER_C = 'extern "C" { __attribute__((visibility("hidden"))) char __libc_single_threaded = 0; }'
LATER_CXX = """
#include <sstream>
template class std::basic_stringbuf<char>;
template class std::basic_ostringstream<char>;
template class std::basic_stringstream<char>;
"""


def link_folder(machine: str, compiler: str, folder: Path) -> Path:
    """Makes a folder for the linker's -L, which goes before the system's own.

    Args:
        machine: the processor, "x86_64" or "aarch64".
        compiler: a C++ compiler for it.
        folder: where to put it, and what ziglang makes on the way.

    Returns:
        The folder: the symbols of glibc's libraries.
    """
    links = folder / machine
    links.mkdir(parents=True)
    for library in glibc_symbols(machine, folder / "zig").glob("lib*.so.*"):
        name = library.name.partition(".so")[0]
        (links / library.name).write_bytes(library.read_bytes())
        (links / f"{name}.so").symlink_to(library.name)
    # As glibc's own libc.so: a script for the linker, with the few functions that are never shared and the loader's.
    static = find_library("libc_nonshared.a", compiler)
    later = compile_object(LATER_C, links / "later_c.o", compiler)
    (links / "libc.so").unlink()
    (links / "libc.so").write_text(f"GROUP ( {links}/libc.so.6 {static} {later} AS_NEEDED ( {links}/libld.so.2 ) )\n")
    later = compile_object(LATER_CXX, links / "later_cxx.o", compiler)
    (links / "libstdc++.so").write_text(f"GROUP ( {later} {find_library('libstdc++.so', compiler)} )\n")
    return links


def glibc_symbols(machine: str, cache: Path) -> Path:
    """The folder in which ziglang left the symbols of glibc's libraries."""
    cache.mkdir(exist_ok=True)
    (cache / "empty.c").write_text("")
    target = f"{machine}-linux-gnu.{GLIBC}"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-o", f"{machine}.so", "empty.c"],
        cwd=cache,
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache / machine), "ZIG_LOCAL_CACHE_DIR": str(cache / machine)},
        check=True,
    )
    (libc,) = (cache / machine).rglob("libc.so.6")
    return libc.parent


def stable_abi_symbols(library: Path, compiler: str, copy: Path) -> Path:
    """A library for another processor with the functions of LibTorch's stable ABI, to link with and not to run.

    Args:
        library: torch's libtorch_cpu.so for this processor.
        compiler: a C++ compiler for the other processor.
        copy: the file to write.

    Returns:
        `copy`.
    """
    symbols = subprocess.run(["nm", "--dynamic", "--defined-only", library], capture_output=True, text=True, check=True)
    names = {line.split()[2].partition("@")[0] for line in symbols.stdout.splitlines() if " T " in line}
    functions = sorted(name for name in names if name.startswith(("aoti_torch_", "torch_")))
    source = "".join(f'extern "C" void {name}() {{}}\n' for name in functions)
    made = compile_object(source, copy.with_suffix(".o"), compiler)
    subprocess.run([compiler, "-shared", "-nostdlib", f"-Wl,-soname,{library.name}", "-o", copy, made], check=True)
    return copy


def find_library(name: str, compiler: str) -> str:
    """The path of a library that a compiler links with."""
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def compile_object(source: str, target: Path, compiler: str) -> Path:
    """Compiles C++ text."""
    command = [compiler, "-x", "c++", "-std=c++20", "-O2", "-fPIC", "-c", "-o", str(target), "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return target
