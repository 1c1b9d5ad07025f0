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
    "Defences by what they give for a millisecond: the points of accuracy under attack, mean of both norms, "
    "that an answer has more than one without a defence, by the milliseconds of an answer, recognition "
    "included. Exact gradients, or BPDA where a name says so; 95 % intervals over clips, which do not tell "
    "neighbours apart. A bold title: nothing as fast withstands more. First those under `standard`; rows "
    "under `quick` met a weaker attack, and compare with each other only."
)
UNDEFENDED = "none"  # key of the entry that the others are held against


class Ranked(NamedTuple):
    """A defence with its card and the seconds of an answer."""

    entry: Entry
    card: Card
    seconds: float

    def robust(self, norm: str) -> float:
        found = headline(self.card.rows[0], norm)
        return found.average.value if found else 0.0

    @property
    def withstands(self) -> float:
        """Mean of both norms."""
        return sum(map(self.robust, BUDGETS)) / len(BUDGETS)


def gain(one: Ranked, found: Sequence[Ranked]) -> float | None:
    """Points over no defence, a millisecond; None where that was not measured under the same protocol."""
    for other in found:
        if other.entry.key == UNDEFENDED and other.entry.exact == one.entry.exact:
            return 100 * (one.withstands - other.withstands) / (1000 * one.seconds)
    return None


def best(one: Ranked, found: Sequence[Ranked]) -> bool:
    """Whether nothing under the same protocol is as fast and withstands more."""
    return not any(
        other.seconds <= one.seconds and other.withstands > one.withstands
        for other in found
        if other.entry.exact == one.entry.exact
    )


def ranked(entries: Sequence[Entry], records: Path) -> str:
    """Defences by what they give a millisecond, with what training and an answer cost."""
    body, found = [], order(entries, records)
    for one in found:
        row = one.card.rows[0]
        attacked = [headline(row, norm) for norm in BUDGETS]
        title = f"**{one.entry.name}**" if best(one, found) else one.entry.name
        cells = [title, f"`{one.entry.exact}`, {one.card.data.clips}", brief(clean(row).average)]
        cells += [brief(m.average) if m else NOT_RUN for m in attacked]
        points = gain(one, found)
        last = NOT_RUN if points is None else f"{points:.2f}"
        body.append([*cells, *costs.cells(one.entry, records), last])
    heads = ["defence", "protocol, clips", "clean", *BUDGETS.values(), *costs.HEADS, "points a ms"]
    parts = [ABOUT, costs.about(entries, records)]
    if lacking := missing(entries, records):
        parts.append(f"Not yet measured: {'; '.join(lacking)}.")
    return "\n\n".join([*([table(heads, body)] if body else []), " ".join(parts)])


def order(entries: Sequence[Entry], records: Path) -> list[Ranked]:
    """Those whose card and timing there are, by protocol what gives most a millisecond first."""
    timed = costs.timings(records)
    found = [
        Ranked(entry, card, timed[entry.key]["seconds"])
        for entry in judged(entries)
        if entry.key in timed and (card := stored(records, entry.record(entry.exact)))
    ]

    def place(one: Ranked) -> tuple[bool, float, float]:
        return one.entry.exact != "standard", -(gain(one, found) or 0.0), -one.withstands

    return sorted(found, key=place)


def missing(entries: Sequence[Entry], records: Path) -> list[str]:
    """Titles of those that cannot be ranked yet."""
    known = {one.entry.key for one in order(entries, records)}
    return [entry.name for entry in entries if entry.key not in known]


def draw(entries: Sequence[Entry], records: Path, path: Path) -> None:
    """Robust accuracy of both norms against the time of an answer."""
    from audiopure.evaluation.reproduce.pictures import COLOURS, pyplot, save

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
            colour = COLOURS[1] if best(one, found) else COLOURS[2]
            marker = "o" if one.entry.exact == "standard" else "s"  # a square met the weaker attack
            axis.errorbar(*point, yerr=spread, fmt=marker, color=colour, ecolor="#c3cfe6", markersize=4)
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
        "and L2 ≤ 0.253, with 95 % intervals over clips; a square met the weaker protocol `quick`. Red: "
        "nothing as fast withstands more, mean of both norms."
    )
    return f"{alt}.", words
