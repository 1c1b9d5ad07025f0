"""The noise schedule against the released code's numbers, exact arithmetic and its own inverse."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiopure.diffusion.schedule import NoiseSchedule

LINEAR = NoiseSchedule.linear()
floats = partial(st.floats, allow_subnormal=False)  # conftest.py flushes them, as training does


def exact_alpha_bar(n: int) -> Fraction:
    """Product of 1 - beta in rational arithmetic, betas of eq. 1 as DiffWave sets them."""
    first, last = Fraction(1, 10_000), Fraction(2, 100)
    return math.prod((1 - (first + (last - first) * k / 199) for k in range(n)), start=Fraction(1))


def test_numbers_of_the_released_code():
    assert len(LINEAR) == 200
    assert [round(LINEAR.alpha_bar(n), 5) for n in range(1, 6)] == [0.9999, 0.9997, 0.9994, 0.999, 0.9985]
    assert round(LINEAR.alpha_bar(200), 5) == 0.13218
    assert [round(LINEAR.std(n), 4) for n in (1, 2, 3, 5)] == [0.0100, 0.0173, 0.0245, 0.0387]


@pytest.mark.parametrize(
    ("sigma", "step"), [(0.01, 1), (0.02, 2), (0.05, 7), (0.1, 14), (0.25, 34), (0.5, 66), (1.0, 117)]
)
def test_noise_levels_of_certification_fall_on_the_known_steps(sigma, step):
    assert round(LINEAR.step(sigma)) == step


@pytest.mark.parametrize("n", [1, 2, 3, 10, 77, 200])
def test_closed_forms_in_rational_arithmetic(n):
    here, before = exact_alpha_bar(n), exact_alpha_bar(n - 1)
    beta = 1 - here / before
    assert LINEAR.alpha_bar(n) == pytest.approx(float(here), rel=1e-13)
    assert LINEAR.beta(n) == pytest.approx(float(beta), rel=1e-13)
    assert LINEAR.std(n) == pytest.approx(math.sqrt(1 - here), rel=1e-12)
    assert LINEAR.sigma(n) == pytest.approx(math.sqrt((1 - here) / here), rel=1e-12)
    tilde = beta if n == 1 else (1 - before) / (1 - here) * beta
    assert LINEAR.beta_tilde(n) == pytest.approx(float(tilde), rel=1e-11)


def test_beta_tilde_is_the_variance_of_the_forward_posterior():
    # q(x_{n-1} | x_n, x_0) by conditioning the joint Gaussian of (x_{n-1}, x_n) given x_0
    for n in (2, 3, 50, 200):
        before, beta = LINEAR.alpha_bar(n - 1), LINEAR.beta(n)
        variance = np.array(
            [
                [1 - before, math.sqrt(1 - beta) * (1 - before)],
                [math.sqrt(1 - beta) * (1 - before), (1 - beta) * (1 - before) + beta],
            ]
        )
        conditional = variance[0, 0] - variance[0, 1] ** 2 / variance[1, 1]
        assert LINEAR.beta_tilde(n) == pytest.approx(conditional, rel=1e-8)


@given(floats(0.0, 200.0))
def test_step_to_sigma_and_back(n):
    assert LINEAR.step(LINEAR.sigma(n)) == pytest.approx(n, rel=1e-9, abs=1e-9)


@given(floats(0.0, LINEAR.sigma(200)))
def test_sigma_to_step_and_back(sigma):
    assert LINEAR.sigma(LINEAR.step(sigma)) == pytest.approx(sigma, rel=1e-9, abs=1e-12)


@given(
    st.lists(floats(1e-5, 0.5), min_size=1, max_size=30).map(tuple),
    floats(0, 1),
)
def test_round_trip_on_any_schedule(betas, fraction):
    schedule = NoiseSchedule(betas)
    n = fraction * len(betas)
    assert schedule.step(schedule.sigma(n)) == pytest.approx(n, rel=1e-8, abs=1e-8)
    assert schedule.alpha_bar(n) == pytest.approx(1 / (1 + schedule.sigma(n) ** 2), rel=1e-12)


@given(floats(0.0, 199.0), floats(0.01, 1.0))
def test_sigma_grows_with_the_step(n, more):
    assert LINEAR.sigma(n + more) > LINEAR.sigma(n)


def test_step_zero_is_the_clean_signal():
    assert (LINEAR.alpha_bar(0), LINEAR.sigma(0), LINEAR.std(0), LINEAR.step(0.0)) == (1.0, 0.0, 0.0, 0.0)


def test_a_schedule_from_noise_levels_has_those_levels():
    sigmas = [0.001, 0.02, 0.3, 4.0]
    schedule = NoiseSchedule.from_sigmas(sigmas)
    assert [schedule.sigma(n) for n in range(1, 5)] == pytest.approx(sigmas, rel=1e-9)


@pytest.mark.parametrize("n", [-0.1, 200.5, math.nan])
def test_steps_outside_the_schedule_are_refused(n):
    with pytest.raises(ValueError, match="lies between 0 and 200"):
        LINEAR.alpha_bar(n)


@pytest.mark.parametrize("n", [0, 1.5, 201])
def test_betas_belong_to_whole_steps(n):
    with pytest.raises(ValueError, match="whole step"):
        LINEAR.beta(n)


@pytest.mark.parametrize("sigma", [-0.1, 3.0, math.nan])
def test_noise_levels_outside_the_schedule_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma must lie between"):
        LINEAR.step(sigma)


@pytest.mark.parametrize("betas", [(), (0.0,), (1.0,), (0.1, -0.1), (math.nan,)])
def test_betas_are_checked(betas):
    with pytest.raises(ValueError, match="each between 0 and 1"):
        NoiseSchedule(betas)


def test_falling_noise_levels_are_refused():
    with pytest.raises(ValueError):
        NoiseSchedule.from_sigmas([0.2, 0.1])
