"""Differentiable spectral front ends over `torch.stft`: power spectrogram, mel, log-mel, MFCC.

Every module takes waveforms `(..., time)` in [-1, 1] and returns features `(..., bins, frames)`, with
`frames = 1 + time // hop` (frames are centred). The numbers are those of librosa and torchaudio, and the
gradient is finite everywhere, digital silence included, so that an attack can be driven through them.

Constant tensors are kept out of `state_dict`: they follow from the arguments. They are held in float32
(float64 after `.double()`), never less, and the computation is done in that precision even inside `autocast`;
the features come back in the dtype of the waveform.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audiopure.errors import InputError

MelScale = Literal["slaney", "htk"]
MelNorm = Literal["slaney"] | None
PadMode = Literal["constant", "reflect", "replicate"]

# Slaney's Auditory Toolbox scale: linear to 1 kHz (15 mel), then 27 steps for each factor of 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: NDArray[np.float64], scale: MelScale = "slaney") -> NDArray[np.float64]:
    """Frequencies in Hz on the mel scale of Slaney (Auditory Toolbox) or HTK (O'Shaughnessy)."""
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    logarithmic = np.log(np.maximum(hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.minimum(hz, _SLANEY_BREAK_HZ) / _SLANEY_HZ_PER_MEL + logarithmic


def mel_to_hz(mel: NDArray[np.float64], scale: MelScale = "slaney") -> NDArray[np.float64]:
    """Inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    growth = np.exp(_SLANEY_LOG_STEP * np.maximum(mel - _SLANEY_BREAK_MEL, 0.0))
    return np.minimum(mel, _SLANEY_BREAK_MEL) * _SLANEY_HZ_PER_MEL * growth


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    mel_scale: MelScale = "slaney",
    norm: MelNorm = "slaney",
) -> NDArray[np.float64]:
    """Triangular mel filters, shape `(n_mels, n_fft // 2 + 1)`, float64.

    The triangles are equally spaced in mel between `f_min` and `f_max` (default: half the sample rate) and
    linear in Hz; `norm="slaney"` gives each unit area over Hz, `None` unit height.

    Raises:
        InputError: an empty frequency range, a range beyond the Nyquist frequency, or no filter at all.
    """
    nyquist = sample_rate / 2
    top = nyquist if f_max is None else f_max
    if n_mels < 1 or not 0 <= f_min < top <= nyquist:
        raise InputError(
            f"mel filters need n_mels >= 1 and 0 <= f_min < f_max <= {nyquist:g} Hz, "
            f"got n_mels={n_mels}, f_min={f_min:g}, f_max={top:g}"
        )
    if mel_scale not in ("slaney", "htk") or norm not in ("slaney", None):
        raise InputError(f"mel_scale is slaney or htk and norm slaney or None, got {mel_scale!r}, {norm!r}")
    ends = hz_to_mel(np.array([f_min, top], dtype=np.float64), mel_scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2), mel_scale)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hz = np.linspace(0.0, nyquist, n_fft // 2 + 1)
    rising = (hz - lower) / (centre - lower)
    falling = (upper - hz) / (upper - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (upper - lower)) if norm == "slaney" else triangles


class _Constants(nn.Module):
    """A module with constant tensors, which `.to`, `.half` and `to_empty` may move but not degrade."""

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, NDArray[np.float64]] = {}

    def _constant(self, name: str, value: NDArray[np.float64]) -> None:
        self._exact[name] = value
        self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            buffer = self._buffers[name]
            assert buffer is not None
            dtype = torch.float64 if buffer.dtype == torch.float64 else torch.float32
            self._buffers[name] = torch.tensor(value, device=buffer.device, dtype=dtype)
        return self


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Spectrogram(_Constants):
    """Magnitude to the given power of the centred short-time Fourier transform with a periodic Hann window.

    Args:
        n_fft: transform length in samples.
        win_length: window length in samples, centred in the transform; default `n_fft`.
        hop: samples between frames.
        power: 2 for power, 1 for magnitude, or any other positive exponent.
        pad_mode: how half a transform is added to each end: zeros ("constant"), "reflect" or "replicate".

    Shape: `(..., time)` -> `(..., n_fft // 2 + 1, 1 + time // hop)`.
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int = 2048,
        win_length: int | None = None,
        hop: int = 512,
        power: float = 2.0,
        pad_mode: PadMode = "constant",
    ) -> None:
        super().__init__()
        win_length = n_fft if win_length is None else win_length
        if not 0 < win_length <= n_fft or hop < 1 or power <= 0:
            raise InputError(
                f"a spectrogram needs 0 < win_length <= n_fft, hop >= 1 and power > 0, "
                f"got win_length={win_length}, n_fft={n_fft}, hop={hop}, power={power:g}"
            )
        self.config = dict(n_fft=n_fft, win_length=win_length, hop=hop, power=power, pad_mode=pad_mode)
        self.n_fft, self.win_length, self.hop, self.power = n_fft, win_length, hop, power
        self.pad_mode = pad_mode
        self._constant("window", np.hanning(win_length + 1)[:-1])

    def forward(self, waveform: Tensor) -> Tensor:
        """Spectrogram of `(..., time)`. Raises InputError if there is too little to pad from."""
        time = waveform.shape[-1] if waveform.ndim else 0
        shortest = self.n_fft // 2 + 1 if self.pad_mode == "reflect" else 1
        if time < shortest:
            raise InputError(
                f"the waveform has {time} samples, but n_fft={self.n_fft} with {self.pad_mode} padding "
                f"needs at least {shortest}"
            )
        dtype = _working_dtype(waveform.dtype)
        spectrum = torch.stft(
            waveform.reshape(-1, time).to(dtype),
            self.n_fft,
            self.hop,
            self.win_length,
            self.window.to(dtype),
            center=True,
            pad_mode=self.pad_mode,
            return_complex=True,
        )
        # |z|^2 without the square root of abs(), whose gradient is undefined at silence.
        energy = spectrum.real.square() + spectrum.imag.square()
        if self.power != 2.0:
            silent = energy == 0
            energy = torch.where(silent, 1.0, energy).pow(self.power / 2).masked_fill(silent, 0.0)
        return energy.reshape(*waveform.shape[:-1], *energy.shape[-2:]).to(waveform.dtype)


class MelSpectrogram(_Constants):
    """Spectrogram summed under triangular mel filters (arguments: see `Spectrogram` and `mel_filters`).

    The defaults are the paper's front end (Appendix A): 2048/512, 32 Slaney filters, zero padding.

    Shape: `(..., time)` -> `(..., n_mels, 1 + time // hop)`.
    """

    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 2048,
        win_length: int | None = None,
        hop: int = 512,
        n_mels: int = 32,
        f_min: float = 0.0,
        f_max: float | None = None,
        power: float = 2.0,
        mel_scale: MelScale = "slaney",
        norm: MelNorm = "slaney",
        pad_mode: PadMode = "constant",
    ) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft, win_length, hop, power, pad_mode)
        self.sample_rate, self.n_mels, self.hop = sample_rate, n_mels, hop
        mel = dict(n_mels=n_mels, f_min=f_min, f_max=f_max, mel_scale=mel_scale, norm=norm)
        self.config = dict(sample_rate=sample_rate, **mel, **self.spectrogram.config)
        filters = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max, mel_scale, norm)
        self._constant("filters", filters)

    def forward(self, waveform: Tensor) -> Tensor:
        """Mel spectrogram of `(..., time)`; raises InputError as `Spectrogram` does."""
        spectrum = self.spectrogram(waveform.to(_working_dtype(waveform.dtype)))
        return self.sum(spectrum).to(waveform.dtype)

    def sum(self, spectrum: Tensor) -> Tensor:
        """A spectrogram summed under the filters. Shape: `(..., bins, frames)` -> `(..., n_mels, frames)`."""
        with torch.autocast(spectrum.device.type, enabled=False):
            return self.filters.to(spectrum.dtype) @ spectrum


