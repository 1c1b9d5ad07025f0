"""Small pictures and sounds for pages that load nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from audiopure.data.manifest import to_int16
from audiopure.padding import at_least

WINDOW, HOP = 512, 64  # samples
RANGE = 80.0  # dB shown below the reference
COLUMNS = 300  # of a waveform, at most


def spectrum(waveform: Tensor) -> Tensor:
    """Power spectrogram in dB. Shape: (T,) -> (WINDOW // 2 + 1, frames)."""
    padded = at_least(waveform, WINDOW)
    window = torch.hann_window(WINDOW, device=waveform.device)
    bins = torch.stft(padded, WINDOW, HOP, window=window, return_complex=True, pad_mode="constant")
    return 10 * torch.log10(bins.abs().square().clamp(min=1e-12))


def spectrogram_uri(waveform: Tensor, reference: float) -> str:
    """A spectrogram as the data URI of a PNG, low frequencies at the bottom.

    Args:
        waveform: (T,).
        reference: dB of the brightest colour, so that pictures of one clip can be compared.
    """
    level = ((spectrum(waveform) - reference) / RANGE + 1).clamp(0, 1)
    halved = torch.nn.functional.max_pool2d(level[None, 1:], (2, 1))[0]
    pixels = (halved.flip(0) * 255).round().to(torch.uint8).cpu().numpy()
    image = Image.fromarray(pixels, mode="P")
    palette = colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    return _uri("image/png", lambda file: image.save(file, "PNG", optimize=True))


def waveform_path(waveform: Tensor, peak: float, width: float = 300, height: float = 40) -> str:
    """The envelope of a waveform (T,) as the `d` of an SVG path in a box that `peak` fills."""
    columns = min(COLUMNS, waveform.shape[-1])
    parts = waveform.detach().cpu().tensor_split(columns)
    x = (np.arange(columns) + 0.5) * width / columns
    highest = np.array([max(float(part.max()) / max(peak, 1e-6), 0.01) for part in parts])
    lowest = np.array([min(float(part.min()) / max(peak, 1e-6), -0.01) for part in parts])
    outline = np.concatenate([highest, lowest[::-1]]).clip(-1, 1)
    y = (1 - outline) * height / 2
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(np.concatenate([x, x[::-1]]), y, strict=True)]
    return f"M{'L'.join(points)}Z"


def wav_uri(waveform: Tensor, sample_rate: int) -> str:
    """A waveform (T,) as the data URI of a 16-bit WAV file, which every browser plays."""
    samples = to_int16(waveform.clamp(-1, 1)).cpu().numpy()
    return _uri("audio/wav", lambda file: soundfile.write(file, samples, sample_rate, "PCM_16", format="WAV"))


def _uri(kind: str, write: Callable[[BinaryIO], object]) -> str:
    file = io.BytesIO()
    write(file)
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
