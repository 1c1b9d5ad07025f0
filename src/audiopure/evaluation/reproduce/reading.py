"""Cards as cells of tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from audiopure.attacks import PAPER_BUDGETS
from audiopure.attacks.base import NORMS
from audiopure.errors import InputError
from audiopure.evaluation.card import CLEAN, Card, Condition, Metrics, Proportion, Row
from audiopure.evaluation.card_io import read_card

NOT_RUN = "not run"
BUDGETS = {norm: f"{NORMS[norm]} ≤ {eps:g}" for norm, eps in PAPER_BUDGETS.items()}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose others are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def brief(share: Proportion) -> str:
    """A share in % with its interval over clips."""
    return f"{100 * share.value:.1f} {interval(share)}"


def whole(share: Proportion) -> str:
    """A share in whole %, with its interval."""
    return f"{100 * share.value:.0f} {interval(share)}"


def interval(share: Proportion) -> str:
    """Its interval alone, in %."""
    return f"[{100 * share.low:.0f}, {100 * share.high:.0f}]"


def beside(share: Proportion | None, published: float | None) -> str:
    """A share in whole %, in round brackets what was published, below its interval."""
    cell = NOT_RUN if share is None else f"{100 * share.value:.0f}"
    cell += "" if published is None else f" ({published:g})"
    return cell if share is None else f"{cell}<br>{interval(share)}"


def readings(metrics: Metrics | None) -> str:
    """The average over fresh passes with its interval; below, one pass, the worst of them, and their vote."""
    if metrics is None:
        return NOT_RUN
    first = f"**{brief(metrics.average)}**"
    if metrics.passes == 1:
        return first
    others = (metrics.one_shot, metrics.worst, metrics.vote)
    return f"{first}<br>{' / '.join(f'{100 * share.value:.0f}' for share in others)}"


def json_record(path: Path) -> dict[str, Any]:
    """A record that is no card; empty if there is none. Raises InputError for what is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path}: is damaged; remove it to measure again.") from error


def stored(records: Path, name: str) -> Card | None:
    """The card of a job, if there is one."""
    path = records / f"{name}.json"
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=128)
def _read(path: Path, changed: int) -> Card:
    """A card as it was at a time: tables ask for the same ones again and again."""
    return read_card(path)


def clean(row: Row) -> Metrics:
    """Of a row without an attack."""
    return next(found for found in row.conditions if found.key == CLEAN).attacked


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


def condition(card: Card, key: str) -> Condition | None:
    """A condition of the system itself, if it was run."""
    return next((found for found in card.rows[0].conditions if found.key == key), None)
