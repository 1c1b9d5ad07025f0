"""What every defence gives for the time it takes, beyond the paper's tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import call
from audiopure.data.layouts import load_dataset
from audiopure.evaluation.card import Row
from audiopure.evaluation.reproduce.entries import Entry
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.reading import NOT_RUN, brief, clean, headline, stored, table
from audiopure.hub import describe
from audiopure.machine import device_name
from audiopure.noise import SeededNoise
from audiopure.systems import load_system

NAME = "defence-costs"
WARM = 3  # clips before time counts
NORMS = {"linf": "L∞ ≤ 0.002", "l2": "L2 ≤ 0.253"}


def heard(place: Place, count: int) -> list[Tensor]:
    """Some test clips as rows of at least a second."""
    clips = load_dataset(place.data.name, place.data.parent, "test")
    waves = clips.stratified(min(count, len(clips)), seed=0).load_all(16_000)
    return [torch.nn.functional.pad(wave, (0, max(0, 16_000 - len(wave))))[None] for wave in waves]


@torch.no_grad()
def seconds(model: nn.Module, waves: Sequence[Tensor], device: str) -> float:
    """Mean time of an answer, one clip at a time."""

    def answer(some: Sequence[Tensor]) -> None:
        for number, wave in enumerate(some):
            call(model, wave.to(device), SeededNoise(number), None).cpu()

    answer(waves[:WARM])
    began = time.perf_counter()
    answer(waves)
    return (time.perf_counter() - began) / len(waves)


def measure(
    entries: Sequence[Entry], clips: int, place: Place, weights: Path, say: Callable[[str], None]
) -> None:
    """Time an answer of each defence that has a card; what has been timed is not timed again."""
    path = place.records / f"{NAME}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"seconds": {}}
    facts = {"machine": device_name(place.device), "threads": torch.get_num_threads(), "clips": clips}
    waves = heard(place, clips)
    for entry in entries:
        if entry.key in record["seconds"] or entry.absent(weights):
            continue
        if stored(place, f"standard-{entry.key}"):
            say(f"timing {entry.title}")
            system = load_system(entry.job("standard", weights).words[1])
            record["seconds"][entry.key] = seconds(system.model.to(place.device), waves, place.device)
            keep(record | facts, path)


def ranked(entries: Sequence[Entry], place: Place, weights: Path) -> str:
    """Defences from the most to the least robust, with what training and an answer cost."""
    rows = []
    for entry, row, cost in _found(entries, place):
        attacked = [headline(row, norm) for norm in NORMS]
        values = [100 * m.average.value if m else 0.0 for m in attacked]
        cells = [entry.title, brief(clean(row).average)]
        cells += [brief(m.average) if m else NOT_RUN for m in attacked]
        rows.append((-sum(values), [*cells, _training(entry, weights), f"{1000 * cost:.1f}"]))
    heads = ["defence", "clean", *NORMS.values(), "training", "answer, ms"]
    body = [cells for _, cells in sorted(rows)]
    note = (
        "By the sum of both averages under `standard`. Training: time on the machine that its weights' card "
        "names, on top of the recogniser's. An answer: one clip of a second at a time."
    )
    return table(heads, body) + f"\n\n{note}"


def _training(entry: Entry, weights: Path) -> str:
    names = [weights / f"{name}.safetensors" for name in entry.weights]
    if not names:
        return "none"
    total = sum(describe(path)["card"].get("cost", {}).get("seconds", 0) for path in names if path.is_file())
    return f"{total / 60:.0f} min" if total else "unknown"


def _found(entries: Sequence[Entry], place: Place) -> list[tuple[Entry, Row, float]]:
    """Rows of cards that have been timed."""
    path = place.records / f"{NAME}.json"
    timed = json.loads(path.read_text())["seconds"] if path.is_file() else {}
    return [
        (entry, card.rows[0], timed[entry.key])
        for entry in entries
        if entry.key in timed and (card := stored(place, f"standard-{entry.key}"))
    ]


def draw(entries: Sequence[Entry], place: Place, path: Path) -> None:
    """Robust accuracy of both norms against the time of an answer."""
    from audiopure.evaluation.reproduce.pictures import pyplot, save

    figure, axes = pyplot().subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for axis, (norm, title) in zip(axes, NORMS.items(), strict=True):
        for entry, row, cost in _found(entries, place):
            metrics = headline(row, norm)
            if metrics is None:
                continue
            share = metrics.average
            spread = [[100 * (share.value - share.low)], [100 * (share.high - share.value)]]
            point = (1000 * cost, 100 * share.value)
            axis.errorbar(*point, yerr=spread, fmt="o", color="#1d5bbf", ecolor="#c3cfe6", markersize=4)
            name = entry.title.replace("**", "")
            axis.annotate(name, point, xytext=(5, 3), textcoords="offset points", fontsize=6.5)
        axis.set(xscale="log", xlabel="an answer, ms", title=title, ylim=(0, 100))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy under attack, %")
    save(figure, path)
