"""CERTIFY and PREDICT on classifiers whose smoothed answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certification_helpers import SIGMA, Coin, at_margin, half_space, linear
from scipy import stats
from scipy.special import ndtr
from torch import Tensor, nn

from audiopure import InputError
from audiopure.attacks import Pgd
from audiopure.certification.before import Attenuate, Clip
from audiopure.certification.laws import Gaussian, Laplace, Shaped
from audiopure.certification.procedures import Certify, CertifyScores, Predict, votes
from audiopure.certification.smoothing import Sampler, Smoothed
from audiopure.noise import NoiseSource, SeededNoise


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


def test_the_radius_of_a_linear_classifier_of_many_labels_is_where_two_of_them_meet() -> None:
    """Labels in the order of one direction, the outer two wide: the shares of these meet halfway at last."""
    borders = torch.tensor([0.3, 0.35, 0.4, 0.45, 0.5])
    slopes = torch.arange(6.0)
    model = linear(
        slopes[:, None] * torch.tensor([[0.6, 0.8]]), torch.cat([torch.zeros(1), -borders.cumsum(0)])
    )
    sampler = Sampler(model, Gaussian(SIGMA), torch.zeros(2), seed=0, item=0)
    alone, pair = (Certify(n=20_000, pair=bounded)(sampler, Gaussian(SIGMA)) for bounded in (False, True))
    assert alone.label == pair.label == 0
    assert 0.28 < alone.radius <= 0.3 and 0.37 < pair.radius <= 0.4


def test_a_random_base_has_the_certificate_of_its_chances() -> None:
    """h(x) = P(Phi(x + sigma z) > u) = Phi(x / sqrt(1 + sigma^2)): known, and so is where it is 1/2."""
    x = torch.tensor([0.8, 0.0])
    sampler = Sampler(Coin(), Gaussian(SIGMA), x, seed=0, item=0)
    counts = sampler.sum("estimate", 0, 20_000, votes)
    share = float(ndtr(0.8 / np.sqrt(1 + SIGMA**2)))
    assert abs(counts[0] / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    certificate = Certify(n=20_000)(sampler, Gaussian(SIGMA))
    assert certificate.label == 0 and 0 < certificate.radius <= 0.8


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


@pytest.mark.parametrize("bound", ["kl", "renyi", "hockey-stick"])
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
    with pytest.raises(InputError, match="kl, renyi, hockey-stick"):
        CertifyScores("tv")


def test_a_smoothed_classifier_certifies_and_answers() -> None:
    model = half_space(8)
    smoothed = Smoothed(model, Gaussian(SIGMA), before=(Attenuate(0.5),))
    clip = 2 * at_margin(model, 0.5)
    certificate = smoothed.certify(clip, Certify(n=2000), seed=0)
    assert certificate.label == smoothed.predict(clip, seed=0) == 0
    assert certificate.of == "waveform, L2, full scale"
    assert 0.4 < certificate.radius <= 0.5  # of the attenuated clip; so no more for the clip itself
    assert certificate == smoothed.certify(clip, Certify(n=2000), seed=0)
    assert certificate.counts != smoothed.certify(clip, Certify(n=2000), seed=1).counts
    with pytest.raises(InputError, match="one clip"):
        smoothed.certify(clip[None], seed=0)
    with pytest.raises(InputError, match="1-Lipschitz"):
        Smoothed(model, Gaussian(SIGMA), before=(nn.Identity(),))  # type: ignore[arg-type]


class Torn(nn.Module):
    """Says label 1 hardly surely on most of the noise, and label 0 surely on the rest."""

    def forward(self, noisy: Tensor) -> Tensor:
        chance = torch.where(noisy[:, 0] < 0.1, 0.45, 0.999)
        return torch.stack([chance, 1 - chance], 1).log()


def test_answers_are_decided_as_they_are_certified() -> None:
    """By votes label 1 wins, by the mean probability label 0: each answer has a certificate of its own."""
    smoothed, clip = Smoothed(Torn(), Gaussian(SIGMA)), torch.zeros(4)
    by_votes, by_mean = Certify(n=5000), CertifyScores("hockey-stick", n=5000)
    assert smoothed.certify(clip, by_votes, seed=0).label == smoothed.predict(clip, seed=1) == 1
    assert smoothed.certify(clip, by_mean, seed=0).label == smoothed.predict(clip, by_mean, seed=1) == 0


class Listening(nn.Module):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []

    def forward(self, noisy: Tensor) -> Tensor:
        self.heard.append(noisy.clone())
        return torch.stack([noisy[:, 0], -noisy[:, 0]], 1)


def test_answers_rest_on_draws_that_nobody_knows_unless_a_seed_is_given() -> None:
    def heard(**seed: int) -> Tensor:
        base = Listening()
        Smoothed(base, Gaussian(SIGMA)).predict(torch.ones(8), Predict(n=100), **seed)
        return torch.cat(base.heard)

    assert torch.equal(heard(seed=3), heard(seed=3))
    assert not torch.equal(heard(), heard()) and not torch.equal(heard(seed=3), heard(seed=4))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.BatchNorm1d(8), "over a batch"),
        (nn.SyncBatchNorm(8), "over a batch"),
        (nn.Dropout(0.1), "no seed"),
    ],
)
def test_a_base_whose_rows_depend_on_one_another_is_refused(layer: nn.Module, why: str) -> None:
    model = Smoothed(nn.Sequential(layer, half_space(8)), Gaussian(SIGMA))
    clip = at_margin(half_space(8), 0.5)
    with pytest.raises(InputError, match=f"{why}.*eval"):
        model.certify(clip, Certify(n=100), seed=0)
    model.base.eval()
    assert model.certify(clip, Certify(n=1000), seed=0).label == 0
    still = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), half_space(8)).eval()
    with pytest.raises(InputError, match="over a batch"):
        Smoothed(still, Gaussian(SIGMA)).certify(clip, Certify(n=100), seed=0)


def test_a_recurrent_base_that_drops_units_is_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.LSTM(8, 2, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, noisy: torch.Tensor) -> torch.Tensor:
            return self.layers(noisy[:, None])[0][:, 0]

    model = Smoothed(Recurrent().requires_grad_(False), Gaussian(SIGMA))
    with pytest.raises(InputError, match=r"no seed.*eval"):
        model.certify(torch.ones(8), Certify(n=100), seed=0)
    model.base.eval()
    model.certify(torch.ones(8), Certify(n=100), seed=0)


@pytest.mark.parametrize("given", [{"n": 0}, {"alpha": 2.0}, {"alpha": 0.0}, {"alpha": -1.0}])
def test_answers_need_draws_and_a_chance_to_be_wrong(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"draws|alpha"):
        Predict(**given)  # type: ignore[arg-type]


def test_what_may_come_before_the_noise_depends_on_the_norm_of_its_law() -> None:
    model, law = half_space(8), Shaped(SIGMA, lambda samples: np.linspace(0.2, 3.0, samples // 2 + 1))
    halved = Smoothed(model, law, before=(Attenuate(0.5),))
    assert halved.certify(2 * at_margin(model, 0.5), Certify(n=500), seed=0).radius > 0
    with pytest.raises(
        InputError, match=r"Clip is not known to be 1-Lipschitz in the .* \(L2 of H\^-1 delta"
    ):
        Smoothed(model, law, before=(Clip(),))
    for other in (Gaussian(SIGMA), Laplace(SIGMA)):
        Smoothed(model, other, before=(Clip(), Attenuate(0.5)))
    # why: what a clip loses at its loudest sample spreads over all frequencies
    a, b = 1.2 * torch.eye(8)[0], 1.2 * torch.eye(8)[0] + 0.1 * torch.tensor([1.0, -1.0] * 4)
    assert law.inverse(Clip()(a) - Clip()(b)).norm() > law.inverse(a - b).norm()
