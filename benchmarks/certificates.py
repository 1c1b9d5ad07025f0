"""Certificates behind the README: `audiopure certify`, run after run, at every sigma and for every base.

    python benchmarks/certificates.py --data PATH/sc09 --work FOLDER [--only NAME ...] [--workers N]

Resumable: every run goes on in its folder below --work; finished records lie in
benchmarks/results/certificates and are not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from audiopure.evaluation.certified.record import Certificates

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "certificates"
SIGMAS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# name -> system, further words of the command
METHODS = {
    "vanilla": ("digits", ()),
    "gaussian": ("digits-noisy", ()),
    "one-shot": ("small+digits", ()),
    "fine-tuned": ("small+digits-denoised", ()),
}
MULTI_STEP = (0.1, 0.25, 0.5)
OBJECTS = {
    "spectrogram": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "filterbank": (0.01, 0.05, 0.25, 1.0, 4.0),
    "log-mel": (1.0, 4.0, 8.0, 12.0),
}
LAPLACE = (0.01, 0.05, 0.25)
TOLERANCE = ("--tolerance", "0.03")  # sigma: what stopping early may cost


class Run(NamedTuple):
    name: str
    system: str
    sigma: float
    clips: int
    words: tuple[str, ...]


def runs() -> Iterator[Run]:
    """What the README needs first."""
    for method, (system, words) in METHODS.items():
        for sigma in SIGMAS:
            yield Run(f"{method}-{sigma:g}", system, sigma, 100, ("--n", "10000", *TOLERANCE, *words))
    fine = METHODS["fine-tuned"][0]
    for sigma in (0.1, 0.25, 0.5):
        yield Run(f"many-draws-{sigma:g}", fine, sigma, 20, ("--n", "100000", *TOLERANCE))
    for sigma in MULTI_STEP:
        words = ("--n", "1000", "--denoise", "multi-step", "--steps", "3", "--votes", "5")
        yield Run(f"multi-step-{sigma:g}", fine, sigma, 20, words)
        yield Run(f"one-shot-beside-{sigma:g}", fine, sigma, 20, ("--n", "1000"))
    for sigma in (0.25, 0.5):
        for kind in ("pair", "kl", "hockey-stick"):
            words = ("--n", "10000", "--certificate", kind)
            yield Run(f"{kind}-{sigma:g}", fine, sigma, 50, words)
    for sigma in LAPLACE:
        yield Run(f"laplace-{sigma:g}", fine, sigma, 50, ("--n", "10000", "--noise", "laplace", *TOLERANCE))
    for name, sigmas in OBJECTS.items():
        for sigma in sigmas:
            yield Run(
                f"{name}-{sigma:g}", "digits", sigma, 100, ("--n", "10000", "--object", name, *TOLERANCE)
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of sc09")
    parser.add_argument("--work", required=True, type=Path, help="where unfinished runs lie")
    parser.add_argument("--only", nargs="+", help="names of runs, or what they begin with; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for run in runs():
        record = RECORDS / f"{run.name}.json"
        chosen = options.only is None or any(run.name.startswith(name) for name in options.only)
        if record.is_file() or not chosen:
            continue
        folder = options.work / run.name
        command = [sys.executable, "-m", "audiopure", "certify", "--system", run.system]
        command += ["--data", str(options.data), "--sigma", f"{run.sigma:g}", "--limit", str(run.clips)]
        command += ["--precision", "bf16", *run.words, "--device", options.device, "-o", str(folder)]
        if options.device == "cpu":
            command += ["--workers", str(options.workers)]
        print("$", " ".join(command), flush=True)
        status = subprocess.call(command)
        if status != 0:
            return status
        keep(folder / "certificates.json", record)
    return 0


def keep(source: Path, record: Path) -> None:
    """The record, without indentation."""
    found = Certificates.model_validate_json(source.read_bytes())
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".part")
    partial.write_text(found.model_dump_json(by_alias=True) + "\n")
    os.replace(partial, record)


if __name__ == "__main__":
    sys.exit(main())
