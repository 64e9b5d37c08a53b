"""Which steps a call in a traced network stands for, and which calls have no step of their own."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx
from torch import nn

from ..errors import UnsupportedModule
from ..nodes import NO_GRAD, Node, Region, function_name, nodes_in, overwritten
from ..steps.base import Step
from ..steps.joins import ChannelSlice
from ..steps.pointwise import Identity, Normalization
from ..steps.whole import Added
from .calls import Call, kind_of, makes_parts, note_parts
from .constants import computes_with
from .linearity import is_along_the_batch, is_linear, is_product, name_of
from .operations import along_the_batch, built_of, check_index, is_known, known_type, normalizes
from .rules import POINTWISE, canonical
from .unpooling import returns_indices
from .views import SEVERAL_VIEWS


def steps_of(call: Call) -> list[Step]:
    """The steps a call stands for.

    Raises:
        UnsupportedModule: there is no exact rule for it.
    """
    if NO_GRAD in call.node.meta:
        if call.rule != "gradient":
            raise call.refused("it is computed under torch.no_grad(), where no signal passes; compute it outside of it")
        return call.whole(linear=False, alone=True)
    if any(node in call.constants for node in overwritten(call.node, call.model)):
        return _written_to_a_constant(call)
    if call.parts:
        return _of_parts(call)
    decided = _decided(call)
    if decided is not None:
        return call.as_decided(decided)
    if isinstance(call.node.target, Region) and normalizes(call.node.target.module):
        return [Normalization(call.name, call.function, call.exact)]
    built = built_of(call)
    if built is None and call.drops_branches():
        built = Identity(call.name)
    if built is None and _is_linear(call):
        built = call.whole(linear=True, alone=is_product(call.kind()))
    if built is None:
        if call.rule != "gradient":
            raise _undecided(call)
        return call.as_decided("gradient")
    steps = [built] if isinstance(built, Step) else built
    if len(call.signals) > 1 and len(call.reads) == 1:
        raise call.refused("only its first argument may be computed from the images")
    return list(steps)


def _is_linear(call: Call) -> bool:
    """Whether a call is known to be linear in all signals that it reads.

    Raises:
        UnsupportedModule: it is, along the dimension of the batch.
    """
    if isinstance(call.node.target, Region):
        return not _not_linear(call, call.node.target)
    if call.node.op == "call_module" or not is_linear(call.node, lambda n: n in call.signals or n in call.parts):
        return False
    moves_parts = any(isinstance(n, Node) and _puts_parts_first(n) for n in (call.node, *call.node.args[:1]))
    if is_along_the_batch(call.node) and not moves_parts:
        along_the_batch(call, "along the dimension of the batch it mixes images; name another dimension by number")
    return True


def _not_linear(call: Call, region: Region) -> list[Any]:
    """What a region computes that is not linear in its signals, by canonical spelling: what rules may name.

    Where a rectifier or a pool is among it, which have rules elsewhere, it is the type of the region's module instead.
    """
    places = [node for node in region.graph.nodes if node.op == "placeholder"]
    given = zip(places, call.node.args, strict=True)
    signals = {place for place, node in given if node in call.signals or node in call.parts}
    kinds: dict[Any, None] = {}
    for node in region.graph.nodes:
        if node.op in ("call_function", "call_method") and not signals.isdisjoint(computes_with(node)):
            trains = function_name(node) in ("batch_norm", "dropout") and True in node.args
            if trains or "rounding_mode" in node.kwargs or not is_linear(node, signals.__contains__):
                kinds[canonical(kind_of(node, call.model))] = None
            signals.add(node)
    has_rules = any(is_known(kind) for kind in kinds.keys() - {operator.mul, operator.truediv})
    return [region.function] if has_rules or region.writes else list(kinds)


def _decided(call: Call) -> str | None:
    """What the user decided about a call; of a region too, about all in it that is not linear."""
    decided, region = call.decided(), call.node.target
    if decided is None and isinstance(region, Region) and (kinds := _not_linear(call, region)):
        return "gradient" if all(call.rules.get(kind) == "gradient" for kind in kinds) else None
    return decided


def _undecided(call: Call) -> UnsupportedModule:
    region = call.node.target
    return call.undecided(kinds=_not_linear(call, region) if isinstance(region, Region) else ())


def _of_parts(call: Call) -> list[Step]:
    """The steps of a call together with those that make several results, of which it takes some."""
    for part in call.parts:
        if _takes_a_part(part):
            continue
        whole = call.of(part)
        decided = _decided(whole) or call.rule
        if decided in ("identity", "rectifier"):
            raise whole.refused(f"the rule {decided!r} is for what returns one map; it can be 'gradient'")
        if decided != "gradient" and not _is_linear(whole):
            raise _undecided(whole)
    source, index = call.node.args[0], call.node.args[1] if len(call.node.args) > 1 else None
    linear = all(_takes_a_part(part) or _is_linear(call.of(part)) for part in call.parts)
    if _takes_a_part(call.node):
        assert isinstance(source, Node)
        if name_of(source.target) in _CHANNELS and isinstance(index, int):
            return _channels(call, source, index) or call.whole(linear, alone=not linear)
        return call.whole(linear, alone=not linear)
    if _is_linear(call):
        return call.whole(linear, alone=not linear or is_product(call.kind()))
    if (_decided(call) or call.rule) != "gradient":
        raise _undecided(call)
    return call.whole(linear=False, alone=True)


def _puts_parts_first(node: Node) -> bool:
    """Whether a node moves the dimension of several results, such as queries, keys and values, before that of the
    batch, and others only take them apart."""
    name = name_of(node.target) if node.op in ("call_function", "call_method") else None
    if name not in ("moveaxis", "movedim", "permute", "swapaxes", "transpose"):
        return False
    given = [number for value in node.args[1:] for number in (value if isinstance(value, tuple | list) else (value,))]
    if not given or any(not isinstance(number, int) for number in given):
        return False
    moves = given[0] != 0 if name == "permute" else 0 in given
    return bool(moves and node.users) and all(_takes_along_the_first(user, node) for user in node.users)


def _takes_along_the_first(user: Node, source: Node) -> bool:
    if user.args[:1] != (source,):
        return False
    if user.target is operator.getitem:
        return isinstance(user.args[1], int)
    name = name_of(user.target) if user.op in ("call_function", "call_method") else None
    if name == "unbind":
        return bool(user.args[1:] in ((), (0,)) and user.kwargs.get("dim", 0) == 0)
    return name == "select" and bool(user.args[1:2] == (0,))


def _takes_a_part(node: Node) -> bool:
    """Whether a node is one of the results, or some of the results, of a node that makes several."""
    source = node.args[0] if node.args else None
    return node.target in (operator.getitem, getattr) and isinstance(source, Node) and makes_parts(source)


# What makes several results, and what does along a dimension.
_SEVERAL = frozenset(
    (
        *(*SEVERAL_VIEWS, "unsafe_chunk", "unsafe_split"),
        *("aminmax", "cummax", "cummin", "frexp", "kthvalue", "mode", "sort", "std_mean", "topk", "var_mean"),
        "multi_head_attention_forward",
    )
)


_SEVERAL_ALONG = frozenset(("max", "median", "min", "nanmedian"))


def mark_parts(node: Node, model: nn.Module) -> None:
    """Notes of a node that computes something from the images whether it makes several results, of which others take
    one."""
    if _makes_parts(node, model):
        note_parts(node)


def _makes_parts(node: Node, model: nn.Module) -> bool:
    if returns_indices(node, model):
        return False
    name = None if node.op == "call_module" else name_of(node.target)
    if name in _SEVERAL or _puts_parts_first(node):
        return True
    if name in _SEVERAL_ALONG:
        along = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(along, int)
    kind = kind_of(node, model)
    known = canonical(kind) in POINTWISE or (known_type(kind) if node.op == "call_module" else is_known(kind))
    if (known or (name is not None and is_linear(node, lambda n: False))) and not _takes_a_part(node):
        return False
    source = node.args[0] if node.args else None
    if _takes_a_part(node) and isinstance(source, Node) and name_of(source.target) in _SEVERAL | _SEVERAL_ALONG:
        return isinstance(node.args[1], slice)
    takers = [user for user in node.users if user.op == "call_function" and user.args[:1] == (node,)]
    return len(takers) == len(node.users) > 0 and all(
        (user.target is operator.getitem and isinstance(user.args[1], int))
        or (user.target is getattr and user.args[1] in ("values", "indices", "min", "max"))
        for user in takers
    )


def _written_to_a_constant(call: Call) -> list[Step]:
    """A map is written in place to what was a constant; every image to its own."""
    name = function_name(call.node)
    if call.node.kwargs.get("out") is not None:
        raise call.refused("it writes into a given tensor; use what it returns")
    if name == "set_item":
        check_index(call, call.node.args[1])
    if len(call.signals) > 1 or call.parts or name not in _LINEAR_WRITES:
        if call.rule != "gradient":
            raise call.undecided()
        return call.whole(linear=False, alone=True, apart=True)
    if name in ("iadd", "add_", "copy_") and len(call.node.args) == 2 and not call.looked_at:
        return [Added(call.name, call.function)]
    return call.whole(linear=True, alone=True, apart=True)


_LINEAR_WRITES = frozenset(("iadd", "isub", "imul", "add_", "sub_", "mul_", "copy_", "set_item", "set_part"))


def _channels(call: Call, source: Node, index: int) -> list[Step] | None:
    """One of the parts that `chunk` or `split` makes of the channels; None where it splits something else."""
    name = name_of(source.target)
    whole = call.of(source)
    size, dimension = whole.argument(1, _CHANNELS[name or ""]), whole.argument(2, "dim", 0)
    if dimension != 1 or nodes_in(size) or len(call.parts) > 1:
        return None
    is_chunk = name == "chunk"

    def bounds(channels: int) -> tuple[int, int]:
        sizes = [len(part) for part in (torch.chunk if is_chunk else torch.split)(torch.arange(channels), size)]
        number = index % len(sizes)
        return sum(sizes[:number]), sum(sizes[: number + 1])

    return [ChannelSlice(call.name, lambda x: x[:, slice(*bounds(x.shape[1]))], bounds)]


_CHANNELS = {"chunk": "chunks", "split": "split_size_or_sections"}
