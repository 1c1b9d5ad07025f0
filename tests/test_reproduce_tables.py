"""Cells of the paper's tables: what stands beside what, which rows run smaller, what is measured apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from card_factory import condition, curve, full_card, make_card, share
from certify_helpers import written
from scipy.stats import beta
from torch import Tensor, nn

from audiopure import hub
from audiopure.api import load_recogniser
from audiopure.cli.main import main
from audiopure.data.synthetic import write_dataset
from audiopure.evaluation.card import Card
from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.reproduce import (
    budget_runs,
    budget_tables,
    certified_pictures,
    certified_tables,
    costs,
    defence_tables,
    experiments,
    pictures,
    ranking,
    rows,
    stolen,
    trained,
)
from audiopure.evaluation.reproduce.entries import Entry
from audiopure.evaluation.reproduce.estimates import Estimates, Pass
from audiopure.evaluation.reproduce.experiments import EXPERIMENTS
from audiopure.evaluation.reproduce.jobs import Place, evaluation, keep
from audiopure.evaluation.reproduce.published import MAIN
from audiopure.evaluation.stages import STILL
from audiopure.training.wavegan import WaveGanConfig

PLAIN = np.ones((30, 1), dtype=bool)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sc09"
    write_dataset(folder, clips_per_label=6, seed=0)
    return folder


@pytest.fixture
def place(tmp_path: Path, data: Path) -> Place:
    return Place(data, tmp_path / "records", tmp_path / "work", 1)


def store(card: Card, records: Path, name: str) -> None:
    keep(json.loads(card.model_dump_json(by_alias=True)), records / f"{name}.json")


def row_of(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def paper_card(route: str) -> Card:
    """A card of the protocol `paper`: 20 and 15 of 30 clips after 10 steps, 24 without an attack."""
    card = make_card({"system": {"clean": PLAIN, "as-written/linf": PLAIN, STILL: PLAIN}})
    first = card.rows[0]
    conditions = [
        condition("as-written/linf", PLAIN, PLAIN, route=route) if c.key == "as-written/linf" else c
        for c in first.conditions
    ]
    conditions = [
        c.model_copy(update={"any_iterate": share(24, 30)}) if c.key == STILL else c for c in conditions
    ]
    curves = [curve("any-iterate", "linf", [(10, count)]) for count in (20, 15)]
    changed = first.model_copy(update={"conditions": conditions})
    return card.model_copy(update={"rows": [changed], "curves": curves})


def test_the_papers_protocol_has_intervals_draws_without_attack_and_both_gradients(tmp_path: Path) -> None:
    store(paper_card("adjoint"), tmp_path, "paper-n3")
    store(paper_card("exact"), tmp_path, "paper-none")
    text = defence_tables.defences((rows.NONE, rows.PURIFIED), [("linf", 10)], tmp_path, tmp_path)
    low, high = (round(100 * float(beta.ppf(*one))) for one in ((0.025, 20, 11), (0.975, 21, 10)))
    assert row_of(text, "none")[4] == f"67 (3)<br>[{low}, {high}]"
    assert row_of(text, "none")[3].startswith("80<br>[")
    name = rows.PURIFIED.title
    assert row_of(text, f"{name}, as released")[4].startswith("67 (89)<br>")
    assert row_of(text, f"{name}, as written")[4].startswith("50<br>")
    assert "none, as" not in text  # exact by either route: one row
    store(paper_card("adjoint"), tmp_path, "paper-diffspec")
    text = defence_tables.defences(rows.SPECTRAL, [("linf", 10)], tmp_path, tmp_path)
    assert row_of(text, "DiffSpec, small, as released")[4].startswith("67<br>")
    assert row_of(text, "DiffSpec, small, as written")[4].startswith("50 (92)<br>")


def test_a_row_is_compared_clip_by_clip_with_the_one_it_stands_beside(tmp_path: Path) -> None:
    for key, right in (("noise-only", 12), ("n3", 21)):
        left = np.arange(30)[:, None] < right
        card = make_card({"system": {"clean": PLAIN, "pgd-ce/linf": left, "pgd-ce/l2": left}})
        store(card, tmp_path, f"standard-{key}")
    notes = list(defence_tables.remarks([rows.NOISE_ONLY, rows.PURIFIED], tmp_path, tmp_path))
    (said,) = [note for note in notes if "clip by clip" in note]
    # nine clips, all to one side: 2 / 2^9
    assert said.startswith("AudioPure, compact, n*=3 against forward noise only, n*=3, `standard`")
    assert "clean 0.0 points" in said and "L∞ ≤ 0.002 +30.0 points" in said and "p=0.0039" in said
    assert not any(
        "clip by clip" in note for note in defence_tables.remarks([rows.PURIFIED], tmp_path, tmp_path)
    )


def test_rows_run_at_their_own_size_and_say_so(tmp_path: Path) -> None:
    small = Entry("small", "smaller", "digits", None, "smaller, for a reason", "quick", {"quick": 20})
    found = {(job.name, *job.words[3:]) for job in defence_tables.jobs([small], tmp_path, black_box=True)}
    assert found == {
        ("paper-small", "paper", "--limit", "100"),
        ("quick-small", "quick", "--limit", "20"),
        ("black-box-small", "black-box", "--limit", "50"),
    }
    store(full_card(), tmp_path, "quick-small")
    text = defence_tables.defences([small], [("linf", 10)], tmp_path, tmp_path)
    assert "| smaller | `quick`, 30 clips |" in text  # as many as the record has
    assert "- smaller: smaller, for a reason." in text
    assert "| none | `standard`, 100 clips |" in defence_tables.defences([rows.NONE], [], tmp_path, tmp_path)


def test_every_row_that_is_smaller_than_the_papers_or_usual_says_why() -> None:
    for entry in (*rows.ALL, *rows.OTHER_CLASSIFIERS):
        assert entry.note or (not entry.clips and entry.exact == "standard"), entry.key
    noted = {entry.key for entry in (*rows.ALL, *rows.OTHER_CLASSIFIERS) if entry.note}
    smaller = {"n3", "diffspec", "defence-gan", "tasnet-offline", "tasnet-joint", "resnext29-8-4-n3"}
    assert smaller | {"wideresnet28-2-none", "ssp", "composed"} <= noted


def test_fakebob_stands_beside_the_papers_with_what_was_wrong_with_it(tmp_path: Path) -> None:
    card = make_card({"system": {"clean": PLAIN, "fakebob/linf": PLAIN, "transfer/linf": PLAIN[:, :]}})
    store(card, tmp_path, "black-box-none")
    text = defence_tables.defences([rows.NONE], [], tmp_path, tmp_path, black_box=True)
    exact = text.split("\n\n")[2]
    assert row_of(exact, "none")[5:7] == ["100.0 [88, 100] (21)", "100.0 [88, 100]"]
    assert "halves its step after every five iterations of progress" in text
    assert MAIN["none"].fakebob == 21


def log(scores: list[float]) -> list[dict[str, float]]:
    return [{"step": 100 * (k + 1), "score": score} for k, score in enumerate(scores)]


def weights(path: Path, seconds: float, initial: str | None, scores: list[float]) -> None:
    """Weights of a purifier that cost so much on two threads, with the log of their run."""
    net = hub.load("small", kind="denoiser")
    cost = {"seconds": seconds, "processes": 1, "threads": 2, "machine": "here"}
    card = {"recipe": "purifier", "config": {"initial": initial}, "cost": cost, "parameters": 1_000_000}
    card |= {"change": 0.0123, "flattened": False}
    hub.save(net, path, kind="denoiser", card={**card, "validation": {"step": 300}})
    path.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(scores)))


def test_training_costs_are_summed_over_what_a_system_is_made_of(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    weights(folder / "purifier-small-ssp.safetensors", 3600, "small", [0, 1, 2, 3, 4, 5, 6, 7, 8, 10])
    trained.measure(place, folder)
    known = trained.facts(place.records)
    assert trained.spent("purifier-small-ssp", known) == 2 * 3600 + trained.EARLIER["small"]
    ssp = next(entry for entry in rows.TUNED if entry.key == "ssp")
    assert costs.training(ssp, place.records) == f"{(7200 + 10_200) / 3600:.1f}"
    assert costs.training(rows.PURIFIED, place.records) == f"{10_200 / 3600:.1f}"
    assert costs.training(rows.NONE, place.records) == "none"
    assert costs.training(rows.NOISE_ONLY, place.records) == "none"  # its network does nothing
    composed = next(entry for entry in rows.ADVERSARIAL if entry.key == "composed")
    assert costs.training(composed, place.records) == "unknown (digits-adversarial)"
    cells = row_of(trained.trainings(place.records), "`purifier-small-ssp`")
    assert cells[1:] == ["`purifier`", "1.00 M", "1,000", "300", "2.0", "1.2 %", "no"]
    assert "ssp: its validation had not flattened" in "".join(
        defence_tables.remarks([ssp], place.records, folder)
    )
    for path in folder.iterdir():  # tables need no weights, nor does a log vanish with its file
        path.unlink()
    trained.measure(place, folder)
    assert trained.facts(place.records) == known
    trained.draw(place.records, tmp_path / "training.svg")
    assert "purifier-small-ssp" in (trained.caption(place.records) or ("", ""))[0]


def test_the_ranking_names_what_is_not_measured(tmp_path: Path) -> None:
    store(full_card(), tmp_path, "standard-low-pass")
    timed = {"low-pass": {"seconds": 0.01, "machine": "here", "threads": 1, "clips": 30}}
    keep(timed, tmp_path / "defence-costs.json")
    entries = [rows.NONE, *rows.TRANSFORMATIONS]
    text = ranking.ranked(entries, tmp_path)
    assert row_of(text, "**low-pass (LPF)**")[-3:] == ["none", "10.0", "not run"]  # beside no undefended row
    lacking = text.split("Not yet measured: ")[1].rstrip(".").split("; ")
    assert lacking == [entry.name for entry in entries if entry.key != "low-pass"]
    averages = [full_card().rows[0].headlines[k].attacked.average.value for k in (0, 1)]
    words = " and ".join(f"{100 * value:.0f}" for value in averages)
    assert f"low-pass (LPF) {words} % at 10 ms" in (ranking.caption(entries, tmp_path) or ("", ""))[0]


def ranked_entries(records: Path, timed: Mapping[str, tuple[float, int]]) -> list[Entry]:
    """Entries of which so many of 30 clips survive, by seconds of an answer."""
    costs = {}
    for key, (seconds, right) in timed.items():
        left = np.arange(30)[:, None] < right
        card = make_card({"system": {"clean": PLAIN, **{f"pgd-ce/{norm}": left for norm in ("linf", "l2")}}})
        store(card, records, f"standard-{key}")
        costs[key] = {"seconds": seconds, "machine": "here", "threads": 1, "clips": 30}
    keep(costs, records / "defence-costs.json")
    return [Entry(key, key, "digits") for key in timed]


def test_defences_are_ranked_by_what_they_give_a_millisecond(tmp_path: Path) -> None:
    timed = {"none": (0.01, 3), "slow": (0.04, 24), "quick": (0.02, 18), "worse": (0.04, 21)}
    entries = ranked_entries(tmp_path, timed)
    text = ranking.ranked(entries, tmp_path)
    titles = [line.split("|")[1].strip() for line in text.splitlines()[2:6]]
    assert titles == ["**quick**", "**slow**", "worse", "**none**"]
    # (18 - 3) / 30 of all clips more, in 20 ms; 21 clips in 40; 18 in 40
    assert [row_of(text, title)[-1] for title in titles] == ["2.50", "1.75", "1.50", "0.00"]


def test_systems_without_draws_are_level_lines(tmp_path: Path) -> None:
    sweep = [curve("eot", "l2", [(1, 20), (20, 15)])]
    store(full_card().model_copy(update={"curves": sweep}), tmp_path, "standard-n3")
    fixed = make_card({"system": {"clean": PLAIN, "pgd-ce/l2": PLAIN}})
    counts = [(0, 30.0), (20, 6.0), (100, 3.0)]
    curves = [curve("any-iterate", norm, counts) for norm in ("linf", "l2")]
    store(fixed.model_copy(update={"curves": curves}), tmp_path, "standard-none")
    found = pictures.lines("eot", (rows.NONE, rows.PURIFIED), tmp_path)
    assert {title: list(drawn) for title, drawn in found.items()} == {
        "none": ["l2"],
        rows.PURIFIED.name: ["l2"],
    }
    assert [point.y.value for point in found["none"]["l2"]] == [6 / 30]
    pictures.against("eot", (rows.NONE, rows.PURIFIED), tmp_path, tmp_path / "figure2b.svg")
    alt, words = pictures.against_caption("eot", (rows.NONE, rows.PURIFIED), tmp_path) or ("", "")
    assert "none 20 % (L2)" in alt and "50 % (L2)" in alt and "30 clips" in words


def test_certified_rows_have_their_own_clips_draws_and_intervals(tmp_path: Path) -> None:
    found: Mapping[str, Certificates] = {
        "vanilla-0.5": written([0.1, 0.6, 0.8, 2.0], 10_000),
        "one-shot-0.5": written([0.1] * 10, 500),
    }
    for name, one in found.items():
        keep(json.loads(one.model_dump_json(by_alias=True)), tmp_path / "certificates" / f"{name}.json")
    text = certified_tables.certified(tmp_path / "records", tmp_path)
    first = row_of(text, "RS-Vanilla")
    low, high = (round(100 * float(beta.ppf(*one))) for one in ((0.025, 3, 2), (0.975, 4, 1)))
    assert first[1:4] == ["0.5", "4", "10,000"] and first[5] == f"75 (21)<br>[{low}, {high}]"
    second = row_of(text, "AudioPure, compact, one-shot")
    assert second[1:4] == ["0.5", "10", "500"] and second[5].startswith("0 (40)<br>[0, ")
    assert "digits-noisy" in text and "alpha 0.001" in text


def test_the_envelope_has_the_best_sigma_and_says_what_is_lacking(tmp_path: Path) -> None:
    found = {
        "fine-tuned-0.1": written([0.2, 0.2, 0.2, 0.05], 1000, 0.1),
        "fine-tuned-0.5": written([1.1, 0.9, 0.0, 0.0], 1000, 0.5, "fp32"),
    }
    records, picture = tmp_path / "records", tmp_path / "envelope.svg"
    assert certified_tables.enveloped(records) == "Not run."
    for name, one in found.items():
        keep(json.loads(one.model_dump_json(by_alias=True)), tmp_path / "certificates" / f"{name}.json")
    text = certified_tables.enveloped(records)
    tuned = row_of(text, "AudioPure, compact, recogniser tuned on it")
    cells = dict(zip(certified_tables.ENVELOPE, tuned[1:], strict=True))
    assert [cells[r].split()[0] for r in (0.05, 0.1, 0.5, 1.0)] == ["100", "75", "50", "25"]
    assert cells[1.25] == ""  # sigma 1, which was not run, might
    assert [cells[r].split("<br>")[1] for r in (0.05, 0.1, 0.5, 1.0)] == ["0.1", "0.1", "0.5", "0.5"]
    assert row_of(text, "published (AudioPure, sigma 1)")[1:] == [
        *["27", "", "", "", "", "22", "16", "15", "12", "11", "8"]
    ]
    assert "Bases run in bf16, but in fp32 AudioPure, compact, recogniser tuned on it: 0.5." in text
    assert "recogniser tuned on it: 0.005, 0.01, 0.025, 0.05, 0.25, 1." in text
    certified_pictures.envelope(records, picture)
    caption = certified_pictures.envelope_caption(records)
    assert picture.is_file() and caption is not None and "75 % at 0.1, 50 % at 0.25" in caption[0]


def test_budgets_of_the_papers_protocol_are_measured_once_and_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget_runs, "wanted", lambda: iter([(0, 0.002), (0, 0.5), (1, 0.002)]))
    said: list[str] = []
    budget_runs.measure(place, said.append, clips=10)
    record = json.loads((place.records / "paper-budgets.json").read_text())
    assert len(said) == 3 and {one["clips"] for one in record["cells"].values()} == {10}
    assert record["cells"]["n_star=0/eps=0.5"]["right"] == 0  # at such a budget nothing is left
    assert budget_runs.attack(3, 0.002).route == "network-constant"
    del record["cells"]["n_star=0/eps=0.002"]
    keep(record, place.records / "paper-budgets.json")
    budget_runs.measure(place, said.append, clips=10)
    assert len(said) == 4  # only what was missing
    text = budget_tables.by_steps_as_paper(place.records)
    value = budget_runs.share(place.records, 1, 0.002)
    assert value is not None and f"{100 * value.value:.0f} (94)<br>[" in row_of(text, "0.002")[2]
    assert row_of(text, "0.008")[3] == "not run (70)" and "share of 10 clips" in text


class Constant(nn.Module):
    """Hears the same in every clip."""

    labels, sample_rate = load_recogniser().labels, 16_000

    def __init__(self, label: int):
        super().__init__()
        self.label = label

    def forward(self, waveform: Tensor) -> Tensor:
        logits = waveform.sum(-1, keepdim=True) * 1e-9
        return nn.functional.one_hot(torch.tensor(self.label), 10) + logits.expand(-1, 10)


def test_what_breaks_a_stolen_copy_is_scored_on_both(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stolen, "CLIPS", 10)
    monkeypatch.setattr(stolen, "PASSES", 2)
    stolen.measure(place, lambda sentence: None, (1,), network="m5", clips=20, steps=4, batch=8)
    record = json.loads((place.records / "stolen.json").read_text())
    assert record["levels"]["1"]["clips"] == 10 and (place.work / "stolen-n1.safetensors").is_file()
    found = stolen._transferred(Constant(3), Constant(4), Constant(3).eval(), place)
    # the copy says what the system says; each is right on the one clip in ten that is its label
    assert found["agreed"] == 10 and found["vanilla"] == found["defended"]
    assert found["defended"] == {"clean": 1.0, "linf": 1.0, "l2": 1.0}
    keep(record | {"levels": {"1": found}}, place.records / "stolen.json")
    text = stolen.transfers(place.records)
    assert row_of(text, "AudioPure, compact, n*=1")[1:3] == ["100.0 [69, 100]", "10.0 [0, 45]"]
    assert row_of(text, "published, n*=5") == ["published, n*=5", "98", "100", "58", "", "96", "94", ""]


def test_costs_are_estimated_from_a_pass_of_each_system() -> None:
    asked: list[nn.Module] = []

    def timer(model: nn.Module, device: str) -> Pass:
        asked.append(model)
        return Pass(2.0, 1.0)

    estimates = Estimates(timer=timer)
    # PGD-100 in both norms with three looks, by one route as there is no purifier; of a fixed system no
    # attack and noise take one pass; one more scores each, and the clean clip
    found = estimates.hours(evaluation("a", "digits", "paper", 10))
    assert found == pytest.approx(10 * (2 * (100 * 2 + 3 + 1) + 3 * (1 + 1) + 1) / 3600)
    assert len(asked) == 1
    more = estimates.hours(evaluation("b", "digits", "paper", 20))
    assert more == pytest.approx(2 * found) and len(asked) == 1  # no system is timed twice
    longer = estimates.hours(evaluation("l", "digits", "paper", 10, "wakewords", 3.0))
    assert longer == pytest.approx(3 * found)
    words = ("--system", "digits", "--sigma", "0.5", "--limit", "10", "--n", "360")
    assert estimates.hours(evaluation("c", "digits", "x")._replace(command="certify", words=words)) == 1


def test_all_writes_what_has_records_and_names_the_rest(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn = {name: one for name, one in EXPERIMENTS.items() if name not in ("figure1", "figureB")}  # slow
    monkeypatch.setattr(experiments, "EXPERIMENTS", drawn)
    store(full_card(), place.records, "standard-none")
    words = ["reproduce", "all", "--data", place.data, "--records", place.records, "-o", tmp_path / "out"]
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words), "--tables-only"])
    assert stopped.value.code in (0, None)
    written = {path.stem for path in (tmp_path / "out").glob("*.md")}
    assert written == set(drawn) - {"figureA"}  # which has nothing to draw yet
    assert "figureA: there is no record to draw yet" in capfd.readouterr().err
    assert "![Accuracy against attack steps" in (tmp_path / "out" / "figure2a.md").read_text()


SCRIPT = """
import sys
from pathlib import Path
from audiopure.evaluation.reproduce.jobs import Job, Place, carry_out
data, folder = map(Path, sys.argv[1:])
words = ("--system", "digits", "--sigma", "0.1", "--limit", "3", "--n", "400")
print(carry_out([Job("slow", "certify", words)], Place(data, folder / "records", folder / "work", 1)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_leaves_no_process_and_goes_on(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(data), str(tmp_path)]
    journal = tmp_path / "work" / "slow"
    begun = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in journal.glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert children and not (tmp_path / "certificates").exists()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    kept = sum(path.stat().st_size for path in journal.glob("*.jsonl"))
    again = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True
    )
    assert again.stdout.split()[-1] == b"0" and kept > 0
    record = json.loads((tmp_path / "certificates" / "slow.json").read_text())
    assert len(record["clips"]) == 3


def test_notes_on_size_are_those_of_the_recipes() -> None:
    recipes = Path(__file__).parents[1] / "recipes"
    names = ("diffspec-digits", "wavegan-digits")
    spectral, gan = (tomllib.loads((recipes / f"{name}.toml").read_text()) for name in names)
    unet = spectral["unet"]
    size = f"width {unet['width']} with one block a level, {spectral['steps']:,} steps of {spectral['batch']}"
    assert unet["blocks"] == 1 and all(size in entry.note for entry in rows.SPECTRAL[:1])
    updates = gan["steps"] // WaveGanConfig(**gan).turns
    assert f"{updates:,} updates of the generator" in rows.OTHER_DENOISERS[0].note
