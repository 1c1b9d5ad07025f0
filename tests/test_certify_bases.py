"""What is certified is what the settings name: bases, laws, certificates and precisions, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from certify_helpers import COMMON, SYSTEM, found
from evaluation_helpers import CLIPS, LABELS, Ear
from scipy import stats
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.certification.bases import LocalSmoothing, MultiStep, OneShot, Plain
from audiopure.certification.draws import Draws, Purpose
from audiopure.certification.laws import Gaussian, Laplace
from audiopure.certification.procedures import Certify, margins, votes
from audiopure.certification.scores import CHOICES, full_information
from audiopure.certification.smoothing import Sampler
from audiopure.evaluation.certified import words
from audiopure.evaluation.certified.record import ClipCertificate
from audiopure.evaluation.certified.settings import BASES, CertifySettings, smoothed
from audiopure.evaluation.clips import Clips, item_of, load_clips
from audiopure.systems import load_system


def alone(clips: Clips, clip: ClipCertificate) -> Tensor:
    """A clip as it is certified, with zeros up to a second."""
    wave = clips.waveforms[clips.ids.index(clip.id)]
    return nn.functional.pad(wave, (0, 16_000 - len(wave)))


def test_each_certificate_is_that_of_the_clip_by_itself(data: Path) -> None:
    whole, system = audiopure.certify(SYSTEM, data, **COMMON), load_system(SYSTEM)
    model = smoothed(CertifySettings.of(system=SYSTEM, **COMMON), system)
    clips = load_clips(data, system.undefended, CLIPS, 0)
    for clip in whole.clips:
        by_itself = model.certify(alone(clips, clip), Certify(n=700), seed=0, item=item_of(clip.id))
        assert clip.radius == by_itself.radius and sum(clip.counts.values()) == by_itself.n == 700
    assert any(clip.right for clip in whole.clips)
    assert whole.draws == CLIPS * 800 and whole.norm == "L2" and whole.object == "waveform at 16000 Hz"


def test_every_way_to_denoise_is_the_base_that_it_names(data: Path) -> None:
    settings: dict[str, Any] = {"sigma": 0.02, "n": 200, "limit": 3, "votes": 3, "steps": 2, "local": 0.03}
    system = load_system(SYSTEM)
    model, ear = system.model, system.undefended
    purifier: Any = model.purifier
    once = OneShot(purifier.denoiser, ear, 0.02, level=purifier.level)
    expected = {
        "none": Plain(ear),
        "one-shot": once,
        "multi-step": MultiStep(purifier.denoiser, ear, 0.02, steps=2, votes=3),
        "local": LocalSmoothing(once, count=3, local=0.03),
        "as-is": Plain(model),
    }
    clips, counts = load_clips(data, ear, 3, 0), {}
    assert set(expected) == set(BASES)
    for name, base in expected.items():
        record = audiopure.certify(SYSTEM, data, denoise=name, **settings)
        counts[name] = [clip.counts for clip in record.clips]
        for clip in record.clips:
            sampler = Sampler(base, Gaussian(0.02), alone(clips, clip), 0, item_of(clip.id))
            known = dict(zip(LABELS, sampler.sum("estimate", 0, 200, votes), strict=True))
            assert clip.counts == {label: k for label, k in known.items() if k}
        chained = "level policy" in " ".join(words.notes(record))
        assert chained == (name == "multi-step")
    assert len({str(value) for value in counts.values()}) > 3  # they do hear something else


@pytest.mark.parametrize("certificate", ["cohen", "pair", *CHOICES])
@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_every_certificate_and_law_is_that_of_its_draws(certificate: str, noise: str, data: Path) -> None:
    """From the draws by hand: votes and their exact bounds, or margins and the bound that a pilot chose."""
    settings: dict[str, Any] = {"sigma": 0.02, "n": 300, "limit": 3, "certificate": certificate}
    if noise == "laplace" and certificate in CHOICES:
        with pytest.raises(InputError, match="Gaussian"):
            audiopure.certify(SYSTEM, data, noise=noise, **settings)
        return
    record = audiopure.certify(SYSTEM, data, noise=noise, denoise="none", **settings)
    assert record.norm == {"gaussian": "L2", "laplace": "L1"}[noise]
    assert record.draws == 3 * (500 if certificate in CHOICES else 400)
    ear, law = Ear(), Gaussian(0.02) if noise == "gaussian" else Laplace(0.02 / 2**0.5)
    clips = load_clips(data, ear, 3, 0)
    for clip in record.clips:
        x = alone(clips, clip)

        def scores(purpose: Purpose, n: int, x: Tensor = x, item: int = item_of(clip.id)) -> Tensor:
            return ear(x + law.noise(Draws(0, item, purpose).normal(0, n, (16_000,))))

        guess, found = LABELS.index(clip.guess), scores("estimate", 300)
        counts = torch.bincount(found.argmax(1), minlength=3)
        assert clip.counts == {label: int(k) for label, k in zip(LABELS, counts, strict=True) if k}
        if certificate in CHOICES:
            pilot, chosen = (margins(s, guess).numpy() for s in (scores("pilot", 100), found))
            expected = full_information(certificate, pilot, chosen, 0.02, 0.001)
        else:
            alpha = 0.001 if certificate == "cohen" else 0.0005
            k = int(counts[guess])
            p = float(stats.beta.ppf(alpha, k, 301 - k)) if k else 0.0
            most = max(int(other) for label, other in enumerate(counts) if label != guess)
            q = min(1 - p, float(stats.beta.ppf(1 - alpha, most + 1, 300 - most)))
            expected = law.radius(p, q if certificate == "pair" else None)
        assert clip.radius == pytest.approx(expected, rel=1e-9)
    assert max(clip.radius for clip in record.clips) > 0


class Witness(Ear):
    """Notes in which type its products are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def forward(self, waveform: Tensor) -> Tensor:
        scores = super().forward(waveform)
        self.seen.add(scores.dtype)
        return scores


