"""`audiopure reproduce`: a table or figure of the paper, run again and set beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.atomic import write_text
from audiopure.cli.console import duration, say
from audiopure.cli.device import Device, Workers, prepare
from audiopure.errors import AudiopureError, InputError

if TYPE_CHECKING:
    from audiopure.evaluation.reproduce.experiments import Experiment
    from audiopure.evaluation.reproduce.jobs import Job, Place

EVERYTHING = "all"


def reproduce(
    name: Annotated[
        str,
        typer.Argument(help="table1 to 5, tableA to G, figure1, 2a, 2b, A, B; ranking, training; all."),
    ],
    data: Annotated[Path, typer.Option(help="Folder of spoken digits, sc09 or Speech Commands' own layout.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for tables, figures, records and unfinished runs.")
    ] = Path("audiopure-paper"),
    records: Annotated[
        Path | None,
        typer.Option(help="Records that are there already, certificates beside; default: OUTPUT/records."),
    ] = None,
    weights: Annotated[
        Path, typer.Option(help="Trained weights that do not ship; rows without theirs say what trains them.")
    ] = Path("weights"),
    tables_only: Annotated[bool, typer.Option(help="Run nothing; show what the records hold.")] = False,
    workers: Workers = None,
    device: Device = "cpu",
) -> None:
    """Run what a table or figure of the paper needs, and write it beside the published numbers.

    Evaluations that were cut off go on. Their cost altogether is said beforehand.
    """
    prepare(device, None)
    from audiopure.evaluation import running
    from audiopure.evaluation.reproduce.experiments import EXPERIMENTS, experiment
    from audiopure.evaluation.reproduce.jobs import Place, carry_out, missing, outdated

    if not data.is_dir():
        raise InputError(f"{data}: there is no such folder.")
    chosen = EXPERIMENTS if name == EVERYTHING else {name: experiment(name)}
    place = Place(data, records or output / "records", output / "work", workers or running.cores(), device)
    status, jobs = 0, [job for one in chosen.values() for job in one.jobs(weights)]
    if tables_only:
        for job in dict.fromkeys(jobs):
            if outdated(job, place):
                say(f"The record of {job.name} is of other weights than there are now.")
    else:
        left = missing(jobs, place)
        _announce(left, place)
        status = carry_out(left, place, say)
        if status not in (0, 1, 2):
            raise typer.Exit(status)  # interrupted: nothing new to write
        for one in chosen.values():
            if one.measure is not None:
                one.measure(place, weights, say)
    _write(chosen, place, weights, output)
    if status != 0:
        say("audiopure: some runs failed, as said above; the same command tries them again.")
        raise typer.Exit(status)


def _announce(left: Sequence[Job], place: Place) -> None:
    """Say what is to be run and what it costs, from timing a few passes of each system."""
    from audiopure.evaluation.reproduce.estimates import Estimates

    if not left:
        return
    say(f"{len(left)} runs to do; timing a few passes of each system.")
    estimates, total = Estimates(place.device), 0.0
    for job in left:
        try:
            hours = estimates.hours(job)
        except AudiopureError as error:
            say(f"  {job.name}: cannot be run: {error}")
            continue
        total += hours
        say(f"  {job.name}: at most about {hours:.1f} h in one process")
    at_once = place.workers if place.device == "cpu" else 1
    whole = duration(3600 * total / at_once)
    say(
        f"In all at most about {whole} in {at_once} process{'es' if at_once > 1 else ''}, without what is "
        "measured afterwards; a run that is cut off goes on."
    )


def _write(chosen: Mapping[str, Experiment], place: Place, weights: Path, output: Path) -> None:
    """Tables, and figures with their captions; among several, those without a record yet are named."""
    output.mkdir(parents=True, exist_ok=True)
    for name, one in chosen.items():
        parts = []
        if one.text is not None:
            text = one.text(place.records, weights)
            parts.append(text)
            typer.echo(text if len(chosen) == 1 else f"## {name}: {one.title}\n\n{text}\n")
        try:
            parts += _drawn(name, one, place, output)
        except InputError as error:
            if len(chosen) == 1 and one.text is None:
                raise
            say(f"{name}: {error}")
        if parts:
            write_text(output / f"{name}.md", "\n\n".join([f"# {one.title}", *parts]) + "\n")


def _drawn(name: str, one: Experiment, place: Place, output: Path) -> list[str]:
    """Draws the figure, if there is one. Returns it and its caption as Markdown."""
    if one.picture is None or one.caption is None:
        return []
    path = output / f"{name}.svg"
    one.picture(place, path)
    typer.echo(path)
    found = one.caption(place.records)
    return [] if found is None else [f"![{found[0]}]({path.name})", found[1]]
