"""Kenansville: components against NumPy and a textbook, searches against known answers."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from test_attacks import CoinFlip, Linear, clips, defended
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import score
from audiopure.attacks.ball import STEP16
from audiopure.attacks.components import Fourier, SingularSpectrum
from audiopure.attacks.kenansville import Kenansville
from audiopure.data import collate, load_dataset
from audiopure.metrics import snr
from audiopure.noise import SeededNoise


def signal(length: int) -> Tensor:
    """Two tones and a little noise."""
    t = torch.arange(length).double()
    noise = SeededNoise(6).normal((1, length), draw=0, dtype=torch.float64)[0]
    return 0.4 * (0.3 * t).sin() + 0.2 * (1.1 * t + 1).cos() + 0.02 * noise


@pytest.mark.parametrize("length", [64, 65, 1])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.3, 0.7, 1.0])
def test_fourier_thresholding_is_that_of_numpy(length: int, strength: float) -> None:
    clip = signal(length)
    spectrum = np.fft.fft(clip.numpy())
    spectrum[np.abs(spectrum) < strength * np.abs(spectrum).max() * (1 - 1e-12)] = 0
    part = Fourier(clip)
    found = part.without(part.weaker(strength))
    np.testing.assert_allclose(found.numpy(), np.fft.ifft(spectrum).real, rtol=0, atol=1e-13)
    assert not part.without(part.count).any()


def textbook(clip: np.ndarray, window: int, kept: int) -> np.ndarray:
    """Singular spectrum analysis from the trajectory matrix, one anti-diagonal at a time."""
    count = len(clip) - window + 1
    trajectory = np.array([clip[i : i + window] for i in range(count)])
    u, s, vt = np.linalg.svd(trajectory, full_matrices=False)
    part = (u[:, :kept] * s[:kept]) @ vt[:kept]
    return np.array(
        [
            np.mean([part[i, m - i] for i in range(count) if 0 <= m - i < window])
            for m in range(len(clip))
        ]
    )  # fmt: skip


@pytest.mark.parametrize(("length", "window"), [(60, 12), (61, 7), (40, 20), (30, 1)])
def test_singular_spectrum_analysis_is_that_of_the_textbook(length: int, window: int) -> None:
    clip = signal(length)
    part = SingularSpectrum(clip, window)
    # up and down: the sums are carried from call to call
    for removed in (0, window // 2, window - 1, 1, window, window // 3):
        expected = textbook(clip.numpy(), window, window - removed)
        np.testing.assert_allclose(part.without(removed).numpy(), expected, rtol=0, atol=1e-10)


def test_the_window_of_singular_spectrum_analysis() -> None:
    assert SingularSpectrum(signal(1000)).count == 50
    assert SingularSpectrum(signal(5)).count == 1
    part = SingularSpectrum(signal(17_000))
    assert part.count == 800
    assert [part.weaker(s) for s in (0.0, 0.5, 0.999, 1.0)] == [0, 400, 799, 799]
    # two tones are four components; the noise is spread over all 800
    kept = snr(part.without(796), 0.4 * (0.3 * torch.arange(17_000).double()).sin() + 0.2 * (
        1.1 * torch.arange(17_000).double() + 1
    ).cos())  # fmt: skip
    assert kept > 45


class Hears(nn.Module):
    """Class 0 while bin 5 of the spectrum is louder than half its amplitude, else class 1."""

    def __init__(self, amplitude: float):
        super().__init__()
        self.level = amplitude / 2

    def forward(self, waveform: Tensor) -> Tensor:
        level = torch.fft.rfft(waveform.double())[:, 5].abs() / (waveform.shape[1] / 2)
        return torch.stack([level - self.level, torch.zeros_like(level)], -1)


def tones(amplitude: float) -> Tensor:
    """Bin 5 of the given amplitude, below a loud and above a faint one."""
    t = torch.arange(64).double() / 64 * 2 * torch.pi
    return 0.5 * (9 * t).sin() + amplitude * (5 * t).sin() + 0.001 * (20 * t).sin()


def test_the_search_removes_no_more_than_the_model_needs() -> None:
    t = torch.arange(64).double() / 64 * 2 * torch.pi
    x, labels = torch.stack([tones(0.1), tones(0.02)]), torch.zeros(2, dtype=torch.long)
    for row, amplitude in enumerate((0.1, 0.02)):
        attack, part = Kenansville(bits=None), slice(row, row + 1)
        result = attack(Hears(amplitude), x[part], labels[part], noise=SeededNoise(0))
        torch.testing.assert_close(result.adversarial[0], 0.5 * (9 * t).sin(), rtol=0, atol=1e-12)
        stated = 10 * math.log10((0.25 + amplitude**2 + 1e-6) / (amplitude**2 + 1e-6))
        assert snr(result.adversarial, x[part])[0] == pytest.approx(stated, abs=1e-4)
        # the loss in the order of the halvings of the interval [0, 1]
        tried = [0.5]
        for failed in (result.survived[0, :-1, 0] == 0).tolist():
            tried.append(tried[-1] + (-1 if failed else 1) * 0.5 ** (len(tried) + 1))
        assert [s > amplitude / 0.5 for s in tried] == (result.survived[0, :, 0] == 0).tolist()


def test_a_clip_that_nothing_breaks_comes_back_as_it_is() -> None:
    x, labels = tones(0.1)[None], torch.ones(1, dtype=torch.long)
    result = Kenansville(bits=None, targeted=False)(Hears(-1.0), x, 1 - labels, noise=SeededNoise(0))
    assert torch.equal(result.adversarial, x) and (result.survived == 1).all()
    wanted = Kenansville(bits=None, targeted=True)(Hears(0.1), x, labels, noise=SeededNoise(0))
    assert not score(Hears(0.1), wanted.adversarial, 1 - labels, noise=SeededNoise(0)).any()


@pytest.mark.parametrize(("method", "kind"), [("fft", Fourier), ("ssa", SingularSpectrum)])
@pytest.mark.parametrize("least", [3.0, 20.0])
def test_a_stated_snr_is_kept_and_used_up(method, kind, least: float) -> None:
    x = torch.stack([signal(400), signal(400).flip(0)])
    attack = Kenansville(method=method, snr=least, bits=None)
    result = attack(Linear(400).double(), x, torch.zeros(2, dtype=torch.long), noise=SeededNoise(0))
    for clip, found in zip(x, result.adversarial, strict=True):
        ladder = [kind(clip).without(k) for k in range(kind(clip).count + 1)]
        (used,) = [k for k, step in enumerate(ladder) if torch.allclose(step, found, rtol=0, atol=1e-12)]
        assert 0 < used and snr(ladder[used], clip) >= least > snr(ladder[used + 1], clip)
    assert result.history.shape == (1, 1, 2) and (result.queries == 2).all()


@pytest.mark.parametrize("method", ["fft", "ssa"])
def test_a_replay_is_bit_for_bit_and_the_batch_does_not_matter(method) -> None:
    model, x, labels = defended().double(), clips().double(), torch.zeros(6, dtype=torch.long)
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14, 15])
    attack = Kenansville(method=method, eot=3, iterations=6, bits=None)
    first, again = (attack(model, x, labels, noise=noise) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial) and torch.equal(first.history, again.history)
    other = attack(model, x, labels, noise=SeededNoise(3))
    assert not torch.equal(first.history, other.history)
    part = attack(model, x[[3, 1]], labels[:2], noise=noise.for_items([13, 11]))
    torch.testing.assert_close(part.adversarial, first.adversarial[[3, 1]], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.history, first.history[..., [3, 1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["fft", "ssa"])
def test_lengths_full_scale_and_rounding(method) -> None:
    model, x = Linear(80), clips(3, 80, 1.0)
    lengths = torch.tensor([80, 41, 1])
    x = x * (torch.arange(80) < lengths[:, None])
    attack = Kenansville(method=method, snr=1.0)
    run = attack(model, x, torch.zeros(3, dtype=torch.long), noise=SeededNoise(0), lengths=lengths)
    assert (run.adversarial.abs() <= 1).all() and run.adversarial.dtype == torch.float32
    change = run.adversarial - x
    assert change[0].any() and change[1].any()
    assert all(not row[length:].any() for row, length in zip(change, lengths, strict=True))
    assert torch.equal(run.adversarial / STEP16, (run.adversarial / STEP16).round())
    alone = Linear(41)
    alone.weight = nn.Parameter(model.weight.detach()[:41].clone())
    short = attack(alone, x[1:2, :41], torch.zeros(1, dtype=torch.long), noise=SeededNoise(0))
    assert torch.equal(short.adversarial[0], run.adversarial[1, :41])
    silent = attack(model, 0 * x, torch.zeros(3, dtype=torch.long), noise=SeededNoise(0))
    assert not silent.adversarial.any()


def test_luck_does_not_count_as_success() -> None:
    model, x, labels = CoinFlip(), clips(50), torch.ones(50, dtype=torch.long)
    attacked = Kenansville(eot=3)(model, x, labels, noise=SeededNoise(2)).adversarial
    after = score(model, attacked, labels, noise=SeededNoise(3), passes=40).float()
    # right with probability .3; 2000 flips: one standard deviation is 0.01
    assert abs(after.mean() - 0.3) < 0.04 and not (after == 0).all(1).any()


def test_bad_settings() -> None:
    bad = [{"iterations": 0}, {"method": "dct"}, {"norm": "l2"}, {"snr": math.inf}, {"bits": 8}, {"eot": 0}]
    for settings in bad:
        with pytest.raises(InputError):
            Kenansville(**settings)
    attack = Kenansville(method="ssa", snr=5.0)
    assert eval(repr(attack), {"inf": math.inf, "Kenansville": Kenansville}) == attack


def test_it_breaks_most_clips_of_the_shipped_recogniser_and_runs_on_the_defended_one() -> None:
    data = load_dataset(Path(str(resources.files("audiopure") / "assets" / "clips")))
    x, lengths = collate(data.load_all())
    recogniser = audiopure.load_recogniser("digits")
    right = score(recogniser, x, data.targets(), noise=SeededNoise(0), lengths=lengths)[:, 0]
    x, labels, lengths = x[right][:20], data.targets()[right][:20], lengths[right][:20]
    attacked = Kenansville()(recogniser, x, labels, noise=SeededNoise(0), lengths=lengths).adversarial
    heard = score(recogniser, attacked, labels, noise=SeededNoise(0), lengths=lengths)
    assert heard.float().mean() <= 0.1
    system = audiopure.defend(recogniser, audiopure.load_purifier())
    attack = Kenansville(method="ssa", iterations=2, eot=2)
    result = attack(system, x[:1], labels[:1], noise=SeededNoise(0), lengths=lengths[:1])
    assert result.history.shape == (1, 2, 1) and result.queries[0] == attack.cost.forwards
