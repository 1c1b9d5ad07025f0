"""Attacks bounded by what is heard: an equaliser within its gains, and Qin's hiding below the mask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks.base import Attack, score
from audiopure.attacks.low_frequency import LowFrequency
from audiopure.attacks.qin import PUBLISHED, Qin
from audiopure.data import collate, load_dataset
from audiopure.nets.m5 import DIGITS
from audiopure.noise import SeededNoise
from audiopure.psychoacoustics import distance_above_mask, excess, masking_threshold

RATE = 16_000
LENGTH = 6_000


class Correlator(nn.Module):
    """Two classes told apart by the correlation with a fixed noise, off by a draw of the model's own."""

    def __init__(self, spread: float = 0.0, length: int = LENGTH):
        super().__init__()
        weight = SeededNoise(5).normal((1, length), draw=0, dtype=torch.float64)[0]
        self.weight = nn.Parameter(weight)
        self.spread = spread

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        value = waveform @ self.weight[: waveform.shape[1]].to(waveform.dtype)
        draw = noise.normal((len(waveform), 1), draw=0, dtype=waveform.dtype)[:, 0]
        value = value + self.spread * draw
        return torch.stack([value, -value], 1)


class Loudness(nn.Module):
    """Hears class 0 in loud clips; the attacker's best equaliser is known: all of the gain, or none."""

    def forward(self, waveform: Tensor) -> Tensor:
        level = waveform.square().mean(1)
        return torch.stack([1000 * level, torch.zeros_like(level)], 1)


class Insatiable(nn.Module):
    """Would hear class 1 in clips louder than any."""

    def forward(self, waveform: Tensor) -> Tensor:
        level = waveform.square().mean(1)
        return torch.stack([torch.full_like(level, 2000.0), 1000 * level], 1)


class CoinFlip(nn.Module):
    """Right with probability 0.7, whatever it hears."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        coin = noise.normal((len(waveform), 1), draw=0)
        return torch.cat([0 * waveform[:, :1], coin - 0.5244], dim=1)


def sounds(batch: int = 3, length: int = LENGTH) -> Tensor:
    """Noise of falling spectrum, rising and fading; on the grid of 16-bit samples, in float64."""
    z = SeededNoise(1).normal((batch, length), draw=0, dtype=torch.float64)
    x = torch.from_numpy(np.asarray(scipy.signal.lfilter([0.05], [1, -0.9], z.numpy())))
    x = x * torch.sin(torch.pi * torch.arange(length) / length)
    return (x * 32768).round().clamp(-32768, 32767) / 32768


def heard(model: nn.Module, x: Tensor) -> Tensor:
    return model(x, noise=SeededNoise(0)).argmax(1)


def digits(root: Path, count: int) -> tuple[Tensor, Tensor, Tensor]:
    dataset = load_dataset("sc09", root, "test").stratified(count, 0)
    x, lengths = collate(dataset.load_all())
    return x, torch.tensor([DIGITS.index(clip.label) for clip in dataset]), lengths


FAST: list[Attack] = [
    LowFrequency(steps=4, eot=2, hum=0.001, hinge=1e-4, sample_rate=RATE),
    Qin(succeed=4, hide=6, eot=2, shrink_every=2),
]


@pytest.mark.parametrize("decibels", [3.0, 9.0])
def test_the_gain_is_bounded_wherever_it_is_measured(decibels: float) -> None:
    """Band energies of attacked over clean clips, by SciPy's transform with frames of another length."""
    model, x = Correlator(), sounds()
    attack = LowFrequency(gain_db=decibels, steps=25, rate=0.4, bits=None)
    changed = attack(model, x, heard(model, x), noise=SeededNoise(0)).adversarial
    energy = [
        np.abs(scipy.signal.stft(clip.numpy(), RATE, nperseg=300)[2][:, :150, 2:-2]) ** 2
        for clip in (x, changed)
    ]
    bands = [e.reshape(3, 10, 15, -1).sum(2) for e in energy]
    measured = 10 * np.log10(bands[1] / bands[0])
    assert np.abs(measured).max() < decibels + 0.5
    # it is used: gains come near the bound, in both directions
    assert measured.max() > 0.6 * decibels and measured.min() < -0.6 * decibels


@pytest.mark.parametrize("targeted", [False, True])
def test_the_equaliser_finds_the_known_optimum(targeted: bool) -> None:
    x = sounds()
    labels = torch.zeros(3, dtype=torch.long)
    attack = LowFrequency(gain_db=6, steps=40, rate=0.4, targeted=targeted, bits=None)
    changed = attack(Loudness(), x, labels, noise=SeededNoise(0)).adversarial
    optimum = x * 10 ** ((6 if targeted else -6) / 20)
    power = changed.square().mean(1) / optimum.square().mean(1)
    torch.testing.assert_close(power, torch.ones_like(power), rtol=0.03, atol=0)


