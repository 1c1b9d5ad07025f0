"""All certificates behind one denoiser: each draw is denoised once, every recogniser hears it.

    python benchmarks/certificates_together.py --data PATH/sc09 --work FOLDER [--only NAME ...] [--workers N]

Methods that differ in nothing but the recogniser go together, and so do kinds of certificates. Folders and
records are those of certificates.py, and so is every number in them, as the draws of a clip depend on nothing
but its seed; either goes on where the other was cut off. Only the seconds differ: a draw's denoising counts
for what hears it first. Needs 0.7 GB of memory a process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from certificates import jobs
from common import asked, certificates_parser, place, prepare
from torch import Tensor

from audiopure.certification.bases import OneShot
from audiopure.cli.console import advancing
from audiopure.evaluation.certified import run
from audiopure.evaluation.certified.engine import Certification
from audiopure.evaluation.certified.settings import CertifySettings
from audiopure.evaluation.crew import share
from audiopure.evaluation.reproduce.jobs import Job, Place, collect, missing

KEY = 4  # samples that tell one noisy version from another
HEARING = {"system", "certificate"}  # options that change nothing about what is heard


@dataclass
class Once:
    """Denoises what it has not met, and remembers it until told to forget."""

    denoise: Callable[[Tensor], Tensor]
    known: dict[bytes, Tensor] = field(default_factory=dict)

    def __call__(self, noisy: Tensor) -> Tensor:
        key = noisy[:, :KEY].contiguous().numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.denoise(noisy)
        return self.known[key]


@dataclass
class Together:
    """Certifications of the same clips at the same sigma, one after another clip by clip."""

    works: Sequence[Certification]
    once: Once

    @classmethod
    def prepare(cls, settings: Sequence[CertifySettings], folders: Sequence[Path], workers: int) -> Together:
        pairs = zip(settings, folders, strict=True)
        works = [Certification.prepare(one, folder, workers=workers) for one, folder in pairs]
        shots = [part for work in works for part in work.model.base.modules() if isinstance(part, OneShot)]
        if len(shots) != len(works) or not all(same(shots[0], shot) for shot in shots):
            raise SystemExit("these methods do not share a denoiser")
        once = Once(shots[0].denoise)
        for shot in shots:
            shot.denoise = once
        return cls(works, once)

    @property
    def units(self) -> list[int]:
        return self.works[0].units

    def do(self, unit: int, tick: Callable[..., None]) -> None:
        for work in self.works:
            work.do(unit, tick)
        self.once.known.clear()


def same(one: OneShot, other: OneShot) -> bool:
    """Whether both denoise alike."""
    states = [shot.denoiser.state_dict() for shot in (one, other)]  # type: ignore[attr-defined]
    equal = states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )
    return equal and one.sigma == other.sigma and one.level == other.level


def main() -> int:
    options = certificates_parser(__doc__).parse_args()
    prepare(1)
    where = place("certificates", options)
    every = jobs(options.weights, options.precision)
    for chosen in groups(missing(asked(every, options), where)):
        certify(chosen, where)
    return 0


def groups(every: Sequence[Job]) -> Iterator[list[Job]]:
    """What hears the same draws, behind the compact one-shot denoiser."""
    behind = [j for j in every if j.options["system"].startswith("small+") and "denoise" not in j.options]
    for _, group in groupby(sorted(behind, key=_heard), _heard):
        yield list(group)


def _heard(job: Job) -> list[tuple[str, str]]:
    return sorted((name, word) for name, word in job.options.items() if name not in HEARING)


def certify(chosen: Sequence[Job], where: Place) -> None:
    """Certify what is missing, and keep the records."""
    settings = [CertifySettings.of(data=where.data, **job.options) for job in chosen]
    folders = [where.work / job.name for job in chosen]
    prepared = partial(Together.prepare, settings, folders, where.workers)
    together = prepared()
    for work in together.works:
        work.begin()
    draws = sum(map(run.missing, together.works))
    print(f"{', '.join(job.name for job in chosen)}: at most {draws:,} draws to come", flush=True)
    with advancing("Certifying", draws) as advance:
        share(prepared, units=len(together.units), workers=where.workers, threads=1, tick=advance)
    for work, job in zip(together.works, chosen, strict=True):
        work.refresh()
        run.conclude(work)
        collect(job, where)


if __name__ == "__main__":
    sys.exit(main())
