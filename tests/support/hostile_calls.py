"""Calls the ops directly with arguments that the public functions would never let through.

Run by test_errors.py in a process of its own: `python hostile_calls.py <backend> <seed>`. Every call is printed before
it is made, so that the last line of the output names one that crashed.
"""

from __future__ import annotations

import itertools
import random
import resource
import sys
from typing import Any

import torch

from deconv_kernels import backends

LARGEST = 2**63 - 1
MEMORY = 4 * 2**30  # bytes of address space; larger results fail to allocate instead of filling the machine


def good_arguments(device: str) -> dict[str, list[Any]]:
    window = [[2, 2], [2, 2], [0, 0], [1, 1]]
    switches = torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device=device)
    pooled = torch.ones(2, 3, 4, 4, device=device)
    image = torch.zeros(2, dtype=torch.int64, device=device)
    origin = torch.zeros(2, 2, dtype=torch.int64, device=device)
    indices = torch.arange(4, device=device) * 2 + torch.arange(4, device=device)[:, None] * 16
    convolution = [[1, 1], [1, 1], 1]
    weight = torch.ones(3, 12, 3, 3, device=device)
    packed = OPERATORS["pack_weight"](weight, *convolution)
    place = [[0, 0], [10, 10], [-1, -1], [8, 8]]
    pooled_by = [window[0], window[1], window[3], "sum", False]
    return {
        "max_pool2d": [torch.ones(2, 3, 8, 8, device=device), None, *window, False, False],
        "max_unpool2d": [pooled, switches, *window, [8, 8], "sum", False],
        "max_unpool2d_window": [pooled, switches, image, origin, window[0], window[1], window[3], "sum", False],
        "backproject2d": [pooled, weight, image, origin, switches, packed, *pooled_by, *convolution, *place],
        "pack_weight": [weight, *convolution],
        "switches_to_indices": [switches, [8, 8], *window],
        "indices_to_switches": [indices.expand(2, 3, 4, 4).contiguous(), [8, 8], *window],
    }


def freed(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def spoilt_tensors(good: torch.Tensor) -> list[torch.Tensor]:
    """Tensors that no op may take in place of `good`."""
    return [
        good.flatten().expand(3, -1),
        good.sum(),
        good[None, None],
        good[..., :0],
        good.to(torch.complex64),
        good.to(torch.bool),
        good.to(torch.int8),
        good[..., :1].squeeze(-1) if good.dim() < 3 else good[0, 0],
        good.to_sparse(),
        freed(good),
    ]


SPOILT_LISTS = [
    [],
    [2],
    [2, 2, 2],
    [0, 2],
    [2, 0],
    [-1, -1],
    [LARGEST, LARGEST],
    [-LARGEST - 1, 1],
    [2**31, 1],
    [1, 2**62],
]
SPOILT_INTS = [0, -1, 2, 4, 2**31, LARGEST, -LARGEST - 1]
SPOILT_TEXTS = ["", "mean", "SUM", "sum\0", "s" * 100_000]


# Of backproject2d: positions that may be None, and the pairs that may be smaller than 1 with their smallest value.
OPTIONAL = {"backproject2d": (4, 5)}
SMALLEST = {"backproject2d": {14: 0, 16: -(2**31), 17: -1}}


def spoilt_lists(name: str, position: int) -> list[list[int]]:
    smallest = SMALLEST.get(name, {}).get(position)
    if smallest is None:
        return SPOILT_LISTS
    return [pair for pair in SPOILT_LISTS if len(pair) != 2 or min(pair) < smallest or max(pair) >= 2**31]


def must_raise(name: str) -> list[tuple[int, Any]]:
    """(position, value) pairs: each put in place of the good argument of op `name` has to raise."""
    arguments = good_arguments(DEVICE)[name]
    spoilt: list[tuple[int, Any]] = []
    for position, good in enumerate(arguments):
        if isinstance(good, torch.Tensor):
            nothing = () if position in OPTIONAL.get(name, ()) else (None,)
            spoilt += [(position, bad) for bad in (*nothing, *spoilt_tensors(good))]
        elif isinstance(good, str):
            spoilt += [(position, bad) for bad in SPOILT_TEXTS]
        elif isinstance(good, list):
            spoilt += [(position, bad) for bad in spoilt_lists(name, position)]
        elif type(good) is int:
            spoilt += [(position, bad) for bad in SPOILT_INTS]
    return spoilt


def call(name: str, arguments: list[Any], what: str) -> bool:
    """Whether the call raised."""
    print(f"{name}: {what}", flush=True)
    try:
        results = OPERATORS[name](*arguments)
    except Exception:
        return True
    for result in results if isinstance(results, tuple) else (results,):
        result.cpu().clone()
    return False


def described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.layout}"
    return repr(value)[:80]