def test_bfloat16_certifies_what_runs_in_bfloat16(data: Path) -> None:
    ear, reduced = Witness(), Witness()
    exact = audiopure.certify(ear, data, **COMMON)
    record = audiopure.certify(reduced, data, precision="bf16", **COMMON)
    assert ear.seen == {torch.float32} and reduced.seen == {torch.bfloat16}
    assert "bfloat16" in " ".join(words.notes(record)) and record.settings["precision"] == "bf16"
    clips, weight = load_clips(data, ear, CLIPS, 0), reduced.weight.bfloat16()
    moved = 0
    for clip, other in zip(record.clips, exact.clips, strict=True):
        x = alone(clips, clip)
        noisy = x + 0.02 * Draws(0, item_of(clip.id), "estimate").normal(0, 700, (16_000,))
        chosen = (noisy[:, :4000].bfloat16() @ weight.T).argmax(1)
        counts = torch.bincount(chosen, minlength=3)
        known = {label: int(k) for label, k in zip(LABELS, counts, strict=True) if k}
        assert clip.counts == known and clip.n == other.n
        moved += sum(abs(clip.counts.get(label, 0) - other.counts.get(label, 0)) for label in LABELS)
    assert 0 < moved < 0.02 * 700 * CLIPS  # rounding moves a few votes


def test_decibels_are_those_of_the_clip_that_gets_the_noise(data: Path) -> None:
    """A tenth of a clip at a tenth of the noise: the same margins, not 20 dB others."""
    ear = Ear()
    whole = audiopure.certify(ear, data, **COMMON)
    tenth = audiopure.certify(Louder(), data, before="gain=0.1", **{**COMMON, "sigma": 0.002})
    pairs = [(a, b) for a, b in zip(whole.clips, tenth.clips, strict=True) if a.explained and b.explained]
    assert pairs
    for a, b in pairs:
        assert a.explained is not None and b.explained is not None
        assert b.radius == pytest.approx(a.radius / 10, rel=1e-2)
        assert b.explained.snr == pytest.approx(a.explained.snr, abs=0.1)
        assert b.explained.octaves[1000] == pytest.approx(a.explained.octaves[1000], abs=0.1)
        assert b.explained.rms == pytest.approx(a.explained.rms - 20, abs=0.1)


class Louder(Ear):
    """Undoes a gain of a tenth, after the noise."""

    def forward(self, waveform: Tensor) -> Tensor:
        return super().forward(10 * waveform)


def test_a_defence_that_is_no_purifier_is_certified_as_it_is() -> None:
    settings: dict[str, Any] = {"sigma": 0.02, "n": 100, "limit": 2}
    usual = audiopure.certify("low-pass+digits", **settings)
    assert found(usual) == found(audiopure.certify("low-pass+digits", denoise="as-is", **settings))
    with pytest.raises(InputError, match="no purifier"):
        audiopure.certify("low-pass+digits", denoise="one-shot", **settings)


def test_a_model_keeps_its_precision_and_modes() -> None:
    model = load_system("small+digits").model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    audiopure.certify(model, precision="bf16", sigma=0.02, n=100, limit=1)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])
