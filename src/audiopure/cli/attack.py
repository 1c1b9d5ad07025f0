"""`audiopure attack`: recordings that a system mishears, and how surely it does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.atomic import whole, write_text
from audiopure.choices import ATTACKS
from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import Device, Threads, prepare
from audiopure.cli.files import STREAM, Job, Resume, plan, sources
from audiopure.cli.output import check_output
from audiopure.errors import AudiopureError, InputError

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress, TaskID

    from audiopure.attacks import Attack
    from audiopure.evaluation.attack_file import Goal
    from audiopure.evaluation.attack_report import FileRecord
    from audiopure.systems import System

LONG = 5.0  # seconds of work from which its cost is announced
LOSSLESS = (".wav", ".flac")


def attack(
    inputs: Annotated[list[str], typer.Argument(help="Files or folders.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File or folder; without it nothing is written.")
    ] = None,
    system: Annotated[str, typer.Option(help="What to attack: a recogniser, with defences before it.")] = (
        "small+digits"
    ),
    label: Annotated[
        str | None, typer.Option(help="True label; by default what the system hears without its defence.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Label to be heard; by default any wrong one.")] = None,
    name: Annotated[str, typer.Option("--attack", help=f"{', '.join(ATTACKS)}.")] = "pgd",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: a setting of the attack; repeatable.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2.")] = None,
    eps: Annotated[str | None, typer.Option(help="Budget in that norm, relative to full scale.")] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of the attack; 40 for pgd.")] = None,
    eot: Annotated[
        str | None, typer.Option(help="Draws of the defence's noise that each step averages; 5.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of all noise.")] = 0,
    passes: Annotated[int, typer.Option(min=1, help="Fresh passes that score each file.")] = 10,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    resume: Resume = False,
    report: Annotated[Path | None, typer.Option("--json", help="File that gets the results.")] = None,
) -> None:
    """Attack recordings (WAV, FLAC, Ogg) so that a system mishears them.

    What is attacked is what the system hears: mono, at its sample rate; other files are converted first.
    Attacked files have that form, in 16-bit WAV or FLAC, and keep the budget as written. Fresh passes are of
    noise that the attack has not seen.
    """
    options = {"norm": norm, "eps": eps, "steps": steps, "eot": eot}
    given = _settings(settings or [], {k: v for k, v in options.items() if v is not None})
    if resume and report is not None:
        raise InputError("--json reports on all files, and --resume leaves some of them out; choose one.")
    jobs = _jobs(inputs, output, overwrite, resume)
    if not jobs:
        say("Every result is there already.")
        return
    check_output(report, overwrite)
    chosen = prepare(device, threads)
    from audiopure.evaluation.attack_file import Goal, choose_attack
    from audiopure.systems import load_system

    victim = load_system(system)
    victim.model.to(chosen)
    goal = Goal(_index(victim, label), _index(victim, target))
    if name == "universal" and len(jobs) > 1:
        raise InputError("each file is attacked alone here: attacks.universal learns one change for many.")
    build = choose_attack(name, given, victim, targeted=target is not None)
    done, failed = _Run(victim, build, goal, passes, seed).all(jobs)
    if report is not None:
        from audiopure.evaluation.attack_report import attack_report

        found = attack_report(victim, build, seed, done, failed)
        write_text(report, found.model_dump_json(by_alias=True, indent=1) + "\n")
    if len(done) > 1:
        won = sum(record.success.value > 0.5 for record in done)
        print(f"The attack wins more than half of the fresh passes on {won} of {len(done)} files.")
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} files could not be attacked.")


def _settings(words: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    given = dict(options)
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or not value.strip():
            raise InputError(f"--set {word}: write a setting as key=value.")
        if key in given:
            raise InputError(f"the setting '{key}' is given twice.")
        given[key] = value.strip()
    if given.get("bits", "16") != "16":
        raise InputError("attacked files hold 16-bit samples: bits cannot be set.")
    return given


def _jobs(inputs: Sequence[str], output: str | None, overwrite: bool, resume: bool) -> list[Job]:
    if STREAM in inputs or output == STREAM:
        raise InputError("attack reads and writes files, not standard input or output.")
    if output is None:
        return [Job(source, None) for source in sources(inputs)]
    jobs = plan(inputs, output, overwrite=overwrite, resume=resume, suffixes={".ogg": ".wav"})
    for job in jobs:
        if job.target is not None and job.target.suffix.lower() not in LOSSLESS:
            raise InputError(f"{job.target}: an attack survives only in {' or '.join(LOSSLESS)} files.")
    return jobs


def _index(victim: System, label: str | None) -> int | None:
    if label is None:
        return None
    if label not in victim.labels:
        raise InputError(f"{victim.spec} has no label '{label}'; it has: {', '.join(victim.labels)}.")
    return victim.labels.index(label)


@dataclass(frozen=True)
class _Run:
    """The attack on each file in turn."""

    victim: System
    build: Attack
    goal: Goal
    passes: int
    seed: int

    def all(self, jobs: Sequence[Job]) -> tuple[list[FileRecord], dict[str, str]]:
        """What became of each file; with several, one that cannot be attacked is reported and left out."""
        from audiopure.evaluation.attack_report import text

        done: list[FileRecord] = []
        failed: dict[str, str] = {}
        lengths = [_seconds(job) for job in jobs]
        pace = self._announce(jobs, lengths)
        with progress() as bar:
            task = bar.add_task("", total=sum(lengths))
            for number, job in enumerate(jobs):
                bar.update(task, description=str(job.source), completed=sum(lengths[:number]))
                try:
                    record = self._one(job, _Ticker(bar, task, sum(lengths[:number]), lengths[number], pace))
                except (AudiopureError, OSError) as error:
                    if len(jobs) == 1:
                        raise
                    failed[str(job.source)] = str(error)
                    say(f"audiopure: {error}")
                    continue
                done.append(record)
                _print(text(record), bar)
        return done, failed

    def _announce(self, jobs: Sequence[Job], lengths: Sequence[float]) -> float:
        """Say what the work will take, if it is long. Seconds of work for a second of sound; 0 if unknown."""
        from audiopure.evaluation.attack_file import load_recording, pace

        for job in jobs:
            assert job.source is not None
            try:
                recording = load_recording(job.source, self.victim.sample_rate)
            except (AudiopureError, OSError):
                continue  # reported when its turn comes
            found = pace(self.victim, recording, self.build)
            if found * sum(lengths) > LONG:
                what = "1 file" if len(jobs) == 1 else f"{len(jobs)} files"
                cost = duration(found * sum(lengths))
                say(f"Attacking {what}, {duration(sum(lengths))} of audio: about {cost}.")
            return found
        return 0.0

    def _one(self, job: Job, tick: _Ticker) -> FileRecord:
        from audiopure.evaluation.attack_file import attack_recording, load_recording
        from audiopure.evaluation.attack_report import file_record
        from audiopure.evaluation.clips import item_of
        from audiopure.noise import SeededNoise

        assert job.source is not None
        recording = load_recording(job.source, self.victim.sample_rate)
        outcome = attack_recording(
            self.victim,
            recording,
            self.build,
            self.goal,
            passes=self.passes,
            noise=SeededNoise(self.seed).for_items([item_of(job.source.name)]),
            progress=tick,
        )
        if job.target is not None:
            self._write(job, recording.waveform, outcome.adversarial)
        wanted = None if self.goal.target is None else self.victim.labels[self.goal.target]
        target = None if job.target is None else str(job.target)
        return file_record(str(job.source), target, recording, outcome, wanted)

    def _write(self, job: Job, clean: torch.Tensor, adversarial: torch.Tensor) -> None:
        """Write the attacked file, read it again, and put it in place if it keeps the budget."""
        from audiopure import audio
        from audiopure.evaluation.attack_file import check_budget

        assert job.target is not None
        if job.makes_folder:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        with whole(job.target) as part:
            audio.write(part, adversarial, self.victim.sample_rate, "PCM_16")
            try:
                check_budget(self.build, clean, audio.read(part)[0][0])
            except InputError as error:
                raise InputError(f"{job.target}: was not kept: read back from the disk, {error}.") from error


@dataclass
class _Ticker:
    """Moves the bar as far as the work on a file should have come by now."""

    bar: Progress
    task: TaskID
    before: float
    length: float
    pace: float

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self) -> None:
        if self.pace:
            done = min(self.length, (time.monotonic() - self.began) / self.pace)
            self.bar.update(self.task, completed=self.before + done)


def _seconds(job: Job) -> float:
    """Length of a recording; 0 for one that cannot be read, which is reported when its turn comes."""
    from audiopure.audio import probe

    assert job.source is not None
    try:
        return probe(job.source).seconds
    except (AudiopureError, OSError):
        return 0.0


def _print(words: str, bar: Progress) -> None:
    """On standard output, which a visible bar would catch."""
    if bar.disable:
        print(words, flush=True)
        return
    bar.stop()
    print(words, flush=True)
    bar.start()
