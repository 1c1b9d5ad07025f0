"""VGG with batch normalisation (Simonyan and Zisserman, 2015, Table 1), its head cut to 32 x 32 inputs."""

from __future__ import annotations

from torch import Tensor, nn

from audiopure.errors import InputError

# (channels, convolutions) between poolings: configuration E
_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class VGG19BN(nn.Module):
    """VGG-19 with batch normalisation (configuration E); 38,957,770 parameters.

    Args:
        n_classes: number of logits.
        in_channels: channels of the input image; 1 for a spectrogram.
        dropout: probability in the two hidden linear layers.

    Shape: `(B, in_channels, H, W)` -> logits `(B, n_classes)`, H and W at least 32. The published head sees
    512 x 7 x 7 values of a 224 x 224 image; here 512, the average over what five poolings leave.
    """

    def __init__(self, n_classes: int = 10, in_channels: int = 1, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = dict(n_classes=n_classes, in_channels=in_channels, dropout=dropout)
        layers: list[nn.Module] = []
        channels = in_channels
        for width, repeats in _STAGES:
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, n_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images `(B, in_channels, H, W)`; raises InputError below 32 x 32."""
        if min(x.shape[-2:]) < 32:
            raise InputError(f"VGG-19 needs inputs of at least 32 x 32, got {x.shape[-2]} x {x.shape[-1]}")
        return self.classifier(self.features(x).mean(dim=(2, 3)))
