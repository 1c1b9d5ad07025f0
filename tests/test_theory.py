"""Theorem D.1: under the VP-SDE KL(p_t || q_t) never grows; its slope is -beta/2 the Fisher divergence.

Time is counted in steps of the package's schedule, whose log alpha_bar is linear between whole steps: within
step n the SDE's rate is -log(1 - beta_n).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiopure.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()
Gaussian = tuple[np.ndarray, np.ndarray]


def random_gaussian(rng: np.random.Generator, size: int) -> Gaussian:
    root = rng.normal(size=(size, size))
    return rng.normal(size=size), root @ root.T + 0.05 * np.eye(size)


def diffused(gaussian: Gaussian, n: float) -> Gaussian:
    mean, covariance = gaussian
    alpha_bar = SCHEDULE.alpha_bar(n)
    return math.sqrt(alpha_bar) * mean, alpha_bar * covariance + (1 - alpha_bar) * np.eye(len(mean))


def kl(p: Gaussian, q: Gaussian) -> float:
    gap = q[0] - p[0]
    inverse = np.linalg.inv(q[1])
    logs = np.linalg.slogdet(q[1])[1] - np.linalg.slogdet(p[1])[1]
    return 0.5 * (np.trace(inverse @ p[1]) - len(gap) + gap @ inverse @ gap + logs)


def fisher(p: Gaussian, q: Gaussian) -> float:
    """E_p |grad log p - grad log q|^2: an affine function of x under a Gaussian."""
    inverse_p, inverse_q = np.linalg.inv(p[1]), np.linalg.inv(q[1])
    slope = inverse_q - inverse_p
    constant = inverse_q @ (p[0] - q[0])
    return float(np.trace(slope @ p[1] @ slope.T) + constant @ constant)


def rate(n: float) -> float:
    """beta(t) dt for one step: the rate at which log alpha_bar falls."""
    return -math.log1p(-SCHEDULE.beta(math.ceil(n)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 6),
    step=st.integers(1, 200),
    part=st.floats(0.1, 0.9, allow_subnormal=False),
)
def test_slope_of_the_divergence_on_gaussians(seed, size, step, part):
    rng = np.random.default_rng(seed)
    p, q = random_gaussian(rng, size), random_gaussian(rng, size)
    n, width = step - 1 + part, 1e-3

    def at(x: float) -> float:
        return kl(diffused(p, x), diffused(q, x))

    slope = (8 * (at(n + width) - at(n - width)) - (at(n + 2 * width) - at(n - 2 * width))) / (12 * width)
    expected = -0.5 * rate(n) * fisher(diffused(p, n), diffused(q, n))
    # the difference quotient loses about eps * KL / width to rounding
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-11 * (1 + at(n)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 6))
def test_the_divergence_never_grows_on_gaussians(seed, size):
    rng = np.random.default_rng(seed)
    p, q = random_gaussian(rng, size), random_gaussian(rng, size)
    values = [kl(diffused(p, n), diffused(q, n)) for n in range(201)]
    assert all(later < earlier for earlier, later in pairwise(values))


def test_equal_distributions_stay_equal():
    p = random_gaussian(np.random.default_rng(0), 4)
    for n in (0, 3, 200):
        assert kl(diffused(p, n), diffused(p, n)) == pytest.approx(0, abs=1e-12)
        assert fisher(diffused(p, n), diffused(p, n)) == pytest.approx(0, abs=1e-20)


def test_a_shift_decays_as_its_closed_form():
    # p and q differ by a perturbation of norm r: KL = alpha_bar r^2 / 2 / (alpha_bar v + 1 - alpha_bar)
    variance, shift = 0.01, np.array([0.002, -0.002, 0.002])
    p = (np.zeros(3), variance * np.eye(3))
    q = (shift, variance * np.eye(3))
    for n in (0, 1, 3, 10, 100):
        alpha_bar = SCHEDULE.alpha_bar(n)
        expected = alpha_bar * float(shift @ shift) / 2 / (alpha_bar * variance + 1 - alpha_bar)
        assert kl(diffused(p, n), diffused(q, n)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [0.5, 2.5, 20.5, 120.5])
def test_slope_of_the_divergence_on_mixtures_by_quadrature(n):
    """Beyond Gaussians: two bimodal densities, everything by numeric integration."""
    x = np.linspace(-12, 12, 60_001)

    def log_density(weights, means, deviations, time):
        alpha_bar = SCHEDULE.alpha_bar(time)
        spread = alpha_bar * np.square(deviations) + 1 - alpha_bar
        centred = x[:, None] - math.sqrt(alpha_bar) * np.asarray(means)
        parts = np.log(weights) - 0.5 * np.log(2 * np.pi * spread) - 0.5 * centred**2 / spread
        return np.logaddexp.reduce(parts, axis=1)

    def pair(time):
        p = log_density([0.5, 0.5], [-1.0, 1.0], [0.3, 0.5], time)
        return p, log_density([0.3, 0.7], [-0.5, 1.5], [0.6, 0.4], time)

    def divergence(time):
        p, q = pair(time)
        return np.trapezoid(np.exp(p) * (p - q), x)

    p, q = pair(n)
    score_gap = np.gradient(p - q, x)
    expected = -0.5 * rate(n) * np.trapezoid(np.exp(p) * score_gap**2, x)
    slope = (divergence(n + 0.01) - divergence(n - 0.01)) / 0.02
    assert slope == pytest.approx(expected, rel=1e-4)
    assert slope < 0
