"""Networks as users write them, small, to try every command on: `--model own_networks.py:residual`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from architectures import BasicBlock, ResNet
from torch import Tensor, nn


def chain() -> nn.Module:
    """Convolutions, overlapping pools and a linear end."""
    first = (nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 6))


def residual() -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), (4, 8, 16, 32), classes=7)


class FunctionalBlock(nn.Module):
    """A residual block whose rectifiers are calls of `F.relu`, which Captum and zennit do not see."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, width, 3, stride, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Conv2d(channels, width, 1, stride) if channels != width or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


class FunctionalResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.a, self.b = FunctionalBlock(8, 8), FunctionalBlock(8, 12, 2)
        self.head = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.b(self.a(x)).mean((2, 3)))


class UNet(nn.Module):
    """Goes up by unpooling with the indices of the way down, as SegNet, and joins what it skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = self.block(3, 6), self.block(6, 8), self.block(8, 8)
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
        self.up2, self.up1, self.score = self.block(16, 6), self.block(12, 6), nn.Conv2d(6, 4, 1)

    @staticmethod
    def block(channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        x, indices1 = self.pool(skip1)
        skip2 = self.down2(x)
        x, indices2 = self.pool(skip2)
        x = self.unpool(self.middle(x), indices2, output_size=skip2.shape)
        x = self.unpool(self.up2(torch.cat([x, skip2], 1)), indices1, output_size=skip1.shape)
        return self.score(self.up1(torch.cat([x, skip1], 1)))


class LeNet(nn.Module):
    """One channel of 28x28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))))


class Perceptron(nn.Module):
    """Takes rows of the 784 pixels of a grey image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 48), nn.Linear(48, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Several(nn.Module):
    """A mask and logits, in a dict or a tuple."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.named = named
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.mask, self.head = nn.Conv2d(8, 2, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor] | tuple[Tensor, Tensor]:
        x = self.body(x)
        mask, logits = self.mask(x), self.head(x.mean((2, 3)))
        return {"mask": mask, "logits": logits} if self.named else (mask, logits)


def in_a_dict() -> nn.Module:
    return Several(named=True)


def in_a_tuple() -> nn.Module:
    return Several(named=False)


class Stereo(nn.Module):
    """Two images at once, which no command can give it."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(6, 4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.both(torch.cat([left, right], 1))


@dataclass
class Classified:
    logits: Tensor
    maps: Tensor | None = None


class AsksForSizes(nn.Module):
    """As networks of the hubs are: padded by the size of its maps, with checks of it, and a dataclass for a result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, pixel_values: Tensor | None = None, labels: Tensor | None = None) -> Classified:
        assert pixel_values is not None
        if pixel_values.shape[1] != self.first.in_channels:
            raise ValueError(f"three channels are needed, got {pixel_values.shape[1]}")
        missing = [(math.ceil(size / 2) - 1) * 2 + 3 - size for size in pixel_values.shape[-2:]]
        x = F.relu(self.first(F.pad(pixel_values, (0, missing[1], 0, missing[0]))))
        if min(x.shape[-2:]) > 4:
            x = F.max_pool2d(x, 2)
        batch, *_ = (maps := self.block(x)).shape
        return Classified(self.head(maps.mean((2, 3)).view(batch, -1)))


class ForEvenSizes(nn.Module):
    """An `AsksForSizes` as it is for images of even sides, in a form that asks for nothing."""

    def __init__(self, network: AsksForSizes) -> None:
        super().__init__()
        self.first, self.block, self.head = network.first, network.block, network.head

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.pad(x, (0, 1, 0, 1))))
        return self.head(self.block(F.max_pool2d(x, 2)).mean((2, 3)))


class VolumeBlock(nn.Module):
    """A residual block of volumes with batch normalisation."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, 1, 1, bias=False), nn.BatchNorm3d(width)
        self.relu, self.skip = nn.ReLU(), nn.Conv3d(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.skip(x))


def volume_residual() -> nn.Module:
    first = (nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 3, 2), (1, 2, 2)))
    return nn.Sequential(*first, VolumeBlock(4, 6, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3))


class VolumeUNet(nn.Module):
    """One level of a U-Net of volumes of two channels, which ends in maps."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bn, self.pool = nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.MaxPool3d(2)
        self.middle, self.up = nn.Conv3d(4, 6, 3, padding=1), nn.ConvTranspose3d(6, 4, 2, 2)
        self.head = nn.Conv3d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.down(x)))
        return self.head(torch.cat([y, F.relu(self.up(F.relu(self.middle(self.pool(y)))))], 1))


def signal_chain() -> nn.Module:
    """Of signals of two channels, with batch normalisation and overlapping pools."""
    first = (nn.Conv1d(2, 6, 7, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(3, 2))
    return nn.Sequential(*first, nn.Conv1d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))
