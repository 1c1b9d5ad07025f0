"""Paired comparisons: tests and intervals against SciPy and published numbers, files against damage."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from card_factory import answers, full_card, make_card
from evaluation_helpers import register, system, write_words
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from audiopure.cli.compare import compare as command
from audiopure.errors import InputError
from audiopure.evaluation.card import Card, Data, Flag, Protocol
from audiopure.evaluation.card_io import read_card
from audiopure.evaluation.compare import compare, paired_interval, sign_flip
from audiopure.evaluation.engine import Evaluation, EvaluationConfig


def binary(gained: int, lost: int, kept: int, failed: int) -> tuple[Card, Card]:
    """Two fixed systems whose clips fall into these four groups under attack."""
    a = np.array([0] * gained + [1] * lost + [1] * kept + [0] * failed, dtype=bool)[:, None]
    b = np.array([1] * gained + [0] * lost + [1] * kept + [0] * failed, dtype=bool)[:, None]
    clean = np.ones_like(a)
    return tuple(make_card({"system": {"clean": clean, "pgd/l2": x}}) for x in (a, b))  # type: ignore[return-value]


def random_card(seed: int, n: int = 25, chance: float = 0.6) -> Card:
    found = {"clean": answers(seed, n, 0.9), "pgd/linf": answers(seed + 1, n, chance)}
    found["margin/linf"] = answers(seed + 2, n, chance)
    return make_card({"system": found})


@pytest.mark.parametrize("gained, lost", [(9, 3), (0, 0), (5, 0), (1, 12), (7, 7)])
def test_of_fixed_systems_is_mcnemar(gained: int, lost: int) -> None:
    clean, attacked = compare(*binary(gained, lost, 50, 38)).differences
    n = gained + lost + 88
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert attacked.p == pytest.approx(expected, rel=1e-9)
    assert (attacked.n, attacked.gained, attacked.lost) == (n, gained, lost)
    assert attacked.difference == pytest.approx((gained - lost) / n)
    assert attacked.b - attacked.a == pytest.approx(attacked.difference)
    assert (clean.difference, clean.p, clean.gained, clean.lost) == (0, 1, 0, 0)


def test_the_sentence() -> None:
    attacked = compare(*binary(9, 3, 50, 38)).differences[1]
    assert attacked.sentence == (
        "b withstands more L2 ≤ 0.253: b minus a is +6.0 points [-1.2 to +13.0], 9 clips gained, 3 lost, "
        "p=0.15: not distinguishable."
    )
    attacked = compare(*binary(0, 20, 50, 30)).differences[1]
    assert attacked.sentence.startswith("a withstands more L2 ≤ 0.253: b minus a is -20.0 points [")
    assert attacked.sentence.endswith("0 clips gained, 20 lost, p<0.001: distinguishable.")


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_sign_flip_is_the_permutation_test(differences: list[int]) -> None:
    """Against every choice of signs, written out."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    sums = np.abs(signs @ np.abs(differences))
    assert sign_flip(differences) == pytest.approx(float(np.mean(sums >= abs(sum(differences)))))


def test_sign_flip_against_scipy() -> None:
    differences = [3, -1, 4, 1, -5, 9, 2, 6, 5, -3]
    peer = stats.permutation_test(
        (np.array(differences),),
        np.sum,
        permutation_type="samples",
        n_resamples=10_000,
        alternative="two-sided",
    )
    assert sign_flip(differences) == pytest.approx(peer.pvalue)


@pytest.mark.parametrize(
    "gained, lost, n, low, high",
    [
        (26, 4, 48, 0.2548067, 0.6251933),  # the example of statpsych's ci.prop.ps, in R
        (0, 0, 100, -1.959964 * math.sqrt(2) / 102, 1.959964 * math.sqrt(2) / 102),
    ],
)
def test_interval_against_published(gained: int, lost: int, n: int, low: float, high: float) -> None:
    found = paired_interval([1.0] * gained + [-1.0] * lost + [0.0] * (n - gained - lost))
    assert found == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("n", [15, 40])
@pytest.mark.parametrize("gain, loss", [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1), (0.4, 0.4), (0.7, 0.05)])
def test_the_interval_covers(n: int, gain: float, loss: float) -> None:
    """Exactly, over all outcomes of n clips: a nominal 95 % may fall a little short, as published."""
    covered = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            rest = n - gained - lost
            low, high = paired_interval([1.0] * gained + [-1.0] * lost + [0.0] * rest)
            if low <= gain - loss <= high:
                covered += stats.multinomial.pmf([gained, lost, rest], n, [gain, loss, 1 - gain - loss])
    assert covered > 0.93


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_no_difference_from_itself_and_the_sign_of_the_order(seed: int, other: int) -> None:
    a, b = random_card(seed), random_card(other, chance=0.5)
    for d in compare(a, a).differences:
        assert (d.difference, d.p, d.gained, d.lost) == (0, 1, 0, 0)
        assert d.low == pytest.approx(-d.high) and d.high > 0 and "alike" in d.sentence
    for one, back in zip(compare(a, b).differences, compare(b, a).differences, strict=True):
        assert one.difference == pytest.approx(-back.difference)
        assert (one.low, one.high) == pytest.approx((-back.high, -back.low))
        assert (one.gained, one.lost, one.p) == (back.lost, back.gained, pytest.approx(back.p))
        assert one.low <= one.difference <= one.high


