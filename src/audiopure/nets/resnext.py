"""ResNeXt for 32 x 32 inputs (Xie et al., 2017, "Aggregated Residual Transformations", section 5.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class _Bottleneck(nn.Module):
    """1x1 reduce, grouped 3x3, 1x1 expand, with a projection shortcut where the width changes (Fig. 3c)."""

    def __init__(self, inputs: int, outputs: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, width, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(width)
        self.grouped = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.grouped_norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, outputs, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.reduce_norm(self.reduce(x)))
        h = F.relu(self.grouped_norm(self.grouped(h)))
        return F.relu(self.shortcut(x) + self.expand_norm(self.expand(h)))


class ResNeXt29(nn.Module):
    """ResNeXt-29, 8 x 64d by default: three stages of 256, 512 and 1024 channels; 34,425,546 parameters.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input image; 1 for a spectrogram.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels per group in the first stage.

    Shape: `(B, in_channels, H, W)` -> logits `(B, n_classes)`; the published size is 32 x 32, others work.
    """

    def __init__(
        self,
        n_classes: int = 10,
        in_channels: int = 1,
        cardinality: int = 8,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.config = dict(
            n_classes=n_classes,
            in_channels=in_channels,
            cardinality=cardinality,
            base_width=base_width,
        )
        self.stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        channels, stages = 64, []
        for stage in range(3):
            outputs, width = 256 * 2**stage, cardinality * base_width * 2**stage
            layers = []
            for block in range(3):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Bottleneck(channels, outputs, width, cardinality, stride))
                channels = outputs
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images `(B, in_channels, H, W)`."""
        h = self.stages(F.relu(self.stem_norm(self.stem(x))))
        return self.classifier(h.mean(dim=(2, 3)))
