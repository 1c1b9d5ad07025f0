"""The compact purifier's network: estimates clean speech from speech plus white noise of known sigma.

A short-time spectrum (512-sample Hann windows, hop 128) goes through a few residual blocks over frames whose
cost is almost all in matrix products, so it gains from bfloat16 on CPUs and GPUs alike. The output combines a
Wiener-like gain, whose a-priori SNR is learnt as a correction to the observed one, with a short complex
filter over neighbouring frames. Features are relative to sigma: one set of weights serves every noise level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiopure.nets.frames import depthwise

WINDOW = 512
HOP = 128
BINS = WINDOW // 2 + 1
OVERLAP = WINDOW // HOP
PAD = WINDOW - HOP  # every sample lies in exactly OVERLAP frames, so the synthesis gain is a constant
EMBEDDING = 32  # sines and cosines of log sigma
SNR_FLOOR = 0.1  # keeps the log finite; well below the mean noise power of 1


def frame_count(length: int | Tensor) -> int | Tensor:
    """Number of frames that touch a clip of `length` samples."""
    return (length + PAD + HOP - 1) // HOP


def _shift(x: Tensor, frames: int) -> Tensor:
    """Move frames later by `frames` (earlier if negative), zeros coming in. Shape: (B, F, ...) -> same."""
    return nn.functional.pad(x, (0, 0, frames, -frames))


class Block(nn.Module):
    """Depthwise convolution over frames, then a sigma-modulated two-layer perceptron on each frame.

    Shape: (B, F, width) -> (B, F, width).
    """

    def __init__(self, width: int, expansion: int, kernel: int, dilation: int, embedding: int):
        super().__init__()
        self.dilation = dilation
        self.frames = nn.Parameter(torch.randn(width, 1, 1, kernel) / math.sqrt(kernel))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.expand = nn.Linear(width, expansion * width)
        self.project = nn.Linear(expansion * width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, embedding: Tensor, mask: Tensor | None) -> Tensor:
        y = depthwise(x if mask is None else x * mask, self.frames, self.dilation)
        scale, shift = self.modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        y = self.norm(y) * (1 + scale) + shift
        return x + self.project(nn.functional.silu(self.expand(y)))


class StftDenoiser(nn.Module):
    """Denoiser for any length and any sigma from 0.001 to 1, at 16 kHz.

    Args:
        width: channels of each frame.
        blocks: number of residual blocks; dilations cycle through 1, 2, 4.
        expansion: widening inside a block.
        taps: frames to each side that the complex filter reaches.

    Shape: `forward(x (B, T), sigma float | (B,), lengths (B,) | None) -> (B, T)`, x = x0 + sigma z.
    """

    sample_rate = 16_000
    hop = HOP
    window: Tensor
    frequencies: Tensor

    def __init__(self, *, width: int = 192, blocks: int = 5, expansion: int = 2, taps: int = 1):
        super().__init__()
        self.config = {"width": width, "blocks": blocks, "expansion": expansion, "taps": taps}
        self.taps = taps
        embedding, kernel = EMBEDDING, 7
        dilations = [2 ** (i % 3) for i in range(blocks)]
        self.receptive_field = HOP * (sum(dilations) * (kernel // 2) + taps) + 2 * WINDOW
        self.embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())
        self.input = nn.Linear(3 * BINS, width)
        self.blocks = nn.ModuleList(Block(width, expansion, kernel, d, embedding) for d in dilations)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, BINS * (1 + 2 * (2 * taps + 1)))
        nn.init.normal_(self.output.weight, std=1e-3)
        nn.init.zeros_(self.output.bias)
        self._set_constants(None, torch.float32)

    def _set_constants(self, device: torch.device | None, dtype: torch.dtype) -> None:
        window = torch.hann_window(WINDOW, device=device, dtype=dtype)
        frequencies = torch.linspace(0.1, 2.0, EMBEDDING // 2, device=device, dtype=dtype)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        # never below float32: a rounded window would no longer overlap-add to a constant
        dtype = torch.float64 if self.window.dtype == torch.float64 else torch.float32
        self._set_constants(self.window.device, dtype)
        return self

    def body_to(self, dtype: torch.dtype) -> StftDenoiser:
        """Move the matrix products to `dtype` (bfloat16, say); spectra stay in the input's precision."""
        for part in (self.embed, self.input, self.blocks, self.norm, self.output):
            part.to(dtype)
        return self

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"expected a waveform batch (B, T), got shape {tuple(x.shape)}")
        signal = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        noise = torch.as_tensor(sigma, dtype=signal.dtype, device=x.device).expand(x.shape[0])
        samples = frames = None
        if lengths is not None:
            samples = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            count = torch.as_tensor(frame_count(lengths))
            frames = torch.arange(int(frame_count(x.shape[1])), device=x.device) < count[:, None]
            signal = signal * samples
        spectrum = self._analyse(signal / noise[:, None])
        spectrum = self._filter(spectrum, noise, frames)
        clean = self._synthesise(spectrum, x.shape[1]) * noise[:, None]
        return (clean if samples is None else clean * samples).to(x.dtype)

    def _analyse(self, x: Tensor) -> Tensor:
        """Spectra in units of the noise: white noise of unit variance has unit power in every bin."""
        frames = int(frame_count(x.shape[1]))
        padded = nn.functional.pad(x, (PAD, frames * HOP - x.shape[1]))
        window = self.window.to(x.dtype)
        return torch.fft.rfft(padded.unfold(1, WINDOW, HOP) * (window / window.norm()))

    def _synthesise(self, spectrum: Tensor, length: int) -> Tensor:
        window = self.window.to(spectrum.real.dtype)
        gain = window.norm() * HOP / window.square().sum()
        pieces = (torch.fft.irfft(spectrum, n=WINDOW) * (window * gain)).unflatten(-1, (OVERLAP, HOP))
        # the k-th hop of the clip is the sum of piece j of frame k + lag, lag = OVERLAP - 1 - j
        out = sum(_shift(piece, j - OVERLAP + 1) for j, piece in enumerate(pieces.unbind(2)))
        return out.flatten(1)[:, :length]  # type: ignore[union-attr]

    def _filter(self, spectrum: Tensor, sigma: Tensor, mask: Tensor | None) -> Tensor:
        power = spectrum.real.square() + spectrum.imag.square()
        level = torch.log(power + SNR_FLOOR)
        body = self.input.weight.dtype
        h = self.input(self._features(spectrum, power, level).to(body))
        angle = torch.log(sigma)[:, None] * self.frequencies.to(sigma.dtype)
        embedding = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1).to(body))
        gate = None if mask is None else mask[:, :, None].to(body)
        for block in self.blocks:
            h = block(h, embedding, gate)
        out = self.output(self.norm(h)).to(power.dtype)
        # split and unbind, unlike slices, are undone in the backward pass by a single copy
        width = 2 * self.taps + 1
        correction, real, imag = out.split([BINS, width * BINS, width * BINS], dim=-1)
        filters = torch.complex(real, imag).unflatten(-1, (width, BINS)).unbind(2)
        filtered = spectrum * (torch.sigmoid(level + correction) + filters[self.taps])
        for j, taps in enumerate(filters):
            if j != self.taps:
                filtered = torch.addcmul(filtered, taps, _shift(spectrum, self.taps - j))
        return filtered if mask is None else filtered * mask[:, :, None]

    def _features(self, spectrum: Tensor, power: Tensor, level: Tensor) -> Tensor:
        """Log power and the phase advance from the frame before, weighted by how far it can be trusted."""
        previous = _shift(spectrum, 1)
        advance = spectrum * previous.conj()
        strength = power + _shift(power, 1) + 1
        return torch.cat([0.25 * level, advance.real / strength, advance.imag / strength], dim=-1)
