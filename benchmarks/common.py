"""What all benchmarks share: atomic JSON, a description of the machine, runs of `audiopure` with a record."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

import audiopure
from audiopure.atomic import write_text
from audiopure.evaluation.reproduce.jobs import Job, Place, carry_out
from audiopure.machine import device_name, settle

RESULTS = Path(__file__).resolve().parent / "results"


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write so that a reader sees the old file or the new one, never half of either.

    The command goes in as `command`; a run for the documents names its data by AUDIOPURE_DATA, so that no
    path of one machine is in it.
    """
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    results = results | {"command": shlex.join(words)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What an interrupted run left, or nothing."""
    return json.loads(path.read_text()) if path.is_file() else {}


def journal_of(path: Path, *facts: object) -> Path:
    """A journal for these settings and weights alone: other facts, another file beside it."""
    told = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
    return path.with_stem(f"{path.stem}-{told}")


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a timing or a rounding error depends on."""
    return {
        "audiopure": audiopure.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def prepare(threads: int) -> None:
    """As commands are."""
    torch.set_num_threads(threads)
    settle()


def jobs_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark that is a list of jobs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of sc09")
    parser.add_argument("--work", required=True, type=Path, help="where unfinished runs lie")
    parser.add_argument("--only", nargs="+", help="names of runs, NAME* for what begins so; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="weights that do not ship")
    return parser


def certificates_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark that is a list of certifications."""
    parser = jobs_parser(description)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of base classifiers")
    return parser


def run_jobs(jobs: Iterable[Job], records: str, options: argparse.Namespace) -> int:
    """Run those asked for that have no record in results/RECORDS yet. Returns the exit status."""
    found = asked(jobs, options)
    return carry_out(found, place(records, options), lambda sentence: print(sentence, flush=True))


def asked(jobs: Iterable[Job], options: argparse.Namespace) -> list[Job]:
    """Those that `--only` names."""
    return [job for job in jobs if wanted(job.name, options)]


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Whether `--only` names it, or is not given."""
    return any(fnmatchcase(name, pattern) for pattern in options.only or ["*"])


def place(records: str, options: argparse.Namespace) -> Place:
    """Where jobs find their data and leave what they have, with records in results/RECORDS."""
    return Place(options.data, RESULTS / records, options.work, options.workers, options.device)
