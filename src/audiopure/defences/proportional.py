"""Noise in proportion to what a clip masks (Mendes & Hogan 2020): an empirical defence.

It carries no certificate: how much noise a clip gets depends on the clip, and the noise keeps the clip's
phase, so that it is neither the same around two clips nor of mean zero, as randomized smoothing needs it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from audiopure import psychoacoustics
from audiopure.defences.base import WaveformDefence
from audiopure.noise import FORWARD, NoiseSource


class ProportionalNoise(WaveformDefence):
    """Adds noise whose short-time magnitude is drawn about the masking threshold, with the clip's own phase.

    In every bin the magnitude is max(0, N(3 k theta, (k theta)^2)), theta the threshold as a magnitude and
    k = 10^factor, as in the authors' code. The threshold counts as a constant for gradients, which is
    declared (`bpda`).

    Args:
        factor: log10 of k; at 0 the noise is mostly audible, at -1 it hides.
        sample_rate: in Hz, at least 4 kHz.
    """

    bpda, random = True, True

    def __init__(self, factor: float = 0.0, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        self.factor = factor

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        masking = psychoacoustics.masking_threshold(x, self.sample_rate, lengths)
        size = 4 * psychoacoustics.hop(self.sample_rate)
        theta = size * psychoacoustics.bin_power(masking).sqrt().transpose(1, 2) * 10**self.factor
        window = torch.hann_window(size, device=x.device, dtype=x.dtype)
        stft = {"n_fft": size, "hop_length": size // 4, "window": window, "center": True}
        spectrum = torch.stft(x, **stft, pad_mode="constant", return_complex=True)
        magnitude = (3 * theta + theta * self._normal(noise, theta)).relu()
        level = spectrum.abs().clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
        return x + torch.istft(spectrum / level * magnitude, **stft, length=x.shape[1])

    @staticmethod
    def _normal(noise: NoiseSource, like: Tensor) -> Tensor:
        count = (like.shape[0], math.prod(like.shape[1:]))
        return noise.normal(count, draw=FORWARD, device=like.device, dtype=like.dtype).reshape(like.shape)
