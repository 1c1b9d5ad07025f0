"""Certifications that are cut off go on with no draw lost or counted twice; shards unite without drawing."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from certify_helpers import COMMON, SYSTEM, found, run_cli
from evaluation_helpers import CLIPS, Ear

import audiopure
from audiopure import InputError
from audiopure.certification.draws import Draws
from audiopure.certification.smoothing import Sampler
from audiopure.evaluation import engine
from audiopure.evaluation.certified import run, tallies
from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.certified.run import merge


@pytest.fixture(autouse=True)
def small_blocks_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "BLOCK", 100)
    monkeypatch.setattr(run, "examples", lambda work, clips: [])


# stands in for the command, in small blocks and slowly, so that it can be stopped on any machine
DRIVER = """
import sys
import time
from audiopure.evaluation.certified import tallies
tallies.BLOCK = 100
append = tallies.Tallies.append
def slowly(journal, lines):
    append(journal, lines)
    time.sleep(0.05)
tallies.Tallies.append = slowly
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
    data: Path, certificates: Certificates, tmp_path: Path
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
    assert found(record) == found(certificates) and record.draws == certificates.draws
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert max(Counter((x["clip"], x["purpose"], x["first"]) for x in lines).values()) == 1


@contextmanager
def cut_off(after: int) -> Iterator[None]:
    """In here a run is interrupted once it has appended so many lines."""
    append, left = tallies.Tallies.append, list(range(after))

    def counting(journal: tallies.Tallies, lines: Sequence[tallies.Tallied]) -> None:
        append(journal, lines)
        left.pop()
        if not left:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tallies.Tallies, "append", counting)
        yield


@contextmanager
def no_draws() -> Iterator[None]:
    def draw(*_: object) -> None:
        raise AssertionError("something was drawn")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "scores", draw)
        yield


@pytest.mark.parametrize("settings", [{"certificate": "kl"}, {"tolerance": 0.8}, {"tolerance": 0.05}])
def test_a_run_goes_on_wherever_it_was_cut_off(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    whole = audiopure.certify(SYSTEM, data, **COMMON, **settings)
    for after in (1, 3, 11):
        output = tmp_path / str(after)
        with cut_off(after):
            audiopure.certify(SYSTEM, data, output=output, **COMMON, **settings)
        record = audiopure.certify(SYSTEM, data, output=output, **COMMON, **settings)
        assert found(record) == found(whole) and record.draws == whole.draws


@pytest.mark.parametrize("certificate", ["kl", "renyi", "hockey-stick"])
def test_what_the_pilot_chose_is_kept_though_other_draws_would_choose_otherwise(
    certificate: str, data: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**COMMON, "n": 300, "limit": 3, "certificate": certificate}
    whole = audiopure.certify(SYSTEM, data, **settings)
    assert whole.draws == sum(100 + 100 + 300 for _ in whole.clips)
    # the last clip's pilot is drawn, and some of its estimate
    with cut_off(2 * 5 + 3):
        audiopure.certify(SYSTEM, data, output=tmp_path, **settings)
    seed = Draws.chunk_seed

    def other(draws: Draws, *rest: Any) -> int:
        return seed(draws, *rest) + (draws.purpose == "pilot")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draws, "chunk_seed", other)
        assert found(audiopure.certify(SYSTEM, data, output=tmp_path, **settings)) == found(whole)
        assert found(audiopure.certify(SYSTEM, data, **settings)) != found(whole)


def test_a_record_names_every_state_of_the_code_that_drew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {**COMMON, "n": 100, "limit": 3, "output": tmp_path}
    for state in ("a", "b", "b", "c"):
        monkeypatch.setattr(engine, "source", lambda state=state: state)
        record = audiopure.certify(SYSTEM, data, **settings)
        assert record.machine["source"] == state
        assert record.machine.get("sources", ["a"]) == [s for s in ("a", "b", "c") if s <= state]


def test_shards_unite_to_the_whole(data: Path, certificates: Certificates, tmp_path: Path, capsys) -> None:
    words = shutil.copytree(data, tmp_path / "words")
    common = ["certify", "--system", SYSTEM, "--data", str(words), "--sigma", "0.02", "--n", "700"]
    common += ["--limit", str(CLIPS), "--workers", "1", "--threads", "1", "-o"]
    for number in (1, 2):
        assert run_cli(*common, str(tmp_path / str(number)), "--shard", f"{number}/2") == 0
    merged = ["certify", "--merge", str(tmp_path / "1"), "--merge", str(tmp_path / "2"), "-o"]
    assert run_cli(*merged, str(tmp_path / "all")) == 0
    record = Certificates.model_validate_json((tmp_path / "all" / "certificates.json").read_bytes())
    assert found(record) == found(certificates) and "--shard" not in record.command
    moved = words.rename(tmp_path / "elsewhere")
    assert run_cli(*merged, str(tmp_path / "lost")) == 2 and "no such folder" in capsys.readouterr().err
    assert run_cli(*merged, str(tmp_path / "again"), "--data", str(moved)) == 0
    again = Certificates.model_validate_json((tmp_path / "again" / "certificates.json").read_bytes())
    assert found(again) == found(record) and str(moved) in again.command
    moved.rename(words)
    lone = ["certify", "--merge", str(tmp_path / "1"), "-o", str(tmp_path / "half")]
    capsys.readouterr()
    assert run_cli(*lone) == 2 and "are not finished in these shards" in capsys.readouterr().err


