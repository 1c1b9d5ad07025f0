"""Level: what is done about the fact that diffusion noise is absolute while speech may be quiet or loud.

A policy gives each clip a gain; the purifier works on `gain * x` and divides its result by the gain. The gain
is a differentiable function of the clip, so attacks see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiopure.diffusion.denoiser import Denoiser

FRAME = 512  # samples, 32 ms


@dataclass(frozen=True)
class FixedLevel:
    """The paper's way: the clip as it is."""

    def energy(self, x: Tensor, floor: float | Tensor = 0.0) -> Tensor | None:
        return None

    def gain(self, energy: Tensor | None) -> Tensor | None:
        return None


@dataclass(frozen=True)
class SpeechLevel:
    """Bring active speech to a common level, purify, restore.

    The level is the energy-weighted mean of the energy of 32 ms frames, sqrt(sum e^2 / sum e): silence around
    a word hardly counts, zero padding not at all, and the sums over the pieces of a long recording add up.

    Args:
        target: RMS, relative to full scale, that active speech is brought to.
        minimum, maximum: bounds of the gain, so that faint noise is not blown up to speech.
    """

    target: float = 0.1
    minimum: float = 0.5
    maximum: float = 4.0

    def energy(self, x: Tensor, floor: float | Tensor = 0.0) -> Tensor:
        """Sums (sum e^2, sum e) over whole frames counted from the clip's start. Shape: (B, T) -> (B, 2).

        `floor`, one or (B, 1), is the power of noise known to lie in every frame, which does not count.
        """
        x = torch.nn.functional.pad(x, (0, -x.shape[-1] % FRAME))
        frames = x.unflatten(-1, (-1, FRAME)).square().mean(-1)
        if isinstance(floor, Tensor) or floor > 0:
            frames = (frames - floor).relu()
        return torch.stack([frames.square().sum(-1), frames.sum(-1)], dim=-1)

    def gain(self, energy: Tensor) -> Tensor:
        """Gain of each clip from its sums. Shape: (B, 2) -> (B, 1)."""
        floor = torch.finfo(energy.dtype).tiny ** 0.5
        level = (energy[:, :1] / energy[:, 1:].clamp(min=floor)).clamp(min=1e-10).sqrt()
        return (self.target / level).clamp(self.minimum, self.maximum)


Level = FixedLevel | SpeechLevel


def denoised(denoiser: Denoiser, noisy: Tensor, sigma: float | Tensor, level: Level) -> Tensor:
    """What a denoiser leaves of noisy clips, brought to a level for it with their noise, and restored.

    The gain is what the policy would have for the speech alone: the noise adds sigma^2 to the energy of every
    frame on average, which the estimate subtracts.

    Args:
        sigma: standard deviation of the noise, one or (B,).

    Shape: (B, T) -> (B, T).
    """
    if isinstance(level, FixedLevel):
        return denoiser(noisy, sigma)
    each = sigma[:, None] if isinstance(sigma, Tensor) else sigma
    gain = level.gain(level.energy(noisy, floor=each**2))
    return denoiser(noisy * gain, (each * gain)[:, 0]) / gain
