"""Checks that no honest evaluation fails: a violation says that an attack, not a defence, is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from audiopure.evaluation.card import Card, Check, Condition, Curve, Flag, Proportion, Row
from audiopure.evaluation.compare import paired_interval
from audiopure.evaluation.ledger import Table
from audiopure.evaluation.plan import Plan, PlannedCondition
from audiopure.evaluation.protocols import UNBOUNDED

BLACK_BOX = ("square", "fakebob", "nes", "spsa", "siren", "transfer")
LEAST = 5  # clips below which an interval says nothing
GRADIENT = "the attack's gradient is the system's"
FALLS = "accuracy falls with the budget"
CHANCE = "at most chance at an unbounded budget"
HELPS = "no attack by exact gradients raises accuracy"
ORDER = "no more without gradients than with them"


def checks(card: Card, plan: Plan, table: Table) -> list[Check]:
    """Every check, also those that passed and those that there was nothing to run on."""
    found = [_gradient(row) for row in card.rows]
    budgets = [curve for curve in card.curves if curve.axis == "budget"]
    found += [check for curve in budgets for check in _budget(curve, chance=1 / len(plan.labels))]
    if not budgets:
        why = _why_none(
            any(curve.axis == "budget" for curve in plan.curves), "the protocol tries one budget only"
        )
        found += [_not_run(name, "budgets", why) for name in (FALLS, CHANCE)]
    targets = {clip.id: clip.target for clip in plan.clips}
    for row in card.rows:
        found += _helped(row)
        found += _order(row, table, targets)
    exact = any(_exact(c) for row in plan.rows for c in row.conditions)
    weak = any(_weak(c) for row in plan.rows for c in row.conditions)
    if not any(check.name == HELPS for check in found):
        why = _why_none(exact, "no attack that counts takes the exact gradient")
        found.append(_not_run(HELPS, "attacks by exact gradients", why))
    if not any(check.name == ORDER for check in found):
        why = _why_none(exact and weak, "the protocol has no such attack beside one by exact gradients")
        found.append(_not_run(ORDER, "attacks without gradients", why))
    return found


def _why_none(planned: bool, otherwise: str) -> str:
    return "what it needs is still to be run" if planned else otherwise


def flags(card: Card, plan: Plan, table: Table) -> list[Flag]:
    """What the card's checks found violated, then what is missing or must be known."""
    found = [
        Flag(kind="violation", sentence=check.sentence)
        for check in card.checks
        if check.verdict == "violated"
    ]
    found += [Flag(kind="note", sentence=text) for text in _notes(card, plan, table)]
    return found


def _check(name: str, about: str, violated: bool, sentence: str) -> Check:
    return Check(name=name, about=about, verdict="violated" if violated else "passed", sentence=sentence)


def _not_run(name: str, about: str, why: str) -> Check:
    return Check(name=name, about=about, verdict="not run", sentence=f"Not run: {why}.")


def _gradient(row: Row) -> Check:
    if row.gradient is None or row.gradient.verdict == "none":
        return _not_run(GRADIENT, row.title, "no gradient was audited")
    cosine = _number(row.gradient.cosine)
    detours = dict.fromkeys(c.route for c in row.conditions if c.counts and c.route not in ("exact", "none"))
    if row.gradient.verdict == "broken":
        sentence = (
            f"The gradient of “{row.title}” is broken (cosine {cosine}): attacks by gradient say nothing "
            "about it."
        )
        return _check(GRADIENT, row.title, True, sentence)
    if row.gradient.verdict == "declared":
        sentence = f"A declared approximation: cosine {cosine} with finite differences."
    elif detours:
        sentence = (
            f"The exact gradient was audited (cosine {cosine} with finite differences); attacks that count "
            f"take another, by {', '.join(f'“{route}”' for route in detours)}."
        )
    else:
        return _check(GRADIENT, row.title, False, f"Exact: cosine {cosine} with finite differences.")
    return Check(name=GRADIENT, about=row.title, verdict="declared", sentence=sentence)


def _budget(curve: Curve, chance: float) -> Iterator[Check]:
    """Accuracy falls with the budget, and is at most chance where any waveform is allowed."""
    points = sorted((point for point in curve.points if point.y.n >= LEAST), key=lambda point: point.x)
    if not points:
        why = f"fewer than {LEAST} clips say nothing"
        yield from (_not_run(name, curve.title, why) for name in (FALLS, CHANCE))
        return
    rises = [(a, b) for a, b in combinations(points, 2) if b.y.low > a.y.high]
    for smaller, larger in rises:
        sentence = (
            f"{curve.title}: accuracy rises from {_share(smaller.y)} at {smaller.x:g} to "
            f"{_share(larger.y)} at {larger.x:g}, beyond the intervals."
        )
        yield _check(FALLS, curve.title, True, sentence)
    if len(points) < 2:
        yield _not_run(FALLS, curve.title, "one budget has nothing to fall from")
    elif not rises:
        seen = ", ".join(f"{_share(point.y)} at {point.x:g}" for point in points)
        yield _check(FALLS, curve.title, False, f"{seen}.")
    last = points[-1]
    if last.x < UNBOUNDED:
        yield _not_run(CHANCE, curve.title, f"the largest budget is {last.x:g} times the protocol's")
    elif last.y.low > chance:
        sentence = (
            f"{curve.title}: {_share(last.y)} are right under an unbounded attack, above chance "
            f"({100 * chance:.0f} %): the attack is not at work."
        )
        yield _check(CHANCE, curve.title, True, sentence)
    else:
        yield _check(
            CHANCE, curve.title, False, f"{_share(last.y)} are right; chance is {100 * chance:.0f} %."
        )