def shards(data: Path, folder: Path, **settings: Any) -> list[Path]:
    for number in (1, 2):
        output = folder / str(number)
        audiopure.certify(SYSTEM, data, output=output, shard=(number, 2), **COMMON, **settings)
    return [folder / "1", folder / "2"]


@pytest.mark.parametrize("settings", [{"certificate": "kl"}, {"tolerance": 0.8}])
def test_uniting_draws_nothing(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    whole = audiopure.certify(SYSTEM, data, **COMMON, **settings)
    parts = shards(data, tmp_path, **settings)
    with no_draws():
        record = merge(parts, tmp_path / "all")
    assert found(record) == found(whole) and record.draws == whole.draws
    assert record.settings["shard"] is None and record.data.shard is None


def test_the_record_of_shards_names_the_code_of_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, state in ((1, "a"), (2, "b")):
        monkeypatch.setattr(engine, "source", lambda state=state: state)
        audiopure.certify(SYSTEM, data, output=tmp_path / state, shard=(number, 2), **COMMON)
    record = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert record.machine["sources"] == ["a", "b"]


def test_shards_of_other_recordings_do_not_unite(data: Path, tmp_path: Path) -> None:
    words = shutil.copytree(data, tmp_path / "words")
    parts = shards(words, tmp_path)
    for clip in words.rglob("*.wav"):
        clip.write_bytes(clip.read_bytes()[:-2000] + bytes(2000))
    with pytest.raises(InputError, match="the clips here are not those"):
        merge(parts, tmp_path / "all")
    assert not (tmp_path / "all").exists()


class Counting(Ear):
    """Notes how many noisy versions it hears at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(waveform))
        return super().forward(waveform)


def test_the_time_is_told_from_few_draws_and_none_when_all_are_done(data: Path, tmp_path: Path) -> None:
    ear, said = Counting(), []
    audiopure.certify(ear, data, output=tmp_path, rows=10**8, progress=said.append, **COMMON)
    assert max(ear.batches) <= 800 and "4,800 draws" in said[0]  # no more than a clip takes
    ear.batches.clear()
    audiopure.certify(ear, data, output=tmp_path, rows=10**8, progress=said.append, **COMMON)
    assert not ear.batches and " 0 draws" in said[1]


@pytest.mark.parametrize("after", [1, 4])
def test_uniting_refuses_an_unfinished_clip_and_says_how_to_finish(
    after: int, data: Path, certificates: Certificates, tmp_path: Path
) -> None:
    with cut_off(2 * 8 + after):
        audiopure.certify(SYSTEM, data, output=tmp_path / "1", shard=(1, 2), **COMMON)
    audiopure.certify(SYSTEM, data, output=tmp_path / "2", shard=(2, 2), **COMMON)
    parts, output = [tmp_path / "1", tmp_path / "2"], tmp_path / "all"
    with no_draws(), pytest.raises(InputError, match=r"1 clips, .* are not finished") as refused:
        merge(parts, output)
    if after == 1:
        audiopure.certify(SYSTEM, data, output=tmp_path / "1", shard=(1, 2), **COMMON)
        record = merge(parts, output)
    else:
        words = shlex.split(str(refused.value).partition("finish here with ")[2])
        assert words[0] == "audiopure" and run_cli(*words[1:], "--workers", "1", "--threads", "1") == 0
        record = Certificates.model_validate_json((output / "certificates.json").read_bytes())
    assert found(record) == found(certificates) and record.draws == certificates.draws


def test_shards_of_a_device_that_is_not_here_unite(
    data: Path, certificates: Certificates, tmp_path: Path
) -> None:
    parts = shards(data, tmp_path)
    for part in parts:
        plan = json.loads((part / "plan.json").read_text())
        plan["settings"]["device"] = "cuda:99"
        (part / "plan.json").write_text(json.dumps(plan))
    record = merge(parts, tmp_path / "all")
    assert found(record) == found(certificates) and record.settings["device"] == "cuda:99"
    assert "--device cuda:99" in record.command
