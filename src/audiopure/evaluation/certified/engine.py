"""A certification in a folder: clip after clip, resumable at the next thousand draws, each counted once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from audiopure.certification.draws import Purpose
from audiopure.certification.procedures import Array, Certificate, Statistic
from audiopure.certification.smoothing import Sampler, Smoothed
from audiopure.certification.units import meaning
from audiopure.errors import InputError
from audiopure.evaluation import workplace
from audiopure.evaluation.card import Data
from audiopure.evaluation.certified.record import ClipCertificate, Explained
from audiopure.evaluation.certified.settings import CertifySettings, smoothed
from audiopure.evaluation.clips import Clips, load_clips
from audiopure.evaluation.engine import machine
from audiopure.evaluation.journal import Journal
from audiopure.evaluation.plan import PlannedClip, data_facts, planned_clips, share_of, versions
from audiopure.systems import System, as_system, load_system

BLOCK = 1000  # draws between appends to the journal
ROWS = {"cpu": 25}  # noisy versions at once; more do not fit a CPU's caches
MANY_ROWS = 1000
Tick = Callable[[int], None]  # told how many draws have been done or spared


class Tallied(BaseModel):
    """The sum of a statistic over draws first..last-1 of a clip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: str
    purpose: Purpose
    first: int
    last: int
    values: list[float]
    seconds: float


class Tallies(Journal[Tallied]):
    kind = Tallied

    def key(self, line: Tallied) -> tuple[str, str, int, int]:
        return line.clip, line.purpose, line.first, line.last


Seen = dict[tuple[str, str, int, int], Tallied]


