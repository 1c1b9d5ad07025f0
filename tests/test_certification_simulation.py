"""CERTIFY and PREDICT on votes whose shares are known, run many times."""

from __future__ import annotations

import numpy as np
import pytest
from certification_helpers import SIGMA, Drawn
from scipy import stats

from audiopure.certification.laws import Gaussian
from audiopure.certification.procedures import Certify, Predict


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("tolerance", [None, 0.1])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.6, 0.3, 0.1)])
def test_certificates_are_wrong_less_often_than_alpha(
    shares: tuple[float, ...], pair: bool, tolerance: float | None, alpha: float
) -> None:
    """10,000 certificates; wrong is another label, or a radius beyond that of the true shares."""
    law, runs, rng = Gaussian(SIGMA), 10_000, np.random.default_rng(0)
    certify = Certify(n0=20, n=900, alpha=alpha, tolerance=tolerance, pair=pair)
    truth = law.radius(shares[0], shares[1] if pair else None)
    drawn = Drawn(shares, rng)
    found = [certify(drawn, law) for _ in range(runs)]
    wrong = sum(c.label not in (0, None) or c.radius > truth for c in found)
    failed = sum(c.guess == 0 and (c.p > shares[0] or (pair and c.q < shares[1])) for c in found)
    assert max(wrong, failed) < alpha * runs
    if tolerance is None and not pair:
        assert failed > alpha * runs / 2  # one exact bound: there is not much to spare
    chosen = [c.radius for c in found if c.guess == 0]
    assert 0.5 * truth < np.mean(chosen) < truth


@pytest.mark.parametrize("tolerance", [None, 0.1])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.4, 0.4, 0.2)])
def test_labels_that_draw_level_are_certified_less_often_than_alpha(
    shares: tuple[float, ...], pair: bool, tolerance: float | None
) -> None:
    """Any change however small turns the answer: whatever is certified here is wrong."""
    alpha, runs, drawn = 0.05, 10_000, Drawn(shares, np.random.default_rng(1))
    certify = Certify(n0=20, n=900, alpha=alpha, tolerance=tolerance, pair=pair)
    wrong = sum(certify(drawn, Gaussian(SIGMA)).label is not None for _ in range(runs))
    assert wrong < alpha * runs
    assert wrong > 0 or (len(shares) > 2 and not pair)  # where it may fail it does


def two(share: float, rng: np.random.Generator) -> Drawn:
    return Drawn((share, 1 - share), rng)


def test_stopping_early_spares_draws_where_nothing_is_to_be_gained() -> None:
    rng = np.random.default_rng(0)
    certify = Certify(n=100_000, tolerance=0.05)
    even, sure = (certify(two(p, rng), Gaussian(SIGMA)) for p in (0.5, 1.0))
    assert even.label is None and even.radius == 0 and even.n < 10_000
    assert sure.n == 100_000  # each further draw without an error makes the radius larger


def test_bounding_every_label_helps_where_errors_spread() -> None:
    drawn = Drawn([0.55, *[0.05] * 9], None)
    alone, pair = (Certify(pair=p)(drawn, Gaussian(SIGMA)) for p in (False, True))
    assert pair.radius > 3 * alone.radius > 0
    assert pair.q < 0.07 and alone.q == 1 - alone.p


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("shares", [(0.999, 0.001), (0.7, 0.3), (0.45, *[0.05] * 11), (0.2, *[0.1] * 8)])
def test_stopping_early_costs_no_more_than_the_tolerance(shares: tuple[float, ...], pair: bool) -> None:
    law, drawn = Gaussian(SIGMA), Drawn(shares, None)
    early, late = (Certify(n=10_000, tolerance=t, pair=pair)(drawn, law) for t in (0.03, 0.0))
    assert late.radius - early.radius <= 0.03 * SIGMA
    assert late.n == 10_000 or late.radius == 0


def test_predict_answers_where_it_can_tell_and_is_seldom_wrong() -> None:
    rng = np.random.default_rng(0)
    clear, even = (Predict(n=500)(two(p, rng)) for p in (0.9, 0.5))
    assert clear == 0 and even is None
    answers = [Predict(n=100, alpha=0.05)(two(0.52, rng)) for _ in range(4000)]
    assert answers.count(1) <= stats.binom(4000, 0.05).ppf(1 - 1e-6) and answers.count(None) > 1000
