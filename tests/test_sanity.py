"""The flags of a card, on violations planted among outcomes that look honest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from evaluation_helpers import prepared_plan

from audiopure.evaluation.card import Card, Gradient
from audiopure.evaluation.ledger import Outcome
from audiopure.evaluation.plan import Plan, PlannedCondition, PlannedCurve, PlannedPoint
from audiopure.evaluation.protocols import UNBOUNDED
from audiopure.evaluation.sanity import CHANCE, FALLS, GRADIENT, HELPS, ORDER
from audiopure.evaluation.summary import card

CLIPS, PASSES = 20, 10


def condition(key: str, **changes: Any) -> PlannedCondition:
    stage, _, column = key.partition("/")
    values = {
        "key": key,
        "title": stage,
        "column": column or "clean",
        "budget": "L∞ ≤ 0.002",
        "attack": None if key == "clean" else f"Attack({stage})",
        "route": "exact" if stage.startswith("pgd") or stage.startswith("budget") else "none",
        "counts": stage not in ("clean", "random") and not stage.startswith("budget"),
        "clips": CLIPS,
        "survivors": False,
        "note": None,
    }
    return PlannedCondition.model_validate(values | changes)


def outcomes(key: str, shares: Mapping[int, float] | Sequence[float], row: str = "system") -> list[Outcome]:
    """Clips whose share of right passes is given; class 0 is right."""
    items = shares.items() if isinstance(shares, Mapping) else enumerate(shares)
    return [
        Outcome(
            row=row,
            condition=key,
            clip=f"clip{k}",
            answers=[0] * round(share * PASSES) + [1] * (PASSES - round(share * PASSES)),
            loss=None,
            survived=[],
            never=None,
            queries=1,
            distances={},
            seconds=0.0,
        )
        for k, share in items
    ]


def judged(found: Sequence[tuple[PlannedCondition, Sequence[Outcome]]], **changes: Any) -> Card:
    clean = (condition("clean"), outcomes("clean", [1.0] * CLIPS))
    plan: Plan = prepared_plan(CLIPS, [c for c, _ in (clean, *found)], PASSES).model_copy(update=changes)
    gradient = Gradient(verdict="exact", cosine=1.0, sign_agreement=1.0, silent=[], pairwise=None, note=None)
    return card(plan, {"system": gradient}, [o for _, some in (clean, *found) for o in some])


def violations(result: Card) -> list[str]:
    return [flag.sentence for flag in result.flags if flag.kind == "violation"]


def notes(result: Card) -> list[str]:
    return [flag.sentence for flag in result.flags if flag.kind == "note"]


WHITE = (condition("pgd-ce/linf"), outcomes("pgd-ce/linf", [0.0] * 6 + [0.9] * 14))


def test_an_honest_card_has_no_flags() -> None:
    square = condition("square/linf", survivors=True)
    weaker = outcomes("square/linf", dict.fromkeys(range(6, CLIPS), 0.9))
    noise = outcomes("random/linf", [1.0] * CLIPS)
    result = judged([WHITE, (square, weaker), (condition("random/linf"), noise)])
    assert result.flags == []
    verdicts = {(check.name, check.about): check.verdict for check in result.checks}
    assert verdicts == {
        (GRADIENT, "it"): "passed",
        (FALLS, "budgets"): "not run",
        (CHANCE, "budgets"): "not run",
        (HELPS, "it, pgd-ce (L∞ ≤ 0.002)"): "passed",
        (ORDER, "it, square (L∞ ≤ 0.002)"): "passed",
        (ORDER, "it, random (L∞ ≤ 0.002)"): "passed",
    }
    assert "Of the same 14 clips it leaves 90 %, the best by gradient 90 %." in [
        c.sentence for c in result.checks
    ]


def test_what_could_not_be_looked_for_does_not_pass() -> None:
    few = outcomes("square/linf", {k: 0.9 for k in range(6, 10)})
    result = judged([WHITE, (condition("square/linf"), few)])
    told = {check.about: check for check in result.checks if check.verdict == "not run"}
    assert told["it, square (L∞ ≤ 0.002)"].sentence.startswith("Not run: 4 clips")
    plan = prepared_plan(CLIPS, [condition("clean")], PASSES)
    bare = card(plan, {}, outcomes("clean", [1.0] * CLIPS))
    assert {check.name for check in bare.checks} == {GRADIENT, FALLS, CHANCE, HELPS, ORDER}
    assert {check.verdict for check in bare.checks} == {"not run"}
    limited = curve((0.5, [1.0] * CLIPS), (8, [0.0] * CLIPS))
    verdicts = {check.name: check.verdict for check in limited.checks if check.about == "budgets"}
    assert verdicts == {FALLS: "passed", CHANCE: "not run"}
    single = curve((8, [0.0] * CLIPS))
    assert {c.name: c.verdict for c in single.checks if c.about == "budgets"}[FALLS] == "not run"


def test_budgets_met_by_too_few_clips_do_not_pass() -> None:
    points = [(0.5, {0: 1.0, 1: 1.0}), (UNBOUNDED, {0: 1.0, 1: 0.0})]
    result = curve(*points)
    assert {c.name: c.verdict for c in result.checks if c.about == "budgets"} == {
        FALLS: "not run",
        CHANCE: "not run",
    }


def test_a_check_without_evidence_tells_why() -> None:
    """What is planned and unfinished is not called impossible."""
    told = {check.name: check.sentence for check in judged([]).checks}
    assert "no attack that counts takes the exact gradient" in told[HELPS]
    assert "one budget only" in told[FALLS]
    unfinished = judged([(condition("pgd-ce/linf"), []), (condition("random/linf"), [])])
    told = {check.name: check.sentence for check in unfinished.checks}
    assert "still to be run" in told[HELPS]
    assert "still to be run" in told[ORDER]


@pytest.mark.parametrize("route", ["adjoint", "network-constant"])
def test_attacks_by_another_route_do_not_pass_as_exact(route: str) -> None:
    """As the paper's protocol takes them; the audit itself only says that exact gradients are there."""
    result = judged(
        [(condition("as-released/linf", route=route), outcomes("as-released/linf", [0.5] * CLIPS))]
    )
    (check,) = [check for check in result.checks if check.name == GRADIENT]
    assert check.verdict == "declared"
    assert route in check.sentence


