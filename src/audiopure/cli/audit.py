"""`audiopure audit`: is the gradient that an attack climbs the true one, and where does it break?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.atomic import write_text
from audiopure.cli.console import say
from audiopure.cli.device import Seed, Threads, prepare
from audiopure.errors import InputError

if TYPE_CHECKING:
    from audiopure.evaluation.auditing.record import AuditReport
    from audiopure.systems import System

SECONDS = 4.0  # of each clip; a gradient that breaks at all does so within


def audit(
    system: Annotated[
        str, typer.Option(help="As in small,n_star=3+digits, digits, or package.module:function.")
    ] = "small+digits",
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled audio. By default shipped clips.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips, equal over labels; the first 4 s of each.")] = 4,
    seed: Seed = 0,
    route: Annotated[str, typer.Option(help="How the attack's gradient passes purifiers.")] = "exact",
    json: Annotated[Path | None, typer.Option(help="File that gets the whole report.")] = None,
    threads: Threads = None,
) -> None:
    """Compare an attack's gradient with finite differences of its loss, in double precision.

    Exit status 1 if it is broken: a cosine below 0.99, or a loss that jumps. An approximation that is
    declared (a route, or a module's attribute `bpda = True`) is labelled instead.
    """
    if json is not None and json.is_dir():
        raise InputError(f"{json}: is a folder, not a file to write to.")
    prepare("cpu", threads)
    from audiopure.systems import load_system

    report = _run(load_system(system), data, clips, seed, route)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        write_text(json, report.model_dump_json(by_alias=True, indent=1) + "\n")
    _show(report, system)
    if not report.passed:
        raise typer.Exit(1)


def _run(system: System, data: Path | None, count: int, seed: int, route: str) -> AuditReport:
    import torch

    from audiopure.data import collate
    from audiopure.evaluation.auditing.audit import audit
    from audiopure.evaluation.clips import load_clips
    from audiopure.noise import SeededNoise

    clips = load_clips(data, system.undefended, count, seed)
    kept = round(SECONDS * system.sample_rate)
    waveform, lengths = collate([clip[:kept] for clip in clips.waveforms])
    say(f"Auditing {system.spec} on {len(waveform)} clips of at most {kept / system.sample_rate:g} s.")
    return audit(
        system.model,
        waveform,
        torch.tensor(clips.targets),
        noise=SeededNoise(seed).for_items(clips.items),
        lengths=lengths,
        route=route,
    )


def _show(report: AuditReport, system: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("directions", "cosine", "signs agree", "relative error"):
        table.add_column(heading, justify="left" if heading == "directions" else "right", no_wrap=True)
    for name, family in report.families.items():
        table.add_row(
            name,
            f"{family.cosine:.5f}",
            f"{100 * family.sign_agreement:.0f} %",
            f"{family.relative_error:.1e}",
        )
    console = Console(file=sys.stdout, highlight=False)
    console.print(Text(f"{system}, gradient by route {report.route}, loss {report.loss}"))
    console.print(table)
    style = {"exact": "bold green", "declared": "bold yellow", "broken": "bold red"}[report.verdict]
    label = {"exact": "EXACT", "declared": "BPDA", "broken": "BROKEN"}[report.verdict]
    console.print(Text(label, style=style), Text(report.summary), soft_wrap=True)
    for line in _notes(report):
        console.print(line, markup=False, soft_wrap=True)


def _notes(report: AuditReport) -> list[str]:
    declared = {True: ", declared", False: ""}
    lines = [
        f"  {found.name or '(the model)'} ({found.module}): {found.kind}"
        f"{f', {found.detail}' if found.detail else ''}{declared[found.declared]}"
        for found in report.modules
    ]
    lines = ["Modules at fault:", *lines] if lines else ["Every module contributes its gradient."]
    if report.pairwise is not None and report.draws > 1:
        advice = f"EOT {report.eot} or more" if report.eot else "more EOT than can be estimated"
        lines.append(f"Gradients of two draws have a cosine of {report.pairwise:.2f}: use {advice}.")
    if report.fallback:
        lines.append(f"In float32, with longer steps, because {report.fallback}.")
    return lines
