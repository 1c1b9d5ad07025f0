"""Speaker certificates on an encoder whose smoothed embedding is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from audiopure import InputError
from audiopure.certification.bounds import Method
from audiopure.certification.embeddings import (
    CertifyIdentity,
    Gallery,
    embed,
    identify,
    mean_radius,
    verify,
)
from audiopure.certification.laws import Gaussian, Laplace
from audiopure.certification.smoothing import Smoothed

SIGMA, SPEED = 0.4, 1.3


class Turn(nn.Module):
    """x -> (cos, sin) of SPEED times its first sample: the mean under noise is shorter, and turns alike."""

    def forward(self, x: Tensor) -> Tensor:
        angle = SPEED * x[:, 0]
        return torch.stack([angle.cos(), angle.sin()], 1)


SHRINK = math.exp(-((SPEED * SIGMA) ** 2) / 2)


def noisy(angle: float, n: int, seed: int) -> np.ndarray:
    x = angle / SPEED + SIGMA * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return embed(Turn(), x)


@pytest.mark.parametrize("method", ["hoeffding", "bernstein"])
def test_accepting_and_rejecting_stay_within_the_true_radius(method) -> None:
    threshold = 0.6
    border = math.acos(threshold / SHRINK)  # the angle at which the mean cosine meets the threshold
    for angle, decision in ((0.1, "accept"), (1.6, "reject")):
        cosines = noisy(angle, 20_000, 0)[:, 0]  # enrolled at angle 0
        found = verify(cosines, threshold, SIGMA, method=method)
        assert found.decision == decision and found.value == pytest.approx(SHRINK * math.cos(angle), abs=0.02)
        assert 0.1 < found.radius <= abs(border - angle) / SPEED


def test_near_the_threshold_nothing_is_decided() -> None:
    border = math.acos(0.6 / SHRINK)
    found = verify(noisy(border, 2000, 0)[:, 0], 0.6, SIGMA)
    assert found.decision is None and found.radius == 0


def test_wrong_decisions_come_no_more_often_than_alpha() -> None:
    rng, alpha, runs = np.random.default_rng(0), 0.05, 3000
    level = 0.2  # the mean of the cosines is just above it: rejecting is wrong
    cosines = np.where(rng.random((runs, 200)) < (1.001 + level) / 2, 1.0, -1.0)
    for method in ("hoeffding", "bernstein"):
        wrong = sum(
            verify(row, level, 1.0, alpha=alpha, method=method).decision == "reject" for row in cosines
        )
        assert wrong <= stats.binom(runs, alpha).ppf(1 - 1e-6)


def test_identification_is_certified_against_every_rival_of_any_length() -> None:
    """True borders between centroids of unequal length, along the circle of mean embeddings."""
    angles, lengths = np.array([0.0, 1.2, -1.5]), np.array([1.0, 0.7, 0.9])
    gallery = Gallery(lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1))
    grid = np.linspace(-math.pi, math.pi, 20_001)
    means = SHRINK * np.stack([np.cos(grid), np.sin(grid)], 1)
    names = np.array([gallery.nearest(m) for m in means])
    for angle in (0.1, -0.3, 1.3, -1.8):
        here = names[np.abs(grid - angle).argmin()]
        border = np.abs(grid[names != here] - angle).min() / SPEED
        found = identify(noisy(angle, 200, 1), noisy(angle, 20_000, 2), gallery, SIGMA)
        assert found.decision == here and 0.02 < found.radius <= border + 1e-3


def test_equal_lengths_need_no_offset_and_unequal_ones_do() -> None:
    equal = Gallery(np.eye(2)).levels(0)
    longer = Gallery(np.diag([2.0, 1.0])).levels(0)
    assert equal[0] == 0.5 and longer[0] == pytest.approx(0.5 + 1.5 / (2 * math.sqrt(5)))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("method", ["hoeffding", "bernstein"])
def test_names_between_speakers_are_certified_no_more_often_than_alpha(method: Method, alpha: float) -> None:
    """Embeddings that are one centroid or the other by a fair coin: any name is wrong, as is any claim."""
    gallery, runs = Gallery(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])), 10_000
    rng = np.random.default_rng(0)
    tosses = np.stack([rng.choice([-1.0, 1.0], (runs, 220)), np.zeros((runs, 220))], 2)
    parts = [(one[:20], one[20:]) for one in tosses]
    names = [identify(*part, gallery, 1.0, alpha=alpha, method=method) for part in parts]
    named = sum(name.decision is not None for name in names)
    claims = [verify(one[20:, 0], 0.0, 1.0, alpha=alpha, method=method) for one in tosses]
    claimed = sum(claim.decision is not None for claim in claims)
    most = stats.binom(runs, alpha).ppf(1 - 1e-6)
    assert max(named, claimed) <= most
    if method == "hoeffding":  # exp(-2 n t^2) is not tight, but not idle either
        assert min(named, claimed) > 0


def test_bounds_spend_what_they_may() -> None:
    """Hoeffding's bounds by hand: a rival's spends alpha, either side of a claim half of it."""
    alpha, n, rng = 0.01, 400, np.random.default_rng(0)
    gallery = Gallery(np.diag([1.0, 0.9, 1.1, 0.8]))
    found = 0.2 * rng.random((n, 4)) + np.array([0.8, 0.1, 0.1, 0.1])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    radii = []
    for rival in (1, 2, 3):
        apart = gallery.centroids[0] - gallery.centroids[rival]
        mean = float((0.5 + found @ apart / np.linalg.norm(apart) / 2).mean())
        low = mean - math.sqrt(math.log(1 / alpha) / (2 * n))
        border = (1 - gallery.centroids[rival].max() ** 2) / 2 / np.linalg.norm(apart)
        radii.append(SIGMA * (stats.norm.ppf(low) - stats.norm.ppf(0.5 + border / 2)))
    named = identify(found, found, gallery, SIGMA, alpha=alpha, method="hoeffding")
    assert named.decision == 0 and named.radius == pytest.approx(min(radii), rel=1e-9)
    cosines = rng.uniform(0.5, 0.9, n)
    low = (1 + cosines.mean()) / 2 - math.sqrt(math.log(2 / alpha) / (2 * n))
    accepted = verify(cosines, 0.2, SIGMA, alpha=alpha, method="hoeffding")
    assert accepted.radius == pytest.approx(SIGMA * (stats.norm.ppf(low) - stats.norm.ppf(0.6)), rel=1e-9)
    assert verify(-cosines, -0.2, SIGMA, alpha=alpha, method="hoeffding").radius == pytest.approx(
        accepted.radius
    )


def test_a_mean_radius_is_exact_for_a_half_space() -> None:
    # values are 1 left of a border at distance .3: their mean is Phi(.3 / sigma), and 1/2 at the border
    share = float(stats.norm.cdf(0.3 / SIGMA))
    assert mean_radius(share, SIGMA) == pytest.approx(0.3)
    assert mean_radius(0.4, SIGMA) == 0.0


def test_embeddings_are_made_as_long_as_they_are_taken_to_be() -> None:
    """Those that are a little long would be cut at 1, and another mean be bounded than that which decides."""

    class Long(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1.0009 * Turn()(x)

    found = embed(Long(), torch.linspace(-1, 1, 50)[:, None])
    assert found.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(found, embed(Turn(), torch.linspace(-1, 1, 50)[:, None]), atol=1e-7)
    with pytest.raises(InputError, match="embeddings of length 1"):
        Gallery(np.eye(2)).margins(1.0009 * found, 0)
    with pytest.raises(InputError, match="cosines"):
        verify(np.full(3, 1.0009), 0.5, 1.0)


def test_what_is_no_embedding_is_refused() -> None:
    with pytest.raises(InputError, match="length 1"):
        embed(nn.Identity(), torch.ones(2, 3))
    with pytest.raises(InputError, match="two speakers"):
        Gallery(np.ones((1, 2)))
    with pytest.raises(InputError, match="same centroid"):
        Gallery(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    for ask in (Gallery(np.eye(2)).nearest, lambda found: Gallery(np.eye(2)).margins(found[None], 0)):
        with pytest.raises(InputError, match="3 dimensions and the centroids 2"):
            ask(np.array([1.0, 0.0, 0.0]))
    with pytest.raises(InputError, match="between -1 and 1"):
        verify(np.zeros(3), 1.0, 1.0)
    with pytest.raises(InputError, match="cosines"):
        verify(np.full(3, 2.0), 0.5, 1.0)


def circle(count: int) -> np.ndarray:
    """Centroids around the circle, of different lengths."""
    angles = np.arange(count) * 2 * math.pi / count
    return np.linspace(0.6, 1.0, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def test_the_procedure_says_what_the_arrays_say() -> None:
    model, gallery = Smoothed(Turn(), Gaussian(SIGMA)), Gallery(circle(5))
    clip = torch.tensor([0.15 / SPEED, 0.0, 0.0])
    how = CertifyIdentity(gallery, n0=100, n=1000)
    found = model.certify(clip, how, seed=3)
    sampler = model.sampler(clip, seed=3)
    pilot = np.concatenate([embed(nn.Identity(), part) for part in sampler.scores("select", 0, 100)])
    rest = np.concatenate([embed(nn.Identity(), part) for part in sampler.scores("estimate", 0, 1000)])
    expected = identify(pilot, rest, gallery, SIGMA)
    assert found.label == expected.decision == 0 and found.radius == pytest.approx(expected.radius)
    nearest = [int(np.linalg.norm(circle(5) - one, axis=1).argmin()) for one in rest]
    assert found.counts == tuple(np.bincount(nearest, minlength=5)) and found.n == 1000
    with pytest.raises(InputError, match="Gaussian"):
        Smoothed(Turn(), Laplace(SIGMA)).certify(clip, how, seed=0)
    with pytest.raises(InputError, match="needs draws"):
        model.certify(clip, CertifyIdentity(gallery, n=1), seed=0)


def test_far_from_everybody_identification_abstains() -> None:
    half = math.pi / 5 / SPEED  # between two of five, which are equally long
    model = Smoothed(Turn(), Gaussian(SIGMA))
    even = Gallery(circle(5) / np.linalg.norm(circle(5), axis=1, keepdims=True))
    found = model.certify(torch.tensor([half, 0.0, 0.0]), CertifyIdentity(even, n=1000), seed=0)
    assert found.label is None and found.radius == 0 and sum(found.counts) == 1000
    assert found.guess in (0, 1)
