"""Tables 2 and F: budgets against n*, under the paper's protocol and by exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from audiopure.evaluation.card import Card, Proportion
from audiopure.evaluation.reproduce import budget_runs, costs
from audiopure.evaluation.reproduce.jobs import Job, evaluation
from audiopure.evaluation.reproduce.published import ACCURACY_BY_BUDGET, BUDGET_STEPS, LARGE
from audiopure.evaluation.reproduce.reading import NOT_RUN, beside, brief, stored, table

GRID: Job = evaluation("grid", "small+digits", "grid")
BASE = 0.002  # what the protocol's budgets are multiples of
ABOUT = (
    "Exact gradients, protocol `grid`: average accuracy in % over fresh passes against PGD-20 with EOT to 5, "
    "with its 95 % interval over 100 clips; in round brackets as published (PGD-10, another purifier, an "
    "inexact gradient)."
)
PAPER = (
    "The paper's protocol: share of {} clips in % that no draw of any iterate of PGD-10 failed, one draw a "
    "step, the network taken as a constant in the gradient (as released); in round brackets as published, "
    "below the 95 % interval over clips."
)


def by_steps(records: Path) -> str:
    """Table 2 by exact gradients."""
    card = stored(records, GRID.name)

    def cell(n_star: int, eps: float, published: float) -> str:
        found = _share(card, n_star, eps)
        return f"{brief(found) if found else NOT_RUN} ({published:g})"

    return f"{_steps(cell)}\n\n{ABOUT}"


def large(records: Path) -> str:
    """Table F by exact gradients."""
    card = stored(records, GRID.name)
    cells = [brief(found) if (found := _share(card, 5, eps)) else NOT_RUN for eps in LARGE]
    return f"{_large(cells)}\n\n{ABOUT}"


def by_steps_as_paper(records: Path) -> str:
    """Table 2 under the paper's protocol."""

    def cell(n_star: int, eps: float, published: float) -> str:
        return beside(budget_runs.share(records, n_star, eps), published)

    return f"{_steps(cell)}\n\n{_about_paper(records)} {costs.of_purifier(records)}"


def large_as_paper(records: Path) -> str:
    """Table F under the paper's protocol."""
    cells = [beside(budget_runs.share(records, 5, eps), None) for eps in LARGE]
    return f"{_large(cells)}\n\n{_about_paper(records)} {costs.of_purifier(records)}"


def _about_paper(records: Path) -> str:
    shares = (budget_runs.share(records, *one) for one in budget_runs.wanted())
    counts = sorted({share.n for share in shares if share} or {budget_runs.CLIPS})
    return PAPER.format("/".join(map(str, counts)))


def _steps(cell: Callable[[int, float, float], str]) -> str:
    body = [
        [f"{eps:g}", *(cell(n, eps, value) for n, value in zip(BUDGET_STEPS, values, strict=True))]
        for eps, values in ACCURACY_BY_BUDGET.items()
    ]
    return table(["eps, L∞", *(f"n*={n}" for n in BUDGET_STEPS)], body)


def _large(cells: Iterable[str]) -> str:
    body = [["n*=5", *cells], ["published", *(f"{value:g}" for value in LARGE.values())]]
    return table(["eps, L∞", *(f"{eps:g}" for eps in LARGE)], body)


def _share(card: Card | None, n_star: int, eps: float) -> Proportion | None:
    key = f"budget-{eps / BASE:g}/linf"
    rows = [] if card is None else [row for row in card.rows if row.key == f"n_star={n_star}"]
    found = [c for row in rows for c in row.conditions if c.key == key]
    return found[0].attacked.average if found else None
