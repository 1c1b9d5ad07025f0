"""What reports say of a card, for all their formats: readings of a number, columns, verdict, flags."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from audiopure.errors import InputError
from audiopure.evaluation.card import CLEAN, Card, Condition, Flag, Metrics, Proportion, Row
from audiopure.evaluation.compare import Difference, chance, compare, points

COLUMN_NAMES = {"linf": "L∞", "l2": "L2", "gain": "gain", CLEAN: "clean"}
AXIS_NAMES = {
    "steps": "attack steps",
    "any-iterate": "attack steps (clips never wrong until then)",
    "eot": "EOT draws of each gradient",
    "budget": "multiple of the budget",
    "n_star": "n* of the purifier",
}
# key in `Condition.distances` -> heading, format of its median
DISTANCES = {
    "snr": ("SNR, dB", "{:.1f}"),
    "l2": ("L2", "{:.3g}"),
    "linf": ("L∞", "{:.2g}"),
    "above_mask": ("above mask, dB", "{:.1f}"),
    "stoi": ("STOI", "{:.2f}"),
    "pesq": ("PESQ", "{:.2f}"),
}
GRADIENT_VERDICTS = {
    "exact": "exact: the attack's gradient agrees with finite differences",
    "declared": "approximate, and declared so",
    "broken": "BROKEN: the attack does not follow the system's slope, so its failure shows nothing",
    "none": "nothing to audit",
}


class Interval(Protocol):
    """A share with its interval, all in [0, 1]."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def percent(share: Interval) -> str:
    """As in "84 % [71–93]": value and interval, rounded to whole percents."""
    value, low, high = (round(100 * v) for v in (share.value, share.low, share.high))
    return f"{value} % [{low}–{high}]"


def brief(share: Proportion) -> str:
    """As in "84 %"."""
    return f"{round(100 * share.value)} %"


def readings(metrics: Metrics) -> list[tuple[str, Proportion]]:
    """The four ways to read an accuracy, by name, the average first; they never stand alone."""
    return [
        ("average", metrics.average),
        ("one-shot", metrics.one_shot),
        (f"worst of {metrics.passes}", metrics.worst),
        ("majority vote", metrics.vote),
    ]


def columns(card: Card) -> dict[str, str]:
    """Columns of the headline table: "clean", then column -> budget of every headline."""
    found = {CLEAN: CLEAN}
    for row in headline_rows(card):
        found.update({headline.column: headline.budget for headline in row.headlines})
    return found


def headline_rows(card: Card) -> list[Row]:
    """The systems, then their controls."""
    return [row for role in ("system", "control") for row in card.rows if row.role == role]


def headline(row: Row, column: str) -> Metrics | None:
    """What the headline table says of a row in a column, None where it was not attacked there."""
    if column == CLEAN:
        clean = next((c.attacked for c in row.conditions if c.key == CLEAN), None)
        return clean or next((entry.clean for entry in row.headlines), None)
    return next((entry.attacked for entry in row.headlines if entry.column == column), None)


def column_name(column: str) -> str:
    return COLUMN_NAMES.get(column, column)


def flags(card: Card) -> list[Flag]:
    """Violations first."""
    return sorted(card.flags, key=lambda flag: flag.kind != "violation")


def violations(card: Card) -> int:
    return sum(flag.kind == "violation" for flag in card.flags)


def checks_sentence(card: Card) -> str:
    """How many sanity checks came to which verdict."""
    count = Counter(check.verdict for check in card.checks)
    named = ("passed", "violated", *(["declared"] if count["declared"] else []), "not run")
    told = [f"{count[verdict]} {verdict}" for verdict in named]
    return f"Sanity checks: {', '.join(told)}."


def row_title(card: Card, key: str) -> str:
    """A row's title, or its key where the card has no such row."""
    return next((row.title for row in card.rows if row.key == key), key)


def distances(conditions: list[Condition]) -> dict[str, tuple[str, str]]:
    """Of the known distances those that some condition has."""
    return {key: how for key, how in DISTANCES.items() if any(key in c.distances for c in conditions)}


def median(condition: Condition, key: str) -> str:
    """A distance's median in its format, "—" where there is none."""
    spread = condition.distances.get(key)
    return "—" if spread is None else number(spread.median, DISTANCES[key][1])


