"""Certificates as Markdown: tables of the records in benchmarks/results/certificates, whichever there are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audiopure.certification.representations import WAVEFORM
from audiopure.certification.scores import CHOICES
from audiopure.certification.units import OCTAVES
from audiopure.evaluation.certified import words
from audiopure.evaluation.certified.record import Certificates, ClipCertificate, certified
from audiopure.evaluation.reproduce import certified_pictures, certified_tables
from audiopure.evaluation.reproduce.reading import table, whole
from audiopure.evaluation.scoring import proportion

RESULTS = Path(__file__).resolve().parent / "results"
FINDINGS, RECORDS = RESULTS / "findings", RESULTS / "certificates"
STEPS = (0.0, 0.5, 1.0, 2.0, 3.0)  # radii of an object, in sigma
# certified accuracy in % in the report on speakers (tables 2 and 3), by object and sigma
REPORTED_RADII = (0.01, 0.05, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
REPORTED = {
    "magnitude spectrogram": {
        0.01: (93, 0, 0, 0, 0, 0, 0, 0),
        0.05: (86, 79, 0, 0, 0, 0, 0, 0),
        0.1: (73, 68, 39, 0, 0, 0, 0, 0),
        0.25: (36, 35, 25, 11, 4, 0, 0, 0),
        0.5: (13, 13, 12, 11, 9, 8, 6, 4),
    },
    "normalised filterbank": {
        0.01: (90, 0, 0, 0, 0, 0, 0, 0),
        0.05: (71, 70, 0, 0, 0, 0, 0, 0),
        0.1: (52, 51, 47, 0, 0, 0, 0, 0),
        0.25: (20, 19, 18, 15, 11, 0, 0, 0),
        0.5: (10, 10, 10, 10, 10, 9, 8, 5),
    },
}
VOICES = (0.01, 0.05, 0.1)  # radii of identification by votes


def enveloped(_: object) -> str:
    """The picture and the table of the best sigma at each radius."""
    found = certified_pictures.envelope_caption(FINDINGS)
    text = certified_tables.enveloped(FINDINGS)
    return text if found is None else f"![{found[0]}](docs/images/envelope.svg)\n\n{found[1]}\n\n{text}"


def by_sigma(_: object) -> str:
    """Every sigma of every method, with intervals."""
    body = []
    for method in certified_tables.methods(FINDINGS):
        for rec in method.records:
            cells = [_cell(rec, r) for r in certified_tables.ENVELOPE]
            ends = [f"{rec.mean_radius:.3f}", f"{100 * rec.abstained.value:.0f}"]
            body.append([method.title, f"{rec.settings['sigma']:g}", *cells, *ends])
    if not body:
        return ""
    heads = ["base", "sigma", *(f"{r:g}" for r in certified_tables.ENVELOPE), "mean radius", "abstain, %"]
    return table(heads, body)


def meanings(_: object) -> str:
    """What the radii of the best method mean, by sigma: medians over clips that are right."""
    body = []
    for sigma in certified_tables.EVERY_SIGMA:
        rec = certified_tables.record(FINDINGS, "fine-tuned", sigma)
        if rec is None:
            continue
        right = [(c, c.explained) for c in rec.clips if c.right and c.explained is not None]
        if not right:
            continue
        audible = [e.heard for _, e in right if e.heard is not None]
        heard = f"{100 * words.median(audible):.0f}" if audible else ""
        radius, linf = (words.median([f(c) for c, _ in right]) for f in (_radius, _linf))
        decibels = [words.median([e.snr for _, e in right]), words.median([e.rms for _, e in right])]
        decibels += [words.median([e.octaves[hz] for _, e in right]) for hz in (250, 1000, 4000)]
        cells = [f"{radius:.3f}", f"{linf:.1e}", *(f"{value:.0f}" for value in decibels)]
        body.append([f"{sigma:g}", *cells, heard])
    if not body:
        return ""
    heads = ["sigma", "L2 radius", "L∞ radius", "SNR, dB", "RMS, dB", "250 Hz, dB", "1 kHz, dB", "4 kHz, dB"]
    return table([*heads, "heard, %"], body)


def _radius(clip: ClipCertificate) -> float:
    return clip.radius


def _linf(clip: ClipCertificate) -> float:
    return clip.implied["L∞"]


def objects(_: object) -> str:
    """The other representations."""
    body = []
    for name in ("spectrogram", "filterbank", "log-mel"):
        for path in sorted(RECORDS.glob(f"{name}-*.json"), key=lambda p: float(p.stem.rpartition("-")[2])):
            rec = Certificates.model_validate_json(path.read_bytes())
            right = [c.radius for c in rec.clips if c.right]
            middle = f"{words.median(right):.3g}" if right else ""
            waves = [c.implied[WAVEFORM] for c in rec.clips if c.right and WAVEFORM in c.implied]
            wave = f"{words.median(waves):.2g}" if waves else ""
            sigma = float(rec.settings["sigma"])
            cells = [f"{sigma:g}", *_size(rec), *(_cell(rec, k * sigma) for k in STEPS)]
            body.append([name, rec.unit, *cells, middle, wave])
    if not body:
        return ""
    heads = ["object", "unit", "sigma", *SIZE, "r = 0", "sigma / 2", "sigma", "2 sigma", "3 sigma"]
    ours = table([*heads, "median radius", "of the waveform, L2"], body)
    return f"{ours}\n\n{_reported()}"


def _reported() -> str:
    """Tables 2 and 3 of the report."""
    body = [
        [name, f"{sigma:g}", *(f"{share}" for share in shares)]
        for name, rows in REPORTED.items()
        for sigma, shares in rows.items()
    ]
    about = (
        "Reported by others for ten speakers (Deep Speaker's encoder) in the units of their front end, which "
        "are not ours: compare rows by the ratio of radius and sigma."
    )
    return about + "\n\n" + table(["object", "sigma", *(f"r = {r:g}" for r in REPORTED_RADII)], body)


def more(_: object) -> str:
    """Several steps with votes, other certificates of the same votes or scores, and L1."""
    body, radii = [], (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
    kinds = (
        "one-shot-beside",
        "multi-step",
        "cohen",
        "pair",
        "kl",
        "renyi",
        "hockey-stick",
        "laplace",
    )
    for kind in kinds:
        for path in sorted(RECORDS.glob(f"{kind}-*.json"), key=lambda p: float(p.stem.rpartition("-")[2])):
            rec = Certificates.model_validate_json(path.read_bytes())
            facts = [f"{rec.settings['sigma']:g}", *_size(rec), rec.norm]
            decides = "mean probability" if rec.settings["certificate"] in CHOICES else "votes"
            body.append([kind, decides, *facts, *(_cell(rec, r) for r in radii), f"{rec.mean_radius:.3f}"])
    if not body:
        return ""
    heads = ["run", "decided by", "sigma", *SIZE, "norm", *(f"r = {r:g}" for r in radii)]
    return table([*heads, "mean radius"], body)


def draws(_: object) -> str:
    """Ten times the draws on the same clips, where only a share of votes next to 1 certifies."""
    body, radii = [], (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    for path in sorted(RECORDS.glob("many-draws-*.json")):
        many = Certificates.model_validate_json(path.read_bytes())
        few = certified_tables.record(FINDINGS, "smoothadv", float(many.settings["sigma"]))
        if few is None:
            continue
        for rec, clips in zip((few, many), _both(few, many), strict=True):
            facts = [f"{rec.settings['sigma']:g}", f"{len(clips)}", f"{rec.settings['n']:,}"]
            body.append(
                [*facts, f"{sum(c.n for c in clips):,}", *(whole(certified(clips, r)) for r in radii)]
            )
    heads = ["sigma", "clips", "draws, at most", "draws in all", *(f"r = {r:g}" for r in radii)]
    return table(heads, body) if body else ""


def _both(one: Certificates, other: Certificates) -> list[list[ClipCertificate]]:
    """The clips that both have, in the same order."""
    kept = {clip.id for clip in one.clips} & {clip.id for clip in other.clips}
    return [[c for c in sorted(r.clips, key=lambda c: c.id) if c.id in kept] for r in (one, other)]


def shapes(_: object) -> str:
    """White noise and shaped noise of the same power, on the same clips: what is certified in octaves."""
    body = []
    for path in sorted(RECORDS.glob("shaped-*.json")):
        shaped = Certificates.model_validate_json(path.read_bytes())
        white = certified_tables.record(FINDINGS, "fine-tuned", float(shaped.settings["sigma"]))
        if white is None:
            continue
        pair = _both(white, shaped)
        count = len(pair[0])
        both = [n for n in range(count) if all(clips[n].right and clips[n].explained for clips in pair)]
        for rec, clips in zip((white, shaped), pair, strict=True):
            told = [clips[n].explained for n in both]
            found = [e for e in told if e is not None]
            shape = rec.settings.get("shape") or "white"
            cells = [f"{rec.settings['sigma']:g}", str(count), percent(c.right for c in clips)]
            levels = [
                f"{words.median([e.octaves[hz] for e in found]):.1f}" if found else "" for hz in OCTAVES
            ]
            body.append([shape, *cells, *levels])
    heads = ["noise, Hz:dB", "sigma", "clips", "right, %", *(f"{hz} Hz, dB" for hz in OCTAVES)]
    return table(heads, body) if body else ""


def speakers(record: dict[str, Any]) -> str:
    """Certified decisions: share with any radius and its interval, and the median radius of these."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for line in record["lines"]:
        groups.setdefault((line["base"], line["sigma"]), []).append(line)
    body = []
    for (base, sigma), lines in groups.items():
        cells = []
        for name in ("vote", "identify", "hoeffding", "accept", "reject"):
            radii = [line[name] for line in lines if line[name] > 0]
            middle = f"<br>{words.median(radii):.4f}" if radii else ""
            cells.append(percent(line[name] > 0 for line in lines) + middle)
        cells += [percent(line["vote"] >= radius for line in lines) for radius in VOICES]
        body.append([base, f"{sigma:g}", str(len(lines)), *cells])
    heads = [
        "encoder",
        "sigma",
        "clips",
        "named by votes",
        "by the mean",
        "by Hoeffding",
        "own claim accepted",
        "false claim rejected",
        *(f"votes, r = {radius:g}" for radius in VOICES),
    ]
    note = (
        f"{record['speakers']} enrolled speakers, threshold {record['threshold']:.3f} (equal error), "
        f"{record['draws']:,} draws, alpha {record['alpha']:g}; share right and certified in % with its "
        "95 % interval over clips, below the median L2 radius of these. Accepted: the speaker's own claim; "
        "rejected: that to be the nearest other one. Means are bounded by empirical Bernstein or Hoeffding."
    )
    return table(heads, body) + f"\n\n{note}"


def agreements(record: dict[str, Any]) -> str:
    """On what share of draws bf16 and fp32 give the same label, by base and sigma."""
    body = []
    for line in record["agreements"]:
        share = f"{100 * line['same'] / line['draws']:.1f}"
        body.append([f"`{line['system']}`", line["base"], f"{line['sigma']:g}", str(line["draws"]), share])
    heads = ["system", "base or object", "sigma", "draws", "bf16 as fp32, %"]
    machine = record["machine"]
    note = f"{record['clips']} clips of `{record['data']}`, {machine['device']}, PyTorch {machine['torch']}."
    return f"{table(heads, body)}\n\n{note}"


def percent(values: Iterable[bool]) -> str:
    """A share of clips with its interval."""
    found = list(values)
    return whole(proportion(sum(found), len(found)))


SIZE = ("clips", "draws, at most", "arithmetic")


def _size(rec: Certificates) -> list[str]:
    return [str(len(rec.clips)), f"{rec.settings['n']:,}", rec.settings["precision"]]


def _cell(rec: Certificates, radius: float) -> str:
    return whole(rec.certified(radius))
