"""Certifications of whole sets: their records and reports, what they cost, and what they refuse."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from certify_helpers import COMMON, SYSTEM, found, run_cli
from evaluation_helpers import CLIPS, Ear
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.certification.laws import Response, Shaped
from audiopure.certification.representations import Magnitude
from audiopure.certification.units import audibility, meaning, octave_levels
from audiopure.evaluation.certified import run, tallies, words
from audiopure.evaluation.certified.record import Certificates, curve
from audiopure.evaluation.certified.report import render
from audiopure.evaluation.clips import load_clips
from audiopure.systems import load_system


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "BLOCK", 100)


def test_early_stopping_draws_less_and_certifies_alike(data: Path, certificates: Certificates) -> None:
    quick = audiopure.certify(SYSTEM, data, tolerance=0.8, **COMMON)
    assert quick.draws < certificates.draws
    for one, other in zip(quick.clips, certificates.clips, strict=True):
        assert one.answer in (other.answer, None) and one.radius > other.radius - 0.9 * 0.02


@pytest.mark.parametrize("name", ["spectrogram", "filterbank", "log-mel"])
def test_objects_of_a_recogniser_are_named_in_the_record(name: str) -> None:
    record = audiopure.certify("digits", object=name, sigma=0.5, n=100, limit=2)
    assert record.object == name and record.unit != "full scale"
    assert all(clip.explained is None for clip in record.clips)
    for clip in record.clips:
        assert ("waveform L2" in clip.implied) == (name == "spectrogram")
    if name == "spectrogram":
        recogniser = load_system("digits").undefended
        for noise, key in (("gaussian", None), ("laplace", "L2")):
            record = audiopure.certify("digits", object=name, sigma=0.5, n=100, limit=2, noise=noise)
            for clip in record.clips:
                l2 = clip.implied[key] if key else clip.radius
                assert clip.implied["waveform L2"] == Magnitude(recogniser).waveform_radius(l2)
            assert any(clip.radius > 0 for clip in record.clips)
            assert "For the waveform that means" in " ".join(words.verdict(record))


def test_noise_of_a_shape_certifies_more_where_it_is_strong() -> None:
    both = [
        audiopure.certify("digits", noise="shaped", shape=shape, sigma=0.05, n=200, limit=2)
        for shape in ("0:0,8000:0", "0:0,3000:0,6000:-20,8000:-20")
    ]
    level, falling = both
    assert falling.norm == "L2 of H^-1 delta" and "0:0,3000:0,6000:-20" in " ".join(words.notes(falling))
    white = audiopure.certify("digits", sigma=0.05, n=200, limit=2)
    assert any(clip.radius > 0 for clip in falling.clips)
    for flat, plain in zip(level.clips, white.clips, strict=True):
        assert flat.radius == plain.radius == pytest.approx(flat.implied.get("L2"))
        assert (flat.explained is None) == (plain.explained is None)
        if flat.explained is not None and plain.explained is not None:
            assert flat.explained.octaves == pytest.approx(plain.explained.octaves)
    gains = Shaped(0.05, Response.of("0:0,3000:0,6000:-20,8000:-20", 16_000)).gains(16_000)
    clips = load_clips(None, load_system("digits").undefended, 2, 0)
    verdict = " ".join(words.verdict(falling))
    assert "of some shapes louder ones" in verdict and "whatever their shape" in " ".join(
        words.verdict(white)
    )
    for clip in falling.clips:
        if clip.explained is not None:
            assert clip.implied["L2"] < clip.radius / 5
            # one is about the largest certified change, the other about changes of any shape
            mask = audibility(clips.waveforms[clips.ids.index(clip.id)], 16_000)
            assert mask is not None
            for told, size, limit in (
                (clip.explained.noticeable, clip.radius * gains.max(), mask.smallest),
                (clip.explained.inaudible, clip.implied["L2"], mask.largest),
            ):
                assert told == pytest.approx(20 * math.log10(size / limit))
            energy = octave_levels(clips.waveforms[clips.ids.index(clip.id)], 16_000)
            reach = {hz: energy[hz] / 10 ** (db / 20) for hz, db in clip.explained.octaves.items()}
            assert reach[500] == pytest.approx(reach[1000])
            assert reach[500] > clip.radius > 5 * reach[8000]


class Two(Ear):
    """Names three labels and scores two."""

    def forward(self, waveform: Tensor) -> Tensor:
        return super().forward(waveform)[:, :2]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"denoise": "wiener"}, "there are: none, one-shot"),
        ({"object": "log-mel"}, "only its waveform"),
        ({"object": "cepstrum"}, "waveform, spectrogram"),
        ({"before": "peak"}, "cannot come before the noise"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"alpha": 2.0}, "alpha"),
        ({"alpha": 1e-300}, "alpha"),
        ({"n": 10**14}, "n"),
        ({"certificate": "best"}, "certificate"),
        ({"noise": "uniform"}, "noise"),
        ({"noise": "shaped"}, "needs a shape"),
        ({"shape": "0:0,8000:-6"}, "no other noise has one"),
        ({"noise": "shaped", "shape": "0:0"}, "two points or more"),
        ({"noise": "shaped", "shape": "0:0,8000:-6", "certificate": "kl"}, "needs Gaussian noise"),
        ({"certificate": "kl", "tolerance": 0.1}, "can stop early"),
        ({"denoise": "multi-step", "sigma": 100.0}, "sigma must lie"),
        ({"denoise": "multi-step", "certificate": "kl"}, "multi-step counts votes"),
        ({"denoise": "local", "certificate": "renyi"}, "local counts votes"),
        ({"certificate": "embedding"}, "enrolled speakers"),
        ({"rows": 0}, "rows"),
        ({"shard": (9, 9)}, "there are 6 clips"),
    ],
)
def test_settings_that_cannot_be_are_refused(data: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audiopure.certify(SYSTEM, data, **{**COMMON, **settings})


def test_a_defence_of_the_waveform_is_not_dropped_unsaid() -> None:
    common: dict[str, Any] = {"object": "log-mel", "n": 100, "limit": 1}
    with pytest.raises(InputError, match="hears waveforms, not the log-mel"):
        audiopure.certify("small+digits", **common)
    assert audiopure.certify("small+digits", denoise="none", **common).clips


def test_models_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 scores and names 3"):
        audiopure.certify(Two(), data, n=100, limit=1)
    with pytest.raises(InputError, match="no purifier"):
        audiopure.certify(Ear(), data, denoise="one-shot", n=100, limit=1)
    with pytest.raises(InputError, match="workers"):
        audiopure.certify(Ear(), data, workers=2)
    audiopure.certify(Ear(), data, n=100, limit=1, output=tmp_path / "a")
    with pytest.raises(InputError, match="other settings"):
        audiopure.certify(Ear(), data, n=200, limit=1, output=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="something else"):
        audiopure.certify(Ear(), data, n=100, limit=1, output=tmp_path / "b")


def test_bad_input_to_the_command_is_one_sentence_and_status_2(data: Path, tmp_path: Path, capsys) -> None:
    common = ["certify", "--system", SYSTEM, "--limit", "1", "-o", str(tmp_path / "out")]
    for extra in (
        ["--data", str(tmp_path / "nowhere")],
        ["--data", str(data), "--before", "resample"],
        ["--data", str(data), "--shard", "3/2"],
        ["--data", str(data), "--merge", str(tmp_path)],
        ["--data", str(data), "--device", "abacus"],
    ):
        assert run_cli(*common, *extra) == 2
        said = capsys.readouterr().err
        assert said.startswith("audiopure: ") and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()


def test_the_files_of_a_report_agree(data: Path, tmp_path: Path) -> None:
    record = audiopure.certify(SYSTEM, data, output=tmp_path / "out", **COMMON)
    folder = tmp_path / "out"
    again = Certificates.model_validate_json((folder / "certificates.json").read_bytes())
    assert again == record
    lines = [json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines()]
    with (folder / "certificates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [x["id"] for x in lines] == [x["id"] for x in rows] == [c.id for c in record.clips]
    assert [float(x["radius"]) for x in rows] == [x["radius"] for x in lines]
    assert [float(x["radius_L∞"]) for x in rows] == [c.implied["L∞"] for c in record.clips]
    assert words.octaves(record) == [125, 250, 500, 1000, 2000, 4000, 8000]
    for row, clip in zip(rows, record.clips, strict=True):
        if clip.explained is not None:
            assert [float(row[name]) for name in words.MEANINGS] == [
                getattr(clip.explained, name) for name in words.MEANINGS
            ]
            assert {hz: float(row[f"octave_{hz}"]) for hz in words.octaves(record)} == clip.explained.octaves
    page = (folder / "index.html").read_text()
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)", page[page.index('class="plain"') :])
    assert heads[3:8] == ["radius, L2", "L1", "L∞", "votes", "draws"]
    assert heads[8:13] == list(words.MEANINGS.values()) and heads[-1] == "8000 Hz, dB"
    for line in page[page.index('class="plain"') :].split("</table>")[0].split("<tr>")[2:]:
        assert line.count("<td") + line.count("<th") == len(heads)
    assert "http" not in page.replace("http-equiv", "") and page.count("<audio") >= 4
    assert record.command in (folder / "report.md").read_text()


def test_a_radius_is_explained_for_the_clip_as_it_is_certified(
    data: Path, certificates: Certificates
) -> None:
    clips = load_clips(data, Ear(), CLIPS, 0)
    for clip in certificates.clips:
        wave = clips.waveforms[clips.ids.index(clip.id)]
        padded = nn.functional.pad(wave, (0, 16_000 - len(wave)))
        if clip.radius > 0:
            expected = meaning(padded, clip.radius, 16_000)
            assert clip.explained is not None and clip.explained.octaves == pytest.approx(expected.octaves)
            assert all(
                getattr(clip.explained, n) == pytest.approx(getattr(expected, n)) for n in words.MEANINGS
            )
            assert clip.explained.rms == pytest.approx(20 * math.log10(clip.radius / math.sqrt(16_000)))
    laplace = audiopure.certify(SYSTEM, data, noise="laplace", **COMMON)
    assert laplace.norm == "L1" and any(clip.explained for clip in laplace.clips)
    for clip in laplace.clips:
        if clip.explained is not None:
            level = 20 * math.log10(clip.implied["L2"] / math.sqrt(16_000))
            assert clip.explained.rms == pytest.approx(level)
    assert "in L2 (full scale)" in " ".join(words.verdict(laplace))


def test_the_recorded_command_repeats_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "examples", lambda work, clips: [])
    monkeypatch.chdir(tmp_path)  # where the folder of that name shall lie
    settings: dict[str, Any] = {**COMMON, "n": 200, "certificate": "renyi", "rows": 7}
    record = audiopure.certify(SYSTEM, data, output=tmp_path / "a b", **settings)
    words = shlex.split(record.command)
    assert words[:2] == ["audiopure", "certify"]
    assert run_cli(*words[1:], "--workers", "1", "--threads", "1") == 0
    written = tmp_path / "audiopure-certificates" / "certificates.json"
    again = Certificates.model_validate_json(written.read_bytes())
    assert found(again) == found(record) and again.command == record.command
    by_call = audiopure.certify(Ear(), data, sigma=0.02, n=100, limit=1).command
    assert by_call == f"audiopure.certify(<Ear>, data={str(data)!r}, sigma=0.02, n=100, limit=1)"


def test_the_cost_is_told_beforehand_with_the_pilots_draws(data: Path) -> None:
    for certificate, draws in (("cohen", "1,400"), ("kl", "1,600")):
        said: list[str] = []
        settings: dict[str, Any] = {"sigma": 0.02, "n": 600, "limit": 2, "certificate": certificate}
        audiopure.certify(SYSTEM, data, progress=said.append, **settings)
        assert said == [f"2 clips, at most {draws} draws: about 1 min"]


class Cramped(Ear):
    """Has memory for so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.asked = rows, []

    def forward(self, waveform: Tensor) -> Tensor:
        self.asked.append(len(waveform))
        if len(waveform) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(waveform)


