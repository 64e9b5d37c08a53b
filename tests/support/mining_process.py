"""One process of a mining job, run under torchrun by test_mining.py.

    torchrun --nproc-per-node 2 tests/support/mining_process.py OUT PARTS ARGUMENTS...

Writes what every process got to OUT/<rank>-<case>.npz, of the networks and data of `CASES`, and runs the command `mine`
with the arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deconv_kernels.cli.mine import command
from deconv_kernels.experiments.common.files import Parts
from deconv_kernels.experiments.mining import Mined, mine

SEED = 20131311


def network() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4 * 5, 7),
    ).eval()  # fmt: skip


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 14, generator=torch.Generator().manual_seed(SEED))


def of_volumes() -> tuple[nn.Module, list[Tensor]]:
    """A network of volumes, and batches of them in one layout and another."""
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(4, 5, 2))
    batches = list(torch.randn(11, 2, 4, 9, 8, generator=torch.Generator().manual_seed(SEED)).split(3))
    batches[1] = batches[1].contiguous(memory_format=torch.channels_last_3d)
    return model.eval(), batches


def loader(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(count), torch.arange(count)), batch_size=5)


LAYERS = ("1", "4", "6")
EVERYTHING = {"k": 4, "weakest": True, "quantiles": (0.5, 0.99), "one_per_image": False}
CASES: dict[str, Callable[[Parts | None], Mined]] = {
    "loader": lambda parts: mine(network(), loader(33), LAYERS, 4, parts=parts, batches_per_part=2, progress=False),
    "list": lambda parts: mine(
        network(), list(images(23).split(4)), LAYERS, parts=parts, batches_per_part=2, progress=False, **EVERYTHING
    ),
    "volumes": lambda parts: mine(
        *of_volumes(), ("1", "3"), parts=parts, batches_per_part=2, progress=False, **EVERYTHING
    ),
    # Less data than processes: the second has none.
    "one batch": lambda parts: mine(network(), [images(3)], LAYERS, parts=parts, progress=False, **EVERYTHING),
}


def run(folder: Path, parts: Path | None, rank: int = 0) -> None:
    """Mines every case."""
    for name, case in CASES.items():
        case(None if parts is None else Parts(parts, name)).save(folder / f"{rank}-{name}.npz")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        run(Path(sys.argv[1]), Path(sys.argv[2]), dist.get_rank())
        command.main(sys.argv[3:], standalone_mode=False)
    finally:
        dist.destroy_process_group()
