"""Table G: what purification costs, measured where it is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from audiopure.api import load_purifier, load_recogniser
from audiopure.data.layouts import load_dataset
from audiopure.defended import defend
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.published import SECONDS
from audiopure.evaluation.reproduce.reading import NOT_RUN, table
from audiopure.machine import processor
from audiopure.noise import SeededNoise

NAME = "inference-cost"
WARM = 3  # clips before time counts
CLIPS = 100  # as in the paper, one at a time


def measure(place: Place, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Mean seconds a clip at every n*, purification and recognition, kept as a record."""
    path = place.records / f"{NAME}.json"
    if path.is_file():
        return
    clips = load_dataset(place.data.name, place.data.parent, "test")
    clips = clips.stratified(min(CLIPS, len(clips)), seed=0)
    waves = [torch.nn.functional.pad(w, (0, max(0, 16_000 - len(w)))) for w in clips.load_all(16_000)]
    recogniser, found = load_recogniser().to(place.device), {}
    for n_star in SECONDS:
        say(f"{len(waves)} clips at n* = {n_star}")
        model = defend(recogniser, load_purifier(n_star=n_star).to(place.device))
        _heard(model, waves[:WARM], place.device)
        began = time.perf_counter()
        _heard(model, waves, place.device)
        found[str(n_star)] = (time.perf_counter() - began) / len(waves)
    machine = processor() if place.device == "cpu" else torch.cuda.get_device_name(place.device)
    record = {"seconds": found, "clips": len(waves), "machine": machine, "threads": torch.get_num_threads()}
    keep(record, path)


@torch.no_grad()
def _heard(model: nn.Module, waves: Sequence[Tensor], device: str) -> None:
    for number, wave in enumerate(waves):
        model(wave[None].to(device), noise=SeededNoise(number)).cpu()


def cost(place: Place) -> str:
    """Seconds a clip at every n*."""
    path = place.records / f"{NAME}.json"
    record = json.loads(path.read_text()) if path.is_file() else None
    ours = [f"{record['seconds'][str(n)]:.4f}" if record else NOT_RUN for n in SECONDS]
    body = [
        ["compact purifier", *ours],
        ["published (DiffWave, RTX 3090)", *(f"{s:g}" for s in SECONDS.values())],
    ]
    note = "Seconds for one clip of a second, purification and recognition."
    if record:
        note += f" Mean of {record['clips']} clips, {record['machine']}, {record['threads']} threads."
    return table(["", *(f"n*={n}" for n in SECONDS)], body) + f"\n\n{note}"
