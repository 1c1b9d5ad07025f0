"""What an evaluation will do, written down before it starts: `plan.json` beside the ledger.

A resumed run, a shard and a merge must all mean the same evaluation; they compare plans.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

import audiopure
from audiopure.evaluation import workplace
from audiopure.evaluation.card import Data, Protocol
from audiopure.evaluation.clips import Clips, digest
from audiopure.evaluation.ledger import Table


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedClip(_Part):
    """`audio`: first digits of the SHA-256 of its 16-bit samples."""

    id: str
    audio: str
    label: str
    target: int
    seconds: float


class PlannedCondition(_Part):
    """One attack on one row.

    Attributes:
        clips: it runs on the first so many.
        survivors: and of these only on those that a counting condition before it, in the same column, has
            left right in some fresh pass.
    """

    key: str
    title: str
    column: str
    budget: str
    attack: str | None
    route: str
    counts: bool
    clips: int
    survivors: bool
    note: str | None


class PlannedRow(_Part):
    key: str
    title: str
    spec: str
    role: Literal["system", "control", "variant"]
    passes: int
    conditions: list[PlannedCondition]

    def meets(self, condition: PlannedCondition, clip: str, target: int, table: Table) -> bool:
        """Whether a condition attacks a clip: always, or only if no attack before it has broken the clip."""
        if not condition.survivors:
            return True
        earlier = self.conditions[: self.conditions.index(condition)]
        keys = [other.key for other in earlier if other.counts and other.column == condition.column]
        before = [table.get((self.key, key), {}).get(clip) for key in keys]
        return all(target in outcome.answers for outcome in before if outcome is not None)


class PlannedPoint(_Part):
    x: float
    row: str
    condition: str


class PlannedCurve(_Part):
    axis: Literal["eot", "budget", "n_star"]
    title: str
    row: str
    column: str
    points: list[PlannedPoint]
    note: str | None


class Plan(_Part):
    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    protocol: Protocol
    data: Data
    weights: dict[str, str]
    labels: list[str]
    sample_rate: int
    seed: int
    clips: list[PlannedClip]
    rows: list[PlannedRow]
    curves: list[PlannedCurve]

    @property
    def digest(self) -> str:
        """Equal for runs whose numbers may stand together: all but where and in which share they ran."""
        whole = self.model_copy(
            update={"command": "", "machine": {}, "data": self.data.model_copy(update={"shard": None})}
        )
        return hashlib.sha256(whole.model_dump_json().encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of what numbers may depend on."""
    return {
        "audiopure": audiopure.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def data_facts(clips: Clips, folder: Path | None, shard: tuple[int, int] | None) -> Data:
    """What a plan says of its clips' origin."""
    return Data(
        name="shipped clips" if folder is None else clips.dataset.name,
        split=clips.split,
        clips=len(clips.targets),
        of=clips.of,
        note=clips.note,
        shard=None if shard is None else f"{shard[0]}/{shard[1]}",
    )


def planned_clips(clips: Clips) -> list[PlannedClip]:
    return [
        PlannedClip(
            id=clip.id,
            audio=digest(waveform),
            label=clip.label,
            target=target,
            seconds=round(clip.seconds, 4),
        )
        for clip, waveform, target in zip(clips.dataset, clips.waveforms, clips.targets, strict=True)
    ]


def share_of(numbers: Sequence[int], shard: tuple[int, int] | None) -> list[int]:
    """The i-th of n parts, (i, n); all without a shard."""
    first, step = shard or (1, 1)
    return list(numbers[first - 1 :: step])


def begin(plan: Plan, folder: Path) -> Plan:
    """Make the folder and put the plan there, or check that what is in it belongs to the plan.

    Returns it, naming also the code that has done what is there. Raises InputError if the folder holds
    another evaluation, or anything else.
    """
    return workplace.begin(plan, folder, "an evaluation")


def stored(folder: Path) -> Plan | None:
    """The plan in a folder, None if there is none; InputError if it is damaged."""
    return workplace.stored(folder, Plan)