def test_rows_are_set_or_found_and_change_no_certificate(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**COMMON, "n": 200}
    wide, tight = Cramped(50), Cramped(7)
    usual = audiopure.certify(wide, data, **settings)
    assert set(wide.asked) == {50}
    found_out = audiopure.certify(tight, data, **settings)
    assert found(found_out) == found(usual)
    assert tight.asked[:4] == [50, 25, 12, 6] and max(tight.asked[3:]) == 6  # in later clips too
    told = Cramped(7)
    assert found(audiopure.certify(told, data, rows=5, output=tmp_path, **settings)) == found(usual)
    assert max(told.asked) == 5
    # the same certification, whatever the rows
    assert found(audiopure.certify(told, data, output=tmp_path, **settings)) == found(usual)
    with pytest.raises(InputError, match="does not fit the device's memory"):
        audiopure.certify(Cramped(0), data, **settings)


def test_certified_accuracy_falls_with_the_radius_and_abstaining_is_wrong(
    certificates: Certificates,
) -> None:
    values = [point.certified.value for point in certificates.curve]
    assert values == sorted(values, reverse=True) and values[-1] == 0
    assert values[0] == certificates.certified(0.0).value == sum(c.right for c in certificates.clips) / CLIPS
    silent = [clip.model_copy(update={"answer": None, "radius": 0.0}) for clip in certificates.clips]
    assert [p.certified.value for p in curve(silent)] == [0.0]
    wrong = certificates.model_copy(update={"clips": silent})
    assert wrong.abstained.value == 1.0 and wrong.mean_radius == 0.0 and "abstain" in render(wrong)


def test_radii_of_tables_are_round_and_reach_the_top(certificates: Certificates) -> None:
    assert words.round_radii(0.0) == [0.0]
    for top in (0.017, 0.3, 2.4, 99.0):
        radii = words.round_radii(top)
        assert 4 <= len(radii) <= 8 and radii[0] == 0 and top * 0.6 < radii[-1] <= top
    far = certificates.clips[0].model_copy(update={"answer": certificates.clips[0].label, "radius": 0.8})
    assert words.radii(certificates.model_copy(update={"clips": [far]})) == [0.0, 0.25, 0.5, 0.75]
