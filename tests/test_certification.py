"""CERTIFY and PREDICT on classifiers whose smoothed answer is known in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from audiopure import InputError
from audiopure.attacks import Pgd
from audiopure.certification.before import Attenuate
from audiopure.certification.draws import CHUNK, Draws, Purpose
from audiopure.certification.laws import Gaussian, Laplace
from audiopure.certification.procedures import Array, Certify, CertifyScores, Predict, Statistic, votes
from audiopure.certification.smoothing import Sampler, Smoothed
from audiopure.noise import NoiseSource, SeededNoise

SIGMA = 0.5


def linear(weights: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], len(weights))
    layer.weight.data, layer.bias.data = weights, bias
    return layer.requires_grad_(False)


def half_space(samples: int = 40) -> nn.Linear:
    """Two labels with the border <w, x> = 0, |w| = 1."""
    w = torch.randn(samples, generator=torch.Generator().manual_seed(3))
    w = w / w.norm()
    return linear(torch.stack([w, -w]), torch.zeros(2))


def at_margin(model: nn.Linear, margin: float) -> Tensor:
    w = model.weight[0]
    return margin * w / w.norm()


def test_the_radius_of_a_linear_classifier_is_its_margin_at_most() -> None:
    model = half_space()
    for margin in (0.2, 0.4, 0.9):
        sampler = Sampler(model, Gaussian(SIGMA), at_margin(model, margin), seed=0, item=1)
        certificate = Certify(n=20_000)(sampler, Gaussian(SIGMA))
        assert certificate.label == 0 and certificate.n == sum(certificate.counts) == 20_000
        assert 0.9 * margin - 0.02 < certificate.radius <= margin


def test_the_radius_of_three_labels_is_below_the_distance_to_each_border() -> None:
    """Smoothed shares of a linear three-label classifier by numerical integration in its plane."""
    angles = torch.tensor([0.0, 2.0, 4.2])
    model = linear(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0.0, 0.1, -0.2]))
    x = torch.tensor([0.35, 0.05])
    grid = np.random.default_rng(0).normal(size=(400_000, 2)) * SIGMA

    def shares(point: np.ndarray) -> np.ndarray:
        scores = (point + grid) @ model.weight.double().numpy().T + model.bias.double().numpy()
        return np.bincount(scores.argmax(1), minlength=3) / len(grid)

    for pair in (False, True):
        sampler = Sampler(model, Gaussian(SIGMA), x, seed=0, item=0)
        certificate = Certify(n=20_000, pair=pair)(sampler, Gaussian(SIGMA))
        assert certificate.label == 0
        for direction in np.linspace(0, 2 * np.pi, 24):
            step = certificate.radius * np.array([np.cos(direction), np.sin(direction)])
            assert shares(x.numpy() + step).argmax() == 0


class Drawn:
    """A base classifier of which only the shares of its votes are known."""

    def __init__(self, shares: Sequence[float], rng: np.random.Generator | None):
        self.shares, self.rng = np.asarray(shares), rng

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        assert of is votes
        if self.rng is None:
            return np.round(self.shares * (last - first)).astype(np.float64)
        return self.rng.multinomial(last - first, self.shares).astype(np.float64)

    def scores(self, purpose: Purpose, first: int, last: int) -> Iterator[Tensor]:
        raise NotImplementedError


def two(share: float, rng: np.random.Generator) -> Drawn:
    return Drawn((share, 1 - share), rng)


@pytest.mark.parametrize("tolerance", [None, 0.1])
@pytest.mark.parametrize("pair", [False, True])
def test_certificates_fail_no_more_often_than_alpha(tolerance: float | None, pair: bool) -> None:
    alpha, share, runs = 0.05, 0.8, 4000
    rng = np.random.default_rng(0)
    truth = SIGMA * float(ndtri(share))  # of a half-space with this share
    certify = Certify(n0=20, n=900, alpha=alpha, tolerance=tolerance, pair=pair)
    found = [certify(two(share, rng), Gaussian(SIGMA)) for _ in range(runs)]
    wrong = sum((c.label == 0 and c.radius > truth) or c.label == 1 for c in found)
    assert wrong <= stats.binom(runs, alpha).ppf(1 - 1e-6)
    assert np.mean([c.radius for c in found]) > 0.8 * truth


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


def test_selection_and_estimate_share_no_draw() -> None:
    shape = (16,)
    select, estimate = (Draws(0, 7, p).normal(0, 100, shape) for p in ("select", "estimate"))
    assert not torch.isclose(select, estimate).any()
    other = Draws(0, 8, "estimate").normal(0, 100, shape)
    assert not torch.isclose(other, estimate).any()
    assert torch.equal(estimate, Draws(0, 7, "estimate").normal(0, 100, shape))
    assert torch.equal(
        Draws(0, 7, "estimate").normal(100, 30, shape), Draws(0, 7, "estimate").normal(0, 130, shape)[100:]
    )


def test_draws_are_standard_normal_and_begin_with_a_chunk() -> None:
    values = Draws(1, 1, "estimate").normal(0, 1000, (50,)).flatten().double().numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    with pytest.raises(InputError, match=str(CHUNK)):
        Draws(1, 1, "estimate").normal(50, 10, (4,))


class Coin(nn.Module):
    """Its answer is random by itself: label 0 with a chance that the first sample sets."""

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        chance = torch.from_numpy(ndtr(noisy[:, 0].double().numpy()))
        draw = noise.normal((len(noisy), 1), draw=0)[:, 0]
        heads = torch.from_numpy(ndtr(draw.double().numpy())) < chance
        return torch.stack([heads.float(), 1 - heads.float()], 1)


def test_a_random_base_has_the_certificate_of_its_chances() -> None:
    """h(x) = P(Phi(x + sigma z) > u) = Phi(x / sqrt(1 + sigma^2)): known, and so is where it is 1/2."""
    x = torch.tensor([0.8, 0.0])
    sampler = Sampler(Coin(), Gaussian(SIGMA), x, seed=0, item=0)
    counts = sampler.sum("estimate", 0, 20_000, votes)
    share = float(ndtr(0.8 / np.sqrt(1 + SIGMA**2)))
    assert abs(counts[0] / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    certificate = Certify(n=20_000)(sampler, Gaussian(SIGMA))
    assert certificate.label == 0 and 0 < certificate.radius <= 0.8


@pytest.mark.parametrize("rows", [1, 7, 64, 100, 250, 1000])
def test_batches_and_interruptions_change_no_vote(rows: int) -> None:
    model = half_space(8)
    for base in (model, Coin()):
        sampler = Sampler(base, Gaussian(SIGMA), at_margin(model, 0.1), seed=5, item=2, rows=64)
        whole = sampler.sum("estimate", 0, 750, votes)
        other = Sampler(base, Gaussian(SIGMA), at_margin(model, 0.1), seed=5, item=2, rows=rows)
        parts = other.sum("estimate", 0, 300, votes) + other.sum("estimate", 300, 750, votes)
        assert np.array_equal(whole, parts)


def test_predict_answers_where_it_can_tell_and_is_seldom_wrong() -> None:
    rng = np.random.default_rng(0)
    clear, even = (Predict(n=500)(two(p, rng)) for p in (0.9, 0.5))
    assert clear == 0 and even is None
    answers = [Predict(n=100, alpha=0.05)(two(0.52, rng)) for _ in range(4000)]
    assert answers.count(1) <= stats.binom(4000, 0.05).ppf(1 - 1e-6) and answers.count(None) > 1000


def test_attacks_within_the_radius_change_no_answer() -> None:
    """A real attack on a small trained network, at points certified with alpha 1 %."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 12, generator=generator)
    labels = torch.arange(3).repeat(20)
    clips = (centres[labels] + 0.6 * torch.randn(60, 12, generator=generator)) / 5
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(200):
        noisy = clips + 0.3 * torch.randn(clips.shape, generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(noisy), labels).backward()
        optimiser.step()
    net.requires_grad_(False)
    law, alpha, tried, wrong = Gaussian(0.3), 0.01, 0, 0

    class Noisy(nn.Module):
        def forward(self, x: Tensor, *, noise: NoiseSource) -> Tensor:
            return net(x + law.noise(noise.normal((len(x), x.shape[1]), draw=0)))

    for item, clip in enumerate(clips):
        certificate = Certify(n=2000, alpha=alpha)(Sampler(net, law, clip, seed=1, item=item), law)
        if certificate.label is None:
            continue
        attack = Pgd(
            norm="l2", eps=certificate.radius, steps=20, eot=20, bits=None, step_size=certificate.radius / 4
        )
        found = attack(
            Noisy(), clip[None], torch.tensor([certificate.label]), noise=SeededNoise(2).for_items([item])
        ).adversarial[0]
        assert float((found - clip).norm()) <= certificate.radius * (1 + 1e-6)
        answer = Predict(n=2000, alpha=alpha)(Sampler(net, law, found, seed=3, item=item))
        tried += 1
        wrong += answer not in (None, certificate.label)
    assert tried > 30
    assert wrong <= stats.binom(tried, 2 * alpha).ppf(1 - 1e-4)


