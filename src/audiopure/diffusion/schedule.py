"""Noise schedules: step, alpha_bar and sigma, each from the other.

Steps count from 1 to N as in the paper; step 0 is the clean signal. A fractional step lies on the geometric
line between its neighbours (log alpha_bar is linear in the step), so sigma <-> step is exact both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audiopure.errors import InputError


@dataclass(frozen=True)
class NoiseSchedule:
    """The variances beta_1..beta_N of eq. 1 and everything eq. 2 derives from them.

    Args:
        betas: each in (0, 1).
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise InputError("a noise schedule needs at least one beta, each between 0 and 1")
        log_alpha = np.log1p(-np.asarray(self.betas, dtype=np.float64))
        object.__setattr__(self, "_log_alpha_bar", np.concatenate([[0.0], np.cumsum(log_alpha)]))

    @classmethod
    def linear(cls, beta_1: float = 1e-4, beta_n: float = 0.02, steps: int = 200) -> NoiseSchedule:
        """DiffWave's schedule (Appendix A): beta grows linearly."""
        return cls(tuple(np.linspace(beta_1, beta_n, steps).tolist()))

    @classmethod
    def from_sigmas(cls, sigmas: Sequence[float]) -> NoiseSchedule:
        """The schedule whose step n has noise-to-signal ratio sigmas[n-1]; they must grow."""
        alpha_bar = 1 / (1 + np.square(np.asarray(sigmas, dtype=np.float64)))
        previous = np.concatenate([[1.0], alpha_bar[:-1]])
        return cls(tuple((1 - alpha_bar / previous).tolist()))

    def __repr__(self) -> str:
        return f"NoiseSchedule(N={len(self)}, beta {self.betas[0]:g}..{self.betas[-1]:g})"

    def __len__(self) -> int:
        return len(self.betas)

    def beta(self, n: int) -> float:
        """beta_n, 1 <= n <= N."""
        return self.betas[self._whole(n) - 1]

    def alpha_bar(self, n: float) -> float:
        """Product of 1 - beta up to step n (eq. 2); 0 <= n <= N, fractions allowed."""
        return math.exp(self._log(n))

    def beta_tilde(self, n: int) -> float:
        """Posterior variance (eq. 2): (1 - alpha_bar_{n-1}) / (1 - alpha_bar_n) beta_n, and beta_1 at n = 1.

        Samplers add no noise at the last step, so the value at n = 1 is never used to draw.
        """
        n = self._whole(n)
        if n == 1:
            return self.betas[0]
        return math.expm1(self._log(n - 1)) / math.expm1(self._log(n)) * self.betas[n - 1]

    def std(self, n: float) -> float:
        """Standard deviation sqrt(1 - alpha_bar_n) of the noise at step n (eq. 3)."""
        return math.sqrt(-math.expm1(self._log(n)))

    def sigma(self, n: float) -> float:
        """Noise relative to the signal, sqrt((1 - alpha_bar) / alpha_bar), at step n."""
        return math.sqrt(math.expm1(-self._log(n)))

    def step(self, sigma: float) -> float:
        """The step, fractional in general, at which the noise relative to the signal is `sigma`.

        Inverse of `sigma`: alpha_bar = 1 / (1 + sigma^2). InputError beyond the noisiest step.
        """
        target = -math.log1p(sigma * sigma)
        table = self._log_alpha_bar  # type: ignore[attr-defined]
        if not (sigma >= 0 and target >= table[-1] * (1 + 1e-12)):  # NaN fails too
            raise InputError(f"sigma must lie between 0 and {self.sigma(len(self)):.4g}, got {sigma:g}")
        return float(np.interp(-target, -table, np.arange(len(table))))

    def _log(self, n: float) -> float:
        if not 0 <= n <= len(self):
            raise InputError(f"a step of this schedule lies between 0 and {len(self)}, got {n:g}")
        table = self._log_alpha_bar  # type: ignore[attr-defined]
        low = min(int(n), len(self) - 1)
        return float(table[low] + (n - low) * (table[low + 1] - table[low]))

    def _whole(self, n: int) -> int:
        if n != int(n) or not 1 <= n <= len(self):
            raise InputError(f"expected a whole step between 1 and {len(self)}, got {n:g}")
        return int(n)
