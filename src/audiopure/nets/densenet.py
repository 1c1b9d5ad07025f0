"""DenseNet-BC for 32 x 32 inputs (Huang et al., 2017, "Densely Connected Convolutional Networks")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiopure.errors import InputError


class _DenseLayer(nn.Module):
    """A bottleneck of 4 x growth channels, then `growth` new channels appended to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], dim=1)


class _Transition(nn.Module):
    """Compression by a 1x1 convolution, then 2x2 average pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNetBC(nn.Module):
    """DenseNet-BC-100-12 by default: three blocks of 16 layers, compression a half; 768,730 parameters.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input image; 1 for a spectrogram.
        depth: 6 n + 4 layers, n dense layers in each block.
        growth: channels each dense layer adds.

    Shape: `(B, in_channels, H, W)` -> logits `(B, n_classes)`; the published size is 32 x 32, others work.
    """

    def __init__(self, n_classes: int = 10, in_channels: int = 1, depth: int = 100, growth: int = 12) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InputError(f"the depth of a DenseNet-BC is 6 n + 4, got {depth}")
        self.config = dict(n_classes=n_classes, in_channels=in_channels, depth=depth, growth=growth)
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                layers.append(_Transition(channels, channels // 2))
                channels //= 2
            for _ in range((depth - 4) // 6):
                layers.append(_DenseLayer(channels, growth))
                channels += growth
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images `(B, in_channels, H, W)`."""
        h = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.classifier(h.mean(dim=(2, 3)))
