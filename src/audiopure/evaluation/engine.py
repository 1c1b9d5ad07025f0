"""Evaluations: prepare, say what it will cost, run in one process or several, resume, and make the card."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

import audiopure
from audiopure import hub
from audiopure.attacks import Attack
from audiopure.data import load_dataset
from audiopure.data.manifest import Dataset
from audiopure.errors import InputError
from audiopure.evaluation.card import Data
from audiopure.evaluation.card import Protocol as ProtocolFacts
from audiopure.evaluation.clips import Batch, Clips, batches, load_clips
from audiopure.evaluation.ledger import done
from audiopure.evaluation.lineup import WHITE_BOX, Contender, line_up
from audiopure.evaluation.plan import Plan, PlannedClip
from audiopure.evaluation.protocols import BATCH, Context, Protocol, protocol
from audiopure.evaluation.recordings import recorded
from audiopure.evaluation.worker import Worker
from audiopure.machine import processor
from audiopure.systems import System, load_system

Tick = Callable[[str, str, int], None]
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
        shard: (i, n): batches i, i + n, i + 2n ... of the clips, i from 1.
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

    @property
    def command(self) -> str:
        """The shell command that repeats the evaluation."""
        words = ["audiopure", "evaluate", "--system", shlex.quote(self.system)]
        words += [] if self.data is None else ["--data", str(self.data)]
        words += (
            ["--protocol", self.protocol] if self.attacked is None else ["--attacked", str(self.attacked)]
        )
        words += ["--limit", str(self.limit), "--seed", str(self.seed)]
        words += [] if self.knowledge == WHITE_BOX else ["--knowledge", self.knowledge]
        words += [] if self.shard is None else ["--shard", f"{self.shard[0]}/{self.shard[1]}"]
        return " ".join(words)


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
        cls, config: EvaluationConfig, folder: Path, *, model: nn.Module | None = None, threads: int = 1
    ) -> Evaluation:
        """Load models and clips. `model` stands in for what `config.system` names.

        Raises InputError or WeightsError for what cannot be used.
        """
        system = _system(config, model)
        clips = load_clips(config.data, system.undefended, config.limit or None, config.seed)
        chosen = protocol(config.protocol)
        if config.attacked is not None:
            chosen = recorded(clips, config.attacked, system.sample_rate)
        attacker_clips = _attacker_clips(config, system)
        if attacker_clips is None:
            chosen = chosen.without_surrogate()
        rows, curves = line_up(system, chosen, len(clips.targets))
        rows = [row.knowing(config.knowledge, config.seed) for row in rows]
        plan = Plan(
            command=config.command,
            versions={
                "audiopure": audiopure.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            machine=_machine(config.device, threads),
            protocol=ProtocolFacts(
                name=chosen.name, passes=chosen.passes, settings=chosen.settings(), note=chosen.note
            ),
            data=Data(
                name="shipped clips" if config.data is None else clips.dataset.name,
                split=clips.split,
                clips=len(clips.targets),
                of=clips.of,
                note=clips.note,
                shard=None if config.shard is None else f"{config.shard[0]}/{config.shard[1]}",
            ),
            weights=dict(system.weights),
            labels=list(system.labels),
            sample_rate=system.sample_rate,
            seed=config.seed,
            clips=[
                PlannedClip(id=clip.id, label=clip.label, target=target, seconds=round(clip.seconds, 4))
                for clip, target in zip(clips.dataset, clips.targets, strict=True)
            ],
            rows=[row.planned for row in rows],
            curves=curves,
        )
        return cls(config, folder, system, chosen, clips, rows, plan, attacker_clips)

    @property
    def units(self) -> list[tuple[int, int]]:
        """(row, batch) of everything there is to do, the dearest rows first."""
        numbers = [number for number, _ in enumerate(self.batches())]
        if self.config.shard is not None:
            first, step = self.config.shard
            numbers = numbers[first - 1 :: step]
        return [(row, number) for row in range(len(self.contenders)) for number in numbers]

    def batches(self) -> Iterator[Batch]:
        return batches(self.clips, BATCH, at_least=self.system.sample_rate)

    @cached_property
    def worker(self) -> Worker:
        def surrogate() -> nn.Module:
            return hub.load(self.folder / SURROGATE, kind="recogniser")

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

        Raises InputError if it holds another one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if path.is_file():
            if Plan.model_validate_json(path.read_bytes()).digest != self.plan.digest:
                raise InputError(
                    f"{self.folder}: holds an evaluation with other settings; choose another folder."
                )
        else:
            partial = path.with_suffix(".part")
            partial.write_text(self.plan.model_dump_json(indent=1))
            partial.replace(path)
        self.worker.ledger.repair()


def _system(config: EvaluationConfig, model: nn.Module | None) -> System:
    from audiopure.systems import as_system

    return load_system(config.system) if model is None else as_system(model, spec=config.system)


def _attacker_clips(config: EvaluationConfig, system: System) -> Dataset | None:
    """Clips that an attacker may train a surrogate on: the data's training split, if labels are the same."""
    if config.data is None:
        return None
    dataset = load_dataset(config.data)
    if "train" not in dataset.splits:
        return None
    clips = [clip for clip in dataset.split("train") if clip.label in system.labels]
    if {clip.label for clip in clips} != set(system.labels):
        return None
    return Dataset(dataset.name, dataset.root, clips, system.labels)


def _machine(device: str, threads: int) -> dict[str, Any]:
    on_cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else processor()
    return {"device": name, "threads": threads, "platform": platform.platform()}
