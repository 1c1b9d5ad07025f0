"""Certificates by f-divergences (Dvijotham et al. 2020): for noise whose divergence is known, and for scores.

nu is the law of what the base classifier meets at x + delta, rho that at x. If D_f(nu | rho) <= eps for every
delta of a size, a fact about rho bounds the same fact under nu. Here that fact is rho's two top shares
("information-limited", sections 4.2 and 5); `scores` has certificates from the values of a score.

For Gaussian noise and L2, `radius` turns eps into a radius; for other laws only `eps` has a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import brentq, linprog
from scipy.special import ndtr

from audiopure.errors import InputError

ROUNDING = 1e-12  # of a divergence computed in double precision
INFEASIBLE = 2  # status of a linear programme: here no law makes the second label as likely as the top one


class Divergence(Protocol):
    """A divergence between the noise around x + delta and the noise around x."""

    def gaussian(self, ratio: float) -> float:
        """Its value for white Gaussian noise when |delta| is `ratio` times sigma; grows with `ratio`."""
        ...

    def limit(self, p: float, q: float) -> float:
        """Below this value no law turns a top share p and a second share q into their order's reverse."""
        ...


@dataclass(frozen=True)
class KullbackLeibler:
    """KL(nu | rho): |delta|^2 / 2 sigma^2 for Gaussians."""

    def gaussian(self, ratio: float) -> float:
        return ratio**2 / 2

    def limit(self, p: float, q: float) -> float:
        """-log(1 - (sqrt p - sqrt q)^2)."""
        apart = (math.sqrt(p) - math.sqrt(q)) ** 2
        if p <= q:
            return 0.0
        return -math.log1p(-apart) if apart < 1 else math.inf


@dataclass(frozen=True)
class Renyi:
    """Renyi's divergence of an order above 1: order |delta|^2 / 2 sigma^2 for Gaussians."""

    order: float

    def __post_init__(self) -> None:
        if not 1 < self.order < math.inf:
            raise InputError(
                f"the order of a Renyi divergence lies between 1 and infinity, got {self.order:g}"
            )

    def gaussian(self, ratio: float) -> float:
        return self.order * ratio**2 / 2

    def limit(self, p: float, q: float) -> float:
        """-log(1 - p - q + 2 M), M the power mean of p and q with exponent 1 - order."""
        if p <= q:
            return 0.0
        power = 1 - self.order
        if q <= 0:
            return -math.log1p(-p) if p < 1 else math.inf
        # in logarithms: a share near 0 overflows a negative power
        sums = np.logaddexp(power * math.log(p), power * math.log(q))
        mean = (float(sums) - math.log(2)) / power
        return -math.log(1 - p - q + 2 * math.exp(mean))


@dataclass(frozen=True)
class HockeyStick:
    """E_rho max(nu / rho - beta, 0) - max(1 - beta, 0); over all beta it gives Cohen's radius."""

    beta: float

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InputError(f"beta of a hockey-stick divergence is positive, got {self.beta:g}")

    def gaussian(self, ratio: float) -> float:
        """Phi(r/2 - log(beta)/r) - beta Phi(-r/2 - log(beta)/r) - max(1 - beta, 0)."""
        floor = max(1 - self.beta, 0.0)
        if ratio == 0:
            return 0.0
        shift = math.log(self.beta) / ratio
        return float(ndtr(ratio / 2 - shift) - self.beta * ndtr(-ratio / 2 - shift)) - floor

    def limit(self, p: float, q: float) -> float:
        """The least divergence of a law under which the second label is as likely as the top one.

        The best law's density relative to rho is constant on the top label, on the second and on the rest, so
        that it is found by a linear programme.
        """
        if p <= q:
            return 0.0
        masses = [p, q, max(0.0, 1 - p - q)]
        # three densities v and their excesses e >= v - beta, e >= 0
        excess = np.hstack([np.eye(3), -np.eye(3)])
        level = np.array([[p, -q, 0.0, 0.0, 0.0, 0.0]])
        found = linprog(
            [0.0, 0.0, 0.0, *masses],
            A_ub=np.vstack([excess, level]),
            b_ub=[self.beta] * 3 + [0.0],
            A_eq=[[*masses, 0.0, 0.0, 0.0]],
            b_eq=[1.0],
        )
        if found.status == INFEASIBLE:
            return math.inf
        # a programme that was not solved certifies nothing
        return float(found.fun) - max(1 - self.beta, 0.0) if found.success else 0.0


def radius(divergence: Divergence, eps: float, sigma: float) -> float:
    """The largest L2 radius around which white Gaussian noise stays below eps, 0 if there is none."""
    eps -= ROUNDING  # a certificate must not rest on the last digits
    if eps <= 0:
        return 0.0
    top = 1.0
    while divergence.gaussian(top) < eps:
        top *= 2
        if top > 64:  # no share differs from 0 or 1 by what double precision could tell
            return math.inf
    found = brentq(lambda ratio: divergence.gaussian(ratio) - eps, 0.0, top, xtol=1e-12)
    return sigma * float(found)  # type: ignore[arg-type]


def information_limited(divergences: Sequence[Divergence], p: float, q: float, sigma: float) -> float:
    """The best radius that these divergences give for shares p (at least) and q (at most)."""
    return max(radius(d, d.limit(p, q), sigma) for d in divergences)
