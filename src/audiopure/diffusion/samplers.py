"""Reverse samplers: how the noisy signal x_n becomes an estimate of x_0.

A sampler is a value that lists the steps from n_star to 0; a step is a function of (denoiser, x, z). Nothing
here runs a network or draws noise: how gradients pass (`gradient.py`) and where noise comes from (`noise.py`)
are separate choices. All steps live in the variance-preserving scale of eq. 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from torch import Tensor

from audiopure.diffusion.denoiser import Denoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError

Variance = Literal["beta_tilde", "beta"]


class Step(Protocol):
    """One reverse step."""

    @property
    def scale(self) -> float:
        """sqrt(alpha_bar) of the level it starts from: the signal's share of the state."""
        ...

    @property
    def sigma(self) -> float:
        """Noise relative to the signal at that level."""
        ...

    @property
    def noise(self) -> float:
        """Standard deviation that multiplies z; 0 if the step draws none."""
        ...

    @property
    def calls(self) -> int:
        """Calls of the denoiser."""
        ...

    def __call__(
        self, denoiser: Denoiser, x: Tensor, z: Tensor | None, lengths: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class AffineStep:
    """x' = keep x + clean D(x / scale, sigma) + noise z; scale = sqrt(alpha_bar), so D sees x0 + sigma z."""

    scale: float
    sigma: float
    keep: float
    clean: float
    noise: float
    calls: int = 1

    def __call__(
        self, denoiser: Denoiser, x: Tensor, z: Tensor | None, lengths: Tensor | None = None
    ) -> Tensor:
        out = self.keep * x + self.clean * denoiser(x / self.scale, self.sigma, lengths)
        return out if z is None else out + self.noise * z


@dataclass(frozen=True)
class HeunStep:
    """Heun's second-order step of the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma.

    In the scale of D (Karras et al. 2022, algorithm 1); the last step, to sigma 0, is Euler's.
    """

    scale: float
    sigma: float
    next_scale: float
    next_sigma: float
    noise: float = 0.0

    @property
    def calls(self) -> int:
        return 2 if self.next_sigma > 0 else 1

    def __call__(
        self, denoiser: Denoiser, x: Tensor, z: Tensor | None, lengths: Tensor | None = None
    ) -> Tensor:
        state = x / self.scale
        slope = (state - denoiser(state, self.sigma, lengths)) / self.sigma
        width = self.next_sigma - self.sigma
        ahead = state + width * slope
        if self.next_sigma > 0:
            second = (ahead - denoiser(ahead, self.next_sigma, lengths)) / self.next_sigma
            ahead = state + width * 0.5 * (slope + second)
        return ahead * self.next_scale


class Sampler:
    """A reverse process. `n_star` counts steps of the schedule, fractional where that has meaning."""

    def start(self, schedule: NoiseSchedule, n_star: float) -> float:
        """alpha_bar of the forward diffusion (eq. 9) that this process undoes."""
        return schedule.alpha_bar(n_star)

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        """The steps from n_star to 0, noisiest first."""
        raise NotImplementedError


def _posterior(schedule: NoiseSchedule, n: float, m: float, *, variance: Variance, last: bool) -> AffineStep:
    """DDPM's step from n to m < n (eq. 5 when m = n - 1), in terms of the estimate of x_0."""
    here, there = schedule.alpha_bar(n), schedule.alpha_bar(m)
    ratio = here / there
    beta = 1 - ratio
    spread = beta * (1 - there) / (1 - here) if variance == "beta_tilde" else beta
    return AffineStep(
        scale=math.sqrt(here),
        sigma=schedule.sigma(n),
        keep=math.sqrt(ratio) * (1 - there) / (1 - here),
        clean=math.sqrt(there) * beta / (1 - here),
        noise=0.0 if last else math.sqrt(spread),
    )


def _pairs(n_star: float) -> list[tuple[float, float]]:
    """(n, next n) for n_star, n_star - 1, ... and a shorter last step if n_star is fractional."""
    count = math.ceil(n_star - 1e-9)
    return [(n_star - k, max(0.0, n_star - k - 1)) for k in range(count)]


@dataclass(frozen=True)
class Ddpm(Sampler):
    """Ancestral sampling (eqs. 4-5) with no noise at the last step.

    Args:
        variance: "beta_tilde", which DiffWave was trained for, or "beta", which leaves noise in the output
            (section 3.3).
    """

    variance: Variance = "beta_tilde"

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        return tuple(
            _posterior(schedule, n, m, variance=self.variance, last=m == 0) for n, m in _pairs(n_star)
        )


@dataclass(frozen=True)
class FewShot(Sampler):
    """Ancestral sampling that visits only `count` equidistant steps of the schedule; 1 is one-shot."""

    count: int = 2
    variance: Variance = "beta_tilde"

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        stops = [n_star * (1 - k / self.count) for k in range(self.count)] + [0.0]
        return visit(schedule, stops, variance=self.variance)


def visit(
    schedule: NoiseSchedule, stops: Sequence[float], *, variance: Variance = "beta_tilde"
) -> tuple[Step, ...]:
    """Ancestral steps over any falling sequence of steps that ends at 0."""
    if len(stops) < 2 or stops[-1] != 0 or any(a <= b for a, b in pairwise(stops)):
        raise InputError("the steps to visit must fall and end at 0")
    return tuple(_posterior(schedule, n, m, variance=variance, last=m == 0) for n, m in pairwise(stops))


@dataclass(frozen=True)
class OneShot(Sampler):
    """The estimate of x_0 in a single call, as certification uses it (Appendix C)."""

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        return (_posterior(schedule, n_star, 0.0, variance="beta_tilde", last=True),)


@dataclass(frozen=True)
class Ddim(Sampler):
    """Song et al. 2021 (DDIM), deterministic for eta = 0 and ancestral for eta = 1; one step for each n."""

    eta: float = 0.0

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        return tuple(self._step(schedule, n, m) for n, m in _pairs(n_star))

    def _step(self, schedule: NoiseSchedule, n: float, m: float) -> AffineStep:
        here, there = schedule.alpha_bar(n), schedule.alpha_bar(m)
        spread = self.eta * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        eps = math.sqrt(max(0.0, 1 - there - spread**2))
        std = math.sqrt(1 - here)
        return AffineStep(
            scale=math.sqrt(here),
            sigma=schedule.sigma(n),
            keep=eps / std,
            clean=math.sqrt(there) - eps * math.sqrt(here) / std,
            noise=0.0 if m == 0 else spread,
        )


@dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """The deterministic ODE with the same marginals (Song et al. 2021), by Heun's method."""

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        def point(n: float) -> tuple[float, float]:
            return math.sqrt(schedule.alpha_bar(n)), schedule.sigma(n)

        return tuple(HeunStep(*point(n), *point(m)) for n, m in _pairs(n_star))


@dataclass(frozen=True)
class ReverseSde(Sampler):
    """Euler-Maruyama on the reverse VP-SDE (eqs. 8, 10-13) with step 1/N.

    Args:
        continuous: False uses the paper's beta(n/N) := beta_n (per step); True the schedule of Nie et al.,
            beta(t) = beta_0 + (beta_N - beta_0) t with alpha_bar(t) = exp(-integral of beta), in which
            beta_0 and beta_N are N times the ends of the discrete schedule.
        variance: g_rev^2 is "beta_tilde" in the paper (eq. 11), "beta" in Nie et al.
    """

    continuous: bool = False
    variance: Variance = "beta_tilde"

    def start(self, schedule: NoiseSchedule, n_star: float) -> float:
        return self._rates(schedule, int(n_star))[1] if n_star >= 1 else 1.0

    def steps(self, schedule: NoiseSchedule, n_star: float) -> tuple[Step, ...]:
        if n_star != int(n_star):
            raise InputError(f"the reverse SDE needs a whole number of steps, got {n_star:g}")
        return tuple(self._step(schedule, n) for n in range(int(n_star), 0, -1))

    def _step(self, schedule: NoiseSchedule, n: int) -> AffineStep:
        beta, alpha_bar, before = self._rates(schedule, n)
        spread = beta * (1 - before) / (1 - alpha_bar) if self.variance == "beta_tilde" else beta
        # x + beta/2 (x + 2 score), score = -(x - sqrt(alpha_bar) x0) / (1 - alpha_bar); the network is asked
        # at the discrete index n, whatever noise level the continuous schedule believes in (eq. 12)
        pull = beta / (1 - alpha_bar)
        trained = schedule.alpha_bar(n)
        weight = pull * math.sqrt(1 - alpha_bar) / math.sqrt(1 - trained)
        return AffineStep(
            scale=math.sqrt(trained),
            sigma=schedule.sigma(n),
            keep=1 + beta / 2 - weight,
            clean=weight * math.sqrt(trained),
            noise=0.0 if n == 1 else math.sqrt(spread),
        )

    def _rates(self, schedule: NoiseSchedule, n: int) -> tuple[float, float, float]:
        """beta_n, alpha_bar_n and alpha_bar_{n-1} of the chosen schedule."""
        if not self.continuous:
            return schedule.beta(n), schedule.alpha_bar(n), schedule.alpha_bar(n - 1)
        count = len(schedule)
        low, high = schedule.betas[0] * count, schedule.betas[-1] * count

        def alpha_bar(t: float) -> float:
            return math.exp(-(low * t + (high - low) * t * t / 2))

        t = n / count
        return (low + (high - low) * t) / count, alpha_bar(t), alpha_bar(t - 1 / count)
