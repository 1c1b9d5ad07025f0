"""A report card for the terminal: flags, headline table, every attack; at most 100 characters wide."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from audiopure.evaluation.card import CLEAN, Card, Condition, Metrics, Row
from audiopure.evaluation.compare import Comparison, chance, points
from audiopure.evaluation.report.words import (
    brief,
    checks_sentence,
    columns,
    flags,
    headline,
    headline_rows,
    median,
    notes,
    percent,
    readings,
)

WIDTH = 100
BESIDE = 3  # columns that fit beside "clean"
LEAST, NAMES = 11, 30  # characters of a first column


def rich_tables(card: Card) -> list[RenderableType]:
    """Everything to print, in order: flags, headline tables, notes, and one table for each row's attacks."""
    found: list[RenderableType] = []
    for flag in flags(card):
        style = "bold red" if flag.kind == "violation" else "yellow"
        found.append(_paragraph(f"{flag.kind.upper()}: {flag.sentence}", style))
    found += _headline_tables(card)
    found += [_paragraph(note, "dim") for note in notes(card)]
    if card.checks:
        found.append(_paragraph(checks_sentence(card), "dim"))
    found += [_attacks(row) for row in card.rows if len(row.conditions) > 1]
    return found


def comparison_table(comparison: Comparison) -> Table:
    """The differences of two evaluations, b minus a in points; at most 80 characters wide."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", min_width=LEAST, max_width=NAMES, overflow="fold")
    for name in ("n", "a", "b", "b - a", "95 % interval", "gained", "lost", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for d in comparison.differences:
        interval = f"{points(d.low)} to {points(d.high)}"
        cells = [str(d.n), f"{100 * d.a:.1f} %", f"{100 * d.b:.1f} %", points(d.difference), interval]
        table.add_row(Text(d.budget), *cells, str(d.gained), str(d.lost), chance(d.p)[1:].removeprefix("="))
    return table


def _paragraph(sentence: str, style: str) -> Table:
    grid = Table.grid()
    grid.add_column(max_width=WIDTH, overflow="fold")
    grid.add_row(Text(sentence, style=style))
    return grid


def _headline_tables(card: Card) -> Iterator[Table]:
    heads = columns(card)
    attacked = [column for column in heads if column != CLEAN]
    for start in range(0, max(1, len(attacked)), BESIDE):
        chosen = [CLEAN, *attacked[start : start + BESIDE]]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", max_width=NAMES, overflow="fold")
        for column in chosen:
            table.add_column(Text(heads[column]), justify="right", max_width=15)
        for row in headline_rows(card):
            for line in _readings(row, [headline(row, column) for column in chosen]):
                table.add_row(*line)
        yield table


def _readings(row: Row, cells: list[Metrics | None]) -> Iterator[list[Text]]:
    """The row's lines: its average, and below it the other readings."""
    known = [cell for cell in cells if cell is not None]
    passes = max((cell.passes for cell in known), default=1)
    names = [row.title, "  one-shot", f"  worst of {passes}", "  majority vote"]
    if passes == 1:
        names = [f"{row.title} (one pass: all readings equal)"]
    for index, name in enumerate(names):
        shares = ["—" if cell is None else percent(readings(cell)[index][1]) for cell in cells]
        style = "dim" if index else "bold"
        yield [Text(name, style=style if index else ""), *(Text(share, style=style) for share in shares)]
    counts = ["—" if cell is None else str(cell.average.n) for cell in cells]
    yield [Text("  clips", style="dim"), *(Text(count, style="dim") for count in counts)]


def _attacks(row: Row) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=Text(f"{row.title} ({row.role})", style="bold"),
        title_justify="left",
    )
    table.add_column("attack", min_width=LEAST, max_width=NAMES, overflow="fold")
    for name in ("n", "average", "once", "worst", "vote", "clean", "success", "queries", "SNR"):
        table.add_column(name, justify="right", no_wrap=True)
    for condition in row.conditions:
        table.add_row(*_condition(condition))
    return table


def _condition(condition: Condition) -> Iterator[Text]:
    attacked, success = condition.attacked, condition.success
    title = condition.title if condition.attack is None else f"{condition.title}, {condition.budget}"
    yield Text(title)
    yield Text(str(attacked.average.n))
    yield Text(percent(attacked.average), style="bold")
    for _, share in readings(attacked)[1:]:
        yield Text(brief(share))
    yield Text(brief(condition.clean.average))
    yield Text("—" if success is None else brief(success))
    yield Text("—" if condition.attack is None else f"{condition.queries:,.0f}")
    yield Text(median(condition, "snr"))
