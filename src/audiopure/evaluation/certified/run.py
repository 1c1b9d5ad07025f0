"""`audiopure.certify`: from a system and a folder of recordings to certificates, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from audiopure.errors import InputError
from audiopure.evaluation import workplace
from audiopure.evaluation.certified.engine import Certification, CertifyPlan
from audiopure.evaluation.certified.examples import examples
from audiopure.evaluation.certified.record import Certificates, ClipCertificate, curve
from audiopure.evaluation.certified.report import write_report
from audiopure.evaluation.certified.settings import CertifySettings
from audiopure.evaluation.certified.tallies import BLOCK, Tallies
from audiopure.evaluation.crew import share
from audiopure.evaluation.running import using_threads
from audiopure.systems import unchanged

FEW = 4  # draws that are timed first
PATIENCE = 5.0  # seconds; what would take longer is told from these few


def certify(
    system: str | nn.Module,
    data: str | Path | None = None,
    *,
    sigma: float = 0.25,
    output: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
    **settings: object,
) -> Certificates:
    """Certify a system's answers for the clips of a folder by randomized smoothing.

    Args:
        system: a specification, see `audiopure.systems`, or a model with `labels` and `sample_rate`.
        data: folder of labelled audio, its test split if it has one; None for the clips that ship.
        sigma: of the smoothing noise.
        output: folder for the report, where a run that was cut off goes on; None keeps nothing.
        workers: processes; with a model instead of a specification only 1 works.
        progress: told beforehand in a sentence what is to be drawn, and how long it takes, from timing some.
        settings: any other of `CertifySettings`: object, noise, denoise, certificate, n0, n, alpha, limit ...

    Raises InputError for what cannot be used.
    """
    chosen = CertifySettings.of(
        system=system if isinstance(system, str) else type(system).__name__,
        data=None if data is None else Path(data),
        sigma=sigma,
        **settings,
    )
    if workers > 1 and not isinstance(system, str):
        raise InputError("several workers need a system by name, as each of them loads it anew")
    threads = max(1, torch.get_num_threads() // workers)
    model = None if isinstance(system, str) else system
    with TemporaryDirectory() as scratch, unchanged(model):
        folder = Path(scratch if output is None else output)
        work = Certification.prepare(chosen, folder, model=model, workers=workers, threads=threads)
        work.begin()
        if progress is not None:
            draws = missing(work)
            with using_threads(threads):
                minutes = draws * estimate(work) / workers / 60 if draws else 0
            progress(f"{len(work.units)} clips, at most {draws:,} draws: about {max(minutes, 1):.0f} min")
        run(work, workers=workers, threads=threads)
        return conclude(work, keep=output is not None)


def estimate(work: Certification) -> float:
    """Seconds of one draw in one process, from timing a few. Nothing of them is counted."""
    ask = work.asker(work.units[0], lambda draws: None).sampler

    def timed(draws: int) -> float:
        begin = time.perf_counter()
        for scores in ask.scores("estimate", 0, draws):
            _ = float(scores.sum())  # waits for the device
        return (time.perf_counter() - begin) / draws

    batch = min(work.rows.count, BLOCK, work.most)
    each = timed(min(FEW, batch))  # also allocates
    return timed(batch) if each * batch < PATIENCE else each


def missing(work: Certification) -> int:
    """Draws still to come, at most."""
    return sum(max(0, work.most - work.drawn(unit)) for unit in work.units)


def run(
    work: Certification,
    *,
    workers: int = 1,
    threads: int = 1,
    progress: Callable[[int], None] = lambda draws: None,
) -> None:
    """Do all that is missing.

    Args:
        workers: processes; more than one only where `settings.system` names the system.
        threads: of each process.
        progress: told how many draws have been done, or are not needed.
    """
    if workers == 1:
        with using_threads(threads):
            for unit in work.units:
                work.do(unit, progress)
        return
    prepare = partial(Certification.prepare, work.settings, work.folder)
    share(prepare, units=len(work.units), workers=workers, threads=threads, tick=progress)
    work.refresh()


def conclude(work: Certification, *, keep: bool = True) -> Certificates:
    """The record, and in the folder the report with it."""
    with using_threads(1):  # decibels are rounded alike wherever a record is made
        clips = [work.certificate(unit) for unit in work.units]
    result = record(work.plan, clips, work.journal)
    if keep:
        write_report(result, work.folder, examples(work, result.clips))
    return result


def record(plan: CertifyPlan, clips: Sequence[ClipCertificate], journal: Tallies) -> Certificates:
    lines = journal.read()
    return Certificates(
        command=plan.command,
        versions=plan.versions,
        machine=plan.machine,
        settings=plan.settings.model_dump(mode="json"),
        data=plan.data,
        weights=plan.weights,
        labels=plan.labels,
        object=plan.object,
        unit=plan.unit,
        norm=plan.norm,
        confidence=1 - plan.settings.alpha,
        seconds=round(sum(line.seconds for line in lines), 1),
        draws=sum(line.last - line.first for line in lines),
        clips=list(clips),
        curve=curve(list(clips)),
    )


def merge(folders: Sequence[Path], output: Path, data: Path | None = None) -> Certificates:
    """One record from the folders of shards: draws of one plan, united by clip and number; none are drawn.

    Args:
        data: where the recordings lie on this machine, if not where the first shard had them.

    The result is a certification's folder like any other: what no shard has done, `certify` does there. The
    shards may come from a device that this machine lacks.

    Raises InputError if a folder holds no certification, if they do not belong to the same, if the clips or
    weights here are not those of the shards, if a clip is not finished, or if `output` is one of the folders
    or holds something else.
    """
    first = workplace.unite(folders, output, CertifyPlan, "certification")
    place = {"shard": None, "data": data or first.settings.data}
    settings = first.settings.model_copy(update=place)
    whole = first.model_copy(
        update={
            "command": settings.command,
            "settings": settings,
            "data": first.data.model_copy(update={"shard": None}),
        }
    )
    work = Certification.prepare(settings.model_copy(update={"device": "cpu"}), output)
    for what in ("clips", "weights", "labels"):
        if getattr(work.plan, what) != getattr(whole, what):
            raise InputError(f"the {what} here are not those that the shards were certified with.")
    work.plan = workplace.begin(whole, output, "a certification")
    Tallies(output / "draws.jsonl").unite(Tallies(folder / "draws.jsonl") for folder in folders)
    left = [work.clips.ids[unit] for unit in work.units if not work.finished(unit)]
    if left:
        raise InputError(
            f"{len(left)} clips, {left[0]} among them, are not finished in these shards: run the shards to "
            f"their end and merge again, or finish here with {whole.command} -o {output}"
        )
    return conclude(work)
