"""Base classifiers: what becomes of a noisy waveform before a recogniser votes.

Everything here comes after the smoothing noise, where anything is allowed: a certificate holds whatever the
base does, and a better base only makes it larger. None of them adds up to a certificate by itself.

All take noisy waveforms (n, T) = x + noise of standard deviation `sigma` and return scores (n, C).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import call
from audiopure.diffusion.denoiser import Denoiser
from audiopure.diffusion.gradient import Full
from audiopure.diffusion.samplers import FewShot
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.level import FixedLevel, Level, denoised
from audiopure.noise import NoiseSource


class Plain(nn.Module):
    """The recogniser hears the noise itself. A defended model may draw noise of its own besides."""

    def __init__(self, recogniser: nn.Module):
        super().__init__()
        self.recogniser = recogniser

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        return call(self.recogniser, noisy, noise, None)


class OneShot(nn.Module):
    """One call of a denoiser that knows the noise level (Carlini et al. 2022; appendix C of the paper).

    The level is exact between steps of a schedule as well: x + sigma z is what every denoiser here takes, and
    a noise estimator is asked at the fractional step with alpha_bar = 1 / (1 + sigma^2).

    Args:
        level: a policy that scales the noisy clip, and sigma with it, for the denoiser; what is restored
            after it. It comes after the noise, so that the certificate is about the clip as it is.
    """

    def __init__(
        self, denoiser: Denoiser, recogniser: nn.Module, sigma: float, *, level: Level | None = None
    ):
        super().__init__()
        self.denoiser, self.recogniser = denoiser, recogniser
        self.sigma, self.level = sigma, level or FixedLevel()

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        return call(self.recogniser, self.denoise(noisy), noise, None)

    def denoise(self, noisy: Tensor) -> Tensor:
        """Shape: (n, T) -> (n, T)."""
        return denoised(self.denoiser, noisy, self.sigma, self.level)


class MultiStep(nn.Module):
    """Several reverse chains of several steps each, which vote (DensePure, Xiao et al. 2023).

    Args:
        steps: of each chain, equidistant from the schedule's step of this sigma to 0.
        votes: chains with noise of their own for each noisy clip. The scores are their votes.

    Raises InputError for none of either, or a sigma beyond the schedule.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        recogniser: nn.Module,
        sigma: float,
        *,
        steps: int = 5,
        votes: int = 10,
        schedule: NoiseSchedule | None = None,
    ):
        super().__init__()
        if steps < 1 or votes < 1:
            raise InputError(f"multi-step denoising needs steps and votes, got {steps} and {votes}")
        self.denoiser, self.recogniser, self.votes = denoiser, recogniser, votes
        schedule = schedule or NoiseSchedule.linear()
        self.n_star = schedule.step(sigma)
        self.steps = FewShot(steps).steps(schedule, self.n_star)
        self.alpha_bar = schedule.alpha_bar(self.n_star)

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        answers = (
            call(self.recogniser, self.denoise(noisy, noise.fresh(chain)), noise.fresh(-1 - chain), None)
            for chain in range(self.votes)
        )
        return _votes(answers, noisy.dtype)

    def denoise(self, noisy: Tensor, noise: NoiseSource) -> Tensor:
        """One chain. Shape: (n, T) -> (n, T)."""
        shape = (noisy.shape[0], noisy.shape[1])
        draws = [
            noise.normal(shape, draw=k, device=noisy.device, dtype=noisy.dtype) if step.noise > 0 else None
            for k, step in enumerate(self.steps, start=1)
        ]
        return Full()(self.steps, self.denoiser, math.sqrt(self.alpha_bar) * noisy, draws, None)


class LocalSmoothing(nn.Module):
    """DiffSmooth (Zhang et al. 2023): denoise once, then let several lightly noisy versions vote.

    Args:
        count: versions.
        local: standard deviation of their noise, about that which the recogniser was trained with.
    """

    def __init__(self, denoised: OneShot, *, count: int = 5, local: float = 0.02):
        super().__init__()
        if count < 1 or not local > 0:
            raise InputError(f"local smoothing needs versions and noise, got {count} and {local:g}")
        self.denoised, self.count, self.local = denoised, count, local

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        clean = self.denoised.denoise(noisy)
        shape = (clean.shape[0], clean.shape[1])

        def version(k: int) -> Tensor:
            source = noise.fresh(k)
            extra = source.normal(shape, draw=0, device=clean.device, dtype=clean.dtype)
            return call(self.denoised.recogniser, clean + self.local * extra, source.fresh(0), None)

        return _votes(map(version, range(self.count)), noisy.dtype)


def _votes(scores: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """How often each label has the highest score. Shape: (n, C) each -> (n, C).

    Raises InputError for scores that are not finite, as counts would not show them any more.
    """
    counts = [torch.nn.functional.one_hot(finite(each).argmax(1), each.shape[1]) for each in scores]
    return torch.stack(counts).sum(0).to(dtype)


def finite(scores: Tensor) -> Tensor:
    """The scores; InputError if any is not finite."""
    if not bool(torch.isfinite(scores).all()):
        raise InputError("the base classifier returned scores that are not finite")
    return scores
