"""`audiopure reproduce`: a table or figure of the paper, run again and set beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiopure.atomic import write_text
from audiopure.cli.console import say
from audiopure.cli.device import Device, Workers, prepare
from audiopure.errors import InputError


def reproduce(
    name: Annotated[str, typer.Argument(help="table1 to 5, tableA to G, figure1, 2a, 2b, A, B; ranking.")],
    data: Annotated[Path, typer.Option(help="Folder of spoken digits, sc09 or Speech Commands' own layout.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for tables, figures, records and unfinished runs.")
    ] = Path("audiopure-paper"),
    records: Annotated[
        Path | None, typer.Option(help="Records that are there already; by default OUTPUT/records.")
    ] = None,
    weights: Annotated[
        Path, typer.Option(help="Trained weights that do not ship; rows without theirs say what trains them.")
    ] = Path("weights"),
    tables_only: Annotated[bool, typer.Option(help="Run nothing; show what the records hold.")] = False,
    workers: Workers = None,
    device: Device = "cpu",
) -> None:
    """Run what a table or figure of the paper needs, and write it beside the published numbers.

    Evaluations that were cut off go on; each says beforehand what it costs.
    """
    prepare(device, None)
    from audiopure.evaluation import running
    from audiopure.evaluation.reproduce.experiments import experiment
    from audiopure.evaluation.reproduce.jobs import Place, carry_out, missing

    if not data.is_dir():
        raise InputError(f"{data}: there is no such folder.")
    chosen = experiment(name)
    place = Place(data, records or output / "records", output / "work", workers or running.cores(), device)
    left, status = missing(chosen.jobs(weights), place), 0
    if not tables_only:
        if left:
            say(f"{chosen.title}: {len(left)} runs to do, {', '.join(job.name for job in left)}.")
        status = carry_out(left, place, say)
        if status not in (0, 1, 2):
            raise typer.Exit(status)  # interrupted: nothing new to write
        if chosen.measure is not None:
            chosen.measure(place, weights, say)
    if chosen.text is not None:
        text = chosen.text(place.records, weights)
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / f"{name}.md", f"# {chosen.title}\n\n{text}\n")
        typer.echo(text)
    if chosen.picture is not None:
        path = output / f"{name}.svg"
        chosen.picture(place, path)
        typer.echo(path)
    if status != 0:
        say("audiopure: some runs failed, as said above; the same command tries them again.")
        raise typer.Exit(status)
