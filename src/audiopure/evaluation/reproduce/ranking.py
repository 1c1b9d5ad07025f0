"""What every defence gives for the time it takes, beyond the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from audiopure.errors import InputError
from audiopure.evaluation.card import Card
from audiopure.evaluation.reproduce import costs
from audiopure.evaluation.reproduce.entries import Entry, judged
from audiopure.evaluation.reproduce.reading import BUDGETS, NOT_RUN, brief, clean, headline, stored, table

ABOUT = (
    "Defences by the sum of both averages under exact gradients, or BPDA where a name says so, with 95 % "
    "intervals over clips, which do not tell neighbours apart. First those under `standard`; rows under "
    "`quick` met a weaker attack, and compare with each other only."
)


class Ranked(NamedTuple):
    """A defence with its card and the seconds of an answer."""

    entry: Entry
    card: Card
    seconds: float

    def robust(self, norm: str) -> float:
        found = headline(self.card.rows[0], norm)
        return found.average.value if found else 0.0


def ranked(entries: Sequence[Entry], records: Path) -> str:
    """Defences from the most to the least robust, with what training and an answer cost."""
    body = []
    for one in order(entries, records):
        row = one.card.rows[0]
        attacked = [headline(row, norm) for norm in BUDGETS]
        cells = [one.entry.title, f"`{one.entry.exact}`, {one.card.data.clips}", brief(clean(row).average)]
        cells += [brief(m.average) if m else NOT_RUN for m in attacked]
        body.append([*cells, *costs.cells(one.entry, records)])
    heads = ["defence", "protocol, clips", "clean", *BUDGETS.values(), *costs.HEADS]
    parts = [ABOUT, costs.about(entries, records)]
    if lacking := missing(entries, records):
        parts.append(f"Not yet measured: {'; '.join(lacking)}.")
    return "\n\n".join([*([table(heads, body)] if body else []), " ".join(parts)])


def order(entries: Sequence[Entry], records: Path) -> list[Ranked]:
    """Those whose card and timing there are, by protocol the most robust first."""
    timed = costs.timings(records)
    found = [
        Ranked(entry, card, timed[entry.key]["seconds"])
        for entry in judged(entries)
        if entry.key in timed and (card := stored(records, entry.record(entry.exact)))
    ]
    weaker = sorted(found, key=lambda one: -sum(map(one.robust, BUDGETS)))
    return sorted(weaker, key=lambda one: one.entry.exact != "standard")


def missing(entries: Sequence[Entry], records: Path) -> list[str]:
    """Titles of those that cannot be ranked yet."""
    known = {one.entry.key for one in order(entries, records)}
    return [entry.name for entry in entries if entry.key not in known]


def draw(entries: Sequence[Entry], records: Path, path: Path) -> None:
    """Robust accuracy of both norms against the time of an answer."""
    from audiopure.evaluation.reproduce.pictures import pyplot, save

    found = order(entries, records)
    if not found:
        raise InputError("there is no defence to rank yet; run the evaluations first")
    figure, axes = pyplot().subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for axis, (norm, title) in zip(axes, BUDGETS.items(), strict=True):
        for one in found:
            metrics = headline(one.card.rows[0], norm)
            if metrics is None:
                continue
            share = metrics.average
            spread = [[100 * (share.value - share.low)], [100 * (share.high - share.value)]]
            point = (1000 * one.seconds, 100 * share.value)
            marker = "o" if one.entry.exact == "standard" else "s"  # a square met the weaker attack
            axis.errorbar(*point, yerr=spread, fmt=marker, color="#1d5bbf", ecolor="#c3cfe6", markersize=4)
            axis.annotate(one.entry.name, point, xytext=(5, 3), textcoords="offset points", fontsize=6.5)
        axis.set(xscale="log", xlabel="an answer, ms", title=title, ylim=(0, 100))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy under attack, %")
    save(figure, path)


def caption(entries: Sequence[Entry], records: Path) -> tuple[str, str] | None:
    """Alternative text and caption of the picture; None if there is nothing to draw."""
    found = order(entries, records)
    if not found:
        return None
    alt = "Accuracy under attack against the time of an answer, both norms: " + ", ".join(
        f"{one.entry.name} {100 * one.robust('linf'):.0f} and {100 * one.robust('l2'):.0f} % at "
        f"{1000 * one.seconds:.0f} ms"
        for one in found
    )
    words = (
        "What each defence withstands under exact gradients for the milliseconds of an answer, L∞ ≤ 0.002 "
        "and L2 ≤ 0.253, with 95 % intervals over clips; a square met the weaker protocol `quick`."
    )
    return f"{alt}.", words
