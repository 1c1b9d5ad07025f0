"""Certifications of the same clips at several sigmas or by several systems, side by side.

Each sigma is a smoothed classifier of its own. The envelope of a method takes at each radius the sigma that
certifies most there; it is no classifier that anybody can run, but it shows what the method can do for who
knows the radius that matters. A sigma that was chosen on the clips it is judged by looks a little better
than it is.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from audiopure import atomic
from audiopure.errors import InputError
from audiopure.evaluation.card import Proportion
from audiopure.evaluation.card_io import read_record
from audiopure.evaluation.certified.record import SCHEMA, Certificates
from audiopure.evaluation.certified.settings import CertifySettings
from audiopure.evaluation.pages.charts import Mark, Series, line_chart
from audiopure.evaluation.pages.parts import template
from audiopure.evaluation.report.words import percent

# settings that make another method, beside the system
METHOD = ("denoise", "steps", "votes", "local", "before", "certificate", "claim", "threshold", "precision")


class Best(NamedTuple):
    """The largest certified accuracy of a method at a radius."""

    share: Proportion
    sigma: float


@dataclass(frozen=True)
class Method:
    """One system, certified in one way.

    Attributes:
        records: by sigma, the smallest first.
    """

    title: str
    records: tuple[Certificates, ...]

    def best(self, radius: float) -> Best:
        """Of equal ones the smallest sigma, which costs least when nobody attacks."""
        found = max(self.records, key=lambda record: record.certified(radius).value)
        return Best(found.certified(radius), _sigma(found))

    def share(self, radius: float) -> Proportion:
        """Certified accuracy of the best sigma at a radius."""
        return self.best(radius).share


def read_certificates(path: str | Path) -> Certificates:
    """A certification, by its folder or its certificates.json; raises InputError as `read_record`."""
    path = Path(path)
    file = path / "certificates.json" if path.is_dir() else path
    return read_record(file, Certificates, SCHEMA, "a certification's certificates.json")


def methods(records: Sequence[Certificates]) -> list[Method]:
    """Certifications by method, in the order in which they first come.

    Raises InputError for none, or where their radii cannot stand in one table: other clips, another object,
    norm, unit or confidence, the same method twice at one sigma, or of other weights.
    """
    if not records:
        raise InputError("there is no certification to show")
    found: dict[str, list[Certificates]] = {}
    for record in records:
        found.setdefault(_title(record), []).append(record)
    return compared(found)


def compared(found: Mapping[str, Sequence[Certificates]]) -> list[Method]:
    """Methods by their titles; raises InputError as `methods`."""
    every = [(title, record) for title, records in found.items() for record in records]
    for title, other in every[1:]:
        first, record = every[0]
        for what, one, two in zip(SAME, _same(record), _same(other), strict=True):
            if one != two:
                raise InputError(
                    f"certifications of another {what} cannot stand in one table: {first}, {title}"
                )
    return [_method(title, records) for title, records in found.items()]


def _method(title: str, records: Sequence[Certificates]) -> Method:
    sigmas: dict[float, Certificates] = {}
    for record in records:
        sigma = _sigma(record)
        if sigma in sigmas:
            raise InputError(f"{title} is there twice at sigma {sigma:g}")
        if any(other.weights != record.weights for other in sigmas.values()):
            raise InputError(f"{title} has other weights at sigma {sigma:g} than at another one")
        sigmas[sigma] = record
    return Method(title, tuple(sigmas[sigma] for sigma in sorted(sigmas)))


def radii(found: Sequence[Method]) -> list[float]:
    """Of a table: 0, and 1, 2.5 and 5 times powers of ten from the smallest sigma to the largest radius."""
    right = [c.radius for m in found for r in m.records for c in r.clips if c.right]
    top = max(filter(math.isfinite, right), default=0.0)
    least = min(_sigma(r) for m in found for r in m.records)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(top)) + 1 if top > 0 else 0)
    marks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2.5, 5)]
    return [0.0, *(mark for mark in marks if least <= mark <= top)]


def table(found: Sequence[Method], at: Sequence[float]) -> str:
    """A line for each radius, method and sigma, as CSV; sigma "best" is the envelope."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "sigma", "radius", "certified", "low", "high", "clips", "of_sigma"])
    for method in found:
        for radius in at:
            shares = [(f"{_sigma(r):g}", r.certified(radius), _sigma(r)) for r in method.records]
            best = method.best(radius)
            for name, share, sigma in [*shares, ("best", best.share, best.sigma)]:
                writer.writerow(
                    [method.title, name, radius, share.value, share.low, share.high, share.n, sigma]
                )
    return out.getvalue()


