"""A report card as Markdown: flags, headline table, everything behind it, and how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from audiopure.evaluation.card import Card, Condition, Curve, Metrics, Proportion, Row
from audiopure.evaluation.pages.charts import round_ones
from audiopure.evaluation.report.words import (
    AXIS_NAMES,
    checks_sentence,
    column_name,
    columns,
    distances,
    flags,
    gradient_sentence,
    headline,
    headline_rows,
    median,
    notes,
    number,
    percent,
    readings,
    row_title,
    verdict,
)

NONE = "—"
CHECKS = ["what must hold", "looked for in", "verdict", "found"]


def markdown(card: Card) -> str:
    """The whole report."""
    parts = [
        f"# Robustness of {escape(card.rows[0].spec if card.rows else 'nothing')}",
        *_flags(card),
        headline_table(card),
        " ".join(escape(note) for note in notes(card)),
        "## In words",
        "\n".join(f"- {escape(sentence)}" for sentence in verdict(card)),
        "## Every attack",
        *(part for row in card.rows for part in _row(row)),
    ]
    if card.checks:
        body = [[escape(cell) for cell in (c.name, c.about, c.verdict, c.sentence)] for c in card.checks]
        parts += ["## Sanity checks", checks_sentence(card), _table(CHECKS, body, numbers=False)]
    if card.curves:
        parts += ["## Curves", *(part for curve in card.curves for part in _curve(card, curve))]
    return "\n\n".join([*(part for part in parts if part), *_repeat(card)]) + "\n"


def headline_table(card: Card) -> str:
    """Systems and controls, clean and under the worst of the attacks, in all four readings, without notes."""
    heads = columns(card)
    body = []
    for row in headline_rows(card):
        cells = [_headline_cell(headline(row, column)) for column in heads]
        body.append([f"{escape(row.title)}", *cells])
    return _table(["system", *(escape(head) for head in heads.values())], body)


def escape(text: str) -> str:
    """Text as Markdown that shows it, within a table too."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _flags(card: Card) -> Iterator[str]:
    lines = [
        f"> **{'VIOLATION' if flag.kind == 'violation' else 'Note'}:** {escape(flag.sentence)}"
        for flag in flags(card)
    ]
    if lines:
        yield "\n>\n".join(lines)


def _headline_cell(metrics: Metrics | None) -> str:
    if metrics is None:
        return NONE
    (_, average), *others = readings(metrics)
    first = f"**{percent(average)}** of {average.n}"
    if metrics.passes == 1:
        return f"{first}<br>one pass: all readings equal"
    return "<br>".join([first, *(f"{name}: {percent(share)}" for name, share in others)])


def _row(row: Row) -> Iterator[str]:
    audit = gradient_sentence(row)
    yield f"### {escape(row.title)} ({row.role})"
    yield f"`{row.spec}`" + ("" if audit is None else f". Gradient: {escape(audit)}")
    far = distances(row.conditions)
    heads = ["attack", "budget", "n", "average", "one-shot", "worst", "majority vote", "success"]
    heads += ["any iterate", "queries", *(escape(head) for head, _ in far.values())]
    yield _table(heads, [_condition(condition, list(far)) for condition in row.conditions])
    labels = [f"- {escape(c.key)}: `{c.attack}`, route {c.route}" for c in row.conditions if c.attack]
    if labels:
        yield "\n".join(labels)


def _condition(condition: Condition, far: Sequence[str]) -> list[str]:
    clean = condition.attack is None
    pairs = zip(readings(condition.attacked), readings(condition.clean), strict=True)
    cells = [
        percent(attacked) if clean else f"{percent(attacked)}<br>without: {percent(before)}"
        for (_, attacked), (_, before) in pairs
    ]
    cells[2] += f"<br>of {condition.attacked.passes} pass{'' if condition.attacked.passes == 1 else 'es'}"
    title = escape(condition.title) + ("" if condition.counts or clean else "<br>not in the headline")
    if condition.note:
        title += f"<br>{escape(condition.note)}"
    return [
        title,
        escape(condition.budget),
        str(condition.attacked.average.n),
        *cells,
        _share(condition.success),
        _iterates(condition),
        NONE if clean else f"{condition.queries:,.0f}",
        *(median(condition, key) for key in far),
    ]


def _iterates(condition: Condition) -> str:
    before = condition.any_iterate_clean
    return _share(condition.any_iterate) + (f"<br>without: {percent(before)}" if before else "")


def _share(share: Proportion | None) -> str:
    return NONE if share is None else f"{percent(share)} of {share.n}"


def _curve(card: Card, curve: Curve) -> Iterator[str]:
    yield f"### {escape(curve.title)} ({escape(row_title(card, curve.row))}, {column_name(curve.column)})"
    shown = round_ones(sorted(point.x for point in curve.points))
    points = [point for point in curve.points if point.x in shown]
    body = [[number(point.x), percent(point.y), str(point.y.n)] for point in points]
    yield _table([escape(AXIS_NAMES[curve.axis]), "average accuracy", "n"], body)
    if curve.note:
        yield escape(curve.note)
    if len(points) < len(curve.points):
        yield f"{len(points)} of {len(curve.points)} points; report.json has all."


def _repeat(card: Card) -> Iterator[str]:
    yield "## To repeat it"
    yield f"```sh\n{card.command}\n```"
    facts = {
        **card.versions,
        **card.machine,
        **{f"weights {name}": f"SHA-256 {digest}…" for name, digest in card.weights.items()},
        **{f"protocol {name}": value for name, value in card.protocol.settings.items()},
        "cost": f"{card.cost.seconds:,.0f} s of work, {card.cost.passes:,} forward passes",
        "schema": card.schema_,
    }
    yield "\n".join(f"- {escape(name)}: {escape(str(value))}" for name, value in facts.items())


def _table(heads: Sequence[str], body: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    rule = ("---:|" if numbers else "---|") * (len(heads) - 1)
    lines = [f"| {' | '.join(heads)} |", f"|---|{rule}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])
