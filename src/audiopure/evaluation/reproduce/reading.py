"""Cards as cells of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from audiopure.attacks import PAPER_BUDGETS
from audiopure.attacks.base import NORMS
from audiopure.evaluation.card import Card, Condition, Metrics, Proportion, Row
from audiopure.evaluation.card_io import read_card

NOT_RUN = "not run"
BUDGETS = {norm: f"{NORMS[norm]} ≤ {eps:g}" for norm, eps in PAPER_BUDGETS.items()}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose others are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def brief(share: Proportion) -> str:
    """A share in % with its interval over clips."""
    return f"{100 * share.value:.1f} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def readings(metrics: Metrics | None) -> str:
    """The average over fresh passes with its interval; below, one pass, the worst of them, and their vote."""
    if metrics is None:
        return NOT_RUN
    first = f"**{brief(metrics.average)}**"
    if metrics.passes == 1:
        return first
    others = (metrics.one_shot, metrics.worst, metrics.vote)
    return f"{first}<br>{' / '.join(f'{100 * share.value:.0f}' for share in others)}"


def stored(records: Path, name: str) -> Card | None:
    """The card of a job, if there is one."""
    path = records / f"{name}.json"
    return read_card(path) if path.is_file() else None


def find(row: Row, key: str) -> Condition:
    return next(condition for condition in row.conditions if condition.key == key)


def clean(row: Row) -> Metrics:
    return find(row, "clean").attacked


def headline(row: Row, column: str) -> Metrics | None:
    """What the attacks that count leave in one column."""
    return next((h.attacked for h in row.headlines if h.column == column), None)


def iterate(card: Card, column: str, steps: int, number: int = 0) -> Proportion | None:
    """The share of clips that no draw of the first `steps` iterates failed, as the paper counts.

    `number` tells the attacks of a column apart, in the order of the protocol.
    """
    first = card.rows[0].key
    curves = [c for c in card.curves if (c.axis, c.row, c.column) == ("any-iterate", first, column)]
    if number >= len(curves):
        return None
    return next((point.y for point in curves[number].points if point.x == steps), None)
