"""Conv-TasNet (Luo & Mesgarani 2019) for one source: the sound without what does not belong to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiopure.errors import InputError

SMALLEST = 1e-8  # variance, where a clip is silent


class GlobalNorm(nn.Module):
    """Each clip brought to mean 0 and variance 1 over channels and frames ("gLN"), padding left out.

    Shape: (B, C, F), and mask (B, 1, F) -> (B, C, F).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        count = x.shape[1] * mask.sum((1, 2), keepdim=True)
        mean = (x * mask).sum((1, 2), keepdim=True) / count
        apart = (x - mean) * mask
        variance = apart.square().sum((1, 2), keepdim=True) / count
        return (self.gain * apart * (variance + SMALLEST).rsqrt() + self.bias) * mask


class Block(nn.Module):
    """A dilated depthwise convolution between two that mix channels.

    Shape: (B, bottleneck, F) -> what the next block hears, (B, bottleneck, F), and skip (B, skip, F).
    """

    def __init__(self, bottleneck: int, hidden: int, skip: int, kernel: int, dilation: int, last: bool):
        super().__init__()
        self.enter = nn.Conv1d(bottleneck, hidden, 1)
        self.first, self.first_norm = nn.PReLU(), GlobalNorm(hidden)
        reach = dilation * (kernel // 2)
        self.along = nn.Conv1d(hidden, hidden, kernel, padding=reach, dilation=dilation, groups=hidden)
        self.second, self.second_norm = nn.PReLU(), GlobalNorm(hidden)
        self.residual = None if last else nn.Conv1d(hidden, bottleneck, 1)
        self.skip = nn.Conv1d(hidden, skip, 1)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first_norm(self.first(self.enter(x)), mask)
        h = self.second_norm(self.second(self.along(h)), mask)
        return x if self.residual is None else x + self.residual(h), self.skip(h)


class ConvTasNet(nn.Module):
    """Waveform to waveform by a mask over a learnt filterbank; the defaults are the paper's best, 4.9 M.

    Args:
        filters, window: of the encoder and decoder; the hop is half a window, in samples.
        bottleneck, hidden, skip: channels.
        kernel: of the depthwise convolutions, odd.
        blocks, repeats: dilations grow from 1 by powers of two over `blocks`, `repeats` times.

    Shape: `forward(x (B, T), lengths (B,) | None) -> (B, T)`. A padded clip comes out as it would alone.
    """

    sample_rate = 16_000

    def __init__(
        self,
        *,
        filters: int = 512,
        window: int = 16,
        bottleneck: int = 128,
        hidden: int = 512,
        skip: int = 128,
        kernel: int = 3,
        blocks: int = 8,
        repeats: int = 3,
    ):
        super().__init__()
        if window < 2 or window % 2 or kernel % 2 == 0:
            raise InputError(f"Conv-TasNet needs an even window and an odd kernel, got {window} and {kernel}")
        self.config = {
            "filters": filters,
            "window": window,
            "bottleneck": bottleneck,
            "hidden": hidden,
            "skip": skip,
            "kernel": kernel,
            "blocks": blocks,
            "repeats": repeats,
        }
        self.hop = window // 2
        self.encoder = nn.Conv1d(1, filters, window, stride=self.hop, bias=False)
        self.norm = GlobalNorm(filters)
        self.bottleneck = nn.Conv1d(filters, bottleneck, 1)
        self.blocks = nn.ModuleList(
            Block(bottleneck, hidden, skip, kernel, 2 ** (k % blocks), last=k == repeats * blocks - 1)
            for k in range(repeats * blocks)
        )
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(skip, filters, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(filters, 1, window, stride=self.hop, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        within = torch.arange(x.shape[1], device=x.device) < lengths[:, None].to(x.device)
        # a hop of zeros before, and after to whole frames, so that every sample lies in two of them
        extra = self.hop + -x.shape[1] % self.hop
        padded = nn.functional.pad(x * within, (self.hop, extra))
        code = self.encoder(padded[:, None])
        frames = torch.div(lengths.to(x.device) - 1, self.hop, rounding_mode="floor") + 2
        mask = (torch.arange(code.shape[2], device=x.device) < frames[:, None])[:, None].to(x.dtype)
        h, total = self.bottleneck(self.norm(code, mask)) * mask, torch.zeros((), device=x.device)
        for block in self.blocks:
            following, skip = block(h, mask)
            h, total = following * mask, total + skip
        clean = self.decoder(code * self.mask(total) * mask)[:, 0]
        return clean[:, self.hop : self.hop + x.shape[1]] * within
