"""The one calling convention for denoisers, and wrappers that bring other networks to it.

A denoiser maps x = x0 + sigma z to its estimate of x0: `denoiser(x (B, T), sigma, lengths=None) -> (B, T)`.
Samplers, purifiers, attacks and certificates know nothing else.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule


@runtime_checkable
class Denoiser(Protocol):
    """What every denoiser offers."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def hop(self) -> int:
        """Chunks of a long recording start at multiples of this."""
        ...

    @property
    def receptive_field(self) -> int:
        """Samples to each side that one call can reach."""
        ...

    def __call__(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor: ...


class EpsDenoiser(nn.Module):
    """A DDPM noise estimator (DiffWave) as a denoiser.

    x0 = x - sigma eps_theta(sqrt(alpha_bar) x, n - 1), with n the step at which the schedule has this sigma,
    fractional between steps: the networks take 0-based indices and embed them continuously. Noise below that
    of step 1 or above that of the last is outside what such a network was trained on, and is treated as
    that step.

    Shape: (B, T) -> (B, T).
    """

    hop = 1

    def __init__(self, net: nn.Module, schedule: NoiseSchedule, *, sample_rate: int = 16_000):
        super().__init__()
        self.net = net
        self.schedule = schedule
        self.sample_rate = sample_rate
        self.receptive_field = int(net.receptive_field)  # type: ignore[arg-type]

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        sigmas = torch.as_tensor(sigma, dtype=torch.float64).expand(x.shape[0]).tolist()
        top = self.schedule.sigma(len(self.schedule))
        steps = [max(1.0, self.schedule.step(min(value, top))) for value in sigmas]
        scale = x.new_tensor([1 / math.sqrt(1 + value**2) for value in sigmas])[:, None]
        # in float32 whatever x is: bfloat16 cannot hold a fractional index
        index = torch.tensor([step - 1 for step in steps], device=x.device)
        eps = self.net(scale * x, index, lengths)
        return x - x.new_tensor(sigmas)[:, None] * eps


class GaussianDenoiser(nn.Module):
    """The exact posterior mean for Gaussian data N(mean, variance) in each sample: a truth to test against.

    E[x0 | x] = mean + variance / (variance + sigma^2) (x - mean).
    """

    hop = 1
    receptive_field = 0
    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, *, sample_rate: int = 16_000):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.sample_rate = sample_rate

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        noise = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).square().expand(x.shape[0])[:, None]
        return self.mean + self.variance / (self.variance + noise) * (x - self.mean)


class EpsConstant(nn.Module):
    """The denoiser with its noise estimate treated as a constant in the backward pass.

    This is what the paper's released attack differentiates: a `no_grad` on the network leaves only the linear
    terms of each step. For comparison; never a gradient to report robustness with.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.hop, self.sample_rate = denoiser.hop, denoiser.sample_rate
        self.receptive_field = denoiser.receptive_field

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        residual = (x - self.denoiser(x, sigma, lengths)).detach()
        return x - residual
