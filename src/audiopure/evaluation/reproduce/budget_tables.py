"""Tables 2 and F: budgets against n*, by the protocol `grid`."""

from __future__ import annotations

from collections.abc import Iterable

from audiopure.evaluation.card import Card
from audiopure.evaluation.reproduce.jobs import Job, Place, evaluation
from audiopure.evaluation.reproduce.published import BUDGET_STEPS, BUDGETS, LARGE
from audiopure.evaluation.reproduce.reading import NOT_RUN, brief, find, stored, table

GRID: Job = evaluation("grid", "small+digits", "grid")
BASE = 0.002  # what the protocol's budgets are multiples of
ABOUT = (
    "Average accuracy in % over fresh passes against PGD-20 with exact gradients and EOT to 5, with its 95 % "
    "interval over 100 clips; in round brackets as published (PGD-10, another purifier, an inexact gradient)."
)


def by_steps(place: Place) -> str:
    """Table 2."""
    card = stored(place, GRID.name)
    body = []
    for eps, values in BUDGETS.items():
        cells = [f"{_cell(card, n, eps)} ({value:g})" for n, value in zip(BUDGET_STEPS, values, strict=True)]
        body.append([f"{eps:g}", *cells])
    return table(["eps, L∞", *(f"n*={n}" for n in BUDGET_STEPS)], body) + f"\n\n{ABOUT}"


def large(place: Place) -> str:
    """Table F, and every budget of the protocol at n* = 5."""
    card = stored(place, GRID.name)
    eps = sorted({*LARGE, *(_budgets(card) if card else ())})
    body = [[f"{e:g}", _cell(card, 5, e), f"{LARGE[e]:g}" if e in LARGE else ""] for e in eps]
    return table(["eps, L∞", "n*=5", "published"], body) + f"\n\n{ABOUT}"


def _budgets(card: Card) -> Iterable[float]:
    keys = [c.key for c in card.rows[-1].conditions if c.key.startswith("budget-")]
    return [round(BASE * float(key.removeprefix("budget-").partition("/")[0]), 6) for key in keys]


def _cell(card: Card | None, n_star: int, eps: float) -> str:
    row = card and next((row for row in card.rows if row.key == f"n_star={n_star}"), None)
    if card is None or row is None or eps not in _budgets(card):
        return NOT_RUN
    return brief(find(row, f"budget-{eps / BASE:g}/linf").attacked.average)
