"""Transformations of the waveform: the defences without training that the paper compares itself with.

Yang et al. 2019 and Rajaratnam & Alshemali 2018, with the parameters of the paper's released code. None
draws noise, and all pass gradients, rounding by a declared straight-through estimate.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor, nn

from audiopure.audio.resampling import resample_differentiable
from audiopure.defences.base import WaveformDefence
from audiopure.errors import InputError
from audiopure.noise import NoiseSource

FADE = 1e-9  # relative to its maximum, where an impulse response counts as over


class Transformation(WaveformDefence):
    """A defence without randomness that does the same to every clip, however long."""

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        return self.transform(x)

    def transform(self, x: Tensor) -> Tensor:
        """Shape: (B, T) -> (B, T)."""
        raise NotImplementedError


class AverageSmoothing(Transformation):
    """Each sample becomes the mean of `width` samples around it, zeros beyond the ends (AS)."""

    def __init__(self, width: int = 3, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        self.width = _odd(width)

    def transform(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool1d(x[:, None], self.width, 1, self.width // 2)[:, 0]


class MedianSmoothing(Transformation):
    """Each sample becomes the median of `width` samples around it, zeros beyond the ends (MS)."""

    def __init__(self, width: int = 3, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        self.width = _odd(width)

    def transform(self, x: Tensor) -> Tensor:
        half = self.width // 2
        return nn.functional.pad(x, (half, half)).unfold(1, self.width, 1).median(-1).values


class Downsampling(Transformation):
    """Down to `rate` Hz and up again (DS)."""

    def __init__(self, rate: int = 8000, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        if not 0 < rate < sample_rate:
            raise InputError(f"downsampling goes to a rate between 0 and {sample_rate} Hz, got {rate}")
        self.rate = rate

    def transform(self, x: Tensor) -> Tensor:
        # zeros on both sides, as the resampler would repeat the ends
        unit = self.sample_rate // math.gcd(self.sample_rate, self.rate)
        extra = unit * math.ceil(1000 / unit)
        wide = nn.functional.pad(x, (extra, 2 * extra))
        low = resample_differentiable(wide, self.sample_rate, self.rate)
        return resample_differentiable(low, self.rate, self.sample_rate)[:, extra : extra + x.shape[1]]


class Filter(Transformation):
    """A causal linear filter given by second-order sections, cut to [-1, 1] as in the paper's code."""

    response: Tensor

    def __init__(self, sections: NDArray[np.float64], sample_rate: int):
        super().__init__(sample_rate)
        impulse = np.zeros(sample_rate)
        impulse[0] = 1
        response = np.asarray(signal.sosfilt(sections, impulse))
        loud = np.flatnonzero(np.abs(response) > FADE * np.abs(response).max())
        self.register_buffer("response", torch.tensor(response[: loud[-1] + 1]), persistent=False)

    def transform(self, x: Tensor) -> Tensor:
        response = self.response.to(x.dtype)
        size = x.shape[1] + len(response) - 1
        product = torch.fft.rfft(x, n=size) * torch.fft.rfft(response, n=size)
        return torch.fft.irfft(product, n=size)[:, : x.shape[1]].clamp(-1, 1)


class LowPass(Filter):
    """Butterworth low-pass (LPF).

    The paper's code asks for 3 dB at 4 kHz and 40 dB at 8 kHz, which at 16 kHz is half the sample rate, so
    that the order comes out as 1.
    """

    def __init__(self, cutoff: float = 4000.0, stop: float = 8000.0, *, sample_rate: int = 16_000):
        super().__init__(_butterworth((cutoff,), (stop,), "lowpass", sample_rate), sample_rate)
        self.cutoff, self.stop = cutoff, stop


class BandPass(Filter):
    """Butterworth band-pass (BPF): 3 dB at `low` and `high`, 40 dB at the two edges of the stop band."""

    def __init__(
        self,
        low: float = 300.0,
        high: float = 4000.0,
        stop_low: float = 50.0,
        stop_high: float = 8000.0,
        *,
        sample_rate: int = 16_000,
    ):
        sections = _butterworth((low, high), (stop_low, stop_high), "bandpass", sample_rate)
        super().__init__(sections, sample_rate)
        self.low, self.high, self.stop_low, self.stop_high = low, high, stop_low, stop_high


class Quantisation(Transformation):
    """Samples rounded to multiples of `step` in 16-bit units (Yang et al.: 128 to 1024).

    Rounding has no slope: gradients pass straight through, which is declared (`bpda`).
    """

    bpda = True

    def __init__(self, step: int = 256, *, sample_rate: int = 16_000):
        super().__init__(sample_rate)
        if step < 1:
            raise InputError(f"a quantisation step is at least 1, got {step}")
        self.step = step

    def transform(self, x: Tensor) -> Tensor:
        unit = self.step / 32768
        return x + ((x / unit).round() * unit - x).detach()


def _odd(width: int) -> int:
    if width < 1 or width % 2 == 0:
        raise InputError(f"a smoothing window has an odd width, got {width}")
    return width


def _butterworth(
    passed: tuple[float, ...], stopped: tuple[float, ...], kind: str, sample_rate: int
) -> NDArray[np.float64]:
    """Sections of the smallest order with 3 dB at the edges that pass and 40 dB at those that stop."""
    half = sample_rate / 2
    if not all(0 < edge < half for edge in passed) or not all(0 < edge for edge in stopped):
        raise InputError(f"the edges of a filter lie between 0 and {half:g} Hz, got {passed} and {stopped}")
    # half the sample rate itself cannot be reached; the released code's library takes it as it is
    edges = [min(edge / half, 1 - 1e-9) for edge in stopped]
    order, natural = signal.buttord([edge / half for edge in passed], edges, 3, 40)
    return np.asarray(signal.butter(order, natural, kind, output="sos"))
