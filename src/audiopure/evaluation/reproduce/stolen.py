"""Table A: attacks on a copy that was stolen from the purified system, tried on it and its recogniser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiopure import hub
from audiopure.api import load_purifier, load_recogniser
from audiopure.attacks import PAPER_BUDGETS, score
from audiopure.attacks.base import predict
from audiopure.attacks.transfer import MiFgsm
from audiopure.data.layouts import load_dataset
from audiopure.defended import defend
from audiopure.evaluation.card import Proportion
from audiopure.evaluation.reproduce import costs, measuring
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.published import STOLEN
from audiopure.evaluation.reproduce.reading import NORMS, NOT_RUN, brief, json_record, table
from audiopure.evaluation.scoring import proportion
from audiopure.noise import SeededNoise

NAME = "stolen"
LEVELS = (1, 2, 3, 5)  # the paper's and two between
CLIPS = 50
PASSES = 20
CONDITIONS = ("clean", *PAPER_BUDGETS)


def measure(
    place: Place, say: Callable[[str], None], levels: tuple[int, ...] = LEVELS, **training: Any
) -> None:
    """Steal the system at each n*, and attack both with what breaks the copy; a level is kept once known.

    Args:
        training: settings of `train_surrogate` that are not its defaults.
    """
    path = place.records / f"{NAME}.json"
    record = json_record(path) or {**measuring.facts(place, CLIPS), "passes": PASSES, "levels": {}}
    recogniser = load_recogniser().to(place.device)
    for level in levels:
        if str(level) in record["levels"]:
            continue
        model = defend(recogniser, load_purifier(n_star=level).to(place.device))
        surrogate = _copy(model, level, place, say, training)
        say(f"attacking the copy of n* = {level}, {CLIPS} clips")
        record["levels"][str(level)] = _transferred(model, recogniser, surrogate, place)
        keep(record, path)


def _copy(
    model: nn.Module, level: int, place: Place, say: Callable[[str], None], training: dict[str, Any]
) -> nn.Module:
    from audiopure.training.surrogate import train_surrogate

    path = place.work / f"stolen-n{level}.safetensors"
    if not path.is_file():
        say(f"stealing n* = {level}: a surrogate on its answers")
        clips = load_dataset(place.data.name, place.data.parent, "train")
        train_surrogate(model, clips, noise=SeededNoise(level), path=path, **training)
    return hub.load(path, kind="recogniser").to(place.device)


def _transferred(
    model: nn.Module, recogniser: nn.Module, surrogate: nn.Module, place: Place
) -> dict[str, Any]:
    """Counts over clips: what the copy shares with the system, and what either withstands."""
    found: dict[str, Any] = {"clips": 0, "agreed": 0}
    found |= {name: dict.fromkeys(CONDITIONS, 0.0) for name in ("vanilla", "defended")}
    for batch in measuring.clips(place, CLIPS):
        noise, lengths = measuring.noise(batch, 0), batch.lengths
        found["clips"] += len(batch.index)
        system = predict(model, batch.waveform, noise=measuring.noise(batch, 1), lengths=lengths)
        with torch.no_grad():
            copied = surrogate(batch.waveform).argmax(-1)
        found["agreed"] += int((system[:, 0].argmax(-1) == copied).sum())
        waves = {"clean": batch.waveform}
        for norm, eps in PAPER_BUDGETS.items():
            attack = MiFgsm(norm=norm, eps=eps)  # type: ignore[arg-type]
            waves[norm] = attack(
                surrogate, batch.waveform, batch.labels, noise=noise, lengths=lengths
            ).adversarial
        for name, victim, passes in (("vanilla", recogniser, 1), ("defended", model, PASSES)):
            for key, wave in waves.items():
                fresh = measuring.noise(batch, 2)
                right = score(victim, wave, batch.labels, noise=fresh, passes=passes, lengths=lengths)
                found[name][key] += float(right.float().mean(1).sum())
    return found


def transfers(records: Path) -> str:
    """One row for each n* of the stolen system, the paper's below its own."""
    record = json_record(records / f"{NAME}.json")
    body = []
    for level in LEVELS:
        one = record.get("levels", {}).get(str(level))
        cells = [NOT_RUN] * 7
        if one:
            shares = [_share(one[name][key], one) for name in ("vanilla", "defended") for key in CONDITIONS]
            cells = [brief(share) for share in (_share(one["agreed"], one), *shares)]
        body.append([f"AudioPure, compact, n*={level}", *cells])
        if level in STOLEN:
            stealing, *values = (f"{value:g}" for value in STOLEN[level])
            body.append([f"published, n*={level}", stealing, *values[:2], "", *values[2:], ""])
    heads = ["stolen system", "stealing accuracy"]
    heads += [
        f"{name}, {key}" for name in ("recogniser alone", "system") for key in ("clean", *NORMS.values())
    ]
    note = (
        "What breaks a copy of the system, tried on the recogniser without the purifier (the paper's "
        "“vanilla”) and on the system. The copy: our compact recogniser, trained on the system's answers to "
        "3,000 training clips; stealing accuracy: the share of test clips on which it says what the system "
        "says. "
        f"MI-FGSM at the paper's budgets (the paper names no attack), {record.get('clips', CLIPS)} clips, "
        "95 % interval over clips; of the system the average over "
        f"{record.get('passes', PASSES)} fresh passes. {costs.of_purifier(records)}"
    )
    return table(heads, body) + f"\n\n{note}"


def _share(right: float, one: dict[str, Any]) -> Proportion:
    return proportion(right, one["clips"])