class LogMel(nn.Module):
    """Mel spectrogram in dB: `10 log10(max(S, amin))`, relative to 1.

    Args:
        mel: the mel spectrogram; default the paper's.
        amin: smallest power told apart from silence; the default puts the floor at -100 dB.
        top_db: if given, each item is also floored at its own maximum minus `top_db`.

    Shape: `(..., time)` -> `(..., n_mels, frames)`.
    """

    def __init__(
        self, mel: MelSpectrogram | None = None, amin: float = 1e-10, top_db: float | None = None
    ) -> None:
        super().__init__()
        if amin <= 0 or (top_db is not None and top_db < 0):
            raise InputError(f"log-mel needs amin > 0 and top_db >= 0, got amin={amin:g}, top_db={top_db}")
        self.mel = MelSpectrogram() if mel is None else mel
        self.amin, self.top_db, self.sample_rate = amin, top_db, self.mel.sample_rate
        self.config = dict(mel=self.mel.config, amin=amin, top_db=top_db)

    def forward(self, waveform: Tensor) -> Tensor:
        """Log-mel of `(..., time)` in dB; raises InputError as `Spectrogram` does."""
        # The logarithm keeps the working precision: amin does not exist in float16.
        return self.decibel(self.mel(waveform.to(_working_dtype(waveform.dtype)))).to(waveform.dtype)

    def decibel(self, power: Tensor) -> Tensor:
        """Log-mel of a mel spectrogram. Shape: `(..., n_mels, frames)` -> the same."""
        decibel = 10.0 * torch.log10(power.clamp(min=self.amin))
        if self.top_db is not None:
            decibel = torch.maximum(decibel, decibel.amax(dim=(-2, -1), keepdim=True) - self.top_db)
        return decibel


