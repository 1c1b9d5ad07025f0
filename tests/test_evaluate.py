"""Evaluations: replayable, resumable, shardable, and unable to flatter."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError, audio
from audiopure.attacks import PAPER_BUDGETS, Attack, Pgd
from audiopure.cli.main import main
from audiopure.data.synthetic import write_dataset
from audiopure.diffusion.samplers import OneShot
from audiopure.evaluation import protocols, running
from audiopure.evaluation.card import Card
from audiopure.evaluation.engine import Evaluation, EvaluationConfig
from audiopure.evaluation.evaluate import evaluate, merge
from audiopure.evaluation.lineup import randomised
from audiopure.evaluation.protocols import Protocol, Stage, Sweep, both
from audiopure.evaluation.recordings import NOT_ADAPTIVE
from audiopure.purifier import Purifier

CLIPS, PASSES = 6, 4
FACTOR = 0.3  # of the budgets: some clips fall and some do not
LABELS = ("yes", "no", "up")


class Ear(nn.Module):
    """Three classes by projections of the first samples; small enough for thousands of passes."""

    labels, sample_rate = LABELS, 16_000

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(audiopure.SeededNoise(5).normal((3, 4000), draw=0), requires_grad=False)

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform[:, :4000] @ self.weight.T


class Halver(nn.Module):
    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return 0.9 * torch.tanh(x)


def system() -> audiopure.Defended:
    return audiopure.defend(Ear(), Purifier(Halver(), n_star=2))


def broken() -> nn.Module:
    class Cut(Ear):
        def forward(self, waveform: Tensor) -> Tensor:
            return super().forward(waveform.detach()) + 0 * waveform[:, :1]

    return Cut()


def short(norm: str) -> Pgd:
    return replace(protocols.pgd(norm, 4, 2, "ce", PASSES), eps=FACTOR * PAPER_BUDGETS[norm])


def tiny() -> Protocol:
    return Protocol(
        "tiny",
        PASSES,
        (
            Stage("pgd-ce", "PGD-4", both(short), controls=True),
            Stage(
                "again",
                "PGD-4 again",
                both(lambda n: replace(short(n), loss="margin")),
                survivors=True,
                clips=4,
            ),
            protocols.random_stage(),
        ),
        (
            Sweep("budget", (0.5, 500), {"l2": short("l2")}, 3),
            Sweep("eot", (1, 2), {"linf": short("linf")}, 2),
            Sweep("n_star", (1, 2), {"linf": short("linf")}, 2),
        ),
        "For tests.",
    )


@pytest.fixture(autouse=True)
def protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "PROTOCOLS", {**protocols.PROTOCOLS, "tiny": tiny})
    monkeypatch.setattr(protocols, "BATCH", 2)
    monkeypatch.setattr("audiopure.evaluation.engine.BATCH", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips named by what the recogniser hears in them."""
    folder = tmp_path_factory.mktemp("words") / "heard"
    source, ear = audiopure.SeededNoise(3), Ear()
    for k in range(12):
        wave = 0.05 * source.for_items([k]).normal((1, 4000 + 500 * (k % 2)), draw=0)[0]
        label = LABELS[int(ear(wave[None]).argmax())]
        (folder / label).mkdir(parents=True, exist_ok=True)
        audio.write(folder / label / f"{k}.wav", wave.clamp(-1, 1), 16_000)
    return folder


def prepared(data: Path, folder: Path, **changes: Any) -> Evaluation:
    settings = {"system": "own", "data": data, "protocol": "tiny", "limit": CLIPS} | changes
    return Evaluation.prepare(EvaluationConfig(**settings), folder, model=system())


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Card]]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "PROTOCOLS", {"tiny": tiny})
        patch.setattr(protocols, "BATCH", 2)
        patch.setattr("audiopure.evaluation.engine.BATCH", 2)
        card = evaluate(system(), data, protocol="tiny", limit=CLIPS, output=folder)
    yield folder, card


def measured(card: Card) -> dict[str, Any]:
    """What must not depend on how an evaluation was run."""
    return card.model_dump(exclude={"command", "machine", "cost", "data", "examples"})


def test_the_rows_that_come_by_themselves(whole: tuple[Path, Card]) -> None:
    _, card = whole
    assert [row.key for row in card.rows] == [
        "system",
        "none",
        "noise-only",
        "reverse-only",
        "n_star=1",
        "n_star=2",
    ]
    keys = [condition.key for condition in card.rows[0].conditions]
    assert keys[:3] == ["clean", "pgd-ce/linf", "pgd-ce/l2"] and "random/linf" in keys
    assert card.rows[1].conditions[0].attacked.passes == 1  # nothing random in an undefended model
    assert card.rows[0].conditions[0].attacked.passes == PASSES
    for row in card.rows:
        for condition in row.conditions:
            assert condition.attacked.average.n == condition.clean.average.n


