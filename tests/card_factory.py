"""Report cards with numbers of their own, computed without the code that reports them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from audiopure.evaluation.card import (
    Card,
    Check,
    ClipOutcome,
    Condition,
    Cost,
    Curve,
    Data,
    Example,
    Flag,
    Gradient,
    Headline,
    Metrics,
    Point,
    Proportion,
    Protocol,
    Row,
    Spread,
)

BUDGETS = {"linf": "L∞ ≤ 0.002", "l2": "L2 ≤ 0.253"}
LABELS = ("zero", "one", "two")


def share(count: float, n: int) -> Proportion:
    """Clopper-Pearson from its definition by the beta distribution."""
    k, more = math.floor(count), math.ceil(count)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if more == n else float(beta.ppf(0.975, more + 1, n - more))
    return Proportion(value=count / n, low=low, high=high, n=n)


def metrics(right: np.ndarray) -> Metrics:
    """From (clips, passes) of right answers; a vote is won by more than half."""
    n, passes = right.shape
    return Metrics(
        one_shot=share(int(right[:, 0].sum()), n),
        average=share(float(right.sum()) / passes, n),
        worst=share(int(right.all(1).sum()), n),
        vote=share(int((right.mean(1) > 0.5).sum()), n),
        passes=passes,
    )


def condition(key: str, right: np.ndarray, clean: np.ndarray, **changes: Any) -> Condition:
    """One attack, "stage/column", or "clean"."""
    stage, _, column = key.partition("/")
    attacked = bool(column)
    was, now = clean.mean(1) >= 0.5, right.mean(1) >= 0.5
    far = {"snr": 31.4, "l2": 0.25, "linf": 0.002, "above_mask": -3.5, "stoi": 0.97}
    facts: dict[str, Any] = {
        "key": key,
        "title": {"pgd": "PGD-20, EOT 5", "random": "random noise", "clean": "no attack"}.get(stage, stage),
        "column": column or "clean",
        "budget": BUDGETS.get(column, "none"),
        "attack": f"{stage.title()}(norm={column!r}, eot=5)" if attacked else None,
        "route": "exact" if stage == "pgd" else "none",
        "counts": stage not in ("random", "clean"),
        "note": None,
        "attacked": metrics(right),
        "clean": metrics(clean),
        "success": share(int((was & ~now).sum()), int(was.sum())) if attacked and was.any() else None,
        "any_iterate": share(len(right) // 3, len(right)) if stage == "pgd" else None,
        "any_iterate_clean": share(len(right) // 2, len(right)) if key == "pgd/l2" else None,
        "queries": 1234.0 if attacked else 0.0,
        "distances": {k: Spread(median=v, low=v - 0.01, high=v + 0.01, n=len(right)) for k, v in far.items()}
        if attacked
        else {},
    }
    return Condition(**{**facts, **changes})


def row(key: str, rights: Mapping[str, np.ndarray], **changes: Any) -> Row:
    """A row from (clips, passes) of right answers in each condition."""
    conditions = [condition(name, right, rights["clean"]) for name, right in rights.items()]
    facts: dict[str, Any] = {
        "key": key,
        "title": {"system": "small+digits", "none": "no defence"}.get(key, key),
        "spec": "small+digits" if key == "system" else f"small+digits: {key}",
        "role": "system" if key == "system" else "control",
        "gradient": None,
        "headlines": [
            Headline(column=c.column, budget=c.budget, attacks=[c.key], attacked=c.attacked, clean=c.clean)
            for c in conditions
            if c.counts
        ],
        "conditions": conditions,
    }
    return Row(**{**facts, **changes})


def answers(seed: int, n: int, chance: float, passes: int = 10) -> np.ndarray:
    """Right answers of clips that differ in how easy they are."""
    generator = np.random.default_rng(seed)
    easy = generator.beta(4 * chance, 4 * (1 - chance), size=(n, 1))
    return generator.random((n, passes)) < easy


def make_card(
    rows: Mapping[str, Mapping[str, np.ndarray]], ids: Sequence[str] | None = None, **changes: Any
) -> Card:
    """A card whose rows, headlines and clips all come from the same answers."""
    n = len(next(iter(rows.values()))["clean"])
    ids = ids or [f"digit/{k:03d}.wav" for k in range(n)]
    clips = [
        ClipOutcome(
            id=clip,
            label=LABELS[k % 3],
            seconds=1.0,
            right={r: {c: float(a[k].mean()) for c, a in found.items()} for r, found in rows.items()},
        )
        for k, clip in enumerate(ids)
    ]
    facts: dict[str, Any] = {
        "schema_": "audiopure-card-1",
        "command": "audiopure evaluate --system small+digits --protocol quick --seed 0",
        "versions": {"audiopure": "0.1.0", "torch": "2.13.0"},
        "machine": {"device": "cpu", "threads": 1, "workers": 2},
        "protocol": Protocol(name="quick", passes=10, settings={"stages": ["pgd", "random"]}, note=None),
        "data": Data(name="sc09", split="test", clips=n, of=1188, note=None, shard=None),
        "weights": {"small": "0123456789abcdef"},
        "cost": Cost(seconds=321.0, passes=654_321),
        "rows": [row(key, found) for key, found in rows.items()],
        "curves": [],
        "flags": [],
        "examples": [],
        "clips": clips,
    }
    return Card(**{**facts, **changes})


def full_card() -> Card:
    """Every part of a report, with as many kinds of content as there are."""
    n = 30
    rows = {
        "system": {
            "clean": answers(1, n, 0.97),
            "pgd/linf": answers(2, n, 0.7),
            "pgd/l2": answers(3, n, 0.5),
            "random/linf": answers(4, n, 0.95),
        },
        "none": {
            "clean": answers(5, n, 0.99, 1),
            "pgd/linf": answers(6, n, 0.3, 1),
            "pgd/l2": answers(7, n, 0.1, 1),
        },
        "noise-only": {
            "clean": answers(8, n, 0.95),
            "pgd/linf": answers(9, n, 0.65),
            "pgd/l2": answers(10, n, 0.45),
        },
    }
    card = make_card(rows)
    audit = Gradient(verdict="exact", cosine=0.9998, sign_agreement=1.0, silent=[], pairwise=0.123, note=None)
    broken = Gradient(
        verdict="broken",
        cosine=0.5,
        sign_agreement=0.75,
        silent=["quantiser"],
        pairwise=None,
        note="Planted.",
    )
    system, none, noise = card.rows
    return card.model_copy(
        update={
            "rows": [
                system.model_copy(update={"gradient": audit}),
                none,
                noise.model_copy(update={"gradient": broken}),
            ],
            "curves": [
                curve("budget", "linf", [(0.25, 28), (0.5, 25.5), (2, 14), (8, 3), (math.inf, 0)]),
                curve("budget", "l2", [(0.25, 27), (0.5, 22), (2, 9), (8, 1), (math.inf, 0)]),
                curve("steps", "linf", [(0, 29), (1, 27), (10, 22), (100, 21)]),
                curve("n_star", "l2", [(1, 10), (2, 12), (3, 15), (5, 16)]),
                curve("eot", "l2", [(5, 15)]),
            ],
            "flags": [
                Flag(kind="note", sentence="The transfer attack was left out: no surrogate."),
                Flag(kind="violation", sentence="Accuracy rises with the budget from 2 to 8 in L2."),
            ],
            "checks": [
                Check(
                    name="accuracy falls", about="L2", verdict="violated", sentence="50 % at 2, 60 % at 8."
                ),
                Check(name="at most chance", about="L2", verdict="not run", sentence="Not run: no budget."),
            ],
            "examples": [
                example("clean", 10, "zero"),
                example("pgd/linf", 0, "two"),
                example("pgd/linf#purified", 0, "one"),
            ],
        }
    )


def curve(axis: Any, column: str, counts: Sequence[tuple[float, float]]) -> Curve:
    points = [Point(x=x, y=share(count, 30)) for x, count in counts]
    return Curve(
        axis=axis,
        title=f"{column}: {axis}",
        row="system",
        column=column,
        points=points,
        note="30 clips, short.",
    )


def example(key: str, right: int, heard: str) -> Example:
    return Example(
        clip="digit/000.wav",
        label="zero",
        row="system",
        condition=key,
        right=right,
        passes=10,
        heard=heard,
        snr=None if key == "clean" else 31.4,
        audio=f"audio/{key.replace('/', '-').replace('#', '-')}.wav",
    )
