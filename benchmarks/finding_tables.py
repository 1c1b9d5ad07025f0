"""The findings as Markdown: tables made of the cards in benchmarks/results/findings, whichever there are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from audiopure.evaluation.card import Card, Row
from audiopure.evaluation.compare import compare, met, paired_interval, points
from audiopure.evaluation.reproduce import budget_tables
from audiopure.evaluation.reproduce.reading import (
    BUDGETS,
    NORMS,
    NOT_RUN,
    brief,
    clean,
    headline,
    readings,
    stored,
    table,
)
from audiopure.evaluation.stages import STILL

CARDS = Path(__file__).resolve().parent / "results" / "findings"
TITLES = {
    "none": "none",
    "noise-only": "noise only, n*=3",
    "one-shot": "one-shot, n*=3",
    "n3": "purified, n*=3",
}
LEVELS = (1, 2, 3, 5, 7, 10)


def cards(names: Iterable[str]) -> dict[str, Card]:
    """Those of the named cards that there are."""
    return {name: card for name in names if (card := stored(CARDS, name))}


def standard(_: object) -> str:
    """What exact gradients report: every system under `standard`."""
    found = cards(f"standard-{name}" for name in TITLES)
    body = []
    for name, card in found.items():
        row = card.rows[0]
        cells = [readings(clean(row))]
        cells += [readings(headline(row, column)) for column in (*BUDGETS, "gain")]
        body.append([TITLES[name.removeprefix("standard-")], *cells])
    met = {gain.average.n for card in found.values() if (gain := headline(card.rows[0], "gain"))}
    equaliser = f"equaliser, 6 dB ({'/'.join(map(str, sorted(met)))} clips)"
    return _with_notes(["defence", "clean", *BUDGETS.values(), equaliser], body, found)


def paper(_: object) -> str:
    """What the paper's protocol reports for the same systems."""
    found = cards(f"paper-{name}" for name in TITLES)
    body = []
    for name, card in found.items():
        row = card.rows[0]
        cells = [any_iterate(row, STILL)]
        two = any(condition.key.startswith("as-written/") for condition in row.conditions)
        for stage in ("as-released", "as-written" if two else "as-released"):
            cells += [any_iterate(row, f"{stage}/{column}") for column in BUDGETS]
        body.append([TITLES[name.removeprefix("paper-")], *cells])
    heads = [f"as {how}, {column}" for how in ("released", "written") for column in BUDGETS.values()]
    return _with_notes(["defence", "no attack, as many draws", *heads], body, found)


def quick(_: object) -> str:
    """Other n* and the recogniser of others, under `quick`, with the controls beside."""
    found = cards([*(f"quick-n{level}" for level in LEVELS), "quick-other"])
    body = []
    for name, card in found.items():
        other = name == "quick-other"
        for row in card.rows:
            if row.key == "system":
                title = "third-party recogniser, n*=3" if other else f"n*={name.removeprefix('quick-n')}"
            elif row.key == "noise-only" or (row.key == "none" and name in ("quick-n3", "quick-other")):
                title = row.title + (", third-party" if other else "")
                title += f", n*={name.removeprefix('quick-n')}" if row.key != "none" and not other else ""
            else:
                continue
            cells = [readings(clean(row)), *(readings(headline(row, column)) for column in BUDGETS)]
            gains = over_noise(card) if row.key == "system" else [""] * len(BUDGETS)
            body.append([title, *cells, *gains])
    gains = [f"over its noise alone, {NORMS[column]}" for column in BUDGETS]
    return _with_notes(["system", "clean", *BUDGETS.values(), *gains], body, found)


def grid(_: object) -> str:
    """The paper's tables 2 and F in our setting."""
    return budget_tables.by_steps(CARDS) + "\n\n" + budget_tables.large(CARDS)


