"""The speaker encoder of others and what names speakers by it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError, WeightsError, audio
from audiopure.certification.bases import OneShot, Plain
from audiopure.certification.draws import Draws
from audiopure.certification.embeddings import embed, verify
from audiopure.data import load_dataset
from audiopure.evaluation.certified import words
from audiopure.evaluation.certified.settings import CertifySettings, smoothed
from audiopure.evaluation.clips import item_of
from audiopure.nets.resemblyzer import LAYERS, SpeakerEncoder, load_resemblyzer, part_starts
from audiopure.speakers import Identifier, enrolled
from audiopure.systems import load_system


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file in the published format, with weights of no use."""
    torch.manual_seed(0)
    state = SpeakerEncoder().state_dict()
    extra = {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": state | extra}, tmp_path / "pretrained.pt")
    return tmp_path / "pretrained.pt"


def sounds(count: int, length: int) -> Tensor:
    return 0.1 * torch.randn(count, length, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [1, 4000, 25_600, 51_200, 60_000])
def test_embeddings_have_length_1_and_a_gradient(checkpoint: Path, length: int) -> None:
    encoder, clips = load_resemblyzer(checkpoint), sounds(2, length).requires_grad_()
    found = encoder(clips)
    assert found.shape == (2, 256) and torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)
    (gradient,) = torch.autograd.grad(found[:, :50].sum(), clips)
    assert torch.isfinite(gradient).all()


def test_parts_are_those_of_the_package() -> None:
    """Read off `VoiceEncoder.compute_partial_slices` of resemblyzer 0.1.4."""
    known = {8000: 1, 25_600: 1, 30_000: 1, 40_000: 2, 51_200: 3, 70_000: 5}
    assert {n: len(part_starts(n)) for n in known} == known and part_starts(51_200) == [0, 77, 154]


def test_volume_is_raised_and_never_lowered(checkpoint: Path) -> None:
    encoder, clip = load_resemblyzer(checkpoint), sounds(1, 30_000)
    quiet = encoder(0.01 * clip)
    torch.testing.assert_close(quiet, encoder(0.02 * clip), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(encoder(clip), encoder(2 * clip), atol=1e-4)


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="needs the package resemblyzer")
def test_the_published_weights_load() -> None:
    encoder = load_resemblyzer()
    assert encoder.lstm.num_layers == LAYERS and not encoder.training
    assert float(encoder(sounds(1, 30_000))[0].max()) > 0


def test_other_files_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)
    broken = {
        "none.pt": None,
        "text.pt": b"not a checkpoint",
        "other.pt": {"model_state": {"lstm.weight_ih_l0": torch.zeros(2)}},
        "bare.pt": stored["model_state"],
    }
    for name, content in broken.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match=name):
            load_resemblyzer(tmp_path / name)


class Pitch(nn.Module):
    """An encoder that tells low from high: the share of zero crossings, as an angle."""

    sample_rate = 16_000

    def forward(self, x: Tensor) -> Tensor:
        share = (x[:, 1:].sign() != x[:, :-1].sign()).float().mean(1) * 3
        return torch.stack([share.cos(), share.sin()], 1)


def tone(hz: float) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(16_000) / 16_000)


def test_the_nearest_voice_is_named(tmp_path: Path) -> None:
    for name, pitches in {"ada": (200, 230), "ben": (900, 950), "cyd": (3000, 3100)}.items():
        (tmp_path / name).mkdir()
        for hz in pitches:
            audio.write(tmp_path / name / f"{hz}.wav", tone(hz), 16_000)
    identifier = enrolled(Pitch(), tmp_path)
    heard = identifier(torch.stack([tone(210), tone(1000), tone(2900)])).argmax(1)
    assert identifier.labels == ("ada", "ben", "cyd") and heard.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="two speakers"):
        Identifier(Pitch(), torch.ones(1, 2), ["ada"])


def test_a_system_of_enrolled_voices(tmp_path: Path, checkpoint: Path) -> None:
    for name in ("ada", "ben"):
        (tmp_path / "voices" / name).mkdir(parents=True)
        audio.write(tmp_path / "voices" / name / "a.wav", tone(200 + 300 * len(name)), 16_000)
    system = load_system(f"small+resemblyzer,enrol={tmp_path / 'voices'},path={checkpoint}")
    assert system.labels == ("ada", "ben") and system.sample_rate == 16_000 and system.defended
    with pytest.raises(InputError, match="enrol=FOLDER"):
        load_system("resemblyzer")


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    for name, hz in (("ada", 300), ("ben", 1200), ("cyd", 2400)):
        (tmp_path / "voices" / name).mkdir(parents=True)
        audio.write(tmp_path / "voices" / name / "a.wav", tone(hz), 16_000)
    return tmp_path / "voices"


