"""What `audiopure tune` found: a record, a table, and sentences.

    schema        "audiopure-tune-1"; changes when a field changes its meaning
    versions      audiopure, python, torch
    system        as given
    weights       name of a weights file -> first 16 hex digits of its SHA-256
    data          name, split, clips used, of how many, note
    passes        fresh passes of each clip
    stated        the loss of clean accuracy that is allowed, as a share
    attack        the attack's constructor, null without one
    undefended    clean accuracy without the purifier
    levels        one for each n*, see `Level`
    recommended   n*, null if no level keeps the loss
    spec          the system to use, null if no level keeps the loss

Accuracies and losses are shares in [0, 1], with 95 % intervals over clips.
"""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from audiopure.evaluation.card import Data, Proportion, Record
from audiopure.evaluation.report.words import percent

WITHIN = {"yes": "yes", "no": "no", "open": "cannot tell"}


class Level(Record):
    """One noise level.

    Attributes:
        clean: mean over clips and fresh passes.
        loss: of clean accuracy against no purifier, over the same clips, as a share; low, high: its 95 %
            interval (`compare.paired_interval`).
        verdict: whether the data show that the loss is within the stated one: "yes", "no" (it is beyond), or
            "open".
        attacked: accuracy under the attack, over its clips.
    """

    n_star: float
    spec: str
    clean: Proportion
    loss: float
    low: float
    high: float
    verdict: Literal["yes", "no", "open"]
    attacked: Proportion | None


class Tuning(Record):
    schema_: Literal["audiopure-tune-1"]
    versions: dict[str, str]
    system: str
    weights: dict[str, str]
    data: Data
    passes: int
    stated: float
    attack: str | None
    undefended: Proportion
    levels: list[Level]
    recommended: float | None
    spec: str | None
    seconds: float


def rich_table(found: Tuning) -> Table:
    """The levels, at most 80 characters wide."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    headings = ["n*", "clean", "points lost", f"at most {points(found.stated)}?"]
    if found.attack is not None:
        headings.append("attacked")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("none", percent(found.undefended))
    for level in found.levels:
        cells = [f"{level.n_star:g}", percent(level.clean), _loss(level), WITHIN[level.verdict]]
        if level.attacked is not None:
            cells.append(percent(level.attacked))
        chosen = level.n_star == found.recommended
        table.add_row(*[Text(cell, style="bold" if chosen else "") for cell in cells])
    return table


def sentences(found: Tuning) -> list[str]:
    """What is recommended, how far the data bear it out, and what was measured."""
    data = found.data
    split = "" if data.split is None else f", {data.split} split"
    notes = [
        f"{data.clips} clips ({data.name}{split}), {found.passes} fresh passes each; in brackets 95 % "
        "intervals over clips, those of points lost for the same clips with and without the purifier."
    ]
    if data.note is not None:
        notes.append(data.note)
    if found.attack is not None:
        notes.append(f"Attack: {found.attack}. It is short: enough to compare levels, not to report.")
    return [*notes, *_recommendation(found)]


def points(share: float) -> str:
    """A share in points of a percentage: 0.021 -> "2.1"."""
    return f"{100 * share:.1f}"


def _recommendation(found: Tuning) -> list[str]:
    chosen = next((level for level in found.levels if level.n_star == found.recommended), None)
    stated = f"{100 * found.stated:g} points"
    if chosen is None:
        least = min(found.levels, key=lambda level: level.loss)
        return [
            f"No level tried keeps the loss within {stated}; n* = {least.n_star:g} loses the least: "
            f"{_loss(least)}."
        ]
    why = "the largest level" if found.attack is None else "the most robust level"
    lines = [f"n* = {chosen.n_star:g}: {why} whose measured loss is at most {stated}."]
    if chosen.verdict == "open":
        lines.append(
            f"These clips cannot tell whether its loss is: it may be up to {points(chosen.high)} points. "
            "More clips narrow that down."
        )
    if found.attack is not None:
        lines += _rivals(found, chosen)
    return [*lines, f"System: {found.spec}"]


def _rivals(found: Tuning, chosen: Level) -> list[str]:
    """Levels within the loss whose robustness these clips do not tell from that of the chosen one."""
    assert chosen.attacked is not None
    near = [
        f"{level.n_star:g}"
        for level in found.levels
        if level is not chosen
        and level.attacked is not None
        and level.loss <= found.stated
        and level.attacked.high >= chosen.attacked.low
    ]
    return [f"Under attack it cannot be told from n* = {', '.join(near)}."] if near else []


def _loss(level: Level) -> str:
    return f"{points(level.loss)} [{points(level.low)} to {points(level.high)}]"
