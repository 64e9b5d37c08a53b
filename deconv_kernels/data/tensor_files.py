"""Named tensors in one file: `.npz` for NumPy, `.safetensors` for everything else. Nothing in a file is executed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .writing import being_written, replaced_at_once

__all__ = ["load_tensors", "save_arrays", "save_tensors"]

_SUFFIXES = (".npz", ".safetensors")
_ABOUT = "about"


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Writes tensors to a file, which is there complete or not at all.

    Args:
        path: ends in `.npz` or `.safetensors`; a file that is there is replaced.
        tensors: by name, of any device and layout. NumPy has no bfloat16: in `.npz` it becomes float32, exactly.
        about: what else belongs to them, as JSON can write it. In `.npz` it is the array "about", bytes of JSON; in
            `.safetensors` the metadata "about".

    Raises:
        ValueError: another suffix, a tensor called "about", or `.safetensors` where that package is not installed.
        OSError: the file cannot be written.
    """
    path = _checked(path)
    if _ABOUT in tensors:
        raise ValueError(f"no tensor can be called {_ABOUT!r}, as the description of the others is")
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        content = _safetensors(path).save(held, metadata={_ABOUT: json.dumps(dict(about))})
        with replaced_at_once(path) as file:
            file.write(content)
        return
    narrow = sorted(name for name, tensor in held.items() if tensor.dtype == torch.bfloat16)
    text = json.dumps({"about": dict(about), "bfloat16": narrow})
    arrays = {name: (t.float() if name in narrow else t).numpy() for name, t in held.items()}
    arrays[_ABOUT] = np.frombuffer(text.encode(), dtype=np.uint8)
    with replaced_at_once(path) as file:
        save_arrays(file, arrays)


def save_arrays(file: Path | IO[bytes], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Writes an `.npz` file of arrays of any names, of which `numpy.savez` keeps some for itself.

    Args:
        file: its path, or where to write it.
        arrays: by name.

    Raises:
        OSError: the file cannot be written.
    """
    if isinstance(file, Path):
        with being_written(file), file.open("wb") as opened:
            return save_arrays(opened, arrays)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: the tensors, and what else belongs to them.

    Raises:
        ValueError: no such file, another suffix, or a file that does not hold what `save_tensors` writes.
    """
    path = _checked(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r}: no such file")
    read = _read_npz if path.suffix == ".npz" else _read_safetensors
    if path.suffix == ".safetensors":
        _safetensors(path)
    try:
        tensors, about = read(path)
    except Exception as error:  # a damaged or hostile file may fail in any way its parser can
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{str(path)!r} cannot be read as tensors with a description: {reason}") from error
    return tensors, about


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    held = json.loads(arrays.pop(_ABOUT).tobytes())
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors.update({name: tensors[name].bfloat16() for name in held["bfloat16"]})
    return tensors, dict(held["about"])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        about, names = json.loads(file.metadata()[_ABOUT]), list(file.keys())
        return {name: file.get_tensor(name) for name in names}, dict(about)


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(_SUFFIXES)}")
    return path


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ValueError(f"{str(path)!r} needs the package safetensors, which is not installed") from error
    return safetensors.torch
