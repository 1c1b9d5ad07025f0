"""A universal perturbation: known optimum, exact budget, unseen clips, shifts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks.base import score
from audiopure.attacks.universal import Batch, Universal
from audiopure.data import collate, load_dataset
from audiopure.nets.m5 import DIGITS
from audiopure.noise import SeededNoise

Norm = Literal["linf", "l2"]
NORMS: list[tuple[Norm, float]] = [("linf", 0.01), ("l2", 0.3)]


class Plane(nn.Module):
    """Class 1 on one side of a hyperplane; the best universal change moves all clips across it."""

    def __init__(self, length: int = 200):
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((1, length), draw=0)[0])

    def forward(self, waveform: Tensor) -> Tensor:
        value = waveform @ self.weight[: waveform.shape[1]].to(waveform.dtype)
        return torch.stack([-value, value], -1)


class Detector(nn.Module):
    """Hears class 1 where a clip holds a 1 kHz tone, wherever it starts."""

    def forward(self, waveform: Tensor) -> Tensor:
        time = torch.arange(waveform.shape[1]) / 16_000
        phase = 2 * torch.pi * 1000 * time
        power = (waveform @ phase.cos()).square() + (waveform @ phase.sin()).square()
        return torch.stack([torch.full_like(power, 1.0), 10 * power], 1)


class CoinFlip(nn.Module):
    """Right with probability 0.7, whatever it hears."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        coin = noise.normal((len(waveform), 1), draw=0)
        return torch.cat([0 * waveform[:, :1], coin - 0.5244], dim=1)


def clips(batch: int, seed: int = 1, length: int = 200, scale: float = 0.2) -> Tensor:
    x = scale * SeededNoise(seed).normal((batch, length), draw=0)
    return (x.clamp(-1, 1) * 32768).round().clamp(max=32767) / 32768


def ones(batch: int) -> Tensor:
    return torch.ones(batch, dtype=torch.long)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_it_attains_the_optimum_of_a_linear_model(norm: Norm, eps: float) -> None:
    model = Plane()
    attack = Universal(norm=norm, eps=eps, steps=40, bits=None)
    delta = attack.train(model, [Batch(clips(8), ones(8))], SeededNoise(0))
    weight = -model.weight.detach()
    optimum = eps * (weight.sign() if norm == "linf" else weight / weight.norm())
    torch.testing.assert_close(delta, optimum, rtol=0, atol=1e-2 * eps)
    unseen = clips(4, seed=9)
    torch.testing.assert_close(attack.apply(delta, unseen), unseen + optimum, rtol=0, atol=1e-2 * eps)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("bits", [16, None])
def test_every_clip_keeps_the_budget(norm: Norm, eps: float, bits: Literal[16] | None) -> None:
    x, lengths = clips(5, scale=0.8), torch.tensor([200, 150, 60, 3, 1])
    attack = Universal(norm=norm, eps=eps, steps=5, bits=bits)
    adversarial = attack(Plane(), x, ones(5), noise=SeededNoise(0), lengths=lengths).adversarial
    delta = SeededNoise(3).normal((1, 70), draw=0)[0]
    for result in (adversarial, attack.apply(delta, x, lengths)):
        change = result.double() - x.double()
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert (size <= eps).all() and (result.abs() <= 1).all()
        for row, length in zip(change, lengths, strict=True):
            assert not row[length:].any()
        if bits == 16:
            assert torch.equal((result * 32768).round() / 32768, result)


def test_called_on_a_batch_it_adds_what_it_learnt_from_it() -> None:
    model, x = Plane(), clips(6)
    attack, noise = Universal(eps=0.02, steps=10, selection=3), SeededNoise(2)
    result = attack(model, x, ones(6), noise=noise)
    delta = attack.train(model, [Batch(x, ones(6))], noise)
    assert torch.equal(result.adversarial, attack.apply(delta, x))
    again = attack(model, x, ones(6), noise=noise)
    assert torch.equal(result.adversarial, again.adversarial) and torch.equal(result.history, again.history)
    assert result.history.shape == result.survived.shape == (1, 10, 6)
    assert result.queries.tolist() == [10 + 9] * 6
    targeted = Universal(eps=0.02, steps=10, targeted=True)(model, x, 0 * ones(6), noise=noise)
    torch.testing.assert_close(targeted.adversarial, result.adversarial, rtol=0, atol=0.02 * 0.05)


