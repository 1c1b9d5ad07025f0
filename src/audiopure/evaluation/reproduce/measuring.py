"""What the paper measures and no protocol of `evaluate` has: clips in batches, counts kept as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from audiopure.api import load_recogniser
from audiopure.evaluation.clips import Batch, batches, load_clips
from audiopure.evaluation.reproduce.jobs import Place
from audiopure.evaluation.stages import BATCH
from audiopure.machine import device_name
from audiopure.noise import SeededNoise

RATE = 16_000


def noise(batch: Batch, number: int) -> SeededNoise:
    """Of a batch's clips: the same in any batch, and another for every number."""
    return SeededNoise(0, tuple(batch.items)).fresh(number)


def clips(place: Place, count: int) -> Iterator[Batch]:
    """The clips that `evaluate` takes too, on the place's device."""
    found = load_clips(place.data, load_recogniser(), count, 0)
    for batch in batches(found, BATCH, at_least=RATE):
        yield batch.to(torch.device(place.device))


def facts(place: Place, count: int) -> dict[str, Any]:
    """What a record says of where it was measured."""
    return {"data": place.data.name, "clips": count, "machine": device_name(place.device)}
