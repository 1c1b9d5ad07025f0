"""Tables of defences: the paper's protocol beside its own figures, then what exact gradients leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from audiopure.evaluation.card import CLEAN, Card, Proportion
from audiopure.evaluation.compare import chance, compare, points
from audiopure.evaluation.reproduce import costs, trained
from audiopure.evaluation.reproduce.entries import Entry, how_to_train, judged
from audiopure.evaluation.reproduce.jobs import Job
from audiopure.evaluation.reproduce.published import Column
from audiopure.evaluation.reproduce.reading import (
    BUDGETS,
    NORMS,
    NOT_RUN,
    beside,
    brief,
    clean,
    condition,
    headline,
    iterate,
    readings,
    stored,
    table,
)
from audiopure.evaluation.stages import STILL

PAPER = (
    "The paper's protocol. Share of clips in % that no single draw of any iterate failed after so many steps "
    "of PGD, in round brackets as published, below with the 95 % interval over clips. “As released”: the "
    "gradient takes the network as a constant; “as written”: it goes by the adjoint; the paper's number may "
    "be either. Where nothing is purified both are exact, but for rows that say BPDA, and one row has both. "
    "“No attack” is the same share over as many draws as the longest attack makes (101), of the clip as it "
    "is."
)
EXACT = (
    "Exact gradients, or BPDA where a row says so. The average over fresh passes after the strongest of the "
    "protocol's attacks, with its 95 % interval over clips; below it right in one pass / in every pass / by "
    "majority vote. `standard`: PGD-100 by two losses and five more attacks; `quick`: PGD-20 alone, a weaker "
    "attack, so that its rows compare with each other only; where there are some, the row without a defence "
    "and the purified one stand under both."
)
BLACK_BOX = (
    "FAKEBOB here: as its authors define it, 50 steps of 50 queries; transfer: MI-FGSM on a surrogate that "
    "was trained on the system's own answers; both are averages over 20 fresh passes. In brackets the "
    "paper's FAKEBOB, which was another attack: its released code climbs the cross-entropy in a loop that "
    "expects a loss to fall, so it halves its step after every five iterations of progress, drops at "
    "iteration 100 every clip on which it had any, and returns the clip as it was. What counted is any wrong "
    "answer on the way."
)
SIZE = (
    "The recogniser is our compact one (0.7 M parameters) where a row names no other; the paper's is "
    "ResNeXt-29-8-64 (34 M). Ours was trained on clips with noise up to .04, so that it withstands more by "
    "itself."
)


def jobs(entries: Sequence[Entry], weights: Path, *, black_box: bool = False) -> list[Job]:
    """The protocols for every row whose weights there are, the cheap ones first."""
    ready = [entry for entry in entries if not entry.absent(weights)]
    found = [entry.job("paper", weights) for entry in ready]
    found += [entry.job(entry.exact, weights) for entry in judged(ready)]
    return [*found, *(entry.job("black-box", weights) for entry in ready if black_box)]


def defences(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    records: Path,
    weights: Path,
    *,
    black_box: bool = False,
) -> str:
    """Both tables, one row for each defence, and what must be said of some."""
    parts = [
        _by_paper(entries, columns, records),
        PAPER,
        _by_exact(entries, records, black_box=black_box),
        " ".join([EXACT, *([BLACK_BOX] if black_box else []), SIZE, costs.about(entries, records)]),
    ]
    notes = list(remarks(entries, records, weights))
    return "\n\n".join([*parts, *(["\n".join(f"- {note}" for note in notes)] if notes else [])])


def _by_paper(entries: Sequence[Entry], columns: Sequence[Column], records: Path) -> str:
    body = []
    for entry in entries:
        card, known = stored(records, entry.record("paper")), entry.published
        any_card = card or stored(records, entry.record(entry.exact))
        shared = [
            beside(clean(any_card.rows[0]).average if any_card else None, known.clean if known else None),
            beside(_unattacked(card), None),
        ]
        shares = [iterate(card, *column) if card else None for column in columns]
        both = card is not None and _route(card, "as-written") == "adjoint"
        nothing: list[float | None] = [None] * len(columns)
        published = [known.robust.get(column) if known else None for column in columns]
        first, second = (nothing, published) if both and entry.differentiated else (published, nothing)
        cells = [beside(*pair) for pair in zip(shares, first, strict=True)]
        how = ", as released" if both else ""
        body.append([f"{entry.title}{how}", str(_clips(card)), *shared, *cells])
        if card is not None and both:
            written = [iterate(card, *column, number=1) for column in columns]
            cells = [beside(*pair) for pair in zip(written, second, strict=True)]
            body.append([f"{entry.title}, as written", "", "", "", *cells])
    heads = [f"{NORMS[norm]}, {steps}" for norm, steps in columns]
    return table(["defence", "clips", "clean", "no attack", *heads], body)


def _by_exact(entries: Sequence[Entry], records: Path, *, black_box: bool) -> str:
    body = []
    for entry in judged(entries):
        card = stored(records, entry.record(entry.exact))
        how = f"`{entry.exact}`, {_clips(card) or entry.size(entry.exact)} clips"
        robust = [readings(headline(card.rows[0], norm)) if card else NOT_RUN for norm in BUDGETS]
        cells = [entry.title, how, readings(clean(card.rows[0])) if card else NOT_RUN, *robust]
        if black_box:
            cells += _queries(entry, records)
        body.append([*cells, *costs.cells(entry, records)])
    heads = ["defence", "protocol", "clean", *BUDGETS.values()]
    if black_box:
        heads += ["FAKEBOB, L∞", "transfer, L∞"]
    return table([*heads, *costs.HEADS], body)


def _queries(entry: Entry, records: Path) -> list[str]:
    """FAKEBOB and transfer, in L∞."""
    card = stored(records, entry.record("black-box"))
    found = [condition(card, f"{attack}/linf") if card else None for attack in ("fakebob", "transfer")]
    cells = [brief(one.attacked.average) if one else NOT_RUN for one in found]
    if entry.published is not None and entry.published.fakebob is not None:
        cells[0] += f" ({entry.published.fakebob:g})"
    return cells


def _unattacked(card: Card | None) -> Proportion | None:
    found = condition(card, STILL) if card else None
    return found.any_iterate if found else None


def _route(card: Card, stage: str) -> str | None:
    found = condition(card, f"{stage}/linf")
    return found.route if found else None


def _clips(card: Card | None) -> int | str:
    return card.data.clips if card else ""


def remarks(entries: Sequence[Entry], records: Path, weights: Path) -> Iterator[str]:
    """Of what size rows are and why, what has no weights, what has not learnt enough, what is flagged."""
    for note, names in _grouped(entries).items():
        yield f"{names}: {note}."
    rows = [entry for entry in entries if not _known(entry, records)]
    if missing := dict.fromkeys(name for entry in rows for name in entry.absent(weights)):
        yield how_to_train(missing)
    yield from _compared(entries, records)
    yield from trained.unfinished(dict.fromkeys(name for entry in entries for name in entry.weights), records)
    for entry in entries:
        for protocol in ("paper", entry.exact):
            card = stored(records, entry.record(protocol))
            for flag in card.flags if card else ():
                if flag.kind == "violation":
                    yield f"**Flagged.** {entry.name}, `{protocol}`: {flag.sentence}"


def _compared(entries: Sequence[Entry], records: Path) -> Iterator[str]:
    """What a row has more than the one that it is held beside, on the same clips under the same attacks."""
    titles = {entry.key: entry.name for entry in entries}
    for entry in entries:
        if entry.beside not in titles:
            continue
        cards = [stored(records, f"{entry.exact}-{key}") for key in (entry.beside, entry.key)]
        if None in cards:
            continue
        found = compare(*cards)  # type: ignore[arg-type]
        told = [
            f"{one.budget if one.column != CLEAN else CLEAN} {points(one.difference)} points "
            f"[{points(one.low)} to {points(one.high)}], {chance(one.p)}"
            for one in found.differences
        ]
        yield (
            f"{entry.name} against {titles[entry.beside]}, `{entry.exact}`, clip by clip with 95 % intervals "
            f"and exact sign-flip tests: {'; '.join(told)}."
        )


def _grouped(entries: Sequence[Entry]) -> Mapping[str, str]:
    """Note -> titles of the rows that share it."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.note:
            found.setdefault(entry.note.rstrip("."), []).append(entry.name)
    return {note: "; ".join(names) for note, names in found.items()}


def _known(entry: Entry, records: Path) -> bool:
    """Whether any evaluation of it is there."""
    return any(stored(records, entry.record(protocol)) for protocol in ("paper", entry.exact))
