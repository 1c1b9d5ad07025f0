"""Carlini and Wagner's attack: distances in closed form, success by the mean over fresh passes."""

from __future__ import annotations

import math

import pytest
import torch
from test_attacks import Linear, clips, defended
from test_attacks_apgd import Classes, Coins, spoken
from torch import Tensor

import audiopure
from audiopure import InputError
from audiopure.attacks import Pgd, score
from audiopure.attacks.ball import ball
from audiopure.attacks.cw import CarliniWagner, Confident, _Search
from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise

FREE = {"norm": "free", "eps": math.inf}


class Threshold(Linear):
    """Each pass moves the hyperplane by a normal step of length `spread`: shares of failures are known."""

    spread = 0.5

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        step = noise.normal((len(waveform), 1), draw=0, dtype=waveform.dtype)[:, 0]
        value = waveform @ self.weight.to(waveform.dtype) + self.spread * step
        return torch.stack([value, -value], -1)


def free(**settings: object) -> CarliniWagner:
    return CarliniWagner(**{**FREE, "steps": 60, "rate": 5e-3, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_distance_is_that_to_the_hyperplane(kappa: float) -> None:
    model, x = Linear(), clips()
    labels = (model(x)[:, 1] > 0).long()
    weight = model.weight.detach()
    found = free(kappa=kappa, bits=None)(model, x, labels, noise=SeededNoise(0))
    change = found.adversarial - x
    # the margin is twice the projection on the weight
    nearest = (2 * (x @ weight).abs() + kappa) / (2 * weight.norm())
    assert (change.norm(dim=1) >= nearest * (1 - 1e-5)).all()
    assert (change.norm(dim=1) <= nearest * 1.02).all()
    assert (torch.cosine_similarity(change, weight[None]).abs() > 0.98).all()
    assert (found.loss > kappa).all() and (found.loss < kappa + 0.1).all()
    assert found.history.shape == found.survived.shape == (9, 61, 6)


def test_the_search_closes_in_on_the_smallest_constant_that_succeeds() -> None:
    """|change|^2 - c margin is least where the change is c w, so c must reach the distance over |w|."""
    model, x = Linear(), clips()
    labels = (model(x)[:, 1] > 0).long()
    weight = model.weight.detach()
    judge = Objective(model, labels, Confident())
    search = _Search(free(bits=None), judge, ball("free", math.inf, x))
    for number in range(9):
        search.run(SeededNoise(number), None)
    needed = (x @ weight).abs() / weight.square().sum()
    worked, failed = search.worked[:, 0], search.failed[:, 0]
    # steps of Adam overshoot, so somewhat less succeeds too
    assert (worked > 0.6 * needed).all() and (worked < 1.02 * needed).all()
    assert (failed < worked).all() and (worked - failed < 10 ** needed.log10().ceil() / 32).all()


def test_among_classes_it_is_the_distance_to_the_nearest_boundary() -> None:
    model, x = Classes(), 0.3 * clips(4)
    logits = model(x).detach()
    labels = logits.argmax(1)
    size = (model.weight.detach() - model.weight.detach()[labels][:, None]).norm(dim=2)
    reach = (logits.gather(1, labels[:, None]) - logits) / size
    nearest, second = reach.scatter(1, labels[:, None], math.inf).sort(1).values[:, :2].unbind(1)
    found = free(bits=None)(model, x, labels, noise=SeededNoise(0))
    far = (found.adversarial - x).norm(dim=1)
    # descent may end at the boundary of the likeliest class rather than the nearest
    assert (far >= nearest * (1 - 1e-5)).all() and (far <= second * 1.02).all()
    wanted = (labels + 1) % 5
    towards = free(bits=None, targeted=True)(model, x, wanted, noise=SeededNoise(0))
    assert torch.equal(model(towards.adversarial).argmax(1), wanted)


def test_a_clip_that_is_not_recognised_is_not_changed() -> None:
    model, x = Linear(), clips()
    labels = (model(x)[:, 1] <= 0).long()
    found = free(steps=5, searches=2)(model, x, labels, noise=SeededNoise(0))
    assert torch.equal(found.adversarial, x)


@pytest.mark.parametrize("success", [0.5, 0.9])
def test_success_is_a_share_of_fresh_passes(success: float) -> None:
    """At a margin m of the hyperplane a pass fails with probability Phi(m / spread)."""
    model, x = Threshold(), clips(8)
    labels = (x @ model.weight.detach() < 0).long()
    attack = free(eot=8, selection=60, success=success, steps=40, searches=6, bits=None)
    found = attack(model, x, labels, noise=SeededNoise(0))
    sign = (1 - 2 * labels).float()
    beyond = -sign * (found.adversarial @ model.weight.detach()) / model.spread
    share = torch.special.ndtr(beyond)
    # judged twice by 60 passes, of deviation .065 at a half and .04 at nine tenths
    assert (share > success - 0.12).all()
    assert share.mean() < success + (0.25 if success == 0.5 else 0.09)


def test_luck_does_not_count_as_success() -> None:
    model, x = Coins(), clips(40)
    labels = torch.zeros(40, dtype=torch.long)
    found = free(steps=8, searches=3, selection=20)(model, x, labels, noise=SeededNoise(2))
    after = score(model, found.adversarial, labels, noise=SeededNoise(3), passes=40)
    assert abs(after.float().mean() - 0.7) < 0.05 and after.any(1).all()
    assert abs(float(found.loss.mean()) + 0.5244) < 0.12
    assert abs(float(found.survived.mean()) - 0.7) < 0.05


def test_a_replay_is_bit_for_bit_and_a_batch_changes_nothing() -> None:
    model, x = defended().double(), clips().double()
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14, 15])
    attack = free(steps=10, searches=3, eot=2, selection=4, bits=None)
    whole, again = (attack(model, x, labels, noise=noise) for _ in range(2))
    assert torch.equal(whole.adversarial, again.adversarial) and torch.equal(whole.history, again.history)
    chunked = free(steps=10, searches=3, eot=2, selection=4, bits=None, max_rows=3)
    part = chunked(model, x[[3, 1]], labels[[3, 1]], noise=noise.for_items([13, 11]))
    torch.testing.assert_close(part.adversarial, whole.adversarial[[3, 1]], rtol=0, atol=1e-8)
    assert torch.equal(part.queries, whole.queries[[3, 1]])
    other = attack(model, x, labels, noise=SeededNoise(3))
    assert not torch.equal(whole.history, other.history)


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_the_budget_and_the_padding_hold_exactly(eps: float) -> None:
    model, x, lengths = Linear(), clips(4, scale=1.5), torch.tensor([64, 40, 20, 1])
    labels = (model(x)[:, 1] > 0).long()
    for attack in (CarliniWagner(eps=eps, steps=15, searches=3, rate=1e-2), free(steps=15, searches=3)):
        found = attack(model, x, labels, noise=SeededNoise(0), lengths=lengths).adversarial
        change = found.double() - x.double()
        assert (change.norm(dim=1) <= attack.eps).all() and (found.abs() <= 1).all()
        for row, length in zip(change, lengths, strict=True):
            assert not row[length:].any()
        stored = (found.double() * 32768).round().clamp(-32768, 32767)
        assert torch.equal((stored / 32768).float(), found)


