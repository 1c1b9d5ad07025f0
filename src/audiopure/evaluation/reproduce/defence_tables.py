"""Tables of defences: the paper's protocol beside its own figures, then what exact gradients leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiopure.evaluation.card import Card, Proportion
from audiopure.evaluation.reproduce.entries import Entry, how_to_train
from audiopure.evaluation.reproduce.jobs import Job
from audiopure.evaluation.reproduce.published import STOLEN, Column, Published
from audiopure.evaluation.reproduce.reading import (
    NORMS,
    NOT_RUN,
    brief,
    clean,
    headline,
    iterate,
    readings,
    stored,
    table,
)

ABOUT = (
    "Accuracy in %, in round brackets as published. First the paper's protocol after so many steps of PGD, "
    "as released: a clip counts as broken once any single draw of any iterate fails. Then `standard`: the "
    "average over 20 fresh passes against exact gradients and six other attacks, with its 95 % interval over "
    "100 clips; below it right in one pass / in every pass / by majority vote."
)


def jobs(entries: Sequence[Entry], weights: Path, *, black_box: bool = False) -> list[Job]:
    """The protocols for every row whose weights there are, the cheap ones first."""
    ready = [entry for entry in entries if not entry.absent(weights)]
    found = [entry.job(protocol, weights) for protocol in ("paper", "standard") for entry in ready]
    return [*found, *(entry.job("black-box", weights, clips=50) for entry in ready if black_box)]


BLACK_BOX = "FAKEBOB: as its authors define it, 50 steps of 50 queries, 50 clips."


def defences(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    records: Path,
    weights: Path,
    *,
    black_box: bool = False,
) -> str:
    """One row for each defence; in brackets what the paper has."""
    body = []
    for entry in entries:
        paper, standard = (stored(records, f"{protocol}-{entry.key}") for protocol in ("paper", "standard"))
        known = entry.published
        any_card = paper or standard
        first = f"{100 * clean(any_card.rows[0]).average.value:.0f}" if any_card else NOT_RUN
        cells = [entry.title, first + (f" ({known.clean:g})" if known else "")]
        for norm, steps in columns:
            share = iterate(paper, norm, steps) if paper else None
            cell = NOT_RUN if share is None else f"{100 * share.value:.0f}"
            value = known.robust.get((norm, steps)) if known else None
            cells.append(cell if value is None else f"{cell} ({value:g})")
        cells += [readings(headline(standard.rows[0], norm)) if standard else NOT_RUN for norm in NORMS]
        if black_box:
            cells.append(_fakebob(stored(records, f"black-box-{entry.key}"), known))
        body.append(cells)
    heads = ["defence", "clean", *(f"{NORMS[norm]}, {steps}" for norm, steps in columns)]
    heads += [f"exact, {name}" for name in NORMS.values()]
    notes = [_about(entries, records, weights)]
    if black_box:
        heads.append("FAKEBOB")
        notes.append(BLACK_BOX)
    return table(heads, body) + "\n\n" + " ".join(notes)


def _fakebob(card: Card | None, known: Published | None) -> str:
    share = None if card is None else _condition(card, "fakebob/linf")
    cell = NOT_RUN if share is None else f"{100 * share.value:.0f}"
    return cell if known is None or known.fakebob is None else f"{cell} ({known.fakebob:g})"


def _about(entries: Sequence[Entry], records: Path, weights: Path) -> str:
    sentences = [ABOUT]
    missing = dict.fromkeys(name for entry in entries for name in entry.absent(weights))
    sentences += [how_to_train(name) for name in missing]
    flags = [
        f"{entry.title}: {flag.sentence}"
        for entry in entries
        if (card := stored(records, f"standard-{entry.key}"))
        for flag in card.flags
        if flag.kind == "violation"
    ]
    return " ".join([*sentences, *(f"**Flagged.** {flag}" for flag in flags)])


def transfers(entries: Sequence[Entry], records: Path) -> str:
    """What attacks on a stolen copy do to the system (table A)."""
    body = []
    for entry in entries:
        card = stored(records, f"black-box-{entry.key}")
        shares = [card and _condition(card, f"transfer/{norm}") for norm in NORMS]
        first = brief(clean(card.rows[0]).average) if card else NOT_RUN
        body.append([entry.title, first, *(brief(share) if share else NOT_RUN for share in shares)])
    published = "; ".join(
        f"AudioPure at n*={n}: {after:g} of {before:g} clean"
        for n, (_, _, _, before, after) in STOLEN.items()
    )
    note = (
        "MI-FGSM on a surrogate that was trained on the answers of the system itself, 50 clips, average in % "
        f"over 20 fresh passes. Published, L∞: {published}."
    )
    return table(["system", "clean", *NORMS.values()], body) + f"\n\n{note}"


def _condition(card: Card, key: str) -> Proportion | None:
    return next((c.attacked.average for c in card.rows[0].conditions if c.key == key), None)
