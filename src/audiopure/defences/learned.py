"""Defences with weights that are no diffusion model: denoisers, and the nearest word that a GAN can say."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiopure.defences.base import WaveformDefence
from audiopure.errors import InputError
from audiopure.nets.wavegan import Generator
from audiopure.noise import FORWARD, NoiseSource


class Enhancer(WaveformDefence):
    """A network from waveform to waveform, without noise of its own (`ConvTasNet`).

    Args:
        net: called with waveforms (B, T) and lengths (B,); it knows its `sample_rate`.
    """

    def __init__(self, net: nn.Module):
        super().__init__(int(net.sample_rate))  # type: ignore[arg-type]
        self.net = net

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        return self.net(x, lengths)


class DefenceGan(WaveformDefence):
    """A clip becomes what a generator says that comes closest to it (Samangouei et al. 2018).

    From several random vectors, each by descent on the mean squared error with momentum; the closest counts.
    Where a step makes the error larger it is taken back, and that vector's rate halved.
    The search has no useful slope: gradients pass straight through, which is declared (`bpda`).

    Args:
        generator: see `wavegan.Generator`; clips must not be longer than what it says.
        restarts, steps: vectors to begin with, and steps of each.
        rate: of the descent at first, for an error in units of the clip's power.
    """

    bpda, random = True, True

    MOMENTUM = 0.7

    def __init__(self, generator: Generator, restarts: int = 10, steps: int = 200, rate: float = 10.0):
        super().__init__(generator.sample_rate)
        if restarts < 1 or steps < 1 or not 0 < rate < math.inf:
            raise InputError("Defence-GAN needs restarts, steps and a positive rate")
        self.generator, self.restarts, self.steps, self.rate = generator, restarts, steps, rate

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        if x.shape[1] > self.generator.samples:
            most = self.generator.samples
            raise InputError(f"the generator says {most} samples at most, and a clip has {x.shape[1]}")
        # certificates ask in inference mode, in which there is no slope to search by
        with torch.inference_mode(False), torch.enable_grad():
            found = self._closest(x.detach().clone(), lengths.clone(), noise)
        return x + (found - x).detach()

    def _closest(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        count, length = x.shape
        samples = torch.arange(length, device=x.device)
        within = (samples < lengths[:, None]).to(x.dtype)
        # the generator learnt words in the middle of what it says
        begin = -((lengths - self.generator.samples) // 2)
        places = (begin[:, None] + samples).clamp(max=self.generator.samples - 1)
        power = (x.square().sum(1) / lengths).clamp(min=1e-8)
        latent = self.generator.latent
        drawn = noise.normal((count, self.restarts * latent), draw=FORWARD, device=x.device, dtype=x.dtype)
        # the generator knows uniform vectors
        z = (2 * torch.special.ndtr(drawn) - 1).unflatten(1, (self.restarts, latent)).flatten(0, 1)
        goal, mask, where = (part.repeat_interleave(self.restarts, 0) for part in (x, within, places))
        scale = (lengths * power).repeat_interleave(self.restarts)
        z, error = self._descended(z, lambda point: self._error(point, goal, mask, where) / scale)
        with torch.no_grad():
            clip = torch.arange(count, device=x.device)
            closest = error.view(count, self.restarts).argmin(1)
            return self.generator(z.view(count, self.restarts, latent)[clip, closest]).gather(1, places)

    def _descended(self, z: Tensor, errors: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Where the descents have come, and the error there. Shape: (N, latent) -> the same, (N,)."""
        error, slope = _with_slope(errors, z)
        rate, velocity = torch.full_like(error, self.rate)[:, None], torch.zeros_like(z)
        for _ in range(self.steps):
            velocity = self.MOMENTUM * velocity + slope
            there = (z - rate * velocity).clamp(-1, 1)
            its_error, its_slope = _with_slope(errors, there)
            fell = (its_error <= error)[:, None]
            z, slope = torch.where(fell, there, z), torch.where(fell, its_slope, slope)
            error = torch.minimum(error, its_error)
            velocity, rate = velocity * fell, torch.where(fell, rate, rate / 2)
        return z, error

    def _error(self, z: Tensor, goal: Tensor, mask: Tensor, where: Tensor) -> Tensor:
        apart = self.generator(z).gather(1, where) - goal
        return (apart * mask).square().sum(1)


def _with_slope(errors: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    point = z.detach().requires_grad_()
    error = errors(point)
    (slope,) = torch.autograd.grad(error.sum(), point)
    return error.detach(), slope