def number(value: float, form: str = "{:g}") -> str:
    """A number, with signs for those that are not finite."""
    if math.isnan(value):
        return "—"
    return form.format(value) if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def gradient_sentence(row: Row) -> str | None:
    """The audit's verdict on a row with its numbers, None where there was no audit."""
    audit = row.gradient
    if audit is None:
        return None
    facts = [GRADIENT_VERDICTS[audit.verdict]]
    if audit.cosine is not None:
        facts.append(f"cosine {audit.cosine:.4f}")
    if audit.sign_agreement is not None:
        facts.append(f"signs agree in {100 * audit.sign_agreement:.0f} % of directions")
    if audit.pairwise is not None:
        facts.append(f"independent draws agree by a cosine of {audit.pairwise:.3f}")
    if audit.silent:
        facts.append(f"no gradient through {', '.join(audit.silent)}")
    sentence = ", ".join(facts)
    return f"{sentence}. {audit.note}" if audit.note else f"{sentence}."


def notes(card: Card) -> list[str]:
    """What a reader must know to believe the headline table, one sentence each."""
    data = card.data
    split = "" if data.split is None else f", {data.split} split"
    of = "" if data.of == data.clips else f" of {data.of}"
    sentences = [] if card.protocol.note is None else [card.protocol.note]
    sentences += [
        f"{data.clips}{of} clips ({data.name}{split}), protocol “{card.protocol.name}”; in brackets the 95 % "
        "Clopper-Pearson interval over clips.",
        "Average: the chance of being right once. One-shot: the first pass. Worst: every pass is right. "
        "Majority vote: the label that most passes give.",
        "Each clip counts with the attack that leaves it the lowest average; other attacks may find more.",
    ]
    if data.shard is not None:
        sentences.append(f"Shard {data.shard} only: not all clips are in these numbers.")
    return sentences if data.note is None else [*sentences, data.note]


def verdict(card: Card) -> list[str]:
    """The result in plain words: what withstands what, and what that is more than its controls."""
    sentences = []
    if broken := violations(card):
        what = "One check has" if broken == 1 else f"{broken} checks have"
        sentences.append(f"{what} failed: these numbers cannot be taken at their word.")
    for row in card.rows:
        if row.role == "system":
            sentences += _withstands(row)
            for control in card.rows:
                if control.role == "control":
                    sentences += _over(card, row, control)
    return sentences


def differences(card: Card, row: Row, control: Row) -> list[Difference]:
    """`row` over `control` in every column both have, clip by clip; empty if they share no clip."""
    try:
        return compare(card, card, row_a=control.key, row_b=row.key).differences
    except InputError:
        return []


def _withstands(row: Row) -> Iterator[str]:
    clean = headline(row, CLEAN)
    if clean is not None:
        yield (
            f"{row.title} recognises {percent(clean.average)} of {clean.average.n} clips when nobody attacks"
            f"{_others(clean)}."
        )
    for entry in row.headlines:
        share, count = entry.attacked.average, len(entry.attacks)
        which = "one attack" if count == 1 else f"{count} attacks, each clip with its worst"
        yield (
            f"Attacked within {entry.budget} ({which}) it still recognises {percent(share)} of {share.n} "
            f"clips{_others(entry.attacked)}, against {percent(entry.clean.average)} of the same without the "
            "attack."
        )


def _others(metrics: Metrics) -> str:
    if metrics.passes == 1:
        return " (one pass)"
    return f" ({', '.join(f'{name}: {percent(share)}' for name, share in readings(metrics)[1:])})"


def _over(card: Card, row: Row, control: Row) -> Iterator[str]:
    found = differences(card, row, control)
    if found:
        parts = [
            f"{column_name(d.column)} {points(d.difference)} points [{points(d.low)} to {points(d.high)}], "
            f"{'distinguishable' if d.distinguishable else 'not distinguishable'} ({chance(d.p)})"
            for d in found
        ]
        alone = sorted({key.partition("/")[0] for d in found for key in d.attacks} - {CLEAN})
        under = f", under {' and '.join(alone)}" if alone else ""
        yield f"Compared with “{control.title}”, clip by clip{under}: {'; '.join(parts)}."
