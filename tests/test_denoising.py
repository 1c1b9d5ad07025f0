"""The denoising and harm tables: that every method is judged on the same noise, fairly and as documented."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiopure.diffusion.denoiser import GaussianDenoiser
from audiopure.errors import InputError
from audiopure.evaluation.studies.denoising import (
    LEAST_DB,
    NoisySet,
    Tuned,
    compare,
    sample_clips,
    summarise,
    tuning_clips,
)
from audiopure.evaluation.studies.harm import clip_hard, harm, synthesise_music
from audiopure.evaluation.studies.wiener import DecisionDirectedWiener, NoiseReduce
from audiopure.level import SpeechLevel
from audiopure.purifier import Purifier


def tones(*lengths: int) -> list[torch.Tensor]:
    return [0.3 * torch.sin(torch.arange(n) * 0.05 * (k + 1)) for k, n in enumerate(lengths)]


def test_noise_has_the_stated_level_and_stays_inside_each_clip() -> None:
    noisy = NoisySet.make(tones(*range(3_000, 23_000, 1_000)), 0.1)
    seen = []
    for clean, signal, lengths in noisy.batches:
        for row, reference, count in zip(signal, clean, lengths.tolist(), strict=True):
            assert not row[count:].any()
            seen.append((row - reference)[:count])
    assert len(seen) == 20
    assert torch.cat(seen).std().item() == pytest.approx(0.1, rel=0.01)
    overlap = torch.stack([piece[:3_000] for piece in seen]) @ seen[0][:3_000]
    assert overlap[1:].abs().max() < 0.2 * overlap[0]


def test_noise_of_a_clip_does_not_depend_on_the_others() -> None:
    clips = tones(5_000, 4_000, 3_000)
    alone = NoisySet.make(clips[:1], 0.1).batches[0][1][0]
    together = NoisySet.make(clips, 0.1).batches[0][1][2]
    torch.testing.assert_close(together, alone)


def test_score_of_the_noisy_clips_is_the_signal_to_noise_ratio() -> None:
    clip = tones(160_000)[0]
    score = NoisySet.make([clip], 0.05).score(None).item()
    assert score == pytest.approx(20 * math.log10(clip.square().mean().sqrt().item() / 0.05), abs=0.1)


def test_an_estimate_of_nothing_counts_as_the_least() -> None:
    noisy = NoisySet.make(tones(4_000), 0.1)
    assert noisy.score(lambda x, sigma, lengths: torch.zeros_like(x)).item() == LEAST_DB


def test_compare_names_the_winner_and_its_margin() -> None:
    clips = tones(8_000, 9_000)
    noisy = NoisySet.make(clips, 0.1)
    truth = {tuple(noisy[0, :5].tolist()): clean for clean, noisy, _ in noisy.batches}

    def oracle(x: torch.Tensor, sigma: float, lengths: torch.Tensor | None) -> torch.Tensor:
        return truth[tuple(x[0, :5].tolist())] + 1e-3 * torch.cos(torch.arange(x.shape[1]) * 2.0)

    tuned = Tuned(DecisionDirectedWiener(), NoiseReduce(n_std=2))
    row = compare(noisy, tuned, oracle)
    assert row["best_mean"] == row["best_median"] == "purifier"
    assert row["clips"] == row["clips_better_than_wiener"] == 2
    assert row["margin_wiener"] == pytest.approx(row["mean"]["purifier"] - row["mean"]["wiener"], abs=0.01)
    summary = summarise([{"set": "a"} | row, {"set": "a"} | row | {"best_mean": "wiener", "sigma": 1}])
    assert summary["lost_by_mean"] == [["a", 1]] and summary["lost_by_median"] == []
    assert summary["mean_margin_over_wiener"]["a"] == pytest.approx(row["margin_wiener"], abs=0.01)


def test_tuned_settings_survive_json() -> None:
    tuned = Tuned(DecisionDirectedWiener(alpha=0.9), NoiseReduce(smooth_hz=None, smooth_ms=None))
    assert Tuned.from_dict(tuned.to_dict()) == tuned


def test_samples_come_from_the_right_splits(data_root) -> None:
    held_out, tuning = sample_clips("sc09", data_root, 6), tuning_clips(data_root, 6)
    assert len(held_out) == len(tuning) == 6
    assert all(clip.ndim == 1 and clip.abs().max() <= 1 for clip in held_out + tuning)
    assert not any(torch.equal(a, b) for a in held_out for b in tuning)


def test_a_set_without_its_splits_is_refused(tmp_path) -> None:
    (tmp_path / "sc09").mkdir()
    header = "path,label,speaker,split,seconds,sample_rate\n"
    (tmp_path / "sc09" / "manifest.csv").write_text(header + "a.wav,one,x,train,1,16000\n")
    with pytest.raises(InputError, match="no clips in its splits test"):
        sample_clips("sc09", tmp_path, 3)


def test_music_is_deterministic_tonal_and_within_range() -> None:
    first, again = synthesise_music(3, seconds=2), synthesise_music(3, seconds=2)
    for piece, same in zip(first, again, strict=True):
        assert torch.equal(piece, same) and len(piece) == 32_000 and 0.1 <= piece.abs().max() <= 0.8
        spectrum = np.abs(np.fft.rfft(piece.numpy())) ** 2
        flatness = np.exp(np.log(spectrum + 1e-12).mean()) / spectrum.mean()
        assert flatness < 0.2  # white noise has 0.56
    assert not torch.equal(first[0], first[1])


def test_clipping_flattens_the_peaks() -> None:
    clipped = clip_hard(tones(4_000)[0], 0.25)
    assert clipped.abs().max().item() == pytest.approx(0.9)
    assert (clipped.abs() > 0.899).float().mean() > 0.5


@pytest.mark.parametrize("level", [None, SpeechLevel(target=0.2)])
def test_harm_of_a_known_denoiser(level: SpeechLevel | None) -> None:
    """A denoiser that answers zero: purification is silence; noise only has the level eq. 9 gives it."""
    nothing = Purifier(GaussianDenoiser(torch.zeros(()), torch.zeros(())), n_star=3, level=level)
    tone = 0.2 * torch.ones(64_000) * torch.sin(torch.arange(64_000) * 0.3)
    result = harm([tone], nothing, DecisionDirectedWiener())
    rms = tone.square().mean().sqrt().item()
    sigma = nothing.sigma / (1 if level is None else 0.2 / rms)
    assert result["noise only"]["level_change_db"] == pytest.approx(
        10 * math.log10(1 + (sigma / rms) ** 2), abs=0.02
    )
    assert result["purified"]["level_change_db"] < -100 and result["purified"]["si_sdr"] < -20
    assert result["wiener"]["si_sdr"] > result["noise only"]["si_sdr"] + 10
    silent = harm([torch.zeros(8_000)], nothing, DecisionDirectedWiener())
    assert "si_sdr" not in silent["purified"] and silent["purified"]["silence_dbfs"] == pytest.approx(-160)
