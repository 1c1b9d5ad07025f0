"""Classical defences that add noise or remove it, without any training."""

from __future__ import annotations

import torch
from torch import Tensor

from audiopure.defences.base import WaveformDefence, each_length
from audiopure.errors import InputError
from audiopure.noise import FORWARD, NoiseSource

SILENCE = 1e-20  # power


class AdditiveNoise(WaveformDefence):
    """White noise at a signal-to-noise ratio: the simplest random defence.

    Args:
        snr: dB of the clip over the noise; the paper's code has 25.
    """

    random = True

    def __init__(self, snr: float = 25.0, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        if not -100 <= snr <= 200:
            raise InputError(f"a signal-to-noise ratio lies between -100 and 200 dB here, got {snr:g}")
        self.snr = snr

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        drawn = noise.normal((x.shape[0], x.shape[1]), draw=FORWARD, device=x.device, dtype=x.dtype)
        power = x.square().sum(1, keepdim=True) / lengths[:, None]
        # silence gets none, and has a slope
        return x + power.clamp(min=SILENCE).sqrt() * 10 ** (-self.snr / 20) * drawn


class SpectralGating(WaveformDefence):
    """Bins of the short-time spectrum that hardly rise above their frequency's floor are turned down.

    The floor of a frequency is a low quantile of its level over time; a soft gate opens over it. (Sainburg's
    noisereduce estimates the floor from mean and deviation.)

    Args:
        threshold: dB above the floor at which the gate is half open.
        reduction: dB by which a closed gate turns down.
        quantile: of the levels of a frequency, for its floor.
    """

    WINDOW, HOP = 512, 128
    SLOPE = 0.5  # of the gate, 1/dB

    def __init__(
        self,
        threshold: float = 12.0,
        reduction: float = 20.0,
        quantile: float = 0.2,
        *,
        sample_rate: int = 16_000,
    ):
        super().__init__(sample_rate)
        if reduction < 0 or not 0 <= quantile <= 1:
            raise InputError("spectral gating needs a reduction of at least 0 dB and a quantile in [0, 1]")
        self.threshold, self.reduction, self.quantile = threshold, reduction, quantile

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        return each_length(x, lengths, lambda rows, clips: self._gated(clips))  # the floor is that of a clip

    def _gated(self, x: Tensor) -> Tensor:
        window = torch.hann_window(self.WINDOW, device=x.device, dtype=x.dtype)
        settings = {"n_fft": self.WINDOW, "hop_length": self.HOP, "window": window}
        spectrum = torch.stft(x, **settings, pad_mode="constant", return_complex=True)
        level = 10 * torch.log10(spectrum.real.square() + spectrum.imag.square() + 1e-10)
        floor = level.quantile(self.quantile, dim=2, keepdim=True)
        closed = torch.sigmoid(-self.SLOPE * (level - floor - self.threshold))
        gain = 10 ** (-self.reduction * closed / 20)
        return torch.istft(spectrum * gain, **settings, length=x.shape[1])
