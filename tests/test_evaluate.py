"""Evaluations: replayable, resumable, shardable, and unable to flatter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import (
    CLIPS,
    FACTOR,
    PASSES,
    Cut,
    Ear,
    Halver,
    assert_alike,
    measured,
    register,
    system,
)
from torch import Tensor

import audiopure
from audiopure import InputError, audio
from audiopure.atomic import write_text
from audiopure.attacks import PAPER_BUDGETS
from audiopure.attacks.objective import randomised
from audiopure.cli import attack as attack_command
from audiopure.cli import audit, demo, tune
from audiopure.evaluation import engine, running
from audiopure.evaluation.auditing import rows as audits
from audiopure.evaluation.card import Card
from audiopure.evaluation.engine import Evaluation, EvaluationConfig
from audiopure.evaluation.evaluate import evaluate, merge
from audiopure.evaluation.recordings import NOT_ADAPTIVE
from audiopure.evaluation.report.page import PURIFIED
from audiopure.purifier import Purifier


@pytest.fixture(autouse=True)
def protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def prepared(data: Path, folder: Path, **changes: Any) -> Evaluation:
    settings = {"system": "Defended", "data": data, "protocol": "tiny", "limit": CLIPS} | changes
    return Evaluation.prepare(EvaluationConfig(**settings), folder, model=system())


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Card]]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        card = evaluate(system(), data, protocol="tiny", limit=CLIPS, output=folder)
    yield folder, card


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
        assert row.gradient is not None and row.gradient.verdict == "exact", row.key
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
    work = prepared(data, tmp_path / "other", seed=1)
    assert work.plan.digest != prepared(data, tmp_path / "other", seed=0).plan.digest


def test_a_run_goes_on_where_it_was(
    whole: tuple[Path, Card], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, card = whole
    assert "sources" not in card.machine
    monkeypatch.setattr(engine, "source", lambda: "of another state")
    lines = (folder / "outcomes.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (7, len(lines) - 1):
        resumed = tmp_path / str(kept)
        resumed.mkdir()
        for name in ("plan.json", "audit.json"):
            (resumed / name).write_bytes((folder / name).read_bytes())
        # a batch is written as a whole, but the line that a kill cuts off must not matter
        (resumed / "outcomes.jsonl").write_bytes(
            b"".join(lines[:kept]) + lines[min(kept, len(lines) - 1)][:20]
        )
        again = evaluate(system(), data, protocol="tiny", limit=CLIPS, output=resumed)
        assert measured(again) == measured(card)
        assert again.machine["sources"] == [card.machine["source"], "of another state"]


def test_shards_make_the_whole(whole: tuple[Path, Card], data: Path, tmp_path: Path) -> None:
    folders = []
    for number in (1, 2, 3, 4):  # six clips: two of the shares have one only
        work = prepared(data, tmp_path / str(number), shard=(number, 4))
        work.begin()
        audits.store(audits.stored(whole[0]), work.folder)
        running.run(work)
        assert any("shard" in flag.sentence for flag in running.finish(work, {}).flags)
        folders.append(work.folder)
    some = merge(folders[:2], tmp_path / "some")
    assert any("Not complete" in flag.sentence for flag in some.flags)
    united = merge(folders, tmp_path / "some")  # again, with what was missing
    assert_alike(measured(united), measured(whole[1]))  # other batches: sums round differently
    assert united.data.shard is None and (tmp_path / "some" / "index.html").is_file()
    again = prepared(data, tmp_path / "some")  # the merged folder is one like any other
    assert running.total(again, dict.fromkeys(running.estimate(again), 1.0), 1) == pytest.approx(
        sum(not m for m in _met(whole[1]))
    )
    with pytest.raises(InputError, match="other settings"):
        other = prepared(data, tmp_path / "5", seed=5)
        other.begin()
        merge([folders[0], other.folder], tmp_path / "no")
    with pytest.raises(InputError, match="holds no evaluation"):
        merge([data], tmp_path / "no")
    with pytest.raises(InputError, match="one of the shards"):
        merge(folders, folders[0])


def test_a_merge_keeps_the_examples_in_order_and_their_audio_whole(
    whole: tuple[Path, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, card = whole
    assert sum(example.condition.endswith(PURIFIED) for example in card.examples) > 8
    assert merge([folder], tmp_path / "one").examples == card.examples
    for example in card.examples:
        assert (tmp_path / "one" / example.audio).read_bytes() == (folder / example.audio).read_bytes()

    def interrupted(path: Path, data: bytes) -> None:
        path.open("wb").write(data[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge([folder], tmp_path / "two")
    assert (tmp_path / "two" / "audio").is_dir() and not list((tmp_path / "two").rglob("*.flac"))


def _met(card: Card) -> list[bool]:
    """For each clip that the stage for survivors could meet, whether it did."""
    pairs = [(clip, column) for clip in card.clips[:4] for column in ("linf", "l2")]
    return [f"again/{column}" in clip.right["system"] for clip, column in pairs]


def test_a_folder_of_anything_else_is_refused(whole: tuple[Path, Card], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other settings"):
        prepared(data, whole[0], seed=3).begin()
    (tmp_path / "thesis.tex").write_text("chapter one")
    with pytest.raises(InputError, match="something else"):
        prepared(data, tmp_path).begin()
    with pytest.raises(InputError, match="is a file"):
        prepared(data, tmp_path / "thesis.tex").begin()


WRITERS = [write_text, *(module.write_text for module in (attack_command, audit, demo, tune))]


@pytest.mark.parametrize("write", WRITERS)
def test_a_write_that_fails_changes_nothing(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write(path, "as it was")
    with pytest.raises(UnicodeEncodeError):
        write(path, "half\ud800")
    assert path.read_text() == "as it was" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["plan.json", "audit.json", "outcomes.jsonl"])
def test_damage_is_told_in_a_sentence(
    name: str, whole: tuple[Path, Card], data: Path, tmp_path: Path
) -> None:
    for path in whole[0].glob("*.json*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text("@" + text)
    with pytest.raises(InputError, match=f"{name}.* damaged"):
        evaluate(system(), data, protocol="tiny", limit=CLIPS, output=tmp_path)
    with pytest.raises(InputError, match=f"{name}.* damaged"):
        merge([tmp_path], tmp_path / "united")


def test_other_weights_or_other_sound_are_another_evaluation(
    whole: tuple[Path, Card], data: Path, tmp_path: Path
) -> None:
    """Numbers of a model before it was trained on, or of clips that were cut anew, are not shown again."""
    before = prepared(data, tmp_path).plan.digest
    trained = system()
    with torch.no_grad():
        next(trained.parameters()).add_(1e-3)
    louder = system()
    louder.purifier.n_star = 3
    for changed in (trained, louder):
        config = prepared(data, tmp_path).config
        assert Evaluation.prepare(config, tmp_path, model=changed).plan.digest != before
    copy = tmp_path / data.name
    shutil.copytree(data, copy)
    assert prepared(copy, tmp_path).plan.digest == before
    first = next(copy.rglob("*.wav"))
    wave, rate = audio.read(first)
    audio.write(first, 0.5 * wave, rate)
    assert prepared(copy, tmp_path, limit=12).plan.digest != prepared(data, tmp_path, limit=12).plan.digest


def test_the_users_model_stays_as_it_was(data: Path) -> None:
    model = system().train()
    model.purifier.eval()
    model.model.weight.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    audiopure.evaluate(model, data, protocol="tiny", limit=2)
    assert model.training and model.model.training and not model.purifier.training
    assert model.model.weight.requires_grad and model.model.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model._noise is None


def test_the_estimate_is_timed_in_the_threads_of_one_worker(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(work: Evaluation) -> None:
        raise TimeoutError(f"{torch.get_num_threads()} of 4 threads")

    monkeypatch.setattr(running, "estimate", timed)
    with running.using_threads(4), pytest.raises(TimeoutError, match="2 of 4"):
        settings: dict[str, Any] = {"protocol": "tiny", "limit": 2, "workers": 2}
        evaluate("evaluation_helpers:Ear", data, **settings, progress=lambda sentence: None)


def test_what_cannot_be_evaluated(data: Path, tmp_path: Path) -> None:
    class Short(Ear):
        labels = ("yes", "no")

    for words, message in (
        ({"system": Short()}, "gives 3 logits and names 2 labels"),
        ({"limit": -1}, "limit"),
        ({"seed": 2**64}, "seed"),
        ({"workers": 2}, "by name"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(**{"system": Ear(), "data": data, "protocol": "tiny"} | words)  # type: ignore[arg-type]


def test_a_system_at_8_khz_with_labels_that_the_data_lack(tmp_path: Path) -> None:
    class Telephone(Ear):
        labels, sample_rate = ("nobody", "yes", "no", "up", "noise"), 8000

        def forward(self, waveform: Tensor) -> Tensor:
            scores = super().forward(waveform)
            return torch.cat([scores[:, :1] - 9, scores, scores[:, :1] - 9], 1)

    for k, label in enumerate(("yes", "no", "up", "perhaps")):
        for seconds in (0.05, 1.7):
            wave = 0.05 * audiopure.SeededNoise(k).normal((1, int(16_000 * seconds)), draw=0)[0]
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            audio.write(tmp_path / "in" / label / f"{seconds}.wav", wave.clamp(-1, 1), 16_000)
    card = evaluate(Telephone(), tmp_path / "in", protocol="tiny", limit=1000, output=tmp_path / "out")
    assert len(card.clips) == 6 and "2 clips with labels" in (card.data.note or "")
    assert {headline.attacked.average.n for headline in card.rows[0].headlines} == {6}
    kept = next((tmp_path / "out/audio/system/clean").glob("*1_7*.flac"))
    assert audio.read(kept)[1] == 8000


def test_a_broken_gradient_stops_the_evaluation_or_stands_on_the_card(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gradient of .* is broken"):
        evaluate(Cut(), data, protocol="tiny", limit=2, output=tmp_path)
    assert not (tmp_path / "outcomes.jsonl").exists()
    card = evaluate(Cut(), data, protocol="tiny", limit=2, output=tmp_path, allow_broken_gradient=True)
    assert card.rows[0].gradient is not None and card.rows[0].gradient.verdict == "broken"
    assert card.flags[0].kind == "violation" and "broken" in card.flags[0].sentence
    with pytest.raises(InputError, match=r"gradient of .* is broken"):  # what was allowed once stays broken
        evaluate(Cut(), data, protocol="tiny", limit=2, output=tmp_path)


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
    card = evaluate(system(), data, protocol="tiny", limit=2, knowledge="DW_both")
    row = card.rows[0]
    assert {condition.attacked.passes for condition in row.conditions} == {1}
    assert all("DW_both" in (condition.note or "") for condition in row.conditions)
    assert card.rows[1].conditions[1].note is None  # nothing to know of the undefended model
    with pytest.raises(InputError, match="there is no setting 'all'"):
        evaluate(system(), data, protocol="tiny", limit=2, knowledge="all")
    with pytest.raises(InputError, match="there is no setting 'all'"):
        evaluate(Ear(), data, protocol="tiny", limit=2, knowledge="all")  # nor of a fixed one


def test_randomness_is_recognised() -> None:
    class Dither(Ear):
        def forward(self, waveform: Tensor, noise: audiopure.SeededNoise | None = None) -> Tensor:
            return super().forward(waveform)

    assert randomised(system()) and not randomised(Ear()) and randomised(Dither())
    assert randomised(audiopure.defend(Dither(), Purifier(Halver(), n_star=0)))
    assert not randomised(audiopure.defend(Ear(), Purifier(Halver(), n_star=0)))


def test_no_transfer_without_a_surrogate(data: Path, tmp_path: Path) -> None:
    work = prepared(data, tmp_path, protocol="standard")  # the data has no training split
    keys = [condition.key for condition in work.plan.rows[0].conditions]
    assert "square/linf" in keys and not any(key.startswith("transfer") for key in keys)
    assert "No transfer attack" in (work.plan.protocol.note or "") and not work.needs_surrogate


@pytest.mark.parametrize("before", [False, True])
def test_threads_and_denormals_are_set_for_a_run_and_put_back(before: bool) -> None:
    smallest, threads = torch.tensor([torch.finfo(torch.float32).tiny]), torch.get_num_threads()
    torch.set_flush_denormal(before)
    try:
        with running.using_threads(threads + 1):
            assert torch.get_num_threads() == threads + 1 and float(smallest / 2) == 0
        assert torch.get_num_threads() == threads and (float(smallest / 2) == 0) is before
    finally:
        torch.set_flush_denormal(True)  # as all other tests have it