def test_each_clip_keeps_the_worse_of_its_runs(whole: tuple[Path, Card]) -> None:
    _, card = whole
    for headline in card.rows[0].headlines:
        keys = [f"pgd-ce/{headline.column}", f"again/{headline.column}"]
        worst = []
        for clip in card.clips:
            ran = [clip.right["system"][key] for key in keys if key in clip.right["system"]]
            worst.append(min(ran))
        assert headline.attacked.average.value == pytest.approx(sum(worst) / len(worst))
        assert headline.attacked.worst.value == pytest.approx(sum(w == 1 for w in worst) / len(worst))
        assert headline.attacked.average.n == CLIPS


def test_later_stages_meet_survivors_of_the_first_few(whole: tuple[Path, Card]) -> None:
    _, card = whole
    for column in ("linf", "l2"):
        for index, clip in enumerate(card.clips):
            there = f"again/{column}" in clip.right["system"]
            assert there == (index < 4 and clip.right["system"][f"pgd-ce/{column}"] > 0)


def test_attacked_audio_keeps_the_budget_on_disk(whole: tuple[Path, Card], data: Path) -> None:
    folder, card = whole
    for clip in card.clips:
        name = clip.id.replace("/", "_")
        stem = name.partition(".")[0]
        kept = [next((folder / "audio/system/pgd-ce" / norm).glob(f"{stem}*.flac")) for norm in PAPER_BUDGETS]
        clean, _ = audio.read(next((folder / "audio/system/clean").glob(f"{stem}*.flac")))
        for path in kept:
            attacked, _ = audio.read(path)
            change = (attacked - clean).double()
            eps = FACTOR * PAPER_BUDGETS[path.parent.name]
            size = change.abs().max() if path.parent.name == "linf" else change.norm()
            assert 0 < float(size) <= eps


def test_the_same_evaluation_gives_the_same_card(
    whole: tuple[Path, Card], data: Path, tmp_path: Path
) -> None:
    card = evaluate(system(), data, protocol="tiny", limit=CLIPS, output=tmp_path / "again")
    assert measured(card) == measured(whole[1])
    other = evaluate(system(), data, protocol="tiny", limit=CLIPS, seed=1)
    assert measured(other) != measured(card)


