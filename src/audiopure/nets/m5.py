"""M5: a convolutional network on raw audio (Dai et al., 2017, "Very Deep Convolutional Neural Networks")."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from audiopure.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SHORTEST = 6848  # leaves one value after the fourth pooling


class M5(nn.Module):
    """M5 with the widths of the released AudioPure code, 32-32-64-64: 25,290 parameters for ten labels.

    Args:
        labels: names of the classes, in the order of the outputs; default SC09's digits.
        sample_rate: rate of the waveforms in Hz. The first filters span 80 samples, 5 ms at 16 kHz.
        samples: shorter clips are padded with zeros at the end to this length, that of published training.

    Shape: waveforms `(B, T)` or `(B, 1, T)` in [-1, 1] -> log-probabilities `(B, len(labels))`. The last
    layer averages over time, so a clip longer than `samples` is heard whole.
    """

    def __init__(
        self, labels: Sequence[str] = DIGITS, sample_rate: int = 16000, samples: int = 16000
    ) -> None:
        super().__init__()
        if samples < _SHORTEST:
            raise InputError(f"M5 needs clips of at least {_SHORTEST} samples, got samples={samples}")
        self.config = dict(labels=list(labels), sample_rate=sample_rate, samples=samples)
        self.labels, self.sample_rate, self.samples = tuple(labels), sample_rate, samples
        stages = [(1, 32, 80, 16), (32, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in stages:
            convolution = nn.Conv1d(inputs, outputs, kernel, stride)
            layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, len(self.labels))

    def forward(self, waveform: Tensor) -> Tensor:
        """Log-probabilities of waveforms `(B, T)` or `(B, 1, T)`; raises InputError for any other shape."""
        x = waveform.unsqueeze(1) if waveform.ndim == 2 else waveform
        if x.ndim != 3 or x.shape[1] != 1:
            raise InputError(f"M5 takes waveforms (B, T) or (B, 1, T), got shape {tuple(waveform.shape)}")
        x = F.pad(x, (0, max(0, self.samples - x.shape[-1])))
        return F.log_softmax(self.classifier(self.features(x).mean(dim=-1)), dim=-1)
