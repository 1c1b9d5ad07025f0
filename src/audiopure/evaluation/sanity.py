"""Checks that no honest evaluation fails: a violation says that an attack, not a defence, is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from audiopure.evaluation.card import Card, Condition, Curve, Flag, Point, Proportion, Row
from audiopure.evaluation.ledger import Outcome
from audiopure.evaluation.plan import Plan
from audiopure.evaluation.protocols import UNBOUNDED

BLACK_BOX = ("square", "fakebob", "nes", "spsa", "siren", "transfer")
LEAST = 5  # clips below which an interval says nothing


def flags(card: Card, plan: Plan, table: Mapping[tuple[str, str], Mapping[str, Outcome]]) -> list[Flag]:
    """Violations first, then what is missing or must be known."""
    found = [Flag(kind="violation", sentence=text) for text in _violations(card, plan)]
    found += [Flag(kind="note", sentence=text) for text in _notes(card, plan, table)]
    return found


def _violations(card: Card, plan: Plan) -> Iterator[str]:
    for row in card.rows:
        if row.gradient is not None and row.gradient.verdict == "broken":
            yield (
                f"The gradient of “{row.title}” is broken (cosine {_number(row.gradient.cosine)}): attacks "
                "by gradient say nothing about it."
            )
    for curve in card.curves:
        if curve.axis == "budget":
            yield from _budget(curve, chance=1 / len(plan.labels))
    for row in card.rows:
        yield from _order(row)


def _budget(curve: Curve, chance: float) -> Iterator[str]:
    """Accuracy falls with the budget, and is at most chance where any waveform is allowed."""
    points = sorted(curve.points, key=lambda point: point.x)
    for smaller, larger in pairwise(points):
        if larger.y.low > smaller.y.high:
            yield (
                f"{curve.title}: accuracy rises from {_percent(smaller)} at {smaller.x:g} to "
                f"{_percent(larger)} at {larger.x:g}, beyond the intervals."
            )
    last = points[-1] if points else None
    if last is not None and last.x >= UNBOUNDED and last.y.low > chance:
        yield (
            f"{curve.title}: {_percent(last)} are right under an unbounded attack, above chance "
            f"({100 * chance:.0f} %): the attack is not at work."
        )


def _order(row: Row) -> Iterator[str]:
    """An attack without gradients is not stronger than one with; neither is random noise."""
    for column in dict.fromkeys(c.column for c in row.conditions):
        here = [c for c in row.conditions if c.column == column and c.attack is not None]
        white = [c for c in here if c.counts and not _blind(c) and c.route == "exact"]
        for weak in here:
            name = weak.key.partition("/")[0]
            if not _blind(weak) and name != "random":
                continue
            for strong in white:
                if _below(weak.attacked.average, strong.attacked.average) and weak.note is None:
                    yield (
                        f"“{row.title}”, {column}: {weak.title} leaves {_share(weak)}, {strong.title} leaves "
                        f"{_share(strong)}: the attack by gradient should not be the weaker one."
                    )


def _blind(condition: Condition) -> bool:
    return condition.key.partition("/")[0] in BLACK_BOX


def _below(lower: Proportion, upper: Proportion) -> bool:
    return min(lower.n, upper.n) >= LEAST and lower.high < upper.low


def _notes(card: Card, plan: Plan, table: Mapping[tuple[str, str], Mapping[str, Outcome]]) -> Iterator[str]:
    missing = sum(
        1
        for row in plan.rows
        for condition in row.conditions
        if not condition.survivors
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
        for condition in row.conditions:
            if condition.route not in ("exact", "none"):
                yield f"{condition.title} takes its gradient by the route “{condition.route}”, not exactly."
    if card.protocol.note is not None:
        yield card.protocol.note
    if card.data.note is not None:
        yield card.data.note


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _percent(point: Point) -> str:
    return f"{100 * point.y.value:.0f} %"


def _share(condition: Condition) -> str:
    return f"{100 * condition.attacked.average.value:.0f} %"