def test_the_best_iterate_is_kept_where_the_last_is_worse() -> None:
    """Steps too long for a narrow optimum at -2 dB jump back and forth across it."""
    x = sounds()

    class Narrow(nn.Module):
        def forward(self, waveform: Tensor) -> Tensor:
            level = 10 * torch.log10(waveform.square().mean(1) / x[: len(waveform)].square().mean(1))
            return torch.stack([(level + 2) ** 2, torch.zeros_like(level)], 1)

    attack = LowFrequency(steps=6, rate=2.0, bits=None)
    result = attack(Narrow(), x, torch.zeros(3, dtype=torch.long), noise=SeededNoise(0))
    assert (result.history[0, -1] < result.history[0].amax(0) - 0.1).all()
    assert (result.loss >= result.history[0].amax(0) - 1e-9).all()


@pytest.mark.parametrize("bits", [16, None])
def test_loud_clips_stay_within_full_scale(bits: Literal[16] | None) -> None:
    """Where the attacker wants them louder still."""
    x, labels = sounds(), torch.ones(3, dtype=torch.long)
    x = x / x.abs().amax(1, keepdim=True)
    for attack in (
        LowFrequency(steps=5, rate=0.5, hum=0.1, targeted=True, bits=bits),
        Qin(succeed=2, hide=5, rate=100 / 32768, alpha=1e-12, targeted=True, bits=bits),
    ):
        found = attack(Insatiable(), x, labels, noise=SeededNoise(0)).adversarial
        assert found.abs().max() <= 1 and not torch.equal(found, x)


def test_the_additive_part_keeps_its_bound_and_band() -> None:
    model, x = Correlator(), sounds()
    attack = LowFrequency(gain_db=1e-9, hum=0.004, cutoff=800, steps=30, bits=None)
    change = (attack(model, x, heard(model, x), noise=SeededNoise(0)).adversarial - x).numpy()
    assert 0.002 < np.abs(change).max() <= 0.004
    power = np.abs(np.fft.rfft(change)) ** 2
    hz = np.fft.rfftfreq(LENGTH, 1 / RATE)
    assert power[:, hz > 1200].sum() < 1e-6 * power.sum()


def test_the_hinge_keeps_the_equaliser_below_the_mask() -> None:
    model, x = Correlator(), sounds()
    labels, noise = heard(model, x), SeededNoise(0)
    free, held = (
        LowFrequency(gain_db=9, steps=30, hinge=hinge, bits=None)(model, x, labels, noise=noise).adversarial
        for hinge in (0.0, 1e-3)
    )
    masking = masking_threshold(x, RATE)
    assert (excess(held - x, masking) < 0.3 * excess(free - x, masking)).all()


def test_qin_hides_what_it_found_and_still_succeeds() -> None:
    model, x = Correlator(), sounds()
    labels, masking, noise = heard(model, x), masking_threshold(x, RATE), SeededNoise(0)
    loud = Qin(succeed=40, hide=1, shrink_every=4)(model, x, labels, noise=noise).adversarial
    attack = Qin(succeed=40, hide=120, shrink_every=4, rate=5 / 32768)
    quiet = attack(model, x, labels, noise=noise).adversarial
    assert not score(model, loud, labels, noise=SeededNoise(1)).any()
    assert not score(model, quiet, labels, noise=SeededNoise(1)).any()
    assert (excess(quiet - x, masking) < 0.1 * excess(loud - x, masking)).all()
    assert (distance_above_mask(x, quiet, RATE) < distance_above_mask(x, loud, RATE) / 2).all()
    assert ((quiet - x).abs().amax(1) <= 2000 / 32768 + 2.0**-16).all()
    stored = quiet * 32768
    assert torch.equal(stored, stored.round())


def test_qins_first_stage_shrinks_its_bound_by_the_authors_rule() -> None:
    model, x = Correlator(), sounds()
    labels = heard(model, x)
    attack = Qin(succeed=100, hide=1, shrink_every=2, bits=None)
    change = attack(model, x, labels, noise=SeededNoise(0)).adversarial - x
    # along the sign of the gradient the least bound that succeeds is |value| / |weight|_1
    least = (x @ model.weight).abs() / model.weight.abs().sum()
    assert (change.abs().amax(1) >= least * 0.999).all()
    assert (change.abs().amax(1) <= 1.3 * least).all()


def test_qin_climbs_towards_a_wanted_label() -> None:
    model, x = Correlator(), sounds()
    wanted = 1 - heard(model, x)
    attack = Qin(succeed=30, hide=30, targeted=True)
    adversarial = attack(model, x, wanted, noise=SeededNoise(0)).adversarial
    assert score(model, adversarial, wanted, noise=SeededNoise(1)).all()


