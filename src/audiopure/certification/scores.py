"""Certificates from the values of a score: "full information" (Dvijotham et al. 2020, section 4.1).

A score in [-1, 1] whose mean is positive at x stays positive on average within a radius. Three bounds of that
mean under the noise around x + delta are here, by KL, Renyi and hockey-stick divergences. Each needs one
expectation under the noise around x, of a function with settings; settings are chosen on pilot draws, and the
expectation is bounded on other draws, so that the confidence is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from audiopure.certification.bounds import Method, Sums, mean_upper
from audiopure.certification.divergences import HockeyStick, KullbackLeibler, Renyi, radius
from audiopure.errors import InputError

Array = NDArray[np.float64]


class ScoreBound(Protocol):
    """A bound with its settings."""

    def unit(self, scores: Array) -> Array:
        """What is averaged, in [0, 1]. Shape: (n,) -> (n,)."""
        ...

    def radius(self, sums: Sums, sigma: float, alpha: float, method: Method = "bernstein") -> float:
        """The L2 radius for white Gaussian noise, from the sums of `unit`, with confidence 1 - alpha."""
        ...


@dataclass(frozen=True)
class KlBound:
    """mean >= -scale eps - scale log E exp(-score / scale), for any scale."""

    scale: float

    def unit(self, scores: Array) -> Array:
        return (np.exp((-scores - 1) / self.scale) - self._least) / (1 - self._least)

    def radius(self, sums: Sums, sigma: float, alpha: float, method: Method = "bernstein") -> float:
        upper = self._least + (1 - self._least) * mean_upper(sums, alpha, method)
        return radius(KullbackLeibler(), -(1 / self.scale + math.log(upper)), sigma)

    @property
    def _least(self) -> float:
        """What exp((-score - 1) / scale) is for a score of 1; for one of -1 it is 1."""
        return math.exp(-2 / self.scale)


@dataclass(frozen=True)
class RenyiBound:
    """mean >= kappa - exp(D / b) (E max(kappa - score, 0)^b)^(1/b), for any kappa > 0.

    Hoelder's inequality for density times max(kappa - score, 0): b = order / (order - 1), and D is the Renyi
    divergence of that order.
    """

    order: float
    kappa: float

    def unit(self, scores: Array) -> Array:
        return (np.maximum(self.kappa - scores, 0.0) / (self.kappa + 1)) ** self._exponent

    def radius(self, sums: Sums, sigma: float, alpha: float, method: Method = "bernstein") -> float:
        upper = mean_upper(sums, alpha, method)
        eps = self._exponent * math.log(self.kappa / (self.kappa + 1)) - math.log(upper)
        return radius(Renyi(self.order), eps, sigma)

    @property
    def _exponent(self) -> float:
        return self.order / (self.order - 1)


@dataclass(frozen=True)
class HockeyBound:
    """mean >= kappa - (kappa + 1) (eps + max(1 - beta, 0)) - beta E max(kappa - score, 0)."""

    kappa: float
    beta: float

    def unit(self, scores: Array) -> Array:
        return np.maximum(self.kappa - scores, 0.0) / (self.kappa + 1)

    def radius(self, sums: Sums, sigma: float, alpha: float, method: Method = "bernstein") -> float:
        share = self.kappa / (self.kappa + 1) - self.beta * mean_upper(sums, alpha, method)
        return radius(HockeyStick(self.beta), share - max(1 - self.beta, 0.0), sigma)


def choose_kl(pilot: Array, n: int, alpha: float, method: Method = "bernstein") -> KlBound:
    """The scale that promises most for n draws like the pilot's; InputError for scores beyond [-1, 1]."""
    _check(pilot)

    def promise(log_scale: float) -> float:
        bound = KlBound(math.exp(log_scale))
        return -bound.radius(_scaled(bound.unit(pilot), n), 1.0, alpha, method)

    found = minimize_scalar(promise, bounds=(math.log(0.05), math.log(50.0)), method="bounded")
    return KlBound(math.exp(float(found.x)))  # type: ignore[attr-defined]


def choose_renyi(pilot: Array, n: int, alpha: float, method: Method = "bernstein") -> RenyiBound:
    """As `choose_kl`, over a grid of order and kappa."""
    _check(pilot)
    orders, kappas = 1 + np.exp(np.linspace(-3, 2, 16)), np.exp(np.linspace(-2, 2.5, 19))
    bounds = [RenyiBound(order, kappa) for order in orders.tolist() for kappa in kappas.tolist()]
    return max(bounds, key=lambda bound: bound.radius(_scaled(bound.unit(pilot), n), 1.0, alpha, method))


def choose_hockey(pilot: Array, n: int, alpha: float, method: Method = "bernstein") -> HockeyBound:
    """As `choose_kl`, over a grid of kappa and beta."""
    _check(pilot)
    best, chosen = -1.0, HockeyBound(0.5, 1.0)
    for kappa in np.linspace(-0.9, 1.0, 20).tolist():
        sums = _scaled(HockeyBound(kappa, 1.0).unit(pilot), n)  # beta does not enter
        for beta in np.exp(np.linspace(-3, 8, 45)).tolist():
            bound = HockeyBound(kappa, beta)
            found = bound.radius(sums, 1.0, alpha, method)
            if found > best:
                best, chosen = found, bound
    return chosen


class Choice(NamedTuple):
    """A bound, and how its settings are chosen: on a pilot, for a number of draws and alpha."""

    kind: Callable[..., ScoreBound]
    choose: Callable[[Array, int, float], KlBound | RenyiBound | HockeyBound]


# by the name of the certificate; a new one is a bound, its choice and one line here
CHOICES: Mapping[str, Choice] = {
    "kl": Choice(KlBound, choose_kl),
    "renyi": Choice(RenyiBound, choose_renyi),
    "hockey-stick": Choice(HockeyBound, choose_hockey),
}


def full_information(
    name: str, pilot: Array, scores: Array, sigma: float, alpha: float, method: Method = "bernstein"
) -> float:
    """The L2 radius within which the mean of a score stays positive, by the bound `name`.

    Shape: pilot (m,), scores (n,), of other, independent draws. Raises InputError for an unknown name or
    scores outside [-1, 1].
    """
    if name not in CHOICES:
        raise InputError(f"there is no certificate '{name}' of scores; there are: {', '.join(CHOICES)}.")
    _check(scores)
    bound = CHOICES[name].choose(pilot, len(scores), alpha)
    return bound.radius(Sums.of(bound.unit(scores)), sigma, alpha, method)


def _scaled(values: Array, n: int) -> Sums:
    """Sums of n values like these."""
    sums, factor = Sums.of(values), n / len(values)
    return Sums(n, factor * sums.total, factor * sums.squares)


def _check(scores: Array) -> None:
    if not len(scores) or not np.isfinite(scores).all() or np.abs(scores).max() > 1:
        raise InputError("scores must be finite and lie in [-1, 1]")
