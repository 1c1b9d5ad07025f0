"""The four accuracies of a card against counts by hand, and the ledger that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from audiopure.errors import InputError
from audiopure.evaluation.ledger import Ledger, Outcome, done
from audiopure.evaluation.scoring import metrics, proportion, spread, vote

ANSWERS = [[1, 1, 1, 1], [0, 1, 1, 1], [2, 2, 1, 1], [0, 0, 0, 1]]  # of four clips, all of class 1


def test_the_four_readings_of_the_same_answers() -> None:
    found = metrics(ANSWERS, [1, 1, 1, 1])
    assert found.passes == 4
    assert found.one_shot.value == 1 / 4
    assert found.average.value == (4 + 3 + 2 + 1) / 16
    assert found.worst.value == 1 / 4
    assert found.vote.value == 3 / 4  # of two equals the smaller wins: 1 before 2
    assert all(p.n == 4 for p in (found.one_shot, found.average, found.worst, found.vote))


def test_intervals_are_those_of_clips_not_of_passes() -> None:
    found = metrics([[1] * 100] * 8 + [[0] * 100] * 2, [1] * 10).average
    assert found.low == pytest.approx(beta.ppf(0.025, 8, 3)) and found.high == pytest.approx(
        beta.ppf(0.975, 9, 2)
    )
    between = proportion(2.5, 5)  # a mean between two counts covers both
    assert between.low == pytest.approx(beta.ppf(0.025, 2, 4))
    assert between.high == pytest.approx(beta.ppf(0.975, 4, 2))


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=12), st.integers(0, 3)
)
def test_readings_are_ordered(answers: list[list[int]], target: int) -> None:
    found = metrics(answers, [target] * len(answers))
    assert found.worst.value <= found.average.value + 1e-12 and found.worst.value <= found.vote.value
    assert found.worst.value <= found.one_shot.value
    for share in (found.one_shot, found.average, found.worst, found.vote):
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_a_fixed_system_has_four_equal_numbers() -> None:
    found = metrics([[1], [0], [1]], [1, 1, 1])
    assert found.one_shot == found.average == found.worst == found.vote


def test_votes_and_spreads() -> None:
    assert vote([3, 1, 3, 1]) == 1 and vote([2, 2, 0]) == 2
    assert spread([None, float("inf"), float("nan")]) is None
    found = spread([1.0, 2.0, 3.0, None])
    assert found is not None and (found.median, found.n) == (2.0, 3)


def outcome(clip: str, **changes: object) -> Outcome:
    values = {
        "row": "system",
        "condition": "clean",
        "clip": clip,
        "answers": [1, 0],
        "loss": None,
        "survived": [],
        "never": None,
        "queries": 0,
        "distances": {"snr": None},
        "seconds": 0.1,
    }
    return Outcome.model_validate(values | changes)


def test_a_ledger_keeps_whole_lines_and_each_outcome_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "outcomes.jsonl")
    assert ledger.read() == []
    ledger.append([outcome("a"), outcome("b")])
    ledger.append([outcome("a", answers=[0, 0])])
    with ledger.path.open("ab") as file:
        file.write(b'{"row": "system", "cond')  # killed while writing
    assert [o.clip for o in ledger.read()] == ["a", "b"]
    assert ledger.read()[0].answers == [1, 0]
    ledger.append([outcome("c")])
    assert set(done(ledger.read())["system", "clean"]) == {"a", "b", "c"}
    with ledger.path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(InputError, match="line 5 is damaged"):
        ledger.read()
