"""Table 5 and figure A: certified accuracy by method and sigma, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.reproduce.entries import absent, how_to_train, located
from audiopure.evaluation.reproduce.jobs import Job
from audiopure.evaluation.reproduce.published import CERTIFIED, RADII
from audiopure.evaluation.reproduce.reading import NOT_RUN, table

# method -> title, system; the records are those of benchmarks/certificates.py
METHODS = {
    "vanilla": ("RS-Vanilla", "digits"),
    "gaussian": ("RS-Gaussian", "{digits-noisy}"),
    "one-shot": ("AudioPure, compact, one-shot", "small+digits"),
    "fine-tuned": ("the same, recogniser fine-tuned on it", "small+{digits-denoised}"),
}
SIGMAS = (0.5, 1.0)
EARLY = ("--tolerance", "0.03")  # a clip stops once no more than .03 sigma of radius are to be gained


def jobs(weights: Path) -> Iterator[Job]:
    """Every method whose weights there are."""
    for method, (_, system) in METHODS.items():
        if absent(system, weights):
            continue
        for sigma in SIGMAS:
            found = located(system, weights)
            yield certification(f"{method}-{sigma:g}", found, sigma, 100, 10_000, *EARLY)


def certification(name: str, system: str, sigma: float, clips: int, n: int, *words: str) -> Job:
    """A certification in bf16, each sigma a system of its own."""
    options = ("--system", system, "--sigma", f"{sigma:g}", "--limit", str(clips), "--n", str(n))
    return Job(name, "certify", (*options, "--precision", "bf16", *words))


def certified(records: Path, weights: Path) -> str:
    """One row for each method and sigma; in brackets what the paper has."""
    body, facts = [], ""
    for method, (title, _) in METHODS.items():
        for sigma in SIGMAS:
            path = records / f"{method}-{sigma:g}.json"
            known = CERTIFIED.get((method, sigma))
            values = [NOT_RUN] * len(RADII)
            if path.is_file():
                record = Certificates.model_validate_json(path.read_bytes())
                values = [f"{100 * record.certified(radius).value:.0f}" for radius in RADII]
                s = record.settings
                facts = (
                    f"`{record.data.name}`, {len(record.clips)} clips, at most {s['n']:,} draws each (the "
                    f"paper 100,000), alpha {s['alpha']:g}."
                )
            published = [f" ({value:g})" for value in known] if known else [""] * len(RADII)
            cells = [value + extra for value, extra in zip(values, published, strict=True)]
            body.append([title, f"{sigma:g}", *cells])
    heads = ["method", "sigma", *(f"r = {radius:g}" for radius in RADII)]
    missing = dict.fromkeys(name for _, system in METHODS.values() for name in absent(system, weights))
    notes = ["Certified accuracy in %, in brackets as published.", facts, *map(how_to_train, missing)]
    return table(heads, body) + "\n\n" + " ".join(note for note in notes if note)
