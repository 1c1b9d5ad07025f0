"""Distances of an attacked clip: the libraries' numbers where they are defined, None elsewhere, never NaN."""

from __future__ import annotations

import math
import sys
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path

import pystoi
import pytest
import torch
from scipy.signal import resample_poly
from torch import Tensor

from audiopure import audio
from audiopure.errors import InputError, MissingExtraError
from audiopure.evaluation.quality import KEYS, distances, pesq, stoi

RATE = 16_000
# built from source where it is installed, which takes a compiler
needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="pesq is not installed")
CLIP = Path(str(resources.files("audiopure") / "assets" / "clips" / "zero" / "af_alloy.flac"))


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return audio.read(CLIP)[0][0]


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(0))


def test_an_unchanged_clip(speech: Tensor) -> None:
    found = distances(speech, speech.clone(), RATE)
    assert tuple(found) == KEYS
    assert found["snr"] is None
    assert found["l2"] == found["linf"] == found["above_mask"] == 0
    assert found["stoi"] == pytest.approx(1, abs=1e-6)


def test_more_noise_is_worse_in_every_measure(speech: Tensor) -> None:
    rows = [
        distances(speech, speech + level * noise(len(speech)), RATE) for level in (0.0005, 0.003, 0.02, 0.1)
    ]
    for key in KEYS:
        values = [row[key] for row in rows]
        if key == "pesq" and find_spec("pesq") is None:
            assert values == [None] * len(rows)
            continue
        falls = key in ("snr", "stoi", "pesq")
        ordered = sorted(values, key=lambda value: value if value is not None else math.nan, reverse=falls)
        assert values == ordered and len(set(values)) == len(rows), key


def test_the_simple_measures_are_their_definitions(speech: Tensor) -> None:
    change = 0.01 * noise(len(speech))
    found, x, d = distances(speech, speech + change, RATE), speech.double(), change.double()
    assert found["l2"] == pytest.approx(float(d.square().sum().sqrt()), rel=1e-5)
    assert found["linf"] == pytest.approx(float(d.abs().max()), rel=1e-5)
    assert found["snr"] == pytest.approx(
        float(10 * torch.log10(x.square().sum() / d.square().sum())), rel=1e-4
    )


def test_they_are_the_libraries_numbers(speech: Tensor) -> None:
    other = speech + 0.01 * noise(len(speech))
    x, y = (clip.double().numpy() for clip in (speech, other))
    found = distances(speech, other, RATE)
    assert found["stoi"] == stoi(speech, other, RATE) == float(pystoi.stoi(x, y, RATE))
    # the reference comes first: the measure is not symmetric
    assert stoi(other, speech, RATE) != found["stoi"]


@needs_pesq
def test_pesq_is_the_librarys_number(speech: Tensor) -> None:
    other = speech + 0.01 * noise(len(speech))
    x, y = (clip.double().numpy() for clip in (speech, other))
    found = distances(speech, other, RATE)["pesq"]
    assert found == pesq(speech, other, RATE) == float(import_module("pesq").pesq(RATE, x, y, "wb"))
    assert pesq(other, speech, RATE) != found
    assert pesq(speech, speech.clone(), RATE) == pytest.approx(4.64, abs=0.01)  # the top of P.862.2's scale
    quarter = speech[4000:8000]  # the least that has one
    assert distances(quarter, quarter + 0.001 * noise(4000), RATE)["pesq"] is not None


@needs_pesq
def test_pesq_of_another_rate_is_that_of_the_resampled_clip(speech: Tensor) -> None:
    other = speech + 0.01 * noise(len(speech))
    x, y = (torch.from_numpy(resample_poly(clip.double().numpy(), 2, 1)) for clip in (speech, other))
    assert pesq(x, y, 2 * RATE) == pytest.approx(pesq(speech, other, RATE), abs=0.05)


@pytest.mark.parametrize("length", [1, 100, 3999, 4000, 6559, 6560, 16_000])
def test_short_silent_and_speechless_clips_have_no_nan(speech: Tensor, length: int) -> None:
    cut = speech[4000 : 4000 + length]
    for clean in (cut, torch.zeros(length), torch.full((length,), 0.01), 1e-9 * cut, cut.double()):
        for other in (clean, torch.zeros_like(clean), clean + 0.001 * noise(length)[: len(clean)]):
            found = distances(clean, other, RATE)
            assert all(value is None or math.isfinite(value) for value in found.values())
            if not clean.any():
                assert found["snr"] is found["above_mask"] is found["stoi"] is found["pesq"] is None
            if len(clean) < 4000:
                assert found["pesq"] is None
            if len(clean) < 6560:
                assert found["stoi"] is None
            assert found["l2"] is not None and found["linf"] is not None


def test_sound_of_the_least_length_has_its_stoi() -> None:
    voiced = 0.3 * torch.sin(torch.arange(6560) * 0.1)
    assert distances(voiced, voiced + 0.001 * noise(6560), RATE)["stoi"] is not None


def test_a_short_word_in_a_long_silence_has_no_stoi(speech: Tensor) -> None:
    word = torch.zeros(RATE)
    word[8000:9600] = speech[5000:6600]
    other = word + 1e-4 * noise(RATE)
    with pytest.warns(RuntimeWarning, match="Not enough STFT frames"):
        assert pystoi.stoi(word.numpy(), other.numpy(), RATE) == 1e-5  # which is no intelligibility
    assert stoi(word, other, RATE) is None


@needs_pesq
def test_pesq_has_nothing_to_say_of_long_clips() -> None:
    """Fifty bursts overrun a buffer of the library and end the process."""
    time = torch.arange(30 * RATE) / RATE
    bursts = 0.3 * torch.sin(1885 * time) * ((time % 0.5) < 0.25)
    assert pesq(bursts, bursts + 0.001 * noise(len(bursts)), RATE) is None
    # as many as fit within the limit are fine
    shorter = bursts[: 20 * RATE]
    assert pesq(shorter, shorter + 0.001 * noise(len(shorter)), RATE) is not None


def test_the_masking_threshold_needs_a_rate(speech: Tensor) -> None:
    found = distances(speech, speech + 0.01 * noise(len(speech)), 2000)
    assert found["above_mask"] is None and found["snr"] is not None and found["stoi"] is not None


def test_without_the_libraries(speech: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    other = speech + 0.01 * noise(len(speech))
    monkeypatch.setitem(sys.modules, "pystoi", None)
    monkeypatch.setitem(sys.modules, "pesq", None)
    for measure, name in ((stoi, "pystoi"), (pesq, "pesq")):
        with pytest.raises(MissingExtraError, match=rf"{name}: pip install 'audiopure\[quality\]'"):
            measure(speech, other, RATE)
    found = distances(speech, other, RATE)
    assert found["stoi"] is found["pesq"] is None
    assert found["snr"] is not None and found["above_mask"] is not None


def test_what_is_no_pair_of_clips_is_refused(speech: Tensor) -> None:
    broken = speech.clone()
    broken[3] = math.nan
    for clean, other in (
        (speech, speech[1:]),
        (speech[None], speech[None]),
        (speech, broken),
        (broken, speech),
        (speech[:0], speech[:0]),
    ):
        with pytest.raises(InputError):
            distances(clean, other, RATE)
