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
from audiopure.errors import WeightsError
from audiopure.evaluation.card import Row
from audiopure.evaluation.reproduce.entries import Entry, located
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.reading import BUDGETS, NOT_RUN, brief, clean, headline, stored, table
from audiopure.hub import SHIPPED, describe
from audiopure.machine import device_name
from audiopure.noise import SeededNoise
from audiopure.systems import load_system

NAME = "defence-costs"
WARM = 3  # clips before time counts


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
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    facts = {"machine": device_name(place.device), "threads": torch.get_num_threads(), "clips": clips}
    waves = heard(place, clips)
    for entry in entries:
        known = record.get(entry.key, {})
        if entry.absent(weights) or known == facts | {"seconds": known.get("seconds")}:
            continue
        if stored(place.records, f"standard-{entry.key}"):
            say(f"timing {entry.title}")
            system = load_system(located(entry.system, weights))
            spent = seconds(system.model.to(place.device), waves, place.device)
            record[entry.key] = facts | {"seconds": spent}
            keep(record, path)


def ranked(entries: Sequence[Entry], records: Path, weights: Path) -> str:
    """Defences from the most to the least robust, with what training and an answer cost."""
    rows, machines = [], set[str]()
    for entry, row, cost in _found(entries, records):
        attacked = [headline(row, norm) for norm in BUDGETS]
        values = [100 * m.average.value if m else 0.0 for m in attacked]
        cells = [entry.title, brief(clean(row).average)]
        cells += [brief(m.average) if m else NOT_RUN for m in attacked]
        rows.append((-sum(values), [*cells, _training(entry, weights), f"{1000 * cost['seconds']:.1f}"]))
        machines.add(f"{cost['machine']}, {cost['threads']} threads")
    heads = ["defence", "clean", *BUDGETS.values(), "training", "answer, ms"]
    body = [cells for _, cells in sorted(rows)]
    note = (
        "By the sum of both averages under `standard`. Training: of the defence's own weights, on the "
        "machine their cards name; the recogniser's comes on top where it is another. An answer: one clip of "
        f"a second at a time ({'; '.join(sorted(machines))})."
    )
    return table(heads, body) + f"\n\n{note}"


def _training(entry: Entry, weights: Path) -> str:
    """Of all weights before the recogniser, what they began with included, and of a special recogniser."""
    front = [part.partition(",")[0] for part in entry.system.split("+")[:-1]]
    names = [name for name in front if name in SHIPPED]
    costs = [_spent(name) for name in names]
    costs += [_spent(weights / f"{name}.safetensors") for name in entry.weights]
    if not costs:
        return "none"
    return "unknown" if None in costs else f"{sum(c for c in costs if c is not None) / 60:.0f} min"


def _spent(name: str | Path) -> float | None:
    """Seconds of training, those of what it began with included; None if a card does not say."""
    facts = describe(name)
    own = facts["card"].get("cost", {}).get("seconds")
    before = facts["card"].get("config", {}).get("initial")
    if own is None or before is None or facts["kind"] == "recogniser":
        return own
    try:
        first = _spent(before)
    except WeightsError:  # a file that is elsewhere by now
        return None
    return None if first is None else own + first


def _found(entries: Sequence[Entry], records: Path) -> list[tuple[Entry, Row, dict[str, Any]]]:
    """Rows of cards that have been timed."""
    path = records / f"{NAME}.json"
    timed = json.loads(path.read_text()) if path.is_file() else {}
    return [
        (entry, card.rows[0], timed[entry.key])
        for entry in entries
        if entry.key in timed and (card := stored(records, f"standard-{entry.key}"))
    ]


def draw(entries: Sequence[Entry], records: Path, path: Path) -> None:
    """Robust accuracy of both norms against the time of an answer."""
    from audiopure.evaluation.reproduce.pictures import pyplot, save

    figure, axes = pyplot().subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for axis, (norm, title) in zip(axes, BUDGETS.items(), strict=True):
        for entry, row, cost in _found(entries, records):
            metrics = headline(row, norm)
            if metrics is None:
                continue
            share = metrics.average
            spread = [[100 * (share.value - share.low)], [100 * (share.high - share.value)]]
            point = (1000 * cost["seconds"], 100 * share.value)
            axis.errorbar(*point, yerr=spread, fmt="o", color="#1d5bbf", ecolor="#c3cfe6", markersize=4)
            name = entry.title.replace("**", "")
            axis.annotate(name, point, xytext=(5, 3), textcoords="offset points", fontsize=6.5)
        axis.set(xscale="log", xlabel="an answer, ms", title=title, ylim=(0, 100))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy under attack, %")
    save(figure, path)