def test_each_clip_counts_with_its_worst_attack() -> None:
    a, b = random_card(0), random_card(7)

    def average(card: Card) -> float:
        found = [clip.right["system"] for clip in card.clips]
        return sum(min(right["pgd/linf"], right["margin/linf"]) for right in found) / len(found)

    attacked = compare(a, b).differences[1]
    assert (attacked.a, attacked.b) == pytest.approx((average(a), average(b)))
    assert attacked.difference == pytest.approx(average(b) - average(a))


def test_only_attacks_that_both_met_are_compared() -> None:
    a, b = random_card(0), random_card(7)
    (row,) = b.rows
    lone = row.model_copy(update={"conditions": [c for c in row.conditions if c.key != "margin/linf"]})
    b = b.model_copy(update={"rows": [lone]})
    found = compare(a, b)
    attacked = found.differences[1]
    assert attacked.attacks == ["pgd/linf"]
    assert attacked.a == pytest.approx(np.mean([clip.right["system"]["pgd/linf"] for clip in a.clips]))
    assert "Only a met margin/linf; the differences leave these attacks out." in found.notes
    assert compare(a, a).notes == []


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("Pgd(norm='linf', eot=1)", "pgd/linf: eot is 5 for a and 1 for b."),
        (
            "Pgd(eot=5, steps=7)",
            "pgd/linf: norm is 'linf' for a and None for b, steps is None for a and 7 for b.",
        ),
        ("Apgd(eot=5)", "pgd/linf: a met Pgd(norm='linf', eot=5), b Apgd(eot=5)."),
        (
            "transfer from a surrogate",
            "pgd/linf: a met Pgd(norm='linf', eot=5), b transfer from a surrogate.",
        ),
    ],
)
def test_attacks_of_other_settings_are_told(attack: str, expected: str) -> None:
    a = random_card(0)
    (row,) = a.rows
    changed = [c.model_copy(update={"attack": attack}) if c.key == "pgd/linf" else c for c in row.conditions]
    b = a.model_copy(update={"rows": [row.model_copy(update={"conditions": changed})]})
    assert compare(a, b).notes == [expected]


def with_shares(card: Card, shares: list[dict[str, float]]) -> Card:
    """The card with other shares of its system's clips."""
    pairs = zip(card.clips, shares, strict=True)
    clips = [clip.model_copy(update={"right": {"system": found}}) for clip, found in pairs]
    return card.model_copy(update={"clips": clips})


def test_an_attack_on_some_clips_only() -> None:
    """What one side did not meet with a clip counts for neither; a clip without any attack does not count."""
    a = random_card(0)
    kept = [{"clean"}] * 5 + [{"clean", "pgd/linf"}] * 10 + [{"margin/linf"}] * 10
    rights = [clip.right["system"] for clip in a.clips]
    cut = [{k: v for k, v in right.items() if k in some} for right, some in zip(rights, kept, strict=True)]
    b = with_shares(a, cut)
    for clean, attacked in (compare(a, b).differences, compare(b, a).differences):
        assert (clean.n, attacked.n) == (15, 20)
        assert (attacked.difference, attacked.gained, attacked.lost, attacked.p) == (0, 0, 0, 1)


def test_what_a_clip_met_after_the_other_had_fallen_counts() -> None:
    first, later = "pgd/linf", "margin/linf"
    a = [{first: 0.5, later: 0.0}, {first: 0.0}, {first: 0.4, later: 0.2}]
    b = [{first: 0.5}, {first: 0.8, later: 0.3}, {first: 0.0}]
    card = random_card(0, n=3)
    (attacked,) = compare(with_shares(card, a), with_shares(card, b)).differences
    assert (attacked.a, attacked.b) == pytest.approx(((0.5 + 0 + 0.2) / 3, (0.5 + 0.3 + 0) / 3))
    assert attacked.difference == pytest.approx(attacked.b - attacked.a)


def test_what_the_attacker_knew_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    data = write_words(tmp_path / "words")

    def known(name: str) -> Card:
        config = EvaluationConfig(system="it", data=data, protocol="tiny", limit=2, knowledge=name)
        planned = Evaluation.prepare(config, tmp_path, model=system()).plan.rows[0].conditions
        note = next(c.note for c in planned if c.key == "pgd-ce/linf")
        card = random_card(0)
        (row,) = card.rows
        conditions = [c.model_copy(update={"note": note}) for c in row.conditions]
        return card.model_copy(update={"rows": [row.model_copy(update={"conditions": conditions})]})

    cards = {name: known(name) for name in ("white-box", "DW_fwd", "semi-20")}
    for (one, a), (other, b) in itertools.product(cards.items(), repeat=2):
        sentence = f"The attacker's knowledge of the noise is {one} for a and {other} for b."
        assert compare(a, b).notes == ([] if one == other else [sentence])


