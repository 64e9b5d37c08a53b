"""Which implementation of the ops runs, which could, and why another cannot."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..checks import one_of
from . import library

NAMES = ("cpu", "cuda", "triton", "reference")
OPS = tuple(library.SCHEMAS)

_NAMESPACES = {
    None: library.NAMESPACE,
    "cpu": library.NAMESPACE,
    "cuda": library.NAMESPACE,
    "triton": library.TRITON_NAMESPACE,
    "reference": library.REFERENCE_NAMESPACE,
}

_forced: str | None = None
_operators: dict[str, Callable[..., Any]] = {}

# Whether the C++ kernels are what runs on CPU tensors: those refuse bad arguments without help.
cpp_on_cpu = library.cpu_error is None


def why_not(backend: str) -> str | None:
    """Why a backend cannot run here, or None where it can.

    Args:
        backend: "cpu" (C++), "cuda" (CUDA C++), "triton" or "reference".

    Raises:
        ValueError: no backend has that name.

    Example:
        >>> dk.backends.why_not("reference") is None
        True
    """
    one_of("backend", backend, NAMES)
    if backend == "cpu":
        return library.cpu_error
    if backend == "cuda":
        return library.cuda_error or _why_no_gpu()
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        return None if triton_interprets() else _why_no_gpu()
    return None


def available() -> dict[str, dict[str, str | None]]:
    """For every op, every backend with None where it can run here and the reason where it cannot.

    Example:
        >>> dk.backends.available()["max_pool2d"]["reference"] is None
        True
    """
    reasons = {backend: why_not(backend) for backend in NAMES}
    return {op: dict(reasons) for op in OPS}


def cpu_capability() -> str:
    """The instruction set that the C++ kernels run on: "avx512", "avx2" or "baseline".

    The environment variable DECONV_CPU_CAPABILITY names a lesser one than the best.

    Raises:
        RuntimeError: the C++ kernels are missing, or the variable names what this processor does not have.
    """
    if library.cpu_error is not None:
        raise RuntimeError(f"the C++ kernels are missing: {library.cpu_error}")
    return torch.ops.deconv_kernels.cpu_capability()


def cpu_choices() -> list[str]:
    """What the C++ kernels chose by the processor that they run on, a sentence each, with the reason.

    Raises:
        RuntimeError: the C++ kernels are missing, or DECONV_CPU_CAPABILITY names what this processor does not have.

    Example:
        >>> for sentence in dk.backends.cpu_choices() if dk.backends.why_not("cpu") is None else []:
        ...     assert sentence.endswith(".")
    """
    capability, asked = cpu_capability(), os.environ.get("DECONV_CPU_CAPABILITY")
    cache, streamed, gathered = torch.ops.deconv_kernels.cpu_choices()
    known = f"a quarter of the largest cache, {cache / 2**20:g} MiB" if cache else "the system tells of no cache"
    return [
        f"Loops for {capability}: {'DECONV_CPU_CAPABILITY asks for it' if asked else 'the widest that are here'}.",
        f"Results from {streamed / 2**20:g} MiB on are written past the caches: {known}.",
        f"Taps three wide to at most {gathered} channels are gathered, zeros too: there is little to skip.",
    ]


def chosen(device: torch.device | str) -> str:
    """The backend that runs on tensors of `device`: the forced one, else the fastest that is there.

    Raises:
        RuntimeError: nothing can run on that device.

    Example:
        >>> dk.backends.chosen("cpu") in ("cpu", "reference")
        True
    """
    if _forced is not None:
        return _forced
    if torch.device(device).type == "cpu":
        return "cpu" if why_not("cpu") is None else "reference"
    for backend in ("cuda", "triton"):
        if why_not(backend) is None:
            return backend
    raise RuntimeError(f"no backend runs on {device}: cuda: {why_not('cuda')}; triton: {why_not('triton')}")


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it is neither cpu nor cuda, or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r}: this PyTorch sees no CUDA device; take 'cpu', or see what nvidia-smi says (docs/faq.md: "
            "can I use the GPU?)"
        )
    return device


def allows_tf32() -> bool:
    """Whether torch lets convolutions round float32 factors to TF32 on a GPU, said by either of its two settings."""
    # The older setting, `allow_tf32`, cannot be read any more where the newer one was set for convolutions alone.
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """What becomes of the float32 factors of convolutions on a GPU, for the length of a `with` block.

    Those of matrix products stay as they are. Both of torch's settings for convolutions, the older and the newer, say
    the same inside, and afterwards what they said before.

    Args:
        precision: "ieee" (they stay as they are) or "tf32" (they are cut to eleven bits).

    Raises:
        ValueError: another precision.

    Example:
        >>> with dk.backends.float32_precision("tf32"):
        ...     dk.backends.allows_tf32()
        True
    """
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"precision must be ieee or tf32, got {precision!r}")
    cudnn, newer = torch.backends.cudnn, ("conv", "rnn")
    before = {name: getattr(cudnn, name).fp32_precision for name in newer}
    products = torch.backends.cuda.matmul.fp32_precision
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # the two disagree
        allowed = None
    # torch's own test helpers, once imported, forbid to set this elsewhere.
    with torch.backends.__allow_nonbracketed_mutation():
        cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        with torch.backends.__allow_nonbracketed_mutation():
            torch.backends.cuda.matmul.fp32_precision = products
            if allowed is not None:
                cudnn.allow_tf32 = allowed
            for name, value in before.items():
                getattr(cudnn, name).fp32_precision = value


class use:
    """Forces one backend for every op from here on, or for the length of a `with` block.

    Args:
        backend: "cpu", "cuda", "triton" or "reference"; None returns to the automatic choice.

    Raises:
        ValueError: no backend has that name.
        RuntimeError: it cannot run here; the message says why.

    Example:
        >>> with dk.backends.use("reference"):
        ...     dk.backends.chosen("cpu")
        'reference'
    """

    def __init__(self, backend: str | None) -> None:
        reason = None if backend is None else why_not(backend)
        if reason is not None:
            raise RuntimeError(f"backend {backend!r} cannot run here: {reason}")
        self._before = _forced
        _force(backend)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _force(self._before)


def triton_interprets() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def operator(name: str, input: Tensor) -> Callable[..., Any]:
    """The torch op that runs `name` on `input` under the present choice of backend.

    Raises:
        ValueError: the forced backend does not work on the device of `input`.
    """
    if _forced is not None:
        _check_device(_forced, input.device)
    elif name in _ON_MATRIX_UNITS and input.is_cuda and _on_matrix_units(input.dtype):
        return getattr(torch.ops.deconv_kernels_triton, name).default
    return _operators[name]


_ON_MATRIX_UNITS = ("backproject2d", "backproject3d", "pack_weight")


def _on_matrix_units(dtype: torch.dtype) -> bool:
    """Whether Triton's kernel, on the matrix units, sends back windows of a type on a GPU; CUDA C++ has the rest.

    Nothing else decides, so that the bits of a window depend on no other window and on no size.
    """
    if why_not("triton") is not None:
        return False
    return allows_tf32() if dtype == torch.float32 else dtype.itemsize == 2


def _force(backend: str | None) -> None:
    global _forced, cpp_on_cpu
    _forced = backend
    cpp_on_cpu = backend in (None, "cpu") and library.cpu_error is None
    namespace = getattr(torch.ops, _NAMESPACES[backend])
    _operators.update({name: getattr(namespace, name).default for name in OPS})


def _check_device(backend: str, device: torch.device) -> None:
    if backend == "reference":
        return
    on_cpu = backend == "cpu" or (backend == "triton" and triton_interprets())
    if device.type != ("cpu" if on_cpu else "cuda"):
        raise ValueError(
            f"the forced backend {backend!r} works on {'CPU' if on_cpu else 'CUDA'} tensors, input is on {device}"
        )


def _why_no_gpu() -> str | None:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is a CPU build"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


_force(None)
