"""Well-known networks, thin but of their true topology and in their usual spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconv_kernels.nn as own


class AlexNet(nn.Module):
    """Krizhevsky 2014, as torchvision has it: no response normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(6, 10, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(10, 12, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(8 * 36, 16), nn.ReLU(inplace=True)),
            *(nn.Dropout(), nn.Linear(16, 12), nn.ReLU(inplace=True), nn.Linear(12, 5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class VGG(nn.Module):
    """Simonyan & Zisserman 2014; numbers are widths, "M" is a max pool."""

    def __init__(self, plan: Sequence[int | str], batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in plan:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            *(nn.Linear(channels * 49, 16), nn.ReLU(True), nn.Dropout(p=0.5)),
            *(nn.Linear(16, 12), nn.ReLU(True), nn.Dropout(p=0.5), nn.Linear(12, 5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class ZFNet(nn.Module):
    """Zeiler & Fergus 2013, with response normalisation after the first two pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 7, 2, 1), nn.Conv2d(6, 8, 5, 2)
        self.conv3, self.conv4, self.conv5 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norm = nn.LocalResponseNorm(5, alpha=0.1)
        self.fc6, self.fc7, self.fc8 = nn.Linear(8 * 2, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1))
        x = self.norm(F.max_pool2d(F.relu(self.conv2(x)), 3, 2, 1))
        x = F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))
        x = F.max_pool2d(x, 3, 2).view(x.size(0), -1)
        x = F.dropout(F.relu(self.fc6(x)), training=self.training)
        x = F.dropout(F.relu(self.fc7(x)), training=self.training)
        return self.fc8(x)


class Fire(nn.Module):
    """Of SqueezeNet."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, version 1.1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, kernel_size=3, stride=2), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True), Fire(6, 3, 4), Fire(8, 3, 4)),
            *(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True), Fire(8, 3, 5), Fire(10, 3, 5)),
            *(nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True), Fire(10, 4, 6), Fire(12, 4, 6)),
            *(Fire(12, 4, 6), Fire(12, 4, 6)),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5), nn.Conv2d(12, 5, kernel_size=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class BasicConv2d(nn.Module):
    """Convolution, batch norm and rectifier of GoogLeNet and Inception v3."""

    def __init__(self, channels: int, width: int, **window: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, bias=False, **window)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """The module of GoogLeNet."""

    def __init__(self, channels: int, width: int = 3) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(channels, width, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(channels, width, kernel_size=1), BasicConv2d(width, width, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(channels, 2, kernel_size=1), BasicConv2d(2, width, kernel_size=3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            BasicConv2d(channels, width, kernel_size=1),
        )

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


def imagenet_to_half(x: Tensor) -> Tensor:
    """What the pretrained GoogLeNet and Inception v3 begin with: from one normalisation of colours to another."""
    red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
    green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
    blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
    return torch.cat((red, green, blue), 1)


class GoogLeNet(nn.Module):
    """Szegedy et al. 2014, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 6, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(6, 6, kernel_size=1)
        self.conv3 = BasicConv2d(6, 12, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a, self.inception3b = Inception(12), Inception(12)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a, self.inception4b, self.inception4c = (Inception(12) for _ in range(3))
        self.inception4d, self.inception4e = Inception(12), Inception(12)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a, self.inception5b = Inception(12), Inception(12)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=0.2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(imagenet_to_half(x)))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4e(self.inception4d(self.inception4c(self.inception4b(self.inception4a(x)))))
        x = self.inception5b(self.inception5a(self.maxpool4(x)))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


class InceptionA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch5x5_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch5x5_2 = BasicConv2d(3, 3, kernel_size=5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(3, 4, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(4, 4, kernel_size=3, padding=1)
        self.branch_pool = BasicConv2d(channels, 2, kernel_size=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return [branch1x1, branch5x5, branch3x3dbl, branch_pool]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class InceptionB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(channels, 4, kernel_size=3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(3, 3, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(3, 4, kernel_size=3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch3x3 = self.branch3x3(x)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [branch3x3, branch3x3dbl, F.max_pool2d(x, kernel_size=3, stride=2)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class InceptionC(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide, tall = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch7x7_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch7x7_2, self.branch7x7_3 = BasicConv2d(3, 3, **wide), BasicConv2d(3, 3, **tall)
        self.branch7x7dbl_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = BasicConv2d(3, 3, **tall), BasicConv2d(3, 3, **wide)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = BasicConv2d(3, 3, **tall), BasicConv2d(3, 3, **wide)
        self.branch_pool = BasicConv2d(channels, 3, kernel_size=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch7x7dbl = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branch7x7dbl = self.branch7x7dbl_5(self.branch7x7dbl_4(branch7x7dbl))
        branch_pool = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return [branch1x1, branch7x7, branch7x7dbl, branch_pool]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class InceptionD(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch3x3_2 = BasicConv2d(3, 4, kernel_size=3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch7x7x3_2 = BasicConv2d(3, 3, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(3, 3, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(3, 4, kernel_size=3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7x3 = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return [branch3x3, branch7x7x3, F.max_pool2d(x, kernel_size=3, stride=2)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class InceptionE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide, tall = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch3x3_1 = BasicConv2d(channels, 3, kernel_size=1)
        self.branch3x3_2a, self.branch3x3_2b = BasicConv2d(3, 3, **wide), BasicConv2d(3, 3, **tall)
        self.branch3x3dbl_1 = BasicConv2d(channels, 4, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(4, 3, kernel_size=3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = BasicConv2d(3, 3, **wide), BasicConv2d(3, 3, **tall)
        self.branch_pool = BasicConv2d(channels, 3, kernel_size=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)
        branch3x3 = self.branch3x3_1(x)
        branch3x3 = torch.cat([self.branch3x3_2a(branch3x3), self.branch3x3_2b(branch3x3)], 1)
        branch3x3dbl = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branch3x3dbl = torch.cat([self.branch3x3dbl_3a(branch3x3dbl), self.branch3x3dbl_3b(branch3x3dbl)], 1)
        branch_pool = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return [branch1x1, branch3x3, branch3x3dbl, branch_pool]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class InceptionV3(nn.Module):
    """Szegedy et al. 2015: the stem and one block of each type."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 4, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(4, 4, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(4, 6, kernel_size=3, padding=1)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(6, 6, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(6, 8, kernel_size=3)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b, self.Mixed_6a, self.Mixed_6b = InceptionA(8), InceptionB(12), InceptionC(20)
        self.Mixed_7a, self.Mixed_7b = InceptionD(12), InceptionE(20)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=0.5)
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_6a(self.Mixed_5b(self.maxpool2(x)))
        x = self.Mixed_7b(self.Mixed_7a(self.Mixed_6b(x)))
        return self.fc(torch.flatten(self.dropout(self.avgpool(x)), 1))


def conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Of ResNet-18."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, width, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """Of ResNet-50, with the stride at the 3x3 convolution."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv1x1(channels, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """He et al. 2015."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: Sequence[int],
        widths: Sequence[int],
        classes: int = 5,
    ) -> None:
        super().__init__()
        self.block, self.channels = block, widths[0]
        self.conv1 = nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self.stage(widths[0], counts[0], 1)
        self.layer2 = self.stage(widths[1], counts[1], 2)
        self.layer3 = self.stage(widths[2], counts[2], 2)
        self.layer4 = self.stage(widths[3], counts[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.channels, classes)

    def stage(self, width: int, count: int, stride: int) -> nn.Sequential:
        blocks = []
        for index in range(count):
            here, out = stride if index == 0 else 1, width * self.block.expansion
            downsample = None
            if here != 1 or self.channels != out:
                downsample = nn.Sequential(conv1x1(self.channels, out, here), nn.BatchNorm2d(out))
            blocks.append(self.block(self.channels, width, here, downsample))
            self.channels = out
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActivationBlock(nn.Module):
    """Rectifies before it convolves; what it adds to is not rectified."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv3x3(channels, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(conv1x1(channels, width, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += shortcut
        return out


class PreActivationResNet(nn.Module):
    """He et al. 2016, ResNet-18 for small images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 4)
        self.layer1 = nn.Sequential(PreActivationBlock(4, 4, 1), PreActivationBlock(4, 4, 1))
        self.layer2 = nn.Sequential(PreActivationBlock(4, 6, 2), PreActivationBlock(6, 6, 1))
        self.layer3 = nn.Sequential(PreActivationBlock(6, 8, 2), PreActivationBlock(8, 8, 1))
        self.layer4 = nn.Sequential(PreActivationBlock(8, 8, 2), PreActivationBlock(8, 8, 1))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


class DenseLayer(nn.Module):
    """Of DenseNet: takes the list of all maps so far."""

    def __init__(self, channels: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, bottleneck, kernel_size=1, stride=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(bottleneck), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bottleneck, growth, kernel_size=3, stride=1, padding=1, bias=False)
        self.drop_rate = 0.2

    def forward(self, maps: list[Tensor]) -> Tensor:
        bottleneck = self.conv1(self.relu1(self.norm1(torch.cat(maps, 1))))
        new = self.conv2(self.relu2(self.norm2(bottleneck)))
        return F.dropout(new, p=self.drop_rate, training=self.training)


class DenseBlock(nn.ModuleDict):
    def __init__(self, channels: int, count: int, growth: int) -> None:
        super().__init__()
        for index in range(count):
            self.add_module(f"denselayer{index + 1}", DenseLayer(channels + index * growth, growth, 4))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for _, layer in self.items():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Transition(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, width, kernel_size=1, stride=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """Huang et al. 2016, with fewer layers in its four blocks than DenseNet-121."""

    def __init__(self, counts: Sequence[int] = (3, 4, 6, 4), growth: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 4
        self.features.add_module("conv0", nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        for index, count in enumerate(counts, 1):
            self.features.add_module(f"denseblock{index}", DenseBlock(channels, count, growth))
            channels += count * growth
            if index < len(counts):
                self.features.add_module(f"transition{index}", Transition(channels, channels // 2))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class ConvBNReLU6(nn.Sequential):
    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Of MobileNet v2."""

    def __init__(self, channels: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        layers: list[nn.Module] = [ConvBNReLU6(channels, hidden, 1)] if expand != 1 else []
        layers.append(ConvBNReLU6(hidden, hidden, 3, stride, groups=hidden))
        layers += [nn.Conv2d(hidden, width, 1, 1, 0, bias=False), nn.BatchNorm2d(width)]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018: all its blocks, their expansion halved."""

    def __init__(self) -> None:
        super().__init__()
        channels = 4
        features: list[nn.Module] = [ConvBNReLU6(3, channels, 3, 2)]
        settings = ((1, 3, 1, 1), (3, 3, 2, 2), (3, 4, 3, 2), (3, 4, 4, 2), (3, 5, 3, 1), (3, 5, 3, 2), (3, 6, 1, 1))
        for expand, width, count, stride in settings:
            for index in range(count):
                features.append(InvertedResidual(channels, width, stride if index == 0 else 1, expand))
                channels = width
        features.append(ConvBNReLU6(channels, 12, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(p=0.2), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class ShuffleUnit(nn.Module):
    """Of ShuffleNet v2: half of the channels pass unchanged, then they are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch2 = nn.Sequential(
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
            *(nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half)),
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        out = torch.cat((x1, self.branch2(x2)), dim=1)
        batch, channels, height, width = out.size()
        out = out.view(batch, 2, channels // 2, height, width)
        out = torch.transpose(out, 1, 2).contiguous()
        return out.view(batch, channels, height, width)


class ShuffleNet(nn.Module):
    """Ma et al. 2018: the stem and two units."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage2 = nn.Sequential(ShuffleUnit(8), ShuffleUnit(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.maxpool(self.conv1(x)))
        return self.fc(x.mean([2, 3]))


class SegNet(nn.Module):
    """Badrinarayanan et al. 2015: a decoder that unpools by the indices of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
        self.encode1, self.encode2 = self.stage(3, 4), self.stage(4, 6)
        self.decode2, self.decode1 = self.stage(6, 4), self.stage(4, 4)
        self.score = nn.Conv2d(4, 3, 1)

    @staticmethod
    def stage(channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        size1 = x.size()
        x, indices1 = self.pool(self.encode1(x))
        size2 = x.size()
        x, indices2 = self.pool(self.encode2(x))
        x = self.decode2(self.unpool(x, indices2, output_size=size2))
        x = self.decode1(self.unpool(x, indices1, output_size=size1))
        return self.score(x)


class UNetWithMaxUnpool(nn.Module):
    """A U-Net that goes up by max-unpooling and joins what it skipped, in functional spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = F.relu(self.down1(x))
        y, indices1 = F.max_pool2d(skip1, 2, return_indices=True)
        skip2 = F.relu(self.down2(y))
        y, indices2 = F.max_pool2d(skip2, kernel_size=3, stride=3, return_indices=True)
        y = F.max_unpool2d(y, indices2, 3, 3, output_size=skip2.shape[2:])
        y = F.relu(self.up2(torch.cat([y, skip2], dim=1)))
        y = F.max_unpool2d(y, indices1, 2, output_size=skip1.size())
        return F.relu(self.up1(torch.cat([skip1, y], dim=1)))


class UNetWithSwitches(nn.Module):
    """A U-Net that pools and unpools by the package's own layers, which rectify too."""

    def __init__(self) -> None:
        super().__init__()
        self.pool1 = own.MaxPool2d(3, 2, 1, return_switches=True, relu=True)
        self.pool2 = own.MaxPool2d(2, return_switches=True, ceil_mode=True)
        self.unpool2, self.unpool1 = own.MaxUnpool2d(2, relu=True), own.MaxUnpool2d(3, 2, 1, overlap="last")
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        y, switches1 = self.pool1(skip1)
        skip2 = self.down2(y)
        y, switches2 = self.pool2(skip2)
        y = self.unpool2(self.up2(y), switches2, output_size=skip2.shape[2:])
        y = self.unpool1(y, switches1, output_size=skip1.shape[2:])
        return self.up1(torch.cat([skip1, y], dim=1))


class DoubleConv(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            *(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        )


class UpAndPad(nn.Module):
    """Transposed convolution, padded to the size of the skip, whatever that is."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(channels // 2 + width, width)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        rows = x2.size()[2] - x1.size()[2]
        columns = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNetTransposed(nn.Module):
    """Ronneberger et al. 2015, as it is usually written today."""

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1 = DoubleConv(3, 4), nn.Sequential(nn.MaxPool2d(2), DoubleConv(4, 6))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(6, 8))
        self.up1, self.up2 = UpAndPad(8, 6), UpAndPad(6, 4)
        self.outc = nn.Conv2d(4, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x = self.up1(self.down2(x2), x2)
        return self.outc(self.up2(x, x1))


class UNetNearest(nn.Module):
    """A U-Net that goes up by nearest interpolation to the size of what it skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 4), (4, 6), (6, 8)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((14, 6), (10, 4)))
        self.score = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = torch.relu(self.down[0](x))
        skip2 = torch.relu(self.down[1](F.max_pool2d(skip1, 2)))
        x = torch.relu(self.down[2](F.avg_pool2d(skip2, 2)))
        x = F.interpolate(x, size=skip2.shape[2:], mode="nearest")
        x = self.up[0](torch.cat((x, skip2), 1)).relu()
        x = F.interpolate(x, size=skip1.shape[2:], mode="nearest")
        return self.score(self.up[1](torch.cat((x, skip1), 1)).relu_())


class SignalBlock(nn.Module):
    """A residual block of a network for electrocardiograms."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, width, 7, stride, padding=3, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv1d(width, width, 7, padding=3, bias=False)
        self.shortcut = nn.Sequential(nn.Conv1d(channels, width, 1, stride, bias=False), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class SignalResNet(nn.Module):
    """A residual network of one dimension, as they are used for electrocardiograms and sound."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 4, 9, 2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(3, 2, 1))
        self.layer1, self.layer2 = SignalBlock(4, 4, 1), SignalBlock(4, 6, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool1d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class UNetOfSignals(nn.Module):
    """A U-Net of one dimension that unpools by the indices of its pool, and by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)
        self.pool, self.unpool = nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)
        self.up, self.top = nn.ConvTranspose1d(4, 4, 3), nn.Conv1d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down1(x))
        x, indices = self.pool(skip)
        x = F.relu(self.up(F.relu(self.down2(x))))
        x = self.unpool(x, indices, output_size=skip.shape[2:])
        return self.top(torch.cat((x, skip), 1))


class C3D(nn.Module):
    """Tran et al. 2015, in small: convolutions of 3 x 3 x 3 over clips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv3d(3, 4, 3, padding=1), nn.MaxPool3d((1, 2, 2))
        self.conv2, self.pool2 = nn.Conv3d(4, 4, 3, padding=1), nn.MaxPool3d(2)
        self.conv3a, self.conv3b = nn.Conv3d(4, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.pool3, self.relu = nn.MaxPool3d(2, ceil_mode=True), nn.ReLU()
        self.fc6, self.fc7 = nn.Linear(6 * 3 * 2 * 3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.conv1(x)))
        x = self.pool2(self.relu(self.conv2(x)))
        x = self.pool3(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
        return self.fc7(self.relu(self.fc6(x.flatten(1))))


class UNetOfVolumes(nn.Module):
    """A residual U-Net of three dimensions with batch normalisation, switches and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.down, self.bottom = nn.Conv3d(4, 4, 3, (1, 2, 2), 1), nn.Conv3d(4, 4, 3, padding=1)
        self.pool = own.MaxPool3d((2, 3, 3), (1, 2, 2), return_switches=True)
        self.unpool = own.MaxUnpool3d((2, 3, 3), (1, 2, 2))
        self.up, self.top = nn.ConvTranspose3d(4, 4, (1, 2, 2), (1, 2, 2)), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.norm(self.first(x)))
        x, switches = self.pool(skip)
        y = F.relu(self.down(x))
        y = F.relu(self.bottom(y) + y)
        x = self.up(y)[..., : x.shape[3], : x.shape[4]] + x
        x = self.unpool(x, switches, skip.shape)
        return self.top(torch.cat((x, skip), 1))
