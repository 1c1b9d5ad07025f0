"""Noise in proportion to what a clip masks (Mendes & Hogan 2020): an empirical defence.

It carries no certificate: how much noise a clip gets depends on the clip, and the noise keeps the clip's
phase, so that it is neither the same around two clips nor of mean zero, as randomized smoothing needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audiopure import psychoacoustics
from audiopure.defences.base import WaveformDefence, each_length
from audiopure.errors import InputError
from audiopure.noise import FORWARD, NoiseSource

FADE = 1e-8  # of a clip's loudest bin, as energy


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
        if not -6 <= factor <= 6:
            raise InputError(f"the factor of masked noise lies between -6 and 6, got {factor:g}")
        self.factor = factor

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        size = 4 * psychoacoustics.hop(self.sample_rate)
        bins, frames = size // 2 + 1, 1 + x.shape[1] // (size // 4)
        # frame by frame, so that a clip has the same draws however far it is padded
        drawn = noise.normal((len(x), frames * bins), draw=FORWARD, device=x.device, dtype=x.dtype)
        normal = drawn.unflatten(1, (frames, bins)).transpose(1, 2)
        return each_length(x, lengths, lambda rows, clips: self._noisy(clips, normal[rows]))

    def _noisy(self, x: Tensor, normal: Tensor) -> Tensor:
        masking = psychoacoustics.masking_threshold(x, self.sample_rate)
        size = 4 * psychoacoustics.hop(self.sample_rate)
        theta = size * psychoacoustics.bin_power(masking).sqrt().transpose(1, 2) * 10**self.factor
        window = torch.hann_window(size, device=x.device, dtype=x.dtype)
        stft = {"n_fft": size, "hop_length": size // 4, "window": window, "center": True}
        spectrum = torch.stft(x, **stft, pad_mode="constant", return_complex=True)
        magnitude = (3 * theta + theta * normal[:, :, : theta.shape[2]]).relu()
        # silence has no phase: below a level far under the clip's the noise fades, and the slope is bounded
        energy = spectrum.real.square() + spectrum.imag.square()
        floor = (FADE * energy.detach().amax((1, 2), keepdim=True)).clamp(min=torch.finfo(x.dtype).tiny)
        direction = spectrum * torch.maximum(energy, floor).rsqrt()
        return x + torch.istft(direction * magnitude, **stft, length=x.shape[1])
