"""Transformations and other defences without weights, against SciPy and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal
from torch import Tensor, nn

from audiopure import InputError
from audiopure.attacks.objective import randomised
from audiopure.choices import DEFENCES
from audiopure.defences.codec import Codec
from audiopure.defences.denoising import AdditiveNoise, SpectralGating
from audiopure.defences.transformations import (
    AverageSmoothing,
    BandPass,
    Downsampling,
    LowPass,
    MedianSmoothing,
    Quantisation,
)
from audiopure.evaluation.auditing.audit import audit
from audiopure.noise import SeededNoise
from audiopure.systems import load_system

RATE = 16_000
FIXED = [name for name in DEFENCES if name not in ("white-noise", "masked-noise")]


def sounds(count: int = 2, length: int = 4000, seed: int = 0) -> Tensor:
    """Broad-band, fading in and out, in double precision."""
    noise = torch.randn(count, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.2 * noise * torch.hann_window(length, periodic=False, dtype=torch.float64)


def tone(hz: float, length: int = 8000) -> Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(length, dtype=torch.float64) / RATE)[None]


@given(st.integers(1, 300), st.sampled_from([1, 3, 5, 9]), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_smoothing_is_scipys(length: int, width: int, seed: int) -> None:
    x = sounds(1, length, seed) + 0.1
    mean = ndimage.uniform_filter1d(x.numpy(), width, axis=1, mode="constant")
    median = ndimage.median_filter(x.numpy(), (1, width), mode="constant")
    np.testing.assert_allclose(AverageSmoothing(width)(x).numpy(), mean, atol=1e-12)
    np.testing.assert_allclose(MedianSmoothing(width)(x).numpy(), median, atol=1e-12)


@pytest.mark.parametrize("defence", [LowPass(), BandPass(), LowPass(1000.0, 4000.0), BandPass(500.0, 2000.0)])
def test_filters_are_scipys_causal_ones(defence: LowPass | BandPass) -> None:
    x = sounds()
    band = isinstance(defence, BandPass)
    passed = [defence.low, defence.high] if isinstance(defence, BandPass) else defence.cutoff
    stopped = [defence.stop_low, defence.stop_high] if isinstance(defence, BandPass) else defence.stop
    order, edge = signal.buttord(np.array(passed) / 8000, np.array(stopped) / 8000, 3, 40)
    sections = signal.butter(order, edge, "bandpass" if band else "lowpass", output="sos")
    expected = np.clip(np.asarray(signal.sosfilt(sections, x.numpy(), axis=1)), -1, 1)
    np.testing.assert_allclose(defence(x).numpy(), expected, atol=1e-7)


def test_the_papers_filters() -> None:
    """Its low-pass is of order 1 at about 4006 Hz, its band-pass of order 3 from 299.8 to 4001.8 Hz."""
    half_power = 10 ** (-3 / 20)
    for defence, edges in ((LowPass(), (4006,)), (BandPass(), (299.8, 4001.8))):
        spectrum = torch.fft.rfft(defence.response, n=160_000).abs()
        for hz in edges:
            assert float(spectrum[round(hz * 10)]) == pytest.approx(half_power, abs=0.01)
    slope = torch.fft.rfft(LowPass().response, n=160_000).abs()
    assert float(slope[40_060] / slope[70_000]) > 1.5


def test_downsampling_keeps_what_fits_and_drops_the_rest() -> None:
    defence = Downsampling(8000)
    low, high = (defence(tone(hz))[:, 1000:-1000] for hz in (1000, 6000))
    assert float((low - tone(1000)[:, 1000:-1000]).norm() / low.norm()) < 1e-2
    assert float(high.abs().max()) < 1e-3
    assert defence(tone(1000, 777)).shape == (1, 777)


@given(st.integers(1, 2000), st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_quantisation_rounds_to_the_nearest_multiple(step: int, seed: int) -> None:
    x = sounds(1, 100, seed)
    found = Quantisation(step)(x)
    whole = found * 32768 / step
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-6)
    assert float((found - x).abs().max()) <= step / 65536 + 1e-12


@pytest.mark.parametrize("codec", ["mp3", "opus"])
def test_a_codec_comes_back_in_time_and_the_better_the_closer(codec) -> None:
    x = 0.3 * (tone(440) + 0.5 * tone(1100)) * torch.hann_window(8000, dtype=torch.float64)
    errors = [float((Codec(codec, quality)(x) - x).norm() / x.norm()) for quality in (0.0, 1.0)]
    assert errors[1] < 0.05 and errors[1] < errors[0] < 0.5
    assert float(Codec(codec)(torch.zeros(1, 500)).abs().max()) < 1e-12


def test_noise_has_the_ratio_it_should_and_padding_does_not_count() -> None:
    x, lengths = sounds(2, 8000), torch.tensor([8000, 5000])
    x = torch.where(torch.arange(8000) < lengths[:, None], x, 0.0)
    found = AdditiveNoise(10.0)(x, lengths=lengths, noise=SeededNoise(0))
    alone = AdditiveNoise(10.0)(x[1:, :5000], noise=SeededNoise(0).for_items([1]))
    torch.testing.assert_close(found[1:, :5000], alone)
    snr = 20 * torch.log10(x.norm(dim=1) / (found - x).norm(dim=1))
    torch.testing.assert_close(snr, torch.full((2,), 10.0, dtype=torch.float64), rtol=0, atol=0.2)


def test_the_gate_turns_down_a_steady_floor_and_not_the_speech() -> None:
    hiss = 0.005 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    word = 0.5 * tone(700, 16_000) * torch.exp(-((torch.arange(16_000) / 16_000 - 0.5) ** 2) / 0.01)
    found = SpectralGating()(word + hiss)
    before, after = hiss[:, :3000].norm(), found[:, :3000].norm()
    assert float(after) < 0.25 * float(before)
    middle = slice(7000, 9000)
    assert float((found - word)[:, middle].norm() / word[:, middle].norm()) < 0.05


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_keeps_the_shape_and_treats_padded_clips_as_alone(name: str) -> None:
    defence = DEFENCES[name].build()
    x, lengths = sounds(2, 6000), torch.tensor([6000, 4100])
    x = torch.where(torch.arange(6000) < lengths[:, None], x, torch.tensor(0.7, dtype=torch.float64))
    found = defence(x, lengths=lengths, noise=SeededNoise(0))
    assert found.shape == x.shape and (found[1, 4100:] == 0).all() and torch.isfinite(found).all()
    alone = defence(x[1:, :4100], noise=SeededNoise(0).for_items([1]))
    torch.testing.assert_close(found[1:, :4100], alone, rtol=1e-4, atol=1e-5)
    half = defence(x.to(torch.bfloat16), noise=SeededNoise(0))
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()
    with pytest.raises(InputError, match="3 lengths"):
        defence(x, lengths=torch.tensor([1, 2, 3]))
    for bad in (torch.zeros(2, 0), torch.zeros(10, dtype=torch.int16)):
        with pytest.raises(InputError, match="floating-point"):
            defence(bad)


@pytest.mark.parametrize("name", DEFENCES)
def test_slopes_are_bounded_in_and_beside_digital_silence(name: str) -> None:
    defence = DEFENCES[name].build()
    x = sounds(2, 16_000)
    x[0], x[1, 6000:10_000] = 0.0, 0.0
    x.requires_grad_()
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    (slope,) = torch.autograd.grad((defence(x, noise=SeededNoise(0)) * along).sum(), x)
    assert torch.isfinite(slope).all()
    silent, loud = slope[1, 7500:8500].abs().max(), slope[1, :5000].abs().max()
    assert float(silent) < 100 * float(loud)


@pytest.mark.parametrize("name", DEFENCES)
def test_gradients_are_exact_or_say_that_they_are_not(name: str) -> None:
    """The audit's verdict for each of them before a small recogniser."""

    class Ear(nn.Module):
        labels, sample_rate = ("a", "b", "c"), RATE

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(1, 8, 64, 16), nn.Tanh(), nn.AdaptiveAvgPool1d(4), nn.Flatten()
            )
            self.head = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(10 * x[:, None]))

    import audiopure

    torch.manual_seed(0)
    defence = DEFENCES[name].build()
    model = audiopure.defend(Ear().eval().requires_grad_(False), defence)
    clips, labels = sounds(2, 4096).float(), torch.tensor([0, 1])
    report = audit(model, clips, labels, noise=SeededNoise(0), draws=1, directions=6, probes=2)
    declared = getattr(defence, "bpda", False)
    assert report.verdict == ("declared" if declared else "exact"), report.summary
    assert randomised(model) is (name not in FIXED)


