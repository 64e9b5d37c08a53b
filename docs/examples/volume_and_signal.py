"""Trains two small networks, on a brain scan and on an electrocardiogram, and draws what their units respond to.

    pip install nibabel pywavelets
    python docs/examples/volume_and_signal.py docs/pictures

The data comes with these packages: a magnetic resonance scan of 128 x 96 x 24 voxels, taken twice, and a recording of
1,024 samples. The networks learn without labels: one tells by which quarter turn cubes of the scan were rotated, the
other whether pieces of the recording run forward or backward.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconv_kernels as dk


def blocks(rank: int, widths: tuple[int, ...], kernel: int, classes: int) -> nn.Sequential:
    """Convolution, rectification and pooling of one dimension or three, as often as there are widths."""
    convolution, pool = getattr(nn, f"Conv{rank}d"), getattr(nn, f"MaxPool{rank}d")
    layers: list[nn.Module] = []
    for before, width in zip((1, *widths), widths, strict=False):
        layers += [convolution(before, width, kernel, padding=kernel // 2), nn.ReLU(), pool(2)]
    mean = getattr(nn, f"AdaptiveAvgPool{rank}d")(1)
    return nn.Sequential(*layers[:-1], mean, nn.Flatten(), nn.Linear(widths[-1], classes))


def pieces(data: Tensor, size: tuple[int, ...], count: int) -> Tensor:
    """Pieces (count, 1, *size) of data, hardly any of it empty, each brought to mean 0 and deviation 1."""
    found = []
    while len(found) < count:
        begin = [int(torch.randint(length - s + 1, ())) for length, s in zip(data.shape, size, strict=True)]
        piece = data[tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))]
        if (piece == 0).float().mean() < 0.02:
            found.append((piece - piece.mean()) / piece.std())
    return torch.stack(found)[:, None]


def train(model: nn.Module, data: Tensor, size: tuple[int, ...], transform: list, steps: int) -> None:
    """Teaches a network to tell which of some transforms were applied to pieces."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        label = torch.randint(len(transform), (16,))
        batch = torch.cat([transform[n](x[None]) for n, x in zip(label, pieces(data, size, 16), strict=True)])
        scores = model(batch)
        loss = F.cross_entropy(scores, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.2f}, right {(scores.argmax(1) == label).float().mean():.2f}")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    scan = nibabel.load(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz").get_fdata()[..., 0]
    scan = torch.from_numpy(np.ascontiguousarray(scan.transpose(2, 1, 0))).float()  # z, y, x
    scan = scan.where(scan > 0.3 * scan.mean(), 0)  # outside of the head there is noise
    model, size = blocks(3, (8, 12, 16), 3, 4), (10, 20, 20)
    train(model, scan, size, [lambda x, turns=turns: x.rot90(turns, (-2, -1)) for turns in range(4)], 250)
    figure = dk.show(model, pieces(scan, size, 64), "7", maps=4, k=9)
    figure.savefig(folder / "volume.png", dpi=160)

    recording = torch.from_numpy(pywt.data.ecg()).float()
    recording /= recording.std()
    model, span = blocks(1, (8, 12, 16), 9, 2), (192,)
    train(model, recording, span, [lambda x: x, lambda x: x.flip(-1)], 300)
    figure = dk.show(model, pieces(recording, span, 64), "7", maps=6, k=9)
    figure.savefig(folder / "signal.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