def costs(_: object) -> str:
    """What each protocol costs for the shipped system."""
    names = {
        "quick": "quick-n3",
        "paper": "paper-n3",
        "standard": "standard-n3",
        "full": "full-n3",
        "grid": "grid",
    }
    each = json.loads((CARDS.parent / "attack-speed.json").read_text())["gflop"]["n*=3"]
    body = []
    for protocol, name in names.items():
        for card in cards([name]).values():
            hours, work = card.cost.seconds / 3600, card.cost.passes * each / 1e6
            facts = [f"{hours:.1f}", f"{30 * hours:.1f} min", f"{card.cost.passes:,}", f"{work:.2f}"]
            body.append([f"`{protocol}`", str(card.data.clips), *facts, str(card.machine["device"])])
    heads = ["protocol", "clips", "core hours", "on 2 cores", "passes", "PFLOP, at most", "machine"]
    note = (
        "For `small+digits`: the time of attacks and fresh passes. What is not counted: loading, gradient "
        "audits, the distances of each result (its masking threshold, STOI, PESQ), the surrogate of "
        "`standard`, the report. Not measured on a GPU: there the arithmetic tells, counted as if every pass "
        f"took a gradient ({each:.2f} GFLOP in products and convolutions), and the estimate that `evaluate` "
        "gives before it starts."
    )
    return table(heads, body) + f"\n\n{note}"


# protocol -> (card with draws that grow, its attacks, the same with all draws from the first step)
SCHEDULES = {
    "standard": ("standard-n3", ("pgd-ce", "pgd-margin"), ("pgd-ce", "pgd-margin")),
    "quick": ("quick-n3", ("pgd-ce",), ("quick",)),
}


def schedule(_: object) -> str:
    """Whether EOT that grows is as strong as all its draws from the first step: the same clips."""
    body = []
    for protocol, (name, growing, constant) in SCHEDULES.items():
        found = cards([name, "full-n3"])
        if len(found) < 2:
            continue
        for column in BUDGETS:
            grows, whole = (
                lowest(card, [f"{stage}/{column}" for stage in stages])
                for card, stages in zip(found.values(), (growing, constant), strict=True)
            )
            common = [clip for clip in whole if clip in grows]
            unlike = [grows[clip] - whole[clip] for clip in common]
            low, high = paired_interval(unlike)
            means = [sum(shares[clip] for clip in common) / len(common) for shares in (grows, whole)]
            cells = [f"{100 * mean:.1f}" for mean in means]
            cells.append(_gain(sum(unlike) / len(common), low, high))
            body.append([f"`{protocol}`", BUDGETS[column], str(len(common)), *cells])
    if not body:
        return ""
    heads = ["protocol", "budget", "clips", "draws grow, %", "all from the start, %", "difference, points"]
    return table(heads, body) + "\n\nAverage over fresh passes; paired 95 % interval over clips."


def over_noise(card: Card) -> list[str]:
    """What the whole purifier adds to its forward noise under each budget, paired over clips."""
    found = compare(card, card, row_a="noise-only", row_b="system").differences
    gains = {d.column: _gain(d.difference, d.low, d.high) for d in found}
    return [gains[column] for column in BUDGETS]


def lowest(card: Card, keys: list[str]) -> dict[str, float]:
    """Clip -> the least share of right passes that any of these attacks leaves the system."""
    shares = met(card, card.rows[0], keys)
    return {clip: min(right.values()) for clip, right in shares.items() if keys[0] in right}


def _gain(difference: float, low: float, high: float) -> str:
    """Points with their 95 % interval."""
    return f"{points(difference)} [{points(low)}, {points(high)}]"


def _with_notes(heads: list[str], body: list[list[str]], found: dict[str, Card]) -> str:
    if not found:
        return ""
    first = next(iter(found.values()))
    name, passes = first.protocol.name, first.protocol.passes
    reading = f"Average over {passes} fresh passes with the 95 % interval over clips"
    how = {
        "paper": "Share of clips that no single draw of any iterate failed, as the paper counts; below, the "
        f"average over {passes} fresh passes of the clips that the attack ends with.",
        "grid": f"{reading}.",
    }
    sentences = [
        f"`{first.data.name}`, {first.data.split} split, {first.data.clips} clips, protocol `{name}`.",
        how.get(name, f"{reading}; below, right in one pass / in every pass / by majority vote."),
    ]
    flags = [
        f"{name}: {flag.sentence}"
        for name, card in found.items()
        for flag in card.flags
        if flag.kind == "violation"
    ]
    sentences += [f"**Flagged.** {sentence}" for sentence in flags]
    hours = sum(card.cost.seconds for card in found.values()) / 3600
    sentences.append(f"{hours:.1f} core hours.")
    return table(heads, body) + "\n\n" + " ".join(sentences)


def any_iterate(row: Row, key: str) -> str:
    found = next((c for c in row.conditions if c.key == key), None)
    if found is None or found.any_iterate is None:
        return NOT_RUN
    return f"**{brief(found.any_iterate)}**<br>{brief(found.attacked.average)}"
