"""Conv-TasNet (Luo & Mesgarani 2019) for one source: the sound without what does not belong to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.nets.frames import depthwise

SMALLEST = 1e-8  # variance, where a clip is silent


class GlobalNorm(nn.Module):
    """Each clip brought to mean 0 and variance 1 over channels and frames ("gLN"), padding left out.

    Shape: (B, F, C), and mask (B, F, 1) or None, where nothing is padding -> (B, F, C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            whole = nn.functional.layer_norm(x, x.shape[1:], eps=SMALLEST)
            return torch.addcmul(self.bias, whole, self.gain)
        count = x.shape[2] * mask.sum((1, 2), keepdim=True)
        mean = (x * mask).sum((1, 2), keepdim=True) / count
        apart = (x - mean) * mask
        variance = apart.square().sum((1, 2), keepdim=True) / count
        return (self.gain * apart * (variance + SMALLEST).rsqrt() + self.bias) * mask


class Slope(nn.Module):
    """PReLU with one parameter; the gradient of PyTorch's takes two or three times as long on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(nn.functional.relu(x), x, self.weight.to(x.dtype))


class Block(nn.Module):
    """A dilated depthwise convolution between two layers that mix channels.

    Shape: (B, F, bottleneck) -> what the next block hears, (B, F, bottleneck), and skip (B, F, skip).
    """

    def __init__(self, bottleneck: int, hidden: int, skip: int, kernel: int, dilation: int, last: bool):
        super().__init__()
        self.dilation = dilation
        self.enter = nn.Linear(bottleneck, hidden)
        self.first, self.first_norm = Slope(), GlobalNorm(hidden)
        self.along = nn.Parameter(_uniform(hidden, 1, 1, kernel, bound=kernel**-0.5))
        self.along_bias = nn.Parameter(_uniform(hidden, bound=kernel**-0.5))
        self.second, self.second_norm = Slope(), GlobalNorm(hidden)
        self.sizes = (0 if last else bottleneck, skip)
        self.leave = nn.Linear(hidden, sum(self.sizes))

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.first_norm(self.first(self.enter(x)), mask)
        h = self.second_norm(self.second(depthwise(h, self.along, self.dilation, self.along_bias)), mask)
        residual, skip = self.leave(h).split(self.sizes, dim=2)
        return x + residual if self.sizes[0] else x, skip


def _uniform(*shape: int, bound: float) -> Tensor:
    """As convolutions begin in PyTorch."""
    return torch.empty(*shape).uniform_(-bound, bound)


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
        self.encoder = nn.Linear(window, filters, bias=False)
        self.norm = GlobalNorm(filters)
        self.bottleneck = nn.Linear(filters, bottleneck)
        self.blocks = nn.ModuleList(
            Block(bottleneck, hidden, skip, kernel, 2 ** (k % blocks), last=k == repeats * blocks - 1)
            for k in range(repeats * blocks)
        )
        self.mask = nn.Sequential(Slope(), nn.Linear(skip, filters), nn.Sigmoid())
        self.decoder = nn.Linear(filters, window, bias=False)
        nn.init.uniform_(self.decoder.weight, -(window**-0.5), window**-0.5)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = None if lengths is None else lengths.to(x.device)
        if lengths is not None and bool((lengths == x.shape[1]).all()):
            lengths = None
        within = None
        if lengths is not None:
            within = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x * within
        # a hop of zeros before, and after to whole frames, so that every sample lies in two of them
        padded = nn.functional.pad(x, (self.hop, self.hop + -x.shape[1] % self.hop))
        code = self.encoder(padded.unfold(1, 2 * self.hop, self.hop))
        mask = None
        if lengths is not None:
            frames = torch.div(lengths - 1, self.hop, rounding_mode="floor") + 2
            mask = (torch.arange(code.shape[1], device=x.device) < frames[:, None])[:, :, None].to(x.dtype)
        h, total = self.bottleneck(self.norm(code, mask)), torch.zeros((), device=x.device)
        for block in self.blocks:
            h, skip = block(h if mask is None else h * mask, mask)
            total = total + skip
        clean = code * self.mask(total)
        early, late = self.decoder(clean if mask is None else clean * mask).split(self.hop, dim=2)
        added = nn.functional.pad(early, (0, 0, 0, 1)) + nn.functional.pad(late, (0, 0, 1, 0))
        sound = added.flatten(1)[:, self.hop : self.hop + x.shape[1]]
        return sound if within is None else sound * within
