"""Certifications of whole sets: replayable, resumable with no draw counted twice, shardable, refusing."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import CLIPS, Ear, write_words
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.certification.procedures import Certify
from audiopure.evaluation.certified import engine, words
from audiopure.evaluation.certified.record import Certificates, curve
from audiopure.evaluation.certified.report import render
from audiopure.evaluation.certified.settings import BASES, CertifySettings, smoothed
from audiopure.evaluation.clips import item_of, load_clips
from audiopure.systems import load_system

SYSTEM = "evaluation_helpers:system"
COMMON: dict[str, Any] = {"sigma": 0.02, "n": 700, "limit": CLIPS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "heard")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCK", 100)


def found(record: Certificates) -> list[dict[str, Any]]:
    """What must not depend on how a certification was run."""
    return [clip.model_dump(exclude={"seconds"}) for clip in record.clips]


@pytest.fixture(scope="module")
def whole(data: Path) -> Iterator[Certificates]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "BLOCK", 100)
        yield audiopure.certify(SYSTEM, data, **COMMON)


def test_each_certificate_is_that_of_the_clip_by_itself(data: Path, whole: Certificates) -> None:
    system = load_system(SYSTEM)
    model = smoothed(CertifySettings.of(system=SYSTEM, **COMMON), system)
    clips = load_clips(data, system.undefended, CLIPS, 0)
    sounds = dict(zip(clips.ids, clips.waveforms, strict=True))
    for clip in whole.clips:
        wave = nn.functional.pad(sounds[clip.id], (0, 16_000 - len(sounds[clip.id])))
        alone = model.certify(wave, Certify(n=700), seed=0, item=item_of(clip.id))
        assert clip.radius == alone.radius and sum(clip.counts.values()) == alone.n == 700
    assert any(clip.right for clip in whole.clips)
    assert whole.draws == CLIPS * 800 and whole.norm == "L2" and whole.object == "waveform at 16000 Hz"


# stands in for the command, in small blocks and slowly, so that it can be stopped on any machine
DRIVER = """
import sys
import time
from audiopure.evaluation.certified import engine
engine.BLOCK = 100
append = engine.Tallies.append
def slowly(journal, lines):
    append(journal, lines)
    time.sleep(0.05)
engine.Tallies.append = slowly
if __name__ == "__main__":
    from audiopure.cli.main import main
    main(sys.argv[1:])
