"""Reverse samplers on Gaussian data, where the exact posterior mean, score and transport map are known.

With a Gaussian denoiser a purifier is affine in the clip and in each draw of noise. `response` reads its
coefficients off; the tests derive the same numbers from the paper's equations in eps form.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from core_helpers import OneDraw
from torch import Tensor

from audiopure.diffusion import samplers
from audiopure.diffusion.denoiser import GaussianDenoiser
from audiopure.diffusion.gradient import Full
from audiopure.diffusion.samplers import AffineStep, Ddim, Ddpm, FewShot, OneShot, ProbabilityFlow, ReverseSde
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

LINEAR = NoiseSchedule.linear()
MEAN = 0.3
ALL = [
    Ddpm(),
    Ddpm("beta"),
    FewShot(2),
    OneShot(),
    Ddim(),
    Ddim(1.0),
    ProbabilityFlow(),
    ReverseSde(),
    ReverseSde(variance="beta"),
    ReverseSde(continuous=True),
    ReverseSde(continuous=True, variance="beta"),
]


def gaussian(variance: float, mean: float = MEAN) -> GaussianDenoiser:
    return GaussianDenoiser(*torch.tensor([mean, variance], dtype=torch.float64))


def response(sampler, n_star: float, variance: float, schedule: NoiseSchedule = LINEAR, draws: int = 0):
    """(constant, coefficient of the clip, coefficients of each draw) of the purified sample."""
    purifier = Purifier(gaussian(variance), n_star=n_star, sampler=sampler, schedule=schedule)

    def run(x: float, which: int | None) -> float:
        return float(purifier(torch.full((1, 1), x, dtype=torch.float64), noise=OneDraw(which)))

    constant = run(0.0, None)
    count = draws or len(purifier.steps)
    return constant, run(1.0, None) - constant, [run(0.0, k) - constant for k in range(count + 1)]


def ancestral(n_star: int, variance: float, sampler: Ddpm | ReverseSde):
    """The same by the paper's recursions in eps form: eqs. 4-5 and 9, or Euler-Maruyama on eqs. 11-12."""
    count, (low, high) = len(LINEAR), (LINEAR.betas[0], LINEAR.betas[-1])
    continuous = isinstance(sampler, ReverseSde) and sampler.continuous

    def rates(n: int) -> tuple[float, float]:
        if not continuous:
            return LINEAR.betas[n - 1], math.prod(1 - beta for beta in LINEAR.betas[:n])
        t = n / count
        return low + (high - low) * t, math.exp(-count * (low * t + (high - low) * t * t / 2))

    alpha_bar = rates(n_star)[1]
    # columns: constant, clip, draw 0, draw 1, ...
    state = np.zeros(3 + n_star)
    state[1:3] = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    for k, n in enumerate(range(n_star, 0, -1), start=1):
        beta, alpha_bar = rates(n)
        trained = math.prod(1 - b for b in LINEAR.betas[:n])
        one = np.eye(len(state))[0]
        # E[eps | x] at the noise level the network was trained for, by regression of eps on x
        spread = trained * variance + 1 - trained
        eps = math.sqrt(1 - trained) / spread * (state - math.sqrt(trained) * MEAN * one)
        if isinstance(sampler, Ddpm):
            state = (state - beta / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(1 - beta)
        else:
            state = (1 + beta / 2) * state - beta / math.sqrt(1 - alpha_bar) * eps
        before = rates(n - 1)[1]
        tilde = (1 - before) / (1 - alpha_bar) * beta if sampler.variance == "beta_tilde" else beta
        state[2 + k] += 0.0 if n == 1 else math.sqrt(tilde)
    return state[0], state[1], state[2:].tolist()


@pytest.mark.parametrize("variance", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("n_star", [1, 2, 3, 10])
@pytest.mark.parametrize("sampler", [s for s in ALL if isinstance(s, Ddpm | ReverseSde)], ids=str)
def test_ancestral_samplers_obey_the_papers_recursion(sampler, n_star, variance):
    constant, clip, draws = response(sampler, n_star, variance)
    expected = ancestral(n_star, variance, sampler)
    assert [constant, clip] == pytest.approx(expected[:2], rel=1e-9, abs=1e-12)
    assert draws == pytest.approx(expected[2], rel=1e-9, abs=1e-12)


def test_ddpm_reaches_the_predicted_distribution():
    n_star, variance, count = 3, 0.01, 200_000
    constant, clip, draws = ancestral(n_star, variance, Ddpm())
    purifier = Purifier(gaussian(variance), n_star=n_star)
    x = torch.full((1, count), 0.5, dtype=torch.float64)
    out = purifier(x, noise=SeededNoise(0))
    predicted = sum(c * c for c in draws)
    assert float(out.mean()) == pytest.approx(constant + 0.5 * clip, abs=5 * math.sqrt(predicted / count))
    assert float(out.var()) == pytest.approx(predicted, rel=5 * math.sqrt(2 / count))


def test_ddpm_samples_the_data_in_the_limit_of_small_steps():
    """From pure noise of a long schedule the output's law tends to the data's, with an error of 1 / steps."""
    variance, errors = 0.25, []
    for count in (100, 200, 400):
        schedule = NoiseSchedule.from_sigmas(np.geomspace(0.01, 50.0, count).tolist())
        steps = Ddpm().steps(schedule, count)
        law = _law(steps, gaussian(variance), mean=0.0, variance=1.0)
        errors.append(abs(law[1] - variance))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.03 * variance
    assert all(0.8 < order < 1.2 for order in orders)


def _law(steps, denoiser, mean: float, variance: float) -> tuple[float, float]:
    for step in steps:
        points = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        zero, one = step(denoiser, points, torch.zeros_like(points))[0].tolist()
        mean, variance = zero + (one - zero) * mean, (one - zero) ** 2 * variance + step.noise**2
    return mean, variance


def _transport_error(sampler, count: int) -> float:
    """Error of the map from x + sigma z to the data's quantile, over sigma 0..2 in `count` equal steps."""
    variance, sigma = 0.36, 2.0
    schedule = NoiseSchedule.from_sigmas(np.linspace(sigma / count, sigma, count).tolist())
    start = torch.linspace(-3, 3, 7, dtype=torch.float64)[None]
    exact = MEAN + math.sqrt(variance / (variance + sigma**2)) * (start - MEAN)
    x = start * math.sqrt(schedule.alpha_bar(count))
    steps = sampler.steps(schedule, count)
    return float((Full()(steps, gaussian(variance), x, [None] * len(steps)) - exact).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [(Ddim(), 1), (ProbabilityFlow(), 2)], ids=str)
def test_ode_samplers_converge_to_the_exact_transport_map(sampler, order):
    errors = [_transport_error(sampler, count) for count in (40, 80, 160, 320)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.01
    assert all(abs(value - order) < 0.15 for value in measured), measured


def test_ddim_with_eta_one_is_ddpm():
    for n_star in (1, 3, 10, 4.5):
        for ours, theirs in zip(Ddim(1.0).steps(LINEAR, n_star), Ddpm().steps(LINEAR, n_star), strict=True):
            assert isinstance(ours, AffineStep) and isinstance(theirs, AffineStep)
            for name in ("scale", "sigma", "keep", "clean", "noise"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9, abs=1e-13)


def test_few_shot_over_every_step_is_ddpm():
    for n_star in (1, 2, 3, 7):
        few = response(FewShot(n_star), n_star, 0.04)
        assert few[0] == pytest.approx(response(Ddpm(), n_star, 0.04)[0], rel=1e-9)
        assert few[2] == pytest.approx(response(Ddpm(), n_star, 0.04)[2], rel=1e-9, abs=1e-13)


def test_few_shot_visits_the_steps_it_says():
    steps = FewShot(3).steps(LINEAR, 12)
    assert [LINEAR.step(step.sigma) for step in steps] == pytest.approx([12, 8, 4])  # type: ignore[attr-defined]
    chosen = samplers.visit(LINEAR, [9, 4, 0])
    assert [LINEAR.step(step.sigma) for step in chosen] == pytest.approx([9, 4])  # type: ignore[attr-defined]


@pytest.mark.parametrize("stops", [[3.0], [3.0, 1.0], [1.0, 2.0, 0.0], [2.0, 2.0, 0.0], []])
def test_steps_to_visit_must_fall_to_zero(stops):
    with pytest.raises(ValueError, match="must fall and end at 0"):
        samplers.visit(LINEAR, stops)


@pytest.mark.parametrize("sampler", [OneShot(), FewShot(1)], ids=str)
def test_one_shot_is_the_posterior_mean(sampler):
    n_star, variance = 14.3, 0.09
    alpha_bar = LINEAR.alpha_bar(n_star)
    # E[x0 | x_n] by conditioning the joint Gaussian of (x0, x_n)
    weight = math.sqrt(alpha_bar) * variance / (alpha_bar * variance + 1 - alpha_bar)
    step = sampler.steps(LINEAR, n_star)
    noisy = torch.tensor([[-1.0, 0.2, 0.9]], dtype=torch.float64)
    out = Full()(step, gaussian(variance), noisy, [None])
    torch.testing.assert_close(out, MEAN + weight * (noisy - math.sqrt(alpha_bar) * MEAN))


def _difference(scale: float, variance: float) -> float:
    """Largest change between DDPM and the reverse SDE for a clip at the data's mean and unit draws."""
    schedule = NoiseSchedule(tuple(scale * beta for beta in LINEAR.betas))
    ours, theirs = (response(sampler, 10, variance, schedule) for sampler in (Ddpm(), ReverseSde()))
    flat = [np.array([a + b * MEAN, *c]) for a, b, c in (ours, theirs)]
    return float(np.abs(flat[0] - flat[1]).max())


def test_the_reverse_sde_differs_from_ddpm_at_second_order_in_beta():
    values = [_difference(0.5**k, 1.0) for k in range(6)]
    orders = [math.log2(a / b) for a, b in pairwise(values)]
    assert values[0] < 1e-4
    assert all(1.9 < order < 2.1 for order in orders), orders


def test_the_difference_is_of_order_three_halves_if_all_noise_is_removed():
    # with no variance left, eps is of order 1 and not sqrt(beta): its factor beta / sqrt(1 - alpha_bar) shows
    values = [_difference(0.5**k, 0.0) for k in range(6)]
    orders = [math.log2(a / b) for a, b in pairwise(values)]
    assert all(1.4 < order < 1.6 for order in orders), orders


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_the_last_step_draws_no_noise(sampler):
    for n_star in (1, 4):
        steps = sampler.steps(LINEAR, n_star)
        assert steps[-1].noise == 0
        draws = response(sampler, n_star, 0.04)[2]
        assert draws[len(steps)] == 0.0
        noise = OneDraw(None)
        Purifier(gaussian(0.04), n_star=n_star, sampler=sampler)(torch.zeros(1, 2), noise=noise)
        assert noise.asked == 1 + sum(step.noise > 0 for step in steps)


@pytest.mark.parametrize("sampler", [Ddim(), ProbabilityFlow(), OneShot()], ids=str)
def test_deterministic_samplers_draw_nothing(sampler):
    assert all(step.noise == 0 for step in sampler.steps(LINEAR, 6))


def noise_left(sampler, n_star: int, variance: float) -> float:
    return math.sqrt(sum(c * c for c in response(sampler, n_star, variance)[2]))


@pytest.mark.parametrize("n_star", [2, 3, 5, 10])
@pytest.mark.parametrize("variance", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize(
    "pair", [(Ddpm(), Ddpm("beta")), (ReverseSde(), ReverseSde(variance="beta"))], ids=str
)
def test_variance_beta_leaves_more_noise(pair, variance, n_star):
    """Section 3.3, first factor."""
    clean, noisy = (noise_left(sampler, n_star, variance) for sampler in pair)
    assert noisy > 1.02 * clean


@pytest.mark.parametrize("n_star", [1, 3, 10])
def test_the_continuous_schedule_leaves_noise_in_silence(n_star):
    """Section 3.3, second factor: its last step overshoots; the discrete schedule removes all noise."""
    assert noise_left(ReverseSde(), n_star, 0.0) < 1e-5
    assert noise_left(ReverseSde(continuous=True), n_star, 0.0) > 5e-3


@pytest.mark.parametrize("n_star", [1, 3, 10])
@pytest.mark.parametrize("variance", [0.01, 1.0])
def test_the_continuous_schedule_leaves_more_noise_in_loud_signals(variance, n_star):
    """Section 3.3, second factor, at or above the level of speech; on very quiet signals it over-smooths."""
    assert noise_left(ReverseSde(continuous=True), n_star, variance) > 1.02 * noise_left(
        ReverseSde(), n_star, variance
    )


def test_fractional_steps_end_at_the_clean_signal():
    steps = Ddpm().steps(LINEAR, 2.5)
    sigmas = [LINEAR.step(step.sigma) for step in steps]  # type: ignore[attr-defined]
    assert sigmas == pytest.approx([2.5, 1.5, 0.5])


def test_the_reverse_sde_refuses_fractional_steps():
    with pytest.raises(ValueError, match="whole number of steps"):
        ReverseSde().steps(LINEAR, 2.5)


def test_heun_counts_its_calls():
    calls: list[float] = []

    class Counting(GaussianDenoiser):
        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            calls.append(float(sigma))
            return super().forward(x, sigma, lengths)

    steps = ProbabilityFlow().steps(LINEAR, 4)
    Full()(steps, Counting(torch.zeros(1), torch.ones(1)), torch.zeros(1, 3), [None] * 4)
    assert len(calls) == sum(step.calls for step in steps) == 7
