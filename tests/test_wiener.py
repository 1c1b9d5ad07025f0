"""The classical baselines: against a plain loop, against known signals, and clip by clip."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from audiopure.errors import MissingExtraError
from audiopure.evaluation.studies.wiener import DecisionDirectedWiener, NoiseReduce
from audiopure.metrics import si_sdr


def voiced(length: int, seed: int) -> torch.Tensor:
    """Harmonics that come and go: something a spectral filter can find. Shape: (length,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / 16_000
    tone = sum(np.sin(2 * np.pi * k * rng.uniform(100, 200) * time) / k for k in range(1, 6))
    return torch.from_numpy(0.2 * tone * (np.sin(2 * np.pi * 3 * time) > 0)).float()


def wiener_by_loops(x: np.ndarray, sigma: float, settings: DecisionDirectedWiener) -> np.ndarray:
    """Ephraim and Malah's filter, one frame and one bin at a time, with explicit overlap-add."""
    size, hop = settings.window, settings.hop
    window = np.sin(np.pi * np.arange(size) / size) ** 2
    lead = size - hop
    frames = int(np.ceil((len(x) + lead) / hop))
    padded = np.concatenate([np.zeros(lead), x, np.zeros(frames * hop + size)])
    noise = sigma**2 * (window**2).sum()
    out, weight = np.zeros(len(padded)), np.zeros(len(padded))
    amplitude = np.zeros(size // 2 + 1)  # of the clean estimate in the frame before
    for frame in range(frames):
        at = slice(frame * hop, frame * hop + size)
        spectrum = np.fft.rfft(padded[at] * window)
        for k, bin_value in enumerate(spectrum):
            instant = max(abs(bin_value) ** 2 / noise - 1, 0)
            xi = settings.alpha * amplitude[k] ** 2 / noise + (1 - settings.alpha) * instant
            xi = max(xi, 10 ** (settings.xi_min / 10))
            spectrum[k] = max(xi / (1 + xi), settings.gain_floor) * bin_value
        amplitude = np.abs(spectrum)
        out[at] += np.fft.irfft(spectrum) * window
        weight[at] += window**2
    return (out / np.maximum(weight, 1e-8))[lead : lead + len(x)]


@pytest.mark.parametrize("settings", [
    DecisionDirectedWiener(),
    DecisionDirectedWiener(alpha=0.9, xi_min=-10, window=320, hop=80),
    DecisionDirectedWiener(alpha=0.98, window=256, hop=128, gain_floor=0.1),
])  # fmt: skip
def test_equals_a_plain_loop(settings: DecisionDirectedWiener) -> None:
    x = voiced(5_000, 0).double() + 0.05 * torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    expected = wiener_by_loops(x.numpy(), 0.05, settings)
    np.testing.assert_allclose(settings(x[None], 0.05)[0].numpy(), expected, atol=1e-10)


def test_noise_alone_is_strongly_attenuated() -> None:
    noise = 0.1 * torch.randn(4, 16_000, generator=torch.Generator().manual_seed(1))
    for method in (DecisionDirectedWiener(alpha=0.98), NoiseReduce(n_std=2)):
        left = method(noise, 0.1)
        assert 20 * torch.log10(left.std() / noise.std()) < -15


@pytest.mark.parametrize("window, hop", [(512, 128), (512, 64), (320, 160), (1024, 256)])
def test_gain_of_one_reconstructs_perfectly(window: int, hop: int) -> None:
    x = torch.randn(2, 4_321, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    out = DecisionDirectedWiener(window=window, hop=hop, gain_floor=1)(x, 0.1)
    torch.testing.assert_close(out, x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", [DecisionDirectedWiener(), NoiseReduce()])
def test_a_clip_of_a_padded_batch_is_treated_as_if_alone(
    method: DecisionDirectedWiener | NoiseReduce,
) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([9_000, 6_001, 4_000])
    batch = torch.stack([voiced(9_000, k) for k in range(3)]) + 0.1 * torch.randn(
        3, 9_000, generator=generator
    )
    together = method(batch, 0.1, lengths)
    for row, clip, count in zip(together, batch, lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:count], method(clip[None, :count], 0.1)[0], atol=1e-6, rtol=0)
        assert not row[count:].any()


def test_each_item_has_its_own_sigma() -> None:
    x = voiced(8_000, 4).repeat(2, 1) + 0.05 * torch.randn(
        2, 8_000, generator=torch.Generator().manual_seed(4)
    )
    wiener = DecisionDirectedWiener()
    both = wiener(x, torch.tensor([0.05, 0.2]))
    torch.testing.assert_close(both, torch.cat([wiener(x[:1], 0.05), wiener(x[1:], 0.2)]))


def test_both_improve_voiced_sound_in_noise() -> None:
    clean = voiced(16_000, 5)[None]
    noisy = clean + 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(5))
    for method in (DecisionDirectedWiener(), NoiseReduce(n_std=2)):
        assert si_sdr(method(noisy, 0.1), clean) > si_sdr(noisy, clean) + 3


def test_noisereduce_is_called_as_its_users_call_it() -> None:
    from noisereduce import reduce_noise

    x = voiced(16_384, 6) + 0.05 * torch.randn(16_384, generator=torch.Generator().manual_seed(6))
    settings = NoiseReduce(n_std=1, prop_decrease=0.9, n_fft=512, noise_seconds=2)
    profile = 0.05 * np.random.default_rng(0).standard_normal(32_000)
    expected = reduce_noise(
        y=x.double().numpy(), sr=16_000, stationary=True, y_noise=profile, prop_decrease=0.9,
        n_std_thresh_stationary=1, n_fft=512, padding=2048,
    )  # fmt: skip
    np.testing.assert_allclose(settings(x[None], 0.05)[0].numpy(), expected, atol=1e-6)


def test_missing_noisereduce_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "noisereduce", None)
    with pytest.raises(MissingExtraError, match=r"audiopure\[tables\]"):
        NoiseReduce()(torch.zeros(1, 1000), 0.1)


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"hop": 100}, {"hop": 512}, {"gain_floor": -1}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1|does not divide"):
        DecisionDirectedWiener(**wrong)