def test_qin_answers_a_randomised_model_for_most_of_its_draws() -> None:
    model, x = Correlator(spread=40.0), sounds()
    labels = heard(Correlator(), x)
    attack = Qin(succeed=40, hide=80, shrink_every=4, rate=5 / 32768, eot=10)
    adversarial = attack(model, x, labels, noise=SeededNoise(0)).adversarial
    right = score(model, adversarial, labels, noise=SeededNoise(1), passes=100).float().mean()
    assert right < 0.35
    still = Correlator()
    hidden = attack(still, x, labels, noise=SeededNoise(0)).adversarial
    # a steady model takes less: the margin that covers its draws is paid for in audibility
    assert (distance_above_mask(x, hidden, RATE) < distance_above_mask(x, adversarial, RATE)).all()


@pytest.mark.parametrize("attack", [LowFrequency(steps=10, eot=5), Qin(succeed=10, hide=20, eot=5)], ids=str)
def test_luck_breaks_no_coin(attack: Attack) -> None:
    x, labels = sounds(20, 400).float(), torch.zeros(20, dtype=torch.long)
    adversarial = attack(CoinFlip(), x, labels, noise=SeededNoise(0)).adversarial
    right = score(CoinFlip(), adversarial, labels, noise=SeededNoise(1), passes=50).float().mean()
    assert 0.65 < right < 0.75


@pytest.mark.parametrize("attack", FAST, ids=str)
def test_a_clips_result_is_its_own_and_replays(attack: Attack) -> None:
    model, x = Correlator(spread=0.5), sounds()
    labels, lengths = heard(Correlator(), x), torch.tensor([6_000, 4_321, 2_500])
    x = torch.where(torch.arange(LENGTH) < lengths[:, None], x, 0.0)
    noise = SeededNoise(4, items=(11, 22, 33))
    together = attack(model, x, labels, noise=noise, lengths=lengths)
    again = attack(model, x, labels, noise=noise, lengths=lengths)
    assert torch.equal(together.adversarial, again.adversarial)
    assert torch.equal(together.history, again.history)
    assert torch.equal(together.survived, again.survived)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(together.adversarial[row, length:], x[row, length:])
        one = x[row : row + 1, :length]
        alone = attack(model, one, labels[row : row + 1], noise=noise.rows([row]))
        torch.testing.assert_close(
            together.adversarial[row, :length], alone.adversarial[0], rtol=0, atol=1e-9
        )
        torch.testing.assert_close(together.loss[row], alone.loss[0])
        assert together.queries[row] == alone.queries[0]
    assert together.adversarial.abs().max() <= 1 and not torch.equal(together.adversarial, x)


def test_queries_and_history_count_every_step() -> None:
    model, x = Correlator(), sounds(2).float()
    labels, calls = heard(model, x), []
    result = LowFrequency(steps=3, eot=2, selection=5)(
        model, x, labels, noise=SeededNoise(0), progress=lambda: calls.append(1)
    )
    assert result.queries.tolist() == [16, 16] and result.history.shape == (1, 3, 2) and len(calls) == 3
    result = Qin(succeed=2, hide=3, eot=2, selection=5)(model, x, labels, noise=SeededNoise(0))
    assert result.queries.tolist() == [25, 25] and result.survived.shape == (1, 5, 2)
    assert result.adversarial.dtype == result.loss.dtype == torch.float32


def test_they_break_the_shipped_recogniser(data_root: Path) -> None:
    model = audiopure.load_recogniser("digits")
    x, labels, lengths = digits(data_root, 2)
    for attack in (LowFrequency(gain_db=12, steps=15, rate=0.4), Qin(succeed=20, hide=5)):
        found = attack(model, x, labels, noise=SeededNoise(0), lengths=lengths).adversarial
        assert not score(model, found, labels, noise=SeededNoise(1)).any()


def test_the_equaliser_passes_the_purifier(data_root: Path) -> None:
    model = audiopure.defend(audiopure.load_recogniser("digits"), audiopure.load_purifier())
    x, labels, _ = digits(data_root, 1)
    result = LowFrequency(gain_db=12, steps=4, rate=0.5)(model, x, labels, noise=SeededNoise(0))
    assert result.history[0, -1, 0] > result.history[0, 0, 0]


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (
            LowFrequency,
            {"gain_db": [0.0, math.inf], "bands": [1], "hum": [2.0], "cutoff": [9e3], "steps": [0]},
        ),
        (LowFrequency, {"bits": [8], "selection": [0]}),
        (Qin, {"reach": [-1.0], "success": [0.0], "hide": [0], "selection": [0], "bits": [8]}),
    ],
)
def test_bad_settings_are_named(attack: Any, settings: dict[str, list[Any]]) -> None:
    for name, values in settings.items():
        for value in values:
            with pytest.raises(InputError, match=name):
                attack(**{name: value})


def test_the_authors_steps_are_one_name_away() -> None:
    published = Qin(**PUBLISHED)
    assert (published.succeed, published.hide) == (1000, 4000)
    assert (published.raise_every, published.lower_every) == (20, 50)