class CertifyPlan(BaseModel):
    """What a certification is: `plan.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    settings: CertifySettings
    data: Data
    weights: dict[str, str]
    labels: list[str]
    object: str
    unit: str
    norm: str
    clips: list[PlannedClip]

    @property
    def digest(self) -> str:
        """Equal for runs whose certificates may stand together: all but where and in which share they ran."""
        settings = self.settings.model_copy(update={"shard": None, "device": "cpu", "data": None})
        data = self.data.model_copy(update={"shard": None})
        whole = self.model_copy(update={"command": "", "machine": {}, "settings": settings, "data": data})
        return hashlib.sha256(whole.model_dump_json().encode()).hexdigest()[:16]


@dataclass
class Known:
    """Asks a sampler only for what the journal does not hold, and tells it what is new."""

    clip: str
    sampler: Sampler
    journal: Tallies
    seen: Seen
    tick: Tick

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        total: Array | None = None
        for begin in range(first, last, BLOCK):
            found = self._block(purpose, begin, min(begin + BLOCK, last), of)
            total = found if total is None else total + found
        assert total is not None
        return total

    def _block(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        key = (self.clip, purpose, first, last)
        if key not in self.seen:
            started = time.perf_counter()
            values = self.sampler.sum(purpose, first, last, of)
            line = Tallied(
                clip=self.clip,
                purpose=purpose,
                first=first,
                last=last,
                values=values.tolist(),
                seconds=round(time.perf_counter() - started, 4),
            )
            self.journal.append([line])
            self.seen[key] = line
            self.tick(last - first)
        return torch.tensor(self.seen[key].values, dtype=torch.float64).numpy()

    def scores(self, purpose: Purpose, first: int, last: int) -> Iterator[Tensor]:
        yield from self.sampler.scores(purpose, first, last)


@dataclass
class Certification:
    """A prepared certification."""

    folder: Path
    plan: CertifyPlan
    system: System
    clips: Clips
    model: Smoothed

    @classmethod
    def prepare(
        cls,
        settings: CertifySettings,
        folder: Path,
        *,
        model: nn.Module | None = None,
        workers: int = 1,
        threads: int = 1,
    ) -> Certification:
        """Load models and clips.

        Args:
            model: stands in for what `settings.system` names.
            workers, threads: for the record.

        Raises InputError or WeightsError for what cannot be used.
        """
        name = settings.system
        system = load_system(name) if model is None else as_system(model.eval(), spec=name)
        clips = load_clips(settings.data, system.undefended, settings.limit or None, settings.seed)
        found = smoothed(settings, system)
        device = torch.device(settings.device)
        for part in (found.base, system.undefended):
            part.to(device)
        is_wave = found.representation.name == "waveform"
        plan = CertifyPlan(
            command=settings.command,
            versions=versions(),
            machine=machine(settings.device, workers, threads),
            settings=settings,
            data=data_facts(clips, settings.data, settings.shard),
            weights=dict(system.weights),
            labels=list(system.labels),
            object=found.representation.name + (f" at {system.sample_rate} Hz" if is_wave else ""),
            unit=found.representation.unit,
            norm=found.law.norm,
            clips=planned_clips(clips),
        )
        return cls(folder, plan, system, clips, found)

    @property
    def settings(self) -> CertifySettings:
        return self.plan.settings

    @property
    def units(self) -> list[int]:
        """Clips of this shard."""
        return share_of(range(len(self.clips.targets)), self.settings.shard)

    @property
    def journal(self) -> Tallies:
        return Tallies(self.folder / "draws.jsonl")

    @cached_property
    def seen(self) -> dict[str, Seen]:
        """What the journal held when it was first asked for, and this process has added, by clip."""
        found: dict[str, Seen] = {name: {} for name in self.clips.ids}
        for line in self.journal.read():
            found.setdefault(line.clip, {})[self.journal.key(line)] = line
        return found

    def begin(self) -> None:
        """Make the folder, or check that what is in it belongs to this certification; InputError if not."""
        workplace.begin(self.plan, self.folder, "a certification")
        self.refresh()

    def refresh(self) -> None:
        """Read the journal anew: other processes may have added to it."""
        self.__dict__.pop("seen", None)
        _ = self.seen

    def do(self, unit: int, tick: Tick) -> None:
        """What is missing of a clip's draws. Draws that early stopping spares are told to `tick` as well."""
        done = 0

        def count(draws: int) -> None:
            nonlocal done
            done += draws
            tick(draws)

        before = self.drawn(unit)
        self._found(self.asker(unit, count))
        tick(max(0, self.most - before - done))

    @property
    def most(self) -> int:
        """Draws of a clip, at most."""
        return self.settings.n0 + self.settings.n

    def drawn(self, unit: int) -> int:
        """Draws of a clip that the journal holds."""
        return sum(line.last - line.first for line in self.seen[self.clips.ids[unit]].values())

    def asker(self, unit: int, tick: Tick) -> Known:
        name = self.clips.ids[unit]
        waveform = self.waveform(unit).to(self.settings.device)
        device = torch.device(self.settings.device).type
        sampler = Sampler(
            self.model.base,
            self.model.law,
            self.model.object(waveform),
            self.settings.seed,
            self.clips.items[unit],
            ROWS.get(device, MANY_ROWS),
        )
        return Known(name, sampler, self.journal, self.seen[name], tick)

    def waveform(self, unit: int) -> Tensor:
        """A clip, with zeros up to one second, as recognisers pad it: the noise falls on these too."""
        clip = self.clips.waveforms[unit]
        return nn.functional.pad(clip, (0, max(0, self.system.sample_rate - len(clip))))

    def certificate(self, unit: int, tick: Tick = lambda draws: None) -> ClipCertificate:
        """A clip's certificate, from the journal and what is missing there."""
        ask = self.asker(unit, tick)
        found = self._found(ask)
        labels = self.system.labels
        samples = ask.sampler.x.numel()
        finite = found.radius < float("inf")
        return ClipCertificate(
            id=self.clips.ids[unit],
            label=labels[self.clips.targets[unit]],
            answer=None if found.label is None else labels[found.label],
            guess=labels[found.guess],
            radius=found.radius,
            implied=dict(self.model.law.implied(found.radius, samples)),
            p=found.p,
            q=found.q,
            n=found.n,
            counts={label: k for label, k in zip(labels, found.counts, strict=True) if k},
            explained=self._explained(unit, found.radius) if found.radius > 0 and finite else None,
            seconds=round(sum(line.seconds for line in ask.seen.values()), 3),
        )

    def _found(self, ask: Known) -> Certificate:
        found = self.settings.procedure(ask, self.model.law)
        if len(found.counts) != len(self.system.labels):
            raise InputError(
                f"the model gives {len(found.counts)} scores and names {len(self.system.labels)} labels."
            )
        return found

    def _explained(self, unit: int, radius: float) -> Explained | None:
        if self.model.representation.name != "waveform" or self.model.law.norm != "L2":
            return None
        found = meaning(self.clips.waveforms[unit], radius, self.system.sample_rate)
        return Explained(**vars(found))
