"""Classical denoisers that are told the noise level: what the compact purifier has to beat.

Both follow the denoisers' calling convention, `(x (B, T), sigma, lengths) -> (B, T)`, in plain inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiopure.errors import MissingExtraError

SAMPLE_RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class DecisionDirectedWiener:
    """Wiener filter on short-time spectra with the decision-directed a-priori SNR.

    Ephraim and Malah 1984, eq. 51: xi_l = alpha G_{l-1}^2 gamma_{l-1} + (1 - alpha) max(gamma_l - 1, 0), with
    gamma_l = |Y_l|^2 / (sigma^2 ||w||^2) the observed SNR; the gain is Wiener's, G = xi / (1 + xi). Before a
    clip begins there is silence.

    Args:
        alpha: weight of the previous frame's estimate, 0 to 1.
        xi_min: least a-priori SNR, in dB.
        window: length of the Hann window in samples.
        hop: samples between frames; divides `window`, at most half of it.
        gain_floor: least gain; 1 passes the input through.
    """

    alpha: float = 0.96
    xi_min: float = -25.0
    window: int = 512
    hop: int = 128
    gain_floor: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and 0 <= self.gain_floor <= 1):
            raise ValueError("alpha and gain_floor lie between 0 and 1")
        if self.hop < 1 or self.window % self.hop or self.window < 2 * self.hop:
            raise ValueError(f"a hop of {self.hop} does not divide a window of {self.window} twice or more")

    def __call__(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        """Estimate clean signals from x = x0 + sigma z. Shape: x (B, T), sigma () or (B,), lengths (B,)."""
        mask = None
        if lengths is not None:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x * mask
        window = torch.hann_window(self.window, dtype=x.dtype, device=x.device)
        before, frames = self.window - self.hop, -(-(x.shape[1] + self.window - self.hop) // self.hop)
        padded = torch.nn.functional.pad(x, (before, frames * self.hop - x.shape[1]))
        spectrum = torch.fft.rfft(padded.unfold(1, self.window, self.hop) * window)
        variance = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).square() * window.square().sum()
        gain = self._gain(spectrum.abs().square() / variance.expand(x.shape[0])[:, None, None])
        out = self._synthesise(spectrum * gain, window)[:, before : before + x.shape[1]]
        return out if mask is None else out * mask

    def _gain(self, gamma: Tensor) -> Tensor:
        """Gains from observed SNRs, frame after frame. Shape: (B, F, bins) -> (B, F, bins)."""
        least = 10 ** (self.xi_min / 10)
        instant = (1 - self.alpha) * (gamma - 1).clamp(min=0)
        gains = torch.empty_like(gamma)
        previous = torch.zeros_like(gamma[:, 0])
        for frame in range(gamma.shape[1]):
            xi = (self.alpha * previous + instant[:, frame]).clamp(min=least)
            gains[:, frame] = (xi / (1 + xi)).clamp(min=self.gain_floor)
            previous = gains[:, frame].square() * gamma[:, frame]
        return gains

    def _synthesise(self, spectrum: Tensor, window: Tensor) -> Tensor:
        """Overlap-add with weights that make up for the two windows, whatever the hop."""
        pieces = torch.fft.irfft(spectrum, n=self.window) * window
        count = pieces.shape[1]
        total = (count - 1) * self.hop + self.window

        def overlap_add(columns: Tensor) -> Tensor:
            return torch.nn.functional.fold(
                columns, (1, total), (1, self.window), stride=(1, self.hop)
            ).flatten(1)

        weight = overlap_add(window.square()[None, :, None].expand(1, self.window, count))
        return overlap_add(pieces.transpose(1, 2)) / weight.clamp(min=1e-8)


@dataclass(frozen=True, kw_only=True)
class NoiseReduce:
    """The stationary spectral gate of the package `noisereduce`, given white noise of the true level.

    The clips of a batch go through it as one recording with silence between them; each gets what it would get
    alone (to the precision of float32). Runs on the CPU.

    Args:
        n_std: the threshold in standard deviations of the noise's level in dB (`n_std_thresh_stationary`).
        prop_decrease: how far bins below the threshold are turned down, 0 to 1.
        n_fft: window length in samples; the hop is a quarter of it.
        smooth_hz, smooth_ms: extent to which the mask is smoothed; None is none.
        noise_seconds: length of the noise to learn from.
    """

    n_std: float = 1.5
    prop_decrease: float = 1.0
    n_fft: int = 1024
    smooth_hz: int | None = 500
    smooth_ms: int | None = 50
    noise_seconds: float = 4.0

    def __call__(self, x: Tensor, sigma: float, lengths: Tensor | None = None) -> Tensor:
        """Estimate clean signals from x = x0 + sigma z. Shape: (B, T) -> (B, T).

        Raises MissingExtraError without the extra `tables`.
        """
        try:
            from noisereduce import reduce_noise
        except ImportError as error:
            raise MissingExtraError(
                "NoiseReduce needs noisereduce: pip install 'audiopure[tables]'"
            ) from error
        rng = np.random.default_rng(0)
        profile = sigma * rng.standard_normal(round(self.noise_seconds * SAMPLE_RATE))
        counts = [x.shape[1]] * x.shape[0] if lengths is None else lengths.tolist()
        # far enough apart for windows and mask smoothing, and on the grid of frames
        gap = 4 * self.n_fft
        starts = np.cumsum([0] + [-(-(count + gap) // self.n_fft) * self.n_fft for count in counts])
        joined = np.zeros(starts[-1])
        for row, start, count in zip(x, starts, counts, strict=False):
            joined[start : start + count] = row[:count].cpu().double().numpy()
        options: dict[str, Any] = {
            "prop_decrease": self.prop_decrease,
            "n_std_thresh_stationary": self.n_std,
            "n_fft": self.n_fft,
            "freq_mask_smooth_hz": self.smooth_hz,
            "time_mask_smooth_ms": self.smooth_ms,
            "chunk_size": max(len(joined), len(profile)),  # one piece, however long
            "padding": gap,
        }
        clean = reduce_noise(y=joined, sr=SAMPLE_RATE, stationary=True, y_noise=profile, **options)
        out = torch.zeros_like(x)
        for row, start, count in zip(out, starts, counts, strict=False):
            row[:count] = torch.from_numpy(clean[start : start + count])
        return out
