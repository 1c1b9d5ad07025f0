"""`audiopure certify`: radii within which a system's answers cannot be changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.cli.console import advancing, duration, say
from audiopure.cli.device import Device, Merge, Seed, Shard, ThreadsEach, Workers, prepare

if TYPE_CHECKING:
    from audiopure.evaluation.certified.engine import Certification
    from audiopure.evaluation.certified.record import Certificates


def certify(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report; a run cut off goes on there.")
    ] = Path("audiopure-certificates"),
    system: Annotated[str, typer.Option(help="As for evaluate: small+digits, digits ...")] = "small+digits",
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled audio; by default the clips that ship.")
    ] = None,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the smoothing noise.")] = 0.25,
    object_: Annotated[
        str,
        typer.Option("--object", help="What gets the noise: waveform, spectrogram, filterbank or log-mel."),
    ] = "waveform",
    noise: Annotated[
        str, typer.Option(help="gaussian certifies L2, laplace L1, shaped by bands.")
    ] = "gaussian",
    shape: Annotated[str, typer.Option(help="Of shaped noise: HZ:DB,HZ:DB with lines between them.")] = "",
    denoise: Annotated[
        str | None,
        typer.Option(help="What follows the noise: none, one-shot, multi-step, local or as-is."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Reverse steps of multi-step.")] = 5,
    votes: Annotated[int, typer.Option(min=1, help="Votes of multi-step and local.")] = 10,
    local: Annotated[float, typer.Option(help="Standard deviation of local noise.")] = 0.02,
    before: Annotated[
        str, typer.Option(help="Steps before the noise, as clip,gain=0.5; others void a certificate.")
    ] = "",
    certificate: Annotated[
        str,
        typer.Option(help="cohen, pair, kl, renyi, hockey-stick; of enrolled speakers embedding or claim."),
    ] = "cohen",
    claim: Annotated[str, typer.Option(help="With claim: the speaker that every clip claims to be.")] = "",
    threshold: Annotated[
        float | None, typer.Option(help="With claim: mean cosine from which on a claim is accepted.")
    ] = None,
    n0: Annotated[int, typer.Option(min=1, help="Draws that select the answer.")] = 100,
    n: Annotated[int, typer.Option(min=1, help="Draws that bound its share, at most.")] = 10_000,
    alpha: Annotated[float, typer.Option(help="Chance that a clip's certificate is wrong.")] = 0.001,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Stop a clip once no more than this many sigma are to be gained, such as 0.05."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Clips, equal over labels; 0 for all.")] = 100,
    seed: Seed = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, which is then what is certified.")] = "fp32",
    shard: Shard = None,
    merge: Merge = None,
    workers: Workers = None,
    threads: ThreadsEach = None,
    device: Device = "cpu",
    rows: Annotated[
        int | None, typer.Option(min=1, help="Noisy versions at once: memory and speed; default: as fits.")
    ] = None,
) -> None:
    """Certify a system's answers by randomized smoothing.

    Writes certificates.json, .jsonl and .csv, report.md and index.html (self-contained).
    """
    from audiopure.cli.evaluate import part
    from audiopure.evaluation import running
    from audiopure.evaluation.certified.engine import Certification
    from audiopure.evaluation.certified.run import merge as united
    from audiopure.evaluation.certified.settings import CertifySettings

    if merge:
        _show(united(merge, output, data), output)
        return
    workers = workers or (running.cores() if device == "cpu" else 1)
    threads = threads or (1 if workers > 1 else running.cores())
    prepare(device, threads)
    settings = CertifySettings.of(
        system=system,
        data=data,
        object=object_,
        noise=noise,
        shape=shape,
        sigma=sigma,
        denoise=denoise,
        steps=steps,
        votes=votes,
        local=local,
        before=before,
        certificate=certificate,
        claim=claim,
        threshold=threshold,
        n0=n0,
        n=n,
        alpha=alpha,
        tolerance=tolerance,
        limit=limit,
        seed=seed,
        precision=precision,
        shard=part(shard),
        device=device,
        rows=rows,
    )
    work = Certification.prepare(settings, output, workers=workers, threads=threads)
    work.begin()
    try:
        record = _run(work, workers, threads)
    except (KeyboardInterrupt, SystemExit):
        say(f"audiopure: stopped; the same command goes on from what {output} holds.")
        raise
    _show(record, output)


def _run(work: Certification, workers: int, threads: int) -> Certificates:
    from audiopure.evaluation.certified.run import conclude, estimate, missing, run

    draws = missing(work)
    total = draws * estimate(work) / workers if draws else 0.0
    at_most = "" if work.settings.tolerance is None else "at most "
    say(
        f"{len(work.units)} clips, {at_most}{draws:,} draws to come: {at_most}about {duration(total)} in "
        f"{workers} process{'es' if workers > 1 else ''}."
    )
    with advancing("Certifying", draws) as advance:
        run(work, workers=workers, threads=threads, progress=advance)
    return conclude(work)


def _show(record: Certificates, folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from audiopure.evaluation.certified import words
    from audiopure.evaluation.report.words import percent

    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"radius, {record.norm}", justify="right")
    table.add_column("certified accuracy", justify="right")
    for radius in words.radii(record):
        table.add_row(f"{radius:g}", percent(record.certified(radius)))
    console.print(table)
    for sentence in [*words.verdict(record), *words.notes(record)]:
        console.print(sentence, markup=False)
    page = (folder / "index.html").resolve()
    console.print(f"\nListen and look: {page}", soft_wrap=True, markup=False)
