"""Tables 2 and F under the paper's protocol: PGD-10 at other budgets than `paper` has, for every n*."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from audiopure.api import load_purifier, load_recogniser
from audiopure.attacks import Pgd
from audiopure.defended import defend
from audiopure.evaluation.card import Proportion
from audiopure.evaluation.reproduce import measuring
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.published import ACCURACY_BY_BUDGET, BUDGET_STEPS, LARGE
from audiopure.evaluation.reproduce.reading import json_record
from audiopure.evaluation.scoring import proportion

NAME = "paper-budgets"
CLIPS = 100
STEPS = 10


def wanted() -> Iterator[tuple[int, float]]:
    """(n*, eps) of both tables."""
    yield from ((n, eps) for n in BUDGET_STEPS for eps in ACCURACY_BY_BUDGET)
    yield from ((5, eps) for eps in LARGE)


def attack(n_star: int, eps: float) -> Pgd:
    """The paper's, as released: one draw a step, a gradient that takes the network as a constant."""
    route = "network-constant" if n_star else "exact"
    return Pgd(
        norm="linf", eps=eps, steps=STEPS, step_size="paper", random_start=False, route=route, bits=None
    )


def measure(place: Place, say: Callable[[str], None], clips: int = CLIPS) -> None:
    """Clips that no draw of any iterate failed, at each n* and budget; each is kept once it is known."""
    path = place.records / f"{NAME}.json"
    record = json_record(path) or {**measuring.facts(place, clips), "steps": STEPS, "cells": {}}
    recogniser = load_recogniser().to(place.device)
    for n_star, eps in wanted():
        if cell(n_star, eps) in record["cells"]:
            continue
        say(f"PGD-{STEPS} as released, n* = {n_star}, eps = {eps:g}, {clips} clips")
        purifier = load_purifier(n_star=n_star).to(place.device)
        model = defend(recogniser, purifier) if n_star else recogniser
        found, count = 0, 0
        for batch in measuring.clips(place, clips):
            result = attack(n_star, eps)(
                model, batch.waveform, batch.labels, noise=measuring.noise(batch, 0), lengths=batch.lengths
            )
            found += int((result.survived.flatten(0, 1) == 1).all(0).sum())
            count += len(batch.index)
        record["cells"][cell(n_star, eps)] = {"right": found, "clips": count}
        keep(record, path)


def cell(n_star: int, eps: float) -> str:
    """Key of the record."""
    return f"n_star={n_star}/eps={eps:g}"


def share(records: Path, n_star: int, eps: float) -> Proportion | None:
    """What was measured, if it was."""
    one = json_record(records / f"{NAME}.json").get("cells", {}).get(cell(n_star, eps))
    return proportion(one["right"], one["clips"]) if one else None