def test_a_declared_approximation_does_not_pass_as_exact() -> None:
    plan = prepared_plan(CLIPS, [condition("clean"), condition("pgd-ce/linf")], PASSES)
    declared = Gradient(
        verdict="declared", cosine=0.11, sign_agreement=0.6, silent=[], pairwise=None, note=None
    )
    result = card(plan, {"system": declared}, [*outcomes("clean", [1.0] * CLIPS), *WHITE[1]])
    assert [c.verdict for c in result.checks if c.name == GRADIENT] == ["declared"]


def test_black_box_stronger_than_white_box_on_the_survivors() -> None:
    """On the same clips: all of them together would hide it, as the white-box attack broke six before."""
    square = condition("square/linf", survivors=True, note="whatever")
    stronger = outcomes("square/linf", {k: 0.1 if k < 16 else 0.9 for k in range(6, CLIPS)})
    (sentence,) = violations(judged([WHITE, (square, stronger)]))
    assert "of the same 14 clips square leaves 33 % and the best attack by gradient 90 %" in sentence
    other = (condition("pgd-margin/linf"), outcomes("pgd-margin/linf", [0.3] * CLIPS))
    assert violations(judged([WHITE, other, (square, stronger)])) == []  # another of them does as much
    few = outcomes("square/linf", {k: 0.1 for k in range(6, 10)})
    assert violations(judged([WHITE, (square, few)])) == []  # four clips say nothing
    little = outcomes("square/linf", {k: 0.8 for k in range(6, CLIPS)})
    assert violations(judged([WHITE, (square, little)])) == []  # nor does what lies within the intervals
    elsewhere = condition("square/l2", survivors=True)
    assert violations(judged([WHITE, (elsewhere, outcomes("square/l2", [0.0] * CLIPS))])) == []


def test_random_noise_stronger_than_an_attack() -> None:
    noise = outcomes("random/linf", [0.1] * CLIPS)
    assert any(
        "random leaves 10 %" in s for s in violations(judged([WHITE, (condition("random/linf"), noise)]))
    )


