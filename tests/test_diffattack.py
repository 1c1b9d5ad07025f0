"""DiffAttack: PGD without its extra term, and with it the true gradient of how far purification strays."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import Defended, InputError, SpeechLevel
from audiopure.attacks import Pgd
from audiopure.attacks.diffattack import DiffAttack, Record, Watched, _Deviating
from audiopure.attacks.objective import Objective
from audiopure.diffusion.gradient import Full, Gradient, Recompute
from audiopure.diffusion.samplers import Ddpm, OneShot, ReverseSde, Sampler
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

LENGTH = 96


class Squashing(nn.Module):
    """A denoiser whose derivative depends on its input."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return 0.3 * torch.tanh(3 * x) * (1 - torch.as_tensor(sigma, dtype=x.dtype))


class Linear(nn.Module):
    def __init__(self, length: int = LENGTH):
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((1, length), draw=0)[0])

    def forward(self, waveform: Tensor) -> Tensor:
        value = waveform @ self.weight[: waveform.shape[1]].to(waveform.dtype)
        return torch.stack([value, -value], -1)


def purifier(sampler: Sampler | None = None, gradient: Gradient | None = None) -> Purifier:
    return Purifier(Squashing(), n_star=3, sampler=sampler, gradient=gradient, level=SpeechLevel())


def defended(sampler: Sampler | None = None) -> Defended:
    return audiopure.defend(Linear(), purifier(sampler))


def clips(batch: int = 3, length: int = LENGTH) -> Tensor:
    return (0.2 * SeededNoise(1).normal((batch, length), draw=0)).clamp(-1, 1)


@pytest.mark.parametrize("route", ["exact", "network-constant"])
def test_without_its_term_it_is_pgd_bit_for_bit(route: str) -> None:
    x, labels = clips(), torch.tensor([0, 1, 0])
    common: dict[str, Any] = {"eps": 0.01, "steps": 4, "eot": 3, "route": route}
    plain = Pgd(**common)(defended(), x, labels, noise=SeededNoise(2))
    without = DiffAttack(**common, deviation=0.0)(defended(), x, labels, noise=SeededNoise(2))
    assert torch.equal(without.adversarial, plain.adversarial)
    assert torch.equal(without.history, plain.history)
    with_it = DiffAttack(eps=0.01, steps=4, eot=3, deviation=30.0)
    assert not torch.equal(with_it(defended(), x, labels, noise=SeededNoise(2)).history, plain.history)


@pytest.mark.parametrize("gradient", [Full(), Recompute()], ids=["full", "recompute"])
def test_recorded_states_are_the_trajectory_of_the_sampler(gradient: Gradient) -> None:
    x, noise, original = clips(), SeededNoise(4), purifier(gradient=gradient)
    watched = Watched(original, Record())
    out = watched(x, noise=noise)
    level, schedule = SpeechLevel(), NoiseSchedule.linear()
    gain = level.gain(level.energy(x))

    def draw(number: int) -> Tensor:
        return noise.normal((len(x), LENGTH), draw=number)

    alpha_bar = schedule.alpha_bar(3)
    states = [math.sqrt(alpha_bar) * gain * x + math.sqrt(1 - alpha_bar) * draw(0)]
    for number, step in enumerate(Ddpm().steps(schedule, 3), start=1):
        states.append(step(original.denoiser, states[-1], draw(number) if step.noise else None))
    assert len(watched.states.seen) == 4
    for seen, state in zip(watched.states.seen, states, strict=True):
        torch.testing.assert_close(seen, state, rtol=1e-5, atol=1e-6)
    assert torch.equal(out, original(x, noise=noise))


