"""`audiopure purify`: files, folders or a stream."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from audiopure.choices import LEVELS, PRECISIONS, SAMPLERS, choose
from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import Device, Threads, prepare
from audiopure.cli.files import Job, Resume, plan
from audiopure.errors import AudiopureError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from audiopure.noise import SeededNoise
    from audiopure.purifier import Purifier

    Report = Callable[[float], None]

LONG = 5.0  # seconds of work from which its cost is announced
PROBE = 0.05  # seconds of work after which a measured pace is believed


def purify(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, or - for standard input.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="File, folder, or - .")] = None,
    n_star: Annotated[
        float, typer.Option(help="Diffusion steps: more remove larger perturbations and more of the sound.")
    ] = 3,
    weights: Annotated[str, typer.Option(help="Shipped weights by name, or a safetensors file.")] = "small",
    sampler: Annotated[str, typer.Option(help=f"Reverse process: {', '.join(SAMPLERS)}.")] = "ddpm",
    level: Annotated[
        str, typer.Option(help="speech: purify at a common speech level and restore; fixed: as it is.")
    ] = "speech",
    precision: Annotated[str, typer.Option(help=f"{' or '.join(PRECISIONS)}.")] = "fp32",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**64 - 1, help="Replay this noise. A known seed weakens the defence."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    resume: Resume = False,
) -> None:
    """Remove adversarial perturbations from audio (WAV, FLAC, Ogg; any rate, channels and length).

    The result has the input's rate, channels, length and encoding. What lies above 8 kHz is removed, since it
    cannot be purified. The noise comes from the operating system's entropy.
    """
    jobs = plan(inputs, output, overwrite=overwrite, resume=resume)
    if not jobs:
        say("Every result is there already.")
        return
    chosen = prepare(device, threads)
    purifier = _purifier(weights, n_star, sampler, level, precision).to(chosen)
    with ExitStack() as stack:
        _run([(_source(job, stack), job) for job in jobs], purifier, seed)


def _purifier(weights: str, n_star: float, sampler: str, level: str, precision: str) -> Purifier:
    reverse, policy = choose("sampler", SAMPLERS, sampler), choose("level", LEVELS, level)
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'; there are: {', '.join(PRECISIONS)}.")
    from audiopure.api import load_purifier

    return load_purifier(weights, n_star=n_star, sampler=reverse, level=policy, precision=precision)  # type: ignore[arg-type]


def _source(job: Job, stack: ExitStack) -> Path | BinaryIO:
    from audiopure.stream import rewindable

    if job.target is None and sys.stdout.isatty():
        raise InputError("standard output is a terminal: give -o FILE, or redirect it.")
    if job.source is not None:
        return job.source
    if sys.stdin.isatty():
        raise InputError("standard input is a terminal: pipe audio into it, or name a file.")
    return stack.enter_context(rewindable(sys.stdin.buffer))  # type: ignore[return-value]


def _run(work: list[tuple[Path | BinaryIO, Job]], purifier: Purifier, seed: int | None) -> None:
    from audiopure.noise import SeededNoise, system_noise

    lengths = [_seconds(source) for source, _ in work]
    _announce(sum(lengths), len(work), purifier)
    failed, before = 0, 0.0
    with progress() as bar:
        task = bar.add_task("", total=sum(lengths))
        for (source, job), length in zip(work, lengths, strict=True):
            # the same seed for each file: its replay must not depend on its neighbours
            noise = system_noise() if seed is None else SeededNoise(seed)
            bar.update(task, description="standard input" if job.source is None else job.source.name)
            try:
                _one(source, job, purifier, noise, lambda s, b=before: bar.update(task, completed=b + s))
            except (AudiopureError, OSError) as error:
                if len(work) == 1:
                    raise
                failed += 1
                say(f"audiopure: {error}")
            before += length
            bar.update(task, completed=before)
    if failed:
        raise InputError(f"{failed} of {len(work)} files could not be purified.")


def _one(source: Path | BinaryIO, job: Job, purifier: Purifier, noise: SeededNoise, report: Report) -> None:
    from audiopure.stream import purify_file

    if job.target is None:
        purify_file(source, sys.stdout.buffer, purifier, noise=noise, report=report)
        return
    if job.makes_folder:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    purify_file(source, job.target, purifier, noise=noise, report=report)


def _seconds(source: Path | BinaryIO) -> float:
    """Length of a recording; 0 for one that cannot be read, which is reported when its turn comes."""
    from audiopure.audio import probe

    try:
        return probe(source).seconds
    except AudiopureError:
        return 0.0


def _announce(seconds: float, files: int, purifier: Purifier) -> None:
    work = seconds * pace(purifier)
    if work > LONG:
        what = "1 recording" if files == 1 else f"{files} recordings"
        say(f"Purifying {what}, {duration(seconds)} of audio: about {duration(work)}.")


def pace(purifier: Purifier) -> float:
    """Seconds of work for a second of a long recording, measured on noise."""
    import torch

    from audiopure.noise import SeededNoise
    from audiopure.stream import CHUNK_SECONDS

    rate, samples = purifier.sample_rate, 1024
    device = next(purifier.parameters()).device
    margins = 1 + 2 * purifier.receptive_field / (CHUNK_SECONDS * rate)

    def work() -> float:
        began = time.perf_counter()
        purifier(torch.zeros(1, samples, device=device), noise=SeededNoise(0)).cpu()
        return time.perf_counter() - began

    with torch.inference_mode():
        work()  # the first call pays for what later ones reuse
        while (took := work()) < PROBE and samples < CHUNK_SECONDS * rate:
            samples *= 2
    return took / samples * rate * margins
