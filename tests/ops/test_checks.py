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
FILES = {name: name for name in ("max_pool2d", "max_unpool2d", "max_unpool2d_window")}
FILES |= dict.fromkeys(("backproject2d", "backproject3d"), "backproject")
FILES |= {"pack_weight": "pack_weight"} | dict.fromkeys(("switches_to_indices", "indices_to_switches"), "switches")

# What is for csrc/checks.h alone to call.
PARTS = r"\b(check_(memory|dtype|same_device|same_map|floating)|checked_\w+|map_shape|make_pooling)\("


def test_kernels_launch_what_their_check_returns() -> None:
    assert (
        "kernel(Arguments... arguments) { return launch(check(arguments...)); }" in (SOURCES / "checks.h").read_text()
    )


@pytest.mark.parametrize("launchers", ["cpu/{}.cpp", "cuda/{}.cu"], ids=["cpu", "cuda"])
@pytest.mark.parametrize("op", backends.OPS)
def test_launchers_begin_with_the_check_of_their_op(op: str, launchers: str) -> None:
    source = (SOURCES / launchers.format(FILES[op])).read_text()
    assert re.search(rf"\b(?:inline )?\w+ check_{without_rank(op)}\(", (SOURCES / "checks.h").read_text())
    called = re.search(rf'm\.impl\("{op}", TORCH_BOX\(\(&Checked<(\w+)(?:<\d>)?, (\w+)>::kernel\)\)\)', source)
    assert called is not None, f"{launchers.format(FILES[op])} has no kernel for {op}"
    assert called[1] == f"check_{without_rank(op)}", f"the check is {called[1]}"
    launcher = re.search(rf"^[\w:<>, ]+ {called[2]}\(const \w+Call& call\) \{{", source, re.M)
    assert launcher is not None, f"{called[2]} takes something else than what its check returns"
    written_again = re.search(PARTS, source)
    assert written_again is None, f"{launchers.format(FILES[op])} checks by itself: {written_again}"


def calls() -> dict[str, tuple[Callable[..., object], dict[str, Tensor | None]]]:
    """Every op with its tensors by name, as a function of those; each call is a good one."""
    ops = torch.ops.deconv_kernels
    window, windows = [[2, 2], [2, 2], [0, 0], [1, 1]], [[2, 2], [2, 2], [1, 1]]
    maps, switches = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    image, origin = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64)
    weight, indices = torch.ones(3, 5, 3, 3), torch.zeros(2, 3, 1, 1, dtype=torch.int64)
    packed = ops.pack_weight(weight, [1, 1], [1, 1], 1)
    convolution = [[1, 1], [1, 1], 1, [0, 0], [10, 10], [0, 0], [-1, -1]]
    placed = {"image": image, "origin": origin, "switches": switches}
    return {
        "max_pool2d": (lambda input, bias: ops.max_pool2d(input, bias, *window, False, False),
                       {"input": maps, "bias": torch.ones(3)}),
        "max_unpool2d": (lambda input, switches: ops.max_unpool2d(input, switches, *window, [8, 8], "sum", False),
                         {"input": maps, "switches": switches}),
        "max_unpool2d_window": (
            lambda input, image, origin, switches: ops.max_unpool2d_window(
                input, switches, image, origin, *windows, "sum", False),
            {"input": maps, **placed}),
        "backproject2d": (
            lambda input, weight, image, origin, switches, packed: ops.backproject2d(
                input, weight, image, origin, switches, packed, *windows, "sum", False, *convolution),
            {"input": maps, "weight": weight, **placed, "packed": packed}),
        "pack_weight": (lambda weight: ops.pack_weight(weight, [1, 1], [1, 1], 1), {"weight": weight}),
        "switches_to_indices": (lambda switches: ops.switches_to_indices(switches, [8, 8], *window),
                                {"switches": switches}),
        "indices_to_switches": (lambda indices: ops.indices_to_switches(indices, [2, 2], *window),
                                {"indices": indices}),
    }  # fmt: skip


@pytest.mark.parametrize("op", backends.OPS)
def test_tensors_without_memory_are_refused_by_name(op: str) -> None:
    reason = backends.why_not("cpu")
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    function, tensors = calls()[op]
    function(**tensors)
    for name, tensor in tensors.items():
        assert tensor is not None
        lost = tensor.clone()
        lost.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=f"ValueError: {name} has no memory behind it"):
            function(**tensors | {name: lost})
