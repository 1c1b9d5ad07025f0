"""Evaluations: prepare, say what it will cost, run in one process or several, resume, and make the card."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from audiopure import hub
from audiopure.attacks import Attack
from audiopure.attacks.objective import call
from audiopure.data import load_dataset
from audiopure.data.manifest import Dataset
from audiopure.errors import InputError
from audiopure.evaluation import plan as plans
from audiopure.evaluation.card import Protocol as ProtocolFacts
from audiopure.evaluation.clips import Batch, Clips, batches, load_clips
from audiopure.evaluation.ledger import done
from audiopure.evaluation.lineup import WHITE_BOX, Contender, line_up
from audiopure.evaluation.plan import (
    Plan,
    PlannedCurve,
    PlannedRow,
    data_facts,
    planned_clips,
    share_of,
    versions,
)
from audiopure.evaluation.protocols import protocol
from audiopure.evaluation.recordings import recorded
from audiopure.evaluation.stages import BATCH, Context, Protocol
from audiopure.evaluation.worker import Tick, Worker
from audiopure.machine import device_name
from audiopure.noise import SeededNoise
from audiopure.source import source
from audiopure.systems import System, as_system, load_system
from audiopure.typed import validated

SURROGATE = "surrogate.safetensors"


class EvaluationConfig(BaseModel):
    """Settings of an evaluation.

    Attributes:
        system: see `audiopure.systems`.
        data: folder of labelled audio, its test split if it has one; None for the clips that ship.
        protocol: a name in PROTOCOLS.
        attacked: folder with an attacked version of each clip of `data`, under the same relative path;
            instead of a protocol, these recordings are scored.
        limit: clips, equal over labels; 0 for all.
        seed: of the choice of clips and of all noise.
        knowledge: what the attacker knows of the noise, see `attacks.knowledge`: "white-box" (nothing),
            "DW_fwd", "DW_rev", "DW_both" or "semi-N".
        shard: (i, n): clips i, i + n, i + 2n ..., i from 1.
        device: of models and attacks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    data: Path | None = None
    protocol: str = "quick"
    attacked: Path | None = None
    limit: int = Field(default=100, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)
    knowledge: str = WHITE_BOX
    shard: tuple[int, int] | None = None
    device: str = "cpu"

    @classmethod
    def of(cls, **settings: object) -> EvaluationConfig:
        """From settings that a user gives: InputError where one cannot be."""
        return validated(cls, settings)

    @property
    def command(self) -> str:
        """The shell command that repeats the evaluation."""
        words = ["audiopure", "evaluate", "--system", self.system]
        words += [] if self.data is None else ["--data", str(self.data)]
        words += (
            ["--protocol", self.protocol] if self.attacked is None else ["--attacked", str(self.attacked)]
        )
        words += ["--limit", str(self.limit), "--seed", str(self.seed)]
        words += [] if self.knowledge == WHITE_BOX else ["--knowledge", self.knowledge]
        words += [] if self.shard is None else ["--shard", f"{self.shard[0]}/{self.shard[1]}"]
        words += [] if self.device == "cpu" else ["--device", self.device]
        return shlex.join(words)

    @property
    def call(self) -> str:
        """What repeats the evaluation of a model that has no name for the command line."""
        given = {"data": self.data, "attacked": self.attacked, "limit": self.limit, "seed": self.seed}
        given |= {"protocol": self.protocol, "knowledge": self.knowledge, "device": self.device}
        unlike = {
            name: value if isinstance(value, int) else str(value)
            for name, value in given.items()
            if value != type(self).model_fields[name].default
        }
        words = [f"<{self.system}>", *(f"{name}={value!r}" for name, value in unlike.items())]
        return f"audiopure.evaluate({', '.join(words)})"