def test_rows_of_one_report() -> None:
    card = full_card()
    found = compare(card, card, row_a="noise-only")
    assert (found.a, found.b) == ("noise-only", "small+digits")
    both = [[np.mean([c.right[r]["pgd/l2"] for c in card.clips]) for r in ("noise-only", "system")]]
    assert found.differences[2].difference == pytest.approx(both[0][1] - both[0][0])
    with pytest.raises(InputError, match="no row for “nobody”; there are: system, none, noise-only"):
        compare(card, card, row_b="nobody")


def test_partly_the_same_clips() -> None:
    a, b = random_card(0), random_card(5)
    cut = b.model_copy(update={"clips": b.clips[:20]})
    found = compare(a, cut)
    assert found.differences[0].n == 20
    assert found.notes == ["Only the 20 clips that both have are compared: a has 25, b 20."]
    assert compare(a, b).notes == []


def test_what_must_be_said() -> None:
    a, b = random_card(0), full_card()
    found = compare(a, b)
    assert [d.column for d in found.differences] == ["clean", "linf"]
    assert "b carries a violation: do not take it at its word." in found.notes
    assert "Only b was attacked within L2 ≤ 0.253." in found.notes
    flagged = a.model_copy(update={"flags": [Flag(kind="violation", sentence="x")] * 2})
    assert "a carries 2 violations: do not take it at its word." in compare(flagged, a).notes


def other_budget(card: Card) -> Card:
    (row,) = card.rows
    headlines = [h.model_copy(update={"budget": "L∞ ≤ 0.004"}) for h in row.headlines]
    return card.model_copy(update={"rows": [row.model_copy(update={"headlines": headlines})]})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"protocol": Protocol(name="paper", passes=10, settings={}, note=None)}, "“quick” and “paper”"),
        ({"protocol": Protocol(name="quick", passes=10, settings={"stages": []}, note=None)}, "stages"),
        (
            {"protocol": Protocol(name="quick", passes=9, settings={"stages": ["pgd", "random"]}, note=None)},
            "passes",
        ),
        (
            {"data": Data(name="fsdd", split=None, clips=25, of=25, note=None, shard=None)},
            r"sc09 \(test\) and fsdd",
        ),
        ({"clips": []}, "no clip in common"),
    ],
)
def test_what_cannot_be_compared(change: dict[str, object], message: str) -> None:
    a = random_card(0)
    with pytest.raises(InputError, match=message):
        compare(a, a.model_copy(update=change))


def test_budgets_and_labels_must_agree() -> None:
    a = random_card(0)
    with pytest.raises(InputError, match=r"budgets differ: L∞ ≤ 0\.002 and L∞ ≤ 0\.004"):
        compare(a, other_budget(a))
    clips = [a.clips[0].model_copy(update={"label": "cat"}), *a.clips[1:]]
    with pytest.raises(InputError, match=r"000.wav: is labelled “zero” in one and “cat” in the other"):
        compare(a, a.model_copy(update={"clips": clips}))


def write(card: Card, path: Path) -> Path:
    path.write_text(card.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    return path


def test_a_card_survives_its_file(tmp_path: Path) -> None:
    """The unbounded budget, infinity, too."""
    card = full_card()
    path = write(card, tmp_path / "report.json")
    assert read_card(path) == card
    raw = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert raw["schema"] == "audiopure-card-1"
    assert math.isinf(read_card(path).curves[0].points[-1].x)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"\xff\xfe\x00", "not a text file"),
        (b'{"schema": ', "not JSON"),
        (b"[" * 100_000, "nested"),
        (b"[1, 2]", "not an evaluation's report.json"),
        (b'{"schema": "audiopure-demo-1"}', "audiopure-demo-1"),
        (b'{"schema": "audiopure-card-1"}', "is damaged"),
    ],
)
def test_files_that_are_no_report(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_card(path)
    sentence = str(raised.value)
    assert message in sentence and str(path) in sentence and "\n" not in sentence


def test_a_damaged_number_is_named(tmp_path: Path) -> None:
    path = write(full_card(), tmp_path / "report.json")
    path.write_text(path.read_text().replace('"passes": 654321', '"passes": "many"'))
    with pytest.raises(InputError, match=r"damaged \(cost\.passes"):
        read_card(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write(card, tmp_path / f"{k}.json") for k, card in enumerate(binary(9, 3, 50, 38)))
    command(a, b, None, None, False)
    printed = capsys.readouterr().out
    assert "b withstands more L2 ≤ 0.253: b minus a is +6.0 points" in printed and str(b) in printed
    table = [line for line in printed.splitlines() if "points [" not in line and "json)" not in line]
    assert len(table) > 3 and all(len(line.rstrip()) <= 80 for line in table)
    (row,) = [line.split() for line in table if "L2 ≤ 0.253" in line]
    assert row == "L2 ≤ 0.253 100 53.0 % 59.0 % +6.0 -1.2 to +13.0 9 3 0.15".split()
    command(a, b, None, None, True)
    found = json.loads(capsys.readouterr().out)
    assert found["differences"][1]["p"] == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert found["differences"][1]["distinguishable"] is False
