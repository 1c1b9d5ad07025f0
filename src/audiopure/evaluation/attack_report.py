"""What `audiopure attack` says of its files: `audiopure-attack-1`.

schema        "audiopure-attack-1"; changes when a field changes its meaning
versions      audiopure, python, torch
system        as `systems.load_system` takes it
weights       name of a weights file -> first 16 hex digits of its SHA-256
attack        the attack's constructor
seed          of all noise
files         one for each attacked file, see `FileRecord`
failed        source -> why it could not be attacked
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Literal

import torch

import audiopure
from audiopure.attacks import Attack
from audiopure.evaluation.attack_file import Outcome, Recording
from audiopure.evaluation.card import Proportion, Record
from audiopure.evaluation.scoring import proportion
from audiopure.systems import System


class FileRecord(Record):
    """One attacked file.

    Attributes:
        target: where the attacked file is; None where nothing was written.
        note: what was changed before the attack so that the system can hear it; None for nothing.
        label: the true one: given, or what the system hears without its defence.
        wanted: the label that the attack wants to be heard; None for any but the true one.
        clean, attacked: label -> fresh passes that heard it.
        success: share of the fresh passes that the attack wins. Passes are the n here, not clips.
        distances: as `evaluation.quality.distances` gives them.
        queries: forward passes that the attack spent.
    """

    source: str
    target: str | None
    note: str | None
    label: str
    label_given: bool
    wanted: str | None
    clean: dict[str, int]
    attacked: dict[str, int]
    success: Proportion
    distances: dict[str, float | None]
    queries: int
    seconds: float


class AttackReport(Record):
    schema_: Literal["audiopure-attack-1"]
    versions: dict[str, str]
    system: str
    weights: dict[str, str]
    attack: str
    seed: int
    files: list[FileRecord]
    failed: dict[str, str]


def file_record(
    source: str, target: str | None, recording: Recording, outcome: Outcome, wanted: str | None
) -> FileRecord:
    return FileRecord(
        source=source,
        target=target,
        note=recording.note,
        label=outcome.label,
        label_given=outcome.label_given,
        wanted=wanted,
        clean=outcome.before,
        attacked=outcome.after,
        success=proportion(outcome.success, outcome.passes),
        distances=outcome.distances,
        queries=outcome.queries,
        seconds=round(outcome.seconds, 2),
    )


def attack_report(
    system: System, attack: Attack, seed: int, files: Sequence[FileRecord], failed: dict[str, str]
) -> AttackReport:
    return AttackReport(
        schema_="audiopure-attack-1",
        versions={
            "audiopure": audiopure.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        system=system.spec,
        weights=dict(system.weights),
        attack=repr(attack),
        seed=seed,
        files=list(files),
        failed=failed,
    )


def text(record: FileRecord) -> str:
    """What a reader wants to know of one file, in a few lines."""
    source = "given" if record.label_given else "what the system hears without its defence"
    win, passes = record.success, record.success.n
    value, low, high = (round(100 * share) for share in (win.value, win.low, win.high))
    share = f"{value} % of {passes} fresh passes, 95 % interval {low} to {high} %"
    lines = [
        record.source if record.target is None else f"{record.source} -> {record.target}",
        f"  label     {record.label} ({source})",
        f"  clean     heard as {_heard(record.clean)}",
        f"  attacked  heard as {_heard(record.attacked)}",
        f"  success   {share if passes > 1 else 'yes' if win.value else 'no'}{_goal(record)}",
        f"  change    {_change(record.distances)}",
    ]
    if record.note is not None:
        lines.insert(1, f"  heard in  {record.note}")
    return "\n".join(lines)


def _heard(passes: dict[str, int]) -> str:
    if sum(passes.values()) == 1:
        return next(iter(passes))
    return ", ".join(f"{label} ({count} of {sum(passes.values())})" for label, count in passes.items())


def _goal(record: FileRecord) -> str:
    return "" if record.wanted is None else f" (wanted: {record.wanted})"


def _change(distances: dict[str, float | None]) -> str:
    words = {
        "snr": "SNR {:.1f} dB",
        "l2": "L2 {:.3g}",
        "linf": "L∞ {:.3g}",
        "above_mask": "{:.1f} dB above the masking threshold",
        "stoi": "STOI {:.3f}",
        "pesq": "PESQ {:.2f}",
    }
    known = {key: value for key, value in distances.items() if value is not None}
    return ", ".join(form.format(known[key]) for key, form in words.items() if key in known)
