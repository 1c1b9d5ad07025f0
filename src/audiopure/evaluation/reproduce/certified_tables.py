"""Table 5 and figure A: certified accuracy by method and sigma, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.reproduce.entries import absent, how_to_train, located
from audiopure.evaluation.reproduce.jobs import Job, certificates
from audiopure.evaluation.reproduce.published import CERTIFIED, RADII
from audiopure.evaluation.reproduce.reading import beside, table

# method -> title, system; the records are those of benchmarks/certificates.py
METHODS = {
    "vanilla": ("RS-Vanilla", "digits"),
    "gaussian": ("RS-Gaussian", "{digits-noisy}"),
    "one-shot": ("AudioPure, compact, one-shot", "small+digits"),
    "fine-tuned": ("the same, recogniser fine-tuned on it", "small+digits-denoised"),
}
SIGMAS = (0.5, 1.0)
EARLY = ("--tolerance", "0.03")  # a clip stops once no more than .03 sigma of radius are to be gained
ABOUT = (
    "Certified accuracy in %, in round brackets as published (100,000 draws, DiffWave and ResNeXt-29), below "
    "the 95 % Clopper-Pearson interval over clips. The recogniser is our compact one; each sigma is a system "
    "of its own. A clip stops early once hardly more is to be gained."
)


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
    found = {row: record(records, *row) for row in ((m, sigma) for m in METHODS for sigma in SIGMAS)}
    body = []
    for (method, sigma), one in found.items():
        published = CERTIFIED.get((method, sigma), (None,) * len(RADII))
        shares = [one.certified(radius) if one else None for radius in RADII]
        cells = [beside(*pair) for pair in zip(shares, published, strict=True)]
        body.append([METHODS[method][0], f"{sigma:g}", *_facts(one), *cells])
    heads = ["method", "sigma", "clips", "draws, at most", *(f"r = {radius:g}" for radius in RADII)]
    missing = dict.fromkeys(
        name
        for method, (_, system) in METHODS.items()
        if not any(found[method, sigma] for sigma in SIGMAS)
        for name in absent(system, weights)
    )
    sets = sorted({f"`{one.data.name}`, alpha {one.settings['alpha']:g}" for one in found.values() if one})
    notes = [ABOUT, *(f"{words}." for words in sets), *([how_to_train(missing)] if missing else [])]
    return table(heads, body) + "\n\n" + " ".join(notes)


def record(records: Path, method: str, sigma: float) -> Certificates | None:
    """The record of a method at a noise level, if there is one."""
    path = certificates(records) / f"{method}-{sigma:g}.json"
    return Certificates.model_validate_json(path.read_bytes()) if path.is_file() else None


def _facts(one: Certificates | None) -> list[str]:
    """Clips and draws of a row."""
    return [str(len(one.clips)), f"{one.settings['n']:,}"] if one else ["", ""]
