"""Line charts as inline SVG that follow the page's colours: shares with their intervals against a setting."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420.0, 260.0
LEFT, TOP, BOTTOM = 44.0, 12.0, 46.0
CHARACTER = 6.8  # width of one at the labels' 11.5 px, generously
LABEL = 16  # characters of a direct label's line
LINE = 14.0  # px between lines of labels
SAMPLE = 20.0  # px of line drawn before its label
STYLES = 4  # colours and dashes that the pages' style sheet defines as .s0 to .s3
CROWDED = 12  # values of x from which only round ones are named, and single marks not drawn
ROUND = ("1.000000", "2.000000", "5.000000")
LOGARITHMIC = 8.0  # ratio of largest to smallest x from which the axis is logarithmic


@dataclass(frozen=True)
class Mark:
    """A share `y` with its interval at `x`; all y lie in [0, 1], x may be infinite."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    label: str
    marks: tuple[Mark, ...]


class Axis:
    """From x to a position in [0, 1].

    Logarithmic where all positive x span a factor of 8; zero and infinity then get places of their own beside
    the scale, as infinity does on a linear one.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = sorted(set(values))
        finite = [x for x in self.values if math.isfinite(x)]
        positive = [x for x in finite if x > 0]
        self.logarithmic = len(positive) > 1 and positive[-1] / positive[0] >= LOGARITHMIC
        scaled = [self._scaled(x) for x in (positive if self.logarithmic else finite)] or [0.0]
        gap = 0.18 * (scaled[-1] - scaled[0]) or 1.0
        self._below, self._above = scaled[0] - gap, scaled[-1] + gap
        places = [self._place(x) for x in self.values]
        self._first, self._span = places[0], places[-1] - places[0]

    def __call__(self, x: float) -> float:
        return 0.5 if self._span == 0 else (self._place(x) - self._first) / self._span

    def _place(self, x: float) -> float:
        if math.isinf(x):
            return self._above
        return self._below if self.logarithmic and x <= 0 else self._scaled(x)

    def _scaled(self, x: float) -> float:
        return math.log10(x) if self.logarithmic else x


def line_chart(series: Sequence[Series], *, title: str, x_label: str, key: str) -> Markup:
    """Shares against x, every series with its interval as a band, its own colour and dash, and its name.

    Args:
        series: at least one, each with at least one mark.
        title: for those who cannot see the picture; the values follow it.
        key: distinguishes the ids of several charts of a page.
    """
    series = [Series(line.label, tuple(sorted(line.marks, key=lambda mark: mark.x))) for line in series]
    axis = Axis([mark.x for line in series for mark in line.marks])
    texts = [textwrap.wrap(line.label, LABEL) or [""] for line in series]
    longest = max(len(text) for lines in texts for text in lines)
    right = WIDTH - SAMPLE - 12 - CHARACTER * longest

    def x(value: float) -> float:
        return LEFT + 8 + axis(value) * (right - LEFT - 16)

    drawn = [_series(line, x, index % STYLES) for index, line in enumerate(series)]
    wanted = [_y(line.marks[-1].y) for line in series]
    tops = _apart(wanted, [LINE * len(text) for text in texts])
    names = [
        _label(text, right + 4, top, index % STYLES)
        for index, (text, top) in enumerate(zip(texts, tops, strict=True))
    ]
    parts = [*_grid(right), *_ticks(axis, x), *drawn, *names]
    middle = (LEFT + right) / 2
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-text">'
        f'<title id="{escape(key)}-title">{escape(title)}</title>'
        f'<desc id="{escape(key)}-text">{escape(_spoken(series, x_label))}</desc>'
        f"{''.join(parts)}"
        f'<text x="{middle:.1f}" y="{HEIGHT - 8:.1f}" text-anchor="middle">{escape(x_label)}</text></svg>'
    )


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _series(line: Series, x: Callable[[float], float], style: int) -> str:
    marks = line.marks
    upper = [f"{x(m.x):.1f} {_y(m.high):.1f}" for m in marks]
    lower = [f"{x(m.x):.1f} {_y(m.low):.1f}" for m in reversed(marks)]
    middle = "L".join(f"{x(m.x):.1f} {_y(m.y):.1f}" for m in marks)
    shown = marks if len(marks) <= CROWDED else marks[-1:]
    dots = "".join(f'<circle class="dot" cx="{x(m.x):.1f}" cy="{_y(m.y):.1f}" r="3"/>' for m in shown)
    kind, end = ("reach", "") if len(marks) == 1 else ("band", "Z")
    band = f'<path class="{kind}" d="M{"L".join([*upper, *lower])}{end}"/>'
    return f'<g class="s{style}">{band}<path class="line" d="M{middle}"/>{dots}</g>'


def _grid(right: float) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(f'<path class="scale" d="M{LEFT:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    return parts


def _ticks(axis: Axis, x: Callable[[float], float]) -> list[str]:
    """At measured x, as many as have room, the last one always."""
    bottom, parts = _y(0.0), []
    edge = math.inf
    for value in reversed(round_ones(axis.values)):
        text = "∞" if math.isinf(value) else f"{value:g}"
        half = CHARACTER * len(text) / 2
        if x(value) + half + 6 <= edge:
            edge = x(value) - half
            parts.append(f'<path class="tick" d="M{x(value):.1f} {bottom:.1f}v5"/>')
            parts.append(f'<text x="{x(value):.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{text}</text>')
    return parts


def round_ones(values: Sequence[float]) -> list[float]:
    """All of a few sorted values; of many the first, the last, and 1, 2 and 5 times powers of 10."""
    if len(values) <= CROWDED:
        return list(values)
    return [x for x in values if x in (values[0], values[-1]) or f"{x:e}"[:8] in ROUND]


def _label(text: Sequence[str], x: float, top: float, style: int) -> str:
    middle = top + LINE * len(text) / 2
    lines = "".join(
        f'<text x="{x + SAMPLE + 4:.1f}" y="{top + LINE * (k + 0.8):.1f}">{escape(line)}</text>'
        for k, line in enumerate(text)
    )
    sample = f'<path class="line" d="M{x:.1f} {middle:.1f}h{SAMPLE:.1f}"/>'
    return f'<g class="s{style} direct">{lines}{sample}</g>'


def _apart(centres: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Tops of labels near their centres that do not overlap, within the plot as far as they fit."""
    order = sorted(range(len(centres)), key=lambda k: centres[k])
    tops, free = [0.0] * len(centres), 0.0
    for k in order:
        tops[k] = max(centres[k] - heights[k] / 2, free)
        free = tops[k] + heights[k]
    limit = HEIGHT - BOTTOM + LINE
    for k in reversed(order):
        tops[k] = max(0.0, min(tops[k], limit - heights[k]))
        limit = tops[k]
    return tops


def _spoken(series: Sequence[Series], x_label: str) -> str:
    lines = [
        f"{line.label}: "
        + ", ".join(
            f"{m.y:.0%} ({m.low:.0%} to {m.high:.0%}) at {'infinity' if math.isinf(m.x) else f'{m.x:g}'}"
            for m in line.marks
        )
        for line in series
    ]
    return f"Against {x_label}. {'. '.join(lines)}."