def _helped(row: Row) -> Iterator[Check]:
    """No attack by exact gradients makes a system better than without one."""
    for condition in row.conditions:
        if not _exact(condition):
            continue
        clean, attacked = condition.clean.average, condition.attacked.average
        about = f"{row.title}, {condition.title} ({condition.budget})"
        if min(clean.n, attacked.n) < LEAST:
            yield _not_run(HELPS, about, f"{attacked.n} clips say nothing")
        elif clean.high < attacked.low:
            sentence = (
                f"“{row.title}”: {condition.title} ({condition.budget}) raises accuracy from "
                f"{_share(clean)} to {_share(attacked)}: it climbs the wrong way."
            )
            yield _check(HELPS, about, True, sentence)
        else:
            yield _check(HELPS, about, False, f"{_share(clean)} without it, {_share(attacked)} under it.")


def _order(row: Row, table: Table, targets: Mapping[str, int]) -> Iterator[Check]:
    """Neither an attack without gradients nor random noise does more than the best with, clip by clip."""
    attacks = [condition for condition in row.conditions if condition.attack is not None]
    white = [c for c in attacks if _exact(c) and not _blind(c)]
    for weak in filter(_weak, attacks):
        one = table.get((row.key, weak.key), {})
        others = [table.get((row.key, c.key), {}) for c in white if c.column == weak.column]
        if not others:
            continue
        pairs = [
            (one[clip].share(targets[clip]), min(found[clip].share(targets[clip]) for found in known))
            for clip in one
            if (known := [found for found in others if clip in found])
        ]
        about = f"{row.title}, {weak.title} ({weak.budget})"
        if len(pairs) < LEAST:
            yield _not_run(ORDER, about, f"{len(pairs)} clips met both")
            continue
        left, kept = (100 * sum(shares) / len(pairs) for shares in zip(*pairs, strict=True))
        if paired_interval([a - b for a, b in pairs])[1] < 0:
            sentence = (
                f"“{row.title}”, {weak.column}: of the same {len(pairs)} clips {weak.title} leaves "
                f"{left:.0f} % and the best attack by gradient {kept:.0f} %: it should not be the weaker one."
            )
            yield _check(ORDER, about, True, sentence)
        else:
            sentence = (
                f"Of the same {len(pairs)} clips it leaves {left:.0f} %, the best by gradient {kept:.0f} %."
            )
            yield _check(ORDER, about, False, sentence)


def _exact(condition: Condition | PlannedCondition) -> bool:
    """Whether an attack counts and takes the exact gradient."""
    return condition.counts and condition.route == "exact"


def _weak(condition: Condition | PlannedCondition) -> bool:
    return _blind(condition) or condition.key.partition("/")[0] == "random"


def _blind(condition: Condition | PlannedCondition) -> bool:
    return condition.key.partition("/")[0] in BLACK_BOX


def _notes(card: Card, plan: Plan, table: Table) -> Iterator[str]:
    missing = sum(
        row.meets(condition, clip.id, clip.target, table)
        for row in plan.rows
        for condition in row.conditions
        for clip in plan.clips[: condition.clips]
        if clip.id not in table.get((row.key, condition.key), {})
    )
    if missing:
        share = "" if card.data.shard is None else f" (this is shard {card.data.shard})"
        yield f"Not complete: {missing} attacks on single clips are still to be run{share}."
    for row in card.rows:
        if row.gradient is not None and row.gradient.verdict == "declared":
            yield f"The gradient of “{row.title}” is a declared approximation (BPDA), not the exact one."
        if row.gradient is not None and row.gradient.note:
            yield f"“{row.title}”: {row.gradient.note}"
    for route, title in dict.fromkeys((c.route, c.title) for row in card.rows for c in row.conditions):
        if route not in ("exact", "none"):
            yield f"{title} takes its gradient by the route “{route}”, not exactly."
    if card.protocol.note is not None:
        yield card.protocol.note
    if card.data.note is not None:
        yield card.data.note


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _share(found: Proportion) -> str:
    return f"{100 * found.value:.0f} %"
