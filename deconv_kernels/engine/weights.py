"""What the next call of a network in eval mode reads: its tensors, copied at one moment, and its attributes."""

from __future__ import annotations

import copy
import functools
import gc
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


class Weights:
    """The tensors of a network at one moment, in memory that nobody else writes to.

    Args:
        model: the network.
        held: tensors that are not the model's, by the names under which tracing found them.
        known: what was taken last, by paths; kept up to date. A tensor whose bits have not changed since is the same
            object again.

    Attributes:
        taken: those that have been asked for, by their paths.
    """

    def __init__(self, model: nn.Module, held: Mapping[str, Tensor], known: dict[str, Tensor] | None = None) -> None:
        self.model, self.held = model, held
        self.taken: dict[str, Tensor] = {}
        self._known = {} if known is None else known
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, path: str) -> Any:
        if path not in self.taken:
            now = self.held[path] if path in self.held else tensor_at(self.model, path)
            if not isinstance(now, Tensor):
                return now
            if id(now) not in self._copies:  # what has several names is one tensor here too
                known = self._known.get(path)
                self._copies[id(now)] = now, _own(now) if known is None or not _same_bits(now, known) else known
            self.taken[path] = self._known[path] = self._copies[id(now)][1]
        return self.taken[path]


def _own(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return tensor.detach().clone()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device, a.layout) != (b.shape, b.dtype, b.device, b.layout) or a.stride() != b.stride():
        return False
    if a.layout != torch.strided or a.is_quantized:
        return False
    if a.is_meta:
        return True  # it has none
    a, b = (torch.view_as_real(x.detach().resolve_conj()) if x.is_complex() else x.detach() for x in (a, b))
    integer = _INTEGERS[a.element_size()]
    return torch.equal(a.view(integer), b.view(integer))


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """A tensor of a network as its next call in eval mode reads it: computed, where it is parametrized or pruned.

    Args:
        model: the network.
        path: of a parameter, a buffer or a plain attribute, as in "features.0.weight".
    """
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    if parametrize.is_parametrized(module, name):
        # In training mode some parametrizations change what they hold whenever they are read.
        return getattr(in_eval(module), name)
    computed = computed_by_hook(module, name)
    return getattr(module, name) if computed is None else computed()


def computed_by_hook(module: nn.Module, name: str) -> Callable[[], Tensor] | None:
    """What computes a tensor of a module before each of its calls: pruning, weight or spectral normalisation."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return functools.partial(hook.apply_mask, module)
        if isinstance(hook, WeightNorm) and hook.name == name:
            return functools.partial(hook.compute_weight, module)
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return functools.partial(hook.compute_weight, module, do_power_iteration=False)
    return None


def in_eval(module: nn.Module) -> nn.Module:
    """The module, or a copy in eval mode that shares its tensors."""
    return copy_in_eval(module) if any(part.training for part in module.modules()) else module


def copy_in_eval(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that shares its tensors and has no hooks.

    What cannot be copied, such as a lock, is shared too.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors_within(module)}
    for part in module.modules():
        memo.update((id(value), type(value)()) for name, value in vars(part).items() if name in _HOOKS and value)
    try:
        return copy.deepcopy(module, dict(memo)).eval()
    except Exception:  # whatever an attribute's own way of being copied raises
        for value in chain.from_iterable(vars(part).values() for part in module.modules()):
            if not _can_be_copied(value, memo):
                memo[id(value)] = value
        return copy.deepcopy(module, memo).eval()


_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def _can_be_copied(value: object, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # whatever its own way of being copied raises
        return False
    return True


def tensors_within(root: object) -> Iterator[Tensor]:
    """The tensors that an object holds, in whatever it holds them."""
    seen, left = {id(root)}, [root]
    while left:
        held = left.pop()
        if isinstance(held, Tensor):
            yield held
        elif not isinstance(held, _SHARED):
            found = [part for part in gc.get_referents(held) if id(part) not in seen]
            seen.update(map(id, found))
            left += found


_PLAIN = frozenset((bool, int, float, complex, str, torch.dtype, torch.device, type(None)))
_READ = _PLAIN.union((types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial))
_OF_ALL_MODULES = frozenset(vars(nn.Module()))


def attributes_of(model: nn.Module) -> dict[tuple[str, str], Any]:
    """What the forward of a network may read beside tensors: modules, and the numbers, names and functions that they
    have as attributes, also in lists and dicts.

    Returns:
        The modules by their paths, the others by the paths of their modules and their names there.
    """
    found: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[path, ""] = module
        for name, value in vars(module).items():
            if name in _OF_ALL_MODULES:
                continue
            if type(value) in _READ:
                found[path, name] = value
            elif isinstance(value, list | tuple | dict):
                parts = tuple(chain.from_iterable(value.items()) if isinstance(value, dict) else value)
                if _PLAIN.issuperset(map(type, parts)):
                    found[path, name] = parts
    return found


def tensor_names(module: nn.Module) -> list[str]:
    """The paths of all tensors of a module: parameters, buffers, plain attributes, and what hooks compute."""
    names: dict[str, None] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        own = chain(part._parameters.items(), part._buffers.items(), vars(part).items())
        names.update((prefix + name, None) for name, value in own if isinstance(value, Tensor))
    return list(names)


def with_tensors(model: nn.Module, path: str, weights: Weights) -> nn.Module:
    """A module of a network that has the tensors of one moment."""
    module = copy_in_eval(model.get_submodule(path))
    for name in tensor_names(module):
        set_tensor(module, name, weights[f"{path}.{name}"])
    return module


def set_tensor(module: nn.Module, path: str, value: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    part = module.get_submodule(owner)
    setattr(part, name, nn.Parameter(value, requires_grad=False) if name in part._parameters else value)
