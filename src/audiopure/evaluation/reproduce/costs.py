"""What a defence costs: to train, and for an answer, timed where it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import call
from audiopure.data.layouts import load_dataset
from audiopure.evaluation.reproduce import trained
from audiopure.evaluation.reproduce.entries import Entry, located, needed
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.reading import NOT_RUN, json_record, stored
from audiopure.hub import SHIPPED
from audiopure.machine import device_name
from audiopure.noise import SeededNoise
from audiopure.padding import at_least
from audiopure.systems import load_system

NAME = "defence-costs"
WARM = 3  # clips before time counts
NOISE = "reverse=no"  # of a purifier that only adds noise, so that its network does nothing
CLIPS = 30  # that time an answer
HEADS = ("training, core h", "answer, ms")
ABOUT = (
    "Training: of the defence's own weights, what they began with included; the recogniser's comes on top "
    "where it is another than the one it was tuned from. An answer: one clip of a second at a time"
)


def heard(place: Place, count: int) -> list[Tensor]:
    """Some test clips as rows of at least a second."""
    clips = load_dataset(place.data.name, place.data.parent, "test")
    waves = clips.stratified(min(count, len(clips)), seed=0).load_all(16_000)
    return [at_least(wave, 16_000)[None] for wave in waves]


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


def measure(entries: Sequence[Entry], place: Place, weights: Path, say: Callable[[str], None]) -> None:
    """Time an answer of each defence that has a card; what has been timed is not timed again.

    Facts of the weights are kept as well.
    """
    trained.measure(place, weights)
    path = place.records / f"{NAME}.json"
    record = timings(place.records)
    facts = {"machine": device_name(place.device), "threads": torch.get_num_threads(), "clips": CLIPS}
    waves: list[Tensor] = []
    for entry in entries:
        known = record.get(entry.key, {})
        if entry.absent(weights) or known == facts | {"seconds": known.get("seconds")}:
            continue
        if stored(place.records, entry.record(entry.exact)) is None:
            continue
        waves = waves or heard(place, CLIPS)
        say(f"timing {entry.name}")
        system = load_system(located(entry.system, weights))
        record[entry.key] = facts | {"seconds": seconds(system.model.to(place.device), waves, place.device)}
        keep(record, path)


def timings(records: Path) -> dict[str, dict[str, Any]]:
    """Key of an entry -> seconds of an answer, machine, threads, clips."""
    return json_record(records / f"{NAME}.json")


def cells(entry: Entry, records: Path) -> list[str]:
    """What goes below HEADS."""
    one = timings(records).get(entry.key)
    return [training(entry, records), f"{1000 * one['seconds']:.1f}" if one else NOT_RUN]


def of_purifier(records: Path) -> str:
    """What the tables say that have nothing but the compact purifier at several n*."""
    return (
        f"The compact purifier took {trained_for('small+digits', records)} core hours to train; what an "
        "answer takes at each n*: table G."
    )


def about(entries: Sequence[Entry], records: Path) -> str:
    """What the numbers are, and where answers were timed."""
    known = timings(records)
    found = [known[entry.key] for entry in entries if entry.key in known]
    machines = sorted({f"{one['machine']}, {one['threads']} threads" for one in found})
    return f"{ABOUT}{' (' + '; '.join(machines) + ')' if machines else ''}."


def training(entry: Entry, records: Path) -> str:
    """Core hours of all weights before the recogniser, and of a special recogniser."""
    return trained_for(entry.system, records)


def trained_for(system: str, records: Path) -> str:
    """The same of a system; a recogniser that was tuned from another is a special one."""
    known: Mapping[str, trained.Facts] = trained.facts(records)
    *front, last = [part.partition(",")[0] for part in system.split("+") if NOISE not in part]
    names = [name for name in front if name in SHIPPED] + needed(system)
    if last in SHIPPED and known[last]["initial"] is not None:
        names.append(last)
    if not names:
        return "none"
    found = {name: trained.spent(name, known) for name in names}
    if lacking := [name for name, one in found.items() if one is None]:
        return f"unknown ({', '.join(lacking)})"
    return f"{sum(one for one in found.values() if one is not None) / 3600:.1f}"