def whole_calls() -> list[tuple[str, list[Any]]]:
    """Calls whose arguments are each allowed, and together are not."""
    good = good_arguments(DEVICE)
    pooled, switches = good["max_unpool2d"][:2]
    image, origin = good["max_unpool2d_window"][2:4]
    map = good["max_pool2d"][0]
    unit, huge = [1, 1], 2**31 - 1
    wide = switches.short()

    def projection(**changed: Any) -> tuple[str, list[Any]]:
        names = ["input", "weight", "image", "origin", "switches", "packed", "kernel_size", "pool_stride"]
        names += ["pool_dilation", "overlap", "relu", "stride", "dilation", "groups", "begin", "size", "base"]
        arguments = dict(zip([*names, "map_size"], good["backproject2d"], strict=True)) | changed
        return "backproject2d", list(arguments.values())

    def taps(rows: int, columns: int) -> torch.Tensor:
        return torch.ones(3, 5, rows, columns, device=DEVICE)

    return [
        ("max_pool2d", [map, torch.ones(4, device=DEVICE), *good["max_pool2d"][2:]]),
        ("max_pool2d", [map, torch.ones(3, device=DEVICE).double(), *good["max_pool2d"][2:]]),
        ("max_pool2d", [map, torch.ones(3, 1, device=DEVICE), *good["max_pool2d"][2:]]),
        ("max_pool2d", [map, torch.ones((), device=DEVICE), *good["max_pool2d"][2:]]),
        ("max_pool2d", [map, freed(torch.ones(3, device=DEVICE)), *good["max_pool2d"][2:]]),
        ("max_pool2d", [map, None, [9, 2], [2, 2], [0, 0], unit, False, False]),
        ("max_pool2d", [map, None, [2, 2], [2, 2], [2, 0], unit, False, False]),
        ("max_pool2d", [map, None, [2, 2], [2, 2], [0, 0], [huge, huge], True, False]),
        ("max_pool2d", [map, None, [huge, huge], [2, 2], [0, 0], unit, True, False]),
        ("max_pool2d", [map, None, [huge, huge], unit, [huge // 2, huge // 2], unit, True, False]),
        ("max_unpool2d", [pooled, switches[:1], *good["max_unpool2d"][2:]]),
        ("max_unpool2d", [pooled, switches[..., :3], *good["max_unpool2d"][2:]]),
        ("max_unpool2d", [pooled, switches[0], *good["max_unpool2d"][2:]]),
        ("max_unpool2d", [pooled, wide, *good["max_unpool2d"][2:]]),
        ("max_unpool2d", [pooled, switches, [17, 17], [2, 2], [0, 0], unit, [23, 23], "sum", False]),
        ("max_unpool2d", [pooled, switches, [2, 2], [2, 2], [0, 0], unit, [10, 8], "sum", False]),
        ("max_unpool2d", [pooled, switches, [2, 2], [2, 2], [0, 0], unit, [6, 8], "sum", False]),
        ("max_unpool2d", [pooled, switches, [2, 2], [huge // 4] * 2, [0, 0], unit, [huge - 9] * 2, "sum", False]),
        ("max_unpool2d", [pooled, switches, [2, 2], [huge, huge], [0, 0], unit, [huge, huge], "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image[:1], origin, [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin[:1], [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin.mT[:1], [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin.int(), [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches[:, :2], image, origin, [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches[0], image, origin, [2, 2], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin, [17, 17], [2, 2], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin, [2, 2], [huge, huge], unit, "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin, [2, 2], unit, [huge, huge], "sum", False]),
        ("max_unpool2d_window", [pooled, switches, image, origin, [128, 256], [huge] * 2, [huge] * 2, "sum", False]),
        projection(weight=good["backproject2d"][1][:2]),
        projection(weight=good["backproject2d"][1].double()),
        projection(weight=good["backproject2d"][1][0]),
        projection(image=image[:1]),
        projection(origin=origin[:1]),
        projection(origin=origin.mT[:1]),
        projection(origin=origin.int()),
        projection(switches=switches[:, :2]),
        projection(switches=switches[0]),
        projection(switches=wide),
        projection(kernel_size=[17, 17]),
        projection(packed=good["backproject2d"][5][:-1]),
        projection(packed=good["backproject2d"][5].double()),
        projection(packed=good["backproject2d"][5][:0]),
        projection(weight=taps(3, 3), groups=2),
        projection(size=[huge, huge]),
        projection(weight=taps(3, 3), packed=None, dilation=[huge, huge], size=[huge, huge]),
        ("pack_weight", [torch.ones(3, 0, 3, 3, device=DEVICE), unit, unit, 1]),
        ("pack_weight", [torch.ones(0, 3, 3, 3, device=DEVICE), unit, unit, 1]),
        ("pack_weight", [torch.ones(4, 3, 3, 3, device=DEVICE), unit, unit, 3]),
        ("switches_to_indices", [switches, [10, 8], *good["switches_to_indices"][2:]]),
        ("switches_to_indices", [switches, [8, 6], *good["switches_to_indices"][2:]]),
        ("switches_to_indices", [switches, [huge, huge], [2, 2], [huge, huge], [0, 0], unit]),
        ("switches_to_indices", [switches, [23, 23], [17, 17], [2, 2], [0, 0], unit]),
        ("indices_to_switches", [good["indices_to_switches"][0], [8, 6], *good["indices_to_switches"][2:]]),
        ("indices_to_switches", [good["indices_to_switches"][0].int(), *good["indices_to_switches"][1:]]),
    ]


def values_out_of_range() -> list[tuple[str, list[Any]]]:
    """Tensors of the right kind that hold wrong numbers; the CPU raises, a GPU gives zeros or marks."""
    good = good_arguments(DEVICE)
    calls: list[tuple[str, list[Any]]] = []
    for bad in (-1, 2, 3, 2**31, 2**32, 2**61, LARGEST, -LARGEST - 1):
        arguments = list(good["max_unpool2d_window"])
        arguments[2] = torch.tensor([0, bad], device=DEVICE)
        calls.append(("max_unpool2d_window", arguments))
        arguments = list(good["backproject2d"])
        arguments[2] = torch.tensor([0, bad], device=DEVICE)
        calls.append(("backproject2d", arguments))
    for bad in (4, 5, 128, 255):
        spoilt = good["switches_to_indices"][0].clone()
        spoilt[1, 2, 3, 3] = bad
        calls.append(("switches_to_indices", [spoilt, *good["switches_to_indices"][1:]]))
    for bad in (-1, 64, 65, 2**31, 2**32, 2**61, LARGEST, -LARGEST - 1, 0):
        spoilt = good["indices_to_switches"][0].clone()
        spoilt[1, 2, 3, 3] = bad
        calls.append(("indices_to_switches", [spoilt, *good["indices_to_switches"][1:]]))
    return calls


def corrupt_calls(count: int) -> list[tuple[str, list[Any]]]:
    """Random geometry, switches and origins: any result will do, a crash will not."""
    numbers = [0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**31 - 1, 2**31, 2**62, LARGEST, -1, -2, -LARGEST - 1]

    def few() -> list[int]:
        return [random.choice([1, 1, 2, 2, 3, 4, 7, random.choice(numbers)]) for _ in range(2)]

    calls: list[tuple[str, list[Any]]] = []
    for _ in range(count):
        shape = tuple(random.choice([0, 1, 2, 3, 9, 17]) if axis == 0 else random.randint(1, 9) for axis in range(4))
        map = torch.randn(shape, device=DEVICE).to(random.choice([torch.float32, torch.float64, torch.bfloat16]))
        dtype = random.choice([torch.uint8, torch.uint8, torch.int16])
        switches = torch.randint(-(2**15), 2**15, shape, device=DEVICE).to(dtype)
        padding = [random.choice([0, 0, 1, 2, random.choice(numbers)]) for _ in range(2)]
        window = [few(), few(), padding, few()]
        size, relu, overlap = few(), random.random() < 0.5, random.choice(["sum", "last"])
        origin = torch.tensor([random.sample(numbers, 2) for _ in range(shape[0])], device=DEVICE).view(-1, 2).long()
        image = torch.tensor([random.choice([0, 0, 0, *numbers]) for _ in range(shape[0])], device=DEVICE).long()
        windows = [map, switches, image, origin, window[0], window[1], window[3], overlap, relu]
        calls += [
            ("max_pool2d", [map, None, *window, random.random() < 0.5, relu]),
            ("max_unpool2d", [map, switches, *window, size, overlap, relu]),
            ("max_unpool2d_window", windows),
            ("switches_to_indices", [switches, size, *window]),
            ("indices_to_switches", [switches.long() * random.choice([1, 2**40]), size, *window]),
        ]
    return calls


def corrupt_projections(count: int) -> list[tuple[str, list[Any]]]:
    """The same for backproject2d: small results of windows, weights and packed weights of any size and geometry.

    What is as large as one of the numbers has several channels and does not fit into the memory there is.
    """
    numbers = [2**31 - 1, 2**31 - 1, 2**31, 2**32, 2**62, LARGEST, 0, -1, -(2**31), -LARGEST - 1]
    far = [0, 1, 3, -2, 2**31 - 1, -(2**31), 2**31 + 1, 2**32, 2**61, 2**62, LARGEST, -LARGEST - 1]

    def few(*smallest: int) -> list[int]:
        usual = [*smallest, 1, 1, 2, 3, 5]
        return [random.choice(numbers) if random.random() < 0.2 else random.choice(usual) for _ in range(2)]

    calls: list[tuple[str, list[Any]]] = []
    huge, unit = 2**31 - 1, [1, 1]
    input, weight, image, origin, switches, *_ = good_arguments(DEVICE)["backproject2d"]
    pairs = [huge, huge], [huge, 1], [1, huge], [2**16, 2**15]
    # Products of such sizes overflow to small numbers for some widths.
    for width, codes, pair in itertools.product((1, 2, 3, 4), (None, switches), pairs):
        tensors = [input[..., :width], weight, image, origin, codes, None]
        pooled_by = [[2, 2], [2, 2], unit, "sum", False]
        for stride, dilation, begin in ((pair, unit, unit), (unit, pair, unit), (unit, unit, pair), (pair,) * 3):
            geometry = [stride, dilation, 1, begin, unit, [0, 0], [-1, -1]]
            calls.append(("backproject2d", [*tensors, *pooled_by, *geometry]))
    for _ in range(count):
        units, groups = random.choice([0, 1, 2, 17]), random.choice([1, 1, 2, 3])
        rows, columns = (random.choice([1, 1, 2, 5]) for _ in range(2))
        dtype = random.choice([torch.float32, torch.float64, torch.bfloat16])
        inputs, outputs, taps = random.choice([3, 17, 65]), random.choice([3, 13, 65]), random.randint(1, 4)
        kernel = (3, 3) if random.random() < 0.5 else (taps, random.randint(1, 9))
        input = torch.randn(units, groups * inputs, rows, columns, device=DEVICE).to(dtype)
        weight = torch.randn(groups * inputs, outputs, *kernel, device=DEVICE).to(dtype)
        switches = None
        if random.random() < 0.6:
            switches = torch.randint(0, 256, (2, groups * inputs, 3, 4), device=DEVICE).to(torch.uint8)
        origin = torch.tensor([random.choices(far, k=2) for _ in range(units)], device=DEVICE).view(-1, 2).long()
        image = torch.zeros(units, dtype=torch.int64, device=DEVICE)
        pooled_by = [random.choice([[2, 2], few()]), random.choice([[2, 2], few()]), random.choice([[1, 1], few()])]
        convolution = [random.choice([[1, 1], few()]), random.choice([[1, 1], few()]), groups]
        packed = random.choice([None, torch.randn(random.choice([0, 1, 64, 1296, 6912]), device=DEVICE)])
        size = [random.choice([1, 2, 9, 300, 0, -1, 2**31]) for _ in range(2)]
        place = [random.choice([[0, 0], few(0)]), size, few(0, -3), random.choice([[-1, -1], few(0)])]
        overlap, relu = random.choice(["sum", "last"]), random.random() < 0.5
        tensors = [input, weight, image, origin, switches, packed]
        calls += [
            ("backproject2d", [*tensors, *pooled_by, overlap, relu, *convolution, *place]),
            ("pack_weight", [weight, *convolution[:2], random.choice([groups, *numbers])]),
        ]
    return calls


def main() -> None:
    torch.set_num_threads(2)  # each thread takes addresses too
    if DEVICE == "cpu":  # CUDA reserves more addresses than that
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    made, tolerated = 0, []
    for name, good in good_arguments(DEVICE).items():
        if call(name, good, "good arguments"):
            sys.exit(f"{name} refuses good arguments")
        for position, bad in must_raise(name):
            arguments = [bad if at == position else value for at, value in enumerate(good)]
            made += 1
            if not call(name, arguments, f"argument {position} is {described(bad)}"):
                tolerated.append(f"{name} with argument {position} {described(bad)}")
    for name, arguments in whole_calls() + (values_out_of_range() if DEVICE == "cpu" else []):
        made += 1
        if not call(name, arguments, ", ".join(described(argument) for argument in arguments)):
            tolerated.append(f"{name} with {', '.join(described(argument) for argument in arguments)}")
    for name, arguments in corrupt_calls(150) + corrupt_projections(400):
        made += 1
        call(name, arguments, ", ".join(described(argument) for argument in arguments))
    if DEVICE == "cuda":
        for name, arguments in values_out_of_range():
            call(name, arguments, "values out of range")
        torch.cuda.synchronize()
    if tolerated:
        sys.exit("accepted what it has to refuse:\n" + "\n".join(tolerated))
    print(f"all {made} calls survived")


if __name__ == "__main__":
    backend, seed = sys.argv[1:]
    random.seed(int(seed))
    torch.manual_seed(int(seed))
    DEVICE = "cuda" if backend == "cuda" or (backend == "triton" and not backends.triton_interprets()) else "cpu"
    namespace = torch.ops.deconv_kernels_triton if backend == "triton" else torch.ops.deconv_kernels
    OPERATORS = {name: getattr(namespace, name).default for name in backends.OPS}
    main()