def test_defences_are_systems_alone_and_in_sequence() -> None:
    system = load_system("low-pass,cutoff=3000+quantise,step=128+small+digits")
    outer = system.model
    assert outer.purifier.cutoff == 3000 and outer.model.purifier.step == 128  # type: ignore[union-attr]
    assert outer.model.model.purifier.n_star == 3 and system.defended  # type: ignore[union-attr]
    assert outer(sounds(1, 16_000).float(), noise=SeededNoise(0)).shape == (1, 10)  # type: ignore[operator]
    for spec, message in (
        ("low-pass,order=3+digits", "no setting order; it has: cutoff, stop"),
        ("quantise,step=loud+digits", "a whole number"),
        ("low-pass,cutoff=9000+digits", "between 0 and 8000"),
        ("average,width=4+digits", "odd"),
        ("mp3,codec=opus+digits", "no setting codec"),
        ("downsample,rate=20000+digits", "between 0 and 16000"),
        ("white-noise,snr=-10000+digits", "between -100 and 200"),
        ("masked-noise,factor=400+digits", "between -6 and 6"),
    ):
        with pytest.raises(InputError, match=message):
            load_system(spec)
    assert math.isclose(load_system("white-noise,snr=20+digits").model.purifier.snr, 20)  # type: ignore[union-attr]
