"""Changing the sample rate: soxr for files and streams, julius where a gradient must pass."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from julius.resample import resample_frac
from torch import Tensor

from audiopure.errors import InputError

QUALITY = "HQ"


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample with soxr (passband to 91 % of the lower Nyquist frequency, about 133 dB of SNR).

    Shape: (..., T) -> (..., round(T * to_rate / from_rate)), same dtype and device; float32 or float64.
    Output may overshoot [-1, 1] slightly. Raises InputError for a rate that is not positive or a tensor that
    requires a gradient, which would be lost: that is what `resample_differentiable` is for.
    """
    _check_rates(from_rate, to_rate)
    if waveform.requires_grad:
        raise InputError("resample loses gradients; use resample_differentiable.")
    if from_rate == to_rate or waveform.numel() == 0:
        return waveform
    flat = waveform.reshape(-1, waveform.shape[-1]).cpu().numpy().T
    out = soxr.resample(np.ascontiguousarray(flat), from_rate, to_rate, quality=QUALITY)
    result = torch.from_numpy(np.ascontiguousarray(out.T)).to(waveform.device)
    return result.reshape(*waveform.shape[:-1], -1)


def resample_differentiable(waveform: Tensor, from_rate: int, to_rate: int, *, zeros: int = 24) -> Tensor:
    """Resample by a windowed sinc convolution of `zeros` zero crossings (julius), differentiable everywhere.

    Shape: (..., T) -> (..., floor(T * to_rate / from_rate)). Rolls off earlier than `resample` near the lower
    Nyquist frequency. Raises InputError for a rate that is not positive.
    """
    _check_rates(from_rate, to_rate)
    if from_rate == to_rate:
        return waveform
    return resample_frac(waveform, from_rate, to_rate, zeros=zeros)


class StreamResampler:
    """`resample` block by block: the concatenated outputs equal the whole resampled at once.

    Feed blocks (channels, n) to `push`, then call `flush` once; each returns (channels, m), float32, where m
    may be 0. Memory does not grow with the length of the stream.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        _check_rates(from_rate, to_rate)
        self.channels = channels
        same = from_rate == to_rate
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, channels, quality=QUALITY)

    def push(self, block: Tensor) -> Tensor:
        """The samples that are final after `block`. Raises InputError for a wrong number of channels."""
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise InputError(f"A block of shape {tuple(block.shape)} was given for {self.channels} channels.")
        return self._run(block, last=False)

    def flush(self) -> Tensor:
        """The remaining samples, after the last block."""
        return self._run(torch.zeros(self.channels, 0), last=True)

    def _run(self, block: Tensor, *, last: bool) -> Tensor:
        if self._stream is None:
            return block
        frames = np.ascontiguousarray(block.cpu().numpy().T, dtype=np.float32)
        out = self._stream.resample_chunk(frames, last=last)
        return torch.from_numpy(np.ascontiguousarray(out.reshape(-1, self.channels).T))


def _check_rates(from_rate: int, to_rate: int) -> None:
    if from_rate <= 0 or to_rate <= 0:
        raise InputError(f"Cannot resample from {from_rate} Hz to {to_rate} Hz.")
