"""A round trip through a lossy codec, which drops what is hard to hear."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiopure.defences.transformations import Transformation
from audiopure.errors import InputError

FORMATS = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
STRONGEST = 0.99  # compression; libsndfile refuses 1
REACH = 4000  # samples by which a codec may delay a sound, at most
RATES = {"opus": (8000, 12_000, 16_000, 24_000, 48_000)}


class Codec(Transformation):
    """Encoded and decoded again, aligned with what went in.

    A codec has no slope: gradients pass straight through, which is declared (`bpda`).

    Args:
        codec: "mp3" or "opus", by libsndfile.
        quality: 0 (small files) to 1 (large ones).
    """

    bpda = True

    def __init__(
        self, codec: Literal["mp3", "opus"] = "mp3", quality: float = 0.2, *, sample_rate: int = 16_000
    ):
        super().__init__(sample_rate)
        if codec not in FORMATS:
            raise InputError(f"there is no codec '{codec}'; there are: {', '.join(FORMATS)}.")
        if not 0 <= quality <= 1:
            raise InputError(f"the quality of a codec lies between 0 and 1, got {quality:g}")
        if sample_rate not in RATES.get(codec, (sample_rate,)):
            raise InputError(f"{codec} knows no sample rate of {sample_rate} Hz")
        self.codec, self.quality = codec, quality

    def transform(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            rows = [self._round_trip(row) for row in x.detach().cpu().double().numpy()]
            decoded = torch.from_numpy(np.stack(rows)).to(x)
        return x + (decoded - x).detach()

    def _round_trip(self, samples: np.ndarray) -> np.ndarray:
        container, subtype = FORMATS[self.codec]
        # silence around the clip, as codecs blur its ends and may leave some out
        padded = np.pad(samples, (REACH, 2 * REACH))
        file = io.BytesIO()
        soundfile.write(
            file,
            padded,
            self.sample_rate,
            format=container,
            subtype=subtype,
            compression_level=min(1 - self.quality, STRONGEST),
        )
        file.seek(0)
        decoded, rate = soundfile.read(file, dtype="float64")
        if rate != self.sample_rate:
            raise InputError(f"the codec {self.codec} changes the sample rate to {rate} Hz")
        start = REACH + _delay(padded, decoded)
        found = np.zeros(len(samples))
        part = decoded[start : start + len(samples)]
        found[: len(part)] = part
        return found


def _delay(sent: np.ndarray, received: np.ndarray) -> int:
    """By how many samples a sound came back later, from the peak of the cross-correlation; 0 for silence."""
    size = len(sent) + len(received)
    product = np.fft.rfft(received, size) * np.conj(np.fft.rfft(sent, size))
    lags = np.fft.irfft(product, size)
    if not np.abs(lags).max() > 0:
        return 0
    candidates = np.concatenate([np.arange(0, REACH), np.arange(-REACH, 0)])
    return int(candidates[lags[candidates].argmax()])
