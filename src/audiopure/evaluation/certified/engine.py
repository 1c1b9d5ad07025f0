"""A certification in a folder: clip after clip, resumable at the next thousand draws, each counted once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from audiopure.certification.claims import DECISIONS
from audiopure.certification.procedures import Ask, Certificate, Procedure
from audiopure.certification.smoothing import Rows, Sampler, Smoothed
from audiopure.certification.units import meaning
from audiopure.errors import InputError
from audiopure.evaluation import workplace
from audiopure.evaluation.card import Data
from audiopure.evaluation.certified.record import ClipCertificate, Explained
from audiopure.evaluation.certified.settings import CLAIM, CertifySettings, smoothed
from audiopure.evaluation.certified.tallies import Drawing, Kept, Seen, Tallies, Tick, Unfinished
from audiopure.evaluation.clips import Clips, load_clips
from audiopure.evaluation.engine import machine
from audiopure.evaluation.plan import PlannedClip, data_facts, planned_clips, share_of, versions
from audiopure.padding import at_least
from audiopure.systems import System, as_system, load_system

ROWS = {"cpu": 50}  # noisy versions at once; more are no faster on a CPU
MANY_ROWS = 1000  # halved where they do not fit a GPU's memory


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
        place = {"shard": None, "device": "cpu", "data": None, "rows": None}
        settings = self.settings.model_copy(update=place)
        data = self.data.model_copy(update={"shard": None})
        whole = self.model_copy(update={"command": "", "machine": {}, "settings": settings, "data": data})
        return hashlib.sha256(whole.model_dump_json().encode()).hexdigest()[:16]


@dataclass
class Certification:
    """A prepared certification. Its models are on `device`."""

    folder: Path
    plan: CertifyPlan
    system: System
    clips: Clips
    model: Smoothed
    procedure: Procedure
    device: torch.device

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
        if settings.shard is not None and settings.shard[0] > len(clips.targets):
            number, count = settings.shard
            raise InputError(f"shard {number}/{count}: there are {len(clips.targets)} clips.")
        found, procedure = smoothed(settings, system), settings.procedure(system.undefended)
        procedure.check(found.law)
        device = torch.device(settings.device)
        for part in (found.base, system.undefended):
            part.to(device)
        is_wave = found.representation.name == "waveform"
        plan = CertifyPlan(
            command=settings.command if model is None else settings.call,
            versions=versions(),
            machine=machine(settings.device, workers, threads),
            settings=settings,
            data=data_facts(clips, settings.data, settings.shard),
            weights=dict(system.weights),
            labels=list(DECISIONS if settings.certificate == CLAIM else system.labels),
            object=found.representation.name + (f" at {system.sample_rate} Hz" if is_wave else ""),
            unit=found.representation.unit,
            norm=found.law.norm,
            clips=planned_clips(clips),
        )
        return cls(folder, plan, system, clips, found, procedure, device)

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
        """Make the folder, or check that what is in it belongs to this certification; InputError if not.

        Draws may be of several states of the code between two releases: the record then names all of them.
        """
        self.plan = workplace.begin(self.plan, self.folder, "a certification")
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

    def finished(self, unit: int) -> bool:
        """Whether the journal holds all draws that a clip's certificate asks for."""
        try:
            self._found(self._kept(unit))
        except Unfinished:
            return False
        return True

    @property
    def most(self) -> int:
        """Draws of a clip, at most."""
        return self.procedure.most

    @cached_property
    def rows(self) -> Rows:
        """How many noisy versions go through the base at once, of whatever clip of this process."""
        return Rows(self.settings.rows or ROWS.get(self.device.type, MANY_ROWS))

    def drawn(self, unit: int) -> int:
        """Draws of a clip that the journal holds."""
        return sum(line.last - line.first for line in self.seen[self.clips.ids[unit]].values())

    def asker(self, unit: int, tick: Tick) -> Drawing:
        name = self.clips.ids[unit]
        seed, item = self.settings.seed, self.clips.items[unit]
        sampler = Sampler(self.model.base, self.model.law, self.object(unit), seed, item, self.rows)
        return Drawing(name, self.seen[name], sampler, self.journal, tick)

    def truth(self, unit: int) -> int:
        """The number of the right label."""
        target = self.clips.targets[unit]
        if self.settings.certificate != CLAIM:
            return target
        return DECISIONS.index("accept" if self.system.labels[target] == self.settings.claim else "reject")

    def _kept(self, unit: int) -> Kept:
        name = self.clips.ids[unit]
        return Kept(name, self.seen[name])

    def waveform(self, unit: int) -> Tensor:
        """A clip, with zeros up to one second, as recognisers pad it: the noise falls on these too."""
        clip = self.clips.waveforms[unit]
        return at_least(clip, self.system.sample_rate)

    def object(self, unit: int) -> Tensor:
        """What gets the noise of a clip: what is certified."""
        return self.model.object(self.waveform(unit).to(self.device))

    def certificate(self, unit: int) -> ClipCertificate:
        """A clip's certificate, from the journal alone. Raises Unfinished where it lacks draws."""
        kept = self._kept(unit)
        found = self._found(kept)
        labels = self.plan.labels
        implied = self._implied(unit, found.radius)
        return ClipCertificate(
            id=self.clips.ids[unit],
            label=labels[self.truth(unit)],
            answer=None if found.label is None else labels[found.label],
            guess=labels[found.guess],
            radius=found.radius,
            implied=implied,
            p=found.p,
            q=found.q,
            n=found.n,
            counts={label: k for label, k in zip(labels, found.counts, strict=True) if k},
            explained=self._explained(unit, found.radius, implied),
            seconds=round(sum(line.seconds for line in kept.seen.values()), 3),
        )

    def _found(self, ask: Ask) -> Certificate:
        found = self.procedure(ask, self.model.law)
        if len(found.counts) != len(self.plan.labels):
            raise InputError(
                f"the model gives {len(found.counts)} scores and names {len(self.plan.labels)} labels."
            )
        return found

    def _implied(self, unit: int, radius: float) -> dict[str, float]:
        """The radii in other norms, and of the waveform, that follow."""
        samples = self.object(unit).numel()
        found = dict(self.model.law.implied(radius, samples))
        return found | dict(self.model.representation.implied(self._l2(radius, found)))

    def _l2(self, radius: float, implied: Mapping[str, float]) -> float:
        return radius if self.model.law.norm == "L2" else implied["L2"]

    def _explained(self, unit: int, found: float, implied: Mapping[str, float]) -> Explained | None:
        """Of the L2 radius in a certified one; None unless it is a waveform's, positive and finite."""
        radius = self._l2(found, implied)
        if self.model.representation.name != "waveform" or not 0 < radius < math.inf:
            return None
        clip, rate, law = self.object(unit).cpu(), self.system.sample_rate, self.model.law
        within = partial(law.band, found, samples=len(clip), sample_rate=rate)
        told = meaning(clip, radius, rate, largest=law.largest(found, len(clip)), within=within)
        return Explained(**vars(told))
