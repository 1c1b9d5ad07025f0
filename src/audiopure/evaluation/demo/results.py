"""What the demo measured: the schema of its `results.json`.

    schema        "audiopure-demo-1"; changes when a field changes its meaning
    command       the shell command that repeats the run
    versions      audiopure, python, torch, platform
    seconds       wall clock of the run, data and models loaded
    threads       of PyTorch
    settings      `DemoConfig`
    data          name, split (null if there is none), clips (how many were used), of (how many there were),
                  note (null, or one sentence that must stand beside every table made of the results)
    models        recogniser and purifier: name, sha256 (first 16 hex digits of the weights file), card
    budgets       norm ("linf", "l2") -> eps
    rows          one for each defence, in the order of the table: key ("none", "noise", "purified"), title,
                  attacks (norm -> label of the attack), passes, cells
    rows.cells    "clean", "linf", "l2" -> accuracies, see `Cell`
    clips         one for each clip: id, label, seconds, right (row -> column -> passes that recognised it),
                  snr (row -> norm -> dB of the clip over the perturbation)

Proportions lie in [0, 1]. A clip counts once however many passes it had, so intervals are over clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from audiopure.metrics import clopper_pearson

COLUMNS = ("clean", "linf", "l2")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Proportion(Record):
    """A share of clips with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float


class Cell(Record):
    """Accuracy of one defence in one condition.

    Attributes:
        average: mean over clips and fresh passes: the chance of being recognised once. The interval is that
            of as many clips as the mean amounts to (rounded outwards): passes of a clip are not independent
            and do not narrow it.
        worst: share of clips that every one of the passes recognises.
    """

    average: Proportion
    worst: Proportion


class Row(Record):
    key: Literal["none", "noise", "purified"]
    title: str
    attacks: dict[str, str]
    passes: int
    cells: dict[str, Cell]


class ClipRecord(Record):
    id: str
    label: str
    seconds: float
    right: dict[str, dict[str, int]]
    snr: dict[str, dict[str, float]]


class DataFacts(Record):
    name: str
    split: str | None
    clips: int
    of: int
    note: str | None


class ModelFacts(Record):
    name: str
    sha256: str
    card: dict[str, Any]


class DemoResults(Record):
    schema_: Literal["audiopure-demo-1"]
    command: str
    versions: dict[str, str]
    seconds: float
    threads: int
    settings: dict[str, Any]
    data: DataFacts
    models: dict[str, ModelFacts]
    budgets: dict[str, float]
    rows: list[Row]
    clips: list[ClipRecord]

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.rstrip("_"), populate_by_name=True
    )


def cell(right: Sequence[int], passes: int) -> Cell:
    """Accuracies from how many of `passes` recognised each clip."""
    n, total = len(right), sum(right)
    low, _ = clopper_pearson(total // passes, n)
    _, high = clopper_pearson(math.ceil(total / passes), n)
    all_right = sum(count == passes for count in right)
    worst = clopper_pearson(all_right, n)
    return Cell(
        average=Proportion(value=total / (passes * n), low=low, high=high),
        worst=Proportion(value=all_right / n, low=worst[0], high=worst[1]),
    )
