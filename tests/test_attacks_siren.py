"""SirenAttack: particle swarms against known optima."""

from __future__ import annotations

import pytest
import torch
from test_attacks import CoinFlip, Linear, clips, defended
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import score
from audiopure.attacks.ball import STEP16, Ball, ball
from audiopure.attacks.siren import Siren
from audiopure.attacks.swarm import Swarm
from audiopure.noise import SeededNoise


class Peak(nn.Module):
    """The margin of class 0 over class 1 falls with the square of the distance to one point."""

    def __init__(self, point: Tensor):
        super().__init__()
        self.point = point

    def forward(self, waveform: Tensor) -> Tensor:
        value = -1 - 1e6 * (waveform - self.point.to(waveform.dtype)).square().sum(1)
        return torch.stack([torch.zeros_like(value), value], -1)


class Deaf(nn.Module):
    """Class 0, whatever it hears."""

    def forward(self, waveform: Tensor) -> Tensor:
        zero = 0 * waveform[:, 0]
        return torch.stack([zero + 1, zero], -1)


def test_the_swarm_finds_a_peak_inside_the_box() -> None:
    x = torch.tensor([[0.3, -0.2, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]]).double()
    peaks = x + torch.tensor([[0.03, -0.04, 0.0, 0.02], [-0.03, 0.02, 0.01, 0.0]]).double()
    for row in (0, 1):
        attack = Siren(eps=0.1, epochs=2, bits=None)
        noise, label = SeededNoise(0), torch.zeros(1, dtype=torch.long)
        result = attack(Peak(peaks[row]), x[row : row + 1], label, noise=noise)
        torch.testing.assert_close(result.adversarial[0], peaks[row], rtol=0, atol=2e-4)


def test_the_swarm_finds_the_worst_corner_of_a_linear_model() -> None:
    model, x = Linear(6).double(), clips(4, 6).double()
    labels = (model(x)[:, 1] > 0).long()
    worst = -(1 - 2 * labels)[:, None] * model.weight.detach().sign()
    result = Siren(eps=0.01, epochs=2, confidence=1e3, bits=None)(model, x, labels, noise=SeededNoise(0))
    torch.testing.assert_close(result.adversarial, x + 0.01 * worst, rtol=0, atol=1e-12)


def box(width: float = 0.5) -> tuple[Ball, Swarm]:
    centre = clips(2, 3).double() * 0.1
    return ball("linf", width, centre), Swarm(ball("linf", width, centre), 4)


def uniform(noise: SeededNoise, particle: int) -> Tensor:
    return torch.special.ndtr(noise.normal((2, 3), draw=particle, dtype=torch.float64))


def test_a_move_is_that_of_particle_swarms() -> None:
    _, swarm = box()
    rows, noise = torch.arange(2), SeededNoise(4)
    swarm.scatter(rows, SeededNoise(1), keep=False)
    swarm.note(rows, torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0], [0.0, 0.0]]).double())
    swarm.x = swarm.ball.project(swarm.x + 0.01)
    swarm.velocity = swarm.velocity * 0.01
    x, best, velocity = swarm.x.clone(), swarm.best.clone(), swarm.velocity.clone()
    leaders = torch.stack([best[1, 0], best[2, 1]])
    assert torch.equal(swarm.leader(rows), leaders)
    swarm.move(rows, noise, (0.7, 0.11, 0.13))
    for particle in range(4):
        r1, r2 = uniform(noise.fresh(0), particle), uniform(noise.fresh(1), particle)
        expected = 0.7 * velocity[particle] + 0.11 * r1 * (best[particle] - x[particle])
        expected = expected + 0.13 * r2 * (leaders - x[particle])
        torch.testing.assert_close(swarm.velocity[particle], expected)
        torch.testing.assert_close(swarm.x[particle], swarm.ball.project(x[particle] + expected))


def test_places_and_velocities_stay_in_the_box_and_a_new_epoch_keeps_the_best() -> None:
    around, swarm = box()
    rows = torch.arange(2)
    swarm.scatter(rows, SeededNoise(1), keep=False)
    assert swarm.velocity.abs().max() <= 1.0 and swarm.velocity.abs().max() > 0.5
    assert (swarm.x - around.clean).abs().max() <= 0.5 and (swarm.x - around.clean).abs().max() > 0.35
    swarm.note(rows, torch.arange(8.0).view(4, 2).double())
    for number in range(20):
        swarm.move(rows, SeededNoise(number), (1.0, 3.0, 3.0))
        assert swarm.velocity.abs().max() <= 1.0 and (swarm.x - around.clean).abs().max() <= 0.5
    leaders, before = swarm.leader(rows).clone(), swarm.x.clone()
    swarm.scatter(rows, SeededNoise(2), keep=True)
    assert torch.equal(swarm.x[0], leaders) and torch.equal(swarm.leader(rows), leaders)
    assert swarm.loss[0].tolist() == [6.0, 7.0] and swarm.loss[1:].isneginf().all()
    assert not torch.isclose(swarm.x[1:], before[1:]).any()


