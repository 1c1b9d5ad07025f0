"""`audiopure compare`: two evaluations of the same clips under the same protocol, clip by clip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="report.json of one evaluation.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="report.json of the other.", show_default=False)],
    row_a: Annotated[str | None, typer.Option(help="Row of a, by its key; the system by default.")] = None,
    row_b: Annotated[str | None, typer.Option(help="Row of b, by its key; the system by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Which of two systems withstands more, and whether the clips can tell.

    Compares b with a on the clips that both have: difference of average accuracy with its 95 % interval,
    clips gained and lost, and the exact paired p. Two rows of one report compare with --row-a and --row-b:
    audiopure compare report.json report.json --row-a noise-only
    """
    from rich.console import Console

    from audiopure.evaluation.card_io import read_card
    from audiopure.evaluation.compare import compare as pair
    from audiopure.evaluation.report.terminal import comparison_table

    found = pair(read_card(a), read_card(b), row_a=row_a, row_b=row_b)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    console = Console(file=sys.stdout, highlight=False)
    for name, title, path in (("a", found.a, a), ("b", found.b, b)):
        console.print(f"{name}: {title} ({path})", markup=False, soft_wrap=True)
    console.print(comparison_table(found))
    for difference in found.differences:
        console.print(difference.sentence, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)