def test_within_a_budget_the_whole_of_it_is_spent_on_certainty() -> None:
    model, x = Linear(), clips()
    labels = (model(x)[:, 1] > 0).long()
    weight = model.weight.detach()
    clean = -2 * (x @ weight).abs()
    found = CarliniWagner(eps=0.5, steps=60, rate=5e-3, bits=None)(model, x, labels, noise=SeededNoise(0))
    best = clean + 2 * 0.5 * weight.norm()
    torch.testing.assert_close(found.loss, best, rtol=0.02, atol=0.02)
    assert (found.loss <= best + 1e-4).all()


def test_it_breaks_a_recogniser_by_less_than_pgd_spends() -> None:
    model = audiopure.load_recogniser("digits")
    x, labels = (part[:2] for part in spoken())
    noise = SeededNoise(0)
    found = free(steps=30, searches=3, rate=1e-3)(model, x, labels, noise=noise).adversarial
    assert not score(model, found, labels, noise=noise).any()
    far = (found - x).norm(dim=1)
    weaker = Pgd(norm="l2", eps=float(far.min()) * 0.8, steps=20)(model, x, labels, noise=noise).adversarial
    assert score(model, weaker, labels, noise=noise).all()
    assert (far < 0.4).all()


def test_labels_costs_and_bad_input() -> None:
    attack = CarliniWagner(eps=0.3, steps=10, kappa=1.0)
    assert eval(repr(attack)) == attack
    x, labels = clips(), torch.zeros(6, dtype=torch.long)
    attack = CarliniWagner(steps=4, searches=2, eot=2)
    spent = int(attack(defended(), x, labels, noise=SeededNoise(0)).queries.max())
    assert 0.5 * sum(attack.cost) < spent <= sum(attack.cost)
    bad: list[dict[str, object]] = [
        {"steps": 0},
        {"searches": 0},
        {"constant": 0.0},
        {"rate": math.inf},
        {"success": 1.0},
        {"kappa": -1.0},
        {"bits": 8},
        {"norm": "linf"},
    ]
    for settings in bad:
        with pytest.raises(InputError):
            CarliniWagner(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        CarliniWagner(norm="free")(Linear(), x, labels, noise=SeededNoise(0))
