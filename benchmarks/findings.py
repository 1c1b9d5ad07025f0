"""What our systems withstand: the evaluations behind the README, by `audiopure evaluate`, one after another.

    python benchmarks/findings.py --data PATH/sc09 --work FOLDER [--only NAME ...] [--other FILE]

Resumable: every evaluation goes on in its folder below --work; finished cards lie in
benchmarks/results/findings, without their sounds, and are not run again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from common import jobs_parser, run_jobs

from audiopure.evaluation.reproduce.budget_tables import GRID
from audiopure.evaluation.reproduce.jobs import Job, evaluation
from audiopure.evaluation.reproduce.rows import CONTROLS, PURIFIED

LEVELS = (1, 2, 3, 5, 7, 10)


def jobs(other: Path | None, weights: Path) -> Iterator[Job]:
    """The cheap ones first."""
    for entry in CONTROLS:
        yield entry.job("paper", weights)
    for n_star in LEVELS:
        yield evaluation(f"quick-n{n_star}", f"small,n_star={n_star}+digits", "quick")
    if other is not None:
        yield evaluation("quick-other", f"small+ai8x,path={other}", "quick")
    for entry in CONTROLS:
        yield entry.job("standard", weights)
    yield evaluation("full-n3", PURIFIED.system, "full", 30)
    yield GRID


def main() -> int:
    parser = jobs_parser(__doc__)
    parser.add_argument("--other", type=Path, help="weights of ai8x's kws20, for the recogniser of others")
    options = parser.parse_args()
    return run_jobs(jobs(options.other, options.weights), "findings", options)


if __name__ == "__main__":
    sys.exit(main())
