"""Table 5, figure A, and the envelope over sigma: certified accuracy by method, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from audiopure.evaluation.certified.envelope import Best, Method, compared
from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.reproduce import costs
from audiopure.evaluation.reproduce.entries import absent, how_to_train, located
from audiopure.evaluation.reproduce.jobs import Job, certificates
from audiopure.evaluation.reproduce.published import CERTIFIED, RADII
from audiopure.evaluation.reproduce.reading import NOT_RUN, beside, table, whole

# method -> title, system; records are named METHOD-SIGMA
METHODS = {
    "vanilla": ("RS-Vanilla", "digits"),
    "gaussian": ("RS-Gaussian", "{digits-noisy}"),
    "one-shot": ("AudioPure, compact, one-shot", "small+digits"),
    "fine-tuned": ("AudioPure, compact, recogniser tuned on it", "small+digits-denoised"),
    "smoothadv": ("the same, tuned against attacks (SmoothAdv)", "small+{digits-smoothadv}"),
}
SIGMAS = (0.5, 1.0)  # the paper's
EVERY_SIGMA = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ENVELOPE = (0.0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # radii
STOPPING = ("--tolerance", "0.03")  # a clip stops once no more than .03 sigma of radius are to be gained
ABOUT = (
    "Certified accuracy in %, in round brackets as published (100,000 draws, DiffWave and ResNeXt-29), below "
    "the 95 % Clopper-Pearson interval over clips. The recogniser is our compact one. "
)
COSTS = ("training, core h", "a certificate, core s")
PAID = (
    "Training: of the denoiser, and of the recogniser where it is another than the shipped one. A "
    "certificate: mean over clips, as run beside other work"
)
OWN = (
    "Each sigma is a system of its own, RS-Gaussian and the tuned recognisers one network for all of them, "
    "where the paper trains one for each. A clip stops early once hardly more is to be gained."
)


def jobs(weights: Path, sigmas: Sequence[float] = SIGMAS, precision: str = "bf16") -> Iterator[Job]:
    """Every method whose weights there are; fp32 is faster on CPUs that do not multiply matrices in bf16."""
    for method, (_, system) in METHODS.items():
        if absent(system, weights):
            continue
        for sigma in sigmas:
            found = located(system, weights)
            name = f"{method}-{sigma:g}"
            yield certification(name, found, sigma, 100, 10_000, *STOPPING, precision=precision)


def certification(
    name: str, system: str, sigma: float, clips: int, n: int, *words: str, precision: str = "bf16"
) -> Job:
    """A certification, each sigma a system of its own."""
    options = ("--system", system, "--sigma", f"{sigma:g}", "--limit", str(clips), "--n", str(n))
    return Job(name, "certify", (*options, "--precision", precision, *words))


def certified(records: Path, weights: Path) -> str:
    """One row for each method and sigma; in brackets what the paper has."""
    found = {row: record(records, *row) for row in ((m, sigma) for m in METHODS for sigma in SIGMAS)}
    body = []
    for (method, sigma), one in found.items():
        published = CERTIFIED.get((method, sigma), (None,) * len(RADII))
        shares = [one.certified(radius) if one else None for radius in RADII]
        cells = [beside(*pair) for pair in zip(shares, published, strict=True)]
        title, system = METHODS[method]
        paid = [costs.trained_for(system, records), f"{one.seconds / len(one.clips):.0f}" if one else NOT_RUN]
        body.append([title, f"{sigma:g}", *_facts(one), *cells, *paid])
    heads = ["method", "sigma", "clips", "draws, at most", *(f"r = {radius:g}" for radius in RADII), *COSTS]
    missing = dict.fromkeys(
        name
        for method, (_, system) in METHODS.items()
        if not any(found[method, sigma] for sigma in SIGMAS)
        for name in absent(system, weights)
    )
    sets = sorted({f"`{one.data.name}`, alpha {one.settings['alpha']:g}" for one in found.values() if one})
    machines = sorted({one.machine.get("device", "") for one in found.values() if one} - {""})
    paid = f"{PAID}{' (' + '; '.join(machines) + ')' if machines else ''}."
    notes = [
        ABOUT + OWN,
        paid,
        *(f"{words}." for words in sets),
        *([how_to_train(missing)] if missing else []),
    ]
    return table(heads, body) + "\n\n" + " ".join(notes)


def methods(records: Path) -> list[Method]:
    """The methods that have records, with those of all sigmas; raises InputError as `envelope.methods`."""
    found = {
        title: [one for sigma in EVERY_SIGMA if (one := record(records, method, sigma))]
        for method, (title, _) in METHODS.items()
    }
    return compared({title: of for title, of in found.items() if of})


def enveloped(records: Path) -> str:
    """The best sigma at each radius, one row for each method, and the paper's two."""
    found = methods(records)
    if not found:
        return NOT_RUN.capitalize() + "."
    body = []
    for method in found:
        body.append([method.title, *(_cell(best(method, radius)) for radius in ENVELOPE)])
    for sigma in SIGMAS:
        known = dict(zip(RADII, CERTIFIED["one-shot", sigma], strict=True))
        cells = [f"{known[radius]:g}" if radius in known else "" for radius in ENVELOPE]
        body.append([f"published (AudioPure, sigma {sigma:g})", *cells])
    return f"{table(['method', *(f'r = {r:g}' for r in ENVELOPE)], body)}\n\n{_about(found)}"


def best(method: Method, radius: float) -> Best | None:
    """The best sigma at a radius; None where none certifies a clip, and sigmas that might were not run."""
    found = method.best(radius)
    return found if found.share.value or not _lacking(method) else None


def _cell(found: Best | None) -> str:
    return f"{whole(found.share)}<br>{found.sigma:g}" if found else ""


def _lacking(method: Method) -> list[float]:
    """Sigmas that were not run."""
    return sorted(set(EVERY_SIGMA) - {one.settings["sigma"] for one in method.records})


def _about(found: Sequence[Method]) -> str:
    first = found[0].records[0]
    draws = max(one.settings["n"] for method in found for one in method.records)
    lacking = [
        f"{method.title}: {', '.join(f'{sigma:g}' for sigma in sigmas)}"
        for method in found
        if (sigmas := _lacking(method))
    ]
    return (
        f"Certified accuracy in % at L2 radius r, with its 95 % interval over clips: `{first.data.name}`, "
        f"{first.data.split} split, {len(first.clips)} clips, at most {draws:,} draws each, alpha "
        f"{first.settings['alpha']:g}; below, the sigma that certifies most there, chosen on these clips. "
        f"{OWN} {_precisions(found)}" + (f" Sigmas not run: {'; '.join(lacking)}." if lacking else "")
    )


def _precisions(found: Sequence[Method]) -> str:
    """In what arithmetic the base classifiers ran: it is part of what is certified."""
    exact = [
        f"{method.title}: {', '.join(f'{sigma:g}' for sigma in sigmas)}"
        for method in found
        if (sigmas := [r.settings["sigma"] for r in method.records if r.settings["precision"] == "fp32"])
    ]
    return f"Bases run in bf16{', but in fp32 ' + '; '.join(exact) if exact else ''}."


def record(records: Path, method: str, sigma: float) -> Certificates | None:
    """The record of a method at a noise level, if there is one."""
    path = certificates(records) / f"{method}-{sigma:g}.json"
    return Certificates.model_validate_json(path.read_bytes()) if path.is_file() else None


def _facts(one: Certificates | None) -> list[str]:
    """Clips and draws of a row."""
    return [str(len(one.clips)), f"{one.settings['n']:,}"] if one else ["", ""]