def test_a_run_goes_on_where_it_was(whole: tuple[Path, Card], data: Path, tmp_path: Path) -> None:
    folder, card = whole
    lines = (folder / "outcomes.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, 7, len(lines) - 1):
        resumed = tmp_path / str(kept)
        resumed.mkdir()
        # a batch is written as a whole, but the line that a kill cuts off must not matter
        (resumed / "outcomes.jsonl").write_bytes(
            b"".join(lines[:kept]) + lines[min(kept, len(lines) - 1)][:20]
        )
        again = evaluate(system(), data, protocol="tiny", limit=CLIPS, output=resumed)
        assert measured(again) == measured(card)


def test_shards_make_the_whole(whole: tuple[Path, Card], data: Path, tmp_path: Path) -> None:
    folders = []
    for number in (1, 2):
        work = prepared(data, tmp_path / str(number), shard=(number, 2))
        work.begin()
        running.run(work)
        assert any("shard" in flag.sentence for flag in running.finish(work, {}).flags)
        folders.append(work.folder)
    united = merge(folders, tmp_path / "united")
    assert united.clips == whole[1].clips
    assert [r.headlines for r in united.rows] == [r.headlines for r in whole[1].rows]
    assert united.data.shard is None and (tmp_path / "united" / "index.html").is_file()
    with pytest.raises(InputError, match="other settings"):
        other = prepared(data, tmp_path / "3", seed=5)
        other.begin()
        merge([folders[0], other.folder], tmp_path / "no")
    with pytest.raises(InputError, match="holds no evaluation"):
        merge([data], tmp_path / "no")


def test_a_folder_of_another_evaluation_is_refused(whole: tuple[Path, Card], data: Path) -> None:
    with pytest.raises(InputError, match="other settings"):
        prepared(data, whole[0], seed=3).begin()


def test_a_broken_gradient_stops_the_evaluation_or_stands_on_the_card(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gradient of .* is broken"):
        evaluate(broken(), data, protocol="tiny", limit=2, output=tmp_path)
    card = evaluate(broken(), data, protocol="tiny", limit=2, output=tmp_path, allow_broken_gradient=True)
    assert card.rows[0].gradient is not None and card.rows[0].gradient.verdict == "broken"
    assert card.flags[0].kind == "violation" and "broken" in card.flags[0].sentence


def test_a_flag_where_accuracy_survives_any_waveform(data: Path) -> None:
    """An attack that is not at work shows: here no gradient leads to the purifier's input."""

    class Cut(Halver):
        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            return super().forward(x.detach(), sigma, lengths)

    purifier = Purifier(Cut(), n_star=2, sampler=OneShot())
    card = evaluate(
        audiopure.defend(Ear(), purifier), data, protocol="tiny", limit=0, allow_broken_gradient=True
    )
    said = [flag.sentence for flag in card.flags if flag.kind == "violation"]
    assert any("is broken" in sentence for sentence in said)
    assert any("unbounded" in sentence for sentence in said)


def test_recordings_are_scored_and_marked(whole: tuple[Path, Card], data: Path, tmp_path: Path) -> None:
    attacked = tmp_path / "attacked"
    for path in data.rglob("*.wav"):
        wave, rate = audio.read(path)
        target = attacked / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        audio.write(target, -wave, rate)  # as loud, and nothing like it
    card = evaluate(Ear(), data, attacked=attacked, limit=0)
    (row,) = card.rows
    condition = row.conditions[1]
    assert condition.key == "recordings/given" and condition.note == NOT_ADAPTIVE
    assert row.headlines[0].attacked.average.value < 0.5 < row.headlines[0].clean.average.value
    assert NOT_ADAPTIVE in [flag.sentence for flag in card.flags]
    next(attacked.rglob("*.wav")).unlink()
    with pytest.raises(InputError, match="no attacked recording"):
        evaluate(Ear(), data, attacked=attacked, limit=0)
    with pytest.raises(InputError, match="no such folder"):
        evaluate(Ear(), data, attacked=tmp_path / "none")


def test_an_attacker_who_knows_the_noise_meets_a_fixed_system(data: Path) -> None:
    card = evaluate(system(), data, protocol="tiny", limit=CLIPS, knowledge="DW_both")
    row = card.rows[0]
    assert {condition.attacked.passes for condition in row.conditions} == {1}
    assert all("DW_both" in (condition.note or "") for condition in row.conditions)
    assert card.rows[1].conditions[1].note is None  # nothing to know of the undefended model
    with pytest.raises(InputError, match="there is no setting 'all'"):
        evaluate(system(), data, protocol="tiny", limit=CLIPS, knowledge="all")


def test_randomness_is_recognised() -> None:
    assert randomised(system()) and not randomised(Ear())
    assert not randomised(audiopure.defend(Ear(), Purifier(Halver(), n_star=0)))


def test_fixed_systems_get_one_draw() -> None:
    fixed = protocols.for_fixed(protocols.pgd("l2", 10, 5, "ce", 20, eot_start=2))
    assert isinstance(fixed, Pgd)
    assert (fixed.eot, fixed.eot_start, fixed.selection, fixed.leave) == (1, None, 1, 1)


@pytest.mark.parametrize("name", ["quick", "standard", "paper", "full"])
def test_every_protocol_builds_and_has_a_cost(name: str) -> None:
    built = protocols.protocol(name)
    for stage in built.without_surrogate().stages:
        for attack in stage.attacks.values():
            assert isinstance(attack, Attack)
            assert attack.cost.gradients + attack.cost.forwards > 0 and attack.budget
    with pytest.raises(InputError, match="there are: quick"):
        protocols.protocol("fast")


COMMAND = ["evaluate", "--system", "m5", "--limit", "2"]


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_the_command_writes_a_report_and_fails_under(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    common = [*COMMAND, "-o", str(folder), "--workers", "1"]
    assert run_cli(*common) == 0
    said = capsys.readouterr()
    assert "about" in said.err and "index.html" in said.out.replace("\n", "")
    card = Card.model_validate_json((folder / "report.json").read_bytes())
    assert card.command.startswith("audiopure evaluate --system m5")
    assert (folder / "report.md").is_file() and (folder / "index.html").is_file()
    assert not list(folder.glob("*.part"))
    assert run_cli(*common, "--fail-under", "linf=0") == 0
    assert run_cli(*common, "--fail-under", "101") == 1
    assert "fewer than 101 %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--protocol", "fast"], "there is no protocol 'fast'"),
        (["--shard", "3/2"], "write i/n"),
        (["--fail-under", "many"], "write a number"),
        (["--system", "nobody+m5"], "no weights at 'nobody'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*COMMAND, "-o", str(tmp_path / "r"), *extra) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_killed_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """A real process, killed without warning at random moments until it gets through."""
    write_dataset(tmp_path / "words", clips_per_label=3, seed=0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "audiopure", "evaluate", "--system", "m5", "--limit", "6"]
    command += ["--data", str(tmp_path / "words"), "--workers", "1", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    chance = random.Random(0)
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ledger, size = tmp_path / "killed" / "outcomes.jsonl", -1
        while process.poll() is None and (not ledger.is_file() or ledger.stat().st_size <= size):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed > 0
    subprocess.run([*command, str(tmp_path / "killed")], env=environment, check=True, capture_output=True)
    cards = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    for card in cards:
        for key in ("command", "cost", "machine"):
            del card[key]
    assert cards[0] == cards[1]
