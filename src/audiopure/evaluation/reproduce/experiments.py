"""Tables and figures of the paper by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audiopure.errors import InputError
from audiopure.evaluation.reproduce import (
    budget_runs,
    budget_tables,
    certified_pictures,
    certified_tables,
    cost_table,
    costs,
    defence_tables,
    pictures,
    ranking,
    stolen,
    trained,
)
from audiopure.evaluation.reproduce.entries import Entry
from audiopure.evaluation.reproduce.jobs import Job, Place
from audiopure.evaluation.reproduce.published import STEPS, Column
from audiopure.evaluation.reproduce.rows import (
    ADVERSARIAL,
    ADVTR,
    ALL,
    CONTROLS,
    JACOBIANS,
    NONE,
    OTHER_CLASSIFIERS,
    OTHER_DENOISERS,
    PURIFIED,
    SPECTRAL,
    TRANSFORMATIONS,
    TUNED,
    WAKEWORDS,
)


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        title: what it shows.
        jobs: evaluations it needs, given the folder of trained weights.
        text: the Markdown of a table, given the folder of records and that one.
        measure: what is measured here and now, beside the jobs, given the same.
        picture: draws the figure, an SVG file.
        caption: of the figure, given the folder of records: alternative text, and what stands below it;
            None where there is nothing to draw.
    """

    title: str
    jobs: Callable[[Path], Sequence[Job]] = lambda weights: ()
    text: Callable[[Path, Path], str] | None = None
    measure: Callable[[Place, Path, Callable[[str], None]], None] | None = None
    picture: Callable[[Place, Path], None] | None = None
    caption: Callable[[Path], tuple[str, str] | None] | None = None


def _defences(
    title: str, entries: Sequence[Entry], columns: Sequence[Column], *, black_box: bool = False
) -> Experiment:
    return Experiment(
        title,
        partial(defence_tables.jobs, entries, black_box=black_box),
        lambda records, weights: defence_tables.defences(
            entries, columns, records, weights, black_box=black_box
        ),
        partial(costs.measure, entries),
    )


def _curves(title: str, entries: Sequence[Entry], axis: str) -> Experiment:
    return Experiment(
        title,
        lambda weights: [entry.job("standard", weights) for entry in entries if not entry.absent(weights)],
        picture=lambda place, path: pictures.against(axis, entries, place.records, path),
        caption=partial(pictures.against_caption, axis, entries),
    )


def _drawn(title: str, draw: Callable[[Path, Path], None], alt: str, words: str) -> Experiment:
    """A figure of a word, drawn from the data alone."""
    return Experiment(
        title,
        picture=lambda place, path: draw(place.data, path),
        caption=lambda records: (alt, words),
    )


EVERY = [(norm, steps) for norm in ("linf", "l2") for steps in STEPS]
SOME = [("linf", 10), ("linf", 70)]
FIGURES_2 = (NONE, ADVTR, *CONTROLS[1:])
EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": _defences(
        "Adaptive attacks on every defence",
        (NONE, *TRANSFORMATIONS, *ADVERSARIAL, *CONTROLS[1:]),
        EVERY,
        black_box=True,
    ),
    "table2": Experiment(
        "Budgets against n*",
        lambda weights: [budget_tables.GRID],
        lambda records, _: f"{budget_tables.by_steps_as_paper(records)}\n\n{budget_tables.by_steps(records)}",
        lambda place, weights, say: budget_runs.measure(place, say),
    ),
    "table3": _defences("Other recognisers", (NONE, PURIFIED, *OTHER_CLASSIFIERS), [("linf", 70)]),
    "table4": _defences("Waveform or spectrogram", (NONE, PURIFIED, *SPECTRAL), EVERY),
    "table5": Experiment(
        "Certified accuracy",
        lambda weights: list(certified_tables.jobs(weights)),
        certified_tables.certified,
    ),
    "tableA": Experiment(
        "Transfer from a stolen copy",
        text=lambda records, _: stolen.transfers(records),
        measure=lambda place, weights, say: stolen.measure(place, say),
    ),
    "tableB": _defences("Keywords of any length", WAKEWORDS, [("linf", 10)]),
    "tableC": _defences("Tuning on adversarial examples", (NONE, PURIFIED, *TUNED), SOME),
    "tableD": _defences("Other denoisers", (NONE, PURIFIED, *OTHER_DENOISERS), SOME),
    "tableE": _defences("Regularisation", (NONE, PURIFIED, *JACOBIANS), SOME),
    "tableF": Experiment(
        "Larger budgets",
        lambda weights: [budget_tables.GRID],
        lambda records, _: f"{budget_tables.large_as_paper(records)}\n\n{budget_tables.large(records)}",
        lambda place, weights, say: budget_runs.measure(place, say),
    ),
    "tableG": Experiment(
        "Inference time",
        measure=lambda place, weights, say: cost_table.measure(place, say),
        text=lambda records, _: cost_table.cost(records),
    ),
    "figure1": _drawn(
        "A word attacked and purified",
        pictures.overview,
        "Waveform and log-mel spectrogram of a word as recorded, attacked and purified, with what is heard.",
        "A word of the test split, attacked in L∞ ≤ 0.002 without a defence, and purified.",
    ),
    "figure2a": _curves("Accuracy against steps", FIGURES_2, "steps"),
    "figure2b": _curves("Accuracy against EOT draws", FIGURES_2, "eot"),
    "figureA": Experiment(
        "Certified accuracy against the radius",
        lambda weights: list(certified_tables.jobs(weights)),
        picture=lambda place, path: certified_pictures.certified(place.records, path),
        caption=certified_pictures.certified_caption,
    ),
    "figureB": _drawn(
        "A word under larger budgets",
        pictures.budgets,
        "The waveform of a word, clean and attacked with budgets from 0.002 to 0.05: noise grows visible.",
        "The word of figure 1 under PGD-50 on the recogniser alone, with growing L∞ budgets.",
    ),
    # beyond the paper
    "envelope": Experiment(
        "Certified accuracy at the best sigma",
        lambda weights: list(certified_tables.jobs(weights, certified_tables.EVERY_SIGMA)),
        lambda records, _: certified_tables.enveloped(records),
        picture=lambda place, path: certified_pictures.envelope(place.records, path),
        caption=certified_pictures.envelope_caption,
    ),
    "ranking": Experiment(
        "What each defence gives for its time",
        partial(defence_tables.jobs, ALL),
        lambda records, _: ranking.ranked(ALL, records),
        partial(costs.measure, ALL),
        lambda place, path: ranking.draw(ALL, place.records, path),
        partial(ranking.caption, ALL),
    ),
    "training": Experiment(
        "What was trained",
        text=lambda records, _: trained.trainings(records),
        measure=lambda place, weights, say: trained.measure(place, weights),
        picture=lambda place, path: trained.draw(place.records, path),
        caption=trained.caption,
    ),
}


def experiment(name: str) -> Experiment:
    """A table or figure by name; InputError lists those there are."""
    if name not in EXPERIMENTS:
        raise InputError(f"there is no '{name}' in the paper; there are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
