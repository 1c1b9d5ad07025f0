"""The paper's tables and figures: their published numbers, what they need, and how they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from card_factory import curve, full_card

from audiopure import InputError
from audiopure.cli.main import main
from audiopure.data.synthetic import write_dataset
from audiopure.defended import Defended
from audiopure.evaluation.reproduce import cost_table, costs, entries, published, rows
from audiopure.evaluation.reproduce.costs import seconds
from audiopure.evaluation.reproduce.experiments import EXPERIMENTS, experiment
from audiopure.evaluation.reproduce.jobs import Job, Place, carry_out, evaluation, keep, missing
from audiopure.evaluation.reproduce.reading import iterate, json_record
from audiopure.hub import digest as digest_of
from audiopure.nets.diffwave import DiffWave
from audiopure.systems import load_system
from audiopure.training.config import read_config
from audiopure.training.run import RECIPES

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = [*rows.ALL, *rows.OTHER_CLASSIFIERS, *rows.WAKEWORDS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sc09"
    write_dataset(folder, clips_per_label=3, seed=0)
    return folder


@pytest.fixture
def place(tmp_path: Path, data: Path) -> Place:
    return Place(data, tmp_path / "records", tmp_path / "work", 1)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *map(str, words)])
    return int(stopped.value.code or 0)


def test_every_table_and_figure_of_the_paper_has_its_name() -> None:
    tables = [f"table{name}" for name in "12345ABCDEFG"]
    figures = [f"figure{name}" for name in ("1", "2a", "2b", "A", "B")]
    assert set(EXPERIMENTS) == {*tables, *figures, "envelope", "ranking", "training"}
    for name, found in EXPERIMENTS.items():
        assert (found.text is not None) == (not name.startswith("figure"))
        assert (found.picture is not None) == (not name.startswith("table"))
    with pytest.raises(InputError, match="there are: table1"):
        experiment("table9")


def test_published_rows_are_complete_and_the_headlines_are_those_of_the_abstract() -> None:
    for name, row in published.MAIN.items():
        expected = 11 if name == "diffspec" else 12
        assert len(row.robust) == expected and all(0 <= value <= 100 for value in row.robust.values())
    purified = published.MAIN["n3"].robust
    assert purified["linf", 70] == purified["linf", 100] == purified["l2", 100] == 84
    assert published.MAIN["advtr"].robust["linf", 100] == 71
    assert all(len(values) == len(published.RADII) for values in published.CERTIFIED.values())
    # no certified accuracy grows with the radius
    assert all(list(v) == sorted(v, reverse=True) for v in published.CERTIFIED.values())


def test_every_row_names_a_system_or_the_recipe_that_trains_it() -> None:
    assert len({entry.key for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert set(entry.weights) <= set(entries.WEIGHTS)
        if not entry.weights:
            assert load_system(entry.system).labels
    for command in entries.WEIGHTS.values():
        recipe, option, config = command.split()
        assert option == "--config"
        read_config(ROOT / config, RECIPES[recipe].config)


def test_what_has_a_record_is_not_run_again_and_one_failure_does_not_end_all(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    done, refused = evaluation("done", "digits", "quick"), evaluation("refused", "nothing", "quick")
    keep({"examples": [{"audio": "a.wav"}], "value": 1}, place.record(done))
    assert json.loads(place.record(done).read_text()) == {"examples": [], "value": 1}
    assert missing([done, refused, refused], place) == [refused]
    assert carry_out([done], place) == 0
    words = ("--system", "digits", "--sigma", "0.1", "--limit", "10", "--n", "100")
    write_dataset(place.data.parent / "beside", clips_per_label=3, seed=1)
    assert carry_out([refused, Job("later", "certify", words, "beside")], place) == 2
    assert "no weights at 'nothing'" in capfd.readouterr().err and not place.record(refused).is_file()
    later = (place.records.parent / "certificates" / "later.json").read_text()
    assert json.loads(later)["settings"]["n"] == 100
    assert json.loads(later)["settings"]["data"] == json.loads(later)["data"]["name"] == "beside"
    assert "--data beside " in json.loads(later)["command"] and str(place.data.parent) not in later


def test_a_record_of_other_weights_is_run_again(place: Place) -> None:
    job = EXPERIMENTS["table1"].jobs(Path("weights"))[0]
    path = place.record(job)
    path.parent.mkdir()
    for digest, expected in ((digest_of("digits"), []), ("0" * 16, [job])):
        path.write_text(json.dumps({"weights": {"digits": digest, "gone.safetensors": "1" * 16}}))
        assert missing([job], place) == expected
    path.write_text('{"weights": ')
    with pytest.raises(InputError, match="damaged"):
        missing([job], place)


def test_weights_are_found_or_how_to_train_them_is_told(tmp_path: Path) -> None:
    (tmp_path / "digits-advtr.safetensors").write_bytes(b"")
    system = "small+{digits-advtr}+{diffspec-digits}"
    assert entries.absent(system, tmp_path) == ["diffspec-digits"]
    assert entries.located("{digits-advtr}", tmp_path) == str(tmp_path / "digits-advtr.safetensors")
    with pytest.raises(InputError, match="neither"):
        entries.located(system, tmp_path / "a+b")
    assert "audiopure train spectrum --config" in entries.how_to_train(["diffspec-digits"])


def test_iterates_are_read_as_the_paper_counts() -> None:
    curves = [curve("any-iterate", "linf", [(0, 30), (10, 24)]), curve("any-iterate", "linf", [(10, 12)])]
    card = full_card().model_copy(update={"curves": [curve("steps", "linf", [(10, 30)]), *curves]})
    values = [iterate(card, "linf", 10), iterate(card, "linf", 10, 1)]
    assert [share and share.value for share in values] == [24 / 30, 12 / 30]
    assert iterate(card, "linf", 5) is None and iterate(card, "l2", 10) is None


def test_a_table_stands_beside_the_published_one_and_says_what_is_missing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    falling = [(k, 27 - k / 10) for k in published.STEPS]
    curves = [curve("any-iterate", column, falling) for column in ("linf", "l2")]
    paper = full_card().model_copy(update={"curves": curves})
    for name, card in (("paper-none", paper), ("standard-none", full_card())):
        keep(json.loads(card.model_dump_json(by_alias=True)), place.records / f"{name}.json")
    words = ("--data", place.data, "--records", place.records, "-o", tmp_path, "--tables-only")
    assert run("table1", *words) == 0
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("| none |"))
    average = full_card().rows[0].headlines[0].attacked.average
    assert "| 87 (3)<br>[" in row and "| 57 (0)<br>[" in row
    exact = next(line for line in text.splitlines() if line.startswith("| none | `standard`"))
    assert f"**{100 * average.value:.1f} [" in exact
    assert "Not trained: digits-advtr (`audiopure train adversarial --config" in text
    assert "--output runs/digits-advtr`); digits-adversarial (" in text
    assert "**Flagged.** none, `standard`: Accuracy rises" in text
    assert (tmp_path / "table1.md").read_text().endswith(text)
    for name in ("table2", "table3", "table4", "table5", *(f"table{c}" for c in "ABCDEFG")):
        assert run(name, *words) == 0
        written = capsys.readouterr().out
        found = [part for part in written.split("\n\n") if part.startswith("|")]
        assert found
        for head, rule, *lines in (part.splitlines() for part in found):
            assert lines and re.fullmatch(r"\| --- \|( ---: \|)+", rule)
            assert all(line.count("|") == head.count("|") for line in lines)


def test_figures_are_drawn_from_sound_and_from_records(place: Place, tmp_path: Path) -> None:
    words = ("--data", place.data, "--records", place.records, "-o", tmp_path, "--tables-only")
    for name in ("figure1", "figureB"):
        assert run(name, *words) == 0
        assert (tmp_path / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    assert "![The waveform of a word" in (tmp_path / "figureB.md").read_text()
    assert run("figure2a", *words) == 2 and run("figureA", *words) == 2
    keep(json.loads(full_card().model_dump_json(by_alias=True)), place.records / "standard-n3.json")
    for name in ("figure2a", "figure2b"):
        assert run(name, *words) == 0
        first = (tmp_path / f"{name}.svg").read_bytes()
        assert run(name, *words) == 0 and (tmp_path / f"{name}.svg").read_bytes() == first


def test_inference_is_timed_at_every_level(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []

    def timed(model: Defended, *rest: Any) -> float:
        calls: list[object] = []
        handle = model.purifier.denoiser.register_forward_hook(lambda *given: calls.append(given))
        with handle:
            found = seconds(model, *rest)
        steps.append(len(calls))
        return found

    monkeypatch.setattr(cost_table, "seconds", timed)
    monkeypatch.setattr(cost_table, "DiffWave", lambda: DiffWave(channels=4, skip_channels=4, layers=2))
    assert run("tableG", "--data", place.data, "-o", tmp_path) == 0
    record = json.loads((tmp_path / "records" / "inference-cost.json").read_text())
    assert list(record["seconds"]) == [str(n) for n in published.SECONDS]
    levels = list(published.SECONDS)
    for found, made in ((record, steps[: len(levels)]), (record["diffwave"], steps[len(levels) :])):
        calls = found["clips"] + min(costs.WARM, found["clips"])
        assert made == [n * calls for n in levels]  # a call a step, whatever it takes
        assert all(second > 0 for second in found["seconds"].values())
    assert record["diffwave"]["clips"] == cost_table.FEW
    assert f"| {record['seconds']['3']:.4f} |" in capsys.readouterr().out


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        json_record(tmp_path / "broken.json")


def test_rows_without_a_slope_say_so_and_no_others() -> None:
    ready = [entry for entry in rows.ALL if not entry.weights]
    assert len(ready) > 10
    for entry in ready:
        straight = any(getattr(part, "bpda", False) for part in load_system(entry.system).model.modules())
        assert straight is ("BPDA" in entry.title) is ("BPDA" in entry.note), entry.title


def test_references_stand_under_every_protocol_of_a_table() -> None:
    def told(*of: entries.Entry) -> list[tuple[str, str]]:
        return [(entry.key, entry.exact) for entry in entries.judged(of)]

    assert told(rows.NONE, rows.ONE_SHOT) == [("none", "standard"), ("one-shot", "standard")]
    both = told(rows.PURIFIED, rows.ONE_SHOT, *rows.TUNED[:1])
    assert both == [("n3", "standard"), ("n3", "quick"), ("one-shot", "standard"), ("ssp", "quick")]


def test_defences_are_ranked_by_what_they_withstand(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = full_card()
    weak = card.rows[1].model_copy(update={"key": "system"})
    for name, found in (("none", card.model_copy(update={"rows": [weak]})), ("low-pass", card)):
        keep(json.loads(found.model_dump_json(by_alias=True)), place.records / f"standard-{name}.json")
    chosen = EXPERIMENTS["ranking"]
    assert chosen.measure is not None
    chosen.measure(place, Path("none"), lambda sentence: None)
    timed = json.loads((place.records / "defence-costs.json").read_text())
    assert set(timed) == {"none", "low-pass"} and all(0 < one["seconds"] < 10 for one in timed.values())
    timed["none"]["machine"] = "another"
    keep(timed, place.records / "defence-costs.json")
    chosen.measure(place, Path("none"), lambda sentence: None)
    again = json.loads((place.records / "defence-costs.json").read_text())
    assert again["none"]["machine"] == again["low-pass"]["machine"] and again["low-pass"] == timed["low-pass"]
    words = ("--data", place.data, "--records", place.records, "-o", tmp_path, "--tables-only")
    assert run("ranking", *words) == 0
    titles = [line.split("|")[1].strip(" *") for line in capsys.readouterr().out.splitlines()[2:4]]
    assert titles == ["low-pass (LPF)", "none"]
    assert (tmp_path / "ranking.svg").is_file()


def test_bad_input_is_one_sentence_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("table1", "--data", tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run("table6", "--data", tmp_path) == 2
