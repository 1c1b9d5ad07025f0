"""SirenAttack (Du et al. 2020): particle swarm optimisation inside the L-infinity ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.climb import Climb, choose
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Value
from audiopure.attacks.swarm import Swarm
from audiopure.errors import InputError
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class Siren(Attack):
    """SirenAttack: a swarm in the ball, each particle drawn to its own best point and to the swarm's.

    The black-box attack of the paper with the settings of SpeakerGuard's code (Chen et al. 2022), whose
    300 epochs cost 241,800 passes a clip and are `Siren.authors()`; the default of 10 costs 8,060, as many as
    black-box attacks are usually given. An iterate is the swarm's best point, looked at anew by `eot` fresh
    passes; a clip leaves once their mean loss is above `confidence`. In the end the best points of all
    particles are compared over `selection` fresh passes.

    It was not seen to break even a recogniser without a defence (docs/attacks.md). The likely reason is that
    a swarm of 25 searches few of the 16,000 directions of a clip.

    Args:
        eps: L-infinity budget.
        epochs: after each the best point stays and every other particle starts anew.
        iterations: moves of each epoch.
        particles: number of particles.
        inertia: share of the velocity that a move keeps, at the first and towards the last of an epoch.
        own, social: pull of a particle's best point and of the swarm's.
        patience: an epoch ends for a clip after so many iterations without a gain of .01 %, and the attack
            after so many epochs.
        confidence: margin that the attack asks for, in units of the scores.
        eot: draws of the defence's randomness for each particle and iteration.
        loss: a name in `criteria.CRITERIA`, or a `Criterion` that is positive where the attack succeeds.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times passes that go through the model at once.
    """

    norm: Literal["linf"] = "linf"
    eps: float = 0.002
    epochs: int = 10
    iterations: int = 30
    particles: int = 25
    inertia: tuple[float, float] = (0.9, 0.1)
    own: float = 1.4961
    social: float = 1.4961
    patience: int = 10
    confidence: float = 0.0
    eot: int = 1
    loss: str | Criterion = "margin"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        counts = ("epochs", "iterations", "particles", "patience", "eot", "selection", "max_rows")
        check_settings(self, *counts)
        if self.norm != "linf":
            raise InputError(f"a swarm moves in a box, which is the norm 'linf', got '{self.norm}'")
        if not 0 <= self.confidence < float("inf"):
            raise InputError(f"confidence must be at least 0 and finite, got {self.confidence}")

    @classmethod
    def authors(cls) -> Self:
        """300 epochs, as in SpeakerGuard: a quarter of an hour a clip for a model that takes 4 ms."""
        return cls(epochs=300)

    @property
    def cost(self) -> Cost:
        looks = self.epochs * (self.iterations + 1) * (self.particles + 1)
        return Cost(0, looks * self.eot + self.particles * (self.selection or self.eot))

    def __call__(
        self,
        model: nn.Module,
        waveform: Tensor,
        labels: Tensor,
        *,
        noise: SeededNoise,
        lengths: Tensor | None = None,
        progress: Callable[[], None] | None = None,
    ) -> AttackResult:
        ball = self._ball(waveform, labels, lengths)
        objective = Objective(model, labels, self.loss, self.targeted, lengths, self.max_rows)
        hunt = _Hunt(self, objective, Swarm(ball, self.particles))
        for epoch in range(self.epochs):
            hunt.epoch(epoch, noise.fresh(epoch))
            if progress is not None:
                progress()
        passes, points = self.selection or self.eot, hunt.swarm.best.unbind()
        return choose(objective, ball, [hunt.climb], points, noise.fresh(self.epochs), passes, self.bits)


class _Hunt:
    """A batch's swarms, and what was seen of their best points."""

    def __init__(self, attack: Siren, objective: Objective, swarm: Swarm):
        self.attack, self.objective, self.swarm = attack, objective, swarm
        self.climb = Climb(swarm.ball.clean)
        self.seen = torch.zeros(2, len(swarm.ball.clean), device=swarm.x.device, dtype=swarm.x.dtype)
        # best losses at the last check for progress: within epochs, and between them
        self.checked = torch.full_like(swarm.loss[0], -torch.inf)
        self.checked_epoch = self.checked.clone()

    def epoch(self, number: int, noise: SeededNoise) -> None:
        """Moves of the swarms of all active clips, from fresh places but for the best."""
        attack, rows = self.attack, self.climb.active
        if len(rows):
            self.swarm.scatter(rows, noise.fresh(0).rows(rows.tolist()), keep=number > 0)
        for iteration in range(attack.iterations + 1):
            rows = self._listen(rows, noise.fresh(iteration + 1))
            if (iteration + 1) % attack.patience == 0:
                rows = rows[self._gains(self.checked, rows)]
            if len(rows) and iteration < attack.iterations:
                first, last = attack.inertia
                left = (attack.iterations - iteration - 1) / attack.iterations
                weights = (last + (first - last) * left, attack.own, attack.social)
                source = noise.fresh(attack.iterations + 2 + iteration)
                self.swarm.move(rows, source.rows(rows.tolist()), weights)
        if (number + 1) % attack.patience == 0:
            active = self.climb.active
            self.climb.active = active[self._gains(self.checked_epoch, active)]

    def _listen(self, rows: Tensor, noise: SeededNoise) -> Tensor:
        """Hear the particles of some clips and look at the best points; returns the clips that go on."""
        gone = rows[:0]
        if len(rows):
            attack, objective, source = self.attack, self.objective.rows(rows), noise.rows(rows.tolist())
            self.swarm.note(rows, self._hear(objective, self.swarm.x[:, rows], source.fresh(0)))
            found = objective.measure(self.swarm.leader(rows), source.fresh(1), attack.eot)
            self.climb.queries[rows] += attack.eot * (attack.particles + 1)
            self.seen[:, rows] = torch.stack(found)
            gone = rows[found.loss > attack.confidence]
        # clips whose epoch has ended early wait for the others
        self.climb.see(Value(*self.seen[:, self.climb.active]))
        self.climb.active = self.climb.active[~torch.isin(self.climb.active, gone)]
        return rows[~torch.isin(rows, gone)]

    def _hear(self, objective: Objective, points: Tensor, noise: SeededNoise) -> Tensor:
        """Mean losses of particles, each with draws of its own. Shape: (P, k, T) -> (P, k)."""
        eot, each = self.attack.eot, max(1, self.attack.max_rows // max(1, points.shape[1]))
        total = points.new_zeros(points.shape[:2])
        with torch.no_grad():
            for draw in range(eot):
                for first in range(0, len(points), each):
                    part = slice(first, min(first + each, len(points)))
                    sources = [noise.fresh(k * eot + draw) for k in range(part.start, part.stop)]
                    total[part] += objective.each(points[part], sources)[0]
        return total / eot

    def _gains(self, before: Tensor, rows: Tensor) -> Tensor:
        """Which clips have come closer to `confidence` since the last check, by .01 %. Shape: (k,) bool."""
        best = self.swarm.loss[:, rows].amax(0)
        gap, former = self.attack.confidence - best, self.attack.confidence - before[rows]
        before[rows] = best
        return gap <= 0.9999 * former
