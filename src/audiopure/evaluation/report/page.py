"""A report card as one HTML file that loads nothing: verdict, table, curves, and examples to listen to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from torch import Tensor

from audiopure import audio
from audiopure.errors import InputError
from audiopure.evaluation.card import CLEAN, Card, Curve, Example
from audiopure.evaluation.pages.charts import STYLES, Mark, Series, line_chart
from audiopure.evaluation.pages.parts import Sound, template
from audiopure.evaluation.pages.plots import spectrum
from audiopure.evaluation.report import words

PURIFIED = "#purified"  # after a condition's key: what the recogniser gets of that clip


@dataclass(frozen=True)
class Heard:
    """One example: its sound, or the file that could not be read."""

    title: str
    example: Example
    purified: bool
    facts: tuple[str, ...]
    sound: Sound | None


@dataclass(frozen=True)
class Chart:
    title: str
    picture: Markup
    curves: dict[str, Curve]  # by label


def render(card: Card, folder: Path) -> str:
    """The page as HTML.

    Args:
        folder: where the report lies; the examples' audio files are read from it. One that is missing, cannot
            be read, or lies outside is listed without a player.
    """
    return template("report.html.j2").render(
        card=card,
        words=words,
        charts=list(_charts(card)),
        examples=[_heard(card, group, folder) for group in _groups(card.examples)],
        conditions=[(row, condition) for row in card.rows for condition in row.conditions],
    )


def _charts(card: Card) -> Iterator[Chart]:
    """One chart for each axis, several where its curves could not be told apart in one."""
    for axis, name in words.AXIS_NAMES.items():
        curves = [curve for curve in card.curves if curve.axis == axis and curve.points]
        several = len({curve.row for curve in curves}) > 1
        charts: list[dict[str, Curve]] = []
        for curve in curves:
            label = _label(card, curve, several)
            if not charts or label in charts[-1] or len(charts[-1]) == STYLES:
                charts.append({})
            charts[-1][label] = curve
        for number, chosen in enumerate(charts):
            series = [Series(label, _marks(curve)) for label, curve in chosen.items()]
            what = "Clips that no draw has failed" if axis == "any-iterate" else "Average accuracy"
            title = f"{what} against {name}"
            picture = line_chart(series, title=title, x_label=name, key=f"{axis}-{number}")
            yield Chart(title, picture, chosen)


def _label(card: Card, curve: Curve, several: bool) -> str:
    column = words.column_name(curve.column)
    return f"{words.row_title(card, curve.row)}, {column}" if several else column


def _marks(curve: Curve) -> tuple[Mark, ...]:
    return tuple(Mark(point.x, point.y.value, point.y.low, point.y.high) for point in curve.points)


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    """The examples of each clip, clips in the order of their first."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.clip, []).append(example)
    return list(groups.values())


def _heard(card: Card, group: Sequence[Example], folder: Path) -> list[Heard]:
    """Pictures of one clip share their scale, that of the clean clip if it is there."""
    audible = {example.audio: _read(folder, example.audio) for example in group}
    order = sorted(group, key=lambda example: example.condition != CLEAN)
    first = next((found[0] for e in order if (found := audible[e.audio]) is not None), None)
    reference = 0.0 if first is None else float(spectrum(first).max())
    peak = 1.0 if first is None else float(first.abs().max())
    found = []
    for example in order:
        title, facts = _title(card, example), _facts(example)
        sound = None
        if (decoded := audible[example.audio]) is not None:
            sound = Sound.of(
                *decoded,
                reference=reference,
                peak=peak,
                name=title,
                heard=example.heard,
                confidence=None,
                right=example.heard == example.label,
                facts=facts,
            )
        found.append(Heard(title, example, example.condition.endswith(PURIFIED), facts, sound))
    return found


def _title(card: Card, example: Example) -> str:
    """Row and condition in words."""
    key = example.condition.removesuffix(PURIFIED)
    row = next((row for row in card.rows if row.key == example.row), None)
    condition = None if row is None else next((c for c in row.conditions if c.key == key), None)
    if condition is None:
        title = key
    else:
        title = condition.title if condition.attack is None else f"{condition.title}, {condition.budget}"
    purified = ", purified" if example.condition.endswith(PURIFIED) else ""
    system = "" if row is None or row.role == "system" else f"{row.title}: "
    return f"{system}{title}{purified}"


def _facts(example: Example) -> tuple[str, ...]:
    """Passes that were right, and how loud the perturbation is, which a purified clip no longer carries."""
    right = f"right in {example.right} of {example.passes} pass{'' if example.passes == 1 else 'es'}"
    if example.snr is None or example.condition.endswith(PURIFIED):
        return (right,)
    return (right, f"SNR {words.number(example.snr, '{:.1f}')} dB")


def _read(folder: Path, name: str) -> tuple[Tensor, int] | None:
    """The file as (T,) and its rate in Hz, None if it cannot be had or lies outside the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        waveform, rate = audio.read(path)
    except (InputError, OSError):
        return None
    return waveform.mean(0), rate
