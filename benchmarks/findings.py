"""What our systems withstand: the evaluations behind the README, by `audiopure evaluate`, one after another.

    python benchmarks/findings.py --data PATH/sc09 --work FOLDER [--only NAME ...] [--other FILE]

Resumable: every evaluation goes on in its folder below --work; finished cards lie in
benchmarks/results/findings, without their sounds, and are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "benchmarks" / "results" / "findings"


class Run(NamedTuple):
    """One evaluation: its name, system, protocol and number of clips."""

    name: str
    system: str
    protocol: str
    clips: int = 100


SYSTEMS = {
    "none": "digits",
    "noise-only": "small,reverse=no+digits",
    "one-shot": "small,sampler=one-shot+digits",
    "n3": "small+digits",
}
LEVELS = (1, 2, 3, 5, 7, 10)


def runs(other: Path | None) -> Iterator[Run]:
    """The cheap ones first."""
    for name, system in SYSTEMS.items():
        yield Run(f"paper-{name}", system, "paper")
    for n_star in LEVELS:
        yield Run(f"quick-n{n_star}", f"small,n_star={n_star}+digits", "quick")
    if other is not None:
        yield Run("quick-other", f"small+ai8x,path={other}", "quick")
    for name, system in SYSTEMS.items():
        yield Run(f"standard-{name}", system, "standard")
    yield Run("full-n3", SYSTEMS["n3"], "full", 30)
    yield Run("grid", SYSTEMS["n3"], "grid")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of sc09")
    parser.add_argument("--work", required=True, type=Path, help="where unfinished evaluations lie")
    parser.add_argument("--only", nargs="+", help="names of evaluations; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--other", type=Path, help="weights of ai8x's kws20, for the recogniser of others")
    options = parser.parse_args()
    for run in runs(options.other):
        card = CARDS / f"{run.name}.json"
        if card.is_file() or (options.only is not None and run.name not in options.only):
            continue
        folder = options.work / run.name
        command = [sys.executable, "-m", "audiopure", "evaluate", "--system", run.system]
        command += ["--data", str(options.data), "--protocol", run.protocol, "--limit", str(run.clips)]
        command += ["--workers", str(options.workers), "-o", str(folder)]
        print("$", " ".join(command), flush=True)
        status = subprocess.call(command)
        if status != 0:
            return status
        keep(folder / "report.json", card)
    return 0


def keep(report: Path, card: Path) -> None:
    """The card as a record: without examples, which name files that stay behind."""
    record = json.loads(report.read_text()) | {"examples": []}
    card.parent.mkdir(parents=True, exist_ok=True)
    partial = card.with_suffix(".part")
    partial.write_text(json.dumps(record) + "\n")
    os.replace(partial, card)


if __name__ == "__main__":
    sys.exit(main())
