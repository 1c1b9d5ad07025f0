"""The paper's image classifiers as recognisers: waveform -> log-mel of one second -> logits (section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.frontend import sc09_log_mel
from audiopure.nets.densenet import DenseNetBC
from audiopure.nets.m5 import DIGITS
from audiopure.nets.resnext import ResNeXt29
from audiopure.nets.vgg import VGG19BN
from audiopure.nets.wideresnet import WideResNet28

NETWORKS: Mapping[str, type[nn.Module]] = {
    "resnext29": ResNeXt29,
    "vgg19bn": VGG19BN,
    "wideresnet28": WideResNet28,
    "densenetbc": DenseNetBC,
}


class MelRecogniser(nn.Module):
    """One of the paper's networks behind the paper's front end.

    Args:
        network: a name in `NETWORKS`.
        labels: names of the classes, in the order of the logits; default SC09's digits.
        samples: clips are cut or padded with zeros at the end to this many samples at 16 kHz.
        options: further arguments of the network, such as `dropout`.

    Shape: waveforms `(B, T)` in [-1, 1] -> logits `(B, len(labels))`; 16000 samples give 32 x 32 features.
    """

    def __init__(
        self,
        network: str = "resnext29",
        labels: Sequence[str] = DIGITS,
        samples: int = 16000,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise InputError(f"there is no network '{network}'; there are: {', '.join(NETWORKS)}")
        options = dict(options or {})
        self.config = dict(network=network, labels=list(labels), samples=samples, options=options)
        self.labels, self.samples = tuple(labels), samples
        self.frontend = sc09_log_mel()
        self.sample_rate = self.frontend.sample_rate
        self.network = NETWORKS[network](n_classes=len(self.labels), in_channels=1, **options)

    def forward(self, waveform: Tensor) -> Tensor:
        """Logits of waveforms `(B, T)`; raises InputError for any other number of axes."""
        if waveform.ndim != 2:
            raise InputError(f"a recogniser takes waveforms (B, T), got shape {tuple(waveform.shape)}")
        return self.from_log_mel(self.frontend(self.padded(waveform)))

    def padded(self, waveform: Tensor) -> Tensor:
        """The clip cut or continued by zeros. Shape: (B, T) -> (B, samples)."""
        return F.pad(waveform, (0, self.samples - waveform.shape[-1]))

    def from_log_mel(self, decibel: Tensor) -> Tensor:
        """Logits from what `frontend` gives. Shape: (B, 32, frames) -> (B, labels)."""
        return self.network(decibel.unsqueeze(1))
