"""One set of checks in front of every kernel: csrc/checks.h has a function for each op, for CPU and CUDA launchers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deconv_kernels import backends
from deconv_kernels.ops.library import without_rank

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
SWITCHES = ("switches_to_indices", "indices_to_switches")  # the ops that share a file

# What is for csrc/checks.h alone to call.
PARTS = r"\b(check_(memory|dtype|same_device|same_map|floating)|checked_\w+|map_shape|make_pooling)\("


def test_kernels_launch_what_their_check_returns() -> None:
    assert (
        "kernel(Arguments... arguments) { return launch(check(arguments...)); }" in (SOURCES / "checks.h").read_text()
    )


@pytest.mark.parametrize("launchers", ["cpu/{}.cpp", "cuda/{}.cu"], ids=["cpu", "cuda"])
@pytest.mark.parametrize("op", backends.OPS)
def test_launchers_begin_with_the_check_of_their_op(op: str, launchers: str) -> None:
    file = launchers.format("switches" if op in SWITCHES else without_rank(op))
    source = (SOURCES / file).read_text()
    assert re.search(rf"\b(?:inline )?\w+ check_{without_rank(op)}\(", (SOURCES / "checks.h").read_text())
    called = re.search(rf'm\.impl\("{op}", TORCH_BOX\(\(&Checked<(\w+)(?:<\d>)?, (\w+)>::kernel\)\)\)', source)
    assert called is not None, f"{file} has no kernel for {op}"
    assert called[1] == f"check_{without_rank(op)}", f"the check is {called[1]}"
    launcher = re.search(rf"^[\w:<>, ]+ {called[2]}\(const \w+Call& call\) \{{", source, re.M)
    assert launcher is not None, f"{called[2]} takes something else than what its check returns"
    written_again = re.search(PARTS, source)
    assert written_again is None, f"{file} checks by itself: {written_again}"


def calls(rank: int) -> dict[str, tuple[Callable[..., object], dict[str, Tensor | None]]]:
    """Every op for maps of `rank` dimensions with its tensors by name, as a function of those; each call is a good one.

    The names are without rank.
    """
    ops = torch.ops.deconv_kernels

    def per_axis(*numbers: int) -> list[list[int]]:
        return [[number] * rank for number in numbers]

    window, windows = per_axis(2, 2, 0, 1), per_axis(2, 2, 1)
    maps, switches = torch.ones(2, 3, *[4] * rank), torch.zeros(2, 3, *[4] * rank, dtype=torch.uint8)
    image, origin = torch.zeros(2, dtype=torch.int64), torch.zeros(2, rank, dtype=torch.int64)
    weight, indices = torch.ones(3, 5, *[3] * rank), torch.zeros(2, 3, *[1] * rank, dtype=torch.int64)
    convolution = [*per_axis(1, 1), 1]
    packed = ops.pack_weight(weight, *convolution)
    placement = per_axis(0, 10, 0, -1)
    placed = {"image": image, "origin": origin, "switches": switches}
    pool, unpool, unpool_window, send_back = (
        getattr(ops, name)
        for name in (f"max_pool{rank}d", f"max_unpool{rank}d", f"max_unpool{rank}d_window", f"backproject{rank}d")
    )
    return {
        "max_pool": (lambda input, bias: pool(input, bias, *window, False, False),
                     {"input": maps, "bias": torch.ones(3)}),
        "max_unpool": (lambda input, switches: unpool(input, switches, *window, *per_axis(8), "sum", False),
                       {"input": maps, "switches": switches}),
        "max_unpool_window": (
            lambda input, image, origin, switches: unpool_window(
                input, switches, image, origin, *windows, "sum", False),
            {"input": maps, **placed}),
        "backproject": (
            lambda input, weight, image, origin, switches, packed: send_back(
                input, weight, image, origin, switches, packed, *windows, "sum", False, *convolution, *placement),
            {"input": maps, "weight": weight, **placed, "packed": packed}),
        "pack_weight": (lambda weight: ops.pack_weight(weight, *convolution), {"weight": weight}),
        "switches_to_indices": (lambda switches: ops.switches_to_indices(switches, *per_axis(8), *window),
                                {"switches": switches}),
        "indices_to_switches": (lambda indices: ops.indices_to_switches(indices, *per_axis(2), *window),
                                {"indices": indices}),
    }  # fmt: skip


@pytest.mark.parametrize("op", backends.OPS)
def test_tensors_without_memory_are_refused_by_name(op: str) -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    function, tensors = calls(3 if "3d" in op else 2)[without_rank(op)]
    function(**tensors)
    for name, tensor in tensors.items():
        assert tensor is not None
        lost = tensor.clone()
        lost.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=f"ValueError: {name} has no memory behind it"):
            function(**tensors | {name: lost})
