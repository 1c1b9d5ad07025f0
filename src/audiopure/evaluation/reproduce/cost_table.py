"""Table G: what purification costs, measured where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from audiopure.api import load_purifier, load_recogniser
from audiopure.defended import defend
from audiopure.evaluation.reproduce.costs import heard, seconds
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.published import SECONDS
from audiopure.evaluation.reproduce.reading import NOT_RUN, json_record, table
from audiopure.machine import device_name

NAME = "inference-cost"
CLIPS = 100  # as in the paper, one at a time


def measure(place: Place, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Mean seconds a clip at every n*, purification and recognition, kept as a record."""
    path = place.records / f"{NAME}.json"
    if path.is_file():
        return
    waves, found = heard(place, CLIPS), {}
    recogniser = load_recogniser().to(place.device)
    for n_star in SECONDS:
        say(f"{len(waves)} clips at n* = {n_star}")
        model = defend(recogniser, load_purifier(n_star=n_star).to(place.device))
        found[str(n_star)] = seconds(model, waves, place.device)
    facts = {"machine": device_name(place.device), "threads": torch.get_num_threads()}
    record = {"seconds": found, "clips": len(waves), **facts}
    keep(record, path)


def cost(records: Path) -> str:
    """Seconds a clip at every n*."""
    record = json_record(records / f"{NAME}.json")
    ours = [f"{record['seconds'][str(n)]:.4f}" if record else NOT_RUN for n in SECONDS]
    body = [
        ["compact purifier", *ours],
        ["published (DiffWave, RTX 3090)", *(f"{s:g}" for s in SECONDS.values())],
    ]
    note = "Seconds for one clip of a second, purification and recognition."
    if record:
        note += f" Mean of {record['clips']} clips, {record['machine']}, {record['threads']} threads."
    return table(["", *(f"n*={n}" for n in SECONDS)], body) + f"\n\n{note}"
