"""Wide residual networks (Zagoruyko and Komodakis, 2016, Table 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class _WideBlock(nn.Module):
    """Two pre-activated 3x3 convolutions; a 1x1 shortcut, fed by the activation, where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        h = self.dropout(F.relu(self.norm2(self.conv1(activated))))
        return self.conv2(h) + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet28(nn.Module):
    """WideResNet-28-10 by default: groups of 160, 320 and 640 channels; 36,478,906 parameters.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input image; 1 for a spectrogram.
        widen: width factor k.
        dropout: probability between the two convolutions of a block.

    Shape: `(B, in_channels, H, W)` -> logits `(B, n_classes)`; the published size is 32 x 32, others work.
    """

    def __init__(
        self,
        n_classes: int = 10,
        in_channels: int = 1,
        widen: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = dict(n_classes=n_classes, in_channels=in_channels, widen=widen, dropout=dropout)
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels, groups = 16, []
        for group in range(3):
            outputs = 16 * widen * 2**group
            layers = []
            for block in range(4):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(_WideBlock(channels, outputs, stride, dropout))
                channels = outputs
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images `(B, in_channels, H, W)`."""
        h = F.relu(self.norm(self.groups(self.stem(x))))
        return self.classifier(h.mean(dim=(2, 3)))