"""


def start(data: Path, output: Path, workers: str) -> subprocess.Popen[str]:
    driver = output.parent / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), "certify", "--system", SYSTEM, "--data", str(data)]
    command += ["--sigma", "0.02", "--n", "700", "--limit", str(CLIPS), "-o", str(output)]
    paths = [str(Path(__file__).parent), str(Path(audiopure.__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [*command, "--workers", workers, "--threads", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_killed_run_goes_on_with_no_draw_lost_or_counted_twice(
    data: Path, whole: Certificates, tmp_path: Path
) -> None:
    output, chance = tmp_path / "out", random.Random()
    ways = [
        ("1", lambda p: p.kill(), -signal.SIGKILL),
        ("2", lambda p: os.killpg(p.pid, signal.SIGKILL), -signal.SIGKILL),
        ("1", lambda p: p.terminate(), 143),
    ]
    journal = output / "draws.jsonl"
    for workers, stop, status in ways:
        before = journal.stat().st_size if journal.is_file() else 0
        process = start(data, output, workers)
        while process.poll() is None and (not journal.is_file() or journal.stat().st_size <= before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        stop(process)
        _, said = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in said, said
    with journal.open("ab") as file:
        file.write(b'{"clip": "half a li')  # what a kill may leave
    record = audiopure.certify(SYSTEM, data, output=output, **COMMON)
    assert found(record) == found(whole) and record.draws == whole.draws
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert max(Counter((x["clip"], x["purpose"], x["first"]) for x in lines).values()) == 1


def run_cli(*arguments: str) -> int:
    from audiopure.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    code = stopped.value.code
    return 0 if code is None else int(code)


def test_shards_unite_to_the_whole(data: Path, whole: Certificates, tmp_path: Path, capsys) -> None:
    common = ["certify", "--system", SYSTEM, "--data", str(data), "--sigma", "0.02", "--n", "700"]
    common += ["--limit", str(CLIPS), "--workers", "1", "--threads", "1", "-o"]
    for number in (1, 2):
        assert run_cli(*common, str(tmp_path / str(number)), "--shard", f"{number}/2") == 0
    merged = ["certify", "--merge", str(tmp_path / "1"), "--merge", str(tmp_path / "2"), "-o"]
    assert run_cli(*merged, str(tmp_path / "all")) == 0
    record = Certificates.model_validate_json((tmp_path / "all" / "certificates.json").read_bytes())
    assert found(record) == found(whole) and "--shard" not in record.command
    lone = ["certify", "--merge", str(tmp_path / "1"), "-o", str(tmp_path / "half")]
    capsys.readouterr()
    assert run_cli(*lone) == 2 and "in none of these shards" in capsys.readouterr().err


def test_early_stopping_draws_less_and_certifies_alike(data: Path, whole: Certificates) -> None:
    quick = audiopure.certify(SYSTEM, data, tolerance=0.8, **COMMON)
    assert quick.draws < whole.draws
    for one, other in zip(quick.clips, whole.clips, strict=True):
        assert one.answer in (other.answer, None) and one.radius > other.radius - 0.9 * 0.02


@pytest.mark.parametrize("name", BASES)
def test_every_way_to_denoise_runs_and_replays(name: str, data: Path) -> None:
    settings: dict[str, Any] = {"sigma": 0.02, "n": 200, "limit": 3, "denoise": name, "votes": 3, "steps": 2}
    first, again = (audiopure.certify(SYSTEM, data, **settings) for _ in range(2))
    assert found(first) == found(again)


@pytest.mark.parametrize("certificate", ["pair", "kl", "hockey-stick"])
@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_every_certificate_and_law(certificate: str, noise: str, data: Path) -> None:
    settings: dict[str, Any] = {"sigma": 0.02, "n": 300, "limit": 3, "certificate": certificate}
    if noise == "laplace" and certificate != "pair":
        with pytest.raises(InputError, match="Gaussian"):
            audiopure.certify(SYSTEM, data, noise=noise, **settings)
        return
    record = audiopure.certify(SYSTEM, data, noise=noise, **settings)
    assert record.norm == {"gaussian": "L2", "laplace": "L1"}[noise]


@pytest.mark.parametrize("name", ["spectrogram", "filterbank", "log-mel"])
def test_objects_of_a_recogniser_are_named_in_the_record(name: str) -> None:
    record = audiopure.certify("digits", object=name, sigma=0.5, n=100, limit=2)
    assert record.object == name and record.unit != "full scale"
    assert all(clip.explained is None for clip in record.clips)


def test_bfloat16_certifies_what_runs_in_bfloat16(data: Path) -> None:
    record = audiopure.certify(SYSTEM, data, precision="bf16", **COMMON)
    assert "bfloat16" in " ".join(words.notes(record))


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
        ({"certificate": "best"}, "certificate"),
        ({"noise": "uniform"}, "noise"),
        ({"certificate": "kl", "tolerance": 0.1}, "cannot stop early"),
        ({"denoise": "multi-step", "sigma": 100.0}, "sigma must lie"),
    ],
)
def test_settings_that_cannot_be_are_refused(data: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audiopure.certify(SYSTEM, data, **{**COMMON, **settings})


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
    page = (folder / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("<audio") >= 4
    assert record.command in (folder / "report.md").read_text()


def test_certified_accuracy_falls_with_the_radius_and_abstaining_is_wrong(
    whole: Certificates,
) -> None:
    values = [point.certified.value for point in whole.curve]
    assert values == sorted(values, reverse=True) and values[-1] == 0
    assert values[0] == whole.certified(0.0).value == sum(c.right for c in whole.clips) / CLIPS
    silent = [clip.model_copy(update={"answer": None, "radius": 0.0}) for clip in whole.clips]
    assert [p.certified.value for p in curve(silent)] == [0.0]
    wrong = whole.model_copy(update={"clips": silent})
    assert wrong.abstained.value == 1.0 and wrong.mean_radius == 0.0 and "abstain" in render(wrong)


def test_radii_of_tables_are_round_and_reach_the_top(whole: Certificates) -> None:
    assert words.round_radii(0.0) == [0.0]
    for top in (0.017, 0.3, 2.4, 99.0):
        radii = words.round_radii(top)
        assert 4 <= len(radii) <= 8 and radii[0] == 0 and top * 0.6 < radii[-1] <= top
    far = whole.clips[0].model_copy(update={"answer": whole.clips[0].label, "radius": 0.8})
    assert words.radii(whole.model_copy(update={"clips": [far]})) == [0.0, 0.25, 0.5, 0.75]
