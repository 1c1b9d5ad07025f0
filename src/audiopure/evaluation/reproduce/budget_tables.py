"""Tables 2 and F: budgets against n*, by the protocol `grid`."""

from __future__ import annotations

from pathlib import Path

from audiopure.evaluation.card import Card
from audiopure.evaluation.reproduce.jobs import Job, evaluation
from audiopure.evaluation.reproduce.published import ACCURACY_BY_BUDGET, BUDGET_STEPS, LARGE
from audiopure.evaluation.reproduce.reading import NOT_RUN, brief, stored, table

GRID: Job = evaluation("grid", "small+digits", "grid")
BASE = 0.002  # what the protocol's budgets are multiples of
ABOUT = (
    "Average accuracy in % over fresh passes against PGD-20 with exact gradients and EOT to 5, with its 95 % "
    "interval over 100 clips; in round brackets as published (PGD-10, another purifier, an inexact gradient)."
)


def by_steps(records: Path) -> str:
    """Table 2."""
    card = stored(records, GRID.name)
    body = []
    for eps, values in ACCURACY_BY_BUDGET.items():
        cells = [f"{_cell(card, n, eps)} ({value:g})" for n, value in zip(BUDGET_STEPS, values, strict=True)]
        body.append([f"{eps:g}", *cells])
    return table(["eps, L∞", *(f"n*={n}" for n in BUDGET_STEPS)], body) + f"\n\n{ABOUT}"


def large(records: Path) -> str:
    """Table F."""
    card = stored(records, GRID.name)
    body = [["published", *(f"{value:g}" for value in LARGE.values())]]
    body.insert(0, ["n*=5", *(_cell(card, 5, eps) for eps in LARGE)])
    return table(["eps, L∞", *(f"{eps:g}" for eps in LARGE)], body) + f"\n\n{ABOUT}"


def _cell(card: Card | None, n_star: int, eps: float) -> str:
    key = f"budget-{eps / BASE:g}/linf"
    rows = [] if card is None else [row for row in card.rows if row.key == f"n_star={n_star}"]
    found = [c for row in rows for c in row.conditions if c.key == key]
    return brief(found[0].attacked.average) if found else NOT_RUN
