"""The U-Net of Improved DDPM (Nichol & Dhariwal 2021), for spectrograms as images with one channel.

With the paper's settings (`UNet()`: appendix A with its two swapped numbers put right) it has 52,538,369
parameters; smaller ones are for smaller machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiopure.errors import InputError

GROUPS = 32  # of the normalisations, fewer where there are fewer channels


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """Two convolutions; the noise level scales and shifts between them.

    Shape: (B, inputs, H, W) -> (B, outputs, H, W).
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float):
        super().__init__()
        self.enter = nn.Sequential(_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.norm = _norm(outputs)
        last = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.leave = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), last)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.enter(x)) * (1 + scale) + shift
        return self.shortcut(x) + self.leave(h)


class Attention(nn.Module):
    """Self-attention over all places of an image. Shape: (B, c, H, W) -> the same."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.project = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        parts = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1))
        parts = parts.transpose(3, 4).contiguous()  # fused attention takes no other layout
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind(2))
        return (flat + self.project(mixed.transpose(2, 3).flatten(1, 2))).view_as(x)


class Level(nn.Module):
    """A residual block, and attention where the image is small enough."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, heads: int, attention: bool
    ):
        super().__init__()
        self.block = ResBlock(inputs, outputs, embedding, dropout)
        self.attention = Attention(outputs, heads) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class UNet(nn.Module):
    """Noise estimator for images.

    Args:
        width: channels of the first stage.
        multiples: of the width, for each stage; images are halved from one to the next.
        blocks: residual blocks of each stage on the way down, one more on the way up.
        attention: stages that attend, counted from 0.
        heads: of the attention.
        dropout: in training.

    Shape: `forward(x (B, H, W), index (B,)) -> (B, H, W)`; index counts diffusion steps from 0 and may be
    fractional. Sizes that the stages cannot halve are padded with the image's own edges inside.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        multiples: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (1, 2),
        heads: int = 4,
        dropout: float = 0.3,
    ):
        super().__init__()
        if not multiples or blocks < 1 or any(m < 1 or width * m % heads for m in multiples):
            raise InputError("a U-Net needs stages, blocks, and widths that its heads divide")
        if not set(attention) <= set(range(len(multiples))):
            raise InputError(f"attention is in stages 0 to {len(multiples) - 1}, got {list(attention)}")
        self.config = {
            "width": width,
            "multiples": list(multiples),
            "blocks": blocks,
            "attention": list(attention),
            "heads": heads,
            "dropout": dropout,
        }
        self.width, self.unit = width, 2 ** (len(multiples) - 1)
        embedding = 4 * width
        self.embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def level(inputs: int, outputs: int, attends: bool) -> Level:
            return Level(inputs, outputs, embedding, dropout, heads, attends)

        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, kept = width, [width]
        for stage, multiple in enumerate(multiples):
            for _ in range(blocks):
                self.down.append(level(channels, width * multiple, stage in attention))
                channels = width * multiple
                kept.append(channels)
            if stage < len(multiples) - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                kept.append(channels)
        self.middle = nn.ModuleList([level(channels, channels, True), level(channels, channels, False)])
        for stage, multiple in reversed(list(enumerate(multiples))):
            for _ in range(blocks + 1):
                self.up.append(level(channels + kept.pop(), width * multiple, stage in attention))
                channels = width * multiple
            if stage > 0:
                self.up.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.head = nn.Sequential(_norm(channels), nn.SiLU(), _zero(nn.Conv2d(channels, 1, 3, padding=1)))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        height, width = x.shape[1:]
        padding = (0, -width % self.unit, 0, -height % self.unit)
        h = self.stem(nn.functional.pad(x[:, None], padding, mode="replicate"))
        embedding = self.embed(self._angles(index).to(x.dtype))
        kept = [h]
        for part in self.down:
            h = part(h, embedding) if isinstance(part, Level) else part(h)
            kept.append(h)
        for part in self.middle:
            h = part(h, embedding)
        for part in self.up:
            if isinstance(part, Level):
                h = part(torch.cat([h, kept.pop()], dim=1), embedding)
            else:
                h = part(nn.functional.interpolate(h, scale_factor=2, mode="nearest"))
        return self.head(h)[:, 0, :height, :width]

    def _angles(self, index: Tensor) -> Tensor:
        """Cosines, then sines, of the step at wavelengths up to 10,000. Shape: (B,) -> (B, width)."""
        half = self.width // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=index.device))
        angles = index[:, None] * rates
        return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, self.width % 2))
