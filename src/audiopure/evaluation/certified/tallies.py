"""What is kept of draws: a journal of their tallies, and asking for no more than it lacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from audiopure.certification.draws import Purpose
from audiopure.certification.procedures import Array, Statistic
from audiopure.certification.smoothing import Sampler
from audiopure.evaluation.journal import Journal

BLOCK = 1000  # draws between appends to the journal
Tick = Callable[[int], None]  # told how many draws have been done or spared
How = Callable[[Sampler, Purpose, int, int, Statistic], Array]


class Tallied(BaseModel):
    """A statistic of draws first..last-1 of a clip: their sum, or what was made of all of them together."""

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


class Unfinished(Exception):
    """A procedure asks for draws that a journal lacks."""


@dataclass
class Kept:
    """Answers for a clip from what its journal holds. Raises Unfinished where it lacks what is asked."""

    clip: str
    seen: Seen

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        begins = range(first, last, BLOCK)
        parts = [self._values(Sampler.sum, purpose, k, min(k + BLOCK, last), of) for k in begins]
        return np.sum(parts, axis=0)

    def whole(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        return self._values(Sampler.whole, purpose, first, last, of)

    def _values(self, how: How, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        key = (self.clip, purpose, first, last)
        if key not in self.seen:
            self.seen[key] = self._drawn(how, purpose, first, last, of)
        return np.array(self.seen[key].values)

    def _drawn(self, how: How, purpose: Purpose, first: int, last: int, of: Statistic) -> Tallied:
        raise Unfinished


@dataclass
class Drawing(Kept):
    """Asks a sampler for what the journal lacks, and writes it there."""

    sampler: Sampler
    journal: Tallies
    tick: Tick

    def _drawn(self, how: How, purpose: Purpose, first: int, last: int, of: Statistic) -> Tallied:
        started = time.perf_counter()
        values = how(self.sampler, purpose, first, last, of)
        line = Tallied(
            clip=self.clip,
            purpose=purpose,
            first=first,
            last=last,
            values=values.tolist(),
            seconds=round(time.perf_counter() - started, 4),
        )
        self.journal.append([line])
        self.tick(last - first)
        return line
