"""Tables and figures of the paper by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audiopure.errors import InputError
from audiopure.evaluation.reproduce import (
    budget_tables,
    certified_tables,
    cost_table,
    defence_tables,
    pictures,
    ranking,
)
from audiopure.evaluation.reproduce.entries import (
    ADVERSARIAL,
    JACOBIANS,
    NOISE_ONLY,
    NONE,
    ONE_SHOT,
    OTHER_CLASSIFIERS,
    OTHER_DENOISERS,
    PURIFIED,
    SPECTRAL,
    TRANSFORMATIONS,
    TUNED,
    Entry,
)
from audiopure.evaluation.reproduce.jobs import Job, Place
from audiopure.evaluation.reproduce.published import QUALCOMM, STEPS, Column


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        title: what it shows.
        jobs: evaluations it needs, given the folder of trained weights.
        text: the Markdown of a table, given the folder of records and that one.
        measure: what is measured here and now, beside the jobs, given the same.
        picture: draws the figure, an SVG file.
    """

    title: str
    jobs: Callable[[Path], Sequence[Job]] = lambda weights: ()
    text: Callable[[Path, Path], str] | None = None
    measure: Callable[[Place, Path, Callable[[str], None]], None] | None = None
    picture: Callable[[Place, Path], None] | None = None


def _defences(
    title: str, entries: Sequence[Entry], columns: Sequence[Column], *, black_box: bool = False
) -> Experiment:
    return Experiment(
        title,
        partial(defence_tables.jobs, entries, black_box=black_box),
        lambda records, weights: defence_tables.defences(
            entries, columns, records, weights, black_box=black_box
        ),
    )


def _curves(title: str, entries: Sequence[Entry], axis: str, label: str) -> Experiment:
    draw = pictures.against(axis, label)
    return Experiment(
        title,
        lambda weights: [job for job in defence_tables.jobs(entries, weights) if "standard" in job.words],
        picture=lambda place, path: draw(entries, place.records, path),
    )


def _qualcomm() -> str:
    without, purified = (
        f"{row.clean:g} clean and {row.robust['linf', 10]:g} under PGD-10" for row in QUALCOMM
    )
    return (
        "Not run: the Qualcomm keyword dataset has to be asked for, and its attention network for clips of "
        f"any length is not built yet. Published: none {without}, AudioPure at n*=2 {purified}."
    )


EVERY = [(norm, steps) for norm in ("linf", "l2") for steps in STEPS]
SOME = [("linf", 10), ("linf", 70)]
CONTROLS = (NONE, NOISE_ONLY, ONE_SHOT, PURIFIED)
ALL = (
    *CONTROLS,
    *TRANSFORMATIONS,
    *ADVERSARIAL,
    *SPECTRAL,
    *TUNED,
    *OTHER_DENOISERS,
    *JACOBIANS,
)
TIMED = 30  # clips that time an answer
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
        lambda records, _: budget_tables.by_steps(records),
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
        lambda weights: [entry.job("black-box", weights, clips=50) for entry in CONTROLS],
        lambda records, _: defence_tables.transfers(CONTROLS, records),
    ),
    "tableB": Experiment("Qualcomm keywords", text=lambda records, weights: _qualcomm()),
    "tableC": _defences("Tuning on adversarial examples", (NONE, PURIFIED, *TUNED), SOME),
    "tableD": _defences("Other denoisers", (NONE, PURIFIED, *OTHER_DENOISERS), SOME),
    "tableE": _defences("Regularisation", (NONE, PURIFIED, *JACOBIANS), SOME),
    "tableF": Experiment(
        "Larger budgets",
        lambda weights: [budget_tables.GRID],
        lambda records, _: budget_tables.large(records),
    ),
    "tableG": Experiment(
        "Inference time",
        measure=lambda place, weights, say: cost_table.measure(place, say),
        text=lambda records, _: cost_table.cost(records),
    ),
    "figure1": Experiment(
        "A word attacked and purified", picture=lambda place, path: pictures.overview(place.data, path)
    ),
    "figure2a": _curves(
        "Accuracy against steps", (NONE, ADVERSARIAL[0], *CONTROLS[1:]), "steps", "attack steps"
    ),
    "figure2b": _curves("Accuracy against EOT draws", CONTROLS, "eot", "EOT draws"),
    "figureA": Experiment(
        "Certified accuracy against the radius",
        lambda weights: list(certified_tables.jobs(weights)),
        picture=lambda place, path: pictures.certified(place.records, path),
    ),
    "figureB": Experiment(
        "A word under larger budgets", picture=lambda place, path: pictures.budgets(place.data, path)
    ),
    # beyond the paper
    "ranking": Experiment(
        "What each defence gives for its time",
        partial(defence_tables.jobs, ALL),
        lambda records, weights: ranking.ranked(ALL, records, weights),
        partial(ranking.measure, ALL, TIMED),
        lambda place, path: ranking.draw(ALL, place.records, path),
    ),
}


def experiment(name: str) -> Experiment:
    """A table or figure by name; InputError lists those there are."""
    if name not in EXPERIMENTS:
        raise InputError(f"there is no '{name}' in the paper; there are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
