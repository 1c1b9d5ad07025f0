"""Certificates behind the README: `audiopure certify`, run after run, at every sigma and for every base.

    python benchmarks/certificates.py --data PATH/sc09 --work FOLDER [--only NAME ...] [--workers N]

Resumable: every run goes on in its folder below --work; finished records lie in
benchmarks/results/certificates and are not run again. Where several methods share a denoiser,
certificates_together.py makes the same records with less work. On a CPU without instructions for matrices in
bf16 (AMX), --precision fp32 is faster; records say which it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from common import certificates_parser, run_jobs

from audiopure.evaluation.reproduce.certified_tables import EVERY_SIGMA, METHODS, STOPPING, certification
from audiopure.evaluation.reproduce.certified_tables import jobs as certified_jobs
from audiopure.evaluation.reproduce.entries import absent, located
from audiopure.evaluation.reproduce.jobs import Job

MULTI_STEP = (0.1, 0.25, 0.5)
OTHERS = 0.25  # where there are other certificates of the same draws
MANY = 0.5  # where there are as many draws as the paper's, which few clips need all
OBJECTS = {
    "spectrogram": (0.5, 1.0, 4.0),
    "filterbank": (0.05, 0.25, 1.0),
    "log-mel": (4.0, 8.0),
}
LAPLACE = (0.05, 0.25)
SHAPED, SHAPE = 0.1, "0:0,2000:0,4000:12,8000:12"  # more noise where speech has less


def jobs(weights: Path, precision: str) -> Iterator[Job]:
    """What the README needs first."""
    yield from certified_jobs(weights, EVERY_SIGMA, precision)
    run = partial(certification, precision=precision)
    fine = METHODS["fine-tuned"][1]
    attacked = METHODS["smoothadv"][1]
    if not absent(attacked, weights):
        words = ("--tolerance", "0.15")
        yield run(f"many-draws-{MANY:g}", located(attacked, weights), MANY, 20, 100_000, *words)
    for sigma in MULTI_STEP:
        words = ("--denoise", "multi-step", "--steps", "3", "--votes", "5")
        yield run(f"multi-step-{sigma:g}", fine, sigma, 20, 1000, *words)
        yield run(f"one-shot-beside-{sigma:g}", fine, sigma, 20, 1000)
    for kind in ("cohen", "pair", "kl", "renyi", "hockey-stick"):
        yield run(f"{kind}-{OTHERS:g}", fine, OTHERS, 20, 5_000, "--certificate", kind)
    for sigma in LAPLACE:
        yield run(f"laplace-{sigma:g}", fine, sigma, 50, 10_000, "--noise", "laplace", *STOPPING)
    words = ("--noise", "shaped", "--shape", SHAPE)
    yield run(f"shaped-{SHAPED:g}", fine, SHAPED, 50, 10_000, *words, *STOPPING)
    for name, sigmas in OBJECTS.items():
        for sigma in sigmas:
            yield run(f"{name}-{sigma:g}", "digits", sigma, 100, 10_000, "--object", name, *STOPPING)


def main() -> int:
    options = certificates_parser(__doc__).parse_args()
    return run_jobs(jobs(options.weights, options.precision), "certificates", options)


if __name__ == "__main__":
    sys.exit(main())
