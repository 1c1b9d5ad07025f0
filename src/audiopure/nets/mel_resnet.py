"""The compact recogniser: a small residual network over a log-mel spectrogram, waveform in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from audiopure.frontend import LogMel, MelSpectrogram
from audiopure.nets.folding import Folding
from audiopure.padding import at_least

# dB: where speech lies in these mel bands, so that the network sees values of order one
CENTRE, SPREAD = -10.0, 15.0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut. Shape: (B, c_in, M, F) -> (B, c_out, ceil(M/s), ceil(F/s))."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = Folding(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = Folding(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class MelResNet(nn.Module):
    """Recogniser of short words.

    Args:
        labels: the words, in the order of the logits.
        width: channels of the first stage; the stages have 1, 2, 4 and 6 times as many.
        mels: mel bands.
        amin: power below which the log-mel is flat; the larger, the less faint sounds matter.

    Shape: waveform (B, T) at 16 kHz -> logits (B, len(labels)). Shorter clips are padded to one second.
    """

    sample_rate = 16_000

    def __init__(self, *, labels: Sequence[str], width: int = 24, mels: int = 64, amin: float = 3e-4):
        super().__init__()
        self.labels = tuple(labels)
        self.config = {"labels": list(labels), "width": width, "mels": mels, "amin": amin}
        self.frontend = LogMel(MelSpectrogram(self.sample_rate, 512, hop=160, n_mels=mels, f_min=20), amin)
        self.stem = Folding(nn.Conv2d(1, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            ResidualBlock(width, width, 1),
            ResidualBlock(width, 2 * width, 2),
            ResidualBlock(2 * width, 2 * width, 1),
            ResidualBlock(2 * width, 4 * width, 2),
            ResidualBlock(4 * width, 4 * width, 1),
            ResidualBlock(4 * width, 6 * width, 2),
        )
        self.head = nn.Linear(6 * width, len(self.labels))

    def padded(self, waveform: Tensor) -> Tensor:
        """The clip, with zeros up to one second. Shape: (B, T) -> (B, max(T, 16000))."""
        return at_least(waveform, self.sample_rate)

    def features(self, waveform: Tensor) -> Tensor:
        """Scaled log-mel spectrogram. Shape: (B, T) -> (B, mels, frames)."""
        return (self.frontend(self.padded(waveform)) - CENTRE) / SPREAD

    def classify(self, features: Tensor) -> Tensor:
        """Logits from `features`. Shape: (B, mels, frames) -> (B, labels)."""
        maps = self.stages(self.stem(features.unsqueeze(1)))
        return self.head(maps.mean((-2, -1)))

    def from_log_mel(self, decibel: Tensor) -> Tensor:
        """Logits from what `frontend` gives. Shape: (B, mels, frames) -> (B, labels)."""
        return self.classify((decibel - CENTRE) / SPREAD)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.classify(self.features(waveform))