def test_it_learns_from_several_batches_and_repeats_for_longer_clips() -> None:
    model = Plane()
    batches = [Batch(clips(3, seed), ones(3)) for seed in range(4)]
    batches.append(Batch(clips(2, 7)[:, :50], ones(2), torch.tensor([50, 20])))
    attack = Universal(eps=0.05, steps=25, bits=None)
    calls = []
    delta = attack.train(model, batches, SeededNoise(0), progress=lambda: calls.append(1))
    assert delta.shape == (200,) and len(calls) == 25
    assert ((delta * -model.weight.detach()) > 0).float().mean() > 0.95
    longer = attack.apply(delta, torch.zeros(1, 450))[0]
    torch.testing.assert_close(longer, torch.cat([delta, delta, delta[:50]]))


def test_shifts_teach_it_to_work_out_of_time() -> None:
    """A detector of one frequency at any phase is shift-robust; a filter tuned to one place is not."""
    model, x = Plane(), clips(16, scale=0.001)
    value = {}
    for shift in (0, 100):
        attack = Universal(eps=0.01, steps=60, shift=shift, bits=None)
        delta = attack.train(model, [Batch(x, ones(16))], SeededNoise(0))
        moved = torch.stack([delta.roll(k) for k in range(0, 200, 10)])
        value[shift] = (moved @ -model.weight.detach()).min()
    # in time a plain one is best; moved, it does as much harm as good, and the other always helps
    assert value[100] > value[0]
    tone = 0 * ones(16)
    attack = Universal(eps=0.01, steps=40, shift=100, bits=None)
    delta = attack.train(Detector(), [Batch(clips(16, length=160, scale=0.001), tone)], SeededNoise(0))
    spectrum = torch.fft.rfft(delta).abs()
    assert int(spectrum.argmax()) == 10


def test_luck_breaks_no_coin() -> None:
    x = clips(20)
    attack = Universal(eps=0.01, steps=20, eot=3)
    adversarial = attack(CoinFlip(), x, 0 * ones(20), noise=SeededNoise(0)).adversarial
    right = score(CoinFlip(), adversarial, 0 * ones(20), noise=SeededNoise(1), passes=50).float().mean()
    assert 0.65 < right < 0.75


def test_it_breaks_the_shipped_recogniser_for_the_clips_it_knows() -> None:
    model = audiopure.load_recogniser("digits")
    dataset = load_dataset(Path(str(resources.files("audiopure") / "assets" / "clips"))).stratified(4, 0)
    x, lengths = collate(dataset.load_all())
    labels = torch.tensor([DIGITS.index(clip.label) for clip in dataset])
    attack = Universal(eps=0.03, steps=12)
    found = attack(model, x, labels, noise=SeededNoise(0), lengths=lengths)
    change = (found.adversarial - x)[lengths == x.shape[1]]
    # one change for all, but for what rounding and full scale ask
    assert (
        (change - change[0]).abs().amax(1) < 2 * 2.0**-15 + (x.abs().amax(1) > 0.97)[lengths == x.shape[1]]
    ).all()
    assert score(model, found.adversarial, labels, noise=SeededNoise(1)).float().mean() <= 0.25
    random = x + attack.eps * SeededNoise(5).normal((1, x.shape[1]), draw=0).sign()
    assert score(model, random.clamp(-1, 1), labels, noise=SeededNoise(1)).float().mean() > 0.6


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("shift", -1), ("momentum", 1.0), ("bits", 8)])
def test_bad_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Universal(**{name: value})


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="learn from"):
        Universal().train(Plane(), [], SeededNoise(0))
    with pytest.raises(InputError, match=r"\(time,\)"):
        Universal().apply(torch.zeros(2, 3), clips(2))
