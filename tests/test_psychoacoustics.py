"""The masking threshold against closed forms, a tone's neighbours, and a slow account of the paper's text."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from audiopure import InputError
from audiopure.noise import SeededNoise
from audiopure.psychoacoustics import (
    bark,
    distance_above_mask,
    excess,
    hearing_threshold,
    masking_threshold,
    relative_psd,
    share_above_mask,
)


def tone(hz: float, amplitude: float, *, rate: int = 16_000, faded: bool = False) -> Tensor:
    """One second; faded it has no ends that click."""
    time = torch.arange(rate, dtype=torch.float64) / rate
    envelope = torch.hann_window(rate, dtype=torch.float64) if faded else 1.0
    return (amplitude * envelope * torch.sin(2 * math.pi * hz * time))[None]


def speechlike(batch: int = 2, length: int = 9_000) -> Tensor:
    """Modulated harmonics in pink-like noise, with a pause: many maskers, and few."""
    time = torch.arange(length, dtype=torch.float64) / 16_000
    x = torch.stack([torch.sin(2 * math.pi * k * 137.3 * time) / k for k in range(1, 40)]).sum(0)
    x = x * (torch.sin(2 * math.pi * 3 * time).clamp(min=0) + 1e-4)
    z = SeededNoise(3).normal((batch, length), draw=0, dtype=torch.float64)
    noise = torch.from_numpy(np.asarray(scipy.signal.lfilter([1.0], [1, -0.9], z.numpy())))
    return 0.05 * x + 0.003 * noise


def slow_threshold(clip: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Appendix of Qin et al., bin by bin. Returns power (frames, bins) and the maximal density."""
    hop = round(0.032 * rate)
    size = 4 * hop
    padded = np.concatenate([np.zeros(2 * hop), clip, np.zeros(2 * hop)])
    window = scipy.signal.get_window("hann", size)
    rows = [padded[i * hop : i * hop + size] for i in range(1 + len(clip) // hop)]
    psd = np.array([(np.sqrt(8 / 3) * np.abs(np.fft.rfft(row * window)) / size) ** 2 for row in rows])
    largest = psd.max()
    psd = psd / largest * 10**9.6
    hz = np.fft.rfftfreq(size, 1 / rate)
    z = 13 * np.arctan(0.00076 * hz) + 3.5 * np.arctan((hz / 7500) ** 2)
    khz = np.clip(hz, 20, 20_000) / 1000
    quiet = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 0.001 * khz**4 - 12
    out = []
    for frame in psd:
        maskers = {}
        for k in range(1, len(frame) - 1):
            level = 10 * np.log10(frame[k - 1 : k + 2].sum())
            if frame[k] > frame[k - 1] and frame[k] > frame[k + 1] and level > quiet[k]:
                maskers[k] = level
        kept = {
            k: p
            for k, p in maskers.items()
            if all(p >= q for j, q in maskers.items() if abs(z[j] - z[k]) < 0.5)
        }
        total = 10 ** (quiet / 10)
        for k, p in kept.items():
            for i in range(len(frame)):
                dz = z[i] - z[k]
                spread = 27 * dz if dz <= 0 else (-27 + 0.37 * max(p - 40, 0)) * dz
                total[i] += 10 ** ((p - 6.025 - 0.275 * z[k] + spread) / 10)
        out.append(total)
    return np.array(out), largest


def test_bark_and_the_threshold_of_hearing_have_their_known_values() -> None:
    # Zwicker's table: band edges 1, 2, 4, 8, 13, 17, 20, 22 Bark
    edges = torch.tensor([100.0, 200, 400, 920, 2000, 3700, 6400, 9500], dtype=torch.float64)
    known = torch.tensor([1.0, 2, 4, 8, 13, 17, 20, 22], dtype=torch.float64)
    assert (bark(edges) - known).abs().max() < 0.25
    # Terhardt's formula less 12 dB, by hand
    expected = {1000.0: 3.64 - 6.5 * math.exp(-0.6 * 2.3**2) + 0.001 - 12, 3300.0: -17.0}
    expected[3300.0] = 3.64 * 3.3**-0.8 - 6.5 + 0.001 * 3.3**4 - 12
    for hz, level in expected.items():
        assert float(hearing_threshold(torch.tensor(hz, dtype=torch.float64))) == pytest.approx(
            level, abs=1e-9
        )
    hz = torch.tensor([0.0, 20.0, 20_000.0, 24_000.0])
    quiet = hearing_threshold(hz)
    assert quiet[0] == quiet[1] and quiet[2] == quiet[3] and torch.isfinite(quiet).all()
    # the ear is most sensitive between 3 and 4 kHz
    sweep = torch.linspace(20, 16_000, 4000)
    assert 3000 < float(sweep[hearing_threshold(sweep).argmin()]) < 4000


@pytest.mark.parametrize("rate", [16_000, 11_025])
def test_the_threshold_is_that_of_the_papers_text(rate: int) -> None:
    x = speechlike(2, 5_000)
    masking = masking_threshold(x, rate)
    for row in range(2):
        expected, largest = slow_threshold(x[row].numpy(), rate)
        assert masking.psd_max[row].item() == pytest.approx(largest, rel=1e-9)
        np.testing.assert_allclose(masking.threshold[row].numpy(), expected, rtol=1e-8)


def test_in_float32_it_is_the_same_to_a_tenth_of_a_decibel_in_nearly_all_bins() -> None:
    x = speechlike()
    exact, single = masking_threshold(x, 16_000), masking_threshold(x.float(), 16_000)
    assert single.threshold.dtype == torch.float32
    apart = 10 * torch.log10(single.threshold.double() / exact.threshold)
    assert (apart.abs() < 0.1).double().mean() > 0.99


def test_a_tone_masks_a_weaker_neighbour_but_not_a_distant_or_strong_one() -> None:
    masker = tone(1000, 0.3, faded=True)

    def above(hz: float, amplitude: float) -> float:
        return float(distance_above_mask(masker, masker + tone(hz, amplitude, faded=True), 16_000))

    for hz in (950.0, 1000.0, 1050.0, 1200.0):
        assert above(hz, 0.003) == 0 < above(hz, 0.3)
    for hz in (300.0, 4000.0):
        assert above(hz, 0.003) > 0.1
    # upwards masking reaches farther than downwards
    threshold = masking_threshold(masker, 16_000).threshold[0, 10]
    assert threshold[180] > 10 * threshold[90]


def test_the_level_of_a_masked_tone_is_the_formulas() -> None:
    """A tone alone: its masker has 96 dB plus the Hann window's two side bins, half the amplitude each."""
    threshold = masking_threshold(tone(1000, 0.5), 16_000).threshold[0, 10]
    z = float(bark(torch.tensor(1000.0, dtype=torch.float64)))
    level = 96 + 10 * math.log10(1.5)
    assert 10 * math.log10(threshold[128]) == pytest.approx(level - 6.025 - 0.275 * z, abs=0.05)
    up = float(bark(torch.tensor(2000.0, dtype=torch.float64)) - z)
    slope = -27 + 0.37 * (level - 40)
    expected = level - 6.025 - 0.275 * z + slope * up
    assert 10 * math.log10(threshold[256]) == pytest.approx(expected, abs=0.1)


def test_levels_are_relative_to_the_clip() -> None:
    x, change = speechlike(), speechlike().flip(1) * 0.01
    loud, quiet = masking_threshold(x, 16_000), masking_threshold(x / 8, 16_000)
    torch.testing.assert_close(loud.threshold, quiet.threshold)
    torch.testing.assert_close(loud.psd_max, 64 * quiet.psd_max)
    torch.testing.assert_close(excess(change, loud), excess(change / 8, quiet))
    assert float(relative_psd(x, loud).amax()) == pytest.approx(10**9.6)


def test_frames_last_as_long_at_every_rate() -> None:
    coarse = masking_threshold(tone(1000, 0.3, rate=8_000), 8_000)
    fine = masking_threshold(tone(1000, 0.3, rate=48_000), 48_000)
    assert coarse.threshold.shape[:2] == fine.threshold.shape[:2] == (1, 32)
    low = 10 * torch.log10(fine.threshold[0, 10, :500] / coarse.threshold[0, 10, :500])
    assert low.abs().max() < 0.5


def test_excess_has_the_gradient_of_finite_differences() -> None:
    x = speechlike(2, 3_000)
    lengths = torch.tensor([3_000, 2_000])
    masking = masking_threshold(x, 16_000, lengths)
    delta = 1e-3 * SeededNoise(7).normal((2, 3_000), draw=0, dtype=torch.float64)
    delta.requires_grad_()
    value = excess(delta, masking)
    assert (value > 0).all()
    (gradient,) = torch.autograd.grad(value.sum(), delta)
    assert not gradient[1, 2_000:].any()
    direction = SeededNoise(8).normal((2, 3_000), draw=0, dtype=torch.float64)
    step = 1e-8
    difference = (
        (excess(delta + step * direction, masking) - excess(delta - step * direction, masking)).sum().detach()
    )
    assert float(difference) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_a_clips_threshold_ignores_padding_and_its_neighbours() -> None:
    x = speechlike(3, 9_000)
    lengths = torch.tensor([9_000, 5_000, 700])
    padded = masking_threshold(x, 16_000, lengths)
    change = 1e-3 * SeededNoise(1).normal((3, 9_000), draw=0, dtype=torch.float64)
    far = distance_above_mask(x, x + change, 16_000, lengths)
    share = share_above_mask(x, x + change, 16_000, lengths)
    for row, length in enumerate(lengths.tolist()):
        one, other = x[row : row + 1, :length], (x + change)[row : row + 1, :length]
        alone = masking_threshold(one, 16_000)
        frames = alone.threshold.shape[1]
        assert int(padded.inside[row].sum()) == frames == 1 + length // 512
        torch.testing.assert_close(padded.threshold[row, :frames], alone.threshold[0])
        torch.testing.assert_close(far[row], distance_above_mask(one, other, 16_000)[0])
        torch.testing.assert_close(share[row], share_above_mask(one, other, 16_000)[0])
    picked = padded.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(excess(change[[2, 0]], picked), excess(change, padded)[[2, 0]])


def test_distance_is_zero_for_no_change_and_grows_with_it() -> None:
    x = speechlike().float()
    noise = SeededNoise(2).normal((2, 9_000), draw=0)
    assert not distance_above_mask(x, x, 16_000).any() and not share_above_mask(x, x, 16_000).any()
    levels = [distance_above_mask(x, x + 10.0**e * noise, 16_000) for e in (-6, -4, -2, -1)]
    assert all((b > a).all() for a, b in pairwise(levels))
    # 20 dB more of what is above the mask in most bins
    assert (levels[3] - levels[2] > 10).all() and (levels[3] - levels[2] <= 20).all()
    silence = torch.zeros(1, 4_000)
    assert torch.isfinite(distance_above_mask(silence, silence + 0.1 * noise[:1, :4_000], 16_000)).all()
    assert not distance_above_mask(silence, silence, 16_000).any()


def test_bad_input_is_named() -> None:
    x = speechlike().float()
    with pytest.raises(InputError, match="waveforms"):
        masking_threshold(x[0], 16_000)
    with pytest.raises(InputError, match="4000"):
        masking_threshold(x, 2_000)
    with pytest.raises(InputError, match="finite"):
        masking_threshold(x * torch.nan, 16_000)
    with pytest.raises(InputError, match="shapes"):
        distance_above_mask(x, x[:, 1:], 16_000)
    with pytest.raises(InputError, match="fit"):
        excess(x[:, :4_000], masking_threshold(x, 16_000))