def test_a_clip_leaves_when_its_margin_is_reached_and_an_epoch_ends_without_progress() -> None:
    model, x = Linear(6).double(), clips(4, 6).double() * 0.01
    labels = (model(x)[:, 1] > 0).long()
    result = Siren(eps=0.05, epochs=2)(model, x, labels, noise=SeededNoise(0))
    assert not score(model, result.adversarial, labels, noise=SeededNoise(1)).any()
    looks = (result.history[0] <= 0).sum(0) + 1
    assert (looks < 10).all() and (result.queries == looks * 26 + 25).all()
    # no place is better than another: an epoch ends at its second look, the first at its fourth, as nothing
    # was known before, and the attack after two checks of epochs
    stuck = Siren(eps=0.05, epochs=5, iterations=6, patience=2)
    result = stuck(Deaf(), x, labels * 0, noise=SeededNoise(0))
    assert (result.queries == (4 + 2 + 2 + 2) * 26 + 25).all()
    assert result.history.shape == (1, 35, 4) and (result.history == -1).all()


def test_a_replay_is_bit_for_bit_and_the_batch_does_not_matter() -> None:
    model, x, labels = defended().double(), clips().double(), torch.zeros(6, dtype=torch.long)
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14, 15])
    attack = Siren(epochs=2, iterations=4, particles=3, patience=2, eot=2, bits=None)
    first, again = (attack(model, x, labels, noise=noise) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial) and torch.equal(first.history, again.history)
    assert first.history.shape == first.survived.shape == (1, 10, 6)
    other = attack(model, x, labels, noise=SeededNoise(3))
    assert not torch.equal(first.history, other.history)
    for max_rows in (1, 5, 64):
        small = Siren(
            epochs=2, iterations=4, particles=3, patience=2, eot=2, bits=None, max_rows=max_rows
        )  # fmt: skip
        part = small(model, x[[3, 1]], labels[:2], noise=noise.for_items([13, 11]))
        torch.testing.assert_close(part.adversarial, first.adversarial[[3, 1]], rtol=0, atol=1e-12)
        torch.testing.assert_close(part.history, first.history[..., [3, 1]], rtol=0, atol=1e-9)
        assert torch.equal(part.queries, first.queries[[3, 1]])


@pytest.mark.parametrize("targeted", [False, True])
def test_budgets_and_lengths_hold(targeted: bool) -> None:
    model, x = Linear(50), clips(3, 50, 1.0)
    labels, lengths = torch.tensor([0, 1, 0]), torch.tensor([50, 20, 1])
    attack = Siren(eps=0.003, epochs=1, iterations=3, particles=4, targeted=targeted, confidence=100.0)
    adversarial = attack(model, x, labels, noise=SeededNoise(0), lengths=lengths).adversarial
    change = adversarial.double() - x.double()
    assert (change.abs() <= 0.003).all() and (adversarial.abs() <= 1).all()
    assert change[:, 0].any() and change[0].count_nonzero() > 30
    assert all(not row[length:].any() for row, length in zip(change, lengths, strict=True))
    assert torch.equal(adversarial / STEP16, (adversarial / STEP16).round())


def test_luck_does_not_count_as_success() -> None:
    model, x, labels = CoinFlip(), clips(50), torch.ones(50, dtype=torch.long)
    attack = Siren(epochs=1, iterations=2, particles=4)
    attacked = attack(model, x, labels, noise=SeededNoise(2)).adversarial
    after = score(model, attacked, labels, noise=SeededNoise(3), passes=40).float()
    # right with probability .3; 2000 flips: one standard deviation is 0.01
    assert abs(after.mean() - 0.3) < 0.04 and not (after == 0).all(1).any()


def test_settings_and_the_authors_preset() -> None:
    preset = Siren.authors()
    assert (preset.epochs, preset.iterations, preset.particles, preset.inertia) == (300, 30, 25, (0.9, 0.1))
    assert eval(repr(preset)) == preset
    bad = [{"epochs": 0}, {"particles": 0}, {"norm": "l2"}, {"bits": 8}, {"confidence": -1.0}, {"eot": 0}]
    for settings in bad:
        with pytest.raises(InputError):
            Siren(**settings)


def test_it_runs_on_a_defended_recogniser() -> None:
    system = audiopure.defend(audiopure.load_recogniser("digits"), audiopure.load_purifier())
    x, labels = clips(1, 16_000, 0.05), torch.zeros(1, dtype=torch.long)
    attack = Siren(epochs=1, iterations=1, particles=2, eot=2, confidence=1e3)
    result = attack(system, x, labels, noise=SeededNoise(0))
    assert result.history.shape == (1, 2, 1) and result.queries[0] == attack.cost.forwards
