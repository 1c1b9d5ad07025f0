"""The demo's table for the terminal and for Markdown: the numbers of the results and nothing else."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from audiopure.evaluation.demo.results import COLUMNS, Cell, DemoResults, Row
from audiopure.evaluation.report.words import percent


def headings(results: DemoResults) -> dict[str, str]:
    """Title of each column."""
    budgets = results.budgets
    return {
        "clean": "clean",
        "linf": f"attacked, L∞ ≤ {budgets['linf']:g}",
        "l2": f"attacked, L2 ≤ {budgets['l2']:g}",
    }


def notes(results: DemoResults) -> list[str]:
    """What a reader must know to believe the table, one sentence each."""
    data, passes = results.data, results.settings["passes"]
    steps, eot = results.settings["steps"], results.settings["eot"]
    split = "" if data.split is None else f", {data.split} split"
    sentences = [
        f"{data.clips} clips ({data.name}{split}); in brackets the 95 % Clopper-Pearson interval over clips.",
        f"The defences are random: the average is over {passes} fresh passes; “all {passes}” is the share of "
        "clips that every pass recognises.",
        f"PGD with momentum and exact gradients through all that stands in the row: {steps} steps with EOT "
        f"{eot}, {steps * eot} steps where nothing is random; longer attacks find more.",
    ]
    return sentences if data.note is None else [*sentences, data.note]


def rich_table(results: DemoResults) -> Table:
    """The table for a terminal, at most 80 characters wide."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("defence", no_wrap=True, vertical="top")
    for heading in headings(results).values():
        table.add_column(heading.replace(", ", "\n"), justify="right", no_wrap=True)
    for row in results.rows:
        cells = [row.cells[c] for c in COLUMNS]
        table.add_row(row.title, *[Text(percent(cell.average), style="bold") for cell in cells])
        if row.passes > 1:
            table.add_row(f"  all {row.passes} passes", *[percent(cell.worst) for cell in cells], style="dim")
    return table


def markdown(results: DemoResults) -> str:
    """The table and its notes as Markdown."""
    columns = headings(results)
    lines = [
        f"| defence | {' | '.join(columns.values())} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in results.rows:
        cells = [_markdown_cell(row, row.cells[c]) for c in COLUMNS]
        lines.append(f"| {row.title.replace('*', chr(92) + '*')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(notes(results)), ""])


def worst(row: Row, cell: Cell) -> str | None:
    """As in "all 10: 70 % [55-82]", or None where there is one pass only."""
    return f"all {row.passes}: {percent(cell.worst)}" if row.passes > 1 else None


def _markdown_cell(row: Row, cell: Cell) -> str:
    second = worst(row, cell)
    return f"**{percent(cell.average)}**" + ("" if second is None else f"<br>{second}")
