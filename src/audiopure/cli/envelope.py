"""`audiopure envelope`: finished certifications side by side, and the best sigma at each radius."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def envelope(
    certifications: Annotated[
        list[Path], typer.Argument(help="Folders of certify, or their certificates.json.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")] = Path(
        "audiopure-envelope"
    ),
    radii: Annotated[
        str | None, typer.Option(help="Radii of the table, as 0,0.1,0.25; default: round ones.")
    ] = None,
) -> None:
    """Certified accuracy of several sigmas and systems on the same clips.

    Writes envelope.csv, report.md and index.html (self-contained).
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from audiopure.evaluation.certified import envelope as side_by_side
    from audiopure.evaluation.report.words import brief

    found = side_by_side.methods([side_by_side.read_certificates(path) for path in certifications])
    at = side_by_side.radii(found) if radii is None else _numbers(radii)
    side_by_side.write(found, output, at)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("method", "sigma", *(f"r = {radius:g}" for radius in at)):
        table.add_column(head, justify="left" if head == "method" else "right")
    for method in found:
        for record in method.records:
            cells = [brief(record.certified(radius)) for radius in at]
            table.add_row(method.title, f"{record.settings['sigma']:g}", *cells)
        if len(method.records) > 1:
            cells = [brief(method.best(radius).share) for radius in at]
            table.add_row(f"{method.title}, envelope", "best", *cells, style="bold")
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    for note in side_by_side.notes(found):
        console.print(note, markup=False)
    console.print(f"\nLook: {(output / 'index.html').resolve()}", soft_wrap=True, markup=False)


def _numbers(text: str) -> list[float]:
    import math

    from audiopure.errors import InputError

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--radii: takes numbers with commas between them, got '{text}'.") from error
    if not all(math.isfinite(radius) and radius >= 0 for radius in found):
        raise InputError(f"--radii: radii are finite and not below 0, got '{text}'.")
    return found