@dataclass
class Evaluation:
    """A prepared evaluation in a folder. `run` may be called again after a kill: it goes on where it was."""

    config: EvaluationConfig
    folder: Path
    system: System
    protocol: Protocol
    clips: Clips
    contenders: list[Contender]
    plan: Plan
    attacker_clips: Dataset | None

    @classmethod
    def prepare(
        cls,
        config: EvaluationConfig,
        folder: Path,
        *,
        model: nn.Module | None = None,
        workers: int = 1,
        threads: int = 1,
    ) -> Evaluation:
        """Load models and clips.

        Args:
            model: stands in for what `config.system` names.
            workers, threads: for the card: processes, and CPU threads of each.

        Raises InputError or WeightsError for what cannot be used.
        """
        system = load_system(config.system) if model is None else as_system(model.eval(), spec=config.system)
        clips = load_clips(config.data, system.undefended, config.limit or None, config.seed)
        _check_labels(system, next(batches(clips, 1, at_least=system.sample_rate)))
        chosen = protocol(config.protocol)
        if config.attacked is not None:
            chosen = recorded(clips, config.attacked, system.sample_rate)
        if config.shard is not None and config.shard[0] > len(clips.targets):
            raise InputError(
                f"shard {config.shard[0]}/{config.shard[1]}: there are {len(clips.targets)} clips."
            )
        attacker_clips = _attacker_clips(config, system)
        if attacker_clips is None:
            chosen = chosen.without_surrogate()
        count = len(clips.targets)
        rows, curves = line_up(system, chosen, count, knowledge=config.knowledge, seed=config.seed)
        plan = _plan(config, system, chosen, clips, [row.planned for row in rows], curves).model_copy(
            update={
                "command": config.command if model is None else config.call,
                "machine": machine(config.device, workers, threads),
            }
        )
        return cls(config, folder, system, chosen, clips, rows, plan, attacker_clips)

    @property
    def units(self) -> list[tuple[int, int]]:
        """(row, batch) of everything there is to do, the dearest rows first."""
        numbers = range(sum(1 for _ in self.batches()))
        return [(row, number) for row in range(len(self.contenders)) for number in numbers]

    def batches(self) -> Iterator[Batch]:
        """The clips of this share."""
        chosen = share_of(range(len(self.clips.targets)), self.config.shard)
        return batches(self.clips, BATCH, at_least=self.system.sample_rate, chosen=chosen)

    @cached_property
    def worker(self) -> Worker:
        @cache
        def surrogate() -> nn.Module:
            return hub.load(self.folder / SURROGATE, kind="recogniser").to(self.config.device)

        return Worker(
            clips=self.clips,
            contenders=self.contenders,
            context=Context(surrogate, self.system.sample_rate),
            seed=self.config.seed,
            folder=self.folder,
            sample_rate=self.system.sample_rate,
            device=torch.device(self.config.device),
        )

    def do(self, unit: tuple[int, int], tick: Tick) -> None:
        """Do what is missing of a unit."""
        row, number = unit
        batch = next(batch for k, batch in enumerate(self.batches()) if k == number)
        self.worker.run(row, batch, done(self.worker.ledger.read()), tick)

    @property
    def needs_surrogate(self) -> bool:
        builds = [build for contender in self.contenders for build in contender.attacks.values()]
        return not all(isinstance(build, Attack) for build in builds)

    def begin(self) -> None:
        """Make the folder, or check that what is in it belongs to this evaluation.

        Outcomes may be of several states of the code between two releases: the record names all of them.
        Raises InputError if the folder holds something else, or if the ledger in it is damaged.
        """
        self.plan = plans.begin(self.plan, self.folder)
        self.worker.ledger.read()


def _plan(
    config: EvaluationConfig,
    system: System,
    chosen: Protocol,
    clips: Clips,
    rows: list[PlannedRow],
    curves: list[PlannedCurve],
) -> Plan:
    """What is to be done, without where."""
    return Plan(
        command="",
        versions=versions(),
        machine={},
        protocol=ProtocolFacts(
            name=chosen.name, passes=chosen.passes, settings=chosen.settings(), note=chosen.note
        ),
        data=data_facts(clips, config.data, config.shard),
        weights=dict(system.weights),
        labels=list(system.labels),
        sample_rate=system.sample_rate,
        seed=config.seed,
        clips=planned_clips(clips),
        rows=rows,
        curves=curves,
    )


def _check_labels(system: System, batch: Batch) -> None:
    with torch.no_grad():
        logits = call(system.model, batch.waveform, SeededNoise(0), batch.lengths)
    if logits.shape[1] != len(system.labels):
        raise InputError(f"the model gives {logits.shape[1]} logits and names {len(system.labels)} labels.")


def _attacker_clips(config: EvaluationConfig, system: System) -> Dataset | None:
    """Clips that an attacker may train a surrogate on: the data's training split, if labels are the same."""
    from audiopure.training.surrogate import RATE

    if config.data is None or system.sample_rate != RATE:
        return None
    dataset = load_dataset(config.data)
    if "train" not in dataset.splits:
        return None
    clips = [clip for clip in dataset.split("train") if clip.label in system.labels]
    if {clip.label for clip in clips} != set(system.labels):
        return None
    return Dataset(dataset.name, dataset.root, clips, system.labels)


def machine(device: str, workers: int, threads: int) -> dict[str, Any]:
    """What a run's record says of where it ran."""
    return {
        "device": device_name(device),
        "workers": workers,
        "threads": threads,
        "platform": f"{platform.system()} {platform.machine()}",
        "source": source(),
    }
