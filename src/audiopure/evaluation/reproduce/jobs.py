"""Runs of `audiopure` behind a table: each resumable in its folder, its record kept where tables find it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audiopure import hub
from audiopure.atomic import write_text
from audiopure.evaluation.reproduce.reading import json_record

INTERRUPTED, TERMINATED = 130, 143  # exit statuses of the command line
CHILD = "audiopure.cli.child"
RECORDS = {"evaluate": "report.json", "certify": "certificates.json"}


class Job(NamedTuple):
    """One run of a command.

    Attributes:
        name: of its folder and of its record.
        command: "evaluate" or "certify".
        words: options of the command, without data, device, workers and output.
        other: the dataset, where it is not the place's but lies beside that.
        seconds: of one of its clips, about.
    """

    name: str
    command: str
    words: tuple[str, ...]
    other: str = ""
    seconds: float = 1.0

    @property
    def options(self) -> dict[str, str]:
        """Its words by the option's name, without dashes."""
        return {k.removeprefix("--"): v for k, v in zip(self.words[::2], self.words[1::2], strict=True)}


def evaluation(
    name: str, system: str, protocol: str, clips: int = 100, other: str = "", seconds: float = 1.0
) -> Job:
    """An evaluation of a system under a protocol."""
    words = ("--system", system, "--protocol", protocol, "--limit", str(clips))
    return Job(name, "evaluate", words, other, seconds)


class Place(NamedTuple):
    """Where jobs find their data and leave what they have.

    Attributes:
        data: folder of the dataset.
        records: of the finished jobs, one file each; what is there is not run again. Those of certifications
            lie beside, see `certificates`.
        work: of the unfinished ones.
        workers: processes on a CPU.
        device: "cpu", "cuda" ...
    """

    data: Path
    records: Path
    work: Path
    workers: int
    device: str = "cpu"

    def dataset(self, job: Job) -> Path:
        return self.data.resolve().parent / job.other if job.other else self.data

    def record(self, job: Job) -> Path:
        folder = certificates(self.records) if job.command == "certify" else self.records
        return folder / f"{job.name}.json"


def certificates(records: Path) -> Path:
    """Where certifications have their records, given where evaluations have theirs."""
    return records.parent / "certificates"


def missing(jobs: Sequence[Job], place: Place) -> list[Job]:
    """Those without a record, or with one of other weights than there are now, each once."""
    return [job for job in dict.fromkeys(jobs) if not place.record(job).is_file() or outdated(job, place)]


def outdated(job: Job, place: Place) -> bool:
    """Whether there is a record of other weights than their files hold now.

    Weights that are not here say nothing. Raises InputError for a damaged record.
    """
    known: Mapping[str, str] = json_record(place.record(job)).get("weights", {})
    return any(
        digest != hub.digest(name)
        for name, digest in known.items()
        if name in hub.SHIPPED or Path(name).is_file()
    )


def carry_out(jobs: Sequence[Job], place: Place, say: Callable[[str], None] = lambda sentence: None) -> int:
    """Run what is missing, one after another, also after one that fails.

    Returns 0, or the exit status of the first command that failed. An interrupted one ends all.
    """
    left, failed = missing(jobs, place), 0
    for number, job in enumerate(left, start=1):
        words = [job.command, *job.words, "--data", str(place.dataset(job)), "--device", place.device]
        if place.device == "cpu":
            words += ["--workers", str(place.workers)]
        folder = place.work / job.name
        words += ["-o", str(folder)]
        say(f"{number} of {len(left)}: audiopure {' '.join(words)}")
        status = subprocess.call([sys.executable, "-m", CHILD, str(os.getpid()), *words])
        if status in (INTERRUPTED, TERMINATED) or status < 0:
            return status
        if status == 0:
            collect(job, place)
        failed = failed or status
    return failed


def collect(job: Job, place: Place) -> None:
    """Keep the record of a finished job, where the data go by their name: a path is of one machine."""
    text = (place.work / job.name / RECORDS[job.command]).read_text(encoding="utf-8")
    record, data = json.loads(text), place.dataset(job)
    name = data.resolve().name
    paths = [f"--data {shlex.quote(str(folder))}" for folder in (data, name)]
    record["command"] = record["command"].replace(*paths)
    if "data" in record.get("settings", {}):
        record["settings"]["data"] = name
    keep(record, place.record(job))


def keep(record: dict[str, Any], path: Path) -> None:
    """A record without its examples, which name sounds that stay behind; written whole or not at all."""
    if "examples" in record:
        record = record | {"examples": []}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record) + "\n")
