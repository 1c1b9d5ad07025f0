"""What benchmarks tell of certificates, and of attacks on them: an abstention is not another answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from certify_helpers import written

from audiopure.evaluation.reproduce.jobs import keep

SETTINGS = [{"name": "waveform", "system": "digits", "sigma": 0.2, "n": 10_000, "alpha": 0.001}]


def test_only_another_answer_within_the_radius_contradicts_a_certificate(module: Any) -> None:
    answers = {"0.1": None, "0.25": 2, "0.5": 1, "qin": 1}
    facts: dict[str, Any] = {"setting": "waveform", "label": 2, "clean": 2, "answers": answers}
    line = module("smoothed_attacks").Line(clip="a", certified=2, radius=0.4, distance=2.0, **facts)
    assert line.contradicted == []
    assert line.model_copy(update={"radius": 0.6}).contradicted == ["0.5"]
    assert line.model_copy(update={"radius": 3.0}).contradicted == ["0.5", "qin"]
    # a certified answer that is not the label is a promise too
    assert line.model_copy(update={"certified": 1, "radius": 0.6}).contradicted == ["0.25"]
    assert line.model_copy(update={"certified": None, "radius": 0.0}).contradicted == []


def test_an_answer_that_was_wrong_without_the_attack_is_not_changed(module: Any) -> None:
    facts: dict[str, Any] = {"setting": "log-mel", "label": 2, "certified": None, "radius": 0.0}
    found = [
        {"clip": "a", "clean": 1, "answers": {"4": 1}},  # wrong before, and the same
        {"clip": "b", "clean": None, "answers": {"4": 1}},  # no answer to change
        {"clip": "c", "clean": 1, "answers": {"4": 2}},  # from a wrong to the right one
    ]
    lines = [module("smoothed_attacks").Line(**facts, **one).model_dump() for one in found]
    text = module("smoothed_tables").attacks(
        {
            "settings": [SETTINGS[0] | {"name": "log-mel", "sigma": 8.0}],
            "lines": [x | {"contradicted": []} for x in lines],
        }
    )
    row = next(row for row in text.splitlines() if row.startswith("| log-mel"))
    assert [cell.strip().split(" ")[0] for cell in row.strip("|").split("|")][6:] == ["33", "0", "33"]


def test_abstentions_and_changed_answers_stand_apart(module: Any) -> None:
    line = module("smoothed_attacks").Line
    common: dict[str, Any] = {"setting": "waveform", "label": 2, "certified": 2, "clean": 2}
    hidden: dict[str, Any] = {"attack": "qin", "distance": 2.0, "above": 12.3, "heard": 0.25}
    found = [
        line(clip="a", radius=0.6, answers={"0.5": None, "0.7": 2}, **common),
        line(clip="b", radius=0.6, answers={"0.5": 2, "0.7": 2}, **common),
        line(clip="c", radius=0.1, answers={"0.5": 1, "0.7": 2}, **common),
        line(clip="d", radius=0.65, answers={"0.5": 0, "0.7": 2}, **common),
        line(clip="a", radius=0.6, answers={"qin": 1}, **hidden, **common),
        line(clip="b", radius=0.6, answers={"qin": None}, **hidden, **common),
        line(clip="c", radius=0.1, answers={"qin": 1}, **hidden, **common),
        line(clip="d", radius=2.5, answers={"qin": 2}, **hidden, **common),
        line(setting="noise", clip="a", label=2, shares={"clean": 0.9, "0.5": 0.3}),
    ]
    lines = [x.model_dump() | {"contradicted": x.contradicted} for x in found]
    text = module("smoothed_tables").attacks({"settings": SETTINGS, "lines": lines})
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()]
    always, most, half, once = "100 [40, 100]", "75 [19, 99]", "50 [7, 93]", "25 [1, 81]"
    assert ["waveform", "0.2", "4", always, "0.5", most, once, once, half] in rows
    # with 10,000 draws nothing is certified beyond 3.2 sigma
    assert any(row[:6] == ["waveform", "0.2", "4", always, "0.7", "–"] for row in rows)
    assert ["waveform", "0.2", "4", always, "Qin", "", once, once, half] in rows
    assert ["noise", "", "1", "90 [0, 100]", "0.5", "none", "30 [0, 100]", "", ""] in rows
    assert "2 in L2, 12.3 dB above the masking threshold, over it in 25 % of time" in text
    assert "longer than the certified radius for 3 of 4 clips" in text
    assert "within a certified radius: 1." in text


def test_more_draws_stand_beside_fewer_on_the_same_clips(
    module: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    tables = module("certificate_tables")
    monkeypatch.setattr(tables, "RECORDS", tmp_path / "certificates")
    monkeypatch.setattr(tables, "FINDINGS", tmp_path / "findings")
    assert tables.draws(None) == ""
    few, many = written([1.1, 0.2, 1.3, 1.4], 100), written([1.6, 0.2], 1000)
    for name, one in (("smoothadv-0.5", few), ("many-draws-0.5", many)):
        keep(json.loads(one.model_dump_json(by_alias=True)), tmp_path / "certificates" / f"{name}.json")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in tables.draws(None).splitlines()]
    half = "50 [1, 99]"
    none = "0 [0, 84]"
    assert rows[2][1:] == ["2", "100", "200", "100 [16, 100]", half, half, half, half, none, none, none]
    assert rows[3][1:] == ["2", "1,000", "2,000", "100 [16, 100]", half, half, half, half, half, half, none]
