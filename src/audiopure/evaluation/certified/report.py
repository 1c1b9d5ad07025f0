"""Certificates as files: JSON, JSON Lines, CSV, Markdown, and a page to listen to and look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audiopure.atomic import write_text
from audiopure.evaluation.certified import words
from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.pages.charts import Mark, Series, line_chart
from audiopure.evaluation.pages.parts import Sound, template
from audiopure.evaluation.report.words import percent


@dataclass(frozen=True)
class Shown:
    """One clip of the page: its sounds, the clean one first."""

    title: str
    name: str
    sounds: tuple[Sound, ...]


def write_report(record: Certificates, folder: Path, shown: Sequence[Shown] = ()) -> None:
    """`certificates.json`, `.jsonl` and `.csv`, `report.md` and `index.html`, each whole or not at all."""
    files = {
        "certificates.json": record.model_dump_json(by_alias=True, indent=1) + "\n",
        "certificates.jsonl": "".join(clip.model_dump_json() + "\n" for clip in record.clips),
        "certificates.csv": table(record),
        "report.md": markdown(record),
        "index.html": render(record, shown),
    }
    for name, text in files.items():
        write_text(folder / name, text)


def table(record: Certificates) -> str:
    """A line for each clip, as CSV."""
    norms, octaves = words.norms(record), words.octaves(record)
    names = ["id", "label", "answer", "guess", "right", "radius", *(f"radius_{norm}" for norm in norms)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "p", "q", "n", *words.MEANINGS, *(f"octave_{hz}" for hz in octaves)])
    for clip in record.clips:
        row = [clip.id, clip.label, clip.answer or "", clip.guess, int(clip.right), clip.radius]
        row += [clip.implied[norm] for norm in norms]
        row += [clip.p, clip.q, clip.n]
        known = clip.explained
        row += [None if known is None else getattr(known, name) for name in words.MEANINGS]
        row += [None if known is None else known.octaves[hz] for hz in octaves]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue()


def markdown(record: Certificates) -> str:
    heads = [f"r = {radius:g}" for radius in words.radii(record)]
    cells = [percent(record.certified(radius)) for radius in words.radii(record)]
    lines = [
        f"# Certificates of {record.settings['system']}",
        "",
        *[f"- {sentence}" for sentence in words.verdict(record)],
        "",
        f"| certified accuracy | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(heads)}",
        f"| {record.norm}, {record.unit} | {' | '.join(cells)} |",
        "",
        *[f"{note}  " for note in words.notes(record)],
        "",
        f"    {record.command}",
        "",
    ]
    return "\n".join(lines)


def render(record: Certificates, shown: Sequence[Shown] = ()) -> str:
    """The page as HTML, which loads nothing."""
    marks = [Mark(p.radius, p.certified.value, p.certified.low, p.certified.high) for p in record.curve]
    label = f"sigma {record.settings['sigma']:g}"
    chart = line_chart(
        [Series(label, tuple(marks))],
        title="Certified accuracy against the radius",
        x_label=f"radius, {record.norm}, {record.unit}",
        key="certified",
    )
    return template("certificates.html.j2").render(record=record, words=words, chart=chart, shown=shown)
