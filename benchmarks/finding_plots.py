"""The paper's figure 2 in our setting, from the cards: python benchmarks/finding_plots.py

Accuracy against the attack's steps (2a) and its EOT draws (2b), with 95 % intervals over clips.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from finding_tables import cards

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from audiopure.evaluation.card import Card, Curve

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
ROWS = {"none": "none", "noise-only": "noise only", "system": "purified, n*=3"}
COLUMNS = {"linf": "L∞ ≤ 0.002", "l2": "L2 ≤ 0.253"}
COLOURS = {"none": "#8a6d00", "noise-only": "#b3261e", "system": "#1d5bbf"}
DASHES = {"none": (1, 2), "noise-only": (4, 2), "system": (1, 0)}


def main() -> None:
    found = cards(["standard-n3", "quick-n3"])
    if not found:
        print("there is no card yet: run benchmarks/findings.py first")
        return
    pyplot.rcParams["svg.hashsalt"] = "audiopure"  # the same figure gives the same file
    card = next(iter(found.values()))
    draw(card, "steps", "attack steps", "figure-2a")
    if any(curve.axis == "eot" for curve in card.curves):
        draw(card, "eot", "EOT draws", "figure-2b")


def draw(card: Card, axis: str, label: str, name: str) -> None:
    columns = [c for c in COLUMNS if any(x.axis == axis and x.column == c for x in card.curves)]
    figure, places = pyplot.subplots(1, len(columns), figsize=(4.2 * len(columns), 3.2), squeeze=False)
    for place, column in zip(places[0], columns, strict=True):
        for curve in card.curves:
            if curve.axis == axis and curve.column == column and curve.row in ROWS:
                line(place, curve)
        place.set(xlabel=label, title=COLUMNS[column], ylim=(0, 102))
        place.grid(alpha=0.25)
        place.legend(frameon=False)
    places[0][0].set_ylabel("accuracy, %")
    clips = card.data.clips
    figure.suptitle(f"{card.data.name}, {clips} clips, protocol {card.protocol.name}", fontsize=9)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


def line(place: Axes, curve: Curve) -> None:
    xs = [point.x for point in curve.points]
    place.plot(
        xs,
        [100 * point.y.value for point in curve.points],
        color=COLOURS[curve.row],
        dashes=DASHES[curve.row],
        label=ROWS[curve.row],
    )
    low, high = ([100 * getattr(p.y, end) for p in curve.points] for end in ("low", "high"))
    place.fill_between(xs, low, high, color=COLOURS[curve.row], alpha=0.12, linewidth=0)


if __name__ == "__main__":
    main()
