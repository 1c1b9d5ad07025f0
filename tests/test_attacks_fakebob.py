"""FAKEBOB: against closed forms, its authors' formulas, and what was released under its name."""

from __future__ import annotations

import pytest
import torch
from test_attacks import CoinFlip, Linear, clips, defended
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import score
from audiopure.attacks.ball import STEP16
from audiopure.attacks.criteria import Criterion, Margin, OpenSet, Verification
from audiopure.attacks.fakebob import Fakebob
from audiopure.attacks.fakebob_loop import Plateau
from audiopure.attacks.fakebob_released import FakebobReleased
from audiopure.attacks.objective import Objective
from audiopure.attacks.speaker_threshold import estimate_threshold
from audiopure.noise import SeededNoise

ATTACKS = [Fakebob, FakebobReleased]
INSATIABLE = 1000.0  # a margin that no clip reaches, so none leaves


class Signs(Linear):
    """A linear model whose weights are of similar size, so that a good estimate finds every sign."""

    def __init__(self, length: int = 32):
        super().__init__(length)
        weight = self.weight.detach()
        self.weight = nn.Parameter(weight.sign() * (1 + weight.abs().clamp(max=1)))


def problem(length: int = 32, scale: float = 0.2) -> tuple[Signs, Tensor, Tensor, Tensor]:
    """A model, clips, their labels as the model hears them, and the direction that it fears most."""
    model, x = Signs(length).double(), clips(4, length, scale).double()
    labels = (model(x)[:, 1] > 0).long()
    return model, x, labels, -(1 - 2 * labels)[:, None] * model.weight.detach().sign()


def test_fakebob_reaches_the_optimum_of_a_linear_model() -> None:
    model, x, labels, worst = problem()
    attack = Fakebob(steps=40, samples=100, confidence=INSATIABLE, bits=None)
    result = attack(model, x, labels, noise=SeededNoise(0))
    torch.testing.assert_close(result.adversarial, x + 0.002 * worst, rtol=0, atol=1e-12)
    optimum = Objective(model, labels, "margin").value(x + 0.002 * worst, SeededNoise(0), 1)
    torch.testing.assert_close(result.loss, optimum)
    assert (result.queries == 40 * 101 + 1 + 2).all() and attack.cost == (0, 40 * 101 + 1 + 2)


def test_a_clip_leaves_once_its_margin_exceeds_the_confidence() -> None:
    model, x, labels, _ = problem(scale=0.001)
    x = torch.cat([x, x + 0.1 * (1 - 2 * labels)[:, None] * model.weight])  # the last four are out of reach
    labels = labels.repeat(2)
    result = Fakebob(steps=20, confidence=0.01)(model, x, labels, noise=SeededNoise(0))
    assert (result.history[0, -1, :4] > 0.01).all() and (result.history[0, -1, 4:] < 0).all()
    spent = (result.history[0] <= 0.01).sum(0)
    assert (result.queries[:4] == spent[:4] * 51 + 1 + 2).all() and (spent[:4] < 10).all()
    assert (result.queries[4:] == 20 * 51 + 1 + 2).all()
    before = result.history[0].gather(0, (spent - 1).clamp(min=0)[None])[0]
    assert (before[:4] <= 0.01).all()


def rates(costs: list[float], minimum: float = 1e-6) -> list[float]:
    schedule = Plateau(torch.tensor([1.0, 8.0]), minimum, 5, 2.0)
    seen = []
    for cost in costs:
        schedule.update(torch.tensor([1]), torch.tensor([cost]))
        seen.append(float(schedule.rate[1]))
    assert schedule.rate[0] == 1.0
    return seen


