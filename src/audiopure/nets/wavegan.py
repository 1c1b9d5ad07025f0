"""WaveGAN (Donahue et al. 2019): words out of random vectors, and the critic that it is trained against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from audiopure.errors import InputError

KERNEL, STRIDE = 25, 4
FIRST = 16  # samples of the coarsest layer; five strides make 16,384


class Generator(nn.Module):
    """Waveforms from vectors.

    Args:
        width: channels of the finest hidden layer; the paper's is 64, the coarsest has 16 times as many.
        latent: numbers of a vector.

    Shape: (B, latent), uniform in [-1, 1] -> (B, 16384), in [-1, 1].
    """

    sample_rate = 16_000
    samples = FIRST * STRIDE**5

    def __init__(self, *, width: int = 64, latent: int = 100):
        super().__init__()
        if width < 1 or latent < 1:
            raise InputError(f"WaveGAN needs a width and a latent size, got {width} and {latent}")
        self.config = {"width": width, "latent": latent}
        self.latent = latent
        sizes = [16 * width, 8 * width, 4 * width, 2 * width, width, 1]
        self.project = nn.Linear(latent, FIRST * sizes[0])
        # padding 11 and one sample more make each layer exactly four times as long
        self.layers = nn.ModuleList(
            nn.ConvTranspose1d(a, b, KERNEL, STRIDE, padding=11, output_padding=1) for a, b in pairwise(sizes)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).unflatten(1, (-1, FIRST))
        for layer in self.layers:
            x = layer(torch.relu(x))
        return torch.tanh(x)[:, 0]


class Critic(nn.Module):
    """A number for each waveform, the larger the more it sounds like speech; phases are shuffled in training.

    Shape: (B, 16384) -> (B,).
    """

    SHIFT = 2  # samples by which a layer's output is shifted at most, each clip's by its own

    def __init__(self, *, width: int = 64):
        super().__init__()
        sizes = [1, width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, KERNEL, STRIDE, padding=11) for a, b in pairwise(sizes))
        self.judge = nn.Linear(FIRST * sizes[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, None]
        for number, layer in enumerate(self.layers):
            h = nn.functional.leaky_relu(layer(h), 0.2)
            if self.training and number < len(self.layers) - 1:
                h = self._shuffled(h)
        return self.judge(h.flatten(1))[:, 0]

    def _shuffled(self, h: Tensor) -> Tensor:
        shifts = torch.randint(-self.SHIFT, self.SHIFT + 1, (len(h), 1), device=h.device)
        padded = nn.functional.pad(h, (self.SHIFT, self.SHIFT), mode="reflect")
        place = torch.arange(h.shape[2], device=h.device) + self.SHIFT + shifts
        return padded.gather(2, place[:, None].expand_as(h))


class WaveGan(nn.Module):
    """Both, as they are trained."""

    samples = Generator.samples

    def __init__(self, width: int, latent: int):
        super().__init__()
        self.generator, self.critic = Generator(width=width, latent=latent), Critic(width=width)