def test_enrolled_voices_are_certified_by_the_mean_embedding(voices: Path) -> None:
    settings: dict[str, Any] = {"n": 2000, "sigma": 0.01, "certificate": "embedding"}
    for precision in ("fp32", "bf16"):
        record = audiopure.certify(enrolled(Pitch(), voices), voices, precision=precision, **settings)
        assert [clip.answer for clip in record.clips] == [clip.label for clip in record.clips]
        assert all(0 < clip.radius < 0.1 and sum(clip.counts.values()) == 2000 for clip in record.clips)
    assert "mean embedding" in " ".join(words.notes(record))


def test_claims_are_certified_for_the_speaker_and_against_all_others(voices: Path, tmp_path: Path) -> None:
    identifier = enrolled(Pitch(), voices)
    settings: dict[str, Any] = {"n": 4000, "sigma": 0.01, "certificate": "claim", "claim": "ben"}
    record = audiopure.certify(identifier, voices, output=tmp_path / "out", threshold=0.97, **settings)
    assert record.labels == ["accept", "reject"] and record.draws == 3 * 4000
    assert [clip.label for clip in record.clips].count("accept") == 1
    centroid = identifier.centroids[1].double().numpy()
    dataset = load_dataset(voices)
    for clip in record.clips:
        (source,) = (one for one in dataset if one.id == clip.id)
        assert clip.label == ("accept" if source.label == "ben" else "reject")
        x = dataset.load(source, 16_000)
        noisy = x + 0.01 * Draws(0, item_of(clip.id), "estimate").normal(0, 4000, (16_000,))
        cosines = embed(Pitch(), noisy) @ (centroid / np.linalg.norm(centroid))
        by_hand = verify(cosines, 0.97, 0.01)
        assert clip.answer == by_hand.decision == clip.label
        assert clip.radius == pytest.approx(by_hand.radius, rel=1e-9) and clip.radius > 0
        assert clip.counts.get("accept", 0) == int((cosines >= 0.97).sum())
    assert "claim to be ben" in " ".join(words.notes(record))


@pytest.mark.parametrize(
    "wrong",
    [
        {"certificate": "claim"},
        {"certificate": "claim", "claim": "ben"},
        {"claim": "ben", "threshold": 0.5},
        {"threshold": 0.5},
        {"certificate": "embedding", "threshold": 0.5},
        {"certificate": "claim", "claim": "dan", "threshold": 0.5},
        {"certificate": "claim", "claim": "ben", "threshold": 1.0},
        {"certificate": "claim", "claim": "ben", "threshold": 0.5, "noise": "laplace"},
    ],
)
def test_claims_that_cannot_be_are_refused(wrong: dict[str, Any], voices: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"go together|not enrolled|threshold|Gaussian"):
        audiopure.certify(enrolled(Pitch(), voices), voices, output=tmp_path / "out", n=50, **wrong)
    assert not (tmp_path / "out").exists()


def test_the_mean_embedding_is_that_of_what_the_purifier_leaves(voices: Path, checkpoint: Path) -> None:
    system = load_system(f"small+resemblyzer,enrol={voices},path={checkpoint}")
    settings = CertifySettings(system=system.spec, certificate="embedding")
    base = smoothed(settings, system).base
    assert isinstance(base, OneShot) and base.recogniser is system.undefended.encoder
    alone = smoothed(settings.model_copy(update={"denoise": "none"}), system).base
    assert isinstance(alone, Plain) and alone.recogniser is system.undefended.encoder


def test_where_there_is_no_mean_embedding_to_certify_nothing_is_begun(
    voices: Path, checkpoint: Path, tmp_path: Path
) -> None:
    system = f"resemblyzer,enrol={voices},path={checkpoint}"
    for wrong, message in (
        ({"denoise": "as-is"}, "mean embedding is that of noisy waveforms"),
        ({"object": "log-mel"}, "mean embedding is that of noisy waveforms"),
        ({"noise": "laplace"}, "needs Gaussian noise"),
        ({"n": 1}, "needs draws"),
    ):
        with pytest.raises(InputError, match=message):
            given: dict[str, Any] = {"certificate": "embedding", "n": 50, **wrong}
            audiopure.certify(system, voices, output=tmp_path / "out", **given)
        assert not (tmp_path / "out").exists()