def test_the_rate_drops_where_the_cost_has_risen_over_five_steps() -> None:
    assert rates([9, 8, 7, 6, 5, 4, 3]) == [8] * 7
    assert rates([1, 2, 3, 4, 5]) == [8, 8, 8, 8, 4]
    # the window starts afresh after a drop, and compares its ends only
    assert rates([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) == [8, 8, 8, 8, 4, 4, 4, 4, 4, 2, 2]
    assert rates([1, 9, 9, 9, 1, 1, 9, 9, 9, 9]) == [8] * 8 + [4, 4]
    assert rates([3, 3, 3, 3, 3, 3]) == [8] * 6
    assert rates(list(range(20)), minimum=3)[-1] == 3


def test_success_keeps_the_rate_of_fakebob_and_halves_that_of_the_released_variant() -> None:
    model, x, labels, worst = problem(length=6)
    kinds = {"eps": 0.05, "steps": 10, "samples": 400, "bits": None}
    ours = Fakebob(**kinds, confidence=INSATIABLE)(model, x, labels, noise=SeededNoise(0))
    torch.testing.assert_close(ours.adversarial, x + 10 * 1e-3 * worst, rtol=0, atol=1e-12)
    theirs = FakebobReleased(**kinds)(model, x, labels, noise=SeededNoise(0))
    moved = 4 * 1e-3 + 5 * 5e-4 + 2.5e-4
    expected = Objective(model, labels, "ce").value(x + moved * worst, SeededNoise(0), 1)
    torch.testing.assert_close(theirs.history[0, -1], expected, rtol=1e-6, atol=0)


def test_the_released_variant_returns_the_clean_clip_though_it_succeeded_on_the_way() -> None:
    model, x, labels, _ = problem(scale=0.0005)
    result = FakebobReleased(steps=20, samples=50)(model, x, labels, noise=SeededNoise(0))
    assert torch.equal(result.adversarial, x)
    assert (result.survived[0, 0] == 1).all()
    assert (result.survived == 0).flatten(0, 1).any(0).all()
    ours = Fakebob(steps=20)(model, x, labels, noise=SeededNoise(0))
    assert not score(model, ours.adversarial, labels, noise=SeededNoise(1)).any()


def test_who_counts_as_converged() -> None:
    """The released variant drops at the second check whoever it moved; FAKEBOB whoever stands still."""
    model, x, labels, _ = problem(length=6)
    theirs = FakebobReleased(steps=30, samples=50, check_every=10)(model, x, labels, noise=SeededNoise(0))
    assert (theirs.queries == 11 * 51 + 1).all()
    assert theirs.history.shape == (1, 31, 4)
    assert torch.equal(theirs.history[0, 10], theirs.history[0, -1])
    assert (theirs.history[0, 10] > theirs.history[0, 0]).all()
    attack = Fakebob(steps=30, samples=200, confidence=10.0, check_every=10)
    ours = attack(model, x, labels, noise=SeededNoise(0))
    assert (ours.queries == 21 * 201 + 2).all()  # at the border of the ball since before step 10


@pytest.mark.parametrize("attack", ATTACKS)
def test_targets_are_climbed_to(attack) -> None:
    model, x, labels, _ = problem(scale=0.0005)
    result = attack(steps=10, samples=50, targeted=True)(model, x, 1 - labels, noise=SeededNoise(0))
    assert not score(model, result.adversarial, labels, noise=SeededNoise(1)).any()


def by_hand(criterion: Criterion, scores: list[float], label: int) -> float:
    """What FAKEBOB minimises at kappa 0 (Chen et al. 2021, section IV), from one clip's scores."""
    theta = getattr(criterion, "threshold", 0.0)
    others = [s for i, s in enumerate(scores) if i != label]
    if isinstance(criterion, Verification):
        return theta - scores[0]
    if isinstance(criterion, OpenSet):
        return max([theta, *others]) - scores[label] if criterion.targeted else theta - max(scores)
    return max(others) - scores[label] if criterion.targeted else scores[label] - max(others)


@pytest.mark.parametrize(
    ("criterion", "label", "speakers"),
    [
        (Margin(), 1, 3),
        (Margin(targeted=True), 2, 3),
        (Verification(0.3), 0, 1),  # an impostor, to be accepted
        (Verification(0.3, targeted=True), 1, 1),
        (OpenSet(0.3), 3, 3),  # an impostor, to be taken for anybody
        (OpenSet(0.3, targeted=True), 1, 3),
    ],
)
def test_speaker_losses_are_those_of_the_paper(criterion: Criterion, label: int, speakers: int) -> None:
    scores = SeededNoise(3).normal((50, speakers), draw=0, dtype=torch.float64)
    labels = torch.full((50,), label)
    expected = [by_hand(criterion, row, label) for row in scores.tolist()]
    torch.testing.assert_close(Fakebob().minimised(criterion.loss(scores, labels)).tolist(), expected)
    # the attack has succeeded where the paper's loss is negative
    assert criterion.survived(scores, labels).tolist() == [value >= 0 for value in expected]


class Speakers(nn.Module):
    """Scores of enrolled speakers: cosines with the clip, roughly."""

    def __init__(self, count: int):
        super().__init__()
        self.voices = nn.Parameter(SeededNoise(7).normal((count, 32), draw=0, dtype=torch.float64))

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform @ self.voices.T - 0.5


@pytest.mark.parametrize("count", [1, 3])
def test_the_threshold_of_a_speaker_system_is_found_from_its_decisions(count: int) -> None:
    model, x = Speakers(count), clips(5, 32, 0.01).double()
    top = model(x).amax(1)
    theta = float(top.detach().sort().values[3]) + 1e-6  # the highest is accepted as it is
    attack = Fakebob(eps=0.05, steps=60, samples=100)
    found = estimate_threshold(
        model, lambda heard: model(heard).amax(1) >= theta, x, noise=SeededNoise(0), attack=attack
    )
    rejected = top < theta
    assert rejected.sum() == 4 and found[~rejected].isnan().all()
    step = 1e-3 * float(model.voices.detach().abs().sum(1).max())
    assert (found[rejected] >= theta).all() and (found[rejected] <= theta + step).all()
    never = estimate_threshold(
        model, lambda heard: torch.zeros(len(heard), dtype=torch.bool), x, noise=SeededNoise(0),
        attack=Fakebob(steps=3, samples=2),
    )  # fmt: skip
    assert never.isnan().all()
    with pytest.raises(InputError, match="positive"):
        estimate_threshold(model, lambda heard: heard[:, 0] > 0, x, noise=SeededNoise(0), step=0.0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_replay_is_bit_for_bit_and_the_batch_does_not_matter(attack) -> None:
    model, x, labels = defended().double(), clips().double(), torch.zeros(6, dtype=torch.long)
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14, 15])
    settings = attack(steps=4, samples=6, bits=None)
    first, again = (settings(model, x, labels, noise=noise) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial) and torch.equal(first.history, again.history)
    other = settings(model, x, labels, noise=SeededNoise(3))
    assert not torch.equal(first.history, other.history)
    part = attack(steps=4, samples=6, bits=None, max_rows=5)(
        model, x[[3, 1]], labels[:2], noise=noise.for_items([13, 11])
    )
    torch.testing.assert_close(part.adversarial, first.adversarial[[3, 1]], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.history, first.history[..., [3, 1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("targeted", [False, True])
def test_budgets_and_lengths_hold(attack, targeted: bool) -> None:
    model, x = Linear(50), clips(3, 50, 1.0)
    labels, lengths = torch.tensor([0, 1, 0]), torch.tensor([50, 20, 1])
    settings = attack(eps=0.003, steps=8, samples=4, targeted=targeted)
    adversarial = settings(model, x, labels, noise=SeededNoise(0), lengths=lengths).adversarial
    change = adversarial.double() - x.double()
    assert (change.abs() <= 0.003).all() and (adversarial.abs() <= 1).all()
    assert bool(change.any()) == (attack is Fakebob or targeted)
    assert all(not row[length:].any() for row, length in zip(change, lengths, strict=True))
    assert torch.equal(adversarial / STEP16, (adversarial / STEP16).round())


def test_luck_does_not_count_as_success() -> None:
    model, x, labels = CoinFlip(), clips(50), torch.ones(50, dtype=torch.long)
    attacked = Fakebob(steps=5, samples=4)(model, x, labels, noise=SeededNoise(2)).adversarial
    after = score(model, attacked, labels, noise=SeededNoise(3), passes=40).float()
    # right with probability .3; 2000 flips: one standard deviation is 0.01
    assert abs(after.mean() - 0.3) < 0.04 and not (after == 0).all(1).any()


def test_a_lucky_draw_ends_nothing_where_fresh_ones_must_confirm_it() -> None:
    """Label 0 is right in 70 % of the draws of any waveform: its authors' loop leaves at another."""
    model, x, labels = CoinFlip(), clips(50), torch.zeros(50, dtype=torch.long)
    once = Fakebob(steps=20, samples=4)(model, x, labels, noise=SeededNoise(2))
    assert (once.queries < 20 * 5).all()
    attack = Fakebob(steps=20, samples=4, selection=200)
    asked = attack(model, x, labels, noise=SeededNoise(2))
    suspected = (asked.survived[0] == 0).sum(0)  # the mean margin of 200 draws is negative each time
    assert (asked.queries == 20 * 5 + 1 + 2 * 200 + 200 * suspected).all() and suspected.sum() > 200
    assert attack.cost.forwards == 20 * 5 + 1 + 2 * 200 + 21 * 200
    # where the model is wrong in most draws, one confirmation is enough
    gone = attack(model, x, 1 - labels, noise=SeededNoise(2))
    assert (gone.queries < 20 * 5 + 3 * 200).all()


def test_settings() -> None:
    assert Fakebob() == Fakebob(
        steps=1000, samples=50, sigma=0.001, momentum=0.9, rate=1e-3, min_rate=1e-6, plateau_length=5,
        plateau_drop=2.0, eps=0.002, confidence=0.0, check_every=100,
    )  # fmt: skip
    assert Fakebob.paper() == Fakebob(steps=200, samples=200, confidence=0.5)
    for attack in (Fakebob.paper(), FakebobReleased(steps=3)):
        assert eval(repr(attack)) == attack
    bad = [
        {"steps": 0}, {"samples": 3}, {"sigma": 0.0}, {"momentum": 1.0}, {"rate": 1e-9}, {"norm": "l2"},
        {"plateau_drop": 0.5}, {"bits": 8}, {"confidence": -1.0}, {"eot": 0}, {"selection": 0},
    ]  # fmt: skip
    for settings in bad:
        with pytest.raises(InputError):
            Fakebob(**settings)


def test_both_run_on_a_defended_recogniser() -> None:
    system = audiopure.defend(audiopure.load_recogniser("digits"), audiopure.load_purifier())
    x, labels = clips(1, 16_000, 0.05), torch.zeros(1, dtype=torch.long)
    for attack in (
        Fakebob(steps=1, samples=4, eot=2, confidence=INSATIABLE),
        FakebobReleased(steps=1, samples=4),
    ):
        result = attack(system, x, labels, noise=SeededNoise(0))
        assert result.history.shape == result.survived.shape == (1, 2, 1)
        assert torch.isfinite(result.loss).all() and result.queries[0] == attack.cost.forwards