def test_an_attack_that_helps() -> None:
    half = outcomes("clean", [0.2] * CLIPS)
    plan = prepared_plan(CLIPS, [condition("clean"), condition("pgd-ce/linf")], PASSES)
    better = outcomes("pgd-ce/linf", [0.9] * CLIPS)
    (sentence,) = violations(card(plan, {}, [*half, *better]))
    assert "raises accuracy from 20 % to 90 %" in sentence


def curve(*shares: tuple[float, Mapping[int, float] | Sequence[float]]) -> Card:
    found = [
        (condition(f"budget-{x:g}/linf"), outcomes(f"budget-{x:g}/linf", values)) for x, values in shares
    ]
    points = [PlannedPoint(x=x, row="system", condition=f"budget-{x:g}/linf") for x, _ in shares]
    planned = PlannedCurve(
        axis="budget", title="budgets", row="system", column="linf", points=points, note=None
    )
    return judged(found, curves=[planned])


def test_accuracy_that_rises_with_the_budget() -> None:
    def share(right: int) -> list[float]:
        return [1.0] * right + [0.0] * (CLIPS - right)

    assert violations(curve((0.5, share(18)), (2, share(9)), (500, share(0)))) == []
    (sentence,) = violations(curve((0.5, share(4)), (2, share(16))))
    assert "rises from 20 % at 0.5 to 80 % at 2" in sentence
    # step by step within the intervals, and beyond them over two steps
    (sentence,) = violations(curve((0.5, share(4)), (1, share(10)), (2, share(16))))
    assert "at 0.5 to 80 % at 2" in sentence


@pytest.mark.parametrize(("right", "flagged"), [(20, True), (12, True), (7, False), (0, False)])
def test_accuracy_above_chance_under_an_unbounded_attack(right: int, flagged: bool) -> None:
    values = [1.0] * right + [0.0] * (CLIPS - right)
    found = violations(curve((500, values)))
    assert bool(found) == flagged and all("unbounded" in sentence for sentence in found)
    assert violations(curve((8, values))) == []  # a budget that leaves some room


def test_a_broken_gradient_and_what_is_missing() -> None:
    plan = prepared_plan(
        CLIPS, [condition("clean"), WHITE[0], condition("again/linf", survivors=True)], PASSES
    )
    clean = outcomes("clean", [1.0] * CLIPS)
    broken = Gradient(
        verdict="broken", cosine=math.pi / 10, sign_agreement=0.5, silent=["x"], pairwise=None, note=None
    )
    result = card(plan, {"system": broken}, [*clean, *WHITE[1]])
    assert "broken (cosine 0.314)" in violations(result)[0]
    # the six that the first attack broke are not for the second
    assert any("14 attacks on single clips" in sentence for sentence in notes(result))
    result = card(
        plan,
        {"system": broken},
        [*clean, *WHITE[1], *outcomes("again/linf", {k: 1.0 for k in range(6, CLIPS)})],
    )
    assert not any("single clips" in sentence for sentence in notes(result))


def test_iterates_are_read_each_by_itself_and_as_the_paper_reads_them() -> None:
    """A clip that recovers counts again for the one and not for the other, which needs single draws."""
    traces = [[1.0, 0.0, 1.0, 1.0]] * 8 + [[1.0, 1.0, 1.0, 0.0]] * 5 + [[1.0] * 4] * 7
    found = [
        outcome.model_copy(update={"survived": trace})
        for outcome, trace in zip(WHITE[1], traces, strict=True)
    ]
    curves = {curve.axis: curve for curve in judged([(WHITE[0], found)]).curves}
    assert [round(point.y.value * CLIPS) for point in curves["steps"].points] == [20, 12, 20, 15]
    assert [round(point.y.value * CLIPS) for point in curves["any-iterate"].points] == [20, 12, 12, 7]
    several = [outcome.model_copy(update={"survived": [1.0, 0.5, 0.5]}) for outcome in found]
    assert [curve.axis for curve in judged([(WHITE[0], several)]).curves] == ["steps"]