@pytest.mark.parametrize("sampler", [Ddpm(), OneShot(), ReverseSde()], ids=["ddpm", "one-shot", "sde"])
def test_the_distance_is_that_to_the_clip_diffused_to_the_same_level(sampler: Sampler) -> None:
    x, noise = clips().double(), SeededNoise(4)
    record = Record()
    watched = Watched(purifier(sampler), record)
    watched(x, noise=noise)
    level, schedule = SpeechLevel(), NoiseSchedule.linear()
    clean = level.gain(level.energy(x)) * x
    drawn = noise.normal((len(x), LENGTH), draw=0, dtype=torch.float64)
    expected = 0.0
    states = watched.states.seen[1:]
    for number, (n, state) in enumerate(zip(range(len(states) - 1, -1, -1), states, strict=True)):
        diffused = math.sqrt(schedule.alpha_bar(n)) * clean + schedule.std(n) * drawn
        distance = (state - diffused).square().mean(1).sum() / schedule.std(3) ** 2
        expected = expected + distance / math.sqrt(number + 1)
    torch.testing.assert_close(record.take(), expected, rtol=1e-9, atol=0)
    assert record.take() is None


def test_a_second_purification_weighs_less() -> None:
    record, ones = Record(), [torch.ones(2), torch.ones(2)]
    record.add(ones)
    once = record.take()
    record.add(ones)
    record.add(ones)
    assert float(once or 0) == pytest.approx(2 * (1 + 2**-0.5))
    assert float(record.take() or 0) == pytest.approx(float(once or 0) * (1 + 2**-0.25))


@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_of_the_extra_term_is_the_finite_difference(padded: bool) -> None:
    x, labels, noise = clips().double(), torch.tensor([0, 1, 0]), SeededNoise(4)
    lengths = torch.tensor([96, 50, 64]) if padded else None
    victim = Objective(defended().double(), labels, lengths=lengths)
    objective = DiffAttack(deviation=3.0).climbed(victim)
    assert isinstance(objective, _Deviating)
    extra = objective.gradient(x, noise, 1).gradient - victim.gradient(x, noise, 1).gradient

    def strayed(point: Tensor) -> Tensor:
        objective.measure(point, noise, 1)
        total = objective.record.take()
        assert total is not None
        return 3.0 * total

    for k in range(3):
        direction = SeededNoise(8).normal((3, LENGTH), draw=k, dtype=torch.float64)
        h = 1e-5
        difference = (strayed(x + h * direction) - strayed(x - h * direction)) / (2 * h)
        torch.testing.assert_close((extra * direction).sum(), difference, rtol=1e-6, atol=1e-9)
    assert extra.abs().max() > 1e-3


def test_a_clip_is_attacked_alike_alone_in_a_batch_and_padded() -> None:
    model, x, labels = defended().double(), clips().double(), torch.tensor([0, 1, 0])
    noise, lengths = SeededNoise(2).for_items([10, 11, 12]), torch.tensor([96, 60, 96])
    x[1, 60:] = 0
    attack = DiffAttack(norm="l2", eps=0.1, steps=4, eot=3, deviation=0.1, bits=None)
    whole = attack(model, x, labels, noise=noise, lengths=lengths)
    alone = attack(model, x[1:2, :60], labels[1:2], noise=noise.for_items([11]))
    torch.testing.assert_close(whole.adversarial[1:2, :60], alone.adversarial, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.history[:, :, 1], alone.history[:, :, 0], rtol=0, atol=1e-9)
    assert not whole.adversarial[1, 60:].any()
    again = attack(model, x, labels, noise=noise, lengths=lengths)
    assert torch.equal(again.adversarial, whole.adversarial)


def test_it_needs_a_purifier() -> None:
    with pytest.raises(InputError, match="purifier"):
        DiffAttack(steps=1)(Linear(), clips(), torch.tensor([0, 1, 0]), noise=SeededNoise(0))


def test_on_the_shipped_defence() -> None:
    model = audiopure.defend(audiopure.load_recogniser("m5"), audiopure.load_purifier())
    x = (0.1 * SeededNoise(1).normal((1, 16_000), draw=0)).clamp(-1, 1)
    label = model(x, noise=SeededNoise(0)).argmax(1)
    result = DiffAttack(steps=2, eot=1)(model, x, label, noise=SeededNoise(0))
    assert (result.adversarial - x).abs().max() <= 0.002 and torch.isfinite(result.loss).all()