class MFCC(_Constants):
    """Mel-frequency cepstral coefficients: orthonormal DCT-II of the log-mel bands, first `n_mfcc` kept.

    Shape: `(..., time)` -> `(..., n_mfcc, frames)`.
    """

    basis: Tensor

    def __init__(self, log_mel: LogMel | None = None, n_mfcc: int = 20) -> None:
        super().__init__()
        self.log_mel = LogMel() if log_mel is None else log_mel
        bands = self.log_mel.mel.n_mels
        if not 1 <= n_mfcc <= bands:
            raise InputError(f"n_mfcc must be between 1 and the {bands} mel bands, got {n_mfcc}")
        self.n_mfcc, self.sample_rate = n_mfcc, self.log_mel.sample_rate
        self.config = dict(log_mel=self.log_mel.config, n_mfcc=n_mfcc)
        order, band = np.arange(n_mfcc)[:, None], np.arange(bands)
        basis = np.cos(np.pi / bands * order * (band + 0.5)) * np.sqrt(2.0 / bands)
        basis[0] /= np.sqrt(2.0)
        self._constant("basis", basis)

    def forward(self, waveform: Tensor) -> Tensor:
        """MFCC of `(..., time)`; raises InputError as `Spectrogram` does."""
        dtype = _working_dtype(waveform.dtype)
        features = self.log_mel(waveform.to(dtype))
        with torch.autocast(waveform.device.type, enabled=False):
            coefficients = self.basis.to(dtype) @ features
        return coefficients.to(waveform.dtype)


def sc09_log_mel() -> LogMel:
    """The paper's front end for spoken digits: 16000 samples -> `(..., 32, 32)`, floor -100 dB."""
    return LogMel(MelSpectrogram())


def qkw_mel() -> MelSpectrogram:
    """The released code's mel spectrogram for Qualcomm keywords: 400/200, 32 HTK filters, reflect padding."""
    return MelSpectrogram(n_fft=400, hop=200, mel_scale="htk", norm=None, pad_mode="reflect")