def markdown(found: Sequence[Method], at: Sequence[float]) -> str:
    lines = [f"| certified accuracy | sigma |{''.join(f' r = {r:g} |' for r in at)}"]
    lines.append(f"| --- | ---: |{' ---: |' * len(at)}")
    for method in found:
        for record in method.records:
            cells = " | ".join(percent(record.certified(radius)) for radius in at)
            lines.append(f"| {method.title} | {_sigma(record):g} | {cells} |")
        if len(method.records) > 1:
            best = [method.best(radius) for radius in at]
            cells = " | ".join(f"{percent(b.share)} ({b.sigma:g})" for b in best)
            lines.append(f"| **{method.title}, envelope** | best | {cells} |")
    return "\n".join(["# Certified accuracy", "", *lines, "", *(f"{note}  " for note in notes(found)), ""])


def notes(found: Sequence[Method]) -> list[str]:
    """What has to be known to read a table."""
    first = found[0].records[0]
    draws = sorted({r.settings["n"] for m in found for r in m.records})
    return [
        f"Share of {len(first.clips)} clips of {first.data.name} that are right and certified at a radius, "
        f"in {first.norm} of the {first.object} ({first.unit}), with its 95 % interval over clips.",
        f"Each clip with confidence {100 * first.confidence:g} %, from at most "
        f"{' or '.join(f'{n:,}' for n in draws)} draws.",
        "Each sigma is a classifier of its own. The envelope has the best of them at each radius, chosen on "
        "these clips, in brackets its sigma.",
    ]


def chart(found: Sequence[Method]) -> str:
    """The envelopes, or with one method its sigmas too, as inline SVG."""
    grid = sorted({point.radius for m in found for r in m.records for point in r.curve})
    series = []
    for method in found:
        if len(found) == 1:
            series += [Series(f"sigma {_sigma(r):g}", _marks(r.certified, grid)) for r in method.records]
        if len(found) > 1 or len(method.records) > 1:
            name = method.title if len(found) > 1 else "envelope"
            series.append(Series(name, _marks(method.share, grid)))
    first = found[0].records[0]
    label = f"radius, {first.norm}, {first.unit}"
    return line_chart(series, title="Certified accuracy against the radius", x_label=label, key="envelope")


def write(found: Sequence[Method], folder: Path, at: Sequence[float]) -> None:
    """`envelope.csv`, `report.md` and `index.html`, each whole or not at all.

    Raises InputError for a folder that holds something else than what an earlier call wrote there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder to write to.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / "envelope.csv").is_file():
        raise InputError(f"{folder}: holds something else than an envelope; choose another folder.")
    page = template("envelope.html.j2").render(
        methods=found, radii=at, chart=chart(found), notes=notes(found), sigma=_sigma
    )
    files = {"envelope.csv": table(found, at), "report.md": markdown(found, at), "index.html": page}
    for name, text in files.items():
        atomic.write_text(folder / name, text)


SAME = ("set of clips", "object", "norm", "filter", "unit", "confidence")


def _same(record: Certificates) -> tuple[object, ...]:
    clips = tuple((clip.id, clip.label) for clip in record.clips)
    shape = record.settings.get("shape", "")
    return clips, record.object, record.norm, shape, record.unit, record.confidence


def _title(record: Certificates) -> str:
    usual = {name: CertifySettings.model_fields[name].default for name in METHOD}
    changed = {name: record.settings.get(name, value) for name, value in usual.items()}
    words = [f"{name} {value}" for name, value in changed.items() if value != usual[name]]
    return ", ".join([record.settings["system"], *words])


def _sigma(record: Certificates) -> float:
    return float(record.settings["sigma"])


def _marks(share: Callable[[float], Proportion], at: Sequence[float]) -> tuple[Mark, ...]:
    found = [(radius, share(radius)) for radius in at]
    return tuple(Mark(radius, s.value, s.low, s.high) for radius, s in found)
