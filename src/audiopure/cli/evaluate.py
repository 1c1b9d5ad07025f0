"""`audiopure evaluate`: how robust a system is, as a report card that says what it is worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import prepare
from audiopure.errors import InputError

if TYPE_CHECKING:
    from audiopure.evaluation.card import Card
    from audiopure.evaluation.engine import Evaluation


def evaluate(
    system: Annotated[
        str, typer.Option(help="DEFENCE+RECOGNISER, such as small,n_star=5+digits or small+my.module:build.")
    ] = "small+digits",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled audio; its test split if it has one. By default shipped clips."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="quick, standard, paper, full or grid.")] = "quick",
    attacked: Annotated[
        Path | None,
        typer.Option(help="Score these attacked versions of the data as they are, in place of a protocol."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report; a run cut off goes on there.")
    ] = Path("audiopure-report"),
    limit: Annotated[int, typer.Option(min=0, help="Clips, equal over labels; 0 for all.")] = 100,
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Of the choice of clips and all noise.")
    ] = 0,
    knowledge: Annotated[
        str,
        typer.Option(help="Draws of the defence that the attacker knows: DW_fwd, DW_rev, DW_both, semi-N."),
    ] = "white-box",
    shard: Annotated[
        str | None, typer.Option(help="i/n: only this share of the clips, for --merge later.")
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Make one report of these folders of shards; repeat it.")
    ] = None,
    allow_broken_gradient: Annotated[
        bool, typer.Option(help="Go on although the gradient audit fails; the card then says so.")
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit status 1 if the average accuracy under attack, in %, is lower: 60, or linf=60."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one for each CPU core.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Attack a system with exact gradients and say how much it withstands.

    Writes report.json, report.md and index.html (self-contained), and beside them every attacked clip.
    """
    least = _least(fail_under or [])
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file, not a folder to write to.")
    from audiopure.evaluation.evaluate import begin, conclude
    from audiopure.evaluation.evaluate import merge as united

    if merge:
        _show(united(merge, output), output, least)
        return
    from audiopure.evaluation import running
    from audiopure.evaluation.engine import Evaluation

    count = workers or (running.cores() if device == "cpu" else 1)
    prepare(device, threads or (1 if count > 1 else running.cores()))
    config = _config(
        system=system,
        data=data,
        protocol=protocol,
        attacked=attacked,
        limit=limit,
        seed=seed,
        knowledge=knowledge,
        shard=_shard(shard),
        device=device,
    )
    work = Evaluation.prepare(config, output, threads=threads or 1)
    gradients = begin(work, allow_broken=allow_broken_gradient, progress=say)
    _run(work, count, threads or (1 if count > 1 else running.cores()))
    _show(conclude(work, gradients), output, least)


def _config(**settings: object):
    from audiopure.evaluation.engine import EvaluationConfig

    try:
        return EvaluationConfig(**settings)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.") from error


def _run(work: Evaluation, workers: int, threads: int) -> None:
    from audiopure.evaluation import running

    seconds = running.estimate(work)
    total = running.total(work, seconds, workers)
    rows = len(work.contenders)
    say(
        f"{len(work.clips.targets)} clips, protocol {work.protocol.name}, {rows} systems: about "
        f"{duration(total)} at most in {workers} process{'es' if workers > 1 else ''}."
    )
    with progress() as bar:
        task = bar.add_task("Attacking", total=total)
        running.run(
            work,
            workers=workers,
            threads=threads,
            seconds=seconds,
            progress=lambda done: bar.advance(task, done),
        )


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"--shard {text}: write i/n with 1 <= i <= n.")
    return int(first), int(count)


def _least(limits: list[str]) -> dict[str, float]:
    """Column -> least accuracy in %; the key "" is for every column."""
    found = {}
    for text in limits:
        column, _, number = text.rpartition("=")
        try:
            found[column] = float(number)
        except ValueError as error:
            raise InputError(f"--fail-under {text}: write a number, or COLUMN=NUMBER.") from error
    return found


def _show(card: Card, folder: Path, least: dict[str, float]) -> None:
    from rich.console import Console

    from audiopure.evaluation.report_tables import rich_tables

    console = Console(file=sys.stdout, highlight=False)
    for table in rich_tables(card):
        console.print(table)
    page = (folder / "index.html").resolve()
    console.print(f"\nListen and look: {page}", soft_wrap=True, markup=False)
    failures = _failures(card, least)
    for sentence in failures:
        say(f"audiopure: {sentence}")
    if failures:
        raise typer.Exit(1)


def _failures(card: Card, least: dict[str, float]) -> list[str]:
    headlines = card.rows[0].headlines if card.rows else []
    unknown = set(least) - {""} - {headline.column for headline in headlines}
    if unknown:
        raise InputError(f"--fail-under: the report has no column {', '.join(sorted(unknown))}.")
    found = []
    for headline in headlines:
        wanted = least.get(headline.column, least.get(""))
        value = 100 * headline.attacked.average.value
        if wanted is not None and value < wanted:
            found.append(f"{headline.budget}: {value:.1f} % withstand the attack, fewer than {wanted:g} %.")
    return found
