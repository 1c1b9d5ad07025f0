"""Table G: what purification costs, measured where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiopure.api import load_purifier, load_recogniser
from audiopure.defended import defend
from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.evaluation.reproduce.costs import heard, seconds
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.published import SECONDS
from audiopure.evaluation.reproduce.reading import NOT_RUN, json_record, table
from audiopure.machine import device_name
from audiopure.nets.diffwave import DiffWave
from audiopure.purifier import Purifier

NAME = "inference-cost"
CLIPS = 100  # as in the paper, one at a time
FEW = 2  # of DiffWave on a CPU


def measure(place: Place, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Mean seconds a clip at every n*, purification and recognition, of both sizes, kept as a record."""
    path = place.records / f"{NAME}.json"
    if path.is_file():
        return
    waves = heard(place, CLIPS)
    compact = load_purifier()
    record: dict[str, Any] = {"clips": len(waves), "seconds": _timed("compact", compact, waves, place, say)}
    some = waves if torch.device(place.device).type != "cpu" else waves[:FEW]
    record["diffwave"] = {"clips": len(some), "seconds": _timed("DiffWave", diffwave(), some, place, say)}
    keep(record | {"machine": device_name(place.device), "threads": torch.get_num_threads()}, path)


def diffwave() -> Purifier:
    """A purifier of DiffWave's published size, untrained: its time is that of a trained one."""
    schedule = NoiseSchedule.linear()
    net = DiffWave().eval().requires_grad_(False)
    return Purifier(EpsDenoiser(net, schedule), n_star=1, schedule=schedule).eval()


def _timed(
    name: str, purifier: Purifier, waves: Sequence[Tensor], place: Place, say: Callable[[str], None]
) -> dict[str, float]:
    """n* -> mean seconds of an answer."""
    found = {}
    recogniser = load_recogniser().to(place.device)
    for n_star in SECONDS:
        say(f"{name}: {len(waves)} clips at n* = {n_star}")
        model = defend(recogniser, purifier.replace(n_star=n_star).to(place.device))
        found[str(n_star)] = seconds(model, waves, place.device)
    return found


def cost(records: Path) -> str:
    """Seconds a clip at every n*."""
    record = json_record(records / f"{NAME}.json")
    known = (record.get("seconds"), record.get("diffwave", {}).get("seconds"))
    ours, full = ([f"{one[str(n)]:.4f}" if one else NOT_RUN for n in SECONDS] for one in known)
    body = [
        ["compact purifier", *ours],
        ["DiffWave, full size, untrained", *full],
        ["published (DiffWave, RTX 3090)", *(f"{s:g}" for s in SECONDS.values())],
    ]
    note = "Seconds for one clip of a second, purification and recognition."
    if record:
        note += (
            f" Mean of {record['clips']} clips, of DiffWave {record['diffwave']['clips']}, one at a time, "
            f"{record['machine']}, {record['threads']} threads."
        )
    return table(["", *(f"n*={n}" for n in SECONDS)], body) + f"\n\n{note}"
