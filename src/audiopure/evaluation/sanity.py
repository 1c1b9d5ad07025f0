"""Checks that no honest evaluation fails: a violation says that an attack, not a defence, is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from audiopure.evaluation.card import Card, Condition, Curve, Flag, Proportion, Row
from audiopure.evaluation.compare import paired_interval
from audiopure.evaluation.ledger import Table
from audiopure.evaluation.plan import Plan
from audiopure.evaluation.protocols import UNBOUNDED

BLACK_BOX = ("square", "fakebob", "nes", "spsa", "siren", "transfer")
LEAST = 5  # clips below which an interval says nothing


def flags(card: Card, plan: Plan, table: Table) -> list[Flag]:
    """Violations first, then what is missing or must be known."""
    found = [Flag(kind="violation", sentence=text) for text in _violations(card, plan, table)]
    found += [Flag(kind="note", sentence=text) for text in _notes(card, plan, table)]
    return found


def _violations(card: Card, plan: Plan, table: Table) -> Iterator[str]:
    for row in card.rows:
        if row.gradient is not None and row.gradient.verdict == "broken":
            yield (
                f"The gradient of “{row.title}” is broken (cosine {_number(row.gradient.cosine)}): attacks "
                "by gradient say nothing about it."
            )
    for curve in card.curves:
        if curve.axis == "budget":
            yield from _budget(curve, chance=1 / len(plan.labels))
    targets = {clip.id: clip.target for clip in plan.clips}
    for row in card.rows:
        yield from _helped(row)
        yield from _order(row, table, targets)


def _budget(curve: Curve, chance: float) -> Iterator[str]:
    """Accuracy falls with the budget, and is at most chance where any waveform is allowed."""
    points = sorted(curve.points, key=lambda point: point.x)
    for smaller, larger in combinations(points, 2):
        if larger.y.low > smaller.y.high:
            yield (
                f"{curve.title}: accuracy rises from {_share(smaller.y)} at {smaller.x:g} to "
                f"{_share(larger.y)} at {larger.x:g}, beyond the intervals."
            )
    last = points[-1] if points else None
    if last is not None and last.x >= UNBOUNDED and last.y.low > chance:
        yield (
            f"{curve.title}: {_share(last.y)} are right under an unbounded attack, above chance "
            f"({100 * chance:.0f} %): the attack is not at work."
        )


def _helped(row: Row) -> Iterator[str]:
    """No attack by exact gradients makes a system better than without one."""
    for condition in row.conditions:
        clean, attacked = condition.clean.average, condition.attacked.average
        if condition.counts and condition.route == "exact" and _below(clean, attacked):
            yield (
                f"“{row.title}”: {condition.title} ({condition.budget}) raises accuracy from "
                f"{_share(clean)} to {_share(attacked)}: it climbs the wrong way."
            )


def _order(row: Row, table: Table, targets: Mapping[str, int]) -> Iterator[str]:
    """Neither an attack without gradients nor random noise does more than the best with, clip by clip."""
    attacks = [condition for condition in row.conditions if condition.attack is not None]
    white = [c for c in attacks if c.counts and not _blind(c) and c.route == "exact"]
    for weak in attacks:
        if not _blind(weak) and weak.key.partition("/")[0] != "random":
            continue
        one = table.get((row.key, weak.key), {})
        others = [table.get((row.key, c.key), {}) for c in white if c.column == weak.column]
        pairs = [
            (one[clip].share(targets[clip]), min(found[clip].share(targets[clip]) for found in known))
            for clip in one
            if (known := [found for found in others if clip in found])
        ]
        if len(pairs) >= LEAST and paired_interval([a - b for a, b in pairs])[1] < 0:
            left, kept = (100 * sum(shares) / len(pairs) for shares in zip(*pairs, strict=True))
            yield (
                f"“{row.title}”, {weak.column}: of the same {len(pairs)} clips {weak.title} leaves "
                f"{left:.0f} % and the best attack by gradient {kept:.0f} %: it should not be the weaker one."
            )


def _blind(condition: Condition) -> bool:
    return condition.key.partition("/")[0] in BLACK_BOX


def _below(lower: Proportion, upper: Proportion) -> bool:
    return min(lower.n, upper.n) >= LEAST and lower.high < upper.low


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
