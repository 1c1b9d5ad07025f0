"""`audiopure evaluate`: how robust a system is, as a report card that says what it is worth."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.cli.console import advancing, duration, say
from audiopure.cli.device import Device, Merge, Seed, Shard, ThreadsEach, Workers, prepare
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
    protocol: Annotated[str, typer.Option(help="quick, standard, paper, black-box, full or grid.")] = "quick",
    attacked: Annotated[
        Path | None,
        typer.Option(help="Score these attacked versions of the data as they are, in place of a protocol."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report; a run cut off goes on there.")
    ] = Path("audiopure-report"),
    limit: Annotated[int, typer.Option(min=0, help="Clips, equal over labels; 0 for all.")] = 100,
    seed: Seed = 0,
    knowledge: Annotated[
        str,
        typer.Option(help="Draws of the defence that the attacker knows: DW_fwd, DW_rev, DW_both, semi-N."),
    ] = "white-box",
    shard: Shard = None,
    merge: Merge = None,
    allow_broken_gradient: Annotated[
        bool, typer.Option(help="Go on although the gradient audit fails; the card then says so.")
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit status 1 if the average accuracy under attack, in %, is lower: 60, or linf=60."
        ),
    ] = None,
    workers: Workers = None,
    threads: ThreadsEach = None,
    device: Device = "cpu",
) -> None:
    """Attack a system with exact gradients and say how much it withstands.

    Writes report.json, report.md and index.html (self-contained), and beside them every attacked clip.
    """
    least = _least(fail_under or [])
    from audiopure.evaluation import running
    from audiopure.evaluation.engine import Evaluation, EvaluationConfig
    from audiopure.evaluation.evaluate import merge as united

    if merge:
        _show(united(merge, output), output, least)
        return
    workers = workers or (running.cores() if device == "cpu" else 1)
    threads = threads or (1 if workers > 1 else running.cores())
    prepare(device, threads)
    config = EvaluationConfig.of(
        system=system,
        data=data,
        protocol=protocol,
        attacked=attacked,
        limit=limit,
        seed=seed,
        knowledge=knowledge,
        shard=part(shard),
        device=device,
    )
    work = Evaluation.prepare(config, output, workers=workers, threads=threads)
    _check_columns(least, [c.column for c in work.plan.rows[0].conditions if c.counts])
    work.begin()
    try:
        card = _run(work, workers, threads, allow_broken_gradient)
    except (KeyboardInterrupt, SystemExit):
        say(f"audiopure: stopped; the same command goes on from what {output} holds.")
        raise
    _show(card, output, least)


def _run(work: Evaluation, workers: int, threads: int, allow_broken: bool) -> Card:
    from audiopure.evaluation import running
    from audiopure.evaluation.evaluate import begin, conclude

    seconds = running.estimate(work)
    total = running.total(work, seconds, workers)
    first = " after training a surrogate" if work.needs_surrogate else ""
    say(
        f"{len(work.clips.targets)} clips, protocol {work.protocol.name}, {len(work.contenders)} systems: "
        f"about {duration(total)} in {workers} process{'es' if workers > 1 else ''}{first}."
    )
    # in the threads of all the processes that are still to start
    with running.using_threads(workers * threads):
        gradients = begin(work, allow_broken=allow_broken, progress=say, watch=advancing)
    with advancing("Attacking", total) as advance:
        running.run(work, workers=workers, threads=threads, seconds=seconds, progress=advance)
    return conclude(work, gradients)


def part(text: str | None) -> tuple[int, int] | None:
    """(i, n) of a shard that is written "i/n"."""
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
        except ValueError:
            found[column] = math.nan
        if math.isnan(found[column]):
            raise InputError(f"--fail-under {text}: write a number, or COLUMN=NUMBER.")
    return found


def _check_columns(least: dict[str, float], columns: list[str]) -> None:
    unknown = set(least) - {""} - set(columns)
    if unknown:
        raise InputError(f"--fail-under: the report has no column {', '.join(sorted(unknown))}.")
    if least and not columns:
        raise InputError("--fail-under: the report has no attack that counts.")


def _show(card: Card, folder: Path, least: dict[str, float]) -> None:
    from rich.console import Console

    from audiopure.evaluation.report.terminal import rich_tables

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
    if not least:
        return []
    headlines = card.rows[0].headlines if card.rows else []
    _check_columns(least, [headline.column for headline in headlines])
    # an accuracy that an attack could not lower proves nothing
    found = [flag.sentence for flag in card.flags if flag.kind == "violation"]
    for headline in headlines:
        wanted = least.get(headline.column, least.get(""))
        value = 100 * headline.attacked.average.value
        if wanted is not None and value < wanted:
            found.append(f"{headline.budget}: {value:.1f} % withstand the attack, fewer than {wanted:g} %.")
    return found