def test_what_cannot_be_certified_is_refused() -> None:
    with pytest.raises(InputError, match="draws"):
        Certify(n=0)
    with pytest.raises(InputError, match="alpha"):
        Certify(alpha=1.5)
    with pytest.raises(InputError, match="tolerance"):
        Certify(tolerance=-1.0)

    class Broken(nn.Module):
        def __init__(self, answer: Tensor):
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> Tensor:
            return self.answer

    for answer, message in (
        (torch.zeros(3), "one row of scores"),
        (torch.full((64, 2), torch.nan), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            Sampler(Broken(answer), Gaussian(1.0), torch.zeros(4), seed=0, item=0).sum(
                "estimate", 0, 64, votes
            )


@pytest.mark.parametrize("bound", ["kl", "hockey-stick"])
def test_mean_probabilities_keep_their_order_within_the_radius(bound: str) -> None:
    """Two classes with logits +-1.5 x: by symmetry the mean margin vanishes at distance x, and only there."""
    base = linear(torch.tensor([[1.5, 0.0], [-1.5, 0.0]]), torch.zeros(2))
    found = CertifyScores(bound, n0=500, n=20_000)(
        Sampler(base, Gaussian(SIGMA), torch.tensor([0.7, 0.0]), seed=0, item=0), Gaussian(SIGMA)
    )
    assert found.label == 0 and 0.1 < found.radius <= 0.7
    sampler = Sampler(base, Gaussian(SIGMA), torch.zeros(2), seed=0, item=0)
    assert CertifyScores(bound, n=2000)(sampler, Gaussian(SIGMA)).label is None
    with pytest.raises(InputError, match="Gaussian"):
        CertifyScores(bound)(sampler, Laplace(1.0))
    with pytest.raises(InputError, match="kl, hockey-stick"):
        CertifyScores("tv")


def test_a_smoothed_classifier_certifies_and_answers() -> None:
    model = half_space(8)
    smoothed = Smoothed(model, Gaussian(SIGMA), before=(Attenuate(0.5),))
    clip = 2 * at_margin(model, 0.5)
    certificate = smoothed.certify(clip, Certify(n=2000), seed=0)
    assert certificate.label == smoothed.predict(clip, seed=0) == 0
    assert 0.4 < certificate.radius <= 0.5  # of the attenuated clip; so no more for the clip itself
    assert certificate == smoothed.certify(clip, Certify(n=2000), seed=0)
    assert certificate.counts != smoothed.certify(clip, Certify(n=2000), seed=1).counts
    with pytest.raises(InputError, match="one clip"):
        smoothed.certify(clip[None], seed=0)
    with pytest.raises(InputError, match="1-Lipschitz"):
        Smoothed(model, Gaussian(SIGMA), before=(nn.Identity(),))  # type: ignore[arg-type]
